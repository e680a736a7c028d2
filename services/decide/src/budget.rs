//! Is there room for one more remedy? Budgets of a playbook (`guard`), so that a mistake stays small (E10, A5).

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::budget::{Spent, Taken};
use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::{Phase, View};

use crate::explain::duration;

/// The budgets of a playbook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    pub at_most: Option<AtMost>,
    pub blast_radius: Option<BlastRadius>,
}

impl Guard {
    /// Whether any budget is a group's.
    pub fn goes_by_group(&self) -> bool {
        self.blast_radius.is_some() || self.at_most.is_some_and(|at_most| at_most.per == Per::Group)
    }
}

/// So many incidents are remedied in any such time. `guard.at_most`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtMost {
    pub actions: u32,
    pub per: Per,
    pub within_ms: i64,
}

/// What has a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Entity,
    Group,
    Playbook,
}

impl Per {
    /// Every one, as `per` names it.
    pub const NAMES: [(&str, Per); 3] =
        [("entity", Per::Entity), ("group", Per::Group), ("playbook", Per::Playbook)];
}

/// Such a share of a group's entities is in failover, or was remedied within such a time; its size is that in
/// `holdline.yaml`. `guard.blast_radius`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlastRadius {
    /// 1 to 100.
    pub share_percent: u32,
    pub within_ms: i64,
}

impl BlastRadius {
    /// Entities of a group that it allows. Of one whose size is not known, one: nobody can say that more is little.
    pub fn entities(self, size: Option<u32>) -> u32 {
        size.map_or(1, |size| {
            u32::try_from(u64::from(size) * u64::from(self.share_percent) / 100).unwrap_or(0)
        })
    }
}

/// One budget that a command takes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Names it among all: the parts of its key.
    pub key: [String; 3],
    /// What counts once.
    pub what: String,
    pub most: u32,
    pub within_ms: i64,
    /// What was taken counts for longer where its incident is: until what was done is undone.
    pub while_open: bool,
    /// In words.
    pub told: String,
}

/// Who takes from a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy<'a> {
    pub incident: &'a str,
    /// [`Command::issue_key`]
    pub issue: &'a str,
}

/// Of an incident of which nothing is shown it is taken to be over this long after it took from a budget: what is over
/// is shown for as long. Milliseconds.
pub const OPEN_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// The budgets that a command takes from. Only remedies do: what is undone makes nothing worse, and nobody is to be
/// kept from it.
pub fn budgets(guard: &Guard, sizes: &BTreeMap<String, u32>, command: &Command) -> Vec<Budget> {
    if command.direction != Direction::Remediate {
        return vec![];
    }
    let (playbook, entity) = (&command.key.playbook, &command.key.entity);
    let group = command.group.clone().unwrap_or_default();
    let mut budgets = vec![];
    if let Some(AtMost { actions, per, within_ms }) = guard.at_most {
        let (of, told) = match per {
            Per::Entity => (entity.clone(), format!("entity {entity}")),
            Per::Group => (group.clone(), format!("group {group:?}")),
            Per::Playbook => (String::new(), format!("playbook {playbook}")),
        };
        budgets.push(Budget {
            key: [playbook.clone(), format!("at most per {per:?}"), of],
            what: command.incident.clone(),
            most: actions,
            within_ms,
            while_open: false,
            told: format!("at most {actions} remedied incidents of {told} within {}", duration(within_ms)),
        });
    }
    if let Some(radius) = guard.blast_radius {
        let size = sizes.get(&group).copied();
        let most = radius.entities(size);
        let share = match size {
            Some(size) => format!("{}% of {size}", radius.share_percent),
            None => "`groups` of holdline.yaml has no size of it".into(),
        };
        budgets.push(Budget {
            key: [playbook.clone(), "blast radius".into(), group.clone()],
            what: entity.clone(),
            most,
            within_ms: radius.within_ms,
            while_open: true,
            told: format!(
                "at most {most} entities of group {group:?} in failover, or remedied within {} ({share})",
                duration(radius.within_ms)
            ),
        });
    }
    budgets
}

/// Whether what was taken counts, however its incident stands.
fn is_recent(taken: &Taken, budget: &Budget, now_ms: i64) -> bool {
    taken.at_ms.saturating_add(budget.within_ms) > now_ms
}

/// What the same entity took before: it need not be kept once its incident is over.
pub fn earlier<'a>(spent: &'a Spent, budget: &'a Budget) -> impl Iterator<Item = &'a Taken> {
    spent.taken.iter().filter(|taken| budget.while_open && taken.what == budget.what)
}

/// What counts only if its incident is not over.
pub fn lasting<'a>(spent: &'a Spent, budget: &'a Budget, now_ms: i64) -> impl Iterator<Item = &'a Taken> {
    let is_lasting = move |taken: &&Taken| budget.while_open && !is_recent(taken, budget, now_ms);
    spent.taken.iter().filter(is_lasting)
}

/// Whether the incident that took this is over, as people are shown it: what was done is undone, or nothing had been
/// done, or its playbook undoes nothing. A revert that did not go through keeps it from being so. What is not shown may
/// be only just decided on, or lost and written again in a moment.
pub fn is_over(taken: &Taken, view: Option<&View>, now_ms: i64) -> bool {
    match view {
        Some(view) => view.phase == Phase::Resolved,
        None => taken.at_ms.saturating_add(OPEN_KEPT_MS) <= now_ms,
    }
}

/// Whether an incident took this from a budget.
fn is_its(taken: &Taken, budget: &Budget, incident: &str) -> bool {
    taken.what == budget.what && taken.incident == incident
}

/// Takes one from a budget. `None`: the incident has it already. `over`: incidents that are known to be over; whichever
/// are not here count as long as the budget has it so.
///
/// # Errors
/// The budget is spent; says how.
pub fn take(
    spent: &Spent,
    budget: &Budget,
    remedy: &Remedy<'_>,
    now_ms: i64,
    over: &BTreeSet<String>,
) -> Result<Option<Spent>, String> {
    let Remedy { incident, issue } = *remedy;
    let lasts = |taken: &Taken| budget.while_open && !over.contains(&taken.incident);
    let counts = |taken: &&Taken| is_recent(taken, budget, now_ms) || lasts(taken);
    let mut left: Vec<Taken> = spent.taken.iter().filter(counts).cloned().collect();
    if left.iter().any(|taken| is_its(taken, budget, incident)) {
        return Ok(None);
    }
    // The same entity in another incident is no further one. What the earlier one did may still stand.
    left.retain(|taken| taken.what != budget.what || lasts(taken));
    let others: BTreeSet<&String> =
        left.iter().map(|taken| &taken.what).filter(|what| **what != budget.what).collect();
    if others.len() >= budget.most as usize {
        return Err(format!("the budget of this playbook is spent: {}", budget.told));
    }
    let (what, incident, issue) = (budget.what.clone(), incident.to_string(), issue.to_string());
    left.push(Taken { what, incident, issue, at_ms: now_ms });
    Ok(Some(Spent { taken: left }))
}

/// What was taken, with what an incident has of it counted from now on: it is about to be used, and may have been taken
/// long before, by an issue of its command that became late.
pub fn renewed(spent: &Spent, budget: &Budget, incident: &str, now_ms: i64) -> Spent {
    let mut taken = spent.taken.clone();
    for own in taken.iter_mut().filter(|taken| is_its(taken, budget, incident)) {
        own.at_ms = own.at_ms.max(now_ms);
    }
    Spent { taken }
}

/// Whether what an incident has of a budget was taken by this issue of its command, and not for an earlier remedy.
pub fn took(spent: &Spent, budget: &Budget, remedy: &Remedy<'_>) -> bool {
    spent.taken.iter().any(|taken| is_its(taken, budget, remedy.incident) && taken.issue == remedy.issue)
}

/// Gives back what an incident has taken for a remedy that does not leave. `None`: it has nothing of it.
pub fn without(spent: &Spent, budget: &Budget, incident: &str) -> Option<Spent> {
    let left: Vec<Taken> =
        spent.taken.iter().filter(|taken| !is_its(taken, budget, incident)).cloned().collect();
    (left.len() < spent.taken.len()).then_some(Spent { taken: left })
}

#[cfg(test)]
mod tests {
    use holdline_proto::incident::{Lane, TrackKey};

    use super::*;

    fn command(entity: &str, group: Option<&str>, direction: Direction) -> Command {
        Command {
            course: Default::default(),
            depth: 0,
            incident: format!("incident of {entity}"),
            partition: 0,
            key: TrackKey { playbook: "p".into(), lane: Lane::Failover, entity: entity.into() },
            group: group.map(str::to_string),
            playbooks: String::new(),
            direction,
            step: 0,
            action: "a".into(),
            undo: None,
            decision: 1,
            decided_ms: 0,
            deadline_ms: 0,
            values: BTreeMap::new(),
            replays: 0,
            approval: None,
        }
    }

    fn guard() -> Guard {
        Guard {
            at_most: Some(AtMost { actions: 2, per: Per::Playbook, within_ms: 1_000 }),
            blast_radius: Some(BlastRadius { share_percent: 50, within_ms: 1_000 }),
        }
    }

    fn by(incident: &str) -> Remedy<'_> {
        Remedy { incident, issue: "its only one" }
    }

    #[test]
    fn only_remedies_take_from_budgets() {
        let sizes = BTreeMap::from([("lisbon".to_string(), 7)]);
        let most = |group, direction| -> Vec<u32> {
            let budgets = budgets(&guard(), &sizes, &command("e", group, direction));
            budgets.iter().map(|budget| budget.most).collect()
        };
        assert_eq!(most(Some("lisbon"), Direction::Remediate), [2, 3]);
        assert_eq!(most(Some("porto"), Direction::Remediate), [2, 1], "its size is not known");
        assert_eq!(most(None, Direction::Remediate), [2, 1]);
        assert_eq!(most(Some("lisbon"), Direction::Revert), [0; 0]);
        assert_eq!(most(Some("lisbon"), Direction::Page), [0; 0]);
    }

    #[test]
    fn a5_a_budget_is_taken_once_per_incident_and_comes_back_after_its_time() {
        let budget = Budget {
            key: Default::default(),
            what: String::new(),
            most: 2,
            within_ms: 1_000,
            while_open: false,
            told: "two a second".into(),
        };
        let mut spent = Spent::default();
        let mut check = |what: &str, incident: &str, now_ms, expected: &str| {
            let budget = Budget { what: what.into(), ..budget.clone() };
            let found = match take(&spent, &budget, &by(incident), now_ms, &BTreeSet::new()) {
                Ok(Some(next)) => {
                    spent = next;
                    "taken"
                }
                Ok(None) => "had",
                Err(why) => {
                    assert!(why.contains("two a second"), "{why}");
                    "spent"
                }
            };
            assert_eq!(found, expected, "{what} by {incident} at {now_ms}");
        };
        check("a", "1", 0, "taken");
        check("a", "1", 5, "had");
        check("b", "2", 10, "taken");
        check("c", "3", 20, "spent");
        check("c", "3", 999, "spent");
        // The same entity once more is no further one, and counts from its last remedy.
        check("a", "4", 999, "taken");
        check("c", "3", 1_000, "spent");
        check("c", "3", 1_010, "taken");
        check("d", "5", 1_998, "spent");
        check("d", "5", 1_999, "taken");
        // Given back, it is there for another; what others have is theirs.
        let budget = Budget { what: "d".into(), ..budget.clone() };
        assert_eq!(without(&spent, &budget, "3"), None);
        let left = without(&spent, &budget, "5").unwrap();
        assert_eq!(left.taken.iter().map(|taken| taken.what.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(take(&left, &budget, &by("6"), 2_000, &BTreeSet::new()).is_ok());
        // What is used later counts from then on, and so is in others' way for longer.
        let (renewed, full) = (renewed(&spent, &budget, "5", 2_500), spent.taken.len());
        let at_ms = |spent: &Spent, of: &str| spent.taken.iter().find(|t| t.incident == of).unwrap().at_ms;
        assert_eq!((renewed.taken.len(), at_ms(&renewed, "5")), (full, 2_500));
        assert!(renewed.taken.iter().all(|taken| taken.incident == "5" || spent.taken.contains(taken)));
        // Only the issue that took it has it to give back.
        let other = Remedy { issue: "another", ..by("5") };
        assert_eq!((took(&spent, &budget, &by("5")), took(&spent, &budget, &other)), (true, false));
    }

    #[test]
    fn a5_what_is_in_failover_counts_for_as_long_as_it_is_and_for_its_time_at_least() {
        let budget = Budget {
            key: Default::default(),
            what: String::new(),
            most: 2,
            within_ms: 1_000,
            while_open: true,
            told: "two at once".into(),
        };
        let mut spent = Spent::default();
        let mut check = |what: &str, incident: &str, now_ms, over: &[&str], expected: Option<&[&str]>| {
            let budget = Budget { what: what.into(), ..budget.clone() };
            let over = over.iter().map(|incident| incident.to_string()).collect();
            if let Ok(Some(next)) = take(&spent, &budget, &by(incident), now_ms, &over) {
                spent = next;
            }
            // Asked again, nothing more is taken: `None` where the budget is spent.
            let has = take(&spent, &budget, &by(incident), now_ms, &over).map(|next| assert_eq!(next, None));
            let counted: Vec<&str> = spent.taken.iter().map(|taken| taken.incident.as_str()).collect();
            assert_eq!(has.ok().map(|()| counted.as_slice()), expected, "{what} by {incident} at {now_ms}");
        };
        check("a", "1", 0, &[], Some(&["1"]));
        check("b", "2", 10, &[], Some(&["1", "2"]));
        // Long past their time, and none of them is over.
        check("c", "3", 90_000, &[], None);
        check("a", "1", 90_000, &[], Some(&["1", "2"]));
        // Over, but not for long enough yet; then one is.
        check("c", "3", 1_009, &["2"], None);
        check("c", "3", 1_010, &["2"], Some(&["1", "3"]));
        // Another incident of the same entity is no further one, and takes nothing away from the first.
        check("a", "4", 90_000, &[], Some(&["1", "3", "4"]));
        check("d", "5", 95_000, &["4"], None);
        check("d", "5", 95_000, &["1", "4"], Some(&["3", "5"]));
        // What is over need not be kept beside what the same entity takes anew.
        check("d", "6", 95_001, &["5"], Some(&["3", "6"]));
    }

    #[test]
    fn an_incident_is_over_when_it_is_shown_as_that_or_is_shown_no_more() {
        let taken = Taken { what: "a".into(), incident: "1".into(), issue: String::new(), at_ms: 5 };
        let check = |phase: Option<Phase>, now_ms, expected| {
            let view = phase.map(|phase| View {
                id: "1".into(),
                partition: 0,
                key: TrackKey { playbook: "p".into(), lane: Lane::Failover, entity: "a".into() },
                subscription: String::new(),
                group: None,
                phase,
                playbooks: String::new(),
                opened_ms: 0,
                last_event_ms: 0,
                consecutive_failures: 0,
                threshold: 1,
                decision: 1,
                held: None,
                awaiting: None,
            });
            assert_eq!(is_over(&taken, view.as_ref(), now_ms), expected, "{phase:?} at {now_ms}");
        };
        check(Some(Phase::Remediating), 6, false);
        check(Some(Phase::Remediating), 2 * OPEN_KEPT_MS, false);
        check(Some(Phase::Resolved), 6, true);
        check(None, 6, false);
        check(None, 4 + OPEN_KEPT_MS, false);
        check(None, 5 + OPEN_KEPT_MS, true);
    }
}
