//! `emergency_group.set`: turns an emergency group on or off. What it carries besides, its call flows above
//! all, goes back unchanged: a PUT without them would disconnect its IVRs (genesys.md 3).

use serde_json::json;

use super::{Change, Given, Holds, Kind, Parameter, Stamp, needed, optional, put};

#[derive(Debug)]
pub(super) struct Set;

impl Kind for Set {
    fn name(&self) -> &'static str {
        "emergency_group.set"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[needed("group", Holds::Id), optional("enabled", Holds::Truth)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["routing:emergencyGroup:edit"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/architect/emergencygroups/{}", &["group"])?;
        let set = [("enabled".to_string(), json!(given.truth("enabled", true)))];
        Ok(put(path, set.into_iter().collect(), Stamp::Version))
    }
}
