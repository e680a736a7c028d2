//! Playbooks that set each other off (C4): what an action `emits` is held against what every playbook of the set
//! listens to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Action, Playbook, Subscription};
use crate::source::is_free_part;

/// A playbook's action emits what another one, or the same, listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub from: &'a str,
    pub action: &'a str,
    /// As the action has it.
    pub topic: &'a str,
    pub to: &'a str,
}

/// Which playbook sets off which.
#[derive(Debug, Default)]
pub(super) struct Links<'a>(BTreeMap<&'a str, Vec<Link<'a>>>);

impl<'a> Links<'a> {
    /// `action` and `subscription` find them by their names.
    pub(super) fn of(
        playbooks: &'a BTreeMap<String, Playbook>,
        action: impl Fn(&str) -> Option<&'a Action>,
        subscription: impl Fn(&str) -> Option<&'a Subscription>,
    ) -> Links<'a> {
        let listens = |playbook: &Playbook, topic: &str| {
            let topics = playbook.on.subscriptions.iter().filter_map(|name| subscription(name));
            topics.into_iter().any(|subscription| overlap(&subscription.topic, topic))
        };
        let mut links = Links::default();
        for playbook in playbooks.values() {
            for action in actions(playbook).into_iter().filter_map(&action) {
                for topic in &action.emits {
                    let heard = playbooks.values().filter(|other| listens(other, topic));
                    links.0.entry(&playbook.name).or_default().extend(heard.map(|other| Link {
                        from: &playbook.name,
                        action: &action.name,
                        topic,
                        to: &other.name,
                    }));
                }
            }
        }
        links
    }

    fn from(&self, playbook: &str) -> &[Link<'a>] {
        self.0.get(playbook).map(Vec::as_slice).unwrap_or_default()
    }

    /// The shortest loop through each playbook; one that goes through several is given once.
    pub(super) fn loops(&self) -> Vec<Vec<Link<'a>>> {
        let mut known: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
        let found = self.0.keys().filter_map(|start| self.way_back(start));
        found.filter(|links| known.insert(links.iter().map(|link| link.from).collect())).collect()
    }

    /// The shortest way from a playbook to itself.
    fn way_back(&self, start: &str) -> Option<Vec<Link<'a>>> {
        let mut reached: BTreeMap<&str, Link<'a>> = BTreeMap::new();
        let mut next: VecDeque<Link<'a>> = self.from(start).iter().copied().collect();
        while let Some(link) = next.pop_front() {
            if reached.contains_key(link.to) {
                continue;
            }
            reached.insert(link.to, link);
            if link.to == start {
                let mut way = vec![link];
                while let Some(before) = way.last().filter(|link| link.from != start) {
                    way.push(*reached.get(before.from)?);
                }
                way.reverse();
                return Some(way);
            }
            next.extend(self.from(link.to));
        }
        None
    }

    /// Where there is no loop: the longest ways on which one playbook sets off the next, by where they begin.
    pub(super) fn longest(&self) -> Vec<Vec<Link<'a>>> {
        let mut known = BTreeMap::new();
        self.0.keys().map(|start| self.longest_from(start, &mut known)).collect()
    }

    fn longest_from(&self, start: &'a str, known: &mut BTreeMap<&'a str, Vec<Link<'a>>>) -> Vec<Link<'a>> {
        if let Some(way) = known.get(start) {
            return way.clone();
        }
        let ways = self.from(start).iter().map(|link| {
            let mut way = vec![*link];
            way.extend(self.longest_from(link.to, known));
            way
        });
        let longest = ways.max_by_key(Vec::len).unwrap_or_default();
        known.insert(start, longest.clone());
        longest
    }
}

/// Links in words, one after the other.
pub(super) fn told(links: &[Link<'_>]) -> String {
    let told: Vec<String> = links
        .iter()
        .map(|Link { from, action, topic, to }| {
            format!("{from} does {action}, which emits {topic}, which sets off {to}")
        })
        .collect();
    told.join("; ")
}

/// Every action that a playbook may do.
fn actions(playbook: &Playbook) -> BTreeSet<&str> {
    let lanes = playbook.failover.iter().chain(&playbook.scaling);
    lanes
        .flat_map(|rules| rules.act.iter().chain(&rules.revert.act).chain(&rules.pager))
        .map(String::as_str)
        .collect()
}

/// Whether two topics, each perhaps a template, have a topic in common.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split('.').collect(), other.split('.').collect());
    let fits = |(a, b): (&&str, &&str)| a == b || is_free_part(a) || is_free_part(b);
    one.len() == other.len() && one.iter().zip(&other).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_overlap_where_one_topic_fits_both() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        };
        check("a.b", "a.b", true);
        check("a.b", "a.c", false);
        check("a.{id}", "a.c", true);
        check("a.{id}.x", "a.{other}.x", true);
        check("a.{id}", "{name}.b", true);
        check("a.{id}", "a.b.c", false);
    }
}
