//! What waits for people: asked for by the executor, given back to it once they have decided (E7). Whether what they
//! said counts is the executor's to judge, when it is about to call.

use holdline_proto::approval::{Ruled, Verdict};
use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::{Awaiting, Hold, Intended};
use holdline_proto::journal::What;

use super::track::{Machine, lies_dead};

impl Machine<'_> {
    /// The executor has asked people. Their time is not the command's: its deadline counts anew from their word.
    pub(super) fn await_people(
        &mut self,
        command: Command,
        approval: &str,
        until_ms: i64,
        unless_denied: bool,
    ) {
        let open = self.track.open.as_ref().is_some_and(|incident| incident.id == command.incident);
        if command.direction == Direction::Remediate && !open {
            return self.decide_anew(command, false);
        }
        let (id, action, entity) =
            (command.incident.clone(), command.action.clone(), self.track.key.entity.clone());
        self.track.awaiting = Some(Awaiting {
            approval: approval.into(),
            intended: Intended {
                incident: command.incident,
                direction: command.direction,
                step: command.step,
                action: command.action,
                deadline_ms: command.deadline_ms,
                values: command.values,
                replays: command.replays,
                approval: None,
                judged_ms: command.course.judged_ms,
            },
            until_ms,
            unless_denied,
        });
        let how = if unless_denied { "is sent unless somebody objects" } else { "waits for approval" };
        let reason = format!("{action} for {entity} {how}: approval {approval}");
        self.hold(&id, Hold { reason, until_heard: false });
    }

    /// People have decided.
    pub(super) fn ruled(&mut self, ruled: &Ruled) {
        let meant = |awaiting: &mut Awaiting| awaiting.approval == ruled.approval;
        let Some(awaiting) = self.track.awaiting.take_if(meant) else {
            let what = What::RuledInVain { approval: ruled.approval.clone(), by: ruled.by.clone() };
            return self.decide_for(&ruled.incident, what);
        };
        let intended = awaiting.intended;
        let id = intended.incident.clone();
        self.decide_for(
            &id,
            What::Ruled {
                action: intended.action.clone(),
                verdict: ruled.verdict,
                by: ruled.by.clone(),
                reason: ruled.reason.clone(),
            },
        );
        match ruled.verdict {
            Verdict::Approve => self.issue_allowed(intended, Some(awaiting.approval)),
            Verdict::Deny => {
                let reason = format!("denied by {}: {}", ruled.by, ruled.reason);
                if intended.direction == Direction::Revert {
                    let decision = self.incident_mut(&id).map_or(0, |incident| incident.decision);
                    self.undo_gave_up(&id, intended.step, decision);
                }
                self.not_carried_out(&intended.incident, intended.direction, &intended.action, &reason);
            }
        }
        self.settle(&id);
        self.advance(true);
        self.arm();
    }

    /// Until when what waits for people is left to them. Unix milliseconds.
    pub(super) fn people_until(&self) -> Option<i64> {
        self.track.awaiting.as_ref().map(|awaiting| awaiting.until_ms)
    }

    /// People have had their time.
    pub(super) fn time_of_people_over(&mut self) {
        let Some(awaiting) = self.track.awaiting.take() else { return };
        let (action, id) = (awaiting.intended.action.clone(), awaiting.intended.incident.clone());
        if awaiting.unless_denied {
            self.decide_for(&id, What::NobodyObjected { action });
            self.issue_allowed(awaiting.intended, Some(awaiting.approval));
        } else {
            self.decide_for(&id, What::NobodyDecided { action });
            // Asked anew, people are shown what is so now: of a revert, unless it undoes what was done. What an event of
            // health says is no place to act on.
            let mut intended = awaiting.intended;
            if intended.direction == Direction::Revert
                && !self.rules.revert.undo
                && let Some(incident) = self.incident_mut(&id)
            {
                intended.values.clone_from(&incident.values);
            }
            self.issue_allowed(intended, None);
        }
        self.advance(true);
    }

    /// Puts what had waited first in line.
    fn issue_allowed(&mut self, intended: Intended, approval: Option<String>) {
        if let Some(incident) = self.incident_mut(&intended.incident) {
            incident.held.take_if(|_| !incident.undoing.iter().any(lies_dead));
        }
        let deadline_ms = self.now_ms.saturating_add(self.rules.deadline_ms);
        self.track.lineup.insert(0, Intended { deadline_ms, approval, ..intended });
    }
}
