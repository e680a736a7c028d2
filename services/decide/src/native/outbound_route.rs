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
    #[cfg(test)]
    tried: tests::reorder,
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn reorder(trial: &Trial) {
        let route = |order: [&str; 2], version| {
            let bases: Vec<Value> =
                order.iter().map(|id| json!({"id": id, "name": "named", "selfUri": "/x"})).collect();
            json!({"id": "r", "version": version, "externalTrunkBases": bases})
        };
        let mut reordered = route(["a", "b"], 7);
        reordered["externalTrunkBases"] = json!([{"id": "b"}, {"id": "a"}]);
        let path = "/api/v2/telephony/providers/edges/sites/s/outboundroutes/r";
        let parameters = json!({"site": "s", "route": "r", "trunk_bases": ["b", "a"]});
        let (there, back) = (("PUT", path, reordered), ("PUT", path, route(["a", "b"], 8)));
        trial.changes(parameters.clone(), route(["a", "b"], 7), route(["b", "a"], 8), there, back);
        trial.shows(&parameters, route(["b", "a"], 8), Some(Shows::Worked));
        trial.shows(&parameters, route(["a", "b"], 8), Some(Shows::NotYet));
        trial.refuses(json!({"site": "s", "route": "r", "trunk_bases": []}), "1 to 100");
        let any = json!({"site": "s", "route": "r", "trunk_bases": ["a"], "distribution": "ANY"});
        trial.refuses(any, "SEQUENTIAL or RANDOM");
    }
}
