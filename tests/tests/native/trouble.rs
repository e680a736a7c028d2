//! An API, a token endpoint and answers in every kind of trouble.

use futures_util::TryStreamExt;
use holdline_decide::native::InForce;
use holdline_proto::topology::{Bucket, Topology};
use holdline_proto::wire;

use super::*;

/// A call whose answer is lost, an executor that dies in the middle: looked at, never repeated blind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e9_a_lost_answer_is_reconciled_by_looking() {
    let mut world = World::start("native-lost", Options::default(), &[group()]).await;
    let before = content(world.group());
    let put = |outcome| Fault::new("/api/v2/architect/emergencygroups", outcome).method("PUT").times(1);
    world.simulator.fault(put(Outcome::CloseMidBody));
    world.fails("group").await;
    world.until_enabled(true).await;
    // It hangs after it was carried out, and the executor is killed meanwhile.
    let began = clock::now();
    while world.incidents()[0]["currentState"] != "REMEDIATING" {
        assert!(began.elapsed() < SOON, "{:#}", world.incidents());
        clock::sleep(Duration::from_millis(50)).await;
    }
    world.simulator.fault(put(Outcome::Hang).applied());
    world.recovers("group").await;
    world.until_enabled(false).await;
    world.installation.kill("executor", 0);
    world.installation.spawn("executor", 0);
    world.until_over().await;
    assert_eq!(content(world.group()), before);
    assert_eq!(world.writes("emergencygroups").len(), 2, "{:?}", world.writes("emergencygroups"));
    world.ends_well();
}

/// Tokens are throttled for longer than five attempts last: that is no failure, and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_throttled_token_endpoint_spends_no_attempt() {
    let pager = Target::start().await;
    let world = World::start_with("native-throttled", Options::default(), &[group()], Some(&pager)).await;
    let throttled = Outcome::Status { status: 429, retry_after_s: None };
    world.simulator.fault(Fault::new("/oauth/token", throttled));
    world.fails("group").await;
    clock::sleep(Duration::from_secs(15)).await;
    let asked = world.writes("/oauth/token").len();
    assert!((3..12).contains(&asked), "{asked} times in 15 s");
    assert_eq!(world.incidents()[0]["held"], Value::Null);
    assert!(world.installation.admin("executor", 0, "/metrics").contains("what=\"token\""));
    world.simulator.clear_faults();
    world.until_enabled(true).await;
    assert_eq!(pager.calls().len(), 0);
    let letters = world.installation.holdline(&["dlq", "list", "--output", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&letters.stdout).unwrap(), json!([]));
    world.recovers("group").await;
    world.until_over().await;
    world.ends_well();
}

/// The API refuses for a while in every way there is: no wrong answer, no storm, and it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_an_api_in_trouble_is_asked_again_with_patience() {
    let world = World::start("native-trouble", Options::default(), &[group()]).await;
    let before = content(world.group());
    let api = "/api/v2/architect";
    let status = |status, retry_after_s| Outcome::Status { status, retry_after_s };
    let faults = [
        Fault::new(api, status(500, None)).times(2),
        Fault::new(api, status(503, None)).method("PUT").times(1),
        Fault::new(api, status(429, Some(1))).times(1),
        Fault::new(api, status(429, None)).times(1),
        Fault::new(api, Outcome::CloseMidBody).method("GET").times(1),
        Fault::new("/oauth/token", status(503, None)).times(2),
        Fault::new("/oauth/token", status(429, None)).times(2),
    ];
    for fault in faults {
        let what = format!("{fault:?}");
        world.simulator.revoke_tokens();
        world.simulator.forget_calls();
        world.simulator.fault(fault);
        world.fails("group").await;
        world.until(Kind::EMERGENCY_GROUP, GROUP_EVACUATION, &what, |group| group["enabled"] == true).await;
        world.recovers("group").await;
        world.until_enabled(false).await;
        world.until_over().await;
        world.simulator.clear_faults();
        let calls = world.simulator.calls().len();
        assert!(calls < 40, "{what}: {calls} calls");
        assert_eq!(content(world.group()), before, "{what}");
    }
    world.ends_well();
}

/// Nobody gets a token for a minute: no storm, no wrong answer, and it goes on by itself, out of the dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f8_e5_the_token_endpoint_is_down_for_a_minute() {
    let mut world = World::start("native-minute", Options::default(), &[group()]).await;
    world.installation.spawn_with("dlq-replayer", 0, &[("HOLDLINE_REPLAYER_TIERS_S", "30,30,30")]);
    world.installation.wait_ready();
    let before = content(world.group());
    for (done, round) in [(true, "in doing"), (false, "in undoing")] {
        world.simulator.fault(Fault::status("/oauth/token", 503));
        world.simulator.revoke_tokens();
        world.simulator.forget_calls();
        if done {
            world.fails("group").await;
        } else {
            world.recovers("group").await;
        }
        clock::sleep(Duration::from_secs(60)).await;
        let calls = world.simulator.calls().len();
        assert_eq!(world.writes("emergencygroups").len(), 0, "{round}");
        assert!((2..120).contains(&calls), "{round}: {calls} calls in a minute");
        assert_eq!(world.group()["enabled"] == true, !done, "{round}");
        world.simulator.clear_faults();
        world.until_enabled(done).await;
    }
    world.until_over().await;
    assert_eq!(content(world.group()), before);
    world.ends_well();
}

/// Calls that are never answered and never carried out are given up in time, tokens are replaced before they expire,
/// and one that is revoked in the middle of an action is replaced there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f7_f8_calls_that_hang_are_given_up_and_tokens_are_replaced_in_time() {
    const LIFETIME: Duration = Duration::from_secs(8);
    let row = json!({"table": TABLE, "key": ROWS[0], "values": {"destination": "{{data.gatewayId}}"}});
    let edge = action("edge", "edge.out_of_service", json!({"edge": EDGE_MAIN, "drain_s": 1}));
    let actions = [group(), action("row", "datatable_row.set", row), Action { client: "telephony", ..edge }];
    let options = Options { token_lifetime: LIFETIME, ..Options::default() };
    let world = World::start("native-hangs", options, &actions).await;
    let row = format!("{TABLE}/{}", ROWS[0]);
    let objects =
        [(Kind::EMERGENCY_GROUP, GROUP_EVACUATION), (Kind::DATA_TABLE_ROW, &row), (Kind::EDGE, EDGE_MAIN)];
    let before = objects.map(|(kind, key)| content(world.simulator.object(kind, key)));
    // A token that is used all the time is replaced while it is good: the platform says a second less than it lives.
    let fetched_us = || {
        let calls = world.simulator.calls().into_iter().filter(|call| call.path == "/oauth/token");
        calls.map(|call| call.arrived_us).collect::<Vec<_>>()
    };
    let said_us = u64::try_from(LIFETIME.as_micros()).unwrap() - 1_000_000;
    let (began, mut round) = (clock::now(), 0);
    while !fetched_us().windows(2).any(|pair| pair[1] - pair[0] < said_us) {
        assert!(began.elapsed() < SOON, "{:?}", fetched_us());
        // One entity all the time would flap.
        let entity = format!("gw-round-{round}");
        round += 1;
        world.report("group", &entity, "FAILED", 3).await;
        world.until_enabled(true).await;
        world.report("group", &entity, "HEALTHY", 2).await;
        world.until_enabled(false).await;
        world.until_over().await;
    }
    let refused = || world.simulator.calls().iter().filter(|call| call.status == Some(401)).count();
    assert_eq!(refused(), 0, "a token had expired");
    world.simulator.forget_calls();
    // A write, a look and a token, each for an entity of its own.
    for (method, path) in
        [("PUT", "/api/v2/architect"), ("GET", "/api/v2/flows/datatables"), ("POST", "/oauth/token")]
    {
        world.simulator.fault(Fault::new(path, Outcome::Hang).method(method).times(1));
    }
    for (action, entity) in [("edge", "gw-3"), ("group", "gw-1"), ("row", "gw-2")] {
        world.report(action, entity, "FAILED", 3).await;
    }
    let hangs = || world.simulator.calls().into_iter().filter(|call| call.status.is_none()).count();
    let began = clock::now();
    while hangs() < 3 {
        assert!(began.elapsed() < SOON, "{:?}", world.simulator.calls());
        clock::sleep(Duration::from_millis(20)).await;
    }
    let untouched = objects.map(|(kind, key)| content(world.simulator.object(kind, key)));
    assert_eq!(untouched, before, "what hangs was not carried out");
    world.until_enabled(true).await;
    world.until(Kind::DATA_TABLE_ROW, &row, "the row", |row| row["destination"] == "gw-2").await;
    world.until(Kind::EDGE, EDGE_MAIN, "the edge", |edge| edge["statusCode"] == "INACTIVE").await;
    let log = world.installation.log_of("executor", 0);
    assert!(log.matches("timed out").count() >= 3, "{log}");
    assert_eq!(hangs(), 3, "{:?}", world.simulator.calls());
    for path in ["emergencygroups", "/rows/", "/statuscode"] {
        let writes = world.writes(path);
        let done = writes.iter().filter(|call| call.ends_with("Some(200)")).count();
        assert_eq!((done, writes.len()), (1, 1 + usize::from(path == "emergencygroups")), "{writes:?}");
    }
    for (action, entity) in [("edge", "gw-3"), ("group", "gw-1"), ("row", "gw-2")] {
        world.report(action, entity, "HEALTHY", 2).await;
    }
    for ((kind, key), before) in objects.into_iter().zip(&before) {
        world.until(kind, key, "undone", |object| content(object.clone()) == *before).await;
    }
    world.until_over().await;
    assert_eq!(refused(), 0, "a token had expired");

    // The token of the look is not that of the write.
    world.simulator.forget_calls();
    let slow = Outcome::Delay { delay_ms: 1_000 };
    world.simulator.fault(Fault::new("/api/v2/architect", slow).method("GET").times(1));
    world.fails("group").await;
    let began = clock::now();
    while !world.simulator.calls().iter().any(|call| call.method == "GET") {
        assert!(began.elapsed() < SOON);
        clock::sleep(Duration::from_millis(20)).await;
    }
    world.simulator.revoke_tokens();
    world.until_enabled(true).await;
    let calls = world.simulator.calls();
    let told: Vec<(&str, Option<u16>)> = calls
        .iter()
        .filter(|call| call.path.starts_with("/api/v2/architect"))
        .map(|call| (call.method.as_str(), call.status))
        .collect();
    // It begins again, in a turn of its own.
    let [ok, refused] = [Some(200), Some(401)];
    assert!(told.starts_with(&[("GET", ok), ("PUT", refused), ("GET", ok), ("PUT", ok)]), "{told:?}");
    world.recovers("group").await;
    world.until_enabled(false).await;
    world.until_over().await;
    assert_eq!(content(world.group()), before[0]);
    world.ends_well();
}

/// A7: a token is revoked between look and write, and the next takes its time: a pause that was confirmed meanwhile holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_late_token_lets_no_call_leave_after_a_pause() {
    let world = World::start("native-late-token", Options::default(), &[group()]).await;
    let slow = |delay_ms| Outcome::Delay { delay_ms };
    world.simulator.fault(Fault::new("/api/v2/architect", slow(1_000)).method("GET").times(1));
    world.fails("group").await;
    let asked = |method: &str| world.simulator.calls().iter().any(|call| call.method == method);
    let began = clock::now();
    while !asked("GET") {
        assert!(began.elapsed() < SOON);
        clock::sleep(Duration::from_millis(20)).await;
    }
    world.simulator.fault(Fault::new("/oauth/token", slow(6_000)));
    world.simulator.revoke_tokens();
    while !asked("PUT") {
        assert!(began.elapsed() < SOON);
        clock::sleep(Duration::from_millis(5)).await;
    }
    let paused = ["pause", "--reason", "maintenance", "--by", "ada", "--for", "10m"];
    assert!(world.installation.holdline(&paused).status.success());
    let carried = |calls: &[String]| calls.iter().filter(|call| call.ends_with("Some(200)")).count();
    assert_eq!(carried(&world.writes("emergencygroups")), 0, "it had left before");
    // Long enough for the token, and for whoever waits for it.
    clock::sleep(Duration::from_secs(10)).await;
    assert_eq!(carried(&world.writes("emergencygroups")), 0, "it left after the confirmation");
    assert!(world.installation.holdline(&["resume"]).status.success());
    world.until_enabled(true).await;
    world.recovers("group").await;
    world.until_over().await;
    world.ends_well();
}

/// Ten commands need a token at once: it is fetched once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_serves_everybody_who_waits() {
    let one = action(
        "row",
        "datatable_row.set",
        json!({"table": TABLE, "key": ROWS[1], "values": {"destination": "{{data.gatewayId}}"}}),
    );
    let world = World::start("native-token", Options::default(), &[one]).await;
    let entities: Vec<String> = (0..10).map(|n| format!("gw-{n}")).collect();
    futures_util::future::join_all(entities.iter().map(|entity| world.report("row", entity, "FAILED", 3)))
        .await;
    let began = clock::now();
    while world.writes("/rows/").len() < 10 {
        assert!(began.elapsed() < SOON, "{:?}", world.writes("/rows/"));
        clock::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.writes("/oauth/token").len(), 1);
    world.ends_well();
}

/// A remedy that has kept what was there and never called: once that is certain, nobody takes its change for ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_what_was_begun_and_never_called_is_forgotten_with_its_deadline() {
    let mut world = World::start("native-forgotten", Options::default(), &[group()]).await;
    let soon = playbooks("native-forgotten-soon", &world.simulator, &[group()]);
    let file = soon.join("group.playbook.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("deadline: 60s", "deadline: 4s")).unwrap();
    world.installation.push(&soon);
    let began = clock::now();
    while ["classifier", "debouncer"]
        .iter()
        .any(|stage| world.installation.log_of(stage, 0).matches("is in force").count() < 2)
    {
        assert!(began.elapsed() < SOON, "{}", world.installation.logs());
        clock::sleep(Duration::from_millis(50)).await;
    }
    world.installation.kill("executor", 0);
    world.installation.spawn_with("executor", 0, &[("HOLDLINE_CRASH_AT", "PreImageKept")]);
    world.installation.wait_ready();
    world.fails("group").await;
    assert_eq!(world.installation.service("executor", 0).wait(SOON), None, "it is aborted");
    assert_eq!(begun(&world.installation).await, 1, "it has kept what was there");
    let paused = world.installation.holdline(&["pause", "--reason", "works", "--for", "10m"]);
    assert!(paused.status.success(), "{paused:?}");
    world.installation.spawn("executor", 0);
    let began = clock::now();
    while begun(&world.installation).await > 0 {
        assert!(began.elapsed() < SOON, "{}", world.installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.writes(GROUP_EVACUATION), [""; 0]);
    let resumed = world.installation.holdline(&["resume"]);
    assert!(resumed.status.success(), "{resumed:?}");
    world.until_enabled(true).await;
    world.recovers("group").await;
    world.until_enabled(false).await;
    world.until_over().await;
    world.ends_well();
}

/// Remedies that may have been begun, of all changes.
async fn begun(installation: &Installation) -> usize {
    let broker = async_nats::jetstream::new(installation.client("operator").await);
    let topology = Topology::default();
    let kept = broker.get_stream(topology.bucket_stream(Bucket::Intents)).await.unwrap();
    let every = kept.info_builder().subjects(topology.entry(Bucket::Intents, ">")).fetch().await.unwrap();
    let every: Vec<(String, usize)> = every.try_collect().await.unwrap();
    let mut begun = 0;
    for (entry, _) in every {
        let Ok(stored) = kept.get_last_raw_message_by_subject(&entry).await else { continue };
        begun += wire::decode::<InForce>(&stored.payload).map_or(0, |known| known.begun.len());
    }
    begun
}
