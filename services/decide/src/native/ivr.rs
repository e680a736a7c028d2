//! `ivr.route`: which numbers and flows a call route has.

use serde_json::{Value, json};

use super::{Change, Given, Holds, Kind, Stamp, needed, optional, put};

/// The parameters that name a flow, and the field that each sets.
const FLOWS: [(&str, &str); 3] = [
    ("open_hours_flow", "openHoursFlow"),
    ("closed_hours_flow", "closedHoursFlow"),
    ("holiday_hours_flow", "holidayHoursFlow"),
];

pub(super) static ROUTE: Kind = Kind {
    name: "ivr.route",
    parameters: &[
        needed("ivr", Holds::Id),
        optional("open_hours_flow", Holds::Id),
        optional("closed_hours_flow", Holds::Id),
        optional("holiday_hours_flow", Holds::Id),
        optional("dnis", Holds::Ids),
    ],
    can_be_looked_at: true,
    needs: "routing:callRoute:edit",
    change: route,
    #[cfg(test)]
    tried: tests::route,
};

fn route(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/architect/ivrs/{}", &["ivr"])?;
    let mut set = given.fields(&["dnis"]);
    for (parameter, field) in FLOWS {
        if let Some(id) = given.0.get(parameter).and_then(Value::as_str) {
            set.insert(field.into(), json!({"id": id}));
        }
    }
    if set.is_empty() {
        return Err("`parameters` changes nothing: name a flow or `dnis`".into());
    }
    Ok(put(path, set, Stamp::Version))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn route(trial: &Trial) {
        let named = |version, id: &str, name: &str| json!({"version": version, "openHoursFlow": {"id": id, "name": name}, "dnis": ["+1"]});
        let (path, parameters) = ("/api/v2/architect/ivrs/i", json!({"ivr": "i", "open_hours_flow": "f2"}));
        let routed = json!({"version": 1, "openHoursFlow": {"id": "f2"}, "dnis": ["+1"]});
        let (there, back) = (("PUT", path, routed), ("PUT", path, named(2, "f1", "Open")));
        trial.changes(parameters.clone(), named(1, "f1", "Open"), named(2, "f2", "Backup"), there, back);
        trial.shows(&parameters, named(2, "f2", "Backup"), Some(Shows::Worked));
        trial.shows(&parameters, named(1, "f1", "Open"), Some(Shows::NotYet));
        trial.refuses(json!({"ivr": "i"}), "changes nothing");
    }
}
