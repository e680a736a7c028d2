//! HTTP to others: clients that follow no redirect and wait for nothing for ever, and bodies with an end.

use std::time::Duration;

use holdline_proto::pause::CONNECTS_MS_MAX;
use reqwest::{Client, ClientBuilder, Response};

/// For the whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// For the connection alone, name and TLS included; until it stands nothing was sent. A pause counts on it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(CONNECTS_MS_MAX);

/// A connection that was not used for this long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Begins a client.
pub fn client() -> ClientBuilder {
    Client::builder()
        .timeout(CALL_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(IDLE_TIME_MAX)
        .no_proxy()
        .user_agent(concat!("holdline/", env!("CARGO_PKG_VERSION")))
}

/// Reads a body, no further than the limit.
///
/// # Errors
/// Why there is none: it broke off, or it is longer.
pub async fn body(mut answer: Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(|error| reason(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            return Err(format!("the answer has more than {bytes_max} bytes"));
        }
    }
    Ok(body)
}

/// An error with all of its causes.
pub fn reason(error: &reqwest::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    reason
}

/// Whether nothing of a request can have reached the target.
pub fn is_unsent(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_builder()
}
