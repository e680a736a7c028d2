//! What is about to be called, written down before it is called (E9): after a crash it says that a call may
//! have left. One entry per track, because one command of a track is outstanding at a time; written by
//! compare-and-set, so that a holder of an old lock is refused (O2).

use std::time::Duration;

use holdline_decide::execute;
use holdline_proto::command::{Command, Direction, Intent};
use holdline_proto::topology::{Bucket, token, track_token};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put, StoreError};

/// Longer than every retry path (T3).
const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What is known of a command's earlier calls, and the revision that the next intent must expect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub attempts: u32,
    pub perhaps_done: bool,
    pub revision: u64,
}

/// One entry per track; a page is part of no track.
fn key(command: &Command) -> String {
    match command.direction {
        Direction::Page => token(&["page", &command.action_key()]),
        Direction::Remediate | Direction::Revert => track_token(&command.key),
    }
}

/// Looks for earlier calls of a command; at the leader, because a replica that lags would have it said that nothing was
/// called.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn earlier(bus: &Bus, command: &Command) -> Result<Earlier, StoreError> {
    let place = bus.newest(Bucket::Intents, &key(command)).await?;
    let fresh = Earlier { revision: place.revision, ..Earlier::default() };
    let Some(value) = place.value else { return Ok(fresh) };
    let intent: Intent = match wire::decode(&value) {
        Ok(intent) => intent,
        Err(error) => {
            tracing::error!("an intent cannot be read, so its call counts as perhaps made: {error}");
            return Ok(Earlier { perhaps_done: true, ..fresh });
        }
    };
    Ok(match execute::weigh(&intent, command) {
        Some((attempts, perhaps_done)) => Earlier { attempts, perhaps_done, ..fresh },
        None => fresh,
    })
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
    bus.put(Bucket::Intents, &key(command), wire::encode(intent).into(), put).await
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use holdline_proto::incident::{Lane, TrackKey};

    /// E9: a page goes out beside a call of its track whose outcome is open, and must not write over what is known
    /// of that call.
    #[test]
    fn a_page_has_an_entry_of_its_own() {
        let command = |direction, step| Command {
            course: Default::default(),
            depth: 0,
            group: None,
            incident: "i".into(),
            partition: 0,
            key: TrackKey { playbook: "p".into(), lane: Lane::Failover, entity: "gw-1".into() },
            playbooks: String::new(),
            direction,
            step,
            action: "a".into(),
            undo: None,
            decision: 1,
            decided_ms: 0,
            deadline_ms: 0,
            values: BTreeMap::new(),
            replays: 0,
            approval: None,
        };
        let remedy = key(&command(Direction::Remediate, 0));
        assert_eq!(remedy, key(&command(Direction::Revert, 1)));
        let pages = [7, 8].map(|step| key(&command(Direction::Page, step)));
        assert!(pages[0] != remedy && pages[1] != remedy && pages[0] != pages[1], "{pages:?} {remedy}");
    }
}
