//! Commands to effects: the work queue, two executors that go through `services/executor/src/protocol.rs` line
//! by line around the real `decide::execute`, and a target that counts.
//!
//! The seam to [`crate::debouncer`]: one real `debounce::Partition` that never fails issues the commands and
//! reads the outcomes; its views come late. A message may be delivered again at any time, to whoever is idle, and a
//! command that is stored twice is no more than that: nothing is acknowledged before its outcome stands, and then
//! nothing of it is worked on.
//!
//! Lines between which nobody can tell a difference are one step, or the search would spend itself on their order:
//! - From the lock to the intent an executor changes nothing that others see. It may lose its lock between any two of
//!   these lines ([`Action::Take`]); if it dies there, its command was as good as not delivered.
//! - The call goes with the last look: nobody but the target sees it.
//! - The outcome goes with giving back the lock and with the acknowledgement, in this order: whoever dies after the
//!   outcome leaves a lock that runs out and a message of which nothing more comes.
//! - A lock that nobody renews has run out, because others may take it as late as they like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdline_decide::debounce::Input;
use holdline_decide::execute::{
    Answer, IDEMPOTENCY_HEADER, Next, Standing, judge, may_have_happened, request, standing, weigh,
};
use holdline_decide::pause::stopping;
use holdline_decide::playbook::Doing;
use holdline_decide::rate::Limits;
use holdline_proto::command::{Command, Direction, Intent};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::pause::{Pause, Pauses, Scope};
use holdline_proto::signal::Health;
use stateright::{Model, Property};

use crate::broker::Printed;
use crate::guards::Guard;
use crate::issuer::Issuer;
use crate::scene::{BEGIN_MS, Book, book};

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

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    now_ms: i64,
    debouncer: Issuer,
    recovered: bool,
    /// Issues of commands that are not acknowledged.
    queue: BTreeSet<usize>,
    /// Issues whose outcome stands.
    reported: BTreeSet<usize>,
    /// Outcomes that the debouncer has not read.
    unread: VecDeque<Printed<Outcome>>,
    /// Something was given up, or may have been done and is not known to be.
    troubled: bool,
    /// How many of the debouncer's views are stored.
    shown: usize,
    lock: Option<usize>,
    /// Of the track: one of its commands is under way at a time.
    intent: Option<Printed<Intent>>,
    work: [Option<Work>; 2],
    /// Effects at the target, by direction and idempotency key.
    effects: BTreeMap<(bool, String), u8>,
    /// Issues of commands in the dead letters.
    parked: Vec<usize>,
    /// A revert left.
    reverting: bool,
    /// A call left as the first of its issue whose outcome stood, or one that a later one had withdrawn, or without its lock, or late.
    ended: bool,
    /// Something was said not to be done that had been.
    denied: bool,
    withdrawn: bool,
    unlocked: bool,
    late: bool,
    /// A person has stopped everything.
    stopped: bool,
    /// A call left although that person had been told that none does.
    unstopped: bool,
    /// How many more may happen.
    faults: u8,
}

/// An executor at work on a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Work {
    issue: usize,
    line: Line,
    lock: Held,
    /// Nobody else has written an intent since it looked.
    fresh: bool,
    attempts: u32,
    perhaps_done: bool,
}

/// What an executor knows of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Held {
    No,
    /// By its clock, which has stood still: it has lost it.
    Believed,
    Surely,
}

/// What an executor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Line {
    Lock,
    Weigh,
    Look,
    Intend,
    LastLook,
    Judge { answer: usize },
    Report(What),
}

/// What may happen to an executor on its way to the intent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Meets {
    /// It stands still before a line, and its lock runs out. Its clock may stand still with it.
    Stall(Line, Clock),
    /// A budget is spent just now.
    Refusal,
}

/// The clock of an executor that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    GoesOn,
    /// As on a machine that is suspended: it takes the lock for its own.
    StandsStill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    Withdrawn,
    Expired,
    Held,
    Refused,
    /// What this answer means.
    Answer(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// A delivery that finds no outcome, and has to wait for the lock.
    Deliver {
        executor: usize,
        issue: usize,
    },
    /// On to the intent, unless something comes between.
    Take {
        executor: usize,
        issue: usize,
        meets: Option<Meets>,
    },
    Work {
        executor: usize,
    },
    /// What the target does to a call, other than to carry it out and say so.
    Call {
        executor: usize,
        answer: usize,
    },
    Show,
    Read,
    Recover,
    Stop,
    Resume,
    Crash {
        executor: usize,
    },
    Stall {
        executor: usize,
        clock: Clock,
    },
    Lapse,
    Return {
        issue: usize,
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

    fn is_late(&self, state: &State, issue: usize) -> bool {
        state.now_ms > state.debouncer.issued[issue].deadline_ms && !self.without(Guard::Deadline)
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
        let pauses = Pauses { pauses: if state.stopped { vec![everything] } else { vec![] } };
        stopping(&pauses, command, state.now_ms).is_some() && state.now_ms <= command.deadline_ms
    }

    fn is_locked(&self, state: &State) -> bool {
        state.lock.is_some() && !self.without(Guard::Lock)
    }

    /// Whether its last look lets the call leave.
    fn leaves(&self, state: &State, executor: usize, work: &Work) -> bool {
        let held = state.lock == Some(executor) || self.without(Guard::HeldLock);
        let sure = work.lock != Held::No && held || self.without(Guard::LastLook);
        let stopped = self.is_stopped(state, work.issue) && !self.without(Guard::Pauses);
        sure && !stopped && !self.is_late(state, work.issue)
    }

    /// Issues that an idle executor may be handed. What is stopped comes back later: it is as good as not delivered.
    fn deliverable<'a>(&'a self, state: &'a State) -> impl Iterator<Item = usize> + 'a {
        state.queue.iter().copied().filter(|issue| !self.is_stopped(state, *issue))
    }

    /// What happens without any fault.
    fn steps(&self, state: &State) -> Vec<Action> {
        let mut steps = vec![];
        if state.stopped {
            steps.push(Action::Resume);
        }
        if !state.unread.is_empty() {
            steps.push(Action::Read);
        }
        if state.shown < state.debouncer.views.len() {
            steps.push(Action::Show);
        }
        for (executor, issue) in self.taking(state) {
            steps.push(Action::Take { executor, issue, meets: None });
        }
        for (executor, work) in state.work.iter().enumerate() {
            match work {
                Some(Work { line: Line::Lock, .. }) | None => {}
                Some(_) => steps.push(Action::Work { executor }),
            }
        }
        // Who waits for the lock matters only if the outcome comes to stand meanwhile.
        if let Some(executor) = idle(state)
            && let Some(other) = state.work[1 - executor]
            && matches!(other.line, Line::Report(_))
            && self.deliverable(state).any(|issue| issue == other.issue)
        {
            steps.push(Action::Deliver { executor, issue: other.issue });
        }
        steps
    }

    /// Who may take the lock now, to do what.
    fn taking(&self, state: &State) -> Vec<(usize, usize)> {
        if self.is_locked(state) {
            return vec![];
        }
        let waits = |(executor, work): (usize, &Option<Work>)| {
            work.filter(|work| work.line == Line::Lock).map(|work| (executor, work.issue))
        };
        let mut taking: Vec<_> = state.work.iter().enumerate().filter_map(waits).collect();
        if let Some(executor) = idle(state) {
            taking.extend(self.deliverable(state).map(|issue| (executor, issue)));
        }
        taking
    }

    /// What can go wrong: an executor loses everything in memory, or does not renew its lock in time; the
    /// target does anything else than to answer 200; so much time passes that every command is late; a person brings
    /// a command back from the dead letters.
    fn faults(&self, state: &State) -> Vec<Action> {
        let mut faults = vec![];
        if state.faults == 0 {
            return faults;
        }
        for (executor, issue) in self.taking(state) {
            for line in [Line::Weigh, Line::Look, Line::Intend] {
                for clock in [Clock::GoesOn, Clock::StandsStill] {
                    faults.push(Action::Take { executor, issue, meets: Some(Meets::Stall(line, clock)) });
                }
            }
            faults.push(Action::Take { executor, issue, meets: Some(Meets::Refusal) });
        }
        for (executor, work) in state.work.iter().enumerate() {
            let Some(work) = work else { continue };
            if work.line == Line::Lock {
                continue;
            }
            faults.push(Action::Crash { executor });
            if work.lock != Held::No {
                faults.push(Action::Stall { executor, clock: Clock::GoesOn });
            }
            if work.line == Line::LastLook && work.lock == Held::Surely {
                faults.push(Action::Stall { executor, clock: Clock::StandsStill });
            }
            if work.line == Line::LastLook && self.leaves(state, executor, work) {
                faults.extend((1..self.answers.len()).map(|answer| Action::Call { executor, answer }));
            }
        }
        let mut under_way =
            state.queue.iter().copied().chain(state.work.iter().flatten().map(|work| work.issue));
        if under_way.any(|issue| state.now_ms <= state.debouncer.issued[issue].deadline_ms) {
            faults.push(Action::Lapse);
        }
        let parked: BTreeSet<usize> = state.parked.iter().copied().collect();
        faults.extend(parked.into_iter().map(|issue| Action::Return { issue }));
        faults
    }

    /// Has the debouncer read something, and stores what it issues.
    fn decide(&self, state: &mut State, read: impl FnOnce(&mut Issuer, i64)) {
        let before = state.debouncer.issued.len();
        read(&mut state.debouncer, state.now_ms);
        state.queue.extend(before..state.debouncer.issued.len());
    }

    fn hear(&self, state: &mut State, health: Health, times: u32) {
        self.decide(state, |debouncer, now_ms| debouncer.hear(&self.book, now_ms, health, times));
    }

    /// Writes an intent, if nobody else has since it was looked at.
    fn write(&self, state: &mut State, executor: usize, work: &mut Work, answered: bool) -> bool {
        if !work.fresh && !self.without(Guard::IntentFence) {
            return false;
        }
        let command = &state.debouncer.issued[work.issue];
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
        state.intent = Some(Printed::new(intent));
        work.fresh = true;
        if let Some(other) = &mut state.work[1 - executor] {
            other.fresh = false;
        }
        true
    }

    /// The executor forgets its work; a lock that it had is free.
    fn forget(state: &mut State, executor: usize) {
        state.work[executor] = None;
        state.lock.take_if(|holder| *holder == executor);
    }

    fn stall(state: &mut State, executor: usize, work: &mut Work, clock: Clock) {
        work.lock = match clock {
            Clock::GoesOn => Held::No,
            Clock::StandsStill => work.lock.min(Held::Believed),
        };
        state.lock.take_if(|holder| *holder == executor);
    }

    /// What is to be said after this is all that matters of the work.
    fn report(work: &mut Work, what: What) {
        *work = Work { line: Line::Report(what), fresh: false, attempts: 0, ..*work };
    }

    /// What its earlier calls have come to. From here on it notices who acts.
    fn weigh(&self, state: &mut State, work: &mut Work, command: &Command) -> bool {
        let earlier = state.intent.as_ref().and_then(|intent| weigh(intent, command));
        let earlier = if self.without(Guard::EarlierIntent) { None } else { earlier };
        (work.attempts, work.perhaps_done) = earlier.unwrap_or_default();
        work.fresh = true;
        true
    }

    /// Whether it is still to be carried out; `false` if that is to be asked again.
    fn look(&self, state: &mut State, work: &mut Work, command: &Command) -> bool {
        let view = state.shown.checked_sub(1).map(|newest| &*state.debouncer.views[newest]);
        let found = standing(command, view);
        let found = if self.without(Guard::DecisionNumber) { Standing::Current } else { found };
        let unasked = self.without(Guard::OutcomeAgain) || self.without(Guard::DecisionNumber);
        match found {
            _ if state.reported.contains(&work.issue) && !unasked => return false,
            Standing::Replaced { .. } => Self::report(work, What::Withdrawn),
            Standing::Behind => return self.is_late(state, work.issue),
            Standing::Current => {}
        }
        true
    }

    /// One line of the protocol.
    fn work(&self, state: &mut State, executor: usize) {
        let Some(mut work) = state.work[executor] else { return };
        let command = state.debouncer.issued[work.issue].clone();
        match work.line {
            Line::Lock => {
                state.lock = Some(executor);
                work.lock = Held::Surely;
                work.line = Line::Weigh;
            }
            Line::Weigh => {
                work.line = Line::Look;
                let looks = if self.without(Guard::IntentFirst) { Self::look } else { Self::weigh };
                if !looks(self, state, &mut work, &command) {
                    return Self::forget(state, executor);
                }
            }
            Line::Look => {
                work.line = Line::Intend;
                let looks = if self.without(Guard::IntentFirst) { Self::weigh } else { Self::look };
                if !looks(self, state, &mut work, &command) {
                    return Self::forget(state, executor);
                }
                if work.line != Line::Intend {
                    // It is withdrawn.
                } else if self.is_late(state, work.issue) {
                    Self::report(&mut work, What::Expired);
                } else if work.perhaps_done && !self.idempotent {
                    Self::report(&mut work, What::Held);
                } else if work.lock == Held::No {
                    return Self::forget(state, executor);
                }
            }
            Line::Intend => {
                work.attempts += 1;
                if !self.write(state, executor, &mut work, false) {
                    return Self::forget(state, executor);
                }
                work.line = Line::LastLook;
            }
            Line::LastLook => {
                if !self.leaves(state, executor, &work) {
                    work.attempts -= 1;
                    self.write(state, executor, &mut work, true);
                    return Self::forget(state, executor);
                }
                self.call(state, executor, 0);
                return self.work(state, executor);
            }
            Line::Judge { answer } => {
                let (said, _) = &self.answers[answer];
                match judge(said, work.attempts, self.idempotent, work.perhaps_done) {
                    Next::Report(_) => {}
                    Next::GiveUp { .. } => {
                        let mut known =
                            Work { perhaps_done: work.perhaps_done | may_have_happened(said), ..work };
                        if !self.write(state, executor, &mut known, true) {
                            return Self::forget(state, executor);
                        }
                    }
                    // A 429 spends no attempt; without an end to them there would be none to the search.
                    Next::Throttled { .. } => unreachable!("no target of the model throttles"),
                    Next::Retry { .. } => {
                        work.perhaps_done |= may_have_happened(said);
                        self.write(state, executor, &mut work, true);
                        return Self::forget(state, executor);
                    }
                }
                if self.without(Guard::AcknowledgedLast) {
                    state.queue.remove(&work.issue);
                }
                work.line = Line::Report(What::Answer(answer));
            }
            Line::Report(what) => {
                let done = match what {
                    What::Withdrawn => Done::Withdrawn { reason: String::new() },
                    What::Expired => Done::Expired { perhaps_done: work.perhaps_done },
                    What::Held => Done::Held { reason: String::new() },
                    What::Refused => Done::Failed { reason: String::new(), perhaps_done: work.perhaps_done },
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
                let is_held = state.lock == Some(executor) || self.without(Guard::HeldReport);
                // An outcome stands once.
                if !is_held && !matches!(done, Done::Carried { .. }) || state.reported.contains(&work.issue) {
                    return Self::forget(state, executor);
                }
                if matches!(done, Done::Failed { .. } | Done::Held { .. }) {
                    Self::park(state, work.issue);
                }
                if let Done::Failed { perhaps_done: false, .. }
                | Done::Expired { perhaps_done: false }
                | Done::Withdrawn { .. } = done
                {
                    state.denied |= state.effects.contains_key(&self.effect(&command));
                }
                // What may have been done is undone, whether it was or not.
                state.troubled |= !matches!(
                    done,
                    Done::Carried { .. } | Done::Expired { perhaps_done: false } | Done::Withdrawn { .. }
                );
                // How many attempts it took, and when it was stored, makes no difference to the debouncer.
                state.unread.push_back(Printed::new(Outcome::of(&command, done, 0)));
                state.reported.insert(work.issue);
                state.queue.remove(&work.issue);
                return Self::forget(state, executor);
            }
        }
        state.work[executor] = Some(work);
    }

    fn park(state: &mut State, issue: usize) {
        state.parked.push(issue);
        state.parked.sort_unstable();
    }

    /// What a command has the target do: its direction and idempotency key.
    fn effect(&self, command: &Command) -> (bool, String) {
        let Doing::Webhook(webhook) = &self.book.0.actions[&command.action].what else {
            panic!("the model's actions are webhooks")
        };
        let headers = request(webhook, command).unwrap().headers.into_iter();
        let key = headers.filter(|(name, _)| name == IDEMPOTENCY_HEADER).map(|(_, key)| key).next().unwrap();
        (command.direction == Direction::Revert, key)
    }

    /// A call leaves.
    fn call(&self, state: &mut State, executor: usize, answer: usize) {
        let Some(work) = &mut state.work[executor] else { return };
        let command = &state.debouncer.issued[work.issue];
        let (reverts, effect) = (command.direction == Direction::Revert, self.effect(command));
        state.unlocked |= state.lock != Some(executor);
        state.ended |= !work.perhaps_done && state.reported.contains(&work.issue);
        state.late |= state.now_ms > command.deadline_ms;
        state.unstopped |= state.stopped;
        state.withdrawn |= state.reverting && !reverts;
        state.reverting |= reverts;
        if self.answers[answer].1 {
            let seen = state.effects.entry(effect).or_default();
            *seen = if self.idempotent { 1 } else { *seen + 1 };
        }
        work.line = Line::Judge { answer };
    }

    /// Two executors differ by what they know and not by name.
    fn in_order(mut state: State) -> State {
        if state.work[0] > state.work[1] {
            state.work.swap(0, 1);
            state.lock = state.lock.map(|executor| 1 - executor);
        }
        state
    }
}

/// Two that are idle are alike.
fn idle(state: &State) -> Option<usize> {
    state.work.iter().position(Option::is_none)
}

impl Model for Executing {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now_ms: BEGIN_MS,
            debouncer: Issuer::new(),
            recovered: false,
            queue: BTreeSet::new(),
            reported: BTreeSet::new(),
            unread: VecDeque::new(),
            troubled: false,
            shown: 0,
            lock: None,
            intent: None,
            work: [None, None],
            effects: BTreeMap::new(),
            parked: vec![],
            reverting: false,
            ended: false,
            denied: false,
            withdrawn: false,
            unlocked: false,
            late: false,
            stopped: false,
            unstopped: false,
            faults: self.faults,
        };
        self.hear(&mut state, Health::Failed, 1);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        if !state.recovered {
            actions.push(Action::Recover);
        }
        // Sooner it stops only what comes back later all the same.
        let may_leave = |(executor, work): (usize, &Option<Work>)| {
            work.is_some_and(|work| work.line == Line::LastLook && self.leaves(state, executor, &work))
        };
        if !state.stopped && state.work.iter().enumerate().any(may_leave) {
            actions.push(Action::Stop);
        }
        actions.extend(self.faults(state));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Deliver { executor, issue } => state.work[executor] = Some(delivered(issue)),
            Action::Take { executor, issue, meets } => {
                state.work[executor] = Some(delivered(issue));
                self.work(&mut state, executor);
                let stop = match meets {
                    Some(Meets::Stall(line, _)) => Some(line),
                    Some(Meets::Refusal) => Some(Line::Intend),
                    None => None,
                };
                let passes = |work: &Work| {
                    matches!(work.line, Line::Weigh | Line::Look | Line::Intend) && Some(work.line) != stop
                };
                while state.work[executor].as_ref().is_some_and(passes) {
                    self.work(&mut state, executor);
                }
                if let Some(meets) = meets {
                    // It did not get as far as that.
                    let mut work = state.work[executor].filter(|work| Some(work.line) == stop)?;
                    match meets {
                        Meets::Stall(_, clock) => Self::stall(&mut state, executor, &mut work, clock),
                        Meets::Refusal => Self::report(&mut work, What::Refused),
                    }
                    state.work[executor] = Some(work);
                    state.faults -= 1;
                }
            }
            Action::Work { executor } => self.work(&mut state, executor),
            Action::Call { executor, answer } => {
                self.call(&mut state, executor, answer);
                state.faults -= 1;
            }
            Action::Show => state.shown += 1,
            Action::Read => {
                let outcome = state.unread.pop_front()?;
                self.decide(&mut state, |debouncer, now_ms| {
                    debouncer.read(&self.book, now_ms, Input::Outcome(&outcome));
                });
            }
            Action::Recover => {
                state.recovered = true;
                self.hear(&mut state, Health::Healthy, 2);
            }
            Action::Stop => state.stopped = true,
            Action::Resume => state.stopped = false,
            Action::Crash { executor } => {
                Self::forget(&mut state, executor);
                state.faults -= 1;
            }
            Action::Stall { executor, clock } => {
                let mut work = state.work[executor]?;
                Self::stall(&mut state, executor, &mut work, clock);
                state.work[executor] = Some(work);
                state.faults -= 1;
            }
            Action::Lapse => {
                state.now_ms += LAPSE_MS;
                state.faults -= 1;
            }
            Action::Return { issue } => {
                let nth = state.parked.iter().position(|parked| *parked == issue)?;
                let command = state.debouncer.issued[state.parked.remove(nth)].clone();
                self.decide(&mut state, |debouncer, now_ms| {
                    debouncer.read(&self.book, now_ms, Input::Retried(&command));
                });
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
            Property::always("O2 nothing leaves anew whose outcome stands", |_, state: &State| !state.ended),
            Property::always("E9 nothing is said not to be done that was", |_, state: &State| !state.denied),
            Property::always("O2 nothing withdrawn leaves", |_, state: &State| !state.withdrawn),
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
    state.work.iter().flatten().filter(|work| work.lock == Held::Surely).count() <= 1
}

fn acknowledged_last(_: &Executing, state: &State) -> bool {
    (0..state.debouncer.issued.len())
        .all(|issue| state.queue.contains(&issue) || state.reported.contains(&issue))
}

fn delivered(issue: usize) -> Work {
    Work { issue, line: Line::Lock, lock: Held::No, fresh: false, attempts: 0, perhaps_done: false }
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
    let reported = (0..state.debouncer.issued.len()).all(|issue| state.reported.contains(&issue));
    let done = |revert| state.effects.keys().any(|(of, _)| *of == revert);
    model.steps(&state).is_empty()
        && reported
        && !state.debouncer.waits()
        && (state.troubled || !state.recovered || done(false) == done(true))
        && (state.troubled || state.recovered || done(false))
}
