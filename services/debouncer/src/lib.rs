//! Reads one partition of INPUTS (signals, outcomes, wake-ups), decides what is real and what is over,
//! writes `hl.log.<p>`; commands and wake-ups follow each record.
//!
//! The machine is `decide::debounce`, the protocol `stage::pipe`; here the two are wired together.
//! Invariants: every state change is in a record fenced by the one before; time comes from the broker's
//! timestamps and from wake-ups, never from a clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdline_decide::MACHINE;
use holdline_decide::debounce::{Input, Partition, Rulebook, Step};
use holdline_decide::playbook::{self, Set};
use holdline_proto::approval::Ruled;
use holdline_proto::command::Command;
use holdline_proto::dead_letter::Retry;
use holdline_proto::incident::{Phase, TrackKey};
use holdline_proto::journal::{Decided, Record, WakeUp};
use holdline_proto::outcome::Outcome;
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Bucket, Role, Stream, Topology, subject_matches};
use holdline_proto::wire::{self, DecodeError};
use holdline_stage::bus::Bus;
use holdline_stage::pipe::{self, Conclusion, Machine, Message, NotReady, Rolling, Stage, View};
use holdline_stage::playbooks::{Playbooks, installation};
use holdline_stage::run::Shell;
use holdline_stage::settings::Reader;

const STAGE: Stage = Stage {
    role: Role::Debouncer,
    reads: Stream::Inputs,
    inputs: Topology::debouncer_inputs,
    writes: Stream::Journal,
    record: Topology::log,
    commands: true,
    machine: MACHINE,
};

/// People can look a resolved incident up for this long.
const RESOLVED_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Settings of the debouncer: none of its own yet.
#[derive(Debug, Clone, Default)]
pub struct Settings {}

impl Settings {
    pub fn read(_reader: &mut Reader) -> Settings {
        Settings {}
    }
}

/// Runs the debouncer until the service is stopped.
///
/// # Errors
/// When the broker stays away.
pub async fn run(_settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let bus = Bus::connect(Role::Debouncer, &shell.common.nats, &shell.tasks, &shell.health).await?;
    let partitions = installation(&bus, &shell).await?.partitions;
    let playbooks = Playbooks::follow(&bus, &shell, playbook::compile);
    pipe::run(STAGE, &bus, &shell, partitions, move |partition| Debouncer {
        number: partition,
        state: Partition::new(partition),
        rolling: Rolling::default(),
        closed: vec![],
        step: Step::default(),
        input: None,
        sets: Sets::default(),
        playbooks: playbooks.clone(),
    })
    .await;
    Ok(())
}

/// An input, decoded.
pub enum Decoded {
    Classified(Box<Classified>),
    Outcome(Box<Outcome>),
    Fired(WakeUp),
    Retried(Box<Command>),
    Ruled(Box<Ruled>),
}

impl Decoded {
    /// Decodes a message of INPUTS by its subject.
    ///
    /// # Errors
    /// When its bytes are not what the subject promises.
    pub fn from(
        topology: &Topology,
        partition: u16,
        subject: &str,
        payload: &[u8],
    ) -> Result<Decoded, DecodeError> {
        if subject_matches(&topology.retried(partition, "*"), subject) {
            match wire::decode(payload)? {
                Retry::Command(command) => Ok(Decoded::Retried(command)),
                // Nested once at most: a retry of a retry carries the input itself.
                Retry::Input { subject, payload, .. } => {
                    Decoded::of_stage(topology, partition, &subject, &payload)
                }
            }
        } else {
            Decoded::of_stage(topology, partition, subject, payload)
        }
    }

    fn of_stage(
        topology: &Topology,
        partition: u16,
        subject: &str,
        payload: &[u8],
    ) -> Result<Decoded, DecodeError> {
        if subject == topology.signal(partition) {
            let record: Record<Classified> = wire::decode(payload)?;
            Ok(Decoded::Classified(Box::new(record.body)))
        } else if subject == topology.fired(partition) {
            Ok(Decoded::Fired(wire::decode(payload)?))
        } else if subject == topology.operator(partition) {
            Ok(Decoded::Ruled(Box::new(wire::decode(payload)?)))
        } else {
            Ok(Decoded::Outcome(Box::new(wire::decode(payload)?)))
        }
    }

    /// As the machine takes it.
    pub fn as_input(&self) -> Input<'_> {
        match self {
            Decoded::Classified(classified) => Input::Classified(classified),
            Decoded::Outcome(outcome) => Input::Outcome(outcome),
            Decoded::Fired(wake_up) => Input::Fired(wake_up),
            Decoded::Retried(command) => Input::Retried(command),
            Decoded::Ruled(ruled) => Input::Ruled(ruled),
        }
    }
}

/// The playbook sets that open incidents and inputs refer to, by hash.
#[derive(Debug, Default)]
pub struct Sets(pub BTreeMap<String, Arc<Set>>);

impl Rulebook for Sets {
    fn set(&self, hash: &str) -> Option<&Set> {
        self.0.get(hash).map(AsRef::as_ref)
    }
}

/// Sets kept beyond those in use, before they are looked through.
const SETS_KEPT: usize = 16;

/// One partition of the debouncer.
struct Debouncer {
    number: u16,
    state: Partition,
    rolling: Rolling<TrackKey>,
    /// Incidents that ended in the folded records: the broker may have lost what people see of them.
    closed: Vec<holdline_proto::incident::View>,
    step: Step,
    /// The input that was prepared, decoded.
    input: Option<(u64, Result<Decoded, String>)>,
    sets: Sets,
    playbooks: Playbooks<Set>,
}

impl Debouncer {
    async fn fetch(&mut self, hash: &str) -> Result<(), NotReady> {
        if hash.is_empty() || self.sets.0.contains_key(hash) {
            return Ok(());
        }
        let set = self.playbooks.by_hash(hash).await.map_err(|error| NotReady(error.to_string()))?;
        if self.sets.0.len() >= SETS_KEPT {
            let used = self.state.sets();
            self.sets.0.retain(|hash, _| used.contains(hash.as_str()));
        }
        self.sets.0.insert(hash.into(), set);
        Ok(())
    }
}

impl Machine for Debouncer {
    type Body = Decided;

    fn fold(&mut self, _sequence: u64, body: Decided) {
        self.closed.extend(body.closed.iter().cloned());
        self.state.fold(body);
    }

    fn restored(&mut self, base: u64, last: u64) {
        self.rolling.restored(base, last);
    }

    async fn prepare(&mut self, input: Option<&Message>) -> Result<(), NotReady> {
        let Some(message) = input else {
            let open: Vec<String> = self.state.sets().into_iter().map(str::to_string).collect();
            for hash in open {
                self.fetch(&hash).await?;
            }
            return Ok(());
        };
        if self.input.as_ref().is_none_or(|(sequence, _)| *sequence != message.sequence) {
            let topology = self.playbooks.topology();
            let decoded = Decoded::from(topology, self.number, &message.subject, &message.payload);
            self.input = Some((message.sequence, decoded.map_err(|error| error.to_string())));
        }
        let named = match &self.input {
            Some((_, Ok(Decoded::Classified(classified)))) => classified.playbooks.clone(),
            Some((_, Ok(Decoded::Retried(command)))) => command.playbooks.clone(),
            _ => String::new(),
        };
        self.fetch(&named).await?;
        Ok(())
    }

    fn decide(&mut self, input: &Message) -> Result<usize, String> {
        let Some((_, decoded)) = self.input.take() else { return Err("not prepared".into()) };
        let decoded = decoded?;
        let before = self.step.changed.len();
        self.state.step(&self.sets, input.sequence, input.published_ms, decoded.as_input(), &mut self.step);
        // A changed track and its twin in the snapshot.
        let changed = self.step.changed.len().saturating_sub(before);
        Ok(input.payload.len() + 1_500 * changed)
    }

    fn conclude(&mut self, must: bool) -> Option<Conclusion<Decided>> {
        let nothing = self.step.changed.is_empty() && self.step.disposed.is_empty();
        if nothing && !must {
            return None;
        }
        let mut step = std::mem::take(&mut self.step);
        let slice = self.rolling.slice(self.state.tracks(), &step.changed);
        let effects = std::mem::take(&mut step.effects);
        let body = self.state.record(&mut step, &slice);
        let views = step.views.into_values().map(view).collect();
        Some(Conclusion { body, base: self.rolling.base(), effects, views })
    }

    fn committed(&mut self, sequence: u64) {
        self.rolling.committed(sequence);
    }

    fn views(&self) -> Vec<View> {
        let open = self.state.views(&self.sets);
        self.closed.iter().cloned().chain(open).map(view).collect()
    }

    fn outstanding(&self) -> Vec<Command> {
        self.state.tracks().values().filter_map(|track| track.outstanding.clone()).collect()
    }
}

fn view(view: holdline_proto::incident::View) -> View {
    View {
        bucket: Bucket::Incidents,
        key: view.id.clone(),
        ttl: (view.phase == Phase::Resolved).then_some(RESOLVED_KEPT),
        value: wire::encode(&view).into(),
    }
}
