//! The target: counts effects, keeps a log of every call, and misbehaves as it is told (F7).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use futures_util::{StreamExt, stream};
use holdline_stage::clock;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Fine,
    /// Nothing happens, and it says so.
    Refuse {
        status: u16,
        retry_after_s: Option<u8>,
    },
    /// It happens, and then it fails to say so.
    FailAfterwards {
        status: u16,
    },
    /// No answer comes; it has happened or not.
    Hang {
        happens: bool,
    },
    /// It happens, and the connection ends in the middle of the answer's body.
    BreakOff,
    /// It happens, and the answer's body comes byte by byte.
    Drip,
    /// It happens, and the answer is called JSON and is none.
    Garbage,
    /// It happens, and the answer has ten megabytes.
    Huge,
}

impl Manner {
    pub(crate) const BAD: [Manner; 11] = [
        Manner::Refuse { status: 429, retry_after_s: None },
        Manner::Refuse { status: 429, retry_after_s: Some(1) },
        Manner::Refuse { status: 500, retry_after_s: None },
        Manner::Refuse { status: 502, retry_after_s: None },
        Manner::FailAfterwards { status: 500 },
        Manner::Hang { happens: true },
        Manner::Hang { happens: false },
        Manner::BreakOff,
        Manner::Drip,
        Manner::Garbage,
        Manner::Huge,
    ];
}

/// One call, as the target saw it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Unix milliseconds.
    pub at_ms: i64,
    pub kind: String,
    pub direction: String,
    pub entity: String,
    pub key: String,
    /// The deciding event's id.
    pub event: String,
    /// The target did what it was asked: it had not seen the key, or this kind of action ignores keys.
    pub effect: bool,
}

/// In order: (direction, deciding event).
type Effects = Vec<(String, String)>;

struct Seen {
    calls: Mutex<Vec<Call>>,
    /// By kind and entity.
    effects: Mutex<HashMap<(String, String), Effects>>,
    keys: Mutex<HashSet<String>>,
    manner: Mutex<Manner>,
    /// Calls that followed a redirection to another host. None may.
    astray: AtomicU64,
    elsewhere: SocketAddr,
}

/// A running target.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

impl Target {
    pub(crate) async fn start() -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            calls: Mutex::default(),
            effects: Mutex::default(),
            keys: Mutex::default(),
            manner: Mutex::new(Manner::Fine),
            astray: AtomicU64::new(0),
            elsewhere: other.local_addr().unwrap(),
        });
        let router = axum::Router::new().fallback(asked).with_state(seen.clone());
        let strayed = axum::Router::new()
            .fallback(|State(seen): State<Arc<Seen>>| async move {
                seen.astray.fetch_add(1, Ordering::SeqCst);
            })
            .with_state(seen.clone());
        let tasks = holdline_stage::run::Tasks::default();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        tasks.spawn(async move { axum::serve(other, strayed).await.unwrap() });
        Target { address, seen }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.seen.manner.lock().unwrap() = manner;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.seen.calls.lock().unwrap().clone()
    }

    pub(crate) fn astray(&self) -> u64 {
        self.seen.astray.load(Ordering::SeqCst)
    }

    /// Effects on an entity so far.
    pub(crate) fn effects(&self, kind: &str, entity: &str) -> Effects {
        let effects = self.seen.effects.lock().unwrap();
        effects.get(&(kind.to_string(), entity.to_string())).cloned().unwrap_or_default()
    }
}

/// Calls by kind and entity, in order of arrival.
pub(crate) fn by_entity(calls: &[Call]) -> BTreeMap<(String, String), Vec<Call>> {
    let mut sorted: BTreeMap<(String, String), Vec<Call>> = BTreeMap::new();
    for call in calls {
        sorted.entry((call.kind.clone(), call.entity.clone())).or_default().push(call.clone());
    }
    sorted
}

async fn asked(State(seen): State<Arc<Seen>>, headers: HeaderMap, uri: Uri, _body: Bytes) -> Response<Body> {
    let text = |name: &str| headers.get(name).map_or("", |v| v.to_str().unwrap_or_default()).to_string();
    let mut parts = uri.path().split('/').skip(1).map(str::to_string);
    let mut part = || parts.next().unwrap_or_default();
    let mut call = Call {
        at_ms: clock::wall_ms(),
        kind: part(),
        direction: part(),
        entity: part(),
        key: text("idempotency-key"),
        event: text("x-request-id"),
        effect: false,
    };
    let (manner, status) = match call.entity.strip_prefix("final-").and_then(|rest| rest.split('-').next()) {
        // These are refused for good, whatever the target's manner.
        Some("404") => (Manner::Refuse { status: 404, retry_after_s: None }, 404),
        Some("307") => (Manner::Refuse { status: 307, retry_after_s: None }, 307),
        _ => (*seen.manner.lock().unwrap(), 200),
    };
    let happens = !matches!(manner, Manner::Refuse { .. } | Manner::Hang { happens: false });
    if happens {
        let known = !seen.keys.lock().unwrap().insert(call.key.clone());
        call.effect = !known || call.kind == "once";
    }
    if call.effect {
        let of = (call.kind.clone(), call.entity.clone());
        let effect = (call.direction.clone(), call.event.clone());
        seen.effects.lock().unwrap().entry(of).or_default().push(effect);
    }
    seen.calls.lock().unwrap().push(call);
    let answer = Response::builder().header("content-type", "application/json");
    let body = Body::from("{\"done\": true}");
    let response = match manner {
        Manner::Fine => answer.status(status).body(body),
        Manner::Refuse { status: 307, .. } => {
            answer.status(307).header("location", format!("http://{}/", seen.elsewhere)).body(Body::empty())
        }
        Manner::Refuse { status, retry_after_s: Some(after) } => {
            answer.status(status).header("retry-after", after.to_string()).body(Body::empty())
        }
        Manner::Refuse { status, retry_after_s: None } => answer.status(status).body(Body::empty()),
        Manner::FailAfterwards { status } => answer.status(status).body(Body::empty()),
        Manner::Hang { .. } => {
            clock::sleep(Duration::from_secs(30)).await;
            answer.status(504).body(Body::empty())
        }
        Manner::BreakOff => {
            let pieces = [Ok(Bytes::from("{\"done\"")), Err(std::io::Error::other("broken off"))];
            answer.header("content-length", "100").body(Body::from_stream(stream::iter(pieces)))
        }
        Manner::Drip => {
            let pieces = stream::iter(0..30).then(|_| async {
                clock::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(Bytes::from(" "))
            });
            answer.body(Body::from_stream(pieces))
        }
        Manner::Garbage => answer.body(Body::from("{\"done\": tr\u{fffd}")),
        Manner::Huge => answer.body(Body::from(vec![b' '; 10_000_000])),
    };
    response.unwrap()
}
