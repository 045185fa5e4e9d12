//! Checksums of files on the hub, which their ETags contain: the SHA-256 of a large file, or git's
//! SHA-1 of a small one, over `blob LENGTH\0` and its bytes.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A checksum being computed.
pub(crate) enum Digest {
    Sha256(Box<Sha256>),
    Git(Box<Sha1>),
}

impl Digest {
    /// The checksum to verify a file of `size` bytes with; `None` if the ETag is not a checksum.
    pub fn of(etag: &str, size: u64) -> Option<Self> {
        match etag.len() {
            _ if !etag.bytes().all(|b| b.is_ascii_hexdigit()) => None,
            64 => Some(Self::Sha256(Box::default())),
            40 => Some(Self::Git(Box::new(Sha1::new_with_prefix(format!("blob {size}\0"))))),
            _ => None,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The checksum in the form of an ETag, in lower case.
    pub fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checksums of `hello\n` from `sha256sum` and `git hash-object`.
    #[test]
    fn checksums_match_sha256sum_and_git() {
        let of = |etag: &str| {
            let mut digest = Digest::of(etag, 6)?;
            digest.update(b"hel");
            digest.update(b"lo\n");
            Some(digest.finish())
        };
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(sha256).as_deref(), Some(sha256));
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(of(git).as_deref(), Some(git));
        assert_eq!(of("d41d8cd98f00b204e9800998ecf8427e-2"), None);
        assert_eq!(of("abc"), None);
    }
}
