//! `edge.out_of_service` and `edge.reboot`: a telephony edge, calls drained first.

use serde_json::{Value, json};

use super::{Change, Given, Holds, Kind, Launch, Parameter, Switch, TELEPHONY, needed, optional};

/// What `drain_s` is unless given: long enough for most calls to end. Seconds.
const DRAIN_S: u64 = 300;

const PARAMETERS: &[Parameter] = &[needed("edge", Holds::Id), optional("drain_s", Holds::Number)];

fn drain(given: &Given<'_>) -> Value {
    given.0.get("drain_s").cloned().unwrap_or(json!(DRAIN_S))
}

pub(super) static OUT_OF_SERVICE: Kind = Kind {
    name: "edge.out_of_service",
    parameters: PARAMETERS,
    can_be_looked_at: true,
    needs: TELEPHONY,
    change: out_of_service,
};

fn out_of_service(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/telephony/providers/edges/{}", &["edge"])?;
    let call = format!("{path}/statuscode");
    Ok(Change::Switch(Switch {
        field: "statusCode",
        from: &["ACTIVE"],
        to: &["INACTIVE"],
        passing: &[],
        back_from: &["INACTIVE"],
        there: (call.clone(), Some(json!({"inService": false, "callDrainingWaitTimeSeconds": drain(given)}))),
        back: (call, Some(json!({"inService": true}))),
        path,
    }))
}

pub(super) static REBOOT: Kind = Kind {
    name: "edge.reboot",
    parameters: PARAMETERS,
    can_be_looked_at: false,
    needs: TELEPHONY,
    change: reboot,
};

fn reboot(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/telephony/providers/edges/{}/reboot", &["edge"])?;
    Ok(Change::Launch(Launch { path, body: json!({"callDrainingWaitTimeSeconds": drain(given)}) }))
}
