//! Is it over? Healthy in a row and for a time (D3), or silent where silence can mean health (D4).

use holdline_proto::incident::{Run, Track};
use holdline_proto::journal::Alive;

use super::confirm::span_ms;
use super::{PROOF_EVERY_MS, RELAPSE_WITHIN_MS, REVERT_STABLE_FOR_MS_MAX, Rules};
use crate::playbook::Reports;

/// Whether a run of health is believed.
pub(super) fn recovered(rules: &Rules, recover_for_ms: i64, run: &Run) -> bool {
    run.count >= rules.revert.healthy && span_ms(run) >= recover_for_ms
}

/// How many relapses in a row a failover at `now_ms` makes.
pub(super) fn relapses(track: &Track, now_ms: i64) -> u32 {
    match track.reverted_ms {
        Some(reverted) if now_ms.saturating_sub(reverted) <= RELAPSE_WITHIN_MS => {
            track.relapses.saturating_add(1)
        }
        _ => 0,
    }
}

/// How long health must last: doubled after each relapse, 15 minutes at most (or as set, if that is longer).
pub(super) fn recover_for_ms(rules: &Rules, relapses: u32) -> i64 {
    let doubled = rules.revert.stable_for_ms.saturating_mul(2i64.saturating_pow(relapses));
    doubled.min(REVERT_STABLE_FOR_MS_MAX.max(rules.revert.stable_for_ms))
}

/// When silence since `heard_ms` is to be looked at, if silence says anything at all about this source.
/// One that reports only changes is silent while its trouble lasts.
pub(super) fn silent_at(rules: &Rules, heard_ms: i64) -> Option<i64> {
    (rules.reports == Reports::Repeats).then(|| heard_ms.saturating_add(rules.revert.silence_ms))
}

/// Why silence proves nothing here; `None` when it does.
pub(super) fn silence_proves_nothing(
    track: &Track,
    heard_ms: i64,
    until_ms: i64,
    alive: Option<&Alive>,
) -> Option<String> {
    if track.reports_health {
        return Some(format!(
            "{} used to report health and has gone quiet; silence is not health",
            track.key.entity
        ));
    }
    // D4: the source counts, not the entity. One that failed before it was ever seen healthy may have died.
    if alive.is_some_and(|path| path.reports_health) {
        return Some(format!(
            "subscription {} reports health, and {} has gone quiet; silence is not health",
            track.subscription, track.key.entity
        ));
    }
    let unbroken = alive.is_some_and(|path| {
        path.since_ms <= heard_ms && until_ms.saturating_sub(path.last_ms) <= PROOF_EVERY_MS
    });
    (!unbroken).then(|| {
        format!(
            "nothing came from subscription {} for more than {} minutes of the silence, so it proves nothing",
            track.subscription,
            PROOF_EVERY_MS / 60_000
        )
    })
}
