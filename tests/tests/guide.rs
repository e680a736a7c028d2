//! The published guide's own files, through the real services: its host is sent to a stub by `connect_to`,
//! its minutes are seconds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::sender::event;
use holdline_tests::target::Target;
use serde_json::{Value, json};

const SECRET: &str = "aGVsbG8gd29ybGQ=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_files_do_what_the_guide_says() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let target = Target::start().await;
    let playbooks = scratch("guide-playbooks");
    changed_sample("guide", &playbooks, |name, text| match name {
        "voice-gateway.playbook.yaml" => {
            text.replace("stable_for: 20s", "stable_for: 2s").replace("15m", "4s")
        }
        _ => text,
    });
    let settings =
        format!("targets:\n  - host: orchestrator.example.com\n    connect_to: {}\n", target.address);
    std::fs::write(playbooks.join("holdline.yaml"), settings).unwrap();
    let mut installation = Installation::broker("guide", &playbooks, "always");
    installation.variable("HOLDLINE_SECRET_INCIDENTRESPONSE_TELEPHONYSERVICE", SECRET);
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/genesys-webhook", installation.gateways()[0]);
    let mut number = 0;
    let mut post = |entity: &str, status: &str| {
        number += 1;
        let body = event(&format!("g{number}"), entity, status, clock::wall_ms());
        client.post(&url).basic_auth("anyone", Some(SECRET)).json(&body).send()
    };
    // gw-2's source has reported health before, gw-1's never does.
    assert_eq!(post("gw-2", "HEALTHY").await.unwrap().status(), 200);
    for _ in 0..6 {
        for entity in ["gw-1", "gw-2"] {
            assert_eq!(post(entity, "FAILED").await.unwrap().status(), 200);
        }
        clock::sleep(Duration::from_millis(500)).await;
    }
    let failed_over = target.wait_for(2, Duration::from_secs(20)).await;
    assert_eq!(failed_over.len(), 2);
    for call in &failed_over {
        assert_eq!((call.path.as_str(), call.host.as_str()), ("/failover-voice", "orchestrator.example.com"));
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["action"], "SWITCH_TO_BACKUP");
        assert!(call.request_id.starts_with('g') && !call.key.is_empty());
    }
    // Silence: gw-1 goes back; gw-2 used to report health and has gone quiet, so a person has to look.
    let effects = target.wait_for(3, Duration::from_secs(20)).await;
    assert_eq!(effects.len(), 3);
    let restored: Value = serde_json::from_str(&effects[2].body).unwrap();
    assert_eq!(restored, json!({"gatewayId": "gw-1", "action": "SWITCH_TO_PRIMARY"}));
    clock::sleep(Duration::from_secs(6)).await;
    assert_eq!(target.calls().len(), 3);
    let open = installation.holdline(&["incidents", "--output", "json"]);
    let open: Value = serde_json::from_slice(&open.stdout).unwrap();
    assert_eq!(open.as_array().unwrap().len(), 1, "{open}");
    assert_eq!(open[0]["entityId"], "gw-2");
    assert!(open[0]["held"].as_str().unwrap().contains("gone quiet"), "{open}");
    assert!(!installation.logs().contains(SECRET), "a secret was logged");
    installation.conserved();
}

/// E9, R1: a target that fails for a while is asked again, at most five times; one that refuses is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_transient_failures_are_retried_and_the_rest_is_parked() {
    let target = Target::start().await;
    let playbooks = scratch("retry-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    let installation = Installation::start("retry", &playbooks, 1, "always");
    let sender = holdline_tests::sender::Sender::new(installation.gateways(), "telephony");
    let fail_over = async |entity: &str| {
        let now = clock::wall_ms();
        for n in 0..3i64 {
            sender.deliver(&event(&format!("{entity}-{n}"), entity, "FAILED", now + n)).await;
        }
    };
    let held = |entity: &str| {
        let open = installation.holdline(&["incidents", "--output", "json"]);
        let open: Value = serde_json::from_slice(&open.stdout).unwrap();
        let found = open.as_array().unwrap().iter().find(|i| i["entityId"] == entity).cloned();
        found.map(|incident| incident["held"].as_str().unwrap_or_default().to_string()).unwrap_or_default()
    };
    // Two times 503, then 200: three calls with one key.
    target.fail(2, 503);
    fail_over("gw-a").await;
    assert_eq!(wait(&target, 3).await, 3);
    assert_eq!(target.effects().len(), 1);
    clock::sleep(Duration::from_millis(500)).await;
    assert_eq!(held("gw-a"), "");
    // 404 is final: one call, and a person is told.
    target.fail(1, 404);
    fail_over("gw-b").await;
    assert_eq!(wait(&target, 4).await, 4);
    clock::sleep(Duration::from_secs(1)).await;
    assert!(held("gw-b").contains("answered 404"), "{}", held("gw-b"));
    // 500 for ever: five calls, no more.
    target.fail(100, 500);
    fail_over("gw-c").await;
    assert_eq!(wait(&target, 9).await, 9);
    clock::sleep(Duration::from_secs(6)).await;
    assert_eq!(target.calls().len(), 9);
    assert!(held("gw-c").contains("5 attempts"), "{}", held("gw-c"));
    installation.conserved();
}

async fn wait(target: &Target, calls: usize) -> usize {
    for _ in 0..1_000 {
        if target.calls().len() >= calls {
            break;
        }
        clock::sleep(Duration::from_millis(20)).await;
    }
    target.calls().len()
}
