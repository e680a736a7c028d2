//! `flow.execute`: runs a workflow of the customer's. What it does is not ours to undo: a second workflow,
//! named under `revert.do`, is the way back.

use serde_json::json;

use super::change::Launch;
use super::{Change, Given, Holds, Kind, Parameter, needed, optional};

#[derive(Debug)]
pub(super) struct Execute;

impl Kind for Execute {
    fn name(&self) -> &'static str {
        "flow.execute"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[needed("flow", Holds::Id), optional("input", Holds::Object)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["architect:flow:launch"]
    }

    fn can_be_looked_at(&self) -> bool {
        false
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let mut body = json!({"flowId": given.0.get("flow")});
        if let (Some(input), Some(body)) = (given.0.get("input"), body.as_object_mut()) {
            body.insert("inputData".into(), input.clone());
        }
        Ok(Change::Launch(Launch { path: "/api/v2/flows/executions".into(), body }))
    }
}
