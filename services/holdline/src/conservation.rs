//! The conservation count (N2): every acceptance ends in exactly one disposition. Counted from the logs alone;
//! no program's own counters are asked.
//!
//! The identity of an acceptance is its accept id. A frame that was stored twice (a publish that was answered
//! only the second time) is one acceptance in two places: one of them counts, the other ends as a duplicate of
//! the first. What comes back from the dead letters is the acceptance that was parked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdline_proto::dead_letter::{DeadLetter, Resolved, Wish};
use holdline_proto::event::{Frame, Origin};
use holdline_proto::journal::{Decided, Disposed, Disposition, Record};
use holdline_proto::signal::Classified;
use holdline_proto::topology::{RESOLVED, Role, Stream};
use holdline_proto::wire::{self, Wire};
use holdline_stage::bus::Bus;
use serde::{Deserialize, Serialize};

use crate::read::each;

/// Acceptances that are named when something is wrong; the rest are only counted.
const NAMED_MAX: usize = 50;

/// What the count found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Count {
    /// Distinct accept ids in EVENTS.
    pub accepted: u64,
    /// Copies of an acceptance beyond its first: frames stored twice, replays of dead letters.
    pub copies: u64,
    /// By kind of disposition.
    pub dispositions: BTreeMap<&'static str, u64>,
    /// Read by no stage yet.
    pub on_their_way: u64,
    /// Accept ids without a disposition although every stage has passed them.
    pub missing: Vec<String>,
    /// Accept ids with more than one.
    pub doubled: Vec<String>,
    /// Dispositions of acceptances that EVENTS does not hold (any more).
    pub unknown: u64,
    /// Messages on the pipeline's logs that could not be understood and are not in the dead letters.
    pub unparked: Vec<String>,
    pub missing_more: u64,
    pub doubled_more: u64,
}

impl Count {
    /// Whether every acceptance that has been read ended exactly once.
    pub(crate) fn balanced(&self) -> bool {
        self.missing.is_empty() && self.doubled.is_empty() && self.unparked.is_empty()
    }
}

/// What is known of one acceptance.
#[derive(Debug, Default)]
struct Acceptance {
    /// Places in EVENTS, replays left out.
    places: Vec<Origin>,
    replayed: bool,
    /// Dispositions other than "a copy": of itself, or of another acceptance.
    ends: u32,
    /// Places that ended as a duplicate of another acceptance: all of them together are one end, and none beside
    /// any other.
    copied_from_others: BTreeSet<Origin>,
    kind: &'static str,
    on_its_way: bool,
}

/// The dead letters: what lies there, and what was given up for good.
#[derive(Default)]
struct Letters {
    /// (stage, sequence of the parked message) → kind of disposition.
    parked: HashMap<(String, u64), &'static str>,
}

/// What the count needs of a record of the debouncer: most of one are its tracks, which are not made anew for that.
#[derive(Serialize, Deserialize)]
struct Ends {
    body: Disposals,
}

#[derive(Serialize, Deserialize)]
struct Disposals {
    #[serde(default)]
    disposed: Vec<Disposed>,
}

impl Wire for Ends {
    const KIND: &'static str = <Record<Decided> as Wire>::KIND;
}

/// Counts every partition.
///
/// # Errors
/// When the broker does not answer or a stage's own record cannot be read.
pub(crate) async fn count(bus: &Bus, partitions: u16) -> anyhow::Result<Count> {
    let letters = letters(bus).await?;
    let mut count = Count::default();
    for partition in 0..partitions {
        count_partition(bus, partition, &letters, &mut count).await?;
    }
    Ok(count)
}

async fn letters(bus: &Bus) -> anyhow::Result<Letters> {
    let mut letters = Letters::default();
    let resolved_subject = bus.topology().dead(RESOLVED);
    each(bus, Stream::Dead, &bus.topology().dead("*"), 1, |message| {
        if message.subject == resolved_subject {
            let resolved: Resolved = wire::decode(&message.payload)?;
            if resolved.what == Wish::Discard {
                letters.parked.insert((resolved.stage, resolved.sequence), "discarded");
            }
        } else if let Ok(letter) = wire::decode::<DeadLetter>(&message.payload) {
            letters.parked.insert((letter.stage, letter.sequence), "parked");
        }
        Ok(false)
    })
    .await?;
    Ok(letters)
}

async fn count_partition(
    bus: &Bus,
    partition: u16,
    letters: &Letters,
    count: &mut Count,
) -> anyhow::Result<()> {
    let topology = bus.topology();
    // The stages' positions first: whatever is accepted or decided meanwhile is beyond them.
    let (log, signal) = (topology.log(partition), topology.signal(partition));
    let judged = position::<Decided>(bus, Stream::Journal, &log).await?;
    let classified = position::<Classified>(bus, Stream::Inputs, &signal).await?;
    let mut acceptances: HashMap<String, Acceptance> = HashMap::new();
    let mut by_place: HashMap<Origin, String> = HashMap::new();
    let parked =
        |stage: Role, sequence: u64| letters.parked.get(&(stage.name().to_string(), sequence)).copied();

    each(bus, Stream::Events, &topology.event(partition), 1, |message| {
        let frame: Frame = match wire::decode(&message.payload) {
            Ok(frame) => frame,
            Err(_) => {
                let known = parked(Role::Classifier, message.sequence).is_some();
                if !known && message.sequence <= classified {
                    count.unparked.push(format!("{} {}", message.subject, message.sequence));
                }
                return Ok(false);
            }
        };
        for (index, event) in (0u32..).zip(frame.events) {
            let acceptance = acceptances.entry(event.accept_id.clone()).or_default();
            let place = Origin { sequence: message.sequence, index };
            match event.origin {
                Some(_) => acceptance.replayed = true,
                None => {
                    acceptance.places.push(place);
                    by_place.insert(place, event.accept_id.clone());
                }
            }
            if message.sequence > classified {
                acceptance.on_its_way = true;
            } else if let Some(kind) = parked(Role::Classifier, message.sequence) {
                acceptance.end(kind);
            }
        }
        Ok(false)
    })
    .await?;

    let dispose = |disposed: &Disposed, count: &mut Count, acceptances: &mut HashMap<String, Acceptance>| {
        let Some(acceptance) = acceptances.get_mut(&disposed.accept_id) else {
            count.unknown += 1;
            return;
        };
        // Another copy of the same acceptance is no end of its own.
        if let Disposition::Duplicate { of } = &disposed.disposition
            && by_place.get(of).is_some_and(|id| *id == disposed.accept_id)
        {
            return;
        }
        let duplicate = matches!(disposed.disposition, Disposition::Duplicate { .. });
        if !duplicate || !acceptance.copied_from_others.insert(disposed.origin) {
            acceptance.end(kind(&disposed.disposition));
        }
    };
    each(bus, Stream::Inputs, &signal, 1, |message| {
        let Ok(record) = wire::decode::<Record<Classified>>(&message.payload) else {
            if parked(Role::Debouncer, message.sequence).is_none() && message.sequence <= judged {
                count.unparked.push(format!("{} {}", message.subject, message.sequence));
            }
            return Ok(false);
        };
        for disposed in &record.body.disposed {
            dispose(disposed, count, &mut acceptances);
        }
        // What became signals ends with the debouncer, or in its dead letters.
        let end = parked(Role::Debouncer, message.sequence);
        if end.is_some() || message.sequence > judged {
            let ids: BTreeSet<&str> = record.body.signals.iter().map(|s| s.accept_id.as_str()).collect();
            for id in ids {
                let Some(acceptance) = acceptances.get_mut(id) else { continue };
                match end {
                    Some(kind) => acceptance.end(kind),
                    None => acceptance.on_its_way = true,
                }
            }
        }
        Ok(false)
    })
    .await?;
    each(bus, Stream::Journal, &log, 1, |message| {
        let record: Ends = wire::decode(&message.payload)?;
        for disposed in &record.body.disposed {
            dispose(disposed, count, &mut acceptances);
        }
        Ok(false)
    })
    .await?;

    for (id, acceptance) in acceptances {
        count.accepted += 1;
        let copies = acceptance.places.len() + usize::from(acceptance.replayed);
        count.copies += copies.saturating_sub(1) as u64;
        let copied = !acceptance.copied_from_others.is_empty();
        match acceptance.ends {
            0 if copied => *count.dispositions.entry("deduplicated").or_default() += 1,
            0 if acceptance.on_its_way => count.on_their_way += 1,
            0 => name(&mut count.missing, &mut count.missing_more, id),
            1 => *count.dispositions.entry(acceptance.kind).or_default() += 1,
            _ => name(&mut count.doubled, &mut count.doubled_more, id),
        }
    }
    Ok(())
}

impl Acceptance {
    fn end(&mut self, kind: &'static str) {
        self.ends += 1;
        self.kind = kind;
    }
}

fn name(named: &mut Vec<String>, more: &mut u64, id: String) {
    if named.len() < NAMED_MAX { named.push(id) } else { *more += 1 }
}

fn kind(disposition: &Disposition) -> &'static str {
    match disposition {
        Disposition::Duplicate { .. } => "deduplicated",
        Disposition::Ignored { .. } => "ignored",
        Disposition::Stale { .. } => "stale",
        Disposition::Echo { .. } => "echo",
        Disposition::Undecidable { .. } => "undecidable",
        Disposition::Counted { .. } => "counted",
    }
}

/// How far a stage has read, by its last record.
async fn position<B>(bus: &Bus, stream: Stream, subject: &str) -> anyhow::Result<u64>
where
    Record<B>: Wire,
{
    match bus.last(stream, subject).await? {
        Some(last) => Ok(wire::decode::<Record<B>>(&last.payload)?.position),
        None => Ok(0),
    }
}
