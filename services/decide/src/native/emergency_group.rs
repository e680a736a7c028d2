//! `emergency_group.set`: turns an emergency group on or off. What it carries besides, its call flows above
//! all, goes back unchanged: a PUT without them would disconnect its IVRs (genesys.md 3).

use serde_json::json;

use super::{Change, Fields, Given, Holds, Kind, Stamp, needed, optional, put};

pub(super) static SET: Kind = Kind {
    name: "emergency_group.set",
    parameters: &[needed("group", Holds::Id), optional("enabled", Holds::Truth)],
    can_be_looked_at: true,
    needs: "routing:emergencyGroup:edit",
    change: set,
    #[cfg(test)]
    tried: tests::set,
};

fn set(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/architect/emergencygroups/{}", &["group"])?;
    let set = Fields::from_iter([("enabled".to_string(), json!(given.truth("enabled", true)))]);
    Ok(put(path, set, Stamp::Version))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn set(trial: &Trial) {
        let group = |enabled, version| {
            json!({"id": "g", "name": "Voice", "enabled": enabled, "version": version,
                   "emergencyCallFlows": [{"emergencyFlow": {"id": "f"}, "ivrs": [{"id": "i"}]}]})
        };
        let (path, parameters) = ("/api/v2/architect/emergencygroups/g", json!({"group": "g"}));
        let (there, back) = (("PUT", path, group(true, 4)), ("PUT", path, group(false, 5)));
        trial.changes(parameters.clone(), group(false, 4), group(true, 5), there, back);
        trial.shows(&parameters, json!({"enabled": true, "version": 9}), Some(Shows::Worked));
        trial.shows(&parameters, json!({"enabled": false}), Some(Shows::NotYet));
        trial.shows(&parameters, json!("nothing"), None);
        trial.refuses(json!({}), "lacks `group`");
        trial.refuses(json!({"group": ".."}), "expected an id");
        trial.refuses(json!({"group": "g", "enabled": "yes"}), "true or false");
        trial.refuses(json!({"group": "g", "on": true}), "no parameter `on`");
    }
}
