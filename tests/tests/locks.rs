//! E4: what an executor goes by about its lock: it has to be able to read it, it knows its own renewals, and one that
//! was written after the deadline is worth nothing. Each is brought about at the broker by hand.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{self, Context};
use holdline::broker::connection;
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::topology::{Bucket, Role, Stream, Topology};
use holdline_proto::wire;
use holdline_stage::admin::Health;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::crash::Point;
use holdline_stage::pipe::Reader;
use holdline_stage::run::Tasks;
use holdline_stage::settings::NatsTls;
use holdline_tests::cluster::Cluster;
use holdline_tests::programs::{
    Installation, Running, STAGES, changed_sample, command, free_address, log, readiness, scratch,
};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;

const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a lock is there after a renewal.
const LOCK_TTL: Duration = Duration::from_secs(5);

/// Of the remedies here, from the deciding event.
const DEADLINE: Duration = Duration::from_secs(5);

/// One replica of each stage, and a target.
struct World {
    installation: Installation,
    target: Target,
    /// With the executor's own rights.
    broker: Context,
}

impl World {
    /// `variables` are the executor's.
    async fn start(name: &str, variables: &[(&str, &str)]) -> World {
        let target = Target::start().await;
        let folder = scratch(&format!("{name}-playbooks"));
        let address = target.address.to_string();
        let class = format!("class: failover\n    deadline: {}s", DEADLINE.as_secs());
        changed_sample("loop", &folder, |_, text| {
            text.replace("127.0.0.1:44001", &address).replace("class: failover", &class)
        });
        let mut installation = Installation::broker(name, &folder, "default");
        for stage in STAGES {
            installation.spawn_with(stage, 0, if stage == "executor" { variables } else { &[] });
        }
        installation.wait_ready();
        let broker = jetstream::new(installation.client("executor").await);
        World { installation, target, broker }
    }

    /// What makes the remedy due.
    async fn fails(&self) {
        let sender = Sender::new(self.installation.gateways(), "telephony");
        for number in 0..3 {
            sender.deliver(&event(&format!("e-{number}"), "gw", "FAILED", clock::wall_ms())).await;
        }
    }

    /// The last that was written about any lock.
    async fn lock(&self) -> Option<StreamMessage> {
        let locks = Topology::default().bucket_stream(Bucket::Locks);
        let stream = self.broker.get_stream(locks).await.unwrap();
        stream.get_last_raw_message_by_subject("$KV.LOCKS.>").await.ok()
    }

    /// A lock that is held.
    async fn held(&self) -> StreamMessage {
        let began = clock::now();
        loop {
            if let Some(lock) = self.lock().await.filter(|lock| !lock.payload.is_empty()) {
                return lock;
            }
            assert!(began.elapsed() < PATIENCE, "no lock was taken");
            clock::sleep(LOOK_EVERY).await;
        }
    }

    /// A renewal of whoever has it, as the broker stores it whose answer is lost. Gives its sequence.
    async fn renew(&self, lock: &StreamMessage) -> u64 {
        let renewal = PublishMessage::build().payload(lock.payload.clone()).ttl(LOCK_TTL);
        let stored = self.broker.send_publish(lock.subject.to_string(), renewal).await.unwrap();
        stored.await.unwrap().sequence
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_e4_a_renewal_that_was_not_answered_is_known_for_ones_own() {
    let world = World::start("locks-renewal", &[]).await;
    // Longer than it takes until the next renewal.
    world.target.slow(Duration::from_secs(4));
    world.fails().await;
    let lock = world.held().await;
    let ours = world.renew(&lock).await;
    let began = clock::now();
    let next = loop {
        assert!(began.elapsed() < PATIENCE, "nothing was written about the lock");
        match world.lock().await {
            Some(next) if next.sequence > ours => break next,
            _ => clock::sleep(LOOK_EVERY).await,
        }
    };
    assert_eq!(next.payload, lock.payload, "it was given up, or ran out");
    world.target.wait_for(1, PATIENCE).await;
    world.installation.conserved();
    assert_eq!(world.target.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_e4_a_lock_that_was_written_after_the_deadline_lets_nothing_leave() {
    let frozen = [("HOLDLINE_FREEZE_AT", Point::AfterIntent.name())];
    let frozen = frozen.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut world = World::start("locks-late", &frozen).await;
    world.fails().await;
    let lock = world.held().await;
    let began = clock::now();
    while !world.installation.service("executor", 0).stands_still() {
        assert!(began.elapsed() < PATIENCE, "it never came to its call");
        clock::sleep(LOOK_EVERY).await;
    }
    // Its clock stands still with it, so that only the broker can tell it how late it is.
    clock::sleep(DEADLINE + Duration::from_secs(1)).await;
    world.renew(&lock).await;
    world.installation.service("executor", 0).signal("CONT");
    let first = first_outcome(&world.installation).await;
    assert_eq!((first.decision, &first.result), (1, &Done::Expired { perhaps_done: false }), "{first:?}");
    // The debouncer decides anew, because the trouble is still there.
    world.target.wait_for(1, PATIENCE).await;
    world.installation.conserved();
    assert_eq!(world.target.calls().len(), 1);
}

/// What became of the first command.
async fn first_outcome(installation: &Installation) -> Outcome {
    let keys = installation.data.join("keys");
    let nats = connection(&installation.url(), Some(&keys), NatsTls::default(), Role::Operator);
    let bus = Bus::connect(Role::Operator, &nats, &Tasks::default(), &Health::default()).await.unwrap();
    let outcomes = vec!["hl.internal.outcome.*.*".into()];
    let mut reader = Reader::open(&bus, Stream::Inputs, outcomes, 1).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    wire::decode(&first.payload).unwrap()
}

/// As after an upgrade whose broker still has the users of the version before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e4_an_executor_that_may_not_read_its_locks_says_so_until_it_may() {
    const RIGHT: &str = "\"$JS.API.STREAM.MSG.GET.KV_LOCKS\",";
    let folder = scratch("locks-right");
    let mut cluster = Cluster::start(&folder, 1);
    cluster.provision(4).await;
    let users = folder.join("nats/users.conf");
    let whole = std::fs::read_to_string(&users).unwrap();
    assert!(whole.contains(RIGHT), "the right has another name");
    let mut with_users = |text: String| {
        std::fs::write(&users, text).unwrap();
        cluster.kill(0);
        cluster.revive(0);
        (cluster.url(), cluster.keys())
    };
    let (url, keys) = with_users(whole.replace(RIGHT, ""));
    let admin = free_address();
    let executor = command("holdline-executor")
        .env("HOLDLINE_NATS_URL", url)
        .env("HOLDLINE_NATS_SEED_FILE", keys.join("executor.nk"))
        .env("HOLDLINE_ADMIN_LISTEN", admin.to_string())
        .stdout(std::process::Stdio::null())
        .stderr(log(&folder, "executor"))
        .spawn()
        .unwrap();
    let _executor = Running::of(executor);
    let ready = async |what: &str, holds: fn(&str) -> bool| {
        let began = clock::now();
        loop {
            let told = readiness(admin);
            if holds(&told) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {told}");
            clock::sleep(LOOK_EVERY).await;
        }
    };
    ready("it does not say what it lacks", |told| {
        told.contains("503") && told.contains("locks") && told.contains("holdline provision --users")
    })
    .await;
    with_users(whole);
    // What it lacks now is no longer this.
    ready("it does not go on", |told| !told.contains("locks: cannot") && told.contains("playbooks")).await;
}
