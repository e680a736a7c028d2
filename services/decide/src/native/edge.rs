//! `edge.out_of_service` and `edge.reboot`: a telephony edge, calls drained first.

use serde_json::{Value, json};

use super::proof::{Course, SETTLES_WITHIN_MS};
use super::{Change, Given, Holds, Kind, Launch, Parameter, Switch, TELEPHONY, needed, optional};

/// What `drain_s` is unless given: long enough for most calls to end. Seconds.
const DRAIN_S: i64 = 300;

const PARAMETERS: &[Parameter] = &[needed("edge", Holds::Id), optional("drain_s", Holds::Count)];

/// An edge that reboots is gone this long after its calls are drained, and there again this long after that at the
/// latest. Milliseconds. The platform names no times; until it is gone it looks as if it were back.
const GONE_AFTER_MS: i64 = 10_000;
const BACK_WITHIN_MS: i64 = 900_000;

/// The longest `drain_s`. Seconds.
const DRAIN_S_MAX: i64 = 86_400;

fn drain_s(given: &Given<'_>) -> Result<i64, String> {
    let drain_s = given.0.get("drain_s").map_or(Some(DRAIN_S), Value::as_i64);
    let drain_s = drain_s.filter(|drain_s| *drain_s <= DRAIN_S_MAX);
    drain_s.ok_or_else(|| format!("`parameters.drain_s`: expected at most {DRAIN_S_MAX}"))
}

pub(super) static OUT_OF_SERVICE: Kind = Kind {
    name: "edge.out_of_service",
    parameters: PARAMETERS,
    can_be_looked_at: true,
    needs: TELEPHONY,
    change: out_of_service,
    #[cfg(test)]
    tried: tests::out_of_service,
};

fn out_of_service(given: &Given<'_>) -> Result<Change, String> {
    let drain_s = drain_s(given)?;
    let path = given.path("/api/v2/telephony/providers/edges/{}", &["edge"])?;
    let call = format!("{path}/statuscode");
    Ok(Change::Switch(Switch {
        field: "statusCode",
        from: &["ACTIVE"],
        to: &["INACTIVE"],
        passing: &[],
        back_from: &["INACTIVE"],
        there: (call.clone(), Some(json!({"inService": false, "callDrainingWaitTimeSeconds": drain_s}))),
        back: (call, Some(json!({"inService": true}))),
        settles_within_ms: drain_s * 1_000 + SETTLES_WITHIN_MS,
        path,
    }))
}

pub(super) static REBOOT: Kind = Kind {
    name: "edge.reboot",
    parameters: PARAMETERS,
    can_be_looked_at: false,
    needs: TELEPHONY,
    change: reboot,
    #[cfg(test)]
    tried: tests::reboot,
};

fn reboot(given: &Given<'_>) -> Result<Change, String> {
    let drain_s = drain_s(given)?;
    let path = given.path("/api/v2/telephony/providers/edges/{}", &["edge"])?;
    Ok(Change::Launch(Launch {
        path: format!("{path}/reboot"),
        body: json!({"callDrainingWaitTimeSeconds": drain_s}),
        course: Course {
            path,
            has_id: false,
            field: "onlineStatus",
            worked: &["ONLINE"],
            failed: &[],
            after_ms: drain_s * 1_000 + GONE_AFTER_MS,
            within_ms: BACK_WITHIN_MS,
        },
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn out_of_service(trial: &Trial) {
        let is = |status: &str| json!({"statusCode": status});
        let path = "/api/v2/telephony/providers/edges/e/statuscode";
        let parameters = json!({"edge": "e", "drain_s": 60});
        let there = ("POST", path, json!({"inService": false, "callDrainingWaitTimeSeconds": 60}));
        let back = ("POST", path, json!({"inService": true}));
        trial.changes(parameters.clone(), is("ACTIVE"), is("INACTIVE"), there, back);
        trial.shows(&parameters, is("INACTIVE"), Some(Shows::Worked));
        trial.shows(&parameters, is("ACTIVE"), Some(Shows::NotYet));
    }

    pub(super) fn reboot(trial: &Trial) {
        let path = "/api/v2/telephony/providers/edges/e";
        let (is, parameters) = (|status: &str| json!({"onlineStatus": status}), json!({"edge": "e"}));
        let body = json!({"callDrainingWaitTimeSeconds": 300});
        trial.starts(parameters.clone(), &format!("{path}/reboot"), body);
        assert_eq!(trial.shows(&parameters, is("ONLINE"), Some(Shows::Worked)), path);
        trial.shows(&parameters, is("OFFLINE"), Some(Shows::NotYet));
        trial.refuses(json!({"edge": "e", "drain_s": -1}), "a whole number");
        trial.refuses(json!({"edge": "e", "drain_s": 86_401}), "at most 86400");
    }
}
