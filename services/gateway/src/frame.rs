//! The hot path: whatever waits for a partition becomes one frame, one durable write (architecture.md 2, 12).
//!
//! One task per partition, one frame of it in flight: a retry can never overtake, and while a write is under
//! way the next frame gathers. A lone event waits for nothing. When there is nothing to send, ticks say that
//! nothing is held back; they come ever more rarely, but never later than a thirtieth of the quiet time.
//!
//! A frame that the broker does not answer for goes to the spool, under the id that it was published with.
//! From then on whatever comes queues behind it there ([`Framer::catch_up`]), until the broker has everything
//! in order. A tick cannot overtake the spool, because there are none meanwhile.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use holdline_proto::event::{Accepted, Frame, Heard};
use holdline_proto::limits::{FRAME_BYTES_MAX, FRAME_EVENTS_MAX};
use holdline_proto::topology::Role;
use holdline_proto::wire;
use holdline_stage::admin::Health;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock::{self, Instant};
use holdline_stage::crash::{self, Point};
use holdline_stage::telemetry::Metric;
use tokio::sync::{mpsc, oneshot};

use crate::spool::{Depth, Held, Spool};

/// Events of one partition that wait for a frame. Beyond: 503.
pub(crate) const WAITING_MAX: usize = 8_192;

/// A frame that is not known to be stored after this goes to the spool.
const WRITE_MAX: Duration = Duration::from_millis(500);

/// Without a spool it is given up after this, and its events are answered 503. Below the platform's own
/// patience of five seconds.
const UNSPOOLED_WRITE_MAX: Duration = Duration::from_millis(4_000);

/// Between attempts to store a frame that nobody answers for: while it is new, and once it is spooled.
const RETRY_AFTER: Duration = Duration::from_millis(20);
const SPOOLED_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Content that one sync of the spool takes; what is left waits for the next.
const INTAKE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// While the spool drains, what comes is let gather for so long before it is synced behind it: the disk and
/// the broker then have time to catch up, however many events come.
const INTAKE_EVERY: Duration = Duration::from_millis(200);

/// A gateway that is told to stop drains its spool for so long at most; the rest stays for its next start.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Between looks at a spool that cannot be read.
const UNREADABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The first tick after an event.
const TICK_MIN: Duration = Duration::from_secs(1);

/// Ticks come at least this often.
const TICK_MAX: Duration = Duration::from_secs(30);

/// An event that waits to be stored, and who wants to know.
pub(crate) struct Waiting {
    pub event: Accepted,
    /// When it was accepted.
    pub since: Instant,
    pub stored: oneshot::Sender<bool>,
}

/// When each subscription was last heard, whatever its partition.
#[derive(Debug, Default)]
pub(crate) struct LastHeard(Mutex<HashMap<String, Instant>>);

impl LastHeard {
    pub(crate) fn note(&self, subscription: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(subscription) {
            Some(at) => *at = clock::now(),
            None => drop(last.insert(subscription.into(), clock::now())),
        }
    }

    /// Those heard since an earlier look.
    fn since(&self, earlier: Option<Instant>) -> Vec<Heard> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = last.iter().filter(|(_, at)| earlier.is_none_or(|earlier| **at >= earlier));
        heard
            .map(|(subscription, at)| Heard {
                subscription: subscription.clone(),
                age_ms: u32::try_from(clock::since(*at).as_millis()).unwrap_or(u32::MAX),
            })
            .collect()
    }
}

/// The wall clock at the start of this run, carried on by the monotonic one: while the gateway runs it cannot
/// be stepped, and after a restart what it stamped still has a meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    start: Instant,
    start_ms: i64,
}

impl Steady {
    pub(crate) fn start() -> Steady {
        Steady { start: clock::now(), start_ms: clock::wall_ms() }
    }

    /// Unix milliseconds.
    fn ms(self, at: Instant) -> i64 {
        let since = at.saturating_duration_since(self.start).as_millis();
        self.start_ms.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    fn now_ms(self) -> i64 {
        self.ms(clock::now())
    }
}

/// Where frames are made durable: the broker, or a test.
pub(crate) trait Log: Send + Sync + 'static {
    /// Stores a frame under an id that makes a repeat harmless.
    fn store(
        &self,
        partition: u16,
        id: &str,
        frame: Bytes,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The broker, as soon as it is known to be the one whose partitions are counted here.
pub(crate) struct Broker {
    pub bus: Bus,
    pub recognised: Arc<AtomicBool>,
}

impl Log for Broker {
    async fn store(&self, partition: u16, id: &str, frame: Bytes) -> Result<(), StoreError> {
        // The client would keep it, and every repeat of it, until there is a connection.
        if !self.bus.is_connected() || !self.recognised.load(Ordering::Relaxed) {
            return Err(StoreError::Unknown("there is no connection".into()));
        }
        let mut epoch = self.bus.epoch();
        epoch.mark_unchanged();
        let message = PublishMessage::build().message_id(id).payload(frame);
        let message = message.outbound_message(self.bus.topology().event(partition));
        tokio::select! {
            stored = self.bus.publish(message) => stored.map(drop),
            // On a new connection no answer to the old one's publishes will come.
            _ = epoch.changed() => Err(StoreError::Unknown("the connection is new".into())),
        }
    }
}

/// The way out that all partitions share.
pub(crate) struct Exit<L> {
    pub log: L,
    /// Stable name of the gateway.
    pub gateway: String,
    /// Distinguishes this run's message ids from those of earlier ones.
    pub run: String,
    pub heard: Arc<LastHeard>,
    pub steady: Steady,
    pub health: Health,
}

/// One partition's frames.
pub(crate) struct Framer<L> {
    exit: Arc<Exit<L>>,
    partition: u16,
    spool: Option<Arc<Mutex<Spool>>>,
    waiting: mpsc::Receiver<Waiting>,
    /// Taken, and too large for the frame that was under way.
    left_over: Option<Waiting>,
    /// What was accepted before this has been taken. By [`Steady`].
    clear_ms: i64,
    /// When the previous frame was known to be stored. By [`Steady`].
    stored_ms: Option<i64>,
    /// Up to when what was heard has been told.
    told: Option<Instant>,
    /// Number of the next frame.
    number: u64,
}

/// Events that make one frame.
struct Batch {
    frame: Held,
    stored: Vec<oneshot::Sender<bool>>,
    bytes: usize,
}

impl Batch {
    fn answer(self, stored: bool) {
        for sender in self.stored {
            // A sender that has hung up no longer wants to know.
            sender.send(stored).ok();
        }
    }
}

impl<L: Log> Framer<L> {
    pub(crate) fn new(
        exit: Arc<Exit<L>>,
        partition: u16,
        spool: Option<Spool>,
        waiting: mpsc::Receiver<Waiting>,
    ) -> Framer<L> {
        let clear_ms = exit.steady.now_ms();
        Framer {
            exit,
            partition,
            spool: spool.map(|spool| Arc::new(Mutex::new(spool))),
            waiting,
            left_over: None,
            clear_ms,
            stored_ms: None,
            told: None,
            number: 0,
        }
    }

    /// Sends frames until the senders are gone, then says goodbye.
    pub(crate) async fn send(mut self) {
        self.measure();
        if !self.catch_up().await {
            return;
        }
        let mut quiet_since = clock::now();
        loop {
            let pause = tick_after(clock::since(quiet_since));
            let looked = clock::now();
            let first = match self.left_over.take() {
                Some(waiting) => Some(waiting),
                // The very first frame goes out at once: the watermark begins with it.
                None if self.number == 0 => self.waiting.try_recv().ok(),
                None => match tokio::time::timeout(pause, self.waiting.recv()).await {
                    Ok(Some(waiting)) => Some(waiting),
                    Ok(None) => break,
                    Err(_) => None,
                },
            };
            let batch = match first {
                Some(first) => {
                    quiet_since = clock::now();
                    self.gather(first)
                }
                None => {
                    self.clear_ms = self.exit.steady.ms(looked);
                    self.tick()
                }
            };
            self.store_or_keep(batch, tick_after(clock::since(quiet_since))).await;
            if !self.catch_up().await {
                return;
            }
        }
        let mut goodbye = Frame { leaving: true, ..Frame::default() };
        let id = self.id();
        self.store(&id, &mut goodbye).await;
    }

    /// The way of a frame: to the broker, else to the spool.
    async fn store_or_keep(&mut self, mut batch: Batch, next_within: Duration) {
        let mut frame = Frame {
            next_within_ms: millis(next_within),
            behind_ms: self.behind_ms(None),
            events: std::mem::take(&mut batch.frame.events),
            ..Frame::default()
        };
        let holds_events = !frame.events.is_empty();
        crash::point_if(holds_events, Point::GatewayBeforeStore);
        let stored = self.store(&batch.frame.id, &mut frame).await;
        crash::point_if(holds_events && stored, Point::GatewayAfterStore);
        if stored || !holds_events {
            return batch.answer(stored);
        }
        batch.frame.events = frame.events;
        self.keep(vec![batch]).await;
    }

    /// Takes what waits, up to a frame's bounds.
    fn gather(&mut self, first: Waiting) -> Batch {
        let since_ms = self.exit.steady.ms(first.since);
        let mut batch = self.tick();
        batch.frame.since_ms = since_ms;
        let mut next = first;
        loop {
            batch.bytes += next.event.body.len();
            if batch.bytes > FRAME_BYTES_MAX && !batch.stored.is_empty() {
                self.left_over = Some(next);
                return batch;
            }
            self.clear_ms = self.exit.steady.ms(next.since);
            batch.frame.events.push(next.event);
            batch.stored.push(next.stored);
            if batch.stored.len() == FRAME_EVENTS_MAX {
                return batch;
            }
            let looked = clock::now();
            next = match self.waiting.try_recv() {
                Ok(next) => next,
                Err(_) => {
                    self.clear_ms = self.exit.steady.ms(looked);
                    return batch;
                }
            };
        }
    }

    /// A frame without events.
    fn tick(&mut self) -> Batch {
        let frame = Held { id: self.id(), since_ms: self.exit.steady.now_ms(), events: vec![] };
        Batch { frame, stored: vec![], bytes: 0 }
    }

    fn id(&mut self) -> String {
        let number = self.number;
        self.number += 1;
        format!("{}-{}-{}-{number}", self.exit.gateway, self.exit.run, self.partition)
    }

    /// How far what still waits behind a frame lies before the previous one; `spooled_ms` is the accept time of
    /// the oldest that is spooled behind it. See [`Frame::behind_ms`].
    fn behind_ms(&self, spooled_ms: Option<i64>) -> u64 {
        let in_memory = self.left_over.is_some() || !self.waiting.is_empty();
        let Some(oldest_ms) = spooled_ms.or(in_memory.then_some(self.clear_ms)) else { return 0 };
        let since_ms = self.stored_ms.unwrap_or_else(|| self.exit.steady.now_ms());
        // Both were rounded down.
        u64::try_from(since_ms.saturating_sub(oldest_ms).saturating_add(1)).unwrap_or(0)
    }

    /// Publishes a frame, again under its id while it is not known to be stored and there is patience.
    async fn store(&mut self, id: &str, frame: &mut Frame) -> bool {
        let patience = if self.spool.is_some() { WRITE_MAX } else { UNSPOOLED_WRITE_MAX };
        let began = clock::now();
        let (looked, bytes) = self.encode(frame);
        loop {
            let left = patience.saturating_sub(clock::since(began));
            let error = match attempt(&self.exit.log, self.partition, id, bytes.clone(), left).await {
                Ok(()) => {
                    self.stored(looked);
                    return true;
                }
                Err(error) => error,
            };
            let left = patience.saturating_sub(clock::since(began));
            if left.is_zero() {
                tracing::warn!(
                    partition = self.partition,
                    "a frame is not known to be stored after {patience:?}: {error}"
                );
                return false;
            }
            clock::sleep(RETRY_AFTER.min(left)).await;
        }
    }

    /// Signs a frame with what this gateway says of itself; gives the instant of which that is true.
    fn encode(&self, frame: &mut Frame) -> (Instant, Bytes) {
        let looked = clock::now();
        frame.gateway.clone_from(&self.exit.gateway);
        frame.heard = self.exit.heard.since(self.told);
        (looked, wire::encode(frame).into())
    }

    fn stored(&mut self, looked: Instant) {
        self.told = Some(looked);
        self.stored_ms = Some(self.exit.steady.now_ms());
    }

    /// Writes frames to the spool and answers for them; 503 when there is none, or it refuses.
    async fn keep(&mut self, mut batches: Vec<Batch>) {
        let kept = match &self.spool {
            Some(spool) => {
                let frames: Vec<Held> =
                    batches.iter_mut().map(|batch| std::mem::take(&mut batch.frame)).collect();
                off_the_workers(spool, move |spool| spool.append(frames)).await
            }
            None => Err(io::Error::other("there is no gateway.spool")),
        };
        match &kept {
            Ok(()) => self.exit.health.cover("nats", "the spool"),
            Err(error) => self.exit.health.uncover("nats", &error.to_string()),
        }
        for batch in batches {
            batch.answer(kept.is_ok());
        }
        self.measure();
    }

    /// While something is spooled: whatever comes queues behind it, and the oldest frame is sent again and
    /// again until the broker has it, then the next. False when the gateway is to end before all are drained.
    async fn catch_up(&mut self) -> bool {
        let Some(spool) = self.spool.clone() else { return true };
        if self.depth().frames == 0 {
            return true;
        }
        let partition = self.partition;
        tracing::warn!(partition, "what comes for partition {partition} is spooled");
        let began = clock::now();
        // Whether the broker has the oldest frame; when something was taken; when the senders were gone.
        let (mut answered, mut took, mut closed) = (false, began, None);
        loop {
            let head = off_the_workers(&spool, move |spool| {
                if answered {
                    spool.drained();
                }
                spool.head()
            });
            let held = head.await;
            self.measure();
            let held = match held {
                Ok(Some(held)) => held,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(partition, "the spool cannot be read: {error}");
                    answered = false;
                    clock::sleep(UNREADABLE_RETRY_AFTER).await;
                    continue;
                }
            };
            if closed.is_some_and(|at: Instant| !answered || clock::since(at) > DRAIN_TIME_MAX) {
                let Depth { frames, events, .. } = self.depth();
                tracing::warn!(partition, "{frames} frames with {events} events stay in the spool");
                return false;
            }
            let waited_ms = self.exit.steady.now_ms().saturating_sub(held.since_ms);
            let mut frame = Frame {
                next_within_ms: millis(TICK_MIN),
                waited_ms: u64::try_from(waited_ms).unwrap_or(0),
                behind_ms: self.behind_ms(self.depth().behind_ms),
                events: held.events,
                ..Frame::default()
            };
            let (looked, bytes) = self.encode(&mut frame);
            let exit = self.exit.clone();
            let attempt = async {
                let stored = attempt(&exit.log, partition, &held.id, bytes, WRITE_MAX).await;
                if stored.is_err() {
                    clock::sleep(SPOOLED_RETRY_AFTER).await;
                }
                stored.is_ok()
            };
            tokio::pin!(attempt);
            let every = if answered { INTAKE_EVERY } else { Duration::ZERO };
            answered = loop {
                let pause = every.saturating_sub(clock::since(took));
                tokio::select! {
                    biased;
                    stored = &mut attempt => break stored,
                    next = next(&mut self.left_over, &mut self.waiting, pause), if closed.is_none() => {
                        match next {
                            Some(first) => self.take_in(first).await,
                            None => closed = Some(clock::now()),
                        }
                        took = clock::now();
                    }
                }
            };
            if answered {
                crash::point(Point::GatewaySpoolDrained);
                self.stored(looked);
            }
        }
        self.exit.health.cover("nats", "the spool");
        let took = clock::since(began);
        tracing::info!(partition, "the spool of partition {partition} is drained after {took:?}");
        true
    }

    /// Spools everything that waits, with one sync.
    async fn take_in(&mut self, first: Waiting) {
        let (mut batches, mut bytes, mut next) = (vec![], 0, Some(first));
        while let Some(first) = next {
            let batch = self.gather(first);
            bytes += batch.bytes;
            batches.push(batch);
            if bytes >= INTAKE_BYTES_MAX {
                break;
            }
            next = self.left_over.take().or_else(|| self.waiting.try_recv().ok());
        }
        self.keep(batches).await;
    }

    fn depth(&self) -> Depth {
        self.spool.as_ref().map(|spool| lock(spool).depth()).unwrap_or_default()
    }

    fn measure(&self) {
        let depth = self.depth();
        let age_ms = depth.oldest_ms.map_or(0, |oldest| self.exit.steady.now_ms().saturating_sub(oldest));
        let of_partition = || Some(("partition", self.partition.to_string()));
        Metric::SpoolBytes.set(depth.bytes, Role::Gateway.name(), of_partition());
        Metric::SpoolEvents.set(depth.events, Role::Gateway.name(), of_partition());
        let age_s = u64::try_from(age_ms / 1_000).unwrap_or(0);
        Metric::SpoolAge.set(age_s, Role::Gateway.name(), of_partition());
    }
}

/// One attempt to store a frame, within a time.
async fn attempt<L: Log>(
    log: &L,
    partition: u16,
    id: &str,
    frame: Bytes,
    within: Duration,
) -> Result<(), StoreError> {
    let stored = tokio::time::timeout(within, log.store(partition, id, frame)).await;
    stored.unwrap_or_else(|_| Err(StoreError::Unknown(format!("nothing within {within:?}"))))
}

/// What waits next, after a pause.
async fn next(
    left_over: &mut Option<Waiting>,
    waiting: &mut mpsc::Receiver<Waiting>,
    pause: Duration,
) -> Option<Waiting> {
    clock::sleep(pause).await;
    match left_over.take() {
        Some(left_over) => Some(left_over),
        None => waiting.recv().await,
    }
}

/// Works on a spool on a thread that may block.
async fn off_the_workers<T: Send + 'static>(
    spool: &Arc<Mutex<Spool>>,
    work: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let spool = spool.clone();
    let done = tokio::task::spawn_blocking(move || work(&mut lock(&spool))).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn lock(spool: &Mutex<Spool>) -> MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pause before the next tick: a thirtieth of the quiet time.
fn tick_after(quiet: Duration) -> Duration {
    (quiet / 30).clamp(TICK_MIN, TICK_MAX)
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use holdline_decide::classify::Partition;
    use holdline_decide::playbook::Set;
    use holdline_proto::signal::Classified;
    use holdline_stage::run::Tasks;

    use super::*;
    use crate::spool::tests::Scratch;

    /// How a write goes. Each takes 10 ms.
    #[derive(Clone, Copy)]
    enum Answer {
        Stored,
        /// At once, as without a leader.
        Refused,
        /// Never, as over a connection that is dead and does not say so.
        None,
        /// Never; it is stored all the same.
        StoredUnanswered,
    }

    /// Keeps what was stored, once per id, with the time.
    struct Shaky {
        answer: Mutex<Answer>,
        stored: Mutex<Vec<(String, Frame, Instant)>>,
    }

    impl Shaky {
        fn answer(&self, answer: Answer) {
            *self.answer.lock().unwrap() = answer;
        }

        fn keep(&self, id: &str, frame: &Bytes) {
            let mut stored = self.stored.lock().unwrap();
            if stored.iter().all(|(known, ..)| known != id) {
                stored.push((id.into(), wire::decode(frame).unwrap(), clock::now()));
            }
        }

        /// Those with events.
        fn frames(&self) -> Vec<(String, Frame)> {
            let stored = self.stored.lock().unwrap();
            let with_events = stored.iter().filter(|(_, frame, _)| !frame.events.is_empty());
            with_events.map(|(id, frame, _)| (id.clone(), frame.clone())).collect()
        }
    }

    impl Log for Shaky {
        async fn store(&self, _partition: u16, id: &str, frame: Bytes) -> Result<(), StoreError> {
            clock::sleep(Duration::from_millis(10)).await;
            let answer = *self.answer.lock().unwrap();
            match answer {
                Answer::Stored => self.keep(id, &frame),
                Answer::Refused => return Err(StoreError::Unknown("test".into())),
                Answer::None => std::future::pending().await,
                Answer::StoredUnanswered => {
                    self.keep(id, &frame);
                    std::future::pending().await
                }
            }
            Ok(())
        }
    }

    /// A gateway with one partition.
    struct Gateway {
        exit: Arc<Exit<Shaky>>,
        sender: mpsc::Sender<Waiting>,
        tasks: Tasks,
        sent: usize,
    }

    impl Gateway {
        fn start(answer: Answer, spool: Option<Spool>) -> Gateway {
            Gateway::restart("r", Steady::start(), answer, spool)
        }

        /// Another run, by the same clock.
        fn restart(run: &str, steady: Steady, answer: Answer, spool: Option<Spool>) -> Gateway {
            let exit = Arc::new(Exit {
                log: Shaky { answer: Mutex::new(answer), stored: Mutex::default() },
                gateway: "g".into(),
                run: run.into(),
                heard: Arc::default(),
                steady,
                health: Health::default(),
            });
            exit.health.missing("nats", "test");
            exit.health.cover("nats", "the spool");
            let (sender, receiver) = mpsc::channel(WAITING_MAX);
            let tasks = Tasks::default();
            tasks.spawn(Framer::new(exit.clone(), 0, spool, receiver).send());
            Gateway { exit, sender, tasks, sent: 0 }
        }

        fn post(&mut self, bytes: usize) -> oneshot::Receiver<bool> {
            let event = Accepted {
                accept_id: self.sent.to_string(),
                accepted_ms: 0,
                subscription: "s".into(),
                body: vec![b' '; bytes],
                origin: None,
            };
            let (stored, answer) = oneshot::channel();
            assert!(self.sender.try_send(Waiting { event, since: clock::now(), stored }).is_ok());
            self.sent += 1;
            answer
        }

        /// Posts at once; gives whether each was stored, and after how long the last was answered.
        async fn post_all(&mut self, sizes: &[usize]) -> (Vec<bool>, Duration) {
            let began = clock::now();
            let answers: Vec<_> = sizes.iter().map(|bytes| self.post(*bytes)).collect();
            let mut stored = vec![];
            for answer in answers {
                stored.push(answer.await.unwrap());
            }
            (stored, clock::since(began))
        }

        /// Tells it to end, and waits until it has.
        async fn end(self) -> Arc<Exit<Shaky>> {
            drop(self.sender);
            self.tasks.wait().await;
            self.exit
        }
    }

    fn in_order(frames: &[(String, Frame)]) {
        let order: Vec<&str> =
            frames.iter().flat_map(|(_, f)| &f.events).map(|event| event.accept_id.as_str()).collect();
        let expected: Vec<String> = (0..order.len()).map(|number| number.to_string()).collect();
        assert_eq!(order, expected, "in the order of acceptance");
    }

    /// Sends events of these sizes at once, without a spool; gives the frames' sizes.
    async fn sizes_of_frames(sizes: &[usize]) -> Vec<usize> {
        let mut gateway = Gateway::start(Answer::Stored, None);
        let (stored, _) = gateway.post_all(sizes).await;
        assert!(stored.iter().all(|stored| *stored));
        let exit = gateway.end().await;
        assert!(exit.log.stored.lock().unwrap().last().unwrap().1.leaving, "it says goodbye");
        let frames = exit.log.frames();
        in_order(&frames);
        frames.iter().map(|(_, frame)| frame.events.len()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_becomes_one_write() {
        assert_eq!(sizes_of_frames(&[100; 50]).await, [50]);
        assert_eq!(sizes_of_frames(&[1; 600]).await, [128, 128, 128, 128, 88]);
        assert_eq!(sizes_of_frames(&[100_000, 100_000, 200_000, 10]).await, [1, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_spool_a_write_is_repeated_under_its_id_and_given_up_in_time() {
        let mut gateway = Gateway::start(Answer::Refused, None);
        let answers = [gateway.post(10), gateway.post(10)];
        clock::sleep(Duration::from_millis(300)).await;
        gateway.exit.log.answer(Answer::Stored);
        for answer in answers {
            assert!(answer.await.unwrap());
        }
        let frames = gateway.exit.log.frames();
        assert_eq!((frames[0].0.as_str(), frames[0].1.events.len()), ("g-r-0-0", 2));
        for answer in [Answer::Refused, Answer::None] {
            gateway.exit.log.answer(answer);
            let (stored, took) = gateway.post_all(&[10]).await;
            assert_eq!(stored, [false]);
            assert!(took >= UNSPOOLED_WRITE_MAX && took < Duration::from_secs(5), "{took:?}");
        }
        assert_eq!(gateway.exit.health.report().len(), 1, "not ready");
        assert_eq!(gateway.end().await.log.frames().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn g8_what_is_not_answered_for_is_spooled_and_what_comes_queues_behind_it() {
        for away in [Answer::Refused, Answer::None, Answer::StoredUnanswered] {
            let scratch = Scratch::new();
            let mut gateway = Gateway::start(Answer::Stored, Some(scratch.open(u64::MAX)));
            assert_eq!(gateway.post_all(&[10]).await.0, [true]);
            gateway.exit.log.answer(away);
            let (stored, took) = gateway.post_all(&[10, 10]).await;
            assert_eq!(stored, [true; 2]);
            assert!(took >= WRITE_MAX && took < WRITE_MAX * 3, "{took:?}");
            for _ in 0..20 {
                clock::sleep(Duration::from_secs(1)).await;
                let (stored, took) = gateway.post_all(&[10]).await;
                assert_eq!((stored, took < Duration::from_millis(100)), (vec![true], true), "{took:?}");
            }
            // Everything that waits goes into the spool at once.
            assert!(gateway.post_all(&[100; 600]).await.0.iter().all(|stored| *stored));
            assert!(gateway.exit.health.report().is_empty(), "it can do its work");
            gateway.exit.log.answer(Answer::Stored);
            // Behind it as well: the spool is not empty yet.
            let answer = gateway.post(10);
            clock::sleep(Duration::from_secs(5)).await;
            assert!(answer.await.unwrap());
            assert_eq!(gateway.post_all(&[10]).await.0, [true]);
            let exit = gateway.end().await;

            let frames = exit.log.frames();
            in_order(&frames);
            assert_eq!(frames.iter().map(|(_, frame)| frame.events.len()).sum::<usize>(), 625);
            let numbers: Vec<u64> =
                frames.iter().map(|(id, _)| id.strip_prefix("g-r-0-").unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            let (first, last) = (&frames[0].1, &frames.last().unwrap().1);
            assert_eq!((first.waited_ms, first.behind_ms, last.waited_ms, last.behind_ms), (0, 0, 0, 0));
            if !matches!(away, Answer::StoredUnanswered) {
                // The first of the outage was published under its id before it was spooled.
                let (spooled, next) = (&frames[1].1, &frames[2].1);
                assert!((20_000..23_000).contains(&spooled.waited_ms), "{}", spooled.waited_ms);
                assert_eq!(spooled.behind_ms, 0, "all behind it was accepted after the frame before it");
                assert!((18_000..22_000).contains(&next.waited_ms), "{}", next.waited_ms);
                assert!((18_000..22_000).contains(&next.behind_ms), "{}", next.behind_ms);
            }
            assert_eq!(scratch.open(u64::MAX).depth().frames, 0);
            assert!(exit.log.stored.lock().unwrap().last().unwrap().1.leaving, "it says goodbye");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f4_what_is_spooled_stays_over_a_restart_and_goes_out_first() {
        let scratch = Scratch::new();
        let steady = Steady::start();
        let mut first = Gateway::restart("1", steady, Answer::None, Some(scratch.open(u64::MAX)));
        for _ in 0..3 {
            assert_eq!(first.post_all(&[10]).await.0, [true]);
        }
        let exit = first.end().await;
        assert!(exit.log.stored.lock().unwrap().is_empty(), "no goodbye while something is held");

        let mut second = Gateway::restart("2", steady, Answer::Refused, Some(scratch.open(u64::MAX)));
        second.sent = 3;
        assert_eq!(second.post_all(&[10]).await.0, [true]);
        clock::sleep(Duration::from_secs(30)).await;
        second.exit.log.answer(Answer::Stored);
        clock::sleep(Duration::from_secs(1)).await;
        let exit = second.end().await;
        let frames = exit.log.frames();
        in_order(&frames);
        let sent: Vec<_> = frames.iter().map(|(id, frame)| (id.as_str(), frame.events.len())).collect();
        assert_eq!(sent, [("g-1-0-0", 1), ("g-1-0-1", 2), ("g-2-0-0", 1)]);
        let stored = exit.log.stored.lock().unwrap();
        assert_eq!(stored[0].0, "g-1-0-0", "nothing overtakes it, not even a tick");
        assert!(
            stored[0].1.behind_ms >= 30_000,
            "the first frame says what is held: {}",
            stored[0].1.behind_ms
        );
        assert!(stored[2].1.behind_ms == 0 && stored[2].1.waited_ms >= 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn f9_a_spool_that_refuses_means_503_and_not_ready_until_it_is_drained() {
        let scratch = Scratch::new();
        let mut gateway = Gateway::start(Answer::None, Some(scratch.open(2_000)));
        assert_eq!(gateway.post_all(&[1_000]).await.0, [true]);
        let (stored, took) = gateway.post_all(&[1_000, 10]).await;
        assert_eq!((stored, took < WRITE_MAX * 2), (vec![false; 2], true), "{took:?}");
        assert_eq!(gateway.exit.health.report().len(), 1, "not ready");
        gateway.exit.log.answer(Answer::Stored);
        clock::sleep(Duration::from_secs(2)).await;
        assert!(gateway.exit.health.report().is_empty());
        assert_eq!(gateway.post_all(&[1_000]).await.0, [true]);
        let frames = gateway.end().await.log.frames();
        assert_eq!(frames.len(), 2, "nothing of what was answered 503");
    }

    /// O4, with the classifier's own watermark: whatever the broker does, no frame lets it pass an event that
    /// was accepted and is in no frame yet.
    #[tokio::test(start_paused = true)]
    async fn o4_the_watermark_never_passes_what_is_held() {
        for seed in 0..40u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = move |bound: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % bound
            };
            let scratch = Scratch::new();
            let (began, steady) = (clock::now(), Steady::start());
            let mut accepted: Vec<Instant> = vec![];
            let mut stored: Vec<(Frame, Instant)> = vec![];
            for run in 0..3 {
                let spool = scratch.open(u64::MAX);
                let mut gateway = Gateway::restart(&run.to_string(), steady, Answer::Stored, Some(spool));
                gateway.sent = accepted.len();
                for _ in 0..12 {
                    gateway.exit.log.answer(match below(5) {
                        0 => Answer::Refused,
                        1 => Answer::None,
                        2 => Answer::StoredUnanswered,
                        _ => Answer::Stored,
                    });
                    for _ in 0..below(300) {
                        accepted.push(clock::now());
                        drop(gateway.post(10));
                    }
                    clock::sleep(Duration::from_millis(below(3_000))).await;
                }
                // The last one drains; the others may be stopped with something in the spool.
                let answer = if run == 2 || below(2) == 0 { Answer::Stored } else { Answer::Refused };
                gateway.exit.log.answer(answer);
                clock::sleep(Duration::from_secs(2)).await;
                let exit = gateway.end().await;
                stored.extend(
                    exit.log.stored.lock().unwrap().iter().map(|(_, frame, at)| (frame.clone(), *at)),
                );
            }
            let nothing = Set {
                hash: String::new(),
                subscriptions: BTreeMap::new(),
                actions: BTreeMap::new(),
                playbooks: BTreeMap::new(),
                targets: vec![],
                platform: None,
                group_sizes: BTreeMap::new(),
                windows: BTreeMap::new(),
                people: BTreeMap::new(),
            };
            let ms = |at: Instant| i64::try_from(at.duration_since(began).as_millis()).unwrap();
            let mut held: BTreeSet<usize> = (0..accepted.len()).collect();
            let mut partition = Partition::new(i64::MAX, usize::MAX);
            for (sequence, (frame, at)) in (1..).zip(&stored) {
                let mut out = Classified::default();
                partition.frame(&nothing, sequence, ms(*at), frame, &mut out);
                partition.conclude(&mut out);
                for event in &frame.events {
                    held.remove(&event.accept_id.parse().unwrap());
                }
                let oldest = held.first().map(|number| ms(accepted[*number]));
                let passed = oldest.is_some_and(|oldest| out.watermark_ms > oldest);
                assert!(!passed, "seed {seed}, frame {sequence}: {} > {oldest:?}", out.watermark_ms);
            }
            assert!(held.is_empty(), "seed {seed}: {} are lost", held.len());
            assert!(accepted.len() > 500, "seed {seed}: too few to prove anything");
        }
    }

    #[test]
    fn ticks_become_rarer_with_the_quiet_time() {
        let check = |quiet_s, expected_s| {
            assert_eq!(tick_after(Duration::from_secs(quiet_s)), Duration::from_secs(expected_s));
        };
        check(0, 1);
        check(30, 1);
        check(90, 3);
        check(900, 30);
        check(90_000, 30);
    }
}
