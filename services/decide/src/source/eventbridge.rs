//! Amazon EventBridge: the platform's message in `detail`.
//!
//! Identity: the envelope's `id`, the same in every delivery. Order is not kept on the way, so the event's own
//! time is what counts: that of the state, else when the platform told of it, else when EventBridge got it. The
//! topic stands in `detail.topicName`; `detail-type` may be a template with `{id}`.

use serde_json::Value;

use super::{Event, Unreadable, first_time, name, notification};
use crate::playbook::Subscription;

pub(super) fn read(subscription: &Subscription, envelope: &Value) -> Result<Vec<Value>, Unreadable> {
    if !envelope.is_object() {
        return Err(Unreadable::at(
            "",
            "expected EventBridge's envelope, an object with id, detail-type and detail",
        ));
    }
    let id = name(envelope, "id", "id")?;
    let Some(detail) = envelope.get("detail") else { return Err(Unreadable::at("detail", "missing")) };
    let Some(told) = notification::tell(subscription, detail, "detail")? else { return Ok(vec![]) };
    let event = Event {
        id: id.into(),
        topic: told.topic,
        timestamp: told.timestamp.or_else(|| first_time([detail.get("timestamp"), envelope.get("time")])),
        health: told.health,
        entity: told.entity,
        original: envelope.clone(),
    };
    Ok(vec![event.shape()])
}
