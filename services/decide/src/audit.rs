//! Is an audit trail what it says of itself? A fold over its stored entries, from the broker or from an exported file.
//!
//! What it cannot see: an end that was cut off, or a trail that was written anew, together with what the broker notes of
//! it elsewhere. Whoever keeps the hash of an entry himself sees both ([`Chain::anchor`]).

use std::fmt;

use holdline_proto::audit::{self, KEPT_DAYS, Link, Witness};
use serde::Serialize;

/// An entry may leave so much earlier than its own clock says: servers of a cluster differ by less. Milliseconds.
const CLOCKS_DIFFER_MS: i64 = 60_000;

const KEPT_MS: i64 = KEPT_DAYS as i64 * 86_400_000;

/// Findings that are told in full; the rest is counted.
const FINDINGS_MAX: usize = 100;

/// What the broker says of the trail. Times: Unix milliseconds, broker's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Sequences of the first and the last entry. Of an empty trail the first is not below 1 and beyond the last.
    pub first: u64,
    pub last: u64,
    /// When the stream was made.
    pub made_ms: i64,
    /// When it was read.
    pub read_ms: i64,
    /// What was noted of the newest entry, before the rest was read.
    pub witness: Option<Witness>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where in the stream. The entry that belongs there has the same number.
    pub sequence: u64,
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// What is wrong with a place in the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "wrong", rename_all = "snake_case")]
pub enum Wrong {
    /// The bytes are not those that were sealed.
    Altered,
    /// It is no entry.
    Unreadable { why: String },
    /// The entry there was written for another place.
    Misplaced { number: u64 },
    /// It names another entry as the one before it.
    Unlinked,
    /// There is none, from here up to and including this sequence.
    Missing { until: u64 },
    /// Entries in front of it were taken out before their time.
    FrontGone,
    /// It is not the entry that was noted when it was the newest.
    NotAsNoted,
    /// It follows an entry of a higher sequence, or of the same.
    OutOfOrder,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.sequence;
        match &self.wrong {
            Wrong::Altered => {
                write!(f, "entry {at} (sequence {at}): its bytes were changed after it was written")
            }
            Wrong::Unreadable { why } => write!(f, "sequence {at}: what stands there is no entry: {why}"),
            Wrong::Misplaced { number } => {
                write!(f, "sequence {at}: entry {number} stands there, where entry {at} belongs")
            }
            Wrong::Unlinked => write!(
                f,
                "entry {at} (sequence {at}): it was not written behind the entry that stands before it; one of the \
                 two was replaced, put in, or rewritten"
            ),
            Wrong::Missing { until } if *until == at => write!(f, "entry {at} (sequence {at}) is missing"),
            Wrong::Missing { until } => {
                write!(f, "entries {at} to {until} (sequences {at} to {until}) are missing")
            }
            Wrong::FrontGone => write!(
                f,
                "entry {at} (sequence {at}): entries before it were taken out before they were {KEPT_DAYS} days old"
            ),
            Wrong::NotAsNoted => write!(
                f,
                "entry {at} (sequence {at}): it is not the one that was noted when it was the newest; it was \
                 replaced or rewritten"
            ),
            Wrong::OutOfOrder => write!(f, "entry {at} (sequence {at}): it stands behind a later one"),
        }
    }
}

/// How a trail stands to what was noted of its newest entry, apart from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    AsNoted,
    /// Another entry stands in its place.
    Replaced,
    /// It is not there, and entries before it may be.
    Missing,
    /// It has left at its time, and all before it.
    Aged,
    /// It is not there, nor anything before it, and its time had not come.
    TakenOut,
}

/// Holds the end of a trail against what was noted of it at `noted_ms`: right after that entry was written. `there`: what
/// is stored in its place; `first`: the stream's first sequence, or the next one where it is empty.
pub fn end(witness: &Witness, noted_ms: i64, there: Option<&[u8]>, first: u64, now_ms: i64) -> End {
    match there {
        Some(stored) if audit::hash(stored) == witness.hash => End::AsNoted,
        Some(_) => End::Replaced,
        None if first <= witness.number => End::Missing,
        None if aged(noted_ms, now_ms) => End::Aged,
        None => End::TakenOut,
    }
}

/// Whether what was stored then has left by its age.
fn aged(stored_ms: i64, by_ms: i64) -> bool {
    stored_ms.saturating_add(KEPT_MS) <= by_ms.saturating_add(CLOCKS_DIFFER_MS)
}

/// What a trail came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub whole: bool,
    pub entries: u64,
    /// Sequence of the first entry, and when it was written: what came before can no longer be vouched for. Unix
    /// milliseconds.
    pub first: Option<(u64, i64)>,
    /// Sequence and hash of the last: what to keep elsewhere.
    pub last: Option<(u64, String)>,
    /// Whether an entry with the hash that somebody kept is there, where one was given.
    pub anchored: Option<bool>,
    pub findings: Vec<Finding>,
    /// Findings beyond these.
    pub more: u64,
}

/// A trail, as far as it was looked at.
#[derive(Debug)]
pub struct Chain {
    bounds: Bounds,
    anchor: Option<String>,
    anchored: bool,
    entries: u64,
    first: Option<(u64, i64)>,
    /// Sequence and hash of the entry looked at last.
    last: Option<(u64, String)>,
    findings: Vec<Finding>,
    more: u64,
}

impl Chain {
    pub fn new(bounds: Bounds) -> Chain {
        Chain {
            bounds: Bounds { first: bounds.first.max(1), ..bounds },
            anchor: None,
            anchored: false,
            entries: 0,
            first: None,
            last: None,
            findings: vec![],
            more: 0,
        }
    }

    /// The same, and an entry of it must have this hash, which somebody has kept.
    #[must_use]
    pub fn anchor(self, hash: Option<String>) -> Chain {
        Chain { anchor: hash, ..self }
    }

    /// Looks at the next entry as it is stored.
    pub fn take(&mut self, sequence: u64, stored: &[u8]) {
        self.entries += 1;
        // What is missing in front is judged by its age.
        let due = self.last.as_ref().map_or(sequence, |(before, _)| before + 1);
        if sequence < due {
            self.find(sequence, Wrong::OutOfOrder);
        }
        if sequence > due {
            self.find(due, Wrong::Missing { until: sequence - 1 });
        }
        if !audit::is_sealed(stored) {
            self.find(sequence, Wrong::Altered);
        }
        match audit::link(stored) {
            Ok(link) => self.follow(sequence, sequence == due, &link),
            Err(error) => self.find(sequence, Wrong::Unreadable { why: error.to_string() }),
        }
        let hash = audit::hash(stored);
        let noted = self.bounds.witness.as_ref().filter(|witness| witness.number == sequence);
        if noted.is_some_and(|witness| witness.hash != hash) {
            self.find(sequence, Wrong::NotAsNoted);
        }
        self.anchored |= self.anchor.as_ref() == Some(&hash);
        self.last = Some((sequence, hash));
    }

    /// What an entry says of its place.
    fn follow(&mut self, sequence: u64, is_due: bool, link: &Link) {
        if link.number != sequence {
            self.find(sequence, Wrong::Misplaced { number: link.number });
        }
        let named = link.previous.as_ref().map(|previous| &previous.hash);
        match &self.last {
            // Otherwise another finding has said so.
            Some((_, before)) if is_due && named != Some(before) => self.find(sequence, Wrong::Unlinked),
            Some(_) => {}
            None => self.begin(sequence, link),
        }
    }

    /// The first entry that is there: what stood before it has left by age, or something is wrong.
    fn begin(&mut self, sequence: u64, link: &Link) {
        self.first = Some((sequence, link.at_ms));
        match &link.previous {
            None if sequence == 1 => {}
            Some(_) if sequence == 1 => self.find(sequence, Wrong::Unlinked),
            Some(previous) => {
                // Whoever kept the hash of the last that has left is answered, too.
                self.anchored |= self.anchor.as_ref() == Some(&previous.hash);
                if !aged(previous.stored_ms, self.bounds.read_ms) {
                    self.find(sequence, Wrong::FrontGone);
                }
            }
            // All of them had left when it was written.
            None => {
                if !aged(self.bounds.made_ms, link.at_ms) {
                    self.find(sequence, Wrong::FrontGone);
                }
            }
        }
    }

    /// What it came to.
    pub fn end(mut self) -> Verdict {
        let due = self.last.as_ref().map_or(self.bounds.first, |(before, _)| before + 1);
        let noted = self.bounds.witness.as_ref().map_or(0, |witness| witness.number);
        let until = self.bounds.last.max(noted);
        if due <= until {
            self.find(due, Wrong::Missing { until });
        }
        let anchored = self.anchor.is_some().then_some(self.anchored);
        Verdict {
            whole: self.findings.is_empty() && anchored != Some(false),
            entries: self.entries,
            first: self.first,
            last: self.last,
            anchored,
            findings: self.findings,
            more: self.more,
        }
    }

    fn find(&mut self, sequence: u64, wrong: Wrong) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { sequence, wrong });
        } else {
            self.more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use holdline_proto::audit::{Act, Deed, Entry, Previous, hash, seal};

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    /// A trail of so many entries, one a day, from a number on; the first names what stood before it.
    fn trail(from: u64, entries: u64) -> Vec<(u64, Vec<u8>)> {
        let mut previous = (from > 1).then(|| Previous { hash: hash(b"gone"), stored_ms: 0 });
        let mut trail = vec![];
        for number in from..from + entries {
            let at_ms = i64::try_from(number - from + 1).unwrap() * DAY_MS;
            let deed =
                Deed::new("ada", Act::Pause, format!("entity gw-{number}"), "maintenance").with("for", "30m");
            let stored = seal(&Entry { number, at_ms, previous, id: number.to_string(), deed });
            previous = Some(Previous { hash: hash(&stored), stored_ms: at_ms });
            trail.push((number, stored));
        }
        trail
    }

    /// As the stream says while nobody has touched it.
    fn bounds(trail: &[(u64, Vec<u8>)]) -> Bounds {
        let (first, last) = (trail.first().map_or(1, |e| e.0), trail.last().map_or(0, |e| e.0));
        Bounds { first, last, made_ms: 0, read_ms: 10 * DAY_MS, witness: None }
    }

    fn verdict(bounds: Bounds, trail: &[(u64, Vec<u8>)]) -> Verdict {
        let mut chain = Chain::new(bounds);
        for (sequence, stored) in trail {
            chain.take(*sequence, stored);
        }
        chain.end()
    }

    fn check(what: &str, bounds: Bounds, trail: &[(u64, Vec<u8>)], expected: &[(u64, Wrong)]) {
        let verdict = verdict(bounds, trail);
        let found: Vec<_> = verdict.findings.into_iter().map(|f| (f.sequence, f.wrong)).collect();
        assert_eq!(found, expected, "{what}");
        assert_eq!(verdict.whole, expected.is_empty(), "{what}");
    }

    /// Entries at other sequences than they were written for.
    fn renumbered(entries: Vec<(u64, Vec<u8>)>) -> Vec<(u64, Vec<u8>)> {
        (1..).zip(entries.into_iter().map(|(_, stored)| stored)).collect()
    }

    #[test]
    fn a_trail_that_nobody_touched_is_whole() {
        for entries in 0..4 {
            let trail = trail(1, entries);
            check("untouched", bounds(&trail), &trail, &[]);
            let verdict = verdict(bounds(&trail), &trail);
            assert_eq!(verdict.entries, entries);
            assert_eq!(verdict.last, trail.last().map(|(sequence, stored)| (*sequence, hash(stored))));
        }
        // A new stream of the broker begins at 0.
        check("empty", Bounds { first: 0, last: 0, made_ms: 0, read_ms: 0, witness: None }, &[], &[]);
    }

    #[test]
    fn every_changed_byte_of_every_entry_is_found() {
        let whole = trail(1, 4);
        for entry in 0..whole.len() {
            for at in 0..whole[entry].1.len() {
                for change in [1, 0x80] {
                    let mut changed = whole.clone();
                    changed[entry].1[at] ^= change;
                    let verdict = verdict(bounds(&whole), &changed);
                    let (sequence, _) = whole[entry];
                    let named = verdict.findings.iter().any(|f| f.sequence == sequence);
                    assert!(!verdict.whole && named, "byte {at} of entry {sequence}: {:?}", verdict.findings);
                }
            }
        }
    }

    #[test]
    fn every_entry_that_is_cut_short_or_made_longer_is_found() {
        let whole = trail(1, 3);
        for entry in 0..whole.len() {
            let (sequence, stored) = whole[entry].clone();
            let longer = [stored.clone(), vec![0]].concat();
            let cuts = (0..stored.len()).map(|kept| stored[..kept].to_vec());
            for other in cuts.chain([longer]) {
                let mut changed = whole.clone();
                changed[entry].1 = other;
                let verdict = verdict(bounds(&whole), &changed);
                assert!(verdict.findings.iter().any(|f| f.sequence == sequence), "{sequence}");
            }
        }
    }

    #[test]
    fn what_is_taken_out_swapped_put_in_or_rewritten_is_found() {
        let whole = trail(1, 4);
        let bounds = || bounds(&whole);
        let without = |index: usize| {
            let mut left = whole.clone();
            left.remove(index);
            left
        };
        let shorter = || Bounds { last: 3, ..bounds() };
        // Left as a gap, or hidden by writing all of it anew.
        check("first out", bounds(), &without(0), &[(2, Wrong::FrontGone)]);
        check("one out", bounds(), &without(1), &[(2, Wrong::Missing { until: 2 })]);
        check(
            "two out",
            bounds(),
            &[whole[0].clone(), whole[3].clone()],
            &[(2, Wrong::Missing { until: 3 })],
        );
        check("last out", bounds(), &without(3), &[(4, Wrong::Missing { until: 4 })]);
        check("all out", bounds(), &[], &[(1, Wrong::Missing { until: 4 })]);
        let misplaced = |number| Wrong::Misplaced { number };
        let hidden = [(2, misplaced(3)), (2, Wrong::Unlinked), (3, misplaced(4))];
        check("one out, hidden", shorter(), &renumbered(without(1)), &hidden);
        let front = [(1, misplaced(2)), (1, Wrong::Unlinked), (2, misplaced(3)), (3, misplaced(4))];
        check("front out, hidden", shorter(), &renumbered(without(0)), &front);

        let mut swapped = whole.clone();
        swapped.swap(1, 2);
        let missing = |sequence| (sequence, Wrong::Missing { until: sequence });
        check("swapped lines", bounds(), &swapped, &[missing(2), (2, Wrong::OutOfOrder), missing(3)]);
        let hidden = [
            (2, misplaced(3)),
            (2, Wrong::Unlinked),
            (3, misplaced(2)),
            (3, Wrong::Unlinked),
            (4, Wrong::Unlinked),
        ];
        check("swapped", bounds(), &renumbered(swapped), &hidden);

        // An entry that fits where it is put, and one that was rewritten with a seal of its own: what follows tells.
        let forged = |number: u64, before: &[u8]| {
            let previous = Some(Previous { hash: hash(before), stored_ms: DAY_MS });
            let deed = Deed::new("eve", Act::Resume, "everything", "");
            seal(&Entry { number, at_ms: 2 * DAY_MS, previous, id: "x".into(), deed })
        };
        let mut more = whole.clone();
        more.insert(1, (0, forged(2, &whole[0].1)));
        let hidden = [(3, misplaced(2)), (3, Wrong::Unlinked), (4, misplaced(3)), (5, misplaced(4))];
        check("put in", Bounds { last: 5, ..bounds() }, &renumbered(more), &hidden);
        let mut rewritten = whole.clone();
        rewritten[1].1 = forged(2, &whole[0].1);
        check("rewritten", bounds(), &rewritten, &[(3, Wrong::Unlinked)]);
        let mut twice = whole.clone();
        twice.push(whole[3].clone());
        check("twice", bounds(), &twice, &[(4, Wrong::OutOfOrder)]);
        let mut forged_end = whole.clone();
        forged_end.push((5, forged(5, b"another")));
        check("forged behind", Bounds { last: 5, ..bounds() }, &forged_end, &[(5, Wrong::Unlinked)]);
    }

    #[test]
    fn what_left_by_age_is_accepted_and_what_left_before_is_not() {
        let kept = i64::from(KEPT_DAYS);
        // The entry before these was stored at 0.
        let later = trail(7, 3);
        let at = |day: i64| Bounds { read_ms: day * DAY_MS, ..bounds(&later) };
        check("aged", at(kept), &later, &[]);
        check("too early", at(kept - 1), &later, &[(7, Wrong::FrontGone)]);
        assert_eq!(verdict(at(kept), &later).first, Some((7, DAY_MS)));
        // All had left, and it begins anew.
        let deed = || Deed::new("ada", Act::Push, "a set", "");
        let anew = |day: i64| {
            let stored =
                seal(&Entry { number: 7, at_ms: day * DAY_MS, previous: None, id: "i".into(), deed: deed() });
            vec![(7, stored)]
        };
        check("a silent year", at(kept + 1), &anew(kept), &[(8, Wrong::Missing { until: 9 })]);
        let alone = |day: i64| Bounds { last: 7, ..at(day) };
        check("a silent year", alone(kept + 1), &anew(kept), &[]);
        check("no silent year", alone(kept + 1), &anew(kept - 1), &[(7, Wrong::FrontGone)]);
        check("nothing left", Bounds { first: 10, last: 9, ..at(kept) }, &[], &[]);
    }

    #[test]
    fn a_kept_hash_shows_an_end_that_was_cut_off_and_a_trail_that_was_written_anew() {
        let whole = trail(1, 4);
        let anchored = |entries: &[(u64, Vec<u8>)], anchor: String| {
            let mut chain = Chain::new(bounds(entries)).anchor(Some(anchor));
            entries.iter().for_each(|(sequence, stored)| chain.take(*sequence, stored));
            chain.end()
        };
        for (_, stored) in &whole {
            assert!(anchored(&whole, hash(stored)).whole);
        }
        let cut = anchored(&whole[..3], hash(&whole[3].1));
        assert_eq!((cut.whole, cut.anchored, cut.findings), (false, Some(false), vec![]));
        assert!(verdict(bounds(&whole[..3]), &whole[..3]).whole, "without a hash it cannot be seen");
        assert!(!anchored(&whole, hash(b"another")).whole);
        // The one that was kept has left since.
        let later = trail(7, 2);
        assert_eq!(anchored(&later, hash(b"gone")).anchored, Some(true));
    }

    #[test]
    fn what_was_noted_apart_shows_an_end_that_was_cut_off_and_one_that_was_rewritten() {
        let whole = trail(1, 4);
        let noted = |number: u64, stored: &[u8]| Some(Witness { number, hash: hash(stored) });
        let with = |entries: &[(u64, Vec<u8>)], witness| Bounds { witness, ..bounds(entries) };
        for (number, stored) in &whole {
            check("as noted, or behind", with(&whole, noted(*number, stored)), &whole, &[]);
        }
        let witness = || noted(4, &whole[3].1);
        for kept in 0..4u64 {
            let left = &whole[..usize::try_from(kept).unwrap()];
            check("cut off", with(left, witness()), left, &[(kept + 1, Wrong::Missing { until: 4 })]);
        }
        check("rewritten", with(&whole, noted(4, b"another")), &whole, &[(4, Wrong::NotAsNoted)]);
        let later = trail(7, 2);
        check("long gone", Bounds { read_ms: 366 * DAY_MS, ..with(&later, witness()) }, &later, &[]);
    }

    #[test]
    fn what_was_taken_out_is_told_from_what_has_left_at_its_time() {
        let kept = i64::from(KEPT_DAYS);
        let witness = Witness { number: 4, hash: hash(b"fourth") };
        let check = |there: Option<&[u8]>, first, day: i64, expected| {
            assert_eq!(
                end(&witness, DAY_MS, there, first, day * DAY_MS),
                expected,
                "{there:?} {first} {day}"
            );
        };
        check(Some(b"fourth"), 1, 2, End::AsNoted);
        check(Some(b"another"), 1, 2, End::Replaced);
        check(None, 1, 2, End::Missing);
        check(None, 4, 400, End::Missing);
        // All of it is gone: on the day after, a day too soon, and in time.
        check(None, 5, 2, End::TakenOut);
        check(None, 5, kept, End::TakenOut);
        check(None, 5, kept + 1, End::Aged);
        check(None, 9, kept, End::TakenOut);
    }

    #[test]
    fn findings_are_bounded() {
        let nonsense: Vec<_> = (1..=150).map(|sequence| (sequence, b"nonsense".to_vec())).collect();
        let verdict = verdict(bounds(&nonsense), &nonsense);
        assert_eq!((verdict.findings.len(), verdict.more), (FINDINGS_MAX, 200));
    }
}
