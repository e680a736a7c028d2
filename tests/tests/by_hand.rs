//! F16: consumers, streams and buckets that somebody deletes or alters by hand. Views are written again,
//! consumers made again by whoever pulls from them; buckets come back with `holdline provision` and the stages go on
//! by themselves; a lost log is loud and never "start at 0". Nothing is acted on twice meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{self, Context, kv};
use holdline_proto::topology::{Bucket, Stream, Topology, partition_of, token};
use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::Value;

struct World {
    installation: Installation,
    target: Target,
    sender: Sender,
    jetstream: Context,
}

impl World {
    async fn start(name: &str) -> World {
        let target = Target::start().await;
        let playbooks = scratch("by-hand-playbooks");
        let address = target.address.to_string();
        changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
        let mut installation = Installation::broker(name, &playbooks, "default");
        for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
            installation.spawn(stage, 0);
        }
        installation.wait_ready();
        let sender = Sender::new(installation.gateways(), "telephony");
        let jetstream = jetstream::new(installation.client("provisioner").await);
        World { installation, target, sender, jetstream }
    }

    /// So many events of an entity, without waiting for what comes of them.
    async fn report(&self, entity: &str, status: &str, times: u32) {
        for n in 0..times {
            let now = clock::wall_ms();
            self.sender.deliver(&event(&format!("{entity}-{status}-{now}-{n}"), entity, status, now)).await;
        }
    }

    /// An outage of an entity that has none yet: exactly one call, within this time.
    async fn acts(&self, entity: &str, within: Duration) {
        self.report(entity, "FAILED", 3).await;
        let path = format!("/act/remediate/{entity}");
        until(&path, within, async || self.calls(&path) > 0).await;
    }

    fn calls(&self, path: &str) -> usize {
        self.target.calls().iter().filter(|call| call.path == path).count()
    }

    async fn bucket(&self, bucket: Bucket) -> kv::Store {
        self.jetstream.get_key_value(Topology::default().bucket(bucket)).await.unwrap()
    }

    async fn delete_bucket(&self, bucket: Bucket) {
        self.jetstream.delete_stream(Topology::default().bucket_stream(bucket)).await.unwrap();
    }

    async fn delete_stream(&self, stream: Stream) {
        self.jetstream.delete_stream(Topology::default().stream(stream)).await.unwrap();
    }

    fn provision(&self) -> String {
        let output = self.installation.holdline(&["provision"]);
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        told
    }

    fn readiness(&self, stage: &str) -> String {
        self.installation.admin(stage, 0, "/readyz")
    }

    async fn says(&self, stage: &str, part: &str, most: Duration) {
        let what = format!("{stage} says {part:?}");
        until(&what, most, async || self.readiness(stage).contains(part)).await;
    }

    /// Entity and state of the incidents that people see.
    fn incidents(&self) -> BTreeMap<String, String> {
        let output = self.installation.holdline(&["incidents", "--output", "json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let shown = shown.as_array().cloned().unwrap_or_default().into_iter();
        shown.map(|i| (text(&i["entityId"]), text(&i["currentState"]))).collect()
    }

    /// Every incident that is open is seen.
    async fn seen(&self, entities: &[&str], most: Duration) {
        let what = format!("{entities:?} are seen");
        until(&what, most, async || {
            let seen = self.incidents();
            entities.iter().all(|entity| seen.get(*entity).is_some_and(|state| state == "REMEDIATING"))
        })
        .await;
    }

    /// No call was made twice, and every acceptance ended once.
    fn ends_well(&self) {
        let calls = self.target.calls();
        let effects = self.target.effects();
        let paths: std::collections::BTreeSet<_> = effects.iter().map(|call| call.path.clone()).collect();
        assert_eq!(paths.len(), effects.len(), "every action has one key: {:?}", self.target.effects());
        assert_eq!(calls.len(), effects.len(), "nothing crashed, so nothing was called twice");
        self.installation.conserved();
    }
}

async fn until(what: &str, most: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let began = clock::now();
    while !holds().await {
        assert!(began.elapsed() < most, "not within {most:?}: {what}");
        clock::sleep(Duration::from_millis(100)).await;
    }
}

const SOON: Duration = Duration::from_secs(8);

/// Time for a lease to run out and to be taken again, or for a stage to see that it has to begin anew.
const LEASE: Duration = Duration::from_secs(20);

/// Views are rebuilt by their owner: the bucket gone and made anew, its entries purged, its fence lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_lost_views_come_back_and_commands_do_not_wait_for_them_for_ever() {
    let world = World::start("by-hand-views").await;
    world.acts("gw-1", SOON).await;
    world.acts("gw-2", SOON).await;
    world.seen(&["gw-1", "gw-2"], SOON).await;

    world.delete_bucket(Bucket::Incidents).await;
    world.report("gw-3", "FAILED", 3).await;
    clock::sleep(Duration::from_secs(1)).await;
    world.provision();
    world.seen(&["gw-1", "gw-2", "gw-3"], SOON).await;
    until("the call for gw-3", SOON, async || world.calls("/act/remediate/gw-3") == 1).await;
    world.acts("gw-4", SOON).await;

    // Deleted and made again while nothing is decided.
    world.delete_bucket(Bucket::Incidents).await;
    world.provision();
    world.seen(&["gw-1", "gw-2", "gw-3", "gw-4"], SOON).await;

    // Every entry purged, the fences with them.
    let stream = world.jetstream.get_stream("KV_INCIDENTS").await.unwrap();
    stream.purge().await.unwrap();
    world.seen(&["gw-1", "gw-2", "gw-3", "gw-4"], SOON).await;

    // A fence deleted, and one written by somebody else.
    let views = world.bucket(Bucket::Incidents).await;
    for partition in 0..4 {
        let fence = format!("fence.{partition}");
        if partition % 2 == 0 {
            views.delete(&fence).await.unwrap();
        } else {
            views.put(&fence, "somebody".into()).await.unwrap();
        }
    }
    for n in 5..13 {
        world.acts(&format!("gw-{n}"), SOON).await;
    }
    world.seen(&["gw-5", "gw-6", "gw-7", "gw-8", "gw-12"], SOON).await;

    // The classifier's view of the dedup window.
    world.delete_bucket(Bucket::Dedup).await;
    world.acts("gw-13", SOON).await;
    world.provision();
    world.acts("gw-14", SOON).await;
    until("claims are shown again", SOON, async || {
        let mut dedup = world.jetstream.get_stream("KV_DEDUP").await.unwrap();
        dedup.info().await.unwrap().state.messages > 0
    })
    .await;
    world.ends_well();
}

/// Coordination: leases, locks, intents, targets; entries deleted, written by hand, and the whole bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_leases_locks_and_intents_that_were_deleted_or_written_by_hand_block_nobody() {
    let world = World::start("by-hand-leases").await;
    world.acts("gw-1", SOON).await;
    let partition = |entity: &str| partition_of(entity, 4);

    // The lease of an owner: deleted with a mark that stays, then written by somebody who does not live.
    let leases = world.bucket(Bucket::Leases).await;
    for stage in ["classifier", "debouncer"] {
        leases.delete(format!("{stage}.lease.{}", partition("gw-2"))).await.unwrap();
    }
    world.acts("gw-2", LEASE).await;
    for stage in ["classifier", "debouncer"] {
        leases.put(format!("{stage}.lease.{}", partition("gw-3")), "a ghost".into()).await.unwrap();
        leases.put(format!("{stage}.member.ghost"), "".into()).await.unwrap();
    }
    world.acts("gw-3", Duration::from_secs(40)).await;

    // The position key of a partition that has records: nonsense is told and written anew.
    let entity = (10..).map(|n| format!("gw-{n}")).find(|name| partition(name) == partition("gw-1")).unwrap();
    for stage in ["classifier", "debouncer"] {
        let key = format!("{stage}.position.{}", partition(&entity));
        leases.put(&key, vec![0xff; 300].into()).await.unwrap();
        leases.delete(format!("{stage}.lease.{}", partition(&entity))).await.unwrap();
    }
    world.acts(&entity, LEASE).await;
    for stage in ["classifier", "debouncer"] {
        let key = format!("{stage}.position.{}", partition(&entity));
        until(&key, LEASE, async || {
            let value = leases.get(&key).await.unwrap().unwrap();
            String::from_utf8_lossy(&value).split(' ').count() == 3
        })
        .await;
        assert!(world.installation.log_of(stage, 0).contains("it is written anew"));
    }

    // The whole bucket: work goes on, loudly; once it is back, everything finds its owner again.
    world.delete_bucket(Bucket::Leases).await;
    world.says("debouncer", "debouncer leases", LEASE).await;
    world.acts("gw-5", SOON).await;
    world.provision();
    world.says("debouncer", "ready", LEASE).await;
    world.says("classifier", "ready", LEASE).await;
    world.acts("gw-6", LEASE).await;

    // Locks and intents: a lock of nobody, marks of deletions, the whole buckets.
    let locks = world.bucket(Bucket::Locks).await;
    let lock = |entity: &str| token(&[entity]);
    locks.put(lock("gw-7"), "a ghost".into()).await.unwrap();
    world.acts("gw-7", Duration::from_secs(30)).await;
    assert!(world.installation.log_of("executor", 0).contains("nobody renews it"));
    locks.delete(lock("gw-7")).await.unwrap();
    let intents = world.bucket(Bucket::Intents).await;
    for key in ["gw-7", "gw-6"] {
        intents.delete(token(&["loop", "failover", key])).await.unwrap();
    }
    for entity in ["gw-7", "gw-6"] {
        world.report(entity, "HEALTHY", 2).await;
        let path = format!("/act/revert/{entity}");
        until(&path, SOON, async || world.calls(&path) == 1).await;
    }
    for bucket in [Bucket::Locks, Bucket::Intents, Bucket::Targets, Bucket::Rate] {
        world.delete_bucket(bucket).await;
    }
    world.report("gw-8", "FAILED", 3).await;
    clock::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.calls("/act/remediate/gw-8"), 0, "no call without an intent");
    world.provision();
    until("the call for gw-8", SOON, async || world.calls("/act/remediate/gw-8") == 1).await;
    world.ends_well();
}

/// Consumers: whoever reads makes them again, the durable ones too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_deleted_consumers_are_made_again() {
    let mut world = World::start("by-hand-consumers").await;
    world.acts("gw-1", SOON).await;
    for name in ["EVENTS", "INPUTS"] {
        let stream = world.jetstream.get_stream(name).await.unwrap();
        let mut names = stream.consumer_names();
        let mut readers = vec![];
        while let Some(Ok(name)) = futures_util::StreamExt::next(&mut names).await {
            readers.push(name);
        }
        assert!(readers.len() >= 4, "{name}: {readers:?}");
        for reader in readers {
            stream.delete_consumer(&reader).await.unwrap();
        }
    }
    world.acts("gw-2", SOON).await;

    let doctor = |world: &World, part: &str| {
        let output = world.installation.holdline(&["doctor"]);
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(part), "{told}");
    };
    for (stream, consumer, stage) in [
        ("COMMANDS", "executor", "executor"),
        ("DEAD", "dlq-replayer", "dlq-replayer"),
        ("RETRY", "dlq-replayer", "dlq-replayer"),
    ] {
        let stream = world.jetstream.get_stream(stream).await.unwrap();
        stream.delete_consumer(consumer).await.unwrap();
        world.says(stage, "consumer", SOON).await;
    }
    world.report("gw-3", "FAILED", 3).await;
    until("the call for gw-3", SOON, async || world.calls("/act/remediate/gw-3") == 1).await;
    for stage in ["executor", "dlq-replayer"] {
        world.says(stage, "ready", SOON).await;
    }
    doctor(&world, "takes commands");
    world.installation.kill("executor", 0);
    doctor(&world, "nobody takes commands");
    world.installation.spawn("executor", 0);
    world.says("executor", "ready", SOON).await;

    // Altered: seen by --diff, and put right.
    let commands = world.jetstream.get_stream("COMMANDS").await.unwrap();
    let mut consumer: jetstream::consumer::PullConsumer = commands.get_consumer("executor").await.unwrap();
    let mut config = consumer.info().await.unwrap().config.clone();
    config.ack_wait = Duration::from_secs(1);
    config.max_deliver = 2;
    commands.create_consumer(config).await.unwrap();
    let diff = world.installation.holdline(&["provision", "--diff"]);
    assert!(String::from_utf8_lossy(&diff.stdout).contains("consumer executor on COMMANDS: changed"));
    world.provision();
    let found = consumer.info().await.unwrap().config.clone();
    assert_eq!((found.ack_wait, found.max_deliver), (Duration::from_secs(6), -1));
    world.acts("gw-4", SOON).await;
    world.ends_well();
}

/// What was handed over and lost with COMMANDS is handed over again; it is one effect all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_commands_that_were_lost_are_handed_over_again() {
    let mut world = World::start("by-hand-commands").await;
    world.acts("gw-1", SOON).await;
    world.installation.kill("executor", 0);
    for n in 2..6 {
        world.report(&format!("gw-{n}"), "FAILED", 3).await;
    }
    until("four commands wait", SOON, async || {
        let mut commands = world.jetstream.get_stream("COMMANDS").await.unwrap();
        commands.info().await.unwrap().state.messages == 4
    })
    .await;
    world.delete_stream(Stream::Commands).await;
    world.provision();
    world.installation.spawn("executor", 0);
    for n in 2..6 {
        let path = format!("/act/remediate/gw-{n}");
        until(&path, LEASE, async || world.calls(&path) == 1).await;
    }
    world.acts("gw-6", SOON).await;
    world.ends_well();
}

/// The sets of playbooks: stages go on by what they have, and say that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_playbooks_that_were_deleted_are_told_of_and_the_partitions_stay() {
    let world = World::start("by-hand-playbooks").await;
    world.acts("gw-1", SOON).await;
    world.delete_bucket(Bucket::Playbooks).await;
    let output = world.installation.holdline(&["provision", "--partitions", "8"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("4 partitions"), "{told}");
    world.provision();
    world.says("classifier", "no set was pushed", SOON).await;
    world.acts("gw-2", SOON).await;
    world.ends_well();
}

/// A lost log is loud, and nothing begins at 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_lost_log_is_loud_and_nothing_starts_at_0() {
    let world = World::start("by-hand-logs").await;
    world.acts("gw-1", SOON).await;
    world.acts("gw-2", SOON).await;
    let before = world.target.calls().len();

    // EVENTS: made anew, and soon longer than it was.
    world.installation.cannot_be_counted();
    world.delete_stream(Stream::Events).await;
    world.provision();
    for n in 0..30 {
        world.report(&format!("gw-lost-{n}"), "FAILED", 3).await;
    }
    world.says("classifier", "was made anew or rolled back", LEASE).await;
    clock::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.target.calls().len(), before, "nothing is decided on what may have a gap in front");

    // A person decides to go on without what was lost: as the message says.
    let inputs = world.jetstream.get_stream("INPUTS").await.unwrap();
    let leases = world.bucket(Bucket::Leases).await;
    for partition in 0..4 {
        inputs.purge().filter(Topology::default().signal(partition)).await.unwrap();
        leases.purge(format!("classifier.position.{partition}")).await.unwrap();
    }
    world.says("classifier", "ready", LEASE).await;
    for n in 0..30 {
        let path = format!("/act/remediate/gw-lost-{n}");
        until(&path, LEASE, async || world.calls(&path) == 1).await;
    }

    // JOURNAL: the debouncers have lost what they know.
    world.delete_stream(Stream::Journal).await;
    world.provision();
    world.report("gw-3", "FAILED", 3).await;
    world.says("debouncer", "there is no record on hl.log", LEASE).await;
    let before = world.target.calls().len();
    clock::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.target.calls().len(), before);
    // What ended with the old log is not there to be counted any more: no count at the end of this one.
}
