//! Chaos: the real programs with replicas, real nats-servers, faults planned from a seed, and a checker that
//! reads only what was sent, what the target saw and the logs.
//!
//! `cargo test -p holdline-tests --test chaos` takes two minutes. Longer, and by choice:
//! `cargo test -p holdline-tests --test chaos -- --minutes 30 --replicas 3 --seed 7 --only F2,F3 --servers 3`.
//! A failing run prints its seed and its plan; the same seed makes the same plan and the same sources.
//!
//! [`traffic`] what is reported, [`target`] and [`platform`] what is asked, [`world`] what runs, [`faults`] what
//! goes wrong, [`checker`] what must hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    clippy::print_stdout
)]

mod checker;
mod faults;
mod platform;
mod target;
mod traffic;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdline_stage::clock;

use checker::{Logs, Verdict};
use faults::{Hand, Planned, Scope, plan};
use target::Call;
use traffic::{History, Traffic};
use world::{World, programs_of_next_version};

/// How a run is made.
#[derive(Debug, Clone)]
struct Options {
    minutes: f64,
    seed: u64,
    replicas: usize,
    /// 1, 3, or 0 for both in turn.
    servers: usize,
    only: Vec<String>,
    /// Seconds of peace between faults, so that the time to the next action is that of one fault alone.
    apart: u64,
    at_once: usize,
    /// Entities of a storm; a hot one sends five times as many events (F11).
    storm: usize,
}

fn options() -> Option<Options> {
    let mut options = Options {
        minutes: 2.0,
        seed: clock::wall_ms() as u64,
        replicas: 2,
        servers: 0,
        only: vec![],
        apart: 0,
        at_once: 40,
        storm: 200,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} wants a value"));
        match argument.as_str() {
            "--minutes" => options.minutes = value().parse().unwrap(),
            "--seed" => options.seed = value().parse().unwrap(),
            "--replicas" => options.replicas = value().parse().unwrap(),
            "--servers" => options.servers = value().parse().unwrap(),
            "--only" => options.only = value().split(',').map(str::to_string).collect(),
            "--apart" => options.apart = value().parse().unwrap(),
            "--at-once" => options.at_once = value().parse().unwrap(),
            "--storm" => options.storm = value().parse().unwrap(),
            // As with any other test: a filter that is not ours means that another test is wanted.
            filter if !filter.starts_with('-') && !"chaos".contains(filter) => return None,
            _ => {}
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
        return ExitCode::SUCCESS;
    };
    let kinds: Vec<usize> = if options.servers == 0 { vec![1, 3] } else { vec![options.servers] };
    let share = options.minutes / kinds.len() as f64;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let versions = options.only.is_empty() || options.only.iter().any(|id| id == "F15");
    let next = versions.then(programs_of_next_version);
    let mut failed = 0;
    for servers in &kinds {
        let good = runtime.block_on(run(&options, *servers, share, next.clone()));
        println!("test chaos with {servers} server(s) ... {}", if good { "ok" } else { "FAILED" });
        failed += usize::from(!good);
    }
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, kinds.len() - failed);
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(options: &Options, servers: usize, minutes: f64, next: Option<PathBuf>) -> bool {
    let again = format!(
        "--seed {} --servers {servers} --minutes {minutes} --replicas {} --apart {} --storm {}{}",
        options.seed,
        options.replicas,
        options.apart,
        options.storm,
        if options.only.is_empty() { String::new() } else { format!(" --only {}", options.only.join(",")) }
    );
    eprintln!("chaos {again}");
    let mut world = World::start(servers, options.replicas, next).await;
    let scope = Scope {
        servers,
        replicas: options.replicas,
        for_ms: (minutes * 60_000.0) as u64,
        has_next: world.has_next(),
        only: options.only.clone(),
        apart_ms: options.apart * 1_000,
    };
    let plan = plan(options.seed, &scope);
    let traffic = Traffic::new(world.senders(), world.target.clone(), world.platform.clone(), options.seed);
    traffic.begin(options.at_once);
    let struck = carry_out(&plan, &mut world, &traffic, options.storm, scope.for_ms).await;
    eprintln!("the last fault is taken back; what is still to be done has to be done now");
    let healed = clock::now();
    world.wait_ready().await;
    eprintln!("everything is ready again after {:?}", healed.elapsed());
    let histories = traffic.finish().await;
    eprintln!("every source has come to its end after {:?}", healed.elapsed());
    // What comes too much would come now.
    clock::sleep(Duration::from_secs(3)).await;
    let conservation = conserved(&world).await;
    let logs = Logs::read(&world.cluster).await;
    eprintln!("{} records of the debouncer, {} of them by the next version", logs.records, logs.by_next);
    assert!(!world.has_next() || logs.by_next > 0, "the next version wrote nothing");
    let calls = world.target.calls();
    let mut verdict = checker::check(&histories, &calls, world.target.astray(), &world.platform, &logs);
    verdict.safety.extend(conservation);
    tell(&verdict, &struck, &histories, &calls, &traffic);
    let good = verdict.safety.is_empty() && verdict.liveness.is_empty();
    if !good {
        eprintln!("again: cargo test -p holdline-tests --test chaos -- {again}");
        eprintln!("the logs are in {}", world.folder.display());
        world.keep();
    }
    good
}

/// Strikes and heals as planned; gives when each fault struck. Unix milliseconds.
async fn carry_out(
    plan: &[Planned],
    world: &mut World,
    traffic: &Traffic,
    storm: usize,
    for_ms: u64,
) -> Vec<(i64, &'static str)> {
    let began = clock::now();
    let mut steps: Vec<(u64, bool, usize)> = vec![];
    for (index, planned) in plan.iter().enumerate() {
        steps.push((planned.from_ms, true, index));
        steps.push((planned.to_ms, false, index));
    }
    steps.sort_by_key(|(at_ms, begins, index)| (*at_ms, *index, !begins));
    let mut hand = Hand::new(world, traffic, storm);
    let mut struck = vec![];
    // A fault that took longer than planned moves all that follows, so that each lasts as long as it was meant to.
    let mut late = Duration::ZERO;
    for (at_ms, begins, index) in steps {
        let due = Duration::from_millis(at_ms) + late;
        clock::sleep(due.saturating_sub(began.elapsed())).await;
        late += began.elapsed().saturating_sub(due);
        let planned = &plan[index];
        let seconds = began.elapsed().as_secs_f64();
        if begins {
            eprintln!("{seconds:7.1} s  {} {:?}", planned.fault.id(), planned.fault);
            struck.push((clock::wall_ms(), planned.fault.id()));
            hand.strike(&planned.fault).await;
        } else {
            hand.heal(&planned.fault).await;
        }
    }
    clock::sleep((Duration::from_millis(for_ms) + late).saturating_sub(began.elapsed())).await;
    struck
}

/// N2, counted by `holdline doctor` from the logs; what is wrong with it.
async fn conserved(world: &World) -> Vec<String> {
    let began = clock::now();
    loop {
        let output = world.holdline(&["doctor", "--only", "conservation", "--output", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let count = &told["conservation"];
        let on_their_way = count["onTheirWay"].as_u64();
        if on_their_way == Some(0) {
            eprintln!("accepted {} = {}", count["accepted"], count["dispositions"]);
            let empty = serde_json::json!([]);
            let wrong = ["missing", "doubled", "unparked"].into_iter().filter(|what| count[what] != empty);
            return wrong.map(|what| format!("conservation: {what}: {}", count[what])).collect();
        }
        if began.elapsed() > Duration::from_secs(60) {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            return vec![format!("conservation: {on_their_way:?} events are still on their way: {error}")];
        }
        clock::sleep(Duration::from_millis(500)).await;
    }
}

fn tell(
    verdict: &Verdict,
    struck: &[(i64, &'static str)],
    histories: &[History],
    calls: &[Call],
    traffic: &Traffic,
) {
    let refused = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::SeqCst);
    eprintln!(
        "{} entities, {} events accepted ({} answered 503, {} unanswered), {} effects, {} calls repeated with their \
         key, {} held for a person",
        verdict.entities,
        verdict.events,
        refused(&traffic.refusals.unavailable),
        refused(&traffic.refusals.unanswered),
        verdict.effects,
        verdict.repeated,
        verdict.held.len(),
    );
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for history in histories {
        *kinds.entry(history.kind.subscription()).or_default() += 1;
    }
    eprintln!("by playbook: {kinds:?}");
    eprintln!("the longest that an entity waited for an effect: {:?}", traffic.longest_wait());
    for held in verdict.held.iter().take(20) {
        eprintln!("  held: {held}");
    }
    for (id, gaps_ms) in recovery(struck, histories, calls) {
        let at = |share: usize| gaps_ms[(gaps_ms.len() - 1) * share / 100];
        eprintln!("{id}: {} times; to the next action p50 {} ms, max {} ms", gaps_ms.len(), at(50), at(100));
    }
    for (what, found) in [("safety", &verdict.safety), ("liveness", &verdict.liveness)] {
        eprintln!("{what}: {} violation(s)", found.len());
        for one in found.iter().take(20) {
            eprintln!("  {one}");
        }
    }
}

/// From each fault to the next effect that was decided by an event sent after it. Milliseconds, sorted.
fn recovery(
    struck: &[(i64, &'static str)],
    histories: &[History],
    calls: &[Call],
) -> BTreeMap<&'static str, Vec<i64>> {
    let events = histories.iter().flat_map(|history| &history.events);
    let sent: std::collections::HashMap<&str, i64> = events.map(|e| (e.id.as_str(), e.sent_ms)).collect();
    let mut gaps: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (at_ms, id) in struck {
        let mut after = calls.iter().filter(|call| {
            call.effect && sent.get(call.event.as_str()).is_some_and(|sent_ms| sent_ms >= at_ms)
        });
        if let Some(next) = after.next() {
            gaps.entry(id).or_default().push(next.at_ms - at_ms);
        }
    }
    for gaps in gaps.values_mut() {
        gaps.sort_unstable();
    }
    gaps
}
