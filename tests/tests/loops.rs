//! C4, A3: what our own actions lead to. A set that sets itself off is refused, with the loop; a loop that only exists
//! on the platform's side is cut off once two actions have led to one another, and people are told. Echoes count for
//! nothing, and have a disposition of their own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, holdline, sample, scratch};
use holdline_tests::sender::Sender;
use holdline_tests::target::{Call, Target};
use serde_json::{Value, json};

const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Id of our own OAuth client.
const CLIENT: &str = "6d2e1f00-0000-4000-8000-00000000000f";

/// What comes too much would have come by then.
const QUIET: Duration = Duration::from_secs(3);

/// The loop's settings, and playbooks of two failures each that call `/act/<playbook>/<entity>`, with what their actions
/// emit.
fn playbooks(target: &str, playbooks: &[(&str, &str)]) -> PathBuf {
    let folder = scratch("loops-playbooks");
    let write = |name: &str, text: String| {
        let path: PathBuf = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let action = |name: &str, path: &str, body: &str, emits: &str| {
        json!({"name": name, "actionType": "WEBHOOK", "method": "POST", "bodyTemplate": body,
            "url": format!("http://{target}{path}"), "emits": serde_json::from_str::<Value>(emits).unwrap()})
        .to_string()
    };
    let settings = std::fs::read_to_string(sample("loop").join("holdline.yaml")).unwrap();
    let client = "\npager: page\nplatform: {region: mypurecloud.ie, clients: {ours: {id: env:OUR_ID, secret: env:OUR_SECRET}}}\n";
    write("holdline.yaml", settings.replace("127.0.0.1:44001", target) + client);
    let page =
        r#"{"of": "{{incident.playbook}}", "entity": "{{incident.entity}}", "why": "{{incident.reason}}"}"#;
    write("actions/page.json", action("page", "/page", page, "[]"));
    for (name, emits) in playbooks {
        let subscription = json!({"name": name, "topicName": topic(name), "authType": "HMAC",
            "secretToken": "env:HOLDLINE_TELEPHONY_SECRET"});
        write(&format!("subscriptions/{name}.json"), subscription.to_string());
        let path = format!("/act/{name}/{{{{data.gatewayId}}}}");
        write(&format!("actions/do_{name}.json"), action(&format!("do_{name}"), &path, "", emits));
        let back = format!("/back/{name}/{{{{data.gatewayId}}}}");
        write(&format!("actions/undo_{name}.json"), action(&format!("undo_{name}"), &back, "", "[]"));
        write(
            &format!("{name}.playbook.yaml"),
            format!(
                "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.gatewayId\n  failed: status == \
                 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm: {{failures: 2, stable_for: 0s}}\nact:\n  failed: {{do: \
                 [do_{name}], class: failover}}\nrevert: {{do: [undo_{name}]}}\n"
            ),
        );
    }
    folder
}

/// What a playbook listens to.
fn topic(playbook: &str) -> String {
    match playbook {
        "audit" => "v2.audits.entitytype.queue.entityid.q".into(),
        other => format!("topic.{other}"),
    }
}

struct World {
    target: Target,
    sender: Sender,
    sent: u32,
}

impl World {
    /// Events of a playbook's subscription, as the platform would send them after a call with that correlation id.
    async fn report(&mut self, playbook: &str, entity: &str, statuses: &[&str], correlation: Option<&str>) {
        let mark = correlation.map(|correlation| ("correlationId", correlation.into()));
        self.report_marked(playbook, entity, statuses, mark).await;
    }

    async fn report_marked(
        &mut self,
        playbook: &str,
        entity: &str,
        statuses: &[&str],
        mark: Option<(&str, Value)>,
    ) {
        for status in statuses {
            let mark = mark.clone();
            self.sent += 1;
            let mut event = json!({"id": format!("event-{}", self.sent), "topicName": topic(playbook),
                "timestamp": clock::wall_ms(), "data": {"gatewayId": entity, "status": status}});
            if let Some(mark) = mark {
                event["data"][mark.0] = mark.1;
            }
            self.sender.to(playbook).deliver(&event).await;
        }
    }

    /// The one call to a path, once it has come.
    async fn called(&self, path: &str) -> Call {
        let began = clock::now();
        loop {
            if let Some(call) = self.target.calls().into_iter().find(|call| call.path == path) {
                return call;
            }
            assert!(began.elapsed() < SETTLE_MAX, "{path} was not called: {:#?}", self.target.calls());
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.target.calls().into_iter().map(|call| call.path).collect();
        paths.sort();
        paths
    }
}

#[test]
fn c4_a_set_that_sets_itself_off_is_refused_with_the_loop() {
    let target = "127.0.0.1:44001";
    let links = [("a", r#"["topic.b"]"#), ("b", r#"["topic.c"]"#), ("c", r#"["topic.a"]"#)];
    let check = |folder: &Path| {
        let output = holdline(&["check", folder.to_str().unwrap()]);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, told) = check(&playbooks(target, &links));
    assert_eq!(code, Some(1), "{told}");
    let whole = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        whole.contains(
            "a loop: a does do_a, which emits topic.b, which sets off b; b does do_b, which emits topic.c, which sets \
             off c; c does do_c, which emits topic.a, which sets off a"
        ),
        "{told}"
    );
    assert_eq!(check(&playbooks(target, &links[..1])).0, Some(0));
    assert_eq!(check(&playbooks(target, &[links[0], ("b", "[]")])).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a3_a_loop_on_the_platforms_side_is_cut_off_after_two_actions_and_people_are_told() {
    let target = Target::start().await;
    let folder =
        playbooks(&target.address.to_string(), &[("a", "[]"), ("b", "[]"), ("c", "[]"), ("audit", "[]")]);
    let mut installation = Installation::broker("loops", &folder, "default");
    installation.variable("OUR_ID", CLIENT);
    installation.variable("OUR_SECRET", "a secret of the suite");
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let mut world =
        World { target: target.clone(), sender: Sender::new(installation.gateways(), "a"), sent: 0 };
    let failed = ["FAILED"; 2];

    // Trouble that nothing of ours has led to.
    world.report("a", "gw", &failed, None).await;
    let first = world.called("/act/a/gw").await.correlation;
    // To itself its action's consequences are an echo, whatever they say: nothing is undone, nothing is done.
    world.report("a", "gw", &["HEALTHY", "HEALTHY", "FAILED"], Some(&first)).await;
    // To others, and to other entities, they are trouble.
    world.report("b", "gw", &failed, Some(&first)).await;
    world.report("a", "gw-2", &failed, Some(&first)).await;
    let second = world.called("/act/b/gw").await.correlation;
    world.called("/act/a/gw-2").await;
    // Two actions have led to one another. The third would close the loop, or go on.
    world.report("a", "gw-3", &failed, Some(&second)).await;
    world.report("c", "gw", &["FAILED"; 4], Some(&second)).await;
    // What the audit tells that our client did is no news; what others did is.
    let client = |id: &str| Some(("clientId", json!({"id": id})));
    world.report_marked("audit", "q", &failed, client(CLIENT)).await;
    world.report_marked("audit", "q-2", &failed, client("somebody")).await;
    world.called("/act/audit/q-2").await;
    let pages = || target.calls().into_iter().filter(|call| call.path == "/page").map(|call| call.body);
    let began = clock::now();
    while pages().count() < 2 {
        assert!(began.elapsed() < SETTLE_MAX, "{:#?}", target.calls());
        clock::sleep(Duration::from_millis(20)).await;
    }
    clock::sleep(QUIET).await;
    assert_eq!(world.paths(), ["/act/a/gw", "/act/a/gw-2", "/act/audit/q-2", "/act/b/gw", "/page", "/page"]);
    for (of, entity) in [("a", "gw-3"), ("c", "gw")] {
        let told: Vec<Value> = pages().map(|body| serde_json::from_str(&body).unwrap()).collect();
        let page = told.iter().find(|page| page["of"] == of && page["entity"] == entity);
        let why = page.unwrap_or_else(|| panic!("{told:?}"))["why"].as_str().unwrap();
        assert!(why.contains("a loop") && why.contains("2 actions of ours"), "{why}");
    }
    // The trouble itself is acted on as ever.
    world.report("c", "gw", &failed, None).await;
    let third = world.called("/act/c/gw").await;
    assert!(third.correlation.starts_with("holdline-1-"), "{}", third.correlation);

    let count = installation.conserved();
    // Three of the action on gw, two and four behind two actions, two of our client.
    assert_eq!(count["dispositions"]["echo"], 11, "{count:#}");
    let told = installation.holdline(&["why-not", "event-3"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("an echo of our own") && told.contains(&first), "{told}");
}
