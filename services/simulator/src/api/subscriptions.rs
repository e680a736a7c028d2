//! The subscription API that the guide imagines; the platform has none. The paths are holdline's reading of the
//! guide.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::{Answer, Asked, Family, Reply, Route, list, no_content, ok, route, show};
use crate::refusal::Refusal;
use crate::state::State;
use crate::world::{Kind, Traits};

const SUBSCRIPTIONS: &str = "/api/v2/events/subscriptions";
const SUBSCRIPTION: &str = "/api/v2/events/subscriptions/{id}";

/// What a subscription needs.
const REQUIRED: [&str; 4] = ["name", "topicName", "callbackUrl", "authType"];

/// What else it may have. `secretToken` is taken and never given back.
const OPTIONAL: [&str; 2] = ["filterExpression", "retryPolicy"];

impl Kind {
    /// Of the API that the guide imagines.
    pub const SUBSCRIPTION: Kind = Kind(&Traits { name: "subscription", ..Traits::PLAIN });
}

pub(super) const FAMILY: Family = Family { kinds: &[Kind::SUBSCRIPTION], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, SUBSCRIPTIONS, &[], |state, asked| {
        list(state, Kind::SUBSCRIPTION, "", SUBSCRIPTIONS, asked)
    }),
    route(Method::POST, SUBSCRIPTIONS, &[], |state, asked| {
        let id = state.ids.next();
        let body = Some(take(state, &id, asked)?);
        Ok(Reply { status: 201, body })
    }),
    route(Method::GET, SUBSCRIPTION, &[], |state, asked| show(state, Kind::SUBSCRIPTION, asked)),
    route(Method::PUT, SUBSCRIPTION, &[], change),
    route(Method::DELETE, SUBSCRIPTION, &[], |state, asked| {
        state.world.remove(Kind::SUBSCRIPTION, &asked.key())?;
        state.world.secret_tokens.remove(&asked.key());
        no_content()
    }),
];

fn change(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.key();
    state.world.find(Kind::SUBSCRIPTION, &id)?;
    ok(take(state, &id, asked)?)
}

fn take(state: &mut State, id: &str, asked: &Asked) -> Result<Value, Refusal> {
    for name in REQUIRED {
        if !asked.body.get(name).is_some_and(Value::is_string) {
            return Err(Refusal::bad_request(format!("{name} is required")));
        }
    }
    let fields = REQUIRED.iter().chain(&OPTIONAL);
    let mut subscription: Map<String, Value> =
        fields.filter_map(|name| Some((name.to_string(), asked.body.get(*name)?.clone()))).collect();
    subscription.insert("id".into(), json!(id));
    subscription.insert("selfUri".into(), json!(SUBSCRIPTION.replace("{id}", id)));
    let subscription = Value::Object(subscription);
    state.world.put(Kind::SUBSCRIPTION, id, subscription.clone())?;
    // As the rest of it: what is left out is gone.
    match asked.body.get("secretToken").and_then(Value::as_str) {
        Some(secret) => state.world.secret_tokens.insert(id.into(), secret.into()),
        None => state.world.secret_tokens.remove(id),
    };
    Ok(subscription)
}
