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
};

fn set(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/architect/emergencygroups/{}", &["group"])?;
    let set = Fields::from_iter([("enabled".to_string(), json!(given.truth("enabled", true)))]);
    Ok(put(path, set, Stamp::Version))
}
