//! How many calls a client may make: so many a window, told in every answer's headers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::state::{Now, micros};

/// Clients whose calls are counted: no more can be configured.
pub(crate) const CLIENTS_MAX: usize = 64;

/// What the headers of an answer tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) allowed: u32,
    pub(crate) count: u32,
    /// Whole seconds until the window ends, at least one.
    pub(crate) reset_s: u64,
}

impl Quota {
    pub(crate) fn is_exceeded(&self) -> bool {
        self.count > self.allowed
    }
}

/// When each client's window began, and what was called in it.
#[derive(Default)]
pub(crate) struct Quotas {
    windows: BTreeMap<String, (u64, u32)>,
}

impl Quotas {
    /// Counts a call, refused ones as well.
    pub(crate) fn count(&mut self, client: &str, allowed: u32, window: Duration, now: Now) -> Quota {
        if self.windows.len() >= CLIENTS_MAX && !self.windows.contains_key(client) {
            self.windows.pop_first();
        }
        let window_us = micros(window).max(1);
        let (began_us, count) = self.windows.entry(client.into()).or_insert((now.us, 0));
        if now.us.saturating_sub(*began_us) >= window_us {
            (*began_us, *count) = (now.us, 0);
        }
        *count = count.saturating_add(1);
        let left_us = (*began_us + window_us).saturating_sub(now.us);
        Quota { allowed, count: *count, reset_s: left_us.div_ceil(1_000_000).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_windows_of_its_own() {
        let mut quotas = Quotas::default();
        let mut check = |client, at_ms: u64, count, reset_s, exceeded| {
            let now = Now { us: at_ms * 1_000, wall_ms: 0 };
            let quota = quotas.count(client, 2, Duration::from_secs(60), now);
            assert_eq!(
                (quota.count, quota.reset_s, quota.is_exceeded()),
                (count, reset_s, exceeded),
                "{at_ms}"
            );
        };
        check("a", 1_000, 1, 60, false);
        check("a", 1_001, 2, 60, false);
        check("b", 1_001, 1, 60, false);
        check("a", 31_000, 3, 30, true);
        check("a", 60_999, 4, 1, true);
        check("a", 61_000, 1, 60, false);
    }
}
