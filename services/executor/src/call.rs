//! The call itself. No redirect is followed, nothing waits for ever, and an answer's body is read only to
//! keep the connection usable.

use holdline_decide::execute::{Answer, Request};
use holdline_decide::playbook::{ConnectTo, Credential, Set, Target};
use holdline_platform::limits;
use holdline_platform::rate::Pace;
use holdline_platform::route::{Routes, body, is_unsent, reason};
use holdline_stage::secret::Lookup;
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};

/// Bytes of an answer that are read; the rest is left, and the connection closed.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Makes calls.
pub(crate) struct Caller {
    routes: Routes,
    secrets: Lookup,
}

/// Where a request goes, and how fast it may.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub pace: Pace,
    url: Url,
    target: Option<Target>,
}

impl Destination {
    /// Reads a URL against the settings' targets.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn of(address: &str, set: &Set) -> Result<Destination, String> {
        let url = Url::parse(address).map_err(|error| format!("{address}: {error}"))?;
        let Some(host) = url.host_str().map(str::to_string) else {
            return Err(format!("{address} names no host"));
        };
        let port = url.port_or_known_default().unwrap_or(443);
        let target = set.target(&host, port).cloned();
        Ok(Destination { pace: Pace::to(&host, port, target.as_ref()), url, target })
    }

    fn connect_to(&self) -> Option<&ConnectTo> {
        self.target.as_ref()?.connect_to.as_ref()
    }
}

impl Caller {
    pub(crate) fn new(secrets: Lookup) -> anyhow::Result<Caller> {
        Ok(Caller { routes: Routes::new()?, secrets })
    }

    /// Asks for a URL; gives the status and the body.
    ///
    /// # Errors
    /// Why there is no answer, or none that can be read.
    pub(crate) async fn look(
        &self,
        destination: &Destination,
        bytes_max: usize,
    ) -> Result<(u16, Vec<u8>), String> {
        let asking = self.routes.request(Method::GET, destination.url.clone(), destination.connect_to())?;
        let answer = asking.send().await.map_err(|error| reason(&error))?;
        Ok((answer.status().as_u16(), body(answer, bytes_max).await?))
    }

    /// Looks up what a request's credentials refer to.
    ///
    /// # Errors
    /// Which leads to no secret, and why.
    pub(crate) async fn credentials(&self, request: &Request) -> Result<Vec<(String, HeaderValue)>, String> {
        let mut found = vec![];
        for Credential { header, scheme, secret } in &request.credentials {
            let value = self.secrets.fetch(secret).await;
            let value =
                value.map_err(|why| format!("{secret} of the header {header} leads to no secret: {why}"))?;
            let whole = SecretString::from(format!("{scheme}{}", value.expose_secret()));
            let mut value = HeaderValue::from_str(whole.expose_secret())
                .map_err(|_| format!("what {secret} leads to cannot stand in the header {header}"))?;
            value.set_sensitive(true);
            found.push((header.clone(), value));
        }
        Ok(found)
    }

    /// Sends the request and waits for the answer.
    pub(crate) async fn call(
        &self,
        destination: &Destination,
        request: &Request,
        credentials: Result<Vec<(String, HeaderValue)>, String>,
    ) -> Answer {
        let credentials = match credentials {
            Ok(credentials) => credentials,
            Err(reason) => return Answer::Unsent { reason },
        };
        let method = Method::from_bytes(request.method.name().as_bytes()).unwrap_or(Method::POST);
        let mut building =
            match self.routes.request(method, destination.url.clone(), destination.connect_to()) {
                Ok(building) => building,
                Err(reason) => return Answer::Unsent { reason },
            };
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        for (name, value) in credentials {
            building = building.header(name, value);
        }
        if let Some(body) = &request.body {
            building = building.body(body.clone());
        }
        match building.send().await {
            Ok(response) => answer(response).await,
            Err(error) => sort(&error),
        }
    }
}

async fn answer(mut response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    let (retry_after_ms, limits) = limits(status, response.headers());
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
    let reason = reason(error);
    if is_unsent(error) { Answer::Unsent { reason } } else { Answer::Lost { reason } }
}
