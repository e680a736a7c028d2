//! Changes that native actions have made and who relies on them: what stood there before, kept from before the call
//! until the last incident is over. In INTENTS, because losing one would leave nothing to restore from.

use std::time::Duration;

use holdline_decide::native::{Change, InForce};
use holdline_proto::command::Command;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put, StoreError};

/// An incident that is open for longer has its remedies undone by a person.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What is kept of one change, and the revision that the next write must expect.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    pub known: Option<InForce>,
    pub revision: u64,
    key: String,
    /// Why what is kept cannot be read.
    pub unreadable: Option<String>,
}

/// The remedy that a command is about: itself, or the one that it undoes.
pub(crate) fn remedy(command: &Command) -> String {
    format!("{}-{}", command.incident, command.undo.unwrap_or(command.step))
}

/// Looks up what is known of a change, from the leader: whoever lags would leave a remedy in force for ever. What only
/// starts something is its incident's own.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn of(bus: &Bus, change: &Change, command: &Command) -> Result<Entry, StoreError> {
    let key = token(&["kept", &change.identity().unwrap_or_else(|| remedy(command))]);
    let place = bus.newest(Bucket::Intents, &key).await?;
    let (known, unreadable) = match place.value.map(|value| wire::decode(&value)).transpose() {
        Ok(known) => (known, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Entry { known, revision: place.revision, key, unreadable })
}

/// Keeps what is known of a change, if it says anything new.
///
/// # Errors
/// [`StoreError::Fenced`] when somebody else has written since.
pub(crate) async fn write(bus: &Bus, entry: &Entry, known: InForce) -> Result<Entry, StoreError> {
    if entry.known.as_ref() == Some(&known) {
        return Ok(entry.clone());
    }
    let put = Put { expect: Some(entry.revision), ttl: Some(KEPT), ..Put::default() };
    let revision = bus.put(Bucket::Intents, &entry.key, wire::encode(&known).into(), put).await?;
    Ok(Entry { known: Some(known), revision, key: entry.key.clone(), unreadable: None })
}
