//! RATE: how fast a host, or one client of it, may be called by all replicas of all services together. An
//! entry is changed by compare-and-set only, so every replica adds to what all the others have taken before it.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// What has been taken of a pace, and what the target has said about it. All times: Unix microseconds, broker's
/// clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// When calls may leave that a replica has taken a turn for, in order; the last second of them.
    pub taken_us: Vec<i64>,
    /// Those of them that are no remedies.
    pub others_us: Vec<i64>,
    /// No call may leave before this: the target asked for quiet.
    pub closed_until_us: i64,
    /// Answers 429 in a row, each after the quiet that the one before led to.
    pub throttled: u32,
    /// The target's own limit, once an answer has told it.
    pub told: Option<Told>,
}

/// A limit as the target tells it: so many calls until its counter is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub allowed: u32,
    /// Of them: what has been taken by us, or counted by the target if that is more.
    pub used: u32,
    /// When the target's counter begins anew.
    pub resets_us: i64,
    /// The longest time to a reset that was ever told.
    pub period_us: i64,
}

impl Wire for Window {
    const KIND: &'static str = "rate-window";
}
