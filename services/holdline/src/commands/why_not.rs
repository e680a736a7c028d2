//! `holdline why-not EVENT`: what became of an event, from the logs.

use anyhow::Context;
use holdline_decide::explain;
use holdline_proto::event::{Frame, Origin, parse_accept_id};
use holdline_proto::journal::{Decided, Disposed, Record};
use holdline_proto::playbooks::{INSTALLATION, Installation as Installed};
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Bucket, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use serde_json::{Value, json};

use super::{Installation, No};
use crate::output::{self, Output, iso, line};
use crate::read;

#[derive(Debug, clap::Args)]
pub(crate) struct WhyNot {
    /// The accept id that the gateway answered, or the sender's own event id
    event: String,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Clocks of gateways and brokers are taken to differ by less than this.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// An event found in EVENTS.
struct Found {
    partition: u16,
    origin: Origin,
    /// The broker's clock when it was stored.
    stored_ms: i64,
    accept_id: String,
    event_id: String,
}

impl WhyNot {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus_to_look().await?;
        let mut told = vec![];
        for found in find(&bus, &self.event).await? {
            let disposed = disposition(&bus, &found).await?;
            told.push(json!({
                "acceptId": found.accept_id,
                "eventId": found.event_id,
                "position": found.origin.to_string(),
                "partition": found.partition,
                "disposition": disposed.as_ref().map(|d| &d.disposition),
                "sentence": disposed.as_ref().map_or_else(
                    || "accepted, and on its way".to_string(),
                    |d| explain::disposition(&d.disposition),
                ),
            }));
        }
        let known = !told.is_empty();
        match self.output {
            Output::Json => output::json(&Value::Array(told)),
            Output::Text if !known => line(format!("no event {} was accepted here", self.event)),
            Output::Text => {
                for event in &told {
                    let text =
                        |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
                    line(format!("event {} ({}): {}", text("eventId"), text("acceptId"), text("sentence")));
                }
            }
        }
        if known { Ok(()) } else { Err(No.into()) }
    }
}

/// Every acceptance of an event. An accept id names its partition and its time; for an event id, and for one
/// that only looks like an accept id, every partition is read.
async fn find(bus: &Bus, event: &str) -> anyhow::Result<Vec<Found>> {
    let entry = bus.get(Bucket::Playbooks, INSTALLATION).await?.context("nothing is provisioned here")?;
    let installation: Installed = wire::decode(&entry.value)?;
    if let Some((partition, accepted_ms)) = parse_accept_id(event)
        && partition < installation.partitions
    {
        let subject = bus.topology().event(partition);
        let from = at(bus, Stream::Events, &subject, accepted_ms).await?;
        let found = find_in(bus, partition, from, event).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let mut found = vec![];
    for partition in 0..installation.partitions {
        found.extend(find_in(bus, partition, 1, event).await?);
    }
    Ok(found)
}

async fn find_in(bus: &Bus, partition: u16, from: u64, event: &str) -> anyhow::Result<Vec<Found>> {
    let mut found = vec![];
    let subject = bus.topology().event(partition);
    read::each(bus, Stream::Events, &subject, from, |message| {
        let sequence = message.sequence;
        // What is no frame is in the dead letters, and holds no event that was accepted.
        let Ok(frame) = wire::decode::<Frame>(&message.payload) else { return Ok(false) };
        for (index, accepted) in (0u32..).zip(frame.events) {
            let body: Value = serde_json::from_slice(&accepted.body).unwrap_or_default();
            let id = body.get("id").and_then(Value::as_str).unwrap_or_default();
            if accepted.accept_id == event || id == event {
                let origin = accepted.origin.unwrap_or(Origin { sequence, index });
                let event_id = id.to_string();
                let stored_ms = message.published_ms;
                found.push(Found { partition, origin, stored_ms, accept_id: accepted.accept_id, event_id });
            }
        }
        Ok(false)
    })
    .await?;
    Ok(found)
}

/// Its disposition: the classifier's, or the debouncer's where it became a signal.
async fn disposition(bus: &Bus, found: &Found) -> anyhow::Result<Option<Disposed>> {
    let mut disposed = None;
    let mut take = |candidates: Vec<Disposed>| {
        disposed =
            candidates.into_iter().find(|d| d.origin == found.origin && d.accept_id == found.accept_id);
        disposed.is_some()
    };
    let signal = bus.topology().signal(found.partition);
    let from = at(bus, Stream::Inputs, &signal, found.stored_ms).await?;
    read::each(bus, Stream::Inputs, &signal, from, |message| {
        let record: Record<Classified> = wire::decode(&message.payload)?;
        Ok(take(record.body.disposed))
    })
    .await?;
    if disposed.is_none() {
        let log = bus.topology().log(found.partition);
        let mut take = |candidates: Vec<Disposed>| {
            disposed = candidates.into_iter().find(|d| d.accept_id == found.accept_id);
            disposed.is_some()
        };
        let from = at(bus, Stream::Journal, &log, found.stored_ms).await?;
        read::each(bus, Stream::Journal, &log, from, |message| {
            let record: Record<Decided> = wire::decode(&message.payload)?;
            Ok(take(record.body.disposed))
        })
        .await?;
    }
    Ok(disposed)
}

/// The first message of a subject that was stored at a time or later, less what clocks may differ by. Where
/// there is none the subject is read from its beginning.
async fn at(bus: &Bus, stream: Stream, subject: &str, ms: i64) -> anyhow::Result<u64> {
    let request = json!({"start_time": iso(ms.saturating_sub(CLOCKS_DIFFER_MS)), "next_by_subj": subject});
    let api = format!("STREAM.MSG.GET.{}", bus.topology().stream(stream));
    let answer: Value = bus.context().request(api, &request).await.context("the broker does not answer")?;
    Ok(answer.pointer("/message/seq").and_then(Value::as_u64).unwrap_or(1))
}
