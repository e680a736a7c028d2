//! Tokens by client credentials (genesys.md 4): fetched once for all who wait, replaced before they expire,
//! and not asked for again and again while the token endpoint refuses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::Platform;
use holdline_stage::clock::{self, Instant};
use holdline_stage::secret::Lookup;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

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
    replace_at: Instant,
    number: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TokenError {
    pub reason: String,
    /// The endpoint is not asked before this has passed.
    pub retry_after: Option<Duration>,
}

#[derive(Default)]
struct Client {
    token: Option<Token>,
    fetched: u64,
    failures: u32,
    failed: Option<(Instant, String)>,
}

/// The tokens of all clients.
pub struct Tokens {
    lookup: Lookup,
    /// Whoever holds a client's lock fetches its token; everybody else waits for that one.
    clients: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Client>>>>,
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

    /// A token that is still good for a while.
    ///
    /// # Errors
    /// Why there is none at the moment.
    pub async fn of(&self, routes: &Routes, platform: &Platform, client: &str) -> Result<Token, TokenError> {
        let entry = self.entry(platform, client);
        let mut entry = entry.lock().await;
        if let Some(token) = entry.token.as_ref().filter(|token| clock::now() < token.replace_at) {
            return Ok(token.clone());
        }
        if let Some((until, reason)) = &entry.failed
            && clock::now() < *until
        {
            let retry_after = Some(until.saturating_duration_since(clock::now()));
            return Err(TokenError { reason: reason.clone(), retry_after });
        }
        match self.fetch(routes, platform, client).await {
            Ok(granted) => {
                entry.fetched += 1;
                // A token that lives shorter than that is used for half its life.
                let lifetime = Duration::from_secs(granted.expires_in);
                let good_for = lifetime.saturating_sub(EARLY).max(lifetime / 2);
                let token = Token {
                    value: SecretString::from(granted.access_token),
                    replace_at: clock::now() + good_for,
                    number: entry.fetched,
                };
                (entry.failures, entry.failed) = (0, None);
                entry.token = Some(token.clone());
                Ok(token)
            }
            Err(reason) => {
                let wait = BACK_OFF.saturating_mul(1 << entry.failures.min(16)).min(BACK_OFF_MAX);
                tracing::warn!(client, "no token for the client {client}: {reason}; again in {wait:?}");
                entry.failures = entry.failures.saturating_add(1);
                entry.failed = Some((clock::now() + wait, reason.clone()));
                Err(TokenError { reason, retry_after: Some(wait) })
            }
        }
    }

    /// The platform has refused a token: it is given to nobody any more. One that was fetched since stays.
    pub async fn refused(&self, platform: &Platform, client: &str, token: &Token) {
        let entry = self.entry(platform, client);
        let mut entry = entry.lock().await;
        entry.token.take_if(|known| known.number == token.number);
    }

    fn entry(&self, platform: &Platform, client: &str) -> Arc<tokio::sync::Mutex<Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{} {:?} {client}", platform.region, platform.clients.get(client));
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&key) {
            clients.clear();
        }
        clients.entry(key).or_default().clone()
    }

    async fn fetch(&self, routes: &Routes, platform: &Platform, name: &str) -> Result<Granted, String> {
        let Some(client) = platform.clients.get(name) else {
            return Err(format!("there is no client {name}"));
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
        let bytes = body(answer, ANSWER_BYTES_MAX).await;
        if !status.is_success() {
            // What it says besides may repeat what was sent.
            let said = bytes.unwrap_or_default();
            let throttled = String::from_utf8_lossy(&said).contains("rate limit exceeded");
            return Err(match (status.as_u16(), throttled) {
                (400 | 429, true) | (429, _) => "the token endpoint throttles us".into(),
                (400 | 401, _) => format!("the platform refuses the credentials of the client {name}"),
                (other, _) => format!("the token endpoint answered {other}"),
            });
        }
        let unreadable = |why: String| format!("the token endpoint's answer: {why}");
        serde_json::from_slice(&bytes.map_err(unreadable)?).map_err(|error| unreadable(error.to_string()))
    }
}
