//! A change that is in force: who relies on it, who may have made it, and what that says to the next who wants it.

use std::collections::BTreeSet;

use holdline_proto::wire::Wire;
use serde::{Deserialize, Serialize};

use super::change::Kept;
use super::proof::LOOK_AFTER_MS;

/// A change that is in force, and who relies on it: several entities may want the same of one object, such as the
/// emergency group of all trunks of a site. It is made once, and undone when the last of them is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InForce {
    pub kept: Kept,
    /// Remedies (incident and step) that were carried out by it and will be undone.
    pub relying: BTreeSet<String>,
    /// Remedies of which a call may have led to it, and that is not known.
    #[serde(default)]
    pub begun: BTreeSet<String>,
    /// Nobody relies on it any more, and it is not known to be undone yet.
    #[serde(default)]
    pub owed: bool,
    /// When it was undone last, if nobody has wanted it since and it is not seen to be undone. Unix milliseconds.
    #[serde(default)]
    pub undone_ms: Option<i64>,
}

impl Wire for InForce {
    const KIND: &'static str = "pre-image";
}

/// What is known of a change before it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known<'a> {
    Nothing,
    /// It may stand already, by a call of ours before which this was there.
    MayStand(&'a Kept),
    /// Nobody relies on it any more, and it was not undone: it may stand still, unless a person has seen to that.
    Owed(&'a Kept),
    /// It was undone, which may not show yet: this is what was put back.
    Undone(&'a Kept),
}

/// Whether a change is one that another must not meddle with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    No,
    /// It is in force, or may be, or its undo was given up.
    Yes,
    /// It was undone, which may not have taken effect.
    Passing,
}

/// Remedies of one change that may be begun and not known to be through. Beyond: the next is refused, and people are told.
pub const BEGUN_MAX: usize = 1_000;

/// An undo whose proof is told by nobody is taken for proven after this: a proof may take two minutes, and wait for its
/// turn twice for a quarter of an hour.
const UNPROVEN_MS_MAX: i64 = 3_600_000;

impl InForce {
    /// Whether what was there before is still to be put back by somebody.
    pub fn is_live(&self) -> bool {
        self.owed || !self.relying.is_empty()
    }

    /// Whether it has to be left alone.
    pub fn stands(&self, now_ms: i64) -> Stands {
        match self.undone_ms {
            _ if self.is_live() || !self.begun.is_empty() => Stands::Yes,
            Some(undone_ms) if is_open(undone_ms, now_ms) => Stands::Passing,
            Some(_) | None => Stands::No,
        }
    }

    /// What a remedy goes by. `perhaps_done`: a call of its own may have led to the change.
    pub fn known(&self, remedy: &str, perhaps_done: bool, now_ms: i64) -> Known<'_> {
        let by_others = self.begun.iter().any(|other| other != remedy);
        match self.undone_ms {
            // What was kept was kept before the call.
            _ if self.kept.wrote.is_empty() => Known::Nothing,
            _ if perhaps_done || by_others || !self.relying.is_empty() => Known::MayStand(&self.kept),
            _ if self.owed => Known::Owed(&self.kept),
            Some(undone_ms) if is_open(undone_ms, now_ms) => Known::Undone(&self.kept),
            Some(_) | None => Known::Nothing,
        }
    }

    /// The trouble of a remedy is over, whatever comes of undoing it: what it needed is owed, unless others need it.
    /// `perhaps_undone`: an undo of it may have begun already.
    #[must_use]
    pub fn without(mut self, remedy: &str, perhaps_undone: bool) -> InForce {
        let needed = self.relying.remove(remedy) | self.begun.remove(remedy);
        self.owed = self.relying.is_empty() && (self.owed || needed || perhaps_undone);
        self
    }

    /// It is about to be brought about by a remedy.
    #[must_use]
    pub fn beginning(mut self, remedy: &str, kept: Kept) -> InForce {
        self.begun.insert(remedy.into());
        InForce { kept, ..self }
    }

    /// It is certain that no call of this remedy has led to it.
    #[must_use]
    pub fn not_begun(mut self, remedy: &str) -> InForce {
        self.begun.remove(remedy);
        self
    }

    /// It has been brought about by a remedy, or stood already.
    #[must_use]
    pub fn carried(mut self, remedy: &str, kept: Kept) -> InForce {
        self.begun.remove(remedy);
        self.relying.insert(remedy.into());
        InForce { kept, owed: false, undone_ms: None, ..self }
    }

    /// It is undone: nobody has anything to put back.
    #[must_use]
    pub fn undone(self, now_ms: i64) -> InForce {
        InForce { begun: BTreeSet::new(), owed: false, undone_ms: Some(now_ms), ..self }
    }

    /// Whether it was undone later than by the undo that was reported carried at `acted_ms`. Unix milliseconds.
    pub fn is_undone_since(&self, acted_ms: i64) -> bool {
        self.undone_ms.is_some_and(|ms| ms > acted_ms.saturating_add(LOOK_AFTER_MS))
    }

    /// The undo that was reported carried at `acted_ms` is seen to have taken effect: what is shown is what is there.
    #[must_use]
    pub fn proven(self, acted_ms: i64) -> InForce {
        let undone_ms = self.undone_ms.filter(|_| self.is_undone_since(acted_ms));
        InForce { undone_ms, ..self }
    }

    /// It was undone, and that is not seen: what was there before is to be put back still.
    #[must_use]
    pub fn not_undone(self) -> InForce {
        InForce { owed: true, undone_ms: None, ..self }
    }
}

/// Whether the proof of an undo may still come.
fn is_open(undone_ms: i64, now_ms: i64) -> bool {
    now_ms < undone_ms.saturating_add(UNPROVEN_MS_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::change::Fields;
    use super::*;

    #[test]
    fn e2_a_change_is_put_back_when_the_last_who_needs_it_is_over() {
        let kept = Kept::default;
        let both = InForce::default().beginning("a", kept()).carried("a", kept()).carried("b", kept());
        let first = both.clone().without("a", false);
        assert!((first.is_live(), first.owed) == (true, false), "b needs it");
        let last = first.clone().without("b", false);
        assert!(last.owed, "nobody needs it");
        // Until that is known, it is owed; whoever comes meanwhile goes on with what was there before.
        let next = last.clone().carried("c", kept());
        assert!((next.owed, next.clone().without("a", false).owed) == (false, false), "c needs it");
        assert!(!last.undone(0).is_live());
        // A call that may have led to it has to be undone as well, and so has an undo that may have failed half-way.
        assert!(InForce::default().beginning("a", kept()).without("a", false).owed);
        assert!(InForce::default().without("a", true).owed);
        assert!(!InForce::default().without("a", false).is_live());
        // Who has only begun keeps nobody else from undoing it.
        assert!(InForce::default().carried("a", kept()).beginning("b", kept()).without("a", false).owed);
    }

    #[test]
    fn e2_what_another_has_begun_may_stand_and_what_was_undone_may_still_show() {
        let enabled = |is: bool| Fields::from_iter([("enabled".to_string(), json!(is))]);
        let kept = Kept { before: enabled(false), wrote: enabled(true), ..Kept::default() };
        let check = |what: &str, known: InForce, remedy, perhaps_done, now_ms, expected: Known<'_>| {
            assert_eq!(known.known(remedy, perhaps_done, now_ms), expected, "{what}");
        };
        let begun = InForce::default().beginning("a", kept.clone());
        check("another's call may have led to it", begun.clone(), "b", false, 0, Known::MayStand(&kept));
        check("its own has not", begun.clone(), "a", false, 0, Known::Nothing);
        check("its own may have", begun.clone(), "a", true, 0, Known::MayStand(&kept));
        check("another's certainly has not", begun.clone().not_begun("a"), "b", false, 0, Known::Nothing);
        let undone = begun.carried("a", kept.clone()).without("a", false).undone(1_000);
        check("not proven yet", undone.clone(), "b", false, 3_600_999, Known::Undone(&kept));
        check("nobody has told", undone.clone(), "b", false, 3_601_000, Known::Nothing);
        check("proven", undone.clone().proven(2_000), "b", false, 2_001, Known::Nothing);
        check("undone again since", undone.clone().proven(-1), "b", false, 2_001, Known::Undone(&kept));
        let tried = undone.clone().beginning("b", kept.clone()).not_begun("b");
        check("a call that did not leave changes nothing", tried, "b", false, 2_000, Known::Undone(&kept));
        let owed = InForce::default().carried("a", kept.clone()).without("a", true);
        check("its undo was given up", owed, "b", false, 0, Known::Owed(&kept));
        check("nothing was kept", InForce::default(), "b", true, 0, Known::Nothing);
        check("wanted again", undone.carried("b", kept.clone()), "c", false, 2_000, Known::MayStand(&kept));
    }

    #[test]
    fn e2_what_is_in_force_is_left_alone_until_its_undo_has_taken_effect() {
        let check = |what: &str, known: InForce, now_ms, expected: Stands| {
            assert_eq!(known.stands(now_ms), expected, "{what}");
        };
        let kept = Kept::default;
        let begun = InForce::default().beginning("a", kept());
        check("nobody has wanted it", InForce::default(), 0, Stands::No);
        check("a call may have led to it", begun.clone(), 0, Stands::Yes);
        check("none has", begun.clone().not_begun("a"), 0, Stands::No);
        let carried = begun.carried("a", kept());
        check("somebody relies on it", carried.clone(), 0, Stands::Yes);
        check("it is owed", carried.clone().without("a", false), 0, Stands::Yes);
        let undone = carried.without("a", false).undone(1_000);
        check("not proven yet", undone.clone(), 3_600_999, Stands::Passing);
        check("proven", undone.clone().proven(2_000), 2_001, Stands::No);
        check("nobody has told", undone, 3_601_000, Stands::No);
    }
}
