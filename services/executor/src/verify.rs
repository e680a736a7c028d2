//! After a remedy or its undo was carried out: has it worked? The command stays with the broker until that is told, between
//! the looks as well; what a look says stands in `decide::verify`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use holdline_decide::execute::{self, UNCHANGED};
use holdline_decide::native::{self, Call, Change, InForce, Kept, Proof};
use holdline_decide::playbook::{Doing, Native, Set};
use holdline_decide::rate::Purpose;
use holdline_decide::verify::{self, Look, Looking, Next, Verify};
use holdline_platform::Failed;
use holdline_platform::rate::Pace;
use holdline_proto::command::{Command, Direction};
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::incident::{Phase, View};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use holdline_stage::bus::StoreError;
use holdline_stage::clock;
use holdline_stage::playbooks::SetError;
use holdline_stage::queue::{Answer, Work};
use serde_json::{Value, json};

use crate::call::Destination;
use crate::kept::{self, Entry};
use crate::native::PAGES_MAX;
use crate::protocol::Executor;

/// What cannot be looked at now is looked at again after this, at the earliest.
const NOT_NOW_WAIT: Duration = Duration::from_secs(1);

/// An undo whose change another remedy has begun to make anew is looked at again after this.
const BEGUN_WAIT_MS: i64 = 1_000;

/// Bytes of an answer that are read.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What is looked at after a command was carried out.
pub(crate) enum Probe<'a> {
    /// What its playbook says, of the last of its remedies.
    Asked(&'a Verify, &'a Look),
    /// What it is to have changed, or to have put back.
    Change { native: &'a Native, change: Box<Change>, is_undo: bool },
}

/// What is looked at after this command. Where events tell, the debouncer hears them.
fn of<'a>(set: &'a Set, command: &Command) -> Option<Probe<'a>> {
    let playbook = set.playbooks.get(&command.key.playbook)?;
    let rules = playbook.rules(command.key.lane)?;
    let is_last = usize::try_from(command.step).is_ok_and(|step| step + 1 == rules.act.len());
    let verify = playbook.verify.get(&command.key.lane);
    match (verify.filter(|_| is_last), command.direction) {
        (_, Direction::Page) => return None,
        (Some(verify), Direction::Remediate) => return Some(Probe::Asked(verify, verify.look.as_ref()?)),
        (_, Direction::Remediate | Direction::Revert) => {}
    }
    let Doing::Native(native) = &set.actions.get(&command.action)?.what else { return None };
    let change = execute::change(native, command).ok()?;
    // What was only started cannot be repeated, so that it has failed could lead to nothing.
    let is_shown = command.direction == Direction::Remediate || change.look().is_some();
    let is_undo = command.undo.is_some();
    is_shown.then(|| Probe::Change { native, change: Box::new(change), is_undo })
}

impl Probe<'_> {
    /// Whether this says something: nothing was called, where it had just been looked at and was so already.
    fn says(&self, status: u16) -> bool {
        !matches!((self, status), (Probe::Change { .. }, UNCHANGED))
    }

    /// When it is looked at. Without a proof: at once, for nothing would be seen later.
    fn looking(&self, acted_ms: i64, proof: Option<&Proof>) -> Looking {
        let (after_ms, within_ms) = match (self, proof) {
            (Probe::Asked(verify, _), _) => (verify.after_ms, verify.within_ms),
            (Probe::Change { .. }, Some(proof)) => (proof.after_ms, proof.within_ms),
            (Probe::Change { .. }, None) => (0, 0),
        };
        Looking { acted_ms, after_ms, within_ms }
    }
}

/// Why there is no answer.
enum Unseen {
    /// It cannot be asked for this long: there is no turn in the rate window, or no token.
    NotNow(Duration),
    Because(String),
}

impl From<String> for Unseen {
    fn from(reason: String) -> Unseen {
        Unseen::Because(reason)
    }
}

impl Executor {
    /// The set of a command that was carried out, by which it may have to be looked at.
    ///
    /// # Errors
    /// When it cannot be had now: then that is not known, and the command must come again.
    pub(crate) async fn set_to_look_by(&self, command: &Command) -> Result<Option<Arc<Set>>, StoreError> {
        if command.direction == Direction::Page {
            return Ok(None);
        }
        match self.playbooks.by_hash(&command.playbooks).await {
            Ok(set) => Ok(Some(set)),
            Err(SetError::Unreachable(error)) => Err(error),
            // There is no such set any more, so it says nothing.
            Err(_) => Ok(None),
        }
    }

    /// A command whose outcome stands: what is still to be done about it.
    pub(crate) async fn follow_up(
        &self,
        work: &Work,
        command: &Command,
        outcome: &StreamMessage,
    ) -> Result<Answer, StoreError> {
        let Ok(Outcome { result: Done::Carried { status }, verdict_within_ms, .. }) =
            wire::decode(&outcome.payload)
        else {
            return Ok(Answer::Done);
        };
        let is_revert = command.direction == Direction::Revert;
        let key = format!("{}-verified", command.issue_key());
        if is_revert && verdict_within_ms.is_none()
            || self.outcome_under(command, &key).await?.is_some()
            || self.is_over(command).await?
        {
            return Ok(Answer::Done);
        }
        let set = self.set_to_look_by(command).await?;
        let probe = set.as_ref().and_then(|set| Some((set, of(set, command)?)));
        let Some((set, probe)) = probe.filter(|(_, probe)| probe.says(status)) else {
            if is_revert {
                let (worked, seen) = match set {
                    Some(_) => (Some(true), "there is nothing to look at"),
                    None => (None, "it is not known any more what to look at"),
                };
                let done = Done::Verified { worked, seen: seen.into() };
                self.judged(work, command, &key, done, None).await?;
            }
            return Ok(Answer::Done);
        };
        let acted_ms = i64::try_from(outcome.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let proof = match &probe {
            Probe::Asked(..) => None,
            Probe::Change { change, .. } => {
                let kept = kept::of(&self.bus, change, command).await?.known.unwrap_or_default().kept;
                native::proof(change, &kept)
            }
        };
        let looking = probe.looking(acted_ms, proof.as_ref());
        if let Some(wait_ms) = looking.due(self.time.now_ms()) {
            return Ok(later(wait_ms));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = match (&probe, &proof) {
                (Probe::Asked(_, look), _) => self.see(set, command, look).await,
                (Probe::Change { native, .. }, Some(proof)) => self.see_proof(set, native, proof).await,
                (Probe::Change { .. }, None) => {
                    Err(Unseen::Because("what was started has no known id".into()))
                }
            };
            let answer = match answer {
                Err(Unseen::NotNow(wait)) if looking.waits_for_a_turn(self.time.now_ms()) => {
                    return Ok(Answer::Later(wait.max(NOT_NOW_WAIT)));
                }
                Err(Unseen::NotNow(wait)) => Err(format!("it cannot be looked at for another {wait:?}")),
                Err(Unseen::Because(reason)) => Err(reason),
                Ok(body) => Ok(body),
            };
            let mut undone = None;
            let seen = match &probe {
                Probe::Asked(verify, _) => verify::seen(verify, &answer),
                Probe::Change { change, is_undo: false, .. } => verify::seen_of_change(change, &answer),
                Probe::Change { change, is_undo: true, .. } => {
                    // After the look: who has changed it before that has said so before.
                    let entry = kept::of(&self.bus, change, command).await?;
                    let known = entry.known.clone().unwrap_or_default();
                    undone = Some(entry);
                    verify::seen_of_undo(change, &known, acted_ms, &answer)
                }
            };
            match looking.judge(seen, tries, self.time.now_ms()) {
                Next::Look { after_ms } => return Ok(later(after_ms)),
                // Not by another delivery: how often this was tried is written down nowhere.
                Next::Again { after_ms } => tokio::select! {
                    () = clock::sleep(duration(after_ms)) => {}
                    () = self.tasks.stopping() => return Ok(later(after_ms)),
                },
                Next::Report(done) => {
                    // Whoever has begun to make the change anew has it carried or called off by and by.
                    let is_begun = |known: &InForce| known.undone_ms.is_some() && !known.begun.is_empty();
                    let known = undone.as_ref().and_then(|entry: &Entry<InForce>| entry.known.as_ref());
                    if known.is_some_and(is_begun) && looking.waits_for_a_turn(self.time.now_ms()) {
                        return Ok(later(BEGUN_WAIT_MS));
                    }
                    let undone = undone.map(|entry| (entry, acted_ms));
                    self.judged(work, command, &key, done, undone).await?;
                    return Ok(Answer::Done);
                }
            }
        }
    }

    /// Tells a verdict. What was put back and is not seen to be is to be put back still, unless somebody wants the change
    /// again; and a revert that is not proven can be had repeated, as one that did not go through. `undone`: what was known
    /// of the change when it was seen, and when its undo was reported carried.
    async fn judged(
        &self,
        work: &Work,
        command: &Command,
        key: &str,
        done: Done,
        undone: Option<(Entry<InForce>, i64)>,
    ) -> Result<(), StoreError> {
        if let Done::Verified { worked, seen } = &done
            && command.direction == Direction::Revert
        {
            // Whoever stood still since his look has been overtaken by another's.
            if self.outcome_under(command, key).await?.is_some() {
                return Ok(());
            }
            let has_worked = *worked == Some(true);
            if let Some((mut entry, acted_ms)) = undone
                && let Some(known) = entry.known.take().filter(|known| known.relying.is_empty())
            {
                match has_worked {
                    // Who has begun to make it anew is not to be got in the way of.
                    true if known.undone_ms.is_none() || !known.begun.is_empty() => {}
                    true => drop(kept::write(&self.bus, &entry, known.proven(acted_ms)).await?),
                    false => drop(kept::write(&self.bus, &entry, known.not_undone()).await?),
                }
            }
            if !has_worked {
                let reason = format!("it was carried out, and is not seen to have worked: {seen}");
                self.park(work, DeadLetter { reason, ..DeadLetter::default() }).await?;
            }
        }
        self.publish(command, key, &Outcome::of(command, done, 0)).await
    }

    /// Whether nobody waits for a verdict any more: what was done is undone.
    async fn is_over(&self, command: &Command) -> Result<bool, StoreError> {
        let entry = self.bus.get(Bucket::Incidents, &command.incident).await?;
        let view = entry.and_then(|entry| wire::decode::<View>(&entry.value).ok());
        Ok(view.is_some_and(|view| view.phase == Phase::Resolved))
    }

    /// Waits for a look's turn, which leaves alone what is kept for remedies.
    async fn may_look(&self, pace: &Pace) -> Result<(), Unseen> {
        self.rates.leave(pace, Purpose::Other).await.map_err(|no_turn| Unseen::NotNow(no_turn.wait()))
    }

    /// What is there now, or why that cannot be told.
    async fn see(&self, set: &Set, command: &Command, look: &Look) -> Result<Value, Unseen> {
        match look {
            Look::Platform { path, client } => {
                let filled = path.render(&command.values).map_err(|error| error.to_string())?;
                let call = Call::get(Look::api_path(&filled).to_string());
                self.see_platform(set, client.as_deref(), &call).await
            }
            Look::Http(url) => {
                let filled = url.render(&command.values).map_err(|error| error.to_string())?;
                let destination = Destination::of(&filled, set)?;
                self.may_look(&destination.pace).await?;
                let (status, body) = self.caller.look(&destination, BODY_BYTES_MAX).await?;
                match status {
                    200..300 => {
                        let body = serde_json::from_slice(&body);
                        body.map_err(|error| format!("it answered no JSON: {error}").into())
                    }
                    status => Err(format!("it answered {status}").into()),
                }
            }
        }
    }

    /// The same of what a native action is to have changed.
    async fn see_proof(&self, set: &Set, native: &Native, proof: &Proof) -> Result<Value, Unseen> {
        let client = native.client.as_deref();
        if !proof.paged {
            return self.see_platform(set, client, &Call::get(proof.path.clone())).await;
        }
        let mut entities = vec![];
        for number in 1..=PAGES_MAX {
            let page = self.see_platform(set, client, &Call::page(&proof.path, number)).await?;
            if !native::add_page(&mut entities, &page) {
                return Ok(json!({"entities": entities}));
            }
        }
        Err(format!("there are more than {PAGES_MAX} pages of it").into())
    }

    async fn see_platform(&self, set: &Set, client: Option<&str>, call: &Call) -> Result<Value, Unseen> {
        let platform = set.platform.as_ref().ok_or_else(|| "there is no platform".to_string())?;
        let (client, _) = platform.client(client).ok_or_else(|| "there is no such client".to_string())?;
        let pace = Pace::of(platform, client);
        self.api.prepare(platform, client).await;
        self.may_look(&pace).await?;
        let answer = match self.api.send_now(platform, client, call).await {
            Ok(answer) => answer,
            Err(Failed::Throttled { retry_after_ms, .. }) => {
                return Err(Unseen::NotNow(Duration::from_millis(retry_after_ms)));
            }
            Err(error) => return Err(error.to_string().into()),
        };
        self.rates.learn(&pace, &answer.limits).await;
        match answer.status {
            200..300 => Ok(answer.body),
            // Asked too often, or with a token that is being replaced: that says nothing of the remedy.
            401 | 429 => {
                let retry_after_ms = answer.retry_after_ms.unwrap_or(0);
                Err(Unseen::NotNow(Duration::from_millis(retry_after_ms)))
            }
            status => Err(format!("the platform answered {status}: {}", answer.message()).into()),
        }
    }
}

/// When a command that was carried out is looked at, if it is; what was started is known by its id from the first look on.
pub(crate) fn first_look(set: &Set, command: &Command, status: u16) -> Option<Looking> {
    let probe = of(set, command).filter(|probe| probe.says(status))?;
    let proof = match &probe {
        Probe::Asked(..) => None,
        Probe::Change { change, .. } => native::proof(change, &Kept::default()),
    };
    Some(probe.looking(0, proof.as_ref()))
}

pub(crate) fn later(wait_ms: i64) -> Answer {
    Answer::Later(duration(wait_ms))
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
