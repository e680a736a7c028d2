//! The way of a call: noted, struck by a fault, recognised, counted against its client's limit, carried out,
//! answered.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use futures_util::StreamExt;
use holdline_stage::clock::{self, Instant};
use holdline_stage::run::Tasks;
use serde_json::Value;
use tokio::sync::Notify;

use crate::api::{self, Asked, Route};
use crate::calls::Call;
use crate::faults::{Fault, Outcome};
use crate::oauth::{self, Client};
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::state::{Now, State, micros};
use crate::{Options, remote, socket};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What every connection works with.
pub(crate) struct Shared {
    state: Mutex<State>,
    begun: Instant,
    /// Something may be due earlier than it was.
    changed: Notify,
    pub(crate) tasks: Tasks,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Shared {
        let now = Now { us: 0, wall_ms: clock::wall_ms() };
        Shared {
            state: Mutex::new(State::new(options, now)),
            begun: clock::now(),
            changed: Notify::new(),
            tasks: Tasks::default(),
        }
    }

    /// Does something with the state.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State, Now) -> T) -> T {
        let done = self.look(act);
        self.changed.notify_one();
        done
    }

    /// The same, where nothing becomes due. The instant is taken under the lock: in the order of the calls.
    fn look<T>(&self, act: impl FnOnce(&mut State, Now) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now { us: micros(self.begun.elapsed()), wall_ms: clock::wall_ms() };
        state.settle(now);
        act(&mut state, now)
    }
}

/// Serves until the tasks are stopped.
pub(crate) fn begin(shared: &Arc<Shared>, listener: tokio::net::TcpListener) {
    let router = router(shared.clone());
    let stop = shared.tasks.clone();
    shared.tasks.spawn(async move {
        let served =
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.stopping().await }).await;
        if let Err(error) = served {
            tracing::error!("the simulator serves no more: {error}");
        }
    });
    shared.tasks.spawn(settle(shared.clone()));
}

/// Lets happen in time what happens by itself.
async fn settle(shared: Arc<Shared>) {
    loop {
        let next_us = shared.look(|state, _| state.next_us());
        let due = async {
            match next_us {
                Some(us) => {
                    tokio::time::sleep_until(shared.begun + std::time::Duration::from_micros(us)).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.changed.notified() => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut platform = Router::new().route("/oauth/token", post(token));
    for route in api::routes() {
        // It fails for methods that HTTP does not name; the tables have none, and `GET /simulator/routes` and
        // the SDK's script would show it.
        let Ok(method) = MethodFilter::try_from(route.method.clone()) else { continue };
        platform = platform.route(
            route.path,
            on(method, move |shared, caller, parameters, query, body| {
                carry_out(route, shared, caller, parameters, query, body)
            }),
        );
    }
    let platform = platform
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(shared.clone(), serve))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .route("/channels/{id}", get(socket::open))
        .nest("/simulator", remote::router())
        .merge(platform)
        .with_state(shared)
}

/// Who calls, for the endpoint.
#[derive(Clone)]
struct Caller {
    client: Client,
    /// Of the call.
    number: u64,
    /// The call is answered as if it had been carried out, and changes nothing.
    feigned: bool,
    /// The answer's `ININ-Correlation-Id`.
    context: String,
}

/// What is known of a call before it is carried out.
struct Admitted {
    number: u64,
    context: String,
    fault: Option<Fault>,
    quota: Option<Quota>,
    caller: Result<Client, Refusal>,
}

fn admit(state: &mut State, request: &Request, now: Now) -> Admitted {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let needs_token = path.starts_with("/api/");
    let client = state.client_of_token(authorization, now);
    let named = match &client {
        Some(client) => Some(client.id.clone()),
        None => authorization.and_then(oauth::basic).map(|(id, _)| id),
    };
    let call = Call {
        method: method.into(),
        path: path.into(),
        client: named,
        arrived_us: now.us,
        body: None,
        status: None,
    };
    let number = state.calls.arrived(call);
    let quota = client.as_ref().filter(|_| needs_token).zip(state.options.calls_per_window);
    let quota =
        quota.map(|(client, allowed)| state.quotas.count(&client.id, allowed, state.options.window, now));
    let caller = match (client, quota) {
        (None, _) if needs_token => Err(Refusal::unauthorised()),
        (_, Some(quota)) if quota.is_exceeded() => Err(Refusal::too_many(quota.allowed, quota.reset_s)),
        (Some(client), _) => Ok(client),
        (None, _) => Ok(Client::new("", "", &[])),
    };
    Admitted { number, context: state.ids.next(), fault: state.faults.take(method, path), quota, caller }
}

async fn serve(
    axum::extract::State(shared): axum::extract::State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let Admitted { number, context, fault, quota, caller } =
        shared.with(|state, now| admit(state, &request, now));
    let is_token = request.uri().path().starts_with("/oauth/");
    let feigned = fault.as_ref().is_some_and(|fault| fault.outcome == Outcome::Feign);
    let carried_out = {
        let context = context.clone();
        async move {
            match caller {
                Ok(client) => {
                    let mut request = request;
                    request.extensions_mut().insert(Caller { client, number, feigned, context });
                    next.run(request).await
                }
                Err(refusal) => refused(&refusal, &context),
            }
        }
    };
    let mut response = match fault {
        None | Some(Fault { outcome: Outcome::Feign, .. }) => carried_out.await,
        Some(Fault { outcome: Outcome::Delay { delay_ms }, .. }) => {
            clock::sleep(std::time::Duration::from_millis(delay_ms)).await;
            carried_out.await
        }
        Some(Fault { outcome: Outcome::CloseMidBody, .. }) => cut(carried_out.await).await,
        Some(Fault { outcome: Outcome::Status { status, retry_after_s }, applied, .. }) => {
            if applied {
                carried_out.await;
            }
            match (is_token, status) {
                (true, 429) => (StatusCode::BAD_REQUEST, Json(oauth::throttled())).into_response(),
                _ => refused(&Refusal::injected(status, retry_after_s), &context),
            }
        }
        Some(Fault { outcome: Outcome::Hang, applied, .. }) => {
            if applied {
                carried_out.await;
            }
            shared.tasks.stopping().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    };
    let status = response.status().as_u16();
    shared.with(|state, _| state.calls.answered(number, status));
    describe(response.headers_mut(), &context, quota);
    response
}

/// The headers of every answer.
fn describe(headers: &mut HeaderMap, context: &str, quota: Option<Quota>) {
    if let Ok(context) = HeaderValue::from_str(context) {
        headers.insert("inin-correlation-id", context);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    if let Some(quota) = quota {
        headers.insert("inin-ratelimit-allowed", quota.allowed.into());
        headers.insert("inin-ratelimit-count", quota.count.into());
        headers.insert("inin-ratelimit-reset", quota.reset_s.into());
    }
}

fn refused(refusal: &Refusal, context: &str) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(refusal.body(context))).into_response();
    if let Some(seconds) = refusal.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Half of an answer, with the length of the whole: the connection ends in its middle.
async fn cut(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().max(1).into());
    let broken = futures_util::stream::once(async {
        // The half is flushed while the rest is awaited: otherwise nothing of the answer would leave.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("a fault cuts the answer"))
    });
    let body = Body::from_stream(futures_util::stream::iter([Ok(half)]).chain(broken));
    Response::from_parts(parts, body)
}

async fn token(
    axum::extract::State(shared): axum::extract::State<Arc<Shared>>,
    headers: HeaderMap,
    form: String,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (status, body) = shared.with(|state, now| state.token(authorization, &form, now));
    (status, Json(body)).into_response()
}

async fn unknown(Extension(caller): Extension<Caller>) -> Response {
    refused(&Refusal::not_found(), &caller.context)
}

async fn carry_out(
    route: &'static Route,
    axum::extract::State(shared): axum::extract::State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    parameters: axum::extract::RawPathParams,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    body: Bytes,
) -> Response {
    let parameters = parameters.iter().map(|(_, value)| value.to_string()).collect();
    let body = match body.is_empty() {
        true => Ok(Value::Null),
        false => serde_json::from_slice(&body),
    };
    let answer = match body {
        _ if !caller.client.may(route.any_of) => Err(Refusal::forbidden(route.any_of)),
        Err(error) => Err(Refusal::bad_request(format!("the body is no JSON: {error}"))),
        Ok(body) => shared.with(|state, now| {
            if route.method != Method::GET {
                state.calls.carried(caller.number, &body);
            }
            let query = query.unwrap_or_default();
            let asked = Asked { parameters, query, body, client: caller.client.clone(), now };
            let before = caller.feigned.then(|| state.world.clone());
            let answer = (route.carry_out)(state, &asked);
            if let Some(before) = before {
                state.world = before;
            }
            answer
        }),
    };
    match answer {
        Ok(reply) => {
            let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
            match reply.body {
                Some(body) => (status, Json(body)).into_response(),
                None => status.into_response(),
            }
        }
        Err(refusal) => refused(&refusal, &caller.context),
    }
}
