//! Queues and their members.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Family, Reply, Route, list, ok, page, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{State, micros};
use crate::world::{Kind, Marks, Traits};

const QUEUES: &str = "/api/v2/routing/queues";
const QUEUE: &str = "/api/v2/routing/queues/{id}";
const MEMBERS: &str = "/api/v2/routing/queues/{id}/members";

const SEE: &[&str] = &["routing:queue:view"];
const SEE_MEMBERS: &[&str] = &["routing:queue:view", "routing:queueMember:manage"];
const EDIT_MEMBERS: &[&str] = &["routing:queue:edit", "routing:queueMember:manage"];

/// Members that one call may change.
const PATCHED_MEMBERS_MAX: usize = 100;

/// What `PUT` may change.
const WRITABLE: &[&str] = &[
    "name",
    "division",
    "description",
    "mediaSettings",
    "routingRules",
    "conditionalGroupRouting",
    "conditionalGroupActivation",
    "bullseye",
    "scoringMethod",
    "lastAgentRoutingMode",
    "acwSettings",
    "skillEvaluationMethod",
    "memberGroups",
    "queueFlow",
    "emailInQueueFlow",
    "messageInQueueFlow",
    "whisperPrompt",
    "onHoldPrompt",
    "defaultMediaLanguage",
    "autoAnswerOnly",
    "cannedResponseLibraries",
    "enableTranscription",
    "enableAudioMonitoring",
    "enableManualAssignment",
    "agentOwnedRouting",
    "directRouting",
    "callingPartyName",
    "callingPartyNumber",
    "defaultScripts",
    "outboundMessagingAddresses",
    "outboundEmailAddress",
    "peerId",
    "suppressInQueueCallRecording",
];

impl Kind {
    pub const QUEUE: Kind = Kind(&Traits {
        name: "queue",
        writable: WRITABLE,
        marks: Marks::Author,
        founded: founded::queues,
        ..Traits::PLAIN
    });
    /// Its key is `queue/user`.
    pub const QUEUE_MEMBER: Kind =
        Kind(&Traits { name: "queue_member", founded: founded::members, ..Traits::PLAIN });
}

pub(super) const FAMILY: Family = Family { kinds: &[Kind::QUEUE, Kind::QUEUE_MEMBER], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, QUEUES, SEE, |state, asked| list(state, Kind::QUEUE, "", QUEUES, asked)),
    route(Method::GET, QUEUE, SEE, |state, asked| show(state, Kind::QUEUE, asked)),
    // No version: the last one wins.
    route(Method::PUT, QUEUE, &["routing:queue:edit"], |state, asked| replace(state, Kind::QUEUE, asked)),
    route(Method::GET, MEMBERS, SEE_MEMBERS, |state, asked| ok(members(state, asked)?)),
    route(Method::PATCH, MEMBERS, EDIT_MEMBERS, join),
];

fn members(state: &State, asked: &Asked) -> Result<Value, Refusal> {
    let queue = asked.first();
    state.world.find(Kind::QUEUE, queue)?;
    let joined = asked.query("joined").and_then(|text| text.to_ascii_lowercase().parse::<bool>().ok());
    let below = format!("{queue}/");
    let members = state
        .world
        .below(Kind::QUEUE_MEMBER, &below)
        .map(|(_, member)| member)
        .filter(|member| joined.is_none_or(|joined| member.get("joined") == Some(&json!(joined))));
    let mut page = page(members.cloned(), &MEMBERS.replace("{id}", queue), asked)?;
    // This listing does not tell how many there are.
    if let Some(page) = page.as_object_mut() {
        for counted in ["total", "pageCount", "lastUri"] {
            page.remove(counted);
        }
    }
    Ok(page)
}

/// Joins and unjoins existing members, one after the other: the answer shows them as they were.
fn join(state: &mut State, asked: &Asked) -> Answer {
    let queue = asked.first();
    state.world.find(Kind::QUEUE, queue)?;
    let changes = asked.body.as_array().ok_or_else(|| Refusal::bad_request("the body is no JSON array"))?;
    if changes.len() > PATCHED_MEMBERS_MAX {
        let count = changes.len();
        return Err(Refusal::bad_request(format!(
            "{count} members; {PATCHED_MEMBERS_MAX} may be changed at once"
        )));
    }
    let mut wanted = vec![];
    for change in changes {
        let id = change.get("id").and_then(Value::as_str);
        let joined = change.get("joined").and_then(Value::as_bool);
        let (Some(id), Some(joined)) = (id, joined) else {
            return Err(Refusal::bad_request("a member needs an id and joined"));
        };
        let key = format!("{queue}/{id}");
        state.world.find(Kind::QUEUE_MEMBER, &key)?;
        wanted.push((key, joined));
    }
    let each_us = micros(state.options.settle) / u64::try_from(wanted.len().max(1)).unwrap_or(1);
    let mut due_us = asked.now.us;
    for (key, joined) in wanted {
        due_us = due_us.saturating_add(each_us);
        state.world.later(due_us, Kind::QUEUE_MEMBER, &key, json!({ "joined": joined }))?;
    }
    Ok(Reply { status: 202, body: Some(members(state, asked)?) })
}

/// What is there at the start.
pub(crate) mod founded {
    use serde_json::{Value, json};

    use crate::organisation::{HUMAN, division};

    pub const QUEUE: &str = "40000000-0000-4000-8000-000000000001";
    /// Users who are members of [`QUEUE`], all joined.
    pub const MEMBERS: [&str; 5] = [
        "a1000000-0000-4000-8000-000000000001",
        "a1000000-0000-4000-8000-000000000002",
        "a1000000-0000-4000-8000-000000000003",
        "a1000000-0000-4000-8000-000000000004",
        "a1000000-0000-4000-8000-000000000005",
    ];

    pub(super) fn queues(date: &str) -> Vec<(String, Value)> {
        let queue = json!({
            "id": QUEUE,
            "name": "Service",
            "division": division(),
            "description": "Customer service",
            "dateCreated": date,
            "dateModified": date,
            "createdBy": HUMAN,
            "modifiedBy": HUMAN,
            "memberCount": MEMBERS.len(),
            "userMemberCount": MEMBERS.len(),
            "joinedMemberCount": MEMBERS.len(),
            "skillEvaluationMethod": "ALL",
            "scoringMethod": "TimestampAndPriority",
            "acwSettings": { "wrapupPrompt": "OPTIONAL" },
            "autoAnswerOnly": true,
            "enableTranscription": false,
            "enableManualAssignment": false,
            "selfUri": format!("/api/v2/routing/queues/{QUEUE}"),
        });
        vec![(QUEUE.into(), queue)]
    }

    pub(super) fn members(date: &str) -> Vec<(String, Value)> {
        let mut objects = vec![];
        for (number, id) in MEMBERS.iter().enumerate() {
            let name = format!("Agent {}", number + 1);
            let member = json!({
                "id": id,
                "name": name,
                "user": { "id": id, "name": name, "selfUri": format!("/api/v2/users/{id}") },
                "ringNumber": 1,
                "joined": true,
                "memberBy": "user",
                "routingStatus": { "userId": id, "status": "IDLE", "startTime": date },
                "selfUri": format!("/api/v2/routing/queues/{QUEUE}/members/{id}"),
            });
            objects.push((format!("{QUEUE}/{id}"), member));
        }
        objects
    }
}
