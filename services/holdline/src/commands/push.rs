//! `holdline push DIR`

use std::path::PathBuf;

use holdline_decide::approval::{Lack, lacks, worsened};
use holdline_decide::playbook::{self, Set, Severity};
use holdline_proto::audit::{Act, Deed};
use holdline_proto::playbooks::{Bundle, CURRENT};
use holdline_proto::topology::{Bucket, Role};
use holdline_stage::bus::Bus;
use holdline_stage::playbooks;
use serde_json::json;

use super::approval::{self, NoSet};
use super::audit::audited;
use super::{Installation, No, Refused, Who, files, text};
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
        let output = self.output;
        let Pushed { hash, lacking } = match self.push(&set, &bundle).await {
            Err(error) if output == Output::Json && error.is::<Refused>() => {
                output::json(
                    &json!({"pushed": false, "refused": format!("{error:#}"), "findings": findings}),
                );
                return Err(No.into());
            }
            pushed => pushed?,
        };
        match output {
            Output::Json => {
                let secrets: Vec<&String> = literals.keys().collect();
                output::json(&json!({
                    "pushed": true,
                    "set": hash,
                    "secretsToSet": secrets,
                    "lackApprovers": lacking.iter().map(|lack| &lack.playbook).collect::<Vec<_>>(),
                    "findings": findings,
                }));
            }
            Output::Text => {
                for name in literals.keys() {
                    line(format!(
                        "the gateway needs {name} in its environment: a secret written in place is not stored"
                    ));
                }
                lacking.iter().for_each(|lack| line(format!("as before, {}", expired(lack))));
                line(format!("set {hash} is current"));
            }
        }
        Ok(())
    }

    /// First who may operate, then what the set itself says.
    async fn push(self, set: &Set, bundle: &Bundle) -> anyhow::Result<Pushed> {
        let bus = self.installation.bus(Role::Operator).await?;
        let by = self.who.operating(&bus, Act::Push).await?;
        let current = current(&bus).await?;
        let now_ms = approval::now_ms(&bus).await?;
        if let Some(reason) = current.as_ref().and_then(|current| repartitioned(current, set)) {
            return Err(Refused(reason).into());
        }
        if let Some(lack) = worsened(current.as_ref(), set, now_ms).first() {
            return Err(Refused(expired(lack)).into());
        }
        let hash = make_current(&bus, bundle, by, self.reason.unwrap_or_default()).await?;
        Ok(Pushed { hash, lacking: lacks(set, now_ms) })
    }
}

/// What a push came to.
struct Pushed {
    hash: String,
    /// Playbooks that had too few approvers before as well.
    lacking: Vec<Lack>,
}

fn expired(Lack { playbook, needed, there }: &Lack) -> String {
    format!(
        "playbook {playbook} needs {needed} to approve, and the tokens of all but {there} have expired: it would never be \
         done. `holdline token FILE` makes a new token: its public half belongs under `people` of holdline.yaml"
    )
}

/// Stores a set and makes it the current one; the audit trail says who did and why.
pub(crate) async fn make_current(
    bus: &Bus,
    bundle: &Bundle,
    by: String,
    why: String,
) -> anyhow::Result<String> {
    let before = bus.newest(Bucket::Playbooks, CURRENT).await?.value;
    let before = before.map_or_else(|| "none".into(), |hash| String::from_utf8_lossy(&hash).into_owned());
    let deed = Deed::new(by, Act::Push, format!("set {}", bundle.hash()), why).with("before", before);
    audited(bus, deed, async { Ok(playbooks::push(bus, bundle).await?) }).await
}

/// A push that changes by what a subscription's events are partitioned would send an entity's next events
/// elsewhere than its open incident.
pub(crate) async fn check_partition_keys(bus: &Bus, bundle: &Bundle) -> anyhow::Result<()> {
    let (Some(current), Some(next)) = (current(bus).await?, playbook::load(bundle).0) else { return Ok(()) };
    match repartitioned(&current, &next) {
        Some(reason) => Err(Refused(reason).into()),
        None => Ok(()),
    }
}

/// The set that a push replaces, if there is one that can be read: a push is what puts right a set that somebody has
/// spoilt, so it must not fail on it.
async fn current(bus: &Bus) -> anyhow::Result<Option<Set>> {
    match approval::stored(bus).await? {
        Ok(set) => Ok(Some(set)),
        Err(why) => {
            if !matches!(why, NoSet::Unpushed) {
                tracing::warn!("nothing is compared with the current set: {why}");
            }
            Ok(None)
        }
    }
}

/// Why a set must not follow another: it would partition a subscription's events anew.
fn repartitioned(current: &Set, next: &Set) -> Option<String> {
    next.subscriptions.iter().find_map(|(name, subscription)| {
        let before = current.subscriptions.get(name)?.partition_key.as_ref()?;
        let after = subscription.partition_key.as_ref()?;
        (before != after).then(|| {
            format!(
                "subscription {name} is partitioned by {before}, and this set would partition it by {after}: an \
                 entity's next events would miss its open incident. Give the subscription another name, or push a \
                 set without it first, once it is drained and has no open incidents"
            )
        })
    })
}
