//! G5, G9: every source that arrives by HTTP, with its own proof of origin, through the real services.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, command, scratch};
use holdline_tests::target::Target;
use serde_json::{Value, json};
use sha2::Sha256;

const TOKEN: &str = "a-secret-address-of-the-suite";
const KEY: &str = "a-secret-key-of-the-suite";
const OLD: &str = "what-the-secret-was-before";

const TRUNKS: &str = "v2.telephony.providers.edges.trunks.{id}";
const EDGES: &str = "v2.telephony.providers.edges.{id}";
const METRICS: &str = "v2.telephony.providers.edges.{id}.metrics";
const OPERATIONS: &str = "v2.operations.events.{id}";

/// `poll.every` of the page that is asked often.
const OFTEN_MS: i64 = 2_000;

const SETTLE_MAX: Duration = Duration::from_secs(30);

fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/genesys").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A subscription with a playbook of its own: three failures, or an hour, before anything is done.
fn listen(folder: &Path, target: &Target, name: &str, failed: &str, subscription: Value) {
    let write = |path: String, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let stable_for = if subscription["reports"] == "repeats" || subscription["source"] == "cloudevents" {
        "0s"
    } else {
        "1h"
    };
    let mut subscription = subscription;
    subscription["name"] = name.into();
    subscription["secretToken"] = match subscription["authType"].as_str() {
        Some("PATH_TOKEN") => json!(["env:TOKEN_BEFORE", "env:TOKEN"]),
        Some("STANDARD_WEBHOOKS") => json!(["env:WHSEC_BEFORE", "env:WHSEC"]),
        _ => json!(["env:KEY_BEFORE", "env:KEY"]),
    };
    write(format!("subscriptions/{name}.json"), subscription.to_string());
    for direction in ["remediate", "revert"] {
        let action = json!({"name": format!("{name}_{direction}"), "actionType": "WEBHOOK", "method": "POST",
            "url": format!("http://{}/{direction}/{name}/{{{{data.entity}}}}", target.address)});
        write(format!("actions/{name}_{direction}.json"), action.to_string());
    }
    write(
        format!("{name}.playbook.yaml"),
        format!(
            "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.entity\n  failed: {failed}\n  \
             healthy: status == 'HEALTHY'\nconfirm:\n  failures: 3\n  stable_for: {stable_for}\nact:\n  failed:\n    \
             do: [{name}_remediate]\n    class: failover\nrevert:\n  do: [{name}_revert]\n"
        ),
    );
}

fn installed(name: &str, folder: &Path, gateways: usize) -> Installation {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut installation = Installation::broker(name, folder, "default");
    for (variable, secret) in [("TOKEN", TOKEN), ("KEY", KEY), ("TOKEN_BEFORE", OLD), ("KEY_BEFORE", OLD)] {
        installation.variable(variable, secret);
    }
    installation.variable("WHSEC", &format!("whsec_{}", STANDARD.encode(KEY)));
    installation.variable("WHSEC_BEFORE", &format!("whsec_{}", STANDARD.encode(OLD)));
    for stage in STAGES {
        for replica in 0..if stage == "gateway" { gateways } else { 1 } {
            installation.spawn(stage, replica);
        }
    }
    installation.wait_ready();
    installation
}

fn mac(key: &str, content: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    content.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// How a request proves where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Proof {
    Hmac,
    StandardWebhooks,
    Hub,
    PathToken,
    Basic,
}

async fn post(installation: &Installation, to: &str, proof: Proof, key: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = body.to_string().into_bytes();
    let now = (clock::wall_ms() / 1_000).to_string();
    let token = if proof == Proof::PathToken { format!("/{key}") } else { String::new() };
    let request = client.post(format!("http://{}/v1/events/{to}{token}", installation.gateways()[0]));
    let request = match proof {
        Proof::Hmac => request
            .header("X-PureCloud-Signature", hex::encode(mac(key, &[now.as_bytes(), b".", &body])))
            .header("X-PureCloud-Timestamp", now),
        Proof::StandardWebhooks => {
            let id = format!("msg_{}", hex::encode(&mac("id", &[&body])[..8]));
            let signature = mac(key, &[id.as_bytes(), b".", now.as_bytes(), b".", &body]);
            request
                .header("webhook-signature", format!("v1,AAAA v1,{}", STANDARD.encode(signature)))
                .header("webhook-id", id)
                .header("webhook-timestamp", now)
        }
        Proof::Hub => {
            request.header("X-Hub-Signature-256", format!("sha256={}", STANDARD.encode(mac(key, &[&body]))))
        }
        Proof::PathToken => request,
        Proof::Basic => request.basic_auth("anyone", Some(key)),
    };
    let response = request.header("Content-Type", "application/json").body(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

fn json_of(installation: &Installation, arguments: &[&str]) -> Value {
    let output = installation.holdline(&[arguments, &["--output", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// What became of an event, once it has been decided: each of its acceptances, in words.
async fn became(installation: &Installation, event: &str) -> Vec<String> {
    let began = clock::now();
    loop {
        let told = json_of(installation, &["why-not", event]);
        let told = told.as_array().cloned().unwrap_or_default();
        if !told.is_empty() && told.iter().all(|one| !one["disposition"].is_null()) {
            return told.iter().map(|one| one["sentence"].as_str().unwrap().to_string()).collect();
        }
        assert!(began.elapsed() < SETTLE_MAX, "{event}: {told:?}");
        clock::sleep(Duration::from_millis(200)).await;
    }
}

/// The one open incident of an entity.
fn incident(installation: &Installation, playbook: &str) -> Value {
    let open = json_of(installation, &["incidents", "--all"]);
    let of: Vec<&Value> = open.as_array().unwrap().iter().filter(|i| i["playbook"] == playbook).collect();
    assert_eq!(of.len(), 1, "{playbook}: {open:#}");
    of[0].clone()
}

fn cloudevent(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/sbc", "type": "com.example.sbc", "subject": "sbc-1",
        "time": "2026-11-23T10:00:00Z", "data": {"status": "FAILED"}})
}

fn alerts() -> Value {
    json!({"version": "4", "groupKey": "{}", "receiver": "holdline", "alerts": [
        {"status": "firing", "fingerprint": "c0ffee", "startsAt": "2026-11-23T10:00:00Z",
         "endsAt": "0001-01-01T00:00:00Z", "labels": {"severity": "critical", "trunk": "sbc-1"}},
        {"status": "firing", "fingerprint": "decaf", "startsAt": "2026-11-23T10:00:00Z",
         "endsAt": "0001-01-01T00:00:00Z", "labels": {"severity": "info", "trunk": "sbc-1"}},
    ]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_each_source_with_its_own_proof_is_detected_and_acts_not_by_itself() {
    let target = Target::start().await;
    let folder = scratch("sources-playbooks");
    let failed = "status == 'FAILED'";
    let limited = "original.detail.eventBody.errorCode == 'too.many.requests'";
    // Metrics have no severity: what is too much, the playbook says.
    let busy = "original.eventBody.processors[0].activeTimePct > 95";
    let subscription = |source, topic, auth| json!({"source": source, "topicName": topic, "authType": auth});
    let mut by_label = subscription("alertmanager", "alerts", "BASIC");
    by_label["entityLabel"] = "trunk".into();
    for (name, failed, subscription) in [
        ("trunks", failed, subscription("notification", TRUNKS, "HMAC")),
        ("edges", failed, subscription("notification", EDGES, "STANDARD_WEBHOOKS")),
        ("metrics", busy, subscription("notification", METRICS, "HMAC")),
        ("unasked", failed, subscription("notification", METRICS, "HMAC")),
        ("well", failed, subscription("notification", TRUNKS, "HMAC")),
        ("operations", limited, subscription("eventbridge", OPERATIONS, "PATH_TOKEN")),
        ("alerts", failed, by_label),
        ("cloud", failed, subscription("cloudevents", "com.example.sbc", "HUB_SIGNATURE")),
    ] {
        listen(&folder, &target, name, failed, subscription);
    }
    let installation = installed("sources", &folder, 1);
    let cases = [
        ("trunks", Proof::Hmac, sample("trunk_status_down.ws.json"), "b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e51"),
        (
            "edges",
            Proof::StandardWebhooks,
            sample("edge_status.ws.json"),
            "5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5a",
        ),
        ("metrics", Proof::Hmac, sample("edge_metrics.ws.json"), "5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5a"),
        (
            "operations",
            Proof::PathToken,
            sample("operational_event.eventbridge.json"),
            "6d2e1f00-0000-4000-8000-000000000001",
        ),
        ("alerts", Proof::Basic, alerts(), "sbc-1"),
        ("cloud", Proof::Hub, cloudevent("1"), "sbc-1"),
    ];
    let all = [Proof::Hmac, Proof::StandardWebhooks, Proof::Hub, Proof::PathToken, Proof::Basic];
    for (name, declared, body, entity) in &cases {
        let send = |proof, key| post(&installation, name, proof, key, body);
        for proof in all {
            let expected = if proof == Proof::PathToken && *declared != proof { 404 } else { 401 };
            let (status, answer) = send(proof, "another").await;
            assert_eq!(status, expected, "{name} {proof:?} {answer}");
            if proof != *declared {
                assert_eq!(send(proof, KEY).await.0, expected, "{name} {proof:?}");
            }
            if expected == 401 {
                assert_eq!(answer["detail"], "the request is not authenticated", "which part is not told");
            }
        }
        // By either of the two secrets; the second is the first again.
        let key = if *declared == Proof::PathToken { TOKEN } else { KEY };
        let mut sentences = vec![];
        for key in [OLD, key] {
            let (status, answer) = send(*declared, key).await;
            assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{name}: {answer}");
            sentences.push(became(&installation, answer["ids"][0].as_str().unwrap()).await.remove(0));
        }
        assert!(sentences[0].starts_with("counted into incident"), "{name}: {sentences:?}");
        assert!(sentences[1].starts_with("a duplicate"), "{name}: {sentences:?}");
        let incident = incident(&installation, name);
        assert_eq!((&incident["currentState"], &incident["entityId"]), (&json!("DETECTED"), &json!(entity)));
    }
    // What is no trouble begins nothing: a trunk that is up, and metrics by which no playbook goes. (The same event
    // counts once, whatever subscriptions it comes by.)
    let other = |body: Value| {
        let text = body.to_string().replace("4b5a", "4b5b").replace("6e51", "6e52");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let up = sample("trunk_status_up.ws.json");
    for (name, body, expected) in [
        ("well", other(up.clone()), "ignored: healthy, and no incident is open"),
        (
            "unasked",
            other(sample("edge_metrics.ws.json")),
            "could not be judged: unasked: on.failed: the event has no",
        ),
        // The trunk that was down is up: it has not lasted, and nothing was done.
        ("trunks", up, "counted into incident"),
    ] {
        let (status, answer) = post(&installation, name, Proof::Hmac, KEY, &body).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{name}: {answer}");
        let sentence = became(&installation, answer["ids"][0].as_str().unwrap()).await.remove(0);
        assert!(sentence.starts_with(expected), "{name}: {sentence}");
    }
    assert_eq!(incident(&installation, "trunks")["currentState"], "RESOLVED");
    // What says nothing is answered, and leaves nothing behind.
    for control in ["ws_heartbeat", "ws_pong", "ws_socket_closing", "ws_subscribe.reply", "ws_token_revoked"]
    {
        let (status, answer) =
            post(&installation, "trunks", Proof::Hmac, KEY, &sample(&format!("{control}.json"))).await;
        assert_eq!((status, answer), (200, json!({"accepted": 0, "ids": []})), "{control}");
    }
    let metrics = installation.admin("gateway", 0, "/metrics");
    let counted = metrics.lines().find(|line| line.starts_with("holdline_bodies_without_state"));
    assert!(counted.is_some_and(|line| line.contains("trunks") && line.ends_with(" 5")), "{counted:?}");
    // `holdline send` proves itself in the same ways, with the first of the two secrets.
    for (name, _, body, _) in &cases {
        let file = folder.join("event.json");
        std::fs::write(&file, body.to_string()).unwrap();
        let mut send = command("holdline");
        send.args(["send", file.to_str().unwrap(), "--playbooks", folder.to_str().unwrap()]);
        send.args(["--subscription", name, "--gateway", &format!("http://{}", installation.gateways()[0])]);
        send.env("TOKEN_BEFORE", OLD).env("KEY_BEFORE", OLD);
        send.env("WHSEC_BEFORE", format!("whsec_{}", STANDARD.encode(OLD)));
        let sent = send.output().unwrap();
        assert!(sent.status.success(), "{name}: {sent:?}");
    }
    // What is not as its source sends it is refused with its place.
    let (status, answer) = post(&installation, "cloud", Proof::Hub, KEY, &json!([cloudevent("2"), {}])).await;
    assert_eq!(status, 400);
    assert!(answer["detail"].as_str().unwrap().starts_with("[1].specversion: expected"), "{answer}");
    assert_eq!(target.calls().len(), 0);
    for secret in [TOKEN, KEY, OLD] {
        assert!(!installation.logs().contains(secret) && !metrics.contains(secret), "a secret was told");
    }
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_eventbridge_in_any_order_acts_once() {
    let target = Target::start().await;
    let folder: PathBuf = scratch("eventbridge-playbooks");
    let subscription = json!({"source": "eventbridge", "topicName": TRUNKS, "authType": "PATH_TOKEN",
        "reports": "repeats"});
    listen(&folder, &target, "bus", "status == 'FAILED'", subscription);
    let installation = installed("eventbridge", &folder, 1);
    let now_ms = clock::wall_ms();
    let told = |second: i64, connected: bool| {
        let mut envelope = sample("operational_event.eventbridge.json");
        let mut trunk =
            sample(if connected { "trunk_status_up.ws.json" } else { "trunk_status_down.ws.json" });
        let at = json!(now_ms / 1_000 - 60 + second);
        trunk["eventBody"]["connectedStatus"]["connectedStateTime"] = at.clone();
        trunk["eventBody"]["optionsStatus"][0]["optionStateTime"] = at.clone();
        trunk["eventBody"]["registersStatus"][0]["registerStateTime"] = at;
        envelope["id"] = format!("bus-{second}").into();
        envelope["detail"] = trunk;
        envelope
    };
    // Failures as they happened from the second second on, health before; everything is delivered twice.
    for second in [3, 2, 1, 5, 0, 4, 7, 9, 6, 8] {
        for _ in 0..2 {
            let body = told(second, second < 2);
            let (status, answer) = post(&installation, "bus", Proof::PathToken, TOKEN, &body).await;
            assert_eq!(status, 200, "{answer}");
        }
    }
    assert_eq!(target.wait_for(1, SETTLE_MAX).await.len(), 1);
    let sentences = |second: i64| format!("bus-{second}");
    for (second, first) in
        [(3, "counted"), (2, "stale"), (1, "stale"), (0, "stale"), (5, "counted"), (8, "stale")]
    {
        let became = became(&installation, &sentences(second)).await;
        assert!(became[0].starts_with(first) && became[1].starts_with("a duplicate"), "{second}: {became:?}");
    }
    installation.conserved();
    let calls = target.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].path, "/remediate/bus/b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e51");
}

/// A status page that the test can change, and how often it was asked.
#[derive(Clone, Default)]
struct PageStub(Arc<Mutex<(&'static str, usize)>>);

impl PageStub {
    async fn start(&self) -> String {
        let seen = self.clone();
        let answer = move || {
            let mut seen = seen.0.lock().unwrap();
            seen.1 += 1;
            let mut summary = sample("statuspage_summary.poll.json");
            summary["components"][0]["status"] = seen.0.into();
            std::future::ready(axum::Json(summary))
        };
        let router = axum::Router::new().route("/api/v2/summary.json", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/api/v2/summary.json")
    }

    fn show(&self, status: &'static str) {
        self.0.lock().unwrap().0 = status;
    }

    async fn asked(&self, times: usize) {
        let began = clock::now();
        while self.0.lock().unwrap().1 < times {
            assert!(began.elapsed() < SETTLE_MAX, "asked {} times, not {times}", self.0.lock().unwrap().1);
            clock::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_status_page_is_believed_and_a_webhook_only_hints() {
    let target = Target::start().await;
    let folder = scratch("statuspage-playbooks");
    let (often, seldom) = (PageStub::default(), PageStub::default());
    often.show("operational");
    seldom.show("operational");
    for (name, every, url) in [("often", "2s", often.start().await), ("seldom", "1h", seldom.start().await)] {
        let subscription = json!({"source": "statuspage", "topicName": "page", "authType": "PATH_TOKEN",
            "reports": "repeats", "poll": {"url": url, "every": every}});
        listen(&folder, &target, name, "status == 'FAILED'", subscription);
    }
    let installation = installed("statuspage", &folder, 2);
    // Both gateways look at once, and each interval counts once.
    often.asked(4).await;
    often.show("partial_outage");
    // Three intervals at the least, the last of which is not over.
    let calls = target.wait_for(1, SETTLE_MAX).await;
    often.asked(16).await;
    let calls_ms = clock::wall_ms();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].path, "/remediate/often/c0mp0n3nt001");
    let mut both = 0;
    for before in 1..4 {
        let interval = calls_ms / OFTEN_MS - before;
        let sentences = became(&installation, &format!("c0mp0n3nt001:FAILED:{interval}")).await;
        let counted = sentences.iter().filter(|sentence| sentence.starts_with("counted")).count();
        assert_eq!(counted, 1, "{sentences:?}");
        both += sentences.len() - 1;
    }
    assert!(both > 0, "no interval was seen by both gateways");
    // A claim that the page does not confirm is not stored, and makes the gateway look.
    seldom.asked(2).await;
    let claim = sample("statuspage_incident.webhook.json");
    let hint = || post(&installation, "seldom", Proof::PathToken, TOKEN, &claim);
    assert_eq!(hint().await, (200, json!({"accepted": 0, "ids": []})));
    seldom.asked(3).await;
    let of = |open: &Value| open.as_array().unwrap().iter().filter(|i| i["playbook"] == "seldom").count();
    assert_eq!(of(&json_of(&installation, &["incidents", "--all"])), 0);
    seldom.show("major_outage");
    assert_eq!(hint().await.0, 200);
    seldom.asked(4).await;
    let began = clock::now();
    while of(&json_of(&installation, &["incidents", "--all"])) == 0 {
        assert!(began.elapsed() < SETTLE_MAX, "{}", installation.logs());
        clock::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(incident(&installation, "seldom")["currentState"], "DETECTED");
    assert!(!installation.logs().contains(TOKEN), "a secret was told");
    for gateway in 0..2 {
        installation.admin("gateway", gateway, "/metrics").lines().for_each(|l| assert!(!l.contains(TOKEN)));
    }
}
