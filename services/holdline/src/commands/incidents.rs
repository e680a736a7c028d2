//! `holdline incidents`

use holdline_decide::explain::duration;
use holdline_decide::pause::concerning;
use holdline_proto::incident::{Phase, View};
use holdline_proto::pause::Pauses;
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use serde_json::{Value, json};

use super::{Installation, pause};
use crate::output::{self, Output, iso, line};

#[derive(Debug, clap::Args)]
pub(crate) struct Incidents {
    /// Those that are over as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Incidents {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let mut views = list(&bus).await?;
        views.retain(|view| self.all || view.phase != Phase::Resolved);
        views.sort_by_key(|view| std::cmp::Reverse(view.opened_ms));
        let pauses = Pauses { pauses: pause::standing(&bus).await? };
        // All of them stand.
        let paused = |view: &View| {
            let pause = concerning(&pauses, &view.key, view.group.as_deref(), i64::MIN)?;
            Some(format!("{} is paused by {}: {}", pause.scope, pause.by, pause.reason))
        };
        match self.output {
            Output::Json => {
                let shown = views.iter().map(|view| {
                    let mut shape = shape(view);
                    if let Some(fields) = shape.as_object_mut() {
                        fields.insert("paused".into(), paused(view).into());
                    }
                    shape
                });
                output::json(&shown.collect());
            }
            Output::Text if views.is_empty() => line("no incident is open"),
            Output::Text => output::table(
                [
                    "INCIDENT",
                    "ENTITY",
                    "PLAYBOOK",
                    "STATE",
                    "FAILURES",
                    "OPENED",
                    "WAITS FOR A PERSON BECAUSE",
                ],
                views.iter().map(|view| row(view, paused(view))).collect(),
            ),
        }
        Ok(())
    }
}

fn row(view: &View, paused: Option<String>) -> [String; 7] {
    [
        view.id.clone(),
        view.key.entity.clone(),
        view.key.playbook.clone(),
        view.phase.to_string(),
        format!("{} of {}", view.consecutive_failures, view.threshold),
        format!("{} ago", duration(clock::wall_ms().saturating_sub(view.opened_ms))),
        view.held.clone().or(paused).unwrap_or_default(),
    ]
}

/// The guide's shape of an incident, with what holdline knows besides.
pub(crate) fn shape(view: &View) -> Value {
    json!({
        "incidentId": view.id,
        "entityId": view.key.entity,
        "playbook": view.key.playbook,
        "class": view.key.lane,
        "group": view.group,
        "subscription": view.subscription,
        "currentState": view.phase,
        "lastEventTimestamp": iso(view.last_event_ms),
        "consecutiveFailures": view.consecutive_failures,
        "threshold": view.threshold,
        "openedAt": iso(view.opened_ms),
        "decisionNumber": view.decision,
        "held": view.held,
        "awaitsApproval": view.awaiting,
        "playbookSet": view.playbooks,
        "partition": view.partition,
    })
}

/// Every incident of the INCIDENTS bucket.
pub(super) async fn list(bus: &Bus) -> anyhow::Result<Vec<View>> {
    let mut views = vec![];
    for key in bus.keys(Bucket::Incidents, ">").await? {
        if key.starts_with("fence.") {
            continue;
        }
        let Some(entry) = bus.get(Bucket::Incidents, &key).await? else { continue };
        match wire::decode(&entry.value) {
            Ok(view) => views.push(view),
            // One that somebody has spoilt must not hide the others.
            Err(error) => tracing::error!(key, "the entry {key} of INCIDENTS cannot be read: {error}"),
        }
    }
    Ok(views)
}
