//! From what the platform shows to the one call that is needed, and back again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::digest::Digest;
use holdline_proto::wire::Wire;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::playbook::Method;

/// Fields of an object, by name.
pub type Fields = Map<String, Value>;

/// What an action wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Fields of an object: read, merge, write.
    Object(Object),
    /// One of two states that calls of their own lead to.
    Switch(Switch),
    /// Members of a queue, by one call for all.
    Members(Members),
    /// Something that is started and cannot be looked at.
    Launch(Launch),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub path: String,
    /// Added to the path when it is read.
    pub query: &'static str,
    pub set: Fields,
    /// PUT: the whole object goes back. PATCH: the fields alone.
    pub method: Method,
    pub stamp: Stamp,
}

/// By what the platform tells that an object was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// `version`, which a PUT must repeat and which grows with each.
    Version,
    DateModified,
    /// Nothing: the fields themselves are compared.
    None,
}

impl Stamp {
    fn of(self, object: &Value) -> Option<Value> {
        let field = match self {
            Stamp::Version => "version",
            Stamp::DateModified => "dateModified",
            Stamp::None => return None,
        };
        object.get(field).filter(|stamp| !stamp.is_null()).cloned()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Switch {
    pub path: String,
    pub field: &'static str,
    /// Values in which it may be switched.
    pub from: &'static [&'static str],
    /// Values in which it is switched already.
    pub to: &'static [&'static str],
    /// Those of them that pass by themselves: it cannot be switched back before.
    pub passing: &'static [&'static str],
    /// Those of them in which it is switched back; in the others it has come to its end by itself.
    pub back_from: &'static [&'static str],
    /// The call that switches, and the one that switches back.
    pub there: (String, Option<Value>),
    pub back: (String, Option<Value>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    pub path: String,
    pub ids: Vec<String>,
    pub joined: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub path: String,
    pub body: Value,
}

impl Wire for InForce {
    const KIND: &'static str = "pre-image";
}

impl Change {
    /// Names what is changed and to what: the same for every incident that wants it so. `None`: nothing stays changed.
    pub fn identity(&self) -> Option<String> {
        let wanted = match self {
            Change::Object(object) => Value::Object(object.set.clone()).to_string(),
            Change::Switch(switch) => switch.there.0.clone(),
            Change::Members(members) => {
                let ids: BTreeSet<&str> = members.ids.iter().map(String::as_str).collect();
                format!("{} {ids:?}", members.joined)
            }
            Change::Launch(_) => return None,
        };
        Some(Digest::of([self.object()?, wanted]).hex())
    }

    /// Where what is changed is: whoever changes anything of it has to have it to himself.
    pub fn object(&self) -> Option<String> {
        self.look().map(|(path, _)| path)
    }

    /// What is read before: a path with its query, and whether the answer comes in pages. `None`: there is
    /// nothing to look at, so a call that may have happened must not be repeated.
    pub fn look(&self) -> Option<(String, bool)> {
        match self {
            Change::Object(object) => Some((format!("{}{}", object.path, object.query), false)),
            Change::Switch(switch) => Some((switch.path.clone(), false)),
            Change::Members(members) => Some((members.path.clone(), true)),
            Change::Launch(_) => None,
        }
    }
}

/// A call of the platform's API.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

/// Entries of one page of the platform's lists. A page with fewer is the last.
pub const PAGE_SIZE: usize = 100;

impl Call {
    /// Looks at something.
    pub fn get(path: String) -> Call {
        Call { method: Method::Get, path, body: None }
    }

    /// Looks at a page of a list; the first is 1.
    pub fn page(path: &str, number: usize) -> Call {
        Call::get(format!("{path}?pageSize={PAGE_SIZE}&pageNumber={number}"))
    }
}

/// A change that is in force, and who relies on it: several entities may want the same of one object, such as the
/// emergency group of all trunks of a site. It is made once, and undone when the last of them is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InForce {
    pub kept: Kept,
    /// Remedies (incident and step) that were carried out by it and will be undone.
    pub relying: BTreeSet<String>,
    /// Remedies of which a call may have led to it, and that is not known.
    #[serde(default)]
    pub begun: BTreeSet<String>,
    /// Nobody relies on it any more, and it is not known to be undone yet.
    #[serde(default)]
    pub owed: bool,
}

/// Remedies of one change that may be begun and not known to be through. Beyond: the next is refused, and people are told.
pub const BEGUN_MAX: usize = 1_000;

impl InForce {
    /// Whether what was there before is still to be put back by somebody.
    pub fn is_live(&self) -> bool {
        self.owed || !self.relying.is_empty()
    }

    /// The trouble of a remedy is over, whatever comes of undoing it: what it needed is owed, unless others need it.
    /// `perhaps_undone`: an undo of it may have begun already.
    #[must_use]
    pub fn without(mut self, remedy: &str, perhaps_undone: bool) -> InForce {
        let needed = self.relying.remove(remedy) | self.begun.remove(remedy);
        self.owed = self.relying.is_empty() && (self.owed || needed || perhaps_undone);
        self
    }

    /// It is about to be brought about by a remedy.
    #[must_use]
    pub fn beginning(mut self, remedy: &str, kept: Kept) -> InForce {
        self.begun.insert(remedy.into());
        InForce { kept, ..self }
    }

    /// It has been brought about by a remedy, or stood already.
    #[must_use]
    pub fn carried(mut self, remedy: &str, kept: Kept) -> InForce {
        self.begun.remove(remedy);
        self.relying.insert(remedy.into());
        InForce { kept, owed: false, ..self }
    }

    /// It is undone: nobody has anything to put back.
    #[must_use]
    pub fn undone(self) -> InForce {
        InForce { begun: BTreeSet::new(), owed: false, ..self }
    }
}

/// The pre-image of a change, and what is known of the change itself: kept from before the call until the
/// last incident that relies on it is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The fields that the change sets, as they were. An absent field was absent.
    pub before: Fields,
    /// The fields as the change sets them.
    pub wrote: Fields,
    /// The stamp before the change.
    #[serde(default)]
    pub stamp_before: Option<Value>,
    /// The stamp that our write led to; `None` until it is known.
    #[serde(default)]
    pub stamp_after: Option<Value>,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// It is as it should be.
    Already,
    Send(Call),
    /// It cannot be done as things are.
    Refused(String),
    /// Somebody else has changed it since: a person has to look.
    Intervened(String),
    /// It cannot be done yet, and will be possible by itself.
    Wait,
}

/// What it takes to bring a change about, and the pre-image to keep. `known` is what is kept already: while the change
/// stands its pre-image stays, because what is there now may be our own work.
pub fn plan(change: &Change, known: Option<&Kept>, shown: &Value) -> (Plan, Kept) {
    let (now, wrote) = match fields(change, shown) {
        Ok(fields) => fields,
        Err(reason) => return (Plan::Refused(reason), Kept::default()),
    };
    let stamp = stamp_of(change).of(shown);
    let stands = is_made(change, &now, &wrote);
    let mut keep = known.filter(|_| stands).cloned().unwrap_or_else(|| Kept {
        before: now.clone(),
        wrote: wrote.clone(),
        stamp_before: stamp.clone(),
        stamp_after: None,
    });
    let call = match change {
        Change::Object(object) if now != wrote => Some(object.call(shown, &wrote)),
        Change::Switch(switch) => match now.get(switch.field).and_then(Value::as_str) {
            Some(state) if switch.to.contains(&state) => None,
            Some(state) if switch.from.contains(&state) => Some(post(&switch.there)),
            state => {
                let (field, from) = (switch.field, switch.from.join(" or "));
                let state = state.unwrap_or("unknown");
                let reason = format!("{field} is {state}; expected {from}");
                return (Plan::Refused(reason), keep);
            }
        },
        Change::Members(members) => members.patch(&now, &wrote),
        Change::Launch(launch) => Some(post(&(launch.path.clone(), Some(launch.body.clone())))),
        Change::Object(_) => None,
    };
    match call {
        Some(call) => (Plan::Send(call), keep),
        None => {
            // An earlier call whose answer was lost: one version later, with what we wrote, it was ours.
            if keep.stamp_after.is_none() && keep.before != keep.wrote && follows(&keep, stamp.as_ref()) {
                keep.stamp_after = stamp;
            }
            (Plan::Already, keep)
        }
    }
}

/// Whether what is shown is what the change wants.
fn is_made(change: &Change, now: &Fields, wrote: &Fields) -> bool {
    match change {
        Change::Switch(switch) => is_in(switch, now, switch.to),
        Change::Object(_) | Change::Members(_) | Change::Launch(_) => now == wrote,
    }
}

fn is_in(switch: &Switch, fields: &Fields, states: &[&str]) -> bool {
    fields.get(switch.field).and_then(Value::as_str).is_some_and(|state| states.contains(&state))
}

/// What it takes to restore what was there before, unless somebody has changed it since. Whether others rely on the
/// change is for the caller to know.
pub fn undo(change: &Change, kept: &Kept, shown: &Value) -> Plan {
    let (now, _) = match fields(change, shown) {
        Ok(fields) => fields,
        Err(reason) => return Plan::Refused(reason),
    };
    match change {
        Change::Switch(switch) if !is_in(switch, &kept.before, switch.from) => return Plan::Already,
        Change::Switch(switch) if is_in(switch, &now, switch.passing) => return Plan::Wait,
        Change::Switch(switch) if is_in(switch, &now, switch.back_from) => {
            return Plan::Send(post(&switch.back));
        }
        Change::Switch(_) => return Plan::Already,
        // What it shows may be from before our own write, which takes effect by and by; and there is no third state
        // that somebody else could have chosen.
        Change::Members(members) => {
            return match members.patch(&kept.wrote, &kept.before) {
                Some(call) => Plan::Send(call),
                None => Plan::Already,
            };
        }
        Change::Object(_) | Change::Launch(_) => {}
    }
    if now == kept.before {
        return Plan::Already;
    }
    let stamp = stamp_of(change);
    if stamp != Stamp::None {
        let found = stamp.of(shown);
        match &kept.stamp_after {
            Some(ours) if found.as_ref() == Some(ours) => {}
            Some(ours) => {
                let found = found.unwrap_or(Value::Null);
                return Plan::Intervened(format!(
                    "somebody has changed it since: our write led to {ours}, now it is {found}"
                ));
            }
            None => {
                return Plan::Intervened(
                    "the answer to our write was lost, so it is not known whether somebody has changed it since"
                        .into(),
                );
            }
        }
    } else if now != kept.wrote {
        let differs = kept.wrote.iter().find(|(field, value)| now.get(*field) != Some(value));
        let field = differs.map_or("a field", |(field, _)| field);
        return Plan::Intervened(format!("somebody has changed it since: {field} is not what we wrote"));
    }
    match change {
        Change::Object(object) => match object.stays(&kept.before) {
            Some(field) => Plan::Refused(format!(
                "{field} had no value before, and it is not known that the platform can be made to forget one: a person \
                 has to put it right"
            )),
            None => Plan::Send(object.call(shown, &kept.before)),
        },
        Change::Members(_) | Change::Switch(_) | Change::Launch(_) => Plan::Already,
    }
}

/// What the answer to our write says, added to what is kept.
pub fn noted(change: &Change, kept: &Kept, answer: &Value) -> Kept {
    Kept { stamp_after: stamp_of(change).of(answer).or_else(|| kept.stamp_after.clone()), ..kept.clone() }
}

fn stamp_of(change: &Change) -> Stamp {
    match change {
        Change::Object(object) => object.stamp,
        Change::Switch(_) | Change::Members(_) | Change::Launch(_) => Stamp::None,
    }
}

fn follows(kept: &Kept, stamp: Option<&Value>) -> bool {
    let number = |stamp: Option<&Value>| stamp.and_then(Value::as_i64);
    match (number(kept.stamp_before.as_ref()), number(stamp)) {
        (Some(before), Some(now)) => now == before.saturating_add(1),
        _ => false,
    }
}

/// The fields that a change is about: as they are shown, and as they are wanted.
fn fields(change: &Change, shown: &Value) -> Result<(Fields, Fields), String> {
    match change {
        Change::Object(object) => {
            let Some(shown) = shown.as_object() else {
                return Err("what the platform shows is no object".into());
            };
            let now = object.set.iter().filter_map(|(field, wanted)| {
                let value = shown.get(field)?;
                Some((field.clone(), if same(wanted, value) { wanted.clone() } else { value.clone() }))
            });
            Ok((now.collect(), object.set.clone()))
        }
        Change::Switch(switch) => {
            let now = shown.get(switch.field).map(|state| (switch.field.to_string(), state.clone()));
            let wanted = switch.to.first().map(|state| (switch.field.to_string(), json!(state)));
            Ok((now.into_iter().collect(), wanted.into_iter().collect()))
        }
        Change::Members(members) => {
            let entities = shown.get("entities").and_then(Value::as_array);
            let joined: BTreeMap<&str, &Value> = entities
                .into_iter()
                .flatten()
                .filter_map(|member| Some((member.get("id")?.as_str()?, member.get("joined")?)))
                .collect();
            let mut now = Map::new();
            for id in &members.ids {
                match joined.get(id.as_str()) {
                    Some(joined) => now.insert(id.clone(), (*joined).clone()),
                    None => return Err(format!("{id} is no member of the queue")),
                };
            }
            Ok((now, members.ids.iter().map(|id| (id.clone(), json!(members.joined))).collect()))
        }
        Change::Launch(_) => Ok((Map::new(), Map::new())),
    }
}

/// Whether the platform shows what was written: a reference comes back with its name and address added, and
/// a number perhaps as a float.
fn same(wrote: &Value, shown: &Value) -> bool {
    match (wrote, shown) {
        (Value::Object(wrote), Value::Object(shown)) => {
            wrote.iter().all(|(field, value)| shown.get(field).is_some_and(|shown| same(value, shown)))
        }
        (Value::Array(wrote), Value::Array(shown)) => {
            wrote.len() == shown.len() && wrote.iter().zip(shown).all(|(wrote, shown)| same(wrote, shown))
        }
        (Value::Number(wrote), Value::Number(shown)) => wrote.as_f64() == shown.as_f64(),
        _ => wrote == shown,
    }
}

impl Object {
    /// A field that was absent, and that a PATCH leaves as it is.
    fn stays(&self, before: &Fields) -> Option<&String> {
        let patched = (self.method == Method::Patch).then_some(&self.set);
        patched.into_iter().flat_map(Fields::keys).find(|field| !before.contains_key(*field))
    }

    /// Sets the fields; those that the change sets and that are not among them go.
    fn call(&self, shown: &Value, fields: &Fields) -> Call {
        let mut body = match self.method {
            Method::Patch => Map::new(),
            _ => shown.as_object().cloned().unwrap_or_default(),
        };
        for field in self.set.keys() {
            match (fields.get(field), self.method) {
                (Some(value), _) => drop(body.insert(field.clone(), value.clone())),
                (None, Method::Patch) => {}
                (None, _) => drop(body.remove(field)),
            }
        }
        Call { method: self.method, path: self.path.clone(), body: Some(body.into()) }
    }
}

impl Members {
    /// One call for every member that is not as wanted, if there is any.
    fn patch(&self, now: &Fields, wanted: &Fields) -> Option<Call> {
        let differ = wanted.iter().filter(|(id, joined)| now.get(*id) != Some(joined));
        let body: Vec<Value> = differ.map(|(id, joined)| json!({"id": id, "joined": joined})).collect();
        let call = Call { method: Method::Patch, path: self.path.clone(), body: Some(body.clone().into()) };
        (!body.is_empty()).then_some(call)
    }
}

fn post((path, body): &(String, Option<Value>)) -> Call {
    Call { method: Method::Post, path: path.clone(), body: body.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::{Given, KINDS, kind};
    use super::*;

    fn change(name: &str, parameters: Value) -> Change {
        let kind = kind(name).unwrap();
        let parameters = parameters.as_object().unwrap();
        Given(parameters).check(kind).unwrap();
        (kind.change)(&Given(parameters)).unwrap()
    }

    fn sent(plan: Plan) -> (&'static str, String, Value) {
        match plan {
            Plan::Send(call) => (call.method.name(), call.path, call.body.unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn e2_every_kind_changes_what_it_names_and_puts_it_back() {
        let check =
            |name, parameters, before: Value, after: Value, there: (&str, &str, Value), back: Value| {
                let change = change(name, parameters);
                let (planned, kept) = plan(&change, None, &before);
                let (method, path, body) = sent(planned);
                assert_eq!((method, path.as_str(), body), there, "{name}");
                let kept = noted(&change, &kept, &after);
                // Again, after a crash or for another incident that wants the same: it is so already, and what was
                // there before stays known.
                assert_eq!(plan(&change, Some(&kept), &after), (Plan::Already, kept.clone()), "{name}");
                if name == "campaign.stop" {
                    assert_eq!(undo(&change, &kept, &after), Plan::Wait);
                    assert_eq!(undo(&change, &kept, &json!({"campaignStatus": "complete"})), Plan::Already);
                    sent(undo(&change, &kept, &json!({"campaignStatus": "off"})));
                    return;
                }
                let (_, _, body) = sent(undo(&change, &kept, &after));
                assert_eq!(body, back, "{name}");
                // Of members it may show what was before our own write took effect.
                if name != "queue.members" {
                    assert_eq!(undo(&change, &kept, &before), Plan::Already, "{name}");
                }
            };
        let group = |enabled, version| {
            json!({"id": "g", "name": "Voice", "enabled": enabled, "version": version,
                   "emergencyCallFlows": [{"emergencyFlow": {"id": "f"}, "ivrs": [{"id": "i"}]}]})
        };
        let group_path = "/api/v2/architect/emergencygroups/g";
        check(
            "emergency_group.set",
            json!({"group": "g"}),
            group(false, 4),
            group(true, 5),
            ("PUT", group_path, group(true, 4)),
            group(false, 5),
        );
        check(
            "datatable_row.set",
            json!({"table": "t", "key": "lisbon", "values": {"route": "backup"}}),
            json!({"key": "lisbon", "route": "primary", "weight": 3}),
            json!({"key": "lisbon", "route": "backup", "weight": 3}),
            (
                "PUT",
                "/api/v2/flows/datatables/t/rows/lisbon",
                json!({"key": "lisbon", "route": "backup", "weight": 3}),
            ),
            json!({"key": "lisbon", "route": "primary", "weight": 3}),
        );
        let route = |order: [&str; 2], version| {
            let bases: Vec<Value> =
                order.iter().map(|id| json!({"id": id, "name": "named", "selfUri": "/x"})).collect();
            json!({"id": "r", "version": version, "externalTrunkBases": bases})
        };
        let mut reordered = route(["a", "b"], 7);
        reordered["externalTrunkBases"] = json!([{"id": "b"}, {"id": "a"}]);
        check(
            "outbound_route.reorder",
            json!({"site": "s", "route": "r", "trunk_bases": ["b", "a"]}),
            route(["a", "b"], 7),
            route(["b", "a"], 8),
            ("PUT", "/api/v2/telephony/providers/edges/sites/s/outboundroutes/r", reordered),
            route(["a", "b"], 8),
        );
        check(
            "campaign.stop",
            json!({"campaign": "c"}),
            json!({"campaignStatus": "on"}),
            json!({"campaignStatus": "stopping"}),
            ("POST", "/api/v2/outbound/campaigns/c/stop", Value::Null),
            Value::Null,
        );
        check(
            "campaign.throttle",
            json!({"campaign": "c", "outbound_lines": 5}),
            json!({"outboundLineCount": 50, "abandonRate": 3.0}),
            json!({"outboundLineCount": 5, "abandonRate": 3.0}),
            ("PATCH", "/api/v2/outbound/campaigns/c", json!({"outboundLineCount": 5})),
            json!({"outboundLineCount": 50}),
        );
        check(
            "ivr.route",
            json!({"ivr": "i", "open_hours_flow": "f2"}),
            json!({"version": 1, "openHoursFlow": {"id": "f1", "name": "Open"}, "dnis": ["+1"]}),
            json!({"version": 2, "openHoursFlow": {"id": "f2", "name": "Backup"}, "dnis": ["+1"]}),
            (
                "PUT",
                "/api/v2/architect/ivrs/i",
                json!({"version": 1, "openHoursFlow": {"id": "f2"}, "dnis": ["+1"]}),
            ),
            json!({"version": 2, "openHoursFlow": {"id": "f1", "name": "Open"}, "dnis": ["+1"]}),
        );
        let members = |a, b| json!({"entities": [{"id": "a", "joined": a}, {"id": "b", "joined": b}, {"id": "c", "joined": true}]});
        check(
            "queue.members",
            json!({"queue": "q", "members": ["a", "b"], "joined": false}),
            members(true, false),
            members(false, false),
            ("PATCH", "/api/v2/routing/queues/q/members", json!([{"id": "a", "joined": false}])),
            json!([{"id": "a", "joined": true}]),
        );
        check(
            "queue.put",
            json!({"queue": "q", "set": {"autoAnswerOnly": true}}),
            json!({"name": "Sales", "dateModified": "1"}),
            json!({"name": "Sales", "autoAnswerOnly": true, "dateModified": "2"}),
            (
                "PUT",
                "/api/v2/routing/queues/q",
                json!({"name": "Sales", "autoAnswerOnly": true, "dateModified": "1"}),
            ),
            json!({"name": "Sales", "dateModified": "2"}),
        );
        check(
            "edge.out_of_service",
            json!({"edge": "e", "drain_s": 60}),
            json!({"statusCode": "ACTIVE"}),
            json!({"statusCode": "INACTIVE"}),
            (
                "POST",
                "/api/v2/telephony/providers/edges/e/statuscode",
                json!({"inService": false, "callDrainingWaitTimeSeconds": 60}),
            ),
            json!({"inService": true}),
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_only_started() {
        for (name, parameters) in
            [("edge.reboot", json!({"edge": "e"})), ("flow.execute", json!({"flow": "f", "input": {"a": 1}}))]
        {
            let change = change(name, parameters);
            assert_eq!(change.look(), None, "{name}");
            assert!(!kind(name).unwrap().can_be_looked_at);
            assert_eq!(change.identity(), None, "{name}");
            assert_eq!(sent(plan(&change, None, &Value::Null).0).0, "POST", "{name}");
        }
    }

    #[test]
    fn e2_somebody_elses_work_is_never_undone() {
        let check = |name, parameters, before: Value, after: Value, later: Value, expected: &str| {
            let change = change(name, parameters);
            let (_, kept) = plan(&change, None, &before);
            let kept = noted(&change, &kept, &after);
            let found = match undo(&change, &kept, &later) {
                Plan::Intervened(reason) => reason,
                other => format!("{other:?}"),
            };
            assert!(found.contains(expected), "{name}: {found}");
        };
        let group = |enabled, version| json!({"enabled": enabled, "version": version});
        let one = || json!({"group": "g"});
        check(
            "emergency_group.set",
            one(),
            group(false, 1),
            group(true, 2),
            group(true, 3),
            "led to 2, now it is 3",
        );
        check("emergency_group.set", one(), group(false, 1), json!({}), group(true, 2), "was lost");
        // It was on before we came, and nothing of ours is there to be undone.
        check("emergency_group.set", one(), group(true, 1), group(true, 1), group(true, 9), "Already");
        let row = |route: &str| json!({"route": route});
        let values = || json!({"table": "t", "key": "k", "values": {"route": "backup"}});
        check(
            "datatable_row.set",
            values(),
            row("a"),
            row("backup"),
            row("other"),
            "route is not what we wrote",
        );
        let queue = |name: &str, at: &str| json!({"name": name, "dateModified": at});
        let put = || json!({"queue": "q", "set": {"name": "Evacuated"}});
        check(
            "queue.put",
            put(),
            queue("Sales", "1"),
            queue("Evacuated", "2"),
            queue("Evacuated", "3"),
            "since",
        );
    }

    #[test]
    fn a_lost_answer_is_reconciled_by_looking() {
        let change = change("emergency_group.set", json!({"group": "g"}));
        let group = |enabled, version| json!({"enabled": enabled, "version": version});
        let (_, kept) = plan(&change, None, &group(false, 6));
        let check = |shown: Value, stamp: Option<Value>| {
            let (planned, kept) = plan(&change, Some(&kept), &shown);
            assert_eq!((planned, kept.stamp_after), (Plan::Already, stamp), "{shown}");
        };
        check(group(true, 7), Some(json!(7)));
        // Two versions later somebody else was there as well.
        check(group(true, 8), None);
    }

    #[test]
    fn a6_what_somebody_has_changed_meanwhile_is_the_pre_image_of_the_next() {
        let set = change("emergency_group.set", json!({"group": "g"}));
        let group = |enabled, version| json!({"enabled": enabled, "version": version});
        let (_, first) = plan(&set, None, &group(false, 1));
        let first = noted(&set, &first, &group(true, 2));
        // Taken off by hand while the first relies on it: the second puts it on again, and off in the end.
        let (planned, second) = plan(&set, Some(&first), &group(false, 3));
        assert_eq!((sent(planned).2["version"].clone(), second.stamp_before), (json!(3), Some(json!(3))));
        // Touched, and still as we want it: nobody knows what was meant, so its end is a person's.
        let (planned, second) = plan(&set, Some(&first), &group(true, 3));
        assert_eq!(planned, Plan::Already);
        assert!(matches!(undo(&set, &second, &group(true, 3)), Plan::Intervened(_)));
    }

    #[test]
    fn what_had_no_value_before_is_a_persons_to_put_right_where_the_platform_forgets_nothing() {
        let throttle = change("campaign.throttle", json!({"campaign": "c", "outbound_lines": 5}));
        let (_, kept) = plan(&throttle, None, &json!({"abandonRate": 3.0}));
        let undone = undo(&throttle, &kept, &json!({"abandonRate": 3.0, "outboundLineCount": 5}));
        assert!(
            matches!(&undone, Plan::Refused(reason) if reason.contains("outboundLineCount had no value")),
            "{undone:?}"
        );
    }

    #[test]
    fn e2_a_change_is_put_back_when_the_last_who_needs_it_is_over() {
        let kept = Kept::default;
        let both = InForce::default().beginning("a", kept()).carried("a", kept()).carried("b", kept());
        let first = both.clone().without("a", false);
        assert!((first.is_live(), first.owed) == (true, false), "b needs it");
        let last = first.clone().without("b", false);
        assert!(last.owed, "nobody needs it");
        // Until that is known, it is owed; whoever comes meanwhile goes on with what was there before.
        let next = last.clone().carried("c", kept());
        assert!((next.owed, next.clone().without("a", false).owed) == (false, false), "c needs it");
        assert!(!last.undone().is_live());
        // A call that may have led to it has to be undone as well, and so has an undo that may have failed half-way.
        assert!(InForce::default().beginning("a", kept()).without("a", false).owed);
        assert!(InForce::default().without("a", true).owed);
        assert!(!InForce::default().without("a", false).is_live());
        // Who has only begun keeps nobody else from undoing it.
        assert!(InForce::default().carried("a", kept()).beginning("b", kept()).without("a", false).owed);
    }

    #[test]
    fn only_the_very_same_change_is_shared() {
        let identity = |name, parameters| change(name, parameters).identity();
        let one = identity("emergency_group.set", json!({"group": "g"}));
        assert_eq!(one, identity("emergency_group.set", json!({"group": "g", "enabled": true})));
        for (name, parameters) in [
            ("emergency_group.set", json!({"group": "g", "enabled": false})),
            ("emergency_group.set", json!({"group": "h"})),
            ("campaign.stop", json!({"campaign": "g"})),
        ] {
            assert_ne!(one, identity(name, parameters.clone()), "{name} {parameters}");
        }
        let members = |ids: &[&str], joined| {
            identity("queue.members", json!({"queue": "q", "members": ids, "joined": joined}))
        };
        assert_eq!(members(&["a", "b"], true), members(&["b", "a", "b"], true));
        assert_ne!(members(&["a", "b"], true), members(&["a"], true));
        assert_ne!(members(&["a", "b"], true), members(&["a", "b"], false));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refuse = |name, parameters: Value, expected: &str| {
            let kind = kind(name).unwrap();
            let given = Given(parameters.as_object().unwrap());
            let found = given.check(kind).and_then(|()| (kind.change)(&given)).unwrap_err();
            assert!(found.contains(expected), "{name}: {found}");
        };
        refuse("emergency_group.set", json!({}), "lacks `group`");
        refuse("emergency_group.set", json!({"group": ".."}), "expected an id");
        refuse("emergency_group.set", json!({"group": "g", "enabled": "yes"}), "true or false");
        refuse("emergency_group.set", json!({"group": "g", "on": true}), "no parameter `on`");
        refuse("outbound_route.reorder", json!({"site": "s", "route": "r", "trunk_bases": []}), "1 to 100");
        refuse(
            "outbound_route.reorder",
            json!({"site": "s", "route": "r", "trunk_bases": ["a"], "distribution": "ANY"}),
            "SEQUENTIAL or RANDOM",
        );
        refuse("campaign.throttle", json!({"campaign": "c"}), "changes nothing");
        refuse("ivr.route", json!({"ivr": "i"}), "changes nothing");
        let stop = change("campaign.stop", json!({"campaign": "c"}));
        let found = plan(&stop, None, &json!({"campaignStatus": "invalid"})).0;
        assert_eq!(found, Plan::Refused("campaignStatus is invalid; expected on".into()));
        let members = change("queue.members", json!({"queue": "q", "members": ["z"]}));
        let found = plan(&members, None, &json!({"entities": []})).0;
        assert_eq!(found, Plan::Refused("z is no member of the queue".into()));
    }

    #[test]
    fn ids_stay_one_segment_of_their_path() {
        let Change::Object(object) = change("emergency_group.set", json!({"group": "a/../b?c"})) else {
            panic!("an object")
        };
        assert_eq!(object.path, "/api/v2/architect/emergencygroups/a%2F..%2Fb%3Fc");
    }

    #[test]
    fn kinds_are_listed_once() {
        let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        names.dedup();
        assert!(names.is_sorted() && names.len() == KINDS.len(), "{names:?}");
    }
}
