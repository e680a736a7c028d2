//! The state of an entity under a playbook, as records and the INCIDENTS view carry it.
//!
//! Only data: what moves it stands in `decide::debounce`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Direction};
use crate::signal::{Health, Values};
use crate::wire::Wire;

/// The guide's four states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Phase {
    /// Trouble was seen; it is not yet known to be real.
    Detected,
    /// Threshold and stability window are met; the action is not under way yet (back-off, or its turn).
    Stabilized,
    /// The action was decided on; the incident ends with its revert.
    Remediating,
    /// Over.
    Resolved,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Detected => "DETECTED",
            Phase::Stabilized => "STABILIZED",
            Phase::Remediating => "REMEDIATING",
            Phase::Resolved => "RESOLVED",
        })
    }
}

/// What kind of trouble a track follows. FAILED and DEGRADED are judged apart, so that a warning can never
/// feed a failover (C1, A2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// FAILED events; actions of class failover.
    Failover,
    /// DEGRADED events; actions of class scaling.
    Scaling,
}

/// Names a track: one entity, under one playbook, for one kind of trouble.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrackKey {
    pub playbook: String,
    pub lane: Lane,
    pub entity: String,
}

/// A run of like events: what "in a row" and "for a time" are judged by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub count: u32,
    /// Event time of the first and the last of them. Unix milliseconds.
    pub first_ms: i64,
    pub last_ms: i64,
}

/// A wake-up that the broker keeps for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// Each wake-up of a track has its own number and so its own subject, never published to twice.
    pub generation: u64,
    pub deadline_ms: i64,
    /// It has fired, but the watermark had not passed the deadline yet.
    #[serde(default)]
    pub fired: bool,
}

/// One incident: from the first sign of trouble to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub id: String,
    pub phase: Phase,
    /// Hash of the playbook set that judges it, from its first event to its end.
    pub playbooks: String,
    /// Partition time when it began. Unix milliseconds.
    pub opened_ms: i64,
    /// The run of trouble before the failover.
    pub trouble: Run,
    /// The run of health after it.
    #[serde(default)]
    pub health: Run,
    /// Times that a healthy run had to span when it was decided on, doubled after relapses. Milliseconds.
    #[serde(default)]
    pub recover_for_ms: i64,
    /// Broker time of the last event of the entity: where silence begins. Unix milliseconds.
    pub heard_ms: i64,
    /// Flapping: no action before this partition time. Unix milliseconds.
    #[serde(default)]
    pub not_before_ms: Option<i64>,
    /// Changes only when a command is issued or withdrawn.
    #[serde(default)]
    pub decision: u32,
    /// The greatest [`Signal::depth`](crate::signal::Signal::depth) of the trouble that counted.
    #[serde(default)]
    pub depth: u32,
    /// At least one of its actions is known to have been carried out.
    #[serde(default)]
    pub acted: bool,
    /// Steps of those that are known to have been carried out, or may have been: these have to be undone. None, where an
    /// earlier version has acted: then all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub acted_steps: BTreeSet<u32>,
    /// Steps of its revert that are not known to have worked: it is not over before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undoing: Vec<Undoing>,
    /// Waits for a person, and why.
    #[serde(default)]
    pub held: Option<Hold>,
    /// Its events are to say whether its remedies worked.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Its silence was looked at and proved nothing: it is not looked at again before something is heard.
    #[serde(default)]
    pub silence_judged: bool,
    /// Template values of the last event that counted.
    #[serde(default)]
    pub values: Values,
    /// Those that its remedies were issued with.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub remedied: Values,
    /// `received_ms` of the last event that counted; deadlines count from it.
    #[serde(default)]
    pub counted_ms: i64,
    /// What that event had waited in the gateway before. Milliseconds.
    #[serde(default)]
    pub waited_ms: i64,
}

/// A step of a revert that is not known to have worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoing {
    pub step: u32,
    /// Of its last issue.
    pub decision: u32,
    pub state: UndoState,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndoState {
    /// It was carried out, and until then a look will tell whether it worked (E11). Unix milliseconds.
    Carried { until_ms: i64 },
    /// It was carried out, and is not seen to have worked. It lies among the dead letters.
    NotProven,
    /// It was not proven, and is carried out once more, alone.
    Repeated,
    /// It did not go through, and what would have followed it was not issued. It lies among the dead letters.
    GivenUp,
}

/// The last remedy was reported carried, and what the entity's events say from then on tells whether it worked (E11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The issue of that remedy.
    pub action: String,
    pub step: u32,
    pub decision: u32,
    /// Events from here on say something. Unix milliseconds.
    pub from_ms: i64,
    /// One of those accepted until here must have said that it worked. Unix milliseconds.
    pub until_ms: i64,
    /// Id of the last event that did not say so.
    #[serde(default)]
    pub otherwise: Option<String>,
    /// Id of the last event that could not be judged.
    #[serde(default)]
    pub unjudged: Option<String>,
}

/// Why an incident waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    /// It waits because nothing is heard, and ends by itself when the entity is heard again.
    pub until_heard: bool,
}

/// What was decided on but waits for the outcome of what is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intended {
    pub incident: String,
    pub direction: Direction,
    pub step: u32,
    pub action: String,
    pub deadline_ms: i64,
    pub values: Values,
    /// See [`Command::replays`].
    #[serde(default)]
    pub replays: u32,
    /// See [`Command::approval`].
    #[serde(default)]
    pub approval: Option<String>,
    /// Partition time when it was decided on first. Unix milliseconds.
    #[serde(default)]
    pub judged_ms: i64,
}

/// What waits for people to allow it. Nothing else of its track is issued meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Awaiting {
    /// Under which id people are asked.
    pub approval: String,
    pub intended: Intended,
    /// It is looked at again then, whatever people say until then. Unix milliseconds.
    pub until_ms: i64,
    /// It is done then, unless somebody has objected; otherwise people are asked anew.
    #[serde(default)]
    pub unless_denied: bool,
}

/// Everything known of one entity under one playbook and lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    pub key: TrackKey,
    pub partition: u16,
    pub subscription: String,
    #[serde(default)]
    pub group: Option<String>,
    /// Event time of the newest event; older ones move nothing (O3). Unix milliseconds.
    pub newest_ms: i64,
    /// Partition time of the last event. Unix milliseconds.
    pub heard_ms: i64,
    /// The source has reported health for this entity at least once: its silence proves nothing.
    #[serde(default)]
    pub reports_health: bool,
    #[serde(default)]
    pub last_health: Option<Health>,
    /// Event times of the latest changes between trouble and health, oldest first.
    #[serde(default)]
    pub changes_ms: Vec<i64>,
    /// Back-offs in a row while flapping.
    #[serde(default)]
    pub back_offs: u32,
    /// Partition time of the last revert. Unix milliseconds.
    #[serde(default)]
    pub reverted_ms: Option<i64>,
    #[serde(default)]
    pub relapses: u32,
    /// The last timer generation given out.
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub armed: Option<Armed>,
    #[serde(default)]
    pub open: Option<Incident>,
    /// Incidents that are over but for the outcome of their revert, oldest first.
    #[serde(default)]
    pub closing: Vec<Incident>,
    /// The command under way.
    #[serde(default)]
    pub outstanding: Option<Command>,
    /// It waits for people.
    #[serde(default)]
    pub awaiting: Option<Awaiting>,
    /// What comes after it, in order.
    #[serde(default)]
    pub lineup: Vec<Intended>,
}

/// An entry of the INCIDENTS bucket: what people see. A view, never a base of recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub id: String,
    pub partition: u16,
    pub key: TrackKey,
    pub subscription: String,
    #[serde(default)]
    pub group: Option<String>,
    pub phase: Phase,
    pub playbooks: String,
    pub opened_ms: i64,
    /// Event time of the last event of the entity. Unix milliseconds.
    pub last_event_ms: i64,
    pub consecutive_failures: u32,
    pub threshold: u32,
    pub decision: u32,
    #[serde(default)]
    pub held: Option<String>,
    /// The approval that it waits for.
    #[serde(default)]
    pub awaiting: Option<String>,
}

impl Wire for View {
    const KIND: &'static str = "incident";
}
