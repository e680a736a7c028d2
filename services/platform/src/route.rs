//! From a URL to a connection: pooled HTTP clients, and the `connect_to` addresses of tests and demonstrations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use holdline_decide::playbook::ConnectTo;
use holdline_stage::http;
pub use holdline_stage::http::{body, is_unsent, reason};
use reqwest::{Client, RequestBuilder, Url};

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
        Ok(Routes { plain: http::client().build()?, redirected: Mutex::default() })
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
        let client = http::client().resolve(host, address).build()?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}
