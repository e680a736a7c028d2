//! A5, E10: budgets hold, however many incidents are confirmed at once on however many executors; what is beyond them
//! is held with the reason, and undoing is never kept back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::{Value, json};

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes too much would come by then.
const SETTLED: Duration = Duration::from_secs(2);

/// The loop's playbooks: one failure acts, two healthy events undo it; a site is a group, and lisbon has ten entities.
fn playbooks(target: &Target, guard: &str) -> PathBuf {
    let folder = scratch("budget-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |path, text| {
        let text = text
            .replace("127.0.0.1:44001", &address)
            .replace("failures: 3", "failures: 1")
            .replace("  entity: data.gatewayId\n", "  entity: data.gatewayId\n  group: data.site\n");
        match path {
            "loop.playbook.yaml" => format!("{text}guard:\n  {guard}\n"),
            "holdline.yaml" => format!("{text}groups: {{lisbon: 10}}\n"),
            _ => text,
        }
    });
    folder
}

struct World {
    target: Target,
    installation: Installation,
    sender: Sender,
}

impl World {
    async fn start(name: &str, guard: &str, executors: usize) -> World {
        let target = Target::start().await;
        let mut installation = Installation::broker(name, &playbooks(&target, guard), "default");
        for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
            for replica in 0..if stage == "executor" { executors } else { 1 } {
                installation.spawn(stage, replica);
            }
        }
        installation.wait_ready();
        let sender = Sender::new(installation.gateways(), "telephony");
        World { target, installation, sender }
    }

    /// One request: every entity in the same state.
    async fn report(&self, entities: &[String], site: &str, status: &str) {
        let now_ms = clock::wall_ms();
        let events: Vec<Value> = entities
            .iter()
            .map(|entity| {
                let mut event = event(&format!("{entity}-{status}-{now_ms}"), entity, status, now_ms);
                event["data"]["site"] = json!(site);
                event
            })
            .collect();
        self.sender.deliver(&json!(events)).await;
    }

    fn held(&self, reason: &str) -> usize {
        let shown = self.installation.holdline(&["incidents", "--output", "json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let held = |incident: &&Value| incident["held"].as_str().is_some_and(|held| held.contains(reason));
        shown.as_array().unwrap().iter().filter(held).count()
    }

    /// Incidents of an entity that are not over.
    fn open(&self, entity: &str) -> usize {
        let shown = self.installation.holdline(&["incidents", "--output", "json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let is_open =
            |incident: &&Value| incident["entityId"] == entity && incident["currentState"] != "RESOLVED";
        shown.as_array().unwrap().iter().filter(is_open).count()
    }

    /// Makes another set the current one, and waits until every executor has it.
    async fn push(&mut self, set: &std::path::Path, executors: usize) {
        let sets = |world: &World, replica| {
            world.installation.log_of("executor", replica).matches("is in force").count()
        };
        self.installation.push(set);
        self.until("every executor has it", |world| (0..executors).all(|replica| sets(world, replica) >= 2))
            .await;
    }

    fn calls(&self, direction: &str) -> Vec<String> {
        let path = format!("/act/{direction}/");
        self.target
            .calls()
            .into_iter()
            .filter_map(|call| Some(call.path.strip_prefix(&path)?.into()))
            .collect()
    }

    async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        let began = clock::now();
        while !done(self) {
            assert!(began.elapsed() < PATIENCE, "{what}\n{}", self.installation.logs());
            clock::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn entities(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("gw-{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_forty_incidents_at_once_on_four_executors_get_exactly_what_the_budget_allows() {
    let mut world =
        World::start("budget-forty", "at_most: {actions: 7, per: playbook, within: 10m}", 4).await;
    world.report(&entities(0..40), "lisbon", "FAILED").await;
    world.until("the rest is held", |world| world.held("the budget of this playbook is spent") == 33).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate").len(), 7);
    // People allow more, and send again what was held: each is done once.
    let more = playbooks(&world.target, "at_most: {actions: 40, per: playbook, within: 10m}");
    world.push(&more, 4).await;
    let asked =
        world.installation.holdline(&["dlq", "replay", "--all", "--stage", "executor", "--rate", "100"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    world.until("all of them", |world| world.calls("remediate").len() >= 40).await;
    clock::sleep(SETTLED).await;
    let calls = world.calls("remediate");
    assert_eq!((calls.len(), calls.iter().collect::<BTreeSet<_>>().len()), (40, 40), "none twice");
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_share_of_a_group_is_in_failover_at_most_and_undoing_is_free() {
    let mut world =
        World::start("budget-group", "blast_radius: {of: group, share: 30%, within: 10m}", 2).await;
    world.report(&entities(0..10), "lisbon", "FAILED").await;
    world.report(&entities(10..14), "porto", "FAILED").await;
    // Three of lisbon's ten; of porto, whose size nobody has told, one.
    world.until("the rest is held", |world| world.held("the budget of this playbook is spent") == 10).await;
    assert_eq!(world.held("30% of 10") + world.held("has no size of it"), 10);
    let remedied = world.calls("remediate");
    assert_eq!(remedied.len(), 4, "{remedied:?}");
    // They recover, and one of them fails again: it is no further entity.
    let again = remedied.iter().find(|entity| entities(0..10).contains(entity)).unwrap().clone();
    for _ in 0..2 {
        world.report(&remedied, "lisbon", "HEALTHY").await;
        clock::sleep(Duration::from_millis(5)).await;
    }
    world.until("all of them are undone", |world| world.calls("revert").len() == 4).await;
    world.report(std::slice::from_ref(&again), "lisbon", "FAILED").await;
    world.until("it is remedied again", |world| world.calls("remediate").len() == 5).await;
    clock::sleep(SETTLED).await;
    assert_eq!((world.calls("remediate").len(), world.calls("revert").len()), (5, 4));
    assert_eq!(world.calls("remediate")[4], again);
    // One of lisbon's ten from now on, and it is in failover: however long ago that began, until it is undone.
    let less = playbooks(&world.target, "blast_radius: {of: group, share: 10%, within: 1s}");
    world.push(&less, 2).await;
    world.report(&entities(20..21), "lisbon", "FAILED").await;
    world.until("it is held", |world| world.held("10% of 10") == 1).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate").len(), 5);
    for _ in 0..2 {
        world.report(std::slice::from_ref(&again), "lisbon", "HEALTHY").await;
        clock::sleep(Duration::from_millis(5)).await;
    }
    world.until("it is undone", |world| world.calls("revert").len() == 5).await;
    // The incident is shown as over a moment after its revert was carried.
    world.until("it is over", |world| world.open(&again) == 0).await;
    world.report(&entities(21..22), "lisbon", "FAILED").await;
    world.until("another one is remedied", |world| world.calls("remediate").len() == 6).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate")[5..], ["gw-21"]);
    world.installation.conserved();
}

/// What the group's budget refuses takes nothing from the playbook's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_of_two_budgets_the_one_does_not_eat_what_the_other_refuses() {
    let both = "at_most: {actions: 2, per: playbook, within: 10m}\n  blast_radius: {of: group, share: 10%, within: 10m}";
    let world = World::start("budget-both", both, 1).await;
    world.report(&entities(0..5), "lisbon", "FAILED").await;
    world.until("the rest is held", |world| world.held("10% of 10") == 4).await;
    world.report(&entities(5..6), "porto", "FAILED").await;
    world.until("one of each group", |world| world.calls("remediate").len() == 2).await;
    // And the playbook's own budget holds.
    world.report(&entities(6..7), "evora", "FAILED").await;
    world.until("it is held", |world| world.held("at most 2 remedied incidents") == 1).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate")[1..], ["gw-5"]);
    world.installation.conserved();
}
