//! The machine of one entity under one playbook and lane: what an event, an outcome or a wake-up does to it.

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::command::{Command, Course, Direction};
use holdline_proto::incident::{
    Armed, Hold, Incident, Intended, Lane, Phase, Run, Track, TrackKey, UndoState, Undoing, View,
};
use holdline_proto::journal::{Alive, Decision, Effect, WakeUp, What};
use holdline_proto::limits::LINEUP_MAX;
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::signal::{Health, Signal, Values};
use holdline_proto::topology::token;

use super::confirm::{self, span_ms};
use super::{CAUSAL_DEPTH_MAX, PAGE_DEADLINE_MS, Rules, flap, recover};
use crate::playbook::Reports;

/// What an event says to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Trouble,
    /// Neither breaks nor feeds a run of trouble, but is no health either.
    Neutral,
    Health,
}

fn reading(lane: Lane, health: Health) -> Reading {
    match (lane, health) {
        (_, Health::Healthy) => Reading::Health,
        (Lane::Failover, Health::Failed) | (Lane::Scaling, Health::Degraded) => Reading::Trouble,
        (Lane::Failover, Health::Degraded) | (Lane::Scaling, Health::Failed) => Reading::Neutral,
    }
}

/// What became of an event in one track.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Counted { incident: String },
    Stale { newer_by_ms: i64 },
    Echo { of: String, depth: u32 },
    Unneeded { reason: &'static str },
}

/// The machine at work on one input: the track, what it goes by, and where its decisions go.
pub(super) struct Machine<'a> {
    pub track: &'a mut Track,
    pub rules: &'a Rules,
    /// Partition time: the greatest broker timestamp seen. Unix milliseconds.
    pub now_ms: i64,
    /// Nothing accepted before this is unread. Unix milliseconds.
    pub watermark_ms: i64,
    /// Sequence of the input.
    pub input: u64,
    pub decisions: &'a mut Vec<Decision>,
    pub effects: &'a mut Vec<Effect>,
    /// What people see of each incident that was decided on.
    pub views: &'a mut BTreeMap<String, View>,
}

/// A track that has heard nothing yet.
pub(super) fn fresh(key: TrackKey, partition: u16, signal: &Signal) -> Track {
    Track {
        key,
        partition,
        subscription: signal.subscription.clone(),
        group: signal.group.clone(),
        newest_ms: i64::MIN,
        heard_ms: 0,
        reports_health: false,
        last_health: None,
        changes_ms: vec![],
        back_offs: 0,
        reverted_ms: None,
        relapses: 0,
        generation: 0,
        armed: None,
        open: None,
        closing: vec![],
        outstanding: None,
        awaiting: None,
        lineup: vec![],
    }
}

/// Nothing is under way: the track holds only what was learnt.
pub(super) fn is_idle(track: &Track) -> bool {
    track.open.is_none()
        && track.closing.is_empty()
        && track.outstanding.is_none()
        && track.awaiting.is_none()
        && track.lineup.is_empty()
        && track.armed.is_none()
}

impl Machine<'_> {
    /// An event of the entity. `set` is the playbook set by which a new incident is judged.
    pub(super) fn event(&mut self, signal: &Signal, set: &str) -> Verdict {
        // O3: an older event moves nothing.
        if signal.event_ms < self.track.newest_ms {
            return Verdict::Stale { newer_by_ms: self.track.newest_ms.saturating_sub(signal.event_ms) };
        }
        let reading = reading(self.track.key.lane, signal.health);
        if signal.echo.is_some() || signal.depth >= CAUSAL_DEPTH_MAX {
            return self.echo(signal, reading, set);
        }
        self.track.newest_ms = signal.event_ms;
        self.track.heard_ms = self.now_ms;
        self.track.group.clone_from(&signal.group);
        self.track.reports_health |= reading == Reading::Health;
        if reading != Reading::Neutral {
            flap::note(self.rules, self.track, signal.health, signal.event_ms);
        }
        if let Some(incident) = &mut self.track.open {
            incident.heard_ms = incident.heard_ms.max(signal.received_ms);
            incident.silence_judged = false;
            incident.held.take_if(|hold| hold.until_heard);
        }
        let phase = self.track.open.as_ref().map(|incident| incident.phase);
        let verdict = match (phase, reading) {
            (None | Some(Phase::Resolved), Reading::Trouble) => {
                self.open(signal, set);
                self.trouble(signal)
            }
            (None | Some(Phase::Resolved), Reading::Health) => {
                Verdict::Unneeded { reason: "healthy, and no incident is open" }
            }
            (None | Some(Phase::Resolved), Reading::Neutral) => Verdict::Unneeded {
                reason: "this kind of trouble leads to nothing here, and no incident is open",
            },
            (Some(Phase::Detected | Phase::Stabilized), Reading::Trouble) => self.trouble(signal),
            (Some(Phase::Detected | Phase::Stabilized), Reading::Health) => self.run_broken(),
            // D2: a source of changes has said that the state it had told of does not persist.
            (Some(Phase::Detected | Phase::Stabilized), Reading::Neutral)
                if self.rules.reports == Reports::Changes =>
            {
                self.run_broken()
            }
            (Some(Phase::Detected | Phase::Stabilized), Reading::Neutral) => {
                Verdict::Unneeded { reason: "neither feeds nor breaks a run of the other kind of trouble" }
            }
            (Some(Phase::Remediating), Reading::Health) => self.health(signal),
            (Some(Phase::Remediating), Reading::Trouble | Reading::Neutral) => self.still_troubled(signal),
        };
        self.arm();
        verdict
    }

    fn open(&mut self, signal: &Signal, set: &str) {
        let key = &self.track.key;
        let id = token(&[&key.playbook, &key.lane.to_string(), &key.entity, &signal.accept_id]);
        self.track.open = Some(Incident {
            id,
            phase: Phase::Detected,
            playbooks: set.into(),
            opened_ms: self.now_ms,
            trouble: Run::default(),
            health: Run::default(),
            recover_for_ms: 0,
            heard_ms: signal.received_ms,
            not_before_ms: None,
            decision: 0,
            depth: 0,
            acted: false,
            acted_steps: BTreeSet::new(),
            undoing: vec![],
            held: None,
            probe: None,
            silence_judged: false,
            values: signal.values.clone(),
            remedied: Values::new(),
            counted_ms: signal.received_ms,
            waited_ms: signal.waited_ms,
        });
        self.decide(What::Opened {
            event_id: signal.event_id.clone(),
            threshold: self.rules.threshold,
            stable_for_ms: self.rules.stable_for_ms,
        });
    }

    /// C4: it follows from actions of ours, and counts for nothing; but who is heard of is not silent. If they led to one
    /// another, people are told, once per incident; where none is open, one begins that only waits for them.
    fn echo(&mut self, signal: &Signal, reading: Reading, set: &str) -> Verdict {
        self.track.heard_ms = self.now_ms;
        if let Some(incident) = &mut self.track.open {
            incident.heard_ms = incident.heard_ms.max(signal.received_ms);
            incident.silence_judged = false;
        }
        let depth = signal.depth;
        if let Some(of) = &signal.echo {
            self.arm();
            return Verdict::Echo { of: of.clone(), depth };
        }
        if reading == Reading::Trouble {
            if self.track.open.is_none() {
                self.open(signal, set);
            }
            let waits = |incident: &&Incident| incident.held.as_ref().is_some_and(|hold| !hold.until_heard);
            if let Some(incident) = self.track.open.as_ref().filter(|incident| !waits(incident)) {
                let (id, event) = (incident.id.clone(), &signal.event_id);
                let reason = format!(
                    "a loop: event {event} follows from {depth} actions of ours, each of which led to the next; nothing \
                     is done about it"
                );
                self.hold(&id, Hold { reason, until_heard: false });
            }
        }
        self.arm();
        Verdict::Echo { of: "actions of ours that led to one another".into(), depth }
    }

    /// Trouble before the failover: the run grows, and may be believed now.
    fn trouble(&mut self, signal: &Signal) -> Verdict {
        let Some(incident) = &mut self.track.open else { return nothing_open() };
        let first = incident.trouble.count == 0;
        confirm::extend(&mut incident.trouble, signal.event_ms);
        // A source of changes that repeats itself all the same does not move the window's end.
        if first || confirm::confirmed_at(self.rules, 0).is_none() {
            incident.counted_ms = signal.received_ms;
            incident.waited_ms = signal.waited_ms;
        }
        incident.values.clone_from(&signal.values);
        incident.depth = incident.depth.max(signal.depth);
        let verdict = Verdict::Counted { incident: incident.id.clone() };
        // What a spool delivers late counts, but begins nothing by itself: the next event on time does.
        let believed = confirm::confirmed(self.rules, &incident.trouble) && !signal.late;
        if incident.phase == Phase::Detected && believed {
            self.confirm(signal.event_ms);
        }
        verdict
    }

    /// Before the failover the trouble is no longer what is told: consecutive means consecutive.
    fn run_broken(&mut self) -> Verdict {
        let Some(incident) = &self.track.open else { return nothing_open() };
        let verdict = Verdict::Counted { incident: incident.id.clone() };
        let what = match incident.phase {
            Phase::Stabilized => What::BackOffEnded,
            _ => What::NotConfirmed {
                failures: incident.trouble.count,
                threshold: self.rules.threshold,
                span_ms: span_ms(&incident.trouble),
            },
        };
        self.resolve_open(what);
        verdict
    }

    /// The trouble is real. The action follows, now or after a back-off.
    fn confirm(&mut self, event_ms: i64) {
        let Some(incident) = &mut self.track.open else { return };
        incident.phase = Phase::Stabilized;
        let what = What::Confirmed {
            failures: incident.trouble.count,
            threshold: self.rules.threshold,
            span_ms: span_ms(&incident.trouble),
            stable_for_ms: self.rules.stable_for_ms,
        };
        self.decide(what);
        match flap::back_off(self.rules, self.track, event_ms) {
            None => self.remediate(),
            Some((changes, wait_ms)) => {
                let until_ms = self.now_ms.saturating_add(wait_ms);
                if let Some(incident) = &mut self.track.open {
                    incident.not_before_ms = Some(until_ms);
                }
                self.decide(What::BackedOff { changes, wait_ms, until_ms });
            }
        }
    }

    fn remediate(&mut self) {
        let relapses = recover::relapses(self.track, self.now_ms);
        self.track.relapses = relapses;
        let Some(incident) = &mut self.track.open else { return };
        incident.phase = Phase::Remediating;
        incident.not_before_ms = None;
        incident.health = Run::default();
        incident.recover_for_ms = recover::recover_for_ms(self.rules, relapses);
        let incident = incident.clone();
        self.intend(&incident, Direction::Remediate);
    }

    /// FAILED or DEGRADED after the failover.
    fn still_troubled(&mut self, signal: &Signal) -> Verdict {
        let Some(incident) = &mut self.track.open else { return nothing_open() };
        let healthy = std::mem::take(&mut incident.health).count;
        let verdict = Verdict::Counted { incident: incident.id.clone() };
        if healthy > 0 {
            self.decide(What::FalseRecovery { healthy, health: signal.health });
        }
        verdict
    }

    /// HEALTHY after the failover: two in a row are the least, and for a time.
    fn health(&mut self, signal: &Signal) -> Verdict {
        let Some(incident) = &mut self.track.open else { return nothing_open() };
        confirm::extend(&mut incident.health, signal.event_ms);
        incident.values.clone_from(&signal.values);
        incident.counted_ms = signal.received_ms;
        incident.waited_ms = signal.waited_ms;
        let (run, recover_for_ms) = (incident.health, incident.recover_for_ms);
        let verdict = Verdict::Counted { incident: incident.id.clone() };
        if recover::recovered(self.rules, recover_for_ms, &run) && !signal.late {
            self.over(What::Recovered {
                healthy: run.count,
                span_ms: span_ms(&run),
                stable_for_ms: recover_for_ms,
                relapses: self.track.relapses,
            });
        } else if run.count <= self.rules.revert.healthy {
            // Beyond the needed count only time is missing; saying so once is enough.
            self.decide(What::Recovering {
                healthy: run.count,
                needed: self.rules.revert.healthy,
                span_ms: span_ms(&run),
                stable_for_ms: recover_for_ms,
            });
        }
        verdict
    }

    /// The trouble is over: undo what was done.
    fn over(&mut self, what: What) {
        self.decide(what);
        self.track.reverted_ms = Some(self.now_ms);
        let Some(mut incident) = self.track.open.take() else { return };
        incident.held = None;
        incident.probe = None;
        // What still waits for its turn, or for people, has nothing left to remedy: it is not issued any more.
        self.track.lineup.retain(|next| next.incident != incident.id);
        self.track.awaiting.take_if(|awaiting| awaiting.intended.incident == incident.id);
        let undo = incident.acted || self.under_way(&incident.id, Direction::Remediate);
        self.track.closing.push(incident.clone());
        if undo {
            self.intend(&incident, Direction::Revert);
        }
        self.settle(&incident.id);
    }

    /// Something of an incident is with the executor or waits for its turn.
    pub(super) fn under_way(&self, id: &str, direction: Direction) -> bool {
        self.track.outstanding.as_ref().is_some_and(|c| c.incident == id && c.direction == direction)
            || self.lined_up().any(|next| next.incident == id && next.direction == direction)
    }

    /// What is decided on and not with the executor: it waits for people or for its turn.
    fn lined_up(&self) -> impl Iterator<Item = &Intended> {
        let awaiting = self.track.awaiting.as_ref().map(|awaiting| &awaiting.intended);
        awaiting.into_iter().chain(&self.track.lineup)
    }

    /// The actions of a direction, in order.
    fn actions(&self, direction: Direction) -> &[String] {
        match direction {
            Direction::Remediate => &self.rules.act,
            Direction::Revert => &self.rules.revert.act,
            // Never lined up: nothing waits for a page, and it waits for nothing.
            Direction::Page => &[],
        }
    }

    /// Lines up every action of a direction, and starts if nothing is under way.
    fn intend(&mut self, incident: &Incident, direction: Direction) {
        let actions = self.actions(direction).to_vec();
        // What is undone is what was done, wherever the last event would lead.
        let undoes = direction == Direction::Revert && self.rules.revert.undo;
        let values = if undoes { &incident.remedied } else { &incident.values };
        if self.track.lineup.len() + actions.len() > LINEUP_MAX {
            let reason = format!("{LINEUP_MAX} decisions already wait for the outcome of the one under way");
            return self.hold(&incident.id, Hold { reason, until_heard: false });
        }
        // While a remedy is under way it is not known what there will be to undo.
        let is_known = !self.under_way(&incident.id, Direction::Remediate);
        for (step, action) in (0u32..).zip(&actions) {
            if direction == Direction::Revert && is_known && !self.has_to_be_undone(incident, step) {
                continue;
            }
            let intended = Intended {
                replays: 0,
                approval: None,
                judged_ms: self.now_ms,
                incident: incident.id.clone(),
                direction,
                step,
                action: action.clone(),
                deadline_ms: incident.counted_ms.saturating_add(self.rules.deadline_ms),
                values: values.clone(),
            };
            if self.track.outstanding.is_some() || self.lined_up().next().is_some() {
                self.decide_for(&incident.id, What::LinedUp { action: action.clone() });
            }
            self.track.lineup.push(intended);
            self.advance(false);
        }
    }

    /// Whether a step of the revert undoes what was done: all of a revert of its own, and of `undo` the remedies that were
    /// carried out or may have been. They are undone in the opposite order.
    fn has_to_be_undone(&self, incident: &Incident, step: u32) -> bool {
        let steps = &incident.acted_steps;
        !self.rules.revert.undo || steps.is_empty() || steps.contains(&self.undone_by(step))
    }

    /// The remedy that a step of the revert undoes.
    fn undone_by(&self, step: u32) -> u32 {
        let last = u32::try_from(self.rules.act.len()).unwrap_or(u32::MAX).saturating_sub(1);
        last.saturating_sub(step)
    }

    /// Hands the next action to the executor, if none is under way. What had to wait for its turn is decided
    /// on at its turn, so its deadline counts from there.
    pub(super) fn advance(&mut self, waited: bool) {
        let busy = self.track.outstanding.is_some() || self.track.awaiting.is_some();
        if busy || self.track.lineup.is_empty() {
            return;
        }
        let next = self.track.lineup.remove(0);
        let fresh_deadline_ms = self.now_ms.saturating_add(self.rules.deadline_ms);
        let key = self.track.key.clone();
        let partition = self.track.partition;
        let undoes = next.direction == Direction::Revert && self.rules.revert.undo;
        let undo = undoes.then(|| self.undone_by(next.step));
        let group = self.track.group.clone();
        let issued_ms = self.now_ms;
        let Some(incident) = self.incident_mut(&next.incident) else { return self.advance(waited) };
        if next.direction == Direction::Remediate {
            incident.remedied.clone_from(&next.values);
        }
        incident.decision = incident.decision.saturating_add(1);
        let command = Command {
            incident: next.incident,
            partition,
            key,
            group,
            playbooks: incident.playbooks.clone(),
            direction: next.direction,
            step: next.step,
            action: next.action,
            undo,
            decision: incident.decision,
            decided_ms: incident.counted_ms,
            course: Course { waited_ms: incident.waited_ms, judged_ms: next.judged_ms, issued_ms },
            deadline_ms: if waited { next.deadline_ms.max(fresh_deadline_ms) } else { next.deadline_ms },
            depth: incident.depth,
            values: next.values,
            replays: next.replays,
            approval: next.approval,
        };
        self.track.outstanding = Some(command.clone());
        self.effects.push(Effect::Command(command.clone()));
        self.decide_for(&command.incident.clone(), What::Commanded(Box::new(command)));
    }

    /// The executor reported.
    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        if let Done::Verified { worked, seen } = &outcome.result {
            return self.verified(outcome, *worked, seen);
        }
        let expected = self.track.outstanding.as_ref().is_some_and(|command| {
            command.incident == outcome.incident
                && command.direction == outcome.direction
                && command.step == outcome.step
                && command.decision == outcome.decision
        });
        let Some(command) = self.track.outstanding.take_if(|_| expected) else { return };
        let id = command.incident.clone();
        self.decide_for(&id, What::Reported(Box::new(outcome.clone())));
        match &outcome.result {
            Done::Carried { .. } => {
                self.carried(&id, command.direction, command.step);
                self.listen(&command);
                self.await_proof(outcome);
            }
            Done::Failed { reason, perhaps_done } => {
                self.gave_up(&command, reason, *perhaps_done);
            }
            Done::Held { reason } => {
                self.gave_up(&command, reason, true);
            }
            Done::Expired { perhaps_done } => self.decide_anew(command, *perhaps_done),
            Done::Withdrawn { .. } => self.decide_anew(command, false),
            Done::AwaitsApproval { approval, until_ms, unless_denied, perhaps_done } => {
                if *perhaps_done {
                    self.carried(&id, command.direction, command.step);
                }
                self.await_people(command, approval, *until_ms, *unless_denied);
            }
            Done::Verified { .. } => {}
        }
        self.settle(&id);
        self.advance(true);
        self.arm();
    }

    /// It was carried out, or may have been.
    fn carried(&mut self, id: &str, direction: Direction, step: u32) {
        if direction == Direction::Remediate
            && let Some(incident) = self.incident_mut(id)
        {
            // What an earlier version has done before is not known step by step.
            if !incident.acted || !incident.acted_steps.is_empty() {
                incident.acted_steps.insert(step);
            }
            incident.acted = true;
        }
    }

    /// An action cannot be carried out: what should follow it in its direction must not, and a person is told.
    fn gave_up(&mut self, command: &Command, reason: &str, perhaps_done: bool) {
        if perhaps_done {
            self.carried(&command.incident, command.direction, command.step);
        }
        if command.direction == Direction::Revert {
            self.undo_gave_up(&command.incident, command.step, command.decision);
        }
        self.not_carried_out(&command.incident, command.direction, &command.action, reason);
    }

    /// The same of what was not with the executor.
    pub(super) fn not_carried_out(&mut self, id: &str, direction: Direction, action: &str, reason: &str) {
        self.track.lineup.retain(|next| next.incident != id || next.direction != direction);
        let reason = format!("{action} did not go through: {reason}");
        self.hold(id, Hold { reason, until_heard: false });
    }

    /// L2: its deadline passed before a call left, so it is looked at anew: a failover is still needed while
    /// its incident is open, a revert always.
    pub(super) fn decide_anew(&mut self, command: Command, perhaps_done: bool) {
        if perhaps_done {
            self.carried(&command.incident, command.direction, command.step);
        }
        let open = self.track.open.as_ref().is_some_and(|incident| incident.id == command.incident);
        let still_needed = open || command.direction == Direction::Revert;
        self.decide_for(
            &command.incident,
            What::DecidedAnew { action: command.action.clone(), still_needed },
        );
        if still_needed {
            let again = Intended {
                deadline_ms: self.now_ms.saturating_add(self.rules.deadline_ms),
                incident: command.incident,
                direction: command.direction,
                step: command.step,
                action: command.action,
                values: command.values,
                replays: command.replays,
                approval: command.approval,
                judged_ms: command.course.judged_ms,
            };
            self.track.lineup.insert(0, again);
        } else {
            self.track
                .lineup
                .retain(|next| next.incident != command.incident || next.direction != Direction::Remediate);
        }
    }

    /// R2: a command that was given up comes back from the dead letters. If its incident still waits for it,
    /// it is decided on anew, and what follows it in its direction with it; otherwise it is fenced off.
    pub(super) fn retried(&mut self, command: &Command) {
        let action = command.action.clone();
        if let Some(reason) = self.moved_on(command) {
            let (decision, reason) = (command.decision, reason.to_string());
            return self.decide_for(&command.incident, What::FencedOff { action, decision, reason });
        }
        let replays = command.replays.saturating_add(1);
        let undoing = self.undoing(command).copied();
        // What follows a step that was carried out has been issued.
        let is_alone = undoing.is_some_and(|undoing| undoing.state == UndoState::NotProven);
        if is_alone {
            self.undo_is(&command.incident, command.step, command.decision, UndoState::Repeated);
        }
        if let Some(incident) = self.incident_mut(&command.incident) {
            incident.undoing.retain(|other| Some(other) != undoing.as_ref());
            incident.held.take_if(|hold| !hold.until_heard && !incident.undoing.iter().any(lies_dead));
        }
        self.decide_for(&command.incident, What::Retried { action, replays });
        let actions = self.actions(command.direction).to_vec();
        let closing = self.track.closing.iter().find(|incident| incident.id == command.incident).cloned();
        let steps = if is_alone { 1 } else { usize::MAX };
        let first = usize::try_from(command.step).unwrap_or(usize::MAX);
        for (step, action) in (0u32..).zip(actions).skip(first).take(steps) {
            let undoes = closing.as_ref().filter(|_| command.direction == Direction::Revert);
            if undoes.is_some_and(|incident| !self.has_to_be_undone(incident, step)) {
                continue;
            }
            let intended = Intended {
                incident: command.incident.clone(),
                direction: command.direction,
                step,
                action,
                deadline_ms: self.now_ms.saturating_add(self.rules.deadline_ms),
                values: command.values.clone(),
                replays,
                approval: None,
                judged_ms: command.course.judged_ms,
            };
            self.track.lineup.push(intended);
        }
        self.advance(true);
    }

    /// Why a command that comes back is no longer what its incident needs.
    fn moved_on(&self, command: &Command) -> Option<&'static str> {
        if command.direction == Direction::Page {
            return Some("a page is not repeated");
        }
        let mut incidents = self.track.open.iter().chain(&self.track.closing);
        let Some(incident) = incidents.find(|incident| incident.id == command.incident) else {
            return Some("the incident is over");
        };
        if self.undoing(command).is_some() {
            return (self.track.lineup.len() >= LINEUP_MAX).then_some("too many decisions wait already");
        }
        let open = self.track.open.as_ref().is_some_and(|open| open.id == command.incident);
        if incident.decision != command.decision || self.under_way(&command.incident, command.direction) {
            return Some("a later decision has replaced it");
        }
        if command.direction == Direction::Remediate && !open {
            return Some("the trouble ended meanwhile");
        }
        (self.track.lineup.len() >= LINEUP_MAX).then_some("too many decisions wait already")
    }

    /// The step of a revert whose dead letter this command is.
    fn undoing(&self, command: &Command) -> Option<&Undoing> {
        let incident = self.track.closing.iter().find(|incident| incident.id == command.incident)?;
        let is_revert = command.direction == Direction::Revert;
        let mut dead = incident.undoing.iter().filter(|undoing| is_revert && lies_dead(undoing));
        dead.find(|undoing| (undoing.step, undoing.decision) == (command.step, command.decision))
    }

    /// Ends an incident in its closing when nothing of it is under way any more. If nothing was done, nothing
    /// is undone.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(incident) = self.track.closing.iter().find(|incident| incident.id == id) else { return };
        let (acted, held) = (incident.acted, incident.held.is_some());
        if self.under_way(id, Direction::Remediate) {
            return;
        }
        let undoing = self.track.outstanding.as_ref().is_some_and(|command| command.incident == id);
        if !acted && !undoing {
            self.track.lineup.retain(|next| next.incident != id);
        }
        let incident = incident.clone();
        let mut lineup = std::mem::take(&mut self.track.lineup);
        lineup.retain(|next| {
            let undoes = next.incident == id && next.direction == Direction::Revert;
            !undoes || self.has_to_be_undone(&incident, next.step)
        });
        self.track.lineup = lineup;
        if self.under_way(id, Direction::Revert) {
            return;
        }
        // A revert that did not go through stays in sight until a person has dealt with it, and one that has until it is
        // seen to have worked.
        let waits = acted && (held || !incident.undoing.is_empty());
        if waits && self.track.closing.len() < LINEUP_MAX {
            return;
        }
        let reason = match (acted, self.rules.revert.act.is_empty()) {
            (true, _) if waits => {
                "not known to be undone; too many incidents of this entity wait for people already"
            }
            (false, _) => "nothing had been done, so nothing had to be undone",
            (true, true) => "over; this playbook undoes nothing",
            (true, false) => "what was done is undone",
        };
        if waits {
            self.page(id, reason);
        }
        if let Some(incident) = self.incident_mut(id) {
            incident.phase = Phase::Resolved;
        }
        self.decide_for(id, What::Closed { reason: reason.into() });
        self.track.closing.retain(|incident| incident.id != id);
    }

    /// A wake-up fired. It is a hint: what it means is read off the state.
    pub(super) fn fired(&mut self, wake_up: &WakeUp, alive: Option<&Alive>) {
        if let Some(armed) = &mut self.track.armed
            && armed.generation == wake_up.generation
        {
            armed.fired = true;
            self.due(alive);
        }
    }

    /// Acts on a fired wake-up once the watermark has passed its deadline, so that it overtakes no event
    /// that was accepted before it (O4).
    pub(super) fn due(&mut self, alive: Option<&Alive>) {
        let ready = |armed: &mut Armed| armed.fired && armed.deadline_ms <= self.watermark_ms;
        if self.track.armed.take_if(ready).is_none() {
            return;
        }
        self.told_too_late();
        self.proven_too_late();
        let past = |deadline_ms| deadline_ms <= self.watermark_ms;
        let (people_due, judged_due) =
            (self.people_until().is_some_and(past), self.judged_at().is_some_and(past));
        if people_due {
            self.time_of_people_over();
        }
        if judged_due {
            let phase = self.track.open.as_ref().map(|incident| incident.phase);
            match phase {
                Some(Phase::Detected) if self.nothing_counts() => {
                    let reason = "what led to it were actions of ours, and nothing else was heard";
                    self.resolve_open(What::Closed { reason: reason.into() });
                }
                Some(Phase::Detected) => {
                    self.counts_from_here();
                    self.confirm(self.track.newest_ms);
                }
                Some(Phase::Stabilized) => self.back_off_over(),
                Some(Phase::Remediating) => self.silence(alive),
                Some(Phase::Resolved) | None => {}
            }
        }
        self.arm();
    }

    fn nothing_counts(&self) -> bool {
        self.track.open.as_ref().is_some_and(|incident| incident.trouble.count == 0)
    }

    fn back_off_over(&mut self) {
        self.counts_from_here();
        self.remediate();
    }

    /// The time to decide had come: deadlines count from here, because waiting was decided, not suffered.
    fn counts_from_here(&mut self) {
        if let Some(incident) = &mut self.track.open {
            incident.counted_ms = incident.counted_ms.max(self.now_ms);
            incident.waited_ms = 0;
        }
    }

    fn silence(&mut self, alive: Option<&Alive>) {
        let Some(incident) = &self.track.open else { return };
        let (id, heard_ms) = (incident.id.clone(), incident.heard_ms);
        match recover::silence_proves_nothing(self.track, heard_ms, self.watermark_ms, alive) {
            Some(reason) => {
                if let Some(incident) = &mut self.track.open {
                    incident.silence_judged = true;
                }
                self.hold(&id, Hold { reason, until_heard: true });
            }
            None => {
                self.counts_from_here();
                self.over(What::SilentlyRecovered { silent_ms: self.watermark_ms.saturating_sub(heard_ms) });
            }
        }
    }

    /// When the state wants to be looked at again without an event. Unix milliseconds.
    fn wanted(&self) -> Option<i64> {
        let times = [self.judged_at(), self.people_until(), self.told_by(), self.proven_by()];
        times.into_iter().flatten().min()
    }

    /// When the open incident is to be judged again.
    fn judged_at(&self) -> Option<i64> {
        let incident = self.track.open.as_ref()?;
        match incident.phase {
            // Nothing of it counts: it has waited for people for long enough.
            Phase::Detected if incident.trouble.count == 0 => {
                recover::silent_at(self.rules, incident.heard_ms)
            }
            Phase::Detected => confirm::confirmed_at(self.rules, incident.counted_ms),
            Phase::Stabilized => incident.not_before_ms,
            Phase::Remediating if incident.silence_judged => None,
            Phase::Remediating => recover::silent_at(self.rules, incident.heard_ms),
            Phase::Resolved => None,
        }
    }

    /// Has the broker wake us, unless an earlier wake-up is under way already: that one will look and arm
    /// the next.
    pub(super) fn arm(&mut self) {
        let Some(deadline_ms) = self.wanted() else { return };
        if self.track.armed.is_some_and(|armed| armed.deadline_ms <= deadline_ms) {
            return;
        }
        let awaiting = self.track.awaiting.as_ref().map(|awaiting| &awaiting.intended.incident);
        let open = self.track.open.as_ref().map(|incident| &incident.id);
        let closing = self.track.closing.first().map(|incident| &incident.id);
        let Some(incident) = open.or(awaiting).or(closing).cloned() else { return };
        self.track.generation = self.track.generation.saturating_add(1);
        let generation = self.track.generation;
        self.track.armed = Some(Armed { generation, deadline_ms, fired: false });
        self.effects.push(Effect::WakeAt(WakeUp {
            key: self.track.key.clone(),
            incident,
            generation,
            deadline_ms,
        }));
    }

    pub(super) fn hold(&mut self, id: &str, hold: Hold) {
        let reason = hold.reason.clone();
        // What waits for a person goes on waiting, whatever is heard.
        if let Some(incident) = self.incident_mut(id)
            && (!hold.until_heard || incident.held.is_none())
        {
            incident.held = Some(hold);
        }
        self.page(id, &reason);
        self.decide_for(id, What::Held { reason });
    }

    /// Has people told. It is no part of what is done about the incident: nothing waits for it, and what comes of it
    /// changes nothing.
    pub(super) fn page(&mut self, id: &str, reason: &str) {
        let Some(pager) = self.rules.pager.clone() else { return };
        let (key, partition, input) = (self.track.key.clone(), self.track.partition, self.input);
        let group = self.track.group.clone();
        let deadline_ms = self.now_ms.saturating_add(PAGE_DEADLINE_MS);
        let Some(incident) = self.incident_mut(id) else { return };
        let mut values = incident.values.clone();
        for (name, text) in [
            ("incident.id", id),
            ("incident.entity", &key.entity),
            ("incident.playbook", &key.playbook),
            ("incident.reason", reason),
        ] {
            values.insert(name.into(), text.into());
        }
        let command = Command {
            incident: id.into(),
            partition,
            key,
            group,
            playbooks: incident.playbooks.clone(),
            direction: Direction::Page,
            // Tells the pages of one incident apart.
            step: u32::try_from(input & u64::from(u32::MAX)).unwrap_or_default(),
            action: pager,
            undo: None,
            decision: incident.decision,
            decided_ms: incident.counted_ms,
            course: Course::default(),
            deadline_ms,
            depth: incident.depth,
            values,
            replays: 0,
            approval: None,
        };
        self.effects.push(Effect::Command(command));
    }

    /// Ends the open incident without having acted.
    fn resolve_open(&mut self, what: What) {
        if let Some(incident) = &mut self.track.open {
            incident.phase = Phase::Resolved;
        }
        self.decide(what);
        self.track.open = None;
    }

    pub(super) fn incident_mut(&mut self, id: &str) -> Option<&mut Incident> {
        self.track.open.iter_mut().chain(&mut self.track.closing).find(|incident| incident.id == id)
    }

    /// Records a decision on the open incident.
    fn decide(&mut self, what: What) {
        if let Some(incident) = &self.track.open {
            let id = incident.id.clone();
            self.decide_for(&id, what);
        }
    }

    pub(super) fn decide_for(&mut self, id: &str, what: What) {
        let mut incidents = self.track.open.iter().chain(&self.track.closing);
        let incident = incidents.find(|incident| incident.id == id);
        let phase = incident.map_or(Phase::Resolved, |incident| incident.phase);
        if let Some(incident) = incident {
            let view = view(self.track, incident, self.rules.threshold);
            self.views.insert(id.into(), view);
        }
        self.decisions.push(Decision {
            at_ms: self.now_ms,
            input: self.input,
            incident: id.into(),
            key: self.track.key.clone(),
            phase,
            what,
        });
    }
}

/// An incident as people see it.
pub(super) fn view(track: &Track, incident: &Incident, threshold: u32) -> View {
    let awaiting = track.awaiting.as_ref().filter(|awaiting| awaiting.intended.incident == incident.id);
    View {
        id: incident.id.clone(),
        partition: track.partition,
        key: track.key.clone(),
        subscription: track.subscription.clone(),
        group: track.group.clone(),
        phase: incident.phase,
        playbooks: incident.playbooks.clone(),
        opened_ms: incident.opened_ms,
        // Of what begins with an echo no event has counted.
        last_event_ms: if track.newest_ms == i64::MIN { incident.opened_ms } else { track.newest_ms },
        consecutive_failures: incident.trouble.count,
        threshold,
        decision: incident.decision,
        held: incident.held.as_ref().map(|hold| hold.reason.clone()),
        awaiting: awaiting.map(|awaiting| awaiting.approval.clone()),
    }
}

/// Whether a step of a revert waits for a person to have it repeated.
pub(super) fn lies_dead(undoing: &Undoing) -> bool {
    matches!(undoing.state, UndoState::NotProven | UndoState::GivenUp)
}

fn nothing_open() -> Verdict {
    Verdict::Unneeded { reason: "no incident is open" }
}
