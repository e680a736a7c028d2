//! One object that several entities need changed: two incidents want the same of it, an executor at work on each goes
//! through `services/executor/src/native.rs` line by line around the real `decide::native`, and a person may change
//! the object, too.
//!
//! The seam to [`crate::executor`]: whoever acts on an incident has it to himself. As there, the call goes with the last
//! look, and a lock that nobody renews has run out.

use holdline_decide::native::{
    Change, Fields, InForce, Kept, Known, Object, Plan, Stamp, Written, noted, plan, undo,
};
use holdline_decide::playbook::Method;
use serde_json::{Value, json};
use stateright::{Model, Property};

use crate::broker::Printed;
use crate::guards::Guard;

const FIELD: &str = "state";
const BEFORE: &str = "before";
const WANTED: &str = "wanted";
const BY_HAND: &str = "by hand";

const REMEDIES: [&str; 2] = ["a-0", "b-0"];

pub(crate) struct Sharing {
    faults: u8,
    gone: Option<Guard>,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    /// What the object is like, and how often it was written.
    shown: &'static str,
    version: u64,
    /// What is kept of the change.
    entry: Printed<Option<InForce>>,
    lock: Option<usize>,
    incidents: [Incident; 2],
    /// A person has changed the object, and that was undone.
    by_hand: bool,
    overruled: bool,
    /// How many more may happen.
    faults: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Incident {
    phase: Phase,
    /// A call of the command that is due may have had its effect.
    perhaps_done: bool,
    /// A person has to look.
    held: bool,
    work: Option<Work>,
}

#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Phase {
    Troubled,
    Remedied,
    Over,
    Undone,
}

/// An executor at work.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Work {
    line: Line,
    /// It has the lock, as far as it can tell.
    sure: bool,
    /// The entry as it knows it, and nobody else has written it since.
    known: Printed<Option<InForce>>,
    fresh: bool,
    /// The pre-image that it goes by.
    kept: Printed<Kept>,
}

/// What an executor does next.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Line {
    Withdraw,
    Look,
    /// What is to be sent is right for this version.
    Keep {
        version: u64,
    },
    Call {
        version: u64,
    },
    /// What stands now led from this version of the object; `None`: it had stood already.
    Note {
        wrote: Option<u64>,
    },
    Report,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Take {
        incident: usize,
    },
    Work {
        incident: usize,
    },
    /// The trouble ends.
    End {
        incident: usize,
    },
    Meddle,
    Crash {
        incident: usize,
    },
    Stall {
        incident: usize,
    },
}

impl Sharing {
    pub(crate) fn new(faults: u8, gone: Option<Guard>) -> Sharing {
        let object = Object {
            path: "/object".into(),
            query: "",
            set: Fields::from_iter([(FIELD.to_string(), json!(WANTED))]),
            method: Method::Put,
            stamp: Stamp::Version,
        };
        Sharing { faults, gone, change: Change::Object(object) }
    }

    fn without(&self, guard: Guard) -> bool {
        self.gone == Some(guard)
    }

    /// What happens without any fault.
    fn steps(&self, state: &State) -> Vec<Action> {
        let mut steps = vec![];
        for (incident, at) in state.incidents.iter().enumerate() {
            let due = matches!(at.phase, Phase::Troubled | Phase::Over) && !at.held;
            match &at.work {
                Some(_) => steps.push(Action::Work { incident }),
                None if due && state.lock.is_none() => steps.push(Action::Take { incident }),
                None => {}
            }
            if at.phase == Phase::Remedied {
                steps.push(Action::End { incident });
            }
        }
        steps
    }

    fn faults(&self, state: &State) -> Vec<Action> {
        let mut faults = vec![];
        if state.faults == 0 {
            return faults;
        }
        for (incident, at) in state.incidents.iter().enumerate() {
            let Some(work) = &at.work else { continue };
            faults.push(Action::Crash { incident });
            if work.sure {
                faults.push(Action::Stall { incident });
            }
        }
        faults
    }

    /// Writes what is kept, if nobody else has since it was looked at.
    fn keep(&self, state: &mut State, incident: usize, work: &mut Work, known: InForce) -> bool {
        if work.known.as_ref() == Some(&known) && self.without(Guard::EveryWriteIsFenced) {
            return true;
        }
        if !work.fresh && !self.without(Guard::RelianceFence) {
            return false;
        }
        state.entry = Printed::new(Some(known));
        (work.known, work.fresh) = (state.entry.clone(), true);
        if let Some(other) = &mut state.incidents[1 - incident].work {
            other.fresh = false;
        }
        true
    }

    fn forget(state: &mut State, incident: usize) {
        state.incidents[incident].work = None;
        state.lock.take_if(|holder| *holder == incident);
    }

    /// One line of the way of a native action; `None`: it is given back.
    fn work(&self, state: &mut State, incident: usize) -> Option<Work> {
        let mut work = state.incidents[incident].work.clone()?;
        let undoes = state.incidents[incident].phase == Phase::Over;
        let remedy = REMEDIES[incident];
        let perhaps_done = state.incidents[incident].perhaps_done;
        let known = (*work.known).clone();
        let shown = json!({FIELD: state.shown, "version": state.version});
        work.line = match work.line {
            Line::Withdraw => {
                let Some(mut known) = known else {
                    state.incidents[incident].held = true;
                    return None;
                };
                if self.without(Guard::Reliance) {
                    known.relying.retain(|relies| relies == remedy);
                }
                let left = known.without(remedy, perhaps_done);
                let owed = left.owed;
                if !self.keep(state, incident, &mut work, left) {
                    return None;
                }
                if owed { Line::Look } else { Line::Report }
            }
            Line::Look => {
                let (plan, kept) = if undoes {
                    let mut kept = known.clone()?.kept;
                    if self.without(Guard::Stamp) {
                        kept.stamp_after = shown.get("version").cloned();
                    }
                    (undo(&self.change, &kept, &Written::default(), &shown, 0), kept)
                } else {
                    let mut known = known.unwrap_or_default();
                    if self.without(Guard::Begun) {
                        known.begun.clear();
                    }
                    let before = match known.known(remedy, perhaps_done, 0) {
                        Known::MayStand(_) | Known::Owed(_) if self.without(Guard::PreImageStays) => {
                            Known::Nothing
                        }
                        before => before,
                    };
                    plan(&self.change, before, &shown)
                };
                work.kept = Printed::new(kept);
                match plan {
                    Plan::Send(_) => Line::Keep { version: state.version },
                    Plan::Already => Line::Note { wrote: None },
                    Plan::Intervened(_) => {
                        state.incidents[incident].held = true;
                        return None;
                    }
                    Plan::Refused(why) => panic!("{why}"),
                    Plan::Wait => panic!("nothing of it passes by itself"),
                }
            }
            Line::Keep { version } => {
                let known = known.unwrap_or_default();
                let kept = (*work.kept).clone();
                let begun = if undoes { InForce { kept, ..known } } else { known.beginning(remedy, kept) };
                if !self.without(Guard::PreImage) && !self.keep(state, incident, &mut work, begun) {
                    return None;
                }
                Line::Call { version }
            }
            Line::Call { version } => {
                // The platform refuses what was made for another version.
                if !work.sure || version != state.version {
                    return None;
                }
                state.overruled |= undoes && state.shown == BY_HAND;
                state.shown = match (undoes, work.kept.before.get(FIELD).and_then(Value::as_str)) {
                    (false, _) => WANTED,
                    (true, Some(BEFORE)) => BEFORE,
                    (true, Some(BY_HAND)) => BY_HAND,
                    (true, before) => panic!("{before:?} was never there before"),
                };
                state.version += 1;
                state.incidents[incident].perhaps_done = true;
                Line::Note { wrote: Some(state.version) }
            }
            Line::Note { wrote } => {
                let known = known.unwrap_or_default();
                let mut kept = (*work.kept).clone();
                if let Some(version) = wrote {
                    kept = noted(&self.change, &kept, &json!({ "version": version }));
                }
                let settled = if undoes { known.undone(0) } else { known.carried(remedy, kept) };
                if !self.keep(state, incident, &mut work, settled) {
                    return None;
                }
                Line::Report
            }
            Line::Report => {
                let at = &mut state.incidents[incident];
                at.phase = if undoes { Phase::Undone } else { Phase::Remedied };
                at.perhaps_done = false;
                return None;
            }
        };
        Some(work)
    }
}

impl Model for Sharing {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let troubled = Incident { phase: Phase::Troubled, perhaps_done: false, held: false, work: None };
        vec![State {
            shown: BEFORE,
            version: 1,
            entry: Printed::new(None),
            lock: None,
            incidents: [troubled.clone(), troubled],
            by_hand: false,
            overruled: false,
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state));
        if !state.by_hand {
            actions.push(Action::Meddle);
        }
        actions.extend(self.faults(state));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Take { incident } => {
                let at = &mut state.incidents[incident];
                let line = if at.phase == Phase::Over { Line::Withdraw } else { Line::Look };
                let (known, kept) = (state.entry.clone(), Printed::new(Kept::default()));
                at.work = Some(Work { line, sure: true, known, fresh: true, kept });
                state.lock = Some(incident);
            }
            Action::Work { incident } => match self.work(&mut state, incident) {
                Some(work) => state.incidents[incident].work = Some(work),
                None => Self::forget(&mut state, incident),
            },
            Action::End { incident } => state.incidents[incident].phase = Phase::Over,
            Action::Meddle => {
                (state.shown, state.by_hand) = (BY_HAND, true);
                state.version += 1;
            }
            Action::Crash { incident } => {
                Self::forget(&mut state, incident);
                state.faults -= 1;
            }
            Action::Stall { incident } => {
                state.incidents[incident].work.as_mut()?.sure = false;
                state.lock = None;
                state.faults -= 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("E2 a remedy stands while somebody relies on it", |_, state: &State| {
                let relied = state.incidents.iter().any(|at| at.phase == Phase::Remedied);
                !relied || state.shown == WANTED || state.by_hand
            }),
            Property::always("E2 what was there is put back", |model: &Sharing, state: &State| {
                let over = model.steps(state).is_empty();
                !over || state.shown == BEFORE || state.by_hand
            }),
            Property::always("A6 a person's change stays", |_, state: &State| !state.overruled),
            Property::always(
                "L1 in the end everything is undone or held",
                |model: &Sharing, state: &State| {
                    let through = |at: &Incident| at.phase == Phase::Undone || at.held;
                    !model.steps(state).is_empty() || state.incidents.iter().all(through)
                },
            ),
        ]
    }
}
