//! After a remedy was carried out: does it work? The command stays with the broker until that is told, between the
//! looks as well; what a look says stands in `decide::verify`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use holdline_decide::execute::{self, UNCHANGED};
use holdline_decide::native::{self, Call, Change, Kept, Proof};
use holdline_decide::playbook::{Doing, Native, Set};
use holdline_decide::rate::Purpose;
use holdline_decide::verify::{self, Look, Looking, Next, Verify};
use holdline_platform::Failed;
use holdline_platform::rate::Pace;
use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::{Phase, View};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use holdline_stage::bus::StoreError;
use holdline_stage::clock;
use holdline_stage::playbooks::SetError;
use holdline_stage::queue::Answer;
use serde_json::{Value, json};

use crate::call::Destination;
use crate::kept;
use crate::native::PAGES_MAX;
use crate::protocol::Executor;

/// What cannot be looked at now is looked at again after this, at the earliest.
const NOT_NOW_WAIT: Duration = Duration::from_secs(1);

/// Bytes of an answer that are read.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What a remedy that was carried out is looked at for.
pub(crate) enum Probe<'a> {
    /// What its playbook says, of the last of its remedies.
    Asked(&'a Verify, &'a Look),
    /// What it is to have changed.
    Change(&'a Native, Box<Change>),
}

/// What is looked at after this command. Where events tell, the debouncer hears them.
fn of<'a>(set: &'a Set, command: &Command) -> Option<Probe<'a>> {
    let playbook = set.playbooks.get(&command.key.playbook)?;
    let rules = playbook.rules(command.key.lane)?;
    if command.direction != Direction::Remediate {
        return None;
    }
    let is_last = usize::try_from(command.step).is_ok_and(|step| step + 1 == rules.act.len());
    if let Some(verify) = playbook.verify.get(&command.key.lane).filter(|_| is_last) {
        return Some(Probe::Asked(verify, verify.look.as_ref()?));
    }
    match &set.actions.get(&command.action)?.what {
        Doing::Native(native) => {
            Some(Probe::Change(native, Box::new(execute::change(native, command).ok()?)))
        }
        Doing::Webhook(_) => None,
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
    /// The set of a remedy that was carried out, by which it may have to be looked at.
    ///
    /// # Errors
    /// When it cannot be had now: then that is not known, and the command must come again.
    pub(crate) async fn set_to_look_by(&self, command: &Command) -> Result<Option<Arc<Set>>, StoreError> {
        if command.direction != Direction::Remediate {
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
        command: &Command,
        outcome: &StreamMessage,
    ) -> Result<Answer, StoreError> {
        let Ok(Outcome { result: Done::Carried { status: carried }, .. }) = wire::decode(&outcome.payload)
        else {
            return Ok(Answer::Done);
        };
        let Some(set) = self.set_to_look_by(command).await? else { return Ok(Answer::Done) };
        let Some(probe) = of(&set, command) else { return Ok(Answer::Done) };
        // Nothing was called: it had just been looked at, and was so already.
        if matches!((&probe, carried), (Probe::Change(..), UNCHANGED)) {
            return Ok(Answer::Done);
        }
        let key = format!("{}-verified", command.issue_key());
        if self.outcome_under(command, &key).await?.is_some() {
            return Ok(Answer::Done);
        }
        let acted_ms = i64::try_from(outcome.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let proof = match &probe {
            Probe::Asked(..) => None,
            Probe::Change(_, change) => {
                let kept = kept::of(&self.bus, change, command).await?.known.unwrap_or_default().kept;
                native::proof(change, &kept)
            }
        };
        let looking = match (&probe, &proof) {
            (Probe::Asked(verify, _), _) => {
                Looking { acted_ms, after_ms: verify.after_ms, within_ms: verify.within_ms }
            }
            (_, Some(proof)) => Looking { acted_ms, after_ms: proof.after_ms, within_ms: proof.within_ms },
            (_, None) => Looking { acted_ms, after_ms: 0, within_ms: 0 },
        };
        if let Some(wait_ms) = looking.due(self.time.now_ms()) {
            return Ok(later(wait_ms));
        }
        if self.is_over(command).await? {
            return Ok(Answer::Done);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = match (&probe, &proof) {
                (Probe::Asked(_, look), _) => self.see(&set, command, look).await,
                (Probe::Change(native, _), Some(proof)) => self.see_proof(&set, native, proof).await,
                (Probe::Change(..), None) => Err(Unseen::Because("what was started has no known id".into())),
            };
            let answer = match answer {
                Err(Unseen::NotNow(wait)) if looking.waits_for_a_turn(self.time.now_ms()) => {
                    return Ok(Answer::Later(wait.max(NOT_NOW_WAIT)));
                }
                Err(Unseen::NotNow(wait)) => Err(format!("it cannot be looked at for another {wait:?}")),
                Err(Unseen::Because(reason)) => Err(reason),
                Ok(body) => Ok(body),
            };
            let seen = match &probe {
                Probe::Asked(verify, _) => verify::seen(verify, &answer),
                Probe::Change(_, change) => verify::seen_of_change(change, &answer),
            };
            match looking.judge(seen, tries, self.time.now_ms()) {
                Next::Look { after_ms } => return Ok(later(after_ms)),
                // Not by another delivery: how often this was tried is written down nowhere.
                Next::Again { after_ms } => tokio::select! {
                    () = clock::sleep(duration(after_ms)) => {}
                    () = self.tasks.stopping() => return Ok(later(after_ms)),
                },
                Next::Report(done) => {
                    self.publish(command, &key, &Outcome::of(command, done, 0)).await?;
                    return Ok(Answer::Done);
                }
            }
        }
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
                break;
            }
        }
        Ok(json!({"entities": entities}))
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

/// After which wait a command that was carried out comes again to be looked at.
pub(crate) fn first_look(set: &Set, command: &Command, status: u16) -> Option<Answer> {
    match of(set, command)? {
        Probe::Asked(verify, _) => Some(later(verify.after_ms)),
        Probe::Change(..) if status == UNCHANGED => None,
        Probe::Change(_, change) => {
            // What was started is known by its id from then on; until then a moment will do.
            Some(later(native::proof(&change, &Kept::default()).map_or(0, |proof| proof.after_ms)))
        }
    }
}

fn later(wait_ms: i64) -> Answer {
    Answer::Later(duration(wait_ms))
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
