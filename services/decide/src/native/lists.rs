//! Which lists of members of one queue changes of ours are about. Two that share members without being the same cannot
//! both be in force: undoing one would take from the other what it needs.

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::wire::Wire;
use serde::{Deserialize, Serialize};

use super::change::Change;

/// Lists of one queue that are remembered. Beyond, those of which nothing is in force go; else the next is refused.
pub const LISTS_MAX: usize = 64;

/// The lists, by the identities of their changes. That one is in here says that it may be in force, not that it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lists(BTreeMap<String, BTreeSet<String>>);

impl Wire for Lists {
    const KIND: &'static str = "lists";
}

impl Lists {
    /// The changes that have to be out of force before this one can be made.
    pub fn in_the_way(&self, change: &Change) -> Vec<String> {
        let Some((identity, ids)) = list(change) else { return vec![] };
        let no_room = self.0.len() >= LISTS_MAX && !self.0.contains_key(&identity);
        let shares = |other: &BTreeSet<String>| !other.is_disjoint(&ids);
        let others = self.0.iter().filter(|(other, _)| **other != identity);
        others.filter(|(_, ids)| no_room || shares(ids)).map(|(other, _)| other.clone()).collect()
    }

    /// Whether another change is about some of the same members, rather than in the way for want of room.
    pub fn shares(&self, change: &Change, other: &str) -> bool {
        let of_other = self.0.get(other);
        list(change).zip(of_other).is_some_and(|((_, ids), other)| !other.is_disjoint(&ids))
    }

    /// With this one; `None`: there is no room.
    #[must_use]
    pub fn with(mut self, change: &Change) -> Option<Lists> {
        if let Some((identity, ids)) = list(change) {
            self.0.insert(identity, ids);
        }
        (self.0.len() <= LISTS_MAX).then_some(self)
    }

    /// Without one of which nothing is in force.
    #[must_use]
    pub fn without(mut self, other: &str) -> Lists {
        self.0.remove(other);
        self
    }
}

/// The list that a change is about, under its identity.
fn list(change: &Change) -> Option<(String, BTreeSet<String>)> {
    match change {
        Change::Members(members) => Some((change.identity()?, members.ids.iter().cloned().collect())),
        Change::Object(_) | Change::Switch(_) | Change::Launch(_) => None,
    }
}

/// Whether two changes of members of one queue share some without being the same.
pub fn collide(one: &Change, other: &Change) -> bool {
    one.object() == other.object()
        && Lists::default().with(one).is_some_and(|lists| !lists.in_the_way(other).is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::change::Members;
    use super::*;

    fn change(ids: &[&str], joined: bool) -> Change {
        let ids = ids.iter().map(ToString::to_string).collect();
        Change::Members(Members { path: "/q/members".into(), ids, joined })
    }

    #[test]
    fn lists_that_share_members_and_are_not_the_same_are_in_the_way() {
        let check = |one: &[&str], other: &[&str], joined: bool, expected: bool| {
            let (one, other) = (change(one, false), change(other, joined));
            assert_eq!(collide(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(collide(&other, &one), expected, "{other:?} {one:?}");
        };
        check(&["a", "b"], &["b", "c"], false, true);
        check(&["a", "b"], &["b", "a"], false, false);
        check(&["a", "b"], &["a", "b"], true, true);
        check(&["a", "b"], &["a"], false, true);
        check(&["a", "b"], &["c", "d"], false, false);
        let Change::Members(members) = change(&["b", "c"], false) else { panic!("members") };
        let elsewhere = Change::Members(Members { path: "/other/members".into(), ..members });
        assert!(!collide(&change(&["a", "b"], false), &elsewhere), "another queue's");
    }

    #[test]
    fn there_is_room_for_so_many_and_what_is_out_of_force_makes_room() {
        let one = |n: usize| change(&[&format!("m{n}")], false);
        let full = (0..LISTS_MAX).try_fold(Lists::default(), |lists, n| lists.with(&one(n))).unwrap();
        assert!(full.in_the_way(&one(0)).is_empty(), "it is among them");
        let in_the_way = full.in_the_way(&one(LISTS_MAX));
        assert_eq!(in_the_way.len(), LISTS_MAX, "whichever goes");
        assert!(in_the_way.iter().all(|other| !full.shares(&one(LISTS_MAX), other)));
        assert_eq!(full.clone().with(&one(LISTS_MAX)), None);
        assert!(full.without(&in_the_way[0]).with(&one(LISTS_MAX)).is_some());
    }
}
