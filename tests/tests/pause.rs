//! A7, E10: what people have stopped does not leave, on any replica, with the broker readable or not; it goes on when
//! they say so, or when the pause ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use holdline_proto::pause::PAUSES;
use holdline_proto::topology::{Bucket, Topology};
use holdline_stage::clock;
use holdline_tests::programs::{Installation, changed_sample, scratch};
use holdline_tests::proxy::{Line, Proxy};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::{Call, Target};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const REPLICAS: usize = 4;
const COMMANDS: usize = 500;

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was on its way when somebody looked would have arrived after this.
const SETTLED: Duration = Duration::from_secs(2);

/// The loop's playbooks: one failure acts, two healthy events undo it; a site is a group.
fn playbooks(target: &Target, deadline: &str) -> PathBuf {
    let folder = scratch("pause-playbooks");
    let address = target.address.to_string();
    let patient = format!("    class: failover\n    deadline: {deadline}\n");
    changed_sample("loop", &folder, |_, text| {
        text.replace("127.0.0.1:44001", &address)
            .replace("    class: failover\n", &patient)
            .replace("failures: 3", "failures: 1")
            .replace("  entity: data.gatewayId\n", "  entity: data.gatewayId\n  group: data.site\n")
            .replace("calls_per_second: 5000", "calls_per_second: 100")
    });
    folder
}

fn start(name: &str, target: &Target, deadline: &str, executors: usize) -> Installation {
    let mut installation = Installation::broker(name, &playbooks(target, deadline), "default");
    for stage in ["gateway", "classifier", "debouncer"] {
        installation.spawn(stage, 0);
    }
    for replica in 0..executors {
        installation.spawn("executor", replica);
    }
    installation.wait_ready();
    installation
}

async fn report(sender: &Sender, entity: &str, site: &str, status: &str) {
    let now_ms = clock::wall_ms();
    let mut event = event(&format!("{entity}-{status}-{now_ms}"), entity, status, now_ms);
    event["data"]["site"] = json!(site);
    sender.deliver(&event).await;
}

fn ask(installation: &Installation, arguments: &[&str], expected: i32) -> Value {
    let output = installation.holdline(&[arguments, &["--output", "json"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn pause(installation: &Installation, what: &[&str], time: &str) -> Value {
    let rest = ["--reason", "carrier maintenance", "--by", "ada", "--for", time];
    ask(installation, &[&["pause"], what, &rest].concat(), 0)
}

fn entity(call: &Call) -> &str {
    call.path.rsplit('/').next().unwrap()
}

async fn until(what: &str, installation: &Installation, done: impl Fn() -> bool) {
    let began = clock::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}\n{}", installation.logs());
        clock::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_once_a_pause_is_confirmed_no_call_leaves_and_resume_goes_on_with_all_of_them() {
    let target = Target::start().await;
    let installation = start("pause-all", &target, "5m", REPLICAS);
    let sender = Sender::new(installation.gateways(), "telephony");
    let mut tasks = JoinSet::new();
    for chunk in 0..20 {
        let sender = sender.clone();
        tasks.spawn(async move {
            for n in (chunk..COMMANDS).step_by(20) {
                report(&sender, &format!("gw-{n}"), "lisbon", "FAILED").await;
            }
        });
    }
    until("the first calls", &installation, || target.calls().len() > 20).await;
    let paused = pause(&installation, &[], "10m");
    let confirmed = clock::now();
    assert_eq!(paused["paused"]["scope"], "everything", "{paused}");
    tasks.join_all().await;
    clock::sleep(SETTLED).await;
    let before = target.calls();
    let later: Vec<_> = before.iter().filter(|call| call.at > confirmed).collect();
    eprintln!("{} calls had left when the pause was confirmed, {} after it", before.len(), later.len());
    assert!(later.is_empty(), "{later:?}");
    assert!(before.len() < COMMANDS, "too late to prove anything");
    assert_eq!(ask(&installation, &["pauses"], 0)[0]["reason"], "carrier maintenance");
    let incidents = ask(&installation, &["incidents"], 0);
    let told = incidents.as_array().unwrap().iter().filter(|incident| {
        incident["paused"].as_str().is_some_and(|told| told.contains("ada: carrier maintenance"))
    });
    assert!(told.count() >= COMMANDS - before.len(), "people see it");
    let doctor = installation.holdline(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("everything by ada: carrier maintenance"), "{doctor}");

    assert_eq!(ask(&installation, &["resume"], 0)["resumed"], true);
    assert_eq!(ask(&installation, &["resume"], 1)["resumed"], false);
    until("all of them", &installation, || target.calls().len() >= COMMANDS).await;
    clock::sleep(SETTLED).await;
    let calls = target.calls();
    let keys: BTreeSet<&str> = calls.iter().map(|call| call.key.as_str()).collect();
    assert_eq!((calls.len(), keys.len()), (COMMANDS, COMMANDS), "none dropped, none doubled");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_what_is_no_longer_due_when_a_pause_ends_is_not_done_and_the_rest_is() {
    let target = Target::start().await;
    // The deadline passes while it is paused: it is decided anew.
    let installation = start("pause-due", &target, "2s", 1);
    let sender = Sender::new(installation.gateways(), "telephony");
    pause(&installation, &[], "10m");
    for entity in ["gw-over", "gw-due"] {
        report(&sender, entity, "lisbon", "FAILED").await;
    }
    clock::sleep(Duration::from_secs(5)).await;
    for _ in 0..2 {
        report(&sender, "gw-over", "lisbon", "HEALTHY").await;
    }
    clock::sleep(Duration::from_secs(3)).await;
    assert!(target.calls().is_empty(), "{:?}", target.calls());
    ask(&installation, &["resume"], 0);
    until("what is due", &installation, || !target.calls().is_empty()).await;
    clock::sleep(Duration::from_secs(4)).await;
    let calls = target.calls();
    assert_eq!(calls.iter().map(entity).collect::<Vec<_>>(), ["gw-due"], "{calls:?}");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_a_pause_stops_what_it_names_and_ends_by_itself() {
    let target = Target::start().await;
    let installation = start("pause-part", &target, "5m", 1);
    let sender = Sender::new(installation.gateways(), "telephony");
    pause(&installation, &["--entity", "gw-1"], "10m");
    pause(&installation, &["--group", "porto"], "10m");
    for (entity, site) in [("gw-1", "lisbon"), ("gw-2", "porto"), ("gw-3", "lisbon")] {
        report(&sender, entity, site, "FAILED").await;
    }
    until("the third", &installation, || !target.calls().is_empty()).await;
    clock::sleep(SETTLED).await;
    assert_eq!(target.calls().iter().map(entity).collect::<Vec<_>>(), ["gw-3"]);
    ask(&installation, &["resume", "--group", "porto"], 0);
    until("the second", &installation, || target.calls().len() == 2).await;
    // A pause of the same scope takes the place of the one before.
    pause(&installation, &["--entity", "gw-1"], "1s");
    until("the first", &installation, || target.calls().len() == 3).await;
    assert_eq!(ask(&installation, &["pauses"], 0), json!([]));

    pause(&installation, &["--playbook", "loop"], "10m");
    report(&sender, "gw-4", "lisbon", "FAILED").await;
    clock::sleep(SETTLED).await;
    assert_eq!(target.calls().len(), 3);
    ask(&installation, &["resume", "--playbook", "loop"], 0);
    until("the fourth", &installation, || target.calls().len() == 4).await;
    for (arguments, part) in [
        (vec!["pause", "--for", "10m"], "--reason"),
        (vec!["pause", "--reason", "x"], "--for"),
        (vec!["pause", "--reason", " ", "--for", "10m"], "others understand"),
        (vec!["pause", "--reason", "x", "--for", "0s"], "stops nothing"),
        (vec!["pause", "--reason", "x", "--for", "2 weeks"], "is no duration"),
        (vec!["pause", "--reason", "x", "--for", "25h"], "at most 24h"),
        (vec!["pause", "--entity", "a", "--group", "b", "--reason", "x", "--for", "1m"], "cannot be used"),
    ] {
        let output = installation.holdline(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(part), "{arguments:?}: {told}");
    }
    installation.conserved();
}

/// Whoever cannot see what is stopped does not act: because it cannot be read, because nothing comes back from the
/// broker, or because there is no line to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_an_executor_that_cannot_see_the_pauses_makes_no_call() {
    const WAITING: usize = 100;
    let target = Target::start().await;
    let mut installation = start("pause-unseen", &target, "5m", 1);
    let sender = Sender::new(installation.gateways(), "telephony");
    let entry = Topology::default().entry(Bucket::Pauses, PAUSES);
    installation.publish("operator", &entry, b"\xff no pauses").await;
    report(&sender, "gw-1", "lisbon", "FAILED").await;
    let told = || installation.log_of("executor", 0).contains("the entry of PAUSES cannot be read");
    until("it is told", &installation, told).await;
    clock::sleep(SETTLED).await;
    assert!(target.calls().is_empty(), "{:?}", target.calls());
    pause(&installation, &["--entity", "another"], "10m");
    until("the call", &installation, || target.calls().len() == 1).await;

    let broker = installation.url();
    let line = Proxy::to(broker.strip_prefix("nats://").unwrap().parse().unwrap()).await;
    installation.kill("executor", 0);
    let over_the_line = format!("nats://{}", line.address);
    installation.spawn_with("executor", 0, &[("HOLDLINE_NATS_URL", &over_the_line)]);
    installation.wait_ready();
    // Deaf: what it asks still arrives, and what it then hears once the line is back was answered before the pause. It
    // is back at once, while nothing else that the executor goes by (its lock, its turn) has grown old.
    let broken = [(Line::Deaf, Duration::ZERO), (Line::Cut, SETTLED)];
    for (round, (broken, longer)) in broken.into_iter().enumerate() {
        let before = target.effects().len();
        let all = before + WAITING;
        let (mut events, now_ms) = (vec![], clock::wall_ms());
        for n in 0..WAITING {
            let entity = format!("gw-{round}-{n}");
            let mut event = event(&format!("{entity}-{now_ms}"), &entity, "FAILED", now_ms);
            event["data"]["site"] = json!("lisbon");
            events.push(event);
        }
        sender.deliver(&json!(events)).await;
        until("the first calls", &installation, || target.effects().len() > before + 10).await;
        line.set(broken);
        let paused = pause(&installation, &[], "10m");
        let confirmed = clock::now();
        assert_eq!(paused["paused"]["scope"], "everything", "{paused}");
        clock::sleep(longer).await;
        line.set(Line::Open);
        // Long enough to come back, to get what it had in hand once more, and to look.
        let seen = installation.log_of("executor", 0).matches("is paused by ada").count();
        let sees = || installation.log_of("executor", 0).matches("is paused by ada").count() > seen;
        until("it sees the pause", &installation, sees).await;
        clock::sleep(SETTLED).await;
        let later: Vec<_> = target.calls().into_iter().filter(|call| call.at > confirmed).collect();
        eprintln!(
            "{broken:?}: {} of {WAITING} had left, {} after it",
            target.effects().len() - before,
            later.len()
        );
        assert!(later.is_empty(), "{broken:?}: {later:?}");
        assert!(target.effects().len() < all, "{broken:?}: too late to prove anything");
        ask(&installation, &["resume"], 0);
        until("all of them", &installation, || target.effects().len() >= all).await;
        assert_eq!(target.effects().len(), all, "{broken:?}");
    }
    installation.conserved();
}
