//! Signals to incidents: INPUTS, two owners of one partition around the real `debounce::Partition`, the
//! commands and timers that follow their records, and an executor that answers as it likes.
//!
//! The seam to [`crate::classifier`]: INPUTS holds what the real classifier makes of EVENTS, once and in order,
//! though as late as it likes. The seam to [`crate::executor`]: each issue of a command gets an outcome, late
//! or soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use holdline_decide::classify;
use holdline_decide::debounce::{self, Input, Partition};
use holdline_decide::replay::{Recorded, Replay, Verdict};
use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::Lane;
use holdline_proto::journal::{Decided, Decision, Disposition, Effect, WakeUp, What};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::signal::{Classified, Health, Signal};
use serde::Serialize;
use stateright::{Model, Property};

use crate::broker::{Log, hash_of};
use crate::guards::Guard;
use crate::pipe::{Bounds, Pipe, Stage, Step};
use crate::scene::{Beat, Book, Event, SET, book};

/// What the playbook says, once more: properties are held against this, and mutants change the other one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) failures: u32,
    pub(crate) stable_s: i64,
    pub(crate) healthy: u32,
    pub(crate) healthy_s: i64,
    pub(crate) silence_s: i64,
    pub(crate) changes_only: bool,
    pub(crate) flapping: bool,
}

/// The first wait of an entity that flaps. Seconds.
pub(crate) const BACK_OFF_S: i64 = 30;

impl Terms {
    fn book(&self) -> Book {
        let Terms { failures, stable_s, healthy, healthy_s, silence_s, .. } = self;
        let flapping = if self.flapping {
            format!(
                ", flapping: {{changes: 2, within: 10m, back_off: {{first: {BACK_OFF_S}s, factor: 2, most: 30m}}}}"
            )
        } else {
            String::new()
        };
        let rules = format!(
            "confirm: {{failures: {failures}, stable_for: {stable_s}s{flapping}}}\nact:\n  failed: {{do: [fail], class: \
             failover}}\n  degraded: {{do: [scale], class: scaling}}\nrevert: {{healthy: {healthy}, stable_for: \
             {healthy_s}s, silence: {silence_s}s, do: [restore]}}\n"
        );
        book(&rules, self.changes_only, true)
    }
}

/// A run of the outside world: at each time, one of several frames.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) terms: Terms,
    pub(crate) slots: Vec<Vec<Beat>>,
    /// Frames may wait for the classifier while time goes on.
    pub(crate) lags: bool,
    /// So many inputs may wait for the debouncer.
    pub(crate) backlog: u64,
    /// Nothing comes before everything that came is dealt with.
    pub(crate) calm: bool,
    /// With as many faults as elsewhere there would be more states than a test that everybody runs should search.
    pub(crate) fewer_faults: u8,
    /// How the executor may answer the first issue of a command; a later one is carried out.
    pub(crate) answers: Vec<Done>,
    /// A revert that was carried out is looked at, and a verdict follows: it has worked, or not.
    pub(crate) proves: bool,
}

/// What the key of an issue ends with where its verdict is meant.
const VERDICT: &str = "-verified";
/// Longer than any script: that nobody tells is a timeline of `debounce::tests`.
const VERDICT_WITHIN_MS: i64 = 1_000_000_000;

pub(crate) struct Debouncing {
    bounds: Bounds,
    gone: Option<Guard>,
    script: Script,
    /// What the classifier makes of each frame of each slot.
    classified: Vec<Vec<Classified>>,
    /// Histories that were replayed, and whether they gave the same: many states have the same one.
    replayed: Mutex<HashMap<u64, bool>>,
    fresh: Debouncer,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    /// Which of its slot's frames came.
    came: Vec<usize>,
    /// How many of them the classifier has passed on.
    passed_on: usize,
    now_ms: i64,
    inputs: Log<Entered>,
    pipe: Pipe<Debouncer>,
    /// Schedules of the broker, by their subject.
    timers: BTreeMap<Subject, Pending>,
    /// Issue keys of the commands that are stored.
    commanded: BTreeSet<String>,
    answered: BTreeSet<String>,
    /// Replaying a record gave something else.
    differs: bool,
}

/// Incident and generation.
type Subject = (String, u64);

/// Generation and deadline of a wake-up. Unix milliseconds.
type Pending = (u64, i64);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Come { which: usize },
    PassOn { frames: usize },
    Fire(Subject),
    Answer { issue: String, nth: usize },
    Pipe(Step),
}

/// A message of INPUTS.
#[derive(Debug, Clone, Serialize)]
pub(crate) enum Entered {
    Classified(Classified),
    Fired(WakeUp),
    Outcome(Outcome),
}

impl Entered {
    fn as_input(&self) -> Input<'_> {
        match self {
            Entered::Classified(classified) => Input::Classified(classified),
            Entered::Fired(wake_up) => Input::Fired(wake_up),
            Entered::Outcome(outcome) => Input::Outcome(outcome),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Debouncer {
    book: Arc<Book>,
    gone: Option<Guard>,
    partition: Partition,
    step: debounce::Step,
}

impl Debouncer {
    /// The input as a machine sees it from which a guard was taken.
    fn blinded(&self, input: &Entered) -> Entered {
        let mut input = input.clone();
        match (&mut input, self.gone) {
            (Entered::Classified(classified), Some(Guard::EventOrder)) => {
                classified.signals.iter_mut().for_each(|signal| signal.event_ms = signal.received_ms);
            }
            (Entered::Classified(classified), Some(Guard::Echo)) => {
                classified.signals.iter_mut().for_each(|signal| signal.echo = None);
            }
            (Entered::Classified(classified), Some(Guard::Lanes)) => {
                let degraded =
                    classified.signals.iter_mut().filter(|signal| signal.health == Health::Degraded);
                degraded.for_each(|signal| signal.health = Health::Failed);
            }
            (Entered::Classified(classified), Some(Guard::Watermark)) => classified.watermark_ms = i64::MAX,
            (Entered::Outcome(outcome), Some(Guard::Proof)) => outcome.verdict_within_ms = None,
            (Entered::Fired(wake_up), Some(Guard::TimerGeneration)) => {
                let armed = self.partition.tracks().get(&wake_up.key).and_then(|track| track.armed);
                wake_up.generation = armed.map_or(wake_up.generation, |armed| armed.generation);
            }
            _ => {}
        }
        input
    }
}

impl Stage for Debouncer {
    type Input = Entered;
    type Body = Decided;

    fn fold(&mut self, _sequence: u64, body: Decided) {
        self.partition.fold(body);
    }

    fn decide(&mut self, sequence: u64, published_ms: i64, input: &Entered) {
        let seen = self.blinded(input);
        self.partition.step(&*self.book, sequence, published_ms, seen.as_input(), &mut self.step);
    }

    fn conclude(&mut self) -> Option<(Decided, Vec<Effect>)> {
        if self.step.changed.is_empty() && self.step.disposed.is_empty() {
            return None;
        }
        let mut step = std::mem::take(&mut self.step);
        let effects = std::mem::take(&mut step.effects);
        Some((self.partition.record(&mut step, &[]), effects))
    }

    fn committed(&mut self, _sequence: u64) {}

    fn knows_the_same(&self, other: &Self) -> bool {
        self.partition == other.partition
    }
}

impl Debouncing {
    pub(crate) fn new(script: Script, bounds: Bounds, gone: Option<Guard>) -> Debouncing {
        let mut terms = script.terms;
        match gone {
            Some(Guard::Threshold) => terms.failures = 1,
            Some(Guard::StabilityWindow) => terms.stable_s = 0,
            Some(Guard::HealthySpan) => terms.healthy_s = 0,
            _ => {}
        }
        let mut book = terms.book();
        if gone == Some(Guard::HealthyInARow) {
            let playbook = book.0.playbooks.values_mut().next().unwrap();
            playbook.failover.as_mut().unwrap().revert.healthy = 1;
        }
        let book = Arc::new(book);
        Debouncing {
            classified: classified(&script.slots, &book),
            replayed: Mutex::default(),
            bounds,
            gone,
            script,
            fresh: Debouncer { book, gone, partition: Partition::new(0), step: debounce::Step::default() },
        }
    }

    fn pipe_steps(&self, state: &State) -> Vec<Step> {
        state.pipe.steps(&state.inputs, self.bounds)
    }

    fn steps(&self, state: &State) -> Vec<Action> {
        let mut steps: Vec<Action> = self.pipe_steps(state).into_iter().map(Action::Pipe).collect();
        let busy = state.pipe.waiting(&state.inputs) >= self.script.backlog
            || (self.script.calm && !state.pipe.is_idle(&state.inputs));
        let next = self.script.slots.get(state.came.len());
        if let Some(frames) =
            next.filter(|_| !busy && (self.script.lags || state.passed_on == state.came.len()))
        {
            steps.extend((0..frames.len()).map(|which| Action::Come { which }));
        }
        // The classifier reads one frame, or all that wait.
        let waiting = state.came.len() - state.passed_on;
        if !busy && waiting > 0 {
            steps.push(Action::PassOn { frames: waiting });
        }
        if !busy && waiting > 1 {
            steps.push(Action::PassOn { frames: 1 });
        }
        if !busy {
            // Never early, and as late as it likes.
            let until_ms = next.map_or(i64::MAX, |frames| frames[0].stored_ms());
            let due = state.timers.iter().filter(|(_, (_, deadline_ms))| *deadline_ms <= until_ms);
            steps.extend(due.map(|(subject, _)| Action::Fire(subject.clone())));
            for issue in state.commanded.difference(&state.answered) {
                let ways = match issue {
                    verdict if verdict.ends_with(VERDICT) => 2,
                    first if first.ends_with("-1") => self.script.answers.len(),
                    _ => 1,
                };
                steps.extend((0..ways).map(|nth| Action::Answer { issue: issue.clone(), nth }));
            }
        }
        steps
    }

    fn publish(&self, state: &mut State, effect: Effect) {
        match effect {
            Effect::Command(command) => {
                state.commanded.insert(command.issue_key());
            }
            Effect::WakeAt(wake_up) => {
                let own = if self.gone == Some(Guard::TimerSubject) { 0 } else { wake_up.generation };
                let pending = (wake_up.generation, wake_up.deadline_ms);
                state.timers.insert((wake_up.incident, own), pending);
            }
        }
    }
}

/// What the real classifier makes of each frame. What it makes of a frame's events does not depend on the
/// other frames, because ids differ; what it knows of time does, and there only when they came.
fn classified(slots: &[Vec<Beat>], book: &Book) -> Vec<Vec<Classified>> {
    let of = |slot: usize, which: usize| {
        let mut partition = classify::Partition::new(24 * 3_600_000, 1_000);
        for (n, frames) in (0..slot).zip(slots) {
            let sequence = n as u64 + 1;
            let mut out = Classified::default();
            partition.frame(&book.0, sequence, frames[0].stored_ms(), &frames[0].frame(n), &mut out);
        }
        let beat = &slots[slot][which];
        let mut out = Classified { playbooks: SET.into(), ..Classified::default() };
        partition.frame(&book.0, slot as u64 + 1, beat.stored_ms(), &beat.frame(slot), &mut out);
        partition.conclude(&mut out);
        for (signal, event) in out.signals.iter_mut().zip(&beat.events) {
            signal.echo = event.echo.then(|| "an action of ours".into());
        }
        out
    };
    (0..slots.len()).map(|slot| (0..slots[slot].len()).map(|which| of(slot, which)).collect()).collect()
}

/// One record for several frames.
fn joined(mut records: impl Iterator<Item = Classified>) -> Classified {
    let first = records.next().unwrap();
    records.fold(first, |mut all, next| {
        all.signals.extend(next.signals);
        all.said.extend(next.said);
        all.disposed.extend(next.disposed);
        all.claims.extend(next.claims);
        Classified {
            signals: all.signals,
            said: all.said,
            disposed: all.disposed,
            claims: all.claims,
            ..next
        }
    })
}

impl Model for Debouncing {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            came: vec![],
            passed_on: 0,
            now_ms: self.script.slots[0][0].stored_ms(),
            inputs: Log::default(),
            pipe: Pipe::new(self.bounds, &self.fresh),
            timers: BTreeMap::new(),
            commanded: BTreeSet::new(),
            answered: BTreeSet::new(),
            differs: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        actions.extend(state.pipe.faults(&state.inputs, self.gone).into_iter().map(Action::Pipe));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Come { which } => {
                let beat = &self.script.slots[before.came.len()][which];
                state.came.push(which);
                state.now_ms = before.now_ms.max(beat.stored_ms());
                if !self.script.lags {
                    return self.next_state(&state, Action::PassOn { frames: 1 });
                }
            }
            Action::PassOn { frames } => {
                let range = before.passed_on..before.passed_on + frames;
                let records = range.map(|slot| self.classified[slot][before.came[slot]].clone());
                state.inputs.publish(before.now_ms, Entered::Classified(joined(records)));
                state.passed_on += frames;
            }
            Action::Fire(subject) => {
                let (generation, deadline_ms) = state.timers.remove(&subject)?;
                let effects = before.pipe.records.iter().flat_map(|(_, record)| &record.effects);
                let mut armed = effects.filter_map(|effect| match effect {
                    Effect::WakeAt(wake_up) => Some(wake_up),
                    Effect::Command(_) => None,
                });
                let same = |wake_up: &&WakeUp| {
                    (&wake_up.incident, wake_up.generation, wake_up.deadline_ms)
                        == (&subject.0, generation, deadline_ms)
                };
                let wake_up = armed.find(same)?.clone();
                state.now_ms = before.now_ms.max(deadline_ms);
                state.inputs.publish(state.now_ms, Entered::Fired(wake_up));
            }
            Action::Answer { issue, nth } => {
                let key = issue.strip_suffix(VERDICT);
                let is_issue = |command: &Command| command.issue_key() == key.unwrap_or(&issue);
                let command = commands(before).find(|(_, command)| is_issue(command))?.1;
                let done = match key {
                    Some(_) => Done::Verified { worked: Some(nth == 0), seen: String::new() },
                    None if command.decision == 1 => self.script.answers[nth].clone(),
                    None => CARRIED,
                };
                let proves = self.script.proves && command.direction == Direction::Revert && done == CARRIED;
                if proves {
                    state.commanded.insert(format!("{issue}{VERDICT}"));
                }
                let verdict_within_ms = proves.then_some(VERDICT_WITHIN_MS);
                let outcome = Outcome { verdict_within_ms, ..Outcome::of(command, done, 1) };
                state.inputs.publish(before.now_ms, Entered::Outcome(outcome));
                state.answered.insert(issue);
            }
            Action::Pipe(step) => {
                let records = before.pipe.records.last();
                let published = state.pipe.step(&step, &state.inputs, before.now_ms, self.gone);
                published.into_iter().for_each(|effect| self.publish(&mut state, effect));
                if state.pipe.records.last() > records {
                    state.differs |= !self.replays(&state);
                }
            }
        }
        if self.script.calm && state.pipe.is_certain() {
            while let Some(step) = self.pipe_steps(&state).into_iter().next() {
                let published = state.pipe.step(&step, &state.inputs, state.now_ms, self.gone);
                published.into_iter().for_each(|effect| self.publish(&mut state, effect));
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
            Property::always("O4 a replay gives the same", |_, state: &State| !state.differs),
            Property::always("N2 one disposition per acceptance", dispositions_are_single),
            Property::always("T1 one issue at a time", issues_follow_outcomes),
            Property::always("O2 decisions count up", decisions_count_up),
            Property::always("A1 no remedy before threshold and window", remedies_are_due),
            Property::always("A1 no revert before health is proven", reverts_are_due),
            Property::always("E11 no revert is over before it is proven", reverts_are_proven),
            Property::always("A2 a warning feeds no failover", lanes_are_kept),
            Property::always("O3 an older event moves nothing", older_events_are_stale),
            Property::always("C4 an echo counts for nothing", echoes_count_for_nothing),
            Property::always("O4 a timer overtakes no event", timers_overtake_nothing),
            Property::always("O4 a wake-up acts once it has fired", wake_ups_have_fired),
            Property::always("L1 in the end everything due is done", everything_due_is_done),
        ]
    }
}

const CARRIED: Done = Done::Carried { status: 200 };

impl Debouncing {
    /// Whether the last record comes out again, byte for byte, from the inputs that it covers.
    fn replays(&self, state: &State) -> bool {
        // A machine that was blinded at its boundary would be replayed with open eyes.
        if !matches!(self.gone, None | Some(Guard::TimeIsData)) {
            return true;
        }
        let history = hash_of(&(&state.pipe.records, &state.inputs));
        if let Some(same) = self.replayed.lock().unwrap().get(&history) {
            return *same;
        }
        let same = self.replays_anew(state);
        self.replayed.lock().unwrap().insert(history, same);
        same
    }

    fn replays_anew(&self, state: &State) -> bool {
        let last = state.pipe.records.last();
        let mut replay = Replay::new(0);
        for (_, record) in state.pipe.records.iter().filter(|(sequence, _)| *sequence < last) {
            replay.skip(record.clone());
        }
        let inputs = state.pipe.covers(last).map(|sequence| Recorded {
            sequence,
            published_ms: state.inputs.published_ms(sequence),
            input: state.inputs[sequence].as_input(),
        });
        replay.record(&*self.fresh.book, inputs, state.pipe.records[last].clone()) == Verdict::Same
    }
}

/// Every command that a record holds, with the decision that issued it.
fn commands(state: &State) -> impl Iterator<Item = (&Decision, &Command)> {
    decisions(state).filter_map(|decision| match &decision.what {
        What::Commanded(command) => Some((decision, &**command)),
        _ => None,
    })
}

fn decisions(state: &State) -> impl Iterator<Item = &Decision> {
    state.pipe.records.iter().flat_map(|(_, record)| &record.body.decisions)
}

/// The signals up to an input, in order, the later ones of that input left out one by one: a decision was
/// made after one of them.
fn signals(state: &State, until: u64) -> impl Iterator<Item = &Signal> {
    let inputs = state.inputs.iter().take_while(move |(sequence, _)| *sequence <= until);
    inputs.flat_map(|(_, input)| match input {
        Entered::Classified(classified) => &classified.signals[..],
        _ => &[],
    })
}

/// Whether so many events of one kind in a row, over so long a time, end within an input. Written from
/// requirements.md D2, D3 and C4: an older event or an echo is not seen at all, and `breaks` says what ends a row.
fn row_ends_within(
    state: &State,
    input: u64,
    counts: impl Fn(Health) -> bool,
    breaks: impl Fn(Health) -> bool,
    (least, span_s): (u32, i64),
) -> bool {
    let mut newest_ms = i64::MIN;
    let mut row: Vec<i64> = vec![];
    let mut found = false;
    for signal in signals(state, input) {
        if signal.event_ms < newest_ms || signal.echo.is_some() {
            continue;
        }
        newest_ms = signal.event_ms;
        if counts(signal.health) {
            row.push(signal.event_ms);
            found |= row.len() >= least as usize && row[row.len() - 1] - row[0] >= span_s * 1_000;
        } else if breaks(signal.health) {
            row.clear();
        }
    }
    found
}

fn trouble(lane: Lane) -> Health {
    match lane {
        Lane::Failover => Health::Failed,
        Lane::Scaling => Health::Degraded,
    }
}

fn dispositions_are_single(_: &Debouncing, state: &State) -> bool {
    let disposed = state.pipe.records.iter().flat_map(|(_, record)| &record.body.disposed);
    let mut seen = BTreeSet::new();
    disposed.into_iter().all(|disposed| seen.insert(disposed.origin))
}

/// A command is issued again only after its issue before it was reported not to have been carried out.
fn issues_follow_outcomes(_: &Debouncing, state: &State) -> bool {
    commands(state).all(|(decision, command)| {
        let earlier = commands(state).filter(|(_, other)| {
            other.action_key() == command.action_key() && other.decision < command.decision
        });
        let same = commands(state).filter(|(_, other)| other.issue_key() == command.issue_key());
        let reported = |issue: &Command| {
            state.inputs.iter().take_while(|(sequence, _)| *sequence <= decision.input).any(|(_, input)| {
                matches!(input, Entered::Outcome(outcome) if outcome.decision == issue.decision
                    && outcome.incident == issue.incident && outcome.result != CARRIED)
            })
        };
        same.count() == 1 && earlier.into_iter().all(|(_, issue)| reported(issue))
    })
}

/// Whatever closed an incident, a look had told before that each step of its revert has worked, or that it shows what the
/// remedy of the next has done.
fn reverts_are_proven(_: &Debouncing, state: &State) -> bool {
    let closed = decisions(state).filter(|decision| matches!(decision.what, What::Closed { .. }));
    closed.into_iter().all(|closed| {
        let remedied_again = commands(state).any(|(decision, command)| {
            command.direction == Direction::Remediate
                && command.incident != closed.incident
                && decision.input < closed.input
        });
        let outcomes = || {
            let until = state.inputs.iter().take_while(|(sequence, _)| *sequence <= closed.input);
            until.filter_map(|(_, input)| match input {
                Entered::Outcome(outcome) if outcome.incident == closed.incident => Some(outcome),
                _ => None,
            })
        };
        outcomes().filter(|outcome| outcome.verdict_within_ms.is_some()).all(|carried| {
            outcomes().any(|verdict| {
                let has_worked = match verdict.result {
                    Done::Verified { worked, .. } => worked == Some(true) || remedied_again,
                    _ => false,
                };
                has_worked && (verdict.step, verdict.decision) == (carried.step, carried.decision)
            })
        })
    })
}

fn decisions_count_up(_: &Debouncing, state: &State) -> bool {
    let mut latest: BTreeMap<&str, u32> = BTreeMap::new();
    commands(state).all(|(_, command)| {
        let latest = latest.entry(&command.incident).or_default();
        std::mem::replace(latest, command.decision) + 1 == command.decision
    })
}

fn remedies_are_due(model: &Debouncing, state: &State) -> bool {
    let terms = model.script.terms;
    commands(state).filter(|(_, command)| command.direction == Direction::Remediate).all(
        |(decision, command)| {
            let kind = trouble(command.key.lane);
            // Where a state persists until the source says otherwise, the window's end confirms; see the timers.
            let needed = if terms.changes_only { (1, 0) } else { (terms.failures, terms.stable_s) };
            row_ends_within(
                state,
                decision.input,
                |health| health == kind,
                |health| health == Health::Healthy,
                needed,
            )
        },
    )
}

fn reverts_are_due(model: &Debouncing, state: &State) -> bool {
    let terms = model.script.terms;
    commands(state).filter(|(_, command)| command.direction == Direction::Revert).all(
        |(decision, command)| {
            let healthy = |health| health == Health::Healthy;
            let needed = (terms.healthy, terms.healthy_s);
            let silently = decisions(state).any(|earlier| {
                earlier.incident == command.incident && matches!(earlier.what, What::SilentlyRecovered { .. })
            });
            silently || row_ends_within(state, decision.input, healthy, |health| !healthy(health), needed)
        },
    )
}

fn lanes_are_kept(_: &Debouncing, state: &State) -> bool {
    commands(state).filter(|(_, command)| command.action == "fail").all(|(decision, command)| {
        let failed = |signal: &Signal| signal.health == Health::Failed;
        command.key.lane == Lane::Failover && signals(state, decision.input).any(failed)
    })
}

fn older_events_are_stale(_: &Debouncing, state: &State) -> bool {
    let disposed = || state.pipe.records.iter().flat_map(|(_, record)| &record.body.disposed);
    let mut newest_ms = i64::MIN;
    signals(state, u64::MAX).all(|signal| {
        let older = signal.event_ms < newest_ms;
        if signal.echo.is_none() {
            newest_ms = newest_ms.max(signal.event_ms);
        }
        let said = disposed().find(|disposed| disposed.origin == signal.origin);
        said.is_none_or(|said| matches!(said.disposition, Disposition::Stale { .. }) == older)
    })
}

fn echoes_count_for_nothing(_: &Debouncing, state: &State) -> bool {
    let disposed = state.pipe.records.iter().flat_map(|(_, record)| &record.body.disposed);
    let counted = disposed.filter(|disposed| matches!(disposed.disposition, Disposition::Counted { .. }));
    let echoes: BTreeSet<_> =
        signals(state, u64::MAX).filter(|signal| signal.echo.is_some()).map(|signal| signal.origin).collect();
    counted.into_iter().all(|disposed| !echoes.contains(&disposed.origin))
}

/// When a decision was due that nothing but time has led to. Unix milliseconds.
fn due_ms(model: &Debouncing, state: &State, decision: &Decision) -> Option<i64> {
    let terms = model.script.terms;
    let received = |health: &dyn Fn(Health) -> bool| {
        let mut newest_ms = i64::MIN;
        let mut times = vec![];
        for signal in signals(state, decision.input) {
            if signal.event_ms >= newest_ms {
                newest_ms = signal.event_ms;
                if health(signal.health) {
                    times.push(signal.received_ms);
                } else {
                    times.clear();
                }
            }
        }
        times
    };
    match &decision.what {
        What::SilentlyRecovered { .. } => {
            received(&|_| true).last().map(|last| last + terms.silence_s * 1_000)
        }
        What::Confirmed { .. } if terms.changes_only && terms.stable_s > 0 => {
            let kind = trouble(decision.key.lane);
            // None: the trouble was over before the window was.
            Some(
                received(&|health| health == kind)
                    .first()
                    .map_or(i64::MAX, |first| first + terms.stable_s * 1_000),
            )
        }
        What::Commanded(command) if command.direction == Direction::Remediate && command.decision == 1 => {
            decisions(state).find_map(|earlier| match earlier.what {
                What::BackedOff { until_ms, .. } if earlier.incident == decision.incident => Some(until_ms),
                _ => None,
            })
        }
        _ => None,
    }
}

/// What was accepted before a wake-up's time was decided on before it acted.
fn timers_overtake_nothing(model: &Debouncing, state: &State) -> bool {
    decisions(state).all(|decision| {
        let Some(due_ms) = due_ms(model, state, decision) else { return true };
        let read: BTreeSet<&str> =
            signals(state, decision.input).map(|signal| signal.event_id.as_str()).collect();
        let overtaken = |event: &Event| event.accepted_ms() < due_ms && !read.contains(event.id);
        // What has not come yet was accepted all the same; which frame will come does not matter then.
        let came = state.came.iter().zip(&model.script.slots).map(|(which, slot)| &slot[*which]);
        let coming = model.script.slots.iter().skip(state.came.len()).filter(|slot| slot.len() == 1);
        let mut frames = came.chain(coming.map(|slot| &slot[0]));
        !frames.any(|beat| beat.events.iter().any(overtaken))
    })
}

/// The wake-up that was armed when time alone led to a decision is in INPUTS by then.
fn wake_ups_have_fired(model: &Debouncing, state: &State) -> bool {
    decisions(state).all(|decision| {
        let Some(due_ms) = due_ms(model, state, decision) else { return true };
        let effects = state.pipe.records.iter().filter(|(_, record)| record.position < decision.input);
        let armed = effects.flat_map(|(_, record)| &record.effects).filter_map(|effect| match effect {
            // A later one is for what is wanted next: what was due may have waited its turn.
            Effect::WakeAt(wake_up) if wake_up.key == decision.key && wake_up.deadline_ms <= due_ms => {
                Some(wake_up.generation)
            }
            _ => None,
        });
        let Some(armed) = armed.max() else { return due_ms == i64::MIN };
        state.inputs.iter().take_while(|(sequence, _)| *sequence <= decision.input).any(
            |(_, input)| matches!(input, Entered::Fired(fired) if fired.generation == armed && fired.key == decision.key),
        )
    })
}

/// Once nothing but a fault can happen: everything is decided, every effect stands, every timer has fired, what
/// is confirmed is remedied and what is over is reverted.
fn everything_due_is_done(model: &Debouncing, state: &State) -> bool {
    if !model.steps(state).is_empty() {
        return true;
    }
    let effects = state.pipe.records.iter().flat_map(|(_, record)| &record.effects);
    let published = effects.into_iter().all(|effect| match effect {
        Effect::Command(command) => state.answered.contains(&command.issue_key()),
        Effect::WakeAt(wake_up) => state.inputs.iter().any(
            |(_, input)| matches!(input, Entered::Fired(fired) if fired.generation == wake_up.generation),
        ),
    });
    let disposed: usize = state.pipe.records.iter().map(|(_, record)| record.body.disposed.len()).sum();
    let accepted = signals(state, u64::MAX).count();
    let terms = model.script.terms;
    let commanded = |direction| commands(state).any(|(_, command)| command.direction == direction);
    let failed = |health| health == Health::Failed;
    let broken = |health| health == Health::Healthy;
    let confirmed = !terms.changes_only
        && !terms.flapping
        && row_ends_within(state, u64::MAX, failed, broken, (terms.failures, terms.stable_s));
    // What was done, or may have been, is undone; where nothing was, nothing is.
    let done = |incident: &str| {
        state.inputs.iter().any(|(_, input)| match input {
            Entered::Outcome(outcome) => {
                let may_have = match outcome.result {
                    Done::Carried { .. } | Done::Held { .. } => true,
                    Done::Failed { perhaps_done, .. }
                    | Done::Expired { perhaps_done }
                    | Done::AwaitsApproval { perhaps_done, .. } => perhaps_done,
                    Done::Withdrawn { .. } | Done::Verified { .. } => false,
                };
                outcome.incident == incident && outcome.direction == Direction::Remediate && may_have
            }
            _ => false,
        })
    };
    let reverted = |incident: &str| {
        commands(state).any(|(_, c)| c.direction == Direction::Revert && c.incident == incident)
    };
    let over = decisions(state).filter(|decision| {
        let over = matches!(decision.what, What::Recovered { .. } | What::SilentlyRecovered { .. });
        over && decision.key.lane == Lane::Failover
    });
    let undone = over.into_iter().all(|decision| !done(&decision.incident) || reverted(&decision.incident));
    state.pipe.is_idle(&state.inputs)
        && published
        && state.timers.is_empty()
        && disposed == accepted
        && (!confirmed || commanded(Direction::Remediate))
        && undone
}
