//! The platform's families of objects, a file each: what is there at the start, how it changes, and a table of the
//! endpoints. An endpoint is a function from the platform's state and a call to an answer.

pub(crate) mod architect;
pub(crate) mod notifications;
pub(crate) mod outbound;
pub(crate) mod routing;
pub(crate) mod statuspage;
pub(crate) mod subscriptions;
pub(crate) mod telephony;
pub(crate) mod usage;

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::oauth::Client;
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::world::{Author, Kind};

/// Entities of a page unless the caller says how many.
const PAGE_SIZE: usize = 25;

/// Entities of a page.
const PAGE_SIZE_MAX: usize = 100;

/// The platform, part by part.
const FAMILIES: &[Family] = &[
    architect::FAMILY,
    outbound::FAMILY,
    routing::FAMILY,
    telephony::FAMILY,
    usage::FAMILY,
    notifications::FAMILY,
    subscriptions::FAMILY,
    statuspage::FAMILY,
];

/// Names of objects that are there at the start.
pub(crate) mod founded {
    pub use super::architect::founded::*;
    pub use super::outbound::founded::*;
    pub use super::routing::founded::*;
    pub use super::telephony::founded::*;
}

/// A part of the platform: what there is in it, and what it can be asked.
pub(crate) struct Family {
    kinds: &'static [Kind],
    routes: &'static [Route],
}

/// Every kind of object.
pub(crate) fn kinds() -> impl Iterator<Item = Kind> {
    FAMILIES.iter().flat_map(|family| family.kinds).copied()
}

/// Every endpoint.
pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    FAMILIES.iter().flat_map(|family| family.routes)
}

/// Every permission that an endpoint or a topic asks for.
pub(crate) fn permissions() -> impl Iterator<Item = &'static str> {
    let of_routes = routes().flat_map(|route| route.any_of).copied();
    of_routes.chain(notifications::permissions())
}

/// A method and a path, who may, and what happens.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// Any of these permissions will do; none are needed where there are none.
    pub(crate) any_of: &'static [&'static str],
    pub(crate) carry_out: fn(&mut State, &Asked) -> Answer,
    /// A body that it can be called with, JSON, where it takes one that is not the object itself: the SDK's script
    /// (`tests/platform/sdk.py`) tries by itself what it can.
    pub(crate) example: Option<&'static str>,
}

const fn route(
    method: Method,
    path: &'static str,
    any_of: &'static [&'static str],
    carry_out: fn(&mut State, &Asked) -> Answer,
) -> Route {
    Route { method, path, any_of, carry_out, example: None }
}

/// The same with an example.
const fn route_with(
    method: Method,
    path: &'static str,
    any_of: &'static [&'static str],
    example: &'static str,
    carry_out: fn(&mut State, &Asked) -> Answer,
) -> Route {
    Route { method, path, any_of, carry_out, example: Some(example) }
}

/// A call that may be carried out.
pub(crate) struct Asked {
    /// The path's, decoded.
    pub(crate) parameters: Vec<String>,
    pub(crate) query: String,
    /// Null where there is none.
    pub(crate) body: Value,
    pub(crate) client: Client,
    pub(crate) now: Now,
}

impl Asked {
    /// The object's key: the path's parameters.
    fn key(&self) -> String {
        self.parameters.join("/")
    }

    /// The first of the path's parameters.
    fn first(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }

    fn author(&self) -> Author<'_> {
        Author::App(&self.client.id)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, v)| v)
    }

    fn number(&self, name: &str, default: usize, most: usize) -> Result<usize, Refusal> {
        let Some(text) = self.query(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| Refusal::bad_request(format!("{name} is {text}; 1 to {most} was expected")))
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

pub(crate) type Answer = Result<Reply, Refusal>;

fn ok(body: Value) -> Answer {
    Ok(Reply { status: 200, body: Some(body) })
}

fn no_content() -> Answer {
    Ok(Reply { status: 204, body: None })
}

/// One object, as it stands.
fn show(state: &State, kind: Kind, asked: &Asked) -> Answer {
    ok(state.world.find(kind, &asked.key())?.clone())
}

/// Takes the body in the place of the object.
fn replace(state: &mut State, kind: Kind, asked: &Asked) -> Answer {
    let stale_status = match state.options.stale_version {
        crate::StaleVersion::Conflict => 409,
        crate::StaleVersion::BadRequest => 400,
    };
    let key = asked.key();
    ok(state.world.replace(kind, &key, &asked.body, &asked.author(), stale_status, asked.now)?)
}

/// A page of the objects of a kind below a key.
fn list(state: &State, kind: Kind, below: &str, path: &str, asked: &Asked) -> Answer {
    ok(page(state.world.below(kind, below).map(|(_, object)| object.clone()), path, asked)?)
}

/// Cuts out the page that was asked for.
fn page(entities: impl Iterator<Item = Value>, path: &str, asked: &Asked) -> Result<Value, Refusal> {
    let size = asked.number("pageSize", PAGE_SIZE, PAGE_SIZE_MAX)?;
    let number = asked.number("pageNumber", 1, usize::MAX)?;
    let all: Vec<Value> = entities.collect();
    let (total, pages) = (all.len(), all.len().div_ceil(size).max(1));
    let cut: Vec<Value> = all.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    let uri = |number: usize| json!(format!("{path}?pageSize={size}&pageNumber={number}"));
    let mut page = Map::new();
    page.insert("entities".into(), json!(cut));
    page.insert("pageSize".into(), json!(size));
    page.insert("pageNumber".into(), json!(number));
    page.insert("total".into(), json!(total));
    page.insert("pageCount".into(), json!(pages));
    page.insert("selfUri".into(), uri(number));
    page.insert("firstUri".into(), uri(1));
    page.insert("lastUri".into(), uri(pages));
    if number > 1 {
        page.insert("previousUri".into(), uri(number - 1));
    }
    if number < pages {
        page.insert("nextUri".into(), uri(number + 1));
    }
    Ok(Value::Object(page))
}
