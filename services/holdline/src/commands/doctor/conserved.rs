//! Whether every accepted event has exactly one disposition (N2).

use super::Scene;
use super::finding::{Finding, State};
use crate::conservation::{self, Count};
use crate::output::line;

/// Counts; the count is told as well as what follows from it.
pub(super) async fn look(scene: &Scene) -> (Finding, Option<Count>) {
    let counted = match &scene.partitions {
        Ok(partitions) => conservation::count(&scene.bus, *partitions).await.map_err(|e| format!("{e:#}")),
        Err(why) => Err(why.clone()),
    };
    match counted {
        Ok(count) => (judge(&count), Some(count)),
        Err(why) => {
            let todo = "look at the broker, then count again with `holdline doctor --only conservation`";
            (Finding::person("conservation", format!("cannot be counted: {why}"), todo), None)
        }
    }
}

fn judge(count: &Count) -> Finding {
    let kinds: Vec<String> = count.dispositions.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let found = format!(
        "{} accepted = {}, {} on their way{}; {} missing, {} doubled",
        count.accepted,
        if kinds.is_empty() { "none".into() } else { kinds.join(" + ") },
        count.on_their_way,
        if count.copies > 0 { format!(" ({} copies)", count.copies) } else { String::new() },
        count.missing.len() as u64 + count.missing_more,
        count.doubled.len() as u64 + count.doubled_more,
    );
    let (state, todo) = match count.balanced() {
        true => (State::Well, ""),
        false => (
            State::Person,
            "this must never be: keep the data folder, and report it with `holdline why-not` of each id",
        ),
    };
    Finding::new("conservation", state, found, todo)
}

/// Names what is wrong with single acceptances.
pub(super) fn name(count: &Count) {
    for id in &count.missing {
        line(format!("     without a disposition: {id}"));
    }
    for id in &count.doubled {
        line(format!("     with more than one disposition: {id}"));
    }
    for place in &count.unparked {
        line(format!("     not understood and not parked: {place}"));
    }
}
