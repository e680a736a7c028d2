//! What was called, and how much of it in one second.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;

/// Calls that are remembered; the oldest go first.
const CALLS_MAX: usize = 10_000;

/// Arrivals of one second that are counted; more than any test sends.
const ARRIVALS_MAX: usize = 100_000;

const SECOND_US: u64 = 1_000_000;

/// One call, as the platform saw it.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    pub method: String,
    pub path: String,
    /// The client whose token it carried.
    pub client: Option<String>,
    /// Microseconds on the monotonic clock since the simulator's start.
    pub arrived_us: u64,
    /// What it carried, if it was JSON and came as far as an endpoint of the platform.
    pub body: Option<Value>,
    /// What it was answered; none: not yet, or the connection was cut first.
    pub status: Option<u16>,
}

/// The log of calls.
#[derive(Default)]
pub(crate) struct Calls {
    log: VecDeque<Call>,
    /// How many have gone from the front of the log.
    gone: u64,
    /// Arrivals within the last second.
    recent_us: VecDeque<u64>,
    in_a_second_max: usize,
}

impl Calls {
    /// Notes a call and gives its number. Calls have to come in the order of their arrival.
    pub(crate) fn arrived(&mut self, call: Call) -> u64 {
        if call.path.starts_with("/api/") {
            self.count(call.arrived_us);
        }
        self.log.push_back(call);
        if self.log.len() > CALLS_MAX {
            self.log.pop_front();
            self.gone += 1;
        }
        self.gone + self.log.len() as u64 - 1
    }

    /// A second is half open: two calls exactly one second apart are not within one.
    fn count(&mut self, at_us: u64) {
        while self.recent_us.front().is_some_and(|first| at_us.saturating_sub(*first) >= SECOND_US) {
            self.recent_us.pop_front();
        }
        if self.recent_us.len() < ARRIVALS_MAX {
            self.recent_us.push_back(at_us);
        }
        self.in_a_second_max = self.in_a_second_max.max(self.recent_us.len());
    }

    pub(crate) fn answered(&mut self, number: u64, status: u16) {
        if let Some(call) = self.numbered(number) {
            call.status = Some(status);
        }
    }

    pub(crate) fn carried(&mut self, number: u64, body: &Value) {
        if let Some(call) = self.numbered(number) {
            call.body = Some(body.clone());
        }
    }

    fn numbered(&mut self, number: u64) -> Option<&mut Call> {
        let place = number.checked_sub(self.gone).and_then(|place| usize::try_from(place).ok())?;
        self.log.get_mut(place)
    }

    pub(crate) fn log(&self) -> Vec<Call> {
        self.log.iter().cloned().collect()
    }

    pub(crate) fn in_a_second_max(&self) -> usize {
        self.in_a_second_max
    }

    /// Forgets every call and begins to count anew.
    pub(crate) fn forget(&mut self) {
        self.gone += self.log.len() as u64;
        self.log.clear();
        self.recent_us.clear();
        self.in_a_second_max = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arrivals_us: &[u64], path: &str) -> Calls {
        let mut calls = Calls::default();
        for at in arrivals_us {
            let call = Call {
                method: "GET".into(),
                path: path.into(),
                client: None,
                arrived_us: *at,
                body: None,
                status: None,
            };
            calls.arrived(call);
        }
        calls
    }

    #[test]
    fn the_fullest_second_is_counted_exactly() {
        let check = |arrivals: &[u64], most| {
            assert_eq!(of(arrivals, "/api/v2/x").in_a_second_max(), most, "{arrivals:?}");
        };
        check(&[], 0);
        check(&[0, 999_999], 2);
        check(&[0, 1_000_000], 1);
        // The fullest second straddles two whole ones.
        check(&[0, 900_000, 950_000, 1_100_000, 1_899_999, 3_000_000], 4);
        assert_eq!(of(&[1, 2], "/oauth/token").in_a_second_max(), 0);
    }

    #[test]
    fn the_log_is_bounded_and_numbers_stay_true() {
        let arrivals: Vec<u64> = (0..CALLS_MAX as u64 + 5).collect();
        let mut calls = of(&arrivals, "/api/v2/x");
        assert_eq!(calls.log().len(), CALLS_MAX);
        calls.answered(2, 500); // gone
        calls.answered(5, 200); // the oldest that is left
        let log = calls.log();
        assert_eq!((log[0].arrived_us, log[0].status, log[1].status), (5, Some(200), None));
    }
}
