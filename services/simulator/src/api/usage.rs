//! Operational events: what kinds there are, and what happened.

use axum::http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Answer, Asked, Family, Route, ok, route};
use crate::organisation::{OPERATIONAL_EVENT_DEFINITIONS, ORGANISATION};
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::world::with;

const QUERY: &str = "/api/v2/usage/events/query";

const SEE: &[&str] = &["usage:events:view"];

/// Events of one answer.
const EVENTS_MAX: usize = 200;

pub(super) const FAMILY: Family = Family { kinds: &[], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, "/api/v2/usage/events/definitions", SEE, |_, _| {
        let definition =
            |(id, name, text): &(&str, &str, &str)| json!({ "id": id, "name": name, "description": text });
        let all: Vec<Value> = OPERATIONAL_EVENT_DEFINITIONS.iter().map(definition).collect();
        ok(json!({ "entities": all }))
    }),
    route(Method::POST, QUERY, SEE, query),
];

/// Events of an interval, newest last unless asked otherwise. `after` is where the previous answer ended.
fn query(state: &mut State, asked: &Asked) -> Answer {
    let interval = asked.body.get("interval").and_then(Value::as_str).unwrap_or_default();
    let dates = interval.split_once('/').and_then(|(from, to)| Some((date(from)?, date(to)?)));
    let Some((from, to)) = dates else {
        return Err(Refusal::bad_request(format!(
            "interval is {interval:?}; two dates with a / were expected"
        )));
    };
    let definitions = asked.body.get("eventDefinitionIds").and_then(Value::as_array);
    let matches = |event: &&Value| {
        let at = event.get("dateCreated").and_then(Value::as_str).and_then(date);
        let definition = event.pointer("/eventDefinition/id");
        at.is_some_and(|at| from <= at && at < to)
            && definitions
                .is_none_or(|wanted| wanted.is_empty() || definition.is_some_and(|id| wanted.contains(id)))
    };
    let mut events: Vec<Value> = state.world.operational_events.iter().filter(matches).cloned().collect();
    if asked.body.get("sortOrder").and_then(Value::as_str) == Some("DESC") {
        events.reverse();
    }
    let size = asked.number("pageSize", EVENTS_MAX, EVENTS_MAX)?;
    let skipped = asked.query("after").and_then(|after| after.parse::<usize>().ok()).unwrap_or(0);
    let more = events.len() > skipped.saturating_add(size);
    let entities: Vec<Value> = events.into_iter().skip(skipped).take(size).collect();
    let next = more.then(|| format!("{QUERY}?pageSize={size}&after={}", skipped + size));
    ok(with(json!({ "entities": entities, "selfUri": QUERY }), &json!({ "nextUri": next })))
}

fn date(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

impl State {
    /// An operational event happens to an entity: it can be asked for, and who has subscribed is told.
    pub(crate) fn operational_event(
        &mut self,
        definition: &str,
        entity: &str,
        error_code: &str,
        now: Now,
    ) -> Result<(), Refusal> {
        let known = OPERATIONAL_EVENT_DEFINITIONS.iter().find(|(id, _, _)| *id == definition);
        let (id, name, description) = known.ok_or_else(Refusal::not_found)?;
        self.world.note_operational_event(json!({
            "eventDefinition": { "id": id, "selfUri": format!("/api/v2/usage/events/definitions/{id}") },
            "entityId": entity,
            "errorCode": error_code,
            "parentEntityId": ORGANISATION,
            "dateCreated": now.date(),
        }));
        let body = json!({
            "eventEntity": { "id": id, "name": name, "description": description },
            "entityId": entity,
            "errorCode": error_code,
            "version": "1",
            "parentEntity": ORGANISATION,
            "timestamp": now.wall_ms,
        });
        self.channels.push(&format!("v2.operations.events.{id}"), &body, &mut self.ids);
        Ok(())
    }
}
