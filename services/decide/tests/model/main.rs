//! Scratch
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod broker;
mod classifier;
mod debouncer;
mod executor;
mod scripts;
mod guards;
mod pipe;
mod scene;

use stateright::{Checker, Model};

#[test]
fn classify() {
    let bounds = pipe::Bounds { faults: 2, batch: 2 };
    for gone in [None, Some(guards::Guard::DedupClaim), Some(guards::Guard::ClaimInRecord), Some(guards::Guard::RecordFence), Some(guards::Guard::PositionInRecord), Some(guards::Guard::WatermarkOfGateway)] {
        let began = std::time::Instant::now();
        let checker = classifier::Classifying::new(bounds, gone).checker().threads(2).finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{gone:?} states {} unique {} depth {} {:?} done {}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), began.elapsed(), checker.is_done());
        for (name, path) in checker.discoveries() {
            println!("  {name}: {:?}", path.into_actions());
        }
    }
}

#[test]
fn debounce() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let n = |name: &str, or: u64| std::env::var(name).map_or(or, |v| v.parse().unwrap());
    let bounds = pipe::Bounds { faults: n("FA", 2) as u8, batch: n("BA", 1) };
    for script in scripts::faulty().into_iter().chain([scripts::everything()]) {
        if !script.name.contains(&only) { continue }
        let name = script.name;
        let bounds = if script.calm { pipe::Bounds { faults: 0, batch: 1 } } else { bounds };
        let began = std::time::Instant::now();
        let checker = debouncer::Debouncing::new(script, bounds, None).checker().threads(2).timeout(std::time::Duration::from_secs(n("SECS", 30))).finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{name:?} states {} unique {} depth {} {:?} done {}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), began.elapsed(), checker.is_done());
        for (name, path) in checker.discoveries() {
            let last = path.last_state().clone();
            println!("  {name}: {:?}", path.into_actions());
            if std::env::var("SHOW").is_ok() { println!("{last:?}"); }
        }
    }
}

#[test]
fn execute() {
    for idempotent in [true, false] {
        let began = std::time::Instant::now();
        let checker = executor::Executing::new(idempotent, std::env::var("FA").unwrap().parse().unwrap(), None).checker().threads(2).timeout(std::time::Duration::from_secs(600)).finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{idempotent} states {} unique {} depth {} {:?} done {}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), began.elapsed(), checker.is_done());
        for (name, path) in checker.discoveries() {
            println!("  {name}: {:?}", path.into_actions());
        }
    }
}
