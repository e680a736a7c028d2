//! X9, G6, G7: `holdline doctor` over a real nats-server: a fresh installation is well; every kind of trouble is made
//! for real, and found with what to do; and nothing is changed by looking.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, stream::Config};
use holdline_proto::audit::{WITNESS, Witness};
use holdline_proto::topology::{Bucket, Topology};
use holdline_proto::wire;
use holdline_simulator::organisation::*;
use holdline_simulator::{Client, Fault, Options, Simulator, organisation};
use holdline_stage::clock;
use holdline_tests::certificates::Authority;
use holdline_tests::cluster::Cluster;
use holdline_tests::platform::group_playbooks;
use holdline_tests::programs::{
    Installation, Running, STAGES, changed_sample, command, free_address, log, scratch,
};
use holdline_tests::secrecy::assert_untold;
use holdline_tests::sender::SECRET;
use holdline_tests::vault::{ROLE_ID, SECRET_ID, Vault};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A client of the platform that may do nothing.
const STRANGER: &str = "6d2e1f00-0000-4000-8000-00000000000f";
const STRANGER_SECRET: &str = "simulated-secret-of-a-stranger";

/// What a doctor's run said, and its exit code.
#[derive(Debug)]
struct Told {
    code: i32,
    json: Value,
    text: String,
}

impl Told {
    fn of(output: &Output) -> Told {
        assert_untold("doctor", [&output.stdout[..], &output.stderr].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        Told { code: output.status.code().unwrap(), json, text }
    }

    fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().unwrap()
    }

    /// The state of the findings of this name, and what was found.
    fn find(&self, what: &str) -> Vec<(String, String)> {
        let named =
            self.findings().iter().filter(|finding| finding["what"].as_str().unwrap().starts_with(what));
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_string();
        named.map(|finding| (text(finding, "state"), text(finding, "found"))).collect()
    }

    /// Everything is told alike, whatever is told.
    fn check_shape(&self) {
        let mut well = true;
        for finding in self.findings() {
            let state = finding["state"].as_str().unwrap();
            assert!(["well", "note", "unknown", "person"].contains(&state), "{finding}");
            assert_eq!(finding["well"], json!(state != "person"), "{finding}");
            assert_eq!(finding["todo"] == "", state == "well", "{finding}");
            assert!(finding["what"] != "" && finding["found"] != "" && finding["area"] != "", "{finding}");
            well &= state != "person";
        }
        assert_eq!((self.json["well"].clone(), self.code), (json!(well), i32::from(!well)), "{}", self.text);
        for secret in [SECRET, CLIENT_SECRET, STRANGER_SECRET] {
            assert!(!self.text.contains(secret), "a secret is no finding: {}", self.text);
        }
    }
}

/// A finding that needs a person: the beginning of its name, a part of what was found, and of what to do.
type Expected<'a> = (&'a str, &'a str, &'a str);

/// Waits until a run tells what is expected; then it needs a person, and says so by its exit code.
fn check(doctor: impl Fn() -> Told, (what, found, todo): Expected<'_>) {
    let told =
        until(doctor, |told| told.find(what).iter().any(|(state, f)| state == "person" && f.contains(found)));
    let named = told.findings().iter().filter(|finding| finding["what"].as_str().unwrap().starts_with(what));
    let mut todos =
        named.filter(|finding| finding["state"] == "person").map(|finding| finding["todo"].to_string());
    assert!(todos.any(|told| told.contains(todo)), "{what}: {todo}: {}", told.text);
    assert_eq!(told.code, 1, "{}", told.text);
}

/// Waits until nothing needs a person.
fn is_well(doctor: impl Fn() -> Told) -> Told {
    until(doctor, |told| told.code == 0)
}

fn until(doctor: impl Fn() -> Told, holds: impl Fn(&Told) -> bool) -> Told {
    let began = clock::now();
    loop {
        let told = doctor();
        told.check_shape();
        if holds(&told) {
            return told;
        }
        assert!(began.elapsed() < SOON, "it did not come about: {}", told.text);
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// All services, a simulated platform, and a target of which nothing is known but that it listens.
struct World {
    simulator: Simulator,
    installation: Installation,
    target: TcpListener,
    /// The file with the second of the subscription's secrets.
    secret_file: PathBuf,
}

impl World {
    async fn start() -> World {
        rustls::crypto::ring::default_provider().install_default().ok();
        let clients =
            organisation::clients().into_iter().chain([Client::new(STRANGER, STRANGER_SECRET, &[])]);
        let options = Options { clients: clients.collect(), ..Options::default() };
        let simulator = Simulator::start(options).await.unwrap();
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let playbooks = scratch("doctor-playbooks");
        group_playbooks(&playbooks, &simulator, "telephony");
        let secret_file = playbooks.join("second-secret");
        std::fs::write(&secret_file, "the-second-secret").unwrap();
        subscribe(
            &playbooks,
            &json!(["env:HOLDLINE_TELEPHONY_SECRET", format!("file:{}", secret_file.display())]),
        );
        call(&playbooks, &format!("http://{}/x/{{{{data.gatewayId}}}}", target.local_addr().unwrap()));
        let mut installation = Installation::broker("doctor", &playbooks, "always");
        installation.variable("ROUTING_ID", CLIENT);
        installation.variable("ROUTING_SECRET", CLIENT_SECRET);
        for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
            installation.spawn(stage, 0);
        }
        installation.wait_ready();
        World { simulator, installation, target, secret_file }
    }

    /// `holdline doctor` as somebody calls it who has the services' environment.
    fn doctor(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Told {
        let mut command = command("holdline");
        command.args(["doctor", "--output", "json", "--data"]).arg(&self.installation.data).args(arguments);
        for gateway in self.installation.gateways() {
            command.args(["--gateway", &format!("http://{gateway}")]);
        }
        for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
            command.args(["--admin", &self.installation.admin_address(stage, 0).to_string()]);
        }
        command.envs([("ROUTING_ID", CLIENT), ("ROUTING_SECRET", CLIENT_SECRET)]);
        Told::of(&command.envs(variables.iter().copied()).output().unwrap())
    }

    /// What stands last under a subject.
    async fn newest(&self, stream: &str, subject: &str) -> Vec<u8> {
        let context = jetstream::new(self.installation.client("provisioner").await);
        let stream = context.get_stream(stream).await.unwrap();
        stream.get_last_raw_message_by_subject(subject).await.unwrap().payload.to_vec()
    }

    /// Somebody alters a stream, past holdline.
    async fn alter(&self, stream: &str, change: impl Fn(&mut Config, u64)) {
        let context = jetstream::new(self.installation.client("provisioner").await);
        let mut info = context.get_stream(stream).await.unwrap().cached_info().clone();
        change(&mut info.config, info.state.bytes);
        context.update_stream(&info.config).await.unwrap();
    }
}

fn subscribe(folder: &Path, secret: &Value) {
    let source = json!({"name": "telephony", "topicName": "telephony.service.status", "authType": "HMAC",
        "secretToken": secret});
    std::fs::write(folder.join("subscriptions/telephony.json"), source.to_string()).unwrap();
}

/// Another action, by which somebody is called.
fn call(folder: &Path, url: &str) {
    let action = json!({"name": "call", "actionType": "WEBHOOK", "method": "POST", "url": url});
    std::fs::write(folder.join("actions/call.json"), action.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_each_trouble_is_found_with_what_to_do() {
    let mut world = World::start().await;
    let told = is_well(|| world.doctor(&[], &[]));
    // What was looked at is well, and what could not be is said.
    for (what, state, found) in [
        ("conservation", "well", "0 accepted"),
        ("playbooks", "well", "1 playbook(s)"),
        ("classifier", "well", "4 of 4"),
        ("executor", "well", "takes commands"),
        ("dlq-replayer", "well", "takes dead letters"),
        ("gateway 127.0.0.1:", "well", "without TLS"),
        ("readiness 127.0.0.1:", "well", "ready"),
        ("paused", "well", "nothing"),
        ("held incidents", "well", "none"),
        ("broker", "well", "nats-server 2."),
        ("streams", "well", "19 streams and buckets"),
        ("copies", "note", "1 copy"),
        ("sync", "well", "before it is acknowledged"),
        ("account", "well", "bytes on disk"),
        // Whoever has looked first has noted it.
        ("end of the audit trail", "well", "noted"),
        ("approvers", "well", "as many as"),
        ("clock", "well", "ms"),
        ("secret env:HOLDLINE_TELEPHONY_SECRET", "well", "subscription telephony"),
        ("secret file:", "well", "subscription telephony"),
        ("client routing", "well", "a token"),
        ("action enable-group", "well", "may read"),
        ("client routing: changes", "unknown", "not checked"),
        ("target 127.0.0.1:", "well", "answers"),
        ("platform api.mypurecloud.ie", "well", "answers"),
        ("platform login.mypurecloud.ie", "well", "answers"),
        ("certificate of 127.0.0.1:", "note", "plain HTTP"),
        ("certificate of the broker", "well", "does not leave this machine"),
        ("licence", "unknown", "not checked"),
        ("scopes", "well", "none are needed"),
    ] {
        let found_there = told.find(what);
        let is_so = |(s, f): &(String, String)| s == state && f.contains(found);
        assert!(found_there.iter().any(is_so), "{what}: {state}: {found}: {found_there:?}");
    }
    assert_eq!(told.find("readiness").len(), 5);
    // Nothing but reading, and that is what is promised of the platform.
    for call in world.simulator.calls() {
        let reads = call.method == "GET" || call.path == "/oauth/token";
        assert!(reads && (call.client.is_none() || call.client.as_deref() == Some(CLIENT)), "{call:?}");
    }

    // The broker: a stream that somebody has altered, and one that is nearly full.
    world.alter("EVENTS", |config, _| config.allow_direct = false).await;
    check(|| world.doctor(&[], &[]), ("streams", "EVENTS: allow_direct: false → true", "holdline provision"));
    world
        .alter("KV_PLAYBOOKS", |config, bytes| config.max_bytes = i64::try_from(bytes).unwrap() * 11 / 10)
        .await;
    check(|| world.doctor(&[], &[]), ("limits", "KV_PLAYBOOKS has", "raise the limit"));
    world.alter("KV_PLAYBOOKS", |config, _| config.max_bytes = -1).await;
    world.alter("JOURNAL", |config, _| config.max_age = Duration::ZERO).await;
    check(|| world.doctor(&[], &[]), ("streams", "JOURNAL keeps its messages longer", "do by hand"));
    world.alter("JOURNAL", |config, _| config.max_age = Duration::from_secs(365 * 86_400)).await;
    assert!(world.installation.holdline(&["provision"]).status.success());

    // This machine: an hour off, and too little room.
    let off = [("HOLDLINE_CLOCK_SHIFT_MS", "3600000")];
    check(|| world.doctor(&[], &off), ("clock", "ahead of the broker's", "NTP"));
    let off = [("HOLDLINE_CLOCK_SHIFT_MS", "-6000")];
    check(|| world.doctor(&[], &off), ("clock", "behind the broker's", "NTP"));
    let room = ["--disk-free-min", "1000000000"];
    check(|| world.doctor(&room, &[]), ("disk", "1000000000 MiB is the least", "make room"));

    // Secrets: what a service misses, it says; what is only not here, is not known.
    std::fs::rename(&world.secret_file, world.secret_file.with_extension("away")).unwrap();
    check(|| world.doctor(&[], &[]), ("secret file:", "of subscription telephony", "docs/secrets.md"));
    check(|| world.doctor(&[], &[]), ("readiness", "secrets: not found: file:", "docs/secrets.md"));
    std::fs::rename(world.secret_file.with_extension("away"), &world.secret_file).unwrap();
    let told = is_well(|| world.doctor(&[], &[("ROUTING_SECRET", ""), ("HOLDLINE_TELEPHONY_SECRET", "")]));
    for what in ["secret env:ROUTING_SECRET", "secret env:HOLDLINE_TELEPHONY_SECRET", "client routing"] {
        assert_eq!(told.find(what)[0].0, "unknown", "{}", told.text);
    }

    // The platform: no token, a client without its permission, an outage.
    let wrong = [("ROUTING_SECRET", "wrong")];
    check(|| world.doctor(&[], &wrong), ("client routing", "refuses the credentials", "Admin > OAuth"));
    let stranger = [("ROUTING_ID", STRANGER), ("ROUTING_SECRET", STRANGER_SECRET)];
    check(
        || world.doctor(&[], &stranger),
        ("action enable-group", "routing:emergencyGroup:view", "has routing:emergencyGroup:edit"),
    );
    world.simulator.fault(Fault::status("/oauth/token", 429));
    check(|| world.doctor(&[], &[]), ("client routing", "throttles", "Admin > OAuth"));
    world.simulator.clear_faults();
    world.simulator.fault(Fault::status("/api/v2/architect", 503));
    check(|| world.doctor(&[], &[]), ("action enable-group", "503", "status page"));
    world.simulator.clear_faults();
    is_well(|| world.doctor(&[], &[]));

    // What waits for people, and what they want so.
    world.installation.publish("gateway", "hl.event.0", b"no frame").await;
    check(|| world.doctor(&[], &[]), ("dead letters", "1 of them wait", "holdline dlq list"));
    let discarded = world.installation.holdline(&["dlq", "discard", "--all", "--reason", "a test"]);
    assert!(discarded.status.success(), "{discarded:?}");
    is_well(|| world.doctor(&[], &[]));
    let paused = world.installation.holdline(&["pause", "--reason", "works", "--for", "10m", "--by", "ada"]);
    assert!(paused.status.success(), "{paused:?}");
    let told = is_well(|| world.doctor(&[], &[]));
    assert_eq!(told.find("paused"), [("note".into(), "everything by ada: works".into())]);

    // An end of the audit trail that was noted, and is not there.
    let noted = Topology::default().entry(Bucket::Witness, WITNESS);
    let told = is_well(|| world.doctor(&[], &[]));
    assert!(told.find("end of the audit trail")[0].1.contains("as it was noted"), "{}", told.text);
    let witness = world.newest("KV_WITNESS", &noted).await;
    let lost = Witness { number: 99, hash: "0".repeat(64) };
    world.installation.publish("operator", &noted, &wire::encode(&lost)).await;
    check(|| world.doctor(&[], &[]), ("end of the audit trail", "99 was noted, and is not", "audit verify"));
    let other = Witness { number: 1, ..lost };
    world.installation.publish("operator", &noted, &wire::encode(&other)).await;
    check(|| world.doctor(&[], &[]), ("end of the audit trail", "is not the one", "audit verify"));
    // One that says nothing, which the trail itself cannot tell.
    world.installation.publish("operator", &noted, b"nonsense").await;
    check(|| world.doctor(&[], &[]), ("end of the audit trail", "cannot be read", "audit verify --from"));
    let verified = |part: &str| {
        let told = world.installation.holdline(&["audit", "verify"]);
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.code() == Some(1) && said.contains(part), "{part}: {said}");
    };
    verified("noted of the newest entry cannot be read");
    world.installation.publish("operator", &noted, &witness).await;
    // All of it gone at once is no trail that has come to its age.
    let kept = |days: f64| {
        move |config: &mut Config, _| {
            config.max_age = Duration::from_secs_f64(days * 86_400.0);
            config.duplicate_window = config.max_age.min(Duration::from_secs(120));
        }
    };
    world.alter("AUDIT", kept(0.000_01)).await;
    check(
        || world.doctor(&[], &[]),
        ("end of the audit trail", "before they were 365 days old", "find out who"),
    );
    verified("were taken out before they were 365 days old");
    world.alter("AUDIT", kept(365.0)).await;

    // Services and hosts that are away.
    world.installation.kill("executor", 0);
    check(|| world.doctor(&[], &[]), ("executor", "nobody takes commands", "start the executor"));
    check(|| world.doctor(&[], &[]), ("readiness", "does not answer", "start the service"));
    world.installation.kill("gateway", 0);
    check(|| world.doctor(&[], &[]), ("gateway", "no connection", "start it"));
    drop(world.target);
    let (installation, simulator) = (world.installation, world.simulator);
    let data = installation.data.clone();
    let doctor = |only: &str| {
        let arguments = ["doctor", "--output", "json", "--only", only, "--data", data.to_str().unwrap()];
        Told::of(&command("holdline").args(arguments).output().unwrap())
    };
    check(|| doctor("targets"), ("target 127.0.0.1:", "no connection", "until it answers"));
    simulator.stop().await;
    check(|| doctor("targets"), ("platform api.mypurecloud.ie", "no connection", "until it answers"));
    // An area alone is told alone.
    let told = doctor("disk");
    assert_eq!((told.findings().len(), told.code, &told.json["conservation"]), (1, 0, &Value::Null));
}

/// What needs no service to be seen: ids that lead nowhere, what can only be started, channels, and a Vault. The
/// platform is read from, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_the_platform_and_a_vault_are_only_read_from() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let vault = Vault::start().await;
    vault.put("telephony", "hmac", SECRET);
    let playbooks = scratch("doctor-reads");
    group_playbooks(&playbooks, &simulator, "telephony");
    subscribe(&playbooks, &json!("vault:telephony#hmac"));
    let action = |name: &str, kind: &str, parameters: Value| {
        let action = json!({"name": name, "actionType": "GENESYS", "kind": kind, "client": "routing", "parameters": parameters});
        std::fs::write(playbooks.join(format!("actions/{name}.json")), action.to_string()).unwrap();
    };
    action("lost", "emergency_group.set", json!({"group": "11111111-1111-4111-8111-11111111111f"}));
    action("there", "emergency_group.set", json!({"group": GROUP_EVACUATION}));
    action("flow", "flow.execute", json!({"flow": FLOW_WORKFLOW}));
    action("edge", "edge.out_of_service", json!({"edge": EDGE_MAIN}));
    action("campaign", "campaign.stop", json!({"campaign": "{{data.gatewayId}}"}));
    action("members", "queue.members", json!({"queue": QUEUE, "members": [MEMBERS[0]]}));
    let trunks = json!({"name": "trunks", "source": "notification", "client": "routing",
        "topicName": "v2.telephony.providers.edges.trunks.{id}"});
    std::fs::write(playbooks.join("subscriptions/trunks.json"), trunks.to_string()).unwrap();
    let installation = Installation::broker("doctor-reads", &playbooks, "default");
    let file = playbooks.join("secret-id");
    std::fs::write(&file, SECRET_ID).unwrap();

    let doctor = |only: &str, with_vault: bool| {
        let mut command = command("holdline");
        command.args(["doctor", "--output", "json", "--only", only, "--data"]).arg(&installation.data);
        command.envs([("ROUTING_ID", CLIENT), ("ROUTING_SECRET", CLIENT_SECRET)]);
        if with_vault {
            command.env("HOLDLINE_VAULT_ADDRESS", format!("http://{}", vault.address));
            command.env("HOLDLINE_VAULT_ROLE_ID", ROLE_ID).env("HOLDLINE_VAULT_SECRET_ID_FILE", &file);
        }
        Told::of(&command.output().unwrap())
    };
    let platform = || doctor("platform", false);
    check(platform, ("action lost", "404", "correct the id"));
    check(platform, ("action edge", "telephony:plugin:all", "has telephony:plugin:all"));
    check(platform, ("subscription trunks", "telephony:plugin:all", "has telephony:plugin:all"));
    let told = platform();
    for (what, state) in [
        ("action there", "well"),
        ("action campaign", "well"),
        ("action members", "well"),
        ("action flow", "unknown"),
        ("subscription trunks: topic", "well"),
        ("subscription trunks: channel", "unknown"),
        ("client routing: changes", "unknown"),
    ] {
        assert_eq!(told.find(what)[0].0, state, "{what}: {}", told.text);
    }
    let calls = simulator.calls();
    assert!(calls.len() > 10, "{calls:?}");
    assert!(calls.iter().all(|call| call.method == "GET" || call.path == "/oauth/token"), "{calls:?}");

    let in_vault = |told: &Told| told.find("secret vault:telephony#hmac")[0].0.clone();
    assert_eq!(in_vault(&is_well(|| doctor("secrets", true))), "well");
    assert_eq!(in_vault(&is_well(|| doctor("secrets", false))), "unknown");
    vault.delete("telephony");
    check(
        || doctor("secrets", true),
        ("secret vault:telephony#hmac", "subscription telephony", "docs/secrets.md"),
    );
}

/// A certificate is told while there is time, of a gateway, of a target and of the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_certificates_are_told_before_they_expire() {
    let folder = scratch("doctor-certificates");
    let authority = Authority::new(&folder);
    let (certificate, key) = authority.issue_for("shown", 90);
    let playbooks = folder.join("playbooks");
    changed_sample("loop", &playbooks, |_, text| text);
    let mut installation = Installation::broker("doctor-certificates", &playbooks, "default");
    installation.variable("HOLDLINE_GATEWAY_TLS_CERTIFICATE_FILE", certificate.to_str().unwrap());
    installation.variable("HOLDLINE_GATEWAY_TLS_KEY_FILE", key.to_str().unwrap());
    installation.spawn("gateway", 0);
    installation.wait_ready();
    let url = format!("https://{}", installation.gateways()[0]);
    // A gateway stands in for a target: it is connected to, and nothing is asked.
    call(&playbooks, &format!("{url}/somewhere"));
    installation.push(&playbooks);

    let doctor = |trusted: &Path| {
        let mut command = command("holdline");
        command.args(["doctor", "--output", "json", "--only", "certificates", "--only", "targets"]);
        command.args(["--gateway", &url, "--data"]).arg(&installation.data).env("SSL_CERT_FILE", trusted);
        Told::of(&command.output().unwrap())
    };
    let (ca, stranger) = (authority.file(), Authority::new(&folder.join("strangers")).file());
    let at = url.trim_start_matches("https://");
    let (of_gateway, of_target) = (format!("certificate of {at}"), format!("target {at}"));
    let states = |told: &Told| [&of_gateway, &of_target].map(|what| told.find(what)[0].0.clone());
    // The sample's own target is away; both of these are not.
    let told = until(|| doctor(&ca), |told| states(told) == ["well", "well"]);
    assert!(told.find(&of_gateway)[0].1.contains("good for 89 day(s)"), "{}", told.text);
    assert!(told.find(&of_target)[0].1.contains("TLS 1.3; its certificate is good for 89"), "{}", told.text);
    check(|| doctor(&stranger), (&of_target, "invalid peer certificate", "correct its certificate"));
    for (days, state) in [(20, "note"), (3, "person")] {
        let (new, new_key) = authority.issue_for(&format!("shown-for-{days}"), days);
        std::fs::rename(new_key, &key).unwrap();
        std::fs::rename(new, &certificate).unwrap();
        until(|| doctor(&ca), |told| states(told) == [state, state]);
    }
    check(|| doctor(&ca), (&of_gateway, "good for 2 day(s)", "renew it"));
    check(|| doctor(&ca), (&of_target, "good for 2 day(s)", "renew its certificate"));
    // The files themselves, where the environment names them.
    let in_files = || {
        let mut command = command("holdline");
        command
            .args(["doctor", "--output", "json", "--only", "certificates", "--data"])
            .arg(&installation.data);
        command.env("HOLDLINE_GATEWAY_TLS_CERTIFICATE_FILE", &certificate);
        Told::of(&command.env("HOLDLINE_GATEWAY_TLS_KEY_FILE", &key).output().unwrap())
    };
    check(in_files, ("certificate in ", "good for 2 day(s)", "renew it"));
    std::fs::write(&key, "no key").unwrap();
    check(in_files, ("certificate in ", "holds no private key", "belong together"));
    std::fs::remove_dir_all(folder).unwrap();
}

/// A broker that is not ours, over TLS: what it does not tell is not said to be well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_of_a_foreign_broker_is_told_what_it_tells() {
    let folder = scratch("doctor-foreign");
    let authority = Authority::new(&folder.join("certificates"));
    let (server, server_key) = authority.issue_for("server", 5);
    let (client, client_key) = authority.issue_for("client", 60);
    let ca = authority.file();
    let more =
        format!("tls {{ verify: true, ca_file: {ca:?}, cert_file: {server:?}, key_file: {server_key:?} }}\n");
    let cluster = Cluster::configured(&folder, 1, &more);
    let holdline = |arguments: &[&str]| {
        let mut command = command("holdline");
        command.args(arguments).args(["--nats", &cluster.url(), "--keys"]).arg(cluster.keys());
        command.args(["--nats-tls-ca-file".as_ref(), ca.as_os_str()]);
        command.args(["--nats-tls-certificate-file".as_ref(), client.as_os_str()]);
        command.args(["--nats-tls-key-file".as_ref(), client_key.as_os_str()]);
        command.output().unwrap()
    };
    // Nothing is there yet: that is told, and what can be looked at is.
    let doctor = || Told::of(&holdline(&["doctor", "--output", "json"]));
    check(doctor, ("installation", "nothing is provisioned here", "provision it"));
    check(doctor, ("conservation", "cannot be counted: nothing is provisioned here", "look at the broker"));
    check(doctor, ("streams", "stream EVENTS: made", "holdline provision"));
    let began = clock::now();
    while !holdline(&["provision"]).status.success() {
        assert!(began.elapsed() < SOON, "{:?}", holdline(&["provision"]));
    }
    let broker =
        || Told::of(&holdline(&["doctor", "--output", "json", "--only", "broker", "--only", "disk"]));
    let told = is_well(broker);
    assert_eq!((told.find("sync")[0].0.as_str(), told.find("disk")[0].0.as_str()), ("unknown", "unknown"));
    assert_eq!(told.find("streams")[0].0, "well", "{}", told.text);
    let certificates = || Told::of(&holdline(&["doctor", "--output", "json", "--only", "certificates"]));
    check(certificates, ("certificate of the broker", "good for 4 day(s)", "renew it"));
    let told = certificates();
    for (what, state) in
        [("certificates in ", "well"), ("certificate in ", "well"), ("gateway's certificate", "unknown")]
    {
        assert_eq!(told.find(what)[0].0, state, "{what}: {}", told.text);
    }
    let services = Told::of(&holdline(&["doctor", "--output", "json", "--only", "services"]));
    services.check_shape();
    assert!(
        services.find("playbooks")[0].1.contains("no set of playbooks was pushed yet"),
        "{}",
        services.text
    );
}

/// Copies on three servers, and one of the servers is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_a_copy_that_is_away_is_told() {
    let folder = scratch("doctor-cluster");
    let mut cluster = Cluster::start(&folder, 3);
    cluster.provision(4).await;
    let (url, keys) = (cluster.url(), cluster.keys());
    let doctor = || {
        let arguments = ["doctor", "--output", "json", "--only", "broker", "--nats", &url, "--keys"];
        Told::of(&command("holdline").args(arguments).arg(&keys).output().unwrap())
    };
    let told = is_well(doctor);
    for what in ["copies", "followers", "sync"] {
        assert_eq!(told.find(what)[0].0, "well", "{}", told.text);
    }
    cluster.kill(2);
    check(doctor, ("followers", "server-2 is away or lags behind, in 19 stream(s)", "nothing can be stored"));
    cluster.revive(2);
    is_well(doctor);
}

/// What somebody has who has typed the first command: all well, and it says where it looked.
#[test]
fn x9_a_fresh_installation_is_well() {
    let folder = scratch("doctor-fresh");
    let data = folder.join("data");
    let admin = free_address();
    let child = command("holdline")
        .args(["up", "--demo", "--admin", &admin.to_string(), "--data"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(log(&folder, "up"))
        .spawn();
    let mut up = Running::of(child.unwrap());
    let doctor = |output: &str| {
        command("holdline").args(["doctor", "--output", output, "--data"]).arg(&data).output().unwrap()
    };
    let began = clock::now();
    while !doctor("json").status.success() {
        assert!(began.elapsed() < SOON, "{}", String::from_utf8_lossy(&doctor("text").stdout));
        std::thread::sleep(AGAIN_AFTER);
    }
    let told = is_well(|| Told::of(&doctor("json")));
    // Where it answers was noted.
    let readiness = told.find(&format!("readiness {admin}"));
    assert_eq!(readiness, [("well".into(), "ready".into())], "{}", told.text);
    assert_eq!(told.find("gateway 127.0.0.1:")[0].0, "well", "{}", told.text);
    // Its secret is in its own environment alone.
    assert_eq!(told.find("secret env:HOLDLINE_DEMO_SECRET")[0].0, "unknown", "{}", told.text);
    let text = String::from_utf8_lossy(&doctor("text").stdout).into_owned();
    assert!(text.contains("nothing needs a person; ") && text.contains("could not be looked at"), "{text}");
    up.signal("TERM");
    assert_eq!(up.wait(SOON), Some(0));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bad_input_is_refused() {
    let check = |arguments: &[&str], part: &str| {
        let output = command("holdline").arg("doctor").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    };
    check(&["--only", "nothing"], "[possible values: conservation, services");
    check(&["--gateway", "somewhere"], "expected https://HOST:PORT");
    check(&["--gateway", "ftp://somewhere:21"], "https can");
    check(&["--admin", "somewhere"], "invalid socket address");
    check(&["--disk-free-min", "much"], "invalid digit");
}
