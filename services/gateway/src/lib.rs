//! Takes signed events over HTTP and makes them durable on `hl.event.<p>`, nothing else: what they mean is
//! the classifier's business.
//!
//! [`receive`] is the way of a request; [`frame`] the way of an event into the log; [`signature`] says who may.
//! Invariant (N1): 200 only after the write that holds the event is acknowledged.

mod envelope;
mod frame;
mod problem;
mod receive;
mod secrets;
pub mod signature;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use holdline_decide::playbook::{self, Set};
use holdline_proto::topology::{Role, token};
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::playbooks::{Playbooks, installation};
use holdline_stage::run::Shell;
use holdline_stage::settings::{Reader, host_name};
use tokio::sync::{mpsc, watch};

pub use secrets::{Lookup, environment};

use frame::{Framer, LastHeard, WAITING_MAX};
use receive::Entrance;
use secrets::Secrets;

/// A connection that sends no complete header within this is closed.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests under way when the gateway is told to stop are let end within this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How often secrets are looked up again.
const SECRETS_EVERY: Duration = Duration::from_secs(2);

/// Settings of the gateway.
#[derive(Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Stable name of this gateway, unique in the installation.
    pub name: Option<String>,
    /// How `env:` references to secrets are looked up.
    pub secrets: Lookup,
    /// Told the address once it is bound.
    pub bound: watch::Sender<Option<SocketAddr>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            name: None,
            secrets: environment(),
            bound: watch::Sender::new(None),
        }
    }
}

impl Settings {
    /// Reads `gateway.listen` and `gateway.name`.
    pub fn read(reader: &mut Reader) -> Settings {
        let default = Settings::default();
        Settings {
            listen: reader.or("gateway", "listen", default.listen),
            name: reader.optional("gateway", "name"),
            ..default
        }
    }
}

/// Runs the gateway until the service is stopped; then requests under way are answered, waiting events
/// stored, and every partition is told goodbye.
///
/// # Errors
/// When the address cannot be bound or the broker stays away.
pub async fn run(settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let listener = TcpListener::bind(settings.listen)
        .with_context(|| format!("gateway.listen: {} cannot be bound", settings.listen))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let bus = Bus::connect(Role::Gateway, &shell.common.nats, &shell.tasks, &shell.health).await?;
    let partitions = installation(&bus, &shell).await?.partitions;
    let playbooks = Playbooks::follow(&bus, &shell, playbook::compile);
    let secrets = Secrets::new(settings.secrets.clone());
    let name = settings.name.clone().unwrap_or_else(|| format!("{}-{}", host_name(), address.port()));
    let run = token(&[&name, &clock::wall_ms().to_string(), &std::process::id().to_string()]);
    let heard = Arc::new(LastHeard::default());
    let mut queues = vec![];
    // Apart from the service's tasks: they end when the queues' senders are gone, after the last request.
    let framers = holdline_stage::run::Tasks::default();
    let log = Arc::new(bus.apart());
    for partition in 0..partitions {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        queues.push(sender);
        let framer = Framer {
            log: log.clone(),
            partition,
            gateway: name.clone(),
            run: run.clone(),
            heard: heard.clone(),
        };
        framers.spawn(framer.send(receiver, framers.clone()));
    }
    keep_secrets(&playbooks, &secrets, &shell);
    let entrance = Arc::new(Entrance {
        playbooks,
        secrets,
        queues,
        heard,
        run,
        accepted: AtomicU64::new(0),
        under_way: Entrance::under_way(),
    });
    serve(listener, entrance, &settings, address, &shell).await?;
    framers.wait().await;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    entrance: Arc<Entrance>,
    settings: &Settings,
    address: SocketAddr,
    shell: &Shell,
) -> anyhow::Result<()> {
    let handle = axum_server::Handle::new();
    let (draining, stopping) = (handle.clone(), shell.tasks.clone());
    shell.tasks.spawn(async move {
        stopping.stopping().await;
        draining.graceful_shutdown(Some(DRAIN_TIME_MAX));
    });
    let mut server =
        axum_server::from_tcp(listener)?.handle(handle).first_request_timeout(Some(HEADER_TIME_MAX));
    server
        .http_builder()
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(Some(HEADER_TIME_MAX));
    settings.bound.send_replace(Some(address));
    tracing::info!("the gateway listens on {address}");
    let router = receive::router(entrance);
    server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

/// Looks secrets up again and again: a set may change, and so may a secret's file.
fn keep_secrets(playbooks: &Playbooks<Set>, secrets: &Secrets, shell: &Shell) {
    let (playbooks, secrets, shell) = (playbooks.clone(), secrets.clone(), shell.clone());
    shell.tasks.clone().spawn(async move {
        let mut changes = playbooks.changes();
        loop {
            if let Some((_, set)) = playbooks.current() {
                match secrets.resolve(&set).as_slice() {
                    [] => shell.health.present("secrets"),
                    missing => shell.health.missing("secrets", format!("not found: {}", missing.join(", "))),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = clock::sleep(SECRETS_EVERY) => {}
                () = shell.tasks.stopping() => return,
            }
        }
    });
}
