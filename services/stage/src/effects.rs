//! What follows a record, in two lanes (architecture.md 4).
//!
//! First lane: commands and wake-ups, each with a message id made from its record, published until they are
//! known to be stored; a mark says up to which record that is so, and the next record carries it. Second
//! lane: views, newest value per key, fenced by the owner's epoch, never part of the mark and never waited for.

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
use holdline_proto::journal::{Effect, WakeUp};
use holdline_proto::topology::{Bucket, Topology};
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
    topology: Topology,
    partition: u16,
}

#[derive(Default)]
struct Waiting {
    newest: Mutex<BTreeMap<String, View>>,
    more: Notify,
}

impl Lanes {
    /// Starts both lanes; they end with `tasks`.
    pub(crate) fn start(bus: &Bus, partition: u16, done: u64, tasks: &Tasks) -> Lanes {
        let (records, waiting) = mpsc::channel(RECORDS_MAX);
        let lanes = Lanes {
            records,
            done: Arc::new(AtomicU64::new(done)),
            views: Arc::default(),
            topology: bus.topology().clone(),
            partition,
        };
        // A window of its own: the client waits for good when one is full, and commits must never wait.
        tasks.spawn(first_lane(bus.apart(), waiting, lanes.done.clone(), tasks.clone()));
        tasks.spawn(second_lane(bus.apart(), partition, lanes.views.clone(), tasks.clone()));
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
        // The lane ends only with the partition's ownership; then the next owner publishes what is missing.
        self.records.send((record, messages)).await.ok();
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
            Some((Ok(_), _)) => crash::point(Point::BetweenEffects),
            Some((Err(error), message)) => {
                tracing::warn!(subject = %message.subject, "an effect is not known to be stored: {error}; again");
                waiting.push(message);
                crate::clock::sleep(PAUSE).await;
            }
        }
    }
}

fn copy(message: &OutboundMessage) -> OutboundMessage {
    OutboundMessage::new(message.subject.clone(), message.payload.clone(), message.headers.clone())
}

async fn second_lane(bus: Bus, partition: u16, views: Arc<Waiting>, tasks: Tasks) {
    let mut fences: BTreeMap<Bucket, u64> = BTreeMap::new();
    loop {
        let next = views.newest.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let Some((key, view)) = next else {
            tokio::select! {
                () = views.more.notified() => continue,
                () = tasks.stopping() => return,
            }
        };
        let writing = write(&bus, partition, &mut fences, &view);
        let written = tokio::select! {
            written = writing => written,
            () = tasks.stopping() => return,
        };
        match written {
            Ok(()) => {}
            // Deposed: the new owner writes what he folded.
            Err(StoreError::Fenced) => {
                return tracing::info!(partition, "views: another owner has taken over");
            }
            Err(StoreError::Unknown(error)) => {
                tracing::debug!(partition, "a view is not known to be stored: {error}; again");
                views.newest.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(view);
                crate::clock::sleep(PAUSE).await;
            }
        }
    }
}

async fn write(
    bus: &Bus,
    partition: u16,
    fences: &mut BTreeMap<Bucket, u64>,
    view: &View,
) -> Result<(), StoreError> {
    let fence = format!("fence.{partition}");
    let epoch = match fences.get(&view.bucket) {
        Some(epoch) => *epoch,
        None => {
            let epoch = bus.put(view.bucket, &fence, Bytes::new(), Put::default()).await?;
            fences.insert(view.bucket, epoch);
            epoch
        }
    };
    let put = Put { ttl: view.ttl, fence: Some((fence, epoch)), ..Put::default() };
    bus.put(view.bucket, &view.key, view.value.clone(), put).await?;
    Ok(())
}
