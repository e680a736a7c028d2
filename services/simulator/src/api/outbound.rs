//! Campaigns: their status changes by and by.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::{Answer, Asked, Route, list, no_content, route, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::Kind;

const CAMPAIGNS: &str = "/api/v2/outbound/campaigns";
const CAMPAIGN: &str = "/api/v2/outbound/campaigns/{id}";

const SEE: &[&str] = &["outbound:campaign:view"];

/// What `PATCH` may change.
const THROTTLE: [&str; 5] =
    ["outboundLineCount", "abandonRate", "maxCallsPerAgent", "dynamicLineBalancingSettings", "queue"];

pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, CAMPAIGNS, SEE, |state, asked| list(state, Kind::Campaign, "", CAMPAIGNS, asked)),
    route(Method::GET, CAMPAIGN, SEE, |state, asked| show(state, Kind::Campaign, asked)),
    route(Method::PATCH, CAMPAIGN, &["outbound:campaign:edit"], |state, asked| {
        let body =
            asked.body.as_object().ok_or_else(|| Refusal::bad_request("the body is no JSON object"))?;
        let fields: Map<String, Value> = body
            .iter()
            .filter(|(name, value)| THROTTLE.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        state.world.edit(Kind::Campaign, &asked.key(), &Value::Object(fields), &asked.author(), asked.now)?;
        no_content()
    }),
    route(Method::POST, "/api/v2/outbound/campaigns/{id}/stop", &["outbound:campaign:stop"], stop),
    route(Method::POST, "/api/v2/outbound/campaigns/{id}/start", &["outbound:campaign:start"], start),
];

fn status(state: &State, asked: &Asked) -> Result<String, Refusal> {
    let campaign = state.world.find(Kind::Campaign, &asked.key())?;
    Ok(campaign.get("campaignStatus").and_then(Value::as_str).unwrap_or_default().to_string())
}

/// Stopping one that does not run changes nothing. (What the platform answers then is not known.)
fn stop(state: &mut State, asked: &Asked) -> Answer {
    if status(state, asked)? == "on" {
        state.world.set(Kind::Campaign, &asked.key(), &json!({ "campaignStatus": "stopping" }))?;
        later(state, asked, "off")?;
    }
    no_content()
}

/// One that is still stopping cannot be started. (The platform's words are not known.)
fn start(state: &mut State, asked: &Asked) -> Answer {
    match status(state, asked)?.as_str() {
        "on" => {}
        "stopping" => return Err(Refusal::bad_request("the campaign is stopping")),
        _ => later(state, asked, "on")?,
    }
    no_content()
}

fn later(state: &mut State, asked: &Asked, status: &str) -> Result<(), Refusal> {
    let due_us = asked.now.us.saturating_add(micros(state.options.settle));
    state.world.later(due_us, Kind::Campaign, &asked.key(), json!({ "campaignStatus": status }))
}
