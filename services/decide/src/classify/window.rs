//! The dedup window: which acceptance claimed an event id (T2).

use std::collections::{BTreeMap, HashMap, VecDeque};

use holdline_proto::event::Origin;
use holdline_proto::signal::Claim;
use sha2::{Digest, Sha256};

/// Identity of an event: the first 16 bytes of SHA-256 over topic and id.
pub(super) type EventKey = [u8; 16];

/// Makes the key of an event id. The topic belongs to it, so that two sources that count from one do not
/// swallow each other's events, while the same event through two subscriptions counts once.
pub fn event_key(topic: &str, event_id: &str) -> EventKey {
    let mut hasher = Sha256::new();
    hasher.update((topic.len() as u64).to_be_bytes());
    hasher.update(topic.as_bytes());
    hasher.update(event_id.as_bytes());
    let mut key = EventKey::default();
    for (to, from) in key.iter_mut().zip(hasher.finalize()) {
        *to = from;
    }
    key
}

/// Who had the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody in the window: it is claimed now.
    Now,
    /// This acceptance.
    By(Origin),
}

/// The windows of a partition: the one that holds for all, and one more for each length that some source needs
/// because it repeats for longer. Each has its own bound on ids, so that many events of one source do not push
/// out what another may still repeat. An id is taken when it is in any of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    ids_max: usize,
    usual: Window,
    /// By length. As many as there are kinds of sources with a length of their own.
    longer: BTreeMap<i64, Window>,
}

impl Windows {
    pub fn new(window_ms: i64, ids_max: usize) -> Windows {
        Windows { ids_max, usual: Window::new(window_ms, ids_max), longer: BTreeMap::new() }
    }

    /// How long an id is remembered whose source may repeat it for so long; 0: as all are.
    pub fn needed_ms(&self, repeats_for_ms: Option<i64>) -> i64 {
        repeats_for_ms.filter(|ms| *ms > self.usual.window_ms).unwrap_or(0)
    }

    /// Claims an id for an acceptance, unless it is taken. `needed_ms`: see [`Windows::needed_ms`].
    pub fn claim(&mut self, key: &EventKey, origin: Origin, now_ms: i64, needed_ms: i64) -> Claimed {
        let holder = |window: &mut Window| window.holder(key, now_ms);
        match holder(&mut self.usual).or_else(|| self.longer.values_mut().find_map(holder)) {
            Some(earlier) => Claimed::By(earlier),
            None => self.of(needed_ms).claim(key, origin, now_ms),
        }
    }

    /// Takes over a claim of a committed record.
    pub fn restore(&mut self, claim: &Claim) {
        self.of(claim.window_ms).restore(claim);
    }

    /// The claims since the last record are in this one.
    pub fn record(&mut self, sequence: u64, at_ms: i64) {
        self.usual.record(sequence, at_ms);
        self.longer.values_mut().for_each(|window| window.record(sequence, at_ms));
    }

    /// Every window can be folded from the records after this one.
    pub fn base(&self) -> u64 {
        let longer = self.longer.values().map(Window::base);
        longer.fold(self.usual.base(), u64::min)
    }

    fn of(&mut self, needed_ms: i64) -> &mut Window {
        if needed_ms == 0 {
            return &mut self.usual;
        }
        let (usual, ids_max) = (&self.usual, self.ids_max);
        self.longer.entry(needed_ms).or_insert_with(|| usual.of_length(needed_ms, ids_max))
    }
}

/// Claims of the last while, oldest first to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    window_ms: i64,
    ids_max: usize,
    claims: HashMap<EventKey, Origin>,
    /// Claims in the order of their making, by the record that holds them.
    records: VecDeque<Recorded>,
    /// Claims since the last record.
    current: Vec<EventKey>,
    last_record: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Recorded {
    sequence: u64,
    at_ms: i64,
    keys: Vec<EventKey>,
}

impl Window {
    pub fn new(window_ms: i64, ids_max: usize) -> Window {
        Window {
            window_ms,
            ids_max,
            claims: HashMap::new(),
            records: VecDeque::new(),
            current: vec![],
            last_record: 0,
        }
    }

    /// An empty one of another length that begins where this one has got to.
    fn of_length(&self, window_ms: i64, ids_max: usize) -> Window {
        let begun = self.records.back().map(|last| Recorded { keys: vec![], ..*last });
        Window {
            records: begun.into_iter().collect(),
            last_record: self.last_record,
            ..Window::new(window_ms, ids_max)
        }
    }

    /// Who has an id, if somebody still does.
    fn holder(&mut self, key: &EventKey, now_ms: i64) -> Option<Origin> {
        self.expire(now_ms);
        self.claims.get(key).copied()
    }

    /// Claims an id for an acceptance, unless it is taken.
    pub fn claim(&mut self, key: &EventKey, origin: Origin, now_ms: i64) -> Claimed {
        if let Some(earlier) = self.holder(key, now_ms) {
            return Claimed::By(earlier);
        }
        self.claims.insert(*key, origin);
        self.current.push(*key);
        Claimed::Now
    }

    /// Takes over a claim of a committed record.
    pub fn restore(&mut self, claim: &Claim) {
        let mut key = EventKey::default();
        for (to, from) in key.iter_mut().zip(&claim.id) {
            *to = *from;
        }
        if self.claims.insert(key, claim.origin).is_none()
            && let Some(last) = self.records.back_mut()
        {
            last.keys.push(key);
        }
    }

    /// The claims since the last record are in this one.
    pub fn record(&mut self, sequence: u64, at_ms: i64) {
        self.last_record = sequence;
        // One that claims nothing need not be remembered once there is a later one: ticks and duplicates are as
        // many as there are, claims are bounded.
        self.records.pop_back_if(|last| last.keys.is_empty());
        let keys = std::mem::take(&mut self.current);
        self.records.push_back(Recorded { sequence, at_ms, keys });
        self.expire(at_ms);
    }

    /// The whole window can be folded from the records after this one.
    pub fn base(&self) -> u64 {
        self.records.front().map_or(self.last_record, |oldest| oldest.sequence.saturating_sub(1))
    }

    /// Ids that the window holds.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    fn expire(&mut self, now_ms: i64) {
        while let Some(oldest) = self.records.front() {
            let old = now_ms.saturating_sub(oldest.at_ms) > self.window_ms;
            if !old && self.claims.len() <= self.ids_max {
                return;
            }
            for key in &oldest.keys {
                self.claims.remove(key);
            }
            self.records.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_the_window_remembers_who_claimed() {
        let origin = |sequence| Origin { sequence, index: 0 };
        let mut window = Window::new(1_000, 100);
        let (a, b) = (event_key("t", "a"), event_key("t", "b"));
        assert_ne!(a, event_key("ta", ""), "topic and id are told apart");
        assert_eq!(window.claim(&a, origin(1), 0), Claimed::Now);
        assert_eq!(window.claim(&a, origin(1), 0), Claimed::By(origin(1)), "the same acceptance is finished");
        assert_eq!(window.claim(&a, origin(2), 0), Claimed::By(origin(1)), "another is a duplicate");
        window.record(10, 0);
        assert_eq!(window.base(), 9);
        assert_eq!(window.claim(&b, origin(3), 900), Claimed::Now);
        window.record(11, 900);
        assert_eq!(window.claim(&a, origin(4), 1_000), Claimed::By(origin(1)), "still inside");
        assert_eq!(window.claim(&a, origin(4), 1_001), Claimed::Now, "the window has passed");
        assert_eq!(window.base(), 10);
    }

    #[test]
    fn t2_a_source_that_repeats_for_longer_is_remembered_for_longer() {
        let origin = |sequence| Origin { sequence, index: 0 };
        let (a, b, c) = (event_key("t", "a"), event_key("t", "b"), event_key("t", "c"));
        let mut windows = Windows::new(1_000, 2);
        assert_eq!(windows.needed_ms(Some(500)), 0);
        let needed = windows.needed_ms(Some(5_000));
        windows.record(9, 0);
        assert_eq!(windows.claim(&a, origin(1), 0, needed), Claimed::Now);
        assert_eq!(windows.claim(&b, origin(1), 0, 0), Claimed::Now);
        // Whichever way it comes a second time.
        assert_eq!(windows.claim(&a, origin(2), 0, 0), Claimed::By(origin(1)));
        assert_eq!(windows.claim(&b, origin(2), 0, needed), Claimed::By(origin(1)));
        windows.record(10, 0);
        assert_eq!(windows.base(), 9);
        // A new owner folds the same.
        let mut folded = Windows::new(1_000, 2);
        folded.record(9, 0);
        folded.record(10, 0);
        for (key, window_ms) in [(a, needed), (b, 0)] {
            folded.restore(&Claim { id: key.to_vec(), origin: origin(1), window_ms });
        }
        assert_eq!(folded, windows);
        windows.record(11, 1_001);
        assert_eq!(windows.base(), 9, "the longer window still needs the tenth");
        assert_eq!(windows.claim(&b, origin(3), 1_001, 0), Claimed::Now, "the usual window has passed");
        assert_eq!(windows.claim(&a, origin(3), 5_000, 0), Claimed::By(origin(1)), "still inside");
        assert_eq!(windows.claim(&a, origin(3), 5_001, needed), Claimed::Now);
        windows.record(12, 5_001);
        assert_eq!(windows.base(), 11);
        // Many ids of one kind push out none of the other.
        for n in 13..20 {
            windows.claim(&event_key("t", &n.to_string()), origin(n), 5_001, 0);
            windows.record(n, 5_001);
        }
        assert_eq!(windows.claim(&a, origin(30), 5_001, 0), Claimed::By(origin(3)));
        assert_eq!(windows.claim(&c, origin(30), 5_001, 0), Claimed::Now);
    }

    #[test]
    fn the_window_is_bounded_and_the_oldest_go_first() {
        let mut window = Window::new(i64::MAX, 2);
        for n in 1..=5u64 {
            window.claim(&event_key("t", &n.to_string()), Origin { sequence: n, index: 0 }, 0);
            window.record(n, 0);
        }
        assert_eq!(window.len(), 2);
        assert_eq!(window.base(), 3);
        // Records that claim nothing take no room, however many there are.
        for n in 6..1_000u64 {
            window.record(n, 0);
        }
        assert_eq!((window.records.len(), window.base()), (3, 3));
        window.claim(&event_key("t", "new"), Origin { sequence: 1_000, index: 0 }, 0);
        window.record(1_000, 0);
        assert_eq!((window.records.len(), window.base()), (2, 4));
    }
}
