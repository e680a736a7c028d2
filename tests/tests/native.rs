//! Native actions (E2) and their OAuth clients through the real programs, against the simulated platform: done,
//! undone from the pre-image, and never over somebody else's work.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt;
use holdline_decide::native::InForce;
use holdline_proto::topology::{Bucket, Topology};
use holdline_proto::wire;
use holdline_simulator::organisation::*;
use holdline_simulator::{Fault, Kind, Options, Outcome, Simulator, StaleVersion};
use holdline_stage::clock;
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

struct Action {
    name: &'static str,
    kind: &'static str,
    client: &'static str,
    parameters: Value,
    /// `revert.do`
    back: &'static str,
    /// The fields of `verify`.
    verify: Option<String>,
}

const fn action(name: &'static str, kind: &'static str, parameters: Value) -> Action {
    Action { name, kind, client: "routing", parameters, back: "undo", verify: None }
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
        self.until(Kind::EmergencyGroup, GROUP_EVACUATION, &what, |group| group["enabled"] == enabled).await;
    }

    fn incidents(&self) -> Value {
        let shown = self.installation.holdline(&["incidents", "--output", "json"]);
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// Remedies that were looked at and stand.
    fn proven(&self) -> usize {
        self.installation.log_of("executor", 0).matches("worked: Some(true)").count()
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
        let playbook = format!(
            "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.gatewayId\n  \
             failed: status == 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm: {{failures: 3, stable_for: 0s}}\n\
             act:\n  failed: {{do: [{name}], class: failover, deadline: 60s{verify}}}\n\
             revert: {{healthy: 2, stable_for: 0s, silence: 15m, do: {}}}\n",
            action.back
        );
        std::fs::write(folder.join(format!("{name}.playbook.yaml")), playbook).unwrap();
    }
    folder
}

/// All are done, the platform's official SDK reads what was written, and all are undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_every_kind_is_done_read_back_by_the_official_sdk_and_undone() {
    let route = format!("{SITE_MAIN}/{ROUTE}");
    let row = format!("{TABLE}/{}", ROWS[0]);
    let member = format!("{QUEUE}/{}", MEMBERS[1]);
    let telephony = |action: Action| Action { client: "telephony", ..action };
    let trunk_bases = [TRUNK_BASE_BACKUP, TRUNK_BASE_PRIMARY];
    let actions = [
        group(),
        action(
            "row",
            "datatable_row.set",
            json!({"table": TABLE, "key": ROWS[0], "values": {"destination": "backup of {{data.gatewayId}}"}}),
        ),
        telephony(action(
            "route",
            "outbound_route.reorder",
            json!({"site": SITE_MAIN, "route": ROUTE, "trunk_bases": trunk_bases}),
        )),
        action("ivr", "ivr.route", json!({"ivr": IVR_SALES, "open_hours_flow": FLOW_EMERGENCY})),
        action("stop", "campaign.stop", json!({"campaign": CAMPAIGN})),
        action(
            "throttle",
            "campaign.throttle",
            json!({"campaign": CAMPAIGN, "outbound_lines": 4, "abandon_rate": 1.5, "calls_per_agent": 1}),
        ),
        action(
            "members",
            "queue.members",
            json!({"queue": QUEUE, "members": &MEMBERS[..3], "joined": false}),
        ),
        action("queue", "queue.put", json!({"queue": QUEUE, "set": {"description": "{{data.gatewayId}}"}})),
        telephony(action("edge", "edge.out_of_service", json!({"edge": EDGE_MAIN, "drain_s": 1}))),
    ];
    let world = World::start("native-kinds", Options::default(), &actions).await;
    type Expected = fn(&Value) -> bool;
    let cases: [(&str, Kind, &str, Expected); 9] = [
        ("group", Kind::EmergencyGroup, GROUP_EVACUATION, |group| group["enabled"] == true),
        ("row", Kind::DataTableRow, &row, |row| row["destination"] == "backup of gw-1"),
        ("route", Kind::OutboundRoute, &route, |route| {
            route["externalTrunkBases"][0]["id"] == TRUNK_BASE_BACKUP
        }),
        ("ivr", Kind::Ivr, IVR_SALES, |ivr| ivr["openHoursFlow"]["id"] == FLOW_EMERGENCY),
        ("stop", Kind::Campaign, CAMPAIGN, |campaign| campaign["campaignStatus"] == "off"),
        ("throttle", Kind::Campaign, CAMPAIGN, |campaign| campaign["outboundLineCount"] == 4),
        ("members", Kind::QueueMember, &member, |member| member["joined"] == false),
        ("queue", Kind::Queue, QUEUE, |queue| queue["description"] == "gw-1"),
        ("edge", Kind::Edge, EDGE_MAIN, |edge| edge["statusCode"] == "INACTIVE"),
    ];
    let before = cases.map(|(_, kind, key, _)| content(world.simulator.object(kind, key)));
    for (action, kind, key, done) in cases {
        world.fails(action).await;
        world.until(kind, key, action, done).await;
    }
    // E11: each is looked at again, and stands.
    world.until_proven(cases.len()).await;
    // Three of five members, and one call.
    let patched = format!("PATCH /api/v2/routing/queues/{QUEUE}/members Some(202)");
    assert_eq!(world.writes("/members"), [patched.as_str()]);
    let joined = |joined: bool| json!({"joined": joined});
    let bases = trunk_bases.map(|id| json!({"id": id}));
    let edges = "TelephonyProvidersEdgeApi";
    // API, method, arguments, and what it reads.
    let written = [
        json!(["ArchitectApi", "get_architect_emergencygroup", [GROUP_EVACUATION], {
            "enabled": true, "emergencyCallFlows": [{"emergencyFlow": {"id": FLOW_EMERGENCY}}]}]),
        json!(["ArchitectApi", "get_flows_datatable_row", [TABLE, ROWS[0]], {
            "key": ROWS[0], "destination": "backup of gw-1", "announce": false}]),
        json!([edges, "get_telephony_providers_edges_site_outboundroute", [SITE_MAIN, ROUTE], {
            "externalTrunkBases": bases}]),
        json!(["ArchitectApi", "get_architect_ivr", [IVR_SALES], {"openHoursFlow": {"id": FLOW_EMERGENCY}}]),
        json!(["OutboundApi", "get_outbound_campaign", [CAMPAIGN], {
            "campaignStatus": "off", "outboundLineCount": 4, "abandonRate": 1.5, "maxCallsPerAgent": 1}]),
        json!(["RoutingApi", "get_routing_queue_members", [QUEUE], {
            "entities": [joined(false), joined(false), joined(false), joined(true), joined(true)]}]),
        json!(["RoutingApi", "get_routing_queue", [QUEUE], {"description": "gw-1"}]),
        json!([edges, "get_telephony_providers_edge", [EDGE_MAIN], {"statusCode": "INACTIVE"}]),
    ];
    let sdk = sdk::fetched(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &written).await;
    assert_eq!(code, 0, "{text}");
    for (action, ..) in cases {
        world.recovers(action).await;
    }
    for ((action, kind, key, _), before) in cases.into_iter().zip(before) {
        world.until(kind, key, &format!("{action} undone"), |object| content(object.clone()) == before).await;
    }
    world.until_over().await;
    assert_eq!(world.writes("/members"), [patched.as_str(), patched.as_str()]);
    let throttled = format!("PATCH /api/v2/outbound/campaigns/{CAMPAIGN} Some(204)");
    assert_eq!(world.writes(CAMPAIGN).iter().filter(|call| **call == throttled).count(), 2);
    // And would find what it does not know, or what was not written.
    world.simulator.edit(Kind::Queue, QUEUE, &json!({"invented": 1})).unwrap();
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &written[6..7]).await;
    assert_eq!(code, 1, "{text}");
    for named in ["Queue.invented: unknown field", "description: 'Customer service'; 'gw-1' was expected"] {
        assert!(text.contains(named), "{named} in\n{text}");
    }
    world.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_what_cannot_be_looked_at_is_started_once() {
    let runs = |name, flow| {
        let parameters = json!({"flow": flow, "input": {"gateway": "{{data.gatewayId}}"}});
        Action { back: "[flow_back]", ..action(name, "flow.execute", parameters) }
    };
    let actions = [
        runs("flow", FLOW_WORKFLOW),
        runs("flow_back", FLOW_OPEN),
        Action {
            back: "[reboot]",
            client: "telephony",
            ..action("reboot", "edge.reboot", json!({"edge": EDGE_BRANCH, "drain_s": 0}))
        },
    ];
    let world = World::start("native-launch", Options::default(), &actions).await;
    for (n, (name, path)) in [("flow", "/flows/executions"), ("reboot", "/reboot")].into_iter().enumerate() {
        world.fails(name).await;
        let began = clock::now();
        while world.writes(path).is_empty() {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.writes(path).len(), 1, "{name}");
        // E11: the flow has come to its end, the edge is there again.
        world.until_proven(n + 1).await;
    }
    // What undoes a flow is a flow of its own.
    world.recovers("flow").await;
    let began = clock::now();
    while world.writes("/flows/executions").len() < 2 {
        assert!(began.elapsed() < SOON, "{}", world.installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(50)).await;
    }
    let mut runs: Vec<(Value, Value)> = world
        .simulator
        .objects(Kind::FlowExecution)
        .into_iter()
        .map(|run| (run["flowId"].clone(), run["inputData"]["gateway"].clone()))
        .collect();
    runs.sort_by_key(|(flow, _)| flow != FLOW_WORKFLOW);
    assert_eq!(runs, [FLOW_WORKFLOW, FLOW_OPEN].map(|flow| (json!(flow), json!("gw-1"))));
    // What these calls carry is what the platform's models have.
    let sdk = sdk::fetched(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &[]).await;
    assert_eq!(code, 0, "{text}");
    // The answer is lost: it may have happened, so a person has to look.
    world.simulator.fault(Fault::new("/api/v2/flows/executions", Outcome::CloseMidBody));
    world.report("flow", "gw-2", "FAILED", 3).await;
    let began = clock::now();
    while !world.incidents().to_string().contains("must not be asked twice") {
        assert!(began.elapsed() < SOON, "{:#}", world.incidents());
        clock::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.writes("/flows/executions").len(), 3);
    world.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_human_in_between_is_never_overwritten() {
    let pager = Target::start().await;
    let world = World::start_with("native-human", Options::default(), &[group()], Some(&pager)).await;
    world.fails("group").await;
    world.until_enabled(true).await;
    world
        .simulator
        .edit(Kind::EmergencyGroup, GROUP_EVACUATION, &json!({"description": "held open by hand"}))
        .unwrap();
    let edited = world.group();
    world.recovers("group").await;
    world.until_held("somebody has changed it since").await;
    let pages = pager.wait_for(1, SOON).await;
    let page: Value = serde_json::from_str(&pages[0].body).unwrap();
    assert_eq!(page["what"], "gw-1 of group");
    assert!(page["why"].as_str().unwrap().contains("somebody has changed it since"), "{page}");
    assert_eq!(world.group(), edited);
    assert_eq!(pager.calls().len(), 1, "paged once");
    world.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_stale_version_is_looked_at_again_and_merged() {
    for stale_version in [StaleVersion::Conflict, StaleVersion::BadRequest] {
        let options = Options { stale_version, ..Options::default() };
        let world = World::start("native-stale", options, &[group()]).await;
        // While our PUT is on its way, somebody gives the group another name.
        let slow = Outcome::Delay { delay_ms: 1_000 };
        world.simulator.fault(Fault::new("/api/v2/architect/emergencygroups", slow).method("PUT").times(1));
        world.fails("group").await;
        let began = clock::now();
        while !world.simulator.calls().iter().any(|call| call.method == "PUT") {
            assert!(began.elapsed() < SOON);
            clock::sleep(Duration::from_millis(20)).await;
        }
        world
            .simulator
            .edit(Kind::EmergencyGroup, GROUP_EVACUATION, &json!({"name": "Renamed meanwhile"}))
            .unwrap();
        world.until_enabled(true).await;
        assert_eq!(world.group()["name"], "Renamed meanwhile");
        let puts = world.writes("emergencygroups");
        assert_eq!(puts.len(), 2, "{puts:?}");
        world.recovers("group").await;
        world.until_enabled(false).await;
        world.until_over().await;
        assert_eq!(world.group()["name"], "Renamed meanwhile");
        world.ends_well();
    }
}

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

/// One trunk's answer is lost, and another's remedy of the same group comes first: the group is put back all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_lost_answer_of_one_costs_no_other_the_way_back() {
    let world = World::start("native-shared-lost", Options::default(), &[group()]).await;
    let before = content(world.group());
    let lost = Outcome::Status { status: 500, retry_after_s: None };
    for outcome in [lost, Outcome::CloseMidBody, Outcome::Hang] {
        let what = format!("{outcome:?}");
        let put = Fault::new("/api/v2/architect/emergencygroups", outcome).method("PUT").times(1).applied();
        world.simulator.fault(put);
        world.simulator.forget_calls();
        let entities = ["gw-1", "gw-2", "gw-3"];
        let before_carried = world.installation.log_of("executor", 0).matches("Carried").count();
        let all = |status, times| entities.map(|entity| world.report("group", entity, status, times));
        futures_util::future::join_all(all("FAILED", 3)).await;
        let carried = || world.installation.log_of("executor", 0).matches("Carried").count();
        let began = clock::now();
        while carried() - before_carried < entities.len() {
            assert!(began.elapsed() < SOON, "{what}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.group()["enabled"], true, "{what}");
        futures_util::future::join_all(all("HEALTHY", 2)).await;
        world.until_over().await;
        assert_eq!(content(world.group()), before, "{what}");
        assert_eq!(world.writes("emergencygroups").len(), 2, "{what}: {:?}", world.writes("emergencygroups"));
    }
    world.ends_well();
}

/// Two playbooks change different fields of one IVR: neither takes the other for a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_two_changes_of_one_object_are_both_undone() {
    let actions = [
        action("hours", "ivr.route", json!({"ivr": IVR_SALES, "open_hours_flow": FLOW_EMERGENCY})),
        action("numbers", "ivr.route", json!({"ivr": IVR_SALES, "dnis": ["+13175550188"]})),
    ];
    let world = World::start("native-two", Options::default(), &actions).await;
    let before = content(world.simulator.object(Kind::Ivr, IVR_SALES));
    let until = async |what: &str, expected: &dyn Fn(&Value) -> bool| {
        world.until(Kind::Ivr, IVR_SALES, what, expected).await;
    };
    world.fails("hours").await;
    until("hours", &|ivr| ivr["openHoursFlow"]["id"] == FLOW_EMERGENCY).await;
    world.fails("numbers").await;
    until("numbers", &|ivr| ivr["dnis"] == json!(["+13175550188"])).await;
    // The first that was done is the first to be undone.
    world.recovers("hours").await;
    until("hours undone", &|ivr| ivr["openHoursFlow"]["id"] == FLOW_OPEN).await;
    world.recovers("numbers").await;
    world.until_over().await;
    assert_eq!(content(world.simulator.object(Kind::Ivr, IVR_SALES)), before);
    world.ends_well();
}

/// The trouble comes back while what was undone takes effect: it is done again, and not taken for done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_relapse_while_an_undo_takes_effect_is_remedied() {
    let actions = [
        action("stop", "campaign.stop", json!({"campaign": CAMPAIGN})),
        action("members", "queue.members", json!({"queue": QUEUE, "members": MEMBERS, "joined": false})),
    ];
    let options = Options { settle: Duration::from_secs(4), ..Options::default() };
    let world = World::start("native-relapse", options, &actions).await;
    let member = format!("{QUEUE}/{}", MEMBERS[4]);
    for (name, kind, key, path, field, done, undone) in [
        ("stop", Kind::Campaign, CAMPAIGN, CAMPAIGN, "campaignStatus", json!("off"), json!("on")),
        ("members", Kind::QueueMember, &member, "/members", "joined", json!(false), json!(true)),
    ] {
        world.fails(name).await;
        world.until(kind, key, name, |object| object[field] == done).await;
        world.recovers(name).await;
        world.until_over().await;
        assert_eq!(world.simulator.object(kind, key)[field], done, "{name}: the undo shows already");
        assert_eq!(world.writes(path).len(), 2, "{name}");
        let proven = world.proven();
        world.fails(name).await;
        let began = clock::now();
        while world.writes(path).len() < 3 {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        // Long enough for everything to have taken effect.
        world.until_proven(proven + 1).await;
        clock::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.simulator.object(kind, key)[field], done, "{name}");
        world.recovers(name).await;
        world.until(kind, key, name, |object| object[field] == undone).await;
        world.until_over().await;
    }
    world.ends_well();
}

/// E11: the platform says that it has done it, and has not; a flow is started, and fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_what_the_platform_only_says_is_found_out() {
    let pager = Target::start().await;
    let flow = Action { back: "[flow]", ..action("flow", "flow.execute", json!({"flow": FLOW_WORKFLOW})) };
    let options = Options { settle: Duration::from_secs(60), ..Options::default() };
    let world = World::start_with("native-feigned", options, &[group(), flow], Some(&pager)).await;
    let put = Fault::new("/api/v2/architect/emergencygroups", Outcome::Feign).method("PUT").times(1);
    world.simulator.fault(put);
    world.report("group", "gw-1", "FAILED", 3).await;
    world.report("flow", "gw-2", "FAILED", 3).await;
    let began = clock::now();
    let executions = || world.simulator.calls().into_iter().filter(|call| call.path.contains("executions/"));
    while executions().next().is_none() {
        assert!(began.elapsed() < SOON, "{}", world.installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(50)).await;
    }
    let id = executions().next().unwrap().path.rsplit('/').next().unwrap().to_string();
    world.simulator.edit(Kind::FlowExecution, &id, &json!({"status": "FAILED"})).unwrap();
    let pages = pager.wait_for(2, 2 * SOON).await;
    let told: Vec<String> = pages.iter().map(|page| page.body.clone()).collect();
    for (what, why) in [
        ("gw-1 of group", "it is not as we wanted it; it shows"),
        ("gw-2 of flow", "it has failed; it shows"),
    ] {
        let page = told.iter().find(|page| page.contains(what)).unwrap_or_else(|| panic!("{told:?}"));
        assert!(page.contains("was carried out and did not work") && page.contains(why), "{page}");
    }
    assert_eq!((world.writes("emergencygroups").len(), pager.calls().len()), (1, 2), "nothing is repeated");
    // Over all the same, and there is nothing to be undone.
    world.recovers("group").await;
    let began = clock::now();
    while world.incidents().to_string().contains("gw-1") {
        assert!(began.elapsed() < SOON, "{:#}", world.incidents());
        clock::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((world.writes("emergencygroups").len(), world.group()["enabled"].clone()), (1, json!(false)));
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
        world.until(Kind::EmergencyGroup, GROUP_EVACUATION, &what, |group| group["enabled"] == true).await;
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
        [(Kind::EmergencyGroup, GROUP_EVACUATION), (Kind::DataTableRow, &row), (Kind::Edge, EDGE_MAIN)];
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
    world.until(Kind::DataTableRow, &row, "the row", |row| row["destination"] == "gw-2").await;
    world.until(Kind::Edge, EDGE_MAIN, "the edge", |edge| edge["statusCode"] == "INACTIVE").await;
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

/// E11: worked, failed and unknown are told apart by looking; the latter two are held, and people are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_after_acting_it_is_looked_at_whether_it_worked() {
    let (pager, silent) = (Target::start().await, Target::start().await);
    let looked_at = format!("get('/api/v2/architect/emergencygroups/{GROUP_EVACUATION}')");
    let with = |name, worked: String| {
        let verify = Some(format!("after: 500ms, within: 2s, client: routing, worked: \"{worked}\""));
        Action { name, verify, ..group() }
    };
    // Any URL that answers JSON.
    let probed = format!("get('{SIMULATOR}/simulator/objects/emergency_group/{GROUP_EVACUATION}')");
    let actions = [
        with("worked", format!("{looked_at}.enabled == true")),
        with("probed", format!("{probed}.enabled == true")),
        with("failed", format!("{looked_at}.name == 'Backup'")),
        with("denied", format!("{probed}.name == 'Backup'")),
        with("unknown", "get('http://127.0.0.1:9/state').active == 'B'".into()),
        // No JSON, and time for one look or two.
        Action {
            verify: Some(format!(
                "after: 500ms, within: 100ms, worked: \"get('http://{}/state').active == 'B'\"",
                silent.address
            )),
            ..with("silent", String::new())
        },
    ];
    let world = World::start_with("native-verify", Options::default(), &actions, Some(&pager)).await;
    for (n, name) in ["worked", "probed"].into_iter().enumerate() {
        world.fails(name).await;
        world.until_enabled(true).await;
        let began = clock::now();
        while world.installation.log_of("executor", 0).matches("worked: Some(true)").count() <= n {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        world.recovers(name).await;
        world.until_enabled(false).await;
        world.until_over().await;
    }
    assert_eq!(pager.calls().len(), 0);
    let (failed, unknown) = ("did not work", "it is not known whether it worked");
    let cases = [("failed", failed), ("denied", failed), ("unknown", unknown), ("silent", unknown)];
    for (n, (name, reason)) in cases.into_iter().enumerate() {
        world.report(name, &format!("gw-{name}"), "FAILED", 3).await;
        let pages = pager.wait_for(n + 1, SOON).await;
        let page: Value = serde_json::from_str(&pages[n].body).unwrap();
        assert_eq!(page["what"], format!("gw-{name} of {name}"));
        assert!(page["why"].as_str().unwrap().contains(reason), "{page}");
        let shown = world.incidents();
        let open = shown.as_array().unwrap().iter().find(|open| open["playbook"] == name).unwrap();
        assert!(open["held"].as_str().unwrap().contains(reason), "{open:#}");
    }
    // Once time was over, it was asked three times; before, at most once.
    assert!((3..=4).contains(&silent.calls().len()), "{:?}", silent.calls());
    // Nothing is undone by that, and health ends it as always.
    assert_eq!(world.group()["enabled"], true);
    world.ends_well();
}

/// E11: the same three by what the source says after the remedy. The executor looks at nothing, and the remedy's own
/// answer is no event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_after_acting_the_event_stream_tells_whether_it_worked() {
    let pager = Target::start().await;
    let with = |name, within| {
        let verify = Some(format!("after: 500ms, within: {within}, worked: event(status == 'BACKUP')"));
        Action { name, verify, ..group() }
    };
    let actions = [with("worked", "60s"), with("failed", "5s"), with("unknown", "2s")];
    let world = World::start_with("native-listen", Options::default(), &actions, Some(&pager)).await;
    // What is told of the incident of an entity, if there is one.
    let told = |entity: &str, what: &str| {
        let shown = world.incidents();
        let of_entity = shown.as_array().unwrap().iter().find(|open| open["entityId"] == entity);
        let Some(id) = of_entity.and_then(|open| open["incidentId"].as_str()) else { return String::new() };
        let told = world.installation.holdline(&["incident", id, what]);
        String::from_utf8(told.stdout).unwrap()
    };
    // The source says it until it is heard.
    world.report("worked", "gw-worked", "FAILED", 3).await;
    let began = clock::now();
    while !told("gw-worked", "explain").contains("worked for gw-worked worked (event worked-gw-worked-BACKUP")
    {
        assert!(began.elapsed() < SOON, "{}", world.installation.logs());
        world.report("worked", "gw-worked", "BACKUP", 1).await;
        clock::sleep(Duration::from_millis(100)).await;
    }
    let again = told("gw-worked", "replay");
    assert!(again.contains("byte for byte"), "{again}");
    world.report("worked", "gw-worked", "HEALTHY", 2).await;
    world.until_enabled(false).await;
    world.until_over().await;
    assert_eq!(pager.calls().len(), 0);
    let cases = [
        ("failed", Some("PRIMARY"), "did not work", "denies it"),
        ("unknown", None, "it is not known whether it worked", "no event of it was heard within 2 s"),
    ];
    for (n, (name, says, reason, seen)) in cases.into_iter().enumerate() {
        let entity = format!("gw-{name}");
        world.report(name, &entity, "FAILED", 3).await;
        let began = clock::now();
        while pager.effects().len() <= n {
            assert!(began.elapsed() < SOON, "{}\n{}", told(&entity, "explain"), world.installation.logs());
            if let Some(status) = says {
                world.report(name, &entity, status, 1).await;
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
        let page: Value = serde_json::from_str(&pager.effects()[n].body).unwrap();
        assert_eq!(page["what"], format!("{entity} of {name}"));
        let shown = world.incidents();
        let open = shown.as_array().unwrap().iter().find(|open| open["entityId"] == entity).unwrap();
        for part in [reason, seen] {
            assert!(page["why"].as_str().unwrap().contains(part), "{page}");
            assert!(open["held"].as_str().unwrap().contains(part), "{open}");
        }
        let again = told(&entity, "replay");
        assert!(again.contains(seen) && again.contains("byte for byte"), "{again}");
    }
    assert_eq!(world.group()["enabled"], true);
    assert!(!world.installation.log_of("executor", 0).contains("Verified"), "the executor looked");
    world.ends_well();
}

/// What several entities need of one object is changed once, and put back when the last of them is over: not while
/// another one still relies on it, and not as if somebody had intervened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_what_two_entities_need_is_undone_when_both_are_over() {
    let world = World::start("native-shared", Options::default(), &[group()]).await;
    let before = world.group();
    let open = || world.incidents().as_array().unwrap().len();
    let until_open = async |expected: usize| {
        let began = clock::now();
        while open() != expected {
            assert!(began.elapsed() < SOON, "{:#}", world.incidents());
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    let until_carried = async |entity: &str| {
        let began = clock::now();
        loop {
            let incidents = world.incidents();
            let of = incidents.as_array().unwrap().iter().find(|incident| incident["entityId"] == entity);
            if let Some(id) = of.and_then(|incident| incident["incidentId"].as_str()) {
                let told = world.installation.holdline(&["incident", id, "explain"]);
                let told = String::from_utf8(told.stdout).unwrap();
                if told.contains("others still rely on it") || told.contains("the target answered") {
                    return;
                }
            }
            assert!(began.elapsed() < SOON, "{entity}: {incidents:#}");
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    world.report("group", "gw-1", "FAILED", 3).await;
    world.until_enabled(true).await;
    world.report("group", "gw-2", "FAILED", 3).await;
    until_carried("gw-2").await;
    world.report("group", "gw-1", "HEALTHY", 2).await;
    until_open(1).await;
    assert_eq!((world.group()["enabled"].clone(), world.writes("emergencygroups").len()), (json!(true), 1));
    // The one who came first comes again, and is over once more.
    world.report("group", "gw-1", "FAILED", 3).await;
    until_carried("gw-1").await;
    world.report("group", "gw-1", "HEALTHY", 2).await;
    until_open(1).await;
    assert_eq!((world.group()["enabled"].clone(), world.writes("emergencygroups").len()), (json!(true), 1));
    world.report("group", "gw-2", "HEALTHY", 2).await;
    world.until_enabled(false).await;
    world.until_over().await;
    assert_eq!((content(world.group()), world.writes("emergencygroups").len()), (content(before.clone()), 2));
    // All at once, as often as it happens.
    for _ in 0..3 {
        let entities = ["gw-3", "gw-4", "gw-5", "gw-6"];
        for (status, times) in [("FAILED", 3), ("HEALTHY", 2)] {
            let reports = entities.map(|entity| world.report("group", entity, status, times));
            futures_util::future::join_all(reports).await;
            if status == "FAILED" {
                for entity in entities {
                    until_carried(entity).await;
                }
                assert_eq!(world.group()["enabled"], true);
            }
        }
        world.until_over().await;
        assert_eq!(content(world.group()), content(before.clone()));
    }
    world.ends_well();
}
