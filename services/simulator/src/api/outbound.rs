//! Campaigns: their status changes by and by.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::{Answer, Asked, Family, Route, list, no_content, route, route_with, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::{Kind, Marks, Traits};

const CAMPAIGNS: &str = "/api/v2/outbound/campaigns";
const CAMPAIGN: &str = "/api/v2/outbound/campaigns/{id}";

const SEE: &[&str] = &["outbound:campaign:view"];
const EDIT: &[&str] = &["outbound:campaign:edit"];

/// What `PATCH` may change.
const THROTTLE: [&str; 5] =
    ["outboundLineCount", "abandonRate", "maxCallsPerAgent", "dynamicLineBalancingSettings", "queue"];

const THROTTLED: &str = r#"{"outboundLineCount": 1, "abandonRate": 0.0}"#;

impl Kind {
    pub const CAMPAIGN: Kind =
        Kind(&Traits { name: "campaign", marks: Marks::Date, founded: founded::campaigns, ..Traits::PLAIN });
}

pub(super) const FAMILY: Family = Family { kinds: &[Kind::CAMPAIGN], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, CAMPAIGNS, SEE, |state, asked| list(state, Kind::CAMPAIGN, "", CAMPAIGNS, asked)),
    route(Method::GET, CAMPAIGN, SEE, |state, asked| show(state, Kind::CAMPAIGN, asked)),
    route_with(Method::PATCH, CAMPAIGN, EDIT, THROTTLED, |state, asked| {
        let body =
            asked.body.as_object().ok_or_else(|| Refusal::bad_request("the body is no JSON object"))?;
        let fields: Map<String, Value> = body
            .iter()
            .filter(|(name, value)| THROTTLE.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        state.world.edit(Kind::CAMPAIGN, &asked.key(), &Value::Object(fields), &asked.author(), asked.now)?;
        no_content()
    }),
    route(Method::POST, "/api/v2/outbound/campaigns/{id}/stop", &["outbound:campaign:stop"], stop),
    route(Method::POST, "/api/v2/outbound/campaigns/{id}/start", &["outbound:campaign:start"], start),
];

fn status(state: &State, asked: &Asked) -> Result<String, Refusal> {
    let campaign = state.world.find(Kind::CAMPAIGN, &asked.key())?;
    Ok(campaign.get("campaignStatus").and_then(Value::as_str).unwrap_or_default().to_string())
}

/// Stopping one that does not run changes nothing. (What the platform answers then is not known.)
fn stop(state: &mut State, asked: &Asked) -> Answer {
    if status(state, asked)? == "on" {
        state.world.set(Kind::CAMPAIGN, &asked.key(), &json!({ "campaignStatus": "stopping" }))?;
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
    state.world.later(due_us, Kind::CAMPAIGN, &asked.key(), json!({ "campaignStatus": status }))
}

/// What is there at the start.
pub(crate) mod founded {
    use serde_json::{Value, json};

    use crate::organisation::{QUEUE, division, reference};

    /// `on` at the start.
    pub const CAMPAIGN: &str = "ca000000-0000-4000-8000-000000000001";

    pub(super) fn campaigns(date: &str) -> Vec<(String, Value)> {
        let campaign = json!({
            "id": CAMPAIGN,
            "name": "Renewals",
            "dateCreated": date,
            "dateModified": date,
            "version": 9,
            "division": division(),
            "contactList": reference("c1000000-0000-4000-8000-000000000001", "Renewals"),
            "queue": reference(QUEUE, "Service"),
            "dialingMode": "power",
            "campaignStatus": "on",
            "phoneColumns": [{ "columnName": "phone", "type": "cell" }],
            "abandonRate": 3.0,
            "callerName": "Example",
            "callerAddress": "+13175550100",
            "outboundLineCount": 12,
            "maxCallsPerAgent": 2,
            "priority": 5,
            "selfUri": format!("/api/v2/outbound/campaigns/{CAMPAIGN}"),
        });
        vec![(CAMPAIGN.into(), campaign)]
    }
}
