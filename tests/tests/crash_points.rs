//! F1: every named line of every stage, walked. The stage's program runs with the point set, is driven until it
//! has aborted there, and is started again without it. In the end the target has seen what the naive reference
//! says, and every acceptance has ended exactly once.
//!
//! What an executor does natively is walked in an installation of its own, against the simulated platform; what people
//! allow and what budgets bound in another.
//!
//! F5, O1, O2: before each fence, the same with a process that freezes there, its clock with it, as on a machine that is
//! suspended. Others go on meanwhile; when it comes back, it believes that it owns what it owned, and must be refused.
//!
//! All points share one installation. What a point interrupts is finished beside the walk of the next ones,
//! with as little mercy as in life; each point has an entity of its own, so that a failure names its point.
//! `HOLDLINE_TEST_POINT=executor` (or part of a point's name) walks only those.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_proto::dead_letter::{Recall, Wish};
use holdline_proto::topology::{Topology, partition_of};
use holdline_proto::wire;
use holdline_simulator::organisation::{CLIENT, CLIENT_SECRET};
use holdline_simulator::{Kind, Options, Simulator};
use holdline_stage::clock;
use holdline_stage::crash::Point;
use holdline_tests::platform::{content, found_group, group_playbooks};
use holdline_tests::programs::{
    Installation, STAGES, changed_sample, holdline, scratch, shorten_duplicate_windows,
};
use holdline_tests::reference::{Delivered, Status, actions};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::{Call, Target};
use serde_json::Value;
use tokio::task::JoinSet;

const SIGABRT: i32 = 6;

/// From the start with the point to the abort there.
const ABORT_MAX: Duration = Duration::from_secs(40);

/// From the last abort to the last effect: leases, locks and waits for acknowledgements have to run out.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Longer than every lease (4 s), lock (5 s) and acknowledgement wait (6 s), and what the broker recognises repeats for. It
/// is frozen for longer if others take longer to go on.
const FROZEN_FOR: Duration = Duration::from_secs(9);

/// Shorter than a process is frozen, so that no repeat is recognised by its message id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3);

/// Between the events of an entity while a process is frozen: its new owner decides on some of them.
const EVENT_EVERY: Duration = Duration::from_secs(2);

/// What a dead executor had locked is free by then.
const LOCKED_FOR: Duration = Duration::from_secs(6);

/// Entities at a fence: some on each partition, some for each replica.
const FENCED_ENTITIES: usize = 12;

/// Lines behind which only a fence holds up who was taken for dead.
const FENCES: [(Point, &str); 7] = [
    (Point::BeforeCommit, "classifier"),
    (Point::BeforeCommit, "debouncer"),
    (Point::BetweenEffects, "debouncer"),
    (Point::BeforeView, "debouncer"),
    (Point::BetweenLooks, "executor"),
    (Point::BeforeIntent, "executor"),
    (Point::AfterIntent, "executor"),
];

/// What leads past a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An outage and its end.
    Outage,
    /// The same, with the broker away when the first events come.
    Spooled,
    /// The same, with one failure of the target that is worth a second call.
    Repeated,
    /// The same, with a call that the target refuses for good, and a person who has it sent again.
    GivenUp,
    /// A message that cannot be understood, on what the stage reads; then the outage.
    Poison,
    /// An outage and its end, with an action of the platform's own.
    Native,
    /// The same, with an action that a person has to allow, and that takes of two budgets.
    Allowed,
}

/// A new point has to be given a way before this compiles.
fn way(point: Point) -> Way {
    match point {
        Point::GatewaySpoolWritten | Point::GatewaySpoolSynced | Point::GatewaySpoolDrained => Way::Spooled,
        Point::GatewayBeforeStore
        | Point::GatewayAfterStore
        | Point::AfterFold
        | Point::BeforeCommit
        | Point::AfterCommit
        | Point::BetweenEffects
        | Point::AfterEffects
        | Point::BeforeView
        | Point::AfterLock
        | Point::BetweenLooks
        | Point::BeforeIntent
        | Point::AfterIntent
        | Point::AfterCall
        | Point::BeforeAck => Way::Outage,
        Point::PreImageKept | Point::VersionNoted => Way::Native,
        Point::AskRecorded
        | Point::PeopleAsked
        | Point::EntryAppended
        | Point::UseRecorded
        | Point::BudgetTaken => Way::Allowed,
        Point::BeforeRetry => Way::Repeated,
        Point::AfterPark => Way::Poison,
        Point::ReplayerPlanned
        | Point::ReplayerLetThrough
        | Point::ReplayerSentBack
        | Point::ReplayerResolved => Way::GivenUp,
    }
}

/// What a walk needs besides the programs.
#[derive(Clone)]
struct World {
    sender: Sender,
    target: Target,
    /// A connection with every right.
    client: async_nats::Client,
    /// What was delivered, by entity.
    delivered: Arc<Mutex<BTreeMap<String, Vec<Delivered>>>>,
}

impl World {
    async fn around(installation: &Installation, target: &Target) -> World {
        World {
            sender: Sender::new(installation.gateways(), "telephony"),
            target: target.clone(),
            client: installation.client("provisioner").await,
            delivered: Arc::default(),
        }
    }

    async fn deliver(&self, entity: &str, status: Status) {
        let delivered = {
            let mut all = self.delivered.lock().unwrap();
            let history = all.entry(entity.into()).or_default();
            let id = format!("{entity}-{}", history.len());
            history.push(Delivered { id, status, at_ms: clock::wall_ms(), spooled_ms: 0 });
            history.last().unwrap().clone()
        };
        let status = if status == Status::Failed { "FAILED" } else { "HEALTHY" };
        self.sender.deliver(&event(&delivered.id, entity, status, delivered.at_ms)).await;
    }

    /// Waits for a call, whoever makes it when.
    async fn called(&self, path: &str) -> bool {
        let began = clock::now();
        while began.elapsed() < SETTLE_MAX {
            if self.target.calls().iter().any(|call| call.path == path) {
                return true;
            }
            clock::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Three failures and two healthy events, whatever comes of them.
    async fn slowly(&self, entity: &str) {
        let history = [Status::Failed, Status::Failed, Status::Failed, Status::Healthy, Status::Healthy];
        for status in history {
            self.deliver(entity, status).await;
            clock::sleep(EVENT_EVERY).await;
        }
    }

    /// Three failures; once they were acted on, two healthy events.
    async fn outage(&self, entity: &str) {
        for _ in 0..3 {
            self.deliver(entity, Status::Failed).await;
        }
        if self.called(&format!("/act/remediate/{entity}")).await {
            for _ in 0..2 {
                self.deliver(entity, Status::Healthy).await;
            }
        }
    }

    /// The target refuses; a person asks for the letter to be sent back.
    async fn given_up(&self, entity: &str) {
        for _ in 0..3 {
            self.deliver(entity, Status::Failed).await;
        }
        let letter = self.letter(entity).await;
        let recall = Recall { letter, what: Wish::Replay, by: "the test".into(), reason: String::new() };
        self.publish(&Topology::default().retry_asked(), wire::encode(&recall)).await;
        let began = clock::now();
        while self.calls_of(&format!("/act/remediate/{entity}")) < 2 && began.elapsed() < SETTLE_MAX {
            clock::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..2 {
            self.deliver(entity, Status::Healthy).await;
        }
    }

    /// What the naive reference says of everything that was delivered: the paths to be called, by entity.
    fn wanted(&self) -> BTreeMap<String, Vec<String>> {
        let delivered = self.delivered.lock().unwrap();
        let paths = |(entity, history): (&String, &Vec<Delivered>)| {
            let paths = actions(history, 3, 0, 2, 0).into_iter();
            (entity.clone(), paths.map(|(direction, _)| format!("/act/{direction}/{entity}")).collect())
        };
        delivered.iter().map(paths).collect()
    }

    /// Waits for all of that, and for what comes too much; every acceptance has ended once.
    async fn ends_as_wanted(&self, installation: &Installation, seen: fn(&Target) -> Vec<Call>, what: &str) {
        let wanted = self.wanted();
        self.target.wait_for(wanted.values().map(Vec::len).sum(), SETTLE_MAX).await;
        // What comes too much would come now.
        clock::sleep(Duration::from_secs(2)).await;
        assert_eq!(by_entity(seen(&self.target)), wanted, "{what}");
        installation.conserved();
    }

    fn calls_of(&self, path: &str) -> usize {
        self.target.calls().iter().filter(|call| call.path == path).count()
    }

    /// The number of the letter about an entity.
    async fn letter(&self, entity: &str) -> u64 {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let began = clock::now();
        while began.elapsed() < SETTLE_MAX {
            // Another point may have the broker away.
            let Ok(dead) = jetstream.get_stream("DEAD").await else {
                clock::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let last = dead.cached_info().state.last_sequence;
            for number in 1..=last {
                let Ok(message) = dead.get_raw_message(number).await else { continue };
                if String::from_utf8_lossy(&message.payload).contains(entity) {
                    return number;
                }
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        panic!("no letter about {entity}");
    }

    async fn publish(&self, subject: &str, bytes: Vec<u8>) {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        jetstream.publish(subject.to_string(), bytes.into()).await.unwrap().await.unwrap();
    }
}

/// Where a role reads what cannot be understood.
fn poisoned(role: &str, partition: u16) -> String {
    let topology = Topology::default();
    match role {
        "classifier" => topology.event(partition),
        "debouncer" => topology.fired(partition),
        "executor" => topology.command(partition, "poison"),
        "dlq-replayer" => topology.retry_asked(),
        other => panic!("{other} reads nothing"),
    }
}

fn playbooks(target: &Target) -> PathBuf {
    let folder = scratch("crash-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |_, text| text.replace("127.0.0.1:44001", &address));
    folder
}

/// Whether a point is to be walked.
fn is_wanted(point: Point, role: &str) -> bool {
    #[allow(clippy::disallowed_methods, reason = "a failing point is walked again by its name")]
    let only = std::env::var("HOLDLINE_TEST_POINT").unwrap_or_default();
    point.name().contains(&only) || role.contains(&only)
}

/// The points in the order of the walk: the roles in turn, so that one recovers while another is walked.
fn walk() -> Vec<(Point, &'static str)> {
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points: Vec<(usize, (Point, &str))> = vec![];
    for (point, role) in Point::ALL {
        let turn = turns.entry(role).or_default();
        points.push((*turn, (point, role)));
        *turn += 1;
    }
    points.sort_by_key(|(turn, _)| *turn);
    points.into_iter().map(|(_, point)| point).filter(|(point, role)| is_wanted(*point, role)).collect()
}

/// Those of the executor that every call comes past, and those of native actions alone.
fn walk_natively() -> Vec<Point> {
    let natively = |point: &Point| matches!(way(*point), Way::Outage | Way::Native);
    walk()
        .into_iter()
        .filter(|(_, role)| *role == "executor")
        .map(|(point, _)| point)
        .filter(natively)
        .collect()
}

/// Runs the role's program with the point set, drives it until it has aborted there, and starts it again.
async fn crash(
    installation: &mut Installation,
    world: &World,
    driving: &mut JoinSet<()>,
    point: Point,
    role: &'static str,
) {
    let (name, way) = (point.name(), way(point));
    let entity = format!("{role}-{name}");
    installation.service(role, 0).signal("TERM");
    installation.service(role, 0).wait(Duration::from_secs(20));
    match way {
        Way::Repeated => world.target.fail_at(&entity, 1, 503),
        Way::GivenUp => world.target.fail_at(&entity, 1, 404),
        Way::Poison => {
            let subject = poisoned(role, partition_of(&entity, 4));
            world.publish(&subject, format!("poison for {entity}").into_bytes()).await;
        }
        Way::Outage | Way::Spooled | Way::Native | Way::Allowed => {}
    }
    if way == Way::Spooled {
        installation.broker_away();
    }
    installation.spawn_with(role, 0, &[("HOLDLINE_CRASH_AT", &name)]);
    let driven = world.clone();
    driving.spawn(async move {
        match way {
            Way::GivenUp => driven.given_up(&entity).await,
            _ => driven.outage(&entity).await,
        }
    });
    aborted(installation, point, role, way == Way::Spooled).await;
}

/// Waits until the program has aborted there, and starts it again. The broker may be away until then.
async fn aborted(installation: &mut Installation, point: Point, role: &'static str, mut away: bool) {
    let name = point.name();
    let began = clock::now();
    let status = loop {
        if let Some(status) = installation.service(role, 0).ended() {
            break status;
        }
        // Only when the broker is back does the spool drain.
        if away && point == Point::GatewaySpoolDrained && began.elapsed() > Duration::from_secs(3) {
            installation.broker_back();
            away = false;
        }
        assert!(began.elapsed() < ABORT_MAX, "{role} never came to {name}");
        clock::sleep(Duration::from_millis(20)).await;
    };
    if away {
        installation.broker_back();
    }
    assert_eq!(status.signal(), Some(SIGABRT), "{role} at {name}: {status}");
    let log = installation.log_of(role, 0);
    // Other tasks may have had the last word.
    let told: Vec<&str> = log.lines().rev().take(20).collect();
    let aborted = told.iter().any(|line| line.contains(&format!("crash point {name}\"")));
    assert!(aborted, "{role} at {name}: {told:#?}");
    installation.spawn(role, 0);
    eprintln!("{role} aborted at {name} after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_n4_e9_a_crash_at_every_named_line_loses_nothing_and_repeats_nothing() {
    let target = Target::start().await;
    let mut installation = Installation::broker("crash-points", &playbooks(&target), "default");
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let world = World::around(&installation, &target).await;
    // Something is there to be taken over.
    world.outage("before").await;

    let mut driving = JoinSet::new();
    for (point, role) in
        walk().into_iter().filter(|(point, _)| !matches!(way(*point), Way::Native | Way::Allowed))
    {
        crash(&mut installation, &world, &mut driving, point, role).await;
    }
    driving.join_all().await;

    world.ends_as_wanted(&installation, Target::effects, "effects at the target, by point").await;
}

/// The paths called, by entity.
fn by_entity(calls: Vec<Call>) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for call in calls {
        let entity = call.path.rsplit('/').next().unwrap().to_string();
        found.entry(entity).or_default().push(call.path);
    }
    found
}

/// Runs one of the role's two replicas until it is frozen before the fence; lets it go on when others have.
async fn freeze(
    installation: &mut Installation,
    world: &World,
    driving: &mut JoinSet<()>,
    point: Point,
    role: &'static str,
) {
    let name = point.name();
    installation.service(role, 0).signal("TERM");
    installation.service(role, 0).wait(Duration::from_secs(20));
    installation.spawn_with(role, 0, &[("HOLDLINE_FREEZE_AT", &name)]);
    for number in 0..FENCED_ENTITIES {
        let (world, entity) = (world.clone(), format!("{role}-{name}-{number}"));
        driving.spawn(async move { world.slowly(&entity).await });
    }
    let began = clock::now();
    while !installation.service(role, 0).stands_still() {
        assert!(began.elapsed() < ABORT_MAX, "{role} never came to {name}");
        clock::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{role} is frozen at {name} after {:?}", began.elapsed());
    clock::sleep(FROZEN_FOR).await;
    // What the broker hands to a process that is frozen comes back twice as late.
    for number in 0..FENCED_ENTITIES {
        let path = format!("/act/remediate/{role}-{name}-{number}");
        assert!(world.called(&path).await, "nobody went on with {path}");
    }
    eprintln!("{role} goes on after {:?}", began.elapsed());
    installation.service(role, 0).signal("CONT");
    // That somebody stood at the fence, and was not just told in time that others had taken over.
    while point == Point::BeforeCommit
        && !installation.admin(role, 0, "/metrics").contains("holdline_commits_failed")
    {
        assert!(began.elapsed() < SETTLE_MAX, "{role} was refused nothing at {name}");
        clock::sleep(Duration::from_millis(100)).await;
    }
}

/// Calls are counted as they come, whatever key they carry: nobody who is refused here has asked anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_o1_o2_who_comes_back_to_a_fence_when_others_have_gone_on_is_refused() {
    let target = Target::start().await;
    let mut installation = Installation::start("fences", &playbooks(&target), 2, "default");
    let world = World::around(&installation, &target).await;
    let broker = async_nats::jetstream::new(world.client.clone());
    shorten_duplicate_windows(&broker, DUPLICATE_WINDOW).await;
    let mut driving = JoinSet::new();
    for (point, role) in FENCES.into_iter().filter(|(point, role)| is_wanted(*point, role)) {
        freeze(&mut installation, &world, &mut driving, point, role).await;
    }
    driving.join_all().await;
    world.ends_as_wanted(&installation, Target::calls, "calls at the target, by fence").await;
}

/// A simulated platform, and playbooks that enable its groups; no service runs yet.
async fn platform(name: &str) -> (Simulator, Installation) {
    let simulator = Simulator::start(Options { calls_per_window: None, ..Options::default() }).await.unwrap();
    let folder = scratch(&format!("{name}-playbooks"));
    group_playbooks(&folder, &simulator, "telephony");
    let mut installation = Installation::broker(name, &folder, "default");
    installation.variable("ROUTING_ID", CLIENT);
    installation.variable("ROUTING_SECRET", CLIENT_SECRET);
    (simulator, installation)
}

/// Each point twice, in doing and in undoing; each with a group of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_e9_a_crash_at_every_line_of_a_native_action_writes_once_and_restores_what_was_there() {
    let (simulator, mut installation) = platform("crash-native").await;
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    let points: Vec<(Point, String)> =
        walk_natively().into_iter().map(|point| (point, format!("native-{}", point.name()))).collect();
    let before: Vec<_> = points.iter().map(|(_, entity)| found_group(&simulator, entity)).collect();
    let group = |entity: &str| simulator.object(Kind::EMERGENCY_GROUP, entity);
    for (status, times, enabled) in [("FAILED", 3, true), ("HEALTHY", 2, false)] {
        for (point, entity) in &points {
            installation.service("executor", 0).signal("TERM");
            installation.service("executor", 0).wait(Duration::from_secs(20));
            installation.spawn_with("executor", 0, &[("HOLDLINE_CRASH_AT", &point.name())]);
            for n in 0..times {
                let at_ms = clock::wall_ms();
                sender.deliver(&event(&format!("{entity}-{status}-{n}"), entity, status, at_ms)).await;
            }
            aborted(&mut installation, *point, "executor", false).await;
        }
        let began = clock::now();
        for (_, entity) in &points {
            while group(entity)["enabled"] != enabled {
                assert!(began.elapsed() < SETTLE_MAX, "{entity}: {:#}", group(entity));
                clock::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(2)).await;
    for ((_, entity), before) in points.iter().zip(before) {
        let after = group(entity);
        let writes = after["version"].as_u64().unwrap() - before["version"].as_u64().unwrap();
        assert_eq!((writes, content(after)), (2, content(before)), "{entity}");
    }
    installation.conserved();
}

/// One executor stands still, its clock with it, before it has looked at the platform; another carries the command out and
/// dies before it can say so. What the first then finds is no pre-image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_f5_e2_who_stands_still_takes_no_work_of_who_died_for_what_was_there() {
    let (simulator, mut installation) = platform("crash-pre-image").await;
    for stage in ["gateway", "classifier", "debouncer"] {
        installation.spawn(stage, 0);
    }
    installation.spawn_with("executor", 0, &[("HOLDLINE_FREEZE_AT", &Point::BetweenLooks.name())]);
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    let report = async |status: &str, times: usize| {
        for n in 0..times {
            let id = format!("gw-{status}-{n}");
            sender.deliver(&event(&id, "gw", status, clock::wall_ms())).await;
        }
    };
    let before = found_group(&simulator, "gw");
    let group = || simulator.object(Kind::EMERGENCY_GROUP, "gw");
    report("FAILED", 3).await;
    let began = clock::now();
    while !installation.service("executor", 0).stands_still() {
        assert!(began.elapsed() < ABORT_MAX, "{}", installation.logs());
        clock::sleep(Duration::from_millis(20)).await;
    }
    installation.spawn_with("executor", 1, &[("HOLDLINE_CRASH_AT", &Point::AfterCall.name())]);
    while installation.service("executor", 1).ended().is_none() {
        assert!(began.elapsed() < ABORT_MAX, "{}", installation.logs());
        clock::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(group()["enabled"], true);
    clock::sleep(LOCKED_FOR).await;
    installation.service("executor", 0).signal("CONT");
    report("HEALTHY", 2).await;
    while group()["enabled"] == true {
        assert!(began.elapsed() < 2 * SETTLE_MAX, "{:#}\n{}", group(), installation.logs());
        clock::sleep(Duration::from_millis(50)).await;
    }
    let writes = group()["version"].as_u64().unwrap() - before["version"].as_u64().unwrap();
    assert_eq!((writes, content(group())), (2, content(before)));
    installation.conserved();
}

/// The loop's playbooks: a person has to allow each remedy, an entity may have one, and its group as many as have a point.
fn allowed_playbooks(target: &Target, entities: usize, public: &str) -> PathBuf {
    let folder = scratch("crash-allowed-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |path, text| match path {
        "loop.playbook.yaml" => {
            let text = text.replace(
                "  entity: data.gatewayId\n",
                "  entity: data.gatewayId\n  group: event.topicName\n",
            );
            format!(
                "{text}guard:\n  approval: {{for: [failover]}}\n  at_most: {{actions: 1, per: entity, within: 24h}}\n  \
                 blast_radius: {{of: group, share: 100%, within: 24h}}\n"
            )
        }
        "holdline.yaml" => format!(
            "{text}people: {{ada: {{token: {public}, roles: [approve]}}}}\ngroups: \
             {{telephony.service.status: {entities}}}\n"
        ),
        _ => text.replace("127.0.0.1:44001", &address),
    });
    folder
}

/// What people are asked about an entity: the id of it.
fn asked(installation: &Installation, entity: &str) -> String {
    let began = clock::now();
    loop {
        let told = installation.holdline(&["approvals", "--output", "json"]);
        let waiting: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap_or_default();
        if let Some(asked) = waiting.iter().find(|asked| asked["entityId"] == entity) {
            return asked["id"].as_str().unwrap().into();
        }
        assert!(began.elapsed() < SETTLE_MAX, "{entity}: nobody is asked");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a4_a5_a_crash_at_every_line_of_what_people_allow_has_it_sent_once_and_loses_no_entry() {
    let points: Vec<Point> =
        walk().into_iter().map(|(point, _)| point).filter(|point| way(*point) == Way::Allowed).collect();
    let token = scratch("crash-token").with_extension("token");
    let made = holdline(&["token", token.to_str().unwrap(), "--output", "json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let target = Target::start().await;
    let playbooks = allowed_playbooks(&target, points.len(), made["token"].as_str().unwrap());
    let mut installation = Installation::broker("crash-allowed", &playbooks, "default");
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let world = World::around(&installation, &target).await;
    let mut driving = JoinSet::new();
    let mut ids = vec![];
    for point in points {
        let entity = format!("executor-{}", point.name());
        installation.service("executor", 0).signal("TERM");
        installation.service("executor", 0).wait(Duration::from_secs(20));
        installation.spawn_with("executor", 0, &[("HOLDLINE_CRASH_AT", &point.name())]);
        let (driven, of) = (world.clone(), entity.clone());
        driving.spawn(async move { driven.outage(&of).await });
        let after_the_word = matches!(point, Point::UseRecorded | Point::BudgetTaken);
        if !after_the_word {
            aborted(&mut installation, point, "executor", false).await;
        }
        let id = asked(&installation, &entity);
        let approve = ["approve", &id, "--reason", "seen", "--token", token.to_str().unwrap()];
        let said = installation.holdline(&approve);
        assert!(said.status.success(), "{entity}: {}", String::from_utf8_lossy(&said.stderr));
        ids.push(id);
        if after_the_word {
            aborted(&mut installation, point, "executor", false).await;
        }
    }
    driving.join_all().await;
    world.ends_as_wanted(&installation, Target::calls, "calls at the target, by point").await;
    let verified = installation.holdline(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let told = installation.holdline(&["audit", "--output", "json"]);
    let trail: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
    for id in ids {
        for act in ["approval_asked", "approved", "approval_used"] {
            let is_about = |entry: &&Value| entry["about"] == id || entry["details"]["approval"] == id;
            let found = trail.iter().filter(is_about).any(|entry| entry["act"] == act);
            assert!(found, "{act} of {id} is not in the trail: {trail:#?}");
        }
    }
}
