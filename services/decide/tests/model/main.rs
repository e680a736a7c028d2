//! The pure machines under an exhaustive checker, with a model of the broker around them (guarantees.md, "How
//! it is proven", 1): one entity, two owners of each stage or two executors, six inputs, crashes and takeovers
//! between any two steps, wake-ups in any order. It stands in parts, each with the real code of `decide` in
//! it and named assumptions at its seams: [`classifier`] (EVENTS to INPUTS), [`debouncer`] (INPUTS to commands and
//! wake-ups), [`executor`] (commands to effects), and beside it what a command has to pass there: [`approvals`],
//! [`budgets`] and, where several entities need the same object, [`sharing`]. [`pipe`] is the protocol of `stage::pipe`,
//! [`broker`] what the broker does, [`scripts`] what happens to the debouncer, [`issuer`] the debouncer where it is not
//! in question.
//!
//! A model that cannot fail proves nothing: for each of the [`guards`] there is a mutant that goes without it, and
//! the checker must catch it by the property that the guard stands for. See `docs/model.md`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, reason = "the environment asks for longer runs")]

mod approvals;
mod broker;
mod budgets;
mod classifier;
mod debouncer;
mod executor;
mod guards;
mod issuer;
mod pipe;
mod scene;
mod scripts;
mod sharing;

use std::fmt::Debug;
use std::hash::Hash;

use guards::Guard;
use pipe::Bounds;
use scripts::Script;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

/// Faults between any two steps: whatever loses everything in memory, and whoever takes over while another still
/// works. `HOLDLINE_MODEL_FAULTS` asks for more.
fn faults() -> u8 {
    let asked = std::env::var("HOLDLINE_MODEL_FAULTS").ok();
    asked.and_then(|faults| faults.parse().ok()).unwrap_or(2)
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
    let is_broken = |property: &Property<M>| {
        discoveries.contains_key(property.name) != (property.expectation == Expectation::Sometimes)
    };
    let properties = checker.model().properties().into_iter();
    properties.filter(is_broken).map(|property| property.name).collect()
}

fn classifying(gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let bounds = Bounds { faults: faults(), batch: 2 };
    search(&format!("classifier without {gone:?}"), classifier::Classifying::new(bounds, gone), wanted)
}

fn debouncing(script: Script, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("debouncer, {}, without {gone:?}", script.name);
    let bounds = Bounds { faults: faults().saturating_sub(script.fewer_faults), batch: 1 };
    search(&name, debouncer::Debouncing::new(script, bounds, gone), wanted)
}

/// Its faults are of many kinds, so it has one more of them.
fn executing(idempotent: bool, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("executor, idempotent {idempotent}, without {gone:?}");
    search(&name, executor::Executing::new(idempotent, faults() + 1, gone), wanted)
}

fn approving(soft: bool, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("approvals, soft block {soft}, without {gone:?}");
    search(&name, approvals::Approvals::new(soft, gone), wanted)
}

/// One lock that runs out, or as many crashes as elsewhere.
fn taking(deposing: bool, gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    let name = format!("budgets, locks run out {deposing}, without {gone:?}");
    let faults = if deposing { faults() - 1 } else { faults() };
    search(&name, budgets::Budgets::new(deposing, faults, gone), wanted)
}

/// One fault for each of the two, and one between them.
fn sharing(gone: Option<Guard>, wanted: Option<&'static str>) -> Broken {
    search(&format!("sharing without {gone:?}"), sharing::Sharing::new(faults() + 1, gone), wanted)
}

#[test]
fn n2_n4_t2_o1_o4_the_classifier_holds() {
    assert_eq!(classifying(None, None), Broken::new());
}

#[test]
fn n2_o1_o2_o3_o4_a1_a2_l1_the_debouncer_holds() {
    for script in scripts::all() {
        assert_eq!(debouncing(script, None, None), Broken::new());
    }
}

#[test]
fn t1_o2_a7_l1_l2_n4_the_executor_holds() {
    for idempotent in [true, false] {
        assert_eq!(executing(idempotent, None, None), Broken::new());
    }
}

#[test]
fn a4_approvals_hold() {
    for soft in [false, true] {
        assert_eq!(approving(soft, None, None), Broken::new());
    }
}

#[test]
fn a5_budgets_hold() {
    for deposing in [false, true] {
        assert_eq!(taking(deposing, None, None), Broken::new());
    }
}

#[test]
fn e2_a6_what_is_shared_holds() {
    assert_eq!(sharing(None, None), Broken::new());
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
                debouncing(scripts::circle(), gone, wanted)
            }
            Guard::Watermark => debouncing(scripts::changes(), gone, wanted),
            Guard::TimerSubject => debouncing(scripts::flapping(), gone, wanted),
            Guard::TimerGeneration | Guard::HealthyInARow => debouncing(scripts::nearer(), gone, wanted),
            Guard::HealthySpan => debouncing(scripts::hasty(), gone, wanted),
            Guard::Echo => debouncing(scripts::echoes(), gone, wanted),
            Guard::Proof => debouncing(scripts::proven(), gone, wanted),
            Guard::EventOrder | Guard::Lanes | Guard::Threshold | Guard::StabilityWindow => {
                debouncing(scripts::everything(), gone, wanted)
            }
            Guard::EarlierIntent | Guard::IntentFence | Guard::IntentFirst => executing(false, gone, wanted),
            Guard::Lock
            | Guard::LastLook
            | Guard::HeldLock
            | Guard::Pauses
            | Guard::DecisionNumber
            | Guard::OutcomeAgain
            | Guard::HeldReport
            | Guard::Deadline
            | Guard::AcknowledgedLast => executing(true, gone, wanted),
            Guard::ExactRequest
            | Guard::NobodyCountsTwice
            | Guard::ApprovalExpires
            | Guard::Signature
            | Guard::Denial
            | Guard::LastWord => approving(false, gone, wanted),
            Guard::Seal | Guard::TermsInForce => approving(true, gone, wanted),
            Guard::BudgetFence
            | Guard::BudgetOnce
            | Guard::BudgetRenewed
            | Guard::GivingBack
            | Guard::BudgetWhileOpen => taking(false, gone, wanted),
            Guard::SureGivingBack => taking(true, gone, wanted),
            Guard::Reliance
            | Guard::RelianceFence
            | Guard::EveryWriteIsFenced
            | Guard::PreImage
            | Guard::PreImageStays
            | Guard::Begun
            | Guard::Stamp => sharing(gone, wanted),
        };
        assert!(broken.contains(&property), "without {guard:?}: {broken:?} instead of {property}");
    }
}
