//! Parks what cannot be understood or carried out, with its bytes and the reason (N3).

use async_nats::jetstream::message::PublishMessage;
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::topology::Role;
use holdline_proto::wire;

use crate::bus::{Bus, StoreError};
use crate::crash::{self, Point};
use crate::telemetry::Metric;

/// Parks a message; it may be given up only after this has returned.
///
/// # Errors
/// When it is not known to be stored. Parking the same message again is harmless.
pub async fn park(bus: &Bus, role: Role, letter: &DeadLetter) -> Result<(), StoreError> {
    let id = format!("dead-{}-{}-{}", role.name(), letter.subject, letter.sequence);
    let message = PublishMessage::build().message_id(id).payload(wire::encode(letter).into());
    bus.publish(message.outbound_message(bus.topology().dead(role.name()))).await?;
    Metric::Parked.add(1, role.name(), None);
    tracing::error!(
        subject = letter.subject,
        sequence = letter.sequence,
        "parked a message: {}",
        letter.reason
    );
    crash::point(Point::AfterPark);
    Ok(())
}
