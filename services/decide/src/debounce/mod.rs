//! Is it real, and is it over?
//!
//! [`Partition`] folds the inputs of one partition, in their order, over the tracks of its entities: that is
//! where a signal becomes an incident. [`track`] holds the machine of one entity: what an event, an outcome
//! or a wake-up does to it. The judgements themselves stand in [`confirm`] (is it real), [`recover`] (is it
//! over), [`flap`] (does it change too often to act) and [`verify`] (did it work, by its own events); [`approve`] is
//! about what waits for people.

use crate::playbook::Reports;

mod approve;
mod confirm;
mod flap;
mod partition;
mod recover;
mod track;
mod verify;

#[cfg(test)]
mod tests;

pub use partition::{Input, Partition, Rulebook, Step};

/// So many actions of ours may lead to one another (C4). What follows from the last of them is acted on no more.
pub const CAUSAL_DEPTH_MAX: u32 = 2;

/// What one lane of a playbook goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Consecutive failures. At least 1.
    pub threshold: u32,
    /// Stability window: the span by event time from the first to the last of them. Milliseconds, 0 to 24 h.
    pub stable_for_ms: i64,
    pub flapping: Option<Flapping>,
    pub reports: Reports,
    /// Names of the actions, in order. At least one.
    pub act: Vec<String>,
    /// From the deciding event to the call. Milliseconds.
    pub deadline_ms: i64,
    /// The action that tells people of an incident that is held for them, if the settings name one.
    pub pager: Option<String>,
    /// How it ends. A failover always has one; scaling need not undo anything.
    pub revert: Revert,
    /// When the entity's events tell whether the remedies worked, if it is they that tell.
    pub listening: Option<Listening>,
}

/// When what an entity's events say of its remedies counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// From so long on after the last remedy was reported carried. Milliseconds.
    pub after_ms: i64,
    /// One must have said that it worked within this time after that. Milliseconds, more than 0.
    pub within_ms: i64,
}

/// When a remediation is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// Healthy events in a row. At least 2.
    pub healthy: u32,
    /// Time from the first to the last of them; doubled after each relapse, 15 minutes at most. Milliseconds.
    pub stable_for_ms: i64,
    /// Time without trouble after which it is taken to be over, where silence can mean health. Milliseconds.
    pub silence_ms: i64,
    /// Names of the actions, in order; may be empty in the scaling lane only.
    pub act: Vec<String>,
    /// They are the remedies themselves, last one first: each is undone from the pre-image that it kept.
    pub undo: bool,
}

/// When an entity changes so often that acting would make it worse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flapping {
    /// Changes between trouble and health.
    pub changes: u32,
    /// Within this time. Milliseconds.
    pub within_ms: i64,
    /// The first wait of the action. Milliseconds.
    pub first_ms: i64,
    /// Each further wait is longer by this factor.
    pub factor: u32,
    /// The longest wait. Milliseconds.
    pub most_ms: i64,
}

/// `revert.stable_for` unless set (D3). Milliseconds.
pub const REVERT_STABLE_FOR_MS: i64 = 2 * 60_000;

/// `revert.stable_for` is doubled no further than this (D3). Milliseconds.
pub const REVERT_STABLE_FOR_MS_MAX: i64 = 15 * 60_000;

/// `revert.silence` unless set (D4). Milliseconds.
pub const SILENCE_MS: i64 = 15 * 60_000;

/// `act.….deadline` unless set: long enough for a restart of any part, short enough that no one is surprised
/// by a late failover. Milliseconds.
pub const DEADLINE_MS: i64 = 60_000;

/// A page that could not be sent for this long comes too late to be one. Milliseconds.
pub const PAGE_DEADLINE_MS: i64 = 60 * 60_000;

/// A failover this soon after the last revert is a relapse (D3). Milliseconds.
pub const RELAPSE_WITHIN_MS: i64 = 60 * 60_000;

/// The path counts as proven alive while an event of the subscription came at least this often
/// (architecture.md 13). Milliseconds.
pub const PROOF_EVERY_MS: i64 = 5 * 60_000;
