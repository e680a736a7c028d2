//! The guide's own events. They are stored as they arrive, so that reading them is checking them.
//!
//! Identity: their `id`, else the signed header that names the message.

use serde_json::Value;

use super::{Unreadable, check_topic, name};
use crate::playbook::Subscription;

pub(super) fn read(
    subscription: &Subscription,
    body: &Value,
    message_id: Option<&str>,
) -> Result<Vec<Value>, Unreadable> {
    let mut event = body.clone();
    if let (Some(event), Some(id)) = (event.as_object_mut(), message_id) {
        event.entry("id").or_insert_with(|| id.into());
    }
    check(subscription, &event)?;
    Ok(vec![event])
}

/// Checks an event's shape, and its topic against the subscription's.
///
/// # Errors
/// What is wrong with it.
pub fn check(subscription: &Subscription, event: &Value) -> Result<(), Unreadable> {
    if !event.is_object() {
        return Err(Unreadable::at("", "expected an event, an object with id, topicName and data"));
    }
    name(event, "id", "id")?;
    check_topic(subscription, name(event, "topicName", "topicName")?, "topicName")?;
    match event.get("data").or_else(|| event.get("eventBody")) {
        Some(Value::Object(_)) => {}
        Some(_) => return Err(Unreadable::at("data", "expected an object")),
        None => return Err(Unreadable::at("data", "missing")),
    }
    match event.get("timestamp") {
        None => Ok(()),
        Some(Value::String(text)) if text.parse::<jiff::Timestamp>().is_ok() => Ok(()),
        Some(Value::Number(number)) if number.is_i64() => Ok(()),
        Some(_) => Err(Unreadable::at(
            "timestamp",
            "expected ISO 8601 with its offset, or Unix time as a whole number",
        )),
    }
}
