//! After a remedy was carried out: does it work? The command stays with the broker until that is told, between the
//! looks as well; what a look says stands in `decide::verify`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use holdline_decide::native::Call;
use holdline_decide::playbook::Set;
use holdline_decide::rate::Purpose;
use holdline_decide::verify::{self, Look, Next, Verify};
use holdline_platform::rate::Pace;
use holdline_proto::command::{Command, Direction};
use holdline_proto::outcome::{Done, Outcome};
use holdline_proto::wire;
use holdline_stage::bus::StoreError;
use holdline_stage::playbooks::SetError;
use holdline_stage::queue::Answer;
use serde_json::Value;

use crate::call::Destination;
use crate::protocol::Executor;

/// Bytes of an answer that are read.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What is looked at after this command, if it is the last of its remedies. Where events tell, nothing is: the debouncer
/// hears them.
pub(crate) fn of<'a>(set: &'a Set, command: &Command) -> Option<(&'a Verify, &'a Look)> {
    let playbook = set.playbooks.get(&command.key.playbook)?;
    let rules = playbook.rules(command.key.lane)?;
    let is_last = usize::try_from(command.step).is_ok_and(|step| step + 1 == rules.act.len());
    let verify = playbook.verify.get(&command.key.lane)?;
    let look = verify.look.as_ref()?;
    (command.direction == Direction::Remediate && is_last).then_some((verify, look))
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
        let carried = wire::decode::<Outcome>(&outcome.payload)
            .is_ok_and(|outcome| matches!(outcome.result, Done::Carried { .. }));
        if !carried {
            return Ok(Answer::Done);
        }
        let Some(set) = self.set_to_look_by(command).await? else { return Ok(Answer::Done) };
        let Some((verify, look)) = of(&set, command) else { return Ok(Answer::Done) };
        let key = format!("{}-verified", command.issue_key());
        if self.outcome_under(command, &key).await?.is_some() {
            return Ok(Answer::Done);
        }
        let acted_ms = i64::try_from(outcome.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        if let Some(wait_ms) = verify::due(verify, acted_ms, self.time.now_ms()) {
            return Ok(later(wait_ms));
        }
        let seen = self.see(&set, command, look).await;
        match verify::judge(verify, &seen, acted_ms, self.time.now_ms()) {
            Next::Look { after_ms } => Ok(later(after_ms)),
            Next::Report(done) => {
                self.publish(command, &key, &Outcome::of(command, done, 0)).await?;
                Ok(Answer::Done)
            }
        }
    }

    /// Waits for a look's turn, which leaves alone what is kept for remedies.
    async fn may_look(&self, pace: &Pace) -> Result<(), String> {
        self.rates.leave(pace, Purpose::Other).await.map_err(|error| error.to_string())
    }

    /// What is there now, or why that cannot be told.
    async fn see(&self, set: &Set, command: &Command, look: &Look) -> Result<Value, String> {
        match look {
            Look::Platform { path, client } => {
                let filled = path.render(&command.values).map_err(|error| error.to_string())?;
                let platform = set.platform.as_ref().ok_or("there is no platform")?;
                let (client, _) = platform.client(client.as_deref()).ok_or("there is no such client")?;
                let pace = Pace::of(platform, client);
                self.api.prepare(platform, client).await;
                self.may_look(&pace).await?;
                let call = Call::get(Look::api_path(&filled).to_string());
                let answer =
                    self.api.send(platform, client, &call).await.map_err(|error| error.to_string())?;
                self.rates.learn(&pace, &answer.limits).await;
                match answer.status {
                    200..300 => Ok(answer.body),
                    status => Err(format!("the platform answered {status}")),
                }
            }
            Look::Http(url) => {
                let filled = url.render(&command.values).map_err(|error| error.to_string())?;
                let destination = Destination::of(&filled, set)?;
                self.may_look(&destination.pace).await?;
                let (status, body) = self.caller.look(&destination, BODY_BYTES_MAX).await?;
                match status {
                    200..300 => {
                        serde_json::from_slice(&body).map_err(|error| format!("it answered no JSON: {error}"))
                    }
                    status => Err(format!("it answered {status}")),
                }
            }
        }
    }
}

pub(crate) fn later(wait_ms: i64) -> Answer {
    Answer::Later(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)))
}
