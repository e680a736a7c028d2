//! `flow.execute`: runs a workflow of the customer's. What it does is not ours to undo: a second workflow,
//! named under `revert.do`, is the way back.

use serde_json::json;

use super::proof::Course;
use super::{Change, Given, Holds, Kind, Launch, needed, optional};

pub(super) static EXECUTE: Kind = Kind {
    name: "flow.execute",
    parameters: &[needed("flow", Holds::Id), optional("input", Holds::Object)],
    can_be_looked_at: false,
    needs: "architect:flow:launch",
    change: execute,
    #[cfg(test)]
    tried: tests::execute,
};

/// A workflow of the customer's has come to its end this long after it was started, or people are told. Milliseconds.
const ENDS_WITHIN_MS: i64 = 600_000;

const PATH: &str = "/api/v2/flows/executions";

fn execute(given: &Given<'_>) -> Result<Change, String> {
    let mut body = json!({"flowId": given.0.get("flow")});
    if let (Some(input), Some(body)) = (given.0.get("input"), body.as_object_mut()) {
        body.insert("inputData".into(), input.clone());
    }
    // The states of an execution: genesys.md's PY, `FlowRuntimeExecution`.
    let course = Course {
        path: PATH.into(),
        has_id: true,
        field: "status",
        worked: &["COMPLETED"],
        failed: &["ERROR", "FAILED", "TERMINATED"],
        after_ms: 1_000,
        within_ms: ENDS_WITHIN_MS,
    };
    Ok(Change::Launch(Launch { path: PATH.into(), body, course }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn execute(trial: &Trial) {
        let (is, parameters) = (|status: &str| json!({"status": status}), json!({"flow": "f"}));
        let path = "/api/v2/flows/executions";
        trial.starts(parameters.clone(), path, json!({"flowId": "f"}));
        let with_input = json!({"flow": "f", "input": {"a": 1}});
        trial.starts(with_input, path, json!({"flowId": "f", "inputData": {"a": 1}}));
        let looked_at = trial.shows(&parameters, is("COMPLETED"), Some(Shows::Worked));
        assert_eq!(looked_at, "/api/v2/flows/executions/started%2F1");
        trial.shows(&parameters, is("RUNNING"), Some(Shows::NotYet));
        trial.shows(&parameters, is("ERROR"), Some(Shows::Failed));
        trial.shows(&parameters, json!({}), None);
    }
}
