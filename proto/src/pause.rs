//! PAUSES: what people have stopped for a time (E10, A7). All of it is one entry, so that one look at the leader
//! says it all.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// Key of the only entry.
pub const PAUSES: &str = "pauses";

/// A call leaves at most this long after its executor has looked at the pauses. Milliseconds.
pub const SEEN_MS_MAX: u64 = 500;

/// And after that at most this long until its connection stands; the request follows at once. Milliseconds.
pub const CONNECTS_MS_MAX: u64 = 2_000;

/// A pause is in effect this long after it is stored, and only then is anybody told that it is: no call that was looked
/// at before can leave any more, with as much again as a look is good for. Milliseconds.
pub const EFFECTIVE_AFTER_MS: u64 = 2 * SEEN_MS_MAX + CONNECTS_MS_MAX;

/// What a pause stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Everything,
    Playbook(String),
    Entity(String),
    /// Every entity of a group (`on.group`).
    Group(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Everything => f.write_str("everything"),
            Scope::Playbook(name) => write!(f, "playbook {name}"),
            Scope::Entity(name) => write!(f, "entity {name}"),
            Scope::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Somebody has stopped something. Times: Unix milliseconds, broker's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub scope: Scope,
    pub reason: String,
    /// Who, as he calls himself.
    pub by: String,
    pub since_ms: i64,
    /// It ends by itself then.
    pub until_ms: i64,
}

/// Everything that is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    pub pauses: Vec<Pause>,
}

impl Wire for Pauses {
    const KIND: &'static str = "pauses";
}
