//! Did it work (E11)? What a look has told comes as an outcome; what the entity's own events say after the remedy is judged
//! here. Nothing is asked for that and nothing of ours is heard: not the answer to our call, and no event that is older.

use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::{Hold, Incident, Probe, UndoState, Undoing};
use holdline_proto::journal::What;
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::signal::Said;

use super::track::Machine;
use crate::explain::duration;

impl Machine<'_> {
    /// What a look has told, or what events have. What was done stays, whatever it is.
    pub(super) fn verified(&mut self, outcome: &Outcome, worked: Option<bool>, seen: &str) {
        let is_awaited = match outcome.direction {
            // Once the trouble is over, what is found may be our own undoing.
            Direction::Remediate => self.track.open.as_ref().is_some_and(|open| open.id == outcome.incident),
            // That of an earlier issue says nothing: who has it repeated waits for the next.
            Direction::Revert => self.undoing_mut(outcome).is_some(),
            Direction::Page => false,
        };
        if !is_awaited {
            return;
        }
        self.decide_for(&outcome.incident, What::Reported(Box::new(outcome.clone())));
        // Of an undo the executor knows whether somebody wants the change again.
        let is_undone = worked == Some(true) || (!self.rules.revert.undo && self.remedies_again());
        match outcome.direction {
            Direction::Revert if is_undone => self.no_longer_undoing(outcome),
            Direction::Revert => {
                if let Some(undoing) = self.undoing_mut(outcome) {
                    undoing.state = UndoState::NotProven;
                }
                self.not_proven(outcome, worked, seen);
            }
            Direction::Remediate if worked != Some(true) => self.not_proven(outcome, worked, seen),
            Direction::Remediate | Direction::Page => {}
        }
        self.settle(&outcome.incident);
    }

    /// New trouble of the entity is remedied already: what a look finds of an earlier revert may be that.
    fn remedies_again(&self) -> bool {
        self.track.open.as_ref().is_some_and(|open| open.acted)
    }

    /// A person's business, like what did not go through.
    fn not_proven(&mut self, outcome: &Outcome, worked: Option<bool>, seen: &str) {
        let undone = outcome.direction == Direction::Revert && self.rules.revert.undo;
        let what = match undone {
            true => format!("the undo of {}", outcome.action),
            false => outcome.action.clone(),
        };
        let reason = match worked {
            Some(_) => format!("{what} was carried out and did not work: {seen}"),
            None => format!("{what} was carried out and it is not known whether it worked: {seen}"),
        };
        self.hold(&outcome.incident, Hold { reason, until_heard: false });
    }

    /// A step of a revert was reported: carried, it is not over before a look has told whether it worked.
    pub(super) fn await_proof(&mut self, outcome: &Outcome) {
        if outcome.direction != Direction::Revert {
            return;
        }
        let (id, step) = (&outcome.incident, outcome.step);
        match outcome.verdict_within_ms {
            Some(within_ms) => {
                let until_ms = self.now_ms.saturating_add(within_ms);
                self.undo_is(id, step, outcome.decision, UndoState::Carried { until_ms });
            }
            None => {
                if let Some(incident) = self.incident_mut(id) {
                    incident.undoing.retain(|undoing| undoing.step != step);
                }
            }
        }
    }

    /// A step of a revert did not go through. What follows one that is repeated for want of proof has been issued.
    pub(super) fn undo_gave_up(&mut self, id: &str, step: u32, decision: u32) {
        let is_repeated = self.incident_mut(id).is_some_and(|incident| {
            incident
                .undoing
                .iter()
                .any(|undoing| undoing.step == step && undoing.state == UndoState::Repeated)
        });
        let state = if is_repeated { UndoState::NotProven } else { UndoState::GivenUp };
        self.undo_is(id, step, decision, state);
    }

    pub(super) fn undo_is(&mut self, id: &str, step: u32, decision: u32, state: UndoState) {
        if let Some(incident) = self.incident_mut(id) {
            incident.undoing.retain(|undoing| undoing.step != step);
            incident.undoing.push(Undoing { step, decision, state });
        }
    }

    fn undoing_mut(&mut self, outcome: &Outcome) -> Option<&mut Undoing> {
        let issue = (outcome.step, outcome.decision);
        let incident = self.incident_mut(&outcome.incident)?;
        incident.undoing.iter_mut().find(|undoing| (undoing.step, undoing.decision) == issue)
    }

    fn no_longer_undoing(&mut self, outcome: &Outcome) {
        let issue = (outcome.step, outcome.decision);
        if let Some(incident) = self.incident_mut(&outcome.incident) {
            incident.undoing.retain(|undoing| (undoing.step, undoing.decision) != issue);
        }
    }

    /// Until when a look must have told of every revert that was carried out. Unix milliseconds.
    pub(super) fn proven_by(&self) -> Option<i64> {
        self.track.closing.iter().flat_map(|incident| &incident.undoing).filter_map(until_ms).min()
    }

    /// Whoever was to look has not told: people are, and nothing more is waited for.
    pub(super) fn proven_too_late(&mut self) {
        let watermark_ms = self.watermark_ms;
        let is_late = |undoing: &Undoing| until_ms(undoing).is_some_and(|until_ms| until_ms <= watermark_ms);
        let late = |incident: &&mut Incident| incident.undoing.iter().any(is_late);
        let mut ids = vec![];
        for incident in self.track.closing.iter_mut().filter(late) {
            incident.undoing.retain(|undoing| !is_late(undoing));
            ids.push(incident.id.clone());
        }
        for id in ids {
            let reason =
                "what was done is undone, and nobody has told in time whether that shows".to_string();
            self.page(&id, &reason);
            self.decide_for(&id, What::Held { reason });
            self.settle(&id);
        }
    }

    /// A command was reported carried: after the last remedy its entity is listened to.
    pub(super) fn listen(&mut self, command: &Command) {
        let Some(listening) = self.rules.listening else { return };
        let last = usize::try_from(command.step).is_ok_and(|step| step + 1 == self.rules.act.len());
        if command.direction != Direction::Remediate || !last {
            return;
        }
        let from_ms = self.now_ms.saturating_add(listening.after_ms);
        // An incident that has ended meanwhile needs no verdict: what was done is being undone.
        let open = self.track.open.as_mut().filter(|incident| incident.id == command.incident);
        if let Some(incident) = open {
            incident.probe = Some(Probe {
                action: command.action.clone(),
                step: command.step,
                decision: command.decision,
                from_ms,
                until_ms: from_ms.saturating_add(listening.within_ms),
                otherwise: None,
                unjudged: None,
            });
        }
    }

    /// An event of the entity says something of the remedies. That they worked ends it; that they did not may still
    /// change, for as long as there is time.
    pub(super) fn said(&mut self, said: &Said) {
        let probe = self.track.open.as_mut().and_then(|incident| incident.probe.as_mut());
        let Some(probe) = probe.filter(|probe| said.at_ms >= probe.from_ms) else { return };
        match said.worked {
            Some(true) => self.conclude(Some(true), format!("event {} says so", said.event_id)),
            Some(false) => probe.otherwise = Some(said.event_id.clone()),
            None => probe.unjudged = Some(said.event_id.clone()),
        }
    }

    /// When nothing more is waited for. Unix milliseconds.
    pub(super) fn told_by(&self) -> Option<i64> {
        Some(self.track.open.as_ref()?.probe.as_ref()?.until_ms)
    }

    /// Everything that was accepted in time has been read, and nothing has said that it worked.
    pub(super) fn told_too_late(&mut self) {
        let probe = self.track.open.as_ref().and_then(|incident| incident.probe.as_ref());
        let Some(probe) = probe.filter(|probe| probe.until_ms <= self.watermark_ms) else { return };
        let within = duration(probe.until_ms.saturating_sub(probe.from_ms));
        let (worked, seen) = match (&probe.otherwise, &probe.unjudged) {
            (Some(id), _) => {
                (Some(false), format!("no event says so within {within}, and event {id} denies it"))
            }
            (None, Some(id)) => (None, format!("event {id} has not what `worked` asks for")),
            (None, None) => (None, format!("no event of it was heard within {within}")),
        };
        self.conclude(worked, seen);
    }

    /// The verdict, told as that of a look is.
    fn conclude(&mut self, worked: Option<bool>, seen: String) {
        let Some(Incident { id, probe, .. }) = &mut self.track.open else { return };
        let (incident, Some(probe)) = (id.clone(), probe.take()) else { return };
        self.verified(
            &Outcome {
                incident,
                key: self.track.key.clone(),
                direction: Direction::Remediate,
                step: probe.step,
                action: probe.action,
                decision: probe.decision,
                result: Done::Verified { worked, seen: seen.clone() },
                attempts: 0,
                took_ms: 0,
                shares: None,
                verdict_within_ms: None,
            },
            worked,
            &seen,
        );
    }
}

fn until_ms(undoing: &Undoing) -> Option<i64> {
    match undoing.state {
        UndoState::Carried { until_ms } => Some(until_ms),
        UndoState::NotProven | UndoState::Repeated | UndoState::GivenUp => None,
    }
}
