//! What remedies take of the budgets that their playbook sets (E10, A5): by compare-and-set, so that however many
//! executors take at once, none is overdrawn.

use std::collections::BTreeSet;
use std::time::Duration;

use holdline_decide::budget::{self, Budget};
use holdline_decide::playbook::Set;
use holdline_proto::budget::{Spent, Taken};
use holdline_proto::command::Command;
use holdline_proto::incident::View;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Place, Put, StoreError};
use holdline_stage::clock;
use holdline_stage::crash::{self, Point};

use crate::lock::Lock;

/// Tries to write before the command goes back, so that others, who write too, are let pass.
const TRIES_MAX: u32 = 10;

/// What is taken from one budget and refused by another is given back long before this has passed.
const GIVEN_BACK_AFTER: Duration = Duration::from_millis(250);

/// An entry lives no shorter than the broker can tell.
const KEPT_MIN: Duration = Duration::from_secs(1);

/// Takes what a command needs of all its budgets, or of none; says why, if one is spent. Taken again, nothing more is
/// taken.
///
/// # Errors
/// When the broker does not answer, or others are faster again and again. What was taken until then stays taken, and is
/// found again when the command comes back.
pub(crate) async fn take(
    bus: &Bus,
    time: &BrokerTime,
    set: &Set,
    command: &Command,
    lock: &Lock,
) -> Result<Result<(), String>, StoreError> {
    let Some(playbook) = set.playbooks.get(&command.key.playbook) else { return Ok(Ok(())) };
    let budgets = budget::budgets(&playbook.guard, &set.group_sizes, command);
    let told = take_all(bus, time, &budgets, &command.incident, lock).await?;
    if told.is_ok() || budgets.len() < 2 {
        return Ok(told);
    }
    // What is in the way may be what another remedy has taken and is about to give back.
    clock::sleep(GIVEN_BACK_AFTER).await;
    take_all(bus, time, &budgets, &command.incident, lock).await
}

/// Takes from all of them, or from none.
async fn take_all(
    bus: &Bus,
    time: &BrokerTime,
    budgets: &[Budget],
    incident: &str,
    lock: &Lock,
) -> Result<Result<(), String>, StoreError> {
    // Looked at first, so that little has to be given back.
    if budgets.len() > 1 {
        for budget in budgets {
            let spent = match look(bus, budget).await? {
                Ok((_, spent)) => take_one(bus, &spent, budget, incident, time.now_ms()).await?,
                Err(unreadable) => Err(unreadable),
            };
            if let Err(spent) = spent {
                return Ok(Err(spent));
            }
        }
    }
    let mut taken = vec![];
    for budget in budgets {
        match take_from(bus, time, budget, incident).await? {
            Ok(true) => taken.push(budget),
            // An earlier delivery, or an earlier remedy of the incident, has it.
            Ok(false) => {}
            // Who has the lock by now may have gone on with what was taken.
            Err(_) if !lock.is_sure() => return Err(StoreError::Fenced),
            Err(spent) => {
                for budget in taken {
                    give_back(bus, budget, incident).await?;
                }
                return Ok(Err(spent));
            }
        }
    }
    Ok(Ok(()))
}

/// Takes from one budget; whether the incident did not have it before.
async fn take_from(
    bus: &Bus,
    time: &BrokerTime,
    budget: &Budget,
    incident: &str,
) -> Result<Result<bool, String>, StoreError> {
    let mut tries = 0;
    loop {
        let (place, spent) = match look(bus, budget).await? {
            Ok(found) => found,
            // What was taken is not known, so nothing more is.
            Err(unreadable) => return Ok(Err(unreadable)),
        };
        let (taken, is_new) = match take_one(bus, &spent, budget, incident, time.now_ms()).await? {
            Ok(Some(taken)) => (taken, true),
            // Written all the same: a server that lags may still show what was given back.
            Ok(None) => (spent, false),
            Err(spent) => return Ok(Err(spent)),
        };
        match write(bus, budget, &place, &taken).await {
            Ok(()) => {
                crash::point(Point::BudgetTaken);
                return Ok(Ok(is_new));
            }
            Err(StoreError::Fenced) if tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Gives back what was taken for a remedy that another budget does not allow, so that the one does not eat the other.
async fn give_back(bus: &Bus, budget: &Budget, incident: &str) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        let Ok((place, spent)) = look(bus, budget).await? else { return Ok(()) };
        let Some(left) = budget::without(&spent, budget, incident) else { return Ok(()) };
        match write(bus, budget, &place, &left).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Fenced) if tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn key(budget: &Budget) -> String {
    token(&budget.key.each_ref().map(String::as_str))
}

/// What was taken from a budget, or why that cannot be read.
async fn look(bus: &Bus, budget: &Budget) -> Result<Result<(Place, Spent), String>, StoreError> {
    let key = key(budget);
    let place = bus.place(Bucket::Budgets, &key).await?;
    let spent = place.value.as_ref().map(|value| wire::decode(value)).transpose();
    let unreadable = |error| format!("the entry {key} of BUDGETS cannot be read ({}): {error}", budget.told);
    Ok(spent.map(|spent| (place, spent.unwrap_or_default())).map_err(unreadable))
}

/// Writes what is taken, unless somebody else has written since it was looked at.
async fn write(bus: &Bus, budget: &Budget, place: &Place, taken: &Spent) -> Result<(), StoreError> {
    // Of what is in failover for longer, nothing else may have been remedied meanwhile.
    let kept_ms = budget.within_ms.max(if budget.while_open { budget::OPEN_KEPT_MS } else { 0 });
    let kept = Duration::from_millis(kept_ms.unsigned_abs()).max(KEPT_MIN);
    let put = Put { expect: Some(place.revision), ttl: Some(kept), ..Put::default() };
    bus.put(Bucket::Budgets, &key(budget), wire::encode(taken).into(), put).await?;
    Ok(())
}

/// Takes one from a budget, by how the incidents stand that it hangs on. What is known to be over stays so, so an entry
/// that nobody has changed meanwhile is still what was looked at.
async fn take_one(
    bus: &Bus,
    spent: &Spent,
    budget: &Budget,
    incident: &str,
    now_ms: i64,
) -> Result<Result<Option<Spent>, String>, StoreError> {
    let mut over = BTreeSet::new();
    for taken in budget::earlier(spent, budget) {
        if is_over(bus, taken, now_ms).await? {
            over.insert(taken.incident.clone());
        }
    }
    let mut found = budget::take(spent, budget, incident, now_ms, &over);
    // As many as are in the way.
    for taken in budget::lasting(spent, budget, now_ms) {
        if found.is_ok() {
            break;
        }
        if is_over(bus, taken, now_ms).await? {
            over.insert(taken.incident.clone());
            found = budget::take(spent, budget, incident, now_ms, &over);
        }
    }
    Ok(found)
}

/// A view that lags or cannot be read shows too much in failover, never too little.
async fn is_over(bus: &Bus, taken: &Taken, now_ms: i64) -> Result<bool, StoreError> {
    let entry = bus.get(Bucket::Incidents, &taken.incident).await?;
    let view = match entry.map(|entry| wire::decode::<View>(&entry.value)).transpose() {
        Ok(view) => view,
        Err(error) => {
            tracing::error!("the entry {} of INCIDENTS cannot be read: {error}", taken.incident);
            return Ok(false);
        }
    };
    Ok(budget::is_over(taken, view.as_ref(), now_ms))
}
