//! The only place where clocks are read. Decisions never do: they get time as data.
#![allow(clippy::disallowed_methods, reason = "this is where the ban points to")]

use std::time::Duration;

pub use tokio::time::Instant;

/// The wall clock. Unix milliseconds.
pub fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wall_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    #[cfg(debug_assertions)]
    let wall_ms = wall_ms.saturating_sub(frozen::for_ms());
    wall_ms.saturating_add(shift_ms())
}

/// How far a test has put this process's clock off (F10): `HOLDLINE_CLOCK_SHIFT_MS`. A release build has no such
/// code.
#[cfg(debug_assertions)]
fn shift_ms() -> i64 {
    static SHIFT_MS: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *SHIFT_MS.get_or_init(|| {
        let given = std::env::var("HOLDLINE_CLOCK_SHIFT_MS").ok();
        given.and_then(|given| given.parse().ok()).unwrap_or(0)
    })
}

#[cfg(not(debug_assertions))]
fn shift_ms() -> i64 {
    0
}

/// The monotonic clock.
pub fn now() -> Instant {
    #[cfg(debug_assertions)]
    return frozen::without(Instant::now());
    #[cfg(not(debug_assertions))]
    Instant::now()
}

/// This process stood still for so long, and its clocks with it, as a guest of a machine that was suspended.
#[cfg(debug_assertions)]
pub(crate) fn stood_still(time: Duration) {
    frozen::add(time);
}

#[cfg(debug_assertions)]
mod frozen {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    static FOR_MS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn add(time: Duration) {
        FOR_MS.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    pub(super) fn for_ms() -> i64 {
        i64::try_from(FOR_MS.load(Ordering::SeqCst)).unwrap_or(i64::MAX)
    }

    pub(super) fn without(now: super::Instant) -> super::Instant {
        let frozen = Duration::from_millis(FOR_MS.load(Ordering::SeqCst));
        now.checked_sub(frozen).unwrap_or(now)
    }
}

/// The time since then, by the monotonic clock; none if that is still to come.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A moment by both clocks: the monotonic one stands still while a machine is suspended, and the wall clock may be set.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Instant,
    wall_ms: i64,
}

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        Moment { at: now(), wall_ms: wall_ms() }
    }

    /// The time since then, by the clock that says more: for what must not be relied on for too long.
    pub fn elapsed(self) -> Duration {
        longer(since(self.at), wall_ms().saturating_sub(self.wall_ms))
    }
}

fn longer(monotonic: Duration, wall_ms: i64) -> Duration {
    monotonic.max(Duration::from_millis(u64::try_from(wall_ms).unwrap_or(0)))
}

/// Waits.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_says_more_tells_how_old_something_is() {
        let check = |monotonic_ms, wall_ms, expected_ms| {
            let told = longer(Duration::from_millis(monotonic_ms), wall_ms);
            assert_eq!(told, Duration::from_millis(expected_ms), "{monotonic_ms} {wall_ms}");
        };
        check(100, 100, 100);
        // The machine was suspended.
        check(100, 60_100, 60_100);
        // The wall clock was set back.
        check(100, -60_000, 100);
    }
}
