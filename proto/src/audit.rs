//! `hl.audit`: who did what and why, each entry chained to the one before it.
//!
//! A stored entry is the encoded [`Entry`] and, behind it, the SHA-256 of those bytes: its seal, which covers the
//! newest entry as well. [`Entry::previous`] holds the SHA-256 of the whole stored entry before, seal included. So
//! nothing can be changed, taken out or put in between without changing all that follows.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::wire::{self, DecodeError, Wire};

/// An entry leaves the trail when it is older. Days.
pub const KEPT_DAYS: u32 = 365;

/// Bytes of a seal.
const SEAL_BYTES: usize = 32;

/// What somebody does. What a newer version knows besides is read as its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The set of playbooks becomes the current one.
    Push,
    Pause,
    Resume,
    DeadLetterReplay,
    DeadLetterDiscard,
    /// The platform's subscriptions are created, updated and removed.
    SubscriptionsApply,
    ApprovalAsked,
    Approved,
    Denied,
    /// An approval that was given is taken back.
    Revoked,
    /// An approval was there and did not fit what was to be sent.
    ApprovalRefused,
    ApprovalUsed,
    /// Somebody was about to operate, and may not.
    OperationRefused,
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Act::Push => "push",
            Act::Pause => "pause",
            Act::Resume => "resume",
            Act::DeadLetterReplay => "dead_letter_replay",
            Act::DeadLetterDiscard => "dead_letter_discard",
            Act::SubscriptionsApply => "subscriptions_apply",
            Act::ApprovalAsked => "approval_asked",
            Act::Approved => "approved",
            Act::Denied => "denied",
            Act::Revoked => "revoked",
            Act::ApprovalRefused => "approval_refused",
            Act::ApprovalUsed => "approval_used",
            Act::OperationRefused => "operation_refused",
            Act::Other(name) => name,
        })
    }
}

/// Who does what, and why: written down before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Who, as he calls himself; or the service that does it.
    pub by: String,
    pub act: Act,
    /// What it is done to, for a person.
    pub about: String,
    /// The reason given; empty where none was.
    #[serde(default)]
    pub why: String,
    /// What else belongs to it, each by a name. Never a secret.
    #[serde(default)]
    pub details: Vec<(String, String)>,
    /// The number of the entry whose deed failed, or may have: `why` says what went wrong. Otherwise this is a deed
    /// of its own.
    #[serde(default)]
    pub failed: Option<u64>,
}

impl Deed {
    pub fn new(by: impl Into<String>, act: Act, about: impl Into<String>, why: impl Into<String>) -> Deed {
        Deed { by: by.into(), act, about: about.into(), why: why.into(), details: vec![], failed: None }
    }

    /// The same with a detail more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Deed {
        self.details.push((name.into(), value.into()));
        self
    }
}

/// An entry of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the chain, from 1 on, and its sequence in the stream: the two are never apart.
    pub number: u64,
    /// When it was written. Unix milliseconds, broker's clock.
    pub at_ms: i64,
    /// The entry before; none where the stream held none.
    pub previous: Option<Previous>,
    /// Names this writing of it, so that one whose answer was lost is known again.
    pub id: String,
    pub deed: Deed,
}

impl Wire for Entry {
    const KIND: &'static str = "audit-entry";
}

/// What an entry says of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// [`hash`] of it.
    pub hash: String,
    /// When the broker stored it: once it has left, this says whether it was its time. Unix milliseconds.
    pub stored_ms: i64,
}

/// Key of the only entry of WITNESS.
pub const WITNESS: &str = "audit";

/// The newest entry, as it is noted apart from the trail (WITNESS): so an end that is cut off, by a person or by a broker
/// that gives up a damaged file from the damage on, is missed. It may lag, and never names an entry that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    pub number: u64,
    /// [`hash`] of it.
    pub hash: String,
}

impl Wire for Witness {
    const KIND: &'static str = "audit-witness";
}

/// What chains an entry, as every version writes it: versions go on faster than the trail forgets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    pub at_ms: i64,
    pub previous: Option<Previous>,
}

impl Wire for Link {
    const KIND: &'static str = Entry::KIND;
}

/// SHA-256 of a stored entry, in 64 hex digits.
pub fn hash(stored: &[u8]) -> String {
    hex::encode(Sha256::digest(stored))
}

/// An entry as it is stored.
pub fn seal(entry: &Entry) -> Vec<u8> {
    let mut stored = wire::encode(entry);
    let seal = Sha256::digest(&stored);
    stored.extend_from_slice(&seal);
    stored
}

/// Whether a stored entry is still what was sealed.
pub fn is_sealed(stored: &[u8]) -> bool {
    let (bytes, seal) = parted(stored);
    Sha256::digest(bytes).as_slice() == seal
}

/// Reads a stored entry; whether its seal fits is another question.
///
/// # Errors
/// See [`DecodeError`].
pub fn open(stored: &[u8]) -> Result<Entry, DecodeError> {
    wire::decode(parted(stored).0)
}

/// Reads what chains a stored entry, whichever version wrote it.
///
/// # Errors
/// See [`DecodeError`].
pub fn link(stored: &[u8]) -> Result<Link, DecodeError> {
    wire::decode_common(parted(stored).0)
}

/// The entry and its seal.
fn parted(stored: &[u8]) -> (&[u8], &[u8]) {
    stored.split_at(stored.len().saturating_sub(SEAL_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(act: Act) -> Entry {
        let previous = Some(Previous { hash: hash(b"before"), stored_ms: 1 });
        let deed = Deed::new("ada", act, "everything", "maintenance").with("for", "30m").with("at", "once");
        Entry { number: 7, at_ms: 2, previous, id: "i".into(), deed }
    }

    #[test]
    fn an_entry_is_read_as_it_was_sealed_and_its_act_has_one_name() {
        for act in [
            Act::Push,
            Act::Pause,
            Act::Resume,
            Act::DeadLetterReplay,
            Act::DeadLetterDiscard,
            Act::SubscriptionsApply,
            Act::ApprovalAsked,
            Act::Approved,
            Act::Denied,
            Act::Revoked,
            Act::ApprovalRefused,
            Act::ApprovalUsed,
            Act::OperationRefused,
            Act::Other("teleport".into()),
        ] {
            let entry = entry(act.clone());
            let stored = seal(&entry);
            assert!(is_sealed(&stored));
            assert_eq!(open(&stored).unwrap(), entry);
            assert_eq!(serde_json::to_value(&act).unwrap(), act.to_string());
        }
    }

    #[test]
    fn every_byte_is_under_the_seal() {
        let stored = seal(&entry(Act::Pause));
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(!is_sealed(&changed), "byte {at}");
        }
        assert!(!is_sealed(&stored[1..]) && !is_sealed(&stored[..stored.len() - 1]) && !is_sealed(b""));
    }

    #[test]
    fn the_chain_of_a_far_version_is_read_though_its_entry_is_not() {
        let far = serde_json::json!({
            "number": 7, "at_ms": 2, "previous": {"hash": "00", "stored_ms": 1}, "deed": "another shape",
        });
        let mut stored = vec![];
        ciborium::into_writer(&(Entry::KIND, 40, far), &mut stored).unwrap();
        let seal = Sha256::digest(&stored);
        stored.extend_from_slice(&seal);
        assert!(open(&stored).is_err());
        assert_eq!(link(&stored).unwrap().number, 7);
    }
}
