//! A competing consumer with explicit acknowledgement: for work that may be done by any replica, in any
//! order (the executor's commands, the dead letters).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use futures_util::StreamExt;
use holdline_proto::topology::Stream;
use tokio::sync::Semaphore;

use crate::bus::Bus;
use crate::clock;
use crate::reader::published_ms;
use crate::run::{Shell, Tasks};

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
    while !shell.tasks.is_stopping() {
        let mut epoch = bus.epoch();
        epoch.mark_unchanged();
        let ended = tokio::select! {
            ended = pull(bus, stream, consumer, &slots, &under_way, &work, || shell.health.present(&what)) => ended,
            _ = epoch.changed() => "the connection is new".to_string(),
            () = shell.tasks.stopping() => break,
        };
        tracing::info!(consumer, "pulling begins anew: {ended}");
        shell.health.missing(&what, ended);
        tokio::select! {
            () = clock::sleep(PAUSE) => {}
            () = shell.tasks.stopping() => break,
        }
    }
    under_way.finish().await;
}

async fn pull<W, F>(
    bus: &Bus,
    stream: Stream,
    consumer: &str,
    slots: &Arc<Semaphore>,
    under_way: &Tasks,
    work: &Arc<W>,
    ready: impl Fn(),
) -> String
where
    W: Fn(Work) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let stream = bus.topology().stream(stream);
    let found: Result<PullConsumer, _> = bus.context().get_consumer_from_stream(consumer, stream).await;
    let found = match found {
        Ok(found) => found,
        Err(error) => return error.to_string(),
    };
    let messages = found
        .stream()
        .max_messages_per_batch(slots.available_permits().clamp(1, BATCH_MAX))
        .heartbeat(HEARTBEAT)
        .expires(PULL_TIME_MAX);
    let mut messages = match messages.messages().await {
        Ok(messages) => messages,
        Err(error) => return error.to_string(),
    };
    ready();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return "closed".into() };
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return error.to_string(),
            None => return "it ended".into(),
        };
        let work = work.clone();
        under_way.spawn(async move {
            answer(message, work).await;
            drop(slot);
        });
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
