//! The main job: 1,000 entities with jitter, failures, recoveries, duplicates and disorder, through separate
//! programs. What reaches the target must equal the naive reference: nothing lost, nothing twice, nothing
//! early; also while each of the programs is killed, and with two replicas of each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::random::Random;
use holdline_tests::reference::{Delivered, Status, actions};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::{Call, Target};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// How long after the last event an effect may still come, faults included.
const SETTLE: Duration = Duration::from_secs(90);

fn seed() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a failing run is run again by its seed")]
    let given = std::env::var("HOLDLINE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| clock::wall_ms() as u64);
    eprintln!("HOLDLINE_TEST_SEED={seed}");
    seed
}

/// The loop's playbooks, aimed at a target of our own, and told what a warning looks like.
fn playbooks(target: &Target) -> std::path::PathBuf {
    let folder = scratch("loop-playbooks");
    let address = target.address.to_string();
    let healthy = "  healthy: status == 'HEALTHY'\n";
    let both = format!("  degraded: status == 'DEGRADED'\n{healthy}");
    // The reference knows no deadlines: what a run of faults holds up for a minute must not be decided anew.
    let patient = "    class: failover\n    deadline: 15m\n";
    changed_sample("loop", &folder, |_, text| {
        text.replace("127.0.0.1:44001", &address)
            .replace(healthy, &both)
            .replace("    class: failover\n", patient)
    });
    folder
}

/// A history for one entity: phases of jitter, failure and health, some of it late, some of it twice.
fn history(random: &mut Random, entity: &str, events: usize) -> Vec<Delivered> {
    let mut history = vec![];
    let base = clock::wall_ms() - 600_000;
    let mut at_ms = base;
    while history.len() < events {
        let (status, length) = match random.below(6) {
            0 | 1 => (Status::Failed, 1 + random.below(5)),
            2 => (Status::Degraded, 1),
            3 => (Status::Healthy, 1),
            _ => (Status::Healthy, 1 + random.below(4)),
        };
        for _ in 0..length {
            at_ms += 1 + random.below(1_000) as i64;
            let late = random.once_in(12);
            history.push(Delivered {
                id: format!("{entity}-{}", history.len()),
                status,
                at_ms: if late { at_ms - 5_000 } else { at_ms },
                spooled_ms: 0,
            });
            if random.once_in(10) {
                let again = history[random.below(history.len() as u64) as usize].clone();
                history.push(again);
            }
        }
    }
    history
}

/// Delivers every history, entities side by side, each entity's events one after another. What an event leads to
/// has to be seen at the target before the entity's next one is sent: a remedy that waits while its trouble ends
/// is no longer needed, so what is wanted would depend on who is faster.
async fn deliver(
    sender: &Sender,
    target: &Target,
    histories: &BTreeMap<String, Vec<Delivered>>,
    at_once: usize,
    pause: Duration,
) {
    let work: Vec<(String, Vec<Delivered>)> = histories.clone().into_iter().collect();
    let work = Arc::new(Mutex::new(work));
    let mut tasks = JoinSet::new();
    let retried = Arc::new(AtomicU64::new(0));
    for _ in 0..at_once {
        let (work, sender, target, retried) = (work.clone(), sender.clone(), target.clone(), retried.clone());
        tasks.spawn(async move {
            loop {
                let Some((entity, history)) = work.lock().await.pop() else { return };
                let mut led_to: Vec<(String, String)> = of(&history);
                led_to.reverse();
                for delivered in history {
                    let status = match delivered.status {
                        Status::Failed => "FAILED",
                        Status::Degraded => "DEGRADED",
                        Status::Healthy => "HEALTHY",
                    };
                    let tries = sender.deliver(&event(&delivered.id, &entity, status, delivered.at_ms)).await;
                    retried.fetch_add(u64::from(tries - 1), Ordering::Relaxed);
                    clock::sleep(pause).await;
                    if let Some((direction, id)) = led_to.pop_if(|(_, id)| *id == delivered.id) {
                        await_effect(&target, &format!("/act/{direction}/{entity}"), &id).await;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    eprintln!("deliveries repeated: {}", retried.load(Ordering::Relaxed));
}

/// Waits for an effect; one that does not come is told by the comparison at the end.
async fn await_effect(target: &Target, path: &str, id: &str) {
    let began = clock::now();
    while !target.has(path, id) && began.elapsed() < SETTLE {
        clock::sleep(Duration::from_millis(5)).await;
    }
}

fn histories(seed: u64, entities: usize, events: usize) -> BTreeMap<String, Vec<Delivered>> {
    let mut random = Random::new(seed);
    (0..entities)
        .map(|n| {
            let entity = format!("gw-{n}");
            let history = history(&mut random, &entity, events);
            (entity, history)
        })
        .collect()
}

/// Every action that a history must lead to.
fn of(history: &[Delivered]) -> Vec<(String, String)> {
    actions(history, 3, 0, 2, 0).into_iter().map(|(direction, id)| (direction.to_string(), id)).collect()
}

/// Every action that must come, by entity.
fn wanted(histories: &BTreeMap<String, Vec<Delivered>>) -> BTreeMap<String, Vec<(String, String)>> {
    histories
        .iter()
        .map(|(entity, history)| (entity.clone(), of(history)))
        .filter(|(_, a)| !a.is_empty())
        .collect()
}

/// `/act/<direction>/<entity>` of every effect, in order per entity.
fn found(effects: &[Call]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for call in effects {
        let mut parts = call.path.split('/').skip(2);
        let (direction, entity) = (parts.next().unwrap(), parts.next().unwrap());
        found.entry(entity.into()).or_default().push((direction.into(), call.request_id.clone()));
    }
    found
}

/// `id:STATUS@time`, short.
fn told(event: &Delivered) -> String {
    let id = event.id.rsplit('-').next().unwrap();
    format!("{id}:{:.1}@{}", format!("{:?}", event.status), event.at_ms % 1_000_000)
}

fn compare(
    histories: &BTreeMap<String, Vec<Delivered>>,
    wanted: &BTreeMap<String, Vec<(String, String)>>,
    target: &Target,
    seed: u64,
) {
    let effects = target.effects();
    let found = found(&effects);
    let mut wrong = vec![];
    for entity in wanted.keys().chain(found.keys()) {
        let (wanted, found) = (wanted.get(entity), found.get(entity));
        if wanted != found {
            let told: Vec<String> = histories[entity].iter().map(told).collect();
            wrong
                .push(format!("{entity}: wanted {wanted:?}\n    found {found:?}\n    of {}", told.join(" ")));
        }
    }
    wrong.dedup();
    let repeated = target.calls().len() - effects.len();
    eprintln!("{} effects, {repeated} calls repeated with the same key", effects.len());
    assert!(wrong.is_empty(), "seed {seed}: {} entities differ\n{}", wrong.len(), wrong.join("\n"));
}

async fn run(name: &str, entities: usize, events: usize, replicas: usize, fault: Fault) {
    let seed = seed();
    let target = Target::start().await;
    let mut installation = Installation::start(name, &playbooks(&target), replicas, "always");
    let histories = histories(seed, entities, events);
    let wanted = wanted(&histories);
    let total: usize = wanted.values().map(Vec::len).sum();
    let sender = Sender::new(installation.gateways(), "telephony");
    let began = clock::now();
    let mut random = Random::new(seed ^ 0xfa17);
    let pause = Duration::from_millis(if matches!(fault, Fault::None) { 0 } else { 15 });
    let delivering = deliver(&sender, &target, &histories, 160, pause);
    tokio::pin!(delivering);
    loop {
        tokio::select! {
            () = &mut delivering => break,
            () = clock::sleep(Duration::from_millis(1_000 + random.below(1_500))), if !matches!(fault, Fault::None) => {
                fault.strike(&mut installation, &mut random, replicas);
            }
        }
    }
    fault.heal(&mut installation, replicas);
    eprintln!(
        "{} events delivered in {:?}",
        histories.values().map(Vec::len).sum::<usize>(),
        began.elapsed()
    );
    target.wait_for(total, SETTLE).await;
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(2)).await;
    if target.effects().len() != total {
        eprintln!(
            "{}",
            installation
                .logs()
                .lines()
                .filter(|l| l.contains("ERROR"))
                .take(40)
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    compare(&histories, &wanted, &target, seed);
    installation.conserved();
}

enum Fault {
    None,
    /// Kill any one program, or nats-server, and start it again.
    Restart,
    /// Kill one replica of each stage, for good.
    LoseReplicas(std::sync::Mutex<Vec<&'static str>>),
}

impl Fault {
    fn strike(&self, installation: &mut Installation, random: &mut Random, _replicas: usize) {
        match self {
            Fault::None => {}
            Fault::Restart => {
                let victim = random.below(5) as usize;
                match STAGES.get(victim) {
                    Some(stage) => {
                        eprintln!("kill -9 {stage}");
                        installation.kill(stage, 0);
                        installation.spawn(stage, 0);
                    }
                    None => {
                        eprintln!("kill -9 nats-server");
                        installation.kill_nats();
                    }
                }
            }
            Fault::LoseReplicas(left) => {
                if let Some(stage) = left.lock().unwrap().pop() {
                    eprintln!("kill -9 {stage}-0, for good");
                    installation.kill(stage, 0);
                }
            }
        }
    }

    fn heal(&self, _installation: &mut Installation, _replicas: usize) {
        if let Fault::LoseReplicas(left) = self {
            assert!(left.lock().unwrap().is_empty(), "the run was too short to strike every stage");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e1_a_thousand_entities_equal_the_reference() {
    run("loop-plain", 1_000, 24, 1, Fault::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_f2_every_program_killed_again_and_again() {
    run("loop-restart", 1_000, 60, 1, Fault::Restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_two_replicas_of_each_and_one_of_each_lost() {
    let fault = Fault::LoseReplicas(std::sync::Mutex::new(STAGES.to_vec()));
    run("loop-replicas", 1_000, 40, 2, fault).await;
}
