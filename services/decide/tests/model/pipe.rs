//! The protocol of `stage::pipe` as a step machine: read, decide, commit one fenced record, then its effects;
//! a new owner reads the last record, folds, and publishes again what the record does not know to be done.
//!
//! A crash, or a second owner who takes over while the first still believes in its lease, can come between
//! any two steps. What a refused owner, a lost answer and a new connection have in common is one rule: drop
//! everything in memory; so each of them is a crash here.

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
    /// In an order of their own, so that two of them are told apart by what they know and not by name.
    owners: Vec<Owner<S>>,
    faults: u8,
    /// An owner's memory was not what its records say.
    pub(crate) diverged: bool,
    /// The furthest that anybody has read, for an owner who trusts that.
    reach: u64,
}

#[derive(Debug, Clone)]
struct Owner<S> {
    /// The record that its next one has to follow.
    record: u64,
    /// The last input decided on.
    position: u64,
    /// Of the input that its last record covers.
    settled: u64,
    /// Effects that are not known to be stored: record and index.
    unpublished: Vec<(u64, usize)>,
    /// What it knows: what the records up to its own say, and the inputs since; so it is no part of a state's
    /// identity.
    stage: Arc<S>,
}

impl<S> Owner<S> {
    fn identity(&self) -> impl Ord + Hash + '_ {
        (self.record, self.position, self.settled, &self.unpublished)
    }

    /// Up to which record every effect is known to be stored.
    fn done(&self) -> u64 {
        self.unpublished.iter().map(|(record, _)| record - 1).min().unwrap_or(self.record)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    TakeOver,
    Decide { owner: usize },
    Commit { owner: usize },
    Publish { owner: usize },
    Crash { owner: usize },
}

impl<S: Stage> Pipe<S> {
    pub(crate) fn new(bounds: Bounds) -> Pipe<S> {
        Pipe { records: Log::default(), owners: vec![], faults: bounds.faults, diverged: false, reach: 0 }
    }

    /// What happens without any fault.
    pub(crate) fn steps(&self, inputs: &Log<S::Input>, bounds: Bounds) -> Vec<Step> {
        let mut steps = vec![];
        if self.owners.is_empty() {
            steps.push(Step::TakeOver);
        }
        for (owner, at) in self.owners.iter().enumerate() {
            if at.position < inputs.last() && at.position < at.settled + bounds.batch {
                steps.push(Step::Decide { owner });
            }
            if at.position > at.settled {
                steps.push(Step::Commit { owner });
            }
            if !at.unpublished.is_empty() {
                steps.push(Step::Publish { owner });
            }
        }
        steps
    }

    pub(crate) fn faults(&self) -> Vec<Step> {
        if self.faults == 0 {
            return vec![];
        }
        let mut faults: Vec<Step> = (0..self.owners.len()).map(|owner| Step::Crash { owner }).collect();
        if self.owners.len() == 1 {
            faults.push(Step::TakeOver);
        }
        faults
    }

    /// Gives the effect that the step has published.
    pub(crate) fn step(
        &mut self,
        step: &Step,
        fresh: &S,
        inputs: &Log<S::Input>,
        now_ms: i64,
        gone: Option<Guard>,
    ) -> Option<Effect> {
        let mut published = None;
        match *step {
            Step::TakeOver => {
                self.faults -= u8::from(!self.owners.is_empty());
                self.owners.push(self.recover(fresh, gone));
            }
            Step::Decide { owner } => {
                let at = &mut self.owners[owner];
                at.position += 1;
                if gone == Some(Guard::PositionInRecord) {
                    self.reach = self.reach.max(at.position);
                }
                let heard_ms =
                    if gone == Some(Guard::TimeIsData) { now_ms } else { inputs.published_ms(at.position) };
                Arc::make_mut(&mut at.stage).decide(at.position, heard_ms, &inputs[at.position]);
            }
            Step::Commit { owner } => self.commit(owner, fresh, gone),
            Step::Publish { owner } => {
                let (record, index) = self.owners[owner].unpublished.remove(0);
                published = Some(self.records[record].effects[index].clone());
            }
            Step::Crash { owner } => {
                self.faults -= 1;
                self.owners.remove(owner);
            }
        }
        self.owners.sort_by(|a, b| a.identity().cmp(&b.identity()));
        published
    }

    fn commit(&mut self, owner: usize, fresh: &S, gone: Option<Guard>) {
        let at = &mut self.owners[owner];
        let Some((body, effects)) = Arc::make_mut(&mut at.stage).conclude() else {
            at.settled = at.position;
            return;
        };
        let indices = 0..effects.len();
        let record = Record {
            position: at.position,
            base: 0,
            effects_done: at.done(),
            owner: String::new(),
            machine: String::new(),
            effects,
            body,
        };
        let expected = if gone == Some(Guard::RecordFence) { self.records.last() } else { at.record };
        match self.records.publish_after(expected, RECORDED_MS, record) {
            Ok(sequence) => {
                Arc::make_mut(&mut at.stage).committed(sequence);
                at.unpublished.extend(indices.map(|index| (sequence, index)));
                at.record = sequence;
                at.settled = at.position;
                self.diverged |= !at.stage.knows_the_same(&folded(fresh, &self.records));
            }
            // Deposed.
            Err(_) => {
                self.owners.remove(owner);
            }
        }
    }

    fn recover(&self, fresh: &S, gone: Option<Guard>) -> Owner<S> {
        let done = self.records.newest().map_or(0, |record| record.effects_done);
        let done = if gone == Some(Guard::EffectsDone) { self.records.last() } else { done };
        let after = self.records.iter().filter(|(sequence, _)| *sequence > done);
        let unpublished = after
            .flat_map(|(sequence, record)| (0..record.effects.len()).map(move |index| (sequence, index)))
            .collect();
        let covered = self.records.newest().map_or(0, |record| record.position);
        let position = if gone == Some(Guard::PositionInRecord) { self.reach } else { covered };
        Owner {
            record: self.records.last(),
            position,
            settled: position,
            unpublished,
            stage: Arc::new(folded(fresh, &self.records)),
        }
    }

    /// Everything is read, recorded and published, as far as those who are there know.
    pub(crate) fn is_idle(&self, inputs: &Log<S::Input>) -> bool {
        let idle = |at: &Owner<S>| {
            at.position == inputs.last() && at.settled == at.position && at.unpublished.is_empty()
        };
        !self.owners.is_empty() && self.owners.iter().all(idle)
    }

    /// Inputs that nobody has read yet.
    pub(crate) fn waiting(&self, inputs: &Log<S::Input>) -> u64 {
        let read = self.owners.iter().map(|at| at.position).max();
        inputs.last() - read.unwrap_or_else(|| self.records.newest().map_or(0, |record| record.position))
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

/// What a new owner knows.
fn folded<S: Stage>(fresh: &S, records: &Log<Record<S::Body>>) -> S {
    let mut stage = fresh.clone();
    for (sequence, record) in records.iter() {
        stage.fold(sequence, record.body.clone());
    }
    stage
}

impl<S: Stage> PartialEq for Pipe<S> {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Owner<S>, &Owner<S>)| a.identity().cmp(&b.identity()).is_eq();
        self.records == other.records
            && self.owners.len() == other.owners.len()
            && self.owners.iter().zip(&other.owners).all(same)
            && (self.faults, self.diverged, self.reach) == (other.faults, other.diverged, other.reach)
    }
}

impl<S: Stage> Hash for Pipe<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.records.hash(state);
        for owner in &self.owners {
            owner.identity().hash(state);
        }
        (self.owners.len(), self.faults, self.diverged, self.reach).hash(state);
    }
}
