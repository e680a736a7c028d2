//! What remedies take of the budgets that their playbook sets (E10, A5): by compare-and-set, so that however many
//! executors take at once, none is overdrawn.

use std::time::Duration;

use holdline_decide::budget;
use holdline_decide::playbook::Set;
use holdline_proto::budget::Spent;
use holdline_proto::command::Command;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Put, StoreError};

/// Tries to write before the command goes back, so that others, who write too, are let pass.
const TRIES_MAX: u32 = 10;

/// An entry lives no shorter than the broker can tell.
const KEPT_MIN: Duration = Duration::from_secs(1);

/// Takes what a command needs; says why, if a budget is spent. Taken again, nothing more is taken.
///
/// # Errors
/// When the broker does not answer, or others are faster again and again.
pub(crate) async fn take(
    bus: &Bus,
    time: &BrokerTime,
    set: &Set,
    command: &Command,
) -> Result<Result<(), String>, StoreError> {
    let Some(playbook) = set.playbooks.get(&command.key.playbook) else { return Ok(Ok(())) };
    for budget in budget::budgets(&playbook.guard, &set.group_sizes, command) {
        let key = token(&budget.key.each_ref().map(String::as_str));
        let kept = Duration::from_millis(budget.within_ms.unsigned_abs()).max(KEPT_MIN);
        let mut tries = 0;
        loop {
            let place = bus.place(Bucket::Budgets, &key).await?;
            let spent: Spent = match place.value.as_ref().map(|value| wire::decode(value)).transpose() {
                Ok(spent) => spent.unwrap_or_default(),
                // What was taken is not known, so nothing more is.
                Err(error) => {
                    return Ok(Err(format!(
                        "the entry {key} of BUDGETS cannot be read ({}): {error}",
                        budget.told
                    )));
                }
            };
            let taken = match budget::take(&spent, &budget, &command.incident, time.now_ms()) {
                Ok(Some(taken)) => taken,
                Ok(None) => break,
                Err(spent) => return Ok(Err(spent)),
            };
            let put = Put { expect: Some(place.revision), ttl: Some(kept), ..Put::default() };
            match bus.put(Bucket::Budgets, &key, wire::encode(&taken).into(), put).await {
                Ok(_) => break,
                Err(StoreError::Fenced) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Ok(()))
}
