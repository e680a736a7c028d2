//! Pre-images of native actions: what stood there before, kept from before the call until long after the
//! incident. In INTENTS, because losing one would leave nothing to restore from.

use std::time::Duration;

use holdline_decide::native::Kept;
use holdline_proto::command::Command;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put, StoreError};

/// An incident that is open for longer has its remedies undone by a person.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What is kept of one remedy, and the revision that the next write must expect.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    pub kept: Option<Kept>,
    pub revision: u64,
    /// Why what is kept cannot be read.
    pub unreadable: Option<String>,
}

/// The remedy that a command is about: itself, or the one that it undoes.
fn key(command: &Command) -> String {
    let step = command.undo.unwrap_or(command.step);
    token(&["kept", &command.incident, &step.to_string()])
}

/// Looks a pre-image up.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn of(bus: &Bus, command: &Command) -> Result<Entry, StoreError> {
    let place = bus.place(Bucket::Intents, &key(command)).await?;
    Ok(match place.value.map(|value| wire::decode(&value)).transpose() {
        Ok(kept) => Entry { kept, revision: place.revision, unreadable: None },
        Err(error) => Entry { kept: None, revision: place.revision, unreadable: Some(error.to_string()) },
    })
}

/// Keeps a pre-image, if it says anything new.
///
/// # Errors
/// [`StoreError::Fenced`] when somebody else has written since.
pub(crate) async fn write(
    bus: &Bus,
    command: &Command,
    entry: &Entry,
    kept: Kept,
) -> Result<Entry, StoreError> {
    if entry.kept.as_ref() == Some(&kept) {
        return Ok(entry.clone());
    }
    let put = Put { expect: Some(entry.revision), ttl: Some(KEPT), ..Put::default() };
    let revision = bus.put(Bucket::Intents, &key(command), wire::encode(&kept).into(), put).await?;
    Ok(Entry { kept: Some(kept), revision, unreadable: None })
}
