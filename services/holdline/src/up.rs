//! `holdline up`: the five services in one process, beside a nats-server of their own. The same streams,
//! subjects, users and rights as apart; there is no short cut in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use holdline_decide::playbook::{self, Severity};
use holdline_proto::limits::PARTITIONS_MAX;
use holdline_proto::playbooks::Bundle;
use holdline_proto::topology::Role;
use holdline_stage::admin::Health;
use holdline_stage::bus::Bus;
use holdline_stage::run::{Shell, Tasks, signalled};
use holdline_stage::secret::Lookup;
use holdline_stage::settings::{Common, Nats, NatsTls, Reader, host_name};
use holdline_stage::{admin, clock};
use secrecy::SecretString;
use tokio::sync::watch;

use crate::broker::{self, DataDir, Embedded, Note, Sync};
use crate::commands::{Who, files};
use crate::demo::Demo;
use crate::output::line;
use crate::provision::{Layout, provision};

/// A broker that was just started gets this long to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// Every service gets this long to be ready.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs everything on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Play a believable outage through a demonstration set of playbooks, and say what happens
    #[arg(long)]
    demo: bool,
    /// End after the demonstration: exit code 0 when it went as it should, 1 otherwise
    #[arg(long, requires = "demo")]
    then_exit: bool,
    /// Only play: the services were started apart, and their gateway is at --gateway. They and this command
    /// need the same HOLDLINE_DEMO_SECRET
    #[arg(long, requires_all = ["demo", "nats", "gateway"])]
    apart: bool,
    /// Folder for the broker's data and keys
    #[arg(long, value_name = "DIR", default_value = "holdline-data")]
    data: PathBuf,
    /// Folder of playbooks
    #[arg(long, value_name = "DIR", default_value = "playbooks")]
    playbooks: PathBuf,
    /// Address on which events are received
    #[arg(long, value_name = "ADDR")]
    gateway: Option<SocketAddr>,
    /// Address for /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Use this broker instead of one of our own
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Folder with the seeds of the users of --nats (<role>.nk)
    #[arg(long, value_name = "DIR", requires = "nats")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    tls: broker::Tls,
    #[command(flatten)]
    who: Who,
    /// When the embedded broker syncs
    #[arg(long, value_enum, default_value = "always")]
    sync: Sync,
    /// Partitions of a new installation [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: Option<u16>,
}

impl Up {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let (true, Some(url), Some(gateway)) = (self.apart, &self.nats, self.gateway) {
            return self.play_apart(url, gateway).await;
        }
        let data = DataDir(self.data.clone());
        data.prepare()?;
        let _lock = data.lock()?;
        let (embedded, site) = match &self.nats {
            Some(url) => (None, self.elsewhere(url)?),
            None => {
                let embedded = Embedded::start(&data, None, self.sync)?;
                let (url, keys) = (embedded.url.clone(), Some(data.keys()));
                (Some(embedded), Site { url, keys, tls: NatsTls::default(), tasks: Tasks::default() })
            }
        };
        site.provision(Layout { partitions: self.partitions, replicas: None }).await?;
        let ran = self.with_services(&site, &data).await;
        site.tasks.finish().await;
        // The broker goes last.
        drop(embedded);
        ran
    }

    /// A broker that is not ours.
    fn elsewhere(&self, url: &str) -> anyhow::Result<Site> {
        let (keys, tls) = (self.keys.clone(), self.tls.read()?);
        Ok(Site { url: url.into(), keys, tls, tasks: Tasks::default() })
    }

    /// Plays the demonstration through programs that somebody else has started.
    async fn play_apart(&self, url: &str, gateway: SocketAddr) -> anyhow::Result<()> {
        let site = self.elsewhere(url)?;
        let demo = Demo::start().await?;
        site.push(&demo.bundle(), self.who.by.clone(), "holdline up --demo", true).await?;
        // The services look for a new set every second, and for its secrets at once.
        clock::sleep(Duration::from_secs(3)).await;
        let played = tokio::select! {
            played = demo.play(&site, gateway) => played,
            () = signalled() => Ok(()),
        };
        site.tasks.finish().await;
        played
    }

    async fn with_services(&self, site: &Site, data: &DataDir) -> anyhow::Result<()> {
        let demo = if self.demo { Some(Demo::start().await?) } else { None };
        let (mut bundle, mut secrets) = match &demo {
            Some(demo) => (demo.bundle(), demo.secrets()),
            None => (files::read(&self.playbooks)?, BTreeMap::new()),
        };
        for (name, literal) in playbook::replace_literals(&mut bundle) {
            line(format!(
                "warning: a secret is written in place in {}; it is used as {name}",
                self.playbooks.display()
            ));
            secrets.insert(name, SecretString::from(literal));
        }
        let why = if self.demo { "holdline up --demo" } else { "holdline up" };
        site.push(&bundle, self.who.by.clone(), why, self.demo).await?;
        let secrets = crate::commands::secrets(secrets)?;
        find_secrets(&bundle, &secrets).await?;
        let listen = self
            .gateway
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], if self.demo { 0 } else { 8080 })));
        let mut running = Running::start(site, data, listen, secrets, self.admin).await?;
        let gateway = tokio::select! {
            ready = running.ready() => ready?,
            () = signalled() => return running.stop().await,
        };
        let scheme = if running.over_tls { "https" } else { "http" };
        data.note(Note::Gateway, &format!("{scheme}://{gateway}"))?;
        line(format!("holdline is up: events are received on {scheme}://{gateway}/v1/events/SUBSCRIPTION"));
        line(format!("  data folder {}, broker {}", data.0.display(), site.url));
        if let Some(admin) = self.admin {
            data.note(Note::Admin, &admin.to_string())?;
            line(format!("  health and metrics on http://{admin}/readyz and /metrics"));
        }
        if let Some(demo) = &demo {
            if running.over_tls {
                running.stop().await?;
                bail!("the demonstration sends plain HTTP; start it without gateway.tls_certificate_file");
            }
            let played = tokio::select! {
                played = demo.play(site, gateway) => played,
                ended = running.ended() => ended.and_then(|()| bail!("a service ended")),
                () = signalled() => return running.stop().await,
            };
            if self.then_exit {
                running.stop().await?;
                return played;
            }
            if let Err(error) = played {
                line(format!("The demonstration did not go as it should: {error:#}"));
            }
        }
        line("  Ctrl-C stops everything");
        tokio::select! {
            ended = running.ended() => ended,
            () = signalled() => running.stop().await,
        }
    }
}

/// Without its secret a subscription refuses every event: better said before anything runs.
async fn find_secrets(bundle: &Bundle, lookup: &Lookup) -> anyhow::Result<()> {
    let set = playbook::compile(bundle).map_err(anyhow::Error::msg)?;
    for subscription in set.subscriptions.values() {
        for reference in &subscription.secrets {
            lookup.fetch(reference).await.with_context(|| {
                format!(
                    "subscription {} has its secret in {reference}, which is not there; set it and start again",
                    subscription.name
                )
            })?;
        }
    }
    Ok(())
}

/// The broker that everything connects to.
pub(crate) struct Site {
    pub url: String,
    pub keys: Option<PathBuf>,
    pub tls: NatsTls,
    pub tasks: Tasks,
}

impl Site {
    pub(crate) fn connection(&self, role: Role) -> Nats {
        broker::connection(&self.url, self.keys.as_deref(), self.tls.clone(), role)
    }

    pub(crate) async fn bus(&self, role: Role) -> anyhow::Result<Bus> {
        Bus::connect(role, &self.connection(role), &self.tasks, &Health::default()).await
    }

    async fn provision(&self, layout: Layout) -> anyhow::Result<()> {
        let bus = self.bus(Role::Provisioner).await?;
        retrying(|| provision(&bus, layout, false)).await?;
        Ok(())
    }

    /// Checks a set and makes it the current one.
    async fn push(&self, bundle: &Bundle, by: String, why: &str, quiet: bool) -> anyhow::Result<()> {
        let (set, findings) = playbook::load(bundle);
        for finding in findings.iter().filter(|f| !quiet || f.severity == Severity::Error) {
            line(finding);
        }
        if set.is_none() {
            bail!("the playbooks cannot be used; see above");
        }
        let bus = self.bus(Role::Operator).await?;
        crate::commands::push::check_partition_keys(&bus, bundle).await?;
        crate::commands::push::make_current(&bus, bundle, by, why.into()).await?;
        Ok(())
    }
}

/// A broker that was just started answers a little later than it listens.
pub(crate) async fn retrying<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let began = clock::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if began.elapsed() > ANSWER_TIME_MAX => return Err(error),
            Err(_) => clock::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The five services.
struct Running {
    tasks: Tasks,
    healths: Vec<(&'static str, Health)>,
    bound: watch::Receiver<Option<SocketAddr>>,
    over_tls: bool,
    failed: watch::Receiver<Option<String>>,
    ended: Tasks,
}

impl Running {
    async fn start(
        site: &Site,
        data: &DataDir,
        listen: SocketAddr,
        secrets: Lookup,
        admin_listen: Option<SocketAddr>,
    ) -> anyhow::Result<Running> {
        let tasks = Tasks::default();
        let (failure, failed) = watch::channel(None);
        let mut running = Running {
            tasks,
            healths: vec![],
            bound: watch::channel(None).1,
            over_tls: false,
            failed,
            ended: Tasks::default(),
        };
        let mut reader = Reader::of_process(None);
        let gateway = holdline_gateway::Settings {
            listen,
            spool: Some(data.0.join("spool")),
            secrets: secrets.clone(),
            ..holdline_gateway::Settings::read(&mut reader)
        };
        running.bound = gateway.bound.subscribe();
        running.over_tls = gateway.tls.is_some();
        let classifier = holdline_classifier::Settings::read(&mut reader);
        let debouncer = holdline_debouncer::Settings::read(&mut reader);
        let executor =
            holdline_executor::Settings { secrets, ..holdline_executor::Settings::read(&mut reader) };
        let replayer = holdline_dlq_replayer::Settings::read(&mut reader);
        reader.finish()?;
        running.spawn(site, Role::Gateway, &failure, |shell| holdline_gateway::run(gateway, shell));
        running.spawn(site, Role::Classifier, &failure, |shell| holdline_classifier::run(classifier, shell));
        running.spawn(site, Role::Debouncer, &failure, |shell| holdline_debouncer::run(debouncer, shell));
        running.spawn(site, Role::Executor, &failure, |shell| holdline_executor::run(executor, shell));
        running.spawn(site, Role::DlqReplayer, &failure, |shell| holdline_dlq_replayer::run(replayer, shell));
        if let Some(listen) = admin_listen {
            let healths = running.healths.iter();
            let healths = healths.map(|(stage, health)| (format!("{stage}: "), health.clone())).collect();
            admin::serve(listen, running.tasks.clone(), healths).await?;
        }
        Ok(running)
    }

    fn spawn<F>(
        &mut self,
        site: &Site,
        role: Role,
        failure: &watch::Sender<Option<String>>,
        run: impl FnOnce(Shell) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let health = Health::default();
        self.healths.push((role.name(), health.clone()));
        let common = Common {
            nats: site.connection(role),
            admin: None,
            replica: format!("{}-{}", host_name(), std::process::id()),
        };
        let tasks = self.tasks.child();
        let running = run(Shell { common, tasks: tasks.clone(), health });
        let failure = failure.clone();
        self.ended.spawn(async move {
            let ran = running.await;
            tasks.finish().await;
            if let Err(error) = ran {
                failure.send_replace(Some(format!("the {} ended: {error:#}", role.name())));
            }
        });
    }

    /// Waits until every service can do its work; gives the gateway's address.
    async fn ready(&mut self) -> anyhow::Result<SocketAddr> {
        let began = clock::now();
        loop {
            let missing: Vec<String> = self
                .healths
                .iter()
                .flat_map(|(stage, health)| {
                    health.report().into_iter().map(move |(what, why)| format!("{stage}: {what}: {why}"))
                })
                .collect();
            let bound = *self.bound.borrow();
            match (bound, missing.is_empty()) {
                (Some(address), true) => return Ok(address),
                _ if began.elapsed() > READY_TIME_MAX => {
                    bail!("not ready within a minute: {}", missing.join("; "))
                }
                _ => {}
            }
            if let Some(failure) = self.failed.borrow().clone() {
                bail!(failure);
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Completes when a service ends by itself.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let failed = self.failed.wait_for(Option::is_some).await.context("every service ended")?.clone();
        bail!(failed.unwrap_or_default())
    }

    async fn stop(&self) -> anyhow::Result<()> {
        self.tasks.stop();
        self.ended.wait().await;
        Ok(())
    }
}
