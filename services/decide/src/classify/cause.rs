//! Is an event an echo of our own actions? (C4, A3)
//!
//! Three marks tell: the correlation id that went out with a call ([`holdline_proto::cause`]), how many calls of ours
//! it says led to one another, and, in what the platform's audit tells, the OAuth client that did it.

use std::collections::BTreeSet;

use holdline_proto::cause::{self, Cause};
use serde_json::Value;

/// An event whose own time lies further after the call that it names is no echo of it: whoever keeps an id for longer
/// than a call has effects must not silence an entity. Milliseconds.
const ECHO_MS_MAX: i64 = 15 * 60_000;

/// How far the clock of whoever sends an echo may lie behind the broker's. Milliseconds.
const BEHIND_MS_MAX: i64 = 5 * 60_000;

/// Where senders put what belongs to an event and not into it: in an event of the guide's shape, and in what it
/// carries of a source's own.
const PLACES: [&[&str]; 9] = [
    &[],
    &["metadata"],
    &["data"],
    &["data", "metadata"],
    &["data", "original"],
    &["data", "original", "metadata"],
    &["data", "original", "data"],
    &["data", "original", "detail"],
    &["data", "original", "detail", "metadata"],
];

/// As senders spell it.
const CORRELATION_NAMES: [&str; 4] = ["correlationId", "CorrelationId", "correlationid", "correlation_id"];

/// Where an audit message says who did it, besides.
const AUDIT_PLACES: [&[&str]; 3] =
    [&["eventBody"], &["data", "original", "eventBody"], &["data", "original", "detail", "eventBody"]];

/// The topics of the platform's audit.
const AUDIT: &str = "v2.audits.";

/// What of ours led to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ours {
    Call(Cause),
    /// One of our OAuth clients did what an audit message tells.
    Client(String),
}

impl Ours {
    /// Reads an event's marks. `event_ms`: its own time; `clients`: ids of our OAuth clients.
    pub(super) fn find(event: &Value, event_ms: i64, clients: &BTreeSet<String>) -> Option<Ours> {
        let follows = |cause: &Cause| {
            let since_ms = event_ms.saturating_sub(cause.at_ms);
            (-BEHIND_MS_MAX..=ECHO_MS_MAX).contains(&since_ms)
        };
        let ids = PLACES.iter().filter_map(|place| at(event, place)).flat_map(|at| {
            CORRELATION_NAMES.iter().filter_map(|name| at.get(name)?.as_str()?.parse::<Cause>().ok())
        });
        // What passed through several hands may carry several.
        if let Some(cause) = ids.filter(follows).max_by_key(|cause| cause.depth) {
            return Some(Ours::Call(cause));
        }
        let topic = event.get("topicName").and_then(Value::as_str).unwrap_or_default();
        if clients.is_empty() || !topic.starts_with(AUDIT) {
            return None;
        }
        let places = PLACES.iter().chain(&AUDIT_PLACES).filter_map(|place| at(event, place));
        let mut named = places.filter_map(|at| {
            let client = at.get("clientId")?;
            client.as_str().or_else(|| client.get("id")?.as_str())
        });
        named.find(|id| clients.contains(*id)).map(|id| Ours::Client(id.to_string()))
    }

    /// How many calls of ours led to it, one after the other. What an audit message tells led to nothing yet.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Ours::Call(cause) => cause.depth,
            Ours::Client(_) => 1,
        }
    }

    /// Whether to this entity of this playbook it is nothing but the echo of what it did itself. What an action on one
    /// entity does to another is that one's trouble.
    pub(super) fn is_echo_to(&self, playbook: &str, entity: &str) -> bool {
        match self {
            Ours::Call(cause) => cause.track == cause::track(playbook, entity),
            Ours::Client(_) => true,
        }
    }
}

impl std::fmt::Display for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ours::Call(cause) => write!(f, "the action of incident {} ({cause})", cause.incident),
            Ours::Client(id) => write!(f, "our OAuth client {id}"),
        }
    }
}

fn at<'a>(event: &'a Value, place: &[&str]) -> Option<&'a Value> {
    place.iter().try_fold(event, |at, step| at.get(step))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c4_an_event_is_ours_by_correlation_id_or_by_who_did_it() {
        let cause = |depth| Cause { depth, at_ms: 1_000_000, track: "t".into(), incident: "i".into() };
        let id = |depth| cause(depth).to_string();
        let clients = BTreeSet::from(["client-1".to_string()]);
        let check = |event: Value, event_ms: i64, expected: Option<Ours>| {
            assert_eq!(Ours::find(&event, event_ms, &clients), expected, "{event} at {event_ms}");
        };
        let call = |depth| Some(Ours::Call(cause(depth)));
        check(json!({"id": "e"}), 1_000_000, None);
        check(json!({"correlationId": id(1)}), 1_000_000, call(1));
        check(json!({"data": {"correlationId": id(1)}}), 1_000_000, call(1));
        check(json!({"metadata": {"CorrelationId": id(2)}}), 1_000_000, call(2));
        check(json!({"data": {"original": {"correlationid": id(1)}}}), 1_000_000, call(1));
        check(
            json!({"data": {"original": {"detail": {"metadata": {"CorrelationId": id(1)}}}}}),
            1_000_000,
            call(1),
        );
        check(json!({"correlationId": id(1), "data": {"correlationId": id(2)}}), 1_000_000, call(2));
        // Whoever keeps it for too long, or has it from elsewhere, says nothing by it.
        check(json!({"correlationId": id(1)}), 1_000_000 + ECHO_MS_MAX, call(1));
        check(json!({"correlationId": id(1)}), 1_000_001 + ECHO_MS_MAX, None);
        check(json!({"correlationId": id(1)}), 1_000_000 - BEHIND_MS_MAX, call(1));
        check(json!({"correlationId": id(1)}), 999_999 - BEHIND_MS_MAX, None);
        check(json!({"correlationId": "8f725aa1-d831-4fb3-a8ea-9ccf7d44db68"}), 1_000_000, None);
        check(json!({"correlationId": {"id": id(1)}}), 1_000_000, None);
        // Only an audit says who did it; elsewhere a client is what an event is about.
        let audit = |client: Value| {
            json!({"topicName": "v2.audits.entitytype.QUEUE.entityid.q", "data": {"original": {"eventBody":
                {"clientId": client}}}})
        };
        check(audit(json!({"id": "client-1"})), 5, Some(Ours::Client("client-1".into())));
        check(audit(json!("client-1")), 5, Some(Ours::Client("client-1".into())));
        check(audit(json!({"id": "client-2"})), 5, None);
        check(json!({"topicName": "v2.operations.events.x", "data": {"clientId": "client-1"}}), 5, None);
    }
}
