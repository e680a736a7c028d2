//! Does it change so often that acting would make it worse (D5)?

use holdline_proto::incident::Track;
use holdline_proto::signal::Health;

use super::{Flapping, Rules};

/// Notes a change between trouble and health.
pub(super) fn note(rules: &Rules, track: &mut Track, health: Health, event_ms: i64) {
    let changed = track.last_health.is_some_and(|last| last != health);
    track.last_health = Some(health);
    let Some(flapping) = &rules.flapping else { return };
    if changed {
        track.changes_ms.push(event_ms);
        let keep = usize::try_from(flapping.changes).unwrap_or(usize::MAX);
        let surplus = track.changes_ms.len().saturating_sub(keep);
        track.changes_ms.drain(..surplus);
    }
}

/// How long the action has to wait, if the entity flaps at this event time: longer each time in a row.
/// Gives the number of changes and the wait in milliseconds.
pub(super) fn back_off(rules: &Rules, track: &mut Track, event_ms: i64) -> Option<(u32, i64)> {
    let flapping = rules.flapping.as_ref()?;
    let since = event_ms.saturating_sub(flapping.within_ms);
    let changes = track.changes_ms.iter().filter(|at| **at >= since).count();
    let changes = u32::try_from(changes).unwrap_or(u32::MAX);
    if changes < flapping.changes {
        track.back_offs = 0;
        return None;
    }
    let wait_ms = wait_ms(flapping, track.back_offs);
    track.back_offs = track.back_offs.saturating_add(1);
    Some((changes, wait_ms))
}

fn wait_ms(flapping: &Flapping, earlier: u32) -> i64 {
    let factor = i64::from(flapping.factor).saturating_pow(earlier);
    flapping.first_ms.saturating_mul(factor).min(flapping.most_ms)
}
