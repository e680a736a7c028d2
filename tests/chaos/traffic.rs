//! The sources: entities that work, jitter, fail, recover and fall silent, each reporting through the gateway
//! that it always uses, and keeping a log of what was sent and when it was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};
use holdline_stage::run::Tasks;
use holdline_tests::random::Random;
use holdline_tests::sender::Sender;
use serde_json::{Value, json};

use crate::platform::Platform;
use crate::target::Target;

/// How long an entity waits, once the faults have stopped, for what must happen to it. Beyond, it is a liveness
/// failure.
const PATIENCE: Duration = Duration::from_secs(150);

/// An action that may not be repeated, and may have happened, is held: nothing comes. Whether that is why is for
/// the checker to see in the logs.
const PATIENCE_ONCE: Duration = Duration::from_secs(20);

/// Between an entity's reports: when its state is new, and once it has been told for as long as that.
const BEAT: Duration = Duration::from_millis(300);
const STEADY_AFTER: Duration = Duration::from_secs(10);
const STEADY_BEAT: Duration = Duration::from_secs(2);

/// Silence after which the `silent` playbook takes it to be over, and the `quiet` one looks. See the playbooks.
pub(crate) const SILENT_MS: i64 = 10_000;
const QUIET: Duration = Duration::from_secs(12);

/// Entities that follow one another, and need the same group if they share one.
const SHARERS: u64 = 4;

/// Reports of such an entity that follow once the group is enabled, for whomever: at least, and at most twice as many.
const FAILURES_SHARED: u64 = 10;

/// So long an entity that has fallen silent is looked at, while others may still need its group.
const SHARED_TIME_MAX: Duration = Duration::from_secs(30);

/// Events in one request, of a hot entity and of many that fail at once.
const BATCH: usize = 250;

/// Between the requests of a hot entity: 5,000 events a second (F11).
const HOT_EVERY: Duration = Duration::from_millis(50);

/// From one report of all entities of a storm to the next: at least, and for each of them. The first is as fast as it goes.
const STORM_BEAT_MIN: Duration = Duration::from_secs(2);
const STORM_BEAT_EACH: Duration = Duration::from_millis(3);

/// What kind of source an entity is: the playbook that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counted failures, counted health.
    Counted,
    /// Tells of changes; a wake-up confirms.
    Changes,
    /// Tells of changes, and is well again before the wake-up: nothing may happen.
    Blip,
    /// Never reports health; a wake-up reverts.
    Silent,
    /// Reports health, fails and falls silent: held, and not reverted before it is heard again.
    Quiet,
    /// As counted, at a target that ignores idempotency keys.
    Once,
    /// As counted, with an action of the platform's own that is undone.
    Native,
    /// One of several that need the same thing of the platform, each in its own time; as silent otherwise.
    Shared,
    /// As counted, but every call is refused for good.
    Final,
}

impl Kind {
    pub(crate) fn subscription(self) -> &'static str {
        match self {
            Kind::Counted | Kind::Final => "counted",
            Kind::Changes | Kind::Blip => "changes",
            Kind::Silent => "silent",
            Kind::Quiet => "quiet",
            Kind::Once => "once",
            Kind::Native => "native",
            Kind::Shared => "shared",
        }
    }
}

/// An event that was sent until it was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub id: String,
    pub status: &'static str,
    /// First sent, and answered with 200. Unix milliseconds.
    pub sent_ms: i64,
    pub answered_ms: i64,
    pub accept_id: String,
}

/// What happened to one entity.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub kind: Kind,
    pub entity: String,
    /// The emergency group that is enabled for it.
    pub group: String,
    pub events: Vec<Sent>,
    /// When its group was seen disabled. Unix milliseconds.
    pub disabled_ms: Vec<i64>,
    /// What was waited for and did not come.
    pub overdue: Vec<String>,
}

/// Answers other than 200 that are no fault of a line or a dead process.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub unavailable: AtomicU64,
    pub unanswered: AtomicU64,
}

/// All sources of a run.
pub(crate) struct Traffic {
    senders: Vec<Sender>,
    target: Target,
    platform: Platform,
    histories: Arc<Mutex<Vec<History>>>,
    pub refusals: Arc<Refusals>,
    /// When the faults had stopped.
    over: Arc<Mutex<Option<Instant>>>,
    longest_wait: Arc<Mutex<Duration>>,
    next: Arc<AtomicU64>,
    seed: u64,
    tasks: Tasks,
}

impl Traffic {
    /// `gateways`: for each, the sender that reaches it.
    pub(crate) fn new(senders: Vec<Sender>, target: Target, platform: Platform, seed: u64) -> Traffic {
        Traffic {
            senders,
            target,
            platform,
            histories: Arc::default(),
            refusals: Arc::default(),
            over: Arc::default(),
            longest_wait: Arc::default(),
            next: Arc::default(),
            seed,
            tasks: Tasks::default(),
        }
    }

    /// Keeps so many entities going until it is over; a new one takes the place of one that has had its outage.
    pub(crate) fn begin(&self, at_once: usize) {
        for _ in 0..at_once {
            let (next, over) = (self.next.clone(), self.over.clone());
            let source = self.source();
            self.tasks.spawn(async move {
                while over.lock().unwrap().is_none() {
                    source.clone().live(next.fetch_add(1, Ordering::SeqCst), None).await;
                }
            });
        }
    }

    /// So many entities fail at once (F11).
    pub(crate) fn storm(&self, entities: usize) {
        let source = self.source();
        let mut fronts: BTreeMap<usize, Vec<Life>> = BTreeMap::new();
        for _ in 0..entities {
            let life = source.begin(self.next.fetch_add(1, Ordering::SeqCst), Some(Kind::Counted));
            fronts.entry(life.gateway).or_default().push(life);
        }
        for (_, lives) in fronts {
            self.tasks.spawn(Front { lives }.live());
        }
    }

    /// One entity that reports 5,000 times a second (F11).
    pub(crate) fn hot(&self, events: usize) {
        let (next, source) = (self.next.clone(), self.source());
        self.tasks.spawn(async move {
            source.hot(next.fetch_add(1, Ordering::SeqCst), events).await;
        });
    }

    /// Waits until every entity has come to its end.
    pub(crate) async fn finish(&self) -> Vec<History> {
        *self.over.lock().unwrap() = Some(clock::now());
        self.tasks.wait().await;
        let mut histories = self.histories.lock().unwrap().clone();
        let begun = self.next.load(Ordering::SeqCst);
        assert_eq!(histories.len() as u64, begun, "entities that came to their end, of those that began");
        let began = clock::now();
        for history in histories.iter_mut().filter(|history| history.kind == Kind::Shared) {
            while self.platform.is_enabled(&history.group) && began.elapsed() < PATIENCE {
                clock::sleep(BEAT).await;
            }
            if self.platform.is_enabled(&history.group) {
                history.overdue.push("revert".into());
            }
        }
        histories
    }

    /// The longest that an entity has waited for an effect, faults and all.
    pub(crate) fn longest_wait(&self) -> Duration {
        *self.longest_wait.lock().unwrap()
    }

    fn source(&self) -> Source {
        Source {
            senders: self.senders.clone(),
            target: self.target.clone(),
            platform: self.platform.clone(),
            histories: self.histories.clone(),
            refusals: self.refusals.clone(),
            over: self.over.clone(),
            longest_wait: self.longest_wait.clone(),
            seed: self.seed,
        }
    }
}

#[derive(Clone)]
struct Source {
    senders: Vec<Sender>,
    target: Target,
    platform: Platform,
    histories: Arc<Mutex<Vec<History>>>,
    refusals: Arc<Refusals>,
    over: Arc<Mutex<Option<Instant>>>,
    longest_wait: Arc<Mutex<Duration>>,
    seed: u64,
}

/// One entity at work.
struct Life {
    source: Source,
    history: History,
    random: Random,
    /// The number of the gateway that it reports through.
    gateway: usize,
    sender: Sender,
    /// Its clock runs this far from ours (F10). Milliseconds.
    skew_ms: i64,
    /// Event time of its newest report.
    newest_ms: i64,
}

impl Source {
    fn begin(&self, number: u64, kind: Option<Kind>) -> Life {
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x9e37));
        let family = number / SHARERS;
        let shares = Random::new(self.seed ^ family.wrapping_mul(0x5ba2)).once_in(20);
        let kind = kind.unwrap_or_else(|| match random.below(22) {
            _ if shares => Kind::Shared,
            0..=8 => Kind::Counted,
            9..=11 => Kind::Changes,
            12..=13 => Kind::Blip,
            14..=15 => Kind::Silent,
            16 => Kind::Quiet,
            17..=18 => Kind::Once,
            19..=20 => Kind::Native,
            _ => Kind::Final,
        });
        let entity = match kind {
            Kind::Final => format!("final-{}-{number}", if random.once_in(2) { 404 } else { 307 }),
            _ => format!("gw-{number}"),
        };
        let group = match kind {
            Kind::Shared => format!("shared-{family}"),
            _ => entity.clone(),
        };
        if matches!(kind, Kind::Native | Kind::Shared) {
            self.platform.found(&group);
        }
        // Nobody's clock is right to the millisecond, and some are an hour off.
        let skew_ms = match random.below(8) {
            0 => -3_600_000,
            1 => 3_600_000,
            _ => random.below(2_000) as i64 - 1_000,
        };
        let gateway = random.below(self.senders.len() as u64) as usize;
        let history = History { kind, entity, group, events: vec![], disabled_ms: vec![], overdue: vec![] };
        let sender = self.senders[gateway].to(kind.subscription());
        Life { source: self.clone(), history, random, gateway, sender, skew_ms, newest_ms: 0 }
    }

    async fn live(self, number: u64, kind: Option<Kind>) {
        let mut life = self.begin(number, kind);
        match life.history.kind {
            Kind::Counted | Kind::Once | Kind::Native => life.counted().await,
            Kind::Changes => life.changes().await,
            Kind::Blip => life.blip().await,
            Kind::Silent => life.silent().await,
            Kind::Shared => life.shared().await,
            Kind::Quiet => life.quiet().await,
            Kind::Final => life.refused().await,
        }
        self.histories.lock().unwrap().push(life.history);
    }

    async fn hot(self, number: u64, events: usize) {
        let mut life = self.begin(number, Some(Kind::Counted));
        let began = clock::now();
        for n in 0..events / BATCH {
            clock::sleep((HOT_EVERY * n as u32).saturating_sub(began.elapsed())).await;
            report_together(std::slice::from_mut(&mut life), &[0; BATCH], "FAILED").await;
        }
        life.until("remediate", "FAILED", 1).await;
        life.until("revert", "HEALTHY", 1).await;
        self.histories.lock().unwrap().push(life.history);
    }
}

/// Entities that fail at once and report through the same gateway.
struct Front {
    lives: Vec<Life>,
}

impl Front {
    async fn live(mut self) {
        let began = clock::now();
        self.until("remediate", "FAILED").await;
        let remedied = began.elapsed();
        self.until("revert", "HEALTHY").await;
        let (entities, over) = (self.lives.len(), began.elapsed());
        eprintln!(
            "{entities} entities that failed at once: remedied after {remedied:?}, reverted after {over:?}"
        );
        let Some(first) = self.lives.first() else { return };
        let histories = first.source.histories.clone();
        histories.lock().unwrap().extend(self.lives.into_iter().map(|life| life.history));
    }

    /// Goes on reporting those for which the target has not been asked yet.
    async fn until(&mut self, direction: &str, status: &'static str) {
        let began = clock::now();
        loop {
            let waits = |index: &usize| self.lives[*index].count(direction) == 0;
            let waiting: Vec<usize> = (0..self.lives.len()).filter(waits).collect();
            if waiting.is_empty() {
                return;
            }
            if self.lives[waiting[0]].is_overdue(began) {
                waiting
                    .into_iter()
                    .for_each(|index| self.lives[index].history.overdue.push(direction.into()));
                return;
            }
            let reported = clock::now();
            for batch in waiting.chunks(BATCH) {
                report_together(&mut self.lives, batch, status).await;
            }
            let beat = STORM_BEAT_MIN.max(STORM_BEAT_EACH * waiting.len() as u32);
            clock::sleep(beat.saturating_sub(reported.elapsed())).await;
        }
    }
}

/// One report of each of `who`, in one request.
async fn report_together(lives: &mut [Life], who: &[usize], status: &'static str) {
    let sent_ms = clock::wall_ms();
    let mut reports = vec![];
    for index in who {
        let life = &mut lives[*index];
        life.newest_ms = (sent_ms + life.skew_ms).max(life.newest_ms + 1);
        let id = format!("{}-{}", life.history.entity, life.history.events.len());
        reports.push(life.event(&id, status, life.newest_ms));
        let sent = Sent { id, status, sent_ms, answered_ms: sent_ms, accept_id: String::new() };
        life.history.events.push(sent);
    }
    let accept_ids = lives[who[0]].deliver(&Value::from(reports)).await;
    let answered_ms = clock::wall_ms();
    let mut answers: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (index, accept_id) in who.iter().zip(accept_ids) {
        answers.entry(*index).or_default().push(accept_id);
    }
    for (index, accept_ids) in answers {
        let events = &mut lives[index].history.events;
        let first = events.len() - accept_ids.len();
        for (sent, accept_id) in events[first..].iter_mut().zip(accept_ids) {
            (sent.answered_ms, sent.accept_id) = (answered_ms, accept_id);
        }
    }
}

impl Life {
    /// Jitter, an outage with a false recovery in it, and its end.
    async fn counted(&mut self) {
        if self.random.once_in(2) {
            self.report("HEALTHY").await;
        }
        for _ in 0..self.random.below(3) {
            for _ in 0..1 + self.random.below(2) {
                self.report("FAILED").await;
                self.beat().await;
            }
            if self.random.once_in(3) {
                self.report("DEGRADED").await;
            }
            self.report("HEALTHY").await;
            self.beat().await;
        }
        self.until("remediate", "FAILED", 1).await;
        if self.random.once_in(2) {
            self.report("HEALTHY").await;
            self.beat().await;
            let relapse = if self.random.once_in(2) { "DEGRADED" } else { "FAILED" };
            self.report(relapse).await;
        }
        self.until("revert", "HEALTHY", 1).await;
    }

    async fn changes(&mut self) {
        self.until("remediate", "FAILED", 1).await;
        self.until("revert", "HEALTHY", 1).await;
    }

    async fn blip(&mut self) {
        self.report("FAILED").await;
        self.report("HEALTHY").await;
        // What should not come would come by now.
        clock::sleep(Duration::from_secs(5)).await;
    }

    async fn silent(&mut self) {
        self.until("remediate", "FAILED", 1).await;
        // A report that was held up may have begun another incident after a revert: both end in silence.
        self.await_balance().await;
    }

    async fn shared(&mut self) {
        let began = clock::now();
        while !self.is_group_enabled() {
            if self.is_overdue(began) {
                return self.history.overdue.push("remediate".into());
            }
            self.report("FAILED").await;
            self.beat().await;
        }
        for _ in 0..FAILURES_SHARED + self.random.below(FAILURES_SHARED) {
            self.is_group_enabled();
            self.report("FAILED").await;
            self.beat().await;
        }
        // Whether its own is over cannot be seen while another needs it: [`Traffic::finish`] waits for the last.
        let fell_silent = clock::now();
        while self.is_group_enabled() && fell_silent.elapsed() < SHARED_TIME_MAX {
            clock::sleep(BEAT).await;
        }
    }

    fn is_group_enabled(&mut self) -> bool {
        let enabled = self.source.platform.is_enabled(&self.history.group);
        if !enabled {
            self.history.disabled_ms.push(clock::wall_ms());
        }
        enabled
    }

    async fn quiet(&mut self) {
        self.report("HEALTHY").await;
        self.until("remediate", "FAILED", 1).await;
        clock::sleep(QUIET).await;
        self.until("revert", "HEALTHY", 1).await;
    }

    /// Every call is refused for good: held for a person. It recovers all the same.
    async fn refused(&mut self) {
        for _ in 0..8 {
            self.report("FAILED").await;
            self.beat().await;
        }
        for _ in 0..6 {
            self.report("HEALTHY").await;
            self.beat().await;
        }
    }

    async fn beat(&mut self) {
        clock::sleep(BEAT + Duration::from_millis(self.random.below(100))).await;
    }

    fn count(&self, direction: &str) -> usize {
        if self.history.kind == Kind::Native {
            // What cannot have been is the checker's to tell.
            let effects = self.source.platform.effects(&self.history.entity).unwrap_or_default();
            return effects.into_iter().filter(|found| *found == direction).count();
        }
        let effects = self.source.target.effects(self.history.kind.subscription(), &self.history.entity);
        effects.iter().filter(|(found, _)| found == direction).count()
    }

    /// Goes on reporting until the target has been asked so often.
    async fn until(&mut self, direction: &str, status: &'static str, effects: usize) {
        let began = clock::now();
        while self.count(direction) < effects {
            if self.history.kind == Kind::Once && began.elapsed() > PATIENCE_ONCE {
                return;
            }
            if self.is_overdue(began) {
                return self.history.overdue.push(direction.into());
            }
            self.report(status).await;
            if began.elapsed() > STEADY_AFTER {
                clock::sleep(STEADY_BEAT).await;
            }
            self.beat().await;
        }
    }

    /// Whether it has waited for too long since the faults have stopped.
    fn is_overdue(&self, began: Instant) -> bool {
        let mut longest = self.source.longest_wait.lock().unwrap();
        *longest = longest.max(began.elapsed());
        let over = *self.source.over.lock().unwrap();
        over.is_some_and(|over| over.max(began).elapsed() > PATIENCE)
    }

    async fn await_balance(&mut self) {
        let began = clock::now();
        while self.count("remediate") != self.count("revert") {
            if self.is_overdue(began) {
                return self.history.overdue.push("revert".into());
            }
            clock::sleep(BEAT).await;
        }
    }

    /// Reports once, and until it is accepted; sometimes twice, sometimes something old first.
    async fn report(&mut self, status: &'static str) {
        let now_ms = clock::wall_ms() + self.skew_ms;
        if self.random.once_in(12) && !self.history.events.is_empty() {
            self.send("FAILED", now_ms - 20_000).await;
        }
        self.newest_ms = now_ms.max(self.newest_ms + 1);
        self.send(status, self.newest_ms).await;
        if self.random.once_in(10) {
            let again = self.history.events.len() - 1;
            self.repeat(again).await;
        }
    }

    async fn send(&mut self, status: &'static str, at_ms: i64) {
        let id = format!("{}-{}", self.history.entity, self.history.events.len());
        self.give(id, status, at_ms).await;
    }

    /// The same event once more: accepted, and counted once.
    async fn repeat(&mut self, index: usize) {
        let (id, status) = (self.history.events[index].id.clone(), self.history.events[index].status);
        self.give(id, status, self.newest_ms).await;
    }

    async fn give(&mut self, id: String, status: &'static str, at_ms: i64) {
        let sent_ms = clock::wall_ms();
        let mut accept_ids = self.deliver(&self.event(&id, status, at_ms)).await;
        let answered_ms = clock::wall_ms();
        let accept_id = accept_ids.pop().unwrap();
        self.history.events.push(Sent { id, status, sent_ms, answered_ms, accept_id });
    }

    fn event(&self, id: &str, status: &str, at_ms: i64) -> Value {
        json!({
            "id": id,
            "topicName": format!("chaos.{}", self.history.kind.subscription()),
            "timestamp": at_ms,
            "data": {"gatewayId": self.history.entity, "group": self.history.group, "status": status},
        })
    }

    /// Sends until it is accepted; gives the accept ids.
    async fn deliver(&self, body: &Value) -> Vec<String> {
        let bytes = body.to_string().into_bytes();
        loop {
            match self.sender.post(&bytes).await {
                Ok((200, answer)) => {
                    let ids = answer["ids"].as_array().unwrap();
                    return ids.iter().map(|id| id.as_str().unwrap().to_string()).collect();
                }
                Ok((503, _)) => drop(self.source.refusals.unavailable.fetch_add(1, Ordering::SeqCst)),
                Ok((status, answer)) => panic!("{body} was answered {status}: {answer}"),
                Err(_) => drop(self.source.refusals.unanswered.fetch_add(1, Ordering::SeqCst)),
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
    }
}
