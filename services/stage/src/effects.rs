//! What follows a record, in two lanes (architecture.md 4).
//!
//! First lane: commands and wake-ups, each with a message id made from its record, published until they are
//! known to be stored; a mark says up to which record that is so, and the next record carries it. Second
//! lane: views, newest value per key, fenced by the owner's epoch, never part of the mark and never waited for.
//! Whether an owner may write views is read off the log: its last record there is the newest one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::{OutboundMessage, PublishMessage};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdline_proto::command::Command;
use holdline_proto::journal::{Effect, WakeUp};
use holdline_proto::topology::{Bucket, Stream, Topology};
use holdline_proto::wire;
use tokio::sync::{Notify, mpsc};

use crate::bus::{Bus, Put, StoreError};
use crate::crash::{self, Point};
use crate::run::Tasks;

/// Records whose effects wait to be published. Beyond: deciding waits.
const RECORDS_MAX: usize = 64;

/// Publishes of one partition that are not answered yet.
const UNANSWERED_MAX: usize = 128;

/// Views of one partition that wait to be written. Beyond: the ones with the smallest keys are left out, and
/// written at the next takeover.
const VIEWS_MAX: usize = 10_000;

/// Before an unanswered publish is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Between looks at whether a bucket still has our fence, so that views that somebody deleted come back, and
/// whether the queue of commands is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// An owner whose views are refused looks again after this.
const STAND_BACK: Duration = Duration::from_secs(1);

/// Between looks whether a record of ours that is under way has arrived.
const RECORD_WAIT: Duration = Duration::from_millis(10);

/// A value for people and other readers; see the module.
#[derive(Debug, Clone)]
pub struct View {
    pub bucket: Bucket,
    pub key: String,
    pub value: Bytes,
    pub ttl: Option<Duration>,
}

/// Both lanes of one partition, as long as it is owned.
pub(crate) struct Lanes {
    records: mpsc::Sender<(u64, Vec<OutboundMessage>)>,
    done: Arc<AtomicU64>,
    views: Arc<Waiting>,
    /// The queue of commands was made anew.
    commands_lost: Arc<Notify>,
    topology: Topology,
    partition: u16,
}

/// The log that the records of a partition stand on.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub stream: Stream,
    pub subject: String,
    pub partition: u16,
    /// Commands follow from its records.
    pub commands: bool,
}

#[derive(Default)]
struct Waiting {
    newest: Mutex<BTreeMap<String, View>>,
    more: Notify,
    /// The owner's last record.
    record: AtomicU64,
    /// The bucket had lost our fence, so it may have lost views, too.
    lost: Notify,
}

/// What happened to something that was written before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// All views have to be shown again.
    Views,
    /// Commands that are outstanding have to be handed over again.
    Commands,
}

impl Lanes {
    /// Starts both lanes of an owner whose last record is `record`; they end with `tasks`.
    pub(crate) fn start(bus: &Bus, log: Log, record: u64, done: u64, tasks: &Tasks) -> Lanes {
        let (records, waiting) = mpsc::channel(RECORDS_MAX);
        let lanes = Lanes {
            records,
            done: Arc::new(AtomicU64::new(done)),
            views: Arc::new(Waiting { record: AtomicU64::new(record), ..Waiting::default() }),
            commands_lost: Arc::default(),
            topology: bus.topology().clone(),
            partition: log.partition,
        };
        // A window of its own: the client waits for good when one is full, and commits must never wait.
        tasks.spawn(first_lane(bus.apart(), waiting, lanes.done.clone(), tasks.clone()));
        if log.commands {
            let (watching, stopping) =
                (watch_commands(bus.clone(), lanes.commands_lost.clone()), tasks.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = watching => {}
                    () = stopping.stopping() => {}
                }
            });
        }
        let (bus, views, tasks) = (bus.apart(), lanes.views.clone(), tasks.clone());
        tasks.clone().spawn(SecondLane { bus, log, views, tasks, fences: BTreeMap::new() }.run());
        lanes
    }

    /// Up to which record the commands and wake-ups are known to be published.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Hands over a record's effects; waits while too many wait already.
    pub(crate) async fn follow(&self, record: u64, effects: &[Effect]) {
        let messages =
            (0u32..).zip(effects).map(|(index, effect)| self.message(record, index, effect)).collect();
        self.views.record.fetch_max(record, Ordering::AcqRel);
        // The lane ends only with the partition's ownership; then the next owner publishes what is missing.
        self.records.send((record, messages)).await.ok();
    }

    /// Hands over commands that are outstanding, where they may have been lost with their queue: each only if
    /// none of its incident lies there. The executor knows those that it has carried out already.
    pub(crate) async fn hand_over_again(&self, record: u64, commands: Vec<Command>) {
        let messages = commands.into_iter().map(|command| {
            let subject = self.topology.command(command.partition, &command.incident);
            let message = PublishMessage::build().payload(wire::encode(&command).into());
            message.expected_last_subject_sequence(0).outbound_message(subject)
        });
        self.records.send((record, messages.collect())).await.ok();
    }

    /// Completes when something is lost that was written before.
    pub(crate) async fn lost(&self) -> Lost {
        tokio::select! {
            () = self.views.lost.notified() => Lost::Views,
            () = self.commands_lost.notified() => Lost::Commands,
        }
    }

    /// Hands over views; never waits.
    pub(crate) fn show(&self, views: Vec<View>) {
        if views.is_empty() {
            return;
        }
        let mut newest = self.views.newest.lock().unwrap_or_else(PoisonError::into_inner);
        for view in views {
            newest.insert(view.key.clone(), view);
        }
        while newest.len() > VIEWS_MAX {
            newest.pop_first();
        }
        self.views.more.notify_one();
    }

    fn message(&self, record: u64, index: u32, effect: &Effect) -> OutboundMessage {
        let message = PublishMessage::build().message_id(format!("{}-{record}-{index}", self.partition));
        match effect {
            Effect::Command(command) => message
                .payload(wire::encode(command).into())
                .outbound_message(self.topology.command(command.partition, &command.incident)),
            Effect::WakeAt(wake_up) => message
                .header("Nats-Schedule", schedule(wake_up).as_str())
                .header("Nats-Schedule-Target", self.topology.fired(self.partition).as_str())
                .payload(wire::encode(wake_up).into())
                .outbound_message(self.topology.timer(self.partition, &wake_up.incident, wake_up.generation)),
        }
    }
}

fn schedule(wake_up: &WakeUp) -> String {
    // A time beyond the calendar is as good as never; the state arms anew when it matters.
    let at = jiff::Timestamp::from_millisecond(wake_up.deadline_ms).unwrap_or(jiff::Timestamp::MAX);
    format!("@at {at}")
}

async fn first_lane(
    bus: Bus,
    mut waiting: mpsc::Receiver<(u64, Vec<OutboundMessage>)>,
    done: Arc<AtomicU64>,
    tasks: Tasks,
) {
    let mut records = vec![];
    loop {
        let received = tokio::select! {
            received = waiting.recv_many(&mut records, RECORDS_MAX) => received,
            () = tasks.stopping() => return,
        };
        let Some((last, _)) = records.last() else {
            debug_assert_eq!(received, 0, "the sender is gone");
            return;
        };
        let last = *last;
        let messages: Vec<_> = records.drain(..).flat_map(|(_, messages)| messages).collect();
        let some = !messages.is_empty();
        tokio::select! {
            () = publish_all(&bus, messages) => {
                crash::point_if(some, Point::AfterEffects);
                done.store(last, Ordering::Release);
            }
            () = tasks.stopping() => return,
        }
    }
}

/// Publishes until everything is known to be stored. The message ids make a repeat harmless.
async fn publish_all(bus: &Bus, messages: Vec<OutboundMessage>) {
    let mut waiting: Vec<OutboundMessage> = messages;
    waiting.reverse();
    let mut unanswered = FuturesUnordered::new();
    loop {
        while unanswered.len() < UNANSWERED_MAX
            && let Some(message) = waiting.pop()
        {
            let copy = copy(&message);
            unanswered.push(async move { (bus.publish(copy).await, message) });
        }
        match unanswered.next().await {
            None => return,
            // Refused: it lies there already.
            Some((Ok(_) | Err(StoreError::Fenced), _)) => crash::point(Point::BetweenEffects),
            Some((Err(error), message)) => {
                tracing::warn!(subject = %message.subject, "an effect is not known to be stored: {error}; again");
                waiting.push(message);
                crate::clock::sleep(PAUSE).await;
            }
        }
    }
}

/// Tells when the queue of commands is another one than before.
async fn watch_commands(bus: Bus, lost: Arc<Notify>) {
    let mut made = None;
    loop {
        if let Ok(found) = bus.bounds(Stream::Commands).await
            && made.replace(found.made).is_some_and(|made| made != found.made)
        {
            tracing::error!("the queue of commands was made anew; what is outstanding is handed over again");
            lost.notify_one();
        }
        crate::clock::sleep(LOOK_EVERY).await;
    }
}

fn copy(message: &OutboundMessage) -> OutboundMessage {
    OutboundMessage::new(message.subject.clone(), message.payload.clone(), message.headers.clone())
}

/// Writes views as long as the partition is owned.
struct SecondLane {
    bus: Bus,
    log: Log,
    views: Arc<Waiting>,
    tasks: Tasks,
    /// Revision of our fence in each bucket that was written to. Gone: it has to be taken again.
    fences: BTreeMap<Bucket, Option<u64>>,
}

impl SecondLane {
    async fn run(mut self) {
        let tasks = self.tasks.clone();
        tokio::select! {
            () = self.write_all() => {}
            () = tasks.stopping() => {}
        }
    }

    async fn write_all(&mut self) {
        loop {
            let next = self.views.newest.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            let Some((key, view)) = next else {
                tokio::select! {
                    () = self.views.more.notified() => {}
                    () = crate::clock::sleep(LOOK_EVERY), if !self.fences.is_empty() => self.look().await,
                }
                continue;
            };
            let Err(error) = self.write(&view).await else { continue };
            self.views.newest.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(view);
            let partition = self.log.partition;
            match error {
                // Deposed, or the bucket was made anew; the log knows which, when it is looked at next.
                StoreError::Fenced => {
                    tracing::info!(partition, "views of partition {partition} are refused; looking again");
                    crate::clock::sleep(STAND_BACK).await;
                }
                StoreError::Unknown(error) => {
                    tracing::debug!(partition, "a view is not known to be stored: {error}; again");
                    crate::clock::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn write(&mut self, view: &View) -> Result<(), StoreError> {
        let epoch = match self.fences.get(&view.bucket) {
            Some(Some(epoch)) => *epoch,
            known => {
                let again = known.is_some();
                let epoch = self.take_fence(view.bucket).await?;
                self.fences.insert(view.bucket, Some(epoch));
                if again {
                    self.views.lost.notify_one();
                }
                epoch
            }
        };
        crash::point(Point::BeforeView);
        let put = Put { ttl: view.ttl, fence: Some((self.fence(), epoch)), ..Put::default() };
        let put = self.bus.put(view.bucket, &view.key, view.value.clone(), put).await;
        if matches!(put, Err(StoreError::Fenced)) {
            self.fences.insert(view.bucket, None);
        }
        put.map(drop)
    }

    /// Makes the views of a bucket ours, if the newest record of the log is. In this order: whoever takes the
    /// fence after our look at it makes ours fail.
    async fn take_fence(&self, bucket: Bucket) -> Result<u64, StoreError> {
        let found = self.bus.place(bucket, &self.fence()).await?;
        let newest = self.bus.last(self.log.stream, &self.log.subject).await?.map_or(0, |last| last.sequence);
        // Ours may be under way still; each of ours follows another of ours, so one at or beyond it says so.
        let began = crate::clock::now();
        while self.views.record.load(Ordering::Acquire) < newest {
            if crate::clock::since(began) >= STAND_BACK {
                return Err(StoreError::Fenced);
            }
            crate::clock::sleep(RECORD_WAIT).await;
        }
        let put = Put { expect: Some(found.revision), ..Put::default() };
        self.bus.put(bucket, &self.fence(), Bytes::new(), put).await
    }

    /// Views that nobody writes anew for now may be gone all the same: then so is the fence.
    async fn look(&mut self) {
        let fence = self.fence();
        for (bucket, epoch) in std::mem::take(&mut self.fences) {
            let found = self.bus.place(bucket, &fence).await;
            if found.is_ok_and(|found| epoch.is_some_and(|epoch| epoch != found.revision)) {
                self.views.lost.notify_one();
            } else {
                self.fences.insert(bucket, epoch);
            }
        }
    }

    fn fence(&self) -> String {
        format!("fence.{}", self.log.partition)
    }
}
