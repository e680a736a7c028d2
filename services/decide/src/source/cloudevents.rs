//! CloudEvents 1.0 in structured mode.
//!
//! Identity: `source` and `id`, unique together by the standard. The topic is `type`, the entity `subject`, the
//! time `time`; `data.status` is the status if it is one of ours.

use holdline_proto::signal::Health;
use serde::Deserialize;
use serde_json::Value;

use super::{Event, Unreadable, check_topic, first_time, identity, name};
use crate::playbook::Subscription;

pub(super) fn read(subscription: &Subscription, body: &Value) -> Result<Vec<Value>, Unreadable> {
    match body.get("specversion").and_then(Value::as_str) {
        Some(version) if version.starts_with("1.") => {}
        _ => {
            return Err(Unreadable::at(
                "specversion",
                "expected a CloudEvent of version 1.0 in structured mode",
            ));
        }
    }
    let (source, id) = (name(body, "source", "source")?, name(body, "id", "id")?);
    let topic = name(body, "type", "type")?;
    check_topic(subscription, topic, "type")?;
    let status = body.pointer("/data/status");
    let event = Event {
        // A source is a URI, in which there is no space.
        id: identity(&[&format!("{source} {id}")]),
        topic,
        timestamp: first_time([body.get("time")]),
        health: status.and_then(|status| Health::deserialize(status).ok()),
        entity: body.get("subject").and_then(Value::as_str).map(str::to_string),
        original: body.clone(),
    };
    Ok(vec![event.shape()])
}
