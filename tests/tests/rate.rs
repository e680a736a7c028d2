//! E5: the pace over all executors, counted by the target itself: what waits at once leaves at the limit and never
//! faster in any second; what the target says about its own limit holds for every replica.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use holdline_proto::topology::{Stream, Topology};
use holdline_stage::clock::{self, Instant};
use holdline_tests::programs::{Installation, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::{Call, Target};

const REPLICAS: usize = 3;

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The loop's playbooks: one failure acts, at the default pace, whenever its turn comes.
fn playbooks(target: &Target) -> PathBuf {
    let folder = scratch("rate-playbooks");
    let address = target.address.to_string();
    let patient = "    class: failover\n    deadline: 15m\n";
    changed_sample("loop", &folder, |_, text| {
        text.replace("127.0.0.1:44001", &address)
            .replace("    class: failover\n", patient)
            .replace("failures: 3", "failures: 1")
            .replace("calls_per_second: 5000", "calls_per_second: 100")
    });
    folder
}

/// Everything but executors, and so many commands that wait; then the executors come.
async fn commanded(name: &str, target: &Target, commands: usize) -> Installation {
    let mut installation = Installation::broker(name, &playbooks(target), "default");
    for stage in ["gateway", "classifier", "debouncer"] {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    let tasks = holdline_stage::run::Tasks::default();
    for chunk in 0..20 {
        let sender = sender.clone();
        tasks.spawn(async move {
            for n in (chunk..commands).step_by(20) {
                sender
                    .deliver(&event(&format!("e-{n}"), &format!("gw-{n}"), "FAILED", clock::wall_ms()))
                    .await;
            }
        });
    }
    tasks.wait().await;
    let jetstream = jetstream::new(installation.client("provisioner").await);
    let mut queue = jetstream.get_stream(Topology::default().stream(Stream::Commands)).await.unwrap();
    let began = clock::now();
    while queue.info().await.unwrap().state.messages < commands as u64 {
        assert!(began.elapsed() < PATIENCE, "{}", installation.logs());
        clock::sleep(Duration::from_millis(50)).await;
    }
    for replica in 0..REPLICAS {
        installation.spawn("executor", replica);
    }
    installation
}

/// Calls that were answered with 200, once there are so many; each command's must be among them once.
async fn carried(target: &Target, commands: usize) -> Vec<Call> {
    let began = clock::now();
    let carried = || target.calls().into_iter().filter(|call| call.status == 200).collect::<Vec<_>>();
    while carried().len() < commands && began.elapsed() < PATIENCE {
        clock::sleep(Duration::from_millis(100)).await;
    }
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(2)).await;
    let carried = carried();
    let keys: BTreeSet<&str> = carried.iter().map(|call| call.key.as_str()).collect();
    assert_eq!((carried.len(), keys.len()), (commands, commands), "none dropped, none doubled");
    carried
}

/// The most arrivals in any second.
fn most(arrivals: &[Instant]) -> usize {
    let within = |first: &Instant| {
        arrivals
            .iter()
            .filter(|at| *at >= first && at.duration_since(*first) < Duration::from_secs(1))
            .count()
    };
    arrivals.iter().map(within).max().unwrap_or(0)
}

/// Each executor's share of what its metrics count under a name and a label.
fn counted(installation: &Installation, what: &str) -> Vec<u64> {
    let of = |replica| {
        let text = installation.admin("executor", replica, "/metrics");
        let lines = text.lines().filter(|line| line.starts_with("holdline_") && line.contains(what));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    (0..REPLICAS).map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_thousand_commands_leave_at_the_limit_and_never_faster() {
    let target = Target::start().await;
    let installation = commanded("rate-second", &target, 1_000).await;
    let calls = carried(&target, 1_000).await;
    assert_eq!(calls.len(), target.calls().len());
    let mut arrivals: Vec<Instant> = calls.iter().map(|call| call.at).collect();
    arrivals.sort_unstable();
    let took = arrivals[999].duration_since(arrivals[0]);
    let (most, per_second) = (most(&arrivals), 999.0 / took.as_secs_f64());
    let shares = counted(&installation, "result=\"carried\"");
    let old = counted(&installation, "what=\"old\"");
    eprintln!("{most} in the fullest second, {per_second:.1} a second over {took:?}, by replica {shares:?}");
    eprintln!("turns that were too old: {old:?}");
    assert!(most <= 100, "{most} calls in a second");
    assert!(per_second >= 90.0, "{per_second:.1} calls a second, and 100 are allowed");
    assert!(shares.iter().all(|share| *share > 100), "one replica starves: {shares:?}");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_what_the_target_says_of_its_limit_holds_for_every_replica() {
    let target = Target::start().await;
    // Somebody else uses a third of the first period up, once twenty calls of ours are counted.
    target.limit(30, Duration::from_secs(6), (20, 10));
    let installation = commanded("rate-told", &target, 70).await;
    carried(&target, 70).await;
    let calls = target.calls();
    let (refused, letters) = (
        calls.iter().filter(|call| call.status == 429).collect::<Vec<_>>(),
        installation.holdline(&["dlq", "list", "--output", "json"]),
    );
    let throttled = counted(&installation, "what=\"answer\"");
    eprintln!("{} calls, {} answered 429, by replica {throttled:?}", calls.len(), refused.len());
    assert!(!refused.is_empty(), "somebody else's calls are not known before an answer tells of them");
    // What was under way may still arrive; then there is quiet, and no second wave is refused.
    let (first, last) = (refused[0].at, refused[refused.len() - 1].at);
    assert!(last.duration_since(first) < Duration::from_secs(1), "{:?}", last.duration_since(first));
    assert!(refused.len() <= 20, "{} calls after the limit was reached", refused.len());
    assert_eq!(throttled.iter().sum::<u64>(), refused.len() as u64);
    assert_eq!(String::from_utf8_lossy(&letters.stdout).trim(), "[]", "throttling is no failure");
    installation.conserved();
}
