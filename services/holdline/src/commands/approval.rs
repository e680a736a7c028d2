//! `holdline approvals`, `holdline approve`, `holdline deny`, `holdline token`: what waits for people, and their word on
//! it. Nothing here gives a right: the word is signed, and the executor checks the signature before it calls.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream::message::PublishMessage;
use clap::Args;
use holdline_decide::approval::{self, Person, Standing};
use holdline_decide::explain::duration;
use holdline_decide::playbook::{self, Set};
use holdline_proto::approval::{Asked, KEPT, Ruled, Ruling, Verdict};
use holdline_proto::audit::{Act, Deed};
use holdline_proto::incident::View;
use holdline_proto::playbooks::{Bundle, CURRENT};
use holdline_proto::topology::{Bucket, Role};
use holdline_proto::wire;
use holdline_stage::audit::append;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, Place, Put, StoreError};
use holdline_stage::clock;
use holdline_stage::token::{self, Token};
use serde_json::{Value, json};

use super::audit::audited;
use super::{Installation, No};
use crate::output::{self, Output, iso, line};

/// Tries to write while others write, too.
const TRIES_MAX: u32 = 10;

/// What an incident waits for is shown a moment after people are asked; it is looked at again after this, and so often.
const VIEW_WAIT: Duration = Duration::from_millis(100);
const VIEW_LOOKS: u32 = 20;

#[derive(Debug, Args)]
pub(crate) struct Approvals {
    /// What was decided, or has expired, as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Allow what `holdline approvals` shows, or forbid it.
#[derive(Debug, Args)]
pub(crate) struct Rule {
    /// As `holdline approvals` names it: it stands for exactly the request that is shown there
    id: String,
    /// Why; everybody who looks at the incident reads it
    #[arg(long, value_name = "TEXT", value_parser = super::text)]
    reason: String,
    /// The file with your token
    #[arg(long, value_name = "FILE", env = "HOLDLINE_TOKEN_FILE")]
    token: PathBuf,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// Where it is written; only you should be able to read it
    file: PathBuf,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl NewToken {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let public = Token::create(&self.file)?.public();
        match self.output {
            Output::Json => output::json(&json!({"token": public})),
            Output::Text => {
                line(format!("your token is in {}; keep it to yourself", self.file.display()));
                line("whoever keeps holdline.yaml needs its public half, under `people`:");
                line(format!("  YOUR-NAME: {{token: {public}, roles: [approve]}}"));
            }
        }
        Ok(())
    }
}

impl Approvals {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let set = current(&bus).await?;
        let now_ms = now_ms(&bus).await?;
        let mut found = vec![];
        for id in bus.keys(Bucket::Approvals, ">").await? {
            let asked = match read(&bus, &id).await {
                Ok((_, Some(asked))) => asked,
                Ok((_, None)) => continue,
                Err(error) => {
                    tracing::error!("{error:#}");
                    continue;
                }
            };
            let told = standing(&asked, &set, now_ms);
            let waits = awaited(&bus, &asked).await?.as_deref() == Some(asked.id.as_str());
            if waits && bus.role() == Role::Operator {
                // Whoever decided may have been cut off before the incident heard of it.
                tell(&bus, &asked, &told).await?;
            }
            if self.all || waits && matches!(told, Standing::Waits { .. }) {
                found.push((asked, told, waits));
            }
        }
        found.sort_by_key(|(asked, ..)| asked.asked_ms);
        match self.output {
            Output::Json => {
                output::json(&found.iter().map(|(asked, told, waits)| shape(asked, told, *waits)).collect())
            }
            Output::Text if found.is_empty() => line("nothing waits for approval"),
            Output::Text => {
                for (asked, told, waits) in &found {
                    show(asked, told, *waits, now_ms);
                }
            }
        }
        Ok(())
    }
}

fn words(told: &Standing, waits: bool) -> String {
    match told {
        Standing::Allowed { by } if by.is_empty() => "nobody has objected".into(),
        Standing::Allowed { by } => format!("approved by {}", by.join(", ")),
        Standing::Denied { by, reason } => format!("denied by {by}: {reason}"),
        Standing::Expired => "expired".into(),
        Standing::Waits { .. } if !waits => "its incident no longer waits for it".into(),
        Standing::Waits { missing, .. } => format!("waits for {missing} more"),
    }
}

fn show(asked: &Asked, told: &Standing, waits: bool, now_ms: i64) {
    let Asked { id, action, key, incident, direction, .. } = asked;
    line(format!("approval {id}"));
    line(format!("  {direction}: {action} for {} ({}, incident {incident})", key.entity, key.playbook));
    line(format!("  {}", words(told, waits)));
    let left = |until_ms: i64| duration(until_ms.saturating_sub(now_ms).max(0));
    match asked.sends_ms {
        Some(sends_ms) => line(format!("  is sent in {} unless somebody objects", left(sends_ms))),
        None => line(format!("  asked {}, expires in {}", iso(asked.asked_ms), left(asked.expires_ms))),
    }
    for text in asked.shown.lines() {
        line(format!("    {text}"));
    }
}

fn shape(asked: &Asked, told: &Standing, waits: bool) -> Value {
    let rulings = asked.rulings.iter().map(|ruling| {
        json!({"by": ruling.by, "verdict": ruling.verdict, "reason": ruling.reason, "at": iso(ruling.at_ms)})
    });
    json!({
        "id": asked.id,
        "incidentId": asked.incident,
        "entityId": asked.key.entity,
        "playbook": asked.key.playbook,
        "direction": asked.direction,
        "action": asked.action,
        "request": asked.shown,
        "sha256": asked.request,
        "people": asked.people,
        "asked": iso(asked.asked_ms),
        "expires": iso(asked.expires_ms),
        "sentUnlessDenied": asked.sends_ms.map(iso),
        "rulings": rulings.collect::<Vec<_>>(),
        "standing": words(told, waits),
        "waits": waits && matches!(told, Standing::Waits { .. }),
    })
}

impl Rule {
    pub(crate) async fn run(self, verdict: Verdict) -> anyhow::Result<()> {
        let token = Token::read(&self.token)?;
        let bus = self.installation.bus(Role::Operator).await?;
        let set = current(&bus).await?;
        let told = self.rule(&bus, &set, &token, verdict).await?;
        if let Err(reason) = &told {
            let public = token.public();
            let name = set.people.iter().find(|(_, person)| person.token == public).map(|(name, _)| name);
            let deed = Deed::new(name.unwrap_or(&public), Act::ApprovalRefused, &self.id, reason)
                .with("verdict", verdict.to_string())
                .with("reason", &self.reason);
            append(&bus, &deed)
                .await
                .context("it is refused, and that cannot be written to the audit trail")?;
        }
        match told {
            Ok((asked, told)) => {
                if let Some(other) = awaited(&bus, &asked).await?.filter(|id| *id != asked.id) {
                    bail!(
                        "it is denied, and {other} is what incident {} waits for now: deny that one as well",
                        asked.incident
                    );
                }
                match self.output {
                    Output::Json => output::json(&shape(&asked, &told, true)),
                    Output::Text => {
                        line(format!("{} for {}: {}", asked.action, asked.key.entity, words(&told, true)));
                        if verdict == Verdict::Deny && asked.used.is_some() {
                            line("it was allowed before: if its call has left already, that stays as it is");
                        }
                    }
                }
                Ok(())
            }
            Err(reason) => {
                match self.output {
                    Output::Json => output::json(&json!({"id": self.id, "refused": reason})),
                    Output::Text => line(format!("refused: {reason}")),
                }
                Err(No.into())
            }
        }
    }

    /// Adds a person's word; else says why it counts for nothing.
    async fn rule(
        &self,
        bus: &Bus,
        set: &Set,
        token: &Token,
        verdict: Verdict,
    ) -> anyhow::Result<Result<(Asked, Standing), String>> {
        let public = token.public();
        let Some((name, person)) = set.people.iter().find(|(_, person)| person.token == public) else {
            return Ok(Err(format!("`people` of holdline.yaml has nobody with the token {public}")));
        };
        for _ in 0..TRIES_MAX {
            let (place, asked) = read(bus, &self.id).await?;
            let Some(mut asked) = asked else {
                return Ok(Err(format!(
                    "nobody is asked for {}; `holdline approvals` shows what waits",
                    self.id
                )));
            };
            let now_ms = now_ms(bus).await?;
            if let Some(reason) = approval::refused(&on_terms(&asked, set), name, Some(person), now_ms) {
                return Ok(Err(reason));
            }
            let said = asked.clone();
            let authentic = |person: &Person, ruling: &Ruling| token::has_said(&person.token, ruling, &said);
            asked = approval::without_void(asked, &set.people, authentic, now_ms);
            if let Some(reason) = approval::unneeded(&asked, name, verdict) {
                // Whoever said it may have been cut off before the incident heard of it.
                tell(bus, &asked, &standing(&asked, set, now_ms)).await?;
                return Ok(Err(reason));
            }
            // A denial counts for as long as the call has not left, whatever its incident waits for by now.
            if verdict == Verdict::Approve
                && let Some(reason) = still_awaited(bus, &asked).await?
            {
                return Ok(Err(reason));
            }
            let ruling = Ruling {
                by: name.clone(),
                verdict,
                reason: self.reason.clone(),
                at_ms: now_ms,
                signature: vec![],
            };
            let signature = token.sign(&ruling.signed(&asked))?;
            let act = match verdict {
                Verdict::Approve => Act::Approved,
                Verdict::Deny if asked.rulings.is_empty() => Act::Denied,
                Verdict::Deny => Act::Revoked,
            };
            let deed =
                Deed::new(name, act, format!("{} for {}", asked.action, asked.key.entity), &self.reason)
                    .with("approval", &asked.id)
                    .with("incident", &asked.incident)
                    .with("request", &asked.request)
                    .with("signature", hex::encode(&signature));
            asked.rulings.push(Ruling { signature, ..ruling });
            let put = Put { expect: Some(place.revision), ttl: Some(KEPT), ..Put::default() };
            let stored = audited(bus, deed, async {
                match bus.put(Bucket::Approvals, &self.id, wire::encode(&asked).into(), put).await {
                    Ok(_) => Ok(()),
                    Err(StoreError::Fenced) => Err(Overtaken.into()),
                    Err(error) => bail!(
                        "it is not known whether that was stored: {error}; look with `holdline approvals --all`"
                    ),
                }
            });
            match stored.await {
                Ok(()) => {
                    let told = standing(&asked, set, now_ms);
                    tell(bus, &asked, &told).await.context(
                        "it is stored, and its incident may not have heard of it: `holdline approvals` tells it again",
                    )?;
                    return Ok(Ok((asked, told)));
                }
                Err(error) if error.is::<Overtaken>() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("others write at the same time, again and again; nothing is changed")
    }
}

/// Tells the incident, once people have decided.
async fn tell(bus: &Bus, asked: &Asked, told: &Standing) -> anyhow::Result<()> {
    let (verdict, by, reason) = match (told, asked.rulings.last()) {
        (Standing::Allowed { by }, Some(last)) => (Verdict::Approve, by.join(", "), last.reason.clone()),
        (Standing::Denied { by, reason }, _) => (Verdict::Deny, by.clone(), reason.clone()),
        _ => return Ok(()),
    };
    let ruled = Ruled {
        key: asked.key.clone(),
        incident: asked.incident.clone(),
        approval: asked.id.clone(),
        verdict,
        by,
        reason,
    };
    let message = PublishMessage::build()
        .message_id(format!("ruled-{}-{}", asked.id, asked.rulings.len()))
        .payload(wire::encode(&ruled).into());
    bus.publish(message.outbound_message(bus.topology().operator(asked.partition))).await?;
    Ok(())
}

/// Somebody else has written since it was read.
#[derive(Debug, thiserror::Error)]
#[error("somebody else has spoken in the same moment; it is looked at again")]
struct Overtaken;

/// How a request stands, as the executor will judge it.
fn standing(asked: &Asked, set: &Set, now_ms: i64) -> Standing {
    let authentic = |person: &Person, ruling: &Ruling| token::has_said(&person.token, ruling, asked);
    approval::judge(&on_terms(asked, set), &set.people, authentic, now_ms)
}

fn on_terms(asked: &Asked, set: &Set) -> Asked {
    match approval::terms_told(set, asked) {
        Some(terms) => approval::on_terms(asked.clone(), terms),
        None => asked.clone(),
    }
}

/// The approval that an incident waits for now. From the leader: by a view that lags, what waits now would be refused for
/// what waited before.
async fn awaited(bus: &Bus, asked: &Asked) -> anyhow::Result<Option<String>> {
    let Some(view) = bus.newest(Bucket::Incidents, &asked.incident).await?.value else { return Ok(None) };
    Ok(wire::decode::<View>(&view)?.awaiting)
}

/// Why an incident does not wait for this any more.
async fn still_awaited(bus: &Bus, asked: &Asked) -> anyhow::Result<Option<String>> {
    for look in 0..VIEW_LOOKS {
        if look > 0 {
            clock::sleep(VIEW_WAIT).await;
        }
        match awaited(bus, asked).await? {
            Some(id) if id == asked.id => return Ok(None),
            Some(other) => {
                return Ok(Some(format!("the request has changed since: {other} is what waits now")));
            }
            None => {}
        }
    }
    Ok(Some(format!("incident {} no longer waits for it", asked.incident)))
}

async fn read(bus: &Bus, id: &str) -> anyhow::Result<(Place, Option<Asked>)> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{id:?} names no approval; `holdline approvals` shows what waits");
    }
    let place = bus.newest(Bucket::Approvals, id).await?;
    let asked = place.value.as_ref().map(|value| wire::decode(value)).transpose();
    Ok((place, asked.with_context(|| format!("the entry {id} of APPROVALS cannot be read"))?))
}

pub(super) async fn now_ms(bus: &Bus) -> anyhow::Result<i64> {
    BrokerTime::once_ms(bus).await.map_err(|why| anyhow!("the broker's clock cannot be read: {why}"))
}

/// The set of playbooks that is in force.
pub(super) async fn current(bus: &Bus) -> anyhow::Result<Set> {
    Ok(stored(bus).await??)
}

/// Why there is no set that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSet {
    #[error("no set of playbooks was pushed yet")]
    Unpushed,
    #[error("the current set {0} of playbooks is gone")]
    Gone(String),
    #[error("the current set {hash}: {reason}")]
    Unusable { hash: String, reason: String },
}

/// The same, or why what is stored is none; the broker has answered then. From the leader: a replica that lags would have
/// no set, or an earlier one with other people in it.
///
/// # Errors
/// When it has not.
pub(super) async fn stored(bus: &Bus) -> anyhow::Result<Result<Set, NoSet>> {
    let Some(hash) = bus.newest(Bucket::Playbooks, CURRENT).await?.value else {
        return Ok(Err(NoSet::Unpushed));
    };
    let hash = String::from_utf8_lossy(&hash).into_owned();
    let stored = match Bundle::is_hash(&hash) {
        true => bus.newest(Bucket::Playbooks, &Bundle::key(&hash)).await?.value,
        false => None,
    };
    let Some(stored) = stored else { return Ok(Err(NoSet::Gone(hash))) };
    let bundle = wire::decode(&stored).map_err(|error| error.to_string());
    let set = bundle.and_then(|bundle| playbook::compile(&bundle));
    Ok(set.map_err(|reason| NoSet::Unusable { hash, reason }))
}
