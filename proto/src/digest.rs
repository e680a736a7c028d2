//! SHA-256 of several texts. Each is preceded by its length, so that no two lists of them digest alike.

use sha2::{Digest as _, Sha256};

/// A digest of the texts that were added, in their order.
#[derive(Debug, Clone, Default)]
pub struct Digest(Sha256);

impl Digest {
    pub fn of<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> Digest {
        let mut digest = Digest::default();
        for part in parts {
            digest.add(part.as_ref());
        }
        digest
    }

    pub fn add(&mut self, part: &str) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part.as_bytes());
    }

    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// In 64 hex digits.
    pub fn hex(self) -> String {
        hex::encode(self.bytes())
    }
}
