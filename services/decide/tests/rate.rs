//! E5: the pace over all replicas, in virtual time: whoever asks, in whatever order, whoever dies, with clocks
//! that are read with an error and turns that are used late.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use holdline_decide::rate::{Limit, Limits, Purpose, Unused, give_back, learn, take};
use holdline_proto::rate::Window;
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;

/// What lies between a turn and the call's arrival, at most: half of the margin is left for the clocks' error.
const DELAY_US_MAX: i64 = 60_000;
const ERROR_US_MAX: i64 = 20_000;

/// One replica: what it knows of the entry, what it has taken, how its reading of the broker's clock is off.
#[derive(Clone)]
struct Replica {
    known: (u64, Window),
    error_us: i64,
    asks_again_us: i64,
    dies_us: i64,
    /// Turns that it has not used and will give back.
    unused: Vec<i64>,
}

/// What happens at random, each number from a source that proptest shrinks.
struct Dice(std::vec::IntoIter<u32>);

impl Dice {
    fn below(&mut self, bound: i64) -> i64 {
        i64::from(self.0.next().unwrap_or(0)) % bound.max(1)
    }
}

/// Runs replicas against one entry until so many turns are taken; gives the arrivals, in order.
fn run(
    limit: u32,
    purposes: &[Purpose],
    wanted: u32,
    turns: usize,
    deadly: bool,
    dice: &mut Dice,
) -> Vec<i64> {
    let mut entry = (0u64, Window::default());
    let mut replicas: Vec<Replica> = purposes
        .iter()
        .map(|_| Replica {
            known: entry.clone(),
            error_us: dice.below(2 * ERROR_US_MAX) - ERROR_US_MAX,
            asks_again_us: 0,
            unused: vec![],
            dies_us: if deadly { dice.below(8 * SECOND_US) } else { i64::MAX },
        })
        .collect();
    // One stays, or nothing would come of it.
    replicas[0].dies_us = i64::MAX;
    let (mut arrivals, mut taken) = (vec![], 0);
    let start_us = 1_700_000_000 * SECOND_US;
    let mut now_us = 0;
    while taken < turns {
        now_us += 200;
        let index = usize::try_from(dice.below(i64::try_from(replicas.len()).unwrap())).unwrap();
        let replica = &mut replicas[index];
        if now_us < replica.asks_again_us || now_us > replica.dies_us {
            continue;
        }
        let reads_us = start_us + now_us + replica.error_us;
        let (revision, mut window) = replica.known.clone();
        for at_us in &replica.unused {
            give_back(&mut window, Unused { at_us: Some(*at_us), resets_us: None });
        }
        let got = take(&mut window, Limit::PerSecond(limit), purposes[index], wanted, reads_us);
        if !got.lots.is_empty() {
            if revision != entry.0 {
                // Refused: somebody else wrote first. It asks anew with what stands there.
                replica.known = entry.clone();
                continue;
            }
            entry = (revision + 1, window);
            replica.known = entry.clone();
            replica.unused.clear();
        }
        for lot in &got.lots {
            // With a handful of turns a second, they cannot come back in time. Where the throughput is measured, one
            // in twenty is not used: of the ten percent, nine are the window's margin.
            let one_in = if deadly { 10 } else { 20 };
            if lot.calls == 1 && (deadly || limit == 100) && dice.below(one_in) == 0 {
                replica.unused.push(lot.at_us);
                continue;
            }
            for _ in 0..lot.calls {
                taken += 1;
                let leaves_us = lot.at_us - start_us - replica.error_us;
                if leaves_us <= replica.dies_us {
                    arrivals.push(leaves_us.max(now_us) + dice.below(DELAY_US_MAX));
                }
            }
        }
        replica.asks_again_us = (got.next_us - start_us - replica.error_us - 75_000).max(now_us);
    }
    arrivals.sort_unstable();
    arrivals
}

/// The most arrivals in any second.
fn most(arrivals: &[i64]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in arrivals.iter().enumerate() {
        while at - arrivals[first] >= SECOND_US {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn e5_never_more_than_the_limit_in_any_second(
        limit in prop_oneof![Just(100u32), 1u32..20, 101u32..3_000],
        others in proptest::collection::vec(any::<bool>(), 0..9),
        wanted in 1u32..70,
        dice in proptest::collection::vec(any::<u32>(), 2_000),
    ) {
        let mut purposes = vec![Purpose::Remediation];
        purposes.extend(others.iter().map(|other| if *other { Purpose::Other } else { Purpose::Remediation }));
        let arrivals = run(limit, &purposes, wanted, 5 * limit as usize, true, &mut Dice(repeated(dice)));
        prop_assert!(most(&arrivals) <= limit as usize, "{} of {limit}", most(&arrivals));
    }

    #[test]
    fn e5_with_enough_to_do_at_least_nine_tenths_of_the_limit_leave(
        limit in prop_oneof![Just(100u32), 5u32..20],
        replicas in 1usize..10,
        wanted in 1u32..70,
        dice in proptest::collection::vec(any::<u32>(), 2_000),
    ) {
        // The window's margin takes nine of the ten percent; over less than this, the edges take more than the tenth.
        let turns = 40 * limit as usize;
        let purposes = vec![Purpose::Remediation; replicas];
        let arrivals = run(limit, &purposes, wanted, turns, false, &mut Dice(repeated(dice)));
        let took_us = arrivals.last().unwrap() - arrivals.first().unwrap();
        let ideal_us = (i64::try_from(arrivals.len()).unwrap() - 1) * SECOND_US / i64::from(limit);
        prop_assert!(ideal_us * 10 >= took_us * 9, "{took_us} µs instead of {ideal_us}");
    }

    #[test]
    fn e5_polling_never_touches_the_reserve(dice in proptest::collection::vec(any::<u32>(), 2_000)) {
        let arrivals = run(100, &[Purpose::Other; 3], 64, 500, false, &mut Dice(repeated(dice)));
        prop_assert!(most(&arrivals) <= 80, "{} of 80", most(&arrivals));
    }
}

fn repeated(dice: Vec<u32>) -> std::vec::IntoIter<u32> {
    let many = dice.iter().copied().cycle().take(1_500_000).enumerate();
    // The cycle must not beat in time with the steps.
    many.map(|(n, die)| (die ^ u32::try_from(n).unwrap()).wrapping_mul(0x9e37_79b1).rotate_left(15))
        .collect::<Vec<_>>()
        .into_iter()
}

#[test]
fn a_lone_call_leaves_at_once_and_a_clock_that_was_set_back_blocks_nothing() {
    let mut window = Window::default();
    let now_us = 1_700_000_000 * SECOND_US;
    let check = |window: &mut Window, at_us: i64, expected_us: i64| {
        let taken = take(window, Limit::PerSecond(100), Purpose::Remediation, 1, at_us);
        assert_eq!(taken.lots.first().map(|lot| lot.at_us - at_us), Some(expected_us), "{window:?}");
    };
    check(&mut window, now_us, 0);
    check(&mut window, now_us, 5_000);
    check(&mut window, now_us + SECOND_US, 0);
    check(&mut window, now_us - 3_600 * SECOND_US, 0);
}

#[test]
fn e5_what_a_target_says_holds_for_all() {
    let now_us = 1_700_000_000 * SECOND_US;
    let ask = |window: &mut Window, limit, purpose, after_us: i64| {
        let taken = take(window, limit, purpose, 1_000, now_us + after_us);
        (taken.lots.iter().map(|lot| lot.calls).sum::<u32>(), taken.next_us - now_us)
    };
    let all = |window: &mut Window, limit, purpose, after_us| {
        let mut sum = 0;
        loop {
            let (calls, next_us) = ask(window, limit, purpose, after_us);
            if calls == 0 {
                return (sum, next_us);
            }
            sum += calls;
        }
    };
    let told = |allowed, count, reset_ms| Limits {
        allowed: Some(allowed),
        count: Some(count),
        reset_ms: Some(reset_ms),
        ..Limits::default()
    };
    // The platform's own limit before its first answer, and the reserve in it.
    let mut client = Window::default();
    assert_eq!(all(&mut client, Limit::Client, Purpose::Other, 0), (240, 60 * SECOND_US + 1));
    assert_eq!(all(&mut client, Limit::Client, Purpose::Remediation, 0), (60, 60 * SECOND_US + 1));
    // Trust the header: 180 are allowed, and somebody else has used up 170 of them.
    let mut client = Window::default();
    assert_eq!(ask(&mut client, Limit::Client, Purpose::Remediation, 0).0, 38);
    assert!(learn(&mut client, &told(180, 170, 20_000), now_us, 0));
    assert!(!learn(&mut client, &told(180, 160, 20_000), now_us, 0), "nothing new");
    assert_eq!(all(&mut client, Limit::Client, Purpose::Remediation, 0), (10, 21 * SECOND_US));
    assert_eq!(all(&mut client, Limit::Client, Purpose::Remediation, 21 * SECOND_US).0, 180);
    // A webhook has no limit of that kind unless a header tells one.
    let mut host = Window::default();
    assert_eq!(ask(&mut host, Limit::PerSecond(100), Purpose::Remediation, 0).0, 13);
    assert!(learn(&mut host, &told(30, 1, 6_000), now_us, 0));
    assert_eq!(all(&mut host, Limit::PerSecond(100), Purpose::Remediation, 100_000), (17, 7 * SECOND_US));
    // 429: as told, or for longer and longer.
    let throttled = |retry_after_ms| Limits { throttled: true, retry_after_ms, ..Limits::default() };
    let mut host = Window::default();
    assert!(learn(&mut host, &throttled(Some(23_000)), now_us, 0));
    assert!(
        !learn(&mut host, &throttled(Some(23_000)), now_us + 1_000, 0),
        "of many at once the first is news"
    );
    assert_eq!(ask(&mut host, Limit::PerSecond(100), Purpose::Remediation, 0), (0, 23 * SECOND_US + 100_000));
    let mut host = Window::default();
    let mut at_us = now_us;
    for (quiet_us, dice) in [(500_000, 0), (1_250_000, 500), (2_000_000, 0), (4_000_000, 0), (8_000_000, 0)] {
        assert!(learn(&mut host, &throttled(None), at_us, dice));
        assert_eq!(host.closed_until_us - at_us, quiet_us);
        assert!(!learn(&mut host, &throttled(None), at_us + 1, dice));
        assert!(!learn(&mut host, &Limits::default(), at_us + 1, dice), "it was under way before");
        at_us = host.closed_until_us;
    }
    assert!(learn(&mut host, &Limits::default(), at_us, 0));
    assert_eq!(host.throttled, 0);
}

/// Until an answer tells it, a client's limit is a guess. One that is told stands, whatever is not told afterwards.
#[test]
fn e5_without_headers_a_client_has_no_limit_of_its_own() {
    let now_us = 1_700_000_000 * SECOND_US;
    let carried_out = Limits { carried_out: true, ..Limits::default() };
    let told = Limits { allowed: Some(300), count: Some(7), reset_ms: Some(59_000), ..carried_out };
    let throttled = Limits { throttled: true, ..Limits::default() };
    let check = |answers: &[Limits], expected: u32| {
        let mut window = Window::default();
        let one = take(&mut window, Limit::Client, Purpose::Remediation, 1, now_us);
        assert_eq!(one.lots.iter().map(|lot| lot.calls).sum::<u32>(), 1);
        for limits in answers {
            learn(&mut window, limits, now_us, 0);
        }
        let mut calls = 0;
        for _ in 0..10 {
            let taken = take(&mut window, Limit::Client, Purpose::Remediation, 1_000, now_us);
            calls += taken.lots.iter().map(|lot| lot.calls).sum::<u32>();
        }
        assert_eq!(calls, expected, "{answers:?}");
    };
    check(&[], 299);
    check(&[carried_out], 10_000);
    // Whoever refuses may be somebody in front of the platform, who knows of no limit.
    check(&[Limits::default()], 299);
    check(&[throttled], 0);
    check(&[told, carried_out], 293);
    check(&[carried_out, told], 293);
    let mut window = Window::default();
    take(&mut window, Limit::Client, Purpose::Remediation, 1, now_us);
    assert!(learn(&mut window, &carried_out, now_us, 0));
    assert!(!learn(&mut window, &carried_out, now_us, 0), "nothing new");
}

/// What no call has used is there again, as long as the target's counter has not begun anew.
#[test]
fn e5_a_turn_of_a_told_limit_is_given_back() {
    let now_us = 1_700_000_000 * SECOND_US;
    let left = |given_back: &[Option<i64>], answer: Option<Limits>| {
        let mut window = Window::default();
        for _ in 0..8 {
            take(&mut window, Limit::Client, Purpose::Remediation, 1_000, now_us);
        }
        let resets_us = window.told.unwrap().resets_us;
        assert_eq!(window.told.unwrap().used, 300);
        if let Some(answer) = answer {
            learn(&mut window, &answer, now_us + SECOND_US, 0);
        }
        for moved_us in given_back {
            let resets_us = moved_us.map(|moved_us| resets_us + moved_us);
            give_back(&mut window, Unused { at_us: None, resets_us });
        }
        let taken = take(&mut window, Limit::Client, Purpose::Remediation, 1_000, now_us + SECOND_US);
        taken.lots.iter().map(|lot| lot.calls).sum::<u32>()
    };
    assert_eq!(left(&[], None), 0);
    assert_eq!(left(&[Some(0), Some(0)], None), 2);
    // Told in whole seconds, the same reset wanders.
    assert_eq!(left(&[Some(SECOND_US), Some(-SECOND_US)], None), 2);
    assert_eq!(left(&[Some(-60 * SECOND_US), Some(-3 * SECOND_US), None], None), 0);
    let told = Limits { allowed: Some(300), count: Some(299), reset_ms: Some(58_000), ..Limits::default() };
    assert_eq!(left(&[Some(0)], Some(told)), 1);
}
