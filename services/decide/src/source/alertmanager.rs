//! Alertmanager's webhook: one event per alert of the group.
//!
//! Identity: fingerprint, status, and since when it is so. A firing alert that is sent again is the same event,
//! because its repeats cannot be told from retries. Severity: the label `severity`; an alert with another or
//! none says nothing here, neither when it fires nor when it resolves.

use holdline_proto::limits::BATCH_EVENTS_MAX;
use holdline_proto::signal::Health;
use serde_json::Value;

use super::{Event, Unreadable, check_copies, first_time, identity, name};
use crate::playbook::Subscription;

pub(super) fn read(subscription: &Subscription, body: &Value) -> Result<Vec<Value>, Unreadable> {
    let Some(alerts) = body.get("alerts").and_then(Value::as_array) else {
        return Err(Unreadable::at("alerts", "expected Alertmanager's list of alerts"));
    };
    if alerts.len() > BATCH_EVENTS_MAX {
        let reason = format!("expected at most {BATCH_EVENTS_MAX} alerts; set max_alerts of the receiver");
        return Err(Unreadable::at("alerts", reason));
    }
    let mut group = body.clone();
    if let Some(group) = group.as_object_mut() {
        group.remove("alerts");
    }
    check_copies(&group, alerts.len())?;
    let mut events = vec![];
    for (index, alert) in alerts.iter().enumerate() {
        events.extend(event(subscription, &group, alert, &format!("alerts[{index}]"))?);
    }
    Ok(events)
}

fn event(
    subscription: &Subscription,
    group: &Value,
    alert: &Value,
    place: &str,
) -> Result<Option<Value>, Unreadable> {
    let at = |field: &str| format!("{place}.{field}");
    let fingerprint = name(alert, "fingerprint", &at("fingerprint"))?;
    let status = name(alert, "status", &at("status"))?;
    let since = match status {
        "firing" => "startsAt",
        "resolved" => "endsAt",
        _ => return Err(Unreadable::at(&at("status"), "expected firing or resolved")),
    };
    let time = name(alert, since, &at(since))?;
    let label = |name: &str| alert.get("labels")?.get(name)?.as_str();
    let health = match label("severity") {
        Some("critical" | "error" | "page") if status == "firing" => Health::Failed,
        Some("warning") if status == "firing" => Health::Degraded,
        Some("critical" | "error" | "page" | "warning") => Health::Healthy,
        _ => return Ok(None),
    };
    let named = subscription.entity_label.as_deref().and_then(label).filter(|name| !name.is_empty());
    // The group's own fields, and of its alerts this one.
    let mut original = group.clone();
    if let Some(original) = original.as_object_mut() {
        original.insert("alerts".into(), Value::Array(vec![alert.clone()]));
    }
    let event = Event {
        id: identity(&[fingerprint, status, time]),
        topic: &subscription.topic,
        timestamp: first_time([alert.get(since)]),
        health: Some(health),
        entity: Some(named.unwrap_or(fingerprint).into()),
        original,
    };
    Ok(Some(event.shape()))
}
