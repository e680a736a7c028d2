//! What people have stopped, and what waits for them.

use holdline_decide::approval::{Lack, lacks};
use holdline_decide::playbook::Set;
use holdline_proto::incident::{Phase, View};
use holdline_stage::bus::Bus;

use super::Scene;
use super::finding::{Finding, State};
use crate::commands::{approval, dlq, incidents, pause};

/// Incidents that a finding names; the rest is counted.
const NAMED_MAX: usize = 5;

/// Who approves is too few within so many days: worth a note.
const DAYS_SOON: i64 = 30;

const DAY_MS: i64 = 24 * 3_600_000;

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let bus = &scene.bus;
    let incidents = incidents::list(bus).await?;
    let open: Vec<&View> = incidents.iter().filter(|view| view.phase != Phase::Resolved).collect();
    let mut found = vec![paused(bus).await?, dead(bus).await?, held(&open), awaiting(&open)];
    // Where there is no set, the services' area says so.
    if let Ok(set) = &scene.set {
        found.push(approvers(set, approval::now_ms(bus).await?));
    }
    Ok(found)
}

/// Whether as many people may approve as the playbooks need, now and for a while.
fn approvers(set: &Set, now_ms: i64) -> Finding {
    let told = |lacks: &[Lack]| {
        let each = lacks.iter().map(|Lack { playbook, needed, there }| {
            format!("playbook {playbook} needs {needed} to approve, and {there} may")
        });
        named(each.collect())
    };
    let todo = "`holdline token FILE` makes a new token: its public half belongs under `people` of holdline.yaml; then \
                `holdline push`";
    let now = lacks(set, now_ms);
    if !now.is_empty() {
        return Finding::person("approvers", format!("tokens have expired: {}", told(&now)), todo);
    }
    match lacks(set, now_ms.saturating_add(DAYS_SOON * DAY_MS)).as_slice() {
        [] => Finding::well("approvers", "as many as each playbook needs"),
        soon => Finding::note("approvers", format!("in {DAYS_SOON} days: {}", told(soon)), todo),
    }
}

async fn paused(bus: &Bus) -> anyhow::Result<Finding> {
    let pauses = pause::standing(bus).await?;
    if pauses.is_empty() {
        return Ok(Finding::well("paused", "nothing"));
    }
    let told: Vec<String> =
        pauses.iter().map(|pause| format!("{} by {}: {}", pause.scope, pause.by, pause.reason)).collect();
    // Somebody wants it so.
    Ok(Finding::note("paused", told.join("; "), "`holdline resume` ends it; so does its time"))
}

async fn dead(bus: &Bus) -> anyhow::Result<Finding> {
    let letters = dlq::lying(bus).await?;
    let stay = letters.iter().filter(|lying| !lying.letter.transient).count();
    let found = format!("{} in all, {stay} of them wait for a person", letters.len());
    let (state, todo) = match stay {
        0 => (State::Well, ""),
        _ => (State::Person, "holdline dlq list; then replay or discard them"),
    };
    Ok(Finding::new("dead letters", state, found, todo))
}

fn held(open: &[&View]) -> Finding {
    let held = open.iter().filter_map(|view| Some((*view, view.held.clone()?)));
    let told: Vec<String> =
        held.map(|(view, why)| format!("{} ({}): {why}", view.id, view.key.entity)).collect();
    if told.is_empty() {
        return Finding::well("held incidents", "none");
    }
    let todo =
        "`holdline incident ID explain` says how it came to this; what it would do next is yours to do";
    Finding::person("held incidents", named(told), todo)
}

fn awaiting(open: &[&View]) -> Finding {
    let awaiting = open.iter().filter(|view| view.awaiting.is_some());
    let told: Vec<String> = awaiting.map(|view| format!("{} ({})", view.id, view.key.entity)).collect();
    if told.is_empty() {
        return Finding::well("approvals", "none is waited for");
    }
    let todo =
        "`holdline approvals` shows each with its exact request; then `holdline approve ID` or `deny ID`";
    Finding::person("approvals", format!("waited for by {}", named(told)), todo)
}

fn named(mut told: Vec<String>) -> String {
    let more = told.len().saturating_sub(NAMED_MAX);
    told.truncate(NAMED_MAX);
    let told = told.join("; ");
    if more == 0 { told } else { format!("{told}; and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::set_with;
    use super::*;

    #[test]
    fn approvers_that_expire_are_told_before_and_after() {
        let public = |letter: &str| format!("U{}", letter.repeat(55));
        let settings =
            format!("people: {{ada: {{token: {}, roles: [approve], until: 2024-10-03}}}}\n", public("A"));
        let action = r#"{"name": "one", "actionType": "WEBHOOK", "method": "POST", "url": "http://127.0.0.1:1",
            "allowOverride": true}"#;
        let set =
            set_with(vec![("holdline.yaml".into(), settings), ("actions/one.json".into(), action.into())]);
        let expires_ms = 20_000 * DAY_MS;
        let check = |at_ms: i64, state: State, part: &str| {
            let Finding { state: is, found, .. } = approvers(&set, at_ms);
            assert!(is == state && found.contains(part), "at {at_ms}: {is:?}: {found}");
        };
        check(expires_ms - 31 * DAY_MS, State::Well, "as many");
        check(expires_ms - 30 * DAY_MS, State::Note, "playbook one needs 1 to approve, and 0 may");
        check(expires_ms - 1, State::Note, "in 30 days");
        check(expires_ms, State::Person, "tokens have expired: playbook one needs 1");
    }
}
