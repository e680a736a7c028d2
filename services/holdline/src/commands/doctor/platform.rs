//! OAuth clients: a token, and whether each may read what its actions read. What an action changes is known only when
//! it is changed, so of that it is said what it needs.
//!
//! Only GETs leave here, and a bounded number of them: they count against the client's own limit at the platform.

use std::collections::BTreeMap;

use holdline_decide::native::{Given, TELEPHONY};
use holdline_decide::playbook::{Doing, Native, Platform, Set};
use holdline_decide::source::channel;
use holdline_decide::subscribe::is_listed;
use holdline_platform::{Api, Failed};
use holdline_proto::signal::Values;
use serde_json::{Map, Value, json};

use super::Scene;
use super::finding::{Finding, State};
use crate::commands::subscriptions::TOPICS;

/// Calls that one run makes as one client: a fraction of the 300 that it has in a minute.
const CALLS_MAX: usize = 40;

/// Stands where an event's value would: the id of nothing.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// Something that a client has to be able to read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    what: String,
    path: String,
    /// Something that is there: otherwise the answer that there is no such thing will do.
    is_there: bool,
    /// The permissions that the action needs.
    needs: String,
}

/// What a client is asked, and what cannot be.
#[derive(Debug, Default)]
struct Questions {
    asked: Vec<Question>,
    found: Vec<Finding>,
    /// Permissions that show only when something is changed.
    changing: Vec<String>,
}

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let Ok(set) = &scene.set else {
        return Ok(vec![Finding::unknown("platform", "not known: there is no set of playbooks", "push one")]);
    };
    let Some(platform) = &set.platform else {
        return Ok(vec![Finding::well("platform", "the playbooks name none, and do nothing there")]);
    };
    let api = Api::new(scene.secrets.clone())?;
    let mut found = vec![];
    for name in platform.clients.keys() {
        found.extend(ask(scene, set, platform, &api, name).await);
    }
    Ok(found)
}

async fn ask(scene: &Scene, set: &Set, platform: &Platform, api: &Api, name: &str) -> Vec<Finding> {
    let what = format!("client {name}");
    let Some(client) = platform.clients.get(name) else { return vec![] };
    for reference in [&client.id, &client.secret] {
        if let Err(why) = scene.secrets.fetch(reference).await {
            return vec![Finding::unknown(
                what,
                format!("not tried: {reference} leads to no secret here: {why}"),
                "call this with the executor's environment, or look at the executor's /readyz (--admin)",
            )];
        }
    }
    match api.authenticate(platform, name).await {
        Ok(()) => {}
        Err(Failed::Unsent { reason, .. } | Failed::Throttled { reason, .. } | Failed::Lost { reason }) => {
            let todo = "see in Admin > OAuth that the client is there, is active and grants client credentials, and \
                        that its id and secret are those that the references lead to";
            return vec![Finding::person(what, format!("no token: {reason}"), todo)];
        }
    }
    let mut found = vec![Finding::well(&what, "the platform gives it a token")];
    let questions = questions(set, platform, name);
    let asked = questions.asked.len();
    for (number, question) in questions.asked.into_iter().enumerate() {
        if number >= CALLS_MAX {
            let skipped =
                format!("{} more action(s) were not tried: {CALLS_MAX} calls are enough", asked - number);
            found.push(Finding::unknown(&what, skipped, "give some of them a client of their own"));
            break;
        }
        let call = holdline_decide::native::Call::get(question.path.clone());
        match api.send(platform, name, &call).await {
            Ok(response) => {
                let told = if response.status == 200 && question.path == TOPICS {
                    topics(set, name, &response.body)
                } else {
                    vec![judge(&question, name, response.status, response.message())]
                };
                found.extend(told);
                if response.status == 429 {
                    break;
                }
            }
            Err(
                Failed::Unsent { reason, .. } | Failed::Throttled { reason, .. } | Failed::Lost { reason },
            ) => {
                let todo = "look at the network between here and the platform, and at its status page";
                found.push(Finding::person(question.what, format!("no answer: {reason}"), todo));
                // The next would wait as long.
                break;
            }
        }
    }
    found.extend(questions.found);
    if !questions.changing.is_empty() {
        found.push(Finding::unknown(
            format!("client {name}: changes"),
            "not checked: whether it may change what it may read shows only when it does",
            format!(
                "see in Admin > Roles that the client's roles have {}, in the divisions of what it acts on",
                questions.changing.join("; ")
            ),
        ));
    }
    found
}

/// What a client has to be able to read, for its actions and for the channels of its subscriptions.
fn questions(set: &Set, platform: &Platform, name: &str) -> Questions {
    let mut all = Questions::default();
    let mut by_path: BTreeMap<String, Question> = BTreeMap::new();
    for action in set.actions.values() {
        let Doing::Native(native) = &action.what else { continue };
        if platform.client(native.client.as_deref()).map(|(client, _)| client) != Some(name) {
            continue;
        }
        let (kind, what) = (native.kind, format!("action {}", action.name));
        if (kind.needs != TELEPHONY || !kind.can_be_looked_at)
            && !all.changing.iter().any(|n| n == kind.needs)
        {
            all.changing.push(kind.needs.into());
        }
        match path(native) {
            Ok(None) => all.found.push(Finding::unknown(
                what,
                format!("not checked: {} is only started, and cannot be looked at", kind.name),
                format!(
                    "see that the roles of client {name} have {}, and that what it starts is there",
                    kind.needs
                ),
            )),
            Ok(Some((path, is_there))) => {
                let question = Question { what, path: path.clone(), is_there, needs: kind.needs.into() };
                by_path.entry(path).or_insert(question);
            }
            Err(why) => all.found.push(Finding::unknown(
                what,
                format!("not checked: it cannot be said what it reads without an event: {why}"),
                format!("see that the roles of client {name} have {}", kind.needs),
            )),
        }
    }
    all.asked.extend(by_path.into_values());
    let pulled = set
        .subscriptions
        .values()
        .filter(|subscription| subscription.pull.as_ref().is_some_and(|pull| pull.client == name));
    for (number, subscription) in pulled.enumerate() {
        let what = format!("subscription {}", subscription.name);
        let needs = String::from(TELEPHONY);
        if number == 0 {
            let path = TOPICS.into();
            all.asked.push(Question { what: what.clone(), path, is_there: true, needs: needs.clone() });
        }
        if let Some(list) = channel::list(&subscription.topic) {
            let path = format!("{list}?pageSize=1");
            all.asked.push(Question { what: what.clone(), path, is_there: true, needs });
        }
        all.found.push(Finding::unknown(
            format!("{what}: channel"),
            "not checked: whether its topics may be heard shows only on a channel, and none is opened here",
            "`holdline subscriptions diff DIR` opens one for a moment and says so",
        ));
    }
    all
}

/// What an action reads, and whether that is something of its own rather than of an event. `None`: nothing.
fn path(native: &Native) -> Result<Option<(String, bool)>, String> {
    let paths: Vec<String> = native.parameters.paths().map(ToString::to_string).collect();
    let mut last = String::new();
    // What an event has there is not known: an id most often, else a number or a yes or no.
    for stand_in in [json!(NOBODY), json!(1), json!(true)] {
        let values: Values = paths.iter().map(|path| (path.clone(), stand_in.clone())).collect();
        let change = native.parameters.render(&values).map_err(|error| error.to_string()).and_then(|text| {
            let parameters: Map<String, Value> =
                serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let given = Given(&parameters);
            given.check(native.kind)?;
            (native.kind.change)(&given)
        });
        match change {
            Ok(change) => {
                let is_there = |path: &String| !path.contains(NOBODY) && stand_in == json!(NOBODY);
                let one = |(path, paged)| if paged { format!("{path}?pageSize=1") } else { path };
                return Ok(change.look().map(one).map(|path| {
                    let is_there = is_there(&path);
                    (path, is_there)
                }));
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// What an answer says about a client.
fn judge(question: &Question, client: &str, status: u16, message: &str) -> Finding {
    let Question { what, path, is_there, needs } = question;
    let path = path.split('?').next().unwrap_or_default();
    let answered = format!("client {client}, GET {path}: {status} {message}");
    let (state, found, todo) = match (status, is_there) {
        (200..300, _) => (State::Well, format!("client {client} may read {path}"), String::new()),
        (404, false) => {
            let found = format!("client {client} may read what stands where {path} does");
            (State::Well, found, String::new())
        }
        (404, true) => {
            let todo = "correct the id in its file, or put back what was there; something of a division that the client \
                        has no role in is not there for it either";
            (State::Person, answered, todo.into())
        }
        (403, _) => {
            let todo = format!(
                "give the client a role in Admin > Roles that has {needs}, and the permission to view the same, in the \
                 divisions of what it acts on"
            );
            (State::Person, answered, todo)
        }
        (429, _) => {
            let todo = "try it again in a minute, and see what else calls as this client".into();
            (State::Unknown, format!("not known, the platform throttles: {answered}"), todo)
        }
        (400, false) => {
            let todo = format!("see that the client's roles have {needs}");
            (State::Unknown, format!("not known, an example was not taken: {answered}"), todo)
        }
        _ => (State::Person, answered, "look at the platform's status page, then try it again".into()),
    };
    Finding::new(what, state, found, todo)
}

/// Whether the topics of a client's subscriptions are listed.
fn topics(set: &Set, client: &str, body: &Value) -> Vec<Finding> {
    let listed = body.get("entities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut found = vec![];
    for subscription in set.subscriptions.values() {
        if subscription.pull.as_ref().is_none_or(|pull| pull.client != client) {
            continue;
        }
        let (what, topic) = (format!("subscription {}: topic", subscription.name), &subscription.topic);
        found.push(if is_listed(listed, topic) {
            Finding::well(what, format!("the platform has {topic}"))
        } else {
            let todo =
                "correct its topicName: `GET /api/v2/notifications/availabletopics` lists what there is";
            Finding::person(what, format!("the platform lists no {topic}"), todo)
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::set_with;
    use super::*;

    fn set(actions: &[Value]) -> Set {
        let action = |(n, action): (usize, &Value)| (format!("actions/own-{n}.json"), action.to_string());
        let mut files: Vec<(String, String)> = actions.iter().enumerate().map(action).collect();
        let settings = "platform: {region: mypurecloud.ie, clients: {one: {id: env:A, secret: env:B}, two: {id: env:A, \
                        secret: env:B}}}\n";
        files.push(("holdline.yaml".into(), settings.into()));
        set_with(files)
    }

    #[test]
    fn a_client_is_asked_for_what_its_actions_read() {
        let action = |name: &str, kind: &str, client: &str, parameters: Value| json!({"name": name, "actionType": "GENESYS", "kind": kind, "client": client, "parameters": parameters});
        let set = set(&[
            action("group", "emergency_group.set", "one", json!({"group": "g"})),
            action("again", "emergency_group.set", "one", json!({"group": "g", "enabled": false})),
            action("event", "emergency_group.set", "one", json!({"group": "{{data.group}}"})),
            action("members", "queue.members", "one", json!({"queue": "q", "members": ["{{data.agent}}"]})),
            action("flow", "flow.execute", "one", json!({"flow": "f"})),
            action("edge", "edge.out_of_service", "two", json!({"edge": "e", "drain_s": "{{data.drain}}"})),
            action(
                "route",
                "outbound_route.reorder",
                "two",
                json!({"site": "s", "route": "r", "trunk_bases": ["b"]}),
            ),
        ]);
        let platform = set.platform.clone().unwrap();
        let check = |client: &str, asked: &[(&str, bool)], unknown: &[&str], changing: &[&str]| {
            let questions = questions(&set, &platform, client);
            let told: Vec<(&str, bool)> =
                questions.asked.iter().map(|question| (question.path.as_str(), question.is_there)).collect();
            assert_eq!(told, asked, "{client}");
            let told: Vec<&str> = questions.found.iter().map(|finding| finding.what.as_str()).collect();
            assert_eq!(told, unknown, "{client}");
            assert_eq!(questions.changing, changing, "{client}");
        };
        let nobody = format!("/api/v2/architect/emergencygroups/{NOBODY}");
        check(
            "one",
            &[
                (nobody.as_str(), false),
                ("/api/v2/architect/emergencygroups/g", true),
                ("/api/v2/routing/queues/q/members?pageSize=1", true),
            ],
            &["action flow"],
            &[
                "routing:emergencyGroup:edit",
                "architect:flow:launch",
                "routing:queue:edit or routing:queueMember:manage",
            ],
        );
        let site = "/api/v2/telephony/providers/edges/sites/s/outboundroutes/r";
        // A text where a number belongs: what it reads cannot be said without an event.
        check("two", &[(site, true)], &["action edge"], &[]);
    }

    #[test]
    fn an_answer_is_told_with_what_to_do() {
        let question = |is_there| Question {
            what: "action a".into(),
            path: "/api/v2/x?pageSize=1".into(),
            is_there,
            needs: "x:y:z".into(),
        };
        let check = |status, is_there, state, todo: &str| {
            let finding = judge(&question(is_there), "one", status, "said so");
            assert_eq!(finding.state, state, "{status}");
            assert!(finding.todo.contains(todo), "{status}: {}", finding.todo);
            assert!(finding.found.contains("/api/v2/x") && !finding.found.contains('?'), "{}", finding.found);
        };
        check(200, true, State::Well, "");
        check(404, false, State::Well, "");
        check(404, true, State::Person, "correct the id");
        check(403, true, State::Person, "x:y:z");
        check(403, false, State::Person, "x:y:z");
        check(400, false, State::Unknown, "x:y:z");
        check(400, true, State::Person, "status page");
        check(401, true, State::Person, "status page");
        check(429, true, State::Unknown, "again in a minute");
        check(503, false, State::Person, "status page");
    }
}
