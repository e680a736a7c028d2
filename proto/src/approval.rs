//! APPROVALS: what waits for people before it is done, and what they have said of it (E7, A4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Direction};
use crate::digest::Digest;
use crate::incident::TrackKey;
use crate::wire::Wire;

/// A request and what was said of it are kept for this long after the last write: longer than it can wait.
pub const KEPT: Duration = Duration::from_secs(2 * 24 * 3_600);

/// A request that people are asked to allow: an entry of APPROVALS, by its id. Times: Unix milliseconds, broker's
/// clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// See [`id`].
    pub id: String,
    pub incident: String,
    pub partition: u16,
    pub key: TrackKey,
    #[serde(default)]
    pub group: Option<String>,
    pub direction: Direction,
    pub step: u32,
    pub action: String,
    /// The request as people read it.
    pub shown: String,
    /// SHA-256 of the request, hex: exactly this is allowed and nothing else.
    pub request: String,
    /// How many different people must allow it.
    pub people: u32,
    pub asked_ms: i64,
    /// Whatever was said is void after this.
    pub expires_ms: i64,
    /// A soft block: it is sent then, unless somebody has objected.
    #[serde(default)]
    pub sends_ms: Option<i64>,
    /// In the order in which they were given.
    #[serde(default)]
    pub rulings: Vec<Ruling>,
}

/// What one person says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// As `people` of holdline.yaml calls the person.
    pub by: String,
    pub verdict: Verdict,
    pub reason: String,
    pub at_ms: i64,
    /// Over [`Ruling::signed`], with the person's token.
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Approve,
    /// It takes back what the same or another person has allowed.
    Deny,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Approve => "approve",
            Verdict::Deny => "deny",
        })
    }
}

impl Ruling {
    /// What a person signs. Each part is preceded by its length, so that no two rulings sign alike.
    pub fn signed(&self, asked: &Asked) -> Vec<u8> {
        let at = self.at_ms.to_string();
        let verdict = self.verdict.to_string();
        let mut signed = b"holdline ruling 1".to_vec();
        for part in [&asked.id, &asked.request, &self.by, &verdict, &self.reason, &at] {
            signed.extend((part.len() as u64).to_be_bytes());
            signed.extend(part.as_bytes());
        }
        signed
    }
}

/// Names what is asked: one issue of a command and the request that it would send. Another request has another id, so
/// what is said of this one says nothing of that one. 32 hex digits.
pub fn id(command: &Command, request: &str) -> String {
    Digest::of([command.issue_key().as_str(), request]).hex().chars().take(32).collect()
}

impl Wire for Asked {
    const KIND: &'static str = "approval";
}

/// `hl.internal.operator.<p>`: people have decided on what an incident waits for. It carries no right: the executor
/// goes by the signatures in APPROVALS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruled {
    pub key: TrackKey,
    pub incident: String,
    /// [`Asked::id`]
    pub approval: String,
    pub verdict: Verdict,
    /// Who, and why: for people.
    pub by: String,
    pub reason: String,
}

impl Wire for Ruled {
    const KIND: &'static str = "ruled";
}
