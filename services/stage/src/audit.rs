//! Writes to the audit trail (AUDIT): one chain, however many write to it.
//!
//! An entry names the one before it, and is published with that one as its expectation: of several writers one is
//! first, and the others read again. An answer that is lost is no reason to write twice: an entry can only ever stand
//! right behind the one that it names, and is looked for there.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use holdline_proto::audit::{self, Deed, Entry, Previous, WITNESS, Witness};
use holdline_proto::limits::AUDIT_ENTRY_BYTES_MAX;
use holdline_proto::topology::{Bucket, Stream};
use holdline_proto::wire;

use crate::broker_time::BrokerTime;
use crate::bus::{Bus, Put, StoreError};
use crate::clock;
use crate::crash::{self, Point};

/// Tries to write an entry while others write, too: each time one of them gets through.
const TRIES_MAX: u32 = 64;

/// Before it is looked again whether an entry was stored.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// So long it is tried to find out whether an entry was stored: a leader election takes less.
const DOUBT_TIME_MAX: Duration = Duration::from_secs(10);

/// Why an entry is not in the trail, or may not be: what it is about must not be done then.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Nothing was written.
    #[error("the audit trail cannot be read, so nothing can be added to it: {0}")]
    Unreadable(String),
    /// Nothing was written.
    #[error("others add to the audit trail at the same time, again and again")]
    Contended,
    /// Nothing was written.
    #[error(
        "{0} bytes are too many for one entry of the audit trail, which has {AUDIT_ENTRY_BYTES_MAX} at most"
    )]
    TooLarge(usize),
    /// The broker did not say, and could not be asked.
    #[error("it is not known whether it was added to the audit trail: {0}")]
    Unknown(String),
}

/// Where the next entry goes.
struct Place {
    number: u64,
    /// What must be the last message of the subject; 0: none.
    behind: u64,
    previous: Option<Previous>,
}

/// Adds to the trail what is about to be done. Gives the number of the entry, once it is durable.
///
/// # Errors
/// See [`AuditError`].
pub async fn append(bus: &Bus, deed: &Deed) -> Result<u64, AuditError> {
    let newest = add(bus, deed).await?;
    crash::point(Point::EntryAppended);
    // The next entry's note says as much, and more.
    if let Err(error) = note(bus, &newest).await {
        tracing::error!("WITNESS does not have entry {} of the audit trail: {error}", newest.number);
    }
    Ok(newest.number)
}

/// What was noted of the newest entry, apart from the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// Nothing yet, or somebody has taken it out.
    Nothing,
    /// When: Unix milliseconds, broker's clock.
    Entry { witness: Witness, at_ms: i64 },
    /// It says nothing of the trail, not even that nothing was added.
    Unreadable { why: String },
}

/// Reads what was noted of the newest entry.
///
/// # Errors
/// When the broker does not answer.
pub async fn noted(bus: &Bus) -> Result<Noted, StoreError> {
    let place = bus.newest(Bucket::Witness, WITNESS).await?;
    Ok(match place.value.map(|value| wire::decode(&value)) {
        None => Noted::Nothing,
        Some(Ok(witness)) => Noted::Entry { witness, at_ms: place.written_ms },
        Some(Err(error)) => Noted::Unreadable { why: error.to_string() },
    })
}

/// Notes an entry apart from the trail, unless a newer one is noted already.
async fn note(bus: &Bus, newest: &Witness) -> Result<(), StoreError> {
    for _ in 0..TRIES_MAX {
        let place = bus.newest(Bucket::Witness, WITNESS).await?;
        if let Some(noted) = place.value.and_then(|value| wire::decode::<Witness>(&value).ok())
            && (noted.number >= newest.number || was_replaced(bus, &noted).await?)
        {
            return Ok(());
        }
        let put = Put { expect: Some(place.revision), ..Put::default() };
        match bus.put(Bucket::Witness, WITNESS, wire::encode(newest).into(), put).await {
            Err(StoreError::Fenced) => {}
            put => return put.map(|_| ()),
        }
    }
    Err(StoreError::Fenced)
}

/// Whether another entry stands in the place of the one that was noted. Then the note stays as it is, or what is added
/// would hide that the trail has lost its end.
async fn was_replaced(bus: &Bus, noted: &Witness) -> Result<bool, StoreError> {
    let found = bus.at(Stream::Audit, noted.number).await?;
    let replaced = found.is_some_and(|found| audit::hash(&found.payload) != noted.hash);
    if replaced {
        tracing::error!(
            "entry {} of the audit trail is not the one that was written; `holdline audit verify` says so, too",
            noted.number
        );
    }
    Ok(replaced)
}

async fn add(bus: &Bus, deed: &Deed) -> Result<Witness, AuditError> {
    let inbox = bus.client().new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or_default();
    let at_ms = BrokerTime::once_ms(bus).await.map_err(AuditError::Unreadable)?;
    let mut began = clock::now();
    // The number under which it may be there already, and why that is not known.
    let mut doubt: Option<(u64, String)> = None;
    for _ in 0..TRIES_MAX {
        if let Some((number, why)) = &doubt {
            if clock::since(began) > DOUBT_TIME_MAX {
                return Err(AuditError::Unknown(why.clone()));
            }
            match bus.at(Stream::Audit, *number).await {
                Ok(Some(found)) if audit::open(&found.payload).is_ok_and(|entry| entry.id == id) => {
                    return Ok(Witness { number: *number, hash: audit::hash(&found.payload) });
                }
                // Somebody else's entry: ours can no longer come to stand there.
                Ok(Some(_)) => doubt = None,
                // It may still be on its way; tried again it expects the same, so that one of the two is refused.
                Ok(None) => {}
                Err(_) => {
                    clock::sleep(LOOK_AGAIN_AFTER).await;
                    continue;
                }
            }
        }
        let Place { number, behind, previous } = match place(bus).await {
            Ok(place) => place,
            Err(error) if doubt.is_none() => return Err(AuditError::Unreadable(error.to_string())),
            Err(_) => {
                clock::sleep(LOOK_AGAIN_AFTER).await;
                continue;
            }
        };
        let stored = audit::seal(&Entry { number, at_ms, previous, id: id.into(), deed: deed.clone() });
        if stored.len() > AUDIT_ENTRY_BYTES_MAX {
            return Err(AuditError::TooLarge(stored.len()));
        }
        let hash = audit::hash(&stored);
        let message = PublishMessage::build().expected_last_subject_sequence(behind).payload(stored.into());
        match bus.publish(message.outbound_message(bus.topology().audit())).await {
            Ok(sequence) => {
                if sequence != number {
                    tracing::error!(
                        "entry {number} of the audit trail stands at {sequence}: somebody has taken out what was \
                         between; `holdline audit verify` says so, too"
                    );
                }
                return Ok(Witness { number, hash });
            }
            Err(StoreError::Fenced) => {}
            Err(StoreError::Unknown(why)) => {
                if doubt.is_none() {
                    began = clock::now();
                }
                doubt = Some((number, why));
                clock::sleep(LOOK_AGAIN_AFTER).await;
            }
        }
    }
    Err(doubt.map_or(AuditError::Contended, |(_, why)| AuditError::Unknown(why)))
}

/// Behind the last entry, as the leader has it.
async fn place(bus: &Bus) -> Result<Place, StoreError> {
    let Some(last) = bus.last(Stream::Audit, &bus.topology().audit()).await? else {
        let number = bus.bounds(Stream::Audit).await?.last + 1;
        return Ok(Place { number, behind: 0, previous: None });
    };
    let stored_ms = i64::try_from(last.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    let previous = Previous { hash: audit::hash(&last.payload), stored_ms };
    Ok(Place { number: last.sequence + 1, behind: last.sequence, previous: Some(previous) })
}
