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
