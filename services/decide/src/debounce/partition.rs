//! The fold over one partition's inputs: where a signal becomes an incident.

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::approval::Ruled;
use holdline_proto::command::Command;
use holdline_proto::incident::{Incident, Lane, Phase, Track, TrackKey, View};
use holdline_proto::journal::{Alive, Decided, Decision, Disposed, Disposition, Effect, Gap, WakeUp};
use holdline_proto::outcome::Outcome;
use holdline_proto::signal::{Classified, Health, Said, Signal};

use super::track::{Machine, Verdict, fresh, is_idle, view};
use super::{PROOF_EVERY_MS, Rules};
use crate::playbook::Set;

/// An entity that was quiet for this long, with nothing under way, is forgotten: as far back as INPUTS
/// reaches. Milliseconds.
const FORGET_AFTER_MS: i64 = 30 * 24 * 60 * 60_000;

/// Tracks of one partition. Beyond, those with nothing under way are forgotten as the snapshot comes by.
const TRACKS_MAX: usize = 250_000;

/// What the debouncer decides on.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    Classified(&'a Classified),
    Outcome(&'a Outcome),
    Fired(&'a WakeUp),
    /// A command that comes back from the dead letters.
    Retried(&'a Command),
    /// People have decided on what waits for them.
    Ruled(&'a Ruled),
}

/// Finds the set of playbooks that an input or an open incident names. The shell makes sure that it is there.
pub trait Rulebook {
    fn set(&self, hash: &str) -> Option<&Set>;
}

/// By which set of playbooks a track is judged.
#[derive(Debug, Clone, Copy)]
enum Judged<'a> {
    /// That of its open incident, else of its oldest closing one.
    AsItBegan,
    /// That of its open incident; a new one goes by this.
    NewBy(&'a str),
    /// This one, whatever is open.
    By(&'a str),
}

/// What a run of inputs led to.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub decisions: Vec<Decision>,
    pub disposed: Vec<Disposed>,
    pub effects: Vec<Effect>,
    pub changed: BTreeSet<TrackKey>,
    pub views: BTreeMap<String, View>,
}

/// Everything known in one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    number: u16,
    tracks: BTreeMap<TrackKey, Track>,
    now_ms: i64,
    watermark_ms: i64,
    alive: BTreeMap<String, Alive>,
    /// Tracks whose wake-up fired before the watermark had passed it. Derived from the tracks.
    waiting: BTreeSet<TrackKey>,
}

impl Partition {
    pub fn new(number: u16) -> Partition {
        Partition {
            number,
            tracks: BTreeMap::new(),
            now_ms: 0,
            watermark_ms: 0,
            alive: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    pub fn tracks(&self) -> &BTreeMap<TrackKey, Track> {
        &self.tracks
    }

    /// Hashes of the playbook sets that open incidents are judged by.
    pub fn sets(&self) -> BTreeSet<&str> {
        let incidents = self.tracks.values().flat_map(|track| track.open.iter().chain(&track.closing));
        incidents.map(|incident| incident.playbooks.as_str()).collect()
    }

    /// Decides on one input. `published_ms` is the broker's timestamp of its message; partition time is the
    /// greatest one seen.
    pub fn step(
        &mut self,
        rulebook: &impl Rulebook,
        sequence: u64,
        published_ms: i64,
        input: Input<'_>,
        out: &mut Step,
    ) {
        self.now_ms = self.now_ms.max(published_ms);
        match input {
            Input::Classified(classified) => self.classified(rulebook, sequence, classified, out),
            Input::Outcome(outcome) => {
                self.at(rulebook, &outcome.key, Judged::AsItBegan, sequence, out, |machine, _| {
                    machine.outcome(outcome)
                });
            }
            Input::Retried(command) => {
                let by = Judged::By(&command.playbooks);
                self.at(rulebook, &command.key, by, sequence, out, |machine, _| machine.retried(command));
            }
            Input::Ruled(ruled) => {
                self.at(rulebook, &ruled.key, Judged::AsItBegan, sequence, out, |machine, _| {
                    machine.ruled(ruled)
                });
            }
            Input::Fired(wake_up) => {
                self.at(rulebook, &wake_up.key, Judged::AsItBegan, sequence, out, |machine, alive| {
                    machine.fired(wake_up, alive)
                });
            }
        }
    }

    fn classified(
        &mut self,
        rulebook: &impl Rulebook,
        sequence: u64,
        classified: &Classified,
        out: &mut Step,
    ) {
        self.heard(&classified.heard);
        // First: what is listened for stands in the state already, and a signal of this record may end its incident.
        for said in &classified.said {
            self.said(rulebook, sequence, said, out);
        }
        let mut signals = classified.signals.iter().peekable();
        while let Some(first) = signals.next() {
            let mut verdicts = self.signal(rulebook, sequence, first, &classified.playbooks, out);
            // The signals of one acceptance follow each other; it has one disposition.
            while let Some(next) = signals.next_if(|next| next.origin == first.origin) {
                verdicts.extend(self.signal(rulebook, sequence, next, &classified.playbooks, out));
            }
            out.disposed.push(Disposed {
                origin: first.origin,
                accept_id: first.accept_id.clone(),
                event_id: first.event_id.clone(),
                disposition: dispose(verdicts),
            });
        }
        // Only now: a wake-up must not overtake the events of this very frame.
        if classified.watermark_ms > self.watermark_ms {
            self.watermark_ms = classified.watermark_ms;
            for key in self.waiting.clone() {
                self.at(rulebook, &key, Judged::AsItBegan, sequence, out, |machine, alive| {
                    machine.due(alive)
                });
            }
        }
    }

    fn heard(&mut self, heard: &[(String, i64)]) {
        for (subscription, at_ms) in heard {
            let fresh = Alive {
                subscription: subscription.clone(),
                since_ms: *at_ms,
                last_ms: *at_ms,
                reports_health: false,
                gap: None,
            };
            let path = self.alive.entry(subscription.clone()).or_insert(fresh);
            prove(path, *at_ms);
        }
        // A subscription that is in no set any more.
        self.alive.retain(|_, path| self.now_ms.saturating_sub(path.last_ms) <= FORGET_AFTER_MS);
    }

    fn signal(
        &mut self,
        rulebook: &impl Rulebook,
        sequence: u64,
        signal: &Signal,
        set: &str,
        out: &mut Step,
    ) -> Vec<Verdict> {
        if signal.health == Health::Healthy
            && let Some(path) = self.alive.get_mut(&signal.subscription)
        {
            path.reports_health = true;
        }
        let mut verdicts = vec![];
        for lane in [Lane::Failover, Lane::Scaling] {
            let key = TrackKey { playbook: signal.playbook.clone(), lane, entity: signal.entity.clone() };
            if !self.tracks.contains_key(&key) {
                if rules(rulebook.set(set), &key).is_none() {
                    continue;
                }
                self.tracks.insert(key.clone(), fresh(key.clone(), self.number, signal));
            }
            // An open incident goes on by the set that it began with.
            self.at(rulebook, &key, Judged::NewBy(set), sequence, out, |machine, _| {
                verdicts.push(machine.event(signal, set));
            });
        }
        verdicts
    }

    /// What an event says of remedies is nothing to an incident that does not wait for it.
    fn said(&mut self, rulebook: &impl Rulebook, sequence: u64, said: &Said, out: &mut Step) {
        let key = TrackKey { playbook: said.playbook.clone(), lane: said.lane, entity: said.entity.clone() };
        let open = self.tracks.get(&key).and_then(|track| track.open.as_ref());
        if open.is_some_and(|incident| incident.probe.is_some()) {
            self.at(rulebook, &key, Judged::AsItBegan, sequence, out, |machine, _| machine.said(said));
        }
    }

    /// Sets the machine to work on a track.
    fn at(
        &mut self,
        rulebook: &impl Rulebook,
        key: &TrackKey,
        judged: Judged<'_>,
        sequence: u64,
        out: &mut Step,
        act: impl FnOnce(&mut Machine<'_>, Option<&Alive>),
    ) {
        let Some(track) = self.tracks.get_mut(key) else { return };
        let of = |incident: &Incident| incident.playbooks.clone();
        let open = track.open.as_ref().map(of);
        let hash = match judged {
            Judged::AsItBegan => open.or_else(|| track.closing.first().map(of)),
            Judged::NewBy(set) => open.or_else(|| Some(set.into())),
            Judged::By(set) => Some(set.into()),
        };
        let rules = rules(hash.and_then(|hash| rulebook.set(&hash)), key);
        let Some(rules) = rules else {
            // Nothing is open, so a wake-up or a late outcome has nothing to say any more.
            track.armed = None;
            self.waiting.remove(key);
            out.changed.insert(key.clone());
            return;
        };
        let alive = self.alive.get(&track.subscription);
        let mut machine = Machine {
            track,
            rules,
            now_ms: self.now_ms,
            watermark_ms: self.watermark_ms,
            input: sequence,
            decisions: &mut out.decisions,
            effects: &mut out.effects,
            views: &mut out.views,
        };
        act(&mut machine, alive);
        if track.armed.is_some_and(|armed| armed.fired) {
            self.waiting.insert(key.clone());
        } else {
            self.waiting.remove(key);
        }
        out.changed.insert(key.clone());
    }

    /// The body of the record for a step; `snapshot` are the keys of the rolling snapshot's next slice.
    pub fn record(&mut self, step: &mut Step, snapshot: &[TrackKey]) -> Decided {
        let copies = |keys: &mut dyn Iterator<Item = &TrackKey>| -> Vec<Track> {
            keys.filter_map(|key| self.tracks.get(key).cloned()).collect()
        };
        let changed = copies(&mut step.changed.iter());
        let forgotten: Vec<TrackKey> = snapshot.iter().filter(|key| self.forgettable(key)).cloned().collect();
        let snapshot = copies(&mut snapshot.iter().filter(|key| !forgotten.contains(key)));
        for key in &forgotten {
            self.tracks.remove(key);
        }
        Decided {
            now_ms: self.now_ms,
            watermark_ms: self.watermark_ms,
            alive: self.alive.values().cloned().collect(),
            decisions: std::mem::take(&mut step.decisions),
            disposed: std::mem::take(&mut step.disposed),
            changed,
            closed: step.views.values().filter(|view| view.phase == Phase::Resolved).cloned().collect(),
            forgotten,
            snapshot,
        }
    }

    /// Every incident that is not over, as people see it: what a new owner shows again.
    pub fn views(&self, rulebook: &impl Rulebook) -> Vec<View> {
        let mut views = vec![];
        for track in self.tracks.values() {
            for incident in track.open.iter().chain(&track.closing) {
                let threshold =
                    rules(rulebook.set(&incident.playbooks), &track.key).map_or(0, |r| r.threshold);
                views.push(view(track, incident, threshold));
            }
        }
        views
    }

    fn forgettable(&self, key: &TrackKey) -> bool {
        self.tracks.get(key).is_some_and(|track| {
            let long_quiet = self.now_ms.saturating_sub(track.heard_ms) > FORGET_AFTER_MS;
            is_idle(track) && (long_quiet || self.tracks.len() > TRACKS_MAX)
        })
    }

    /// Folds a committed record: what a new owner and a replay do.
    pub fn fold(&mut self, body: Decided) {
        self.now_ms = body.now_ms;
        self.watermark_ms = body.watermark_ms;
        self.alive = body.alive.into_iter().map(|path| (path.subscription.clone(), path)).collect();
        for track in body.snapshot.into_iter().chain(body.changed) {
            if track.armed.is_some_and(|armed| armed.fired) {
                self.waiting.insert(track.key.clone());
            } else {
                self.waiting.remove(&track.key);
            }
            self.tracks.insert(track.key.clone(), track);
        }
        for key in body.forgotten {
            self.waiting.remove(&key);
            self.tracks.remove(&key);
        }
    }
}

fn rules<'a>(set: Option<&'a Set>, key: &TrackKey) -> Option<&'a Rules> {
    set?.rules(key)
}

/// One disposition out of what the tracks said: counting anywhere outweighs the rest.
fn dispose(verdicts: Vec<Verdict>) -> Disposition {
    let mut incidents: Vec<String> = vec![];
    let mut stale = None;
    let mut echo = None;
    let mut unneeded = None;
    for verdict in verdicts {
        match verdict {
            Verdict::Counted { incident } => incidents.push(incident),
            Verdict::Stale { newer_by_ms } => stale = Some(newer_by_ms),
            Verdict::Echo { of, depth } => echo = Some((of, depth)),
            Verdict::Unneeded { reason } => {
                unneeded.get_or_insert(reason);
            }
        }
    }
    match (incidents.is_empty(), stale, echo) {
        (false, _, _) => Disposition::Counted { incidents },
        (true, Some(newer_by_ms), _) => Disposition::Stale { newer_by_ms },
        (true, None, Some((of, depth))) => Disposition::Echo { of, depth },
        (true, None, None) => {
            Disposition::Ignored { reason: unneeded.unwrap_or("the playbook has no action").into() }
        }
    }
}

/// A path was alive then. What waited in a spool proves it for the time when it was accepted.
fn prove(path: &mut Alive, at_ms: i64) {
    let is_near = |one_ms: i64, other_ms: i64| other_ms.saturating_sub(one_ms) <= PROOF_EVERY_MS;
    if !is_near(path.last_ms, at_ms) {
        path.gap = Some(Gap { since_ms: path.since_ms, from_ms: path.last_ms, to_ms: at_ms });
        path.since_ms = at_ms;
    }
    if let Some(gap) = path.gap.filter(|gap| (gap.from_ms..gap.to_ms).contains(&at_ms)) {
        let (before, after) = (is_near(gap.from_ms, at_ms), is_near(at_ms, gap.to_ms));
        path.gap = match (before, after) {
            (true, true) => None,
            (true, false) => Some(Gap { from_ms: at_ms, ..gap }),
            (false, true) => Some(Gap { to_ms: at_ms, ..gap }),
            (false, false) => Some(gap),
        };
        match (before, after) {
            (true, true) => path.since_ms = gap.since_ms,
            (false, true) => path.since_ms = path.since_ms.min(at_ms),
            _ => {}
        }
    }
    path.last_ms = path.last_ms.max(at_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_what_waited_in_a_spool_closes_the_gap_that_it_proves_no_gap() {
        let check = |minutes: &[i64], expected: (i64, i64)| {
            let mut path =
                Alive { subscription: "s".into(), since_ms: 0, last_ms: 0, reports_health: false, gap: None };
            minutes.iter().for_each(|minute| prove(&mut path, minute * 60_000));
            assert_eq!((path.since_ms / 60_000, path.last_ms / 60_000), expected, "{minutes:?}: {path:?}");
        };
        check(&[5, 10, 15], (0, 15));
        check(&[6], (6, 6));
        check(&[6, 1], (0, 6));
        check(&[12], (12, 12));
        // Step by step, from either side.
        check(&[12, 4, 8], (0, 12));
        check(&[12, 8], (8, 12));
        check(&[12, 8, 4], (0, 12));
        check(&[20, 10], (20, 20));
    }
}
