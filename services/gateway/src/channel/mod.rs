//! Notification channels of the gateway's own: where the platform posts nothing, the gateway listens.
//!
//! One gateway of an installation listens, by a lease; the others stand by. Per subscription: which entities there
//! are, then for each 1,000 of them a [`line`] with a channel of its own, as long as the platform allows the client
//! one more. [`platform`] has the REST calls, [`socket`] the WebSocket; what a message or a look at the state means is
//! `decide::source`'s business.
//!
//! Invariants: the state of every entity is looked at after every (re)connect, when the subscription is in place; a
//! message is done with when it is durable, and nothing more is read until then; no failure is followed by another
//! attempt without a wait that grows; no call leaves before its turn in the rate window (E5), and having to wait for
//! one is no failure.

mod line;
mod platform;
mod socket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::{Platform, Pull, Set, Subscription};
use holdline_decide::source::channel::{CHANNELS_PER_CLIENT_MAX, Opened, TOPICS_MAX, back_off_ms};
use holdline_platform::Api;
use holdline_platform::rate::Rates;
use holdline_proto::topology::{Role, partition_of, token};
use holdline_stage::admin::Health;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::lease;
use holdline_stage::run::{Shell, Tasks};
use tokio::sync::{Notify, Semaphore};

use crate::receive::Entrance;
use line::Line;
use platform::Listing;

/// The platform beats every 30 s; a channel that says nothing for longer than this is dead (setting).
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(35);

/// Channels that are remembered to be connected again; beyond, all are opened anew.
const CHANNELS_MAX: usize = 64;

/// Between two times that the list of entities makes all channels of a subscription begin anew.
const REBUILD_GAP: Duration = Duration::from_secs(10);

/// What all channels share.
struct Owner {
    entrance: Arc<Entrance>,
    api: Api,
    rates: Arc<Rates>,
    health: Health,
    silence: Duration,
    replica: String,
    /// Open channels by organisation, client, subscription and number. They outlive a change of the playbooks:
    /// the platform allows a client no more than 20, and one that is left behind lives for a day.
    channels: Mutex<HashMap<String, Opened>>,
    looks: AtomicU64,
}

impl Owner {
    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<String, Opened>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &str, channel: &Opened) {
        let mut channels = self.channels();
        if channels.len() >= CHANNELS_MAX && !channels.contains_key(key) {
            channels.clear();
        }
        channels.insert(key.into(), channel.clone());
    }

    /// A name for the next look at a list, never given twice.
    fn next_look(&self) -> String {
        token(&[&self.entrance.run, &self.looks.fetch_add(1, Ordering::Relaxed).to_string()])
    }

    /// The wait after so many failures of a thing in a row.
    fn back_off(&self, what: &str, failures: u32) -> Duration {
        // Different for every replica, thing and time: that is all that chance is needed for.
        let seed = format!("{} {what} {failures} {}", self.replica, clock::wall_ms());
        let ms = back_off_ms(failures, partition_of(&seed, 1_000));
        Duration::from_millis(u64::try_from(ms).unwrap_or_default())
    }
}

/// Listens for the subscriptions of the current set that say so, as long as this gateway has the lease. Without
/// such a subscription there is no lease.
pub(crate) fn keep(
    entrance: &Arc<Entrance>,
    api: Api,
    rates: Arc<Rates>,
    silence: Duration,
    bus: &Bus,
    shell: &Shell,
) {
    let owner = Arc::new(Owner {
        entrance: entrance.clone(),
        api,
        rates,
        health: shell.health.clone(),
        silence,
        replica: shell.common.replica.clone(),
        channels: Mutex::default(),
        looks: AtomicU64::new(0),
    });
    let (bus, shell) = (bus.clone(), shell.clone());
    shell.tasks.clone().spawn(async move {
        if wanted(&owner, &shell.tasks).await {
            lease::hold(&bus, &shell, Role::Gateway, "channels", 1, |_, tasks| follow(owner.clone(), tasks))
                .await;
        }
    });
}

/// Waits for a set that has something to listen to; false when the service is stopped before.
async fn wanted(owner: &Owner, tasks: &Tasks) -> bool {
    let playbooks = &owner.entrance.playbooks;
    let mut changes = playbooks.changes();
    loop {
        if playbooks.current().is_some_and(|(_, set)| set.subscriptions.values().any(|s| s.pull.is_some())) {
            return true;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return false },
            () = tasks.stopping() => return false,
        }
    }
}

/// Listens for the subscriptions of the current set, whichever that is.
async fn follow(owner: Arc<Owner>, tasks: Tasks) {
    tracing::info!("this gateway listens on notification channels now");
    let mut changes = owner.entrance.playbooks.changes();
    while !tasks.is_stopping() {
        let listening = tasks.child();
        if let Some((_, set)) = owner.entrance.playbooks.current() {
            for pulled in pulled(&owner, &set) {
                let tasks = listening.clone();
                listening.spawn(async move {
                    tokio::select! {
                        () = pulled.listen(&tasks) => {}
                        () = tasks.stopping() => {}
                    }
                });
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { tasks.stopping().await },
            () = tasks.stopping() => {}
        }
        listening.finish().await;
    }
}

fn pulled(owner: &Arc<Owner>, set: &Set) -> Vec<Pulled> {
    let Some(platform) = &set.platform else { return vec![] };
    let mut places: HashMap<String, Arc<Semaphore>> = HashMap::new();
    let of = |subscription: &Subscription| {
        let pull = subscription.pull.clone()?;
        let places = places.entry(pull.client.clone());
        let places = places.or_insert_with(|| Arc::new(Semaphore::new(CHANNELS_PER_CLIENT_MAX))).clone();
        Some(Pulled {
            owner: owner.clone(),
            platform: platform.clone(),
            subscription: subscription.clone(),
            pull,
            places,
            listed: Arc::default(),
        })
    };
    set.subscriptions.values().filter_map(of).collect()
}

/// A subscription whose events the gateway fetches.
#[derive(Clone)]
struct Pulled {
    owner: Arc<Owner>,
    platform: Platform,
    subscription: Subscription,
    pull: Pull,
    /// Channels that the platform allows the client, and that no line has yet.
    places: Arc<Semaphore>,
    /// The last look at the list, which all lines that were waiting for it share.
    listed: Arc<tokio::sync::Mutex<Option<Arc<Listing>>>>,
}

impl Pulled {
    async fn listen(&self, tasks: &Tasks) {
        loop {
            let entities: Arc<[String]> = self.entities().await.into();
            let (lines, changed) = (tasks.child(), Arc::new(Notify::new()));
            for (number, chunk) in entities.chunks(TOPICS_MAX).enumerate() {
                let line = Line::new(self.clone(), number, chunk.to_vec(), entities.clone(), changed.clone());
                let stopping = lines.clone();
                lines.spawn(async move { line.hold(&stopping).await });
            }
            clock::sleep(REBUILD_GAP).await;
            changed.notified().await;
            let name = &self.subscription.name;
            tracing::info!(subscription = name, "{name}: the platform lists other entities than before");
            lines.finish().await;
        }
    }

    /// The entities to listen to: those that are named, or all that there are.
    async fn entities(&self) -> Vec<String> {
        if !self.pull.entities.is_empty() {
            return self.pull.entities.clone();
        }
        let name = &self.subscription.name;
        let mut failures = 0;
        loop {
            let wait = match self.list().await {
                Ok(entities) if !entities.is_empty() => return platform::ids(&entities),
                Ok(_) => {
                    tracing::warn!(subscription = name, "{name}: the platform lists nothing to listen to");
                    self.owner.back_off(name, u32::MAX)
                }
                Err(error) if error.waits => {
                    clock::sleep(error.retry_after).await;
                    continue;
                }
                Err(error) => {
                    let wait = self.owner.back_off(name, failures).max(error.retry_after);
                    tracing::warn!(
                        subscription = name,
                        "{name}: what there is to listen to: {error}; again in {wait:?}"
                    );
                    wait
                }
            };
            failures = failures.saturating_add(1);
            clock::sleep(wait).await;
        }
    }
}
