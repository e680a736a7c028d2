//! Emergency groups, IVRs, rows of data tables, and starting a flow.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Family, Route, list, ok, page, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::{Kind, Marks, Traits, with};

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

impl Kind {
    pub const EMERGENCY_GROUP: Kind = Kind(&Traits {
        name: "emergency_group",
        writable: &["name", "division", "description", "enabled", "emergencyCallFlows"],
        marks: Marks::App,
        founded: founded::emergency_groups,
        ..Traits::PLAIN
    });
    pub const IVR: Kind = Kind(&Traits {
        name: "ivr",
        writable: &[
            "name",
            "division",
            "description",
            "dnis",
            "openHoursFlow",
            "closedHoursFlow",
            "holidayHoursFlow",
            "scheduleGroup",
        ],
        marks: Marks::App,
        founded: founded::ivrs,
        ..Traits::PLAIN
    });
    /// Its key is `table/key`.
    pub const DATA_TABLE_ROW: Kind =
        Kind(&Traits { name: "data_table_row", founded: founded::rows, ..Traits::PLAIN });
    pub const FLOW: Kind =
        Kind(&Traits { name: "flow", marks: Marks::App, founded: founded::flows, ..Traits::PLAIN });
    pub const FLOW_EXECUTION: Kind =
        Kind(&Traits { name: "flow_execution", marks: Marks::App, ..Traits::PLAIN });
}

pub(super) const FAMILY: Family = Family {
    kinds: &[Kind::EMERGENCY_GROUP, Kind::IVR, Kind::DATA_TABLE_ROW, Kind::FLOW, Kind::FLOW_EXECUTION],
    routes: ROUTES,
};

const ROUTES: &[Route] = &[
    route(Method::GET, GROUPS, SEE_GROUPS, |state, asked| {
        list(state, Kind::EMERGENCY_GROUP, "", GROUPS, asked)
    }),
    route(Method::GET, GROUP, SEE_GROUPS, |state, asked| show(state, Kind::EMERGENCY_GROUP, asked)),
    route(Method::PUT, GROUP, EDIT_GROUPS, |state, asked| replace(state, Kind::EMERGENCY_GROUP, asked)),
    route(Method::GET, IVRS, SEE_IVRS, |state, asked| list(state, Kind::IVR, "", IVRS, asked)),
    route(Method::GET, IVR, SEE_IVRS, |state, asked| show(state, Kind::IVR, asked)),
    route(Method::PUT, IVR, EDIT_IVRS, |state, asked| replace(state, Kind::IVR, asked)),
    route(Method::GET, ROWS, SEE_ROWS, |state, asked| {
        let table = asked.first();
        let below = format!("{table}/");
        let rows = state.world.below(Kind::DATA_TABLE_ROW, &below).map(|(_, row)| brief(row, asked));
        ok(page(rows, &ROWS.replace("{table}", table), asked)?)
    }),
    route(Method::GET, ROW, SEE_ROWS, |state, asked| {
        ok(brief(state.world.find(Kind::DATA_TABLE_ROW, &asked.key())?, asked))
    }),
    route(Method::PUT, ROW, EDIT_ROWS, |state, asked| {
        let key = asked.key();
        state.world.find(Kind::DATA_TABLE_ROW, &key)?;
        if asked.body.get("key").and_then(Value::as_str) != asked.parameters.last().map(String::as_str) {
            return Err(Refusal::bad_request("the row's key is not the one in the path"));
        }
        state.world.put(Kind::DATA_TABLE_ROW, &key, asked.body.clone())?;
        ok(asked.body.clone())
    }),
    route(Method::POST, EXECUTIONS, LAUNCH, launch),
    route(Method::GET, EXECUTION, LAUNCH, |state, asked| {
        // What it was launched with is not among what is told.
        ok(with(
            state.world.find(Kind::FLOW_EXECUTION, &asked.key())?.clone(),
            &json!({ "flowId": null, "inputData": null }),
        ))
    }),
];

/// Starts a flow, which runs for a while.
fn launch(state: &mut State, asked: &Asked) -> Answer {
    let flow = asked.body.get("flowId").and_then(Value::as_str).unwrap_or_default().to_string();
    state.world.find(Kind::FLOW, &flow)?;
    let id = state.ids.next();
    let name = asked.body.get("name").cloned().unwrap_or_else(|| json!("execution"));
    let launched = json!({ "id": id, "name": name, "selfUri": EXECUTION.replace("{id}", &id) });
    let running = json!({
        "status": "RUNNING",
        "dateLaunched": asked.now.date(),
        "flowId": flow,
        "inputData": asked.body.get("inputData"),
    });
    state.world.put(Kind::FLOW_EXECUTION, &id, with(launched.clone(), &running))?;
    let due_us = asked.now.us.saturating_add(micros(state.options.settle));
    state.world.later(due_us, Kind::FLOW_EXECUTION, &id, json!({ "status": "COMPLETED" }))?;
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

/// What is there at the start.
pub(crate) mod founded {
    use serde_json::{Value, json};

    use crate::organisation::{HUMAN, division, reference};

    /// Every IVR of the organisation.
    pub const GROUP_EVACUATION: &str = "11111111-1111-4111-8111-111111111111";
    /// [`IVR_SALES`] alone.
    pub const GROUP_SALES: &str = "11111111-1111-4111-8111-111111111112";
    pub const IVR_SERVICE: &str = "12000000-0000-4000-8000-000000000001";
    pub const IVR_SALES: &str = "12000000-0000-4000-8000-000000000002";
    pub const FLOW_EMERGENCY: &str = "f1000000-0000-4000-8000-000000000001";
    pub const FLOW_OPEN: &str = "f1000000-0000-4000-8000-000000000002";
    /// A workflow that `POST /api/v2/flows/executions` may start.
    pub const FLOW_WORKFLOW: &str = "b008976c-e085-43b7-b27d-9c0efd5fbfb5";

    pub const TABLE: &str = "da7ab1e0-0000-4000-8000-000000000001";
    /// Keys of the rows of [`TABLE`].
    pub const ROWS: [&str; 2] = ["main-line", "sales-line"];

    pub(super) fn emergency_groups(date: &str) -> Vec<(String, Value)> {
        let mut objects = vec![];
        for (id, name, version, ivrs) in [
            (GROUP_EVACUATION, "Organization Evacuation", 7, vec![IVR_SERVICE, IVR_SALES]),
            (GROUP_SALES, "Sales Evacuation", 2, vec![IVR_SALES]),
        ] {
            let ivrs: Vec<Value> = ivrs.iter().map(|id| json!({ "id": id })).collect();
            let flow = json!({ "id": FLOW_EMERGENCY, "name": "Emergency" });
            let group = json!({
                "id": id,
                "name": name,
                "division": division(),
                "version": version,
                "dateCreated": date,
                "dateModified": date,
                "createdBy": HUMAN,
                "state": "active",
                "enabled": false,
                "emergencyCallFlows": [{ "emergencyFlow": flow, "ivrs": ivrs }],
                "selfUri": format!("/api/v2/architect/emergencygroups/{id}"),
            });
            objects.push((id.into(), group));
        }
        objects
    }

    pub(super) fn ivrs(date: &str) -> Vec<(String, Value)> {
        let mut objects = vec![];
        for (id, name, number) in
            [(IVR_SERVICE, "Service", "+13175550100"), (IVR_SALES, "Sales", "+13175550101")]
        {
            let ivr = json!({
                "id": id,
                "name": name,
                "division": division(),
                "version": 5,
                "dateCreated": date,
                "dateModified": date,
                "createdBy": HUMAN,
                "state": "active",
                "dnis": [number],
                "openHoursFlow": reference(FLOW_OPEN, "Open"),
                "selfUri": format!("/api/v2/architect/ivrs/{id}"),
            });
            objects.push((id.into(), ivr));
        }
        objects
    }

    pub(super) fn flows(_: &str) -> Vec<(String, Value)> {
        let flows =
            [(FLOW_EMERGENCY, "Emergency"), (FLOW_OPEN, "Open"), (FLOW_WORKFLOW, "Incident workflow")];
        flows.map(|(id, name)| (id.into(), reference(id, name))).into()
    }

    pub(super) fn rows(_: &str) -> Vec<(String, Value)> {
        // The key's field has the name `key` in every data table.
        let row = |key| json!({ "key": key, "destination": "primary", "announce": false });
        ROWS.map(|key| (format!("{TABLE}/{key}"), row(key))).into()
    }
}
