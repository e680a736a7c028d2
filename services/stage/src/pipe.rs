//! Read → decide → commit one record → effects: the protocol of the classifier and the debouncer, in one
//! place (architecture.md 2 to 7). A stage gives it a [`Machine`] and cannot get the rest wrong.
//!
//! - A stage's last record says how far it has read. It is published with the sequence of the record before
//!   it as its expectation: one message, atomic, durable, and a deposed owner's is refused whole.
//! - One rule for every failed or unanswered commit, and for every reconnect: drop everything in memory,
//!   read the last record from the leader, go on from there.
//! - Effects follow the record; see [`crate::effects`].
//! - What cannot be understood is in the dead letters before the position moves past it.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Bound;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use holdline_proto::command::Command;
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::journal::{Effect, Record};
use holdline_proto::limits::RECORD_BYTES_SOFT;
use holdline_proto::topology::{Bucket, Role, Stream, Topology};
use holdline_proto::wire::{self, Wire};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bus::{Bounds, Bus, Place, Put, StoreError};
use crate::crash::{self, Point};
use crate::effects::{Lanes, Log, Lost};
use crate::run::{Shell, Tasks};
use crate::telemetry::Metric;
use crate::{clock, dead_letter, lease};

pub use crate::effects::View;
pub use crate::reader::{Message, Reader};

/// Input messages that one record may cover.
const INPUTS_PER_RECORD: usize = 64;

/// A partition in which nothing is decided writes a record all the same, long before its last one ages out,
/// and so that a new owner has little to read again.
const HEARTBEAT: Duration = Duration::from_secs(600);

/// A partition that gets no answer for this long is told of.
const LOUD_AFTER: Duration = Duration::from_secs(5);

/// Before a partition is taken up again from its last record.
const PAUSE: Duration = Duration::from_millis(50);

/// The same where that has not helped for a while, or a person is needed.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Between looks at whether what deciding needs is there.
const PREPARE_WAIT: Duration = Duration::from_millis(200);

/// Headers and the broker's own overhead of a record.
const HEADER_BYTES: usize = 4 * 1024;

/// What a stage does with one partition: a pure fold, told in steps.
///
/// For every record: `decide` for each input, then `conclude`, then (once the record is durable)
/// `committed`. A new owner begins with `fold` for the records since the base, then `restored`.
pub trait Machine: Send + 'static {
    /// What its records hold.
    type Body: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Takes over what a committed record says.
    fn fold(&mut self, sequence: u64, body: Self::Body);

    /// Every record after `base` up to `last` was folded.
    fn restored(&mut self, base: u64, last: u64);

    /// Fetches what deciding will need (playbook sets); before the first input and before each one.
    fn prepare(&mut self, input: Option<&Message>) -> impl Future<Output = Result<(), NotReady>> + Send;

    /// Decides on one input. Gives the bytes that it adds to the record, roughly.
    ///
    /// # Errors
    /// The reason why it cannot be understood; it is parked, and must have changed nothing.
    fn decide(&mut self, input: &Message) -> Result<usize, String>;

    /// What the inputs since the last record led to. `None` when nothing has to be recorded, unless `must`.
    fn conclude(&mut self, must: bool) -> Option<Conclusion<Self::Body>>;

    /// The conclusion is durable as this record.
    fn committed(&mut self, sequence: u64);

    /// Everything that people should see, after a takeover.
    fn views(&self) -> Vec<View>;

    /// Commands without an outcome, after a takeover.
    fn outstanding(&self) -> Vec<Command> {
        vec![]
    }
}

/// Something that deciding needs is not there; it is waited for, loudly.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// What a machine wants recorded.
#[derive(Debug)]
pub struct Conclusion<B> {
    pub body: B,
    /// See [`Record::base`].
    pub base: u64,
    pub effects: Vec<Effect>,
    pub views: Vec<View>,
}

/// Where a stage reads and where it writes.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    pub role: Role,
    pub reads: Stream,
    pub inputs: fn(&Topology, u16) -> Vec<String>,
    pub writes: Stream,
    pub record: fn(&Topology, u16) -> String,
    /// Commands follow from its records.
    pub commands: bool,
    /// Version of the decisions, for the records.
    pub machine: &'static str,
}

/// Runs a stage: owns its share of the partitions until the service stops.
pub async fn run<M, F>(stage: Stage, bus: &Bus, shell: &Shell, partitions: u16, make: F)
where
    M: Machine,
    Record<M::Body>: Wire,
    F: Fn(u16) -> M + Clone + Send + Sync + 'static,
{
    lease::hold(bus, shell, stage.role, "partitions", partitions, |partition, tasks| {
        let pipe = Pipe { stage, bus: bus.apart(), shell: shell.clone(), partition, tasks };
        let make = make.clone();
        async move { pipe.own(make).await }
    })
    .await;
}

/// Why working on a partition ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("stopped")]
    Stopped,
    /// Another owner has written.
    #[error("another owner has written")]
    Fenced,
    /// No answer: what was under way is unknown.
    #[error("{0}")]
    Unknown(String),
    /// A new connection: no answer to what was under way will come any more.
    #[error("the connection is new")]
    Reconnected,
    /// The record does not fit in a message: decide on fewer inputs at once. Names the last input.
    #[error("the record for inputs up to {0} does not fit in a message")]
    TooLarge(u64),
    /// Something is wrong that a person has to look at.
    #[error("{0}")]
    Loud(String),
}

/// How the next life goes about inputs, after a record that did not fit.
#[derive(Debug, Clone, Copy, Default)]
struct Caution {
    /// Every input gets a record of its own, up to this one.
    one_by_one_until: u64,
    /// Even its own record does not fit: it is parked.
    park: Option<u64>,
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> End {
        match error {
            StoreError::Fenced => End::Fenced,
            StoreError::Unknown(why) => End::Unknown(why),
        }
    }
}

struct Pipe {
    stage: Stage,
    bus: Bus,
    shell: Shell,
    partition: u16,
    tasks: Tasks,
}

impl Pipe {
    /// Works on the partition until it is lost or the service stops.
    async fn own<M, F>(&self, make: F)
    where
        M: Machine,
        Record<M::Body>: Wire,
        F: Fn(u16) -> M,
    {
        let (stage, partition) = (self.stage.role.name(), self.partition);
        let what = format!("{stage} partition {partition}");
        let mut caution = Caution::default();
        let mut well = clock::now();
        loop {
            let mut epoch = self.bus.epoch();
            epoch.mark_unchanged();
            let (end, worked) = self.attempt(make(partition), &what, caution).await;
            if worked {
                well = clock::now();
            }
            let mut pause = PAUSE;
            match end {
                End::Stopped => break,
                End::Fenced => {
                    Metric::CommitsFailed.add(1, stage, None);
                    tracing::warn!(stage, partition, "another owner has written to partition {partition}");
                    break;
                }
                End::Unknown(_) | End::Reconnected => {
                    Metric::CommitsFailed.add(1, stage, None);
                    tracing::info!(
                        stage,
                        partition,
                        "partition {partition}: {end}; going on from the last record"
                    );
                    // While the connection is lost, that is what is told, and coming back must not wait.
                    if matches!(end, End::Reconnected) {
                        well = clock::now();
                    } else if clock::since(well) >= LOUD_AFTER {
                        pause = LONG_PAUSE;
                        self.shell.health.missing(&what, end.to_string());
                    }
                }
                End::TooLarge(input) => {
                    let alone = input <= caution.one_by_one_until;
                    caution = Caution { one_by_one_until: input, park: alone.then_some(input) };
                    tracing::warn!(stage, partition, "partition {partition}: {end}; going on more carefully");
                }
                End::Loud(why) => {
                    tracing::error!(stage, partition, "partition {partition}: {why}");
                    self.shell.health.missing(&what, why);
                    pause = LONG_PAUSE;
                }
            }
            tokio::select! {
                () = clock::sleep(pause) => {}
                _ = epoch.changed(), if pause == LONG_PAUSE => {}
                () = self.tasks.stopping() => break,
            }
        }
        // What this replica no longer owns, it no longer lacks.
        self.shell.health.present(&what);
        self.shell.health.present(&waits(&what));
    }

    /// One life: recover, then read, decide and commit until something ends it. Says whether it has read.
    async fn attempt<M>(&self, machine: M, what: &str, caution: Caution) -> (End, bool)
    where
        M: Machine,
        Record<M::Body>: Wire,
    {
        let lanes_tasks = self.tasks.child();
        let mut epoch = self.bus.epoch();
        epoch.mark_unchanged();
        let mut worked = false;
        let end = tokio::select! {
            end = self.live(machine, what, caution, &lanes_tasks, &mut worked) => end,
            // Whatever is unanswered now is unknown; waiting for the time-out would only add to the outage.
            _ = epoch.changed() => End::Reconnected,
            () = self.tasks.stopping() => End::Stopped,
        };
        lanes_tasks.finish().await;
        (end, worked)
    }

    async fn live<M>(
        &self,
        mut machine: M,
        what: &str,
        caution: Caution,
        lanes_tasks: &Tasks,
        worked: &mut bool,
    ) -> End
    where
        M: Machine,
        Record<M::Body>: Wire,
    {
        match self.recover(&mut machine, lanes_tasks).await {
            Ok(mut at) => {
                if let Err(end) = self.prepare(&mut machine, None).await {
                    return end;
                }
                // Of a new partition there is nothing to take over.
                crash::point_if(at.record > 0, Point::AfterFold);
                at.lanes.hand_over_again(at.record, machine.outstanding()).await;
                at.lanes.show(machine.views());
                let inputs = (self.stage.inputs)(self.bus.topology(), self.partition);
                let reader = match Reader::open(&self.bus, self.stage.reads, inputs, at.position + 1).await {
                    Ok(reader) => reader,
                    Err(error) => return error.into(),
                };
                *worked = true;
                self.shell.health.present(what);
                match self.work(&mut machine, &mut at, reader, caution).await {
                    Ok(never) => match never {},
                    Err(end) => end,
                }
            }
            Err(end) => end,
        }
    }

    /// Reads the last record and folds what it rests on.
    async fn recover<M>(&self, machine: &mut M, lanes_tasks: &Tasks) -> Result<At, End>
    where
        M: Machine,
        Record<M::Body>: Wire,
    {
        let (reads, writes) = (self.stage.reads, self.stage.writes);
        let subject = (self.stage.record)(self.bus.topology(), self.partition);
        let log = Log {
            stream: writes,
            subject: subject.clone(),
            partition: self.partition,
            commands: self.stage.commands,
        };
        let noted = self.noted().await?;
        let inputs = self.bus.bounds(reads).await?;
        let Some(last) = self.bus.last(writes, &subject).await? else {
            if noted.is_some() {
                return Err(End::Loud(format!(
                    "there is no record on {subject}, but there was one: it aged out or was deleted; restore the \
                     stream, or delete the key {} of LEASES to begin anew (open incidents are then forgotten)",
                    self.position_key()
                )));
            }
            tracing::info!(
                stage = self.stage.role.name(),
                partition = self.partition,
                "a new partition begins"
            );
            let lanes = Lanes::start(&self.bus, log, 0, 0, lanes_tasks);
            return Ok(At { record: 0, position: 0, reads_made: inputs.made, lanes });
        };
        let newest: Record<M::Body> = decode_record(&subject, last.sequence, &last.payload)?;
        self.check_inputs(newest.position, &inputs, noted)?;
        let lanes = Lanes::start(&self.bus, log, last.sequence, newest.effects_done, lanes_tasks);
        let from = newest.base.min(newest.effects_done) + 1;
        let (base, effects_done, position) = (newest.base, newest.effects_done, newest.position);
        let mut reader = Reader::open(&self.bus, writes, vec![subject.clone()], from).await?;
        loop {
            let message = reader.next().await?;
            let record: Record<M::Body> = decode_record(&subject, message.sequence, &message.payload)?;
            if message.sequence > effects_done {
                lanes.follow(message.sequence, &record.effects).await;
            }
            if message.sequence > base {
                machine.fold(message.sequence, record.body);
            }
            if message.sequence >= last.sequence {
                break;
            }
        }
        reader.close().await;
        machine.restored(base, last.sequence);
        let at = At { record: last.sequence, position, reads_made: inputs.made, lanes };
        if noted.is_none_or(|noted| noted.reads_made.is_none()) {
            self.note(&at).await?;
        }
        Ok(at)
    }

    /// Another stream, a gap or a roll-back of the inputs is loud, never "start at 0".
    fn check_inputs(&self, position: u64, inputs: &Bounds, noted: Option<Noted>) -> Result<(), End> {
        let topology = self.bus.topology();
        let (name, key) = (topology.stream(self.stage.reads), self.position_key());
        if noted.and_then(|noted| noted.reads_made).is_some_and(|made| made != inputs.made)
            || inputs.last < position
        {
            return Err(End::Loud(format!(
                "{name} ends at {}, {position} was read, and it was made anew or rolled back. Once all that it held is \
                 restored, delete the key {key} of LEASES; to go on without, take the records on {} out as well",
                inputs.last,
                (self.stage.record)(topology, self.partition),
            )));
        }
        if inputs.first > position + 1 {
            // Other partitions' messages may have aged out in front; what matters is whether ours did, and that
            // cannot be told any more.
            return Err(End::Loud(format!(
                "{name} begins at {}, but only {position} was read: inputs may have aged out unread",
                inputs.first
            )));
        }
        Ok(())
    }

    async fn work<M>(
        &self,
        machine: &mut M,
        at: &mut At,
        mut reader: Reader,
        caution: Caution,
    ) -> Result<std::convert::Infallible, End>
    where
        M: Machine,
        Record<M::Body>: Wire,
    {
        let stage = self.stage.role.name();
        let mut last_record = clock::now();
        loop {
            let wait = HEARTBEAT.saturating_sub(clock::since(last_record));
            let first = tokio::select! {
                message = reader.next() => Some(message?),
                () = clock::sleep(wait) => None,
                lost = at.lanes.lost() => {
                    match lost {
                        Lost::Views => at.lanes.show(machine.views()),
                        Lost::Commands => {
                            at.lanes.hand_over_again(at.record, machine.outstanding()).await;
                        }
                    }
                    continue;
                }
            };
            let must = first.is_none();
            let mut next = first;
            let (mut covered, mut bytes) = (0u64, 0usize);
            let mut parked = false;
            while let Some(message) = next.take() {
                self.prepare(machine, Some(&message)).await?;
                let decided = if caution.park == Some(message.sequence) {
                    Err("what it leads to does not fit in a message".into())
                } else {
                    machine.decide(&message)
                };
                match decided {
                    Ok(added) => bytes += added,
                    Err(reason) => {
                        self.park(&message, reason).await?;
                        parked = true;
                    }
                }
                at.position = message.sequence;
                covered += 1;
                let full = bytes >= RECORD_BYTES_SOFT
                    || covered >= INPUTS_PER_RECORD as u64
                    || message.sequence <= caution.one_by_one_until;
                next = if full { None } else { reader.ready().transpose()? };
            }
            Metric::InputsDecided.add(covered, stage, None);
            Metric::Lag.set(reader.pending, stage, Some(("partition", self.partition.to_string())));
            if let Some(conclusion) = machine.conclude(must || parked) {
                // A record of ticks alone would be no place worth crashing at.
                let matters = !(conclusion.effects.is_empty() && conclusion.views.is_empty());
                crash::point_if(matters, Point::BeforeCommit);
                let sequence = self.commit(at, &conclusion).await?;
                crash::point_if(matters, Point::AfterCommit);
                machine.committed(sequence);
                at.record = sequence;
                last_record = clock::now();
                at.lanes.follow(sequence, &conclusion.effects).await;
                at.lanes.show(conclusion.views);
            }
        }
    }

    async fn commit<B>(&self, at: &At, conclusion: &Conclusion<B>) -> Result<u64, End>
    where
        B: Serialize + DeserializeOwned,
        Record<B>: Wire,
    {
        #[derive(Serialize)]
        struct Borrowed<'a, B> {
            position: u64,
            base: u64,
            effects_done: u64,
            owner: &'a str,
            machine: &'a str,
            effects: &'a [Effect],
            body: &'a B,
        }
        let record = Borrowed {
            position: at.position,
            base: conclusion.base,
            effects_done: at.lanes.done(),
            owner: &self.shell.common.replica,
            machine: self.stage.machine,
            effects: &conclusion.effects,
            body: &conclusion.body,
        };
        let bytes = wire::encode_as::<Record<B>, _>(&record);
        if bytes.len() + HEADER_BYTES > self.bus.client().server_info().max_payload {
            return Err(End::TooLarge(at.position));
        }
        // No message id: at a repeat the broker would look at the (then stale) expectation first.
        let message = PublishMessage::build().payload(bytes.into()).expected_last_subject_sequence(at.record);
        let subject = (self.stage.record)(self.bus.topology(), self.partition);
        let sequence = self.bus.publish(message.outbound_message(subject)).await?;
        Metric::RecordsCommitted.add(1, self.stage.role.name(), None);
        if at.record == 0 {
            self.note(at).await?;
        }
        Ok(sequence)
    }

    /// Keeps, apart from the records, that the partition has existed, and on which stream of inputs.
    async fn note(&self, at: &At) -> Result<(), End> {
        let value = Bytes::from(format!("{} {} {}", at.record, at.position, at.reads_made));
        self.bus.put(Bucket::Leases, &self.position_key(), value, Put::default()).await?;
        Ok(())
    }

    /// What is kept apart from the records. One that cannot be read says at least that there was one.
    async fn noted(&self) -> Result<Option<Noted>, End> {
        let Place { value: Some(value), .. } = self.bus.place(Bucket::Leases, &self.position_key()).await?
        else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&value);
        let reads_made = text.split(' ').nth(2).and_then(|made| made.parse().ok());
        if reads_made.is_none() {
            let (key, shown) = (self.position_key(), text.chars().take(80).collect::<String>());
            tracing::error!(key, "the key {key} of LEASES reads {shown:?}; it is written anew");
        }
        Ok(Some(Noted { reads_made }))
    }

    fn position_key(&self) -> String {
        format!("{}.position.{}", self.stage.role.name(), self.partition)
    }

    async fn prepare<M: Machine>(&self, machine: &mut M, input: Option<&Message>) -> Result<(), End> {
        let what = waits(&format!("{} partition {}", self.stage.role.name(), self.partition));
        loop {
            match machine.prepare(input).await {
                Ok(()) => {
                    self.shell.health.present(&what);
                    return Ok(());
                }
                Err(NotReady(why)) => self.shell.health.missing(&what, why),
            }
            clock::sleep(PREPARE_WAIT).await;
        }
    }

    async fn park(&self, message: &Message, reason: String) -> Result<(), End> {
        let letter = DeadLetter {
            stage: self.stage.role.name().into(),
            reason,
            subject: message.subject.clone(),
            sequence: message.sequence,
            attempts: 1,
            payload: message.payload.to_vec(),
            ..DeadLetter::default()
        };
        Ok(dead_letter::park(&self.bus, self.stage.role, &letter).await?)
    }
}

/// What the position key of a partition says.
#[derive(Debug, Clone, Copy)]
struct Noted {
    /// See [`Bounds::made`]; `None` where it cannot be read.
    reads_made: Option<i128>,
}

/// What a partition that is owned may be waiting for, as health names it.
fn waits(what: &str) -> String {
    format!("{what} waits")
}

/// Where an owner stands.
struct At {
    /// Sequence of the last record; 0: none yet.
    record: u64,
    /// Sequence of the last input decided on.
    position: u64,
    /// See [`Bounds::made`].
    reads_made: i128,
    lanes: Lanes,
}

fn decode_record<T: Wire>(subject: &str, sequence: u64, payload: &[u8]) -> Result<T, End> {
    wire::decode(payload).map_err(|error| {
        End::Loud(format!(
            "the stage's own record {sequence} on {subject} cannot be read: {error}. If it is not the stage's, take \
             that message out; otherwise run the version that wrote it"
        ))
    })
}

/// The rolling snapshot: each record also carries the next unchanged states in turn, so that a complete set
/// can be folded from a few hundred records, whatever the history.
#[derive(Debug, Clone)]
pub struct Rolling<K> {
    /// The last key that the current cycle has carried.
    cursor: Option<K>,
    /// The record before the current cycle's first.
    began_after: u64,
    base: u64,
    wrapped: bool,
}

impl<K> Default for Rolling<K> {
    fn default() -> Self {
        Rolling { cursor: None, began_after: 0, base: 0, wrapped: false }
    }
}

/// Unchanged states that a record carries at least.
const SLICE_MIN: usize = 16;

/// Unchanged states that a record carries at most: the rest of the record needs room too.
const SLICE_MAX: usize = 128;

impl<K: Ord + Clone> Rolling<K> {
    /// The keys of the next slice, those that changed left out: they travel anyway. As many as changed,
    /// but 16 to 128 while there are any.
    pub fn slice<V>(&mut self, states: &std::collections::BTreeMap<K, V>, changed: &BTreeSet<K>) -> Vec<K> {
        let after = self.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = states.range((after, Bound::Unbounded)).map(|(key, _)| key);
        let mut slice = vec![];
        let most = changed.len().clamp(SLICE_MIN, SLICE_MAX);
        let mut seen = 0;
        for key in rest.by_ref() {
            self.cursor = Some(key.clone());
            seen += 1;
            if !changed.contains(key) {
                slice.push(key.clone());
            }
            // Bounded by what is looked at, too.
            if slice.len() >= most || seen >= 4 * most {
                break;
            }
        }
        if rest.next().is_none() {
            self.cursor = None;
            self.wrapped = true;
            self.base = self.began_after;
        }
        slice
    }

    /// Folding the records after this one gives the complete state.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The record that carries the last slice is durable.
    pub fn committed(&mut self, sequence: u64) {
        if std::mem::take(&mut self.wrapped) {
            self.began_after = sequence;
        }
    }

    /// A new owner goes on from the base that the last record named, and begins a cycle of its own.
    pub fn restored(&mut self, base: u64, last: u64) {
        *self = Rolling { cursor: None, began_after: last, base, wrapped: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Folding from the base always gives what the owner has in memory, whatever changes when.
    #[test]
    fn n4_the_rolling_snapshot_is_complete_from_its_base() {
        for seed in 0..200u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = move |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut rolling = Rolling::<u64>::default();
            let mut states = BTreeMap::new();
            let mut log: Vec<Vec<(u64, u64)>> = vec![vec![]];
            for sequence in 1..300u64 {
                let changed: BTreeSet<u64> = (0..next(40)).map(|_| next(500)).collect();
                for key in &changed {
                    states.insert(*key, sequence);
                }
                let slice = rolling.slice(&states, &changed);
                let record = changed.iter().chain(&slice).map(|key| (*key, states[key])).collect();
                let base = rolling.base();
                log.push(record);
                rolling.committed(sequence);
                let from = usize::try_from(base).unwrap() + 1;
                let folded: BTreeMap<u64, u64> = log[from..].iter().flatten().copied().collect();
                assert_eq!(folded, states, "seed {seed}, record {sequence}, base {base}");
                if next(50) == 0 {
                    rolling.restored(base, sequence);
                }
            }
        }
    }
}
