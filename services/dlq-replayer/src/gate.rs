//! A letter waits until what failed is there again (R2): the stage that gave up, and the target that did not
//! answer. To a target that fails one letter at a time is let through, to find out.

use holdline_proto::dead_letter::{DeadLetter, Failing};
use holdline_proto::topology::{Bucket, EXECUTOR_CONSUMER, Role, Stream, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Put, StoreError};

/// A letter that was let through to find out has this long to do so. Milliseconds.
const PROBE_MS: i64 = 60_000;

/// Whether a letter may go back now.
pub(crate) enum Gate {
    Open,
    Closed(String),
}

pub(crate) async fn look(
    bus: &Bus,
    time: &BrokerTime,
    number: u64,
    letter: &DeadLetter,
) -> Result<Gate, StoreError> {
    if !stage_lives(bus, letter).await? {
        return Ok(Gate::Closed(format!("no {} is at work", letter.stage)));
    }
    match &letter.target {
        Some(host) => target_answers(bus, time.now_ms(), number, host).await,
        None => Ok(Gate::Open),
    }
}

async fn stage_lives(bus: &Bus, letter: &DeadLetter) -> Result<bool, StoreError> {
    if letter.stage == Role::Executor.name() {
        return bus.is_pulled(Stream::Commands, EXECUTOR_CONSUMER).await;
    }
    let Some(partition) = super::back::partition(&letter.subject) else { return Ok(true) };
    let lease = bus.get(Bucket::Leases, &format!("{}.lease.{partition}", letter.stage)).await?;
    Ok(lease.is_some())
}

async fn target_answers(bus: &Bus, now_ms: i64, number: u64, host: &str) -> Result<Gate, StoreError> {
    let key = token(&[host]);
    let Some(entry) = bus.get(Bucket::Targets, &key).await? else { return Ok(Gate::Open) };
    let mut failing = match wire::decode::<Failing>(&entry.value) {
        Ok(failing) => failing,
        Err(error) => {
            tracing::error!(
                host,
                "the entry {key} of TARGETS ({host}) cannot be read, so it says nothing: {error}"
            );
            return Ok(Gate::Open);
        }
    };
    let others = failing
        .probe
        .is_some_and(|(letter, at_ms)| letter != number && now_ms.saturating_sub(at_ms) < PROBE_MS);
    if others {
        return Ok(Gate::Closed(format!("{host} fails, and another letter is finding out")));
    }
    failing.probe = Some((number, now_ms));
    let put = Put { expect: Some(entry.revision), ..Put::default() };
    match bus.put(Bucket::Targets, &key, wire::encode(&failing).into(), put).await {
        Ok(_) => Ok(Gate::Open),
        Err(StoreError::Fenced) => Ok(Gate::Closed(format!("{host} fails"))),
        Err(error) => Err(error),
    }
}
