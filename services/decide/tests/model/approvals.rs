//! What people have to allow: an executor that goes through `services/executor/src/approvals.rs` line by line around
//! the real `decide::approval`, the real debouncer's commands, people who speak when they like, and somebody with every
//! right at the broker and neither a token nor the executors' seed, who copies and makes up what people said, what they
//! were asked, and commands. Two people have to allow it; or it is sent unless somebody objects, until a newer set of
//! playbooks wants two people as well.
//!
//! The seam to [`crate::executor`]: whoever acts on an incident has it to himself, and outcomes are read at once.

use std::collections::{BTreeMap, BTreeSet};

use holdline_decide::approval::{
    Approval, Covered, Named, Permission, Person, Right, Standing, Terms, When, ask, awaits, is_about, judge,
    on_terms, permission, terms,
};
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

const EXPIRES_MS: i64 = 600_000;
const OBJECTED_WITHIN_MS: i64 = 60_000;

const TWO_PEOPLE: Terms = Terms { people: 2, expires_ms: EXPIRES_MS, unless_denied_ms: None };
const SOFT_BLOCK: Terms = Terms { people: 1, unless_denied_ms: Some(OBJECTED_WITHIN_MS), ..TWO_PEOPLE };

const RULES: &str = "confirm: {failures: 1, stable_for: 0s}\nact:\n  failed: {do: [fail], class: failover}\n\
                     revert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";

/// Two may approve; eve may not. Their tokens are their names, which nobody else can write.
const NAMES: [(&str, Right); 3] = [("ada", Right::Approve), ("bob", Right::Approve), ("eve", Right::Look)];

/// What they may say.
const WORDS: [(&str, bool); 4] = [("ada", true), ("bob", true), ("bob", false), ("eve", true)];

/// How often the debouncer is told that people have spoken.
const TELLINGS_MAX: u8 = 2;

pub(crate) struct Approvals {
    gone: Option<Guard>,
    /// The set of playbooks by which people are asked first, and the one after it.
    books: [Book; 2],
    /// When something changes by itself. Unix milliseconds.
    hours_ms: Vec<i64>,
    /// How often people speak.
    words_max: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    now_ms: i64,
    /// Which set is current.
    set: usize,
    debouncer: Issuer,
    /// Commands that are not acknowledged.
    queue: Vec<Printed<Command>>,
    /// What people are asked, by its id.
    asked: BTreeMap<String, Printed<Asked>>,
    /// What they were really asked: when, and by which set.
    really: BTreeMap<String, (i64, usize)>,
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
    /// Somebody without the executors' seed writes that people were asked long ago.
    MakeUpAsked {
        id: String,
    },
    /// A command for another request under the id of what people were asked.
    MakeUpCommand {
        id: String,
    },
    Lapse,
    Push,
}

impl Approvals {
    /// `soft`: it is sent unless somebody objects; a newer set may want two people.
    pub(crate) fn new(soft: bool, gone: Option<Guard>) -> Approvals {
        let people: BTreeMap<String, Person> = NAMES
            .iter()
            .map(|(name, right)| {
                let person =
                    Person { token: (*name).into(), rights: BTreeSet::from([*right]), until_ms: None };
                ((*name).to_string(), person)
            })
            .collect();
        let by = |terms| {
            let mut book = book(RULES, false, true);
            book.0.people.clone_from(&people);
            let approval = Approval { covers: vec![Covered::Failover], when: When::Always, terms };
            book.0.playbooks.values_mut().for_each(|playbook| playbook.approval = Some(approval.clone()));
            book
        };
        let hours_ms = if soft { vec![OBJECTED_WITHIN_MS, EXPIRES_MS] } else { vec![EXPIRES_MS] };
        let hours_ms = hours_ms.into_iter().map(|after_ms| BEGIN_MS + after_ms).collect();
        Approvals {
            gone,
            books: [by(if soft { SOFT_BLOCK } else { TWO_PEOPLE }), by(TWO_PEOPLE)],
            hours_ms,
            words_max: if soft { 2 } else { 3 },
        }
    }

    fn is_soft(&self) -> bool {
        self.hours_ms.len() > 1
    }

    /// On which terms people have to allow a command now.
    fn terms(&self, state: &State, command: &Command) -> Option<Terms> {
        let set = &self.books[state.set].0;
        terms(set, &set.actions[&command.action], command, state.now_ms)
    }

    fn without(&self, guard: Guard) -> bool {
        self.gone == Some(guard)
    }

    fn shown(&self, command: &Command) -> Shown {
        shown(&self.books[0].0.actions[&command.action], command).unwrap()
    }

    /// What the executor makes of what people have said.
    fn judge(&self, asked: &Asked, terms: Option<&Terms>, now_ms: i64) -> Standing {
        let signed = asked;
        let mut asked = match terms.filter(|_| !self.without(Guard::TermsInForce)) {
            Some(terms) => on_terms(asked.clone(), terms),
            None => asked.clone(),
        };
        let mut people = self.books[0].0.people.clone();
        if self.without(Guard::Denial) {
            asked.rulings.retain(|ruling| ruling.verdict != Verdict::Deny);
        }
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
            self.without(Guard::Signature) || ruling.signature == signature(&person.token, &ruling, signed)
        };
        judge(&asked, &people, authentic, now_ms)
    }

    /// Whether exactly this is what people were asked for.
    fn is_about(&self, asked: &Asked, command: &Command, shown: &Shown) -> bool {
        let anything = Shown { request: asked.request.clone(), text: String::new() };
        let shown = if self.without(Guard::ExactRequest) { &anything } else { shown };
        is_about(asked, command, shown)
    }

    /// What comes of what stands under the id that a command names.
    fn permission(&self, state: &State, command: &Command, terms: Option<&Terms>) -> Permission {
        let shown = self.shown(command);
        let asked = command.approval.as_ref().and_then(|id| state.asked.get(id));
        let named = asked.map(|asked| Named {
            is_about: self.is_about(asked, command, &shown),
            is_sealed: self.has_sealed(asked),
            standing: self.judge(asked, terms, state.now_ms),
        });
        permission(terms.is_some(), named)
    }

    /// Whether an executor has asked exactly this.
    fn has_sealed(&self, asked: &Asked) -> bool {
        asked.seal == seal(asked) || self.without(Guard::Seal)
    }

    /// Whether people have allowed it; if they have not been asked, asks them.
    fn look(&self, state: &mut State, command: &Command) {
        let terms = self.terms(state, command);
        match (self.permission(state, command, terms.as_ref()), &terms) {
            (Permission::Denied { by, reason }, _) => {
                let reason = format!("denied by {by}: {reason}");
                self.report(state, command, Done::Failed { reason, perhaps_done: false });
            }
            (Permission::NotNeeded | Permission::Allowed { .. }, _) | (_, None) => {
                state.leaving = Some(Printed::new(command.clone()));
            }
            (Permission::Waits { .. }, Some(terms)) => {
                let asked = state.asked[command.approval.as_ref().unwrap()].clone();
                self.report(state, command, awaits(&on_terms((*asked).clone(), terms), false));
            }
            (Permission::Ask { .. }, Some(terms)) => self.ask(state, command, terms),
        }
    }

    fn ask(&self, state: &mut State, command: &Command, terms: &Terms) {
        let shown = self.shown(command);
        let id = id(command, &shown.request);
        let is_same =
            |known: &&Printed<Asked>| self.is_about(known, command, &shown) && self.has_sealed(known);
        let known = state.asked.get(&id).filter(is_same).cloned();
        let asked = known.unwrap_or_else(|| {
            state.really.insert(id.clone(), (state.now_ms, state.set));
            // Whatever was said of what stood there is gone with it.
            state.said.retain(|word| word.id != id);
            let asked = ask(command, terms, shown, state.now_ms);
            Printed::new(Asked { seal: seal(&asked), ..asked })
        });
        state.asked.insert(id, asked.clone());
        self.report(state, command, awaits(&on_terms((*asked).clone(), terms), false));
    }

    fn report(&self, state: &mut State, command: &Command, done: Done) {
        let outcome = Outcome::of(command, done, 0);
        self.read(state, Input::Outcome(&outcome));
    }

    fn read(&self, state: &mut State, input: Input<'_>) {
        let before = state.debouncer.issued.len();
        state.debouncer.read(&self.books[state.set], state.now_ms, input);
        let issued = state.debouncer.issued[before..].iter();
        state.queue.extend(issued.map(|command| Printed::new((**command).clone())));
    }

    fn last_look(&self, state: &mut State, command: &Command) {
        let terms = self.terms(state, command);
        let found = self.permission(state, command, terms.as_ref());
        let allowed = matches!(found, Permission::NotNeeded | Permission::Allowed { .. });
        if !allowed && !self.without(Guard::LastWord) {
            state.queue.push(Printed::new(command.clone()));
            return;
        }
        state.called = true;
        state.unallowed |= !self.is_allowed(state, command);
        self.report(state, command, Done::Carried { status: 200 });
    }

    /// Written from requirements.md E7 alone: as many as it takes have said so of exactly this, lately, or nobody has
    /// objected in time where that is enough; and nobody has said no. It takes what it took when people were asked, and
    /// what it takes now.
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
                let (asked_ms, set) = state.really[&asked.id];
                let two = !self.is_soft() || set.max(state.set) == 1;
                let enough = match two {
                    true => said(true) >= 2,
                    false => said(true) >= 1 || state.now_ms >= asked_ms + OBJECTED_WITHIN_MS,
                };
                enough && said(false) == 0 && state.now_ms < asked_ms + EXPIRES_MS
            })
    }

    fn next_hour_ms(&self, state: &State) -> Option<i64> {
        self.hours_ms.iter().copied().find(|hour_ms| *hour_ms > state.now_ms)
    }

    fn add(state: &mut State, id: &str, ruling: Ruling) {
        if let Some(asked) = state.asked.get_mut(id) {
            let mut rulings = asked.rulings.clone();
            rulings.push(ruling);
            *asked = Printed::new(Asked { rulings, ..(**asked).clone() });
        }
    }
}

/// Stands for what only an executor can write.
fn seal(asked: &Asked) -> Vec<u8> {
    [b"executor ", asked.sealed().as_slice()].concat()
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
        debouncer.hear(&self.books[0], BEGIN_MS, Health::Failed, 1);
        let queue = debouncer.issued.iter().map(|command| Printed::new((**command).clone())).collect();
        vec![State {
            now_ms: BEGIN_MS,
            set: 0,
            debouncer,
            queue,
            asked: BTreeMap::new(),
            really: BTreeMap::new(),
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
            if state.words < self.words_max {
                let say = |(by, approves)| Action::Say { id: id.clone(), by, approves };
                actions.extend(WORDS.map(say));
            }
            if state.tellings < TELLINGS_MAX {
                actions.push(Action::Tell { id: id.clone() });
            }
            // Each is made up where it can do harm that the other cannot.
            match state.forged {
                true => {}
                false if self.is_soft() => actions.push(Action::MakeUpAsked { id: id.clone() }),
                false => {
                    actions.push(Action::MakeUpWord { id: id.clone() });
                    actions.push(Action::MakeUpCommand { id: id.clone() });
                    let to = |to: &String| Action::Copy { from: id.clone(), to: to.clone() };
                    actions.extend(state.asked.keys().map(to));
                }
            }
        }
        if self.next_hour_ms(state).is_some() {
            actions.push(Action::Lapse);
        }
        if self.is_soft() && state.set == 0 {
            actions.push(Action::Push);
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
            Action::MakeUpAsked { id } => {
                let asked = (*before.asked[&id]).clone();
                let asked_ms = before.now_ms - OBJECTED_WITHIN_MS;
                let made_up = Asked { asked_ms, sends_ms: Some(before.now_ms), ..asked };
                state.asked.insert(id, Printed::new(made_up));
                state.forged = true;
            }
            Action::Lapse => state.now_ms = self.next_hour_ms(before)?,
            Action::Push => state.set = 1,
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
