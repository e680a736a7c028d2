//! What is about to be called, written down before it is called (E9): after a crash it says that a call may
//! have left. One entry per track, because one command of a track is outstanding at a time; written by
//! compare-and-set, so that a holder of an old lock is refused (O2).

use std::time::Duration;

use holdline_proto::command::Command;
use holdline_proto::topology::{Bucket, track_token};
use holdline_proto::wire::{self, Wire};
use holdline_stage::bus::{Bus, Put, StoreError};
use serde::{Deserialize, Serialize};

/// Longer than every retry path (T3).
const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// An entry of INTENTS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// The command's idempotency key.
    pub action_key: String,
    /// The issue of the command that made it.
    pub issue_key: String,
    /// The lock's fencing token.
    pub token: u64,
    /// Calls of this issue that left, the one about to leave included.
    pub attempts: u32,
    /// SHA-256 of the request, hex.
    pub request: String,
    /// The last call was answered; otherwise it is not known what became of it.
    pub answered: bool,
    /// A call of this action key may have had its effect.
    pub perhaps_done: bool,
}

impl Wire for Intent {
    const KIND: &'static str = "intent";
}

/// What is known of a command's earlier calls, and the revision that the next intent must expect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub attempts: u32,
    pub perhaps_done: bool,
    pub revision: u64,
}

/// Looks for earlier calls of a command.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn earlier(bus: &Bus, command: &Command) -> Result<Earlier, StoreError> {
    let Some(entry) = bus.get(Bucket::Intents, &track_token(&command.key)).await? else {
        return Ok(Earlier::default());
    };
    let fresh = Earlier { revision: entry.revision, ..Earlier::default() };
    let intent: Intent = match wire::decode(&entry.value) {
        Ok(intent) => intent,
        Err(error) => {
            tracing::error!("an intent cannot be read, so its call counts as perhaps made: {error}");
            return Ok(Earlier { perhaps_done: true, ..fresh });
        }
    };
    Ok(weigh(&intent, command, fresh))
}

fn weigh(intent: &Intent, command: &Command, fresh: Earlier) -> Earlier {
    if intent.action_key != command.action_key() {
        return fresh;
    }
    // The same action, perhaps issued anew after its deadline: what may have happened may still have.
    let same_issue = intent.issue_key == command.issue_key();
    Earlier {
        attempts: if same_issue { intent.attempts } else { 0 },
        perhaps_done: intent.perhaps_done || !intent.answered,
        ..fresh
    }
}

/// Writes an intent; gives its revision.
///
/// # Errors
/// [`StoreError::Fenced`] when somebody else has acted since.
pub(crate) async fn write(
    bus: &Bus,
    command: &Command,
    intent: &Intent,
    expect: u64,
) -> Result<u64, StoreError> {
    let put = Put { expect: Some(expect), ttl: Some(KEPT), ..Put::default() };
    bus.put(Bucket::Intents, &track_token(&command.key), wire::encode(intent).into(), put).await
}
