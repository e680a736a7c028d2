//! Brings dead letters back, or leaves them to a person.
//!
//! A letter that may go through another time waits out its tiers as schedules of the broker; when one has run
//! out (or a person asks) and what failed is there again ([`gate`]), it goes back to the input of the stage
//! that gave it up ([`back`]), with its original place. What stays is told by an alert event ([`alert`]).
//! Invariants: a letter leaves DEAD only after what takes its place is durable; what became of it stays on
//! record; a command goes back to the debouncer, never straight to the executor.

mod alert;
mod back;
mod gate;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use holdline_decide::playbook::{self, Set};
use holdline_decide::retry::{Plan, TIERS_MS, plan};
use holdline_proto::dead_letter::{DeadLetter, Recall, Resolved, Wish};
use holdline_proto::topology::{DLQ_CONSUMER, RESOLVED, Role, Stream};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::crash::{self, Point};
use holdline_stage::dead_letter;
use holdline_stage::playbooks::{Playbooks, installation};
use holdline_stage::queue::{self, Answer, Work};
use holdline_stage::run::Shell;
use holdline_stage::settings::Reader;
use holdline_stage::telemetry::Metric;

use back::Back;
use gate::Gate;

/// Recalls under way at once.
const AT_ONCE: usize = 16;

/// A letter that cannot be dealt with now is looked at again after this.
const LATER: Duration = Duration::from_secs(2);

/// Settings of the dlq-replayer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a letter waits before each time that it comes back by itself. Milliseconds.
    pub tiers_ms: Vec<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { tiers_ms: TIERS_MS.to_vec() }
    }
}

impl Settings {
    /// Reads `replayer.tiers_s`: seconds, separated by commas.
    pub fn read(reader: &mut Reader) -> Settings {
        let Some(text) = reader.optional::<String>("replayer", "tiers_s") else { return Settings::default() };
        let tiers: Result<Vec<u32>, _> = text.split(',').map(|tier| tier.trim().parse()).collect();
        match tiers {
            Ok(tiers) => Settings { tiers_ms: tiers.into_iter().map(|s| i64::from(s) * 1_000).collect() },
            Err(error) => {
                reader.problem(format!(
                    "replayer.tiers_s: {text:?}: expected seconds like \"60,300,1800\": {error}"
                ));
                Settings::default()
            }
        }
    }
}

/// Runs the dlq-replayer until the service is stopped.
///
/// # Errors
/// When the broker stays away.
pub async fn run(settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let bus = Bus::connect(Role::DlqReplayer, &shell.common.nats, &shell.tasks, &shell.health).await?;
    let partitions = installation(&bus, &shell).await?.partitions;
    let playbooks = Playbooks::follow(&bus, &shell, playbook::compile);
    let replayer = Arc::new(Replayer {
        time: BrokerTime::follow(&bus, &shell).await?,
        bus: bus.clone(),
        playbooks,
        partitions,
        tiers_ms: settings.tiers_ms,
    });
    let (letters, recalls) = (replayer.clone(), replayer);
    tokio::join!(
        queue::run(&bus, &shell, Stream::Dead, DLQ_CONSUMER, AT_ONCE, move |work| {
            let replayer = letters.clone();
            async move { later(replayer.parked(&work).await) }
        }),
        queue::run(&bus, &shell, Stream::Retry, DLQ_CONSUMER, AT_ONCE, move |work| {
            let replayer = recalls.clone();
            async move { later(replayer.recalled(&work).await) }
        }),
    );
    Ok(())
}

fn later(answer: Result<Answer, StoreError>) -> Answer {
    answer.unwrap_or_else(|error| {
        tracing::warn!("a dead letter waits: {error}");
        Answer::Later(LATER)
    })
}

struct Replayer {
    bus: Bus,
    time: BrokerTime,
    playbooks: Playbooks<Set>,
    partitions: u16,
    tiers_ms: Vec<i64>,
}

impl Replayer {
    /// A letter was parked. An acknowledged letter stays in DEAD: the acknowledgement says that its way is
    /// planned.
    async fn parked(&self, work: &Work) -> Result<Answer, StoreError> {
        let letter: DeadLetter = match wire::decode(&work.payload) {
            Ok(letter) => letter,
            Err(error) => {
                tracing::warn!(
                    letter = work.sequence,
                    "dead letter {} cannot be read: {error}",
                    work.sequence
                );
                return Ok(Answer::Done);
            }
        };
        tracing::warn!(
            letter = work.sequence,
            stage = letter.stage,
            subject = letter.subject,
            "dead letter {}: the {} gave up {} ({} attempts): {}",
            work.sequence,
            letter.stage,
            letter.subject,
            letter.attempts,
            letter.reason
        );
        match plan(&letter, &self.tiers_ms) {
            Plan::Wait { tier, after_ms } => self.schedule(work, &letter, tier, after_ms).await?,
            Plan::Stay => {
                alert::tell(&self.bus, &self.playbooks, self.partitions, work.sequence, &letter).await?
            }
        }
        crash::point(Point::ReplayerPlanned);
        Ok(Answer::Done)
    }

    /// Has the broker bring the letter's turn.
    async fn schedule(
        &self,
        work: &Work,
        letter: &DeadLetter,
        tier: usize,
        after_ms: i64,
    ) -> Result<(), StoreError> {
        let topology = self.bus.topology();
        let number = work.sequence;
        let due_ms = work.published_ms.saturating_add(after_ms);
        let at = jiff::Timestamp::from_millisecond(due_ms).unwrap_or(jiff::Timestamp::MAX);
        let recall =
            Recall { letter: number, what: Wish::Replay, by: format!("tier {tier}"), reason: String::new() };
        let message = PublishMessage::build()
            .message_id(format!("retry-{tier}-{number}"))
            .header("Nats-Schedule", format!("@at {at}").as_str())
            .header("Nats-Schedule-Target", topology.retry_due().as_str())
            .payload(wire::encode(&recall).into());
        self.bus.publish(message.outbound_message(topology.retry(tier, number, letter.replays))).await?;
        tracing::info!(letter = number, "dead letter {number} comes back in {} s", after_ms / 1_000);
        Ok(())
    }

    /// A tier has run out, or a person asked.
    async fn recalled(&self, work: &Work) -> Result<Answer, StoreError> {
        let recall: Recall = match wire::decode(&work.payload) {
            Ok(recall) => recall,
            Err(error) => {
                let letter = DeadLetter {
                    stage: Role::DlqReplayer.name().into(),
                    reason: error.to_string(),
                    subject: work.subject.clone(),
                    sequence: work.sequence,
                    attempts: 1,
                    payload: work.payload.to_vec(),
                    ..DeadLetter::default()
                };
                dead_letter::park(&self.bus, Role::DlqReplayer, &letter).await?;
                return Ok(Answer::Done);
            }
        };
        let Some(found) = self.bus.at(Stream::Dead, recall.letter).await? else {
            return Ok(Answer::Done);
        };
        let Ok(letter) = wire::decode::<DeadLetter>(&found.payload) else {
            return match recall.what {
                Wish::Discard => self.resolve(&recall, &DeadLetter::default()).await,
                Wish::Replay => {
                    tracing::warn!(
                        letter = recall.letter,
                        "dead letter {} cannot be replayed",
                        recall.letter
                    );
                    Ok(Answer::Done)
                }
            };
        };
        if recall.what == Wish::Replay {
            if let Gate::Closed(why) = gate::look(&self.bus, &self.time, recall.letter, &letter).await? {
                tracing::info!(letter = recall.letter, "dead letter {} waits: {why}", recall.letter);
                return Ok(Answer::Later(LATER));
            }
            crash::point(Point::ReplayerLetThrough);
            let parked_ms = i64::try_from(found.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
            let waited_ms = self.time.now_ms().saturating_sub(parked_ms).max(0).unsigned_abs();
            match back::send(&self.bus, recall.letter, &letter, waited_ms).await? {
                Back::Sent => {}
                Back::Impossible(why) => {
                    tracing::warn!(letter = recall.letter, "dead letter {} stays: {why}", recall.letter);
                    return Ok(Answer::Done);
                }
            }
            crash::point(Point::ReplayerSentBack);
        }
        self.resolve(&recall, &letter).await
    }

    /// What became of the letter goes on record, then it leaves DEAD.
    async fn resolve(&self, recall: &Recall, letter: &DeadLetter) -> Result<Answer, StoreError> {
        let resolved = Resolved {
            letter: recall.letter,
            stage: letter.stage.clone(),
            subject: letter.subject.clone(),
            sequence: letter.sequence,
            what: recall.what,
            by: recall.by.clone(),
            reason: recall.reason.clone(),
        };
        let message = PublishMessage::build()
            .message_id(format!("resolved-{}", recall.letter))
            .payload(wire::encode(&resolved).into());
        self.bus.publish(message.outbound_message(self.bus.topology().dead(RESOLVED))).await?;
        crash::point(Point::ReplayerResolved);
        self.bus.take_out(Stream::Dead, recall.letter).await?;
        let what = match recall.what {
            Wish::Replay => "went back",
            Wish::Discard => "was discarded",
        };
        Metric::LettersResolved.add(1, Role::DlqReplayer.name(), Some(("what", what.into())));
        tracing::info!(letter = recall.letter, "dead letter {} {what} ({})", recall.letter, recall.by);
        Ok(Answer::Done)
    }
}
