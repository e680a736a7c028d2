//! Events to signals: two gateways, EVENTS, and two owners of one partition around the real
//! `classify::Partition`.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdline_decide::classify::Partition;
use holdline_proto::event::{Frame, Origin};
use holdline_proto::journal::{Disposition, Effect, Record};
use holdline_proto::signal::Classified;
use stateright::{Model, Property};

use crate::broker::Log;
use crate::guards::Guard;
use crate::pipe::{Bounds, Pipe, Stage, Step};
use crate::scene::{BEGIN_MS, Beat, Book, Event, SET, Status, book};

/// Between two frames in EVENTS. Seconds.
const APART_S: i64 = 10;

/// Frames of two gateways, in each gateway's own order and in any order between them.
pub(crate) struct Classifying {
    pub(crate) bounds: Bounds,
    pub(crate) gone: Option<Guard>,
    beats: [Vec<Vec<Event>>; 2],
    fresh: Classifier,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    /// Which gateway wrote which frame.
    order: Vec<usize>,
    events: Log<Frame>,
    pipe: Pipe<Classifier>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Store { gateway: usize },
    Pipe(Step),
}

#[derive(Debug, Clone)]
pub(crate) struct Classifier {
    book: Arc<Book>,
    gone: Option<Guard>,
    partition: Partition,
    pending: Option<Classified>,
}

impl Stage for Classifier {
    type Input = Frame;
    type Body = Classified;

    fn fold(&mut self, sequence: u64, mut body: Classified) {
        if self.gone == Some(Guard::ClaimInRecord) {
            body.claims.clear();
        }
        self.partition.fold(sequence, body);
    }

    fn decide(&mut self, sequence: u64, published_ms: i64, frame: &Frame) {
        let pending =
            self.pending.get_or_insert_with(|| Classified { playbooks: SET.into(), ..Classified::default() });
        self.partition.frame(&self.book.0, sequence, published_ms, frame, pending);
    }

    fn conclude(&mut self) -> Option<(Classified, Vec<Effect>)> {
        let mut body = self.pending.take()?;
        self.partition.conclude(&mut body);
        if self.gone == Some(Guard::WatermarkOfGateway) {
            body.watermark_ms = self.partition.now_ms();
        }
        Some((body, vec![]))
    }

    fn committed(&mut self, sequence: u64) {
        self.partition.committed(sequence, self.partition.now_ms());
    }

    fn knows_the_same(&self, other: &Self) -> bool {
        self.partition == other.partition && self.pending == other.pending
    }
}

impl Classifying {
    pub(crate) fn new(bounds: Bounds, gone: Option<Guard>) -> Classifying {
        // When it happened and when it was accepted is filled in as it is stored.
        let event = |id| Event { id, status: Status::Failed, happened_s: 0, accepted_s: 0, echo: false };
        let rules = "confirm: {failures: 1, stable_for: 0s}\nact:\n  failed: {do: [fail], class: failover}\n\
                     revert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";
        let window_ms = if gone == Some(Guard::DedupClaim) { -1 } else { 24 * 3_600_000 };
        Classifying {
            bounds,
            gone,
            // The same event through both gateways, and twice through one.
            beats: [
                vec![vec![event("a")], vec![event("b"), event("b")], vec![]],
                vec![vec![], vec![event("a")], vec![event("b")]],
            ],
            fresh: Classifier {
                book: Arc::new(book(rules, false, true)),
                gone,
                partition: Partition::new(window_ms, 1_000),
                pending: None,
            },
        }
    }

    /// The next frame of a gateway, if it is on its way or under way already. Its events were accepted while
    /// the frame before it was on its own way.
    fn next(&self, state: &State, gateway: usize) -> Option<Beat> {
        let stored_s = |n: usize| n as i64 * APART_S;
        let mine: Vec<usize> =
            (0..).zip(&state.order).filter(|(_, by)| **by == gateway).map(|(n, _)| n).collect();
        let stored_at = stored_s(state.order.len());
        let accepted_s = mine.last().map_or(stored_at, |n| stored_s(*n)) - 1;
        let events = self.beats[gateway].get(mine.len())?;
        let events =
            events.iter().map(|event| Event { accepted_s, happened_s: accepted_s, ..*event }).collect();
        Some(Beat { gateway: ["g", "h"][gateway], stored_s: stored_at, events })
    }

    fn steps(&self, state: &State) -> Vec<Action> {
        let stores = (0..2).filter(|gateway| self.next(state, *gateway).is_some());
        let mut steps: Vec<Action> = stores.map(|gateway| Action::Store { gateway }).collect();
        steps.extend(state.pipe.steps(&state.events, self.bounds).into_iter().map(Action::Pipe));
        steps
    }
}

impl Model for Classifying {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let pipe = Pipe::new(self.bounds, &self.fresh);
        vec![State { order: vec![], events: Log::default(), pipe }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        actions.extend(state.pipe.faults(&state.events, self.gone).into_iter().map(Action::Pipe));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Store { gateway } => {
                let beat = self.next(before, gateway)?;
                state.events.publish(beat.stored_ms(), beat.frame(before.order.len()));
                state.order.push(gateway);
            }
            Action::Pipe(step) => {
                // When a record was stored matters to its readers only.
                state.pipe.step(&step, &state.events, BEGIN_MS, self.gone);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("O1 one writer, one chain", |_, state: &State| state.pipe.is_one_chain()),
            Property::always("O1 an owner knows what its records say", |_, state: &State| {
                !state.pipe.diverged
            }),
            Property::always("N2 one disposition per acceptance", dispositions_are_single),
            Property::always("N4 a record holds what it covers", records_hold_what_they_cover),
            Property::always("T2 an event counts once", events_count_once),
            Property::always("O4 the watermark passes nothing unread", watermark_passes_nothing),
            Property::always("L1 in the end everything is classified", everything_is_classified),
        ]
    }
}

/// The acceptances that a record disposes of or passes on.
fn origins(record: &Record<Classified>) -> Vec<Origin> {
    let signals = record.body.signals.iter().map(|signal| signal.origin);
    signals.chain(record.body.disposed.iter().map(|disposed| disposed.origin)).collect()
}

fn dispositions_are_single(_: &Classifying, state: &State) -> bool {
    let mut all: Vec<Origin> = state.pipe.records.iter().flat_map(|(_, record)| origins(record)).collect();
    let found = all.len();
    all.sort();
    all.dedup();
    all.len() == found
}

fn records_hold_what_they_cover(_: &Classifying, state: &State) -> bool {
    state.pipe.records.iter().all(|(sequence, record)| {
        let covered = state.pipe.covers(sequence).flat_map(|sequence| {
            let events = (0u32..).zip(&state.events[sequence].events);
            events.map(move |(index, _)| Origin { sequence, index })
        });
        let mut found = origins(record);
        found.sort();
        covered.eq(found)
    })
}

/// The first acceptance of an id becomes a signal, and all others are duplicates of it.
fn events_count_once(_: &Classifying, state: &State) -> bool {
    let mut first = BTreeMap::new();
    for (sequence, frame) in state.events.iter() {
        for (index, accepted) in (0u32..).zip(&frame.events) {
            // An accept id of this model ends with the event's own.
            let (_, id) = accepted.accept_id.rsplit_once('-').unwrap();
            first.entry(id).or_insert(Origin { sequence, index });
        }
    }
    state.pipe.records.iter().all(|(_, record)| {
        record.body.signals.iter().all(|signal| first[signal.event_id.as_str()] == signal.origin)
            && record.body.disposed.iter().all(|disposed| {
                disposed.disposition == Disposition::Duplicate { of: first[disposed.event_id.as_str()] }
            })
    })
}

/// What was accepted before a record's watermark is in it or before it, whether it is stored by now or not.
fn watermark_passes_nothing(model: &Classifying, state: &State) -> bool {
    state.pipe.records.iter().all(|(_, record)| {
        let unread = state.events.iter().filter(|(sequence, _)| *sequence > record.position);
        let unread = unread.flat_map(|(_, frame)| frame.events.iter().map(|accepted| accepted.accepted_ms));
        let frames = (0..2).filter_map(|gateway| model.next(state, gateway));
        let unsent = frames.flat_map(|beat| beat.events).map(|event| event.accepted_ms());
        unread.chain(unsent).all(|accepted_ms| accepted_ms >= record.body.watermark_ms)
    })
}

fn everything_is_classified(model: &Classifying, state: &State) -> bool {
    let done = || {
        let covered = state.pipe.records.newest().map_or(0, |record| record.position);
        covered == state.events.last() && state.pipe.is_idle(&state.events)
    };
    !model.steps(state).is_empty() || done()
}
