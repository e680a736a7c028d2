//! The shape of a request's body: one event or an array of them. What an event means is not asked here.

use std::borrow::Cow;

use holdline_decide::classify::partition_key;
use holdline_decide::playbook::Subscription;
use holdline_proto::limits::{BATCH_EVENTS_MAX, NAME_BYTES_MAX};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::problem::Problem;

/// An event of the body: its own bytes, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enveloped {
    pub bytes: Vec<u8>,
    /// The text to partition by.
    pub key: String,
}

/// Takes a body apart. An array is accepted as a whole or not at all.
pub(crate) fn open(subscription: &Subscription, body: &[u8]) -> Result<Vec<Enveloped>, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|error| Problem::bad(format!("the body is not UTF-8: {error}")))?;
    let first = text.trim_start().as_bytes().first().copied();
    if first != Some(b'[') {
        let value = parse(text, "")?;
        check(subscription, &value, "")?;
        return Ok(vec![Enveloped { bytes: body.to_vec(), key: partition_key(subscription, &value) }]);
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| Problem::bad(format!("the body is not JSON: {error}")))?;
    if elements.is_empty() || elements.len() > BATCH_EVENTS_MAX {
        let found = elements.len();
        return Err(Problem::bad(format!(
            "an array of 1 to {BATCH_EVENTS_MAX} events is expected, not {found}"
        )));
    }
    let mut events = vec![];
    for (index, element) in elements.into_iter().enumerate() {
        let place = format!("[{index}]");
        let value = parse(element.get(), &place)?;
        check(subscription, &value, &place)?;
        events.push(Enveloped {
            bytes: element.get().as_bytes().to_vec(),
            key: partition_key(subscription, &value),
        });
    }
    Ok(events)
}

fn parse(text: &str, place: &str) -> Result<Value, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let what = if place.is_empty() { "the body" } else { place };
        Problem::bad(format!("{what} is not JSON: {error}"))
    })
}

fn check(subscription: &Subscription, event: &Value, place: &str) -> Result<(), Problem> {
    let at = |field: &'static str| -> Cow<'static, str> {
        if place.is_empty() { field.into() } else { format!("{place}.{field}").into() }
    };
    if !event.is_object() {
        let what = if place.is_empty() { "the body" } else { place };
        return Err(Problem::bad(format!(
            "{what}: expected an event, an object with id, topicName and data"
        )));
    }
    let text = |field: &'static str| match event.get(field) {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => Ok(text),
        Some(_) => {
            let field = at(field);
            Err(Problem::bad(format!("{field}: expected a text of 1 to {NAME_BYTES_MAX} bytes")))
        }
        None => Err(Problem::bad(format!("{}: missing", at(field)))),
    };
    text("id")?;
    let topic = text("topicName")?;
    if *topic != subscription.topic {
        let (field, expected) = (at("topicName"), &subscription.topic);
        return Err(Problem::bad(format!("{field}: subscription {} carries {expected}", subscription.name)));
    }
    match event.get("data").or_else(|| event.get("eventBody")) {
        Some(Value::Object(_)) => {}
        Some(_) => return Err(Problem::bad(format!("{}: expected an object", at("data")))),
        None => return Err(Problem::bad(format!("{}: missing", at("data")))),
    }
    match event.get("timestamp") {
        None => Ok(()),
        Some(Value::String(text)) if text.parse::<jiff::Timestamp>().is_ok() => Ok(()),
        Some(Value::Number(number)) if number.is_i64() => Ok(()),
        Some(_) => {
            let field = at("timestamp");
            Err(Problem::bad(format!(
                "{field}: expected ISO 8601 with its offset, or Unix time as a whole number"
            )))
        }
    }
}
