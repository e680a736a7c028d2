//! [`crate::control`] over HTTP, under `/simulator`: JSON in, JSON out, no authentication.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::Unknown;
use crate::faults::{Fault, SocketFault};
use crate::serve::Shared;
use crate::world::Kind;
use crate::{api, state};

type Platform = State<Arc<Shared>>;

/// The routes; `docs/simulator.md` lists them with examples.
pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/trunks/{id}", post(trunk))
        .route("/edges/{id}", post(edge))
        .route("/objects", get(every_object))
        .route("/objects/{kind}", get(objects))
        .route("/objects/{kind}/{*key}", get(object).patch(edit))
        .route("/incidents", post(incident))
        .route("/incidents/{id}", delete(resolve))
        .route("/operational-events", post(operational_event))
        .route("/faults", get(faults).post(fault).delete(clear_faults))
        .route("/sockets", get(sockets).post(strike))
        .route("/topics", post(refuse))
        .route("/tokens", delete(revoke))
        .route("/routes", get(routes))
        .route("/calls", get(calls).delete(forget))
}

fn answer<T: serde::Serialize>(done: Result<T, Unknown>) -> Response {
    match done {
        Ok(body) => Json(body).into_response(),
        Err(unknown) => {
            (StatusCode::NOT_FOUND, Json(json!({ "error": unknown.to_string() }))).into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trunk {
    connected: bool,
    /// Proxy by proxy; those that are not named do as the trunk is connected.
    #[serde(default)]
    options: Vec<bool>,
}

async fn trunk(State(shared): Platform, Path(id): Path<String>, Json(to): Json<Trunk>) -> Response {
    answer(shared.set_trunk(&id, to.connected, &to.options))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edge {
    online: bool,
}

async fn edge(State(shared): Platform, Path(id): Path<String>, Json(to): Json<Edge>) -> Response {
    answer(shared.set_edge(&id, to.online))
}

/// Every object, by kind and key.
async fn every_object(State(shared): Platform) -> Json<Value> {
    let all = |kind: Kind| (kind.0.name.to_string(), shared.with(|state, _| of_kind(state, kind)));
    Json(api::kinds().map(all).collect::<serde_json::Map<_, _>>().into())
}

async fn objects(State(shared): Platform, Path(kind): Path<Kind>) -> Json<Value> {
    Json(shared.with(|state, _| of_kind(state, kind)))
}

fn of_kind(state: &state::State, kind: Kind) -> Value {
    let objects = state.world.below(kind, "");
    let objects = objects.map(|(key, object)| (key.to_string(), object.clone()));
    objects.collect::<serde_json::Map<_, _>>().into()
}

async fn object(State(shared): Platform, Path((kind, key)): Path<(Kind, String)>) -> Response {
    match shared.with(|state, _| state.world.get(kind, &key).cloned()) {
        Some(object) => Json(object).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn edit(
    State(shared): Platform,
    Path((kind, key)): Path<(Kind, String)>,
    Json(fields): Json<Value>,
) -> Response {
    answer(shared.edit(kind, &key, &fields))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incident {
    name: String,
    component: String,
    status: String,
}

async fn incident(State(shared): Platform, Json(new): Json<Incident>) -> Response {
    let opened = shared.incident(&new.name, &new.component, &new.status);
    answer(opened.map(|id| json!({ "id": id })))
}

async fn resolve(State(shared): Platform, Path(id): Path<String>) -> Response {
    answer(shared.resolve(&id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationalEvent {
    definition: String,
    entity: String,
    error_code: String,
}

async fn operational_event(State(shared): Platform, Json(event): Json<OperationalEvent>) -> Response {
    answer(shared.operational_event(&event.definition, &event.entity, &event.error_code))
}

async fn faults(State(shared): Platform) -> Json<Vec<Fault>> {
    Json(shared.with(|state, _| state.faults.standing().to_vec()))
}

async fn fault(State(shared): Platform, Json(fault): Json<Fault>) -> Json<Value> {
    shared.with(|state, _| state.faults.order(fault));
    Json(Value::Null)
}

async fn clear_faults(State(shared): Platform) -> Json<Value> {
    shared.with(|state, _| state.faults.clear());
    Json(Value::Null)
}

async fn sockets(State(shared): Platform) -> Json<Value> {
    Json(json!({ "open": shared.with(|state, _| state.channels.sockets()) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strike {
    fault: SocketFault,
}

async fn strike(State(shared): Platform, Json(strike): Json<Strike>) -> Json<Value> {
    shared.strike(strike.fault);
    Json(Value::Null)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refuse {
    topic: String,
    refused: bool,
}

async fn refuse(State(shared): Platform, Json(to): Json<Refuse>) -> Response {
    answer(shared.refuse_topic(&to.topic, to.refused))
}

async fn revoke(State(shared): Platform) -> Json<Value> {
    shared.revoke_tokens();
    Json(Value::Null)
}

/// Every endpoint of the platform, so that a test can say which it has not tried.
async fn routes() -> Json<Value> {
    let route = |route: &api::Route| {
        let example = route.example.and_then(|body| serde_json::from_str::<Value>(body).ok());
        json!({
            "method": route.method.as_str(),
            "path": route.path,
            "permissions": route.any_of,
            "example": example,
        })
    };
    Json(api::routes().map(route).collect())
}

async fn calls(State(shared): Platform) -> Json<Value> {
    Json(shared.with(
        |state, _| json!({ "calls": state.calls.log(), "in_a_second_max": state.calls.in_a_second_max() }),
    ))
}

async fn forget(State(shared): Platform) -> Json<Value> {
    shared.with(|state, _| state.calls.forget());
    Json(Value::Null)
}
