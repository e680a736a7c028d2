//! A stub of HashiCorp Vault: the five calls that holdline makes, as Vault's API documentation describes them, and
//! ways to upset it. It is no Vault, and holdline was tried against no other. Its refusals repeat what they were sent,
//! as the worst of servers would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use holdline_stage::clock::{self, Instant};
use serde_json::{Value, json};

use crate::secrecy;

/// What a login by AppRole takes.
pub const ROLE_ID: &str = "role-id-of-the-suite";
pub const SECRET_ID: &str = "secret-id-of-the-suite";

/// A running stub on loopback; its KV engine is mounted at `secret`.
#[derive(Clone)]
pub struct Vault {
    pub address: SocketAddr,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    /// The secrets by their paths.
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    forbidden: BTreeSet<String>,
    tokens: BTreeMap<String, Issued>,
    issued: usize,
    login_life: Duration,
    is_sealed: bool,
    calls: Vec<String>,
}

struct Issued {
    life: Duration,
    ends_at: Instant,
    /// No renewal goes beyond it.
    ends_at_most_at: Option<Instant>,
}

impl Vault {
    pub async fn start() -> Vault {
        let inside = Inside { login_life: Duration::from_secs(3_600), ..Inside::default() };
        let inside = Arc::new(Mutex::new(inside));
        let router = axum::Router::new().fallback(asked).with_state(inside.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Vault { address, inside }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// Writes a key; the others of the path stay.
    pub fn put(&self, path: &str, key: &str, value: &str) {
        secrecy::give(value);
        self.inside().secrets.entry(path.into()).or_default().insert(key.into(), value.into());
    }

    pub fn delete(&self, path: &str) {
        self.inside().secrets.remove(path);
    }

    /// Whether the policies let anybody read a path.
    pub fn forbid(&self, path: &str, is_forbidden: bool) {
        let mut inside = self.inside();
        if is_forbidden {
            inside.forbidden.insert(path.into())
        } else {
            inside.forbidden.remove(path)
        };
    }

    pub fn seal(&self, is_sealed: bool) {
        self.inside().is_sealed = is_sealed;
    }

    /// A token, as an administrator would make one.
    pub fn issue(&self, life: Duration) -> String {
        self.inside().issue(life)
    }

    /// From now on no token is renewed for longer than this from now.
    pub fn end_within(&self, most: Duration) {
        let end = clock::now() + most;
        self.inside().tokens.values_mut().for_each(|token| token.ends_at_most_at = Some(end));
    }

    pub fn revoke(&self, token: &str) {
        self.inside().tokens.remove(token);
    }

    pub fn revoke_all(&self) {
        self.inside().tokens.clear();
    }

    /// The tokens that are good, and that were.
    pub fn tokens(&self) -> Vec<String> {
        (1..=self.inside().issued).map(name).collect()
    }

    /// How often a call was answered so, such as `POST auth/approle/login 200`.
    pub fn count(&self, call: &str) -> usize {
        self.inside().calls.iter().filter(|made| *made == call).count()
    }
}

/// No number is part of another.
fn name(number: usize) -> String {
    format!("hvs.token-of-the-suite-{number:04}")
}

impl Inside {
    fn issue(&mut self, life: Duration) -> String {
        self.issued += 1;
        let token = name(self.issued);
        secrecy::give(&token);
        self.tokens
            .insert(token.clone(), Issued { life, ends_at: clock::now() + life, ends_at_most_at: None });
        token
    }

    fn answer(&mut self, method: &Method, path: &str, token: &str, content: &Value) -> (StatusCode, Value) {
        if self.is_sealed {
            return (StatusCode::SERVICE_UNAVAILABLE, json!({"errors": ["Vault is sealed"]}));
        }
        let now = clock::now();
        self.tokens.retain(|_, token| now < token.ends_at);
        if (method, path) == (&Method::POST, "auth/approle/login") {
            if (&content["role_id"], &content["secret_id"]) != (&json!(ROLE_ID), &json!(SECRET_ID)) {
                return (StatusCode::BAD_REQUEST, json!({"errors": ["invalid role or secret ID", content]}));
            }
            let token = self.issue(self.login_life);
            let life_s = self.login_life.as_secs();
            let auth = json!({"client_token": token, "lease_duration": life_s, "renewable": true});
            return (StatusCode::OK, json!({"data": null, "auth": auth}));
        }
        let denied = || (StatusCode::FORBIDDEN, json!({"errors": ["permission denied", token]}));
        let Some(issued) = self.tokens.get_mut(token) else { return denied() };
        let left_s = |issued: &Issued| (issued.ends_at - now).as_secs();
        match (method, path) {
            (&Method::GET, "auth/token/lookup-self") => {
                let data = json!({"id": token, "ttl": left_s(issued), "renewable": true});
                (StatusCode::OK, json!({"data": data, "auth": null}))
            }
            (&Method::POST, "auth/token/renew-self") => {
                let end = now + issued.life;
                issued.ends_at = issued.ends_at_most_at.map_or(end, |most| end.min(most));
                let auth =
                    json!({"client_token": token, "lease_duration": left_s(issued), "renewable": true});
                (StatusCode::OK, json!({"data": null, "auth": auth}))
            }
            (&Method::GET, _) => match path.strip_prefix("secret/data/") {
                Some(path) if !self.forbidden.contains(path) => match self.secrets.get(path) {
                    Some(keys) => {
                        let data = json!({"data": keys, "metadata": {"version": 1, "destroyed": false}});
                        (StatusCode::OK, json!({"data": data, "auth": null}))
                    }
                    None => (StatusCode::NOT_FOUND, json!({"errors": [], "sent": token})),
                },
                _ => denied(),
            },
            _ => denied(),
        }
    }
}

async fn asked(
    State(inside): State<Arc<Mutex<Inside>>>,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
    body: String,
) -> (StatusCode, String) {
    let token = headers.get("x-vault-token").map_or("", |value| value.to_str().unwrap());
    let path = uri.path().strip_prefix("/v1/").unwrap_or_default();
    let content = serde_json::from_str(&body).unwrap_or_default();
    let mut inside = inside.lock().unwrap();
    let (status, answer) = inside.answer(&method, path, token, &content);
    inside.calls.push(format!("{method} {path} {}", status.as_u16()));
    (status, answer.to_string())
}
