//! Plays Genesys Cloud for demonstrations and tests: its REST API, its notification channels, its token
//! endpoint, its status page, and the subscription API that the guide imagines beside them.
//!
//! [`serve`] is the way of a call; [`api`] has the endpoints and the objects that are there at the start, a file for each
//! family; [`world`] what all objects have in common, and [`organisation`] who they belong to. [`control`] is what a test or a
//! demonstration does behind the platform's back. Everything is in memory behind one mutex ([`state`]);
//! endpoints are functions from that state and a call to an answer.
//!
//! Field names and types are the platform's (`tests/platform/sdk.py` holds every answer against its official
//! SDK); where the platform's behaviour is not known, a comment says that it is invented.

mod api;
mod calls;
mod channels;
mod control;
mod faults;
mod oauth;
pub mod organisation;
mod quota;
mod refusal;
mod remote;
mod serve;
mod socket;
mod state;
mod statuspage;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

pub use calls::Call;
pub use control::Unknown;
pub use faults::{Fault, Outcome, SocketFault};
pub use oauth::Client;
pub use world::Kind;

use serve::Shared;

/// How long a token lives unless told otherwise: the platform's default.
const TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// The platform counts the calls of a client in windows of this length.
const WINDOW: Duration = Duration::from_secs(60);

/// Between the acceptance of an asynchronous change (a campaign's status, a member's state, an edge's service or reboot)
/// and its effect.
const SETTLE: Duration = Duration::from_millis(500);

/// Between two heartbeats of a socket.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);

/// How long a channel lives after its last subscription.
const CHANNEL_LIFE: Duration = Duration::from_secs(86_400);

/// Between `v2.system.socket_closing` and the end of the socket.
const CLOSING_NOTICE: Duration = Duration::from_secs(60);

/// A connection in the middle of a call is given this long when the simulator is stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// How a stale `version` is refused: both have been seen at the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StaleVersion {
    /// 409
    #[default]
    Conflict,
    /// 400 "does not match the current version"
    BadRequest,
}

/// What a simulator is started with. The default plays the platform at its own pace with the organisation of
/// [`organisation`].
#[derive(Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// What a channel's `connectUri` begins with, such as `ws://proxy.test:8000`; none: the own address.
    pub connect_uri: Option<String>,
    pub clients: Vec<Client>,
    pub token_lifetime: Duration,
    /// Calls of a client within a window; none: they are not limited, and no header speaks of a limit.
    pub calls_per_window: Option<u32>,
    pub window: Duration,
    pub stale_version: StaleVersion,
    /// How long asynchronous changes take.
    pub settle: Duration,
    pub heartbeat_every: Duration,
    pub channel_life: Duration,
    pub closing_notice: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            connect_uri: None,
            clients: organisation::clients(),
            token_lifetime: TOKEN_LIFETIME,
            calls_per_window: Some(300),
            window: WINDOW,
            stale_version: StaleVersion::Conflict,
            settle: SETTLE,
            heartbeat_every: HEARTBEAT_EVERY,
            channel_life: CHANNEL_LIFE,
            closing_notice: CLOSING_NOTICE,
        }
    }
}

/// A running platform. Dropping it takes it off the network.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Simulator {
    /// Binds the address and begins to serve.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: Options) -> anyhow::Result<Simulator> {
        let listener = tokio::net::TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("{} cannot be bound: choose another --listen", options.listen))?;
        let address = listener.local_addr()?;
        let own = format!("ws://{address}");
        let connect_uri = options.connect_uri.clone().unwrap_or(own);
        let options = Options { connect_uri: Some(connect_uri), ..options };
        let shared = Arc::new(Shared::new(options));
        serve::begin(&shared, listener);
        Ok(Simulator { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://address`: the API, the token endpoint, `/statuspage` and `/simulator` all begin with it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes it off the network, and waits until its connections are gone or have had their time.
    pub async fn stop(self) {
        let finished = tokio::time::timeout(STOP_TIME_MAX, self.shared.tasks.finish()).await;
        if finished.is_err() {
            tracing::warn!("the simulator ends with connections open: their callers sent no whole call");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.tasks.stop();
    }
}
