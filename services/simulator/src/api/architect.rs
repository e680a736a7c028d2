//! Emergency groups, IVRs, rows of data tables, and starting a flow.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Route, list, ok, page, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::{Kind, with};

const GROUPS: &str = "/api/v2/architect/emergencygroups";
const GROUP: &str = "/api/v2/architect/emergencygroups/{id}";
const IVRS: &str = "/api/v2/architect/ivrs";
const IVR: &str = "/api/v2/architect/ivrs/{id}";
const ROWS: &str = "/api/v2/flows/datatables/{table}/rows";
const ROW: &str = "/api/v2/flows/datatables/{table}/rows/{key}";
const EXECUTIONS: &str = "/api/v2/flows/executions";
const EXECUTION: &str = "/api/v2/flows/executions/{id}";

const SEE_GROUPS: &[&str] = &["routing:emergencyGroup:view", "routing:emergencyGroup:edit"];
const EDIT_GROUPS: &[&str] = &["routing:emergencyGroup:edit"];
const SEE_IVRS: &[&str] = &["routing:callRoute:view"];
const EDIT_IVRS: &[&str] = &["routing:callRoute:edit"];
const SEE_ROWS: &[&str] = &["architect:datatable:view", "architect:datatableRow:view"];
const EDIT_ROWS: &[&str] = &["architect:datatable:edit", "architect:datatableRow:edit"];
/// Which permission it takes to see an execution is in no source.
const LAUNCH: &[&str] = &["architect:flow:launch"];

pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, GROUPS, SEE_GROUPS, |state, asked| {
        list(state, Kind::EmergencyGroup, "", GROUPS, asked)
    }),
    route(Method::GET, GROUP, SEE_GROUPS, |state, asked| show(state, Kind::EmergencyGroup, asked)),
    route(Method::PUT, GROUP, EDIT_GROUPS, |state, asked| replace(state, Kind::EmergencyGroup, asked)),
    route(Method::GET, IVRS, SEE_IVRS, |state, asked| list(state, Kind::Ivr, "", IVRS, asked)),
    route(Method::GET, IVR, SEE_IVRS, |state, asked| show(state, Kind::Ivr, asked)),
    route(Method::PUT, IVR, EDIT_IVRS, |state, asked| replace(state, Kind::Ivr, asked)),
    route(Method::GET, ROWS, SEE_ROWS, |state, asked| {
        let table = asked.first();
        let below = format!("{table}/");
        let rows = state.world.below(Kind::DataTableRow, &below).map(|(_, row)| brief(row, asked));
        ok(page(rows, &ROWS.replace("{table}", table), asked)?)
    }),
    route(Method::GET, ROW, SEE_ROWS, |state, asked| {
        ok(brief(state.world.find(Kind::DataTableRow, &asked.key())?, asked))
    }),
    route(Method::PUT, ROW, EDIT_ROWS, |state, asked| {
        let key = asked.key();
        state.world.find(Kind::DataTableRow, &key)?;
        if asked.body.get("key").and_then(Value::as_str) != asked.parameters.last().map(String::as_str) {
            return Err(Refusal::bad_request("the row's key is not the one in the path"));
        }
        state.world.put(Kind::DataTableRow, &key, asked.body.clone())?;
        ok(asked.body.clone())
    }),
    route(Method::POST, EXECUTIONS, LAUNCH, launch),
    route(Method::GET, EXECUTION, LAUNCH, |state, asked| {
        // What it was launched with is not among what is told.
        ok(with(
            state.world.find(Kind::FlowExecution, &asked.key())?.clone(),
            &json!({ "flowId": null, "inputData": null }),
        ))
    }),
];

/// Starts a flow, which runs for a while.
fn launch(state: &mut State, asked: &Asked) -> Answer {
    let flow = asked.body.get("flowId").and_then(Value::as_str).unwrap_or_default().to_string();
    state.world.find(Kind::Flow, &flow)?;
    let id = state.ids.next();
    let name = asked.body.get("name").cloned().unwrap_or_else(|| json!("execution"));
    let launched = json!({ "id": id, "name": name, "selfUri": EXECUTION.replace("{id}", &id) });
    let running = json!({
        "status": "RUNNING",
        "dateLaunched": asked.now.date(),
        "flowId": flow,
        "inputData": asked.body.get("inputData"),
    });
    state.world.put(Kind::FlowExecution, &id, with(launched.clone(), &running))?;
    let due_us = asked.now.us.saturating_add(micros(state.options.settle));
    state.world.later(due_us, Kind::FlowExecution, &id, json!({ "status": "COMPLETED" }))?;
    ok(launched)
}

/// A row's key alone, unless the caller asks for the whole: the platform's default, and a trap.
fn brief(row: &Value, asked: &Asked) -> Value {
    match asked.query("showbrief") {
        // The SDKs write booleans each in their own way.
        Some(brief) if brief.eq_ignore_ascii_case("false") => row.clone(),
        _ => json!({ "key": row.get("key") }),
    }
}
