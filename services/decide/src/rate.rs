//! When calls to a target may leave (E5): at most so many in any second, and no more than the target itself
//! allows, whoever asks and in whatever order.
//!
//! A [`Window`] holds the instants at which calls may leave. [`take`] adds the next ones, each at least
//! [`WINDOW_US`] after the one that lies a whole limit before it: so any `limit` calls in a row span more than a
//! second. An instant that nobody uses is given back, or forfeited with whoever died. A token bucket
//! would not do: full, and refilled while it is emptied, it lets nearly twice the limit through in one second.
//! [`learn`] adds what an answer says. Both get the time as data, in microseconds of the broker's clock.

use holdline_proto::rate::{Told, Window};

use crate::execute::RETRY_AFTER_MS_MAX;

/// A second, and a margin for what lies between a turn and the call's arrival: the age of the turn, the error in
/// reading the broker's clock, and jitter on the way.
pub const WINDOW_US: i64 = 1_100_000;

/// A whole limit is spread over at least this, so that a call that is held up on its way does not meet a burst.
const SPREAD_US: i64 = 500_000;

/// Turns are given no further ahead than this. What is forfeited is at most as much, and what is closed stays
/// open no longer.
pub const HORIZON_US: i64 = 150_000;

/// Instants that a window holds. Beyond: each stands for several calls.
const LOTS_MAX: u32 = 100;

/// One asking takes at most this part of the limit, so that all who wait get some.
const SLICES: u32 = 8;

/// Of each limit, what is kept for remedies.
const RESERVE_PERCENT: u32 = 20;

/// What the platform allows a client before its first answer: 300 calls a minute. Targets tell no microseconds, so by
/// its period a guess is known for one.
const PLATFORM: Told = Told { allowed: 300, used: 0, resets_us: 0, period_us: 60_000_001 };

/// What it allows a client once it has carried a call out and told no limit.
const UNLIMITED: Told = Told { allowed: u32::MAX, ..PLATFORM };

/// A target tells its resets in whole seconds: there may be one more.
const RESOLUTION_US: i64 = 1_000_000;

/// A reset that is told to be further away than this is taken to be then.
const RESET_US_MAX: i64 = 3_600_000_000;

/// What a quiet that was asked for is made longer by: whoever learns of it and whoever calls after it read the broker's
/// clock with an error each, and none may be early.
const CLOCKS_DIFFER_US: i64 = 100_000;

/// Quiet after a 429 that names no time: the first, twice as long each time, up to the last.
const QUIET_US: i64 = 500_000;
const QUIET_US_MAX: i64 = 16_000_000;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A remedy or its revert.
    Remediation,
    /// Probes, polls: everything that can wait.
    Other,
}

/// What a window limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Calls to a host in any second.
    PerSecond(u32),
    /// Calls of one client of the platform, as the platform tells.
    Client,
}

/// Calls that may leave from this instant on. Unix microseconds, broker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot {
    pub at_us: i64,
    pub calls: u32,
}

/// What was taken, and when there will be more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub lots: Vec<Lot>,
    /// The instant of the next call. Unix microseconds, broker's clock.
    pub next_us: i64,
}

/// A turn in which no call has left, and none will.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unused {
    /// Its instant, if that was for this call alone.
    pub at_us: Option<i64>,
    /// Until when the target's own limit has it counted, as was known when it was taken; `None`: it has none.
    pub resets_us: Option<i64>,
}

/// What an answer says about limits. `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `inin-ratelimit-allowed`: calls until the reset.
    pub allowed: Option<u32>,
    /// `inin-ratelimit-count`: of them, those made.
    pub count: Option<u32>,
    /// `inin-ratelimit-reset`: milliseconds until then.
    pub reset_ms: Option<u64>,
    /// The call was carried out: whoever tells limits would have told his.
    pub carried_out: bool,
    /// It was a 429.
    pub throttled: bool,
    /// `Retry-After` of a 429. Milliseconds.
    pub retry_after_ms: Option<u64>,
}

/// A limit, cut into lots.
#[derive(Debug, Clone, Copy)]
struct Cut {
    lots: usize,
    /// Of them for what is no remedy.
    others: usize,
    /// Calls of a lot.
    calls: u32,
    /// Between lots, at least.
    every_us: i64,
}

impl Cut {
    fn of(calls_per_second: u32) -> Cut {
        let limit = calls_per_second.max(1);
        let calls = limit.div_ceil(LOTS_MAX);
        let lots = limit / calls;
        Cut {
            lots: lots as usize,
            others: unreserved(lots) as usize,
            calls,
            every_us: SPREAD_US / i64::from(lots),
        }
    }
}

/// What of a limit may go to something else than remedies; one call always may.
fn unreserved(limit: u32) -> u32 {
    limit.saturating_sub(limit.saturating_mul(RESERVE_PERCENT).div_ceil(100)).max(1)
}

/// Takes turns for up to so many calls; none, when nothing is free before [`HORIZON_US`] from now.
pub fn take(window: &mut Window, limit: Limit, purpose: Purpose, wanted: u32, now_us: i64) -> Taken {
    forget(window, now_us);
    let (cut, whole) = match limit {
        Limit::PerSecond(calls) => (Some(Cut::of(calls)), calls),
        Limit::Client => (None, window.told.get_or_insert(PLATFORM).allowed),
    };
    let mut left = wanted.min(whole.div_ceil(SLICES).max(1));
    let mut lots = vec![];
    loop {
        let at_us = next(window, cut, purpose, now_us);
        if left == 0 || at_us > now_us.saturating_add(HORIZON_US) {
            return Taken { lots, next_us: at_us };
        }
        let calls = note(window, cut, purpose, left, at_us);
        left = left.saturating_sub(calls);
        lots.push(Lot { at_us, calls });
    }
}

/// Gives a turn back. What a target's limit has counted since its last reset is not lowered by what was taken before.
pub fn give_back(window: &mut Window, unused: Unused) {
    if let Some(at_us) = unused.at_us {
        window.taken_us.retain(|taken_us| *taken_us != at_us);
        window.others_us.retain(|taken_us| *taken_us != at_us);
    }
    if let (Some(told), Some(resets_us)) = (&mut window.told, unused.resets_us)
        && is_same_reset(told, resets_us)
    {
        told.used = told.used.saturating_sub(1);
    }
}

/// Whether a target's limit has not begun anew: told in whole seconds, the same reset wanders.
pub fn is_same_reset(told: &Told, resets_us: i64) -> bool {
    told.resets_us.abs_diff(resets_us) <= (2 * RESOLUTION_US).unsigned_abs()
}

/// The earliest instant at which one more call may leave.
fn next(window: &Window, cut: Option<Cut>, purpose: Purpose, now_us: i64) -> i64 {
    let mut at_us = now_us.max(window.closed_until_us);
    if let Some(cut) = cut {
        if let Some(last) = window.taken_us.last() {
            at_us = at_us.max(last.saturating_add(cut.every_us));
        }
        at_us = at_us.max(again(&window.taken_us, cut.lots));
        if purpose == Purpose::Other {
            at_us = at_us.max(again(&window.others_us, cut.others));
        }
    }
    match &window.told {
        Some(told) if at_us < told.resets_us && told.used >= open_to(told, purpose) => told.resets_us,
        _ => at_us,
    }
}

/// When the call that lies a whole limit back is out of the window.
fn again(taken_us: &[i64], limit: usize) -> i64 {
    let oldest = taken_us.len().checked_sub(limit).and_then(|index| taken_us.get(index));
    oldest.map_or(i64::MIN, |oldest| oldest.saturating_add(WINDOW_US))
}

/// Calls that a told limit leaves to a purpose until its reset.
fn open_to(told: &Told, purpose: Purpose) -> u32 {
    match purpose {
        Purpose::Remediation => told.allowed.max(1),
        Purpose::Other => unreserved(told.allowed),
    }
}

/// Puts a lot into the window; gives the calls in it.
fn note(window: &mut Window, cut: Option<Cut>, purpose: Purpose, wanted: u32, at_us: i64) -> u32 {
    let mut calls = cut.map_or(wanted, |cut| cut.calls);
    if cut.is_some() {
        window.taken_us.push(at_us);
        if purpose == Purpose::Other {
            window.others_us.push(at_us);
        }
    }
    if let Some(told) = &mut window.told {
        if at_us >= told.resets_us {
            told.used = 0;
            told.resets_us = at_us.saturating_add(told.period_us);
        }
        let open = open_to(told, purpose).saturating_sub(told.used);
        // None of what the target counts is taken without need.
        calls = calls.min(wanted).min(open).max(1);
        told.used = told.used.saturating_add(calls);
    }
    calls
}

/// Lets go of what is out of the window, and of what can only stand there because the broker's clock was set back.
fn forget(window: &mut Window, now_us: i64) {
    let ahead_us = now_us.saturating_add(HORIZON_US).saturating_add(WINDOW_US);
    let counts = |at_us: &i64| at_us.saturating_add(WINDOW_US) > now_us && *at_us <= ahead_us;
    window.taken_us.retain(counts);
    window.others_us.retain(counts);
    window.closed_until_us = window.closed_until_us.min(now_us.saturating_add(asked_us(RETRY_AFTER_MS_MAX)));
    if let Some(told) = &mut window.told {
        told.resets_us = told.resets_us.min(ahead_us.saturating_add(told.period_us));
    }
}

/// Adds what an answer says; gives whether that is news. `dice` is any number: it spreads what all would else do at
/// the same instant.
pub fn learn(window: &mut Window, limits: &Limits, now_us: i64, dice: u64) -> bool {
    let before = window.clone();
    learn_told(window, limits, now_us);
    if !limits.throttled {
        // Answers that were under way when the quiet began say nothing about its end.
        if now_us >= window.closed_until_us {
            window.throttled = 0;
        }
    } else if let Some(retry_after_ms) = limits.retry_after_ms {
        let until_us = now_us.saturating_add(asked_us(retry_after_ms));
        // Of many such answers at once, the first is news.
        if until_us > window.closed_until_us.saturating_add(RESOLUTION_US / 2)
            || now_us >= window.closed_until_us
        {
            window.closed_until_us = until_us;
        }
    } else if now_us >= window.closed_until_us {
        let quiet_us = QUIET_US.saturating_mul(1 << window.throttled.min(16)).min(QUIET_US_MAX);
        let jitter_us = i64::try_from(dice % 1_000).unwrap_or(0).saturating_mul(quiet_us) / 2_000;
        window.closed_until_us = now_us.saturating_add(quiet_us).saturating_add(jitter_us);
        window.throttled = window.throttled.saturating_add(1);
    }
    *window != before
}

/// How long there is quiet when a target asks for so many milliseconds of it.
fn asked_us(retry_after_ms: u64) -> i64 {
    let asked_ms = i64::try_from(retry_after_ms.min(RETRY_AFTER_MS_MAX)).unwrap_or(i64::MAX);
    asked_ms.saturating_mul(1_000).saturating_add(CLOCKS_DIFFER_US)
}

fn learn_told(window: &mut Window, limits: &Limits, now_us: i64) {
    let guess = window.told.filter(|told| told.period_us == PLATFORM.period_us);
    let (Some(allowed), Some(reset_ms)) = (limits.allowed, limits.reset_ms) else {
        if guess.is_some_and(|guess| guess.allowed != UNLIMITED.allowed) && limits.carried_out {
            window.told = Some(UNLIMITED);
        }
        return;
    };
    let reset_us = i64::try_from(reset_ms).unwrap_or(i64::MAX).saturating_mul(1_000);
    let reset_us = reset_us.min(RESET_US_MAX);
    let left_us = reset_us.saturating_add(RESOLUTION_US);
    let resets_us = now_us.saturating_add(left_us);
    let count = limits.count.unwrap_or(0);
    // Calls under way may not be in the target's count.
    let under_way = u32::try_from(window.taken_us.len()).unwrap_or(u32::MAX);
    let Some(told) = window.told.as_mut().filter(|_| guess.is_none()) else {
        // Of what was taken without a limit, nobody knows what a new one counts.
        let taken = guess.filter(|guess| guess.allowed != UNLIMITED.allowed).map_or(0, |guess| guess.used);
        let used = count.max(under_way).max(taken);
        window.told = Some(Told { allowed, used, resets_us, period_us: left_us });
        return;
    };
    if !is_same_reset(told, resets_us) {
        // The target has begun anew before we did. Far from the reset that we know, ours was a guess.
        if resets_us > told.resets_us && told.resets_us <= now_us.saturating_add(2 * RESOLUTION_US) {
            told.used = under_way;
        }
        told.resets_us = resets_us;
    }
    told.allowed = allowed;
    told.used = told.used.max(count);
    told.period_us = told.period_us.max(left_us);
}
