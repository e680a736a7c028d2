//! `hl.log.<p>`: what was decided and why. The debouncer's record; also the header that every stage's
//! record has.

use serde::{Deserialize, Serialize};

use crate::approval::Verdict;
use crate::command::Command;
use crate::event::Origin;
use crate::incident::{Lane, Phase, Track, TrackKey, View};
use crate::outcome::Outcome;
use crate::signal::{Classified, Health};
use crate::wire::Wire;

/// A stage's commit: one message, atomic, fenced by the stage's previous record of the partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record<B> {
    /// Stream sequence of the last input that this record covers: where a new owner goes on.
    pub position: u64,
    /// Folding the records after this one, up to this record, gives the complete state.
    pub base: u64,
    /// The effects of all records up to this sequence are known to be published.
    pub effects_done: u64,
    /// Which process wrote it; for people.
    pub owner: String,
    /// Version of the decisions, so that a replay can use the same ones.
    pub machine: String,
    /// Commands and timers that follow from this record; published after it, with ids derived from it.
    #[serde(default)]
    pub effects: Vec<Effect>,
    pub body: B,
}

impl Wire for Record<Classified> {
    const KIND: &'static str = "signal-record";
}

impl Wire for Record<Decided> {
    const KIND: &'static str = "journal-record";
}

/// What the shell does for a decision, after the record that holds it is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Hand to the executor.
    Command(Command),
    /// Have the broker wake us.
    WakeAt(WakeUp),
}

/// A wake-up as a message: published as a schedule, and what fires on `hl.internal.fired.<p>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeUp {
    pub key: TrackKey,
    pub incident: String,
    pub generation: u64,
    /// Unix milliseconds of the broker's clock.
    pub deadline_ms: i64,
}

impl Wire for WakeUp {
    const KIND: &'static str = "wake-up";
}

/// The body of the debouncer's record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Partition time after the inputs: the greatest broker timestamp seen. Unix milliseconds.
    #[serde(default)]
    pub now_ms: i64,
    #[serde(default)]
    pub watermark_ms: i64,
    /// Since when each subscription has been heard without a gap, and when last. Unix milliseconds.
    #[serde(default)]
    pub alive: Vec<Alive>,
    /// What was decided, in order.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// What became of each event.
    #[serde(default)]
    pub disposed: Vec<Disposed>,
    /// Tracks that changed, as they are after the inputs.
    #[serde(default)]
    pub changed: Vec<Track>,
    /// Incidents that ended, as people see them: their tracks no longer hold them, and views can be lost.
    #[serde(default)]
    pub closed: Vec<View>,
    /// Tracks that were forgotten.
    #[serde(default)]
    pub forgotten: Vec<TrackKey>,
    /// The rolling snapshot: the next unchanged tracks in turn.
    #[serde(default)]
    pub snapshot: Vec<Track>,
}

/// How long a subscription's path has been proven alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    pub subscription: String,
    pub since_ms: i64,
    pub last_ms: i64,
    /// It has reported health, of whatever entity: that one of its entities is silent proves nothing.
    #[serde(default)]
    pub reports_health: bool,
    /// The last time in which it was not, for as far as is known: a proof of that time may still come out of a spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// A time in which a path was not proven alive. Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Since when it had been proven before.
    pub since_ms: i64,
    pub from_ms: i64,
    pub to_ms: i64,
}

/// A decision with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Partition time. Unix milliseconds.
    pub at_ms: i64,
    /// Sequence of the input in INPUTS.
    pub input: u64,
    pub incident: String,
    pub key: TrackKey,
    /// The incident's phase after it.
    pub phase: Phase,
    pub what: What,
}

/// What was decided. `decide::explain` puts it into words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// First sign of trouble.
    Opened { event_id: String, threshold: u32, stable_for_ms: i64 },
    /// A healthy event broke the run before it was believed.
    NotConfirmed { failures: u32, threshold: u32, span_ms: i64 },
    /// Threshold and stability window met.
    Confirmed { failures: u32, threshold: u32, span_ms: i64, stable_for_ms: i64 },
    /// Flapping: the action waits.
    BackedOff { changes: u32, wait_ms: i64, until_ms: i64 },
    /// The trouble was no longer there when the back-off ended.
    BackOffEnded,
    /// An action was handed to the executor.
    Commanded(Box<Command>),
    /// An action was decided on, and waits for the one under way.
    LinedUp { action: String },
    /// The executor reported.
    Reported(Box<Outcome>),
    /// An action's deadline passed before it was called; it was looked at anew.
    DecidedAnew { action: String, still_needed: bool },
    /// A command came back from the dead letters and is still what the incident needs.
    Retried { action: String, replays: u32 },
    /// A command came back from the dead letters, and the incident had moved on.
    FencedOff { action: String, decision: u32, reason: String },
    /// People have decided on what waited for them.
    Ruled { action: String, verdict: Verdict, by: String, reason: String },
    /// Nobody objected in time to what was to be done unless somebody did.
    NobodyObjected { action: String },
    /// Nobody decided in time: people are asked anew.
    NobodyDecided { action: String },
    /// People have decided on what no longer waits for them.
    RuledInVain { approval: String, by: String },
    /// A healthy event after the failover, not enough to believe it.
    Recovering { healthy: u32, needed: u32, span_ms: i64, stable_for_ms: i64 },
    /// Trouble again after healthy events: the recovery was false.
    FalseRecovery { healthy: u32, health: Health },
    /// Healthy in a row and for long enough.
    Recovered { healthy: u32, span_ms: i64, stable_for_ms: i64, relapses: u32 },
    /// Silent for long enough, where silence can mean health.
    SilentlyRecovered { silent_ms: i64 },
    /// Over, and nothing had to be undone.
    Closed { reason: String },
    /// Waits for a person.
    Held { reason: String },
}

/// What became of one accepted event: exactly one per acceptance (N2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disposed {
    pub origin: Origin,
    pub accept_id: String,
    pub event_id: String,
    pub disposition: Disposition,
}

/// The end of an event's way, with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// The same event was accepted before.
    Duplicate { of: Origin },
    /// No playbook wants it, or it changes nothing.
    Ignored { reason: String },
    /// Older than the newest event of its entity.
    Stale { newer_by_ms: i64 },
    /// A predicate or a template path could not be evaluated; that is not "false".
    Undecidable { reason: String },
    /// It followed from an action of ours: for what it follows from it says nothing (C4).
    Echo {
        /// What it follows from, in words.
        of: String,
        /// How many calls of ours led to it, one after the other.
        depth: u32,
    },
    /// Counted into these incidents.
    Counted { incidents: Vec<String> },
}

/// A lane's name for people.
impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lane::Failover => "failover",
            Lane::Scaling => "scaling",
        })
    }
}
