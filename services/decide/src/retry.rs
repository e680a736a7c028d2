//! What becomes of a dead letter: it comes back by itself, or it waits for a person (R1).

use holdline_proto::dead_letter::DeadLetter;

/// The tiers, unless set: 1, 5 and 30 minutes. Each is at least as long as a default deadline, so what comes
/// back is decided anew and never fired late. Milliseconds.
pub const TIERS_MS: [i64; 3] = [60_000, 300_000, 1_800_000];

/// The topic of the alert about a letter that stays: the platform's own name for what cannot be delivered.
/// No playbook hears it but one that asks for it by this name.
pub const ALERT_TOPIC: &str = "EventSubscriptionDeliveryFailure";

/// What to do with a letter that was just parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Bring it back after this tier.
    Wait { tier: usize, after_ms: i64 },
    /// Leave it to a person, and say so.
    Stay,
}

/// Plans a letter's way: transient failures go through the tiers, everything else stays.
pub fn plan(letter: &DeadLetter, tiers_ms: &[i64]) -> Plan {
    let tier = usize::try_from(letter.replays).unwrap_or(usize::MAX);
    match tiers_ms.get(tier) {
        Some(after_ms) if letter.transient => Plan::Wait { tier, after_ms: *after_ms },
        _ => Plan::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_what_may_go_through_another_time_takes_three_tiers_and_then_stays() {
        let check = |transient, replays, expected| {
            let letter = DeadLetter { transient, replays, ..DeadLetter::default() };
            assert_eq!(plan(&letter, &TIERS_MS), expected, "{transient} {replays}");
        };
        check(true, 0, Plan::Wait { tier: 0, after_ms: 60_000 });
        check(true, 1, Plan::Wait { tier: 1, after_ms: 300_000 });
        check(true, 2, Plan::Wait { tier: 2, after_ms: 1_800_000 });
        check(true, 3, Plan::Stay);
        check(false, 0, Plan::Stay);
    }
}
