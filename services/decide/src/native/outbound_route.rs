//! `outbound_route.reorder`: which trunks a site's calls leave by, and in which order.

use serde_json::{Value, json};

use super::{Change, Given, Holds, Kind, Parameter, Stamp, needed, optional, put};

#[derive(Debug)]
pub(super) struct Reorder;

impl Kind for Reorder {
    fn name(&self) -> &'static str {
        "outbound_route.reorder"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[
            needed("site", Holds::Id),
            needed("route", Holds::Id),
            needed("trunk_bases", Holds::Ids),
            optional("distribution", Holds::Text),
            optional("enabled", Holds::Truth),
        ];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["telephony:plugin:all"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path =
            given.path("/api/v2/telephony/providers/edges/sites/{}/outboundroutes/{}", &["site", "route"])?;
        let mut set = given.fields(&["distribution", "enabled"]);
        if let Some(other) = set.get("distribution").filter(|d| *d != "SEQUENTIAL" && *d != "RANDOM") {
            return Err(format!("`parameters.distribution`: expected SEQUENTIAL or RANDOM, not {other}"));
        }
        let ids = given.0.get("trunk_bases").and_then(Value::as_array);
        let bases: Vec<Value> = ids.into_iter().flatten().map(|id| json!({"id": id})).collect();
        set.insert("externalTrunkBases".into(), bases.into());
        Ok(put(path, set, Stamp::Version))
    }
}
