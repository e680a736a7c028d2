//! `holdline why-not EVENT`: what became of an event, from the logs.

use anyhow::Context;
use holdline_decide::explain;
use holdline_proto::event::{Frame, Origin, parse_accept_id};
use holdline_proto::journal::{Decided, Disposed, Record};
use holdline_proto::playbooks::INSTALLATION;
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Bucket, Role, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::pipe::Reader;
use serde_json::{Value, json};

use super::{Installation, No};
use crate::output::{self, Output, line};

#[derive(Debug, clap::Args)]
pub(crate) struct WhyNot {
    /// The accept id that the gateway answered, or the sender's own event id
    event: String,
    #[command(flatten)]
    installation: Installation,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// An event found in EVENTS.
struct Found {
    partition: u16,
    origin: Origin,
    accept_id: String,
    event_id: String,
}

impl WhyNot {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let bus = self.installation.bus(Role::Operator).await?;
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

/// Every acceptance of an event. An accept id names its partition; for an event id every partition is read.
async fn find(bus: &Bus, event: &str) -> anyhow::Result<Vec<Found>> {
    let partitions = match parse_accept_id(event) {
        Some((partition, _)) => vec![partition],
        None => {
            let entry =
                bus.get(Bucket::Playbooks, INSTALLATION).await?.context("nothing is provisioned here")?;
            let installation: holdline_proto::playbooks::Installation = wire::decode(&entry.value)?;
            (0..installation.partitions).collect()
        }
    };
    let mut found = vec![];
    for partition in partitions {
        let subject = bus.topology().event(partition);
        each(bus, Stream::Events, &subject, |sequence, payload| {
            let frame: Frame = wire::decode(payload)?;
            for (index, accepted) in (0u32..).zip(frame.events) {
                let body: Value = serde_json::from_slice(&accepted.body).unwrap_or_default();
                let id = body.get("id").and_then(Value::as_str).unwrap_or_default();
                if accepted.accept_id == event || id == event {
                    let origin = accepted.origin.unwrap_or(Origin { sequence, index });
                    let event_id = id.to_string();
                    found.push(Found { partition, origin, accept_id: accepted.accept_id, event_id });
                }
            }
            Ok(false)
        })
        .await?;
    }
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
    each(bus, Stream::Inputs, &signal, |_, payload| {
        let record: Record<Classified> = wire::decode(payload)?;
        Ok(take(record.body.disposed))
    })
    .await?;
    if disposed.is_none() {
        let log = bus.topology().log(found.partition);
        let mut take = |candidates: Vec<Disposed>| {
            disposed = candidates.into_iter().find(|d| d.accept_id == found.accept_id);
            disposed.is_some()
        };
        each(bus, Stream::Journal, &log, |_, payload| {
            let record: Record<Decided> = wire::decode(payload)?;
            Ok(take(record.body.disposed))
        })
        .await?;
    }
    Ok(disposed)
}

/// Reads a subject from its beginning to its end, or until `take` says that it is enough.
async fn each(
    bus: &Bus,
    stream: Stream,
    subject: &str,
    mut take: impl FnMut(u64, &[u8]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let Some(last) = bus.last(stream, subject).await? else { return Ok(()) };
    let mut reader = Reader::open(bus, stream, vec![subject.into()], 1).await?;
    loop {
        let message = reader.next().await?;
        if take(message.sequence, &message.payload)? || message.sequence >= last.sequence {
            reader.close().await;
            return Ok(());
        }
    }
}
