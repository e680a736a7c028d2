//! `queue.members` and `queue.put`: who serves a queue, and how it is set. The platform has no state of a
//! queue to switch (genesys.md 9): evacuating one is taking its members out.

use serde_json::Value;

use super::{Change, Given, Holds, Kind, Parameter, Stamp, change, needed, optional, put};

#[derive(Debug)]
pub(super) struct Members;

impl Kind for Members {
    fn name(&self) -> &'static str {
        "queue.members"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] =
            &[needed("queue", Holds::Id), needed("members", Holds::Ids), optional("joined", Holds::Truth)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["routing:queue:edit", "routing:queueMember:manage"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/routing/queues/{}/members", &["queue"])?;
        let ids = given.0.get("members").and_then(Value::as_array);
        let ids = ids.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        Ok(Change::Members(change::Members { path, ids, joined: given.truth("joined", true) }))
    }
}

#[derive(Debug)]
pub(super) struct Put;

impl Kind for Put {
    fn name(&self) -> &'static str {
        "queue.put"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const ALL: &[Parameter] = &[needed("queue", Holds::Id), needed("set", Holds::Object)];
        ALL
    }

    fn permissions(&self) -> &'static [&'static str] {
        &["routing:queue:edit"]
    }

    fn change(&self, given: &Given<'_>) -> Result<Change, String> {
        let path = given.path("/api/v2/routing/queues/{}", &["queue"])?;
        Ok(put(path, given.object("set"), Stamp::DateModified))
    }
}
