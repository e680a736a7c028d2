//! One channel, from its opening to its end and on to the next: connect → look at the state of everything →
//! listen, over and over.
//!
//! All of it is one sequence. While the state is looked at nothing is read from the socket, so that what the list
//! says is stored before every message that may be younger; what was stored before the look began is older.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdline_decide::source::channel::{self, CHANNELS_PER_CLIENT_MAX, Opened};
use holdline_proto::topology::Role;
use holdline_stage::clock::{self, Instant};
use holdline_stage::run::Tasks;
use holdline_stage::telemetry::Metric;
use serde_json::Value;
use tokio::sync::Notify;

use super::socket::{Heard, NotOpened, Socket};
use super::{Pulled, platform};
use crate::envelope::{self, Enveloped};
use crate::receive::{WhenFull, store};

/// What an ending socket has ready is still read; no longer than this after the next one is open.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// A pause as long as this in what an ending socket says is its last word.
const LAST_WORD_AFTER: Duration = Duration::from_millis(50);

/// Before a subscription that failed or was refused in part is tried again.
const SUBSCRIBE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Before events that could not be stored are stored again. Nothing is read meanwhile.
const STORE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why a socket is no more, or came not about.
struct End {
    /// For the metric.
    reason: &'static str,
    why: String,
    retry_after: Duration,
    /// Nothing is wrong, see [`platform::CallError`].
    waits: bool,
}

impl End {
    fn new(reason: &'static str, why: impl Into<String>) -> End {
        End { reason, why: why.into(), retry_after: Duration::ZERO, waits: false }
    }
}

/// What listening came to.
enum Listened {
    /// It is time for another look.
    LookDue,
    /// The platform will close the socket.
    Closing,
    Ended(End),
}

/// For how long a socket has been listened to and said nothing, and whether it was asked for a sign of life. What looks
/// take between does not count: nothing is read then.
#[derive(Default)]
struct Quiet {
    listened: Duration,
    asked: bool,
}

/// Some entities of a subscription and the channel that they are heard on.
pub(super) struct Line {
    pulled: Pulled,
    /// The channel's name among those that are remembered, and in what is said of it.
    key: String,
    title: String,
    entities: Vec<String>,
    /// All of the subscription's, and who is told when the platform lists others.
    all: Arc<[String]>,
    changed: Arc<Notify>,
    /// Sockets in a row that came not about or did not last, and those that the platform announced to close.
    failures: u32,
    closings: u32,
    connected: Option<Instant>,
    look_at: Option<Instant>,
    looks_failed: u32,
    subscribe_at: Instant,
}

impl Line {
    pub(super) fn new(
        pulled: Pulled,
        number: usize,
        entities: Vec<String>,
        all: Arc<[String]>,
        changed: Arc<Notify>,
    ) -> Line {
        let name = &pulled.subscription.name;
        let key = format!("{} {} {name} {number}", pulled.platform.region, pulled.pull.client);
        let title = if number == 0 { name.clone() } else { format!("{name}, channel {}", number + 1) };
        Line {
            title,
            key,
            entities,
            all,
            changed,
            failures: 0,
            closings: 0,
            connected: None,
            look_at: None,
            looks_failed: 0,
            subscribe_at: clock::now(),
            pulled,
        }
    }

    /// Listens until the tasks are stopped.
    pub(super) async fn hold(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.hold_a_place() => {}
            () = tasks.stopping() => {}
        }
        self.show(false);
        self.pulled.owner.health.present(&self.topic_health());
    }

    /// Waits until the platform allows the client one more channel: beyond, each that is opened closes another.
    async fn hold_a_place(&mut self) {
        let places = self.pulled.places.clone();
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                let (count, client) = (self.entities.len(), &self.pulled.pull.client);
                let why = format!(
                    "{count} entities are not heard: the platform allows the OAuth client {client} no more than \
                     {CHANNELS_PER_CLIENT_MAX} channels, and others have them; name a client of its own"
                );
                tracing::error!("{}: {why}", self.title);
                self.pulled.owner.health.missing(&self.topic_health(), why);
                places.acquire_owned().await.ok()
            }
        };
        self.connect_again_and_again().await;
        drop(place);
    }

    async fn connect_again_and_again(&mut self) {
        loop {
            let end = Box::pin(self.session()).await;
            self.show(false);
            let wait = self.next_wait().max(end.retry_after);
            let (title, reason, why) = (&self.title, end.reason, &end.why);
            Metric::Reconnects.add(1, Role::Gateway.name(), Some(("reason", reason.into())));
            tracing::warn!(reason, "{title}: not connected: {why}; again in {wait:?}");
            clock::sleep(wait).await;
        }
    }

    /// From a connect to an end.
    async fn session(&mut self) -> End {
        let mut socket = match self.connect().await {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let mut quiet = Quiet::default();
        loop {
            self.look().await;
            match self.listen(&mut socket, &mut quiet).await {
                Listened::LookDue => {}
                Listened::Ended(end) => return end,
                Listened::Closing => match self.replace(socket).await {
                    Ok(next) => (socket, quiet) = (next, Quiet::default()),
                    Err(end) => return end,
                },
            }
        }
    }

    /// Opens the next socket before the one that is about to be closed ends, and reads what that has said.
    async fn replace(&mut self, mut old: Socket) -> Result<Socket, End> {
        Metric::Reconnects.add(1, Role::Gateway.name(), Some(("reason", "closing".into())));
        self.settle();
        // The old socket has a minute or so left; only if the next ones are closed as well, they come more rarely.
        let wait = self.pulled.owner.back_off(&self.key, self.closings);
        self.closings = self.closings.saturating_add(1);
        tracing::info!("{}: the platform is about to close the socket; the next one in {wait:?}", self.title);
        clock::sleep(wait).await;
        let next = self.connect().await?;
        let until = clock::now() + DRAIN_TIME_MAX;
        while clock::now() < until
            && let Ok(Heard::Text(text)) = tokio::time::timeout(LAST_WORD_AFTER, old.hear()).await
        {
            self.take(&text).await;
        }
        Ok(next)
    }

    /// The same as [`Line::try_to_connect`], whenever its calls have their turns.
    async fn connect(&mut self) -> Result<Socket, End> {
        loop {
            match Box::pin(self.try_to_connect()).await {
                Err(end) if end.waits => clock::sleep(end.retry_after).await,
                tried => return tried,
            }
        }
    }

    /// A channel that carries the topics, and its socket.
    async fn try_to_connect(&mut self) -> Result<Socket, End> {
        let owner = self.pulled.owner.clone();
        let known = owner.channels().get(&self.key).cloned();
        let kept = match known {
            Some(channel) => match self.subscribe(&channel).await {
                Ok(()) => Some(channel),
                // Its life is over, or others have taken its place: a new one.
                Err(_) if !owner.channels().contains_key(&self.key) => None,
                Err(end) => return Err(end),
            },
            None => None,
        };
        let channel = match kept {
            Some(channel) => channel,
            None => {
                let channel = self.pulled.open().await.map_err(unreachable)?;
                owner.remember(&self.key, &channel);
                self.subscribe(&channel).await?;
                channel
            }
        };
        let opened = Socket::open(&channel.connect_uri, &self.pulled.platform).await;
        let socket = opened.map_err(|NotOpened { reason, gone }| {
            if gone {
                owner.channels().remove(&self.key);
            }
            End::new("unreachable", reason)
        })?;
        self.connected = Some(clock::now());
        self.show(true);
        tracing::info!("{}: connected, {} topics", self.title, self.entities.len());
        Ok(socket)
    }

    /// Subscribes, by which the channel lives on.
    async fn subscribe(&mut self, channel: &Opened) -> Result<(), End> {
        let owner = &self.pulled.owner;
        let rejected = match self.pulled.subscribe(&channel.id, &self.entities).await {
            Ok(rejected) => rejected,
            Err(error) => {
                if error.gone {
                    owner.channels().remove(&self.key);
                }
                return Err(unreachable(error));
            }
        };
        let health = self.topic_health();
        if let Some(first) = rejected.first() {
            let more = match rejected.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let why = format!(
                "the platform refuses to tell {first}{more}: grant the OAuth client {} what is missing",
                self.pulled.pull.client
            );
            tracing::error!("{}: {why}", self.title);
            owner.health.missing(&health, why);
            self.subscribe_at = clock::now() + SUBSCRIBE_AGAIN_AFTER;
        } else {
            owner.health.present(&health);
            // Well before its end.
            let half_life = Duration::from_millis(u64::try_from(channel.life_ms / 2).unwrap_or(0));
            self.subscribe_at = clock::now() + half_life;
        }
        Ok(())
    }

    /// Subscribes again in time. A channel that is gone is an end; anything else can be tried again.
    async fn renew(&mut self) -> Result<(), End> {
        let gone = || End::new("gone", "the platform knows the channel no more");
        let channel = self.pulled.owner.channels().get(&self.key).cloned().ok_or_else(gone)?;
        if let Err(end) = self.subscribe(&channel).await {
            if !self.pulled.owner.channels().contains_key(&self.key) {
                return Err(gone());
            }
            let again = if end.waits { end.retry_after } else { SUBSCRIBE_AGAIN_AFTER.max(end.retry_after) };
            if !end.waits {
                tracing::warn!("{}: the channel is not renewed: {}; again in {again:?}", self.title, end.why);
            }
            self.subscribe_at = clock::now() + again;
        }
        Ok(())
    }

    /// Stores the state of every entity. A look that fails is repeated; the channel is listened to meanwhile.
    async fn look(&mut self) {
        let owner = self.pulled.owner.clone();
        let result = self.pulled.look().await;
        if let Err(error) = &result
            && error.waits
        {
            // Meanwhile the channel is listened to.
            tracing::debug!("{}: the look waits: {error}", self.title);
            self.look_at = Some(clock::now() + error.retry_after);
            return;
        }
        let told = if result.is_ok() { "done" } else { "failed" };
        Metric::Reconciles.add(1, Role::Gateway.name(), Some(("result", told.into())));
        let listed = match result {
            Ok(listed) => listed,
            Err(error) => {
                let wait = owner.back_off(&self.key, self.looks_failed).max(error.retry_after);
                self.looks_failed = self.looks_failed.saturating_add(1);
                self.look_at = Some(clock::now() + wait);
                tracing::warn!("{}: the state is not known: {error}; again in {wait:?}", self.title);
                return;
            }
        };
        self.looks_failed = 0;
        let every_ms = self.pulled.pull.every_ms.and_then(|ms| u64::try_from(ms).ok());
        self.look_at = every_ms.map(|ms| clock::now() + Duration::from_millis(ms));
        let ids = platform::ids(&listed.entities);
        if self.pulled.pull.entities.is_empty() && !ids.is_empty() && ids[..] != self.all[..] {
            self.changed.notify_one();
        }
        let there: HashSet<&String> = ids.iter().collect();
        for missing in self.entities.iter().filter(|id| !there.contains(id)) {
            tracing::warn!("{}: the platform does not list {missing}, so its state is not known", self.title);
        }
        let ours: HashSet<&String> = self.entities.iter().collect();
        let look = owner.next_look();
        let mut events = vec![];
        for entity in &listed.entities {
            if !entity.get("id").and_then(Value::as_str).is_some_and(|id| ours.contains(&id.to_string())) {
                continue;
            }
            match channel::look(&self.pulled.subscription, entity, &look, listed.at_ms) {
                Ok(said) => events.extend(said),
                Err(error) => {
                    tracing::warn!("{}: the list: {}: {}", self.title, error.place, error.reason);
                }
            }
        }
        self.store(envelope::of_source(&self.pulled.subscription, events)).await;
    }

    async fn listen(&mut self, socket: &mut Socket, quiet: &mut Quiet) -> Listened {
        let silence = self.pulled.owner.silence;
        let Quiet { listened, mut asked } = std::mem::take(quiet);
        let begun = clock::now();
        let mut heard_at = begun.checked_sub(listened).unwrap_or(begun);
        loop {
            let quiet_at = heard_at + if asked { silence } else { silence / 2 };
            tokio::select! {
                heard = socket.hear() => {
                    match heard {
                        Heard::Text(text) => {
                            if self.take(&text).await {
                                return Listened::Closing;
                            }
                        }
                        Heard::Life => {}
                        Heard::Closed(why) => return Listened::Ended(End::new("closed", why)),
                    }
                    (heard_at, asked) = (clock::now(), false);
                }
                () = tokio::time::sleep_until(quiet_at) => {
                    if asked {
                        let why = format!("it has said nothing for {silence:?}");
                        return Listened::Ended(End::new("silent", why));
                    }
                    asked = true;
                    if let Err(why) = socket.ping().await {
                        return Listened::Ended(End::new("closed", why));
                    }
                }
                () = due(self.look_at) => {
                    *quiet = Quiet { listened: clock::since(heard_at), asked };
                    return Listened::LookDue;
                }
                () = tokio::time::sleep_until(self.subscribe_at) => {
                    if let Err(end) = self.renew().await {
                        return Listened::Ended(end);
                    }
                }
            }
        }
    }

    /// Takes a message; gives whether the platform is about to close the socket.
    async fn take(&self, text: &str) -> bool {
        let name = &self.pulled.subscription.name;
        Metric::MessagesHeard.add(1, Role::Gateway.name(), Some(("subscription", name.clone())));
        match envelope::open(&self.pulled.subscription, text.as_bytes(), None) {
            Ok(events) => self.store(events).await,
            Err(problem) => {
                tracing::warn!("{}: a message cannot be read: {}", self.title, problem.detail);
            }
        }
        serde_json::from_str(text).is_ok_and(|message| channel::is_closing(&message))
    }

    /// Stores events, however long it takes: what is not durable is not heard.
    async fn store(&self, events: Vec<Enveloped>) {
        let (entrance, subscription) = (&self.pulled.owner.entrance, &self.pulled.subscription);
        let mut told = false;
        loop {
            match store(entrance, subscription, events.clone(), WhenFull::Wait).await {
                Ok(ids) => return Metric::EventsAccepted.add(ids.len() as u64, Role::Gateway.name(), None),
                Err(problem) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(
                            "{}: nothing more is read until it is stored: {}",
                            self.title,
                            problem.detail
                        );
                    }
                    clock::sleep(STORE_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// The wait before the next connect.
    fn next_wait(&mut self) -> Duration {
        self.settle();
        let wait = self.pulled.owner.back_off(&self.key, self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// The socket has ended or is about to. One that has outlived the longest silence was alive: the waits begin
    /// anew.
    fn settle(&mut self) {
        let silence = self.pulled.owner.silence;
        if self.connected.take().is_some_and(|at| clock::since(at) > silence) {
            (self.failures, self.closings) = (0, 0);
        }
    }

    fn topic_health(&self) -> String {
        format!("notifications of {}", self.title)
    }

    fn show(&self, connected: bool) {
        let label = Some(("subscription", self.title.clone()));
        Metric::ChannelsConnected.set(u64::from(connected), Role::Gateway.name(), label);
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn unreachable(error: platform::CallError) -> End {
    End { reason: "unreachable", why: error.reason, retry_after: error.retry_after, waits: error.waits }
}
