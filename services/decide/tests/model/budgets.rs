//! Budgets: three incidents of one group, two executors that take from the playbook's budgets line by line as in
//! `services/executor/src/budget.rs`, around the real `decide::budget`.
//!
//! The seam to [`crate::executor`]: whoever acts on an incident has it to himself, or is refused when it matters; and
//! what is late does not leave.

use std::collections::BTreeMap;

use holdline_decide::budget::{
    self, AtMost, BlastRadius, Budget, Per, Remedy, earlier, is_over, lasting, renewed, take, took, without,
};
use holdline_proto::budget::{Spent, Taken};
use holdline_proto::command::{Command, Course, Direction};
use holdline_proto::incident::{self, Lane, TrackKey, View};
use stateright::{Model, Property};

use crate::broker::Printed;
use crate::guards::Guard;
use crate::scene::{BEGIN_MS, PLAYBOOK};

const INCIDENTS: usize = 3;

/// The playbook's budgets: so many remedies within this time, and such a share of the group at once.
const ACTIONS: u32 = 2;
const WITHIN_MS: i64 = 600_000;
const SHARE_PERCENT: u32 = 25;
const GROUP_SIZE: u32 = 4;
const AT_ONCE: usize = 1;

/// How often so much time passes that no share of the group is recent any more; after all of it no remedy is.
const LAPSES: i64 = 3;
const LAPSE_MS: i64 = WITHIN_MS / LAPSES;

pub(crate) struct Budgets {
    faults: u8,
    /// They are locks that run out; if not, crashes.
    deposing: bool,
    gone: Option<Guard>,
    /// What each incident's remedy takes of.
    budgets: Vec<Vec<Budget>>,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    now_ms: i64,
    /// What was taken of each budget.
    entries: [Printed<Spent>; 2],
    incidents: [Incident; INCIDENTS],
    work: [Option<Work>; 2],
    /// Calls that left, by their time.
    left_ms: Vec<i64>,
    overdrawn: bool,
    /// An incident was held for want of what it had.
    robbed: bool,
    /// Somebody has lost his lock.
    deposed: bool,
    /// How many more may happen.
    faults: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Incident {
    phase: Phase,
    deliveries: u8,
    /// It has a share of each budget. That of the first is for a time.
    has: [bool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Confirmed,
    Remedied,
    Held,
    Over,
}

/// An executor that takes for an incident.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Work {
    incident: usize,
    /// When its command was issued: what is late is issued anew.
    issued_ms: i64,
    step: Step,
    /// What this issue of its command has taken, now or in an earlier delivery.
    taken: [bool; 2],
    /// A budget refuses, as the first look shows.
    refused: Option<usize>,
    /// It was refused once, and looks again.
    again: bool,
    /// The lock is still its own. If not, somebody else may have the incident.
    sure: bool,
    /// What it has read of the budget at hand, and what it makes of that; nobody else has written since.
    read: Option<Printed<Result<Spent, String>>>,
    fresh: bool,
}

/// Line by line, a budget after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Look(usize),
    Take(usize),
    GiveBack(usize),
    Call,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Deliver {
        executor: usize,
        incident: usize,
    },
    Work {
        executor: usize,
    },
    End {
        incident: usize,
    },
    Lapse,
    Crash {
        executor: usize,
    },
    /// Its lock runs out while it stands still.
    Depose {
        executor: usize,
    },
}

fn command(incident: usize) -> Command {
    Command {
        incident: format!("i{incident}"),
        partition: 0,
        key: TrackKey { playbook: PLAYBOOK.into(), lane: Lane::Failover, entity: format!("e{incident}") },
        group: Some("g".into()),
        playbooks: String::new(),
        direction: Direction::Remediate,
        step: 0,
        action: "fail".into(),
        undo: None,
        decision: 1,
        decided_ms: BEGIN_MS,
        course: Course::default(),
        deadline_ms: i64::MAX,
        depth: 0,
        values: BTreeMap::new(),
        replays: 0,
        approval: None,
    }
}

impl Budgets {
    pub(crate) fn new(deposing: bool, faults: u8, gone: Option<Guard>) -> Budgets {
        let guard = budget::Guard {
            at_most: Some(AtMost { actions: ACTIONS, per: Per::Playbook, within_ms: WITHIN_MS }),
            blast_radius: Some(BlastRadius { share_percent: SHARE_PERCENT, within_ms: LAPSE_MS }),
        };
        let sizes = BTreeMap::from([("g".to_string(), GROUP_SIZE)]);
        let of = |incident| {
            let mut budgets = budget::budgets(&guard, &sizes, &command(incident));
            if gone == Some(Guard::BudgetWhileOpen) {
                budgets.iter_mut().for_each(|budget| budget.while_open = false);
            }
            budgets
        };
        Budgets { faults, deposing, gone, budgets: (0..INCIDENTS).map(of).collect() }
    }

    fn without(&self, guard: Guard) -> bool {
        self.gone == Some(guard)
    }

    /// What happens without any fault.
    fn steps(&self, state: &State) -> Vec<Action> {
        let mut steps = vec![];
        // Whoever is deposed may still be at work on what somebody else has.
        let at_work =
            |incident| state.work.iter().flatten().any(|work| work.incident == incident && work.sure);
        for (incident, at) in state.incidents.iter().enumerate() {
            if at.phase == Phase::Confirmed && !at_work(incident) {
                // Whoever is deposed is there from the beginning; the other does the rest.
                let first = usize::from(self.deposing);
                let idle = (first..2).find(|executor| state.work[*executor].is_none());
                steps.extend(idle.map(|executor| Action::Deliver { executor, incident }));
            }
        }
        let working = (0..2).filter(|executor| state.work[*executor].is_some());
        steps.extend(working.map(|executor| Action::Work { executor }));
        steps
    }

    /// What `holdline_executor::budget` makes of an entry.
    fn look(&self, state: &State, work: &Work, nth: usize) -> Result<Option<Spent>, String> {
        let Work { incident, issued_ms, .. } = *work;
        let budget = &self.budgets[incident][nth];
        // Which incident has it is read off the name, and a delivery has none.
        let name = if self.without(Guard::BudgetOnce) {
            format!("i{incident}, delivery {}", state.incidents[incident].deliveries)
        } else {
            format!("i{incident}")
        };
        let budget = &Budget {
            what: if self.without(Guard::BudgetOnce) { name.clone() } else { budget.what.clone() },
            ..budget.clone()
        };
        let spent = &*state.entries[nth];
        let ended = |taken: &Taken| {
            let number = taken.incident.trim_start_matches('i').chars().next().and_then(|n| n.to_digit(10));
            let at = &state.incidents[number.unwrap() as usize];
            is_over(taken, Some(&view(at.phase)), state.now_ms)
        };
        let before = earlier(spent, budget).chain(lasting(spent, budget, state.now_ms));
        let over = before.filter(|taken| ended(taken)).map(|taken| taken.incident.clone()).collect();
        take(spent, budget, &Remedy { incident: &name, issue: &issued_ms.to_string() }, state.now_ms, &over)
    }

    fn renewed(&self, state: &State, work: &Work, nth: usize) -> Spent {
        let entry = &state.entries[nth];
        match self.without(Guard::BudgetRenewed) {
            true => (**entry).clone(),
            false => {
                let (budget, name) = (&self.budgets[work.incident][nth], format!("i{}", work.incident));
                renewed(entry, budget, &name, state.now_ms)
            }
        }
    }

    /// Whether this issue of an incident's command has taken what the incident has.
    fn took(&self, state: &State, work: &Work, nth: usize) -> bool {
        let incident = work.incident;
        let (name, issue) = (format!("i{incident}"), work.issued_ms.to_string());
        let remedy = Remedy { incident: &name, issue: &issue };
        took(&state.entries[nth], &self.budgets[incident][nth], &remedy)
    }

    fn work(&self, state: &mut State, executor: usize) {
        let Some(mut work) = state.work[executor].take() else { return };
        let incident = work.incident;
        let last = self.budgets[incident].len() - 1;
        match work.step {
            Step::Look(nth) => {
                work.taken[nth] = self.took(state, &work, nth);
                if work.refused.is_none() && self.look(state, &work, nth).is_err() {
                    work.refused = Some(nth);
                }
                match work.refused {
                    _ if nth < last => work.step = Step::Look(nth + 1),
                    Some(refused) => return self.refused(state, executor, work, refused),
                    None => (work.step, work.taken) = (Step::Take(0), [false; 2]),
                }
            }
            Step::Take(nth) => match work.read.take() {
                None => {
                    let found = self.look(state, &work, nth);
                    // Where there is nothing to take, it is written from when it counts.
                    let (read, taken) = match found {
                        Ok(Some(taken)) => (Ok(taken), true),
                        Ok(None) => (Ok(self.renewed(state, &work, nth)), self.took(state, &work, nth)),
                        Err(why) => (Err(why), false),
                    };
                    work.taken[nth] = taken;
                    work.read = Some(Printed::new(read));
                    work.fresh = true;
                }
                Some(found) => match &*found {
                    Err(_) => return self.refused(state, executor, work, nth),
                    Ok(_) if !work.fresh && !self.without(Guard::BudgetFence) => {}
                    Ok(taken) => {
                        Self::write(state, nth, taken.clone());
                        // Whoever is deposed may take by what was once so.
                        state.incidents[incident].has[nth] |= work.sure;
                        work.step = if nth < last { Step::Take(nth + 1) } else { Step::Call };
                    }
                },
            },
            Step::GiveBack(nth) => match work.read.take() {
                // Who has the lock by now may go by it.
                None if !work.sure && !self.without(Guard::SureGivingBack) => return,
                None => {
                    let budget = &self.budgets[incident][nth];
                    match without(&state.entries[nth], budget, &format!("i{incident}")) {
                        Some(left) => work.read = Some(Printed::new(Ok(left))),
                        None => return self.go_back(state, executor, work),
                    }
                    work.fresh = true;
                }
                Some(found) => {
                    if let Ok(left) = &*found
                        && work.fresh
                    {
                        Self::write(state, nth, left.clone());
                        state.incidents[incident].has[nth] = false;
                        return self.go_back(state, executor, work);
                    }
                }
            },
            Step::Call => {
                if work.sure {
                    Self::call(state, incident);
                }
                return;
            }
        }
        state.work[executor] = Some(work);
    }

    fn write(state: &mut State, nth: usize, entry: Spent) {
        state.entries[nth] = Printed::new(entry);
        for other in state.work.iter_mut().flatten() {
            other.fresh &= !matches!(other.step, Step::Take(at) | Step::GiveBack(at) if at == nth);
        }
    }

    /// A budget refuses: what was taken of the others goes back, unless somebody else may go by it.
    fn refused(&self, state: &mut State, executor: usize, work: Work, nth: usize) {
        state.robbed |= work.sure && state.incidents[work.incident].has[nth];
        if !work.sure && !self.without(Guard::SureGivingBack) {
            return;
        }
        self.go_back(state, executor, work);
    }

    /// Gives back the next of what was taken. Once that is all, it is looked at once more, or the incident is held.
    fn go_back(&self, state: &mut State, executor: usize, mut work: Work) {
        let next = work.taken.iter().position(|taken| *taken).filter(|_| !self.without(Guard::GivingBack));
        if let Some(next) = next {
            work.taken[next] = false;
            state.work[executor] = Some(Work { step: Step::GiveBack(next), read: None, ..work });
        } else if !work.again {
            state.work[executor] =
                Some(Work { again: true, ..Self::begin(work.incident, work.issued_ms, work.sure) });
        } else if work.sure {
            state.incidents[work.incident].phase = Phase::Held;
        }
    }

    fn begin(incident: usize, issued_ms: i64, sure: bool) -> Work {
        Work {
            incident,
            issued_ms,
            step: Step::Look(0),
            taken: [false; 2],
            refused: None,
            again: false,
            sure,
            read: None,
            fresh: false,
        }
    }

    fn call(state: &mut State, incident: usize) {
        state.incidents[incident].phase = Phase::Remedied;
        state.left_ms.push(state.now_ms);
        let recent = state.left_ms.iter().filter(|left_ms| **left_ms + WITHIN_MS > state.now_ms).count();
        let at_once = state.incidents.iter().filter(|at| at.phase == Phase::Remedied).count();
        state.overdrawn |= recent > ACTIONS as usize || at_once > AT_ONCE;
    }
}

/// What people are shown of an incident.
fn view(phase: Phase) -> View {
    View {
        id: String::new(),
        partition: 0,
        key: TrackKey { playbook: PLAYBOOK.into(), lane: Lane::Failover, entity: String::new() },
        subscription: String::new(),
        group: None,
        phase: if phase == Phase::Over { incident::Phase::Resolved } else { incident::Phase::Remediating },
        playbooks: String::new(),
        opened_ms: BEGIN_MS,
        last_event_ms: BEGIN_MS,
        consecutive_failures: 1,
        threshold: 1,
        decision: 1,
        held: None,
        awaiting: None,
    }
}

impl Model for Budgets {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let confirmed = Incident { phase: Phase::Confirmed, deliveries: 0, has: [false; 2] };
        vec![State {
            now_ms: BEGIN_MS,
            entries: [Printed::new(Spent::default()), Printed::new(Spent::default())],
            incidents: [confirmed.clone(), confirmed.clone(), confirmed],
            work: [self.deposing.then(|| Self::begin(0, BEGIN_MS, true)), None],
            left_ms: vec![],
            overdrawn: false,
            robbed: false,
            deposed: false,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        for (incident, at) in state.incidents.iter().enumerate() {
            if at.phase == Phase::Remedied {
                actions.push(Action::End { incident });
            }
        }
        if state.now_ms < BEGIN_MS + LAPSES * LAPSE_MS {
            actions.push(Action::Lapse);
        }
        if state.faults > 0 {
            let at = |executor: &usize| state.work[*executor].as_ref().is_some_and(|work| work.sure);
            let fault = |executor| match self.deposing {
                true => Action::Depose { executor },
                false => Action::Crash { executor },
            };
            actions.extend((0..if self.deposing { 1 } else { 2 }).filter(at).map(fault));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Deliver { executor, incident } => {
                state.incidents[incident].deliveries += u8::from(self.without(Guard::BudgetOnce));
                state.work[executor] = Some(Self::begin(incident, before.now_ms, true));
            }
            Action::Work { executor } => self.work(&mut state, executor),
            Action::End { incident } => state.incidents[incident].phase = Phase::Over,
            Action::Lapse => {
                state.now_ms += LAPSE_MS;
                // All of it is late by now, and decided anew; whoever stands still does not know.
                state.work.iter_mut().for_each(|work| drop(work.take_if(|work| work.sure)));
                state.incidents.iter_mut().for_each(|at| at.has[0] = false);
            }
            Action::Depose { executor } => {
                state.work[executor].as_mut()?.sure = false;
                state.deposed = true;
                state.faults -= 1;
            }
            Action::Crash { executor } => {
                state.work[executor] = None;
                state.faults -= 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("A5 no budget is overdrawn", |_, state: &State| !state.overdrawn),
            Property::always("A5 what was taken is not asked for again", |_, state: &State| !state.robbed),
            Property::always("A5 what one budget refuses costs no other", |_, state: &State| {
                let nothing = |at: &Incident| at.phase != Phase::Held || at.has == [false; 2];
                // Whoever is deposed may leave something, and so may an issue that became late.
                state.deposed || state.now_ms > BEGIN_MS || state.incidents.iter().all(nothing)
            }),
            Property::always(
                "L1 in the end everything is remedied or held",
                |model: &Budgets, state: &State| {
                    let through = |at: &Incident| at.phase != Phase::Confirmed;
                    !model.steps(state).is_empty() || state.incidents.iter().all(through)
                },
            ),
        ]
    }
}
