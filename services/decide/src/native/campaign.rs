//! `campaign.stop` and `campaign.throttle`: outbound dialling, off or slower.

use super::proof::SETTLES_WITHIN_MS;
use super::{Change, Fields, Given, Holds, Kind, Object, Stamp, Switch, needed, optional};
use crate::playbook::Method;

const PATH: &str = "/api/v2/outbound/campaigns/{}";

pub(super) static STOP: Kind = Kind {
    name: "campaign.stop",
    parameters: &[needed("campaign", Holds::Id)],
    can_be_looked_at: true,
    needs: "outbound:campaign:stop and outbound:campaign:start",
    change: stop,
    #[cfg(test)]
    tried: tests::stop,
};

fn stop(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path(PATH, &["campaign"])?;
    Ok(Change::Switch(Switch {
        field: "campaignStatus",
        from: &["on"],
        to: &["stopping", "off", "complete"],
        passing: &["stopping"],
        back_from: &["off"],
        there: (format!("{path}/stop"), None),
        back: (format!("{path}/start"), None),
        settles_within_ms: SETTLES_WITHIN_MS,
        path,
    }))
}

/// The parameters, and the field that each sets.
const FIELDS: [(&str, &str); 3] = [
    ("outbound_lines", "outboundLineCount"),
    ("abandon_rate", "abandonRate"),
    ("calls_per_agent", "maxCallsPerAgent"),
];

pub(super) static THROTTLE: Kind = Kind {
    name: "campaign.throttle",
    parameters: &[
        needed("campaign", Holds::Id),
        optional("outbound_lines", Holds::Count),
        optional("abandon_rate", Holds::Number),
        optional("calls_per_agent", Holds::Number),
    ],
    can_be_looked_at: true,
    needs: "outbound:campaign:edit",
    change: throttle,
    #[cfg(test)]
    tried: tests::throttle,
};

fn throttle(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path(PATH, &["campaign"])?;
    let field = |(parameter, field): (&str, &str)| Some((field.into(), given.0.get(parameter)?.clone()));
    let set: Fields = FIELDS.into_iter().filter_map(field).collect();
    if set.is_empty() {
        return Err("`parameters` changes nothing: name `outbound_lines`, `abandon_rate` or \
                    `calls_per_agent`"
            .into());
    }
    Ok(Change::Object(Object { path, query: "", set, method: Method::Patch, stamp: Stamp::None }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::change::Plan;
    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn stop(trial: &Trial) {
        let is = |status: &str| json!({"campaignStatus": status});
        let parameters = || json!({"campaign": "c"});
        let there = ("POST", "/api/v2/outbound/campaigns/c/stop", Value::Null);
        let back = ("POST", "/api/v2/outbound/campaigns/c/start", Value::Null);
        trial.changes(parameters(), is("on"), is("off"), there, back);
        for (status, expected) in [("stopping", Plan::Wait), ("complete", Plan::Already)] {
            assert_eq!(trial.undone(parameters(), is("on"), is(status)), expected, "{status}");
        }
        trial.shows(&parameters(), is("stopping"), Some(Shows::Worked));
        trial.shows(&parameters(), is("on"), Some(Shows::NotYet));
    }

    pub(super) fn throttle(trial: &Trial) {
        let lines = |count: u32| json!({"outboundLineCount": count, "abandonRate": 3.0});
        let path = "/api/v2/outbound/campaigns/c";
        let parameters = json!({"campaign": "c", "outbound_lines": 5});
        let patch = |count: u32| ("PATCH", path, json!({"outboundLineCount": count}));
        trial.changes(parameters.clone(), lines(50), lines(5), patch(5), patch(50));
        trial.shows(&parameters, json!({"outboundLineCount": 5.0}), Some(Shows::Worked));
        trial.shows(&parameters, lines(50), Some(Shows::NotYet));
        trial.refuses(json!({"campaign": "c"}), "changes nothing");
        trial.refuses(json!({"campaign": "c", "outbound_lines": 2.5}), "a whole number");
    }
}
