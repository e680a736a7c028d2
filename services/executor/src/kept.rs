//! Changes that native actions have made and who relies on them: what stood there before, kept from before the call
//! until the last incident is over. In INTENTS, because losing one would leave nothing to restore from.

use std::time::Duration;

use holdline_decide::native::{Change, InForce, Lists, Written};
use holdline_proto::command::Command;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire::{self, Wire};
use holdline_stage::bus::{Bus, Put, StoreError};

/// An incident that is open for longer has its remedies undone by a person.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What is kept of one change or object, and the revision that the next write must expect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<T> {
    pub known: Option<T>,
    pub revision: u64,
    key: String,
    /// Why what is kept cannot be read.
    pub unreadable: Option<String>,
}

/// The remedy that a command is about: itself, or the one that it undoes.
pub(crate) fn remedy(command: &Command) -> String {
    format!("{}-{}", command.incident, command.undo.unwrap_or(command.step))
}

/// Looks up what is known of a change. What only starts something is its incident's own.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn of(bus: &Bus, change: &Change, command: &Command) -> Result<Entry<InForce>, StoreError> {
    under(bus, &change.identity().unwrap_or_else(|| remedy(command))).await
}

/// The same of a change of this identity.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn under(bus: &Bus, identity: &str) -> Result<Entry<InForce>, StoreError> {
    read(bus, token(&["kept", identity])).await
}

/// Looks up which lists of members of a queue changes of ours are about.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn lists(bus: &Bus, object: &str) -> Result<Entry<Lists>, StoreError> {
    read(bus, token(&["lists", object])).await
}

/// Looks up what we have written to an object.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn written(bus: &Bus, object: &str) -> Result<Entry<Written>, StoreError> {
    read(bus, token(&["written", object])).await
}

/// From the leader: whoever lags would leave a remedy in force for ever.
async fn read<T: Wire>(bus: &Bus, key: String) -> Result<Entry<T>, StoreError> {
    let place = bus.newest(Bucket::Intents, &key).await?;
    let (known, unreadable) = match place.value.map(|value| wire::decode(&value)).transpose() {
        Ok(known) => (known, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Entry { known, revision: place.revision, key, unreadable })
}

/// Keeps what is known. Also what says nothing new: whoever has read it before has to look again.
///
/// # Errors
/// [`StoreError::Fenced`] when somebody else has written since.
pub(crate) async fn write<T: Wire>(bus: &Bus, entry: &Entry<T>, known: T) -> Result<Entry<T>, StoreError> {
    let put = Put { expect: Some(entry.revision), ttl: Some(KEPT), ..Put::default() };
    let revision = bus.put(Bucket::Intents, &entry.key, wire::encode(&known).into(), put).await?;
    Ok(Entry { known: Some(known), revision, key: entry.key.clone(), unreadable: None })
}
