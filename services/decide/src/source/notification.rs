//! Messages of the platform's Notification API: `topicName`, `eventBody`, `metadata`. EventBridge carries the same
//! ones in its envelope.
//!
//! They have no event id and no status. Severity is derived for edges and trunks; what other topics mean is for
//! a playbook's predicate to say. Identity: entity, state, and the time of the state; an edge's message has no
//! time, and hashing it would swallow the second outage, so there the message's id or its `CorrelationId` tells
//! one from the next.

use holdline_proto::signal::Health;
use serde_json::Value;

use super::{
    Event, Unreadable, check_topic, digest, first_time, free_part, identity, matches_topic, name, status,
};
use crate::classify::parse_time_ms;
use crate::playbook::Subscription;

pub(super) const EDGE: &str = "v2.telephony.providers.edges.{id}";
pub(super) const TRUNK: &str = "v2.telephony.providers.edges.trunks.{id}";

/// What the platform says about the channel itself.
const CONTROL: [&str; 2] = ["channel.", "v2.system."];

/// What a message says, whatever has carried it here.
pub(super) struct Told<'a> {
    pub topic: &'a str,
    pub entity: Option<String>,
    pub health: Option<Health>,
    /// The time of the state itself; without one only the carrier can tell when.
    pub timestamp: Option<Value>,
    body: &'a Value,
}

pub(super) fn read(
    subscription: &Subscription,
    message: &Value,
    message_id: Option<&str>,
) -> Result<Vec<Value>, Unreadable> {
    let Some(told) = tell(subscription, message, "")? else { return Ok(vec![]) };
    let since = told.timestamp.as_ref().map(|time| time.as_str().map_or(time.to_string(), String::from));
    let correlation = message.pointer("/metadata/CorrelationId").and_then(Value::as_str);
    let Some(occasion) = since.as_deref().or(message_id).or(correlation) else {
        let reason = "missing, and the message has neither an id nor a time to tell it from the next one";
        return Err(Unreadable::at("metadata.CorrelationId", reason));
    };
    let state = told.health.map_or_else(|| digest(&told.body.to_string()), |health| status(health).into());
    let event = Event {
        id: identity(&[told.entity.as_deref().unwrap_or_default(), &state, occasion]),
        topic: told.topic,
        timestamp: told.timestamp.or_else(|| first_time([message.get("timestamp")])),
        health: told.health,
        entity: told.entity,
        original: message.clone(),
    };
    Ok(vec![event.shape()])
}

/// Whether messages on a topic are changes of a state.
pub(super) fn tells_state(topic: &str) -> bool {
    [EDGE, TRUNK].iter().any(|state| matches_topic(state, topic))
}

/// What a message says, or nothing: a heartbeat, an answer to a subscription, a state that is not told.
pub(super) fn tell<'a>(
    subscription: &Subscription,
    message: &'a Value,
    place: &str,
) -> Result<Option<Told<'a>>, Unreadable> {
    let at = |field: &str| if place.is_empty() { field.to_string() } else { format!("{place}.{field}") };
    if !message.is_object() {
        return Err(Unreadable::at(place, "expected a message, an object with topicName and eventBody"));
    }
    if message.get("topicName").is_none() && message.get("result").is_some() {
        return Ok(None);
    }
    let topic = name(message, "topicName", &at("topicName"))?;
    if CONTROL.iter().any(|control| topic.starts_with(control)) {
        return Ok(None);
    }
    check_topic(subscription, topic, &at("topicName"))?;
    let body = match message.get("eventBody") {
        Some(body) if body.is_object() => body,
        Some(_) => return Err(Unreadable::at(&at("eventBody"), "expected an object")),
        None => return Err(Unreadable::at(&at("eventBody"), "missing")),
    };
    let (health, timestamp) = if matches_topic(EDGE, topic) {
        (edge(body, &at("eventBody.onlineStatus"))?, None)
    } else if matches_topic(TRUNK, topic) {
        (trunk(body, &at("eventBody.connectedStatus.connected"))?, latest_state_time(body))
    } else {
        (None, first_time([body.get("timestamp"), body.get("eventTime")]))
    };
    if health.is_none() && tells_state(topic) {
        return Ok(None);
    }
    let named = [body.get("entityId"), body.get("id")].into_iter().flatten().find_map(Value::as_str);
    let entity = named.or_else(|| free_part(&subscription.topic, topic)).map(str::to_string);
    Ok(Some(Told { topic, entity, health, timestamp, body }))
}

fn edge(body: &Value, place: &str) -> Result<Option<Health>, Unreadable> {
    match body.get("onlineStatus") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(status)) if status == "OFFLINE" => Ok(Some(Health::Failed)),
        Some(Value::String(status)) if status == "ONLINE" => Ok(Some(Health::Healthy)),
        Some(_) => Err(Unreadable::at(place, "expected ONLINE or OFFLINE")),
    }
}

/// FAILED is only what the platform itself calls disconnected. A proxy that does not answer, even the last
/// one, while the trunk is said to be connected is a warning: it must not fail over by our own reckoning.
fn trunk(body: &Value, place: &str) -> Result<Option<Health>, Unreadable> {
    let connected = match body.pointer("/connectedStatus/connected") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(connected)) => Some(*connected),
        Some(_) => return Err(Unreadable::at(place, "expected true or false")),
    };
    let down = |list: &str, state: &str| {
        proxies(body, list).iter().any(|proxy| proxy.get(state) == Some(&Value::Bool(false)))
    };
    Ok(match connected {
        Some(false) => Some(Health::Failed),
        _ if down("optionsStatus", "optionState") || down("registersStatus", "registerState") => {
            Some(Health::Degraded)
        }
        Some(true) => Some(Health::Healthy),
        None => None,
    })
}

/// A trunk's message is a picture of all its states; it is as old as the youngest of them.
fn latest_state_time(body: &Value) -> Option<Value> {
    let options = proxies(body, "optionsStatus").iter().map(|proxy| proxy.get("optionStateTime"));
    let registers = proxies(body, "registersStatus").iter().map(|proxy| proxy.get("registerStateTime"));
    let times = options.chain(registers).chain([body.pointer("/connectedStatus/connectedStateTime")]);
    times
        .flatten()
        .filter_map(|time| Some((parse_time_ms(time)?, time)))
        .max_by_key(|(ms, _)| *ms)
        .map(|(_, time)| time.clone())
}

fn proxies<'a>(body: &'a Value, list: &str) -> &'a [Value] {
    body.get(list).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
