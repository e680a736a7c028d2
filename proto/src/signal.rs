//! `hl.signal.<p>`: what the events mean to the playbooks. The classifier's record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::Origin;
use crate::incident::Lane;
use crate::journal::Disposed;
use crate::wire::Wire;

/// How an entity is, by one event. The three are told apart for good: FAILED may fail over, DEGRADED may
/// scale, and neither can be mistaken for the other further down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    Failed,
    Degraded,
    Healthy,
}

/// One event as one playbook sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub origin: Origin,
    pub accept_id: String,
    /// The sender's id of the event.
    pub event_id: String,
    pub subscription: String,
    pub playbook: String,
    pub entity: String,
    #[serde(default)]
    pub group: Option<String>,
    pub health: Health,
    /// When it happened: the event's own time, else the accept time. Unix milliseconds.
    pub event_ms: i64,
    /// When it reached the log: the broker's time of the event's frame. Unix milliseconds.
    pub received_ms: i64,
    /// What it waited in the gateway before that. Milliseconds.
    #[serde(default)]
    pub waited_ms: i64,
    /// It reached the log so long after it was accepted that it must not begin an action by itself.
    #[serde(default)]
    pub late: bool,
    /// How many calls of ours led to it, one after the other; 0: none that is known.
    #[serde(default)]
    pub depth: u32,
    /// To this entity under this playbook it is the echo of what it did itself: what it follows from, in words. It counts
    /// for nothing, and is no silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<String>,
    /// What the playbook's action templates refer to, by path.
    #[serde(default)]
    pub values: Values,
}

/// What an event says of whether the remedies of a playbook's lane worked (E11): of every event of the entity, whatever
/// its health, for each lane whose `verify` listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The sender's id of the event.
    pub event_id: String,
    pub playbook: String,
    pub lane: Lane,
    pub entity: String,
    /// `None`: the predicate could not be evaluated over it.
    pub worked: Option<bool>,
    /// When it happened, and not later than it was accepted: what a sender with a fast clock says, or a spool delivers,
    /// is not taken for younger than it is. Unix milliseconds.
    pub at_ms: i64,
}

/// Template paths (`data.gatewayId`, `event.id`) and what the event has there; absent paths are absent.
pub type Values = BTreeMap<String, serde_json::Value>;

/// Remembers which acceptance claimed an event id (T2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// First 16 bytes of SHA-256 over topic and event id.
    #[serde(with = "serde_bytes")]
    pub id: Vec<u8>,
    pub origin: Origin,
    /// Its source may repeat it for longer than the window that holds for all: how long it is remembered.
    /// Milliseconds; 0: that window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub window_ms: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What the classifier knows of a gateway, for the watermark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayMark {
    pub gateway: String,
    /// Broker time of its last frame. Unix milliseconds.
    pub frame_ms: i64,
    /// Everything that it accepted before this broker time has been read. Unix milliseconds.
    pub complete_ms: i64,
    /// Its promise, see [`crate::event::Frame::next_within_ms`].
    pub next_within_ms: u32,
}

/// The body of the classifier's record: everything that its input frames led to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    /// Hash of the playbook set that these signals were made with; the debouncer judges by the same set.
    #[serde(default)]
    pub playbooks: String,
    #[serde(default)]
    pub signals: Vec<Signal>,
    /// What the events say of remedies, besides: it is no disposition, and counts for nothing else.
    #[serde(default)]
    pub said: Vec<Said>,
    /// Events that end here, each with its reason.
    #[serde(default)]
    pub disposed: Vec<Disposed>,
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Broker time before which nothing of this partition is unread. Unix milliseconds; 0: unknown.
    #[serde(default)]
    pub watermark_ms: i64,
    #[serde(default)]
    pub gateways: Vec<GatewayMark>,
    /// Broker times at which subscriptions were heard: the first and the last of each, and what proves that
    /// there was no gap between them. Unix milliseconds.
    #[serde(default)]
    pub heard: Vec<(String, i64)>,
}

/// An entry of the DEDUP bucket: the ids that one record claimed. A view.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims(pub Vec<Claim>);

impl Wire for Claims {
    const KIND: &'static str = "claims";
}
