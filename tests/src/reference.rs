//! What must come of a history, by requirements.md and judgement.md alone and as naively as possible: one list
//! of everything that happened and was decided, searched anew from its end or its beginning for each question.
//! Nothing is kept beside the list, and nothing is shared with the machine. Each question names its row.

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Failed,
    Degraded,
    Healthy,
}

/// What one kind of trouble of one playbook leads to: a lane of its own (C1, A2).
#[derive(Debug, Clone)]
pub struct Rules {
    pub playbook: String,
    /// The trouble of this lane.
    pub trouble: Status,
    pub failures: usize,
    pub stable_ms: i64,
    /// The source tells of changes only.
    pub changes_only: bool,
    pub flapping: Option<Flapping>,
    /// Actions that remedy, and actions that undo.
    pub remediate: usize,
    pub revert: usize,
    pub healthy: usize,
    pub healthy_ms: i64,
    pub silence_ms: i64,
}

/// When an entity flaps, and how long its action then waits (D5).
#[derive(Debug, Clone)]
pub struct Flapping {
    pub changes: usize,
    pub within_ms: i64,
    pub first_ms: i64,
    pub factor: i64,
    pub most_ms: i64,
}

/// One entity under one lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Track {
    pub playbook: String,
    pub trouble: Status,
    pub entity: String,
}

/// One accepted event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub topic: String,
    pub id: String,
    pub entity: String,
    /// `None`: nothing that a playbook asks for.
    pub status: Option<Status>,
    /// When it happened.
    pub at_ms: i64,
    /// When it reached the log.
    pub received_ms: i64,
    /// How long it waited in a spool.
    pub spooled_ms: i64,
}

/// What becomes of an event. The position is that of the first one in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    DuplicateOf(usize),
    /// No playbook wants it.
    Unwanted,
    Stale,
    Counted,
}

/// Names one action: of the track's n-th remediated incident, doing or undoing, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    pub incident: usize,
    pub revert: bool,
    pub step: usize,
}

/// How the executor answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Carried,
    Failed { perhaps_done: bool },
    Expired { perhaps_done: bool },
    Held,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Threshold and window are met.
    Confirmed,
    /// It flaps: the action waits until then.
    BackedOff {
        until_ms: i64,
    },
    /// Health came before the back-off ended.
    Calmed,
    /// The remediation is due.
    Remediate,
    /// Healthy in a row and for long enough.
    Recovered,
    /// Silent for long enough.
    SilentlyRecovered,
    /// A person has to look, because nothing is heard.
    HeldForSilence,
    /// A person has to look, because an action did not go through.
    HeldForOutcome,
    Issued(Action),
}

#[derive(Debug, Clone)]
enum Fact {
    Event(Event, Becomes),
    /// Some event of the subscription was accepted then, whatever its entity.
    Heard(i64),
    Decided(Track, Decision),
    Answered(Track, Action, Answer),
}

/// Longest `revert.stable_for` that relapses lead to (D3).
const HEALTHY_MS_MAX: i64 = 15 * 60_000;
/// A failover so soon after a revert is a relapse (D3).
const RELAPSE_MS: i64 = 60 * 60_000;
/// The path is proven alive by an event at least this often (architecture.md 13).
const PROOF_MS: i64 = 5 * 60_000;
/// What waited longer in a spool begins no action (architecture.md 7).
const LATE_MS: i64 = 60_000;

/// Everything that happened and was decided in one partition, oldest first, each with its time.
#[derive(Debug, Clone)]
pub struct Reference {
    rules: Vec<Rules>,
    window_ms: i64,
    list: Vec<(i64, Fact)>,
}

impl Reference {
    pub fn new(rules: Vec<Rules>, window_ms: i64) -> Reference {
        Reference { rules, window_ms, list: vec![] }
    }

    /// An event reaches the decisions.
    pub fn event(&mut self, now_ms: i64, event: Event) -> Becomes {
        let becomes = self.becomes(&event);
        // What has waited in a spool proves that the way in was open then.
        self.list.push((now_ms, Fact::Heard(event.received_ms - event.spooled_ms)));
        self.list.push((now_ms, Fact::Event(event.clone(), becomes)));
        if becomes == Becomes::Counted {
            for track in self.tracks_of(&event.entity) {
                self.judge(now_ms, &track, &event);
            }
        }
        becomes
    }

    /// The subscription was heard elsewhere.
    pub fn heard(&mut self, now_ms: i64, at_ms: i64) {
        self.list.push((now_ms, Fact::Heard(at_ms)));
    }

    /// The executor answers what was issued.
    pub fn answer(&mut self, now_ms: i64, track: &Track, action: Action, answer: Answer) {
        self.list.push((now_ms, Fact::Answered(track.clone(), action, answer)));
        if matches!(answer, Answer::Failed { .. } | Answer::Held) {
            self.decide(now_ms, track, Decision::HeldForOutcome);
        }
        self.issue(now_ms, track);
    }

    /// What has been decided since the list had this length, by track.
    pub fn decided_since(&self, length: usize) -> impl Iterator<Item = (&Track, &Decision)> {
        self.list.iter().skip(length).filter_map(|(_, fact)| match fact {
            Fact::Decided(track, decision) => Some((track, decision)),
            _ => None,
        })
    }

    /// Length of the list.
    pub fn length(&self) -> usize {
        self.list.len()
    }

    /// Every track that an event of an entity concerns.
    pub fn tracks_of(&self, entity: &str) -> Vec<Track> {
        let track = |rules: &Rules| Track {
            playbook: rules.playbook.clone(),
            trouble: rules.trouble,
            entity: entity.into(),
        };
        self.rules.iter().map(track).collect()
    }

    /// T2, E3: the same id on the same topic within the window counts once. O3: an older event moves nothing.
    fn becomes(&self, event: &Event) -> Becomes {
        for (position, (told_ms, fact)) in self.list.iter().enumerate() {
            if let Fact::Event(earlier, becomes) = fact
                && (&earlier.topic, &earlier.id) == (&event.topic, &event.id)
                && !matches!(becomes, Becomes::DuplicateOf(_))
                && event.received_ms - told_ms <= self.window_ms
            {
                return Becomes::DuplicateOf(position);
            }
        }
        if event.status.is_none() {
            return Becomes::Unwanted;
        }
        let newer = self.counted(&event.entity).iter().any(|earlier| earlier.at_ms > event.at_ms);
        if newer { Becomes::Stale } else { Becomes::Counted }
    }

    /// The events of an entity that count, oldest first.
    fn counted(&self, entity: &str) -> Vec<&Event> {
        let counts = |fact| match fact {
            &Fact::Event(ref event, Becomes::Counted) if event.entity == entity => Some(event),
            _ => None,
        };
        self.list.iter().filter_map(|(_, fact)| counts(fact)).collect()
    }

    fn rules(&self, track: &Track) -> Rules {
        let of = |rules: &&Rules| (&rules.playbook, rules.trouble) == (&track.playbook, track.trouble);
        self.rules.iter().find(of).unwrap().clone()
    }

    /// Positions and times of a track's decisions that a question is about.
    fn decided(&self, track: &Track, asked: impl Fn(&Decision) -> bool) -> Vec<(usize, i64)> {
        let mut found = vec![];
        for (position, (at_ms, fact)) in self.list.iter().enumerate() {
            if let Fact::Decided(of, decision) = fact
                && of == track
                && asked(decision)
            {
                found.push((position, *at_ms));
            }
        }
        found
    }

    fn remediations(&self, track: &Track) -> Vec<(usize, i64)> {
        self.decided(track, |decision| *decision == Decision::Remediate)
    }

    fn ends(&self, track: &Track) -> Vec<(usize, i64)> {
        self.decided(track, |d| matches!(d, Decision::Recovered | Decision::SilentlyRecovered))
    }

    /// Whether the track's latest incident was remedied and is not over.
    fn acting(&self, track: &Track) -> bool {
        self.remediations(track).len() > self.ends(track).len()
    }

    /// The back-off that the track is in, if it is in one.
    fn backing_off(&self, track: &Track) -> Option<i64> {
        let mut until = None;
        for (_, fact) in &self.list {
            match fact {
                Fact::Decided(of, Decision::BackedOff { until_ms }) if of == track => until = Some(*until_ms),
                Fact::Decided(of, Decision::Calmed | Decision::Remediate) if of == track => until = None,
                _ => {}
            }
        }
        until
    }

    /// D2: the failures in a row since the last incident ended, newest first. Health breaks the row; other
    /// trouble neither breaks nor feeds it (C1).
    fn failures(&self, track: &Track) -> Vec<&Event> {
        let after = self.ends(track).last().map_or(0, |(position, _)| *position);
        let mut row = vec![];
        for (position, (_, fact)) in self.list.iter().enumerate().rev() {
            let Fact::Event(event, Becomes::Counted) = fact else { continue };
            if position < after || event.entity != track.entity {
                continue;
            }
            match event.status {
                Some(Status::Healthy) => break,
                status if status == Some(track.trouble) => row.push(event),
                _ => {}
            }
        }
        row
    }

    /// D3: the healthy events in a row, newest first. Any trouble breaks the row.
    fn healthy(&self, track: &Track) -> Vec<&Event> {
        let counted = self.counted(&track.entity);
        counted.into_iter().rev().take_while(|event| event.status == Some(Status::Healthy)).collect()
    }

    /// D3: how long health must have lasted: doubled for each failover in a row within an hour of the revert
    /// before it, fifteen minutes at most.
    fn healthy_ms(&self, track: &Track) -> i64 {
        let (remediations, ends) = (self.remediations(track), self.ends(track));
        let mut needed = self.rules(track).healthy_ms;
        for nth in (1..remediations.len()).rev() {
            if remediations[nth].1 - ends[nth - 1].1 > RELAPSE_MS {
                break;
            }
            needed = needed.max((needed * 2).min(HEALTHY_MS_MAX));
        }
        needed
    }

    /// D5: changes between trouble and health within the time before an event.
    fn changes(&self, track: &Track, within_ms: i64, until_ms: i64) -> usize {
        let counted = self.counted(&track.entity);
        let told: Vec<&&Event> = counted
            .iter()
            .filter(|event| [Some(Status::Healthy), Some(track.trouble)].contains(&event.status))
            .collect();
        let changed = told.windows(2).filter(|pair| pair[0].status != pair[1].status);
        changed.filter(|pair| until_ms - pair[1].at_ms <= within_ms).count()
    }

    /// D5: back-offs since an action was last confirmed that did not have to wait.
    fn back_offs(&self, track: &Track) -> u32 {
        let mut row = 0;
        let mut confirmed = false;
        for (_, fact) in &self.list {
            let Fact::Decided(of, decision) = fact else { continue };
            if of != track {
                continue;
            }
            match decision {
                Decision::Confirmed => confirmed = true,
                Decision::BackedOff { .. } => (row, confirmed) = (row + 1, false),
                Decision::Remediate if confirmed => (row, confirmed) = (0, false),
                _ => {}
            }
        }
        row
    }

    fn decide(&mut self, now_ms: i64, track: &Track, decision: Decision) {
        self.list.push((now_ms, Fact::Decided(track.clone(), decision)));
    }

    /// Is it real, is it over? Asked for each event that counts.
    fn judge(&mut self, now_ms: i64, track: &Track, event: &Event) {
        let rules = self.rules(track);
        let span = |row: &[&Event]| row[0].at_ms - row[row.len() - 1].at_ms;
        // Architecture 7: it counts, and begins nothing by itself.
        let late = event.spooled_ms > LATE_MS;
        if !self.acting(track) {
            let backing_off = self.backing_off(track).is_some();
            let goes_on = match rules.changes_only {
                true => event.status == Some(track.trouble),
                false => event.status != Some(Status::Healthy),
            };
            if backing_off && !goes_on {
                self.decide(now_ms, track, Decision::Calmed);
            } else if event.status == Some(track.trouble) && !backing_off && !late {
                let row = self.failures(track);
                // Where a state persists, it is the window's end that confirms: at once where there is none.
                let confirmed = match rules.changes_only {
                    true => rules.stable_ms == 0,
                    false => row.len() >= rules.failures && span(&row) >= rules.stable_ms,
                };
                if confirmed {
                    self.confirm(now_ms, track, event.at_ms);
                }
            }
        } else if event.status == Some(Status::Healthy) && !late {
            let row = self.healthy(track);
            if row.len() >= rules.healthy && span(&row) >= self.healthy_ms(track) {
                self.decide(now_ms, track, Decision::Recovered);
                self.issue(now_ms, track);
            }
        }
    }

    fn confirm(&mut self, now_ms: i64, track: &Track, at_ms: i64) {
        self.decide(now_ms, track, Decision::Confirmed);
        if let Some(flapping) = self.rules(track).flapping
            && self.changes(track, flapping.within_ms, at_ms) >= flapping.changes
        {
            let mut wait_ms = flapping.first_ms;
            for _ in 0..self.back_offs(track) {
                wait_ms = (wait_ms * flapping.factor).min(flapping.most_ms);
            }
            let until_ms = now_ms + wait_ms.min(flapping.most_ms);
            self.decide(now_ms, track, Decision::BackedOff { until_ms });
        } else {
            self.decide(now_ms, track, Decision::Remediate);
            self.issue(now_ms, track);
        }
    }

    /// When time alone brings something about, and what it may be by `now_ms`.
    pub fn due(&self, now_ms: i64, track: &Track) -> Option<(i64, Vec<Decision>)> {
        let rules = self.rules(track);
        let counted = self.counted(&track.entity);
        let last = counted.last()?;
        if !self.acting(track) {
            if let Some(until_ms) = self.backing_off(track) {
                return Some((until_ms, vec![Decision::Remediate]));
            }
            // D2: a source of changes has told its state; where that persists, the window's end confirms.
            let persists = counted.iter().rev().take_while(|event| event.status == Some(track.trouble));
            let since_ms = persists.last().filter(|_| rules.changes_only)?.received_ms;
            return Some((since_ms + rules.stable_ms, vec![Decision::Confirmed]));
        }
        // D4. The last state of a source of changes holds until it reports, and who is held is held.
        if rules.changes_only || self.held_since_heard(track) {
            return None;
        }
        let at_ms = last.received_ms + rules.silence_ms;
        let may = match (
            self.reports_health(track),
            self.proven_alive(track, at_ms),
            self.proven_alive(track, now_ms),
        ) {
            (true, ..) | (_, false, _) => vec![Decision::HeldForSilence],
            (false, true, true) => vec![Decision::SilentlyRecovered],
            // The path has fallen silent since: whether it had been proven for long enough is a matter of when
            // one looks.
            (false, true, false) => vec![Decision::SilentlyRecovered, Decision::HeldForSilence],
        };
        Some((at_ms, may))
    }

    fn held_since_heard(&self, track: &Track) -> bool {
        for (_, fact) in self.list.iter().rev() {
            match fact {
                Fact::Decided(of, Decision::HeldForSilence) if of == track => return true,
                Fact::Event(event, Becomes::Counted) if event.entity == track.entity => return false,
                _ => {}
            }
        }
        false
    }

    /// Time brings about what [`Reference::due`] says.
    pub fn ripen(&mut self, now_ms: i64, track: &Track, decision: &Decision) {
        if *decision == Decision::Confirmed {
            let newest_ms = self.counted(&track.entity).last().map_or(0, |event| event.at_ms);
            return self.confirm(now_ms, track, newest_ms);
        }
        self.decide(now_ms, track, decision.clone());
        self.issue(now_ms, track);
    }

    /// D4: the source has reported health at some time.
    fn reports_health(&self, _track: &Track) -> bool {
        self.list
            .iter()
            .any(|(_, fact)| matches!(fact, Fact::Event(event, _) if event.status == Some(Status::Healthy)))
    }

    /// D4: from the entity's last event on something of its subscription was heard every five minutes.
    fn proven_alive(&self, track: &Track, until_ms: i64) -> bool {
        let Some(from_ms) = self.counted(&track.entity).last().map(|event| event.received_ms) else {
            return false;
        };
        let mut heard: Vec<i64> = self
            .list
            .iter()
            .filter_map(|(_, fact)| if let Fact::Heard(at_ms) = fact { Some(*at_ms) } else { None })
            .filter(|at_ms| *at_ms <= until_ms)
            .collect();
        heard.sort_unstable();
        heard.push(until_ms);
        // An event that waited in a spool was heard before it was received: the proof goes back to there.
        let Some(first) = heard.iter().rposition(|at_ms| *at_ms <= from_ms) else { return false };
        heard[first..].windows(2).all(|pair| pair[1] - pair[0] <= PROOF_MS)
    }

    fn answers(&self, track: &Track, action: Action) -> Vec<Answer> {
        let of = |fact: &Fact| match fact {
            Fact::Answered(of, to, answer) if of == track && *to == action => Some(*answer),
            _ => None,
        };
        self.list.iter().filter_map(|(_, fact)| of(fact)).collect()
    }

    /// Issues what comes next: one command at a time, in the order of the decisions; each once, unless its
    /// deadline passed and it is still needed (L2, T1).
    fn issue(&mut self, now_ms: i64, track: &Track) {
        let rules = self.rules(track);
        let issued = self.decided(track, |d| matches!(d, Decision::Issued(_))).len();
        let answered = self
            .list
            .iter()
            .filter(|(_, fact)| matches!(fact, Fact::Answered(of, ..) if of == track))
            .count();
        if issued > answered {
            return;
        }
        let over = self.ends(track).len();
        for incident in 0..self.remediations(track).len() {
            let remediate = (0..rules.remediate).map(|step| Action { incident, revert: false, step });
            let revert = (0..rules.revert).map(|step| Action { incident, revert: true, step });
            let perhaps_done = remediate.clone().any(|action| {
                self.answers(track, action).iter().any(|answer| match answer {
                    Answer::Carried | Answer::Held => true,
                    Answer::Failed { perhaps_done } | Answer::Expired { perhaps_done } => *perhaps_done,
                })
            });
            // Once it is over nothing more is remedied, and what may have been done is undone.
            let wanted: Vec<Action> = match (incident < over, perhaps_done) {
                (false, _) => remediate.collect(),
                (true, true) => revert.collect(),
                (true, false) => vec![],
            };
            for action in wanted {
                match self.answers(track, action).last() {
                    Some(Answer::Carried) => {}
                    Some(Answer::Failed { .. } | Answer::Held) => break,
                    None | Some(Answer::Expired { .. }) => {
                        self.decide(now_ms, track, Decision::Issued(action));
                        return;
                    }
                }
            }
        }
    }
}

/// One event as it was delivered: in this order, for one entity.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub id: String,
    pub status: Status,
    pub at_ms: i64,
    /// How long it waited in a spool.
    pub spooled_ms: i64,
}

/// What comes of one entity's history where every action is carried out at once and nothing falls silent:
/// (direction, id of the deciding event), in order. `failures` in a row over `stable_ms` act; `healthy` in a
/// row over `healthy_ms` revert.
pub fn actions(
    history: &[Delivered],
    failures: usize,
    stable_ms: i64,
    healthy: usize,
    healthy_ms: i64,
) -> Vec<(&'static str, String)> {
    let rules = Rules {
        playbook: String::new(),
        trouble: Status::Failed,
        failures,
        stable_ms,
        changes_only: false,
        flapping: None,
        remediate: 1,
        revert: 1,
        healthy,
        healthy_ms,
        silence_ms: i64::MAX,
    };
    let mut reference = Reference::new(vec![rules], i64::MAX);
    let mut actions = vec![];
    for (nth, delivered) in (0..).zip(history) {
        let begin = reference.length();
        let event = Event {
            topic: String::new(),
            id: delivered.id.clone(),
            entity: String::new(),
            status: Some(delivered.status),
            at_ms: delivered.at_ms,
            received_ms: nth,
            spooled_ms: delivered.spooled_ms,
        };
        reference.event(nth, event);
        let issued: Vec<(Track, Action)> = reference
            .decided_since(begin)
            .filter_map(|(track, decision)| match decision {
                Decision::Issued(action) => Some((track.clone(), *action)),
                _ => None,
            })
            .collect();
        for (track, action) in issued {
            actions.push((if action.revert { "revert" } else { "remediate" }, delivered.id.clone()));
            reference.answer(nth, &track, action, Answer::Carried);
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_says_what_the_requirements_say() {
        let check = |letters: &str, expected: &[(&str, &str)]| {
            let history: Vec<Delivered> = letters
                .chars()
                .enumerate()
                .map(|(n, letter)| Delivered {
                    id: n.to_string(),
                    status: match letter {
                        'F' => Status::Failed,
                        'D' => Status::Degraded,
                        _ => Status::Healthy,
                    },
                    at_ms: n as i64,
                    spooled_ms: 0,
                })
                .collect();
            let found = actions(&history, 3, 0, 2, 0);
            let found: Vec<(&str, &str)> = found.iter().map(|(d, id)| (*d, id.as_str())).collect();
            assert_eq!(found, expected, "{letters}");
        };
        check("FFHFF", &[]);
        check("FDFDF", &[("remediate", "4")]);
        check("FFFHFHH", &[("remediate", "2"), ("revert", "6")]);
        check("FFFHDHH", &[("remediate", "2"), ("revert", "6")]);
        check("FFFFHHFFF", &[("remediate", "2"), ("revert", "5"), ("remediate", "8")]);
    }
}
