//! `holdline incident ID [show|explain|replay]`

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use holdline_debouncer::{Decoded, Sets};
use holdline_decide::MACHINE;
use holdline_decide::explain::{duration, sentence};
use holdline_decide::playbook;
use holdline_decide::replay::{Recorded, Replay, Verdict};
use holdline_proto::incident::View;
use holdline_proto::journal::{self, Decided, Decision, Effect, Record};
use holdline_proto::outcome::Shares;
use holdline_proto::playbooks::Bundle;
use holdline_proto::topology::{Bucket, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::pipe::Message;
use serde_json::json;

use super::incidents::shape;
use super::{Installation, No};
use crate::output::{self, Output, iso, line};
use crate::read::Log;

#[derive(Debug, clap::Args)]
pub(crate) struct Incident {
    id: String,
    #[arg(value_enum, default_value = "show")]
    what: What,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Its state
    Show,
    /// What was decided and why
    Explain,
    /// Decide again on the recorded inputs, and compare byte for byte
    Replay,
}

/// Whose the time was until a call was answered.
fn latency(decision: &Decision) -> Option<&Shares> {
    match &decision.what {
        journal::What::Reported(outcome) => outcome.shares.as_ref(),
        _ => None,
    }
}

/// A record of the journal and where it stands.
struct Filed {
    sequence: u64,
    record: Record<Decided>,
}

impl Incident {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let entry = bus.get(Bucket::Incidents, &self.id).await?;
        let entry = entry.with_context(|| format!("there is no incident {}", self.id))?;
        let view: View = wire::decode(&entry.value)?;
        match self.what {
            What::Show => self.show(&bus, &view).await,
            What::Explain => self.explain(&bus, &view).await,
            What::Replay => self.replay(&bus, &view).await,
        }
    }

    async fn show(&self, bus: &Bus, view: &View) -> anyhow::Result<()> {
        if self.output == Output::Json {
            output::json(&shape(view));
            return Ok(());
        }
        line(format!(
            "incident {} of {} ({}, {})",
            view.id, view.key.entity, view.key.playbook, view.key.lane
        ));
        line(format!("  state     {}", view.phase));
        line(format!("  failures  {} of {}", view.consecutive_failures, view.threshold));
        line(format!("  opened    {}", iso(view.opened_ms)));
        line(format!("  last event {}", iso(view.last_event_ms)));
        if let Some(held) = &view.held {
            line(format!("  waits for a person: {held}"));
        }
        self.explain(bus, view).await
    }

    async fn explain(&self, bus: &Bus, view: &View) -> anyhow::Result<()> {
        let decisions = decisions(&journal(bus, view.partition).await?, &view.id);
        if self.output == Output::Json {
            let told: Vec<_> = decisions
                .iter()
                .map(|d| {
                    json!({"at": iso(d.at_ms), "state": d.phase, "what": sentence(d), "input": d.input,
                        "latencyMs": latency(d)})
                })
                .collect();
            output::json(&json!({"incidentId": view.id, "decisions": told}));
            return Ok(());
        }
        let began = decisions.first().map_or(0, |first| first.at_ms);
        for decision in &decisions {
            let after = duration(decision.at_ms.saturating_sub(began));
            line(format!("  +{after:<8} {:<11} {}", decision.phase.to_string(), sentence(decision)));
        }
        Ok(())
    }

    /// Folds the recorded inputs again from the record before the incident began.
    async fn replay(&self, bus: &Bus, view: &View) -> anyhow::Result<()> {
        let records = journal(bus, view.partition).await?;
        let about = |filed: &Filed| touches(&filed.record, &view.id);
        let first = records.iter().position(about).context("the journal has no record of this incident")?;
        let last = records.iter().rposition(about).unwrap_or(first);
        let from =
            first.checked_sub(1).and_then(|n| records.get(n)).map_or(0, |before| before.record.position);
        let until = records.get(last).map_or(0, |filed| filed.record.position);
        let inputs = inputs(bus, view.partition, from, until).await?;
        let sets = sets(bus, &records).await?;
        let mut replay = Replay::new(view.partition);
        let mut position = from;
        let (mut replayed, mut covered, mut different) = (0u32, 0usize, vec![]);
        for (n, filed) in records.into_iter().take(last + 1).enumerate() {
            if n < first {
                replay.skip(filed.record);
                continue;
            }
            if filed.record.machine != MACHINE {
                bail!(
                    "record {} was decided by {}, and this is {MACHINE}: replay it with that version",
                    filed.sequence,
                    filed.record.machine
                );
            }
            let own: Vec<&(Message, Decoded)> = inputs
                .iter()
                .filter(|(m, _)| m.sequence > position && m.sequence <= filed.record.position)
                .collect();
            covered += own.len();
            position = filed.record.position;
            let recorded = own.into_iter().map(|(message, decoded)| Recorded {
                sequence: message.sequence,
                published_ms: message.published_ms,
                input: decoded.as_input(),
            });
            replayed += 1;
            if let Verdict::Different { recorded, replayed } = replay.record(&sets, recorded, filed.record) {
                different.push(json!({"record": filed.sequence, "recorded": recorded, "replayed": replayed}));
            }
        }
        let same = different.is_empty();
        match self.output {
            Output::Json => output::json(&json!({
                "incidentId": view.id, "records": replayed, "inputs": covered, "same": same, "different": different,
            })),
            Output::Text => {
                self.explain(bus, view).await?;
                for difference in &different {
                    line(difference);
                }
                let verdict = if same { "the same states and effects, byte for byte" } else { "DIFFERENT" };
                line(format!("{replayed} record(s) over {covered} input(s) decided again: {verdict}"));
            }
        }
        if same { Ok(()) } else { Err(No.into()) }
    }
}

fn touches(record: &Record<Decided>, id: &str) -> bool {
    let decided = record.body.decisions.iter().any(|decision| decision.incident == id);
    decided
        || record.effects.iter().any(|effect| match effect {
            Effect::Command(command) => command.incident == id,
            Effect::WakeAt(wake_up) => wake_up.incident == id,
        })
}

fn decisions(records: &[Filed], id: &str) -> Vec<Decision> {
    let all = records.iter().flat_map(|filed| &filed.record.body.decisions);
    all.filter(|decision| decision.incident == id).cloned().collect()
}

/// Every record of a partition.
async fn journal(bus: &Bus, partition: u16) -> anyhow::Result<Vec<Filed>> {
    let subject = bus.topology().log(partition);
    let Some(last) = bus.last(Stream::Journal, &subject).await? else { return Ok(vec![]) };
    let mut reader = Log::open(bus, Stream::Journal, vec![subject], 1).await?;
    let mut records = vec![];
    loop {
        let message = reader.next().await?;
        let sequence = message.sequence;
        records.push(Filed { sequence, record: wire::decode(&message.payload)? });
        if sequence >= last.sequence {
            reader.close().await;
            return Ok(records);
        }
    }
}

/// The inputs of a partition after `from`, up to `until`.
async fn inputs(bus: &Bus, partition: u16, from: u64, until: u64) -> anyhow::Result<Vec<(Message, Decoded)>> {
    let topology = bus.topology().clone();
    let mut reader = Log::open(bus, Stream::Inputs, topology.debouncer_inputs(partition), from + 1).await?;
    let mut inputs = vec![];
    loop {
        let message = reader.next().await?;
        let sequence = message.sequence;
        // What could not be understood was parked and decided nothing.
        if let Ok(decoded) = Decoded::from(&topology, partition, &message.subject, &message.payload) {
            inputs.push((message, decoded));
        }
        if sequence >= until {
            reader.close().await;
            return Ok(inputs);
        }
    }
}

/// Every set of playbooks in the bucket that the records can refer to.
async fn sets(bus: &Bus, records: &[Filed]) -> anyhow::Result<Sets> {
    let tracks = records.iter().flat_map(|filed| &filed.record.body.changed);
    let incidents = tracks.flat_map(|track| track.open.iter().chain(&track.closing));
    let mut hashes: Vec<String> = incidents.map(|incident| incident.playbooks.clone()).collect();
    hashes.sort();
    hashes.dedup();
    let mut sets = BTreeMap::new();
    for hash in hashes {
        let entry = bus.get(Bucket::Playbooks, &Bundle::key(&hash)).await?;
        let entry = entry.with_context(|| format!("the set {hash} of playbooks is gone"))?;
        let set = playbook::compile(&wire::decode(&entry.value)?).map_err(anyhow::Error::msg)?;
        sets.insert(hash, std::sync::Arc::new(set));
    }
    Ok(Sets(sets))
}
