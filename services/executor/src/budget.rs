//! What remedies take of the budgets that their playbook sets (E10, A5): by compare-and-set, so that however many
//! executors take at once, none is overdrawn.
//!
//! A command that comes again takes nothing twice: what is taken names its incident. It names the issue of its command
//! as well, so that a delivery that was cut off between two budgets leaves nothing taken once the second refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use holdline_decide::budget::{self, Budget, Remedy};
use holdline_decide::playbook::Set;
use holdline_proto::budget::{Spent, Taken};
use holdline_proto::command::Command;
use holdline_proto::incident::View;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Put, StoreError};
use holdline_stage::clock;
use holdline_stage::crash::{self, Point};

use crate::intent::Earlier;
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
/// found again when the command comes back: it goes on with it, or gives it back.
pub(crate) async fn take(
    bus: &Bus,
    time: &BrokerTime,
    set: &Set,
    command: &Command,
    earlier: Earlier,
    lock: &Lock,
) -> Result<Result<(), String>, StoreError> {
    let Some(playbook) = set.playbooks.get(&command.key.playbook) else { return Ok(Ok(())) };
    let budgets = budget::budgets(&playbook.guard, &set.group_sizes, command);
    let (books, issue) = (AtBroker { bus: bus.clone(), time: time.clone() }, command.issue_key());
    let taking = Taking {
        books: &books,
        remedy: Remedy { incident: &command.incident, issue: &issue },
        unused: earlier.attempts == 0 && !earlier.perhaps_done,
    };
    let told = taking.all(&budgets, || lock.is_sure()).await?;
    if told.is_ok() || budgets.len() < 2 {
        return Ok(told);
    }
    // What is in the way may be what another remedy has taken and is about to give back.
    clock::sleep(GIVEN_BACK_AFTER).await;
    taking.all(&budgets, || lock.is_sure()).await
}

/// Where it stands what was taken.
trait Books: Sync {
    /// What was taken from a budget and its revision, or why that cannot be read.
    fn look(
        &self,
        budget: &Budget,
    ) -> impl Future<Output = Result<Result<(u64, Spent), String>, StoreError>> + Send;

    /// Writes what is taken, unless somebody else has written since that revision.
    fn write(
        &self,
        budget: &Budget,
        revision: u64,
        taken: &Spent,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether an incident is known to be over.
    fn is_over(&self, taken: &Taken) -> impl Future<Output = Result<bool, StoreError>> + Send;

    fn now_ms(&self) -> i64;
}

/// One delivery of a command, as it takes.
struct Taking<'a, B> {
    books: &'a B,
    remedy: Remedy<'a>,
    /// No earlier delivery of this issue has called anybody: what it took is for nothing yet.
    unused: bool,
}

impl<B: Books> Taking<'_, B> {
    /// Takes from all of them, or from none.
    async fn all(
        &self,
        budgets: &[Budget],
        is_sure: impl Fn() -> bool,
    ) -> Result<Result<(), String>, StoreError> {
        let mut taken = vec![];
        // Looked at first, so that little has to be given back.
        if budgets.len() > 1 {
            let mut refused = None;
            for budget in budgets {
                let told = match self.books.look(budget).await? {
                    Ok((_, spent)) => {
                        if self.returns(&spent, budget) {
                            taken.push(budget);
                        }
                        self.take_one(&spent, budget).await?.err()
                    }
                    Err(unreadable) => Some(unreadable),
                };
                refused = refused.or(told);
            }
            if let Some(why) = refused {
                return self.refuse(&taken, why, is_sure).await;
            }
        }
        taken.clear();
        for budget in budgets {
            match self.take_from(budget).await? {
                Ok(true) => taken.push(budget),
                Ok(false) => {}
                Err(why) => return self.refuse(&taken, why, is_sure).await,
            }
        }
        Ok(Ok(()))
    }

    /// Gives back what was taken for a remedy that another budget does not allow, so that the one does not eat the other.
    async fn refuse(
        &self,
        taken: &[&Budget],
        why: String,
        is_sure: impl Fn() -> bool,
    ) -> Result<Result<(), String>, StoreError> {
        // Who has the lock by now may have gone on with what was taken.
        if !is_sure() {
            return Err(StoreError::Fenced);
        }
        for budget in taken {
            self.give_back(budget, &is_sure).await?;
        }
        Ok(Err(why))
    }

    /// Takes from one budget; whether it is this delivery's to give back. What an earlier remedy of the incident took is
    /// not.
    async fn take_from(&self, budget: &Budget) -> Result<Result<bool, String>, StoreError> {
        let mut tries = 0;
        loop {
            let (revision, spent) = match self.books.look(budget).await? {
                Ok(found) => found,
                // What was taken is not known, so nothing more is.
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            let (taken, returns) = match self.take_one(&spent, budget).await? {
                Ok(Some(taken)) => (taken, true),
                // Written in any case: a server that lags may still show what was given back.
                Ok(None) => {
                    let returns = self.returns(&spent, budget);
                    (budget::renewed(&spent, budget, self.remedy.incident, self.books.now_ms()), returns)
                }
                Err(spent) => return Ok(Err(spent)),
            };
            match self.books.write(budget, revision, &taken).await {
                Ok(()) => {
                    crash::point(Point::BudgetTaken);
                    return Ok(Ok(returns));
                }
                Err(StoreError::Fenced) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether an earlier delivery took this, and came to nothing with it.
    fn returns(&self, spent: &Spent, budget: &Budget) -> bool {
        self.unused && budget::took(spent, budget, &self.remedy)
    }

    async fn give_back(&self, budget: &Budget, is_sure: &impl Fn() -> bool) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            let Ok((revision, spent)) = self.books.look(budget).await? else { return Ok(()) };
            // In this order: who has the lock after that look writes before he goes by it, and this is refused.
            if !is_sure() {
                return Err(StoreError::Fenced);
            }
            let Some(left) = budget::without(&spent, budget, self.remedy.incident) else { return Ok(()) };
            match self.books.write(budget, revision, &left).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Fenced) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one from a budget, by how the incidents stand that it hangs on. What is known to be over stays so, so an
    /// entry that nobody has changed meanwhile is still what was looked at.
    async fn take_one(
        &self,
        spent: &Spent,
        budget: &Budget,
    ) -> Result<Result<Option<Spent>, String>, StoreError> {
        let (mut over, now_ms) = (BTreeSet::new(), self.books.now_ms());
        for taken in budget::earlier(spent, budget) {
            if self.books.is_over(taken).await? {
                over.insert(taken.incident.clone());
            }
        }
        let mut found = budget::take(spent, budget, &self.remedy, now_ms, &over);
        // As many as are in the way.
        for taken in budget::lasting(spent, budget, now_ms) {
            if found.is_ok() {
                break;
            }
            if self.books.is_over(taken).await? {
                over.insert(taken.incident.clone());
                found = budget::take(spent, budget, &self.remedy, now_ms, &over);
            }
        }
        Ok(found)
    }
}

fn key(budget: &Budget) -> String {
    token(&budget.key.each_ref().map(String::as_str))
}

/// BUDGETS, and INCIDENTS for what is over.
struct AtBroker {
    bus: Bus,
    time: BrokerTime,
}

impl Books for AtBroker {
    async fn look(&self, budget: &Budget) -> Result<Result<(u64, Spent), String>, StoreError> {
        let key = key(budget);
        let place = self.bus.place(Bucket::Budgets, &key).await?;
        let spent = place.value.as_ref().map(|value| wire::decode(value)).transpose();
        let unreadable =
            |error| format!("the entry {key} of BUDGETS cannot be read ({}): {error}", budget.told);
        Ok(spent.map(|spent| (place.revision, spent.unwrap_or_default())).map_err(unreadable))
    }

    async fn write(&self, budget: &Budget, revision: u64, taken: &Spent) -> Result<(), StoreError> {
        // Of what is in failover for longer, nothing else may have been remedied meanwhile.
        let kept_ms = budget.within_ms.max(if budget.while_open { budget::OPEN_KEPT_MS } else { 0 });
        let kept = Duration::from_millis(kept_ms.unsigned_abs()).max(KEPT_MIN);
        let put = Put { expect: Some(revision), ttl: Some(kept), ..Put::default() };
        self.bus.put(Bucket::Budgets, &key(budget), wire::encode(taken).into(), put).await?;
        Ok(())
    }

    /// A view that lags or cannot be read shows too much in failover, never too little.
    async fn is_over(&self, taken: &Taken) -> Result<bool, StoreError> {
        let entry = self.bus.get(Bucket::Incidents, &taken.incident).await?;
        let view = match entry.map(|entry| wire::decode::<View>(&entry.value)).transpose() {
            Ok(view) => view,
            Err(error) => {
                tracing::error!("the entry {} of INCIDENTS cannot be read: {error}", taken.incident);
                return Ok(false);
            }
        };
        Ok(budget::is_over(taken, view.as_ref(), self.time.now_ms()))
    }

    fn now_ms(&self) -> i64 {
        self.time.now_ms()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    /// A bucket whose server may lag, and may fail.
    #[derive(Default)]
    struct Fake {
        entries: Mutex<BTreeMap<String, (u64, Spent)>>,
        /// What looks show instead.
        shown: Option<BTreeMap<String, (u64, Spent)>>,
        /// Writes until there is no answer any more.
        writes_left: Mutex<u32>,
    }

    impl Books for Fake {
        async fn look(&self, budget: &Budget) -> Result<Result<(u64, Spent), String>, StoreError> {
            let entries = self.entries.lock().unwrap();
            let entries = self.shown.as_ref().unwrap_or(&entries);
            Ok(Ok(entries.get(&key(budget)).cloned().unwrap_or_default()))
        }

        async fn write(&self, budget: &Budget, revision: u64, taken: &Spent) -> Result<(), StoreError> {
            let mut left = self.writes_left.lock().unwrap();
            *left = left.checked_sub(1).ok_or_else(|| StoreError::Unknown("no answer".into()))?;
            let mut entries = self.entries.lock().unwrap();
            let entry = entries.entry(key(budget)).or_default();
            if entry.0 != revision {
                return Err(StoreError::Fenced);
            }
            *entry = (revision + 1, taken.clone());
            Ok(())
        }

        async fn is_over(&self, _: &Taken) -> Result<bool, StoreError> {
            Ok(false)
        }

        fn now_ms(&self) -> i64 {
            1_000
        }
    }

    impl Fake {
        fn with_writes(writes: u32) -> Fake {
            Fake { writes_left: Mutex::new(writes), ..Fake::default() }
        }

        fn answers(&self, writes: u32) {
            *self.writes_left.lock().unwrap() = writes;
        }

        /// The incidents that have something of a budget.
        fn has(&self, budget: &Budget) -> Vec<String> {
            let entries = self.entries.lock().unwrap();
            let spent = entries.get(&key(budget)).cloned().unwrap_or_default().1;
            spent.taken.into_iter().map(|taken| taken.incident).collect()
        }
    }

    const UNKNOWN: &str = "unknown";
    const FENCED: &str = "fenced";
    const TAKEN: &str = "taken";
    const SPENT: &str = "spent";

    /// What comes of an issue of an incident's command that takes from two budgets.
    async fn take(fake: &Fake, incident: &str, issue: &str, unused: bool, is_sure: bool) -> &'static str {
        let taking = Taking { books: fake, remedy: Remedy { incident, issue }, unused };
        match taking.all(&budgets(incident), || is_sure).await {
            Ok(Ok(())) => TAKEN,
            Ok(Err(_)) => SPENT,
            Err(StoreError::Fenced) => FENCED,
            Err(StoreError::Unknown(_)) => UNKNOWN,
        }
    }

    /// A playbook's, with room for two, and a group's, with room for one.
    fn budgets(incident: &str) -> [Budget; 2] {
        [("playbook", 2), ("group", 1)].map(|(name, most)| Budget {
            key: ["p".into(), name.into(), String::new()],
            what: incident.into(),
            most,
            within_ms: 10_000,
            while_open: false,
            told: name.into(),
        })
    }

    #[tokio::test]
    async fn a5_what_a_lost_broker_leaves_taken_is_gone_on_with_or_given_back() {
        let [playbook, group] = budgets("");
        // It is cut off behind the first, and another takes what it needs of the second.
        let cut_off = async |unused, is_sure, expected, left: &[&str]| {
            let fake = Fake::with_writes(1);
            assert_eq!(take(&fake, "1", "1-0", true, true).await, UNKNOWN);
            assert_eq!((fake.has(&playbook), fake.has(&group)), (vec!["1".to_string()], vec![]));
            fake.answers(100);
            assert_eq!(take(&fake, "2", "2-0", true, true).await, TAKEN);
            assert_eq!(take(&fake, "1", "1-0", unused, is_sure).await, expected);
            assert_eq!(
                (fake.has(&playbook), fake.has(&group)),
                (left.iter().map(ToString::to_string).collect(), vec!["2".to_string()])
            );
        };
        cut_off(true, true, SPENT, &["2"]).await;
        // A call of it may have left, so it counts.
        cut_off(false, true, SPENT, &["1", "2"]).await;
        // Somebody else may have the lock by now, and go on with what was taken.
        cut_off(true, false, FENCED, &["1", "2"]).await;
        // Nobody was faster: it goes on, and has taken once.
        let fake = Fake::with_writes(1);
        assert_eq!(take(&fake, "1", "1-0", true, true).await, UNKNOWN);
        fake.answers(100);
        for _ in 0..2 {
            assert_eq!(take(&fake, "1", "1-0", true, true).await, TAKEN);
            assert_eq!((fake.has(&playbook).len(), fake.has(&group).len()), (1, 1));
        }
    }

    #[tokio::test]
    async fn a5_what_an_earlier_remedy_of_the_incident_took_is_not_given_back() {
        let [playbook, group] = budgets("");
        let fake = Fake::with_writes(100);
        assert_eq!(take(&fake, "1", "1-0", true, true).await, TAKEN);
        // Its next step, while another has what it would need.
        fake.entries.lock().unwrap().remove(&key(&group));
        assert_eq!(take(&fake, "2", "2-0", true, true).await, TAKEN);
        assert_eq!(take(&fake, "1", "1-1", true, true).await, SPENT);
        assert_eq!(fake.has(&playbook), ["1", "2"]);
    }

    #[tokio::test]
    async fn a5_a_server_that_lags_lets_nobody_go_on_with_what_was_given_back() {
        let mut fake = Fake::with_writes(100);
        assert_eq!(take(&fake, "1", "1-0", true, true).await, TAKEN);
        fake.shown = Some(fake.entries.lock().unwrap().clone());
        for (revision, spent) in fake.entries.lock().unwrap().values_mut() {
            *revision += 1;
            spent.taken.clear();
        }
        assert_eq!(take(&fake, "1", "1-0", true, true).await, FENCED);
        // It has caught up.
        fake.shown = None;
        assert_eq!(take(&fake, "1", "1-0", true, true).await, TAKEN);
    }
}
