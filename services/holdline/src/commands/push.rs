//! `holdline push DIR`

use std::path::PathBuf;

use anyhow::bail;
use holdline_decide::approval::{self, Lack};
use holdline_decide::playbook::{self, Severity};
use holdline_proto::audit::{Act, Deed};
use holdline_proto::playbooks::{Bundle, CURRENT};
use holdline_proto::topology::{Bucket, Role};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::playbooks;
use serde_json::json;

use super::audit::audited;
use super::{Installation, No, Who, files, text};
use crate::output::{self, Output, line};

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    folder: PathBuf,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = text)]
    reason: Option<String>,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Push {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut bundle = files::read(&self.folder)?;
        let (set, findings) = playbook::load(&bundle);
        if self.output == Output::Text {
            for finding in &findings {
                line(format!("{finding}\n"));
            }
        }
        let set = set.filter(|_| findings.iter().all(|finding| finding.severity != Severity::Error));
        let Some(set) = set else {
            if self.output == Output::Json {
                output::json(&json!({"pushed": false, "findings": findings}));
            }
            return Err(No.into());
        };
        // A set is stored; a secret never is.
        let literals = playbook::replace_literals(&mut bundle);
        let bus = self.installation.bus(Role::Operator).await?;
        check_partition_keys(&bus, &bundle).await?;
        // Of the people who are named, those whose tokens have expired are none.
        let lacking = approval::lacks(&set, super::approval::now_ms(&bus).await?);
        if let Some(Lack { playbook, needed, there }) = lacking.first() {
            bail!(
                "playbook {playbook} needs {needed} to approve, and the tokens of all but {there} have expired: it would \
                 never be done. `holdline token FILE` makes a new token: its public half belongs under `people` of \
                 holdline.yaml"
            );
        }
        let by = self.who.operating(&bus, Act::Push).await?;
        let hash = make_current(&bus, &bundle, by, self.reason.unwrap_or_default()).await?;
        match self.output {
            Output::Json => {
                let secrets: Vec<&String> = literals.keys().collect();
                output::json(
                    &json!({"pushed": true, "set": hash, "secretsToSet": secrets, "findings": findings}),
                );
            }
            Output::Text => {
                for name in literals.keys() {
                    line(format!(
                        "the gateway needs {name} in its environment: a secret written in place is not stored"
                    ));
                }
                line(format!("set {hash} is current"));
            }
        }
        Ok(())
    }
}

/// Stores a set and makes it the current one; the audit trail says who did and why.
pub(crate) async fn make_current(
    bus: &Bus,
    bundle: &Bundle,
    by: String,
    why: String,
) -> anyhow::Result<String> {
    let before = bus.get(Bucket::Playbooks, CURRENT).await?;
    let before =
        before.map_or_else(|| "none".into(), |entry| String::from_utf8_lossy(&entry.value).into_owned());
    let deed = Deed::new(by, Act::Push, format!("set {}", bundle.hash()), why).with("before", before);
    audited(bus, deed, async { Ok(playbooks::push(bus, bundle).await?) }).await
}

/// A push that changes by what a subscription's events are partitioned would send an entity's next events
/// elsewhere than its open incident.
pub(crate) async fn check_partition_keys(bus: &Bus, bundle: &Bundle) -> anyhow::Result<()> {
    let Some(entry) = bus.get(Bucket::Playbooks, CURRENT).await? else { return Ok(()) };
    let hash = String::from_utf8_lossy(&entry.value).into_owned();
    // A push is what puts right a set that somebody has spoilt, so it must not fail on it.
    let spoilt = |why: String| {
        tracing::warn!("the current set cannot be read, so nothing is compared with it: {why}");
        Ok(())
    };
    if !Bundle::is_hash(&hash) {
        return spoilt("its name is none".into());
    }
    let Some(entry) = bus.get(Bucket::Playbooks, &Bundle::key(&hash)).await? else { return Ok(()) };
    let current: Bundle = match wire::decode(&entry.value) {
        Ok(current) => current,
        Err(error) => return spoilt(error.to_string()),
    };
    let (Some(current), Some(next)) = (playbook::load(&current).0, playbook::load(bundle).0) else {
        return Ok(());
    };
    for (name, subscription) in &next.subscriptions {
        let before = current.subscriptions.get(name).and_then(|s| s.partition_key.as_ref());
        if let (Some(before), Some(after)) = (before, subscription.partition_key.as_ref())
            && before != after
        {
            bail!(
                "subscription {name} is partitioned by {before}, and this set would partition it by {after}: an \
                 entity's next events would miss its open incident. Give the subscription another name, or push a \
                 set without it first, once it is drained and has no open incidents"
            );
        }
    }
    Ok(())
}
