//! The first figures, in one command: `cargo run --release -p holdline-benches`.
//!
//! Accepted events per second at 64 connections, CPU per event over all processes, event to action at 50 and
//! 200 entities per second, memory of each service, and what a lost replica costs; at both sync settings, and
//! beside the least possible loop ([`minimal`]) in the same run. Everything talks to loopback only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod load;
mod minimal;
mod process;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, changed_sample, scratch};
use holdline_tests::target::Target;

/// How long the closed loop runs, and each open one.
const CLOSED_S: u64 = 5;
const OPEN_S: u64 = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if arguments.first().is_some_and(|first| first == "minimal") {
        return runtime.block_on(minimal::run(&arguments[1..]));
    }
    // The programs themselves are what is measured.
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--release", "--workspace", "--quiet"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(built.success());
    runtime.block_on(async {
        for sync in ["always", "default"] {
            println!("\n## sync_interval: {sync}\n");
            holdline(sync).await;
            least(sync).await;
        }
        takeover().await;
    });
}

fn playbooks(target: &Target) -> PathBuf {
    let folder = scratch("bench-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |_, text| text.replace("127.0.0.1:44001", &address));
    folder
}

async fn holdline(sync: &str) {
    let target = Target::start().await;
    let installation = Installation::start("bench", &playbooks(&target), 1, sync);
    clock::sleep(Duration::from_secs(2)).await;
    let processes = installation.processes();
    println!("| holdline, idle | {} |", memory(&processes, process::resident_kib));
    let path = "/v1/events/telephony";
    measure("holdline", installation.gateways()[0], path, &target, &processes).await;
    println!("| holdline, peak | {} |", memory(&processes, process::peak_kib));
}

/// The same work with nothing in between: HTTP, JetStream, a consumer with counters in memory, HTTP.
async fn least(sync: &str) {
    let target = Target::start().await;
    let installation = Installation::broker("bench-least", &playbooks(&target), sync);
    let listen = holdline_tests::programs::free_address();
    // By name: cargo may have built this very program anew.
    let child = std::process::Command::new(holdline_tests::programs::program("holdline-benches"))
        .args(["minimal", &installation.url(), installation.seed("provisioner").to_str().unwrap()])
        .args([&listen.to_string(), &target.address.to_string()])
        .spawn()
        .unwrap();
    let running = holdline_tests::programs::Running::of(child);
    let mut processes = installation.processes();
    processes.insert("loop".into(), running.id());
    clock::sleep(Duration::from_secs(2)).await;
    measure("least loop", listen, "/", &target, &processes).await;
    println!("| least loop, peak | {} |", memory(&processes, process::peak_kib));
}

async fn measure(
    what: &str,
    gateway: SocketAddr,
    path: &str,
    target: &Target,
    processes: &BTreeMap<String, u32>,
) {
    let before = cpu(processes);
    let (sent, latencies) = load::closed(gateway, path, 64, Duration::from_secs(CLOSED_S)).await;
    let drained = clock::now();
    // Drained: no action for a second.
    let mut seen = 0;
    while target.effects().len() > seen {
        seen = target.effects().len();
        clock::sleep(Duration::from_secs(1)).await;
    }
    let drain_ms = drained.elapsed().as_millis().saturating_sub(1_000);
    let after = cpu(processes);
    let per_event: Vec<String> = after
        .iter()
        .map(|(name, us)| format!("{name} {:.0}", (us - before[name]) as f64 / sent as f64))
        .collect();
    let all: u64 = after.iter().map(|(name, us)| us - before[name]).sum();
    println!(
        "| {what}, 64 connections | {:.0} accepted/s, p50 {:.1} ms, p99 {:.1} ms | CPU {:.0} us/event ({}) | \
         {} actions, drained within {drain_ms} ms after the last answer |",
        sent as f64 / CLOSED_S as f64,
        load::percentile(&latencies, 50.0),
        load::percentile(&latencies, 99.0),
        all as f64 / sent as f64,
        per_event.join(", "),
        target.effects().len(),
    );
    for rate in [50, 200] {
        let measured = load::open(gateway, path, target, rate, Duration::from_secs(OPEN_S)).await;
        println!("| {what}, {rate} entities/s | event to action {} |", load::shown(&measured, rate * OPEN_S));
    }
}

/// Two replicas of each; the one that owns some of the partitions is killed under a steady load.
async fn takeover() {
    println!("\n## a replica lost (sync_interval: always, 50 entities/s, two replicas of each)\n");
    for stage in ["classifier", "debouncer", "executor"] {
        let target = Target::start().await;
        let mut installation = Installation::start("bench-takeover", &playbooks(&target), 2, "always");
        clock::sleep(Duration::from_secs(5)).await;
        let gateway = installation.gateways()[0];
        let path = "/v1/events/telephony";
        let open = load::open(gateway, path, &target, 50, Duration::from_secs(16));
        tokio::pin!(open);
        let measured = tokio::select! {
            measured = &mut open => measured,
            () = clock::sleep(Duration::from_secs(4)) => {
                installation.kill(stage, 0);
                open.await
            }
        };
        println!("| {stage}-0 killed | event to action {} |", load::shown(&measured, 50 * 16));
    }
}

fn memory(processes: &BTreeMap<String, u32>, read: fn(u32) -> u64) -> String {
    let each: Vec<(String, u64)> = processes.iter().map(|(name, pid)| (name.clone(), read(*pid))).collect();
    let all: u64 = each.iter().map(|(_, kib)| kib).sum();
    let named: Vec<String> =
        each.iter().map(|(name, kib)| format!("{name} {:.1}", *kib as f64 / 1024.0)).collect();
    format!("{:.1} MiB ({})", all as f64 / 1024.0, named.join(", "))
}

fn cpu(processes: &BTreeMap<String, u32>) -> BTreeMap<String, u64> {
    processes.iter().map(|(name, pid)| (name.clone(), process::cpu_us(*pid))).collect()
}
