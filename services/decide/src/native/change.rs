//! From what the platform shows to the one call that is needed, and back again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::in_force::Known;
use super::proof::Course;
use super::written::Written;
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
    /// `id`, of what was started.
    Id,
    /// Nothing: the fields themselves are compared.
    None,
}

impl Stamp {
    fn of(self, object: &Value) -> Option<Value> {
        let field = match self {
            Stamp::Version => "version",
            Stamp::DateModified => "dateModified",
            Stamp::Id => "id",
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
    /// It shows that it is switched this long after the call at the latest. Milliseconds.
    pub settles_within_ms: i64,
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
    /// How it tells what has become of it.
    pub course: Course,
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

/// Adds what a page of a list holds; says whether another may follow.
pub fn add_page(entities: &mut Vec<Value>, page: &Value) -> bool {
    let found = page.get("entities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    entities.extend_from_slice(found);
    found.len() >= PAGE_SIZE
}

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
    /// When the call was about to leave. Unix milliseconds.
    #[serde(default)]
    pub called_ms: Option<i64>,
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

/// What it takes to bring a change about, and the pre-image to keep: while the change may stand its pre-image stays,
/// because what is there now may be our own work.
pub fn plan(change: &Change, known: Known<'_>, shown: &Value) -> (Plan, Kept) {
    let (now, wrote) = match fields(change, shown) {
        Ok(fields) => fields,
        Err(reason) => return (Plan::Refused(reason), Kept::default()),
    };
    let stamp = stamp_of(change).of(shown);
    // Members follow one by one: some that are as we want them were brought there by us.
    let is_made = is_made(change, &now, &wrote);
    let before = match known {
        Known::MayStand(kept) if is_made || matches!(change, Change::Members(_)) => Some(kept),
        Known::Owed(kept) if is_made => Some(kept),
        Known::Undone(kept) if is_made || matches!(change, Change::Members(_)) => Some(kept),
        _ => None,
    };
    let is_undone = matches!(known, Known::Undone(_));
    let before = before.map(|kept| match is_undone {
        // A write of its own follows.
        true => Kept { stamp_before: stamp.clone(), stamp_after: None, ..kept.clone() },
        false => kept.clone(),
    });
    let mut keep = before.unwrap_or_else(|| Kept {
        before: now.clone(),
        wrote: wrote.clone(),
        stamp_before: stamp.clone(),
        stamp_after: None,
        called_ms: None,
    });
    let call = match change {
        // Made once more where it was undone a moment ago: that may show late.
        Change::Object(object) if now != wrote || is_undone => Some(object.call(shown, &wrote)),
        Change::Switch(switch) => match now.get(switch.field).and_then(Value::as_str) {
            Some(state) if switch.to.contains(&state) && is_undone => {
                return (Plan::Wait, keep);
            }
            Some(state) if switch.to.contains(&state) => None,
            Some(state) if switch.from.contains(&state) => Some(post(&switch.there)),
            state => {
                let (field, from) = (switch.field, switch.from.join(" or "));
                let state = state.unwrap_or("unknown");
                let reason = format!("{field} is {state}; expected {from}");
                return (Plan::Refused(reason), keep);
            }
        },
        Change::Members(members) if is_undone => members.patch(&Fields::new(), &wrote),
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
pub(super) fn is_made(change: &Change, now: &Fields, wrote: &Fields) -> bool {
    match change {
        Change::Switch(switch) => is_in(switch, now, switch.to),
        Change::Object(_) | Change::Members(_) | Change::Launch(_) => now == wrote,
    }
}

pub(super) fn is_in(switch: &Switch, fields: &Fields, states: &[&str]) -> bool {
    fields.get(switch.field).and_then(Value::as_str).is_some_and(|state| states.contains(&state))
}

/// What it takes to restore what was there before, unless somebody has changed it since. Whether others rely on the
/// change is for the caller to know; `written` is what we have written to the object.
pub fn undo(change: &Change, kept: &Kept, written: &Written, shown: &Value, now_ms: i64) -> Plan {
    if kept.wrote.is_empty() {
        return Plan::Refused("what was there before is not known: a person has to put it right".into());
    }
    if let Change::Members(members) = change {
        return members.undo(kept, shown);
    }
    let (now, _) = match fields(change, shown) {
        Ok(fields) => fields,
        Err(reason) => return Plan::Refused(reason),
    };
    let object = match change {
        Change::Object(object) => object,
        Change::Switch(switch) if !is_in(switch, &kept.before, switch.from) => return Plan::Already,
        Change::Switch(switch) if is_in(switch, &now, switch.passing) => return Plan::Wait,
        Change::Switch(switch) if is_in(switch, &now, switch.back_from) => {
            return Plan::Send(post(&switch.back));
        }
        // What we have called may not show yet, and would be left as it will be.
        Change::Switch(switch) if is_in(switch, &now, switch.from) && switch.settles(kept, now_ms) => {
            return Plan::Wait;
        }
        Change::Switch(_) | Change::Members(_) | Change::Launch(_) => return Plan::Already,
    };
    if now == kept.before {
        return Plan::Already;
    }
    if let Some(reason) = object.intervened(kept, written, &now, shown) {
        return Plan::Intervened(reason);
    }
    match object.stays(&kept.before) {
        Some(field) => Plan::Refused(format!(
            "{field} had no value before, and it is not known that the platform can be made to forget one: a person \
             has to put it right"
        )),
        None => Plan::Send(object.call(shown, &kept.before)),
    }
}

/// The stamp of what is shown, where the object has one that each write moves on.
pub fn stamp(change: &Change, shown: &Value) -> Option<Value> {
    match change {
        Change::Object(object) => object.stamp.of(shown),
        Change::Switch(_) | Change::Members(_) | Change::Launch(_) => None,
    }
}

/// The stamps around a write of ours whose answer was lost, if what is shown follows from it alone.
pub fn reconciled(change: &Change, before: Option<&Value>, shown: &Value) -> Option<(Value, Value)> {
    let (before, after) = (before?, stamp(change, shown)?);
    (before.as_i64()?.checked_add(1)? == after.as_i64()?).then(|| (before.clone(), after))
}

/// What the answer to our write says, added to what is kept.
pub fn noted(change: &Change, kept: &Kept, answer: &Value) -> Kept {
    Kept { stamp_after: stamp_of(change).of(answer).or_else(|| kept.stamp_after.clone()), ..kept.clone() }
}

fn stamp_of(change: &Change) -> Stamp {
    match change {
        Change::Object(object) => object.stamp,
        Change::Launch(_) => Stamp::Id,
        Change::Switch(_) | Change::Members(_) => Stamp::None,
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
pub(super) fn fields(change: &Change, shown: &Value) -> Result<(Fields, Fields), String> {
    match change {
        Change::Object(object) => {
            let Some(shown) = shown.as_object() else {
                return Err("what the platform shows is no object".into());
            };
            let now = object.set.iter().filter_map(|(field, wanted)| {
                // What is to have no value may be left out as well.
                let value = shown.get(field).or(wanted.is_null().then_some(&Value::Null))?;
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
            let joined = joined(shown);
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

/// Who is a member of a queue, and whether joined.
pub(super) fn joined(shown: &Value) -> BTreeMap<&str, &Value> {
    let entities = shown.get("entities").and_then(Value::as_array).into_iter().flatten();
    entities.filter_map(|member| Some((member.get("id")?.as_str()?, member.get("joined")?))).collect()
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

impl Switch {
    /// Whether a call of ours may take effect still.
    fn settles(&self, kept: &Kept, now_ms: i64) -> bool {
        kept.called_ms.is_some_and(|called_ms| now_ms < called_ms.saturating_add(self.settles_within_ms))
    }
}

impl Object {
    /// Why it is not as we left it, if it is not.
    fn intervened(&self, kept: &Kept, written: &Written, now: &Fields, shown: &Value) -> Option<String> {
        let differs = || {
            let (field, _) = kept.wrote.iter().find(|(field, value)| now.get(*field) != Some(value))?;
            Some(field)
        };
        if self.stamp == Stamp::None {
            let field = differs()?;
            return Some(format!("somebody has changed it since: {field} is not what we wrote"));
        }
        let Some(ours) = &kept.stamp_after else {
            let why =
                "what our write led to is not known, so neither is whether somebody has changed it since";
            return Some(why.into());
        };
        let found = self.stamp.of(shown).unwrap_or(Value::Null);
        if found == *ours {
            return None;
        }
        if !written.leads(ours, &found) {
            return Some(format!(
                "somebody has changed it since: our write led to {ours}, now it is {found}"
            ));
        }
        let field = differs()?;
        Some(format!("another action of ours has changed it since: {field} is not what this one wrote"))
    }

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
    /// What it shows may be from before our own write, which takes effect by and by; and there is no third state that
    /// somebody else could have chosen. Who is no member any more has nothing to be put back.
    fn undo(&self, kept: &Kept, shown: &Value) -> Plan {
        let there = joined(shown);
        let before = kept.before.iter().filter(|(id, _)| there.contains_key(id.as_str()));
        let before = before.map(|(id, joined)| (id.clone(), joined.clone())).collect();
        self.patch(&kept.wrote, &before).map_or(Plan::Already, Plan::Send)
    }

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
    use super::super::in_force::InForce;
    use super::super::{Given, kind};
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
    fn e2_somebody_elses_work_is_never_undone() {
        let check = |name, parameters, before: Value, after: Value, later: Value, expected: &str| {
            let change = change(name, parameters);
            let (_, kept) = plan(&change, Known::Nothing, &before);
            let kept = noted(&change, &kept, &after);
            let found = match undo(&change, &kept, &Written::default(), &later, 0) {
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
        check("emergency_group.set", one(), group(false, 1), json!({}), group(true, 2), "is not known");
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
        let (_, kept) = plan(&change, Known::Nothing, &group(false, 6));
        let check = |shown: Value, stamp: Option<Value>| {
            let (planned, kept) = plan(&change, Known::MayStand(&kept), &shown);
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
        let (_, first) = plan(&set, Known::Nothing, &group(false, 1));
        let first = noted(&set, &first, &group(true, 2));
        // Taken off by hand while the first relies on it: the second puts it on again, and off in the end.
        let (planned, second) = plan(&set, Known::MayStand(&first), &group(false, 3));
        assert_eq!((sent(planned).2["version"].clone(), second.stamp_before), (json!(3), Some(json!(3))));
        // Touched, and still as we want it: nobody knows what was meant, so its end is a person's.
        let (planned, second) = plan(&set, Known::MayStand(&first), &group(true, 3));
        assert_eq!(planned, Plan::Already);
        assert!(matches!(undo(&set, &second, &Written::default(), &group(true, 3), 0), Plan::Intervened(_)));
    }

    #[test]
    fn what_had_no_value_before_is_a_persons_to_put_right_where_the_platform_forgets_nothing() {
        let throttle = change("campaign.throttle", json!({"campaign": "c", "outbound_lines": 5}));
        let (_, kept) = plan(&throttle, Known::Nothing, &json!({"abandonRate": 3.0}));
        let undone = undo(
            &throttle,
            &kept,
            &Written::default(),
            &json!({"abandonRate": 3.0, "outboundLineCount": 5}),
            0,
        );
        assert!(
            matches!(&undone, Plan::Refused(reason) if reason.contains("outboundLineCount had no value")),
            "{undone:?}"
        );
    }

    #[test]
    fn e2_a_lost_answer_of_one_costs_no_other_its_pre_image() {
        let group = |enabled, version| json!({"enabled": enabled, "version": version});
        let set = change("emergency_group.set", json!({"group": "g"}));
        let (_, kept) = plan(&set, Known::Nothing, &group(false, 1));
        let begun = InForce::default().beginning("a", kept);
        // Its call was carried out, and the other looks first.
        let (planned, kept) = plan(&set, begun.known("b", false, 0), &group(true, 2));
        assert_eq!((planned, &kept.before["enabled"]), (Plan::Already, &json!(false)));
        let undone = undo(&set, &kept, &Written::default(), &group(true, 2), 0);
        assert_eq!(sent(undone).2, group(false, 2));
    }

    #[test]
    fn e2_what_takes_effect_by_and_by_is_neither_pre_image_nor_so_already() {
        let out = change("queue.members", json!({"queue": "q", "members": ["a", "b"], "joined": false}));
        let shown = |a, b| json!({"entities": [{"id": "a", "joined": a}, {"id": "b", "joined": b}]});
        let (_, kept) = plan(&out, Known::Nothing, &shown(true, true));
        // Half of it shows: the rest is asked for again, and both come back.
        let (planned, again) = plan(&out, Known::MayStand(&kept), &shown(false, true));
        assert_eq!(sent(planned).2, json!([{"id": "b", "joined": false}]));
        assert_eq!(again, kept);
        // Undone, and it does not show yet: all are asked for, whatever they show.
        let (planned, again) = plan(&out, Known::Undone(&kept), &shown(false, false));
        assert_eq!(sent(planned).2.as_array().unwrap().len(), 2);
        assert_eq!(again.before, kept.before);
        // What a person has put right since is no work of ours.
        let (_, fresh) = plan(&out, Known::Owed(&kept), &shown(false, true));
        assert_eq!(fresh.before["a"], json!(false));
        // Who has left the queue meanwhile keeps nobody else from coming back.
        let left =
            undo(&out, &kept, &Written::default(), &json!({"entities": [{"id": "b", "joined": false}]}), 0);
        assert_eq!(sent(left).2, json!([{"id": "b", "joined": true}]));
        let stop = change("campaign.stop", json!({"campaign": "c"}));
        let off = json!({"campaignStatus": "off"});
        let (_, kept) = plan(&stop, Known::Nothing, &json!({"campaignStatus": "on"}));
        let on = json!({"campaignStatus": "on"});
        let called = Kept { called_ms: Some(1_000), ..kept.clone() };
        let undone = |now_ms| undo(&stop, &called, &Written::default(), &on, now_ms);
        assert_eq!(
            (undone(120_999), undone(121_000)),
            (Plan::Wait, Plan::Already),
            "it may be about to stop"
        );
        assert_eq!(plan(&stop, Known::Undone(&kept), &off).0, Plan::Wait, "it is about to start");
        assert_eq!(plan(&stop, Known::Nothing, &off).0, Plan::Already);
    }

    #[test]
    fn a6_two_changes_of_ours_in_one_object_are_no_intervention() {
        let ivr = |version, flow: &str, dnis: &str| json!({"version": version, "openHoursFlow": {"id": flow}, "dnis": [dnis]});
        let flow = change("ivr.route", json!({"ivr": "i", "open_hours_flow": "backup"}));
        let dnis = change("ivr.route", json!({"ivr": "i", "dnis": ["+2"]}));
        let (_, kept_flow) = plan(&flow, Known::Nothing, &ivr(1, "open", "+1"));
        let kept_flow = noted(&flow, &kept_flow, &ivr(2, "backup", "+1"));
        let (_, kept_dnis) = plan(&dnis, Known::Nothing, &ivr(2, "backup", "+1"));
        let kept_dnis = noted(&dnis, &kept_dnis, &ivr(3, "backup", "+2"));
        let written = Written::default().with(json!(1), json!(2)).with(json!(2), json!(3));
        // Last first: what the first undo writes is ours as well.
        let undone = undo(&dnis, &kept_dnis, &written, &ivr(3, "backup", "+2"), 0);
        assert_eq!(sent(undone).2, ivr(3, "backup", "+1"));
        let check = |written: Written, shown: Value, expected: Result<Value, &str>| match (
            undo(&flow, &kept_flow, &written, &shown, 0),
            expected,
        ) {
            (Plan::Send(call), Ok(body)) => assert_eq!(call.body, Some(body)),
            (Plan::Intervened(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        };
        let all = written.clone().with(json!(3), json!(4));
        check(all.clone(), ivr(4, "backup", "+1"), Ok(ivr(4, "open", "+1")));
        check(written, ivr(4, "backup", "+1"), Err("our write led to 2, now it is 4"));
        check(all.clone().with(json!(5), json!(6)), ivr(6, "backup", "+1"), Err("somebody"));
        check(all, ivr(4, "other", "+1"), Err("another action of ours"));
        let many = (1..=100).fold(Written::default(), |written, n| written.with(json!(n), json!(n + 1)));
        assert!(many.leads(&json!(50), &json!(101)) && !many.leads(&json!(2), &json!(101)));
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
    fn ids_stay_one_segment_of_their_path() {
        let Change::Object(object) = change("emergency_group.set", json!({"group": "a/../b?c"})) else {
            panic!("an object")
        };
        assert_eq!(object.path, "/api/v2/architect/emergencygroups/a%2F..%2Fb%3Fc");
    }

    #[test]
    fn what_cannot_be_done_as_things_are_is_refused() {
        let stop = change("campaign.stop", json!({"campaign": "c"}));
        let found = plan(&stop, Known::Nothing, &json!({"campaignStatus": "invalid"})).0;
        assert_eq!(found, Plan::Refused("campaignStatus is invalid; expected on".into()));
        let members = change("queue.members", json!({"queue": "q", "members": ["z"]}));
        let found = plan(&members, Known::Nothing, &json!({"entities": []})).0;
        assert_eq!(found, Plan::Refused("z is no member of the queue".into()));
    }
}
