//! Commands to effects: the work queue, two executors that go through `services/executor/src/protocol.rs` line
//! by line around the real `decide::execute`, and a target that counts.
//!
//! The seam to [`crate::debouncer`]: one real `debounce::Partition` that never fails issues the commands and
//! reads the outcomes; its commands may be stored twice, its views come late. A message may be delivered again
//! at any time, to whoever is idle.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use holdline_decide::debounce::{self, Input, Partition};
use holdline_decide::execute::{
    Answer, IDEMPOTENCY_HEADER, Next, Standing, judge, may_have_happened, request, standing, weigh,
};
use holdline_decide::pause::stopping;
use holdline_decide::playbook::Doing;
use holdline_decide::rate::Limits;
use holdline_proto::command::{Command, Direction, Intent};
use holdline_proto::event::Origin;
use holdline_proto::incident::View;
use holdline_proto::journal::Effect;
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::pause::{Pause, Pauses, Scope};
use holdline_proto::signal::{Classified, Health, Signal, Values};
use stateright::{Model, Property};

use crate::broker::{Log, chain, print};
use crate::guards::Guard;
use crate::scene::{BEGIN_MS, Book, PLAYBOOK, SET, SUBSCRIPTION, book};

const RULES: &str = "confirm: {failures: 1, stable_for: 0s}\nact:\n  failed: {do: [fail], class: failover}\n\
                     revert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";

/// Longer than any deadline of the rules.
const LAPSE_MS: i64 = 120_000;

/// Steps without a fault after which everything has to be done.
const DRAINED_AFTER: usize = 200;

pub(crate) struct Executing {
    faults: u8,
    gone: Option<Guard>,
    /// The target honours the idempotency key.
    idempotent: bool,
    book: Book,
    /// What the target may do: its answer, and whether it had its effect. The first is no trouble.
    answers: Vec<(Answer, bool)>,
}

/// An issue of a command, and which copy of it.
type Message = (usize, u8);

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    now_ms: i64,
    debouncer: Debouncer,
    recovered: bool,
    queue: Vec<Message>,
    outcomes: Log<Outcome>,
    /// The last outcome that the debouncer has read.
    read: u64,
    /// How many of its views are stored.
    shown: usize,
    lock: Option<Holder>,
    /// By action.
    intents: BTreeMap<String, Written>,
    work: [Option<Work>; 2],
    /// Issues whose call passed the last look, in order.
    left: Vec<usize>,
    /// Effects at the target, by direction and idempotency key.
    effects: BTreeMap<(bool, String), u8>,
    parked: Vec<usize>,
    /// A call left without its lock, or late.
    unlocked: bool,
    late: bool,
    operator: Operator,
    /// A call left although the operator had been told that none does.
    unstopped: bool,
    /// How many more may happen.
    faults: u8,
    /// How often a command was stored twice.
    twins: u8,
}

/// A person who stops everything, once, and lets it go on.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Operator {
    Watches,
    HasStopped,
    HasResumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Holder {
    Executor(usize),
    /// Whoever took it no longer knows.
    Nobody,
}

#[derive(Debug, Clone)]
struct Written {
    print: u64,
    intent: Arc<Intent>,
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for Written {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

/// The debouncer that never fails, with everything that it ever issued and showed.
#[derive(Debug, Clone)]
struct Debouncer {
    /// Stands for all the rest: what was read.
    history: u64,
    partition: Arc<Partition>,
    issued: Vec<Arc<Command>>,
    views: Vec<Arc<View>>,
}

impl PartialEq for Debouncer {
    fn eq(&self, other: &Self) -> bool {
        self.history == other.history
    }
}

impl Hash for Debouncer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.history.hash(state);
    }
}

/// An executor at work on a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Work {
    message: Message,
    line: Line,
    /// It has taken the lock and not given it back.
    locked: bool,
    /// The lock was renewed in time, as far as its holder can tell.
    sure: bool,
    /// Nobody else has written an intent since it looked.
    fresh: bool,
    attempts: u32,
    perhaps_done: bool,
}

/// What an executor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Line {
    Lock,
    Standing,
    Weigh,
    Intend,
    LastLook,
    Call,
    Judge { answer: usize },
    Report { what: What, stored: bool },
    Acknowledge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Withdrawn,
    Expired,
    Held,
    /// What this answer means.
    Answer(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Deliver {
        executor: usize,
        message: Message,
    },
    Work {
        executor: usize,
    },
    /// What the target does to a call.
    Call {
        executor: usize,
        answer: usize,
    },
    Release {
        executor: usize,
    },
    LockRunsOut,
    Show,
    Read,
    Recover,
    Stop,
    Resume,
    Crash {
        executor: usize,
    },
    Pause {
        executor: usize,
    },
    Twin {
        message: Message,
    },
    Lapse,
    Return {
        nth: usize,
    },
}

impl Executing {
    pub(crate) fn new(idempotent: bool, faults: u8, gone: Option<Guard>) -> Executing {
        let status = |status| Answer::Status { status, retry_after_ms: None, limits: Limits::default() };
        let lost = || Answer::Lost { reason: "no answer".into() };
        Executing {
            faults,
            gone,
            idempotent,
            book: book(RULES, false, idempotent),
            answers: vec![
                (status(200), true),
                (status(503), true),
                (lost(), false),
                (lost(), true),
                (Answer::Unsent { reason: "refused".into() }, false),
                (status(404), false),
            ],
        }
    }

    fn without(&self, guard: Guard) -> bool {
        self.gone == Some(guard)
    }

    fn is_late(&self, state: &State, work: &Work) -> bool {
        state.now_ms > state.debouncer.issued[work.message.0].deadline_ms && !self.without(Guard::Deadline)
    }

    /// What `holdline_executor::pauses` says.
    fn is_stopped(&self, state: &State, issue: usize) -> bool {
        let command = &state.debouncer.issued[issue];
        let everything = Pause {
            scope: Scope::Everything,
            reason: String::new(),
            by: String::new(),
            since_ms: BEGIN_MS,
            until_ms: i64::MAX,
        };
        let pauses = match state.operator {
            Operator::HasStopped => Pauses { pauses: vec![everything] },
            Operator::Watches | Operator::HasResumed => Pauses::default(),
        };
        stopping(&pauses, command, state.now_ms).is_some() && state.now_ms <= command.deadline_ms
    }

    /// What happens without any fault.
    fn steps(&self, state: &State) -> Vec<Action> {
        let mut steps = vec![];
        if state.operator == Operator::HasStopped {
            steps.push(Action::Resume);
        }
        if state.read < state.outcomes.last() {
            steps.push(Action::Read);
        }
        if state.shown < state.debouncer.views.len() {
            steps.push(Action::Show);
        }
        let lost = |executor: usize| state.work[executor].is_some_and(|work| !work.sure);
        match state.lock {
            Some(Holder::Executor(executor)) if lost(executor) => steps.push(Action::LockRunsOut),
            Some(Holder::Nobody) => steps.push(Action::LockRunsOut),
            _ => {}
        }
        for (executor, work) in state.work.iter().enumerate() {
            match work {
                // What is stopped comes back later: it is as good as not delivered.
                None => {
                    let taken = state.queue.iter().filter(|message| !self.is_stopped(state, message.0));
                    steps.extend(taken.map(|message| Action::Deliver { executor, message: *message }));
                }
                // Until the lock is free, the message is as good as not delivered.
                Some(Work { line: Line::Lock, .. }) if state.lock.is_some() && !self.without(Guard::Lock) => {
                }
                Some(Work { line: Line::Call, .. }) => steps.push(Action::Call { executor, answer: 0 }),
                Some(Work { line: Line::Report { stored, .. }, locked, .. }) => {
                    if !stored {
                        steps.push(Action::Work { executor });
                    }
                    if *locked {
                        steps.push(Action::Release { executor });
                    }
                }
                Some(_) => steps.push(Action::Work { executor }),
            }
        }
        steps
    }

    /// What can go wrong: an executor loses everything in memory, or does not renew its lock in time; the
    /// target does anything else than to answer 200; a command is stored twice; so much time passes that every
    /// command is late; a person brings a command back from the dead letters.
    fn faults(&self, state: &State) -> Vec<Action> {
        let mut faults = vec![];
        if state.faults == 0 {
            return faults;
        }
        for (executor, work) in state.work.iter().enumerate() {
            let Some(work) = work else { continue };
            faults.push(Action::Crash { executor });
            if work.locked && work.sure {
                faults.push(Action::Pause { executor });
            }
            if work.line == Line::Call {
                faults.extend((1..self.answers.len()).map(|answer| Action::Call { executor, answer }));
            }
        }
        faults.extend(state.queue.iter().map(|message| Action::Twin { message: *message }));
        faults.push(Action::Lapse);
        faults.extend((0..state.parked.len()).map(|nth| Action::Return { nth }));
        faults
    }

    /// Has the debouncer read something, and stores what it issues.
    fn decide(&self, state: &mut State, input: Input<'_>, print: u64) {
        let mut step = debounce::Step::default();
        let debouncer = &mut state.debouncer;
        debouncer.history = chain(chain(debouncer.history, print), state.now_ms.unsigned_abs());
        Arc::make_mut(&mut debouncer.partition).step(
            &self.book,
            debouncer.history,
            state.now_ms,
            input,
            &mut step,
        );
        for effect in step.effects {
            if let Effect::Command(command) = effect {
                state.queue.push((debouncer.issued.len(), 0));
                debouncer.issued.push(Arc::new(command));
            }
        }
        debouncer.views.extend(step.views.into_values().map(Arc::new));
    }

    fn hear(&self, state: &mut State, health: Health, times: u32) {
        let signal = |index: u32| Signal {
            echo: None,
            depth: 0,
            waited_ms: 0,
            origin: Origin { sequence: 1, index },
            accept_id: format!("0-0-{health:?}-{index}"),
            event_id: format!("{health:?}-{index}"),
            subscription: SUBSCRIPTION.into(),
            playbook: PLAYBOOK.into(),
            entity: "gw".into(),
            group: None,
            health,
            event_ms: state.now_ms,
            received_ms: state.now_ms,
            late: false,
            values: Values::new(),
        };
        let classified = Classified {
            playbooks: SET.into(),
            signals: (0..times).map(signal).collect(),
            ..Classified::default()
        };
        self.decide(state, Input::Classified(&classified), print(&classified));
    }

    /// Writes an intent, if nobody else has since it was looked at.
    fn write(&self, state: &mut State, executor: usize, work: &mut Work, answered: bool) -> bool {
        if !work.fresh && !self.without(Guard::IntentFence) {
            return false;
        }
        let command = &state.debouncer.issued[work.message.0];
        let intent = Intent {
            answered_ms: 0,
            called_ms: 0,
            action_key: command.action_key(),
            issue_key: command.issue_key(),
            token: 0,
            attempts: work.attempts,
            request: String::new(),
            answered,
            perhaps_done: work.perhaps_done,
        };
        let key = intent.action_key.clone();
        state.intents.insert(key.clone(), Written { print: print(&intent), intent: Arc::new(intent) });
        work.fresh = true;
        if let Some(other) = &mut state.work[1 - executor]
            && state.debouncer.issued[other.message.0].action_key() == key
        {
            other.fresh = false;
        }
        true
    }

    fn release(state: &mut State, executor: usize, work: &mut Work) {
        work.locked = false;
        if state.lock == Some(Holder::Executor(executor)) {
            state.lock = None;
        }
    }

    /// The executor forgets its work; a lock that it had is left to run out.
    fn forget(state: &mut State, executor: usize) {
        state.work[executor] = None;
        if state.lock == Some(Holder::Executor(executor)) {
            state.lock = Some(Holder::Nobody);
        }
    }

    fn acknowledge(state: &mut State, message: Message) {
        state.queue.retain(|other| *other != message);
    }

    fn outcome_stands(state: &State, command: &Command) -> bool {
        state.outcomes.iter().any(|(_, outcome)| {
            (outcome.decision, outcome.direction) == (command.decision, command.direction)
        })
    }

    /// One line of the protocol.
    fn work(&self, state: &mut State, executor: usize) {
        let Some(mut work) = state.work[executor] else { return };
        let command = state.debouncer.issued[work.message.0].clone();
        let report = |what| Line::Report { what, stored: false };
        match work.line {
            Line::Lock => {
                state.lock = Some(Holder::Executor(executor));
                (work.locked, work.sure, work.line) = (true, true, Line::Standing);
            }
            Line::Standing => {
                let view = state.shown.checked_sub(1).map(|newest| &*state.debouncer.views[newest]);
                let found = standing(&command, view);
                let found = if self.without(Guard::DecisionNumber) { Standing::Current } else { found };
                work.line = match found {
                    Standing::Replaced { .. } => report(What::Withdrawn),
                    Standing::Behind if !self.is_late(state, &work) => {
                        Self::release(state, executor, &mut work);
                        return Self::forget(state, executor);
                    }
                    Standing::Current | Standing::Behind => Line::Weigh,
                };
            }
            Line::Weigh => {
                let known = state.intents.get(&command.action_key());
                let earlier = known.and_then(|written| weigh(&written.intent, &command));
                let earlier = if self.without(Guard::EarlierIntent) { None } else { earlier };
                (work.attempts, work.perhaps_done) = earlier.unwrap_or_default();
                work.fresh = true;
                work.line = match (self.is_late(state, &work), work.perhaps_done && !self.idempotent) {
                    (true, _) => report(What::Expired),
                    (false, true) => report(What::Held),
                    (false, false) => Line::Intend,
                };
            }
            Line::Intend => {
                work.attempts += 1;
                if !self.write(state, executor, &mut work, false) {
                    return Self::forget(state, executor);
                }
                work.line = Line::LastLook;
            }
            Line::LastLook => {
                let sure = work.sure || self.without(Guard::LastLook);
                let stopped = self.is_stopped(state, work.message.0) && !self.without(Guard::Pauses);
                if !sure || stopped || self.is_late(state, &work) {
                    work.attempts -= 1;
                    if self.write(state, executor, &mut work, true) {
                        Self::release(state, executor, &mut work);
                    }
                    return Self::forget(state, executor);
                }
                state.left.push(work.message.0);
                state.unlocked |= state.lock != Some(Holder::Executor(executor));
                state.late |= state.now_ms > command.deadline_ms;
                state.unstopped |= state.operator == Operator::HasStopped;
                work.line = Line::Call;
            }
            Line::Call => {}
            Line::Judge { answer } => {
                let (said, _) = &self.answers[answer];
                match judge(said, work.attempts, self.idempotent, work.perhaps_done) {
                    Next::Report(_) => work.line = report(What::Answer(answer)),
                    Next::GiveUp { .. } => {
                        state.parked.push(work.message.0);
                        work.line = report(What::Answer(answer));
                    }
                    // A 429 spends no attempt; without an end to them there would be none to the search.
                    Next::Throttled { .. } => unreachable!("no target of the model throttles"),
                    Next::Retry { .. } => {
                        work.perhaps_done |= may_have_happened(said);
                        if self.write(state, executor, &mut work, true) {
                            Self::release(state, executor, &mut work);
                        }
                        return Self::forget(state, executor);
                    }
                }
                if self.without(Guard::AcknowledgedLast) {
                    Self::acknowledge(state, work.message);
                }
            }
            Line::Report { what, .. } => {
                let done = match what {
                    What::Withdrawn => Done::Withdrawn { reason: String::new() },
                    What::Expired => Done::Expired { perhaps_done: work.perhaps_done },
                    What::Held => Done::Held { reason: String::new() },
                    What::Answer(answer) => {
                        let said = &self.answers[answer].0;
                        match judge(said, work.attempts, self.idempotent, work.perhaps_done) {
                            Next::Report(done) | Next::GiveUp { done, .. } => done,
                            Next::Retry { .. } | Next::Throttled { .. } => {
                                unreachable!("what is tried again is not reported")
                            }
                        }
                    }
                };
                // When it was stored makes no difference to the debouncer: its clock is the state's.
                state.outcomes.publish(0, Outcome::of(&command, done, work.attempts));
                work.line = Line::Report { what, stored: true };
            }
            Line::Acknowledge => {
                Self::acknowledge(state, work.message);
                return Self::forget(state, executor);
            }
        }
        Self::reported(&mut work);
        state.work[executor] = Some(work);
    }

    /// Stored and given back, in any order: then it is acknowledged.
    fn reported(work: &mut Work) {
        if matches!(work.line, Line::Report { stored: true, .. }) && !work.locked {
            work.line = Line::Acknowledge;
        }
    }

    /// Two executors differ by what they know and not by name.
    fn in_order(mut state: State) -> State {
        if state.work[0] > state.work[1] {
            state.work.swap(0, 1);
            if let Some(Holder::Executor(executor)) = &mut state.lock {
                *executor = 1 - *executor;
            }
        }
        state
    }
}

impl Model for Executing {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let debouncer =
            Debouncer { history: 0, partition: Arc::new(Partition::new(0)), issued: vec![], views: vec![] };
        let mut state = State {
            now_ms: BEGIN_MS,
            debouncer,
            recovered: false,
            queue: vec![],
            outcomes: Log::default(),
            read: 0,
            shown: 0,
            lock: None,
            intents: BTreeMap::new(),
            work: [None, None],
            left: vec![],
            effects: BTreeMap::new(),
            parked: vec![],
            unlocked: false,
            late: false,
            operator: Operator::Watches,
            unstopped: false,
            faults: self.faults,
            twins: 0,
        };
        self.hear(&mut state, Health::Failed, 1);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        if !state.recovered {
            actions.push(Action::Recover);
        }
        if state.operator == Operator::Watches {
            actions.push(Action::Stop);
        }
        actions.extend(self.faults(state));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Deliver { executor, message } => {
                if Self::outcome_stands(&state, &state.debouncer.issued[message.0]) {
                    Self::acknowledge(&mut state, message);
                } else {
                    state.work[executor] = Some(Work {
                        message,
                        line: Line::Lock,
                        locked: false,
                        sure: false,
                        fresh: false,
                        attempts: 0,
                        perhaps_done: false,
                    });
                }
            }
            Action::Work { executor } => self.work(&mut state, executor),
            Action::Call { executor, answer } => {
                let work = state.work[executor].as_mut()?;
                let command = &state.debouncer.issued[work.message.0];
                let Doing::Webhook(webhook) = &self.book.0.actions[&command.action].what else {
                    panic!("the model's actions are webhooks")
                };
                let request = request(webhook, command).unwrap();
                let (_, key) = request.headers.into_iter().find(|(name, _)| name == IDEMPOTENCY_HEADER)?;
                if self.answers[answer].1 {
                    let seen =
                        state.effects.entry((command.direction == Direction::Revert, key)).or_default();
                    *seen = if self.idempotent { 1 } else { *seen + 1 };
                }
                work.line = Line::Judge { answer };
                state.faults -= u8::from(answer > 0);
            }
            Action::Release { executor } => {
                let mut work = state.work[executor]?;
                Self::release(&mut state, executor, &mut work);
                Self::reported(&mut work);
                state.work[executor] = Some(work);
            }
            Action::LockRunsOut => state.lock = None,
            Action::Show => state.shown = state.debouncer.views.len(),
            Action::Read => {
                state.read += 1;
                let outcome = before.outcomes[state.read].clone();
                self.decide(&mut state, Input::Outcome(&outcome), before.outcomes.print(before.read + 1));
            }
            Action::Recover => {
                state.recovered = true;
                self.hear(&mut state, Health::Healthy, 2);
            }
            Action::Stop => state.operator = Operator::HasStopped,
            Action::Resume => state.operator = Operator::HasResumed,
            Action::Crash { executor } => {
                Self::forget(&mut state, executor);
                state.faults -= 1;
            }
            Action::Pause { executor } => {
                state.work[executor].as_mut()?.sure = false;
                state.faults -= 1;
            }
            Action::Twin { message: (issue, _) } => {
                state.twins += 1;
                state.queue.push((issue, state.twins));
                state.faults -= 1;
            }
            Action::Lapse => {
                state.now_ms += LAPSE_MS;
                state.faults -= 1;
            }
            Action::Return { nth } => {
                let command = state.debouncer.issued[state.parked.remove(nth)].clone();
                self.decide(&mut state, Input::Retried(&command), print(&*command));
                state.faults -= 1;
            }
        }
        Some(Self::in_order(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("T1 one effect per incident and direction", effects_are_single),
            Property::always("O2 no call leaves without its lock", |_, state: &State| !state.unlocked),
            Property::always("A7 no call leaves while it is stopped", |_, state: &State| !state.unstopped),
            Property::always("O2 one executor at a time", one_at_a_time),
            Property::always("O2 nothing withdrawn leaves", nothing_withdrawn_leaves),
            Property::always("L2 nothing late leaves", |_, state: &State| !state.late),
            Property::always("N4 acknowledged last", acknowledged_last),
            Property::always("L1 without faults everything is done", everything_is_done),
        ]
    }
}

fn effects_are_single(_: &Executing, state: &State) -> bool {
    let of = |revert| state.effects.iter().filter(move |((of, _), _)| *of == revert).map(|(_, times)| *times);
    of(false).sum::<u8>() <= 1 && of(true).sum::<u8>() <= 1
}

fn one_at_a_time(_: &Executing, state: &State) -> bool {
    state.work.iter().flatten().filter(|work| work.locked && work.sure).count() <= 1
}

/// Once a revert has left, no remedy of the same incident does.
fn nothing_withdrawn_leaves(_: &Executing, state: &State) -> bool {
    let directions = state.left.iter().map(|issue| state.debouncer.issued[*issue].direction);
    directions.skip_while(|direction| *direction == Direction::Remediate).all(|d| d == Direction::Revert)
}

fn acknowledged_last(_: &Executing, state: &State) -> bool {
    state.debouncer.issued.iter().enumerate().all(|(issue, command)| {
        state.queue.iter().any(|message| message.0 == issue) || Executing::outcome_stands(state, command)
    })
}

/// From wherever the faults have led, the protocol alone leads to the end.
fn everything_is_done(model: &Executing, state: &State) -> bool {
    // Whoever is at work comes to an end of that first, by these same steps.
    if state.work.iter().any(Option::is_some) {
        return true;
    }
    let mut state = state.clone();
    for _ in 0..DRAINED_AFTER {
        let Some(step) = model.steps(&state).into_iter().next() else { break };
        let Some(next) = model.next_state(&state, step) else { break };
        state = next;
    }
    let reported = state.debouncer.issued.iter().all(|command| Executing::outcome_stands(&state, command));
    let waits = state.debouncer.partition.tracks().values().any(|track| track.outstanding.is_some());
    let done = |revert| state.effects.keys().any(|(of, _)| *of == revert);
    let carried = state.outcomes.iter().all(|(_, outcome)| {
        // What may have been done is undone, whether it was or not.
        matches!(
            outcome.result,
            Done::Carried { .. } | Done::Expired { perhaps_done: false } | Done::Withdrawn { .. }
        )
    });
    model.steps(&state).is_empty()
        && reported
        && !waits
        && (!carried || !state.recovered || done(false) == done(true))
        && (!carried || state.recovered || done(false))
}
