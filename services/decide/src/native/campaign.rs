//! `campaign.stop` and `campaign.throttle`: outbound dialling, off or slower.

use super::{Change, Given, Holds, Kind, Object, Parameter, Stamp, Switch, needed, optional};
use crate::playbook::Method;

#[derive(Debug)]
pub(super) struct Stop;

impl Kind for Stop {
    fn name(&self) -> &'static str {
        "campaign.stop"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[needed("campaign", Holds::Id)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["outbound:campaign:stop", "outbound:campaign:start"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/outbound/campaigns/{}", &["campaign"])?;
        Ok(Change::Switch(Switch {
            field: "campaignStatus",
            from: &["on"],
            to: &["stopping", "off", "complete"],
            there: (format!("{path}/stop"), None),
            back: (format!("{path}/start"), None),
            path,
        }))
    }
}

#[derive(Debug)]
pub(super) struct Throttle;

/// The parameters, and the field that each sets.
const FIELDS: [(&str, &str); 3] = [
    ("outbound_lines", "outboundLineCount"),
    ("abandon_rate", "abandonRate"),
    ("calls_per_agent", "maxCallsPerAgent"),
];

impl Kind for Throttle {
    fn name(&self) -> &'static str {
        "campaign.throttle"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[
            needed("campaign", Holds::Id),
            optional("outbound_lines", Holds::Number),
            optional("abandon_rate", Holds::Number),
            optional("calls_per_agent", Holds::Number),
        ];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["outbound:campaign:edit"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/outbound/campaigns/{}", &["campaign"])?;
        let field = |(parameter, field): (&str, &str)| Some((field.into(), given.0.get(parameter)?.clone()));
        let set: serde_json::Map<_, _> = FIELDS.into_iter().filter_map(field).collect();
        if set.is_empty() {
            return Err("`parameters` changes nothing: name `outbound_lines`, `abandon_rate` or \
                        `calls_per_agent`"
                .into());
        }
        Ok(Change::Object(Object { path, query: "", set, method: Method::Patch, stamp: Stamp::None }))
    }
}
