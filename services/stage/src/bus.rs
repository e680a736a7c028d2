//! The connection to the broker: streams, buckets, and the two things that the client only tells on the side
//! (reconnects and refused permissions).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::{OutboundMessage, PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind};
use async_nats::jetstream::{Context, stream};
use async_nats::{ConnectError, ConnectOptions, Event};
use bytes::Bytes;
use futures_util::StreamExt;
use holdline_proto::topology::{Bucket, Role, Stream, Topology};
use serde_json::json;
use tokio::sync::watch;

use crate::admin::Health;
use crate::run::{Stopped, Tasks, Unavailable};
use crate::settings::Nats;
use crate::telemetry::Metric;

/// How long a request to the broker may take. Longer than a single server's restart, shorter than a request
/// at the gateway may wait. A leader election takes longer; then the request is repeated.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Between tries to connect for the first time.
const CONNECT_WAIT: Duration = Duration::from_millis(200);

/// A server that does not take the connection within this is given up, and the next one tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between signs of life; two that are missing in a row are a lost connection.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Between tries to connect again: for the first so many, and then.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);
const RECONNECTS_QUICK_MAX: usize = 100;
const RECONNECT_WAIT_MAX: Duration = Duration::from_millis(500);

/// What the client holds that is not written to the connection yet. Beyond: sending waits.
const UNWRITTEN_MAX: usize = 2_048;

/// Messages of one subscription that wait to be taken. Beyond: the client drops them, which a reader notices by
/// its delivery numbers and a queue by the acknowledgement that is missing.
const UNTAKEN_MAX: usize = 65_536;

/// Publishes of one context without an answer. Beyond: publishing waits.
const UNANSWERED_MAX: usize = 5_000;

/// Messages that are asked for at once.
const PAGE_MESSAGES_MAX: usize = 256;

/// The broker's answer to a stale expectation ("wrong last sequence").
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// A connection with a role's rights.
#[derive(Clone)]
pub struct Bus {
    client: async_nats::Client,
    context: Context,
    topology: Topology,
    role: Role,
    epoch: watch::Receiver<u64>,
}

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first: the expectation no longer holds.
    #[error("somebody else wrote first")]
    Fenced,
    /// It is not known whether it was stored: no answer, or the connection was lost.
    #[error("no answer from the broker: {0}")]
    Unknown(String),
}

/// What a stream holds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub first: u64,
    pub last: u64,
    /// When it was made, in nanoseconds: another number is another stream, whatever its name.
    pub made: i128,
}

/// An entry of a bucket.
#[derive(Debug, Clone)]
pub struct Entry {
    pub value: Bytes,
    /// Its revision: the fencing token, and what an update expects.
    pub revision: u64,
}

/// A key of a bucket: what stands there, and what a write that depends on it must expect.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// `None` where there never was anything, or it was deleted.
    pub value: Option<Bytes>,
    /// 0 where there is nothing, not even the mark of a deletion.
    pub revision: u64,
    /// When it was written. Unix milliseconds, broker's clock.
    pub written_ms: i64,
}

impl Place {
    fn of(found: StreamMessage) -> Place {
        Place {
            revision: found.sequence,
            written_ms: i64::try_from(found.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
            value: found.headers.get("KV-Operation").is_none().then_some(found.payload),
        }
    }
}

/// How an entry is written.
#[derive(Debug, Clone, Default)]
pub struct Put {
    /// Only if this is its revision; 0: only if it does not exist.
    pub expect: Option<u64>,
    /// It vanishes after this. At least a second.
    pub ttl: Option<Duration>,
    /// Only if this other entry of the bucket has this revision.
    pub fence: Option<(String, u64)>,
}

impl Bus {
    /// Connects as a role, waiting for the broker as long as the settings are willing to.
    ///
    /// # Errors
    /// [`Unavailable`] when the broker stays away; an error naming the file when the seed cannot be read.
    pub async fn connect(role: Role, nats: &Nats, tasks: &Tasks, health: &Health) -> anyhow::Result<Bus> {
        let seed = seed(nats)?;
        let (epoch_sender, epoch) = watch::channel(0u64);
        health.awaiting("nats", "not connected yet");
        let began = crate::clock::now();
        let client = loop {
            let options = options(role, nats, seed.as_deref(), epoch_sender.clone(), health.clone());
            let error = match options.connect(nats.url.split(',').collect::<Vec<_>>()).await {
                Ok(client) => break client,
                Err(error) => error,
            };
            health.missing("nats", format!("{} does not answer: {error}", nats.url));
            if crate::clock::since(began) >= nats.patience {
                let (waited, question) = (nats.patience.as_secs(), question(nats, &error));
                return Err(Unavailable(format!(
                    "no nats-server at {} within {waited} s ({error}); {question}",
                    nats.url
                ))
                .into());
            }
            tokio::select! {
                () = crate::clock::sleep(CONNECT_WAIT) => {}
                () = tasks.stopping() => return Err(Stopped("nats").into()),
            }
        };
        health.present("nats");
        Ok(Bus { context: context(&client), client, topology: nats.topology.clone(), role, epoch })
    }

    /// Begins as a role without waiting for the broker; the connection comes when the broker does.
    ///
    /// # Errors
    /// An error naming the file when the seed cannot be read, or when the URL is none.
    pub async fn begin(role: Role, nats: &Nats, health: &Health) -> anyhow::Result<Bus> {
        use anyhow::Context;
        let (epoch_sender, epoch) = watch::channel(0u64);
        health.awaiting("nats", "not connected yet");
        let options = options(role, nats, seed(nats)?.as_deref(), epoch_sender, health.clone());
        let options = options.retry_on_initial_connect();
        let client = options.connect(nats.url.split(',').collect::<Vec<_>>()).await.context("nats.url")?;
        Ok(Bus { context: context(&client), client, topology: nats.topology.clone(), role, epoch })
    }

    /// Whether there is a connection at the moment, as far as the client knows.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whose rights the connection has.
    pub fn role(&self) -> Role {
        self.role
    }

    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// The JetStream context of this bus, with the request time-out set.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The same connection with a window of unanswered publishes of its own. The client waits, for good and
    /// without an error, when a window is full; what must never wait for effects needs its own.
    pub fn apart(&self) -> Bus {
        Bus { context: context(&self.client), ..self.clone() }
    }

    /// Counts connections: it changes with each reconnect, and whatever was unanswered then is unknown.
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.clone()
    }

    /// A stream, without asking the broker about it.
    ///
    /// # Errors
    /// When its name is not valid (it always is).
    pub async fn stream(&self, stream: Stream) -> Result<stream::Stream<()>, StoreError> {
        self.stream_named(self.topology.stream(stream)).await
    }

    async fn stream_named(&self, name: String) -> Result<stream::Stream<()>, StoreError> {
        self.context.get_stream_no_info(&name).await.map_err(|e| StoreError::Unknown(e.to_string()))
    }

    /// Publishes and waits until it is durable.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when an expectation did not hold, [`StoreError::Unknown`] when there was no
    /// answer: then it may or may not be stored.
    pub async fn publish(&self, message: OutboundMessage) -> Result<u64, StoreError> {
        let ack = self.context.send_publish(message.subject.clone(), into_publish(message)).await;
        let ack = ack.map_err(store_error)?.await.map_err(store_error)?;
        Ok(ack.sequence)
    }

    /// The last message of a subject, read from the leader.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn last(&self, stream: Stream, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
        let stream = self.stream(stream).await?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(StoreError::Unknown(error.to_string())),
        }
    }

    /// The last message of a subject, from any replica: for what may lag without harm.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn glance(&self, stream: Stream, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
        let stream = self.stream(stream).await?;
        glance(&stream, subject).await
    }

    /// Whether somebody waits for work at a durable consumer.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn is_pulled(&self, stream: Stream, consumer: &str) -> Result<bool, StoreError> {
        let name = self.topology.stream(stream);
        let found: Result<async_nats::jetstream::consumer::PullConsumer, _> =
            self.context.get_consumer_from_stream(consumer, name).await;
        let found = found.map_err(|error| StoreError::Unknown(error.to_string()))?;
        Ok(found.cached_info().num_waiting > 0)
    }

    /// The message at a sequence, read from the leader; `None` where there is none (any more).
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn at(&self, stream: Stream, sequence: u64) -> Result<Option<StreamMessage>, StoreError> {
        match self.stream(stream).await?.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(StoreError::Unknown(error.to_string())),
        }
    }

    /// The next messages of a subject from a sequence on, in their order, from any replica; without a consumer, which not
    /// everybody may make. Empty where that replica has none.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn page(
        &self,
        stream: Stream,
        subject: &str,
        from: u64,
    ) -> Result<Vec<StreamMessage>, StoreError> {
        let unknown = |error: &dyn std::fmt::Display| StoreError::Unknown(error.to_string());
        let asked = json!({"batch": PAGE_MESSAGES_MAX, "seq": from.max(1), "next_by_subj": subject});
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| unknown(&error))?;
        let asking = self.client.publish_with_reply(
            self.topology.pages(stream),
            inbox,
            asked.to_string().into_bytes().into(),
        );
        asking.await.map_err(|error| unknown(&error))?;
        let mut page = vec![];
        loop {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await;
            let answer = answer.ok().flatten().ok_or_else(|| unknown(&"a page did not come to its end"))?;
            match answer.status.map(|status| status.as_u16()) {
                None | Some(200) => {
                    page.push(StreamMessage::try_from(answer).map_err(|error| unknown(&error))?);
                }
                // Its end, and that there is nothing.
                Some(204 | 404) => return Ok(page),
                Some(status) => return Err(unknown(&format!("a page was answered {status}"))),
            }
        }
    }

    /// Takes a message out of a stream; it is no error when it is gone already.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn take_out(&self, stream: Stream, sequence: u64) -> Result<(), StoreError> {
        match self.stream(stream).await?.delete_message(sequence).await {
            Ok(_) => Ok(()),
            Err(_) if self.at(stream, sequence).await?.is_none() => Ok(()),
            Err(error) => Err(StoreError::Unknown(error.to_string())),
        }
    }

    /// First and last sequence of a stream, and which stream it is.
    ///
    /// # Errors
    /// When the broker does not answer or the stream is gone.
    pub async fn bounds(&self, stream: Stream) -> Result<Bounds, StoreError> {
        let info = self.stream(stream).await?.get_info().await;
        let info = info.map_err(|e| StoreError::Unknown(format!("{}: {e}", self.topology.stream(stream))))?;
        Ok(Bounds {
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            made: info.created.unix_timestamp_nanos(),
        })
    }

    /// An entry of a bucket; `None` where there is none or it was deleted.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, StoreError> {
        let Place { value, revision, .. } = self.place(bucket, key).await?;
        Ok(value.map(|value| Entry { value, revision }))
    }

    /// What stands at a key, for who will write there: a deletion by hand leaves a mark, which counts as a
    /// revision although there is no value.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn place(&self, bucket: Bucket, key: &str) -> Result<Place, StoreError> {
        let stream = self.stream_named(self.topology.bucket_stream(bucket)).await?;
        Ok(glance(&stream, &self.topology.entry(bucket, key)).await?.map(Place::of).unwrap_or_default())
    }

    /// As [`Bus::place`], from the leader: for what must not lag.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn newest(&self, bucket: Bucket, key: &str) -> Result<Place, StoreError> {
        let stream = self.stream_named(self.topology.bucket_stream(bucket)).await?;
        match stream.get_last_raw_message_by_subject(&self.topology.entry(bucket, key)).await {
            Ok(found) => Ok(Place::of(found)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(Place::default())
            }
            Err(error) => Err(StoreError::Unknown(error.to_string())),
        }
    }

    /// Writes an entry and gives its revision.
    ///
    /// # Errors
    /// See [`Bus::publish`].
    pub async fn put(&self, bucket: Bucket, key: &str, value: Bytes, put: Put) -> Result<u64, StoreError> {
        self.publish(self.put_message(bucket, key, value, put)).await
    }

    /// The message that writes an entry.
    pub fn put_message(&self, bucket: Bucket, key: &str, value: Bytes, put: Put) -> OutboundMessage {
        let mut message = PublishMessage::build().payload(value);
        if let Some(revision) = put.expect {
            message = message.expected_last_subject_sequence(revision);
        }
        if let Some((fence, revision)) = put.fence {
            message = message.expected_last_subject_sequence(revision).header(
                "Nats-Expected-Last-Subject-Sequence-Subject",
                self.topology.entry(bucket, &fence).as_str(),
            );
        }
        if let Some(ttl) = put.ttl {
            message = message.ttl(ttl);
        }
        message.outbound_message(self.topology.entry(bucket, key))
    }

    /// Deletes an entry so that nothing is left of it after a second.
    ///
    /// # Errors
    /// See [`Bus::publish`].
    pub async fn delete(&self, bucket: Bucket, key: &str, expect: Option<u64>) -> Result<(), StoreError> {
        let mut message = PublishMessage::build()
            .header("KV-Operation", "PURGE")
            .header("Nats-Rollup", "sub")
            .ttl(Duration::from_secs(1));
        if let Some(revision) = expect {
            message = message.expected_last_subject_sequence(revision);
        }
        self.publish(message.outbound_message(self.topology.entry(bucket, key))).await?;
        Ok(())
    }

    /// The keys of a bucket under a pattern, deleted ones not yet swept away included.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn keys(&self, bucket: Bucket, pattern: &str) -> Result<Vec<String>, StoreError> {
        let stream = self.stream_named(self.topology.bucket_stream(bucket)).await?;
        let subject = self.topology.entry(bucket, pattern);
        let mut found = stream
            .info_builder()
            .subjects(subject)
            .fetch()
            .await
            .map_err(|e| StoreError::Unknown(e.to_string()))?;
        let prefix = self.topology.entry(bucket, "");
        let mut keys = vec![];
        while let Some(entry) = futures_util::StreamExt::next(&mut found).await {
            let (subject, _) = entry.map_err(|e| StoreError::Unknown(e.to_string()))?;
            keys.extend(subject.strip_prefix(&prefix).map(str::to_string));
        }
        Ok(keys)
    }
}

async fn glance(stream: &stream::Stream<()>, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
        Err(error) => Err(StoreError::Unknown(error.to_string())),
    }
}

/// Sorts the client's error by what to do next.
pub fn store_error(error: PublishError) -> StoreError {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => StoreError::Fenced,
        _ if error.to_string().contains(&WRONG_LAST_SEQUENCE.to_string()) => StoreError::Fenced,
        _ => StoreError::Unknown(error.to_string()),
    }
}

fn into_publish(message: OutboundMessage) -> PublishMessage {
    PublishMessage::build().payload(message.payload).headers(message.headers.unwrap_or_default())
}

fn context(client: &async_nats::Client) -> Context {
    ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .max_ack_inflight(UNANSWERED_MAX)
        .build(client.clone())
}

/// What to ask oneself about a broker that cannot be reached.
fn question(nats: &Nats, error: &ConnectError) -> &'static str {
    match error.to_string() {
        error if error.contains("invalid peer certificate") || error.contains("platform certs") => {
            "does its certificate come from nats.tls_ca_file, and is the host of nats.url a name in it?"
        }
        error if error.contains("received fatal alert") => {
            "is nats.tls_certificate_file set, and one that it takes?"
        }
        // Whose certificate is refused over TLS 1.3 may see no more than the end of the connection.
        _ if nats.tls.is_set() => {
            "is it running, is nats.url right, does it speak TLS, and does it take nats.tls_certificate_file?"
        }
        _ => "is it running, and is nats.url right?",
    }
}

fn seed(nats: &Nats) -> anyhow::Result<Option<String>> {
    use anyhow::Context;
    let Some(file) = &nats.seed_file else { return Ok(None) };
    let seed = std::fs::read_to_string(file)
        .with_context(|| format!("nats.seed_file: {} cannot be read", file.display()))?;
    Ok(Some(seed))
}

fn options(
    role: Role,
    nats: &Nats,
    seed: Option<&str>,
    epoch: watch::Sender<u64>,
    health: Health,
) -> ConnectOptions {
    let mut options = match seed {
        Some(seed) => ConnectOptions::with_nkey(seed.trim().to_string()),
        None => ConnectOptions::new(),
    };
    if let Some(file) = &nats.tls.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    if let Some(pair) = &nats.tls.certificate {
        options = options.add_client_certificate(pair.certificate_file.clone(), pair.key_file.clone());
    }
    let epoch = Arc::new((epoch, AtomicU64::new(0)));
    options
        .require_tls(nats.tls.is_set())
        .name(format!("holdline-{}", role.name()))
        .custom_inbox_prefix(role.inbox())
        .client_capacity(UNWRITTEN_MAX)
        .subscription_capacity(UNTAKEN_MAX)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_EVERY)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            if attempts < RECONNECTS_QUICK_MAX { RECONNECT_WAIT } else { RECONNECT_WAIT_MAX }
        })
        .event_callback(move |event| {
            let (epoch, health) = (epoch.clone(), health.clone());
            async move { heard(role, &event, &epoch, &health) }
        })
}

fn heard(role: Role, event: &Event, epoch: &(watch::Sender<u64>, AtomicU64), health: &Health) {
    match event {
        Event::Connected => {
            let count = epoch.1.fetch_add(1, Ordering::Relaxed) + 1;
            epoch.0.send_replace(count);
            health.present("nats");
        }
        Event::Disconnected => health.missing("nats", "the connection is lost"),
        // A refusal reaches the call itself as a mere time-out; this is where it can be made loud.
        Event::ServerError(error) => {
            Metric::PermissionsRefused.add(1, role.name(), None);
            tracing::error!(role = role.name(), "the broker refused: {error}");
        }
        // Our own goodbye.
        Event::Closed | Event::Draining => {}
        other => tracing::warn!(role = role.name(), "{other}"),
    }
}
