//! What people have stopped (E10, A7). It is looked at before every call, at the leader, so that no replica can lag
//! behind; an executor that cannot look makes no call.

use std::time::Duration;

use holdline_decide::pause;
use holdline_proto::command::{Command, Direction};
use holdline_proto::pause::{PAUSES, Pause, Pauses, SEEN_MS_MAX};
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock::Moment;

/// A command that is stopped is looked at again after this, until its deadline has passed; then it is decided anew.
pub(crate) const STOPPED_WAIT: Duration = Duration::from_secs(1);

/// Whether a look that began then still says that a call may leave.
pub(crate) fn is_fresh(looked: Moment) -> bool {
    looked.elapsed() < Duration::from_millis(SEEN_MS_MAX)
}

/// The pause that stops a command now.
///
/// # Errors
/// When the broker does not answer, or what it has cannot be read.
pub(crate) async fn stopping(
    bus: &Bus,
    time: &BrokerTime,
    command: &Command,
) -> Result<Option<Pause>, StoreError> {
    if command.direction == Direction::Page {
        return Ok(None);
    }
    let Some(value) = bus.newest(Bucket::Pauses, PAUSES).await?.value else { return Ok(None) };
    let pauses: Pauses = wire::decode(&value).map_err(|error| {
        let what = "the entry of PAUSES cannot be read, so nothing is done until it is written anew";
        StoreError::Unknown(format!("{what} (`holdline pause`): {error}"))
    })?;
    Ok(pause::stopping(&pauses, command, time.now_ms()).cloned())
}
