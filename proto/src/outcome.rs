//! `hl.internal.outcome.<p>.<issue key>`: what the executor did. By its type an outcome can end or escalate
//! an incident and never begin one (C3).

use serde::{Deserialize, Serialize};

use crate::command::{Command, Direction};
use crate::incident::TrackKey;
use crate::wire::Wire;

/// The end of one issue of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub incident: String,
    pub key: TrackKey,
    pub direction: Direction,
    pub step: u32,
    pub action: String,
    pub decision: u32,
    pub result: Done,
    /// Calls that left, this one included.
    pub attempts: u32,
    /// Milliseconds from the deciding event's arrival in the log to the end of the call, by the executor's
    /// clock; 0 when no call left.
    #[serde(default)]
    pub took_ms: i64,
    /// Whose it was, where a call was answered.
    #[serde(default)]
    pub shares: Option<Shares>,
    /// It was carried out, and a [`Done::Verified`] of the same issue will follow within this time, whatever is seen: a revert
    /// is not over before. Milliseconds.
    #[serde(default)]
    pub verdict_within_ms: Option<i64>,
}

/// Where the time went from the acceptance of the deciding event to the target's answer (E8). Milliseconds by the
/// broker's clock, which each service knows to within some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// In the gateway's spool.
    pub gateway: i64,
    /// From the log to the debouncer, the classifier's record included.
    pub classifier: i64,
    /// Decided on, and not its turn: behind another action, or before people had allowed it.
    pub lineup: i64,
    /// From the decision to the queue of commands, the debouncer's record included.
    pub debouncer: i64,
    /// From there to the call that was answered: lock, turn in the rate window, intent, earlier calls.
    pub executor: i64,
    /// From the call to its answer.
    pub target: i64,
    /// What was allowed from the event's arrival in the log to the call.
    pub allowed: i64,
}

impl Shares {
    /// Each with its name, in the order of the data.
    pub fn named(&self) -> [(&'static str, i64); 6] {
        [
            ("gateway", self.gateway),
            ("classifier", self.classifier),
            ("lineup", self.lineup),
            ("debouncer", self.debouncer),
            ("executor", self.executor),
            ("target", self.target),
        ]
    }
}

impl Wire for Outcome {
    const KIND: &'static str = "outcome";
}

impl Outcome {
    /// The outcome of this issue of a command, without the time that a call took.
    pub fn of(command: &Command, result: Done, attempts: u32) -> Outcome {
        Outcome {
            incident: command.incident.clone(),
            key: command.key.clone(),
            direction: command.direction,
            step: command.step,
            action: command.action.clone(),
            decision: command.decision,
            result,
            attempts,
            took_ms: 0,
            shares: None,
            verdict_within_ms: None,
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Done {
    /// The target accepted it.
    Carried { status: u16 },
    /// It cannot be carried out; the bytes are in the dead letters.
    Failed {
        reason: String,
        /// A call left whose effect is not known: what may have been done may have to be undone.
        #[serde(default)]
        perhaps_done: bool,
    },
    /// The deadline passed before a call left, or before an earlier one was answered.
    Expired {
        /// See [`Done::Failed`].
        #[serde(default)]
        perhaps_done: bool,
    },
    /// It is not known whether it happened and it must not be repeated: a person has to look.
    Held { reason: String },
    /// What a look after the remedy or its revert has shown, or what its entity's events have said (E11). It comes after
    /// [`Done::Carried`], as an outcome of its own; what events say the debouncer concludes itself.
    Verified {
        /// `None`: it could not be told.
        worked: Option<bool>,
        /// What was seen, shortened; or why nothing was.
        seen: String,
    },
    /// People have to allow it first (E7). No call has left; it is issued anew once they have decided.
    AwaitsApproval {
        /// Under which id they are asked.
        approval: String,
        /// It is looked at again then. Unix milliseconds.
        until_ms: i64,
        /// See [`crate::incident::Awaiting::unless_denied`].
        #[serde(default)]
        unless_denied: bool,
        /// See [`Done::Failed`].
        #[serde(default)]
        perhaps_done: bool,
    },
    /// The incident had moved on before a call left; the debouncer no longer waits for this issue.
    Withdrawn { reason: String },
}
