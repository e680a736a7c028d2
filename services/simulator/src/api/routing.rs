//! Queues and their members.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Reply, Route, list, ok, page, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::Kind;

const QUEUES: &str = "/api/v2/routing/queues";
const QUEUE: &str = "/api/v2/routing/queues/{id}";
const MEMBERS: &str = "/api/v2/routing/queues/{id}/members";

const SEE: &[&str] = &["routing:queue:view"];
const SEE_MEMBERS: &[&str] = &["routing:queue:view", "routing:queueMember:manage"];
const EDIT_MEMBERS: &[&str] = &["routing:queue:edit", "routing:queueMember:manage"];

/// Members that one call may change.
const PATCHED_MEMBERS_MAX: usize = 100;

pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, QUEUES, SEE, |state, asked| list(state, Kind::Queue, "", QUEUES, asked)),
    route(Method::GET, QUEUE, SEE, |state, asked| show(state, Kind::Queue, asked)),
    // No version: the last one wins.
    route(Method::PUT, QUEUE, &["routing:queue:edit"], |state, asked| replace(state, Kind::Queue, asked)),
    route(Method::GET, MEMBERS, SEE_MEMBERS, |state, asked| ok(members(state, asked)?)),
    route(Method::PATCH, MEMBERS, EDIT_MEMBERS, join),
];

fn members(state: &State, asked: &Asked) -> Result<Value, Refusal> {
    let queue = asked.first();
    state.world.find(Kind::Queue, queue)?;
    let joined = asked.query("joined").and_then(|text| text.to_ascii_lowercase().parse::<bool>().ok());
    let below = format!("{queue}/");
    let members = state
        .world
        .below(Kind::QueueMember, &below)
        .map(|(_, member)| member)
        .filter(|member| joined.is_none_or(|joined| member.get("joined") == Some(&json!(joined))));
    let mut page = page(members.cloned(), &MEMBERS.replace("{id}", queue), asked)?;
    // This listing does not tell how many there are.
    if let Some(page) = page.as_object_mut() {
        for counted in ["total", "pageCount", "lastUri"] {
            page.remove(counted);
        }
    }
    Ok(page)
}

/// Joins and unjoins existing members, one after the other: the answer shows them as they were.
fn join(state: &mut State, asked: &Asked) -> Answer {
    let queue = asked.first();
    state.world.find(Kind::Queue, queue)?;
    let changes = asked.body.as_array().ok_or_else(|| Refusal::bad_request("the body is no JSON array"))?;
    if changes.len() > PATCHED_MEMBERS_MAX {
        let count = changes.len();
        return Err(Refusal::bad_request(format!(
            "{count} members; {PATCHED_MEMBERS_MAX} may be changed at once"
        )));
    }
    let mut wanted = vec![];
    for change in changes {
        let id = change.get("id").and_then(Value::as_str);
        let joined = change.get("joined").and_then(Value::as_bool);
        let (Some(id), Some(joined)) = (id, joined) else {
            return Err(Refusal::bad_request("a member needs an id and joined"));
        };
        let key = format!("{queue}/{id}");
        state.world.find(Kind::QueueMember, &key)?;
        wanted.push((key, joined));
    }
    let each_us = micros(state.options.settle) / u64::try_from(wanted.len().max(1)).unwrap_or(1);
    let mut due_us = asked.now.us;
    for (key, joined) in wanted {
        due_us = due_us.saturating_add(each_us);
        state.world.later(due_us, Kind::QueueMember, &key, json!({ "joined": joined }))?;
    }
    Ok(Reply { status: 202, body: Some(members(state, asked)?) })
}
