//! `datatable_row.set`: sets columns of a data table's row, by which a flow decides where calls go.

use super::{Change, Given, Holds, Kind, Object, Stamp, needed};
use crate::playbook::Method;

pub(super) static SET: Kind = Kind {
    name: "datatable_row.set",
    parameters: &[needed("table", Holds::Id), needed("key", Holds::Id), needed("values", Holds::Object)],
    can_be_looked_at: true,
    needs: "architect:datatableRow:edit or architect:datatable:edit",
    change: set,
};

fn set(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/flows/datatables/{}/rows/{}", &["table", "key"])?;
    // Without it the answer has the key alone.
    let query = "?showbrief=false";
    let set = given.object("values");
    Ok(Change::Object(Object { path, query, set, method: Method::Put, stamp: Stamp::None }))
}
