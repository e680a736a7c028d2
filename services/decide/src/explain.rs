//! Decisions in a person's words.

use holdline_proto::approval::Verdict;
use holdline_proto::command::Direction;
use holdline_proto::incident::Lane;
use holdline_proto::journal::{Decision, Disposition, What};
use holdline_proto::outcome::{Done, Shares};
use holdline_proto::signal::Health;

use crate::execute::UNCHANGED;

/// What was decided and why, as one sentence.
pub fn sentence(decision: &Decision) -> String {
    let entity = &decision.key.entity;
    let trouble = match decision.key.lane {
        Lane::Failover => ("failure", "FAILED"),
        Lane::Scaling => ("warning", "DEGRADED"),
    };
    match &decision.what {
        What::Opened { threshold, stable_for_ms, .. } => format!(
            "{entity} reports {}. Not acting yet: that takes {threshold} in a row over at least {}.",
            trouble.1,
            duration(*stable_for_ms)
        ),
        What::NotConfirmed { failures, threshold, span_ms } => format!(
            "{entity} is healthy again after {failures} of {threshold} {}s within {}. A blip; nothing was done.",
            trouble.0,
            duration(*span_ms)
        ),
        What::Confirmed { failures, threshold, span_ms, stable_for_ms } => format!(
            "{entity}: {failures} {}s in a row ({threshold} needed) over {} ({} needed). This is real.",
            trouble.0,
            duration(*span_ms),
            duration(*stable_for_ms)
        ),
        What::BackedOff { changes, wait_ms, .. } => format!(
            "{entity} has changed {changes} times lately: it flaps. The action waits {}.",
            duration(*wait_ms)
        ),
        What::BackOffEnded => {
            format!("{entity} became healthy while the action waited. Nothing was done.")
        }
        What::Commanded(command) => format!(
            "{}: {} for {entity} (decision {}).",
            match command.direction {
                Direction::Remediate => "Acting",
                Direction::Revert => "Undoing",
                Direction::Page => "Paging",
            },
            command.action,
            command.decision
        ),
        What::LinedUp { action } => {
            format!("{action} for {entity} is decided on and waits for the action under way.")
        }
        What::Reported(outcome) => match &outcome.result {
            Done::Carried { status: UNCHANGED } => {
                format!(
                    "{} for {entity}: no call was needed: it was so already, or others still rely on it.",
                    outcome.action
                )
            }
            Done::Carried { status } => format!(
                "{} for {entity}: the target answered {status} ({}, {} after the deciding event{}).",
                outcome.action,
                attempts(outcome.attempts),
                duration(outcome.took_ms),
                outcome.shares.as_ref().map(shares).unwrap_or_default()
            ),
            Done::Failed { reason, .. } => {
                format!("{} for {entity} failed: {reason}. It is in the dead letters.", outcome.action)
            }
            Done::Expired { .. } => {
                format!("{} for {entity}: its deadline passed before a call left.", outcome.action)
            }
            Done::Held { reason } => format!("{} for {entity} is held: {reason}.", outcome.action),
            Done::Verified { worked, seen } => {
                let what = match outcome.direction {
                    Direction::Revert => format!("Undoing ({})", outcome.action),
                    Direction::Remediate | Direction::Page => outcome.action.clone(),
                };
                match worked {
                    Some(true) => format!("{what} for {entity} worked ({seen})."),
                    Some(false) => format!("{what} for {entity} did not work ({seen})."),
                    None => format!("{what} for {entity}: whether it worked is not known ({seen})."),
                }
            }
            Done::AwaitsApproval { approval, unless_denied, .. } => format!(
                "{} for {entity} {} (`holdline approve {approval}`, `holdline deny {approval}`).",
                outcome.action,
                if *unless_denied {
                    "is prepared and sent unless somebody objects"
                } else {
                    "waits for approval"
                }
            ),
            Done::Withdrawn { reason } => {
                format!("{} for {entity} was withdrawn before a call left: {reason}.", outcome.action)
            }
        },
        What::DecidedAnew { action, still_needed: true } => {
            format!("{action} for {entity} is still needed; it is issued anew.")
        }
        What::DecidedAnew { action, still_needed: false } => {
            format!("{action} for {entity} is no longer needed: the trouble ended meanwhile.")
        }
        What::Retried { action, replays } => format!(
            "{action} for {entity} comes back from the dead letters ({}) and is still needed; it is issued anew.",
            if *replays == 1 { "first time".into() } else { format!("time {replays}") }
        ),
        What::FencedOff { action, decision, reason } => format!(
            "{action} for {entity} (decision {decision}) came back from the dead letters and was fenced off: {reason}."
        ),
        What::Ruled { action, verdict: Verdict::Approve, by, reason } => {
            format!("{action} for {entity} is approved by {by}: {reason}. It is issued anew.")
        }
        What::Ruled { action, verdict: Verdict::Deny, by, reason } => {
            format!("{action} for {entity} is denied by {by}: {reason}.")
        }
        What::NobodyObjected { action } => {
            format!("Nobody has objected to {action} for {entity} in time. It is issued anew.")
        }
        What::NobodyDecided { action } => {
            format!("Nobody has decided on {action} for {entity} in time. It is decided anew.")
        }
        What::RuledInVain { approval, by } => format!(
            "{by} has decided on {approval}, and the incident of {entity} no longer waits for that. A denial keeps back \
             what has not left yet; nothing else comes of it."
        ),
        What::Recovering { healthy, needed, span_ms, stable_for_ms } => format!(
            "{entity} reports health ({healthy} of {needed} in a row, {} of {}). Not reverting yet.",
            duration(*span_ms),
            duration(*stable_for_ms)
        ),
        What::FalseRecovery { healthy, health } => format!(
            "{entity} reports {} again after {healthy} healthy event(s): a false recovery. Nothing is reverted.",
            match health {
                Health::Failed => "FAILED",
                Health::Degraded => "DEGRADED",
                Health::Healthy => "HEALTHY",
            }
        ),
        What::Recovered { healthy, span_ms, stable_for_ms, relapses } => format!(
            "{entity} was healthy {healthy} times in a row over {} ({} needed{}). It is over.",
            duration(*span_ms),
            duration(*stable_for_ms),
            if *relapses > 0 { format!(", doubled for {relapses} relapse(s)") } else { String::new() }
        ),
        What::SilentlyRecovered { silent_ms } => format!(
            "{entity} has been silent for {}, its source never reports health, and the path was alive all the \
             time. It is over.",
            duration(*silent_ms)
        ),
        What::Closed { reason } => format!("The incident of {entity} is closed: {reason}."),
        What::Held { reason } => format!("The incident of {entity} waits for a person: {reason}."),
    }
}

/// What became of an event, as one sentence.
pub fn disposition(disposition: &Disposition) -> String {
    match disposition {
        Disposition::Duplicate { of } => {
            format!("a duplicate of the event accepted at {of}; it was not counted again")
        }
        Disposition::Ignored { reason } => format!("ignored: {reason}"),
        Disposition::Stale { newer_by_ms } => format!(
            "stale: an event that is newer by {} was there already, so it moved nothing",
            duration(*newer_by_ms)
        ),
        Disposition::Echo { of, depth: 1 } => format!("an echo of our own: it follows from {of}"),
        Disposition::Echo { of, depth } => {
            format!("an echo of our own: it follows from {of} ({depth} in a row)")
        }
        Disposition::Undecidable { reason } => format!("could not be judged: {reason}"),
        Disposition::Counted { incidents } => format!("counted into incident {}", incidents.join(", ")),
    }
}

/// Whose the time was, and how much of what was allowed; who took none is left out.
fn shares(shares: &Shares) -> String {
    let named = shares.named().into_iter().filter(|(_, ms)| *ms > 0);
    let told: Vec<String> = named.map(|(name, ms)| format!("{name} {}", duration(ms))).collect();
    format!(
        "; the call had to leave within {}{}",
        duration(shares.allowed),
        if told.is_empty() { String::new() } else { format!("; {}", told.join(", ")) }
    )
}

fn attempts(attempts: u32) -> String {
    if attempts == 1 { "first attempt".into() } else { format!("attempt {attempts}") }
}

/// Milliseconds for people: `40 ms`, `4.2 s`, `15 min`.
pub fn duration(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..120_000 if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}
