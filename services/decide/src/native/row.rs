//! `datatable_row.set`: sets columns of a data table's row, by which a flow decides where calls go.

use super::{Change, Given, Holds, Kind, Object, Parameter, Stamp, needed};
use crate::playbook::Method;

#[derive(Debug)]
pub(super) struct Set;

impl Kind for Set {
    fn name(&self) -> &'static str {
        "datatable_row.set"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] =
            &[needed("table", Holds::Id), needed("key", Holds::Id), needed("values", Holds::Object)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["architect:datatableRow:edit", "architect:datatable:edit"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/flows/datatables/{}/rows/{}", &["table", "key"])?;
        // Without it the answer has the key alone.
        let query = "?showbrief=false";
        let set = given.object("values");
        Ok(Change::Object(Object { path, query, set, method: Method::Put, stamp: Stamp::None }))
    }
}
