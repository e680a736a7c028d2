//! The PLAYBOOKS bucket: sets of files by the hash of their content, and which set is current.

use std::collections::BTreeMap;

use crate::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// Key of the hash of the current set.
pub const CURRENT: &str = "current";

/// Key of the [`Installation`].
pub const INSTALLATION: &str = "installation";

/// The files of one set, by their path below the playbooks' folder. Secrets are references only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    pub files: BTreeMap<String, String>,
}

impl Wire for Bundle {
    const KIND: &'static str = "playbooks";
}

impl Bundle {
    /// The identity of the set: the first 16 hex digits of SHA-256 over its paths and texts.
    pub fn hash(&self) -> String {
        let parts = self.files.iter().flat_map(|(path, text)| [path, text]);
        Digest::of(parts).hex().chars().take(16).collect()
    }

    /// Whether a text can be what [`Bundle::hash`] gives.
    pub fn is_hash(text: &str) -> bool {
        text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// Key of a set in the bucket.
    pub fn key(hash: &str) -> String {
        format!("set.{hash}")
    }
}

/// What was settled when the installation was provisioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    pub partitions: u16,
}

impl Wire for Installation {
    const KIND: &'static str = "installation";
}
