//! What people have stopped, and what waits for them.

use holdline_proto::incident::{Phase, View};
use holdline_stage::bus::Bus;

use super::finding::{Finding, State};
use crate::commands::{dlq, incidents, pause};

/// Incidents that a finding names; the rest is counted.
const NAMED_MAX: usize = 5;

pub(super) async fn look(bus: &Bus) -> anyhow::Result<Vec<Finding>> {
    let incidents = incidents::list(bus).await?;
    let open: Vec<&View> = incidents.iter().filter(|view| view.phase != Phase::Resolved).collect();
    Ok(vec![paused(bus).await?, dead(bus).await?, held(&open), awaiting(&open)])
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
