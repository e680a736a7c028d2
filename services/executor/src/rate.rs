//! The pace of calls to one host: at most so many in any second, by this process. (Over all replicas
//! together the window will be leased from the broker; until then each replica keeps it for itself.)

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};

/// Calls in any second to a host for which the settings name no other figure (E5).
pub(crate) const CALLS_PER_SECOND: u32 = 100;

/// A second, and a margin for jitter on the way.
const WINDOW: Duration = Duration::from_millis(1_100);

/// Hosts that are followed at once; beyond, those idle for a second are forgotten.
const HOSTS_MAX: usize = 1_000;

/// Sliding windows by host.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    hosts: Mutex<HashMap<String, Arc<Mutex<VecDeque<Instant>>>>>,
}

impl Rates {
    /// Waits until a call to the host may leave.
    pub(crate) async fn turn(&self, host: &str, calls_per_second: u32) {
        let window = self.window(host);
        loop {
            let wait = take(&mut window.lock().unwrap_or_else(PoisonError::into_inner), calls_per_second);
            match wait {
                None => return,
                Some(wait) => clock::sleep(wait).await,
            }
        }
    }

    fn window(&self, host: &str) -> Arc<Mutex<VecDeque<Instant>>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= HOSTS_MAX {
            hosts.retain(|_, window| {
                let window = window.lock().unwrap_or_else(PoisonError::into_inner);
                window.back().is_some_and(|last| last.elapsed() < WINDOW)
            });
        }
        hosts.entry(host.into()).or_default().clone()
    }
}

/// Takes a place in the window, or says how long until there is one.
fn take(window: &mut VecDeque<Instant>, calls_per_second: u32) -> Option<Duration> {
    while window.front().is_some_and(|oldest| oldest.elapsed() >= WINDOW) {
        window.pop_front();
    }
    if window.len() < calls_per_second as usize {
        window.push_back(clock::now());
        return None;
    }
    let oldest = window.front()?;
    Some(WINDOW.saturating_sub(oldest.elapsed()).max(Duration::from_millis(1)))
}
