//! `hl.event.<p>`: what the gateway accepted, exactly as it arrived.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// Everything that waited for one partition when the gateway's previous write returned, in one message.
/// A frame without events is a tick: it says that this gateway is alive and holds nothing back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Stable name of the gateway (the same after a restart).
    pub gateway: String,
    /// The gateway promises its next frame within this time; one that breaks the promise by far is taken
    /// for dead, and the watermark no longer waits for it. Milliseconds.
    pub next_within_ms: u32,
    /// The gateway has drained and says goodbye: the watermark need not wait for it.
    #[serde(default)]
    pub leaving: bool,
    /// How long the events waited in the gateway's spool, by its own clock; 0: not at all. Milliseconds.
    #[serde(default)]
    pub waited_ms: u64,
    /// How long before the gateway's previous frame was known to be stored the oldest event was accepted that
    /// still waits behind this one, on disk or in memory; 0: all that it accepted before then has been sent.
    /// For the first frame of a run: that event's age. The watermark does not pass what is held back.
    /// Measured against what lies behind, because nobody can say how long a frame will be on its way.
    /// Milliseconds.
    #[serde(default)]
    pub behind_ms: u64,
    /// Sent by the dlq-replayer: it proves nothing about the way in, and is no gateway that anything waits for.
    #[serde(default)]
    pub replayed: bool,
    /// When each subscription was last heard, whatever its partition: the proof that the path is alive.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// Accepted events, in the order of acceptance.
    #[serde(default)]
    pub events: Vec<Accepted>,
}

impl Wire for Frame {
    const KIND: &'static str = "event-frame";
}

/// A subscription and how long before this frame it last had an accepted event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    pub subscription: String,
    /// A duration by the gateway's monotonic clock, so that no two clocks are compared. Milliseconds.
    pub age_ms: u32,
}

/// One event that was answered with 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// `<partition>-<accept time, Unix ms>-<run>-<n>`: unique, and says where and when to look.
    pub accept_id: String,
    /// The gateway's clock when the request was accepted. Unix milliseconds.
    pub accepted_ms: i64,
    /// The subscription whose credentials verified the request.
    pub subscription: String,
    /// The event's own bytes, as they were signed.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// Where the event was first stored, when this is a replay from the dead letters.
    #[serde(default)]
    pub origin: Option<Origin>,
}

/// A place in EVENTS: the identity of one acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Stream sequence of the frame.
    pub sequence: u64,
    /// Index of the event within the frame.
    pub index: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.sequence, self.index)
    }
}

/// Reads the partition and the accept time (Unix ms) out of an accept id, or `None` if it is not one.
pub fn parse_accept_id(id: &str) -> Option<(u16, i64)> {
    let mut parts = id.split('-');
    let partition = parts.next()?.parse().ok()?;
    let accepted_ms = parts.next()?.parse().ok()?;
    (parts.count() == 2).then_some((partition, accepted_ms))
}
