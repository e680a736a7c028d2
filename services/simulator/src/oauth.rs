//! `POST /oauth/token`, and what a token is good for.

use std::collections::VecDeque;

use axum::http::StatusCode;
use base64::Engine;
use serde_json::{Value, json};

use crate::state::{Now, State, micros};

/// Tokens that are remembered; the oldest go first and are bad from then on.
const TOKENS_MAX: usize = 1_000;

/// An OAuth client with client credentials: what it may do stands in its roles, scopes do not apply.
#[derive(Clone)]
pub struct Client {
    pub id: String,
    pub secret: String,
    /// Such as `routing:emergencyGroup:edit`.
    pub permissions: Vec<String>,
}

impl Client {
    pub fn new(id: &str, secret: &str, permissions: &[&str]) -> Client {
        let permissions = permissions.iter().map(|permission| (*permission).into()).collect();
        Client { id: id.into(), secret: secret.into(), permissions }
    }

    pub(crate) fn may(&self, any_of: &[&str]) -> bool {
        any_of.is_empty() || any_of.iter().any(|one| self.permissions.iter().any(|has| has == one))
    }
}

struct Token {
    value: String,
    client: String,
    expires_us: u64,
}

/// The tokens that are good.
#[derive(Default)]
pub(crate) struct Tokens {
    given: VecDeque<Token>,
}

impl Tokens {
    fn give(&mut self, value: String, client: &str, expires_us: u64) {
        if self.given.len() >= TOKENS_MAX {
            self.given.pop_front();
        }
        self.given.push_back(Token { value, client: client.into(), expires_us });
    }

    fn client(&self, value: &str, now: Now) -> Option<&str> {
        let token = self.given.iter().rev().find(|token| token.value == value)?;
        (now.us < token.expires_us).then_some(token.client.as_str())
    }

    pub(crate) fn revoke_all(&mut self) {
        self.given.clear();
    }
}

impl State {
    /// Whom a call's `Authorization` header names.
    pub(crate) fn client_of_token(&self, authorization: Option<&str>, now: Now) -> Option<Client> {
        let (scheme, value) = authorization?.split_once(' ')?;
        let id = scheme.eq_ignore_ascii_case("bearer").then(|| self.tokens.client(value.trim(), now))??;
        self.options.clients.iter().find(|client| client.id == id).cloned()
    }

    /// Answers the token endpoint: never an ErrorBody, always OAuth's own shape.
    pub(crate) fn token(&mut self, authorization: Option<&str>, form: &str, now: Now) -> (StatusCode, Value) {
        if !form.split('&').any(|pair| pair == "grant_type=client_credentials") {
            let what = "unsupported_grant_type";
            return (StatusCode::BAD_REQUEST, problem(what, "only client_credentials is granted here"));
        }
        let named = authorization.and_then(basic);
        let client = named.and_then(|(id, secret)| {
            self.options.clients.iter().find(|client| client.id == id && client.secret == secret)
        });
        let Some(id) = client.map(|client| client.id.clone()) else {
            return (StatusCode::UNAUTHORIZED, problem("invalid_client", "client not found or wrong secret"));
        };
        let lifetime = self.options.token_lifetime;
        let value = format!("token-{}", self.ids.next());
        self.tokens.give(value.clone(), &id, now.us.saturating_add(micros(lifetime)));
        // One second less than it lives, as the platform says it.
        let expires_in = lifetime.as_secs().saturating_sub(1);
        (StatusCode::OK, json!({ "access_token": value, "token_type": "bearer", "expires_in": expires_in }))
    }
}

/// The token endpoint throttles with 400, not with 429.
pub(crate) fn throttled() -> Value {
    problem("invalid_request", "rate limit exceeded; try again later")
}

fn problem(error: &str, description: &str) -> Value {
    json!({ "error": error, "description": description, "error_description": description })
}

/// `Basic base64(id:secret)`
pub(crate) fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (id.to_string(), secret.to_string()))
}
