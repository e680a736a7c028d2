//! E5: the pace over all executors, counted by the target itself, be it a webhook's or the simulated platform: what
//! waits at once leaves at the limit and never faster in any second; what the target says about its own limit holds for
//! every replica.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, reason = "the environment asks for longer runs")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use holdline_proto::topology::{Stream, Topology};
use holdline_simulator::organisation::{CLIENT, CLIENT_SECRET, GROUP_EVACUATION};
use holdline_simulator::{Options, Simulator};
use holdline_stage::clock::{self, Instant};
use holdline_tests::platform::{found_group, group_playbooks};
use holdline_tests::programs::{Installation, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::{Call, Target};
use tokio::task::JoinSet;

const REPLICAS: usize = 3;

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whoever measures how fast calls leave has the machine to himself.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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

/// One failure enables the entity's emergency group on the platform, whenever its turn comes.
fn native_playbooks(simulator: &Simulator, commands: usize) -> PathBuf {
    let folder = scratch("rate-native-playbooks");
    group_playbooks(&folder, simulator, "telephony");
    let path = folder.join("groups.playbook.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("failures: 3", "failures: 1").replace("deadline: 60s", "deadline: 15m");
    std::fs::write(path, text).unwrap();
    for n in 0..commands {
        found_group(simulator, &format!("gw-{n}"));
    }
    folder
}

/// Everything but executors, and so many commands that wait; then the executors come.
async fn commanded(name: &str, playbooks: &Path, commands: usize) -> Installation {
    let mut installation = Installation::broker(name, playbooks, "default");
    installation.variable("ROUTING_ID", CLIENT);
    installation.variable("ROUTING_SECRET", CLIENT_SECRET);
    for stage in ["gateway", "classifier", "debouncer"] {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    let mut tasks = JoinSet::new();
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
    tasks.join_all().await;
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

/// Who takes how many of a thousand commands is luck (86 to 695 of them were seen); who takes no more has no turns.
const STARVES: u64 = 20;

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
    let _alone = ALONE.lock().await;
    let target = Target::start().await;
    let installation = commanded("rate-second", &playbooks(&target), 1_000).await;
    let calls = carried(&target, 1_000).await;
    assert_eq!(calls.len(), target.calls().len());
    let mut arrivals: Vec<Instant> = calls.iter().map(|call| call.at).collect();
    arrivals.sort_unstable();
    let took = arrivals[999].duration_since(arrivals[0]);
    let (most, per_second) = (most(&arrivals), 999.0 / took.as_secs_f64());
    // Over all of them one turn that was lost could cost the last call a window of its own.
    let ten_seconds = Duration::from_secs(10);
    let in_ten = arrivals.iter().filter(|at| at.duration_since(arrivals[0]) < ten_seconds).count();
    let shares = counted(&installation, "result=\"carried\"");
    let old = counted(&installation, "what=\"old\"");
    eprintln!("{most} in the fullest second, {per_second:.1} a second over {took:?}, by replica {shares:?}");
    eprintln!("{in_ten} in the first ten seconds; turns that were too old: {old:?}");
    assert!(most <= 100, "{most} calls in a second");
    assert!(in_ten >= 900, "{in_ten} calls in ten seconds, and 100 a second are allowed");
    assert!(shares.iter().all(|share| *share > STARVES), "one replica starves: {shares:?}");
    installation.conserved();
}

/// What a native command takes: a look and a write, each a call.
const CALLS_EACH: usize = 2;

/// What the simulated platform has counted once so many groups are enabled, each written to once.
struct Counted {
    calls: usize,
    looks: usize,
    /// Of them, those before a call that did not follow: the next look was the next try's.
    in_vain: usize,
    refused: usize,
    took: Duration,
}

async fn enabled(
    simulator: &Simulator,
    installation: &Installation,
    commands: usize,
    patience: Duration,
) -> Counted {
    let group = |n: usize| simulator.group(&format!("gw-{n}"));
    let (began, mut done) = (clock::now(), 0);
    while done < commands {
        if group(done)["enabled"] == true {
            done += 1;
            continue;
        }
        assert!(began.elapsed() < patience, "{}", installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(200)).await;
    }
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(2)).await;
    let untouched = simulator.group(GROUP_EVACUATION)["version"].as_i64().unwrap();
    assert!((0..commands).all(|n| group(n)["version"] == untouched + 1), "none dropped, none doubled");
    let calls: Vec<_> = simulator.calls().into_iter().filter(|call| call.path.starts_with("/api/")).collect();
    let looks = calls.iter().filter(|call| call.method == "GET").count();
    let mut before = BTreeMap::<&str, (usize, bool)>::new();
    for call in &calls {
        let (looks, is_written) = before.entry(&call.path).or_default();
        *looks += usize::from(call.method == "GET" && !*is_written);
        *is_written |= call.method == "PUT";
    }
    let in_vain = before.values().map(|(looks, _)| looks.saturating_sub(1)).sum();
    let refused = calls.iter().filter(|call| call.status != Some(200)).count();
    let took = Duration::from_micros(calls[calls.len() - 1].arrived_us - calls[0].arrived_us);
    Counted { calls: calls.len(), looks, in_vain, refused, took }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_a_thousand_commands_to_the_platform_leave_at_the_ceiling_where_it_tells_no_limit() {
    let _alone = ALONE.lock().await;
    let simulator = Simulator::start(Options { calls_per_window: None, ..Options::default() }).await.unwrap();
    let installation = commanded("rate-native", &native_playbooks(&simulator, 1_000), 1_000).await;
    let all = enabled(&simulator, &installation, 1_000, PATIENCE).await;
    let Counted { calls, looks, in_vain, refused, took } = all;
    let most = simulator.calls_in_a_second_max();
    let per_second = (calls - 1) as f64 / took.as_secs_f64();
    let shares = counted(&installation, "result=\"carried\"");
    let old = counted(&installation, "what=\"old\"");
    eprintln!(
        "{calls} calls, {looks} of them looks ({in_vain} in vain): {most} in the fullest second, {per_second:.1} a second"
    );
    eprintln!("over {took:?}; by replica {shares:?}; turns that were too old: {old:?}");
    assert!(most <= 100, "{most} calls in a second");
    // Speed is no test's to assert: the figure is above. This says only that nobody waits for nothing.
    assert!(per_second >= 50.0, "{per_second:.1} calls a second, and 100 are allowed");
    assert!(calls >= 1_000 * CALLS_EACH && refused == 0, "{calls} calls, {refused} refused");
    assert!(shares.iter().all(|share| *share > STARVES), "one replica starves: {shares:?}");
    installation.conserved();
}

/// Commands at a client's own limit: unless asked for others, with more calls than it allows in one minute, and fewer than in
/// two. A thousand take ten minutes, with the looks that prove them: `HOLDLINE_RATE_COMMANDS=1000`.
fn commands_a_minute() -> usize {
    let asked = std::env::var("HOLDLINE_RATE_COMMANDS").ok();
    asked.and_then(|commands| commands.parse().ok()).unwrap_or(200)
}

/// The platform's own limit of a client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_three_hundred_calls_a_minute_are_all_that_a_client_makes() {
    let (allowed, minute) = (300, Duration::from_secs(60));
    let options = Options { calls_per_window: Some(allowed), window: minute, ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let commands = commands_a_minute();
    let installation = commanded("rate-minute", &native_playbooks(&simulator, commands), commands).await;
    // Each command has its calls and the look that proves it.
    let patience = PATIENCE + minute * u32::try_from(commands * (CALLS_EACH + 1)).unwrap() / allowed;
    let all = enabled(&simulator, &installation, commands, patience).await;
    let Counted { calls, looks, in_vain, refused, took } = all;
    let most = simulator.calls_in_a_second_max();
    eprintln!(
        "{calls} calls, {looks} of them looks ({in_vain} in vain): {most} in the fullest second, all over {took:?}"
    );
    assert_eq!(refused, 0, "more than {allowed} calls in a minute");
    assert!(most <= 100, "{most} calls in a second");
    // Whole minutes are waited for; the rest leaves at the ceiling.
    let (minutes, rest) = ((calls - 1) / allowed as usize, (calls - 1) % allowed as usize);
    let least = minutes as f64 * minute.as_secs_f64() + rest as f64 / 100.0;
    assert!(minutes >= 1, "{calls} calls are fewer than a minute allows");
    assert!(in_vain <= commands / 20, "{in_vain} looks were for nothing, and have used up the limit");
    assert!(least >= 0.9 * took.as_secs_f64(), "{took:?}, and {least:.1} s would do");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_what_the_target_says_of_its_limit_holds_for_every_replica() {
    let target = Target::start().await;
    // Somebody else uses a third of the first period up, once twenty calls of ours are counted.
    target.limit(30, Duration::from_secs(6), (20, 10));
    let installation = commanded("rate-told", &playbooks(&target), 70).await;
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
    assert!(refused.len() <= 40, "{} calls after the limit was reached", refused.len());
    assert_eq!(throttled.iter().sum::<u64>(), refused.len() as u64);
    assert_eq!(String::from_utf8_lossy(&letters.stdout).trim(), "[]", "throttling is no failure");
    installation.conserved();
}
