//! From a request to an answer: bounded body → signature → shape → frame → 200. Nothing else happens before
//! the answer, and 200 is given only when every event of the request is durable.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use holdline_decide::playbook::{Auth, Set, Subscription};
use holdline_proto::event::Accepted;
use holdline_proto::limits::BODY_BYTES_MAX;
use holdline_proto::topology::{Role, partition_of};
use holdline_stage::clock;
use holdline_stage::playbooks::Playbooks;
use holdline_stage::telemetry::Metric;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::envelope::{self, Enveloped};
use crate::frame::{LastHeard, Waiting};
use crate::poll::Pages;
use crate::problem::Problem;
use crate::secrets::Secrets;
use crate::signature::{self, Proof};

/// A body that takes longer to arrive is given up: 408.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests under way. Beyond: 503.
const REQUESTS_MAX: usize = 4_096;

/// Everything a request needs.
pub(crate) struct Entrance {
    pub playbooks: Playbooks<Set>,
    pub secrets: Secrets,
    /// By partition.
    pub queues: Vec<mpsc::Sender<Waiting>>,
    pub heard: Arc<LastHeard>,
    /// Part of every accept id of this run.
    pub run: String,
    pub accepted: AtomicU64,
    pub under_way: Semaphore,
    pub pages: Pages,
}

impl Entrance {
    pub(crate) fn under_way() -> Semaphore {
        Semaphore::new(REQUESTS_MAX)
    }
}

pub(crate) fn router(entrance: Arc<Entrance>) -> Router {
    Router::new()
        .route("/v1/events/{subscription}", post(by_name))
        .route("/v1/events/{subscription}/{token}", post(by_token))
        .fallback(by_path)
        .with_state(entrance)
        .layer(tower_http::catch_panic::CatchPanicLayer::new())
}

type Peer = ConnectInfo<SocketAddr>;

async fn by_name(
    State(entrance): State<Arc<Entrance>>,
    ConnectInfo(peer): Peer,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(receive(&entrance, Wanted::Name(&name), peer, &headers, body).await)
}

/// The address itself is the secret. It is in no log: nothing here writes down what was asked for.
async fn by_token(
    State(entrance): State<Arc<Entrance>>,
    ConnectInfo(peer): Peer,
    Path((name, token)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(receive(&entrance, Wanted::Token(&name, &token), peer, &headers, body).await)
}

/// A subscription's own `callbackUrl` path works as well.
async fn by_path(
    State(entrance): State<Arc<Entrance>>,
    ConnectInfo(peer): Peer,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if method != Method::POST {
        let known = entrance.playbooks.current().is_some_and(|(_, set)| {
            set.subscriptions.values().any(|s| s.callback_path.as_deref() == Some(uri.path()))
        });
        let problem = if known {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "events are posted")
        } else {
            not_found()
        };
        return answer(Err(problem));
    }
    answer(receive(&entrance, Wanted::Path(uri.path()), peer, &headers, body).await)
}

fn answer(received: Result<Vec<String>, Problem>) -> Response {
    match received {
        Ok(ids) => {
            Metric::EventsAccepted.add(ids.len() as u64, Role::Gateway.name(), None);
            Json(json!({"accepted": ids.len(), "ids": ids})).into_response()
        }
        Err(problem) => {
            Metric::RequestsRefused.add(1, Role::Gateway.name(), Some(("reason", problem.reason.into())));
            problem.into_response()
        }
    }
}

enum Wanted<'a> {
    Name(&'a str),
    Token(&'a str, &'a str),
    Path(&'a str),
}

fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such subscription here")
}

async fn receive(
    entrance: &Entrance,
    wanted: Wanted<'_>,
    peer: SocketAddr,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<String>, Problem> {
    let _slot = entrance
        .under_way
        .try_acquire()
        .map_err(|_| Problem::unavailable("overload", "too many requests are under way"))?;
    let Some((_, set)) = entrance.playbooks.current() else {
        return Err(Problem::unavailable("no_playbooks", "no set of playbooks was pushed yet"));
    };
    let subscription = match wanted {
        Wanted::Name(name) => set.subscriptions.get(name),
        Wanted::Token(name, _) => set.subscriptions.get(name).filter(|s| s.auth == Auth::PathToken),
        Wanted::Path(path) => {
            set.subscriptions.values().find(|s| s.callback_path.as_deref() == Some(path) && path != "/")
        }
    };
    // What the gateway listens to itself is posted by nobody.
    let subscription = subscription.filter(|s| s.pull.is_none()).ok_or_else(not_found)?;
    check_type(headers)?;
    let body = read(headers, body).await?;
    let token = if let Wanted::Token(_, token) = wanted { Some(token) } else { None };
    let proof = proof(headers, token);
    check_signature(entrance, subscription, proof, &body, peer)?;
    // What is not signed names nothing.
    let message_id = proof.webhook_id.filter(|_| subscription.auth == Auth::StandardWebhooks);
    accept(entrance, subscription, &body, message_id).await
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail);
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let kind = kind.to_ascii_lowercase();
        let json =
            kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
        if !json {
            return Err(unsupported("expected Content-Type: application/json"));
        }
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(unsupported("compressed bodies are not taken")),
        _ => Ok(()),
    }
}

/// Reads the body, no further than the limit and no longer than its time.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            // The limit is one of the two ways in which reading fails; the other is a broken connection.
            let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            if text.contains("limit") { Err(too_large()) } else { Err(Problem::bad("the body broke off")) }
        }
        Err(_) => {
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body took more than ten seconds"))
        }
    }
}

fn proof<'a>(headers: &'a HeaderMap, path_token: Option<&'a str>) -> Proof<'a> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Proof {
        signature: text("x-purecloud-signature"),
        timestamp: text("x-purecloud-timestamp"),
        authorization: text("authorization"),
        webhook_id: text("webhook-id"),
        webhook_timestamp: text("webhook-timestamp"),
        webhook_signature: text("webhook-signature"),
        hub_signature: text("x-hub-signature-256"),
        path_token,
    }
}

fn check_signature(
    entrance: &Entrance,
    subscription: &Subscription,
    proof: Proof<'_>,
    body: &[u8],
    peer: SocketAddr,
) -> Result<(), Problem> {
    let secrets = entrance.secrets.of(&subscription.name).unwrap_or_default();
    if secrets.is_empty() && !subscription.secrets.is_empty() {
        let detail = "the gateway cannot check signatures of this subscription at the moment";
        return Err(Problem::unavailable("no_secret", detail));
    }
    signature::verify(subscription.auth, &secrets, proof, body, clock::wall_ms(), peer.ip()).map_err(
        |refused| {
            tracing::debug!(subscription = subscription.name, "refused: {}", refused.name());
            // Which part was wrong is nobody's business.
            Problem::new(StatusCode::UNAUTHORIZED, refused.name(), "the request is not authenticated")
        },
    )
}

/// Reads a body and stores what it says.
async fn accept(
    entrance: &Entrance,
    subscription: &Subscription,
    body: &[u8],
    message_id: Option<&str>,
) -> Result<Vec<String>, Problem> {
    let events = envelope::open(subscription, body, message_id)?;
    if subscription.poll.is_some() {
        entrance.pages.look(&subscription.name);
        return Ok(vec![]);
    }
    if events.is_empty() {
        Metric::BodiesWithoutState.add(
            1,
            Role::Gateway.name(),
            Some(("subscription", subscription.name.clone())),
        );
    }
    store(entrance, subscription, events, WhenFull::Refuse).await
}

/// What to do where too many events of a partition wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Whoever sends can be told to come again.
    Refuse,
    /// Whoever reads can read on later.
    Wait,
}

/// Hands every event to its partition and waits until all of them are durable. Events or none: the subscription
/// was heard.
pub(crate) async fn store(
    entrance: &Entrance,
    subscription: &Subscription,
    events: Vec<Enveloped>,
    when_full: WhenFull,
) -> Result<Vec<String>, Problem> {
    let partitions = u16::try_from(entrance.queues.len()).unwrap_or(1);
    let (accepted_ms, since) = (clock::wall_ms(), clock::now());
    let mut ids = Vec::with_capacity(events.len());
    let mut answers = Vec::with_capacity(events.len());
    entrance.heard.note(&subscription.name);
    for event in events {
        let partition = partition_of(&event.key, partitions);
        let number = entrance.accepted.fetch_add(1, Ordering::Relaxed);
        let accept_id = format!("{partition}-{accepted_ms}-{}-{number}", entrance.run);
        let accepted = Accepted {
            accept_id: accept_id.clone(),
            accepted_ms,
            subscription: subscription.name.clone(),
            body: event.bytes,
            origin: None,
        };
        let (stored, answer) = oneshot::channel();
        let queued = match (entrance.queues.get(usize::from(partition)), when_full) {
            (None, _) => false,
            (Some(queue), WhenFull::Refuse) => {
                queue.try_send(Waiting { event: accepted, since, stored }).is_ok()
            }
            // What waits for its place is accepted when it has it.
            (Some(queue), WhenFull::Wait) => match queue.reserve().await {
                Ok(place) => {
                    let accepted = Accepted { accepted_ms: clock::wall_ms(), ..accepted };
                    place.send(Waiting { event: accepted, since: clock::now(), stored });
                    true
                }
                Err(_) => false,
            },
        };
        if !queued {
            // Earlier events of the batch may be stored all the same; sent again they are duplicates.
            return Err(Problem::unavailable("full", "too many events wait to be stored"));
        }
        ids.push(accept_id);
        answers.push(answer);
    }
    for answer in answers {
        if answer.await != Ok(true) {
            return Err(Problem::unavailable("not_stored", "the event could not be stored; send it again"));
        }
    }
    Ok(ids)
}
