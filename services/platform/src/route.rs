//! From a URL to a connection: HTTP clients that follow no redirect and wait for nothing for ever, and the
//! `connect_to` addresses of tests and demonstrations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::ConnectTo;
use reqwest::{Client, RequestBuilder, Url};

/// For the whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// For the connection alone; until it stands nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was not used for this long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Clients with a redirected address that are kept; beyond, all are made anew.
const CLIENTS_MAX: usize = 64;

/// HTTP clients, pooled.
#[derive(Debug)]
pub struct Routes {
    plain: Client,
    redirected: Mutex<HashMap<(String, SocketAddr), Client>>,
}

impl Routes {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new() -> reqwest::Result<Routes> {
        Ok(Routes { plain: builder().build()?, redirected: Mutex::default() })
    }

    /// Begins a request to a URL, by way of the address that stands in for its host, if any.
    ///
    /// # Errors
    /// Why the URL cannot be reached that way.
    pub fn request(
        &self,
        method: reqwest::Method,
        mut url: Url,
        to: Option<&ConnectTo>,
    ) -> Result<RequestBuilder, String> {
        let Some(to) = to else { return Ok(self.plain.request(method, url)) };
        let host = url.host_str().unwrap_or_default().to_string();
        if to.tls {
            let client = self.redirected(&host, to.address).map_err(|error| error.to_string())?;
            url.set_port(Some(to.address.port())).ok();
            return Ok(client.request(method, url));
        }
        let swapped = url.set_scheme("http").is_ok()
            && url.set_ip_host(to.address.ip()).is_ok()
            && url.set_port(Some(to.address.port())).is_ok();
        if !swapped {
            return Err(format!("{url} cannot be sent to {}", to.address));
        }
        Ok(self.plain.request(method, url).header(reqwest::header::HOST, host))
    }

    /// A client that reaches the host at another address.
    fn redirected(&self, host: &str, address: SocketAddr) -> reqwest::Result<Client> {
        let mut clients = self.redirected.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_string(), address);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        let client = builder().resolve(host, address).build()?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn builder() -> reqwest::ClientBuilder {
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
pub async fn body(mut answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, String> {
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
