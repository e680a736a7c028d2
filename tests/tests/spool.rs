//! N1, F4, F9: the gateway goes on accepting while the broker is away, and nothing of it is lost or doubled.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, Running, changed_sample, command, free_address, scratch};
use holdline_tests::random::Random;
use holdline_tests::reference::{Delivered, Status, actions};
use holdline_tests::sender::{Sender, event, sign};
use holdline_tests::target::Target;
use serde_json::Value;
use tokio::task::JoinSet;

/// The platform gives up after this.
const PATIENCE: Duration = Duration::from_secs(5);

async fn installed(name: &str, sync: &str) -> (Installation, Target) {
    let target = Target::start().await;
    let playbooks = scratch("spool-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    let installation = Installation::start(name, &playbooks, 1, sync);
    // What a start without a broker needs.
    for kept in ["installation", "playbooks"] {
        let kept = installation.spool(0).join(kept);
        wait_until(&format!("{} is there", kept.display()), || kept.is_file()).await;
    }
    (installation, target)
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        clock::sleep(Duration::from_millis(20)).await;
    }
}

/// What the gateway says that it holds: `events`, `bytes`, `age_seconds`, over all partitions.
fn spooled_in(installation: &Installation, what: &str) -> u64 {
    let metrics = installation.admin("gateway", 0, "/metrics");
    let name = format!("holdline_spool_{what}{{");
    let lines = metrics.lines().filter(|line| line.starts_with(&name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn spooled(installation: &Installation) -> u64 {
    spooled_in(installation, "events")
}

fn ready(installation: &Installation) -> bool {
    installation.admin("gateway", 0, "/readyz").starts_with("HTTP/1.1 200")
}

/// The segments of the spool and their lengths.
fn segments(installation: &Installation) -> BTreeMap<PathBuf, u64> {
    let entries = std::fs::read_dir(installation.spool(0)).unwrap().map(|entry| entry.unwrap());
    let entries = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "frames"));
    entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect()
}

/// Three failures of an entity of their own; gives the entity.
async fn fail(sender: &Sender, entity: &str) {
    let now = clock::wall_ms();
    for number in 0..3 {
        let event = event(&format!("{entity}-{number}"), entity, "FAILED", now + number);
        let (status, answer) = sender.post(event.to_string().as_bytes()).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }
}

/// All there once: so many acceptances, and one action for each of the entities.
async fn all_there_once(installation: &Installation, target: &Target, accepted: u64, entities: &[&str]) {
    target.wait_for(entities.len(), Duration::from_secs(60)).await;
    wait_until("the spool is drained", || spooled(installation) == 0).await;
    let count = installation.conserved();
    assert_eq!(count["accepted"], accepted, "{count}");
    let mut acted: Vec<String> =
        target.effects().iter().map(|call| call.path.rsplit('/').next().unwrap().to_string()).collect();
    acted.sort();
    assert_eq!(acted, entities);
    assert_eq!(segments(installation).len(), 0, "nothing is left of what is drained");
}

/// Failures and recoveries of one entity, in pieces of random length, until it has had its outage: a second remedy
/// that waits for the first one's outcome while its trouble ends is no longer needed, so what is wanted would
/// depend on who is faster.
fn history(random: &mut Random, entity: &str, events: usize) -> Vec<Delivered> {
    let mut history = vec![];
    let mut at_ms = clock::wall_ms() - 600_000;
    while history.len() < events {
        let over = actions(&history, 3, 0, 2, 0).len() >= 2;
        let status = if !over && random.below(2) == 0 { Status::Failed } else { Status::Healthy };
        for _ in 0..=random.below(5) {
            at_ms += 100;
            let id = format!("{entity}-{}", history.len());
            history.push(Delivered { id, status, at_ms, spooled_ms: 0 });
        }
    }
    history
}

/// Delivers every history, and holds each answer against the promise: 200, whatever happens to the broker.
/// Gives the longest time that an answer took, in milliseconds.
async fn deliver(sender: &Sender, histories: &BTreeMap<String, Vec<Delivered>>, pause: Duration) -> u64 {
    let mut tasks = JoinSet::new();
    let slowest = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    for (entity, history) in histories.clone() {
        let (sender, slowest, refused) = (sender.clone(), slowest.clone(), refused.clone());
        tasks.spawn(async move {
            for delivered in history {
                let status = if delivered.status == Status::Failed { "FAILED" } else { "HEALTHY" };
                let body = event(&delivered.id, &entity, status, delivered.at_ms).to_string();
                let began = clock::now();
                match sender.post(body.as_bytes()).await {
                    Ok((200, _)) => {}
                    answer => {
                        eprintln!("{}: {answer:?}", delivered.id);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
                slowest.fetch_max(took_ms, Ordering::Relaxed);
                clock::sleep(pause).await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(refused.load(Ordering::Relaxed), 0, "requests that were not answered 200");
    slowest.load(Ordering::Relaxed)
}

/// Everything that must reach the target, by entity: the direction and the deciding event.
fn wanted(histories: &BTreeMap<String, Vec<Delivered>>) -> BTreeMap<String, Vec<(String, String)>> {
    let of = |history: &Vec<Delivered>| {
        actions(history, 3, 0, 2, 0).into_iter().map(|(direction, id)| (direction.to_string(), id)).collect()
    };
    let all = histories.iter().map(|(entity, history)| (entity.clone(), of(history)));
    all.filter(|(_, actions): &(_, Vec<_>)| !actions.is_empty()).collect()
}

fn found(target: &Target) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for call in target.effects() {
        let mut parts = call.path.split('/').skip(2);
        let (direction, entity) = (parts.next().unwrap(), parts.next().unwrap());
        found.entry(entity.into()).or_default().push((direction.into(), call.request_id.clone()));
    }
    found
}

/// Load on a gateway while `outage` happens to its broker.
async fn under_load(name: &str, outage: impl AsyncFnOnce(&mut Installation)) {
    #[allow(clippy::disallowed_methods, reason = "a failing run is run again by its seed")]
    let given = std::env::var("HOLDLINE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| clock::wall_ms().unsigned_abs());
    eprintln!("HOLDLINE_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut installation, target) = installed(name, "always").await;
    let histories: BTreeMap<String, Vec<Delivered>> = (0..40)
        .map(|number| {
            let entity = format!("gw-{number}");
            (entity.clone(), history(&mut random, &entity, 400))
        })
        .collect();
    let events: usize = histories.values().map(Vec::len).sum();
    let sender = Sender::new(installation.gateways(), "telephony");
    let delivering = deliver(&sender, &histories, Duration::from_millis(40));
    let (slowest_ms, ()) = tokio::join!(delivering, outage(&mut installation));
    eprintln!("{events} events, the slowest answer took {slowest_ms} ms");
    assert!(Duration::from_millis(slowest_ms) < PATIENCE);
    let wanted = wanted(&histories);
    let total: usize = wanted.values().map(Vec::len).sum();
    target.wait_for(total, Duration::from_secs(90)).await;
    wait_until("the spool is drained", || spooled(&installation) == 0).await;
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(2)).await;
    assert_eq!(found(&target), wanted, "seed {seed}");
    let count = installation.conserved();
    assert_eq!(count["accepted"], events, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_f4_the_broker_is_gone_under_load_and_every_request_is_answered_200() {
    under_load("spool-gone", async |installation| {
        clock::sleep(Duration::from_secs(3)).await;
        installation.stop_broker();
        clock::sleep(Duration::from_secs(6)).await;
        assert!(ready(installation), "it can do its work");
        for what in ["events", "bytes", "age_seconds"] {
            assert!(spooled_in(installation, what) > 0, "{what}");
        }
        clock::sleep(Duration::from_secs(6)).await;
        installation.start_broker("always");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_f4_the_broker_hangs_under_load_and_every_request_is_answered_200() {
    under_load("spool-hangs", async |installation| {
        let server = installation.processes()["nats-server"].to_string();
        for _ in 0..3 {
            for (signal, then) in [("-STOP", 3), ("-CONT", 2)] {
                assert!(Command::new("kill").args([signal, &server]).status().unwrap().success());
                clock::sleep(Duration::from_secs(then)).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_f1_the_gateway_is_killed_while_it_spools_and_starts_again_without_a_broker() {
    let (mut installation, target) = installed("spool-killed", "always").await;
    let sender = Sender::new(installation.gateways(), "telephony");
    installation.stop_broker();
    fail(&sender, "a").await;
    // Killed again and again with requests under way; what was answered nobody sends again.
    let answered = Arc::new(AtomicU64::new(0));
    for round in 0..4 {
        let mut tasks = JoinSet::new();
        for lane in 0..16 {
            let (sender, answered) = (sender.clone(), answered.clone());
            tasks.spawn(async move {
                for number in 0.. {
                    let id = format!("under-way-{round}-{lane}-{number}");
                    let event = event(&id, &id, "FAILED", clock::wall_ms());
                    match sender.post(event.to_string().as_bytes()).await {
                        Ok((200, _)) => answered.fetch_add(1, Ordering::Relaxed),
                        Ok(answer) => panic!("{answer:?}"),
                        Err(_) => return,
                    };
                }
            });
        }
        clock::sleep(Duration::from_millis(700 + 37 * round)).await;
        installation.kill("gateway", 0);
        tasks.join_all().await;
        installation.spawn("gateway", 0);
        wait_until("the gateway is ready without a broker", || ready(&installation)).await;
        fail(&sender, &format!("b{round}")).await;
    }
    installation.start_broker("always");
    fail(&sender, "c").await;
    target.wait_for(6, Duration::from_secs(60)).await;
    wait_until("the spool is drained", || spooled(&installation) == 0).await;
    let count = installation.conserved();
    let accepted = count["accepted"].as_u64().unwrap();
    let promised = answered.load(Ordering::Relaxed) + 6 * 3;
    // One per lane and round may have been synced and not yet answered.
    assert!((promised..=promised + 4 * 16).contains(&accepted), "{promised} were answered: {count}");
    let mut acted: Vec<String> = found(&target).into_keys().collect();
    acted.sort();
    assert_eq!(acted, ["a", "b0", "b1", "b2", "b3", "c"]);
    assert_eq!(target.effects().len(), 6);
}

/// Sets how far files of a process may grow: the way in which a test fills a disk.
fn limit_files(process: u32, bytes: &str) {
    let done = Command::new("prlimit")
        .args([format!("--pid={process}"), format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_on_a_full_disk_nothing_is_half_accepted_and_it_recovers() {
    let (mut installation, target) = installed("spool-full", "always").await;
    let sender = Sender::new(installation.gateways(), "telephony");
    installation.stop_broker();
    fail(&sender, "a").await;
    let before = segments(&installation);
    assert_eq!(before.len(), 1);
    // The next record fits by half.
    let length = *before.values().next().unwrap();
    let process = installation.service("gateway", 0).id();
    limit_files(process, &(length + 100).to_string());
    for number in 0..5 {
        let event = event(&format!("refused-{number}"), "a", "FAILED", clock::wall_ms());
        let (head, body) = post_raw(installation.gateways()[0], &event).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.to_ascii_lowercase().contains("retry-after: 1"), "{head}");
        assert!(body.contains("could not be stored; send it again"), "{body}");
        assert_eq!(segments(&installation), before, "nothing half-accepted");
    }
    assert!(!ready(&installation), "it can neither store nor spool");
    limit_files(process, "unlimited");
    fail(&sender, "b").await;
    assert!(ready(&installation));
    limit_files(process, "0");
    installation.start_broker("always");
    wait_until("the spool is drained", || spooled(&installation) == 0).await;
    // With the broker there the disk does not matter.
    fail(&sender, "c").await;
    limit_files(process, "unlimited");
    all_there_once(&installation, &target, 9, &["a", "b", "c"]).await;
}

/// Posts a signed event; gives the head and the body of the answer.
async fn post_raw(gateway: SocketAddr, event: &Value) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = event.to_string();
    let timestamp = (clock::wall_ms() / 1_000).to_string();
    let signature = sign(&timestamp, body.as_bytes());
    let request = format!(
        "POST /v1/events/telephony HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nX-PureCloud-Timestamp: {timestamp}\r\n\
         X-PureCloud-Signature: {signature}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.into(), body.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_a_torn_tail_is_cut_off_told_and_what_is_intact_is_drained() {
    let (mut installation, target) = installed("spool-torn", "always").await;
    let sender = Sender::new(installation.gateways(), "telephony");
    installation.stop_broker();
    fail(&sender, "a").await;
    installation.service("gateway", 0).signal("TERM");
    let ended = installation.service("gateway", 0).wait(Duration::from_secs(30));
    assert_eq!(ended, Some(0), "what is spooled stays");
    let (segment, length) = segments(&installation).pop_first().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // A frame begins as the first one does, and breaks off.
    bytes.extend_from_within(..100);
    std::fs::write(&segment, bytes).unwrap();

    installation.spawn("gateway", 0);
    wait_until("the gateway is ready without a broker", || ready(&installation)).await;
    assert_eq!(std::fs::metadata(&segment).unwrap().len(), length);
    assert!(installation.logs().contains("100 bytes of a frame that a crash cut short are cut off"));
    fail(&sender, "b").await;
    installation.start_broker("always");
    all_there_once(&installation, &target, 6, &["a", "b"]).await;
}

#[test]
fn a_gateway_that_has_never_seen_a_broker_waits_for_it_and_gives_up() {
    let folder = scratch("spool-never");
    let child = command("holdline-gateway")
        .env("HOLDLINE_NATS_URL", format!("nats://{}", free_address()))
        .env("HOLDLINE_NATS_PATIENCE_S", "1")
        .env("HOLDLINE_GATEWAY_LISTEN", "127.0.0.1:0")
        .env("HOLDLINE_GATEWAY_SPOOL", folder.join("spool"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(Running::of(child).wait(Duration::from_secs(30)), Some(69));
}

/// Beyond its bound the spool takes nothing more, what it has stays, and it goes on once it is drained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_a_spool_that_is_full_refuses_what_comes_and_keeps_what_it_has() {
    const BYTES_MAX: u64 = 64 * 1024;
    let (mut installation, target) = installed("spool-bound", "always").await;
    installation.kill("gateway", 0);
    let bound = BYTES_MAX.to_string();
    installation.spawn_with("gateway", 0, &[("HOLDLINE_GATEWAY_SPOOL_BYTES_MAX", &bound)]);
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    installation.stop_broker();
    fail(&sender, "a").await;
    let mut accepted = 3;
    let refusal = loop {
        let mut event = event(&format!("filling-{accepted}"), "filling", "HEALTHY", clock::wall_ms());
        event["data"]["filling"] = "x".repeat(4_000).into();
        let (head, body) = post_raw(installation.gateways()[0], &event).await;
        if !head.starts_with("HTTP/1.1 200") {
            break head + &body;
        }
        accepted += 1;
        assert!(accepted < 100, "there is no bound");
    };
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("could not be stored"), "{refusal}");
    assert!(installation.log_of("gateway", 0).contains("gateway.spool_bytes_max"), "it says why");
    assert!(!ready(&installation), "nothing more goes in");
    let held = spooled_in(&installation, "bytes");
    assert!(held > BYTES_MAX / 2 && held <= BYTES_MAX, "{held} bytes");
    assert_eq!(spooled(&installation), accepted, "nothing half-accepted");
    installation.start_broker("always");
    wait_until("the spool is drained", || spooled(&installation) == 0).await;
    fail(&sender, "b").await;
    all_there_once(&installation, &target, accepted + 3, &["a", "b"]).await;
}
