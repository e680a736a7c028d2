//! A person's token: an Ed25519 key whose seed only its owner has. holdline knows its public half, so what is kept of a
//! token lets nobody speak in its owner's name, and no token ever travels. A service's seed at the broker is of the same
//! kind: with theirs, executors seal what they ask people.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use holdline_proto::approval::{Asked, Ruling};
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};

/// Bytes of a token's file. Larger ones hold no token.
const FILE_BYTES_MAX: u64 = 1_024;

/// A token, in the process of its owner.
pub struct Token(KeyPair);

impl Token {
    /// Makes a token and writes it to a file of its own that only its owner can read.
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Token> {
        let pair = KeyPair::new_user();
        let seed = SecretString::from(pair.seed().map_err(|error| anyhow!("{error}"))?);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("the token cannot be written to {}", path.display()))?;
        writeln!(file, "{}", seed.expose_secret())?;
        file.sync_all()?;
        Ok(Token(pair))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When the file cannot be read or holds none; says nothing of what it holds.
    pub fn read(path: &Path) -> anyhow::Result<Token> {
        let told = || format!("the token in {} cannot be read", path.display());
        if std::fs::metadata(path).with_context(told)?.len() > FILE_BYTES_MAX {
            return Err(anyhow!("{} holds no token", path.display()));
        }
        let seed = SecretString::from(std::fs::read_to_string(path).with_context(told)?);
        let pair = KeyPair::from_seed(seed.expose_secret().trim());
        pair.map(Token).map_err(|_| anyhow!("{} holds no token; `holdline token` makes one", path.display()))
    }

    /// What holdline.yaml may know of it.
    pub fn public(&self) -> String {
        self.0.public_key()
    }

    /// # Errors
    /// Never for a token that was made or read.
    pub fn sign(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.0.sign(bytes).map_err(|error| anyhow!("{error}"))
    }

    /// Whether a signature over these bytes was made with this token.
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.0.verify(bytes, signature).is_ok()
    }
}

/// Whether a signature over these bytes was made with the token of this public half.
fn is_signed(public: &str, bytes: &[u8], signature: &[u8]) -> bool {
    KeyPair::from_public_key(public).is_ok_and(|pair| pair.verify(bytes, signature).is_ok())
}

/// Whether the owner of the token of this public half has said that of a request.
pub fn has_said(public: &str, ruling: &Ruling, asked: &Asked) -> bool {
    is_signed(public, &ruling.signed(asked), &ruling.signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_signs_with_a_token() {
        let folder = std::env::temp_dir().join(format!("holdline-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("ada.token");
        let token = Token::create(&path).unwrap();
        assert!(Token::create(&path).is_err(), "none is written over");
        let again = Token::read(&path).unwrap();
        assert_eq!(again.public(), token.public());
        let signature = again.sign(b"yes").unwrap();
        let other = KeyPair::new_user().public_key();
        let check = |public: &str, bytes: &[u8], signature: &[u8], expected| {
            assert_eq!(is_signed(public, bytes, signature), expected, "{public}");
        };
        assert!(token.has_signed(b"yes", &signature) && !token.has_signed(b"no", &signature));
        check(&token.public(), b"yes", &signature, true);
        check(&token.public(), b"no", &signature, false);
        check(&other, b"yes", &signature, false);
        check(&token.public(), b"yes", &signature[1..], false);
        check(&token.public(), b"yes", b"", false);
        check("Unonsense", b"yes", &signature, false);
        std::fs::write(&path, "Snonsense").unwrap();
        let told = Token::read(&path).err().unwrap().to_string();
        assert!(told.contains("no token") && !told.contains("Snonsense"), "{told}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
