//! Is there room for one more remedy? Budgets of a playbook (`guard`), so that a mistake stays small (E10, A5).

use std::collections::BTreeMap;

use holdline_proto::budget::{Spent, Taken};
use holdline_proto::command::{Command, Direction};

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

/// Such a share of a group's entities is remedied in any such time; its size is that in `holdline.yaml`.
/// `guard.blast_radius`
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
    /// In words.
    pub told: String,
}

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
            told: format!(
                "at most {most} entities of group {group:?} within {} ({share})",
                duration(radius.within_ms)
            ),
        });
    }
    budgets
}

/// Takes one from a budget. `None`: the incident has it already.
///
/// # Errors
/// The budget is spent; says how.
pub fn take(spent: &Spent, budget: &Budget, incident: &str, now_ms: i64) -> Result<Option<Spent>, String> {
    let counts = |taken: &&Taken| taken.at_ms.saturating_add(budget.within_ms) > now_ms;
    let mut left: Vec<Taken> = spent.taken.iter().filter(counts).cloned().collect();
    if left.iter().any(|taken| taken.what == budget.what && taken.incident == incident) {
        return Ok(None);
    }
    // The same entity in another incident is no further one.
    left.retain(|taken| taken.what != budget.what);
    if left.len() >= budget.most as usize {
        return Err(format!("the budget of this playbook is spent: {}", budget.told));
    }
    left.push(Taken { what: budget.what.clone(), incident: incident.into(), at_ms: now_ms });
    Ok(Some(Spent { taken: left }))
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
            told: "two a second".into(),
        };
        let mut spent = Spent::default();
        let mut check = |what: &str, incident: &str, now_ms, expected: &str| {
            let budget = Budget { what: what.into(), ..budget.clone() };
            let found = match take(&spent, &budget, incident, now_ms) {
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
    }
}
