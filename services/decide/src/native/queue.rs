//! `queue.members` and `queue.put`: who serves a queue, and how it is set. The platform has no state of a
//! queue to switch (genesys.md 9): evacuating one is taking its members out.

use super::{Change, Given, Holds, Kind, Members, Stamp, needed, optional, put};

pub(super) static MEMBERS: Kind = Kind {
    name: "queue.members",
    parameters: &[
        needed("queue", Holds::Id),
        needed("members", Holds::Ids),
        optional("joined", Holds::Truth),
    ],
    can_be_looked_at: true,
    needs: "routing:queue:edit or routing:queueMember:manage",
    change: members,
};

fn members(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/routing/queues/{}/members", &["queue"])?;
    let ids = given.ids("members").map(str::to_string).collect();
    Ok(Change::Members(Members { path, ids, joined: given.truth("joined", true) }))
}

pub(super) static PUT: Kind = Kind {
    name: "queue.put",
    parameters: &[needed("queue", Holds::Id), needed("set", Holds::Object)],
    can_be_looked_at: true,
    needs: "routing:queue:edit",
    change: replace,
};

fn replace(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/routing/queues/{}", &["queue"])?;
    Ok(put(path, given.object("set"), Stamp::DateModified))
}
