//! Large checkpoints that use no disk space: their weights are zeros in sparse files. And the
//! program running on them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::common::dam;

/// The size of the vocabulary.
pub const VOCABULARY: usize = 1000;

/// Writes a bf16 llama with `layers` layers to `directory`.
pub fn checkpoint(directory: &Path, layers: usize, hidden: usize, intermediate: usize) {
    fs::create_dir(directory).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (Map::new(), 0);
    let mut add = |name: String, shape: &[usize]| {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}));
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, hidden]);
    for layer in 0..layers {
        let (wide, narrow) = ([intermediate, hidden], [hidden, intermediate]);
        for part in ["q", "k", "v", "o"] {
            add(format!("model.layers.{layer}.self_attn.{part}_proj.weight"), &[hidden, hidden]);
        }
        for (part, shape) in [("gate", wide), ("up", wide), ("down", narrow)] {
            add(format!("model.layers.{layer}.mlp.{part}_proj.weight"), &shape);
        }
        for norm in ["input", "post_attention"] {
            add(format!("model.layers.{layer}.{norm}_layernorm.weight"), &[hidden]);
        }
    }
    add("model.norm.weight".into(), &[hidden]);
    let mut text = Value::Object(header).to_string();
    text += &" ".repeat((8 - text.len() % 8) % 8);
    let mut file = File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len((8 + text.len() + end) as u64).unwrap();
}

/// A running program.
pub struct Program {
    pub child: Child,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts `dam ARGUMENTS` in `directory`.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = dam(directory);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, replies }
    }

    /// `dam` in `directory`, after it has replied to every verb of `begin` and started `verb`.
    pub fn at(directory: &Path, begin: &str, verb: &str) -> Self {
        let mut program =
            Self::start(directory, &["--json", "-c", &format!("{begin}; {verb}; quit")]);
        for verb in begin.split("; ") {
            let reply =
                program.replies.next().unwrap_or_else(|| panic!("`{verb}` did not reply")).unwrap();
            assert!(!reply.contains("\"error\""), "{verb}: {reply}");
        }
        program
    }

    /// Waits until a part of the output `name` is in `directory`.
    pub fn wait_for_output(&mut self, directory: &Path, name: &str) {
        let prefix = format!(".{name}.dam-");
        let begun = || {
            fs::read_dir(directory)
                .unwrap()
                .any(|e| e.unwrap().file_name().to_string_lossy().starts_with(&prefix))
        };
        while !begun() {
            assert!(self.child.try_wait().unwrap().is_none(), "the program ended before it wrote");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill only sends a signal, to a child of this process.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Sends Ctrl-C and asserts that the program ends within seconds with status 130, and that the
    /// running verb replies that it was stopped.
    pub fn stop(&mut self) {
        self.signal(libc::SIGINT);
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => {
                    assert!(begin.elapsed() < Duration::from_secs(10), "the program does not stop")
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let replies: Vec<String> = self.replies.by_ref().map(Result::unwrap).collect();
        assert_eq!(status.code(), Some(130), "{replies:?}");
        assert!(
            matches!(&replies[..], [one] if one.contains("\"error\":\"stopped: nothing was changed\"")),
            "{replies:?}"
        );
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
