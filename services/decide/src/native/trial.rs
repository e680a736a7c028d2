//! Tries every kind: what it calls, what undoes that, and what proves it. The cases stand with the kinds
//! ([`Kind::tried`]).

use std::cell::Cell;

use serde_json::Value;

use super::change::{Call, Change, Kept, Plan, noted, plan, undo};
use super::in_force::{InForce, Known};
use super::proof::{Shows, proof, shows, shows_undone};
use super::written::Written;
use super::{Given, KINDS, Kind};

/// A kind under trial, and what of it was tried.
pub(super) struct Trial {
    kind: &'static Kind,
    called: Cell<bool>,
    worked: Cell<bool>,
    not_yet: Cell<bool>,
}

/// Method, path and body of a call. No body is null.
type Sent<'a> = (&'a str, &'a str, Value);

impl Trial {
    fn change(&self, parameters: &Value) -> Change {
        let given = Given(parameters.as_object().unwrap());
        given.check(self.kind).unwrap();
        (self.kind.change)(&given).unwrap()
    }

    fn is(&self, plan: Plan, (method, path, body): Sent<'_>, what: &str) {
        let body = Some(body).filter(|body| !body.is_null());
        let call = plan_call(plan).unwrap_or_else(|plan| panic!("{} {what}: {plan:?}", self.kind.name));
        assert_eq!((call.method.name(), call.path.as_str()), (method, path), "{} {what}", self.kind.name);
        assert_eq!(call.body, body, "{} {what}", self.kind.name);
    }

    /// `there` leads from `before` to `after`, and `back` undoes that. Again, after a crash or for another incident that
    /// wants the same, it is so already, and what was there before stays known.
    pub(super) fn changes(
        &self,
        parameters: Value,
        before: Value,
        after: Value,
        there: Sent<'_>,
        back: Sent<'_>,
    ) {
        let (name, change) = (self.kind.name, self.change(&parameters));
        assert!(
            self.kind.can_be_looked_at && change.look().is_some() && change.identity().is_some(),
            "{name}"
        );
        let (planned, kept) = plan(&change, Known::Nothing, &before);
        self.is(planned, there, "there");
        let kept = noted(&change, &kept, &after);
        let again = plan(&change, Known::MayStand(&kept), &after);
        assert_eq!(again, (Plan::Already, kept.clone()), "{name}");
        self.is(undo(&change, &kept, &Written::default(), &after, 0), back, "back");
        let known =
            InForce::default().carried("incident-0", kept.clone()).without("incident-0", false).undone(0);
        for (shown, expected) in [(&before, Shows::Worked), (&after, Shows::NotYet)] {
            let found = shows_undone(&change, &known, shown, 0);
            assert_eq!(found, Ok(expected), "{name} {shown}");
        }
        // Of members it may show what was before our own write took effect.
        if !matches!(change, Change::Members(_)) {
            let undone = undo(&change, &kept, &Written::default(), &before, 0);
            assert_eq!(undone, Plan::Already, "{name}");
        }
        self.called.set(true);
    }

    /// It is started by this POST, and nothing of it can be looked at before or put back.
    pub(super) fn starts(&self, parameters: Value, path: &str, body: Value) {
        let (name, change) = (self.kind.name, self.change(&parameters));
        assert!(
            !self.kind.can_be_looked_at && change.look().is_none() && change.identity().is_none(),
            "{name}"
        );
        self.is(plan(&change, Known::Nothing, &Value::Null).0, ("POST", path, body), "start");
        self.called.set(true);
    }

    /// What undoing it takes, when it led from what is shown first to what is shown then.
    pub(super) fn undone(&self, parameters: Value, before: Value, shown: Value) -> Plan {
        let change = self.change(&parameters);
        let (_, kept) = plan(&change, Known::Nothing, &before);
        undo(&change, &kept, &Written::default(), &shown, 0)
    }

    /// What is shown proves this; `None`: it tells nothing. Gives the path that was looked at.
    pub(super) fn shows(&self, parameters: &Value, shown: Value, expected: Option<Shows>) -> String {
        let (name, change) = (self.kind.name, self.change(parameters));
        let started = noted(&change, &Kept::default(), &serde_json::json!({"id": "started/1"}));
        let proof = proof(&change, &started).unwrap();
        assert!(proof.after_ms >= 1_000 && proof.within_ms >= 30_000, "{name}: {proof:?}");
        assert_eq!(shows(&change, &shown).ok(), expected, "{name} {shown}");
        match expected {
            Some(Shows::Worked) => self.worked.set(true),
            Some(Shows::NotYet) => self.not_yet.set(true),
            Some(Shows::Failed) | None => {}
        }
        proof.path
    }

    /// These parameters are refused, with this in the reason.
    pub(super) fn refuses(&self, parameters: Value, part: &str) {
        let given = Given(parameters.as_object().unwrap());
        let found = given.check(self.kind).and_then(|()| (self.kind.change)(&given)).unwrap_err();
        assert!(found.contains(part), "{}: {found}", self.kind.name);
    }
}

fn plan_call(plan: Plan) -> Result<Call, Plan> {
    match plan {
        Plan::Send(call) => Ok(call),
        other => Err(other),
    }
}

#[test]
fn e2_e11_every_kind_changes_what_it_names_puts_it_back_and_is_proven() {
    for kind in KINDS {
        let trial =
            Trial { kind, called: Cell::default(), worked: Cell::default(), not_yet: Cell::default() };
        (kind.tried)(&trial);
        let tried = (trial.called.get(), trial.worked.get(), trial.not_yet.get());
        assert_eq!(tried, (true, true, true), "{}: called, worked, not yet", kind.name);
    }
}

#[test]
fn kinds_are_listed_once() {
    let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    names.dedup();
    assert!(names.is_sorted() && names.len() == KINDS.len(), "{names:?}");
}
