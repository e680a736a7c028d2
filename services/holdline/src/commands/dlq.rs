//! `holdline dlq list|show|replay|discard`: the dead letters.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::message::PublishMessage;
use clap::{Args, Subcommand};
use holdline_decide::explain::duration;
use holdline_proto::audit::{Act, Deed};
use holdline_proto::command::Command;
use holdline_proto::dead_letter::{DeadLetter, Recall, Wish};
use holdline_proto::event::Frame;
use holdline_proto::topology::{RESOLVED, Role, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use serde_json::{Value, json};

use super::audit::audited;
use super::{Installation, No, Who, text};
use crate::output::{self, Output, iso, line};
use crate::read;

/// A person who asks waits this long for the dlq-replayer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Letters that one entry of the audit trail names; more have several.
const LETTERS_PER_ENTRY_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct Dlq {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The letters, oldest first
    List(List),
    /// One letter, with what it holds
    Show(Show),
    /// Send letters back to the stage that gave them up, as soon as what failed is there again
    Replay(Ask),
    /// Give letters up for good; the reason stays on record
    Discard(Ask),
}

/// Which letters.
#[derive(Debug, Clone, Args)]
struct Filter {
    /// Of this stage
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Whose reason or subject contains this
    #[arg(long, value_name = "TEXT")]
    containing: Option<String>,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Args)]
struct Show {
    letter: u64,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct Ask {
    /// Numbers of letters; without any, all that the filters leave (which --all confirms)
    letters: Vec<u64>,
    /// Every letter that the filters leave
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Why; a discarded letter needs a reason
    #[arg(long, value_name = "TEXT", value_parser = text)]
    reason: Option<String>,
    #[command(flatten)]
    who: Who,
    /// Letters per second
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Only say which letters it would be
    #[arg(long)]
    dry_run: bool,
}

/// A letter and where it lies.
pub(super) struct Lying {
    number: u64,
    parked_ms: i64,
    pub letter: DeadLetter,
}

impl Dlq {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::List(list) => list.run().await,
            What::Show(show) => show.run().await,
            What::Replay(ask) => ask.run(Wish::Replay).await,
            What::Discard(ask) => ask.run(Wish::Discard).await,
        }
    }
}

impl Filter {
    fn keeps(&self, lying: &Lying) -> bool {
        let letter = &lying.letter;
        let stage = self.stage.as_ref().is_none_or(|stage| *stage == letter.stage);
        let text = self.containing.as_ref().is_none_or(|text| {
            letter.reason.contains(text.as_str()) || letter.subject.contains(text.as_str())
        });
        stage && text
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let bus = self.filter.installation.bus_to_look().await?;
        let mut letters = lying(&bus).await?;
        letters.retain(|letter| self.filter.keeps(letter));
        show_all(&letters, self.filter.output);
        Ok(())
    }
}

fn show_all(letters: &[Lying], output: Output) {
    match output {
        Output::Json => output::json(&Value::Array(letters.iter().map(shape).collect())),
        Output::Text if letters.is_empty() => line("there are no such dead letters"),
        Output::Text => output::table(
            ["LETTER", "STAGE", "SUBJECT", "PARKED", "ATTEMPTS", "COMES BACK", "REASON"],
            letters.iter().map(row).collect(),
        ),
    }
}

fn row(lying: &Lying) -> [String; 7] {
    let letter = &lying.letter;
    [
        lying.number.to_string(),
        letter.stage.clone(),
        letter.subject.clone(),
        format!("{} ago", duration(clock::wall_ms().saturating_sub(lying.parked_ms))),
        letter.attempts.to_string(),
        if letter.transient { format!("by itself, after {} time(s)", letter.replays) } else { "no".into() },
        letter.reason.clone(),
    ]
}

fn shape(lying: &Lying) -> Value {
    let letter = &lying.letter;
    json!({
        "letter": lying.number,
        "stage": letter.stage,
        "subject": letter.subject,
        "sequence": letter.sequence,
        "parkedAt": iso(lying.parked_ms),
        "attempts": letter.attempts,
        "transient": letter.transient,
        "replays": letter.replays,
        "target": letter.target,
        "reason": letter.reason,
        "bytes": letter.payload.len(),
    })
}

/// Every letter in DEAD. One that cannot be read is shown as what it is.
pub(super) async fn lying(bus: &Bus) -> anyhow::Result<Vec<Lying>> {
    let mut letters = vec![];
    let resolved = bus.topology().dead(RESOLVED);
    read::each(bus, Stream::Dead, &bus.topology().dead("*"), 1, |message| {
        if message.subject != resolved {
            let letter = wire::decode(&message.payload).unwrap_or_else(|error| DeadLetter {
                stage: message.subject.rsplit('.').next().unwrap_or_default().into(),
                reason: format!("the letter itself cannot be read: {error}"),
                subject: message.subject.clone(),
                sequence: message.sequence,
                payload: message.payload.to_vec(),
                ..DeadLetter::default()
            });
            letters.push(Lying { number: message.sequence, parked_ms: message.published_ms, letter });
        }
        Ok(false)
    })
    .await?;
    Ok(letters)
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let found = lying(&bus).await?.into_iter().find(|letter| letter.number == self.letter);
        let lying = found.with_context(|| format!("there is no dead letter {}", self.letter))?;
        let mut told = shape(&lying);
        if let Some(fields) = told.as_object_mut() {
            fields.insert("holds".into(), holds(&lying.letter.payload));
        }
        match self.output {
            Output::Json => output::json(&told),
            Output::Text => {
                for (name, value) in told.as_object().into_iter().flatten() {
                    line(format!("{name:<10} {value:#}"));
                }
            }
        }
        Ok(())
    }
}

/// A payload as a person can read it.
fn holds(payload: &[u8]) -> Value {
    if let Ok(command) = wire::decode::<Command>(payload) {
        return json!({"command": command});
    }
    if let Ok(frame) = wire::decode::<Frame>(payload) {
        let events = frame.events.iter().map(|event| {
            json!({
                "acceptId": event.accept_id,
                "subscription": event.subscription,
                "body": String::from_utf8_lossy(&event.body),
            })
        });
        return json!({"events": events.collect::<Vec<_>>()});
    }
    const SHOWN: usize = 512;
    let start = payload.get(..payload.len().min(SHOWN)).unwrap_or_default();
    json!({"unreadable": start.escape_ascii().to_string()})
}

impl Ask {
    async fn run(mut self, what: Wish) -> anyhow::Result<()> {
        if self.letters.is_empty() && !self.all {
            bail!("which letters? Name their numbers, or say --all (with --stage or --containing)");
        }
        if what == Wish::Discard && self.reason.is_none() && !self.dry_run {
            bail!("a letter is discarded with a --reason, which stays on record");
        }
        let bus = self.filter.installation.bus(Role::Operator).await?;
        let mut letters = lying(&bus).await?;
        letters
            .retain(|lying| self.filter.keeps(lying) && (self.all || self.letters.contains(&lying.number)));
        let found: BTreeSet<u64> = letters.iter().map(|lying| lying.number).collect();
        for missing in self.letters.iter().filter(|number| !found.contains(number)) {
            line(format!("there is no such dead letter: {missing}"));
        }
        if self.dry_run {
            show_all(&letters, self.filter.output);
            return Ok(());
        }
        self.who.by = self.who.clone().operating(&bus, act(what)).await?;
        let mut waiting: BTreeSet<u64> = letters.iter().map(|lying| lying.number).collect();
        let numbers: Vec<u64> = waiting.iter().copied().collect();
        for some in numbers.chunks(LETTERS_PER_ENTRY_MAX) {
            audited(&bus, self.deed(some, what), self.ask_for(&bus, some, what)).await?;
        }
        let asked = waiting.len();
        let began = clock::now();
        while !waiting.is_empty() && began.elapsed() < PATIENCE {
            clock::sleep(Duration::from_millis(200)).await;
            let still: BTreeSet<u64> = self::lying(&bus).await?.iter().map(|lying| lying.number).collect();
            waiting.retain(|number| still.contains(number));
        }
        let done = asked - waiting.len();
        match self.filter.output {
            Output::Json => output::json(&json!({"asked": asked, "done": done, "waiting": waiting})),
            Output::Text => {
                line(format!("{done} of {asked} letter(s) done"));
                if !waiting.is_empty() {
                    line(format!(
                        "still there: {waiting:?}; they wait until what failed is there again, they cannot be \
                         replayed, or no dlq-replayer is at work (its log says which)"
                    ));
                }
            }
        }
        if waiting.is_empty() && !letters.is_empty() { Ok(()) } else { Err(No.into()) }
    }

    fn deed(&self, letters: &[u64], what: Wish) -> Deed {
        let numbers: Vec<String> = letters.iter().map(u64::to_string).collect();
        let about = match numbers.as_slice() {
            [one] => format!("dead letter {one}"),
            more => format!("{} dead letters", more.len()),
        };
        let reason = self.reason.clone().unwrap_or_default();
        Deed::new(&self.who.by, act(what), about, reason).with("letters", numbers.join(","))
    }

    async fn ask_for(&self, bus: &Bus, letters: &[u64], what: Wish) -> anyhow::Result<()> {
        for letter in letters {
            self.ask(bus, *letter, what).await?;
            clock::sleep(Duration::from_secs(1) / self.rate).await;
        }
        Ok(())
    }

    async fn ask(&self, bus: &Bus, letter: u64, what: Wish) -> anyhow::Result<()> {
        let reason = self.reason.clone().unwrap_or_default();
        let recall = Recall { letter, what, by: self.who.by.clone(), reason };
        let message = PublishMessage::build().payload(wire::encode(&recall).into());
        bus.publish(message.outbound_message(bus.topology().retry_asked())).await?;
        Ok(())
    }
}

/// As the audit trail has it.
fn act(what: Wish) -> Act {
    match what {
        Wish::Replay => Act::DeadLetterReplay,
        Wish::Discard => Act::DeadLetterDiscard,
    }
}
