//! Timelines: events go in at their time, actions are expected at theirs. Virtual time throughout; every
//! run is also recorded, folded and replayed.

use std::collections::BTreeMap;

use holdline_proto::approval::{Ruled, Verdict as Word};
use holdline_proto::command::{Command, Course};
use holdline_proto::event::Origin;
use holdline_proto::incident::{Incident, Lane, Phase};
use holdline_proto::journal::{Decision, Disposition, Effect, Record, WakeUp, What};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::playbooks::Bundle;
use holdline_proto::signal::{Classified, Health, Said, Signal, Values};

use super::{Input, Partition, Rulebook, Step};
use crate::playbook::{self, Set};
use crate::replay::{Recorded, Replay, Verdict};

mod reverts;
mod verdicts;

const SUBSCRIPTION: &str = r#"{"name": "s", "topicName": "telephony.service.status", "authType": "HMAC", "secretToken": "env:S" CHANGES}"#;
const ACTION: &str =
    r#"{"name": "NAME", "actionType": "WEBHOOK", "url": "https://t.example.com/NAME", "method": "POST"}"#;

/// Not at the epoch, so that a forgotten zero shows.
const BEGIN: i64 = 1_000_000;

struct Book(Set);

impl Rulebook for Book {
    fn set(&self, _hash: &str) -> Option<&Set> {
        Some(&self.0)
    }
}

fn book(rules: &str, circumstances: &Circumstances) -> Book {
    let on = "playbook: p\nmode: live\non:\n  subscription: s\n  entity: data.gw\n  failed: status == 'FAILED'\n  degraded: status == 'DEGRADED'\n  healthy: status == 'HEALTHY'\n";
    let changes = if circumstances.changes_only { r#", "reports": "changes""# } else { "" };
    let mut files = BTreeMap::from([
        ("p.playbook.yaml".to_string(), format!("{on}{rules}")),
        ("subscriptions/s.json".into(), SUBSCRIPTION.replace("CHANGES", changes)),
    ]);
    for name in ["fail", "also", "restore", "scale", "page"] {
        files.insert(format!("actions/{name}.json"), ACTION.replace("NAME", name));
    }
    for name in ["first", "second", "third"] {
        let native = format!(
            r#"{{"name": "{name}", "actionType": "GENESYS", "kind": "emergency_group.set", "parameters": {{"group": "{name}"}}}}"#
        );
        files.insert(format!("actions/{name}.json"), native);
    }
    let platform = "platform: {region: mypurecloud.ie, clients: {all: {id: env:A, secret: env:B}}}\n";
    let pager = if circumstances.pager { "pager: page\n" } else { "" };
    files.insert("holdline.yaml".into(), format!("{platform}{pager}"));
    let (set, findings) = playbook::load(&Bundle { files });
    Book(set.unwrap_or_else(|| panic!("{findings:?}")))
}

/// What happens besides the events.
#[derive(Clone, Default)]
struct Circumstances {
    /// How the executor answers, by action; carried out at once unless named. `None`: never.
    outcomes: BTreeMap<&'static str, Option<Done>>,
    /// Another entity of the subscription is heard this often. 0: never.
    others_every_ms: i64,
    changes_only: bool,
    /// Who waits for a person is told to one.
    pager: bool,
    /// From then till then a gateway holds events back: so long the watermark stands. Milliseconds after the
    /// beginning.
    held_back: Option<(i64, i64)>,
}

struct World {
    book: Book,
    live: Partition,
    replay: Replay,
    sequence: u64,
    timers: Vec<WakeUp>,
    actions: Vec<(i64, String)>,
    decisions: Vec<Decision>,
    /// Approvals that people were asked for.
    asked: Vec<String>,
    dispositions: Vec<Disposition>,
    circumstances: Circumstances,
    records: u64,
}

impl World {
    fn step(&mut self, at_ms: i64, input: Input<'_>) -> Vec<Command> {
        self.sequence += 1;
        let mut step = Step::default();
        self.live.step(&self.book, self.sequence, at_ms, input, &mut step);
        let effects = std::mem::take(&mut step.effects);
        self.decisions.extend(step.decisions.iter().cloned());
        self.dispositions.extend(step.disposed.iter().map(|d| d.disposition.clone()));
        self.records += 1;
        let record = Record {
            position: self.sequence,
            base: 0,
            effects_done: 0,
            owner: "test".into(),
            machine: crate::MACHINE.into(),
            body: self.live.record(&mut step, &[]),
            effects: effects.clone(),
        };
        // O4: every step is replayed from its record, byte for byte.
        let recorded = Recorded { sequence: self.sequence, published_ms: at_ms, input };
        assert_eq!(self.replay.record(&self.book, [recorded], record), Verdict::Same);
        let mut commands = vec![];
        for effect in effects {
            match effect {
                Effect::Command(command) => {
                    self.actions.push((at_ms, format!("{} {}", command.action, command.key.entity)));
                    commands.push(command);
                }
                Effect::WakeAt(wake_up) => self.timers.push(wake_up),
            }
        }
        commands
    }

    fn outcomes(&mut self, at_ms: i64, commands: Vec<Command>) {
        for command in commands {
            let carried = Some(Done::Carried { status: 200 });
            let answer = self.circumstances.outcomes.get(command.action.as_str()).cloned();
            let asks = matches!(answer, Some(Some(Done::AwaitsApproval { .. })));
            if asks && command.approval.is_none() {
                self.asked.push(command.issue_key());
            }
            let Some(result) = answer.unwrap_or(carried) else { continue };
            // What expires does so once, and what people have allowed is; issued anew it is carried out.
            let result = match result {
                Done::AwaitsApproval { until_ms, unless_denied, .. } => {
                    if command.approval.is_some() {
                        Done::Carried { status: 200 }
                    } else {
                        // As long from now as was said.
                        let until_ms = at_ms + until_ms;
                        let approval = command.issue_key();
                        Done::AwaitsApproval { approval, until_ms, unless_denied, perhaps_done: false }
                    }
                }
                Done::Expired { .. } if command.decision > 1 => Done::Carried { status: 200 },
                result => result,
            };
            let outcome = Outcome::of(&command, result, 1);
            let next = self.step(at_ms, Input::Outcome(&outcome));
            self.outcomes(at_ms, next);
        }
    }

    fn classified(&mut self, at_ms: i64, classified: Classified, heard: bool) {
        let held_back = self.circumstances.held_back.map(|(from, till)| (BEGIN + from, BEGIN + till));
        let classified = Classified {
            playbooks: "set".into(),
            heard: if heard { vec![("s".into(), at_ms)] } else { vec![] },
            watermark_ms: match held_back {
                Some((from_ms, till_ms)) if (from_ms..till_ms).contains(&at_ms) => from_ms,
                _ => at_ms,
            },
            ..classified
        };
        let commands = self.step(at_ms, Input::Classified(&classified));
        self.outcomes(at_ms, commands);
    }

    /// People decide on the nth thing that they were asked for.
    fn ruled(&mut self, at_s: i64, nth: usize, verdict: Word) {
        let at_ms = BEGIN + at_s * 1_000;
        let track = self.live.tracks().values().next().unwrap();
        let incident = track.open.iter().chain(&track.closing).next();
        let ruled = Ruled {
            key: track.key.clone(),
            incident: incident.map(|incident| incident.id.clone()).unwrap_or_default(),
            approval: self.asked[nth].clone(),
            verdict,
            by: "ada".into(),
            reason: "seen".into(),
        };
        let commands = self.step(at_ms, Input::Ruled(&ruled));
        self.outcomes(at_ms, commands);
    }

    /// Lets time pass: due wake-ups fire, and each second a gateway ticks.
    fn pass(&mut self, from_ms: i64, to_ms: i64) {
        let mut at_ms = from_ms;
        while at_ms < to_ms {
            at_ms = (at_ms + 1_000).min(to_ms);
            let (due, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.timers).into_iter().partition(|timer| timer.deadline_ms <= at_ms);
            self.timers = later;
            for timer in due {
                let commands = self.step(at_ms, Input::Fired(&timer));
                self.outcomes(at_ms, commands);
            }
            let every = self.circumstances.others_every_ms;
            self.classified(at_ms, Classified::default(), every > 0 && at_ms % every < 1_000);
        }
    }
}

/// What an event is, what it says of a remedy, how many actions of ours led to it, and whether it is their echo.
type Status = (Option<Health>, Option<bool>, u32, bool);

/// `start (+every xN) STATUS`, times in seconds; `@t` gives another event time, `entity:STATUS` another entity. Of no
/// kind are B, which says that a remedy worked, P, which does not, and U, of which that cannot be said. F2 follows from
/// two actions of ours; E is FAILED as the echo of one.
fn events(timeline: &str) -> Vec<(i64, i64, &str, Status)> {
    let mut events = vec![];
    for line in timeline.split(',').map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (entity, status) = words.last().unwrap().split_once(':').unwrap_or(("gw", words.last().unwrap()));
        let (status, depth) = status.split_at(1);
        let depth = if depth.is_empty() { 0 } else { depth.parse().unwrap() };
        let status = match status {
            "F" => (Some(Health::Failed), Some(false), depth, false),
            "E" => (Some(Health::Failed), Some(false), 1, true),
            "D" => (Some(Health::Degraded), Some(false), depth, false),
            "H" => (Some(Health::Healthy), Some(false), depth, false),
            "B" => (None, Some(true), depth, false),
            "P" => (None, Some(false), depth, false),
            "U" => (None, None, depth, false),
            other => panic!("{other}"),
        };
        let seconds = |text: &str| text.parse::<i64>().unwrap() * 1_000;
        let start = seconds(words[0]);
        let mut times = vec![(start, start)];
        match words[1..words.len() - 1] {
            [] => {}
            [at] if at.starts_with('@') => times = vec![(start, seconds(&at[1..]))],
            [every, count] => {
                let count: i64 = count[1..].parse().unwrap();
                let every = seconds(&every[1..]);
                times = (0..count).map(|n| (start + n * every, start + n * every)).collect();
            }
            _ => panic!("{line}"),
        }
        events.extend(times.into_iter().map(|(received, event)| (received, event, entity, status)));
    }
    events
}

fn run(rules: &str, circumstances: Circumstances, timeline: &str, until_s: i64) -> World {
    let mut world = World {
        book: book(rules, &circumstances),
        live: Partition::new(0),
        replay: Replay::new(0),
        sequence: 0,
        timers: vec![],
        actions: vec![],
        decisions: vec![],
        asked: vec![],
        dispositions: vec![],
        circumstances,
        records: 0,
    };
    let mut now_ms = BEGIN;
    for (n, (received, event, entity, (health, worked, depth, echo))) in
        events(timeline).into_iter().enumerate()
    {
        world.pass(now_ms, BEGIN + received);
        now_ms = now_ms.max(BEGIN + received);
        let signal = health.map(|health| Signal {
            origin: Origin { sequence: n as u64, index: 0 },
            accept_id: format!("0-0-t-{n}"),
            event_id: n.to_string(),
            subscription: "s".into(),
            playbook: "p".into(),
            entity: entity.into(),
            group: None,
            health,
            event_ms: BEGIN + event,
            received_ms: BEGIN + received,
            waited_ms: 0,
            late: false,
            depth,
            echo: echo.then(|| "the action of incident i".into()),
            values: Values::new(),
        });
        // As the classifier says it to every lane that listens.
        let said = [Lane::Failover, Lane::Scaling].map(|lane| Said {
            event_id: n.to_string(),
            playbook: "p".into(),
            lane,
            entity: entity.into(),
            worked,
            at_ms: BEGIN + event.min(received),
        });
        let signals = signal.into_iter().collect();
        world.classified(now_ms, Classified { signals, said: said.into(), ..Classified::default() }, true);
    }
    world.pass(now_ms, BEGIN + until_s * 1_000);
    for (at_ms, _) in &mut world.actions {
        *at_ms -= BEGIN;
    }
    world
}

fn check_in(
    rules: &str,
    circumstances: Circumstances,
    timeline: &str,
    until_s: i64,
    expected: &[(f64, &str)],
) {
    let world = run(rules, circumstances, timeline, until_s);
    let found: Vec<(f64, &str)> =
        world.actions.iter().map(|(at, action)| (*at as f64 / 1_000.0, action.as_str())).collect();
    assert_eq!(found, expected, "\n{timeline}\n{:#?}", world.decisions);
}

fn check(rules: &str, timeline: &str, until_s: i64, expected: &[(f64, &str)]) {
    check_in(rules, Circumstances::default(), timeline, until_s, expected);
}

const GUIDE: &str = "confirm: {failures: 5, stable_for: 20s}\nact:\n  failed: {do: [fail], class: failover}\nrevert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";
const LOOP: &str = "confirm: {failures: 3, stable_for: 0s}\nact:\n  failed: {do: [fail], class: failover}\nrevert: {healthy: 2, stable_for: 0s, silence: 15m, do: [restore]}\n";

#[test]
fn a1_nothing_is_remediated_before_threshold_and_window() {
    check(GUIDE, "0 +1 x4 F", 60, &[]);
    check(GUIDE, "0 +1 x20 F", 60, &[]);
    check(GUIDE, "0 +1 x21 F", 60, &[(20.0, "fail gw")]);
    check(GUIDE, "0 +10 x5 F", 60, &[(40.0, "fail gw")]);
    check(GUIDE, "0 +10 x3 F, 60 +1 x2 F", 90, &[(61.0, "fail gw")]);
    check(LOOP, "0 +1 x2 F", 60, &[]);
    check(LOOP, "0 +1 x9 F", 60, &[(2.0, "fail gw")]);
    // One lone failure is never confirmed by time alone where the source repeats its state.
    check(GUIDE, "0 F", 600, &[]);
}

#[test]
fn d2_before_the_failover_consecutive_means_consecutive() {
    check(LOOP, "0 F, 1 F, 2 H, 3 F, 4 F, 5 H, 6 F, 7 F", 60, &[]);
    check(LOOP, "0 F, 1 F, 2 H, 3 F, 4 F, 5 F", 60, &[(5.0, "fail gw")]);
    check(LOOP, "0 F, 1 D, 2 F, 3 D, 4 F", 60, &[(4.0, "fail gw")]);
    check(LOOP, "0 +1 x9 D", 60, &[]);
}

#[test]
fn c4_actions_that_led_to_one_another_lead_to_no_third() {
    // One action of ours before is trouble like any other; what is done about it says so.
    check(LOOP, "0 F, 1 F1, 2 F", 60, &[(2.0, "fail gw")]);
    let depth = |timeline: &str| {
        let world = run(LOOP, Circumstances::default(), timeline, 5);
        let commands = world.decisions.iter().filter_map(|decision| match &decision.what {
            What::Commanded(command) => Some(command.depth),
            _ => None,
        });
        commands.collect::<Vec<_>>()
    };
    assert_eq!(depth("0 F, 1 F1, 2 F"), [1]);
    assert_eq!(depth("0 F, 1 F, 2 F"), [0]);
    // Two are a loop: nothing counts, whatever follows; people are told, once.
    let paged = Circumstances { pager: true, ..Circumstances::default() };
    let page = [(0.0, "page gw")];
    check_in(LOOP, paged.clone(), "0 +1 x9 F2", 60, &page);
    check_in(LOOP, paged.clone(), "0 F2, 1 F, 2 F", 60, &page);
    check_in(LOOP, paged.clone(), "0 F2, 1 +1 x3 F", 60, &[page[0], (3.0, "fail gw")]);
    check_in(LOOP, paged.clone(), "0 +1 x4 H2", 60, &[]);
    // Nor does it break or end what is open.
    check_in(LOOP, paged.clone(), "0 F, 1 F, 2 F2, 3 F", 60, &[(2.0, "page gw"), (3.0, "fail gw")]);
    check(LOOP, "0 +1 x3 F, 10 +1 x4 H2", 60, &[(2.0, "fail gw")]);
    // Where a state persists, no time confirms what does not count.
    let changes = Circumstances { changes_only: true, pager: true, ..Circumstances::default() };
    check_in(GUIDE, changes.clone(), "0 F2", 60, &page);
    check_in(GUIDE, changes, "0 F2, 10 F", 60, &[page[0], (30.0, "fail gw")]);
    // A clock that is ahead blinds nobody.
    check(LOOP, "0 @90 F2, 1 +1 x3 F", 60, &[(3.0, "fail gw")]);
    // What waits for nothing but people does not wait for ever.
    let world = run(LOOP, Circumstances::default(), "0 F2, 2 H2, 3 @1 F2", 1_000);
    assert!(world.live.tracks().values().all(|track| track.open.is_none() && track.armed.is_none()));
    let dispositions: Vec<String> = world.dispositions.iter().map(crate::explain::disposition).collect();
    let echo = "an echo of our own: it follows from actions of ours that led to one another (2 in a row)";
    assert_eq!(dispositions, [echo; 3]);
}

#[test]
fn a1_an_echo_counts_for_nothing_and_is_no_silence() {
    let heard = Circumstances { others_every_ms: 60_000, ..Circumstances::default() };
    check_in(LOOP, heard.clone(), "0 +1 x3 F", 1_000, &[(2.0, "fail gw"), (902.0, "restore gw")]);
    // The trouble goes on, and all that is heard of it is the echo of what was done about it.
    let echoed = [(2.0, "fail gw"), (1_660.0, "restore gw")];
    check_in(LOOP, heard, "0 +1 x3 F, 10 +50 x16 E", 1_700, &echoed);
    check(LOOP, "0 +1 x9 E", 60, &[]);
    check(LOOP, "0 F, 1 E, 2 F, 3 E", 60, &[]);
    check(LOOP, "0 F, 1 E, 2 F, 3 E, 4 F", 60, &[(4.0, "fail gw")]);
}

#[test]
fn e8_the_deadline_counts_from_when_the_time_to_decide_had_come() {
    let rules = GUIDE.replace("class: failover", "class: failover, deadline: 10s");
    let changes = Circumstances { changes_only: true, ..Circumstances::default() };
    let world = run(&rules, changes, "0 F", 60);
    let commands = world.decisions.iter().filter_map(|decision| match &decision.what {
        What::Commanded(command) => {
            Some((command.decided_ms - BEGIN, command.deadline_ms - BEGIN, command.course))
        }
        _ => None,
    });
    let course = Course { waited_ms: 0, judged_ms: BEGIN + 20_000, issued_ms: BEGIN + 20_000 };
    assert_eq!(commands.collect::<Vec<_>>(), [(20_000, 30_000, course)]);
}

#[test]
fn o3_an_older_event_moves_nothing() {
    check(LOOP, "10 F, 11 F, 12 @5 F, 13 @6 F", 60, &[]);
    check(LOOP, "10 F, 11 F, 12 @5 H, 13 F", 60, &[(13.0, "fail gw")]);
    let world = run(LOOP, Circumstances::default(), "10 F, 12 @5 H", 20);
    assert_eq!(world.dispositions[1], Disposition::Stale { newer_by_ms: 5_000 });
}

#[test]
fn d3_two_healthy_in_a_row_and_for_a_time() {
    check(LOOP, "0 +1 x3 F, 10 H, 11 F, 12 H, 13 F", 60, &[(2.0, "fail gw")]);
    check(LOOP, "0 +1 x3 F, 10 H, 11 H", 60, &[(2.0, "fail gw"), (11.0, "restore gw")]);
    check(LOOP, "0 +1 x3 F, 10 H, 11 D, 12 H", 60, &[(2.0, "fail gw")]);
    let slow = LOOP.replace("healthy: 2, stable_for: 0s", "healthy: 2, stable_for: 2m");
    check(&slow, "0 +1 x3 F, 10 H, 11 H, 129 H", 200, &[(2.0, "fail gw")]);
    check(&slow, "0 +1 x3 F, 10 H, 11 H, 130 H", 200, &[(2.0, "fail gw"), (130.0, "restore gw")]);
    // The example of playbooks.md.
    check(
        &GUIDE.replace("healthy: 2, stable_for: 0s", "healthy: 2, stable_for: 2m"),
        "0 +1 x30 F, 40 H, 45 F, 90 +10 x13 H",
        300,
        &[(20.0, "fail gw"), (210.0, "restore gw")],
    );
}

#[test]
fn d3_each_relapse_doubles_the_time_up_to_fifteen_minutes() {
    let rules = LOOP.replace("healthy: 2, stable_for: 0s", "healthy: 2, stable_for: 4m");
    let mut timeline = String::new();
    let mut expected = vec![];
    let mut at = 0;
    for minutes in [4, 8, 15, 15] {
        let healthy = at + 10;
        let over = healthy + minutes * 60;
        timeline += &format!("{at} +1 x3 F, {healthy} H, {} H, {over} H,", over - 1);
        expected.push(((at + 2) as f64, "fail gw"));
        expected.push((over as f64, "restore gw"));
        at = over + 60;
    }
    check(&rules, &timeline, at + 10, &expected);
    // An hour later it is no relapse.
    check(
        &rules,
        "0 +1 x3 F, 10 H, 250 H, 3900 +1 x3 F, 3910 H, 4150 H",
        4_200,
        &[(2.0, "fail gw"), (250.0, "restore gw"), (3902.0, "fail gw"), (4150.0, "restore gw")],
    );
}

#[test]
fn d4_silence_reverts_only_where_it_can_mean_health() {
    let alive = Circumstances { others_every_ms: 60_000, ..Circumstances::default() };
    let act = (2.0, "fail gw");
    // A failures-only source, the path alive: fifteen minutes after the last failure.
    check_in(LOOP, alive.clone(), "0 +1 x3 F", 1_000, &[act, (902.0, "restore gw")]);
    check_in(LOOP, alive.clone(), "0 +1 x3 F, 600 F", 1_600, &[act, (1_500.0, "restore gw")]);
    check_in(LOOP, alive.clone(), "0 +1 x3 F, 600 D", 1_600, &[act, (1_500.0, "restore gw")]);
    // It used to report health and has gone quiet.
    check_in(LOOP, alive.clone(), "0 H, 1 +1 x3 F", 2_000, &[(3.0, "fail gw")]);
    check_in(LOOP, alive.clone(), "0 +1 x3 F, 60 H", 2_000, &[act]);
    // The source reports health, though it never has of this entity; or told of it too late to count.
    check_in(LOOP, alive.clone(), "0 +1 x3 F, 60 other:H", 2_000, &[act]);
    check_in(LOOP, alive, "0 +1 x3 F, 60 @1 H", 2_000, &[act]);
    // Nothing proves the path alive.
    check(LOOP, "0 +1 x3 F", 2_000, &[act]);
    let world = run(LOOP, Circumstances::default(), "0 +1 x3 F", 2_000);
    assert!(matches!(world.decisions.last().unwrap().what, What::Held { .. }), "a person is told");
    // A short silence needs no other event than its own.
    check(&LOOP.replace("15m", "5s"), "0 +1 x3 F", 60, &[act, (7.0, "restore gw")]);
    // Held silence ends when the entity is heard again.
    check(LOOP, "0 +1 x3 F, 1000 H, 1001 H", 2_000, &[act, (1_001.0, "restore gw")]);
}

#[test]
fn d2_a_source_of_changes_is_confirmed_by_the_windows_end() {
    let changes = Circumstances { changes_only: true, ..Circumstances::default() };
    check_in(GUIDE, changes.clone(), "0 F", 600, &[(20.0, "fail gw")]);
    check_in(GUIDE, changes.clone(), "0 F, 10 F", 600, &[(20.0, "fail gw")]);
    check_in(GUIDE, changes.clone(), "0 F, 10 H", 600, &[]);
    // DEGRADED feeds no failover, and says that it is no longer FAILED: the window begins anew.
    check_in(GUIDE, changes.clone(), "0 F, 10 D", 600, &[]);
    check_in(GUIDE, changes.clone(), "0 F, 10 D, 15 F", 600, &[(35.0, "fail gw")]);
    // Its silence is its last state, however long.
    check_in(GUIDE, changes, "0 F", 7_200, &[(20.0, "fail gw")]);
}

#[test]
fn d5_flapping_delays_the_action_itself() {
    let rules = LOOP.replace(
        "stable_for: 0s}\nact",
        "stable_for: 0s, flapping: {changes: 4, within: 10m, back_off: {first: 1m, factor: 2, most: 30m}}}\nact",
    );
    let jitter = "0 F, 1 H, 2 F, 3 H, 4 F";
    check(&rules, &format!("{jitter}, 5 F, 6 F"), 50, &[]);
    check(&rules, &format!("{jitter}, 5 F, 6 F"), 200, &[(66.0, "fail gw")]);
    check(&rules, &format!("{jitter}, 5 F, 6 F, 30 H"), 200, &[]);
    // The second back-off in a row is twice as long.
    check(&rules, &format!("{jitter}, 5 F, 6 F, 30 H, 31 +1 x3 F"), 400, &[(153.0, "fail gw")]);
    // Calm again: no back-off.
    check(&rules, &format!("{jitter}, 7 H, 1000 +1 x3 F"), 1_200, &[(1_002.0, "fail gw")]);
}

#[test]
fn c1_degraded_scales_and_never_fails_over() {
    let rules = LOOP.replace("revert:", "  degraded: {do: [scale], class: scaling}\nrevert:");
    check(&rules, "0 +1 x3 D", 60, &[(2.0, "scale gw")]);
    check(&rules, "0 D, 1 F, 2 D, 3 F, 4 D", 60, &[(4.0, "scale gw")]);
    check(&rules, "0 +1 x3 D, 5 +1 x3 F", 60, &[(2.0, "scale gw"), (7.0, "fail gw")]);
    check(&rules, "0 +1 x3 D, 5 H, 6 H, 7 +1 x3 D", 60, &[(2.0, "scale gw"), (9.0, "scale gw")]);
}

#[test]
fn one_command_is_outstanding_and_the_next_waits_for_its_outcome() {
    let never = Circumstances { outcomes: BTreeMap::from([("fail", None)]), ..Circumstances::default() };
    check_in(LOOP, never, "0 +1 x3 F, 5 H, 6 H, 7 +1 x3 F", 60, &[(2.0, "fail gw")]);
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    check(&both, "0 +1 x3 F, 5 H, 6 H", 60, &[(2.0, "fail gw"), (2.0, "also gw"), (6.0, "restore gw")]);
}

#[test]
fn what_did_not_go_through_is_not_undone_and_is_held() {
    let fails = |perhaps_done| Circumstances {
        outcomes: BTreeMap::from([("fail", Some(Done::Failed { reason: "404".into(), perhaps_done }))]),
        ..Circumstances::default()
    };
    check_in(LOOP, fails(false), "0 +1 x3 F, 5 H, 6 H", 60, &[(2.0, "fail gw")]);
    // What may have happened is undone.
    check_in(LOOP, fails(true), "0 +1 x3 F, 5 H, 6 H", 60, &[(2.0, "fail gw"), (6.0, "restore gw")]);
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    check_in(&both, fails(false), "0 +1 x3 F", 60, &[(2.0, "fail gw")]);
}

#[test]
fn e2_of_several_remedies_those_are_undone_that_were_done() {
    let three = LOOP.replace("do: [fail]", "do: [first, second, third]").replace("do: [restore]", "do: undo");
    let check = |second: Option<Done>, expected: &[&str]| {
        let outcomes = second.map(|done| ("second", Some(done)));
        let circumstances =
            Circumstances { outcomes: outcomes.into_iter().collect(), ..Circumstances::default() };
        let world = run(&three, circumstances, "0 +1 x3 F, 5 H, 6 H", 60);
        let found: Vec<&str> = world.actions.iter().map(|(_, action)| action.as_str()).collect();
        assert_eq!(found, expected, "{:#?}", world.decisions);
        assert!(world.live.tracks().values().all(|track| track.closing.is_empty()), "it is over");
    };
    let fails = |perhaps_done| Some(Done::Failed { reason: "403".into(), perhaps_done });
    check(None, &["first gw", "second gw", "third gw", "third gw", "second gw", "first gw"]);
    check(fails(false), &["first gw", "second gw", "first gw"]);
    // What may have been done is undone first; as that fails as well here, a person has the rest.
    let held = run(
        &three,
        Circumstances { outcomes: BTreeMap::from([("second", fails(true))]), ..Circumstances::default() },
        "0 +1 x3 F, 5 H, 6 H",
        60,
    );
    let last = held.actions.last().map(|(_, action)| action.as_str());
    assert_eq!((held.actions.len(), last), (3, Some("second gw")));
}

#[test]
fn what_still_waits_when_the_trouble_is_over_is_not_issued() {
    let never = Circumstances { outcomes: BTreeMap::from([("fail", None)]), ..Circumstances::default() };
    let waiting = |rules: &str, timeline: &str| {
        let world = run(rules, never.clone(), timeline, 60);
        let lineup = &world.live.tracks().values().next().unwrap().lineup;
        lineup.iter().map(|next| next.action.clone()).collect::<Vec<_>>()
    };
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    assert_eq!(waiting(&both, "0 +1 x3 F"), ["also"]);
    assert_eq!(waiting(&both, "0 +1 x3 F, 5 H, 6 H"), ["restore"]);
    assert_eq!(waiting(LOOP, "0 +1 x3 F, 5 H, 6 H, 7 +1 x3 F"), ["restore", "fail"]);
    assert_eq!(waiting(LOOP, "0 +1 x3 F, 5 H, 6 H, 7 +1 x3 F, 11 H, 12 H"), ["restore"]);
}

#[test]
fn l1_who_waits_for_a_person_goes_on_waiting_whatever_is_heard() {
    let held = Circumstances {
        outcomes: BTreeMap::from([("fail", Some(Done::Held { reason: "ambiguous".into() }))]),
        ..Circumstances::default()
    };
    let world = run(LOOP, held, "0 H, 1 +1 x3 F, 1000 F", 1_100);
    let incident = world.live.tracks().values().next().unwrap().open.as_ref().unwrap();
    assert!(incident.held.as_ref().is_some_and(|hold| !hold.until_heard), "{:?}", incident.held);
    let told = world.decisions.iter().filter(|d| matches!(d.what, What::Held { .. })).count();
    assert_eq!(told, 2, "of the outcome and of the silence, once each: {:#?}", world.decisions);
}

#[test]
fn l2_what_expired_is_decided_anew() {
    let late = Circumstances {
        outcomes: BTreeMap::from([("fail", Some(Done::Expired { perhaps_done: false }))]),
        ..Circumstances::default()
    };
    check_in(
        LOOP,
        late,
        "0 +1 x3 F, 5 H, 6 H",
        60,
        &[(2.0, "fail gw"), (2.0, "fail gw"), (6.0, "restore gw")],
    );
}

#[test]
fn an_incident_ends_with_its_revert_and_the_next_is_another() {
    let world = run(LOOP, Circumstances::default(), "0 +1 x3 F, 5 H, 6 H, 10 +1 x3 F", 60);
    let closed: Vec<&Decision> =
        world.decisions.iter().filter(|d| matches!(d.what, What::Closed { .. })).collect();
    assert_eq!(closed.len(), 1);
    let opened: Vec<&str> = world
        .decisions
        .iter()
        .filter(|d| matches!(d.what, What::Opened { .. }))
        .map(|d| d.incident.as_str())
        .collect();
    assert_eq!(opened.len(), 2);
    assert_ne!(opened[0], opened[1]);
}

/// What waits for people, who are left a minute, and are asked anew unless it is a soft block.
fn asking(action: &'static str, unless_denied: bool) -> Circumstances {
    let asks = Done::AwaitsApproval {
        approval: String::new(),
        until_ms: 60_000,
        unless_denied,
        perhaps_done: false,
    };
    Circumstances { outcomes: BTreeMap::from([(action, Some(asks))]), ..Circumstances::default() }
}

#[test]
fn e7_what_waits_for_people_is_issued_anew_once_they_have_decided() {
    let check =
        |rules: &str, ask: Circumstances, timeline: &str, words: &[(i64, usize, Word)], expected: &str| {
            let mut world = run(rules, ask, timeline, 10);
            let mut now_s = 10;
            for (at_s, nth, word) in words {
                world.pass(BEGIN + now_s * 1_000, BEGIN + at_s * 1_000);
                world.ruled(*at_s, *nth, *word);
                now_s = *at_s;
            }
            world.pass(BEGIN + now_s * 1_000, BEGIN + 100_000);
            let found: Vec<String> = world
                .actions
                .iter()
                // Those of the first ten seconds are told from the beginning.
                .map(|(at, action)| {
                    format!("{} {action}", (if *at >= BEGIN { at - BEGIN } else { *at }) / 1_000)
                })
                .collect();
            let held = world.live.tracks().values().flat_map(|track| track.open.iter().chain(&track.closing));
            let held = held.filter(|incident| incident.held.is_some()).count();
            assert_eq!(
                format!("{}; {held} held", found.join(", ")),
                expected,
                "{words:?}\n{:#?}",
                world.decisions
            );
        };
    let both = LOOP.replace("do: [fail]", "do: [fail, also]");
    let trouble = "0 +1 x3 F";
    let hard = || asking("fail", false);
    check(&both, hard(), trouble, &[], "2 fail gw, 62 fail gw; 1 held");
    check(&both, hard(), trouble, &[(20, 0, Word::Approve)], "2 fail gw, 20 fail gw, 20 also gw; 0 held");
    check(&both, hard(), trouble, &[(20, 0, Word::Deny)], "2 fail gw; 1 held");
    // Nobody decided in time: they are asked anew, and the old word is void.
    check(&both, hard(), trouble, &[(70, 0, Word::Approve)], "2 fail gw, 62 fail gw; 1 held");
    check(
        &both,
        hard(),
        trouble,
        &[(70, 1, Word::Approve)],
        "2 fail gw, 62 fail gw, 70 fail gw, 70 also gw; 0 held",
    );
    // Only once, whatever is said twice.
    let twice = [(20, 0, Word::Approve), (21, 0, Word::Approve)];
    check(&both, hard(), trouble, &twice, "2 fail gw, 20 fail gw, 20 also gw; 0 held");
    // The trouble ended meanwhile: nothing is done, nothing undone, whatever is said then.
    let over = "0 +1 x3 F, 5 H, 6 H";
    check(&both, hard(), over, &[], "2 fail gw; 0 held");
    check(&both, hard(), over, &[(20, 0, Word::Approve)], "2 fail gw; 0 held");
    // A soft block.
    let soft = || asking("fail", true);
    check(&both, soft(), trouble, &[], "2 fail gw, 62 fail gw, 62 also gw; 0 held");
    check(&both, soft(), trouble, &[(20, 0, Word::Deny)], "2 fail gw; 1 held");
    check(&both, soft(), over, &[], "2 fail gw; 0 held");
    // A step that was done before the one that waits is undone all the same.
    check(&both, asking("also", false), over, &[], "2 fail gw, 2 also gw, 6 restore gw; 0 held");
    // What undoes waits, too, and stays in sight.
    let undo = || asking("restore", false);
    check(LOOP, undo(), over, &[], "2 fail gw, 6 restore gw, 66 restore gw; 1 held");
    check(LOOP, undo(), over, &[(20, 0, Word::Approve)], "2 fail gw, 6 restore gw, 20 restore gw; 0 held");
    check(LOOP, undo(), over, &[(20, 0, Word::Deny)], "2 fail gw, 6 restore gw; 1 held");
}
