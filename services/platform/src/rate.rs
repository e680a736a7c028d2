//! The pace of calls to a host, over all replicas of all services that call (E5): a call takes a turn before it
//! leaves.
//!
//! Turns are instants of the broker's time, given by compare-and-set on the host's entry in RATE; when the next
//! ones are, stands in `decide::rate`. A replica takes some at once for the calls that wait in it, and the local
//! monotonic clock says when each is due and when it is too old. What is not used is given back with the next
//! asking; whoever dies forfeits what he holds. Without the broker there are no turns, so there are no calls.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::{Platform, Target};
use holdline_decide::rate::{
    HORIZON_US, Limit, Limits, Purpose, Unused, WINDOW_US, give_back, is_same_reset, learn, take,
};
use holdline_proto::rate::Window;
use holdline_proto::topology::{Bucket, Role, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Put, StoreError};
use holdline_stage::clock::{self, Instant};
use holdline_stage::telemetry::Metric;

use crate::Api;

/// Calls in any second to a host for which the settings name no other figure (E5).
const CALLS_PER_SECOND: u32 = 100;

/// A turn is too old for a call this long after it came: most of the rest of the window's margin (100 ms) is for
/// the way.
const FRESH_FOR: Duration = Duration::from_millis(25);

/// A turn is told this long before it comes: time to write the intent.
const AHEAD: Duration = Duration::from_millis(50);

/// A call whose turn is further away is told so, and its caller can do something else meanwhile. Shorter than the
/// executor's consumer's `ack_wait`, which runs for the messages that wait behind it.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Then it asks again after this at the earliest.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// A call that waited longer counts as throttled.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// Throttling of one host is logged this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Turns are asked for this long before the next one comes, so that several are there to take.
const ASK_AHEAD: Duration = Duration::from_millis(75);

/// Tries to write before others, who write too, are let pass for a moment.
const TRIES_MAX: u32 = 4;
const CONTENDED_WAIT: Duration = Duration::from_millis(5);

/// An entry that nobody has written to for this long is forgotten: longer than any quiet that is obeyed.
const KEPT: Duration = Duration::from_secs(3_600);

/// Hosts and clients that are followed at once; beyond, those idle longest are looked up again.
const HOSTS_MAX: u64 = 1_000;

/// What limits a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// With its port, if it is not the platform.
    pub host: String,
    /// The platform's client as whom it is made, which has a limit of its own.
    pub client: Option<String>,
    pub calls_per_second: u32,
}

impl Pace {
    /// Of a host with its port, as the settings name it.
    pub fn to(host: &str, port: u16, target: Option<&Target>) -> Pace {
        let calls_per_second = target.and_then(|target| target.calls_per_second).unwrap_or(CALLS_PER_SECOND);
        Pace { host: format!("{host}:{port}"), client: None, calls_per_second }
    }

    /// Of the platform's API, for one of its OAuth clients.
    pub fn of(platform: &Platform, client: &str) -> Pace {
        Pace {
            host: Api::host(platform),
            client: Some(client.into()),
            calls_per_second: platform.calls_per_second.unwrap_or(CALLS_PER_SECOND),
        }
    }
}

/// What a turn is for.
#[derive(Debug)]
pub enum Leave {
    /// One call.
    Alone,
    /// A look, and a call that follows it at once: of the client's own limit both are taken, or its looks would use up what
    /// the calls need, and have been for nothing.
    Ahead,
    /// The call for which this was taken with its look.
    After(Following),
}

/// What is taken of a client's own limit for a call that follows a look.
#[derive(Debug)]
pub struct Following(Share);

/// What came of asking for a turn.
#[derive(Debug)]
pub enum Granted {
    Turn(Turn),
    /// None soon; ask again after this.
    Later(Duration),
}

/// Why a call must not leave now.
#[derive(Debug, thiserror::Error)]
pub enum NoTurn {
    /// There is none for so long.
    #[error("there is no turn in the rate window for {0:?}")]
    Later(Duration),
    #[error(transparent)]
    Broker(#[from] StoreError),
}

impl NoTurn {
    /// When to ask again.
    pub fn wait(&self) -> Duration {
        match self {
            NoTurn::Later(wait) => *wait,
            NoTurn::Broker(_) => BACK_AFTER,
        }
    }
}

/// A call may leave. Dropped without that, it is given back.
#[derive(Debug)]
pub struct Turn {
    due: Instant,
    asked: Instant,
    /// What was taken for it, of the host and of the client.
    shares: Vec<Share>,
    /// What was taken with it for the call that follows, if it was asked for one.
    pub following: Option<Following>,
}

/// When a call may leave, by the local clock, and what the entry has of it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    due: Instant,
    unused: Unused,
}

/// A slot of one lane's, given back unless a call leaves in it.
#[derive(Debug)]
struct Share {
    lane: Arc<Lane>,
    slot: Slot,
    is_used: bool,
}

impl Share {
    fn of(lane: Arc<Lane>, slot: Slot) -> Share {
        Share { lane, slot, is_used: false }
    }

    /// Whether a call may still leave by it: nobody has asked for quiet since, and what it was taken of has not begun anew,
    /// or it would be counted for nothing.
    fn holds(&self, now_us: i64) -> bool {
        let known = self.lane.known();
        let is_open = known.entry.as_ref().is_none_or(|(window, _)| {
            let same = |resets_us| window.told.is_some_and(|told| is_same_reset(&told, resets_us));
            window.closed_until_us <= now_us && self.slot.unused.resets_us.is_none_or(same)
        });
        is_open && self.slot.holds(now_us)
    }
}

impl Slot {
    fn holds(&self, now_us: i64) -> bool {
        self.unused.resets_us.is_none_or(|resets_us| now_us < resets_us)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.is_used {
            self.lane.known().unused.push(self.slot.unused);
            self.lane.freed.notify_one();
        }
    }
}

impl Turn {
    /// Waits until it has come.
    pub async fn come(&self) {
        clock::sleep(self.due.saturating_duration_since(clock::now())).await;
    }

    /// Uses it for a call that begins now; false when it is too old, and given back.
    pub fn leaves(&mut self) -> bool {
        let is_fresh = clock::since(self.due) < FRESH_FOR;
        for share in &mut self.shares {
            share.is_used = is_fresh;
        }
        self.shares.clear();
        is_fresh
    }

    /// Whether so long has passed since it was asked for that what was known then may have changed.
    pub fn was_long(&self) -> bool {
        clock::since(self.asked) >= LONG_WAIT
    }
}

/// Gives turns, as a role, with the role's rights on RATE.
pub struct Rates {
    role: Role,
    bus: Bus,
    time: BrokerTime,
    lanes: moka::sync::Cache<(String, Purpose), Arc<Lane>>,
    /// Hosts whose throttling was logged a moment ago.
    told: moka::sync::Cache<String, ()>,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rates")
    }
}

/// Calls of this process that wait for the same window.
#[derive(Debug)]
struct Lane {
    key: String,
    purpose: Purpose,
    /// In order of arrival; the first asks for all.
    queue: tokio::sync::Mutex<()>,
    waiting: AtomicU32,
    /// A turn is there to be given back, so another may be had earlier.
    freed: tokio::sync::Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The entry as read or written last, and its revision.
    entry: Option<(Window, u64)>,
    /// Turns that are taken and not used: when, and how many.
    held: VecDeque<(Slot, u32)>,
    /// Turns that no call has left in, to be given back with the next asking; no more than are ever taken at once.
    unused: Vec<Unused>,
    /// How long the last write took.
    wrote_in: Duration,
}

impl Rates {
    pub fn new(role: Role, bus: Bus, time: BrokerTime) -> Rates {
        let lanes = moka::sync::Cache::builder().max_capacity(HOSTS_MAX).build();
        let told = moka::sync::Cache::builder().max_capacity(HOSTS_MAX).time_to_live(TOLD_EVERY).build();
        Rates { role, bus, time, lanes, told }
    }

    /// Waits until a call's turn is about to come, for a few seconds at most.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn turn(&self, pace: &Pace, purpose: Purpose, leave: Leave) -> Result<Granted, StoreError> {
        let asked = clock::now();
        let until = asked + WAIT_MAX;
        let calls = if matches!(leave, Leave::Ahead) { 2 } else { 1 };
        let mut shares: Vec<Share> = match leave {
            Leave::After(Following(share)) => vec![share],
            Leave::Alone | Leave::Ahead => vec![],
        };
        shares.retain(|share| share.holds(self.time.now_us()));
        // A client's own limit first: turns of the host are soon too old.
        if let Some(client) = pace.client.as_ref().filter(|_| shares.is_empty()) {
            let lane = self.lane(token(&[&pace.host, client]), purpose);
            match lane.take(&self.bus, &self.time, Limit::Client, until, calls).await? {
                Ok(slots) => {
                    let due = slots.iter().map(|slot| slot.due).max().unwrap_or(asked);
                    shares.extend(slots.into_iter().map(|slot| Share::of(lane.clone(), slot)));
                    clock::sleep(due.saturating_duration_since(clock::now())).await;
                }
                Err(wait) => return Ok(self.later(pace, wait)),
            }
        }
        let following = if shares.len() > 1 { shares.pop().map(Following) } else { None };
        let lane = self.lane(token(&[&pace.host]), purpose);
        let limit = Limit::PerSecond(pace.calls_per_second);
        match lane.take(&self.bus, &self.time, limit, until, 1).await?.map(|slots| slots.first().copied()) {
            Ok(None) => Ok(self.later(pace, BACK_AFTER)),
            Ok(Some(slot)) => {
                shares.push(Share::of(lane, slot));
                let turn = Turn { due: slot.due, asked, shares, following };
                clock::sleep(slot.due.saturating_duration_since(clock::now() + AHEAD)).await;
                if clock::since(asked) >= LONG_WAIT {
                    self.waits(pace);
                }
                Ok(Granted::Turn(turn))
            }
            Err(wait) => Ok(self.later(pace, wait)),
        }
    }

    /// Waits for the turn of a call that is part of nothing, for a few seconds at most: it leaves as soon as this
    /// returns.
    ///
    /// # Errors
    /// Why it must not leave.
    pub async fn leave(&self, pace: &Pace, purpose: Purpose) -> Result<(), NoTurn> {
        let until = clock::now() + WAIT_MAX;
        loop {
            match self.turn(pace, purpose, Leave::Alone).await? {
                Granted::Later(wait) => return Err(NoTurn::Later(wait)),
                Granted::Turn(mut turn) => {
                    turn.come().await;
                    if turn.leaves() {
                        return Ok(());
                    }
                }
            }
            if clock::now() > until {
                return Err(NoTurn::Later(BACK_AFTER));
            }
        }
    }

    /// Shares what an answer says about limits with all who call. Not told, it costs another 429.
    pub async fn learn(&self, pace: &Pace, limits: &Limits) {
        if limits.throttled {
            Metric::Throttled.add(1, self.role.name(), Some(("what", "answer".into())));
        }
        let key = match &pace.client {
            Some(client) => token(&[&pace.host, client]),
            None => token(&[&pace.host]),
        };
        let lane = self.lane(key.clone(), Purpose::Remediation);
        let quiet = match lane.learn(&self.bus, &self.time, limits).await {
            Ok(quiet) => quiet,
            Err(error) => return tracing::warn!(host = pace.host, "what it allows is not shared: {error}"),
        };
        if let Some(quiet) = quiet {
            for purpose in [Purpose::Remediation, Purpose::Other] {
                self.lane(key.clone(), purpose).let_go();
            }
            let (host, quiet_ms) = (&pace.host, quiet.as_millis());
            tracing::warn!(host, quiet_ms, "{host} is throttling: no calls to it for {quiet_ms} ms");
        }
    }

    fn lane(&self, key: String, purpose: Purpose) -> Arc<Lane> {
        self.lanes.get_with((key.clone(), purpose), || {
            Arc::new(Lane {
                key,
                purpose,
                queue: tokio::sync::Mutex::default(),
                waiting: AtomicU32::new(0),
                freed: tokio::sync::Notify::new(),
                known: Mutex::default(),
            })
        })
    }

    fn later(&self, pace: &Pace, wait: Duration) -> Granted {
        self.waits(pace);
        // Not all at the same instant.
        Granted::Later(wait.max(BACK_AFTER) + BACK_AFTER.mul_f64(chance()))
    }

    /// Throttling is told apart from failures.
    fn waits(&self, pace: &Pace) {
        Metric::Throttled.add(1, self.role.name(), Some(("what", "turn".into())));
        if self.told.get(&pace.host).is_none() {
            self.told.insert(pace.host.clone(), ());
            let host = &pace.host;
            tracing::info!(host, "calls to {host} wait for their turn for longer than a second");
        }
    }
}

impl Lane {
    /// Turns for so many calls, or how long there will be none.
    async fn take(
        &self,
        bus: &Bus,
        time: &BrokerTime,
        limit: Limit,
        until: Instant,
        calls: u32,
    ) -> Result<Result<Vec<Slot>, Duration>, StoreError> {
        let _waiting = Waiting::begin(&self.waiting, calls);
        let _first = tokio::select! {
            first = self.queue.lock() => first,
            () = clock::sleep(until.saturating_duration_since(clock::now())) => return Ok(Err(BACK_AFTER)),
        };
        let mut slots = vec![];
        loop {
            if self.fill(&mut slots, calls, time.now_us()) {
                return Ok(Ok(slots));
            }
            let asked = self.ask(bus, time, limit).await;
            let next = match asked {
                Ok(_) if self.fill(&mut slots, calls, time.now_us()) => return Ok(Ok(slots)),
                Ok(next) => next,
                Err(error) => {
                    self.known().unused.extend(slots.iter().map(|slot| slot.unused));
                    return Err(error);
                }
            };
            let now = clock::now();
            if next > until || now > until {
                self.known().unused.extend(slots.iter().map(|slot| slot.unused));
                return Ok(Err(next.saturating_duration_since(now)));
            }
            tokio::select! {
                () = clock::sleep(next.saturating_duration_since(now + ASK_AHEAD)) => {}
                () = self.freed.notified() => {}
            }
        }
    }

    /// Adds turns that were taken before; says whether there are as many as it takes, or as are ever had at once.
    fn fill(&self, slots: &mut Vec<Slot>, calls: u32, now_us: i64) -> bool {
        let told = self.known().entry.as_ref().and_then(|(window, _)| window.told);
        let calls = told.map_or(calls, |told| calls.min(told.allowed.max(1))) as usize;
        while slots.len() < calls {
            let Some(slot) = self.held() else { break };
            slots.push(slot);
        }
        let (good, past): (Vec<Slot>, Vec<Slot>) = slots.iter().partition(|slot| slot.holds(now_us));
        self.known().unused.extend(past.iter().map(|slot| slot.unused));
        *slots = good;
        slots.len() >= calls
    }

    /// One of the turns that were taken before.
    fn held(&self) -> Option<Slot> {
        let mut known = self.known();
        while let Some((slot, calls)) = known.held.pop_front() {
            if clock::since(slot.due) >= FRESH_FOR / 2 {
                known.unused.extend(all_unused(slot, calls));
                continue;
            }
            if calls > 1 {
                known.held.push_front((slot, calls - 1));
            }
            return Some(slot);
        }
        None
    }

    /// Gives all of those back.
    fn let_go(&self) {
        let mut known = self.known();
        let held = std::mem::take(&mut known.held);
        known.unused.extend(held.into_iter().flat_map(|(slot, calls)| all_unused(slot, calls)));
    }

    /// Takes turns for all that wait here; gives the instant of the next that can be had.
    async fn ask(&self, bus: &Bus, time: &BrokerTime, limit: Limit) -> Result<Instant, StoreError> {
        for _ in 0..TRIES_MAX {
            let (mut window, revision, is_read) = self.entry(bus, time).await?;
            let (now_us, now) = (time.now_us(), clock::now());
            let at = |at_us: i64| now + Duration::from_micros(u64::try_from(at_us - now_us).unwrap_or(0));
            // A turn must not be old before two writes are done: this one, and the intent.
            let from_us = now_us.saturating_add(2 * micros(self.known().wrote_in));
            let unused = std::mem::take(&mut self.known().unused);
            for turn in &unused {
                give_back(&mut window, *turn);
            }
            let wanted = self.waiting.load(Ordering::Relaxed).max(1);
            let taken = take(&mut window, limit, self.purpose, wanted, from_us);
            let next = at(taken.next_us);
            if taken.lots.is_empty() {
                self.known().unused.extend(unused);
                // What is known may be old; nobody waits for long because of that.
                if is_read || next < now + LONG_WAIT {
                    return Ok(next);
                }
                self.known().entry = None;
                continue;
            }
            let resets_us = window.told.map(|told| told.resets_us);
            let is_written = self.write(bus, window, revision).await?;
            let mut known = self.known();
            if is_written {
                known.wrote_in = clock::since(now).min(Duration::from_micros(HORIZON_US.unsigned_abs()));
                known.held.extend(taken.lots.iter().map(|lot| {
                    let at_us = (lot.calls == 1).then_some(lot.at_us);
                    (Slot { due: at(lot.at_us), unused: Unused { at_us, resets_us } }, lot.calls)
                }));
                return Ok(next);
            }
            known.unused.extend(unused);
        }
        let wait = CONTENDED_WAIT.mul_f64(chance());
        clock::sleep(wait).await;
        Ok(clock::now())
    }

    /// Adds what an answer says; gives the quiet that it leads to.
    async fn learn(
        &self,
        bus: &Bus,
        time: &BrokerTime,
        limits: &Limits,
    ) -> Result<Option<Duration>, StoreError> {
        for _ in 0..TRIES_MAX {
            let (mut window, revision, _) = self.entry(bus, time).await?;
            let now_us = time.now_us();
            let closed_us = window.closed_until_us;
            let dice = RandomState::new().hash_one(now_us);
            if !learn(&mut window, limits, now_us, dice) {
                return Ok(None);
            }
            let quiet_us = window.closed_until_us.saturating_sub(now_us);
            let is_closed = window.closed_until_us > closed_us;
            if self.write(bus, window, revision).await? {
                return Ok(is_closed.then(|| Duration::from_micros(u64::try_from(quiet_us).unwrap_or(0))));
            }
        }
        // Others write, who were answered too.
        Ok(None)
    }

    /// The entry as it is known, or read; and whether it was read.
    async fn entry(&self, bus: &Bus, time: &BrokerTime) -> Result<(Window, u64, bool), StoreError> {
        let known = self.known().entry.clone();
        if let Some((window, revision)) = known {
            return Ok((window, revision, false));
        }
        let place = bus.place(Bucket::Rate, &self.key).await?;
        let window = match place.value.map(|value| wire::decode::<Window>(&value)) {
            None => Window::default(),
            Some(Ok(window)) => window,
            Some(Err(error)) => {
                tracing::error!("an entry of RATE cannot be read, so nothing leaves for a second: {error}");
                Window { closed_until_us: time.now_us().saturating_add(WINDOW_US), ..Window::default() }
            }
        };
        self.known().entry = Some((window.clone(), place.revision));
        Ok((window, place.revision, true))
    }

    /// Writes the entry; false when somebody else wrote first.
    async fn write(&self, bus: &Bus, window: Window, revision: u64) -> Result<bool, StoreError> {
        let put = Put { expect: Some(revision), ttl: Some(KEPT), ..Put::default() };
        let written = bus.put(Bucket::Rate, &self.key, wire::encode(&window).into(), put).await;
        let mut known = self.known();
        known.entry = None;
        match written {
            Ok(revision) => {
                known.entry = Some((window, revision));
                Ok(true)
            }
            Err(StoreError::Fenced) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns of a slot, none of which is used.
fn all_unused(slot: Slot, calls: u32) -> impl Iterator<Item = Unused> {
    (0..calls).map(move |_| slot.unused)
}

/// Counts the calls that wait for as long as they do.
struct Waiting<'a>(&'a AtomicU32, u32);

impl Waiting<'_> {
    fn begin(count: &AtomicU32, calls: u32) -> Waiting<'_> {
        count.fetch_add(calls, Ordering::Relaxed);
        Waiting(count, calls)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let dice = RandomState::new().hash_one(());
    f64::from(u32::try_from(dice % 1_000).unwrap_or(0)) / 1_000.0
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
