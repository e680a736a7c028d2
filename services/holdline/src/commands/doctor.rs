//! `holdline doctor`: what a person would check, each finding with what to do. Exit code 1 when something
//! needs a person.

use anyhow::Context;
use holdline_proto::playbooks::{INSTALLATION, Installation as Installed};
use holdline_proto::topology::{Bucket, EXECUTOR_CONSUMER, Role, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use serde_json::json;

use super::{Installation, No};
use crate::conservation::{self, Count};
use crate::output::{self, Output, line};

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Something that was looked at.
struct Finding {
    what: &'static str,
    well: bool,
    found: String,
    todo: &'static str,
}

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus(Role::Operator).await?;
        let entry = bus.get(Bucket::Playbooks, INSTALLATION).await?.context("nothing is provisioned here")?;
        let installed: Installed = wire::decode(&entry.value)?;
        let count = conservation::count(&bus, installed.partitions).await?;
        let mut findings = vec![conserved(&count)];
        for stage in [Role::Classifier, Role::Debouncer] {
            findings.push(owned(&bus, stage, installed.partitions).await?);
        }
        findings.push(pulled(&bus).await?);
        findings.push(paused(&bus).await?);
        findings.push(dead(&bus).await?);
        let well = findings.iter().all(|finding| finding.well);
        match self.output {
            Output::Json => output::json(&json!({
                "well": well,
                "conservation": count,
                "findings": findings.iter().map(|f| json!({
                    "what": f.what, "well": f.well, "found": f.found, "todo": if f.well { "" } else { f.todo },
                })).collect::<Vec<_>>(),
            })),
            Output::Text => {
                for finding in &findings {
                    line(format!(
                        "{} {:<13} {}",
                        if finding.well { "ok " } else { "NO " },
                        finding.what,
                        finding.found
                    ));
                    if !finding.well {
                        line(format!("     → {}", finding.todo));
                    }
                }
                for id in &count.missing {
                    line(format!("     without a disposition: {id}"));
                }
                for id in &count.doubled {
                    line(format!("     with more than one disposition: {id}"));
                }
                for place in &count.unparked {
                    line(format!("     not understood and not parked: {place}"));
                }
            }
        }
        if well { Ok(()) } else { Err(No.into()) }
    }
}

fn conserved(count: &Count) -> Finding {
    let kinds: Vec<String> = count.dispositions.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    Finding {
        what: "conservation",
        well: count.balanced(),
        found: format!(
            "{} accepted = {}, {} on their way{}; {} missing, {} doubled",
            count.accepted,
            if kinds.is_empty() { "none".into() } else { kinds.join(" + ") },
            count.on_their_way,
            if count.copies > 0 { format!(" ({} copies)", count.copies) } else { String::new() },
            count.missing.len() as u64 + count.missing_more,
            count.doubled.len() as u64 + count.doubled_more,
        ),
        todo: "this must never be: keep the data folder, and report it with `holdline why-not` of each id",
    }
}

async fn owned(bus: &Bus, stage: Role, partitions: u16) -> anyhow::Result<Finding> {
    let prefix = format!("{}.lease.", stage.name());
    let mut owned = 0;
    for key in bus.keys(Bucket::Leases, &format!("{}.>", stage.name())).await? {
        if key.starts_with(&prefix) && bus.get(Bucket::Leases, &key).await?.is_some() {
            owned += 1;
        }
    }
    Ok(Finding {
        what: stage.name(),
        well: owned == usize::from(partitions),
        found: format!("{owned} of {partitions} partitions have an owner"),
        todo: "start the service, or look at its /readyz: a partition without an owner decides nothing",
    })
}

async fn pulled(bus: &Bus) -> anyhow::Result<Finding> {
    let pulled = bus.is_pulled(Stream::Commands, EXECUTOR_CONSUMER).await;
    Ok(Finding {
        what: "executor",
        well: matches!(pulled, Ok(true)),
        found: match pulled {
            Ok(true) => "takes commands".into(),
            Ok(false) => "nobody takes commands".into(),
            Err(error) => format!("nobody takes commands: {error}"),
        },
        todo: "start the executor, or look at its /readyz; a consumer that was deleted comes back with `holdline \
               provision`",
    })
}

async fn paused(bus: &Bus) -> anyhow::Result<Finding> {
    let pauses = super::pause::standing(bus).await?;
    let told: Vec<String> =
        pauses.iter().map(|pause| format!("{} by {}: {}", pause.scope, pause.by, pause.reason)).collect();
    Ok(Finding {
        what: "paused",
        // Somebody wants it so.
        well: true,
        found: if told.is_empty() { "nothing".into() } else { told.join("; ") },
        todo: "",
    })
}

async fn dead(bus: &Bus) -> anyhow::Result<Finding> {
    let letters = super::dlq::lying(bus).await?;
    let stay = letters.iter().filter(|lying| !lying.letter.transient).count();
    Ok(Finding {
        what: "dead letters",
        well: stay == 0,
        found: format!("{} in all, {stay} of them wait for a person", letters.len()),
        todo: "holdline dlq list; then replay or discard them",
    })
}
