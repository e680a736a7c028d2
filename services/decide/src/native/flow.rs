//! `flow.execute`: runs a workflow of the customer's. What it does is not ours to undo: a second workflow,
//! named under `revert.do`, is the way back.

use serde_json::json;

use super::{Change, Given, Holds, Kind, Launch, needed, optional};

pub(super) static EXECUTE: Kind = Kind {
    name: "flow.execute",
    parameters: &[needed("flow", Holds::Id), optional("input", Holds::Object)],
    can_be_looked_at: false,
    needs: "architect:flow:launch",
    change: execute,
};

fn execute(given: &Given<'_>) -> Result<Change, String> {
    let mut body = json!({"flowId": given.0.get("flow")});
    if let (Some(input), Some(body)) = (given.0.get("input"), body.as_object_mut()) {
        body.insert("inputData".into(), input.clone());
    }
    Ok(Change::Launch(Launch { path: "/api/v2/flows/executions".into(), body }))
}
