//! Atlassian Statuspage: the state of each component.
//!
//! Its webhook is not signed, so it is a hint to look, and the page alone is believed: [`poll`] reads `summary.json`.
//! Identity: component, state and the interval in which it was seen, so that a state that lasts counts once an
//! interval, however many gateways look at once and however often a hint makes them.

use holdline_proto::limits::BATCH_EVENTS_MAX;
use holdline_proto::signal::Health;
use serde_json::{Value, json};

use super::{Event, Unreadable, check_copies, identity, name, status};
use crate::playbook::Subscription;

/// Bytes of the incidents that the event of one component carries. The rest is left out.
const INCIDENTS_BYTES_MAX: usize = 16 * 1024;

/// Checks a webhook: an incident, or the update of a component. It gives no event.
pub(super) fn read(body: &Value) -> Result<Vec<Value>, Unreadable> {
    let has = |field| body.get(field).is_some_and(Value::is_object);
    if has("incident") || (has("component_update") && has("component")) {
        return Ok(vec![]);
    }
    let reason = "expected Statuspage's webhook, with an incident, or a component_update and its component";
    Err(Unreadable::at("", reason))
}

/// Reads a page's summary as it was at `at_ms` by the gateway's clock (Unix milliseconds).
///
/// # Errors
/// What is not as Statuspage writes it.
pub fn poll(subscription: &Subscription, summary: &Value, at_ms: i64) -> Result<Vec<Value>, Unreadable> {
    let every_ms = subscription.poll.as_ref().map_or(1, |poll| poll.every_ms.max(1));
    let interval = at_ms.div_euclid(every_ms).to_string();
    let page = summary.get("page").unwrap_or(&Value::Null);
    let incidents = summary.get("incidents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let components = components(summary, "components")?;
    check_copies(page, components.len())?;
    let mut events = vec![];
    for (index, component) in components.iter().enumerate() {
        let id = name(component, "id", &format!("components[{index}].id"))?;
        let Some(health) = health(component) else { continue };
        events.push(
            Event {
                id: identity(&[id, status(health), &interval]),
                topic: &subscription.topic,
                timestamp: Some(at_ms.into()),
                health: Some(health),
                entity: Some(id.into()),
                original: json!({"page": page, "component": component, "incidents": concerning(incidents, id)}),
            }
            .shape(),
        );
    }
    Ok(events)
}

fn components<'a>(of: &'a Value, place: &str) -> Result<&'a [Value], Unreadable> {
    match of.get("components").and_then(Value::as_array) {
        Some(components) if components.len() <= BATCH_EVENTS_MAX => Ok(components),
        _ => Err(Unreadable::at(place, format!("expected a list of at most {BATCH_EVENTS_MAX} components"))),
    }
}

/// What a component's status means. Maintenance is neither trouble nor health, and so is what a later version
/// of Statuspage may say: the other components of the page are still to be heard.
fn health(component: &Value) -> Option<Health> {
    match component.get("status")?.as_str()? {
        "partial_outage" | "major_outage" => Some(Health::Failed),
        "degraded_performance" => Some(Health::Degraded),
        "operational" => Some(Health::Healthy),
        _ => None,
    }
}

/// The incidents that name a component, newest first, as far as there is room. The texts of their updates can be
/// looked up; with them a page would be too large just when everything is down.
fn concerning(incidents: &[Value], component: &str) -> Vec<Value> {
    let names = |incident: &&Value| {
        let components = incident.get("components").and_then(Value::as_array);
        components
            .is_some_and(|list| list.iter().any(|c| c.get("id").and_then(Value::as_str) == Some(component)))
    };
    let brief = |incident: &Value| {
        let fields = ["id", "name", "status", "impact", "shortlink", "created_at", "updated_at"];
        fields.iter().filter_map(|f| Some(((*f).to_string(), incident.get(f)?.clone()))).collect()
    };
    let mut bytes = 0;
    let fits = |incident: &Value| {
        bytes += incident.to_string().len();
        bytes <= INCIDENTS_BYTES_MAX
    };
    incidents.iter().filter(names).map(brief).take_while(fits).collect()
}
