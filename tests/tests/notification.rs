//! G9: notification channels that the gateway opens itself, against the simulated platform: whatever happens to
//! them, an outage is found, acted on, verified and undone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdline_simulator::organisation::*;
use holdline_simulator::{Fault, Kind, Options, Simulator, SocketFault};
use holdline_stage::clock;
use holdline_tests::platform::content;
use holdline_tests::programs::{Installation, STAGES, scratch};
use holdline_tests::target::Target;
use serde_json::{Value, json};

/// Where the state of edges and trunks is looked at.
const TELEPHONY: &str = "/api/v2/telephony";

const CHANNELS: &str = "/api/v2/notifications/channels";

/// `gateway.notification_silence_ms` of the tests; the simulator beats more often.
const SILENCE_MS: &str = "1500";
const HEARTBEAT_EVERY: Duration = Duration::from_millis(300);

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(40);

async fn platform(change: impl FnOnce(&mut Options)) -> Simulator {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut options = Options {
        calls_per_window: None,
        heartbeat_every: HEARTBEAT_EVERY,
        closing_notice: Duration::from_secs(4),
        ..Options::default()
    };
    change(&mut options);
    Simulator::start(options).await.unwrap()
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const TRUNKS: &str = "v2.telephony.providers.edges.trunks.{id}";
const EDGES: &str = "v2.telephony.providers.edges.{id}";

/// A channel of the platform, and what else its file says.
fn subscribe(folder: &Path, name: &str, topic: &str, more: Value) {
    let mut subscription =
        json!({"name": name, "source": "notification", "topicName": topic, "client": "telephony"});
    subscription.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    write(folder, &format!("subscriptions/{name}.json"), &subscription.to_string());
}

/// Its state is looked at so often.
fn polled(every: &str) -> Value {
    json!({"poll": {"every": every}})
}

/// Where the platform is, and as whom it is called.
fn settings(folder: &Path, simulator: &Simulator) {
    let client = |name, id, secret| format!("    {name}: {{id: \"env:{id}\", secret: \"env:{secret}\"}}\n");
    let settings = format!(
        "platform:\n  region: mypurecloud.ie\n  connect_to: {}\n  clients:\n{}{}",
        simulator.address(),
        client("telephony", "PLATFORM_ID", "PLATFORM_SECRET"),
        client("routing", "ROUTING_ID", "ROUTING_SECRET"),
    );
    write(folder, "holdline.yaml", &settings);
}

/// Two subscriptions, trunks and edges, each with a playbook that acts after a second.
fn playbooks(folder: &Path, simulator: &Simulator, target: &Target) {
    for (name, topic) in [("trunks", TRUNKS), ("edges", EDGES)] {
        subscribe(folder, name, topic, polled("1s"));
        for direction in ["remediate", "revert"] {
            let action = json!({"name": format!("{name}_{direction}"), "actionType": "WEBHOOK", "method": "POST",
                "url": format!("http://{}/{direction}/{{{{data.entity}}}}", target.address)});
            write(folder, &format!("actions/{name}_{direction}.json"), &action.to_string());
        }
        write(
            folder,
            &format!("{name}.playbook.yaml"),
            &format!(
                "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.entity\n  failed: status == \
                 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm:\n  failures: 3\n  stable_for: 1s\nact:\n  \
                 failed:\n    do: [{name}_remediate]\n    class: failover\nrevert:\n  stable_for: 1s\n  do: \
                 [{name}_revert]\n"
            ),
        );
    }
    settings(folder, simulator);
}

/// Trunks alone: while one is down, callers are sent to an emergency group's flow.
fn evacuation(folder: &Path, simulator: &Simulator, _: &Target) {
    subscribe(folder, "trunks", TRUNKS, polled("1s"));
    let action = json!({"name": "evacuate", "actionType": "GENESYS", "kind": "emergency_group.set",
        "client": "routing", "parameters": {"group": GROUP_EVACUATION}});
    write(folder, "actions/evacuate.json", &action.to_string());
    let worked = format!("get('/api/v2/architect/emergencygroups/{GROUP_EVACUATION}').enabled == true");
    let playbook = format!(
        "playbook: trunk\nmode: live\non:\n  subscription: trunks\n  entity: data.entity\n  failed: status == \
         'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm:\n  failures: 3\n  stable_for: 1s\nact:\n  failed:\n    \
         do: [evacuate]\n    class: failover\n    verify: {{after: 300ms, within: 10s, client: routing, worked: \
         \"{worked}\"}}\nrevert:\n  stable_for: 1s\n  do: undo\n"
    );
    write(folder, "trunk.playbook.yaml", &playbook);
    settings(folder, simulator);
}

fn installed(name: &str, folder: &Path, gateways: usize) -> Installation {
    let mut installation = Installation::broker(name, folder, "default");
    installation.variable("PLATFORM_ID", TELEPHONY_CLIENT);
    installation.variable("PLATFORM_SECRET", TELEPHONY_CLIENT_SECRET);
    installation.variable("ROUTING_ID", CLIENT);
    installation.variable("ROUTING_SECRET", CLIENT_SECRET);
    installation.variable("HOLDLINE_GATEWAY_NOTIFICATION_SILENCE_MS", SILENCE_MS);
    for stage in STAGES {
        for replica in 0..if stage == "gateway" { gateways } else { 1 } {
            installation.spawn(stage, replica);
        }
    }
    installation
}

struct World {
    /// Its playbooks.
    folder: PathBuf,
    simulator: Simulator,
    target: Target,
    installation: Installation,
    /// Sockets that are open when all is well.
    channels: usize,
}

impl World {
    async fn new(name: &str, gateways: usize) -> World {
        World::with(platform(|_| {}).await, name, gateways, 2, playbooks).await
    }

    async fn with(
        simulator: Simulator,
        name: &str,
        gateways: usize,
        channels: usize,
        playbooks: impl Fn(&Path, &Simulator, &Target),
    ) -> World {
        let world = World::starting(simulator, name, gateways, channels, playbooks).await;
        world.installation.wait_ready();
        world.connected().await;
        world
    }

    /// The same, and nothing is waited for.
    async fn starting(
        simulator: Simulator,
        name: &str,
        gateways: usize,
        channels: usize,
        playbooks: impl Fn(&Path, &Simulator, &Target),
    ) -> World {
        let target = Target::start().await;
        let folder: PathBuf = scratch(&format!("{name}-playbooks"));
        playbooks(&folder, &simulator, &target);
        let installation = installed(name, &folder, gateways);
        World { folder, simulator, target, installation, channels }
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = clock::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}: did not come about\n{}", self.installation.logs());
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connected(&self) {
        self.until("every channel is connected", || self.simulator.sockets() == self.channels).await;
    }

    fn set(&self, entity: &str, up: bool) {
        if [EDGE_MAIN, EDGE_BRANCH].contains(&entity) {
            self.simulator.set_edge(entity, up).unwrap();
        } else {
            self.simulator.set_trunk(entity, up, &[]).unwrap();
        }
    }

    fn effects(&self, direction: &str, entity: &str) -> usize {
        let path = format!("/{direction}/{entity}");
        self.target.effects().iter().filter(|call| call.path == path).count()
    }

    async fn effect(&self, direction: &str, entity: &str, count: usize) {
        let what = format!("{direction} of {entity}, {count} times");
        self.until(&what, || self.effects(direction, entity) >= count).await;
        assert_eq!(self.effects(direction, entity), count, "{what}");
    }

    /// Entities that are down come up again, and what was done is undone.
    async fn recover(&self, entities: &[&str], count: usize) {
        for entity in entities {
            self.effect("remediate", entity, count).await;
        }
        self.connected().await;
        for entity in entities {
            self.set(entity, true);
        }
        for entity in entities {
            self.effect("revert", entity, count).await;
        }
    }

    /// How often sockets of a gateway have ended for this reason.
    fn reconnects(&self, replica: usize, reason: &str) -> u64 {
        let metrics = self.installation.admin("gateway", replica, "/metrics");
        let label = format!("reason=\"{reason}\"");
        let of = |line: &&str| line.starts_with("holdline_reconnects") && line.contains(&label);
        let count = metrics.lines().find(of).and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.unwrap_or(0)
    }

    fn called(&self, method: &str, path: &str) -> usize {
        self.simulator.calls().iter().filter(|call| call.method == method && call.path == path).count()
    }

    /// How often a channel was subscribed.
    fn subscribed(&self) -> usize {
        let is_one = |path: &str| path.starts_with(CHANNELS) && path.ends_with("/subscriptions");
        self.simulator.calls().iter().filter(|call| call.method == "PUT" && is_one(&call.path)).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_whatever_happens_to_a_channel_an_outage_is_found() {
    let world = World::new("notification", 1).await;
    // Told as it happens.
    world.set(TRUNK_PRIMARY, false);
    world.recover(&[TRUNK_PRIMARY], 1).await;

    // Nothing is connected while it happens: no message ever tells of it.
    world.simulator.fault(Fault::status("/api/v2/notifications", 503));
    world.simulator.strike_sockets(SocketFault::Cut);
    world.until("nothing is connected", || world.simulator.sockets() == 0).await;
    world.set(TRUNK_BACKUP, false);
    world.set(EDGE_MAIN, false);
    clock::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.effects("remediate", TRUNK_BACKUP) + world.effects("remediate", EDGE_MAIN), 0);
    world.simulator.clear_faults();
    world.recover(&[TRUNK_BACKUP, EDGE_MAIN], 1).await;

    // The connection stands and is dead, and no look tells anything either.
    assert_eq!(world.reconnects(0, "silent"), 0);
    world.simulator.fault(Fault::status(TELEPHONY, 503));
    world.simulator.strike_sockets(SocketFault::Silence);
    world.set(TRUNK_BRANCH, false);
    world.set(EDGE_BRANCH, false);
    world.until("silence is noticed", || world.reconnects(0, "silent") == 2).await;
    assert_eq!(world.effects("remediate", TRUNK_BRANCH) + world.effects("remediate", EDGE_BRANCH), 0);
    world.simulator.clear_faults();
    world.recover(&[TRUNK_BRANCH, EDGE_BRANCH], 1).await;

    // The platform announces the end: the next socket is there before it.
    let opened = world.called("POST", CHANNELS);
    world.simulator.strike_sockets(SocketFault::Closing);
    let began = clock::now();
    while began.elapsed() < Duration::from_secs(5) {
        assert_eq!(world.simulator.sockets(), 2, "a socket was missing for a while");
        clock::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.reconnects(0, "closing"), 2);
    world.set(TRUNK_PRIMARY, false);
    world.recover(&[TRUNK_PRIMARY], 2).await;
    assert_eq!(world.called("POST", CHANNELS), opened, "the channels are the same");

    // Other users of the client take its channels away.
    evict(&world.simulator).await;
    world.set(TRUNK_BACKUP, false);
    world.recover(&[TRUNK_BACKUP], 2).await;
    let ours = world.called("POST", CHANNELS) - opened - 20;
    assert_eq!(ours, 2, "one new channel for each that was taken");

    // Its tokens are good no more.
    world.simulator.revoke_tokens();
    world.set(TRUNK_BRANCH, false);
    world.recover(&[TRUNK_BRANCH], 2).await;

    assert!(!world.installation.logs().contains(TELEPHONY_CLIENT_SECRET), "a secret was logged");
    assert!(!world.installation.logs().contains("streaming-0-"), "an address of a channel was logged");
    world.installation.conserved();
}

/// The whole way, whatever becomes of the socket: the trunk goes down, the emergency group is enabled, that is
/// verified, the trunk comes up, and the group is as it was, its emergency call flows included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_e11_g9_a_trunk_goes_down_and_the_emergency_group_is_enabled_verified_and_restored() {
    let world = World::with(platform(|_| {}).await, "notification-trunk", 1, 1, evacuation).await;
    let group = || world.simulator.object(Kind::EMERGENCY_GROUP, GROUP_EVACUATION);
    let before = content(group());
    assert!(before["emergencyCallFlows"].as_array().is_some_and(|flows| !flows.is_empty()), "{before:#}");
    let verified =
        |world: &World| world.installation.log_of("executor", 0).matches("worked: Some(true)").count();
    for (round, what) in [(1, "told"), (2, "cut"), (3, "silent")] {
        match what {
            // No look tells of it: the message does.
            "told" => {
                world.simulator.fault(Fault::status(TELEPHONY, 503));
                world.set(TRUNK_PRIMARY, false);
            }
            // It happens while nobody listens: the look after the next connection finds it.
            "cut" => {
                world.simulator.fault(Fault::status("/api/v2/notifications", 503));
                world.simulator.strike_sockets(SocketFault::Cut);
                world.until("nothing is connected", || world.simulator.sockets() == 0).await;
                world.set(TRUNK_PRIMARY, false);
                world.until("the end is noticed", || world.reconnects(0, "unreachable") > 0).await;
                assert_eq!(group()["enabled"], false, "{what}");
                world.simulator.clear_faults();
            }
            // No message tells of it, and no look before heartbeats are missed.
            _ => {
                world.simulator.fault(Fault::status(TELEPHONY, 503));
                world.simulator.strike_sockets(SocketFault::Silence);
                world.set(TRUNK_PRIMARY, false);
                world.until("silence is noticed", || world.reconnects(0, "silent") == 1).await;
                assert_eq!(group()["enabled"], false, "{what}");
                world.simulator.clear_faults();
            }
        }
        world.until(&format!("{what}: enabled"), || group()["enabled"] == true).await;
        world.until(&format!("{what}: verified"), || verified(&world) == 2 * round - 1).await;
        let ends = [world.reconnects(0, "closed"), world.reconnects(0, "silent")];
        assert_eq!(ends, [u64::from(round > 1), u64::from(round > 2)], "{what}");
        world.simulator.clear_faults();
        world.connected().await;
        world.set(TRUNK_PRIMARY, true);
        world.until(&format!("{what}: restored"), || group()["enabled"] == false).await;
        assert_eq!(content(group()), before, "{what}");
        world
            .until(&format!("{what}: over"), || {
                let shown = world.installation.holdline(&["incidents", "--output", "json"]);
                serde_json::from_slice::<Value>(&shown.stdout).is_ok_and(|open| open == json!([]))
            })
            .await;
        assert_eq!(verified(&world), 2 * round, "{what}: the undo as well");
    }
    // A dead connection is noticed as well while looks, more often than it may be silent, go on and go well.
    world.simulator.strike_sockets(SocketFault::Silence);
    world.until("silence is noticed between looks", || world.reconnects(0, "silent") == 2).await;
    world.connected().await;
    let path = format!("/api/v2/architect/emergencygroups/{GROUP_EVACUATION}");
    let writes = world.called("PUT", &path);
    assert_eq!(writes, 6, "each once");
    world.installation.conserved();
}

/// Twenty channels of somebody else's, as the same client.
async fn evict(simulator: &Simulator) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let token = client
        .post(format!("{}/oauth/token", simulator.url()))
        .basic_auth(TELEPHONY_CLIENT, Some(TELEPHONY_CLIENT_SECRET))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials");
    let token: Value = serde_json::from_slice(&token.send().await.unwrap().bytes().await.unwrap()).unwrap();
    for _ in 0..20 {
        let opened = client
            .post(format!("{}{CHANNELS}", simulator.url()))
            .bearer_auth(token["access_token"].as_str().unwrap());
        assert_eq!(opened.send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_one_gateway_listens_and_another_takes_over() {
    let mut world = World::new("notification-owners", 2).await;
    assert_eq!(world.called("POST", CHANNELS), 2, "two subscriptions, one gateway");
    let listens = |world: &World, replica: usize| {
        let metrics = world.installation.admin("gateway", replica, "/metrics");
        metrics.lines().any(|line| line.starts_with("holdline_channels_connected") && line.ends_with(" 1"))
    };
    let owner = (0..2).find(|replica| listens(&world, *replica)).unwrap();
    assert!(!listens(&world, 1 - owner));
    world.installation.kill("gateway", owner);
    world.until("nothing is connected", || world.simulator.sockets() == 0).await;
    world.set(TRUNK_PRIMARY, false);
    world.set(EDGE_MAIN, false);
    world.connected().await;
    // One that comes back stands by. Until it does, or a minute has passed, the window's end waits for what it may
    // hold in its spool.
    world.installation.spawn("gateway", owner);
    world.installation.wait_ready();
    world.recover(&[TRUNK_PRIMARY, EDGE_MAIN], 1).await;
    world.set(TRUNK_BACKUP, false);
    world.recover(&[TRUNK_BACKUP], 1).await;
    assert!(listens(&world, 1 - owner) && !listens(&world, owner));
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_topics_that_are_refused_are_told_and_the_others_are_heard() {
    let mut world = World::new("notification-refused", 1).await;
    // One of a channel's topics is refused, and all of another's, whose client has not the permission.
    world.simulator.refuse_topic(&TRUNKS.replace("{id}", TRUNK_BACKUP), true).unwrap();
    let client = json!({"client": "routing", "entities": [EDGE_MAIN], "poll": {"every": "1s"}});
    subscribe(&world.folder, "edges", EDGES, client);
    world.installation.push(&world.folder);
    let told = |what: &str, why: &str| {
        let ready = world.installation.admin("gateway", 0, "/readyz");
        ready.starts_with("HTTP/1.1 503")
            && ready
                .lines()
                .any(|line| line.starts_with(&format!("notifications of {what}: ")) && line.contains(why))
    };
    world
        .until("the refusals are told", || {
            told("trunks", "no such topic") && told("edges", "telephony:plugin:all")
        })
        .await;
    let log = world.installation.log_of("gateway", 0);
    for (level, what) in [("ERROR", TRUNK_BACKUP), ("ERROR", "missingPermissions: telephony:plugin:all")] {
        assert!(
            log.lines().any(|line| line.contains(level) && line.contains(what)),
            "{what} is not in the log"
        );
    }
    // No look tells of it: the message does.
    world.connected().await;
    world.simulator.fault(Fault::status(TELEPHONY, 503));
    world.set(TRUNK_PRIMARY, false);
    world.effect("remediate", TRUNK_PRIMARY, 1).await;
    world.simulator.clear_faults();
    world.recover(&[TRUNK_PRIMARY], 1).await;
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_channel_is_renewed_before_it_ends_and_no_transition_is_lost() {
    const LIFE: Duration = Duration::from_secs(4);
    const TRANSITIONS: u64 = 40;
    let simulator = platform(|options| {
        options.channel_life = LIFE;
        options.closing_notice = Duration::from_secs(1);
    })
    .await;
    // Without looks: what is not heard is not known.
    let playbooks = |folder: &Path, simulator: &Simulator, target: &Target| {
        evacuation(folder, simulator, target);
        subscribe(folder, "trunks", TRUNKS, json!({}));
        let path = folder.join("trunk.playbook.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replacen("stable_for: 1s", "stable_for: 1h", 1)).unwrap();
    };
    let world = World::with(simulator, "notification-renewed", 1, 1, playbooks).await;
    world.until("the look after the connect", || world.called("GET", TRUNK_LIST) >= 2).await;
    let looks = world.called("GET", TRUNK_LIST);
    let before = world.installation.conserved()["accepted"].as_u64().unwrap();
    assert_eq!(before, 3, "one event for each trunk");
    let began = clock::now();
    for number in 0..TRANSITIONS {
        world.set(TRUNK_PRIMARY, number % 2 == 1);
        clock::sleep(Duration::from_millis(300)).await;
    }
    assert!(began.elapsed() >= 3 * LIFE, "no channel has outlived its first life");
    let accepted = || world.installation.conserved()["accepted"].as_u64();
    world.until("every transition", || accepted() == Some(before + TRANSITIONS)).await;
    assert!(world.subscribed() > 4, "renewed {} times", world.subscribed());
    assert_eq!(world.called("POST", CHANNELS), 1, "it is the same channel");
    assert_eq!(world.called("GET", TRUNK_LIST), looks, "messages told it, and no look");
    assert!(!world.installation.admin("gateway", 0, "/metrics").contains("holdline_reconnects"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_more_entities_than_a_channel_holds_are_heard_on_several() {
    let simulator = platform(|_| {}).await;
    many_trunks(&simulator, 1_200);
    let playbooks = |folder: &Path, simulator: &Simulator, target: &Target| {
        playbooks(folder, simulator, target);
        subscribe(folder, "trunks", TRUNKS, polled("5s"));
    };
    let world = World::with(simulator, "notification-many", 1, 3, playbooks).await;
    assert_eq!(world.called("POST", CHANNELS), 3, "two for trunks, one for edges");
    // The first and the last of the list are on different channels.
    let entities = ["a0000", TRUNK_BRANCH];
    let looks = world.called("GET", TRUNK_LIST);
    world.until("a look at all pages", || world.called("GET", TRUNK_LIST) > looks + 13).await;
    world.simulator.fault(Fault::status(TELEPHONY, 503));
    for entity in entities {
        world.set(entity, false);
    }
    for entity in entities {
        world.effect("remediate", entity, 1).await;
    }
    world.simulator.clear_faults();
    world.recover(&entities, 1).await;
    assert_eq!(world.called("POST", CHANNELS), 3);
    world.installation.conserved();
}

/// A client that would need more channels than the platform allows it closes none of its own by opening another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_client_opens_no_more_channels_than_it_may_have() {
    let simulator = platform(|_| {}).await;
    many_trunks(&simulator, 1_000);
    let playbooks = |folder: &Path, simulator: &Simulator, target: &Target| {
        evacuation(folder, simulator, target);
        for number in 1..11 {
            subscribe(folder, &format!("trunks-{number:02}"), TRUNKS, json!({}));
        }
    };
    let world = World::starting(simulator, "notification-twenty", 1, 20, playbooks).await;
    world.connected().await;
    let told = || {
        let ready = world.installation.admin("gateway", 0, "/readyz");
        ready.lines().filter(|line| line.contains("no more than 20 channels")).count()
    };
    world.until("two of 22 are told to be without", || told() == 2).await;
    // Whoever is closed by another would connect again and again.
    clock::sleep(Duration::from_secs(3)).await;
    assert_eq!((world.simulator.sockets(), world.called("POST", CHANNELS)), (20, 20));
    assert!(!world.installation.admin("gateway", 0, "/metrics").contains("holdline_reconnects"));
}

const TRUNK_LIST: &str = "/api/v2/telephony/providers/edges/trunks";

/// So many trunks besides those that are there.
fn many_trunks(simulator: &Simulator, count: usize) {
    let trunk = simulator.object(Kind::TRUNK, TRUNK_PRIMARY);
    for number in 0..count {
        let (mut trunk, id) = (trunk.clone(), format!("a{number:04}"));
        trunk["id"] = json!(id);
        simulator.add(Kind::TRUNK, &id, trunk).unwrap();
    }
}
