//! `datatable_row.set`: sets columns of a data table's row, by which a flow decides where calls go.

use super::{Change, Given, Holds, Kind, Object, Stamp, needed};
use crate::playbook::Method;

pub(super) static SET: Kind = Kind {
    name: "datatable_row.set",
    parameters: &[needed("table", Holds::Id), needed("key", Holds::Id), needed("values", Holds::Object)],
    can_be_looked_at: true,
    needs: "architect:datatableRow:edit or architect:datatable:edit",
    change: set,
    #[cfg(test)]
    tried: tests::set,
};

fn set(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/flows/datatables/{}/rows/{}", &["table", "key"])?;
    // Without it the answer has the key alone.
    let query = "?showbrief=false";
    let set = given.object("values");
    Ok(Change::Object(Object { path, query, set, method: Method::Put, stamp: Stamp::None }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn set(trial: &Trial) {
        let row = |route: &str| json!({"key": "lisbon", "route": route, "weight": 3});
        let path = "/api/v2/flows/datatables/t/rows/lisbon";
        let parameters = json!({"table": "t", "key": "lisbon", "values": {"route": "backup"}});
        let (there, back) = (("PUT", path, row("backup")), ("PUT", path, row("primary")));
        trial.changes(parameters.clone(), row("primary"), row("backup"), there, back);
        let path = trial.shows(&parameters, row("backup"), Some(Shows::Worked));
        assert!(path.ends_with("?showbrief=false"), "{path}");
        trial.shows(&parameters, row("primary"), Some(Shows::NotYet));
    }
}
