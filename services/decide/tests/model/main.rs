//! The pure machines under an exhaustive checker, with a model of the broker around them (guarantees.md, "How
//! it is proven", 1): one entity, two owners of each stage or two executors, six inputs, crashes and takeovers
//! between any two steps, wake-ups in any order. It stands in three parts, each with the real code of `decide` in
//! it and named assumptions at its seams: [`classifier`] (EVENTS to INPUTS), [`debouncer`] (INPUTS to commands and
//! wake-ups) and [`executor`] (commands to effects). [`pipe`] is the protocol of `stage::pipe`, [`broker`] what
//! the broker does, [`scripts`] what happens to the debouncer.
//!
//! A model that cannot fail proves nothing: for each of the [`guards`] there is a mutant that goes without it, and
//! the checker must catch it by the property that the guard stands for. See `docs/model.md`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, reason = "the environment asks for longer runs")]

mod broker;
mod classifier;
mod debouncer;
mod executor;
mod guards;
mod pipe;
mod scene;
mod scripts;

use std::fmt::Debug;
use std::hash::Hash;

use guards::Guard;
use pipe::Bounds;
use scripts::Script;
use stateright::{Checker, HasDiscoveries, Model};

/// Faults between any two steps: owners that lose everything in memory, and owners that take over while another
/// still works.
const FAULTS: u8 = 2;

/// Faults where two of them make more states than a test that everybody runs should search: in those of the
/// debouncer's scripts that have many ways already, and in the executor's part, whose faults are of many kinds.
/// `HOLDLINE_MODEL_FAULTS=2` searches them all.
const FAULTS_OF_MANY: u8 = 1;

fn faults_of_many() -> u8 {
    let asked = std::env::var("HOLDLINE_MODEL_FAULTS").ok();
    asked.and_then(|faults| faults.parse().ok()).unwrap_or(FAULTS_OF_MANY).max(1)
}

/// Names of properties that were broken.
type Broken = Vec<&'static str>;

/// Searches everything that can happen, or until `wanted` is broken; without one, until anything is.
fn search<M>(name: &str, model: M, wanted: Option<&'static str>) -> Broken
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let enough = match wanted {
        Some(property) => HasDiscoveries::AnyOf([property].into()),
        None => HasDiscoveries::AnyFailures,
    };
    let checker = model.checker().threads(2).finish_when(enough).spawn_bfs().join();
    assert!(checker.is_done(), "{name}: the search is not done");
    eprintln!("{name}: {} states, {} of them different", checker.state_count(), checker.unique_state_count());
    let discoveries = checker.discoveries();
    for (property, path) in &discoveries {
        eprintln!("  {property}: {:?}", path.clone().into_actions());
    }
    discoveries.into_keys().collect()
}

fn classifying(gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let bounds = Bounds { faults: FAULTS, batch: 2 };
    search(&format!("classifier without {gone:?}"), classifier::Classifying::new(bounds, gone), wanted)
}

fn debouncing(script: Script, faults: u8, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("debouncer, {}, without {gone:?}", script.name);
    let bounds = Bounds { faults: if script.calm { 0 } else { faults }, batch: 1 };
    search(&name, debouncer::Debouncing::new(script, bounds, gone), wanted)
}

fn executing(idempotent: bool, faults: u8, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("executor, idempotent {idempotent}, without {gone:?}");
    search(&name, executor::Executing::new(idempotent, faults, gone), wanted)
}

#[test]
fn n2_n4_t2_o1_o4_the_classifier_holds() {
    assert_eq!(classifying(None, None), Broken::new());
}

#[test]
fn n2_o1_o2_o3_o4_a1_a2_l1_the_debouncer_holds() {
    assert_eq!(debouncing(scripts::circle(), FAULTS, None, None), Broken::new());
    // Its frames lag, so that there are more states without a fault than elsewhere with two.
    assert_eq!(debouncing(scripts::silence(), faults_of_many() - 1, None, None), Broken::new());
    for script in [
        scripts::anew(),
        scripts::changes(),
        scripts::flapping(),
        scripts::nearer(),
        scripts::hasty(),
        scripts::everything(),
    ] {
        assert_eq!(debouncing(script, faults_of_many(), None, None), Broken::new());
    }
}

#[test]
fn t1_o2_a7_l1_l2_n4_the_executor_holds() {
    for idempotent in [true, false] {
        assert_eq!(executing(idempotent, faults_of_many(), None, None), Broken::new());
    }
}

/// Without a guard the property that it stands for is broken.
#[test]
fn every_guard_that_is_taken_away_is_missed() {
    for guard in Guard::ALL {
        let (gone, property) = (Some(guard), guard.property());
        let wanted = Some(property);
        let broken = match guard {
            Guard::DedupClaim | Guard::ClaimInRecord | Guard::WatermarkOfGateway => classifying(gone, wanted),
            Guard::RecordFence | Guard::PositionInRecord | Guard::EffectsDone | Guard::TimeIsData => {
                debouncing(scripts::circle(), FAULTS, gone, wanted)
            }
            Guard::Watermark => debouncing(scripts::changes(), FAULTS, gone, wanted),
            Guard::TimerSubject => debouncing(scripts::flapping(), FAULTS, gone, wanted),
            Guard::TimerGeneration | Guard::HealthyInARow => {
                debouncing(scripts::nearer(), FAULTS, gone, wanted)
            }
            Guard::HealthySpan => debouncing(scripts::hasty(), FAULTS, gone, wanted),
            Guard::EventOrder | Guard::Lanes | Guard::Threshold | Guard::StabilityWindow => {
                debouncing(scripts::everything(), FAULTS, gone, wanted)
            }
            Guard::EarlierIntent | Guard::IntentFence => executing(false, FAULTS, gone, wanted),
            Guard::Lock
            | Guard::LastLook
            | Guard::Pauses
            | Guard::DecisionNumber
            | Guard::Deadline
            | Guard::AcknowledgedLast => executing(true, FAULTS, gone, wanted),
        };
        assert!(broken.contains(&property), "without {guard:?}: {broken:?} instead of {property}");
    }
}
