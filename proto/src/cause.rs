//! What goes out with every call, so that what follows from the call is known for ours when it comes in as an
//! event (C4, A3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::topology::token;

/// Header that carries a call's correlation id: a [`Cause`] as text.
pub const CORRELATION_HEADER: &str = "X-Correlation-ID";

/// What every correlation id of ours begins with.
const PREFIX: &str = "holdline";

/// A call of ours. As text: `holdline-<depth>-<at_ms>-<track>-<incident>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which call of ours it is, of those that led to one another; 1: nothing of ours led to its incident.
    pub depth: u32,
    /// When it left, by the broker's clock. Unix milliseconds.
    pub at_ms: i64,
    /// See [`track`].
    pub track: String,
    pub incident: String,
}

impl Cause {
    /// The call that a command leads to at that time.
    pub fn of(command: &Command, at_ms: i64) -> Cause {
        Cause {
            depth: command.depth.saturating_add(1),
            at_ms,
            track: track(&command.key.playbook, &command.key.entity),
            incident: command.incident.clone(),
        }
    }
}

/// Names an entity under a playbook, whatever its trouble.
pub fn track(playbook: &str, entity: &str) -> String {
    token(&[playbook, entity])
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause { depth, at_ms, track, incident } = self;
        write!(f, "{PREFIX}-{depth}-{at_ms}-{track}-{incident}")
    }
}

/// A correlation id that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign;

impl FromStr for Cause {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Cause, Foreign> {
        let mut parts = text.split('-');
        if parts.next() != Some(PREFIX) {
            return Err(Foreign);
        }
        let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(Foreign);
        let depth = next()?.parse().ok().filter(|depth| *depth > 0).ok_or(Foreign)?;
        let at_ms = next()?.parse().map_err(|_| Foreign)?;
        let (track, incident) = (next()?.into(), next()?.into());
        if parts.next().is_some() { Err(Foreign) } else { Ok(Cause { depth, at_ms, track, incident }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_our_correlation_ids_are_told_from_all_others() {
        let ours =
            Cause { depth: 2, at_ms: 1_764_000_000_000, track: track("p", "gw"), incident: "abc".into() };
        assert_eq!(ours.to_string().parse(), Ok(ours.clone()));
        assert_ne!(ours.track, track("pg", "w"));
        for foreign in [
            "",
            "8f725aa1-d831-4fb3-a8ea-9ccf7d44db68",
            "holdline",
            "holdline-1-5-track",
            "holdline-1-5-track-",
            "holdline-0-5-track-incident",
            "holdline-1-x-track-incident",
            "holdline-1-5-track-incident-more",
            "Holdline-1-5-track-incident",
        ] {
            assert_eq!(foreign.parse::<Cause>(), Err(Foreign), "{foreign}");
        }
    }
}
