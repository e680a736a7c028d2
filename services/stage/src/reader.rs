//! Reads subjects of a stream in order, from a position, without acknowledgements.
//!
//! The stage makes its own consumer at each (re)connect: left to itself an ordered consumer needs 15 seconds
//! to notice that the broker was restarted (measured; made anew it is a tenth of one). It is deleted when it
//! is abandoned, because abandoned ones add up.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, MessagesError, MessagesErrorKind, Stream as Pull};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::message::Info;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use holdline_proto::topology::Stream;

use crate::bus::{Bus, StoreError};
use crate::clock;

/// Messages that the broker sends ahead.
const AHEAD: usize = 64;

/// After this without a sign of life the broker is taken to have forgotten the consumer.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The broker forgets a consumer that nobody pulls from for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// In a cluster a consumer is made by one server and pulled at another, which may hear of it only after whoever
/// made it has (measured: 3 times in 1,000 at three servers on one machine). It is pulled so often again, each time
/// after this; then there is none.
const UNHEARD_PULLS_MAX: u32 = 10;
const UNHEARD_WAIT: Duration = Duration::from_millis(50);

/// Giving a consumer back may take this long; then it is left to be forgotten.
const CLOSE_TIME_MAX: Duration = Duration::from_millis(500);

/// A message of one of the pipeline's logs.
#[derive(Debug, Clone)]
pub struct Message {
    pub subject: String,
    /// Sequence in its stream: its position.
    pub sequence: u64,
    /// The broker's timestamp. Unix milliseconds.
    pub published_ms: i64,
    pub payload: Bytes,
}

/// An open reading.
pub struct Reader {
    bus: Bus,
    stream: Stream,
    consumer: Box<Consumer<Config>>,
    /// `None`: to be pulled anew.
    pull: Option<Pull>,
    next_delivery: u64,
    /// How often the server did not know the consumer.
    unheard_pulls: u32,
    /// Messages that the broker still has beyond the last one read.
    pub pending: u64,
}

impl Reader {
    /// Reads `subjects` of a stream from a sequence on.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn open(
        bus: &Bus,
        stream: Stream,
        subjects: Vec<String>,
        from: u64,
    ) -> Result<Reader, StoreError> {
        let inbox = bus.client().new_inbox();
        let config = Config {
            name: Some(format!("read-{}", inbox.rsplit('.').next().unwrap_or("anon"))),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subjects: subjects,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let made = bus.context().create_consumer_on_stream(config, bus.topology().stream(stream)).await;
        let consumer = Box::new(made.map_err(|e| StoreError::Unknown(e.to_string()))?);
        let pull = Some(pull(&consumer).await?);
        Ok(Reader {
            bus: bus.clone(),
            stream,
            consumer,
            pull,
            next_delivery: 1,
            unheard_pulls: 0,
            pending: 0,
        })
    }

    /// The next message.
    ///
    /// # Errors
    /// When the reading is broken and has to be opened again.
    pub async fn next(&mut self) -> Result<Message, StoreError> {
        loop {
            let messages = match &mut self.pull {
                Some(messages) => messages,
                None => {
                    clock::sleep(UNHEARD_WAIT).await;
                    self.pull.insert(pull(&self.consumer).await?)
                }
            };
            let item = messages.next().await;
            if !self.is_unheard(item.as_ref()) {
                return self.take(item);
            }
            self.unheard_pulls += 1;
            self.pull = None;
        }
    }

    /// Whether the server does not know the consumer yet. Once it has delivered anything it is gone, not new.
    fn is_unheard(&self, item: Option<&Result<async_nats::jetstream::Message, MessagesError>>) -> bool {
        let unheard = matches!(item, Some(Err(error)) if error.kind() == MessagesErrorKind::NoResponders);
        unheard && self.next_delivery == 1 && self.unheard_pulls < UNHEARD_PULLS_MAX
    }

    /// The next message if it is already here.
    ///
    /// # Errors
    /// See [`Reader::next`].
    pub fn ready(&mut self) -> Option<Result<Message, StoreError>> {
        let item = self.pull.as_mut()?.next().now_or_never()?;
        Some(self.take(item))
    }

    fn take(
        &mut self,
        item: Option<Result<async_nats::jetstream::Message, MessagesError>>,
    ) -> Result<Message, StoreError> {
        let name = &self.consumer.cached_info().name;
        let broken = |why: String| StoreError::Unknown(format!("reading {name} broke: {why}"));
        let message = match item {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(broken(error.to_string())),
            None => return Err(broken("it ended".into())),
        };
        let info = message.info().map_err(|e| broken(e.to_string()))?;
        if info.consumer_sequence != self.next_delivery {
            return Err(broken(format!(
                "delivery {} instead of {}",
                info.consumer_sequence, self.next_delivery
            )));
        }
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let published_ms = published_ms(&info);
        self.next_delivery += 1;
        self.pending = pending;
        let subject = message.subject.to_string();
        Ok(Message { subject, sequence, published_ms, payload: message.message.payload })
    }

    /// Gives the consumer back.
    pub async fn close(self) {
        let name = self.bus.topology().stream(self.stream);
        let deleting =
            self.bus.context().delete_consumer_from_stream(&self.consumer.cached_info().name, &name);
        // Whatever the answer: the broker forgets it by itself a little later.
        tokio::time::timeout(CLOSE_TIME_MAX, deleting).await.ok();
    }
}

async fn pull(consumer: &Consumer<Config>) -> Result<Pull, StoreError> {
    let pull = consumer.stream().max_messages_per_batch(AHEAD).heartbeat(HEARTBEAT).expires(HEARTBEAT * 5);
    pull.messages().await.map_err(|e| StoreError::Unknown(e.to_string()))
}

/// The broker's timestamp of a message. Unix milliseconds.
pub(crate) fn published_ms(info: &Info<'_>) -> i64 {
    i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
