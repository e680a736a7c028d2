//! E5: what gateways ask and what executors call take turns in one window. Counted by the simulated platform itself:
//! together they never exceed a limit, polls leave alone what is kept for remedies, and one answer 429 quiets all.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::path::Path;
use std::time::Duration;

use holdline_simulator::organisation::*;
use holdline_simulator::{Call, Client, Fault, Kind, Options, Outcome, Simulator};
use holdline_stage::clock;
use holdline_tests::platform::{found_group, group_playbooks};
use holdline_tests::programs::{Installation, STAGES, scratch};
use holdline_tests::sender::{Sender, event};
use serde_json::json;

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(90);

const REPLICAS: usize = 2;

/// `platform.calls_per_second` of the tests.
const CALLS_PER_SECOND: usize = 40;

/// What the platform allows the client in a window, and what of it is not kept for remedies.
const ALLOWED: u32 = 100;
const OTHERS: usize = 80;
const WINDOW: Duration = Duration::from_secs(4);

/// At most so many leave in a second. Their ways differ, by 150 ms where forty begin at once on two cores that do all
/// the rest besides, so that a shorter time is what can be counted at the far end.
const SECOND_LESS_WAYS: Duration = Duration::from_millis(800);

const SUBSCRIPTION: &str = "telephony";
const TRUNKS: &str = "/api/v2/telephony/providers/edges/trunks";
const PAGE: &str = "/statuspage/api/v2/summary.json";

/// One client does it all, so that what is asked and what is changed share its limit.
async fn platform(calls_per_window: Option<u32>) -> Simulator {
    rustls::crypto::ring::default_provider().install_default().ok();
    let permissions = ["telephony:plugin:all", "routing:emergencyGroup:view", "routing:emergencyGroup:edit"];
    let clients = vec![Client::new(CLIENT, CLIENT_SECRET, &permissions)];
    Simulator::start(Options { clients, calls_per_window, window: WINDOW, ..Options::default() })
        .await
        .unwrap()
}

/// A playbook that enables an entity's group; besides, so many subscriptions that look at the list of trunks every
/// second, and one that asks the status page.
fn playbooks(folder: &Path, simulator: &Simulator, looks: usize) {
    group_playbooks(folder, simulator, SUBSCRIPTION);
    let settings = folder.join("holdline.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let pace = format!("platform:\n  calls_per_second: {CALLS_PER_SECOND}\n");
    std::fs::write(settings, text.replace("platform:\n", &pace)).unwrap();
    let trunks = (0..looks).map(|number| {
        json!({"name": format!("trunks-{number}"), "source": "notification", "client": "routing",
            "topicName": "v2.telephony.providers.edges.trunks.{id}", "entities": [TRUNK_PRIMARY],
            "poll": {"every": "1s"}})
    });
    let page = json!({"name": "page", "source": "statuspage", "topicName": "page", "authType": "PATH_TOKEN",
        "secretToken": "env:HOLDLINE_TELEPHONY_SECRET", "reports": "repeats",
        "poll": {"url": format!("{}{PAGE}", simulator.url()), "every": "1s"}});
    for subscription in trunks.chain([page]) {
        let path = format!("subscriptions/{}.json", subscription["name"].as_str().unwrap());
        std::fs::write(folder.join(path), subscription.to_string()).unwrap();
    }
}

fn installed(name: &str, simulator: &Simulator, looks: usize) -> Installation {
    let folder = scratch(&format!("{name}-playbooks"));
    playbooks(&folder, simulator, looks);
    let mut installation = Installation::broker(name, &folder, "default");
    installation.variable("ROUTING_ID", CLIENT);
    installation.variable("ROUTING_SECRET", CLIENT_SECRET);
    for stage in STAGES {
        for replica in 0..REPLICAS {
            installation.spawn(stage, replica);
        }
    }
    installation.wait_ready();
    installation
}

async fn until(installation: &Installation, what: &str, holds: impl Fn() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: did not come about\n{}", installation.logs());
        clock::sleep(Duration::from_millis(50)).await;
    }
}

/// Three failures of each entity, which has its group enabled.
async fn fail(installation: &Installation, entities: &[String]) {
    let sender = Sender::new(installation.gateways(), SUBSCRIPTION);
    for (entity, number) in entities.iter().flat_map(|entity| (0..3).map(move |number| (entity, number))) {
        let id = format!("{entity}-{number}");
        sender.deliver(&event(&id, entity, "FAILED", clock::wall_ms())).await;
    }
}

fn entities(simulator: &Simulator, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|number| format!("gw-{number}")).collect();
    names.iter().for_each(|name| drop(found_group(simulator, name)));
    names
}

fn enabled(simulator: &Simulator, entities: &[String]) -> usize {
    entities.iter().filter(|entity| simulator.group(entity)["enabled"] == true).count()
}

/// Calls of the API in the windows in which the platform counts them.
fn windows(calls: &[Call]) -> Vec<Vec<&Call>> {
    let mut windows: Vec<Vec<&Call>> = vec![];
    for call in calls.iter().filter(|call| call.path.starts_with("/api/")) {
        let begun_us = windows.last().and_then(|window| window.first()).map(|first| first.arrived_us);
        if begun_us.is_none_or(|us| Duration::from_micros(call.arrived_us - us) >= WINDOW) {
            windows.push(vec![]);
        }
        windows.last_mut().unwrap().push(call);
    }
    windows
}

/// The most calls of the API that arrived within so long.
fn fullest(calls: &[Call], within: Duration) -> usize {
    let arrived: Vec<u64> =
        calls.iter().filter(|call| call.path.starts_with("/api/")).map(|call| call.arrived_us).collect();
    let within_us = u64::try_from(within.as_micros()).unwrap();
    let of = |(first, at): (usize, &u64)| arrived[first..].partition_point(|later| later - at < within_us);
    arrived.iter().enumerate().map(of).max().unwrap_or(0)
}

fn is_poll(call: &Call) -> bool {
    !call.path.contains("/emergencygroups/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_polls_and_remedies_share_the_limits_and_a_part_is_kept_for_remedies() {
    let simulator = platform(Some(ALLOWED)).await;
    let trunk = simulator.object(Kind::TRUNK, TRUNK_PRIMARY);
    for number in 0..600 {
        let (mut trunk, id) = (trunk.clone(), format!("far-{number}"));
        trunk["id"] = json!(id);
        simulator.add(Kind::TRUNK, &id, trunk).unwrap();
    }
    // Seven pages a look: twice as much as there may be of all calls.
    let installation = installed("pulls", &simulator, 8);
    until(&installation, "polls want more than they may", || windows(&simulator.calls()).len() > 3).await;
    let entities = entities(&simulator, 30);
    let began = clock::now();
    fail(&installation, &entities).await;
    until(&installation, "every remedy", || enabled(&simulator, &entities) == entities.len()).await;
    let took = began.elapsed();
    let calls = simulator.calls();
    let windows = windows(&calls);
    let polls: Vec<usize> =
        windows.iter().map(|window| window.iter().filter(|call| is_poll(call)).count()).collect();
    let all: Vec<usize> = windows.iter().map(Vec::len).collect();
    eprintln!("remedies took {took:?}; calls by window {all:?}, of them polls {polls:?}");
    for most_ms in [1_100, 1_000, 900, 800] {
        eprintln!("{} in the fullest {most_ms} ms", fullest(&calls, Duration::from_millis(most_ms)));
    }
    assert!(fullest(&calls, SECOND_LESS_WAYS) <= CALLS_PER_SECOND);
    assert!(calls.iter().all(|call| call.status != Some(429)), "a limit was exceeded");
    assert!(polls.iter().all(|polls| *polls <= OTHERS), "polls touched what is kept for remedies: {polls:?}");
    // Two calls each, of which 20 are kept in a period of 5 s.
    assert!(took < Duration::from_secs(30), "polls starved the remedies: {took:?}");
    let metrics: Vec<String> =
        (0..REPLICAS).map(|gateway| installation.admin("gateway", gateway, "/metrics")).collect();
    for metrics in &metrics {
        assert!(!metrics.contains("result=\"failed\""), "a wait was taken for a failure: {metrics}");
    }
    assert!(metrics.iter().any(|metrics| metrics.contains("what=\"turn\"")), "polls never had to wait");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_one_answer_429_quiets_every_replica_and_no_source_is_lost() {
    const QUIET_S: u64 = 4;
    let simulator = platform(None).await;
    let installation = installed("pulls-quiet", &simulator, 1);
    let called = |path: &str| {
        simulator.calls().into_iter().filter(|call| call.path.starts_with(path)).collect::<Vec<_>>()
    };
    until(&installation, "everything is looked at", || called(TRUNKS).len() > 2 && called(PAGE).len() > 4)
        .await;
    let throttled = Outcome::Status { status: 429, retry_after_s: Some(QUIET_S) };
    for path in [TRUNKS, PAGE] {
        simulator.fault(Fault::new(path, throttled.clone()).times(1));
    }
    let refused = |path: &str| called(path).iter().any(|call| call.status == Some(429));
    until(&installation, "both have answered 429", || refused(TRUNKS) && refused(PAGE)).await;
    // A remedy by the same client, in the quiet.
    let entities = entities(&simulator, 3);
    fail(&installation, &entities).await;
    assert_eq!(enabled(&simulator, &entities), 0);
    for path in ["/api/", PAGE] {
        let quiet = || {
            let calls = called(path);
            let at = calls.iter().position(|call| call.status == Some(429))?;
            // What had its turn before the answer was known has left within a moment.
            let next = calls[at..].iter().find(|call| call.arrived_us > calls[at].arrived_us + 300_000)?;
            Some(Duration::from_micros(next.arrived_us - calls[at].arrived_us))
        };
        until(&installation, "it is called again", || quiet().is_some()).await;
        let quiet = quiet().unwrap();
        eprintln!("{path} was left alone for {quiet:?}");
        assert!(quiet >= Duration::from_secs(QUIET_S), "{path} was called again after {quiet:?}");
    }
    until(&installation, "every remedy", || enabled(&simulator, &entities) == entities.len()).await;
    assert_eq!(simulator.sockets(), 1, "the channel is open");
    for gateway in 0..REPLICAS {
        assert!(installation.admin("gateway", gateway, "/readyz").contains("\r\n\r\nready"));
        let metrics = installation.admin("gateway", gateway, "/metrics");
        for lost in ["holdline_reconnects", "result=\"failed\""] {
            assert!(!metrics.contains(lost), "a source counts as lost: {metrics}");
        }
    }
    installation.conserved();
}
