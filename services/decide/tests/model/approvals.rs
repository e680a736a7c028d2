//! What people have to allow: an executor that goes through `services/executor/src/approvals.rs` line by line around
//! the real `decide::approval`, the real debouncer's commands, people who speak when they like, and somebody with every
//! right at the broker and no token, who copies and makes up what people said, and commands.
//!
//! The seam to [`crate::executor`]: whoever acts on an incident has it to himself, and outcomes are read at once.

use std::collections::{BTreeMap, BTreeSet};

use holdline_decide::approval::{Approval, Covered, Person, Right, Standing, Terms, When, ask, judge, terms};
use holdline_decide::debounce::Input;
use holdline_decide::execute::{Shown, shown};
use holdline_proto::approval::{Asked, Ruled, Ruling, Verdict, id};
use holdline_proto::command::{Command, Direction};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::signal::Health;
use stateright::{Model, Property};

use crate::broker::Printed;
use crate::guards::Guard;
use crate::issuer::Issuer;
use crate::scene::{BEGIN_MS, Book, PLACE, book};

const PEOPLE: u32 = 2;
const EXPIRES_MS: i64 = 600_000;

const RULES: &str = "confirm: {failures: 1, stable_for: 0s}\nact:\n  failed: {do: [fail], class: failover}\n\
                     revert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";

/// Two may approve; eve may not. Their tokens are their names, which nobody else can write.
const NAMES: [(&str, Right); 3] = [("ada", Right::Approve), ("bob", Right::Approve), ("eve", Right::Look)];

/// What they may say.
const WORDS: [(&str, bool); 4] = [("ada", true), ("bob", true), ("bob", false), ("eve", true)];

/// How often people speak, and how often the debouncer is told that they have.
const WORDS_MAX: u8 = 3;
const TELLINGS_MAX: u8 = 2;

pub(crate) struct Approvals {
    gone: Option<Guard>,
    book: Book,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    now_ms: i64,
    debouncer: Issuer,
    /// Commands that are not acknowledged.
    queue: Vec<Printed<Command>>,
    /// What people are asked, by its id.
    asked: BTreeMap<String, Printed<Asked>>,
    /// What was really said by people who may.
    said: BTreeSet<Word>,
    /// What has passed the first look and is about to leave.
    leaving: Option<Printed<Command>>,
    words: u8,
    tellings: u8,
    /// Something was made up.
    forged: bool,
    called: bool,
    /// A call left that people have not allowed.
    unallowed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Word {
    /// Of what was asked.
    id: String,
    by: &'static str,
    approves: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Look {
        nth: usize,
    },
    LastLook,
    Say {
        id: String,
        by: &'static str,
        approves: bool,
    },
    /// The debouncer is told that people have decided, whether they have or not.
    Tell {
        id: String,
    },
    /// Somebody without a token writes down what bob has not said, or has said of something else, or says once more what
    /// was said.
    MakeUpWord {
        id: String,
    },
    Copy {
        from: String,
        to: String,
    },
    /// A command for another request under the id of what people were asked.
    MakeUpCommand {
        id: String,
    },
    Lapse,
}

impl Approvals {
    pub(crate) fn new(gone: Option<Guard>) -> Approvals {
        let mut book = book(RULES, false, true);
        book.0.people = NAMES
            .iter()
            .map(|(name, right)| {
                let person =
                    Person { token: (*name).into(), rights: BTreeSet::from([*right]), until_ms: None };
                ((*name).to_string(), person)
            })
            .collect();
        let terms = Terms { people: PEOPLE, expires_ms: EXPIRES_MS, unless_denied_ms: None };
        let approval = Approval { covers: vec![Covered::Failover], when: When::Always, terms };
        book.0.playbooks.values_mut().for_each(|playbook| playbook.approval = Some(approval.clone()));
        Approvals { gone, book }
    }

    fn without(&self, guard: Guard) -> bool {
        self.gone == Some(guard)
    }

    fn shown(&self, command: &Command) -> Shown {
        shown(&self.book.0.actions[&command.action], command).unwrap()
    }

    /// What the executor makes of what people have said.
    fn judge(&self, asked: &Asked, now_ms: i64) -> Standing {
        let mut asked = asked.clone();
        let mut people = self.book.0.people.clone();
        if self.without(Guard::ApprovalExpires) {
            asked.expires_ms = i64::MAX;
        }
        if self.without(Guard::NobodyCountsTwice) {
            // Each word is somebody's of its own.
            for (nth, ruling) in asked.rulings.iter_mut().enumerate() {
                let alias = format!("{}, {nth}", ruling.by);
                if let Some(person) = people.get(&ruling.by).cloned() {
                    people.insert(alias.clone(), person);
                }
                ruling.by = alias;
            }
        }
        let authentic = |person: &Person, ruling: &Ruling| {
            let by = ruling.by.split(',').next().unwrap_or_default().to_string();
            let ruling = Ruling { by, ..ruling.clone() };
            self.without(Guard::Signature) || ruling.signature == signature(&person.token, &ruling, &asked)
        };
        judge(&asked, &people, authentic, now_ms)
    }

    /// Whether exactly this is what people were asked for.
    fn is_about(&self, asked: &Asked, command: &Command, shown: &Shown) -> bool {
        let same = asked.incident == command.incident
            && asked.direction == command.direction
            && asked.step == command.step
            && asked.action == command.action;
        same && (asked.request == shown.request || self.without(Guard::ExactRequest))
    }

    /// Whether people have allowed it; if they have not been asked, asks them.
    fn look(&self, state: &mut State, command: &Command) {
        let action = &self.book.0.actions[&command.action];
        let Some(terms) = terms(&self.book.0, action, command, state.now_ms) else {
            state.leaving = Some(Printed::new(command.clone()));
            return;
        };
        let shown = self.shown(command);
        let named = command.approval.as_ref().and_then(|id| state.asked.get(id)).cloned();
        if let Some(asked) = named.filter(|asked| self.is_about(asked, command, &shown)) {
            match self.judge(&asked, state.now_ms) {
                Standing::Allowed { .. } => {
                    state.leaving = Some(Printed::new(command.clone()));
                    return;
                }
                Standing::Denied { by, reason } => {
                    let reason = format!("denied by {by}: {reason}");
                    return self.report(state, command, Done::Failed { reason, perhaps_done: false });
                }
                Standing::Waits { .. } => return self.report(state, command, awaits(&asked)),
                Standing::Expired => {}
            }
        }
        let id = id(command, &shown.request);
        let known = state.asked.get(&id).filter(|known| self.is_about(known, command, &shown)).cloned();
        let asked = known.unwrap_or_else(|| Printed::new(ask(command, &terms, shown, state.now_ms)));
        state.asked.insert(id, asked.clone());
        self.report(state, command, awaits(&asked));
    }

    fn report(&self, state: &mut State, command: &Command, done: Done) {
        let outcome = Outcome::of(command, done, 0);
        self.read(state, Input::Outcome(&outcome));
    }

    fn read(&self, state: &mut State, input: Input<'_>) {
        let before = state.debouncer.issued.len();
        state.debouncer.read(&self.book, state.now_ms, input);
        let issued = state.debouncer.issued[before..].iter();
        state.queue.extend(issued.map(|command| Printed::new((**command).clone())));
    }

    fn last_look(&self, state: &mut State, command: &Command) {
        let allowed = command.approval.as_ref().is_none_or(|id| {
            let standing = state.asked.get(id).map(|asked| self.judge(asked, state.now_ms));
            matches!(standing, Some(Standing::Allowed { .. }))
        });
        if !allowed && !self.without(Guard::LastWord) {
            state.queue.push(Printed::new(command.clone()));
            return;
        }
        state.called = true;
        state.unallowed |= !self.is_allowed(state, command);
        self.report(state, command, Done::Carried { status: 200 });
    }

    /// Written from requirements.md E7 alone: two people have said so of exactly this, lately, and nobody otherwise.
    fn is_allowed(&self, state: &State, command: &Command) -> bool {
        let request = self.shown(command).request;
        let mut about = state.asked.values().filter(|asked| asked.request == request);
        command.direction != Direction::Remediate
            || about.any(|asked| {
                let said = |approves| {
                    let said = state
                        .said
                        .iter()
                        .filter(move |word| (&word.id, word.approves) == (&asked.id, approves));
                    said.map(|word| word.by).collect::<BTreeSet<_>>().len()
                };
                said(true) >= PEOPLE as usize && said(false) == 0 && state.now_ms < asked.expires_ms
            })
    }

    fn add(state: &mut State, id: &str, ruling: Ruling) {
        if let Some(asked) = state.asked.get_mut(id) {
            let mut rulings = asked.rulings.clone();
            rulings.push(ruling);
            *asked = Printed::new(Asked { rulings, ..(**asked).clone() });
        }
    }
}

fn awaits(asked: &Asked) -> Done {
    Done::AwaitsApproval {
        approval: asked.id.clone(),
        until_ms: asked.sends_ms.unwrap_or(asked.expires_ms),
        unless_denied: asked.sends_ms.is_some(),
        perhaps_done: false,
    }
}

/// Stands for what only the owner of a token can write.
fn signature(token: &str, ruling: &Ruling, asked: &Asked) -> Vec<u8> {
    [token.as_bytes(), &ruling.signed(asked)].concat()
}

fn says(by: &str, verdict: Verdict, at_ms: i64) -> Ruling {
    Ruling { by: by.into(), verdict, reason: String::new(), at_ms, signature: vec![] }
}

impl Model for Approvals {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut debouncer = Issuer::new();
        debouncer.hear(&self.book, BEGIN_MS, Health::Failed, 1);
        let queue = debouncer.issued.iter().map(|command| Printed::new((**command).clone())).collect();
        vec![State {
            now_ms: BEGIN_MS,
            debouncer,
            queue,
            asked: BTreeMap::new(),
            said: BTreeSet::new(),
            leaving: None,
            words: 0,
            tellings: 0,
            forged: false,
            called: false,
            unallowed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.called {
            return;
        }
        match state.leaving {
            Some(_) => actions.push(Action::LastLook),
            None => actions.extend((0..state.queue.len()).map(|nth| Action::Look { nth })),
        }
        for id in state.asked.keys() {
            if state.words < WORDS_MAX {
                let say = |(by, approves)| Action::Say { id: id.clone(), by, approves };
                actions.extend(WORDS.map(say));
            }
            if state.tellings < TELLINGS_MAX {
                actions.push(Action::Tell { id: id.clone() });
            }
            if !state.forged {
                actions.push(Action::MakeUpWord { id: id.clone() });
                actions.push(Action::MakeUpCommand { id: id.clone() });
                let to = |to: &String| Action::Copy { from: id.clone(), to: to.clone() };
                actions.extend(state.asked.keys().map(to));
            }
        }
        if state.now_ms == BEGIN_MS {
            actions.push(Action::Lapse);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Look { nth } => {
                let command = state.queue.remove(nth);
                self.look(&mut state, &command);
            }
            Action::LastLook => {
                let command = state.leaving.take()?;
                self.last_look(&mut state, &command);
            }
            Action::Say { id, by, approves } => {
                let verdict = if approves { Verdict::Approve } else { Verdict::Deny };
                let mut ruling = says(by, verdict, state.now_ms);
                ruling.signature = signature(by, &ruling, &before.asked[&id]);
                Self::add(&mut state, &id, ruling);
                state.words += 1;
                if may_approve(by) {
                    state.said.insert(Word { id, by, approves });
                }
            }
            Action::MakeUpWord { id } => {
                Self::add(&mut state, &id, says("bob", Verdict::Approve, before.now_ms));
                state.forged = true;
            }
            Action::Copy { from, to } => {
                let ruling = before.asked[&from].rulings.last()?.clone();
                Self::add(&mut state, &to, ruling);
                state.forged = true;
            }
            Action::MakeUpCommand { id } => {
                let mut command = (**state.debouncer.issued.last()?).clone();
                command.values.insert(PLACE.into(), "another".into());
                command.approval = Some(id);
                state.queue.push(Printed::new(command));
                state.forged = true;
            }
            Action::Tell { id } => {
                let asked = &before.asked[&id];
                let ruled = Ruled {
                    key: asked.key.clone(),
                    incident: asked.incident.clone(),
                    approval: id,
                    verdict: Verdict::Approve,
                    by: String::new(),
                    reason: String::new(),
                };
                self.read(&mut state, Input::Ruled(&ruled));
                state.tellings += 1;
                if state.debouncer == before.debouncer {
                    // Nobody waited for it.
                    return None;
                }
            }
            Action::Lapse => state.now_ms += EXPIRES_MS,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("A4 nothing leaves that people have not allowed", |_, state: &State| {
                !state.unallowed
            }),
            Property::sometimes("E7 what people have allowed leaves", |_, state: &State| state.called),
        ]
    }
}

fn may_approve(by: &str) -> bool {
    NAMES.iter().any(|(name, right)| *name == by && *right == Right::Approve)
}
