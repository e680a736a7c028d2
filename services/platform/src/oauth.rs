//! Tokens by client credentials (genesys.md 4): fetched once for all who wait, replaced before they expire,
//! and not asked for again and again while the token endpoint refuses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::Platform;
use holdline_stage::clock::{self, Instant};
use holdline_stage::secret::Lookup;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::limits::limits;
use crate::route::{Routes, body, reason};

/// A token is replaced this long before it expires, so that none expires on its way.
const EARLY: Duration = Duration::from_secs(60);

/// After a failure the endpoint is left alone for this long, doubled with each further one.
const BACK_OFF: Duration = Duration::from_millis(500);

/// The longest such wait: what a token endpoint that is back waits for us at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Bytes of the endpoint's answer that are read. A token has a few hundred.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Organisations and clients that are remembered; beyond, all are fetched anew.
const CLIENTS_MAX: usize = 64;

/// A token of one client.
#[derive(Debug, Clone)]
pub struct Token {
    pub value: SecretString,
    /// Another is fetched from then on.
    replace_at: Instant,
    /// A call that has its turn still leaves with it until then.
    good_until: Instant,
    number: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TokenError {
    pub reason: String,
    /// The endpoint is not asked before this has passed.
    pub retry_after: Option<Duration>,
    /// It is only asked too often: nothing is wrong with anything.
    pub throttled: bool,
}

#[derive(Default)]
struct Client {
    /// Whoever has it fetches the token; everybody else waits for that one.
    fetching: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    token: Option<Token>,
    fetched: u64,
    failures: u32,
    failed: Option<Failure>,
}

/// The last try, and until when there is no other.
struct Failure {
    until: Instant,
    reason: String,
    throttled: bool,
}

/// Why the endpoint gave no token.
struct Refused {
    reason: String,
    throttled: bool,
    /// What it asks for itself.
    retry_after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(reason: String) -> Refused {
        Refused { reason, throttled: false, retry_after: None }
    }
}

impl Client {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The token that is good, or why none is fetched now; `None`: one may be fetched.
    fn now(&self) -> Option<Result<Token, TokenError>> {
        let now = clock::now();
        if let Some(token) = self.token.as_ref().filter(|token| now < token.replace_at) {
            return Some(Ok(token.clone()));
        }
        let failure = self.failed.as_ref().filter(|failure| now < failure.until)?;
        Some(Err(failure.told(now)))
    }
}

impl Failure {
    fn told(&self, now: Instant) -> TokenError {
        TokenError {
            reason: self.reason.clone(),
            retry_after: Some(self.until.saturating_duration_since(now)),
            throttled: self.throttled,
        }
    }
}

/// The tokens of all clients.
pub struct Tokens {
    lookup: Lookup,
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Tokens {
    pub fn new(lookup: Lookup) -> Tokens {
        Tokens { lookup, clients: Mutex::default() }
    }

    /// A token that is still good for a while, fetched if need be.
    ///
    /// # Errors
    /// Why there is none at the moment.
    pub async fn of(&self, routes: &Routes, platform: &Platform, client: &str) -> Result<Token, TokenError> {
        let entry = self.entry(platform, client);
        let found = entry.known().now();
        if let Some(found) = found {
            return found;
        }
        let _fetching = entry.fetching.lock().await;
        // Whoever was first has left word.
        let found = entry.known().now();
        if let Some(found) = found {
            return found;
        }
        let fetched = self.fetch(routes, platform, client).await;
        let mut known = entry.known();
        let now = clock::now();
        match fetched {
            Ok(granted) => {
                known.fetched += 1;
                // A token that lives shorter than that is used for half its life.
                let lifetime = Duration::from_secs(granted.expires_in);
                let good_for = lifetime.saturating_sub(EARLY).max(lifetime / 2);
                let token = Token {
                    value: SecretString::from(granted.access_token),
                    replace_at: now + good_for,
                    good_until: now + good_for + (lifetime - good_for) / 2,
                    number: known.fetched,
                };
                (known.failures, known.failed) = (0, None);
                known.token = Some(token.clone());
                Ok(token)
            }
            Err(Refused { reason, throttled, retry_after }) => {
                let wait = BACK_OFF.saturating_mul(1 << known.failures.min(16)).min(BACK_OFF_MAX);
                let wait = wait.max(retry_after.unwrap_or_default());
                tracing::warn!(client, "no token for the client {client}: {reason}; again in {wait:?}");
                known.failures = known.failures.saturating_add(1);
                let failure = Failure { until: now + wait, reason, throttled };
                let told = failure.told(now);
                known.failed = Some(failure);
                Err(told)
            }
        }
    }

    /// The token that is at hand: nothing is waited for.
    ///
    /// # Errors
    /// Why there is none.
    pub fn at_hand(&self, platform: &Platform, client: &str) -> Result<Token, TokenError> {
        let entry = self.entry(platform, client);
        let (known, now) = (entry.known(), clock::now());
        if let Some(token) = known.token.as_ref().filter(|token| now < token.good_until) {
            return Ok(token.clone());
        }
        Err(known.failed.as_ref().map_or_else(
            // It was taken away a moment ago, and whoever prepares the next call gets another.
            || TokenError {
                reason: format!("there is no token of the client {client} at hand"),
                retry_after: Some(Duration::ZERO),
                throttled: true,
            },
            |failure| failure.told(now),
        ))
    }

    /// The platform has refused a token: it is given to nobody any more. One that was fetched since stays.
    pub fn refused(&self, platform: &Platform, client: &str, token: &Token) {
        self.entry(platform, client).known().token.take_if(|known| known.number == token.number);
    }

    fn entry(&self, platform: &Platform, client: &str) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{} {:?} {client}", platform.region, platform.clients.get(client));
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&key) {
            clients.clear();
        }
        clients.entry(key).or_default().clone()
    }

    async fn fetch(&self, routes: &Routes, platform: &Platform, name: &str) -> Result<Granted, Refused> {
        let Some(client) = platform.clients.get(name) else {
            return Err(format!("there is no client {name}").into());
        };
        let found = async |reference| {
            let secret = self.lookup.fetch(reference).await;
            secret.map_err(|why| format!("{reference} of the client {name} leads to no secret: {why}"))
        };
        let (id, secret) = (found(&client.id).await?, found(&client.secret).await?);
        let address = format!("https://login.{}/oauth/token", platform.region);
        let url = Url::parse(&address).map_err(|error| format!("{address}: {error}"))?;
        let answer = routes
            .request(Method::POST, url, platform.connect_to.as_ref())?
            // Told to be sensitive, so that no log of a client shows it.
            .basic_auth(id.expose_secret(), Some(secret.expose_secret()))
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials")
            .send()
            .await
            .map_err(|error| reason(&error))?;
        let status = answer.status();
        let (retry_after_ms, _) = limits(status.as_u16(), answer.headers());
        let bytes = body(answer, ANSWER_BYTES_MAX).await;
        if !status.is_success() {
            // What it says besides may repeat what was sent.
            let said = bytes.unwrap_or_default();
            let too_often = String::from_utf8_lossy(&said).contains("rate limit exceeded");
            let throttled = status.as_u16() == 429 || (status.as_u16() == 400 && too_often);
            let reason = match status.as_u16() {
                _ if throttled => "the token endpoint throttles us".into(),
                400 | 401 => format!("the platform refuses the credentials of the client {name}"),
                other => format!("the token endpoint answered {other}"),
            };
            return Err(Refused {
                reason,
                throttled,
                retry_after: retry_after_ms.map(Duration::from_millis),
            });
        }
        let unreadable = |why: String| format!("the token endpoint's answer: {why}");
        let granted = serde_json::from_slice(&bytes.map_err(unreadable)?);
        granted.map_err(|error| unreadable(error.to_string()).into())
    }
}
