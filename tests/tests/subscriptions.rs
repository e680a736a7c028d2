//! G1: `holdline subscriptions diff` and `apply` through the real program, against the simulated platform.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

use holdline_simulator::organisation::*;
use holdline_simulator::{Fault, Kind, Options, Simulator};
use holdline_stage::token::Token;
use holdline_tests::programs::{Installation, changed_sample, command, sample, scratch};
use serde_json::{Value, json};

const SECRET: &str = "hush-of-the-platforms-side";
const NEXT_SECRET: &str = "hush-that-is-to-come";

const PLAYBOOK: &str = "playbook: p\non:\n  subscription: a\n  entity: data.gatewayId\n  failed: status == 'FAILED'\n  \
                        healthy: status == 'HEALTHY'\nact:\n  failed: {do: [x], class: failover}\nrevert: {do: [x]}\n";

/// A folder of playbooks and the platform that it is for.
struct World {
    simulator: Simulator,
    /// Has the audit trail.
    installation: Installation,
    folder: PathBuf,
    /// What `env:A_SECRET` leads to.
    secret: &'static str,
}

impl World {
    async fn start(name: &str) -> World {
        rustls::crypto::ring::default_provider().install_default().ok();
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let folder = scratch(name);
        for part in ["actions", "subscriptions"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let settings = format!(
            "platform:\n  region: mypurecloud.ie\n  connect_to: {}\n  clients:\n    routing: {{id: env:ROUTING_ID, \
             secret: env:ROUTING_SECRET}}\n    telephony: {{id: env:TELEPHONY_ID, secret: env:TELEPHONY_SECRET}}\n",
            simulator.address()
        );
        std::fs::write(folder.join("holdline.yaml"), settings).unwrap();
        std::fs::write(folder.join("p.playbook.yaml"), PLAYBOOK).unwrap();
        let action = json!({"name": "x", "actionType": "WEBHOOK", "url": "https://example.com/x"});
        std::fs::write(folder.join("actions/x.json"), action.to_string()).unwrap();
        let installation = Installation::broker(name, &sample("loop"), "default");
        World { simulator, installation, folder, secret: SECRET }
    }

    /// Writes a subscription of the guide's, with these fields instead of its own.
    fn write(&self, name: &str, fields: Value) {
        let mut subscription = json!({
            "name": name,
            "topicName": "telephony.service.status",
            "callbackUrl": format!("https://holdline.example.com/hooks/{name}"),
            "authType": "HMAC",
            "secretToken": "env:A_SECRET",
        });
        for (key, value) in fields.as_object().unwrap() {
            subscription[key] = value.clone();
        }
        self.write_bare(name, &subscription);
    }

    fn write_bare(&self, name: &str, subscription: &Value) {
        std::fs::write(self.folder.join(format!("subscriptions/{name}.json")), subscription.to_string())
            .unwrap();
    }

    fn delete(&self, name: &str) {
        std::fs::remove_file(self.folder.join(format!("subscriptions/{name}.json"))).unwrap();
    }

    /// Runs it with every log there is; gives its exit code and what it says on each stream.
    fn run(&self, verb: &str, more: &[&str]) -> (i32, String, String) {
        let output = command("holdline")
            .args(["subscriptions", verb, self.folder.to_str().unwrap(), "--client", "routing"])
            .args(if verb == "apply" {
                vec!["--data", self.installation.data.to_str().unwrap()]
            } else {
                vec![]
            })
            .args(more)
            .env("RUST_LOG", "trace")
            .env("A_SECRET", self.secret)
            .envs([("ROUTING_ID", CLIENT), ("ROUTING_SECRET", CLIENT_SECRET)])
            .envs([("TELEPHONY_ID", TELEPHONY_CLIENT), ("TELEPHONY_SECRET", TELEPHONY_CLIENT_SECRET)])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let logged = String::from_utf8_lossy(&output.stderr).into_owned();
        for secret in [SECRET, NEXT_SECRET, CLIENT_SECRET, TELEPHONY_CLIENT_SECRET] {
            assert!(
                !told.contains(secret) && !logged.contains(secret),
                "a secret was told: {told}\n{logged}"
            );
        }
        (output.status.code().unwrap(), told, logged)
    }

    /// Runs it, and expects this exit code and these parts of what it says.
    fn check(&self, verb: &str, more: &[&str], expected: i32, parts: &[&str]) -> String {
        let (code, told, logged) = self.run(verb, more);
        assert_eq!(code, expected, "{verb} {more:?}: {told}\n{logged}");
        for part in parts {
            assert!(told.contains(part), "{verb} {more:?}: {part:?} in {told}");
        }
        told
    }

    fn same(&self) {
        self.check("diff", &[], 0, &["nothing differs", "`holdline subscriptions apply --rotate`"]);
    }

    /// Act by act, what the audit trail says was to be changed, why, and which entry failed.
    fn audited(&self) -> Vec<Value> {
        let trail =
            self.installation.holdline(&["audit", "--act", "subscriptions_apply", "--output", "json"]);
        let trail: Value = serde_json::from_slice(&trail.stdout).unwrap();
        let entries = trail.as_array().unwrap().iter();
        entries.map(|e| json!([e["entry"], e["details"]["changes"], e["why"], e["failed"]])).collect()
    }

    fn there(&self) -> Vec<Value> {
        let mut there = self.simulator.objects(Kind::SUBSCRIPTION);
        there.sort_by_key(|found| found["name"].as_str().unwrap().to_string());
        there
    }

    fn names(&self) -> Vec<String> {
        self.there().iter().map(|found| found["name"].as_str().unwrap().into()).collect()
    }

    /// The secret that a subscription of this name is signed with.
    fn signed_with(&self, name: &str) -> Option<String> {
        let found = self.there().into_iter().find(|found| found["name"] == name).unwrap();
        self.simulator.secret_token(found["id"].as_str().unwrap())
    }

    /// Calls that changed a subscription, since the last time.
    fn writes(&self) -> Vec<String> {
        let calls = self.simulator.calls();
        self.simulator.forget_calls();
        let writes = calls.into_iter().filter(|call| call.method != "GET" && call.path.contains("/events/"));
        writes.map(|call| format!("{} {}", call.method, call.status.unwrap())).collect()
    }

    /// Somebody else makes a subscription.
    async fn by_hand(&self, name: &str) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let token = client
            .post(format!("{}/oauth/token", self.simulator.url()))
            .basic_auth(CLIENT, Some(CLIENT_SECRET))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let token: Value = token.send().await.unwrap().json().await.unwrap();
        let body = json!({
            "name": name, "topicName": "t", "callbackUrl": "https://example.com/", "authType": "HMAC",
        });
        let made = client
            .post(format!("{}/api/v2/events/subscriptions", self.simulator.url()))
            .bearer_auth(token["access_token"].as_str().unwrap())
            .json(&body);
        assert_eq!(made.send().await.unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_the_platform_becomes_what_the_folder_says() {
    let mut world = World::start("subscriptions").await;
    world.by_hand("a").await;
    let filter = "status == 'FAILED' OR status == 'HEALTHY'";
    world.write(
        "a",
        json!({"filterExpression": filter, "retryPolicy": {"maxAttempts": 5, "backOffIntervals": [1, 2]}}),
    );
    world.write("b", json!({}));
    world.writes();
    let foreign = world.there();

    // Nothing is made by looking.
    world.check("diff", &[], 1, &["create a", "create b", "left alone: \"a\"", "2 change(s) to make"]);
    world.check("apply", &["--dry-run"], 1, &["create a", "2 change(s) to make"]);
    assert_eq!((world.there(), world.writes()), (foreign.clone(), vec![]));
    // What cannot be written to the audit trail is not done.
    let (code, _, logged) = world.run("apply", &["--nats", "nats://127.0.0.1:1", "--keys", "/nowhere"]);
    assert!(code != 0 && logged.contains("/nowhere"), "{logged}");
    assert_eq!((world.there(), world.writes(), world.audited()), (foreign.clone(), vec![], vec![]));
    world.check("apply", &["--reason", "first", "--by", "ada"], 0, &["made: create a", "2 change(s) made"]);
    assert_eq!(world.audited(), [json!([2, "create a, create b", "first", null])]);
    assert_eq!(world.names(), ["a", "holdline:a", "holdline:b"]);
    let made = &world.there()[1];
    for (field, expected) in [
        ("topicName", json!("telephony.service.status")),
        ("filterExpression", json!(filter)),
        ("callbackUrl", json!("https://holdline.example.com/hooks/a")),
        ("authType", json!("HMAC")),
        ("retryPolicy", json!({"maxAttempts": 5, "backOffIntervals": [1, 2]})),
    ] {
        assert_eq!(made[field], expected, "{field}");
    }
    assert_eq!(world.signed_with("holdline:a").as_deref(), Some(SECRET));

    // A second time there is nothing to do.
    world.same();
    world.writes();
    world.check("apply", &[], 0, &["0 change(s) made"]);
    assert_eq!((world.writes().len(), world.audited().len()), (0, 1));

    // A change is told field by field, and made by one call.
    world.write("a", json!({"filterExpression": filter, "retryPolicy": {"maxAttempts": 9}}));
    let told = world.check(
        "diff",
        &[],
        1,
        &["update a", "retryPolicy: {\"backOffIntervals\":[1,2],\"maxAttempts\":5} → {\"maxAttempts\":9}"],
    );
    assert!(!told.contains("update b") && !told.contains("topicName"), "{told}");
    world.check("apply", &[], 0, &["made: update a"]);
    assert_eq!(world.writes(), ["PUT 200"]);
    assert_eq!(world.signed_with("holdline:a").as_deref(), Some(SECRET));
    world.same();

    // A new secret is seen nowhere, and sent when it is asked for.
    world.secret = NEXT_SECRET;
    world.same();
    world.check("apply", &["--rotate"], 0, &["update a", "its secret is sent anew", "2 change(s) made"]);
    assert_eq!(world.signed_with("holdline:a").as_deref(), Some(NEXT_SECRET));
    assert_eq!(world.signed_with("holdline:b").as_deref(), Some(NEXT_SECRET));

    // What the folder no longer has goes; what holdline did not make stays.
    world.delete("b");
    world.check("diff", &[], 1, &["remove b", "1 change(s) to make"]);
    let told = world.check("apply", &["--output", "json"], 0, &[]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["changes"][0]["change"], "remove");
    assert_eq!((&told["changes"][0]["done"], &told["others"]), (&json!(true), &json!(["a"])));
    assert_eq!(world.names(), ["a", "holdline:a"]);
    assert_eq!(world.there()[0], foreign[0]);
    world.same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_an_error_stops_it_and_the_next_run_goes_on() {
    let world = World::start("subscriptions-stopped").await;
    for name in ["a", "b"] {
        world.write(name, json!({}));
    }
    world.check("apply", &[], 0, &["2 change(s) made"]);
    world.delete("b");
    world.write("a", json!({"authType": "BASIC"}));
    world.write("c", json!({}));
    world.writes();
    world.simulator.fault(Fault::status("/api/v2/events/subscriptions", 503).method("PUT").times(1));
    let parts = ["made: create c", "stopped: update a: PUT", "503", "not made: update a, remove b"];
    world.check("apply", &[], 1, &parts);
    assert_eq!(world.writes(), ["POST 201", "PUT 503"]);
    let audited = world.audited();
    assert_eq!(audited[1], json!([3, "create c, update a, remove b", "", null]));
    let why = audited[2][2].as_str().unwrap();
    assert!(audited[2][3] == 3 && why.contains("update a: PUT") && why.contains("503"), "{audited:?}");
    // The answer is lost, and yet it was carried out: the next run sees it.
    let lost =
        Fault { outcome: holdline_simulator::Outcome::CloseMidBody, ..Fault::status("/api/v2/events", 0) };
    world.simulator.fault(lost.method("PUT").times(1));
    world.check("apply", &[], 1, &["the next run looks", "not made: update a, remove b"]);
    world.check("apply", &[], 0, &["made: remove b", "1 change(s) made"]);
    assert_eq!(world.names(), ["holdline:a", "holdline:c"]);
    world.same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_what_cannot_be_asked_for_is_refused_before_anything_is_called() {
    let mut world = World::start("subscriptions-refused").await;
    for topic in ["all", "telephony.*"] {
        world.write("a", json!({"topicName": topic}));
        for verb in ["diff", "apply"] {
            let parts = ["every event of the organisation", "Nothing was asked of the platform"];
            world.check(verb, &[], 1, &parts);
        }
        assert!(world.simulator.calls().is_empty(), "{topic}");
    }
    // A secret that is not there.
    world.write("a", json!({}));
    world.secret = "";
    let (code, _, logged) = world.run("apply", &[]);
    assert!(code == 1 && logged.contains("env:A_SECRET, which is not there"), "{logged}");
    assert_eq!(world.writes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_channel_of_the_gateways_own_is_tried_and_nothing_stays() {
    let world = World::start("subscriptions-channels").await;
    world.write("a", json!({}));
    world.check("apply", &[], 0, &["1 change(s) made"]);
    let pulled = |client: &str, topic: &str| json!({"name": "pulled", "source": "notification", "client": client, "topicName": topic});
    let trunks = "v2.telephony.providers.edges.trunks.{id}";
    world.writes();
    world.write_bare("pulled", &pulled("telephony", trunks));
    world.check("diff", &[], 0, &["can be heard: pulled", "as the client telephony", "nothing differs"]);
    // Named entities need no list, so that a client without rights learns which it lacks.
    let mut without = pulled("routing", trunks);
    without["entities"] = json!([TRUNK_PRIMARY]);
    world.write_bare("pulled", &without);
    let parts = ["cannot be heard: pulled", "missingPermissions: telephony:plugin:all"];
    world.check("diff", &[], 1, &parts);
    world.check("apply", &[], 1, &parts);
    assert_eq!(world.names(), ["holdline:a"]);
    assert_eq!(world.writes(), [""; 0]);
    // No channel is left with a topic, and none is made that would close another.
    for _ in 0..20 {
        let (code, told, _) = world.run("diff", &[]);
        if told.contains("one more would close its oldest") {
            return assert_eq!(code, 0, "{told}");
        }
        assert_eq!(code, 1, "{told}");
    }
    unreachable!("it opened more channels than there may be");
}

/// Where people may operate, whoever is none of them changes nothing at the platform.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_only_who_may_operate_changes_the_platform() {
    let mut world = World::start("subscriptions-operate").await;
    let token = |name: &str| {
        let file = world.folder.join(format!("{name}.token"));
        (Token::create(&file).unwrap().public(), file.to_str().unwrap().to_string())
    };
    let ((ada, ada_file), (_, stranger_file)) = (token("ada"), token("stranger"));
    let set = scratch("subscriptions-operate-set");
    changed_sample("loop", &set, |path, text| match path {
        "holdline.yaml" => format!("{text}people: {{ada: {{token: {ada}, roles: [operate]}}}}\n"),
        _ => text,
    });
    world.installation.push(&set);
    world.write("a", json!({}));
    world.writes();
    let refused = |world: &World| {
        let trail = world.installation.holdline(&["audit", "--act", "operation_refused", "--output", "json"]);
        let trail: Vec<Value> = serde_json::from_slice(&trail.stdout).unwrap();
        trail.iter().filter(|entry| entry["about"] == "subscriptions_apply").count()
    };
    for (number, more, part) in
        [(1, vec![], "--token"), (2, vec!["--token", stranger_file.as_str()], "may not operate")]
    {
        let (code, told, logged) = world.run("apply", &more);
        assert!(code == 1 && logged.contains(part), "{more:?}: {told}\n{logged}");
        assert_eq!((world.writes(), world.audited(), refused(&world)), (vec![], vec![], number));
    }
    world.check("apply", &["--token", &ada_file], 0, &["1 change(s) made"]);
    assert_eq!((world.audited().len(), refused(&world)), (1, 2));
}
