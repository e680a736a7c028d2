//! Takes signed events over HTTP and makes them durable on `hl.event.<p>`, nothing else: what they mean is
//! the classifier's business.
//!
//! [`receive`] is the way of a request; [`frame`] the way of an event into the log, and [`spool`] where it
//! waits while the broker is away; [`signature`] says who may, [`poll`] asks where nobody can sign, and [`channel`]
//! listens where nobody posts. Invariant (N1): 200 only after the write that holds the event is acknowledged, by the
//! broker or by the disk.

mod channel;
mod envelope;
mod frame;
mod poll;
mod problem;
mod receive;
mod secrets;
pub mod signature;
mod spool;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use holdline_decide::playbook::{self, Set};
use holdline_platform::Api;
use holdline_platform::rate::Rates;
use holdline_platform::route::Routes;
use holdline_proto::playbooks::{Bundle, INSTALLATION, Installation};
use holdline_proto::topology::{Bucket, Role, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::playbooks::{Playbooks, installation};
use holdline_stage::run::{BEGINNING, Shell};
use holdline_stage::secret::{Lookup, environment};
use holdline_stage::settings::{Reader, host_name};
use holdline_stage::vault::Vault;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, watch};

use frame::{Broker, Exit, Framer, LastHeard, Steady, WAITING_MAX};
use poll::Pages;
use receive::Entrance;
use secrets::{Resolver, Secrets};
use spool::{Folder, Spool};
pub use tls::Tls;

/// A connection that sends no complete header within this is closed.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests under way when the gateway is told to stop are let end within this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How often secrets are looked up again.
const SECRETS_EVERY: Duration = Duration::from_secs(2);

/// Between looks for a broker that is away.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Names in the spool's folder of what a gateway needs to begin without a broker.
const KEPT_INSTALLATION: &str = "installation";
const KEPT_PLAYBOOKS: &str = "playbooks";

/// What the kernel sends to a process whose file has grown to its limit (RLIMIT_FSIZE).
const SIGXFSZ: i32 = 25;

/// Settings of the gateway.
#[derive(Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Without it events are received over plain HTTP.
    pub tls: Option<Tls>,
    /// Stable name of this gateway, unique in the installation.
    pub name: Option<String>,
    /// Where events wait while the broker is away; none: they are answered 503 then.
    pub spool: Option<PathBuf>,
    /// Bytes that may wait there. Beyond: 503.
    pub spool_bytes_max: u64,
    /// A notification channel that says nothing for longer than this is connected again.
    pub notification_silence: Duration,
    /// Where secrets are looked up.
    pub secrets: Lookup,
    /// Told the address once it is bound.
    pub bound: watch::Sender<Option<SocketAddr>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            name: None,
            spool: None,
            spool_bytes_max: 1024 * 1024 * 1024,
            notification_silence: channel::SILENCE_MAX,
            secrets: environment(),
            bound: watch::Sender::new(None),
        }
    }
}

impl Settings {
    /// Reads `gateway.listen`, `gateway.tls_certificate_file`, `gateway.tls_key_file`, `gateway.name`,
    /// `gateway.spool`, `gateway.spool_bytes_max`, `gateway.notification_silence_ms` and what [`Vault`] has.
    pub fn read(reader: &mut Reader) -> Settings {
        let default = Settings::default();
        let silence_ms = reader.optional("gateway", "notification_silence_ms");
        if silence_ms == Some(0) {
            reader.problem("gateway.notification_silence_ms: expected at least 1".into());
        }
        Settings {
            notification_silence: silence_ms.map_or(default.notification_silence, Duration::from_millis),
            listen: reader.or("gateway", "listen", default.listen),
            tls: Tls::read(reader),
            name: reader.optional("gateway", "name"),
            spool: reader.optional("gateway", "spool"),
            spool_bytes_max: reader.or("gateway", "spool_bytes_max", default.spool_bytes_max),
            secrets: default.secrets.with_vault(Vault::read(reader)),
            bound: default.bound,
        }
    }
}

/// Runs the gateway until the service is stopped; then requests under way are answered, waiting events
/// stored, and every partition is told goodbye. What is spooled then and cannot be drained stays.
///
/// # Errors
/// When the address cannot be bound, the spool cannot be used, or the broker stays away from a gateway that
/// has never seen it.
pub async fn run(settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let listener = TcpListener::bind(settings.listen)
        .with_context(|| format!("gateway.listen: {} cannot be bound", settings.listen))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let folder = open_spool(&settings)?;
    let Begun { bus, installation, bundle, recognised } = begin(folder.as_deref(), &shell).await?;
    let playbooks = Playbooks::follow_from(&bus, &shell, playbook::compile, bundle.as_ref());
    let secrets = Secrets::default();
    let name = settings.name.clone().unwrap_or_else(|| format!("{}-{}", host_name(), address.port()));
    let run = token(&[&name, &clock::wall_ms().to_string(), &std::process::id().to_string()]);
    let heard = Arc::new(LastHeard::default());
    let exit = Arc::new(Exit {
        log: Broker { bus: bus.apart(), recognised: recognised.clone() },
        gateway: name,
        run: run.clone(),
        heard: heard.clone(),
        steady: Steady::start(),
        health: shell.health.clone(),
    });
    // This blocks, and nobody is served yet.
    let spools: Vec<Option<Spool>> = match &folder {
        Some(folder) => folder.spools(installation.partitions)?.into_iter().map(Some).collect(),
        None => (0..installation.partitions).map(|_| None).collect(),
    };
    let mut queues = vec![];
    // Apart from the service's tasks: they end when the queues' senders are gone, after the last request.
    let framers = holdline_stage::run::Tasks::default();
    for (partition, spool) in (0..installation.partitions).zip(spools) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        queues.push(sender);
        framers.spawn(Framer::new(exit.clone(), partition, spool, receiver).send());
    }
    if let Some(folder) = folder {
        // Whoever listened goes on listening.
        for what in ["nats", "gateway leases", "gateway channels", "broker time"] {
            shell.health.cover(what, "the spool");
        }
        keep_playbooks(&playbooks, bundle.map(|bundle| bundle.hash()), folder, &shell);
    }
    keep_secrets(&playbooks, Resolver::new(settings.secrets.clone(), secrets.clone()), &shell);
    let entrance = Arc::new(Entrance {
        playbooks,
        secrets,
        queues,
        heard,
        run,
        accepted: AtomicU64::new(0),
        under_way: Entrance::under_way(),
        pages: Pages::default(),
    });
    pull(&entrance, &settings, &bus, &shell)?;
    shell.health.present(BEGINNING);
    tokio::select! {
        served = serve(listener, entrance, &settings, address, &shell) => served?,
        error = recognise(&bus, &shell, &installation, &recognised) => return Err(error),
    }
    framers.wait().await;
    Ok(())
}

/// Asks pages and listens on channels, from when the broker's clock is known: by it every call takes its turn.
///
/// # Errors
/// When there can be no HTTP client.
fn pull(entrance: &Arc<Entrance>, settings: &Settings, bus: &Bus, shell: &Shell) -> anyhow::Result<()> {
    // Two crypto providers are never compiled in, but reqwest wants to be told all the same.
    rustls::crypto::ring::default_provider().install_default().ok();
    let (routes, api) = (Routes::new()?, Api::new(settings.secrets.clone())?);
    let (entrance, bus, shell) = (entrance.clone(), bus.clone(), shell.clone());
    let silence = settings.notification_silence;
    shell.tasks.clone().spawn(async move {
        // An error says that the service is stopped.
        let Ok(time) = BrokerTime::follow(&bus, &shell).await else { return };
        let rates = Arc::new(Rates::new(Role::Gateway, bus.clone(), time));
        poll::keep(&entrance, routes, rates.clone(), &shell);
        channel::keep(&entrance, api, rates, silence, &bus, &shell);
    });
    Ok(())
}

/// Takes the folder of the spool, if one is set.
fn open_spool(settings: &Settings) -> anyhow::Result<Option<Arc<Folder>>> {
    let Some(path) = &settings.spool else {
        tracing::info!("no gateway.spool is set: while the broker is away, events are answered 503");
        return Ok(None);
    };
    // A full disk is an error of the write then, and not the end of the process.
    drop(tokio::signal::unix::signal(SignalKind::from_raw(SIGXFSZ))?);
    Ok(Some(Arc::new(Folder::open(path, settings.spool_bytes_max)?)))
}

/// What a gateway begins with.
struct Begun {
    bus: Bus,
    installation: Installation,
    /// The set of playbooks that an earlier run has kept.
    bundle: Option<Bundle>,
    /// Whether the broker is known to be the one of this installation.
    recognised: Arc<AtomicBool>,
}

/// Begins with what an earlier run has kept, whether or not there is a broker; else waits for it.
async fn begin(folder: Option<&Folder>, shell: &Shell) -> anyhow::Result<Begun> {
    let nats = &shell.common.nats;
    let kept = folder.and_then(|folder| {
        Some((folder.recall::<Installation>(KEPT_INSTALLATION)?, folder.recall::<Bundle>(KEPT_PLAYBOOKS)?))
    });
    if let Some((installation, bundle)) = kept {
        shell.health.cover("nats", "the spool");
        let bus = Bus::begin(Role::Gateway, nats, &shell.health).await?;
        return Ok(Begun { bus, installation, bundle: Some(bundle), recognised: Arc::default() });
    }
    let bus = Bus::connect(Role::Gateway, nats, &shell.tasks, &shell.health).await?;
    let installation = installation(&bus, shell).await?;
    if let Some(Err(error)) = folder.map(|folder| folder.remember(KEPT_INSTALLATION, &installation)) {
        tracing::warn!("gateway.spool: nothing is kept for a start without a broker: {error}");
    }
    Ok(Begun { bus, installation, bundle: None, recognised: Arc::new(AtomicBool::new(true)) })
}

/// Completes, with an error, when the broker turns out to be that of another installation. Until it is known
/// to be the right one, nothing goes there.
async fn recognise(bus: &Bus, shell: &Shell, kept: &Installation, recognised: &AtomicBool) -> anyhow::Error {
    while !recognised.load(Ordering::Relaxed) {
        if bus.is_connected() {
            match bus.get(Bucket::Playbooks, INSTALLATION).await {
                Ok(Some(entry)) => match wire::decode::<Installation>(&entry.value) {
                    Ok(found) if found == *kept => {
                        shell.health.present("installation");
                        recognised.store(true, Ordering::Relaxed);
                        continue;
                    }
                    found => {
                        return anyhow::anyhow!(
                            "the spool belongs to another installation than {}: {kept:?}, not {found:?}; \
                             set another gateway.spool, or the right nats.url",
                            shell.common.nats.url
                        );
                    }
                },
                Ok(None) => {
                    shell.health.missing("installation", "not provisioned; run `holdline provision`");
                }
                Err(error) => tracing::debug!("installation: {error}"),
            }
        }
        clock::sleep(LOOK_EVERY).await;
    }
    std::future::pending().await
}

/// Keeps the current set of playbooks in the spool's folder. It holds no secrets.
fn keep_playbooks(playbooks: &Playbooks<Set>, mut kept: Option<String>, folder: Arc<Folder>, shell: &Shell) {
    let (playbooks, tasks) = (playbooks.clone(), shell.tasks.clone());
    shell.tasks.spawn(async move {
        let mut changes = playbooks.changes();
        loop {
            let current = playbooks.current().map(|(hash, _)| hash);
            if let Some(hash) = current.filter(|hash| kept.as_ref() != Some(hash)) {
                let bundle = playbooks.bundle(&hash).await.map_err(anyhow::Error::from);
                match bundle.and_then(|bundle| Ok(folder.remember(KEPT_PLAYBOOKS, &bundle)?)) {
                    Ok(()) => kept = Some(hash),
                    Err(error) => tracing::warn!("the set {hash} is not kept in the spool's folder: {error}"),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = clock::sleep(SECRETS_EVERY) => {}
                () = tasks.stopping() => return,
            }
        }
    });
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
    // There a header has no time of its own.
    server.http_builder().http2().keep_alive_interval(HEADER_TIME_MAX).keep_alive_timeout(HEADER_TIME_MAX);
    settings.bound.send_replace(Some(address));
    let service = receive::router(entrance).into_make_service_with_connect_info::<SocketAddr>();
    match &settings.tls {
        Some(tls) => {
            tracing::info!("the gateway listens on {address}, over TLS");
            tls.clone().keep(shell);
            server.acceptor(tls.acceptor()).serve(service).await?;
        }
        None => {
            tracing::info!("the gateway listens on {address}");
            server.serve(service).await?;
        }
    }
    Ok(())
}

/// Looks secrets up again and again: a set may change, and so may what a reference leads to.
fn keep_secrets(playbooks: &Playbooks<Set>, mut resolver: Resolver, shell: &Shell) {
    let (playbooks, shell) = (playbooks.clone(), shell.clone());
    // Without them every signature is refused.
    shell.health.awaiting("secrets", "not looked up yet");
    shell.tasks.clone().spawn(async move {
        let mut changes = playbooks.changes();
        loop {
            if let Some((_, set)) = playbooks.current() {
                match resolver.resolve(&set).await.as_slice() {
                    [] => shell.health.present("secrets"),
                    missing => shell.health.missing("secrets", format!("not found: {}", missing.join(", "))),
                }
                resolver.lookup.tell(&shell.health);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = clock::sleep(SECRETS_EVERY) => {}
                () = shell.tasks.stopping() => return,
            }
        }
    });
}
