//! F5, T1, O1, O2, L1: a process of each stage stands still (SIGSTOP) for longer than its lease, its lock, its
//! acknowledgement wait and the broker's duplicate window, while a second replica takes over; then it goes on. No
//! effect is doubled or lost, every timer fires, no state goes back, and every acceptance ends once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use holdline_proto::dead_letter::{DeadLetter, Recall, Wish};
use holdline_proto::incident::{Phase, View};
use holdline_proto::journal::{Decided, Record};
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Bucket, Stream, Topology};
use holdline_proto::wire::{self, Wire};
use holdline_stage::clock;
use holdline_stage::run::Tasks;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch, shorten_duplicate_windows};
use holdline_tests::reference::{Delivered, Status, actions};
use holdline_tests::sender::Sender;
use holdline_tests::target::Target;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Shorter than the stand-still, so that no repeat is recognised by its message id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3);

/// Longer than every lease (4 s), lock (5 s) and acknowledgement wait (6 s).
const STOPPED_FOR: Duration = Duration::from_secs(9);

/// Silence after which a quiet entity goes back: its wake-up is due while the process stands still.
const SILENCE: &str = "6s";

/// More than one replica works on at once, so that the one that stops has some in hand.
const LETTERS: usize = 24;

const SETTLE_MAX: Duration = Duration::from_secs(60);

/// From SIGTERM to the end of a service whose broker stands still: a lease runs out within 4 s, and nothing is waited for
/// longer.
const ENDS_WITHIN: Duration = Duration::from_secs(9);

/// The loop's playbook; one whose incidents end by silence; one whose action must not be asked twice.
fn playbooks(target: &Target) -> PathBuf {
    let folder = scratch("paused-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |_, text| text.replace("127.0.0.1:44001", &address));
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    for (name, idempotent, silence) in [("quiet", true, SILENCE), ("once", false, "15m")] {
        let subscription = json!({"name": name, "topicName": format!("topic.{name}"), "authType": "HMAC",
            "secretToken": "env:HOLDLINE_TELEPHONY_SECRET"});
        write(&format!("subscriptions/{name}.json"), subscription.to_string());
        for direction in ["remediate", "revert"] {
            let action = json!({"name": format!("{name}_{direction}"), "actionType": "WEBHOOK", "method": "POST",
                "idempotent": idempotent, "url": format!("http://{address}/act/{direction}/{{{{data.gatewayId}}}}")});
            write(&format!("actions/{name}_{direction}.json"), action.to_string());
        }
        write(
            &format!("{name}.playbook.yaml"),
            format!(
                "playbook: {name}\nmode: live\non:\n  subscription: {name}\n  entity: data.gatewayId\n  failed: status == \
                 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm:\n  failures: 3\n  stable_for: 0s\nact:\n  failed:\n    \
                 do: [{name}_remediate]\n    class: failover\nrevert:\n  silence: {silence}\n  do: [{name}_revert]\n"
            ),
        );
    }
    folder
}

#[derive(Clone)]
struct World {
    gateways: Vec<std::net::SocketAddr>,
    target: Target,
    jetstream: Context,
    /// What was delivered of the loop's entities.
    delivered: Arc<Mutex<BTreeMap<String, Vec<Delivered>>>>,
}

impl World {
    async fn deliver(&self, subscription: &str, topic: &str, entity: &str, status: Status, number: usize) {
        let id = format!("{entity}-{number}");
        let delivered = Delivered { id, status, at_ms: clock::wall_ms(), spooled_ms: 0 };
        let word = if status == Status::Failed { "FAILED" } else { "HEALTHY" };
        let event = json!({"id": delivered.id, "topicName": topic, "timestamp": delivered.at_ms,
            "data": {"gatewayId": entity, "status": word}});
        self.delivered.lock().unwrap().entry(entity.into()).or_default().push(delivered);
        Sender::new(self.gateways.clone(), subscription).deliver(&event).await;
    }

    /// Three failures, and two healthy events, spread over the whole stand-still.
    async fn outage(self, entity: String, pause: Duration) {
        let history = [Status::Failed, Status::Failed, Status::Failed, Status::Healthy, Status::Healthy];
        for (number, status) in history.into_iter().enumerate() {
            self.deliver("telephony", "telephony.service.status", &entity, status, number).await;
            clock::sleep(pause).await;
        }
    }

    /// Three failures at once, of a kind of their own.
    async fn failures(self, kind: &'static str, entity: String) {
        for number in 0..3 {
            self.deliver(kind, &format!("topic.{kind}"), &entity, Status::Failed, number).await;
        }
    }

    /// Letters for the dlq-replayer to work on: calls that the target refuses.
    async fn letters(&self, entities: &[String]) {
        for entity in entities {
            self.target.fail_at(entity, 1, 404);
        }
        self.report(entities, 0, &[Status::Failed; 3]).await;
    }

    /// Events of many entities at once, beginning with this number.
    async fn report(&self, entities: &[String], from: usize, statuses: &'static [Status]) {
        let mut delivering = JoinSet::new();
        for entity in entities {
            let (world, entity) = (self.clone(), entity.clone());
            delivering.spawn(async move {
                for (number, status) in (from..).zip(statuses) {
                    world.deliver("telephony", "telephony.service.status", &entity, *status, number).await;
                }
            });
        }
        delivering.join_all().await;
    }

    /// Asks for every letter to be sent back; gives their number.
    async fn recall(&self, stage: &str) -> usize {
        let mut asked = 0;
        for (number, _, payload) in read(&self.jetstream, "DEAD", "hl.dead.executor").await {
            let letter: DeadLetter = wire::decode(&payload).unwrap();
            if !String::from_utf8_lossy(&letter.payload).contains(stage) {
                continue;
            }
            let recall =
                Recall { letter: number, what: Wish::Replay, by: "the test".into(), reason: String::new() };
            let subject = Topology::default().retry_asked();
            self.jetstream.publish(subject, wire::encode(&recall).into()).await.unwrap().await.unwrap();
            asked += 1;
        }
        asked
    }
}

/// Every message of a subject that is there: sequence, subject, payload.
async fn read(jetstream: &Context, stream: &str, subject: &str) -> Vec<(u64, String, Vec<u8>)> {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut found = vec![];
    for sequence in state.first_sequence..=state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        if holdline_proto::topology::subject_matches(subject, &message.subject) {
            found.push((sequence, message.subject.to_string(), message.payload.to_vec()));
        }
    }
    found
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Detected => 0,
        Phase::Stabilized => 1,
        Phase::Remediating => 2,
        Phase::Resolved => 3,
    }
}

/// Follows INCIDENTS, and keeps what went back: (incident, before, after).
async fn watch_views(jetstream: Context, wrong: Arc<Mutex<Vec<String>>>) {
    let stream = jetstream.get_stream(Topology::default().bucket_stream(Bucket::Incidents)).await.unwrap();
    let config = pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let mut latest: BTreeMap<String, (u32, u8)> = BTreeMap::new();
    while let Some(Ok(message)) = messages.next().await {
        let Ok(view) = wire::decode::<View>(&message.payload) else { continue };
        let now = (view.decision, rank(view.phase));
        let before = latest.insert(view.id.clone(), now).unwrap_or_default();
        if now.0 < before.0 || now.1 < before.1 {
            wrong.lock().unwrap().push(format!("{}: {before:?} → {now:?}", view.id));
        }
    }
}

/// O1: positions and marks of a stage's records only grow.
async fn records_only_grow<B>(jetstream: &Context, stream: Stream, subject: &str) -> usize
where
    Record<B>: Wire,
{
    let mut latest: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let records = read(jetstream, &Topology::default().stream(stream), subject).await;
    for (sequence, subject, payload) in &records {
        let record: Record<B> = wire::decode(payload).unwrap();
        let now = (record.position, record.effects_done, record.base);
        let before = latest.insert(subject.clone(), now).unwrap_or_default();
        assert!(
            before.0 <= now.0 && before.1 <= now.1 && before.2 <= now.2,
            "{subject} {sequence}: {before:?} → {now:?}"
        );
    }
    records.len()
}

/// Phase of each incident by its last decision in the journal.
async fn phases(jetstream: &Context) -> BTreeMap<String, Phase> {
    let mut phases = BTreeMap::new();
    for (_, _, payload) in read(jetstream, "JOURNAL", "hl.log.*").await {
        let record: Record<Decided> = wire::decode(&payload).unwrap();
        for decision in record.body.decisions {
            phases.insert(decision.incident, decision.phase);
        }
    }
    phases
}

async fn views(installation: &Installation) -> BTreeMap<String, Value> {
    let output = installation.holdline(&["incidents", "--all", "--output", "json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = shown.as_array().unwrap().iter();
    shown.map(|i| (i["incidentId"].as_str().unwrap().to_string(), i["currentState"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_t1_o2_a_process_that_stands_still_and_goes_on_doubles_nothing_and_loses_nothing() {
    let target = Target::start().await;
    let mut installation = Installation::broker("paused", &playbooks(&target), "default");
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        for replica in 0..2 {
            installation.spawn(stage, replica);
        }
    }
    installation.wait_ready();
    let jetstream = jetstream::new(installation.client("provisioner").await);
    shorten_duplicate_windows(&jetstream, DUPLICATE_WINDOW).await;
    let world = World {
        gateways: installation.gateways(),
        target: target.clone(),
        jetstream: jetstream.clone(),
        delivered: Arc::default(),
    };
    let (watching, went_back) = (Tasks::default(), Arc::default());
    let (watched, seen) = (jetstream.clone(), Arc::clone(&went_back));
    watching.spawn({
        let watching = watching.clone();
        async move {
            tokio::select! {
                () = watch_views(watched, seen) => {}
                () = watching.stopping() => {}
            }
        }
    });

    let mut driving = JoinSet::new();
    let mut once = vec![];
    for stage in ["gateway", "classifier", "debouncer", "executor", "dlq-replayer"] {
        let names = |kind: &str, count: usize| -> Vec<String> {
            (0..count).map(|n| format!("{stage}-{kind}-{n}")).collect()
        };
        // What goes on all the time: before, during and after.
        for (n, entity) in names("steady", 16).into_iter().enumerate() {
            let pause = Duration::from_millis(1_500 + 100 * n as u64);
            driving.spawn(world.clone().outage(entity, pause));
        }
        // Their wake-ups are due while the process stands still.
        let mut quiet = JoinSet::new();
        for entity in names("quiet", 8) {
            quiet.spawn(world.clone().failures("quiet", entity));
        }
        quiet.join_all().await;
        match stage {
            "executor" => {
                // Calls are under way when it stops.
                target.slow(Duration::from_millis(700));
                let entities = names("once", 16);
                for entity in entities.iter().chain(&names("idempotent", 8)) {
                    let kind = if entity.contains("once") { "once" } else { "quiet" };
                    driving.spawn(world.clone().failures(kind, entity.clone()));
                }
                once.extend(entities);
                clock::sleep(Duration::from_millis(500)).await;
            }
            "dlq-replayer" => {
                let entities = names("letter", LETTERS);
                world.letters(&entities).await;
                let began = clock::now();
                while read(&jetstream, "DEAD", "hl.dead.executor").await.len() < entities.len() {
                    assert!(began.elapsed() < Duration::from_secs(20), "no letters");
                    clock::sleep(Duration::from_millis(100)).await;
                }
                assert!(world.recall(stage).await >= entities.len());
            }
            _ => clock::sleep(Duration::from_millis(300)).await,
        }
        eprintln!("{stage}-0 stands still");
        installation.service(stage, 0).signal("STOP");
        clock::sleep(STOPPED_FOR).await;
        installation.service(stage, 0).signal("CONT");
        target.slow(Duration::ZERO);
        eprintln!("{stage}-0 goes on");
        if stage == "dlq-replayer" {
            let entities = names("letter", LETTERS);
            let began = clock::now();
            let called = |entity: &String| {
                let path = format!("/act/remediate/{entity}");
                target.calls().iter().filter(|call| call.path == path).count() > 1
            };
            while !entities.iter().all(called) {
                assert!(began.elapsed() < SETTLE_MAX, "not every letter went back");
                clock::sleep(Duration::from_millis(100)).await;
            }
            world.report(&entities, 3, &[Status::Healthy; 2]).await;
        }
    }
    driving.join_all().await;

    // What must come, by entity. An entity of `once` may be held instead.
    let delivered = world.delivered.lock().unwrap().clone();
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (entity, history) in delivered.iter().filter(|(entity, _)| !once.contains(entity)) {
        let mut directions: Vec<&str> = actions(history, 3, 0, 2, 0).into_iter().map(|(d, _)| d).collect();
        if history.iter().all(|event| event.status == Status::Failed) {
            directions.push("revert");
        }
        wanted.insert(entity.clone(), directions.iter().map(|d| format!("/act/{d}/{entity}")).collect());
    }
    let effects = || {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for call in target.effects() {
            let entity = call.path.rsplit('/').next().unwrap().to_string();
            found.entry(entity).or_default().push(call.path);
        }
        found.retain(|entity, _| !once.contains(entity));
        found
    };
    let began = clock::now();
    while effects() != wanted && began.elapsed() < SETTLE_MAX {
        clock::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("settled {:?} after the last went on", began.elapsed());
    clock::sleep(Duration::from_secs(2)).await;
    let found = effects();
    let differ: Vec<String> = wanted
        .keys()
        .chain(found.keys())
        .filter(|entity| wanted.get(*entity) != found.get(*entity))
        .map(|entity| format!("{entity}: wanted {:?}, found {:?}", wanted.get(entity), found.get(entity)))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    for entity in &once {
        let calls = target.calls().iter().filter(|call| call.path.ends_with(&format!("/{entity}"))).count();
        assert!(calls <= 1, "{entity} was asked {calls} times and must not be asked twice");
    }

    assert!(records_only_grow::<Classified>(&jetstream, Stream::Inputs, "hl.signal.*").await > 0);
    assert!(records_only_grow::<Decided>(&jetstream, Stream::Journal, "hl.log.*").await > 0);
    let phases = phases(&jetstream).await;
    let began = clock::now();
    loop {
        let views = views(&installation).await;
        let behind: Vec<String> = phases
            .iter()
            .filter(|(id, phase)| views.get(*id) != Some(&json!(phase)))
            .map(|(id, phase)| format!("{id} is {phase} and is shown as {:?}", views.get(id)))
            .collect();
        if behind.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{}", behind.join("\n"));
        clock::sleep(Duration::from_millis(200)).await;
    }
    watching.finish().await;
    assert_eq!(*went_back.lock().unwrap(), Vec::<String>::new(), "views that went back");
    installation.conserved();
}

/// However many partitions each owns: what is not given back within a lease's time runs out by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_x3_a_broker_that_stands_still_keeps_no_service_from_ending() {
    let target = Target::start().await;
    let mut installation = Installation::start("paused-broker", &playbooks(&target), 1, "default");
    installation.spawn("dlq-replayer", 0);
    installation.wait_ready();
    let stages = STAGES.into_iter().chain(["dlq-replayer"]);
    installation.signal_nats("STOP");
    for stage in stages.clone() {
        installation.service(stage, 0).signal("TERM");
    }
    for stage in stages {
        assert_eq!(installation.service(stage, 0).wait(ENDS_WITHIN), Some(0), "{stage}");
    }
    installation.signal_nats("CONT");
    installation.conserved();
}
