//! Is it real? Threshold and stability window (D2).

use holdline_proto::incident::Run;

use super::Rules;
use crate::playbook::Reports;

/// Adds an event to a run of like events.
pub(super) fn extend(run: &mut Run, event_ms: i64) {
    if run.count == 0 {
        run.first_ms = event_ms;
    }
    run.count = run.count.saturating_add(1);
    run.last_ms = event_ms;
}

/// From the first to the last event of a run. Milliseconds.
pub(super) fn span_ms(run: &Run) -> i64 {
    run.last_ms.saturating_sub(run.first_ms)
}

/// Whether a run of trouble is believed by its events alone: enough of them, over a long enough time.
pub(super) fn confirmed(rules: &Rules, run: &Run) -> bool {
    match rules.reports {
        Reports::Repeats => run.count >= rules.threshold && span_ms(run) >= rules.stable_for_ms,
        // The state persists until the source says otherwise, so one event is as good as five.
        Reports::Changes => run.count > 0 && rules.stable_for_ms == 0,
    }
}

/// When a run of trouble will be believed without a further event: only where the source tells of changes
/// alone, so that its state persists and the window's end confirms. Unix milliseconds.
pub(super) fn confirmed_at(rules: &Rules, counted_ms: i64) -> Option<i64> {
    (rules.reports == Reports::Changes).then(|| counted_ms.saturating_add(rules.stable_for_ms))
}
