//! `edge.out_of_service` and `edge.reboot`: a telephony edge, calls drained first.

use serde_json::{Value, json};

use super::change::Launch;
use super::{Change, Given, Holds, Kind, Parameter, Switch, needed, optional};

/// What `drain_s` is unless given: long enough for most calls to end. Seconds.
const DRAIN_S: u64 = 300;

fn drain(given: &Given<'_>) -> Value {
    given.0.get("drain_s").cloned().unwrap_or(json!(DRAIN_S))
}

#[derive(Debug)]
pub(super) struct OutOfService;

impl Kind for OutOfService {
    fn name(&self) -> &'static str {
        "edge.out_of_service"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[needed("edge", Holds::Id), optional("drain_s", Holds::Number)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["telephony:plugin:all"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/telephony/providers/edges/{}", &["edge"])?;
        let call = format!("{path}/statuscode");
        Ok(Change::Switch(Switch {
            field: "statusCode",
            from: &["ACTIVE"],
            to: &["INACTIVE"],
            there: (
                call.clone(),
                Some(json!({"inService": false, "callDrainingWaitTimeSeconds": drain(given)})),
            ),
            back: (call, Some(json!({"inService": true}))),
            path,
        }))
    }
}

#[derive(Debug)]
pub(super) struct Reboot;

impl Kind for Reboot {
    fn name(&self) -> &'static str {
        "edge.reboot"
    }

    fn parameters(&self) -> &'static [Parameter] {
        OutOfService.parameters()
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["telephony:plugin:all"]
    }

    fn can_be_looked_at(&self) -> bool {
        false
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/telephony/providers/edges/{}/reboot", &["edge"])?;
        Ok(Change::Launch(Launch { path, body: json!({"callDrainingWaitTimeSeconds": drain(given)}) }))
    }
}
