//! What a gateway needs to know that opens a notification channel itself: which topics and which list go with a
//! subscription, what the platform answers, and what a look at the list says.
//!
//! A channel tells changes and forgets what happens while nobody listens, so the state of every entity is looked at
//! after each (re)connect. [`look`] makes of it what a message would have said, by the same reader. Identity: a
//! trunk's state has a time, so that a look that finds what a message has told is its duplicate (with `poll`, one per
//! interval). An edge's has none; there every look is an event of its own, because a repeat of a state does no harm and a swallowed change
//! would. For the same reason no message is dropped as a repeat: between two alike the opposite may be lost.

use holdline_proto::limits::NAME_BYTES_MAX;
use serde_json::{Map, Value, json};

use super::notification::{EDGE, TRUNK};
use super::{Unreadable, identity, name, notification};
use crate::classify::parse_time_ms;
use crate::playbook::Subscription;

/// Topics of one channel: the platform takes no more.
pub const TOPICS_MAX: usize = 1_000;

/// Channels that the platform allows a client: one more closes the oldest.
pub const CHANNELS_PER_CLIENT_MAX: usize = 20;

/// Entities of one subscription. They fill half of the client's channels.
pub const ENTITIES_MAX: usize = 10_000;

/// How long a channel lives that does not say so: the platform's default. Milliseconds.
const LIFE_MS: i64 = 24 * 3_600_000;

/// The first wait before a channel is connected again; doubled by each further failure. Milliseconds.
const BACK_OFF_MS: i64 = 500;

/// The longest such wait. Milliseconds.
pub const BACK_OFF_MS_MAX: i64 = 60_000;

/// How far the platform's clock may be behind the gateway's before a change that follows a look at once could be
/// taken for older than the look; the next look would tell it. Milliseconds.
const CLOCKS_DIFFER_MS: i64 = 2_000;

/// Where the platform lists the entities of a topic; `None` where it is no topic that can be pulled.
pub fn list(topic: &str) -> Option<&'static str> {
    match topic {
        EDGE => Some("/api/v2/telephony/providers/edges"),
        TRUNK => Some("/api/v2/telephony/providers/edges/trunks"),
        _ => None,
    }
}

/// The topic of one entity.
pub fn topic_of(template: &str, entity: &str) -> String {
    template.replace("{id}", entity)
}

/// Whether an id can be part of a topic and of a path.
pub fn is_entity(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !id.is_empty() && id.len() <= NAME_BYTES_MAX && id.chars().all(plain)
}

/// The platform announces that it will close the socket.
pub fn is_closing(message: &Value) -> bool {
    message.get("topicName").and_then(Value::as_str) == Some("v2.system.socket_closing")
}

/// A channel as the platform tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub id: String,
    pub connect_uri: String,
    /// From a subscription to the channel's end. Milliseconds.
    pub life_ms: i64,
}

/// Reads the platform's answer to `POST /api/v2/notifications/channels` as it came at `now_ms`.
///
/// # Errors
/// What is missing.
pub fn opened(answer: &Value, now_ms: i64) -> Result<Opened, Unreadable> {
    let connect_uri = answer.get("connectUri").and_then(Value::as_str);
    let expires_ms = answer.get("expires").and_then(parse_time_ms);
    let life_ms = expires_ms.map(|expires_ms| expires_ms.saturating_sub(now_ms));
    Ok(Opened {
        id: name(answer, "id", "id")?.into(),
        connect_uri: connect_uri.ok_or(Unreadable::at("connectUri", "missing"))?.into(),
        // Clocks may differ: by more than a short life, or so that it seems to be a longer one than there is.
        life_ms: life_ms.filter(|life_ms| *life_ms > 0).unwrap_or(LIFE_MS).min(LIFE_MS),
    })
}

/// The topics that the platform refuses, each with why: for a person who can grant what is missing.
pub fn rejected(answer: &Value) -> Vec<String> {
    let entities = answer.get("entities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let refused =
        entities.iter().filter(|topic| topic.get("state").and_then(Value::as_str) == Some("Rejected"));
    let tell = |topic: &Value| {
        let text = |field: &str| topic.get(field).and_then(Value::as_str).unwrap_or_default();
        let permissions = topic.get("missingPermissions").and_then(Value::as_array);
        let permissions: Vec<&str> = permissions.into_iter().flatten().filter_map(Value::as_str).collect();
        match (permissions.as_slice(), text("rejectionReason")) {
            ([], "") => format!("{} (no reason given)", text("id")),
            ([], reason) => format!("{} ({reason})", text("id")),
            (missing, _) => format!("{} (missingPermissions: {})", text("id"), missing.join(", ")),
        }
    };
    refused.map(tell).collect()
}

/// How long to wait before the next attempt after so many failures in a row: doubled each time, and by half left
/// to chance (0 to 999), so that many gateways do not come back at once. Milliseconds.
pub fn back_off_ms(failures: u32, chance: u16) -> i64 {
    let most = BACK_OFF_MS.saturating_mul(1 << failures.min(16)).min(BACK_OFF_MS_MAX);
    most / 2 + most / 2 * i64::from(chance.min(999)) / 999
}

/// What one entity of the platform's list says, as a message on its topic would have said it. `look` names the
/// look at the list, `at_ms` is when it began (Unix milliseconds by the gateway's clock): nothing that was heard
/// before can be younger than what the list says.
///
/// # Errors
/// What is not as the platform writes it.
pub fn look(
    subscription: &Subscription,
    entity: &Value,
    look: &str,
    at_ms: i64,
) -> Result<Vec<Value>, Unreadable> {
    let id = name(entity, "id", "entities[].id")?;
    let told =
        ["id", "name", "onlineStatus", "connectedStatus", "optionsStatus", "registersStatus", "ipStatus"];
    let body: Map<String, Value> =
        told.iter().filter_map(|field| Some(((*field).into(), entity.get(*field)?.clone()))).collect();
    let topic = topic_of(&subscription.topic, id);
    let message = json!({"topicName": topic, "eventBody": body, "timestamp": at_ms});
    let mut events = notification::read(subscription, &message, Some(look))?;
    for event in &mut events {
        if let Some(data) = event.get_mut("data").and_then(Value::as_object_mut) {
            data.insert("reconcile".into(), true.into());
        }
    }
    if let Some(every_ms) = subscription.pull.as_ref().and_then(|pull| pull.every_ms) {
        events.iter_mut().for_each(|event| repeat(event, at_ms, every_ms));
    }
    Ok(events)
}

/// Where the state is polled, a state that lasts is told anew in every interval, and of its time: D3 wants health
/// twice. A state with a time of its own keeps it in the id, so that no change is swallowed, and is never younger
/// by our clock than what the platform may say next by its own.
fn repeat(event: &mut Value, at_ms: i64, every_ms: i64) {
    let (Some(id), Some(since_ms)) =
        (event.get("id").and_then(Value::as_str), event.get("timestamp").and_then(parse_time_ms))
    else {
        return;
    };
    let id = identity(&[id, &at_ms.div_euclid(every_ms.max(1)).to_string()]);
    let timestamp = since_ms.max(at_ms.saturating_sub(CLOCKS_DIFFER_MS));
    if let Some(event) = event.as_object_mut() {
        event.insert("id".into(), id.into());
        event.insert("timestamp".into(), timestamp.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_answers() {
        let answer = json!({"connectUri": "wss://streaming.example.com/channels/c", "id": "c", "expires": "1970-01-01T00:01:00Z"});
        let check = |now_ms, life_ms| {
            let expected = Opened {
                id: "c".into(),
                connect_uri: "wss://streaming.example.com/channels/c".into(),
                life_ms,
            };
            assert_eq!(opened(&answer, now_ms), Ok(expected), "{now_ms}");
        };
        check(15_000, 45_000);
        check(60_000, LIFE_MS);
        check(-LIFE_MS, LIFE_MS);
        assert_eq!(opened(&json!({"id": "c"}), 0), Err(Unreadable::at("connectUri", "missing")));
        let check =
            |topic: Value, expected: &[&str]| assert_eq!(rejected(&json!({"entities": [topic]})), expected);
        check(json!({"id": "t", "state": "Permitted"}), &[]);
        check(
            json!({"id": "t", "state": "Rejected", "missingPermissions": ["telephony:plugin:all"]}),
            &["t (missingPermissions: telephony:plugin:all)"],
        );
        check(
            json!({"id": "t", "state": "Rejected", "rejectionReason": "no such topic"}),
            &["t (no such topic)"],
        );
        check(json!({"id": "t", "state": "Rejected"}), &["t (no reason given)"]);
        assert!(rejected(&json!({})).is_empty());
    }

    #[test]
    fn waits_grow_to_a_bound_and_are_left_to_chance_by_half() {
        let check = |failures, least, most| {
            assert_eq!((back_off_ms(failures, 0), back_off_ms(failures, 999)), (least, most), "{failures}");
        };
        check(0, 250, 500);
        check(1, 500, 1_000);
        check(7, 30_000, 60_000);
        check(u32::MAX, 30_000, 60_000);
    }

    #[test]
    fn ids_that_can_be_in_a_topic() {
        let check = |id: &str, expected| assert_eq!(is_entity(id), expected, "{id}");
        check("5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5a", true);
        check("", false);
        check("a.b", false);
        check("{id}", false);
        check("a/b", false);
        check(&"x".repeat(NAME_BYTES_MAX + 1), false);
    }
}
