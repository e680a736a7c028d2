//! A competing consumer with explicit acknowledgement: for work that may be done by any replica, in any
//! order (the executor's commands, the dead letters).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{AckKind, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt;
use holdline_proto::topology::{DLQ_CONSUMER, EXECUTOR_CONSUMER, Role, Stream, Topology};
use tokio::sync::Semaphore;

use crate::bus::Bus;
use crate::clock;
use crate::reader::published_ms;
use crate::run::{BEGINNING, Shell, Tasks};

/// How often a message under way tells the broker that it is being worked on. The consumer's `ack_wait`
/// must be several times longer.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// After this without a sign of life the broker is taken to have forgotten the consumer.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A pull that brings nothing is asked anew after this.
const PULL_TIME_MAX: Duration = Duration::from_secs(10);

/// Messages asked for in one pull.
const BATCH_MAX: usize = 64;

/// Before pulling begins anew.
const PAUSE: Duration = Duration::from_millis(100);

/// A message that is not acknowledged, and tells of no progress, is delivered again after this.
const ACK_WAIT: Duration = Duration::from_secs(6);

/// Messages of a durable consumer that are delivered and not acknowledged. Beyond: the rest waits.
const UNACKNOWLEDGED_MAX: i64 = 1_024;

/// A durable consumer that is not there at so many looks in a row is made again.
const GONE_LOOKS: u32 = 20;

/// The durable consumers, each with its stream: what `holdline provision` makes, and what the service that
/// pulls makes again if it is lost.
pub fn durables(topology: &Topology) -> [(Stream, pull::Config); 3] {
    // Of whoever looks only there are none.
    let writers = Role::ALL.into_iter().filter(|role| *role != Role::Viewer);
    let letters = writers.map(|role| topology.dead(role.name())).collect();
    let recalls = vec![topology.retry_due(), topology.retry_asked()];
    let config = |name: &str, filter_subjects| pull::Config {
        filter_subjects,
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: UNACKNOWLEDGED_MAX,
        ..pull::Config::default()
    };
    [
        (Stream::Commands, config(EXECUTOR_CONSUMER, vec![])),
        (Stream::Dead, config(DLQ_CONSUMER, letters)),
        (Stream::Retry, config(DLQ_CONSUMER, recalls)),
    ]
}

/// A message to work on.
#[derive(Debug, Clone)]
pub struct Work {
    pub subject: String,
    pub sequence: u64,
    /// The broker's timestamp. Unix milliseconds.
    pub published_ms: i64,
    /// Deliveries so far, this one included.
    pub deliveries: i64,
    pub payload: Bytes,
}

/// How a message ends; returning it is the only way to answer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Everything that came of it is durable.
    Done,
    /// Back to the broker for this long.
    Later(Duration),
    /// It stays where it is, unacknowledged: somebody else has it, or nothing is known.
    Leave,
}

/// Works on up to `at_once` messages of a durable consumer until the service stops; then lets those under
/// way end.
pub async fn run<W, F>(bus: &Bus, shell: &Shell, stream: Stream, consumer: &str, at_once: usize, work: W)
where
    W: Fn(Work) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let work = Arc::new(work);
    let slots = Arc::new(Semaphore::new(at_once));
    let under_way = Tasks::default();
    let what = format!("consumer {consumer}");
    shell.health.awaiting(&what, "not pulling yet");
    shell.health.present(BEGINNING);
    let mut looks_gone = 0;
    while !shell.tasks.is_stopping() {
        let mut epoch = bus.epoch();
        epoch.mark_unchanged();
        let ended = tokio::select! {
            ended = pull(bus, stream, consumer, &slots, &under_way, &work, || shell.health.present(&what)) => ended,
            _ = epoch.changed() => Ended::Broken("the connection is new".into()),
            () = shell.tasks.stopping() => break,
        };
        let gone = matches!(ended, Ended::Gone);
        looks_gone = if gone { looks_gone + 1 } else { 0 };
        if looks_gone <= 1 {
            tracing::info!(consumer, "pulling begins anew: {ended}");
        }
        shell.health.missing(&what, ended.to_string());
        if looks_gone == GONE_LOOKS {
            looks_gone = 0;
            make_again(bus, stream, consumer).await;
        }
        tokio::select! {
            () = clock::sleep(PAUSE) => {}
            () = shell.tasks.stopping() => break,
        }
    }
    under_way.finish().await;
}

/// Why pulling ended.
enum Ended {
    /// There is no such consumer.
    Gone,
    Broken(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Gone => f.write_str("there is no such consumer"),
            Ended::Broken(why) => f.write_str(why),
        }
    }
}

/// A cluster whose servers are restarted in quick succession may forget durable consumers (seen with
/// nats-server 2.15: a server that is stopped while it still recovers stores a meta snapshot without them).
/// Nothing is lost with one: what was not acknowledged is in the stream and is delivered again.
async fn make_again(bus: &Bus, stream: Stream, consumer: &str) {
    let found = durables(bus.topology())
        .into_iter()
        .find(|(of, config)| *of == stream && config.durable_name.as_deref() == Some(consumer));
    let Some((_, config)) = found else { return };
    let on = bus.topology().stream(stream);
    match bus.context().create_consumer_on_stream(config, &on).await {
        Ok(_) => tracing::warn!(consumer, "the consumer {consumer} of {on} was gone; it is made again"),
        Err(error) => tracing::warn!(consumer, "the consumer {consumer} of {on} is gone: {error}"),
    }
}

async fn pull<W, F>(
    bus: &Bus,
    stream: Stream,
    consumer: &str,
    slots: &Arc<Semaphore>,
    under_way: &Tasks,
    work: &Arc<W>,
    ready: impl Fn(),
) -> Ended
where
    W: Fn(Work) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let stream = bus.topology().stream(stream);
    let found: Result<PullConsumer, _> = bus.context().get_consumer_from_stream(consumer, stream).await;
    let found = match found {
        Ok(found) => found,
        Err(error) if is_gone(&error) => return Ended::Gone,
        Err(error) => return Ended::Broken(error.to_string()),
    };
    let messages = found
        .stream()
        .max_messages_per_batch(slots.available_permits().clamp(1, BATCH_MAX))
        .heartbeat(HEARTBEAT)
        .expires(PULL_TIME_MAX);
    let mut messages = match messages.messages().await {
        Ok(messages) => messages,
        Err(error) => return Ended::Broken(error.to_string()),
    };
    ready();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return Ended::Broken("closed".into()) };
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Ended::Broken(error.to_string()),
            None => return Ended::Broken("it ended".into()),
        };
        let work = work.clone();
        under_way.spawn(async move {
            answer(message, work).await;
            drop(slot);
        });
    }
}

fn is_gone(error: &ConsumerError) -> bool {
    match error.kind() {
        ConsumerErrorKind::JetStream(error) => error.error_code() == ErrorCode::CONSUMER_NOT_FOUND,
        _ => false,
    }
}

async fn answer<W, F>(message: async_nats::jetstream::Message, work: Arc<W>)
where
    W: Fn(Work) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let Ok(info) = message.info() else {
        return tracing::error!(subject = %message.subject, "a message without delivery facts");
    };
    let given = Work {
        subject: message.subject.to_string(),
        sequence: info.stream_sequence,
        published_ms: published_ms(&info),
        deliveries: info.delivered,
        payload: message.payload.clone(),
    };
    let working = work(given);
    tokio::pin!(working);
    let answer = loop {
        tokio::select! {
            answer = &mut working => break answer,
            () = clock::sleep(PROGRESS_EVERY) => {
                if let Err(error) = message.ack_with(AckKind::Progress).await {
                    tracing::debug!("progress is not told: {error}");
                }
            }
        }
    };
    // An acknowledgement that gets lost leads to one more delivery, which finds the work done.
    let told = match answer {
        Answer::Done => message.ack().await,
        Answer::Later(wait) => message.ack_with(AckKind::Nak(Some(wait))).await,
        Answer::Leave => Ok(()),
    };
    if let Err(error) = told {
        tracing::debug!("an answer is not told: {error}");
    }
}
