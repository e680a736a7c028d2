//! E11: what an entity's own events say after a remedy, and when that is a verdict.

use super::*;

/// The loop with a `verify` by events: from 5 s after the remedy, for 60 s.
fn listening(rules: &str) -> String {
    let verify = "verify: {after: 5s, within: 60s, worked: event(status == 'BACKUP')}";
    rules.replace("class: failover", &format!("class: failover, {verify}"))
}

/// Every verdict: when it was given, of which action.
fn verdicts(world: &World) -> Vec<(f64, &str, Option<bool>)> {
    let mut verdicts = vec![];
    for decision in &world.decisions {
        let What::Reported(outcome) = &decision.what else { continue };
        let Done::Verified { worked, .. } = outcome.result else { continue };
        verdicts.push(((decision.at_ms - BEGIN) as f64 / 1_000.0, outcome.action.as_str(), worked));
    }
    verdicts
}

/// The verdicts, and every action: where not all worked, a person is waited for and paged.
fn check_verdicts(
    rules: &str,
    timeline: &str,
    expected: &[(f64, &str, Option<bool>)],
    actions: &[(f64, &str)],
) {
    let world =
        run(&listening(rules), Circumstances { pager: true, ..Circumstances::default() }, timeline, 120);
    assert_eq!(verdicts(&world), expected, "\n{timeline}\n{:#?}", world.decisions);
    let found: Vec<(f64, &str)> =
        world.actions.iter().map(|(at, action)| (*at as f64 / 1_000.0, action.as_str())).collect();
    assert_eq!(found, actions, "\n{timeline}\n{:#?}", world.decisions);
    let held = world.live.tracks().values().filter_map(|track| track.open.as_ref()).any(|i| i.held.is_some());
    assert_eq!(held, expected.iter().any(|(.., worked)| *worked != Some(true)), "{timeline}");
    let listens = |incident: &Incident| incident.probe.is_some();
    assert!(!world.live.tracks().values().any(|track| track.open.iter().chain(&track.closing).any(listens)));
}

#[test]
fn e11_what_its_events_say_after_a_remedy_tells_whether_it_worked() {
    // It fails over at 2 s, so it is listened to from 7 s to 67 s.
    let check = |more: &str, expected: (f64, Option<bool>)| {
        let mut actions = vec![(2.0, "fail gw")];
        actions.extend((expected.1 != Some(true)).then_some((expected.0, "page gw")));
        let timeline = format!("0 +1 x3 F, {more}");
        let verdict = (expected.0, "fail", expected.1);
        check_verdicts(LOOP, &timeline, &[verdict], &actions);
    };
    check("10 B", (10.0, Some(true)));
    check("7 B", (7.0, Some(true)));
    check("66 B", (66.0, Some(true)));
    check("10 P, 20 B, 30 P", (20.0, Some(true)));
    check("10 U, 20 B", (20.0, Some(true)));
    check("10 P", (67.0, Some(false)));
    check("10 +10 x10 P", (67.0, Some(false)));
    check("10 P, 20 U", (67.0, Some(false)));
    // What it is besides is one thing and what it says another.
    check("10 F", (67.0, Some(false)));
    check("10 H, 11 F", (67.0, Some(false)));
    check("", (67.0, None));
    check("10 U", (67.0, None));
    check("10 other:B", (67.0, None));
    check("3 B, 6 P", (67.0, None));
    check("68 B", (67.0, None));
}

#[test]
fn e11_what_is_late_or_comes_from_a_fast_clock_is_not_taken_for_younger() {
    let check = |more: &str, expected: (f64, Option<bool>)| {
        let world = run(
            &listening(LOOP),
            Circumstances { held_back: Some((50_000, 80_000)), ..Circumstances::default() },
            &format!("0 +1 x3 F, {more}"),
            120,
        );
        let (at, worked) = expected;
        assert_eq!(verdicts(&world), [(at, "fail", worked)], "{more}\n{:#?}", world.decisions);
    };
    // A gateway's spool comes out at 75 s, and nothing is judged before.
    check("75 @60 B", (75.0, Some(true)));
    check("75 @60 P", (80.0, Some(false)));
    check("", (80.0, None));
    // From before the remedy: it neither worked nor failed by that.
    check("75 @1 B", (80.0, None));
    check("75 @1 P", (80.0, None));
    check("3 @20 B, 4 @20 P", (80.0, None));
}

#[test]
fn e11_who_is_not_waited_for_gets_no_verdict() {
    let check = |rules: &str, circumstances: Circumstances, timeline: &str, actions: &[(f64, &str)]| {
        let pages = actions.iter().any(|(_, action)| action.starts_with("page"));
        let world = run(&listening(rules), Circumstances { pager: true, ..circumstances }, timeline, 120);
        assert_eq!(verdicts(&world), [], "{timeline}\n{:#?}", world.decisions);
        let found: Vec<(f64, &str)> =
            world.actions.iter().map(|(at, action)| (*at as f64 / 1_000.0, action.as_str())).collect();
        assert_eq!(found, actions, "{timeline}");
        assert_eq!(world.decisions.iter().any(|d| matches!(d.what, What::Held { .. })), pages);
        let mut incidents = world.live.tracks().values().flat_map(|t| t.open.iter().chain(&t.closing));
        assert!(incidents.all(|incident| incident.probe.is_none()), "{timeline}");
    };
    let plain = Circumstances::default;
    let silent = |action| Circumstances { outcomes: BTreeMap::from([(action, None)]), ..plain() };
    let answers = |done| Circumstances { outcomes: BTreeMap::from([("fail", done)]), ..plain() };
    let (fail, restore) = ((2.0, "fail gw"), "restore gw");
    // Its incident ended meanwhile, or before it was confirmed.
    check(LOOP, plain(), "0 +1 x3 F, 10 H, 11 H", &[fail, (11.0, restore)]);
    check(LOOP, plain(), "0 +1 x3 F, 3 H, 4 H, 20 B", &[fail, (4.0, restore)]);
    check(LOOP, plain(), "0 +1 x2 F, 10 H, 20 B", &[]);
    check(LOOP, silent("restore"), "0 +1 x3 F, 10 H, 11 H", &[fail, (11.0, restore)]);
    // Its remedies are not known to be carried, all of them.
    check(LOOP, silent("fail"), "0 +1 x3 F, 10 B", &[fail]);
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    check(&both, silent("also"), "0 +1 x3 F, 10 B", &[fail, (2.0, "also gw")]);
    let refused = Done::Failed { reason: "404".into(), perhaps_done: false };
    check(LOOP, answers(Some(refused)), "0 +1 x3 F, 10 B", &[fail, (2.0, "page gw")]);
    // The remedy is reported when the incident is over already, and another has begun.
    let mut world = run(&listening(LOOP), silent("fail"), "0 +1 x3 F, 10 H, 11 H, 12 F", 20);
    let outstanding = world.live.tracks().values().find_map(|track| track.outstanding.clone()).unwrap();
    let carried = Outcome::of(&outstanding, Done::Carried { status: 200 }, 1);
    world.step(BEGIN + 21_000, Input::Outcome(&carried));
    let track = world.live.tracks().values().next().unwrap();
    assert!(track.open.iter().chain(&track.closing).all(|incident| incident.probe.is_none()));
    assert!(track.open.is_some() && track.closing.len() == 1);
}

#[test]
fn e11_only_the_last_remedy_of_its_own_lane_is_judged() {
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    let acted = [(2.0, "fail gw"), (2.0, "also gw")];
    check_verdicts(&both, "0 +1 x3 F, 10 B", &[(10.0, "also", Some(true))], &acted);
    // A verdict per incident, and the next is listened to anew.
    check_verdicts(
        LOOP,
        "0 +1 x3 F, 10 B, 11 H, 12 H, 13 +1 x3 F, 16 B",
        &[(10.0, "fail", Some(true)), (67.0 + 13.0, "fail", None)],
        &[(2.0, "fail gw"), (12.0, "restore gw"), (15.0, "fail gw"), (80.0, "page gw")],
    );
    let scales = LOOP.replace("revert:", "  degraded: {do: [scale], class: scaling}\nrevert:");
    check_verdicts(&scales, "0 +1 x3 D, 10 B", &[], &[(2.0, "scale gw")]);
    let scales = scales.replace("class: scaling", "class: scaling, verify: {worked: event(status == 'UP')}");
    check_verdicts(&scales, "0 +1 x3 D, 10 B", &[(10.0, "scale", Some(true))], &[(2.0, "scale gw")]);
}

#[test]
fn e11_a_verdict_and_a_silence_each_have_their_time() {
    let alive = Circumstances { others_every_ms: 60_000, pager: true, ..Circumstances::default() };
    let act = (2.0, "fail gw");
    let over = (902.0, "restore gw");
    check_in(&listening(LOOP), alive.clone(), "0 +1 x3 F, 10 B", 1_000, &[act, over]);
    check_in(&listening(LOOP), alive.clone(), "0 +1 x3 F", 1_000, &[act, (67.0, "page gw"), over]);
    // The silence comes first.
    let short = LOOP.replace("15m", "30s");
    check_in(&listening(&short), alive, "0 +1 x3 F", 1_000, &[act, (32.0, "restore gw")]);
}
