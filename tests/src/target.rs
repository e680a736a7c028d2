//! A target that counts what it is asked, and keeps it in the order of arrival.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};

/// One call, as the target saw it.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub host: String,
    /// `Idempotency-Key`
    pub key: String,
    /// `X-Request-ID`, which the sample actions fill with the deciding event's id.
    pub request_id: String,
    pub body: String,
    pub at: Instant,
}

#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<Call>>,
    /// Effects so far by path.
    effects: Mutex<HashMap<String, HashSet<String>>>,
    /// Answers to give before 200: how many times which status.
    failures: AtomicU32,
    status: AtomicU32,
    delay_ms: AtomicU32,
    /// The same for calls whose path ends with this.
    failing: Mutex<Vec<(String, u32, u16)>>,
}

/// A running target on loopback.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

impl Target {
    pub async fn start() -> Target {
        let seen = Arc::new(Seen::default());
        let router = axum::Router::new().fallback(asked).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Target { address, seen }
    }

    /// Answers the next calls with this status instead of 200.
    pub fn fail(&self, times: u32, status: u16) {
        self.seen.status.store(status.into(), Ordering::SeqCst);
        self.seen.failures.store(times, Ordering::SeqCst);
    }

    /// Answers the next calls whose path ends with this with this status.
    pub fn fail_at(&self, path: &str, times: u32, status: u16) {
        self.seen.failing.lock().unwrap().push((path.into(), times, status));
    }

    pub fn slow(&self, delay: Duration) {
        self.seen.delay_ms.store(delay.as_millis() as u32, Ordering::SeqCst);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.seen.calls.lock().unwrap().clone()
    }

    /// Effects at a target that honours idempotency keys: the first call with each key, in order.
    pub fn effects(&self) -> Vec<Call> {
        let mut seen = BTreeMap::new();
        self.calls().into_iter().filter(|call| seen.insert(call.key.clone(), ()).is_none()).collect()
    }

    /// Whether an action with this path has had an effect for this deciding event.
    pub fn has(&self, path: &str, request_id: &str) -> bool {
        self.seen.effects.lock().unwrap().get(path).is_some_and(|events| events.contains(request_id))
    }

    /// Waits until there are so many effects, or the time is over.
    pub async fn wait_for(&self, effects: usize, most: Duration) -> Vec<Call> {
        let began = clock::now();
        while self.effects().len() < effects && began.elapsed() < most {
            clock::sleep(Duration::from_millis(20)).await;
        }
        self.effects()
    }
}

async fn asked(State(seen): State<Arc<Seen>>, headers: HeaderMap, uri: Uri, body: String) -> StatusCode {
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_string();
    let delay = seen.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        clock::sleep(Duration::from_millis(delay.into())).await;
    }
    let failing = seen.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    seen.effects.lock().unwrap().entry(uri.path().into()).or_default().insert(text("x-request-id"));
    seen.calls.lock().unwrap().push(Call {
        path: uri.path().into(),
        host: text("host"),
        key: text("idempotency-key"),
        request_id: text("x-request-id"),
        body,
        at: clock::now(),
    });
    for (path, left, status) in seen.failing.lock().unwrap().iter_mut() {
        if *left > 0 && uri.path().ends_with(path.as_str()) {
            *left -= 1;
            return StatusCode::from_u16(*status).unwrap();
        }
    }
    match failing {
        Ok(_) => StatusCode::from_u16(seen.status.load(Ordering::SeqCst) as u16).unwrap(),
        Err(_) => StatusCode::OK,
    }
}
