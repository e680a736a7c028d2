//! G7: secrets come out of the environment, files and a Vault (a stub of one: `holdline_tests::vault`), are replaced
//! without an event refused, and are nowhere to be found.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]

use std::future::Future;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use holdline_simulator::organisation::{CLIENT, CLIENT_SECRET, TELEPHONY_CLIENT};
use holdline_simulator::{Options, Simulator};
use holdline_stage::clock;
use holdline_tests::platform::found_group;
use holdline_tests::programs::{Installation, Running, STAGES, command, free_address, program, scratch};
use holdline_tests::proxy::{Line, Proxy};
use holdline_tests::sender::{SECRET, Sender, event};
use holdline_tests::target::Target;
use holdline_tests::traces::Traces;
use holdline_tests::vault::{ROLE_ID, SECRET_ID, Vault};
use serde_json::{Value, json};

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a program takes to begin.
const SETTLED: Duration = Duration::from_secs(10);

const PATH: &str = "telephony/gateway";

async fn until<F: Future<Output = bool>>(what: &str, told: impl Fn() -> String, is_so: impl Fn() -> F) {
    let began = clock::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}: {}", told());
        clock::sleep(Duration::from_millis(50)).await;
    }
}

fn write(folder: &Path, path: &str, text: &str) -> PathBuf {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // As a whole, as whoever replaces a secret does.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

fn subscribe(folder: &Path, name: &str, auth: &str, secret: &Value) {
    let subscription = json!({"name": name, "topicName": "telephony.service.status", "authType": auth,
        "secretToken": secret});
    write(folder, &format!("subscriptions/{name}.json"), &subscription.to_string());
}

/// Three failures of a subscription's entity enable the group of its name, two healthy events undo it.
fn act(folder: &Path, subscription: &str, client: &str) {
    let action = json!({"name": format!("{subscription}-act"), "actionType": "GENESYS", "client": client,
        "kind": "emergency_group.set", "parameters": {"group": "{{data.gatewayId}}"}});
    act_by(folder, subscription, &action);
}

/// A playbook for a subscription of which only healthy events come.
fn watch(folder: &Path, subscription: &str) {
    let action = json!({"name": format!("{subscription}-act"), "actionType": "WEBHOOK", "method": "POST",
        "url": "http://127.0.0.1:1/"});
    act_by(folder, subscription, &action);
}

fn act_by(folder: &Path, subscription: &str, action: &Value) {
    write(folder, &format!("actions/{subscription}.json"), &action.to_string());
    let playbook = format!(
        "playbook: {subscription}\nmode: live\non:\n  subscription: {subscription}\n  entity: data.gatewayId\n  failed: \
         status == 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm: {{failures: 3, stable_for: 0s}}\nact:\n  \
         failed: {{do: [{subscription}-act], class: failover, deadline: 20s}}\nrevert: {{healthy: 2, stable_for: \
         0s, silence: 15m, do: {}}}\n",
        if action["actionType"] == "GENESYS" { "undo".to_string() } else { format!("[{subscription}-act]") },
    );
    write(folder, &format!("{subscription}.playbook.yaml"), &playbook);
}

/// Where a Vault is and how to log in, as settings of a program. The secret id stands in a file of the folder.
fn by_app_role(address: std::net::SocketAddr, folder: &Path) -> Vec<(&'static str, String)> {
    let file = write(folder, "secret-id", &format!("{SECRET_ID}\n"));
    vec![
        ("HOLDLINE_VAULT_ADDRESS", format!("http://{address}")),
        ("HOLDLINE_VAULT_ROLE_ID", ROLE_ID.into()),
        ("HOLDLINE_VAULT_SECRET_ID_FILE", file.display().to_string()),
    ]
}

/// A gateway, the other stages behind it, and one subscription of this name and secret.
fn installed(name: &str, secret: &Value, settings: &[(&str, String)]) -> Installation {
    let folder = scratch(&format!("{name}-playbooks"));
    subscribe(&folder, "telephony", "HMAC", secret);
    watch(&folder, "telephony");
    let mut installation = Installation::broker(name, &folder, "default");
    for (variable, value) in settings {
        installation.variable(variable, value);
    }
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation
}

struct World {
    vault: Vault,
    installation: Installation,
}

impl World {
    fn readiness(&self) -> String {
        self.installation.admin("gateway", 0, "/readyz")
    }

    /// Waits until the gateway says this of its readiness.
    async fn says(&self, part: &str) {
        until(part, || self.readiness(), || async { self.readiness().contains(part) }).await;
    }

    /// Waits until it is ready, with nothing to say of Vault.
    async fn is_well(&self) {
        let well = |told: String| told.contains("\r\n\r\nready") && !told.contains("vault");
        until("well", || self.readiness(), || async { well(self.readiness()) }).await;
    }

    fn sender(&self, secret: &str) -> Sender {
        Sender::new(self.installation.gateways(), "telephony").signing_with(secret)
    }

    /// What one event is answered that is signed with a secret.
    async fn status(&self, id: &str, secret: &str) -> u16 {
        let body = event(id, "gw-1", "HEALTHY", clock::wall_ms()).to_string();
        self.sender(secret).post(body.as_bytes()).await.unwrap().0
    }
}

/// Vault revokes, is sealed, is away: what was read before goes on, and it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_vault_that_cannot_be_asked_costs_nothing() {
    let vault = Vault::start().await;
    vault.put(PATH, "hmac", "secret-of-the-vault");
    let line = Proxy::to(vault.address).await;
    let secrets = scratch("vault-away-secrets");
    let reference = json!(format!("vault:{PATH}#hmac"));
    let installation = installed("vault-away", &reference, &by_app_role(line.address, &secrets));
    let world = World { vault, installation };
    world.is_well().await;
    let logins = |times| {
        let vault = world.vault.clone();
        async move { vault.count("POST auth/approle/login 200") == times }
    };
    assert!(logins(1).await, "one token serves");
    assert_eq!(world.status("first", "secret-of-the-vault").await, 200);
    assert_eq!(world.status("forged", "secret-of-nobody").await, 401);

    world.vault.revoke_all();
    until("another login", || world.readiness(), || logins(2)).await;
    world.is_well().await;

    let covered = "what was read last does its work meanwhile";
    world.vault.seal(true);
    world.says("is sealed: unseal it").await;
    assert!(world.readiness().contains("\r\n\r\nready") && world.readiness().contains(covered));
    assert_eq!(world.status("sealed", "secret-of-the-vault").await, 200);
    world.vault.seal(false);
    world.is_well().await;

    line.set(Line::Cut);
    world.says("does not answer").await;
    assert!(world.readiness().contains("\r\n\r\nready") && world.readiness().contains(covered));
    assert_eq!(world.status("away", "secret-of-the-vault").await, 200);
    line.set(Line::Open);
    world.is_well().await;

    world.vault.forbid(PATH, true);
    world.says(&format!("policies do not let us read secret/{PATH}")).await;
    assert!(world.readiness().contains("\r\n\r\nready") && world.readiness().contains(covered));
    assert_eq!(world.status("forbidden", "secret-of-the-vault").await, 200);
    assert!(logins(2).await, "a good token is not replaced");
    world.vault.forbid(PATH, false);
    world.is_well().await;

    // Taken away: told at once, and valid a while longer.
    world.vault.delete(PATH);
    world.says(&format!("the Vault has nothing at secret/{PATH}")).await;
    assert!(!world.readiness().contains("\r\n\r\nready"));
    assert_eq!(world.status("deleted", "secret-of-the-vault").await, 200);
    world.installation.conserved();
}

/// A gateway that begins while Vault gives nothing says why, each time, and is ready once it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_what_vault_refuses_is_told() {
    let vault = Vault::start().await;
    vault.seal(true);
    vault.forbid(PATH, true);
    vault.put(PATH, "hmca", "a key of another name");
    let line = Proxy::to(vault.address).await;
    line.set(Line::Cut);
    let secrets = scratch("vault-refuses-secrets");
    let reference = json!(format!("vault:{PATH}#hmac"));
    let settings = by_app_role(line.address, &secrets);
    let file = write(&secrets, "secret-id", "secret-id-that-is-wrong");
    let installation = installed("vault-refuses", &reference, &settings);
    let world = World { vault, installation };
    let place = format!("secrets: not found: vault:{PATH}#hmac of subscription telephony: ");
    world.says(&format!("{place}the Vault at http://{} does not answer", line.address)).await;
    assert_eq!(world.status("early", "secret-of-the-vault").await, 503);
    line.set(Line::Open);
    world.says(&format!("{place}the Vault at http://{} is sealed: unseal it", line.address)).await;
    world.vault.seal(false);
    world
        .says(&format!(
            "{place}the Vault does not take vault.role_id with the secret id in {}",
            file.display()
        ))
        .await;
    std::fs::remove_file(&file).unwrap();
    world.says(&format!("vault.secret_id_file: {}: the file cannot be read", file.display())).await;
    write(&secrets, "secret-id", SECRET_ID);
    world.says(&format!("{place}the Vault's policies do not let us read secret/{PATH}")).await;
    world.vault.forbid(PATH, false);
    world.says(&format!("{place}the Vault has no text of up to 4 KiB under this key")).await;
    world.vault.put(PATH, "hmac", "secret-of-the-vault");
    world.is_well().await;
    assert_eq!(world.status("first", "secret-of-the-vault").await, 200);
    world.installation.conserved();
}

/// A token out of a file is renewed for as long as Vault does that, and replaced when somebody replaces the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_token_is_renewed_and_replaced() {
    const LIFE: Duration = Duration::from_secs(14);
    let vault = Vault::start().await;
    vault.put(PATH, "hmac", "secret-of-the-vault");
    let secrets = scratch("vault-token-secrets");
    let first = vault.issue(LIFE);
    let file = write(&secrets, "token", &first);
    let settings = [
        ("HOLDLINE_VAULT_ADDRESS", format!("http://{}", vault.address)),
        ("HOLDLINE_VAULT_TOKEN_FILE", file.display().to_string()),
    ];
    let began = clock::now();
    let installation = installed("vault-token", &json!(format!("vault:{PATH}#hmac")), &settings);
    let world = World { vault, installation };
    world.is_well().await;
    let renewals = || world.vault.count("POST auth/token/renew-self 200");
    until("renewed twice", || world.readiness(), || async { renewals() >= 2 }).await;
    let reads = || world.vault.count(&format!("GET secret/data/{PATH} 200"));
    let before = reads();
    until(
        "past its first end",
        || world.readiness(),
        || async { began.elapsed() > LIFE && reads() > before },
    )
    .await;
    world.is_well().await;
    world.vault.end_within(Duration::from_secs(3));
    let ends = format!("the token in {} comes to its end and cannot be renewed", file.display());
    let refused = format!("the Vault does not take the token in {}", file.display());
    let told = |text: String| text.contains(&ends) || text.contains(&refused);
    until("its end", || world.readiness(), || async { told(world.readiness()) }).await;
    assert_eq!(world.status("ending", "secret-of-the-vault").await, 200);
    let second = world.vault.issue(Duration::from_secs(3_600));
    write(&secrets, "token", &second);
    world.is_well().await;
    world.vault.revoke(&first);
    let before = reads();
    until("read with the second", || world.readiness(), || async { reads() > before }).await;
    world.is_well().await;
    for token in world.vault.tokens() {
        assert!(!world.installation.logs().contains(&token), "a token was logged");
    }
    world.installation.conserved();
}

/// A secret is replaced in Vault, in a file, and by a second reference, while events come without a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_rotation_under_load_refuses_no_event() {
    const SENDERS: usize = 3;
    let vault = Vault::start().await;
    vault.put(PATH, "hmac", "vault-before");
    vault.put(PATH, "next", "pair-after");
    let secrets = scratch("rotation-secrets");
    let file = write(&secrets, "hmac", "file-before\n");
    let playbooks = scratch("rotation-playbooks");
    subscribe(&playbooks, "vault", "HMAC", &json!(format!("vault:{PATH}#hmac")));
    subscribe(&playbooks, "file", "HMAC", &json!(format!("file:{}", file.display())));
    subscribe(&playbooks, "pair", "HMAC", &json!("env:HOLDLINE_TELEPHONY_SECRET"));
    ["vault", "file", "pair"].iter().for_each(|subscription| watch(&playbooks, subscription));
    let mut installation = Installation::broker("rotation", &playbooks, "default");
    for (variable, value) in by_app_role(vault.address, &secrets) {
        installation.variable(variable, &value);
    }
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.spawn("gateway", 1);
    installation.wait_ready();

    // Each sender signs with the secret of its turn, and goes over to the next one when it is told.
    let (is_over, is_done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let counts: [Arc<AtomicU32>; 3] = Default::default();
    let [before, overlapping, after] = counts.clone();
    let mut senders = vec![];
    for (subscription, old, new) in [
        ("vault", "vault-before", "vault-after"),
        ("file", "file-before", "file-after"),
        ("pair", SECRET, "pair-after"),
    ] {
        let sender = Sender::new(installation.gateways(), subscription);
        let (old, new) = (sender.signing_with(old), sender.signing_with(new));
        for number in 0..SENDERS {
            let (old, new, is_over, is_done) = (old.clone(), new.clone(), is_over.clone(), is_done.clone());
            let [before, overlapping, after] = counts.clone();
            #[allow(clippy::disallowed_methods, reason = "joined below")]
            senders.push(tokio::spawn(async move {
                let mut refused = vec![];
                for turn in 0.. {
                    if is_done.load(Ordering::SeqCst) {
                        break;
                    }
                    let is_late = number == 0;
                    let (by, count) = match (is_over.load(Ordering::SeqCst), is_late) {
                        (false, _) => (&old, &before),
                        // One of them is told late.
                        (true, true) => (&old, &overlapping),
                        (true, false) => (&new, &after),
                    };
                    let id = format!("{subscription}-{number}-{turn}");
                    let body = event(&id, &format!("gw-{number}"), "HEALTHY", clock::wall_ms()).to_string();
                    match by.post(body.as_bytes()).await {
                        Ok((200, _)) => count.fetch_add(1, Ordering::SeqCst),
                        refusal => {
                            refused.push(format!("{id}: {refusal:?}"));
                            0
                        }
                    };
                    clock::sleep(Duration::from_millis(5)).await;
                }
                refused
            }));
        }
    }
    let counted = |what: &'static str, count: Arc<AtomicU32>| {
        until(what, String::new, move || {
            let count = count.clone();
            async move { count.load(Ordering::SeqCst) > 200 }
        })
    };
    counted("load", before.clone()).await;
    vault.put(PATH, "hmac", "vault-after");
    write(&secrets, "hmac", "file-after\n");
    let pair = json!(["env:HOLDLINE_TELEPHONY_SECRET", format!("vault:{PATH}#next")]);
    subscribe(&playbooks, "pair", "HMAC", &pair);
    installation.push(&playbooks);
    // Both gateways have the new ones: the log says so of what is replaced in its place.
    let replaced =
        [format!("vault:{PATH}#hmac was replaced"), format!("file:{} was replaced", file.display())];
    let all_told = |log: &str| replaced.iter().all(|part| log.contains(part));
    let told = || [0, 1].iter().all(|gateway| all_told(&installation.log_of("gateway", *gateway)));
    until("told", || installation.logs(), || async { told() }).await;
    let gateways = installation.gateways();
    for gateway in &gateways {
        let probe = Sender::new(vec![*gateway], "pair").signing_with("pair-after");
        let body = event("probe", "gw-probe", "HEALTHY", clock::wall_ms()).to_string();
        until("the pair", String::new, || async { probe.post(body.as_bytes()).await.unwrap().0 == 200 })
            .await;
    }
    is_over.store(true, Ordering::SeqCst);
    counted("load by the secrets from before", overlapping.clone()).await;
    counted("load by those from then on", after.clone()).await;
    is_done.store(true, Ordering::SeqCst);
    for sender in senders {
        let refused = sender.await.unwrap();
        assert_eq!(refused, Vec::<String>::new(), "events were refused");
    }
    // It is looked at who signs.
    for subscription in ["vault", "file", "pair"] {
        let forger = Sender::new(gateways.clone(), subscription).signing_with("secret-of-nobody");
        let body = event("forged", "gw-1", "HEALTHY", clock::wall_ms()).to_string();
        assert_eq!(forger.post(body.as_bytes()).await.unwrap().0, 401);
    }
    eprintln!("{before:?} before, {overlapping:?} overlapping, {after:?} after, none refused");
    installation.conserved();
}

/// Whole incidents, one that goes well and one whose credentials are refused, and everything that can go wrong with a
/// secret; all services log all that they can. Then everything is searched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_no_secret_is_in_a_log_a_stream_a_file_a_page_or_a_command_line() {
    const ENTITY: &str = "gw-planted-in-the-open";
    const SECRETS: [&str; 9] = [
        "token-for-the-pager-31c7",
        "hmac-of-the-vault-c4f1",
        "hmac-of-the-vault-that-came-after-77aa",
        "user:basic-password-0b12",
        "path-token-5e5e",
        "d2ViaG9va3Mta2V5LW9mLXRoZS1zdWl0ZQ==",
        CLIENT_SECRET,
        "client-secret-that-is-wrong-9d3e",
        SECRET,
    ];
    let [pager_token, hmac, hmac_after, basic, path_token, standard, client_secret, wrong_secret, _] =
        SECRETS;
    let vault = Vault::start().await;
    let options = Options { calls_per_window: None, ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    found_group(&simulator, ENTITY);
    vault.put(PATH, "hmac", hmac);
    vault.put(PATH, "standard", &format!("whsec_{standard}"));
    vault.put("platform", "routing", client_secret);
    vault.put("platform", "telephony", wrong_secret);
    vault.put("pager", "token", pager_token);
    // An action's credential is a reference, too: only its target sees what it leads to.
    let pager = Target::start().await;
    let page = json!({"name": "page", "actionType": "WEBHOOK", "method": "POST",
        "url": format!("http://{}/page", pager.address), "headers": {"Authorization": "Bearer vault:pager#token"}});
    let secrets = scratch("search-secrets");
    let file = write(&secrets, "basic", basic);
    let playbooks = scratch("search-playbooks");
    let reference = format!("vault:{PATH}#hmac");
    subscribe(&playbooks, "vaulted", "HMAC", &json!(reference));
    subscribe(&playbooks, "filed", "BASIC", &json!(format!("file:{}", file.display())));
    subscribe(&playbooks, "pathed", "PATH_TOKEN", &json!("env:PATH_TOKEN"));
    subscribe(&playbooks, "standard", "STANDARD_WEBHOOKS", &json!(format!("vault:{PATH}#standard")));
    subscribe(&playbooks, "failing", "HMAC", &json!("env:HOLDLINE_TELEPHONY_SECRET"));
    act(&playbooks, "vaulted", "routing");
    act(&playbooks, "failing", "telephony");
    write(&playbooks, "actions/page.json", &page.to_string());
    let settings = format!(
        "pager: page\nplatform:\n  region: mypurecloud.ie\n  connect_to: {}\n  clients:\n    routing: {{id: env:ROUTING_ID, secret: \
         'vault:platform#routing'}}\n    telephony: {{id: env:TELEPHONY_ID, secret: 'vault:platform#telephony'}}\n",
        simulator.address()
    );
    write(&playbooks, "holdline.yaml", &settings);
    let mut variables = by_app_role(vault.address, &secrets);
    variables.extend([
        ("PATH_TOKEN", path_token.into()),
        ("ROUTING_ID", CLIENT.into()),
        ("TELEPHONY_ID", TELEPHONY_CLIENT.into()),
        ("RUST_LOG", "trace".into()),
    ]);
    let mut installation = Installation::broker("search", &playbooks, "always");
    for (variable, value) in &variables {
        installation.variable(variable, value);
    }
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let mut traces = Traces::default();
    let gateway = format!("http://{}", installation.gateways()[0]);

    // Both incidents begin, by what `holdline send` sends.
    let report = |traces: &mut Traces, subscription: &str, status: &str, times: u32| {
        for number in 0..times {
            let now = clock::wall_ms();
            let id = format!("{subscription}-{status}-{number}");
            let event = write(&secrets, "event.json", &event(&id, ENTITY, status, now).to_string());
            let output = command("holdline")
                .args(["send", event.to_str().unwrap(), "--playbooks", playbooks.to_str().unwrap()])
                .args(["--gateway", &gateway, "--subscription", subscription])
                .envs(variables.iter().map(|(name, value)| (name, value.as_str())))
                .output()
                .unwrap();
            show(traces, &format!("send {subscription}"), &output);
            assert_eq!(output.status.code(), Some(0), "{subscription}: {}", lossy(&output.stderr));
        }
    };
    for subscription in ["vaulted", "failing"] {
        report(&mut traces, subscription, "FAILED", 3);
    }
    for subscription in ["filed", "pathed", "standard"] {
        report(&mut traces, subscription, "HEALTHY", 1);
    }
    // What is forged is refused.
    rustls::crypto::ring::default_provider().install_default().ok();
    for (path, auth) in [
        ("vaulted", ""),
        ("filed", "Basic dXNlcjpub2JvZHk="),
        ("pathed/not-the-token", ""),
        ("standard", ""),
        ("failing", ""),
    ] {
        let body = event("forged", ENTITY, "FAILED", clock::wall_ms()).to_string();
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = request.post(format!("{gateway}/v1/events/{path}")).header("Authorization", auth);
        let answer = request.body(body).send().await.unwrap();
        assert!([401, 404].contains(&answer.status().as_u16()), "{path}: {}", answer.status());
        traces.add(format!("answer {path}"), answer.text().await.unwrap());
    }
    let enabled = |is: bool| {
        let simulator = &simulator;
        move || async move { simulator.object(holdline_simulator::Kind::EMERGENCY_GROUP, ENTITY)["enabled"] == is }
    };
    until("enabled", || installation.log_of("executor", 0), enabled(true)).await;
    // Everything that can go wrong with Vault goes wrong; then a secret is replaced.
    let readiness = || installation.admin("gateway", 0, "/readyz");
    vault.revoke_all();
    until("another login", readiness, || async { vault.count("POST auth/approle/login 200") >= 3 }).await;
    vault.seal(true);
    until("sealed", readiness, || async { readiness().contains("is sealed") }).await;
    traces.add("page gateway while Vault is sealed", readiness());
    vault.seal(false);
    vault.revoke_all();
    write(&secrets, "secret-id", "secret-id-that-is-wrong");
    until("refused", readiness, || async { readiness().contains("does not take vault.role_id") }).await;
    traces.add("page gateway while Vault refuses", readiness());
    write(&secrets, "secret-id", SECRET_ID);
    vault.put(PATH, "hmac", hmac_after);
    let is_replaced = || installation.log_of("gateway", 0).contains(&format!("{reference} was replaced"));
    until("replaced", readiness, || async { is_replaced() }).await;
    report(&mut traces, "vaulted", "HEALTHY", 2);
    until("undone", || installation.log_of("executor", 0), enabled(false)).await;
    let incidents = || lossy(&installation.holdline(&["incidents", "--all", "--output", "json"]).stdout);
    until("held", incidents, || async { incidents().contains("refuses the credentials") }).await;
    let pages = pager.wait_for(1, PATIENCE).await;
    assert_eq!(pages[0].authorization, format!("Bearer {pager_token}"));

    for arguments in [
        &["incidents", "--all"][..],
        &["why-not", "failing-FAILED-0"],
        &["dlq", "list", "--output", "json"],
        &["doctor"],
        &["pauses"],
        &["push", playbooks.to_str().unwrap()],
    ] {
        show(&mut traces, arguments[0], &installation.holdline(arguments));
    }
    let all: Value = serde_json::from_str(&incidents()).unwrap();
    traces.add("output of incidents", all.to_string());
    for incident in all.as_array().unwrap() {
        let id = incident["incidentId"].as_str().or(incident["id"].as_str()).unwrap();
        for verb in ["show", "explain", "replay"] {
            show(&mut traces, verb, &installation.holdline(&["incident", id, verb]));
        }
    }
    let folder = playbooks.to_str().unwrap();
    let data = installation.data.clone();
    let data = data.to_str().unwrap();
    for arguments in [
        &["check", folder][..],
        &["subscriptions", "diff", folder, "--client", "telephony"],
        &["doctor", "--data", data, "--gateway", &gateway],
        &["doctor", "--data", data, "--output", "json"],
    ] {
        let output = command("holdline")
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value.as_str())))
            .output()
            .unwrap();
        show(&mut traces, arguments[0], &output);
    }
    installation.conserved();

    traces
        .add_files(&installation.folder, |path| path.extension().is_some_and(|extension| extension == "nk"));
    traces.add_files(&playbooks, |_| false);
    traces.add_streams(&installation).await;
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        for page in ["/livez", "/readyz", "/metrics"] {
            traces.add(format!("page {stage}{page}"), installation.admin(stage, 0, page));
        }
    }
    let broker = installation.broker_process().id();
    for (name, process) in installation.processes().into_iter().chain([("broker".into(), broker)]) {
        traces.add_command_line(&name, process);
    }
    // The control: what may be seen is found, in every kind of place.
    for (kind, seen) in [
        ("log", reference.as_str()),
        ("file", ENTITY),
        ("stream EVENTS", ENTITY),
        ("stream JOURNAL", ENTITY),
        ("stream DEAD", "refuses the credentials"),
        ("bucket", ENTITY),
        ("bucket", &reference),
        ("page", "holdline_events_accepted"),
        ("output", ENTITY),
        ("answer", "detail\":"),
        ("command line", data),
    ] {
        let found = traces.find(seen);
        assert!(found.iter().any(|place| place.starts_with(kind)), "{seen} is in no {kind}: {found:?}");
    }
    let seeds = std::fs::read_dir(installation.data.join("keys"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap().trim().to_string());
    let basic_password = basic.split(':').next_back().unwrap().to_string();
    let mut searched: Vec<String> = SECRETS.map(str::to_string).into();
    searched.extend(seeds.filter(|seed| seed.starts_with('S')));
    searched.extend(vault.tokens());
    searched.extend([basic_password, ROLE_ID.into(), SECRET_ID.into()]);
    eprintln!("{} secrets searched for in {}", searched.len(), traces.size());
    assert!(searched.len() > SECRETS.len() + 10, "seeds and tokens are among them: {searched:?}");
    for secret in searched {
        assert_eq!(traces.find(&secret), Vec::<&str>::new(), "{secret} was found");
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(traces: &mut Traces, what: &str, output: &Output) {
    traces.add(format!("output of {what}"), [&output.stdout[..], &output.stderr].concat());
}

/// `PR_SET_DUMPABLE` is off: another process of the same user can read neither environment nor memory; and SIGABRT leaves
/// no core file. The control is a process that has forbidden neither.
#[test]
fn g7_no_other_process_reads_a_programs_memory() {
    let folder = std::env::temp_dir().join(format!("holdline-dump-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // Root may read everything: then both sides are another user.
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let as_user = |command: &mut Command| {
        if is_root {
            command.uid(65_534).gid(65_534);
        }
    };
    if is_root {
        std::os::unix::fs::chown(&folder, Some(65_534), Some(65_534)).unwrap();
    }
    let start = |name: &str, arguments: &[&str]| {
        // A copy, where that user may execute it.
        let path = folder.join(name);
        let original = if name == "sleep" { PathBuf::from("/bin/sleep") } else { program(name) };
        std::fs::copy(original, &path).unwrap();
        let mut command = Command::new(&path);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).env("A_SECRET", "secret-of-the-environment");
        // Nobody is there: it waits for its broker.
        command.env("HOLDLINE_NATS_URL", format!("nats://{}", free_address()));
        command.env("HOLDLINE_ADMIN_LISTEN", free_address().to_string());
        command.env("HOLDLINE_GATEWAY_LISTEN", "127.0.0.1:0");
        as_user(&mut command);
        Running::of(command.spawn().unwrap())
    };
    let reads = |process: u32, file: &str| {
        let mut command = Command::new("head");
        command.args(["-c", "1", &format!("/proc/{process}/{file}")]);
        as_user(&mut command);
        command.output().unwrap().status.success()
    };
    let dumps = |running: &mut Running| {
        // As far as its hard limit lets us.
        let mut lift = Command::new("prlimit");
        lift.args(["--pid", &running.id().to_string(), "--core=unlimited:"]);
        as_user(&mut lift);
        lift.output().ok();
        running.signal("ABRT");
        let began = clock::now();
        loop {
            if let Some(status) = running.ended() {
                assert_eq!(status.signal(), Some(6), "it had ended before: {status}");
                return status.core_dumped();
            }
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let mut open = start("sleep", &["60"]);
    // Until it is `sleep`.
    let began = clock::now();
    while !reads(open.id(), "environ") {
        assert!(began.elapsed() < PATIENCE, "the control cannot be read either");
    }
    if !dumps(&mut open) {
        eprintln!("this machine makes no core file of the control: only the reading is tried");
    }
    let nats = format!("nats://{}", free_address());
    let data = folder.join("data");
    let up = ["up", "--data", data.to_str().unwrap(), "--nats", &nats];
    let services =
        STAGES.into_iter().chain(["dlq-replayer"]).map(|stage| (format!("holdline-{stage}"), &[][..]));
    for (name, arguments) in services.chain([("holdline".to_string(), &up[..])]) {
        let mut running = start(&name, arguments);
        // It takes a moment until its `main` has begun.
        let began = clock::now();
        while reads(running.id(), "environ") {
            assert!(began.elapsed() < SETTLED, "{name}: another process reads its environment");
        }
        for file in ["environ", "maps", "auxv"] {
            assert!(!reads(running.id(), file), "{name}: another process reads its {file}");
        }
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
        let limit = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let limit: Vec<&str> = limit.split_whitespace().skip(4).take(2).collect();
        assert_eq!(limit, ["0", "0"], "{name}");
        assert!(!dumps(&mut running), "{name} left a core file");
    }
    std::fs::remove_dir_all(&folder).ok();
}

/// nats-server is somebody else's program, and open to others of its user: it gets nothing of our environment, which has
/// secrets.
#[test]
fn g7_the_server_that_we_start_has_none_of_our_environment() {
    let playbooks = scratch("environment-playbooks");
    subscribe(&playbooks, "telephony", "HMAC", &json!("env:HOLDLINE_TELEPHONY_SECRET"));
    watch(&playbooks, "telephony");
    let mut installation = Installation::broker("environment", &playbooks, "default");
    let check = |process: u32, expected: bool| {
        // It is empty until the process is what it was started as.
        let began = clock::now();
        let text = loop {
            let text = lossy(&std::fs::read(format!("/proc/{process}/environ")).unwrap());
            if !text.is_empty() {
                break text;
            }
            assert!(began.elapsed() < PATIENCE, "its environment is empty");
            std::thread::sleep(Duration::from_millis(10));
        };
        let names: Vec<&str> = text.split('\0').filter_map(|entry| Some(entry.split_once('=')?.0)).collect();
        assert_eq!(text.contains(SECRET), expected, "{names:?}");
        assert!(expected || names.iter().all(|name| ["PATH", "TZ"].contains(name)), "{names:?}");
    };
    // The control: whoever starts it has the secret.
    let mut open = Command::new("sleep");
    let open = Running::of(open.arg("60").env("HOLDLINE_TELEPHONY_SECRET", SECRET).spawn().unwrap());
    check(open.id(), true);
    let file = installation.data.join("nats/pid");
    let server = || std::fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
    let first = server().unwrap();
    check(first, false);
    // Nor when it is started again.
    installation.kill_nats();
    let began = clock::now();
    let again = loop {
        if let Some(again) = server().filter(|again| *again != first) {
            break again;
        }
        assert!(began.elapsed() < PATIENCE, "it is not started again");
        std::thread::sleep(Duration::from_millis(50));
    };
    check(again, false);
}
