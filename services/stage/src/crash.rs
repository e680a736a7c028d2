//! Crash points: every line of every stage between "read" and "acknowledged" at which a crash has to be
//! harmless. All of them stand here, so that a test can walk the list and a new one cannot be forgotten.
//!
//! A debug build aborts at the point that `HOLDLINE_CRASH_AT` names, and at the one that `HOLDLINE_FREEZE_AT` names
//! it stops, once, until it gets SIGCONT: as a machine that is suspended, whose clocks stand still with it. A release
//! build has no such code.

/// A named line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A frame is made and not stored.
    GatewayBeforeStore,
    /// A frame is stored and nobody is answered.
    GatewayAfterStore,
    /// A frame is written to the spool and not synced.
    GatewaySpoolWritten,
    /// A frame is synced in the spool and nobody is answered.
    GatewaySpoolSynced,
    /// A spooled frame is stored by the broker and still in the spool.
    GatewaySpoolDrained,
    /// A new owner has folded what he takes over and read no input.
    AfterFold,
    /// Inputs are decided on and the record is not written.
    BeforeCommit,
    /// The record is durable and its effects are not published.
    AfterCommit,
    /// Some effects of a record are published.
    BetweenEffects,
    /// All effects of a record are published and no record says so.
    AfterEffects,
    /// The views are ours to write and none is written.
    BeforeView,
    /// A message is in the dead letters and not given up yet.
    AfterPark,
    /// The lock is held and nothing was looked at.
    AfterLock,
    /// The lock is held, and of what has to be looked at something was.
    BetweenLooks,
    /// The lock is held and no intent is written.
    BeforeIntent,
    /// A share of a budget is taken, of others or of the call nothing stands.
    BudgetTaken,
    /// The audit trail says that people are asked, and nobody is.
    AskRecorded,
    /// People are asked, and the incident does not know.
    PeopleAsked,
    /// The audit trail says that people's word is used, and the word does not.
    UseRecorded,
    /// An entry is in the audit trail and its witness has not noted it.
    EntryAppended,
    /// The intent is written and no call has left.
    AfterIntent,
    /// The call was answered and nothing says so.
    AfterCall,
    /// What a native action will change is kept as it was, and nothing has been called.
    PreImageKept,
    /// The version that a native action led to is noted, and no outcome stands.
    VersionNoted,
    /// A call is to be repeated, that is written down, and the command is not back with the broker.
    BeforeRetry,
    /// The outcome stands and the command is not acknowledged.
    BeforeAck,
    /// A letter's way is planned and it is not acknowledged.
    ReplayerPlanned,
    /// A letter may go back and has not.
    ReplayerLetThrough,
    /// A letter went back and is still in DEAD.
    ReplayerSentBack,
    /// What became of a letter is on record and it is still in DEAD.
    ReplayerResolved,
}

impl Point {
    /// Every point, with the role in which it is reached.
    pub const ALL: [(Point, &'static str); 37] = [
        (Point::GatewayBeforeStore, "gateway"),
        (Point::GatewayAfterStore, "gateway"),
        (Point::GatewaySpoolWritten, "gateway"),
        (Point::GatewaySpoolSynced, "gateway"),
        (Point::GatewaySpoolDrained, "gateway"),
        (Point::AfterFold, "classifier"),
        (Point::BeforeCommit, "classifier"),
        (Point::AfterCommit, "classifier"),
        (Point::BeforeView, "classifier"),
        (Point::AfterPark, "classifier"),
        (Point::AfterFold, "debouncer"),
        (Point::BeforeCommit, "debouncer"),
        (Point::AfterCommit, "debouncer"),
        (Point::BetweenEffects, "debouncer"),
        (Point::AfterEffects, "debouncer"),
        (Point::BeforeView, "debouncer"),
        (Point::AfterPark, "debouncer"),
        (Point::AfterLock, "executor"),
        (Point::BetweenLooks, "executor"),
        (Point::BeforeIntent, "executor"),
        (Point::BudgetTaken, "executor"),
        (Point::AskRecorded, "executor"),
        (Point::PeopleAsked, "executor"),
        (Point::UseRecorded, "executor"),
        (Point::EntryAppended, "executor"),
        (Point::AfterIntent, "executor"),
        (Point::AfterCall, "executor"),
        (Point::PreImageKept, "executor"),
        (Point::VersionNoted, "executor"),
        (Point::BeforeRetry, "executor"),
        (Point::AfterPark, "executor"),
        (Point::BeforeAck, "executor"),
        (Point::AfterPark, "dlq-replayer"),
        (Point::ReplayerPlanned, "dlq-replayer"),
        (Point::ReplayerLetThrough, "dlq-replayer"),
        (Point::ReplayerSentBack, "dlq-replayer"),
        (Point::ReplayerResolved, "dlq-replayer"),
    ];

    /// As `HOLDLINE_CRASH_AT` names it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Ends the process here, or freezes it, if this is where it is to happen.
#[inline]
pub fn point(point: Point) {
    #[cfg(debug_assertions)]
    wanted::here(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

/// What a test wants to happen where.
#[cfg(debug_assertions)]
mod wanted {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{LazyLock, PoisonError, RwLock};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;
    use crate::clock;

    static CRASH_AT: LazyLock<Option<String>> = LazyLock::new(|| variable("HOLDLINE_CRASH_AT"));
    static FREEZE_AT: LazyLock<Option<String>> = LazyLock::new(|| variable("HOLDLINE_FREEZE_AT"));
    static FROZEN: AtomicBool = AtomicBool::new(false);
    /// Written from before the process stands still until its clock knows of that.
    static FREEZING: RwLock<()> = RwLock::new(());

    fn variable(name: &str) -> Option<String> {
        #[allow(clippy::disallowed_methods, reason = "a test says where")]
        std::env::var(name).ok()
    }

    pub(super) fn here(point: Point) {
        let is_here = |wanted: &Option<String>| wanted.as_ref().is_some_and(|name| *name == point.name());
        if is_here(&CRASH_AT) {
            tracing::error!("crash point {}", point.name());
            std::process::abort();
        }
        if FREEZE_AT.is_none() {
            return;
        }
        if is_here(&FREEZE_AT) {
            freeze(point);
        }
        // The signal takes its time to stop the other threads: meanwhile none of them comes past a line.
        drop(FREEZING.read().unwrap_or_else(PoisonError::into_inner));
    }

    /// Once in a process.
    fn freeze(point: Point) {
        let _others_wait = FREEZING.write().unwrap_or_else(PoisonError::into_inner);
        if FROZEN.swap(true, Ordering::SeqCst) {
            return;
        }
        tracing::error!("frozen at {}", point.name());
        let began = clock::now();
        kill_process(getpid(), Signal::STOP).ok();
        // The signal goes to the process, and reaches this thread within that time.
        std::thread::sleep(Duration::from_millis(100));
        clock::stood_still(clock::since(began));
    }
}

/// [`point`], where it matters.
#[inline]
pub fn point_if(matters: bool, at: Point) {
    if matters {
        point(at);
    }
}
