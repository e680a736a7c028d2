//! `hl.command.<p>.<incident>`: what the executor is asked to do.

use serde::{Deserialize, Serialize};

use crate::incident::TrackKey;
use crate::signal::Values;
use crate::wire::Wire;

/// Whether an action remedies or undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Remediate,
    Revert,
    /// Tells people that an incident is held for them.
    Page,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Direction::Remediate => "remediate",
            Direction::Revert => "revert",
            Direction::Page => "page",
        })
    }
}

/// One action to carry out, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub incident: String,
    pub partition: u16,
    pub key: TrackKey,
    /// The entity's group.
    #[serde(default)]
    pub group: Option<String>,
    /// Hash of the playbook set that holds the action.
    pub playbooks: String,
    pub direction: Direction,
    /// Index in the playbook's list of actions.
    pub step: u32,
    /// Name of the action.
    pub action: String,
    /// The action is a remedy of this incident, of this step, that is to be undone from its pre-image.
    #[serde(default)]
    pub undo: Option<u32>,
    /// The incident's decision number when this was issued.
    pub decision: u32,
    /// When the deciding event reached the log. Unix milliseconds, broker's clock.
    pub decided_ms: i64,
    /// When what, for the latency budget.
    #[serde(default)]
    pub course: Course,
    /// Not to be called after this; then it is decided anew. Unix milliseconds.
    pub deadline_ms: i64,
    /// How many calls of ours led to its incident, one after the other.
    #[serde(default)]
    pub depth: u32,
    /// What the templates refer to.
    pub values: Values,
    /// Tiers of the dlq-replayer that this action has been through.
    #[serde(default)]
    pub replays: u32,
    /// People were asked for it under this id ([`crate::approval::id`]), and have decided.
    #[serde(default)]
    pub approval: Option<String>,
}

/// How a command came about. Times: Unix milliseconds of the broker's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// What the deciding event waited in the gateway before it reached the log. Milliseconds.
    pub waited_ms: i64,
    /// When what the classifier made of it reached the debouncer.
    pub judged_ms: i64,
    /// When this was issued: at once, or once it was its turn and people had allowed it.
    pub issued_ms: i64,
}

/// What is about to be called, written down before it is called (E9): an entry of INTENTS, one per track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The command's idempotency key.
    pub action_key: String,
    /// The issue of the command that made it.
    pub issue_key: String,
    /// The lock's fencing token.
    pub token: u64,
    /// Calls of this issue that left, the one about to leave included.
    pub attempts: u32,
    /// SHA-256 of the request, hex.
    pub request: String,
    /// The last call was answered; otherwise it is not known what became of it.
    pub answered: bool,
    /// A call of this action key may have had its effect.
    pub perhaps_done: bool,
    /// When the last call that was answered left, and when the answer was here; 0: none was. Unix milliseconds of the
    /// broker's clock.
    #[serde(default)]
    pub called_ms: i64,
    #[serde(default)]
    pub answered_ms: i64,
}

impl Wire for Intent {
    const KIND: &'static str = "intent";
}

impl Wire for Command {
    const KIND: &'static str = "command";
}

impl Command {
    /// The idempotency key that goes out with the call: the same however often the command is issued anew,
    /// so that one effect per incident, action and direction holds at a target that honours it (T1).
    pub fn action_key(&self) -> String {
        format!("{}-{}-{}", self.incident, self.direction, self.step)
    }

    /// Names this issue of the command: its outcome stands on a subject of this name.
    pub fn issue_key(&self) -> String {
        format!("{}-{}", self.action_key(), self.decision)
    }
}
