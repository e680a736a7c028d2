//! Native actions (E2) and their OAuth clients through the real programs, against the simulated platform: done,
//! undone from the pre-image, and never over somebody else's work.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod kinds;
mod proof;
mod sharing;
mod trouble;
mod undo;

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdline_simulator::organisation::*;
use holdline_simulator::{Fault, Kind, Options, Outcome, Simulator, StaleVersion};
use holdline_stage::clock;
use holdline_stage::crash::Point;
use holdline_tests::platform::content;
use holdline_tests::programs::{Installation, STAGES, scratch};
use holdline_tests::sdk;
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::{Value, json};

/// In an action's `verify`: where the simulator is.
const SIMULATOR: &str = "http://simulator";

const SOON: Duration = Duration::from_secs(40);

/// An installation with one playbook per action: three failures do it, two healthy events undo it.
struct World {
    simulator: Simulator,
    installation: Installation,
    sender: Sender,
}

#[derive(Clone)]
struct Action {
    name: &'static str,
    kind: &'static str,
    client: &'static str,
    parameters: Value,
    /// What its playbook does; nothing: this action alone.
    steps: &'static str,
    /// `revert.do`
    back: &'static str,
    /// The fields of `verify`.
    verify: Option<String>,
}

const fn action(name: &'static str, kind: &'static str, parameters: Value) -> Action {
    Action { name, kind, client: "routing", parameters, steps: "", back: "undo", verify: None }
}

fn group() -> Action {
    action("group", "emergency_group.set", json!({"group": "{{data.group}}"}))
}

impl World {
    async fn start(name: &str, options: Options, actions: &[Action]) -> World {
        World::start_with(name, options, actions, None).await
    }

    async fn start_with(name: &str, options: Options, actions: &[Action], pager: Option<&Target>) -> World {
        let simulator = Simulator::start(options).await.unwrap();
        let playbooks = playbooks(name, &simulator, actions);
        if let Some(pager) = pager {
            let body =
                r#"{"what": "{{incident.entity}} of {{incident.playbook}}", "why": "{{incident.reason}}"}"#;
            let page = json!({
                "name": "page", "actionType": "WEBHOOK", "url": format!("http://{}/page", pager.address),
                "method": "POST", "headers": {"Content-Type": "application/json"}, "bodyTemplate": body,
            });
            std::fs::write(playbooks.join("actions/page.json"), page.to_string()).unwrap();
            let settings = playbooks.join("holdline.yaml");
            let text = std::fs::read_to_string(&settings).unwrap() + "pager: page\n";
            std::fs::write(settings, text).unwrap();
        }
        let mut installation = Installation::broker(name, &playbooks, "always");
        for (variable, value) in [
            ("ROUTING_ID", CLIENT),
            ("ROUTING_SECRET", CLIENT_SECRET),
            ("TELEPHONY_ID", TELEPHONY_CLIENT),
            ("TELEPHONY_SECRET", TELEPHONY_CLIENT_SECRET),
        ] {
            installation.variable(variable, value);
        }
        for stage in STAGES {
            installation.spawn(stage, 0);
        }
        installation.wait_ready();
        let sender = Sender::new(installation.gateways(), "none");
        World { simulator, installation, sender }
    }

    async fn report(&self, action: &str, entity: &str, status: &str, times: i64) {
        let now = clock::wall_ms();
        for n in 0..times {
            let mut event = event(&format!("{action}-{entity}-{status}-{now}-{n}"), entity, status, now + n);
            // What is undone is what was done, wherever the last event would lead.
            event["data"]["group"] = json!(if status == "FAILED" { GROUP_EVACUATION } else { "elsewhere" });
            self.sender.to(action).deliver(&event).await;
        }
    }

    async fn fails(&self, action: &str) {
        self.report(action, "gw-1", "FAILED", 3).await;
    }

    async fn recovers(&self, action: &str) {
        self.report(action, "gw-1", "HEALTHY", 2).await;
    }

    fn group(&self) -> Value {
        self.simulator.group(GROUP_EVACUATION)
    }

    /// Waits until an object is as expected.
    async fn until(&self, kind: Kind, key: &str, what: &str, expected: impl Fn(&Value) -> bool) {
        let began = clock::now();
        while !expected(&self.simulator.object(kind, key)) {
            let found = self.simulator.object(kind, key);
            assert!(began.elapsed() < SOON, "{what}: {found:#}\n{}", self.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_enabled(&self, enabled: bool) {
        let what = format!("the group is enabled: {enabled}");
        self.until(Kind::EMERGENCY_GROUP, GROUP_EVACUATION, &what, |group| group["enabled"] == enabled).await;
    }

    fn incidents(&self) -> Value {
        let shown = self.installation.holdline(&["incidents", "--output", "json"]);
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// Remedies that were looked at and stand.
    fn proven(&self) -> usize {
        self.installation.log_of("executor", 0).matches("worked: Some(true)").count() - self.undone()
    }

    /// Remedies whose undo was looked at, and shows.
    fn undone(&self) -> usize {
        self.installation.log_of("executor", 0).matches("it is undone").count()
    }

    async fn until_proven(&self, remedies: usize) {
        let began = clock::now();
        while self.proven() < remedies {
            let log = self.installation.log_of("executor", 0);
            assert!(began.elapsed() < SOON, "{} of {remedies} are proven\n{log}", self.proven());
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the incident is held for a person, with this in the reason.
    async fn until_held(&self, part: &str) {
        let began = clock::now();
        loop {
            let shown = self.incidents();
            if shown[0]["held"].as_str().is_some_and(|held| held.contains(part)) {
                return;
            }
            assert!(began.elapsed() < SOON, "{shown:#}\n{}", self.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until so many incidents are open.
    async fn until_incidents(&self, open: usize) {
        let began = clock::now();
        while self.incidents().as_array().unwrap().len() != open {
            assert!(began.elapsed() < SOON, "{open}: {:#}", self.incidents());
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_over(&self) {
        let began = clock::now();
        while self.incidents() != json!([]) {
            assert!(began.elapsed() < SOON, "{:#}", self.incidents());
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Calls that changed something, by method and path.
    fn writes(&self, part: &str) -> Vec<String> {
        let calls = self.simulator.calls().into_iter();
        let writes = calls.filter(|call| call.method != "GET" && call.path.contains(part));
        writes.map(|call| format!("{} {} {:?}", call.method, call.path, call.status)).collect()
    }

    fn ends_well(&self) {
        self.installation.conserved();
    }
}

fn playbooks(name: &str, simulator: &Simulator, actions: &[Action]) -> PathBuf {
    let folder = scratch(&format!("{name}-playbooks"));
    for part in ["actions", "subscriptions"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    let settings = format!(
        "platform:\n  region: mypurecloud.ie\n  connect_to: {}\n  clients:\n    routing: {{id: env:ROUTING_ID, secret: \
         env:ROUTING_SECRET}}\n    telephony: {{id: env:TELEPHONY_ID, secret: env:TELEPHONY_SECRET}}\n",
        simulator.address()
    );
    std::fs::write(folder.join("holdline.yaml"), settings).unwrap();
    for action in actions {
        let name = action.name;
        let file = json!({
            "name": name, "actionType": "GENESYS", "kind": action.kind, "client": action.client,
            "parameters": action.parameters,
        });
        std::fs::write(folder.join(format!("actions/{name}.json")), file.to_string()).unwrap();
        let file = json!({
            "name": name, "topicName": "telephony.service.status", "authType": "HMAC",
            "secretToken": "env:HOLDLINE_TELEPHONY_SECRET",
        });
        std::fs::write(folder.join(format!("subscriptions/{name}.json")), file.to_string()).unwrap();
        let verify = action.verify.as_ref().map_or(String::new(), |verify| format!(", verify: {{{verify}}}"));
        let verify = verify.replace(SIMULATOR, &simulator.url());
        let steps = if action.steps.is_empty() { name } else { action.steps };
        let playbook = format!(
            "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.gatewayId\n  \
             failed: status == 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm: {{failures: 3, stable_for: 0s}}\n\
             act:\n  failed: {{do: [{steps}], class: failover, deadline: 60s{verify}}}\n\
             revert: {{healthy: 2, stable_for: 0s, silence: 15m, do: {}}}\n",
            action.back
        );
        std::fs::write(folder.join(format!("{name}.playbook.yaml")), playbook).unwrap();
    }
    folder
}
