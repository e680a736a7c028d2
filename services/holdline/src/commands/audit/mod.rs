//! `holdline audit`, `holdline audit verify`, `holdline audit export FILE`: who did what and why.
//!
//! Commands that change something go through [`audited`].

mod file;

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use holdline_decide::audit::{Bounds, Chain, End, Verdict, end};
use holdline_proto::audit::{self, Deed, Entry};
use holdline_proto::topology::Stream;
use holdline_stage::audit::{Noted, append, noted};
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::Bus;
use serde_json::{Map, Value, json};

use self::file::Export;
use super::{Installation, No};
use crate::output::{self, Output, iso, line};
use crate::read;

/// Writes a deed down, then does it; when that fails, its failure as well. First the entry, because a deed without
/// one could not be found later, and an entry without its deed can: it is the one that nothing came of.
///
/// # Errors
/// When it cannot be written down (then nothing was done), or the deed failed.
pub(crate) async fn audited<T>(
    bus: &Bus,
    deed: Deed,
    done: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let number = append(bus, &deed).await.context(
        "nothing was done, because it cannot be written to the audit trail. `holdline provision` makes its stream, and \
         the users' rights to it, where an older version has set the broker up",
    )?;
    let error = match done.await {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let failed = Deed { why: format!("{error:#}"), failed: Some(number), ..deed };
    if let Err(untold) = append(bus, &failed).await {
        tracing::error!("the audit trail lacks that entry {number} failed: {untold}");
    }
    Err(error)
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Is it what was written? Exit code 1 when anything was changed, with what and where
    Verify(Verify),
    /// Write it to a file that `holdline audit verify FILE` checks anywhere
    Export(ExportTo),
}

#[derive(Debug, Args)]
struct List {
    /// From this time on, as in `2026-03-01` or `2026-03-01T08:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<i64>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<i64>,
    /// Only this act, as in `pause`
    #[arg(long, value_name = "ACT")]
    act: Option<String>,
    /// Only what this person did
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// An exported trail instead
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct Verify {
    /// An exported trail instead; no broker is needed
    file: Option<PathBuf>,
    /// A hash that an earlier verify or export gave, kept elsewhere: an entry must have it still
    #[arg(long, value_name = "HASH", value_parser = hash)]
    from: Option<String>,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct ExportTo {
    /// A new file
    file: PathBuf,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// A time, or the beginning of a day in UTC. Unix milliseconds.
fn time(text: &str) -> Result<i64, String> {
    let time: Option<jiff::Timestamp> =
        text.parse().ok().or_else(|| format!("{text}T00:00:00Z").parse().ok());
    time.map(jiff::Timestamp::as_millisecond)
        .ok_or_else(|| "expected a day like 2026-03-01, or a time like 2026-03-01T08:00:00Z".into())
}

fn hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected 64 hex digits, as `holdline audit verify` prints them".into())
    }
}

impl Audit {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            None => self.list.run().await,
            Some(Verb::Verify(verify)) => verify.run().await,
            Some(Verb::Export(export)) => export.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let mut entries = vec![];
        let mut take = |sequence: u64, stored: &[u8]| {
            let entry = audit::open(stored);
            if entry.as_ref().map_or(true, |entry| self.keeps(entry)) {
                entries.push((sequence, entry));
            }
        };
        match &self.file {
            Some(path) => {
                let export = Export::read(path)?;
                export.entries.iter().for_each(|(sequence, stored)| take(*sequence, stored));
            }
            None => {
                let bus = self.installation.bus_to_look().await?;
                let last = bus.bounds(Stream::Audit).await?.last;
                each(&bus, last, |sequence, stored| {
                    take(sequence, stored);
                    Ok(())
                })
                .await?;
            }
        }
        match self.output {
            Output::Json => {
                output::json(&entries.iter().map(|(sequence, entry)| shape(*sequence, entry)).collect())
            }
            Output::Text if entries.is_empty() => line("there are no such entries"),
            Output::Text => output::table(
                ["ENTRY", "AT", "BY", "ACT", "ABOUT", "WHY", "DETAILS"],
                entries.iter().map(|(sequence, entry)| row(*sequence, entry)).collect(),
            ),
        }
        Ok(())
    }

    /// What cannot be read is never left out.
    fn keeps(&self, entry: &Entry) -> bool {
        self.since.is_none_or(|since| entry.at_ms >= since)
            && self.until.is_none_or(|until| entry.at_ms <= until)
            && self.act.as_ref().is_none_or(|act| *act == entry.deed.act.to_string())
            && self.by.as_ref().is_none_or(|by| *by == entry.deed.by)
    }
}

fn shape(sequence: u64, entry: &Result<Entry, impl Display>) -> Value {
    match entry {
        Ok(Entry { number, at_ms, deed, .. }) => json!({
            "entry": number,
            "at": iso(*at_ms),
            "by": deed.by,
            "act": deed.act,
            "about": deed.about,
            "why": deed.why,
            "details": deed.details.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>(),
            "failed": deed.failed,
        }),
        Err(error) => json!({"entry": sequence, "unreadable": error.to_string()}),
    }
}

fn row(sequence: u64, entry: &Result<Entry, impl Display>) -> [String; 7] {
    match entry {
        Ok(Entry { number, at_ms, deed, .. }) => {
            let details = deed.details.iter().map(|(name, value)| format!("{name}: {value}"));
            [
                number.to_string(),
                iso(*at_ms),
                deed.by.clone(),
                match deed.failed {
                    None => deed.act.to_string(),
                    Some(of) => format!("{} failed ({of})", deed.act),
                },
                deed.about.clone(),
                deed.why.clone(),
                details.collect::<Vec<_>>().join(", "),
            ]
        }
        Err(error) => {
            let [at, by, act, about, details] = [const { String::new() }; 5];
            [sequence.to_string(), at, by, act, about, format!("it cannot be read: {error}"), details]
        }
    }
}

impl Verify {
    async fn run(self) -> anyhow::Result<()> {
        let (verdict, problems) = match &self.file {
            Some(path) => {
                let export = Export::read(path)?;
                let mut chain = Chain::new(export.bounds).anchor(self.from);
                export.entries.iter().for_each(|(sequence, stored)| chain.take(*sequence, stored));
                (chain.end(), export.problems)
            }
            None => {
                let bus = self.installation.bus_to_look().await?;
                let problems = unvouched(&bus).await?;
                let bounds = bounds(&bus).await?;
                let last = bounds.last;
                let mut chain = Chain::new(bounds).anchor(self.from);
                each(&bus, last, |sequence, stored| {
                    chain.take(sequence, stored);
                    Ok(())
                })
                .await?;
                (chain.end(), problems)
            }
        };
        conclude(&verdict, &problems, None, self.output)
    }
}

impl ExportTo {
    async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let problems = unvouched(&bus).await?;
        let bounds = bounds(&bus).await?;
        let mut writer = file::Writer::create(&self.file, &bounds)?;
        let last = bounds.last;
        let mut chain = Chain::new(bounds);
        each(&bus, last, |sequence, stored| {
            chain.take(sequence, stored);
            writer.entry(sequence, stored)
        })
        .await?;
        let verdict = chain.end();
        writer.finish(verdict.last.as_ref().map(|(_, hash)| hash.as_str()))?;
        conclude(&verdict, &problems, Some(&self.file), self.output)
    }
}

/// What the broker says of the trail.
async fn bounds(bus: &Bus) -> anyhow::Result<Bounds> {
    let read_ms = BrokerTime::once_ms(bus).await;
    let read_ms = read_ms.map_err(|why| anyhow!("the broker's clock cannot be read: {why}"))?;
    // First: what is noted later may be beyond what is read.
    let witness = match noted(bus).await? {
        Noted::Entry { witness, .. } => Some(witness),
        Noted::Nothing | Noted::Unreadable { .. } => None,
    };
    let bounds = bus.bounds(Stream::Audit).await?;
    let made_ms = i64::try_from(bounds.made / 1_000_000).unwrap_or(i64::MAX);
    Ok(Bounds { first: bounds.first, last: bounds.last, made_ms, read_ms, witness })
}

/// How the end of the trail stands to the entry that was noted of it, by its number; none where nothing was noted. Else why
/// the note cannot be read.
///
/// # Errors
/// When the broker does not answer.
pub(super) async fn noted_end(bus: &Bus) -> anyhow::Result<Result<Option<(u64, End)>, String>> {
    let read_ms = super::approval::now_ms(bus).await?;
    // First: what is added meanwhile is noted later.
    let (witness, at_ms) = match noted(bus).await? {
        Noted::Nothing => return Ok(Ok(None)),
        Noted::Unreadable { why } => return Ok(Err(why)),
        Noted::Entry { witness, at_ms } => (witness, at_ms),
    };
    let there = bus.at(Stream::Audit, witness.number).await?.map(|entry| entry.payload);
    let first = bus.bounds(Stream::Audit).await?.first;
    Ok(Ok(Some((witness.number, end(&witness, at_ms, there.as_deref(), first, read_ms)))))
}

/// What the entries that are there cannot tell of those that are not.
async fn unvouched(bus: &Bus) -> anyhow::Result<Vec<String>> {
    Ok(match noted_end(bus).await? {
        Err(why) => vec![format!(
            "what was noted of the newest entry cannot be read, so an end that was cut off would not be seen: {why}"
        )],
        Ok(Some((number, End::TakenOut))) => vec![format!(
            "entry {number} and all before it were taken out before they were {} days old",
            audit::KEPT_DAYS
        )],
        Ok(_) => vec![],
    })
}

/// Every entry up to a sequence.
async fn each(
    bus: &Bus,
    last: u64,
    mut take: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    read::each(bus, Stream::Audit, &bus.topology().audit(), 1, |message| {
        if message.sequence <= last {
            take(message.sequence, &message.payload)?;
        }
        Ok(message.sequence >= last)
    })
    .await
}

/// Says what a trail came to, as an exit code too.
fn conclude(
    verdict: &Verdict,
    problems: &[String],
    written: Option<&PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let whole = verdict.whole && problems.is_empty();
    let last = verdict.last.as_ref();
    match output {
        Output::Json => output::json(&json!({
            "whole": whole,
            "entries": verdict.entries,
            "first": verdict.first.map(|(sequence, _)| sequence),
            "since": verdict.first.map(|(_, at_ms)| iso(at_ms)),
            "last": last.map(|(sequence, _)| sequence),
            "hash": last.map(|(_, hash)| hash),
            "anchored": verdict.anchored,
            "findings": verdict.findings.iter().map(|finding| {
                let mut shape = json!(finding);
                if let Some(fields) = shape.as_object_mut() {
                    fields.insert("sentence".into(), finding.to_string().into());
                }
                shape
            }).collect::<Vec<_>>(),
            "more": verdict.more,
            "file": problems,
        })),
        Output::Text => {
            if let Some(path) = written {
                line(format!("{} entries are in {}", verdict.entries, path.display()));
            }
            problems.iter().for_each(|problem| line(format!("NO  {problem}")));
            verdict.findings.iter().for_each(|finding| line(format!("NO  {finding}")));
            if verdict.more > 0 {
                line(format!("NO  and {} more", verdict.more));
            }
            if verdict.anchored == Some(false) {
                line(
                    "NO  no entry has the hash that you kept: the end was cut off, or entries were written anew (or \
                     it is older than what is kept)",
                );
            }
            match (whole, verdict.first, last) {
                (true, Some((first, at_ms)), Some((last, _))) => {
                    line(format!("entries {first} to {last}, from {} on: nothing was changed", iso(at_ms)));
                }
                (true, ..) => line("there are no entries"),
                (false, ..) => line("the audit trail is not what was written"),
            }
            if let Some((last, hash)) = last {
                line(format!("the hash of entry {last} is {hash}"));
                line(
                    "  keep it elsewhere: `holdline audit verify --from HASH` then sees an end that was cut off, too",
                );
            }
        }
    }
    if whole { Ok(()) } else { Err(No.into()) }
}
