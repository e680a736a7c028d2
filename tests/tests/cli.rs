//! What a person types, against the real programs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, clippy::panic)]

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{
    Installation, Running, STAGES, changed_sample, command, conserved, ended, holdline, sample, scratch,
};
use holdline_tests::secrecy::told_in;
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::Value;

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    })
}

/// What the target takes for each answer. Milliseconds.
const TARGET_TAKES_MS: i64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x5_incidents_replay_and_why_not_answer_from_the_logs() {
    let target = Target::start().await;
    let playbooks = scratch("cli-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    let mut installation = Installation::start("cli", &playbooks, 1, "always");
    target.slow(Duration::from_millis(TARGET_TAKES_MS.unsigned_abs()));
    let sender = Sender::new(installation.gateways(), "telephony");
    let now = clock::wall_ms();
    let mut ids = vec![];
    for (n, status) in ["FAILED", "FAILED", "FAILED", "HEALTHY", "HEALTHY", "UNKNOWN"].iter().enumerate() {
        let at = now + i64::try_from(n).unwrap() * 1_000;
        let (code, answer) =
            sender.post(event(&format!("e{n}"), "gw-1", status, at).to_string().as_bytes()).await.unwrap();
        assert_eq!(code, 200, "{answer}");
        ids.push(answer["ids"][0].as_str().unwrap().to_string());
    }
    // Twice, late, without an entity, without a status.
    sender.post(event("e0", "gw-1", "FAILED", now).to_string().as_bytes()).await.unwrap();
    sender.post(event("late", "gw-1", "FAILED", now - 1).to_string().as_bytes()).await.unwrap();
    let bare = |id: &str, data: &str| {
        format!(r#"{{"id": "{id}", "topicName": "telephony.service.status", "data": {data}}}"#)
    };
    sender.post(bare("no-entity", r#"{"status": "FAILED"}"#).as_bytes()).await.unwrap();
    sender.post(bare("no-status", r#"{"gatewayId": "gw-1"}"#).as_bytes()).await.unwrap();
    let effects = target.wait_for(2, Duration::from_secs(20)).await;
    assert_eq!(effects.len(), 2);
    clock::sleep(Duration::from_millis(500)).await;

    let listed = json(&installation.holdline(&["incidents", "--all", "--output", "json"]));
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let incident = listed[0]["incidentId"].as_str().unwrap();
    let shown = json(&installation.holdline(&["incident", incident, "--output", "json"]));
    for (key, expected) in [
        ("entityId", Value::from("gw-1")),
        ("currentState", "RESOLVED".into()),
        ("consecutiveFailures", 3.into()),
        ("threshold", 3.into()),
    ] {
        assert_eq!(shown[key], expected, "{shown}");
    }
    assert!(shown["lastEventTimestamp"].as_str().unwrap().ends_with('Z'));
    let explained = installation.holdline(&["incident", incident, "explain"]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    for part in
        ["reports FAILED", "This is real", "Acting: remediate", "It is over", "Undoing: revert", "closed"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    // E8: of each call it is told how long it took and whose the time was; the executor's metrics have the same.
    let told = json(&installation.holdline(&["incident", incident, "explain", "--output", "json"]));
    let shares: Vec<&Value> = told["decisions"].as_array().unwrap().iter().map(|d| &d["latencyMs"]).collect();
    let shares: Vec<&&Value> = shares.iter().filter(|shares| shares.is_object()).collect();
    assert_eq!(shares.len(), 2, "{told:#}");
    for shares in &shares {
        let ms = |name: &str| shares[name].as_i64().unwrap_or_else(|| panic!("{name}: {shares}"));
        assert!(ms("target") >= TARGET_TAKES_MS && ms("target") < ms("allowed"), "{shares}");
    }
    // The remedy waited for nothing; the end of the trouble was told while it was under way.
    let first = shares[0];
    assert_eq!(
        [&first["gateway"], &first["lineup"], &first["allowed"]],
        [&Value::from(0), &Value::from(0), &Value::from(60_000)]
    );
    assert!(shares[1]["lineup"].as_i64().unwrap() > 0, "{:?}", shares[1]);
    assert!(text.contains("the call had to leave within 60 s; ") && text.contains("target 1"), "{text}");
    let metrics = installation.admin("executor", 0, "/metrics");
    for share in ["gateway", "classifier", "lineup", "debouncer", "executor", "target"] {
        let counted = metrics.lines().find(|line| {
            line.starts_with("holdline_action_latency_ms_count{")
                && line.contains(&format!("share=\"{share}\""))
        });
        assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{share}: {metrics}");
    }
    let replayed = json(&installation.holdline(&["incident", incident, "replay", "--output", "json"]));
    assert_eq!(replayed["same"], true, "{replayed}");
    assert!(replayed["inputs"].as_u64().unwrap() >= 5);

    for (id, part) in [
        ("e1", "counted into incident"),
        (ids[2].as_str(), "counted into incident"),
        ("e5", "neither failed nor degraded nor healthy"),
        ("late", "stale"),
        ("no-entity", "no data.gatewayId"),
        ("no-status", "no data.status"),
    ] {
        let told = json(&installation.holdline(&["why-not", id, "--output", "json"]));
        assert!(told[0]["sentence"].as_str().unwrap().contains(part), "{id}: {told}");
    }
    let twice = json(&installation.holdline(&["why-not", "e0", "--output", "json"]));
    let sentences: Vec<&str> =
        twice.as_array().unwrap().iter().map(|t| t["sentence"].as_str().unwrap()).collect();
    assert!(sentences[0].contains("counted") && sentences[1].contains("duplicate"), "{sentences:?}");
    assert_eq!(installation.holdline(&["why-not", "nothing"]).status.code(), Some(1));
    assert_eq!(installation.holdline(&["incident", "nothing"]).status.code(), Some(1));

    // `send` signs as the sender would.
    let file = playbooks.join("event.json");
    std::fs::write(&file, event("sent", "gw-2", "FAILED", now).to_string()).unwrap();
    let gateway = format!("http://{}", installation.gateways()[0]);
    let send = |file: &Path, secret: &str| {
        ended(
            command("holdline")
                .args(["send", file.to_str().unwrap(), "--playbooks", playbooks.to_str().unwrap()])
                .args(["--gateway", &gateway, "--output", "json"])
                .env("HOLDLINE_TELEPHONY_SECRET", secret),
        )
    };
    assert_eq!(json(&send(&file, holdline_tests::sender::SECRET))["status"], 200);
    let refused = send(&file, "another");
    assert_eq!((json(&refused)["status"].clone(), refused.status.code()), (401.into(), Some(1)));

    // Provisioning again changes nothing, and another number of partitions is refused.
    let again = json(&installation.holdline(&["provision", "--output", "json"]));
    assert_eq!(again["changes"], Value::Array(vec![]));
    let more = installation.holdline(&["provision", "--partitions", "8"]);
    assert_eq!(more.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&more.stderr).contains("migration"));
    let table = installation.holdline(&["provision", "--diff"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("hl.event.*") && table.contains("written by gateway, dlq-replayer"), "{table}");
    installation.conserved();
    // SIGTERM drains every service.
    for stage in STAGES {
        installation.service(stage, 0).signal("TERM");
        assert_eq!(installation.service(stage, 0).wait(Duration::from_secs(20)), Some(0), "{stage}");
    }
}

#[test]
fn check_and_usage() {
    let check = |arguments: &[&str], code, part: &str| {
        let output = holdline(arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {part:?} in {text}");
    };
    check(&["--version"], 0, "holdline 0.1.0");
    check(&["--help"], 0, "Autonomous incident response");
    check(&["nonsense"], 2, "unrecognized subcommand");
    check(&[], 2, "Usage");
    let (guide, the_loop) = (sample("guide"), sample("loop"));
    check(&["check", the_loop.to_str().unwrap()], 0, "good: 1 playbook(s)");
    check(&["check", guide.to_str().unwrap()], 0, "a secret is written in place");
    check(&["check", guide.to_str().unwrap(), "--strict"], 1, "refused under --strict");
    check(
        &["check", guide.to_str().unwrap(), "--explain"],
        0,
        "not later than 60 s after the deciding event",
    );
    check(&["check", "/nowhere"], 1, "is no folder");
    check(&["incidents", "--data", "/nowhere"], 1, "holds no installation");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../playbooks");
    check(&["check", own.to_str().unwrap(), "--strict"], 0, "good: 1 playbook(s)");
    let broken = scratch("cli-broken");
    changed_sample("loop", &broken, |name, text| match name {
        "loop.playbook.yaml" => text.replace("stable_for", "stable_fro"),
        _ => text,
    });
    check(&["check", broken.to_str().unwrap()], 1, "did you mean `stable_for`?");
    check(&["check", broken.to_str().unwrap(), "--output", "json"], 1, "\"line\": 11");
}

/// Every service: help, version, and exit codes that a supervisor can act on.
#[test]
fn services_have_one_surface() {
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        let run = |arguments: &[&str], variables: &[(&str, &str)]| {
            let name = format!("holdline-{stage}");
            let output = command(&name).args(arguments).envs(variables.iter().copied()).output().unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.code().unwrap(), text)
        };
        assert_eq!(run(&["--help"], &[]).0, 0, "{stage}");
        assert_eq!(run(&["--nonsense"], &[]).0, 2, "{stage}");
        let bad = [("HOLDLINE_ADMIN_LISTEN", "nowhere"), ("HOLDLINE_NATS_PREFIX", "Not OK")];
        let (code, text) = run(&[], &bad);
        assert_eq!(code, 64, "{stage}: {text}");
        assert!(
            text.contains("HOLDLINE_ADMIN_LISTEN") && text.contains("nats.prefix"),
            "all at once: {text}"
        );
        // A port on which nothing listens.
        let away = [
            ("HOLDLINE_NATS_URL", "nats://127.0.0.1:1"),
            ("HOLDLINE_NATS_PATIENCE_S", "1"),
            ("HOLDLINE_GATEWAY_LISTEN", "127.0.0.1:0"),
        ];
        let (code, text) = run(&[], &away);
        assert_eq!(code, 69, "{stage}: {text}");
    }
}

/// `up` from nothing: the demonstration reaches its failover and its revert, and everything is gone after it.
#[test]
fn up_demo_reaches_its_failover_and_its_revert() {
    let folder = scratch("demo");
    let output = ended(command("holdline").args(["up", "--demo", "--then-exit"]).current_dir(&folder));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "A blip; nothing was done",
        "This is real",
        "Acting: Switch_To_Backup",
        "a false recovery. Nothing is reverted",
        "It is over",
        "Undoing: Switch_To_Backup",
        "outbound calls now leave by the backup carrier, then the primary carrier",
        "outbound calls now leave by the primary carrier, then the backup carrier",
        "exactly once to go back",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let data = folder.join("holdline-data");
    assert!(!is_alive(&data), "nats-server goes with it");
    assert!(data.join("spool/installation").is_file(), "its gateway has a spool");
    // What is left is counted, too.
    let broker = command("holdline").arg("broker").arg("--data").arg(&data).stdout(Stdio::null()).spawn();
    let _broker = Running::of(broker.unwrap());
    wait_until("the broker is there again", || {
        let only = ["doctor", "--only", "conservation", "--output", "json", "--data", data.to_str().unwrap()];
        let told = serde_json::from_slice::<Value>(&holdline(&only).stdout);
        told.is_ok_and(|told| told["conservation"].is_object())
    });
    assert!(conserved(&data)["accepted"].as_u64().unwrap() > 10);
    assert_eq!(told_in(&data, &data.join("keys")), Vec::<String>::new(), "a secret shows");
}

/// The same against programs that were started apart.
#[test]
fn up_demo_plays_through_programs_that_were_started_apart() {
    let mut installation = Installation::broker("demo-apart", &sample("loop"), "always");
    installation.variable("HOLDLINE_DEMO_SECRET", "demo-secret-of-the-suite");
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let output = command("holdline")
        .args(["up", "--demo", "--then-exit", "--apart", "--nats", &installation.url()])
        .args(["--keys", installation.data.join("keys").to_str().unwrap()])
        .args(["--gateway", &installation.gateways()[0].to_string()])
        .env("HOLDLINE_DEMO_SECRET", "demo-secret-of-the-suite")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("exactly once to go back"), "{text}");
    installation.conserved();
}

fn nats_pid(data: &Path) -> Option<u32> {
    std::fs::read_to_string(data.join("nats/pid")).ok()?.trim().parse().ok()
}

fn is_alive(data: &Path) -> bool {
    nats_pid(data).is_some_and(|pid| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = clock::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The broker dies with its parent, and starts again on the same data; two programs never share a folder.
#[test]
fn the_broker_dies_with_its_parent_and_one_left_behind_is_ended() {
    let folder = scratch("broker");
    let data = folder.join("data");
    let start = || {
        let child = command("holdline")
            .args(["broker", "--data", data.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running::of(child);
        wait_until("nats-server starts", || {
            is_alive(&data)
                && holdline(&["provision", "--diff", "--data", data.to_str().unwrap()]).status.success()
        });
        running
    };
    let mut first = start();
    let pid = nats_pid(&data).unwrap();
    let second = holdline(&["broker", "--data", data.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another holdline"));
    first.kill();
    wait_until("nats-server dies with a killed parent", || !is_alive(&data));

    // One that was left behind all the same (here: started by hand) is ended at the next start.
    let binary = holdline_tests::programs::nats_server();
    let config = std::fs::canonicalize(data.join("nats/server.conf")).unwrap();
    let child = std::process::Command::new(binary)
        .args(["-c", config.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut left_behind = Running::of(child);
    wait_until("the one left behind runs", || nats_pid(&data) == Some(left_behind.id()) && is_alive(&data));
    let mut third = start();
    left_behind.wait(Duration::from_secs(10));
    assert_ne!(nats_pid(&data), Some(pid));

    // A killed nats-server is started again; SIGTERM ends both cleanly.
    let pid = nats_pid(&data).unwrap();
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    wait_until("nats-server is started again", || nats_pid(&data) != Some(pid) && is_alive(&data));
    third.signal("TERM");
    assert_eq!(third.wait(Duration::from_secs(20)), Some(0));
    assert!(!is_alive(&data));
}
