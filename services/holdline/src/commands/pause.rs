//! `holdline pause`, `holdline resume`, `holdline pauses`: people stop what holdline would do, and let it go on.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use holdline_decide::explain::duration;
use holdline_decide::pause;
use holdline_decide::playbook::parse_duration_ms;
use holdline_proto::audit::{Act, Deed};
use holdline_proto::limits::NAME_BYTES_MAX;
use holdline_proto::pause::{EFFECTIVE_AFTER_MS, PAUSES, Pause as Stop, Pauses as Stops, Scope};
use holdline_proto::topology::{Bucket, Role};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Place, Put, StoreError};
use holdline_stage::clock;
use serde_json::{Value, json};

use super::audit::audited;
use super::{Installation, No, Who, text};
use crate::output::{self, Output, iso, line};

/// Tries to write while others write, too.
const TRIES_MAX: u32 = 10;

/// What is meant; without any of these, everything.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Selection {
    /// What this playbook does
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    /// What is done about this entity
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// What is done about the entities of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl Selection {
    fn scope(self) -> Scope {
        match (self.playbook, self.entity, self.group) {
            (Some(name), ..) => Scope::Playbook(name),
            (_, Some(name), _) => Scope::Entity(name),
            (_, _, Some(name)) => Scope::Group(name),
            (None, None, None) => Scope::Everything,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    selection: Selection,
    /// Why; everybody who looks at an incident reads it
    #[arg(long, value_name = "TEXT", value_parser = text)]
    reason: String,
    /// For how long, as in `30m`; at most 24h. Then it goes on by itself
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    for_ms: i64,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    selection: Selection,
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

#[derive(Debug, Args)]
pub(crate) struct Pauses {
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn time(text: &str) -> Result<i64, String> {
    match parse_duration_ms(text)? {
        0 => Err("a pause of no time stops nothing".into()),
        ms => Ok(ms),
    }
}

impl Pause {
    /// Stores it and waits until no call can leave any more that has not looked at it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let scope = self.selection.scope();
        if let Scope::Playbook(name) | Scope::Entity(name) | Scope::Group(name) = &scope
            && (name.is_empty() || name.len() > NAME_BYTES_MAX)
        {
            bail!("expected a name of 1 to {NAME_BYTES_MAX} bytes");
        }
        let bus = self.installation.bus(Role::Operator).await?;
        let (reason, by, for_ms) = (self.reason, self.who.operating(&bus, Act::Pause).await?, self.for_ms);
        let deed = Deed::new(&by, Act::Pause, scope.to_string(), &reason).with("for_ms", for_ms.to_string());
        let stop = change(&bus, |stops, now_ms| {
            let pause = Stop {
                scope: scope.clone(),
                reason: reason.clone(),
                by: by.clone(),
                since_ms: now_ms,
                until_ms: now_ms.saturating_add(for_ms),
            };
            Ok((pause::add(stops, pause.clone())?, pause))
        });
        let pause = audited(&bus, deed, stop).await?;
        clock::sleep(Duration::from_millis(EFFECTIVE_AFTER_MS)).await;
        match self.output {
            Output::Json => output::json(&json!({"paused": shape(&pause)})),
            Output::Text => line(format!(
                "{} is paused for {}, until {}; no call leaves from now on. `holdline resume` ends it",
                pause.scope,
                duration(for_ms),
                iso(pause.until_ms)
            )),
        }
        Ok(())
    }
}

impl Resume {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let scope = self.selection.scope();
        let bus = self.installation.bus(Role::Operator).await?;
        let by = self.who.operating(&bus, Act::Resume).await?;
        let deed = Deed::new(by, Act::Resume, scope.to_string(), self.reason.unwrap_or_default());
        let go_on = change(&bus, |stops, now_ms| {
            let was = pause::standing(stops, now_ms).any(|pause| pause.scope == scope);
            let left = pause::without(stops, &scope, now_ms);
            Ok((left.clone(), (was, left)))
        });
        let (was, left) = audited(&bus, deed, go_on).await?;
        match self.output {
            Output::Json => output::json(&json!({
                "resumed": was, "scope": scope, "pauses": left.pauses.iter().map(shape).collect::<Vec<_>>(),
            })),
            Output::Text => {
                line(format!("{scope} {}", if was { "goes on" } else { "was not paused" }));
                for pause in &left.pauses {
                    line(format!("still paused: {}, by {}: {}", pause.scope, pause.by, pause.reason));
                }
            }
        }
        if was { Ok(()) } else { Err(No.into()) }
    }
}

impl Pauses {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let pauses = standing(&self.installation.bus_to_look().await?).await?;
        match self.output {
            Output::Json => output::json(&Value::Array(pauses.iter().map(shape).collect())),
            Output::Text if pauses.is_empty() => line("nothing is paused"),
            Output::Text => output::table(
                ["PAUSED", "UNTIL", "BY", "BECAUSE"],
                pauses
                    .into_iter()
                    .map(|pause| [pause.scope.to_string(), iso(pause.until_ms), pause.by, pause.reason])
                    .collect(),
            ),
        }
        Ok(())
    }
}

/// Everything that is paused now.
pub(crate) async fn standing(bus: &Bus) -> anyhow::Result<Vec<Stop>> {
    let (_, stops) = read(bus).await?;
    let now_ms = now_ms(bus).await?;
    Ok(pause::standing(&stops, now_ms).cloned().collect())
}

fn shape(pause: &Stop) -> Value {
    json!({
        "scope": pause.scope,
        "reason": pause.reason,
        "by": pause.by,
        "since": iso(pause.since_ms),
        "until": iso(pause.until_ms),
    })
}

async fn now_ms(bus: &Bus) -> anyhow::Result<i64> {
    BrokerTime::once_ms(bus).await.map_err(|why| anyhow!("the broker's clock cannot be read: {why}"))
}

async fn read(bus: &Bus) -> anyhow::Result<(Place, Stops)> {
    let place = bus.newest(Bucket::Pauses, PAUSES).await?;
    let stops = match place.value.as_ref().map(|value| wire::decode(value)) {
        None => Stops::default(),
        Some(Ok(stops)) => stops,
        // While it cannot be read no call leaves; writing it anew is what puts that right.
        Some(Err(error)) => {
            tracing::error!("what was paused before cannot be read, and is forgotten: {error}");
            Stops::default()
        }
    };
    Ok((place, stops))
}

/// Changes what is paused, whoever else does at the same time.
async fn change<T>(
    bus: &Bus,
    change: impl Fn(&Stops, i64) -> Result<(Stops, T), String>,
) -> anyhow::Result<T> {
    for _ in 0..TRIES_MAX {
        let (place, stops) = read(bus).await?;
        let (next, told) = change(&stops, now_ms(bus).await?).map_err(|why| anyhow!(why))?;
        let put = Put { expect: Some(place.revision), ..Put::default() };
        match bus.put(Bucket::Pauses, PAUSES, wire::encode(&next).into(), put).await {
            Ok(_) => return Ok(told),
            Err(StoreError::Fenced) => {}
            Err(error) => {
                bail!("it is not known whether that was stored: {error}; look with `holdline pauses`")
            }
        }
    }
    bail!("others write at the same time, again and again; nothing is changed")
}
