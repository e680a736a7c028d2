//! One call of the platform's API.

use std::time::Duration;

use holdline_decide::native::Call;
use holdline_decide::playbook::Platform;
use holdline_decide::rate::Limits;
use holdline_stage::secret::Lookup;
use reqwest::{Method, Url};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::limits::limits;
use crate::oauth::{Token, TokenError, Tokens};
use crate::route::{Routes, body, is_unsent, reason};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the platform answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub retry_after_ms: Option<u64>,
    /// What the headers say about the client's limit.
    pub limits: Limits,
    /// The body, as far as it is JSON.
    pub body: Value,
    /// `ININ-Correlation-Id`, which the platform's support asks for.
    pub correlation: Option<String>,
}

impl Response {
    /// What the platform says of it, for people.
    pub fn message(&self) -> &str {
        self.body.get("message").and_then(Value::as_str).unwrap_or("no message")
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Nothing was sent.
    #[error("{reason}")]
    Unsent { reason: String, retry_after_ms: Option<u64> },
    /// Nothing was sent: tokens were asked for too often, and nothing is wrong with anything.
    #[error("{reason}")]
    Throttled { reason: String, retry_after_ms: u64 },
    /// It was sent, and what became of it is not known.
    #[error("{reason}")]
    Lost { reason: String },
}

/// The platform's API.
pub struct Api {
    routes: Routes,
    tokens: Tokens,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// `lookup` leads to the credentials of the OAuth clients.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(lookup: Lookup) -> reqwest::Result<Api> {
        Ok(Api { routes: Routes::new()?, tokens: Tokens::new(lookup) })
    }

    /// The host that calls go to, for the rate window and for whoever asks which targets fail.
    pub fn host(platform: &Platform) -> String {
        format!("api.{}", platform.region)
    }

    /// Has a token at hand, so that a call can leave in its turn. Why there is none, the call will say.
    pub async fn prepare(&self, platform: &Platform, client: &str) {
        self.authenticate(platform, client).await.ok();
    }

    /// Has a token at hand.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn authenticate(&self, platform: &Platform, client: &str) -> Result<(), Failed> {
        self.tokens.of(&self.routes, platform, client).await.map(drop).map_err(unsent)
    }

    /// Makes a call as the OAuth client of that name. A token that the platform no longer takes is replaced
    /// once.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&self, platform: &Platform, client: &str, call: &Call) -> Result<Response, Failed> {
        let token = self.tokens.of(&self.routes, platform, client).await.map_err(unsent)?;
        let response = self.with(platform, client, call, &token).await?;
        if response.status != 401 {
            return Ok(response);
        }
        let token = self.tokens.of(&self.routes, platform, client).await.map_err(unsent)?;
        self.with(platform, client, call, &token).await
    }

    /// The same at once or not at all, for a call that has its turn: with the token that [`Api::prepare`] has got. One
    /// that the platform no longer takes is answered 401, and replaced for the next call.
    ///
    /// # Errors
    /// When there is no answer, or no token at hand.
    pub async fn send_now(&self, platform: &Platform, client: &str, call: &Call) -> Result<Response, Failed> {
        let token = self.tokens.at_hand(platform, client).map_err(unsent)?;
        self.with(platform, client, call, &token).await
    }

    async fn with(
        &self,
        platform: &Platform,
        client: &str,
        call: &Call,
        token: &Token,
    ) -> Result<Response, Failed> {
        let response = self.once(platform, call, token.value.expose_secret()).await?;
        if response.status == 401 {
            tracing::info!(client, "the platform no longer takes the token; it is replaced");
            self.tokens.refused(platform, client, token);
        }
        Ok(response)
    }

    async fn once(&self, platform: &Platform, call: &Call, token: &str) -> Result<Response, Failed> {
        let nothing = |reason| Failed::Unsent { reason, retry_after_ms: None };
        let address = format!("https://{}{}", Api::host(platform), call.path);
        let url = Url::parse(&address).map_err(|error| nothing(format!("{address}: {error}")))?;
        let method = Method::from_bytes(call.method.name().as_bytes()).unwrap_or(Method::POST);
        let mut request = self
            .routes
            .request(method, url, platform.connect_to.as_ref())
            .map_err(nothing)?
            .bearer_auth(token);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let lost = |error: reqwest::Error| match is_unsent(&error) {
            true => Failed::Unsent { reason: reason(&error), retry_after_ms: None },
            false => Failed::Lost { reason: reason(&error) },
        };
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status().as_u16();
        let (retry_after_ms, limits) = limits(status, answer.headers());
        let correlation =
            answer.headers().get("inin-correlation-id").and_then(|id| Some(id.to_str().ok()?.to_string()));
        let body = match body(answer, ANSWER_BYTES_MAX).await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            // What the status says stands; only what a write has led to is in the body alone.
            Err(_) if !(200..300).contains(&status) => Value::Null,
            Err(reason) => return Err(Failed::Lost { reason: format!("{}: {reason}", call.path) }),
        };
        Ok(Response { status, retry_after_ms, limits, body, correlation })
    }
}

fn unsent(error: TokenError) -> Failed {
    let in_ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let retry_after_ms = error.retry_after.map(in_ms);
    match (error.throttled, retry_after_ms) {
        (true, Some(retry_after_ms)) => Failed::Throttled { reason: error.reason, retry_after_ms },
        _ => Failed::Unsent { reason: error.reason, retry_after_ms },
    }
}
