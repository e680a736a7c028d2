//! The call itself. No redirect is followed, nothing waits for ever, and an answer's body is read only to
//! keep the connection usable.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use holdline_decide::execute::{Answer, RETRY_AFTER_MS_MAX, Request};
use holdline_decide::playbook::{Set, Target};
use holdline_decide::rate::Limits;
use reqwest::{Client, Method, Url};

use crate::rate::{CALLS_PER_SECOND, Pace};

/// For the whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// For the connection alone; until it stands nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was not used for this long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of an answer that are read; the rest is left, and the connection closed.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Clients with a redirected address that are kept; beyond, all are made anew.
const CLIENTS_MAX: usize = 64;

/// Makes calls.
#[derive(Debug)]
pub(crate) struct Caller {
    plain: Client,
    redirected: Mutex<HashMap<(String, std::net::SocketAddr), Client>>,
}

/// Where a request goes, and how fast it may.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub pace: Pace,
    url: Url,
    target: Option<Target>,
}

impl Destination {
    /// Reads a request's URL against the settings' targets.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn of(request: &Request, set: &Set) -> Result<Destination, String> {
        let url = Url::parse(&request.url).map_err(|error| format!("{}: {error}", request.url))?;
        let Some(host) = url.host_str().map(str::to_string) else {
            return Err(format!("{} names no host", request.url));
        };
        let port = url.port_or_known_default().unwrap_or(443);
        let target = set.target(&host, port).cloned();
        let calls_per_second = target.as_ref().and_then(|t| t.calls_per_second).unwrap_or(CALLS_PER_SECOND);
        let pace = Pace { host: format!("{host}:{port}"), client: None, calls_per_second };
        Ok(Destination { pace, url, target })
    }
}

impl Caller {
    pub(crate) fn new() -> anyhow::Result<Caller> {
        Ok(Caller { plain: builder().build()?, redirected: Mutex::default() })
    }

    /// Sends the request and waits for the answer.
    pub(crate) async fn call(&self, destination: &Destination, request: &Request) -> Answer {
        let mut url = destination.url.clone();
        let mut client = self.plain.clone();
        let mut host_header = None;
        if let Some(to) = destination.target.as_ref().and_then(|target| target.connect_to.as_ref()) {
            if to.tls {
                match self.redirected(url.host_str().unwrap_or_default(), to.address) {
                    Ok(redirected) => client = redirected,
                    Err(error) => return Answer::Unsent { reason: error.to_string() },
                }
                url.set_port(Some(to.address.port())).ok();
            } else {
                host_header = url.host_str().map(str::to_string);
                let swapped = url.set_scheme("http").is_ok()
                    && url.set_ip_host(to.address.ip()).is_ok()
                    && url.set_port(Some(to.address.port())).is_ok();
                if !swapped {
                    return Answer::Unsent { reason: format!("{url} cannot be sent to {}", to.address) };
                }
            }
        }
        let method = Method::from_bytes(request.method.name().as_bytes()).unwrap_or(Method::POST);
        let mut building = client.request(method, url);
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        if let Some(host) = host_header {
            building = building.header(reqwest::header::HOST, host);
        }
        if let Some(body) = &request.body {
            building = building.body(body.clone());
        }
        match building.send().await {
            Ok(response) => answer(response).await,
            Err(error) => sort(&error),
        }
    }

    /// A client that reaches the host at another address.
    fn redirected(&self, host: &str, address: std::net::SocketAddr) -> reqwest::Result<Client> {
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

async fn answer(mut response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    let number = |name: &str| response.headers().get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let count = |name: &str| number(name).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let retry_after_ms =
        number("retry-after").map(|seconds| seconds.saturating_mul(1_000).min(RETRY_AFTER_MS_MAX));
    let throttled = status == 429;
    let limits = Limits {
        allowed: count("inin-ratelimit-allowed"),
        count: count("inin-ratelimit-count"),
        reset_ms: number("inin-ratelimit-reset").map(|seconds| seconds.saturating_mul(1_000)),
        throttled,
        retry_after_ms: retry_after_ms.filter(|_| throttled),
    };
    let mut read = 0;
    // The status has been received: what happens to the rest of the body does not change what it says.
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            break;
        }
    }
    Answer::Status { status, retry_after_ms, limits }
}

/// Whether anything can have reached the target.
fn sort(error: &reqwest::Error) -> Answer {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    if error.is_connect() || error.is_builder() { Answer::Unsent { reason } } else { Answer::Lost { reason } }
}
