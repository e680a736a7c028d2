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
    /// The issue of the command ([`Command::issue_key`]) that goes on with it, once the audit trail has that.
    #[serde(default)]
    pub used: Option<String>,
    /// Over [`Asked::sealed`], with the executors' key: nobody else can have asked it.
    #[serde(default, with = "serde_bytes")]
    pub seal: Vec<u8>,
    /// In the order in which they were given. Each has a signature of its own.
    #[serde(default)]
    pub rulings: Vec<Ruling>,
}

impl Asked {
    /// What an executor signs: all but what people say.
    pub fn sealed(&self) -> Vec<u8> {
        let Asked { key, group, sends_ms, used, .. } = self;
        let number = |number: i64| number.to_string();
        // What is not there signs unlike anything that is.
        let maybe = |part: Option<String>| part.map_or_else(|| "none".into(), |part| format!("some {part}"));
        parts(
            "holdline asked 1",
            &[
                &self.id,
                &self.incident,
                &self.partition.to_string(),
                &key.playbook,
                &key.lane.to_string(),
                &key.entity,
                &maybe(group.clone()),
                &self.direction.to_string(),
                &self.step.to_string(),
                &self.action,
                &self.shown,
                &self.request,
                &self.people.to_string(),
                &number(self.asked_ms),
                &number(self.expires_ms),
                &maybe(sends_ms.map(number)),
                &maybe(used.clone()),
            ],
        )
    }
}

/// Bytes to sign. Each part is preceded by its length, so that no two lists of parts sign alike.
fn parts(what: &str, parts: &[&str]) -> Vec<u8> {
    let mut signed = what.as_bytes().to_vec();
    for part in parts {
        signed.extend((part.len() as u64).to_be_bytes());
        signed.extend(part.as_bytes());
    }
    signed
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
    /// What a person signs: the request as its digest and as it was shown, so that nobody is shown another.
    pub fn signed(&self, asked: &Asked) -> Vec<u8> {
        let (verdict, at) = (self.verdict.to_string(), self.at_ms.to_string());
        let said = [&asked.id, &asked.request, &asked.shown, &self.by, &verdict, &self.reason, &at];
        parts("holdline ruling 2", &said.map(String::as_str))
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
