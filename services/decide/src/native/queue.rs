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
    #[cfg(test)]
    tried: tests::members,
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
    #[cfg(test)]
    tried: tests::replace,
};

fn replace(given: &Given<'_>) -> Result<Change, String> {
    let path = given.path("/api/v2/routing/queues/{}", &["queue"])?;
    Ok(put(path, given.object("set"), Stamp::DateModified))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proof::Shows;
    use super::super::trial::Trial;

    pub(super) fn members(trial: &Trial) {
        let shown = |a, b| json!({"entities": [{"id": "a", "joined": a}, {"id": "b", "joined": b}, {"id": "c", "joined": true}]});
        let patch =
            |joined| ("PATCH", "/api/v2/routing/queues/q/members", json!([{"id": "a", "joined": joined}]));
        let parameters = json!({"queue": "q", "members": ["a", "b"], "joined": false});
        trial.changes(parameters.clone(), shown(true, false), shown(false, false), patch(false), patch(true));
        trial.shows(&parameters, shown(false, false), Some(Shows::Worked));
        trial.shows(&parameters, shown(false, true), Some(Shows::NotYet));
        trial.shows(&parameters, json!({"entities": []}), None);
    }

    pub(super) fn replace(trial: &Trial) {
        let path = "/api/v2/routing/queues/q";
        let parameters = json!({"queue": "q", "set": {"autoAnswerOnly": true}});
        trial.changes(
            parameters.clone(),
            json!({"name": "Sales", "dateModified": "1"}),
            json!({"name": "Sales", "autoAnswerOnly": true, "dateModified": "2"}),
            ("PUT", path, json!({"name": "Sales", "autoAnswerOnly": true, "dateModified": "1"})),
            ("PUT", path, json!({"name": "Sales", "dateModified": "2"})),
        );
        trial.shows(&parameters, json!({"autoAnswerOnly": true}), Some(Shows::Worked));
        trial.shows(&parameters, json!({}), Some(Shows::NotYet));
    }
}
