//! Fuzz targets for readers of checkpoints; see [`crate::fuzz`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::adapter::Adapter;
use super::gguf::Gguf;
use super::safetensors::read_safetensors;
use super::source::{Files, Source, weights};
use super::storage::Bytes;
use super::tensors::Archive;
use super::tokenizer::{guard_tokenizer, read_tokenizer};
use super::torch::read_torch;

/// A temporary directory of this process, for readers that map files.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("dam-fuzz-{}", std::process::id()));
        // An existing directory, which another user may have created, is not used.
        let made = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&directory);
        made.expect("a directory for the fuzzer's files");
        directory
    })
}

/// Writes `bytes` to a file of that directory.
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    // A mapped file must not be overwritten.
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::write(&path, bytes);
    path
}

/// Reads all tensors.
fn look(archive: &Archive) {
    for (name, view) in &archive.tensors {
        let _ = view.check_finite(name);
    }
    assert!(archive.buffers.values().all(|buffer| buffer.bytes().len() < usize::MAX));
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(archive) =
        read_safetensors(Path::new("model.safetensors"), Bytes::Owned(Arc::new(bytes.to_vec())))
    {
        look(&archive);
    }
}

/// An index of shards, one of which exists.
pub fn index(bytes: &[u8]) {
    let shard = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}          \0\0\x80\x3f";
    file("shard.safetensors", shard);
    file("model.safetensors.index.json", bytes);
    if let Ok(archive) = weights::open(&Files::Disk(directory().into())) {
        look(&archive);
    }
}

/// A GGUF file.
pub fn gguf(bytes: &[u8]) {
    let Ok(gguf) = Gguf::open(file("model.gguf", bytes)) else { return };
    if let Some(tokenizer) = gguf.side_files.get("tokenizer.json") {
        self::tokenizer(tokenizer);
    }
    if let Ok(archive) = weights::open(&Files::Gguf(Arc::new(gguf))) {
        look(&archive);
    }
}

/// An adapter: its configuration, a zero byte, its weights.
pub fn adapter(bytes: &[u8]) {
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (config, weights) = bytes.split_at(at);
    file("adapter_config.json", config);
    file("adapter_model.safetensors", weights.get(1..).unwrap_or_default());
    if Adapter::open(directory()).is_ok() {
        let _ = Source::open(&format!("builtin:math+{}", directory().display()));
    }
}

/// A PyTorch file, in the zip or legacy format.
pub fn torch(bytes: &[u8]) {
    if let Ok(archive) =
        read_torch(Path::new("pytorch_model.bin"), Bytes::Owned(Arc::new(bytes.to_vec())))
    {
        look(&archive);
    }
}

/// tokenizer.json, applied to some text.
pub fn tokenizer(bytes: &[u8]) {
    let path = Path::new("tokenizer.json");
    let Ok(text) = read_tokenizer(path, bytes) else { return };
    for sentence in [
        "What is 12 plus 7?",
        "十二足す七はいくつですか。\u{fdfa}\u{1f600}\r\n  ",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "",
    ] {
        let encoded = guard_tokenizer(path, || {
            Ok(text.tokenizer.encode_fast(sentence, true)?.get_ids().to_vec())
        });
        if let Ok(ids) = encoded {
            let _ = guard_tokenizer(path, || text.tokenizer.decode(&ids, true));
        }
    }
}
