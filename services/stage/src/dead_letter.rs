//! Parks what cannot be understood or carried out, with its bytes and the reason (N3).

use async_nats::jetstream::message::PublishMessage;
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::topology::Role;
use holdline_proto::wire;

use crate::bus::{Bus, StoreError};
use crate::crash::{self, Point};
use crate::telemetry::Metric;

/// What headers and the rest of a letter may take of a message, besides the parked bytes.
const REST_BYTES: usize = 16 * 1024;

/// A letter as it is stored: a message as large as the broker takes does not fit into one with the reason. Then
/// its beginning is kept, and it is said where the whole message stood.
fn sealed(letter: &DeadLetter, max_payload: usize) -> Vec<u8> {
    let most = max_payload.saturating_sub(REST_BYTES);
    if letter.payload.len() <= most {
        return wire::encode(letter);
    }
    let reason = format!(
        "{} (only the first {most} of its {} bytes fit here; all of it is message {} on {}, while that is kept)",
        letter.reason,
        letter.payload.len(),
        letter.sequence,
        letter.subject
    );
    let payload = letter.payload.iter().take(most).copied().collect();
    wire::encode(&DeadLetter { reason, payload, ..letter.clone() })
}

/// Parks a message; it may be given up only after this has returned.
///
/// # Errors
/// When it is not known to be stored. Parking the same message again is harmless.
pub async fn park(bus: &Bus, role: Role, letter: &DeadLetter) -> Result<(), StoreError> {
    let id = format!("dead-{}-{}-{}", role.name(), letter.subject, letter.sequence);
    let bytes = sealed(letter, bus.client().server_info().max_payload);
    let message = PublishMessage::build().message_id(id).payload(bytes.into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n3_a_message_as_large_as_the_broker_takes_can_be_parked() {
        let check = |bytes: usize, kept: usize, told: bool| {
            let letter = DeadLetter { reason: "r".into(), payload: vec![7; bytes], ..DeadLetter::default() };
            let sealed = sealed(&letter, 1 << 20);
            assert!(sealed.len() < 1 << 20, "{bytes}");
            let read: DeadLetter = wire::decode(&sealed).unwrap();
            assert_eq!((read.payload.len(), read.reason.contains("only the first")), (kept, told), "{bytes}");
        };
        check(0, 0, false);
        check(1_000_000, 1_000_000, false);
        check(1 << 20, (1 << 20) - REST_BYTES, true);
    }
}
