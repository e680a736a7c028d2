//! Takes commands, calls targets, reports outcomes.
//!
//! [`protocol`] is the way of one command, readable from top to bottom: at most one executor acts on an entity at a
//! time ([`lock`]), no call leaves before its turn ([`holdline_platform::rate`]) or while people have stopped it ([`pauses`]), no
//! remedy beyond its playbook's budget ([`budget`]), what is about to be called is written down before it is
//! called ([`intent`]), and an outcome goes out on `hl.internal.outcome.<p>` only, from where it can never begin an
//! incident. [`native`] is the way of an action on the platform itself, which keeps what was there before ([`kept`]);
//! [`verify`] looks at what a remedy led to. Which targets fail is noted for the dlq-replayer ([`target`]). What an
//! answer means stands in `decide::execute`.

mod approvals;
mod budget;
mod call;
mod intent;
mod kept;
mod lock;
mod native;
mod pauses;
mod protocol;
mod target;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdline_decide::playbook::{self, Set};
use holdline_platform::Api;
use holdline_platform::rate::Rates;
use holdline_proto::topology::{EXECUTOR_CONSUMER, Role, Stream};
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::playbooks::Playbooks;
use holdline_stage::queue;
use holdline_stage::run::Shell;
use holdline_stage::secret::{Lookup, environment};
use holdline_stage::settings::Reader;
use holdline_stage::token::Token;
use holdline_stage::vault::Vault;

/// Settings of the executor.
#[derive(Clone)]
pub struct Settings {
    /// Commands under way at once in this replica.
    pub at_once: usize,
    /// Where secrets are looked up.
    pub secrets: Lookup,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { at_once: 64, secrets: environment() }
    }
}

impl Settings {
    /// Reads `executor.at_once` and what [`Vault`] has.
    pub fn read(reader: &mut Reader) -> Settings {
        let default = Settings::default();
        let at_once = reader.or("executor", "at_once", default.at_once);
        if at_once == 0 {
            reader.problem("executor.at_once: 0 would do nothing; expected 1 or more".into());
        }
        Settings { at_once, secrets: default.secrets.with_vault(Vault::read(reader)) }
    }
}

/// Looks for credentials that were not found, again and again: a file may come later.
const CREDENTIALS_EVERY: Duration = Duration::from_secs(10);

/// Runs the executor until the service is stopped; calls under way are let end.
///
/// # Errors
/// When the broker stays away, or no HTTP client can be made.
pub async fn run(settings: Settings, shell: Shell) -> anyhow::Result<()> {
    // Two crypto providers are never compiled in, but reqwest wants to be told all the same.
    rustls::crypto::ring::default_provider().install_default().ok();
    let bus = Bus::connect(Role::Executor, &shell.common.nats, &shell.tasks, &shell.health).await?;
    see_locks(&bus, &shell).await?;
    let playbooks = Playbooks::follow(&bus, &shell, playbook::compile);
    keep_credentials(&playbooks, settings.secrets.clone(), &shell);
    let time = BrokerTime::follow(&bus, &shell).await?;
    let key =
        shell.common.nats.seed_file.as_deref().map(Token::read).transpose().context("nats.seed_file")?;
    let executor = Arc::new(protocol::Executor {
        bus: bus.clone(),
        playbooks,
        replica: shell.common.replica.clone(),
        time: time.clone(),
        caller: call::Caller::new(settings.secrets.clone())?,
        api: Api::new(settings.secrets.clone())?,
        locks: lock::Locks::default(),
        rates: Rates::new(Role::Executor, bus.clone(), time),
        targets: target::Targets::default(),
        key,
        tasks: shell.tasks.clone(),
    });
    queue::run(&bus, &shell, Stream::Commands, EXECUTOR_CONSUMER, settings.at_once, move |work| {
        let executor = executor.clone();
        async move { executor.take(work).await }
    })
    .await;
    Ok(())
}

/// Tries to read the locks again after this.
const LOCKS_EVERY: Duration = Duration::from_secs(1);

/// Waits until the locks can be read from the leader: without that no call leaves. Users that an earlier version has
/// written for the broker may not, and a refusal looks like a broker that does not answer.
async fn see_locks(bus: &Bus, shell: &Shell) -> anyhow::Result<()> {
    let read = || async move {
        let mend = "if the broker has users, `holdline provision --users` writes what they need";
        lock::can_be_read(bus).await.map_err(|error| format!("cannot be read: {error}; {mend}"))
    };
    shell.wait_for("locks", LOCKS_EVERY, read).await
}

/// An executor that could not act on the platform says so before it has to.
fn keep_credentials(playbooks: &Playbooks<Set>, secrets: Lookup, shell: &Shell) {
    let (playbooks, shell) = (playbooks.clone(), shell.clone());
    shell.tasks.clone().spawn(async move {
        let mut changes = playbooks.changes();
        loop {
            let set = playbooks.current().map(|(_, set)| set);
            let mut missing = vec![];
            for (user, reference) in set.iter().flat_map(|set| set.credentials()) {
                if let Err(why) = secrets.fetch(reference).await {
                    missing.push(format!("{reference} of {user}: {why}"));
                }
            }
            secrets.tell(&shell.health);
            match missing.as_slice() {
                [] => shell.health.present("credentials"),
                missing => shell.health.missing("credentials", format!("not found: {}", missing.join(", "))),
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = clock::sleep(CREDENTIALS_EVERY) => {}
                () = shell.tasks.stopping() => return,
            }
        }
    });
}
