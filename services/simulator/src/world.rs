//! The objects of the organisation, and what happens to them by and by.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::{api, organisation};

/// Objects of all kinds.
const OBJECTS_MAX: usize = 10_000;

/// Changes that are accepted and have not happened yet.
const PENDING_MAX: usize = 1_000;

/// Operational events that can be asked for; the oldest go first.
const OPERATIONAL_EVENTS_MAX: usize = 1_000;

/// What an object is. Each kind stands in the file of its endpoints (`api`), with all that sets it apart.
#[derive(Clone, Copy)]
pub struct Kind(pub(crate) &'static Traits);

/// How the platform treats the objects of a kind.
pub(crate) struct Traits {
    /// As in `/simulator/objects/{kind}`.
    pub(crate) name: &'static str,
    /// Fields that a caller may write where objects are replaced as a whole. What he leaves out is gone; what else he
    /// sends is ignored.
    pub(crate) writable: &'static [&'static str],
    /// What a write leaves behind besides.
    pub(crate) marks: Marks,
    /// The objects that are there at the start, with their keys.
    pub(crate) founded: fn(date: &str) -> Vec<(String, Value)>,
    /// Fields of an object have changed by themselves.
    pub(crate) settled: fn(&mut State, key: &str, fields: &Value),
}

impl Traits {
    /// Nothing is there, and nothing is special.
    pub(crate) const PLAIN: Traits =
        Traits { name: "", writable: &[], marks: Marks::None, founded: |_| vec![], settled: |_, _, _| {} };
}

/// What a write leaves behind: a version that is one higher where the object has one, and so much besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Marks {
    /// Not even a version.
    None,
    /// `dateModified`
    Date,
    /// `modifiedBy` as well.
    Author,
    /// `modifiedByApp` as well.
    App,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Kind {}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = api::kinds().find(|kind| kind.0.name == name);
        known.ok_or_else(|| {
            serde::de::Error::custom(format!("there is no kind {name}: GET /simulator/objects has them"))
        })
    }
}

/// Fields that are the platform's own and outlast a replacement.
const KEPT: &[&str] = &[
    "id",
    "version",
    "state",
    "dateCreated",
    "createdBy",
    "createdByApp",
    "memberCount",
    "userMemberCount",
    "joinedMemberCount",
    "selfUri",
];

/// Who changes an object.
pub(crate) enum Author<'a> {
    /// A person at the administration's pages.
    Human,
    /// The id of an OAuth client.
    App(&'a str),
}

/// A change that happens later: fields of an object.
#[derive(Clone)]
pub(crate) struct Pending {
    due_us: u64,
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) fields: Value,
}

#[derive(Clone)]
pub(crate) struct World {
    /// By the names of their kinds, and their keys.
    objects: BTreeMap<(&'static str, String), Value>,
    pending: Vec<Pending>,
    /// Newest last.
    pub(crate) operational_events: VecDeque<Value>,
    /// What subscriptions are signed with, by their ids.
    pub(crate) secret_tokens: BTreeMap<String, String>,
}

impl World {
    pub(crate) fn new(now: Now) -> World {
        let date = now.date();
        let founded = |kind: Kind| {
            (kind.0.founded)(&date).into_iter().map(move |(key, object)| ((kind.0.name, key), object))
        };
        World {
            objects: api::kinds().flat_map(founded).collect(),
            pending: vec![],
            operational_events: VecDeque::new(),
            secret_tokens: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, kind: Kind, key: &str) -> Option<&Value> {
        self.objects.get(&(kind.0.name, key.to_string()))
    }

    /// The object, or 404.
    pub(crate) fn find(&self, kind: Kind, key: &str) -> Result<&Value, Refusal> {
        self.get(kind, key).ok_or_else(Refusal::not_found)
    }

    fn find_mut(&mut self, kind: Kind, key: &str) -> Result<&mut Map<String, Value>, Refusal> {
        let object = self.objects.get_mut(&(kind.0.name, key.to_string())).ok_or_else(Refusal::not_found)?;
        object.as_object_mut().ok_or_else(Refusal::not_found)
    }

    /// Objects of a kind whose key begins with this (`site/`), by key.
    pub(crate) fn below(&self, kind: Kind, prefix: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.objects
            .range((kind.0.name, prefix.to_string())..)
            .take_while(move |((of, key), _)| *of == kind.0.name && key.starts_with(prefix))
            .map(|((_, key), object)| (key.as_str(), object))
    }

    /// Adds an object, or takes another in its place.
    pub(crate) fn put(&mut self, kind: Kind, key: &str, object: Value) -> Result<(), Refusal> {
        let key = (kind.0.name, key.to_string());
        if self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(&key) {
            return Err(Refusal::bad_request(format!("there are {OBJECTS_MAX} objects already")));
        }
        self.objects.insert(key, object);
        Ok(())
    }

    pub(crate) fn remove(&mut self, kind: Kind, key: &str) -> Result<(), Refusal> {
        self.objects.remove(&(kind.0.name, key.to_string())).map(|_| ()).ok_or_else(Refusal::not_found)
    }

    /// Takes a caller's whole object in the place of the one that is there: what he left out is gone.
    /// `stale_status` is what a version that is not the current one is answered with.
    pub(crate) fn replace(
        &mut self,
        kind: Kind,
        key: &str,
        body: &Value,
        author: &Author<'_>,
        stale_status: u16,
        now: Now,
    ) -> Result<Value, Refusal> {
        let old = self.find_mut(kind, key)?;
        let body = body.as_object().ok_or_else(|| Refusal::bad_request("the body is no JSON object"))?;
        if !body.get("name").is_some_and(Value::is_string) {
            return Err(Refusal::bad_request("name is required"));
        }
        if let Some(current) = old.get("version").and_then(Value::as_i64) {
            let given = body.get("version").and_then(Value::as_i64);
            let given = given.ok_or_else(|| Refusal::bad_request("version is required"))?;
            if given != current {
                return Err(Refusal::stale(given, current, stale_status));
            }
        }
        let taken = kind.0.writable.iter().map(|name| (*name, body.get(*name)));
        let kept = KEPT.iter().map(|name| (*name, old.get(*name)));
        let mut new: Map<String, Value> = taken
            .chain(kept)
            .filter_map(|(name, value)| Some((name.to_string(), value.filter(|v| !v.is_null())?.clone())))
            .collect();
        if let Some(division) = old.get("division").filter(|_| !new.contains_key("division")) {
            new.insert("division".into(), division.clone());
        }
        stamp(kind, &mut new, author, now);
        *old = new.clone();
        Ok(Value::Object(new))
    }

    /// Changes single fields; null takes one out.
    pub(crate) fn edit(
        &mut self,
        kind: Kind,
        key: &str,
        fields: &Value,
        author: &Author<'_>,
        now: Now,
    ) -> Result<Value, Refusal> {
        let object = self.find_mut(kind, key)?;
        merge(object, fields);
        stamp(kind, object, author, now);
        Ok(Value::Object(object.clone()))
    }

    /// The platform changes fields by itself: no version, no author.
    pub(crate) fn set(&mut self, kind: Kind, key: &str, fields: &Value) -> Result<(), Refusal> {
        merge(self.find_mut(kind, key)?, fields);
        Ok(())
    }

    /// Accepts a change that happens at `due_us`.
    pub(crate) fn later(&mut self, due_us: u64, kind: Kind, key: &str, fields: Value) -> Result<(), Refusal> {
        if self.pending.len() >= PENDING_MAX {
            return Err(Refusal::injected(503, None));
        }
        self.pending.push(Pending { due_us, kind, key: key.into(), fields });
        Ok(())
    }

    pub(crate) fn next_us(&self) -> Option<u64> {
        self.pending.iter().map(|pending| pending.due_us).min()
    }

    /// Lets changes happen that are due, and gives them.
    pub(crate) fn settle(&mut self, now: Now) -> Vec<Pending> {
        let (mut due, pending): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|pending| pending.due_us <= now.us);
        self.pending = pending;
        // What has been deleted since cannot change any more.
        due.retain(|change| self.set(change.kind, &change.key, &change.fields).is_ok());
        due
    }

    pub(crate) fn note_operational_event(&mut self, event: Value) {
        if self.operational_events.len() >= OPERATIONAL_EVENTS_MAX {
            self.operational_events.pop_front();
        }
        self.operational_events.push_back(event);
    }
}

/// An object with more fields; null takes one out.
pub(crate) fn with(mut object: Value, fields: &Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        merge(object, fields);
    }
    object
}

fn merge(object: &mut Map<String, Value>, fields: &Value) {
    for (name, value) in fields.as_object().into_iter().flatten() {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
}

/// Version, date and author, as far as objects of the kind have them.
fn stamp(kind: Kind, object: &mut Map<String, Value>, author: &Author<'_>, now: Now) {
    let marks = kind.0.marks;
    if marks == Marks::None {
        return;
    }
    if let Some(version) = object.get("version").and_then(Value::as_i64) {
        object.insert("version".into(), json!(version + 1));
    }
    object.insert("dateModified".into(), json!(now.date()));
    let (by, app) = match author {
        Author::Human => (organisation::HUMAN, None),
        Author::App(client) => (*client, Some(*client)),
    };
    if marks >= Marks::Author {
        object.insert("modifiedBy".into(), json!(by));
    }
    if marks >= Marks::App {
        merge(object, &json!({ "modifiedByApp": app }));
    }
}
