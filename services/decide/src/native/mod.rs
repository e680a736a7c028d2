//! Native actions: what holdline does on the platform itself, over its API, as values.
//!
//! Every kind ([`KINDS`], one file each) says what it wants changed ([`Change`]). What that takes, given what
//! the platform shows, and how it is undone from what it showed before, is the same for all of them: [`plan`]
//! and [`undo`]; and so is what proves that it has come about: [`proof`]. The executor looks, plans, keeps the pre-image,
//! calls, notes what the answer said, and looks again.
//!
//! What a new kind touches, `docs/actions.md` says under "Adding a kind".

use serde_json::{Map, Value};

use crate::playbook::Method;

mod campaign;
mod change;
mod edge;
mod emergency_group;
mod flow;
mod in_force;
mod ivr;
mod lists;
mod outbound_route;
mod proof;
mod queue;
mod row;
#[cfg(test)]
mod trial;
mod written;

pub use change::{
    Call, Change, Fields, Kept, Launch, Members, Object, PAGE_SIZE, Plan, Stamp, Switch, add_page, noted,
    plan, reconciled, stamp, undo,
};
pub use in_force::{BEGUN_MAX, InForce, Known, Stands};
pub use lists::{LISTS_MAX, Lists, collide};
pub use proof::{Proof, Shows, proof, shows, shows_undone};
pub use written::Written;

/// A kind of native action.
pub struct Kind {
    /// As actions name it: `emergency_group.set`.
    pub name: &'static str,
    /// What its `parameters` may hold.
    pub parameters: &'static [Parameter],
    /// Whether the platform shows what it is about: then it is looked at before every call, and
    /// `revert.do: undo` can put back what was there. Else it is only started.
    pub can_be_looked_at: bool,
    /// The permissions that its calls need, as the platform writes them (genesys.md 3).
    pub needs: &'static str,
    /// What is to be changed; else which parameter cannot be used, and why.
    pub change: fn(&Given<'_>) -> Result<Change, String>,
    /// Its cases. No kind comes without.
    #[cfg(test)]
    tried: fn(&trial::Trial),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The permission of everything about telephony. It is all or nothing: whoever may look may also change.
pub const TELEPHONY: &str = "telephony:plugin:all";

/// Every kind there is.
pub static KINDS: [&Kind; 11] = [
    &campaign::STOP,
    &campaign::THROTTLE,
    &row::SET,
    &edge::OUT_OF_SERVICE,
    &edge::REBOOT,
    &emergency_group::SET,
    &flow::EXECUTE,
    &ivr::ROUTE,
    &outbound_route::REORDER,
    &queue::MEMBERS,
    &queue::PUT,
];

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// A field of an action's `parameters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    pub needed: bool,
    pub holds: Holds,
}

/// What a parameter holds once its placeholders are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The platform's id of something: part of a path.
    Id,
    Text,
    Ids,
    Truth,
    /// A number, 0 or more.
    Number,
    /// A whole number, 0 or more.
    Count,
    Object,
}

impl Holds {
    /// In words, for messages.
    pub fn words(self) -> &'static str {
        match self {
            Holds::Id => "an id (text)",
            Holds::Text => "text",
            Holds::Ids => "a list of 1 to 100 ids",
            Holds::Truth => "true or false",
            Holds::Number => "a number, 0 or more",
            Holds::Count => "a whole number, 0 or more",
            Holds::Object => "an object with at least one field",
        }
    }

    /// A value of that kind.
    pub fn sample(self) -> Value {
        match self {
            Holds::Id | Holds::Text => "x".into(),
            Holds::Ids => vec!["x"].into(),
            Holds::Truth => true.into(),
            Holds::Number | Holds::Count => 1.into(),
            Holds::Object => Map::from_iter([("x".to_string(), Value::Null)]).into(),
        }
    }

    /// Whether a value is of that kind.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Holds::Id => value.as_str().is_some_and(|id| segment(id).is_some()),
            Holds::Text => value.is_string(),
            Holds::Ids => value.as_array().is_some_and(|ids| {
                !ids.is_empty() && ids.len() <= IDS_MAX && ids.iter().all(|id| Holds::Id.fits(id))
            }),
            Holds::Truth => value.is_boolean(),
            Holds::Number => value.as_f64().is_some_and(|number| number >= 0.0),
            Holds::Count => value.as_u64().is_some(),
            Holds::Object => value.as_object().is_some_and(|object| !object.is_empty()),
        }
    }
}

/// Ids in one parameter: what the platform's batch calls take at once (genesys.md 3).
pub const IDS_MAX: usize = 100;

const fn needed(name: &'static str, holds: Holds) -> Parameter {
    Parameter { name, needed: true, holds }
}

const fn optional(name: &'static str, holds: Holds) -> Parameter {
    Parameter { name, needed: false, holds }
}

/// An action's parameters, placeholders filled.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a>(pub &'a Map<String, Value>);

impl Given<'_> {
    /// Holds the parameters against what the kind takes.
    ///
    /// # Errors
    /// The first that is missing, unknown or of another kind.
    pub fn check(&self, kind: &Kind) -> Result<(), String> {
        for parameter in kind.parameters {
            match self.0.get(parameter.name) {
                None if parameter.needed => return Err(format!("`parameters` lacks `{}`", parameter.name)),
                Some(value) if !parameter.holds.fits(value) => {
                    let expected = parameter.holds.words();
                    return Err(format!("`parameters.{}`: expected {expected}, not {value}", parameter.name));
                }
                _ => {}
            }
        }
        match self.0.keys().find(|key| kind.parameters.iter().all(|known| known.name != **key)) {
            Some(unknown) => Err(format!("{} has no parameter `{unknown}`", kind.name)),
            None => Ok(()),
        }
    }

    /// A path of the API: each `{}` is replaced by the id that the next of these parameters holds.
    fn path(&self, template: &str, ids: &[&str]) -> Result<String, String> {
        let mut path = String::new();
        let mut pieces = template.split("{}");
        path.push_str(pieces.next().unwrap_or_default());
        for (piece, name) in pieces.zip(ids) {
            let id = self.0.get(*name).and_then(Value::as_str).and_then(segment);
            path.push_str(&id.ok_or_else(|| format!("`parameters.{name}` is no id"))?);
            path.push_str(piece);
        }
        Ok(path)
    }

    /// Those of the named parameters that are given, as fields.
    fn fields(&self, names: &[&str]) -> Map<String, Value> {
        let given = |name: &&str| Some((name.to_string(), self.0.get(*name)?.clone()));
        names.iter().filter_map(given).collect()
    }

    /// The ids that a parameter lists.
    fn ids(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    fn object(&self, name: &str) -> Map<String, Value> {
        self.0.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    fn truth(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(default)
    }
}

/// An id as a segment of a path; `None` for what would change the path.
fn segment(id: &str) -> Option<String> {
    if matches!(id, "" | "." | "..") { None } else { Some(crate::playbook::percent(id)) }
}

/// An object that is read, merged and put back as a whole.
fn put(path: String, set: Map<String, Value>, stamp: Stamp) -> Change {
    Change::Object(Object { path, query: "", set, method: Method::Put, stamp })
}
