//! The only place where clocks are read. Decisions never do: they get time as data.
#![allow(clippy::disallowed_methods, reason = "this is where the ban points to")]

use std::time::Duration;

pub use tokio::time::Instant;

/// The wall clock. Unix milliseconds.
pub fn wall_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}
