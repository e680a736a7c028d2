//! `outbound_route.reorder`: which trunks a site's calls leave by, and in which order.

use serde_json::{Value, json};

use super::{Change, Given, Holds, Kind, Stamp, TELEPHONY, needed, optional, put};

pub(super) static REORDER: Kind = Kind {
    name: "outbound_route.reorder",
    parameters: &[
        needed("site", Holds::Id),
        needed("route", Holds::Id),
        needed("trunk_bases", Holds::Ids),
        optional("distribution", Holds::Text),
        optional("enabled", Holds::Truth),
    ],
    can_be_looked_at: true,
    needs: TELEPHONY,
    change: reorder,
};

fn reorder(given: &Given<'_>) -> Result<Change, String> {
    let path =
        given.path("/api/v2/telephony/providers/edges/sites/{}/outboundroutes/{}", &["site", "route"])?;
    let mut set = given.fields(&["distribution", "enabled"]);
    if let Some(other) = set.get("distribution").filter(|d| *d != "SEQUENTIAL" && *d != "RANDOM") {
        return Err(format!("`parameters.distribution`: expected SEQUENTIAL or RANDOM, not {other}"));
    }
    let bases: Vec<Value> = given.ids("trunk_bases").map(|id| json!({"id": id})).collect();
    set.insert("externalTrunkBases".into(), bases.into());
    Ok(put(path, set, Stamp::Version))
}
