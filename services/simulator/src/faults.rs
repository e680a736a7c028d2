//! Faults that a test or a demonstration orders, at run time.

use serde::{Deserialize, Serialize};

/// Faults that stand at once.
pub(crate) const FAULTS_MAX: usize = 100;

/// What happens to the calls that a fault is meant for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with this status and, where given, `Retry-After`. At the token endpoint 429 comes in its own
    /// shape: 400 `invalid_request (rate limit exceeded…`.
    Status {
        status: u16,
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// Never answered; the connection stays open.
    Hang,
    /// Carried out; the connection is cut in the middle of the answer's body.
    CloseMidBody,
    /// Answered as if it had been carried out, and nothing has changed.
    Feign,
    /// Carried out after this time.
    Delay { delay_ms: u64 },
}

/// A fault that is ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Calls whose path begins with this.
    pub path_prefix: String,
    /// Calls with this method; none: with any.
    #[serde(default)]
    pub method: Option<String>,
    /// How many calls it meets; none: all until it is cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// Whether [`Outcome::Status`] and [`Outcome::Hang`] come after the call was carried out: what a caller who
    /// gets no good answer cannot know.
    #[serde(default)]
    pub applied: bool,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Fault {
    /// One for every call below a path, until it is cleared.
    pub fn new(path_prefix: &str, outcome: Outcome) -> Fault {
        Fault { path_prefix: path_prefix.into(), method: None, times: None, applied: false, outcome }
    }

    /// Answers with a status.
    pub fn status(path_prefix: &str, status: u16) -> Fault {
        Fault::new(path_prefix, Outcome::Status { status, retry_after_s: None })
    }

    pub fn method(self, method: &str) -> Fault {
        Fault { method: Some(method.into()), ..self }
    }

    pub fn times(self, times: u32) -> Fault {
        Fault { times: Some(times), ..self }
    }

    pub fn applied(self) -> Fault {
        Fault { applied: true, ..self }
    }
}

/// What happens to the open sockets of channels. One that is opened afterwards is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketFault {
    /// The connection is gone, without a word.
    Cut,
    /// No heartbeat, no event, no answer; the connection stays open.
    Silence,
    /// `v2.system.socket_closing`, and the end after the notice.
    Closing,
}

/// Faults in the order in which they were ordered.
#[derive(Default)]
pub(crate) struct Faults {
    standing: Vec<Fault>,
}

impl Faults {
    /// Orders one. Beyond [`FAULTS_MAX`] the oldest goes.
    pub(crate) fn order(&mut self, fault: Fault) {
        if self.standing.len() >= FAULTS_MAX {
            self.standing.remove(0);
        }
        self.standing.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.standing.clear();
    }

    pub(crate) fn standing(&self) -> &[Fault] {
        &self.standing
    }

    /// The first fault that is meant for a call.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Fault> {
        let meant = |fault: &&mut Fault| {
            path.starts_with(&fault.path_prefix)
                && fault.method.as_ref().is_none_or(|only| only.eq_ignore_ascii_case(method))
        };
        let fault = self.standing.iter_mut().find(meant)?;
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
        }
        let taken = fault.clone();
        self.standing.retain(|fault| fault.times != Some(0));
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_whom_it_is_meant_for_and_no_more() {
        let mut faults = Faults::default();
        faults.order(Fault::status("/api/v2/architect", 503).method("PUT").times(2));
        faults.order(Fault::new("/api", Outcome::Hang));
        let mut check = |method, path, expected: Option<Outcome>| {
            assert_eq!(faults.take(method, path).map(|fault| fault.outcome), expected, "{method} {path}");
        };
        let unavailable = || Some(Outcome::Status { status: 503, retry_after_s: None });
        check("PUT", "/api/v2/architect/x", unavailable());
        check("GET", "/api/v2/architect/x", Some(Outcome::Hang));
        check("PUT", "/api/v2/architect/x", unavailable());
        check("PUT", "/api/v2/architect/x", Some(Outcome::Hang));
        check("PUT", "/oauth/token", None);
    }

    #[test]
    fn faults_are_written_as_plain_json() {
        let check = |text: &str, expected: Fault| {
            assert_eq!(serde_json::from_str::<Fault>(text).unwrap(), expected, "{text}");
        };
        check(
            r#"{"path_prefix":"/api","times":3,"outcome":"status","status":429,"retry_after_s":2}"#,
            Fault::new("/api", Outcome::Status { status: 429, retry_after_s: Some(2) }).times(3),
        );
        check(r#"{"path_prefix":"/oauth","outcome":"hang"}"#, Fault::new("/oauth", Outcome::Hang));
    }
}
