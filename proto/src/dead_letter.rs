//! `hl.dead.<stage>`: what could not be understood or carried out, with its bytes and the reason; and how it
//! comes back (`hl.retry.…`, `hl.internal.retry.<p>.<key>`).

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::wire::Wire;

/// A message that was parked. Nothing is dropped (N3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The stage that gave up.
    pub stage: String,
    /// Why, for a person.
    pub reason: String,
    /// Where the message stood.
    pub subject: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Tries that were made.
    pub attempts: u32,
    /// The message itself.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// It may go through another time, so it is replayed by itself; otherwise a person decides.
    #[serde(default)]
    pub transient: bool,
    /// Tiers of the dlq-replayer that it has been through.
    #[serde(default)]
    pub replays: u32,
    /// The host that failed, where one did: replays wait until it answers others again.
    #[serde(default)]
    pub target: Option<String>,
}

impl Wire for DeadLetter {
    const KIND: &'static str = "dead-letter";
}

/// What the dlq-replayer is told about a letter: by a tier that has run out, or by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Sequence of the letter in DEAD.
    pub letter: u64,
    pub what: Wish,
    /// Who wants it: a person, or the tier.
    pub by: String,
    #[serde(default)]
    pub reason: String,
}

impl Wire for Recall {
    const KIND: &'static str = "recall";
}

/// What is to become of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Back to the input of the stage that gave up.
    Replay,
    /// Given up for good; who wanted it and why stays on record.
    Discard,
}

/// What became of a letter that is no longer in DEAD: its bytes are gone, this stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    pub letter: u64,
    pub stage: String,
    /// Where the parked message stood, and its sequence there.
    pub subject: String,
    pub sequence: u64,
    pub what: Wish,
    pub by: String,
    pub reason: String,
}

impl Wire for Resolved {
    const KIND: &'static str = "resolved-letter";
}

/// A parked message that comes back to the debouncer. By its type it can issue an action anew that was
/// decided on before, or finish an input that was read before; it can never begin an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Retry {
    /// A command that the executor gave up, to be decided anew.
    Command(Box<Command>),
    /// An input that the debouncer itself could not understand, with its original place.
    Input {
        subject: String,
        sequence: u64,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
}

impl Wire for Retry {
    const KIND: &'static str = "retry";
}

/// A target that failed, as the executors know it (TARGETS): replays to it wait, but for one at a time that
/// finds out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub host: String,
    pub reason: String,
    /// Unix milliseconds, by the clock of the executor that saw it.
    pub since_ms: i64,
    /// The letter that was let through to find out, and when. Unix milliseconds.
    #[serde(default)]
    pub probe: Option<(u64, i64)>,
}

impl Wire for Failing {
    const KIND: &'static str = "failing-target";
}
