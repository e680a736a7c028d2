//! The protocol of `stage::pipe` as a step machine: read, decide, commit one fenced record, then its effects;
//! a new owner reads the last record, folds, and publishes again what the record does not know to be done.
//!
//! A crash, or a second owner who takes over while the first still believes in its lease, can come between
//! any two steps. What a refused owner, a lost answer and a new connection have in common is one rule: drop
//! everything in memory; so each of them is a crash here.
//!
//! Steps between which nobody can tell a difference are one, or the search would spend itself on their order:
//! reading and deciding leave nothing behind until the record stands, so they are one step with it; the effects of
//! one record are, because whatever follows from an effect may come as late as it likes; and whoever is gone is
//! replaced at once, because a new owner only reads what nobody else can write.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use holdline_proto::journal::{Effect, Record};
use serde::Serialize;

use crate::broker::Log;
use crate::guards::Guard;

/// What the pipe drives: a stage's own fold.
pub(crate) trait Stage: Clone {
    type Input: Serialize;
    type Body: Clone + Serialize;

    fn fold(&mut self, sequence: u64, body: Self::Body);
    fn decide(&mut self, sequence: u64, published_ms: i64, input: &Self::Input);
    /// `None`: nothing has to be recorded.
    fn conclude(&mut self) -> Option<(Self::Body, Vec<Effect>)>;
    fn committed(&mut self, sequence: u64);
    /// Whether it would decide alike from here on.
    fn knows_the_same(&self, other: &Self) -> bool;
}

/// When a record was stored says nothing to anybody: what is decided on names its times itself.
const RECORDED_MS: i64 = 0;

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Owners that lose everything in memory, and owners that take over while another one still works.
    pub(crate) faults: u8,
    /// Inputs that a record may cover.
    pub(crate) batch: u64,
}

/// One stage of one partition: its records and those who believe that they own it.
#[derive(Debug, Clone)]
pub(crate) struct Pipe<S: Stage> {
    pub(crate) records: Log<Record<S::Body>>,
    /// What the last record says of effects. Nobody asks the earlier ones, so it stands beside them: two histories
    /// that differ by it alone are one.
    effects_done: u64,
    /// In an order of their own, so that two of them are told apart by what they know and not by name.
    owners: Vec<Owner<S>>,
    /// What the records say: no part of a state's identity.
    folded: Arc<S>,
    faults: u8,
    /// An owner's memory was not what its records say.
    pub(crate) diverged: bool,
}

#[derive(Debug, Clone)]
struct Owner<S> {
    memory: Memory,
    /// What it knows: what the records up to its own say, and the inputs since; so it is no part of a state's
    /// identity.
    stage: Arc<S>,
}

/// How far an owner has got.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Memory {
    /// The record that its next one has to follow.
    record: u64,
    /// The last input decided on.
    position: u64,
    /// Records whose effects are not known to be stored, oldest first.
    unpublished: Vec<u64>,
}

impl Memory {
    /// Up to which record every effect is known to be stored.
    fn done(&self) -> u64 {
        self.unpublished.first().map_or(self.record, |record| record - 1)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    TakeOver,
    Record { owner: usize, inputs: u64 },
    Publish { owner: usize },
    Crash { owner: usize },
}

impl<S: Stage> Pipe<S> {
    pub(crate) fn new(bounds: Bounds, fresh: &S) -> Pipe<S> {
        let memory = Memory { record: 0, position: 0, unpublished: vec![] };
        let folded = Arc::new(fresh.clone());
        Pipe {
            records: Log::default(),
            effects_done: 0,
            owners: vec![Owner { memory, stage: folded.clone() }],
            folded,
            faults: bounds.faults,
            diverged: false,
        }
    }

    /// What happens without any fault.
    pub(crate) fn steps(&self, inputs: &Log<S::Input>, bounds: Bounds) -> Vec<Step> {
        let mut steps = vec![];
        for (owner, Owner { memory, .. }) in self.owners.iter().enumerate() {
            let waiting = (inputs.last() - memory.position).min(bounds.batch);
            steps.extend((1..=waiting).map(|inputs| Step::Record { owner, inputs }));
            if !memory.unpublished.is_empty() {
                steps.push(Step::Publish { owner });
            }
        }
        steps
    }

    /// Who knows nothing more than its successor would has nothing to lose.
    pub(crate) fn faults(&self, inputs: &Log<S::Input>, gone: Option<Guard>) -> Vec<Step> {
        if self.faults == 0 {
            return vec![];
        }
        let successor = self.successor(inputs, gone);
        let alone = self.owners.len() == 1;
        let loses = |at: &Owner<S>| !alone || at.memory != successor;
        let owners = self.owners.iter().enumerate().filter(|(_, at)| loses(at));
        let mut faults: Vec<Step> = owners.map(|(owner, _)| Step::Crash { owner }).collect();
        if alone {
            faults.push(Step::TakeOver);
        }
        faults
    }

    /// Gives the effects that the step has published.
    pub(crate) fn step(
        &mut self,
        step: &Step,
        inputs: &Log<S::Input>,
        now_ms: i64,
        gone: Option<Guard>,
    ) -> Vec<Effect> {
        let mut published = vec![];
        match *step {
            Step::TakeOver => {
                self.faults -= 1;
                self.take_over(inputs, gone);
            }
            Step::Record { owner, inputs: count } => {
                let Owner { memory, stage } = &mut self.owners[owner];
                let stage = Arc::make_mut(stage);
                for _ in 0..count {
                    memory.position += 1;
                    let sequence = memory.position;
                    let heard_ms =
                        if gone == Some(Guard::TimeIsData) { now_ms } else { inputs.published_ms(sequence) };
                    stage.decide(sequence, heard_ms, &inputs[sequence]);
                }
                self.commit(owner, gone);
            }
            Step::Publish { owner } => {
                let record = self.owners[owner].memory.unpublished.remove(0);
                published.clone_from(&self.records[record].effects);
            }
            Step::Crash { owner } => {
                self.faults -= 1;
                self.owners.remove(owner);
            }
        }
        // Of a deposed owner only its effects can still be heard.
        let last = self.records.last();
        let is_done = |memory: &Memory| memory.record < last && memory.unpublished.is_empty();
        if gone != Some(Guard::RecordFence) {
            self.owners.retain(|at| !is_done(&at.memory));
        }
        if self.owners.is_empty() {
            self.take_over(inputs, gone);
        }
        self.owners.sort_by(|a, b| a.memory.cmp(&b.memory));
        published
    }

    fn commit(&mut self, owner: usize, gone: Option<Guard>) {
        let Owner { memory, stage } = &mut self.owners[owner];
        let Some((body, effects)) = Arc::make_mut(stage).conclude() else { return };
        let has_effects = !effects.is_empty();
        let record = Record {
            position: memory.position,
            base: 0,
            effects_done: 0,
            owner: String::new(),
            machine: String::new(),
            effects,
            body: body.clone(),
        };
        let expected = if gone == Some(Guard::RecordFence) { self.records.last() } else { memory.record };
        match self.records.publish_after(expected, RECORDED_MS, record) {
            Ok(sequence) => {
                self.effects_done = memory.done();
                Arc::make_mut(&mut self.folded).fold(sequence, body);
                Arc::make_mut(stage).committed(sequence);
                if has_effects {
                    memory.unpublished.push(sequence);
                }
                memory.record = sequence;
                self.diverged |= !stage.knows_the_same(&self.folded);
            }
            // Deposed.
            Err(_) => {
                self.owners.remove(owner);
            }
        }
    }

    fn take_over(&mut self, inputs: &Log<S::Input>, gone: Option<Guard>) {
        let memory = self.successor(inputs, gone);
        self.owners.push(Owner { memory, stage: self.folded.clone() });
    }

    /// What a new owner goes by.
    fn successor(&self, inputs: &Log<S::Input>, gone: Option<Guard>) -> Memory {
        let last = self.records.last();
        let done = if gone == Some(Guard::EffectsDone) { last } else { self.effects_done };
        let owed =
            self.records.iter().filter(|(sequence, record)| *sequence > done && !record.effects.is_empty());
        let covered = self.covered();
        // Whoever was there had perhaps read one more.
        let read = (covered + 1).min(inputs.last());
        Memory {
            record: last,
            position: if gone == Some(Guard::PositionInRecord) { read } else { covered },
            unpublished: owed.map(|(sequence, _)| sequence).collect(),
        }
    }

    fn covered(&self) -> u64 {
        self.records.newest().map_or(0, |record| record.position)
    }

    /// What its one owner does is all that can happen to it.
    pub(crate) fn is_certain(&self) -> bool {
        self.faults == 0 && self.owners.len() == 1
    }

    /// Everything is read, recorded and published, as far as those who are there know.
    pub(crate) fn is_idle(&self, inputs: &Log<S::Input>) -> bool {
        self.owners
            .iter()
            .all(|Owner { memory, .. }| memory.position == inputs.last() && memory.unpublished.is_empty())
    }

    /// Inputs that nobody has read yet.
    pub(crate) fn waiting(&self, inputs: &Log<S::Input>) -> u64 {
        let read = self.owners.iter().map(|at| at.memory.position).max();
        inputs.last() - read.unwrap_or_default()
    }

    /// Each record follows the one before it: it covers what comes next, and nothing again (O1, N4).
    pub(crate) fn is_one_chain(&self) -> bool {
        let mut before = 0;
        self.records
            .iter()
            .all(|(_, record)| std::mem::replace(&mut before, record.position) < record.position)
    }

    /// The inputs that a record covers.
    pub(crate) fn covers(&self, sequence: u64) -> std::ops::RangeInclusive<u64> {
        let before = if sequence > 1 { self.records[sequence - 1].position } else { 0 };
        before + 1..=self.records[sequence].position
    }
}

impl<S: Stage> Pipe<S> {
    fn identity(&self) -> impl PartialEq + Hash + '_ {
        let owners: Vec<_> = self.owners.iter().map(|at| &at.memory).collect();
        (&self.records, self.effects_done, owners, self.faults, self.diverged)
    }
}

impl<S: Stage> PartialEq for Pipe<S> {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl<S: Stage> Hash for Pipe<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
