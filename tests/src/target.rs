//! A target that counts what it is asked, and keeps it in the order of arrival.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};

use crate::secrecy;

/// One call, as the target saw it.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub host: String,
    /// `Idempotency-Key`
    pub key: String,
    /// `X-Request-ID`, which the sample actions fill with the deciding event's id.
    pub request_id: String,
    /// `X-Correlation-ID`
    pub correlation: String,
    pub authorization: String,
    pub body: String,
    pub at: Instant,
    /// What it was answered.
    pub status: u16,
}

/// A limit as the platform has it: so many calls until the counter is reset.
struct Limit {
    allowed: u32,
    period: Duration,
    count: u32,
    since: Option<Instant>,
    /// Calls of somebody else, which are counted after so many of ours.
    foreign: Option<(u32, u32)>,
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
    limit: Mutex<Option<Limit>>,
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

    /// Speaks `inin-ratelimit-*` and answers 429 beyond so many calls in a period. Once, after so many calls of
    /// ours, so many of somebody else are counted.
    pub fn limit(&self, allowed: u32, period: Duration, foreign: (u32, u32)) {
        let limit = Limit { allowed, period, count: 0, since: None, foreign: Some(foreign) };
        *self.seen.limit.lock().unwrap() = Some(limit);
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

async fn asked(
    State(seen): State<Arc<Seen>>,
    headers: HeaderMap,
    uri: Uri,
    body: String,
) -> (StatusCode, HeaderMap) {
    let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_string();
    // Whom a credential is meant for may see it, where it belongs.
    let others = headers.iter().filter(|(name, _)| *name != "authorization");
    let others: Vec<String> = others.map(|(name, value)| format!("{name}: {value:?}")).collect();
    secrecy::overhear("a call", &format!("{uri} {others:?} {body}"));
    let delay = seen.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        clock::sleep(Duration::from_millis(delay.into())).await;
    }
    let at = clock::now();
    let (limited, told) =
        seen.limit.lock().unwrap().as_mut().map(|limit| limit.count(at)).unwrap_or_default();
    let status = if limited { StatusCode::TOO_MANY_REQUESTS } else { seen.status_of(uri.path()) };
    if !limited {
        seen.effects.lock().unwrap().entry(uri.path().into()).or_default().insert(text("x-request-id"));
    }
    seen.calls.lock().unwrap().push(Call {
        path: uri.path().into(),
        host: text("host"),
        key: text("idempotency-key"),
        request_id: text("x-request-id"),
        correlation: text("x-correlation-id"),
        authorization: text("authorization"),
        body,
        at,
        status: status.as_u16(),
    });
    (status, told)
}

impl Seen {
    /// What a call is to be answered.
    fn status_of(&self, path: &str) -> StatusCode {
        let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        for (end, left, status) in self.failing.lock().unwrap().iter_mut() {
            if *left > 0 && path.ends_with(end.as_str()) {
                *left -= 1;
                return StatusCode::from_u16(*status).unwrap();
            }
        }
        match left {
            Ok(_) => StatusCode::from_u16(self.status.load(Ordering::SeqCst) as u16).unwrap(),
            Err(_) => StatusCode::OK,
        }
    }
}

impl Limit {
    /// Counts a call: whether it is too much, and what is told.
    fn count(&mut self, at: Instant) -> (bool, HeaderMap) {
        if self.since.is_none_or(|since| at.duration_since(since) >= self.period) {
            (self.since, self.count) = (Some(at), 0);
        }
        self.count += 1;
        let count = self.count;
        let left = self.since.unwrap() + self.period - at;
        let reset = left.as_millis().div_ceil(1_000).to_string();
        let is_too_much = count > self.allowed;
        // What somebody else does, the next answer tells.
        if let Some((_, calls)) = self.foreign.take_if(|(after, _)| count >= *after) {
            self.count += calls;
        }
        let mut told = HeaderMap::new();
        told.insert("inin-ratelimit-allowed", self.allowed.into());
        told.insert("inin-ratelimit-count", count.into());
        told.insert("inin-ratelimit-reset", reset.parse().unwrap());
        if is_too_much {
            told.insert("retry-after", reset.parse().unwrap());
        }
        (is_too_much, told)
    }
}
