//! The way back: to the input of the stage that gave up, with the original place, so that what was finished
//! is not done again.

use async_nats::jetstream::message::PublishMessage;
use holdline_proto::command::Command;
use holdline_proto::dead_letter::{DeadLetter, Retry};
use holdline_proto::event::{Frame, Origin};
use holdline_proto::topology::Role;
use holdline_proto::wire;
use holdline_stage::bus::{Bus, StoreError};

/// Whether a letter went back.
pub(crate) enum Back {
    Sent,
    /// It cannot, and why.
    Impossible(String),
}

/// The partition in a subject: its third part, in every subject of the pipeline but the internal ones.
pub(crate) fn partition(subject: &str) -> Option<u16> {
    subject.split('.').find_map(|part| part.parse().ok())
}

/// `waited_ms`: how long the letter has lain in DEAD, by the broker's clock.
pub(crate) async fn send(
    bus: &Bus,
    number: u64,
    letter: &DeadLetter,
    waited_ms: u64,
) -> Result<Back, StoreError> {
    let impossible = |why: String| Ok(Back::Impossible(why));
    let Some(partition) = partition(&letter.subject) else {
        return impossible(format!("{} names no partition", letter.subject));
    };
    if letter.stage == Role::Classifier.name() {
        return match wire::decode::<Frame>(&letter.payload) {
            Ok(frame) => events(bus, number, partition, letter, frame, waited_ms).await,
            Err(error) => impossible(error.to_string()),
        };
    }
    let retry = if letter.stage == Role::Executor.name() {
        match wire::decode::<Command>(&letter.payload) {
            Ok(command) => Retry::Command(Box::new(command)),
            Err(error) => return impossible(error.to_string()),
        }
    } else {
        Retry::Input {
            subject: letter.subject.clone(),
            sequence: letter.sequence,
            payload: letter.payload.clone(),
        }
    };
    // Once per letter, for as long as INPUTS reaches back, whatever the broker's window remembers.
    let subject = bus.topology().retried(partition, &number.to_string());
    let message =
        PublishMessage::build().payload(wire::encode(&retry).into()).expected_last_subject_sequence(0);
    match bus.publish(message.outbound_message(subject)).await {
        Ok(_) | Err(StoreError::Fenced) => Ok(Back::Sent),
        Err(error) => Err(error),
    }
}

/// Events go to the classifier once more, as what they were: same accept ids, same places.
async fn events(
    bus: &Bus,
    number: u64,
    partition: u16,
    letter: &DeadLetter,
    mut frame: Frame,
    waited_ms: u64,
) -> Result<Back, StoreError> {
    for (index, event) in (0u32..).zip(&mut frame.events) {
        event.origin.get_or_insert(Origin { sequence: letter.sequence, index });
    }
    let again = Frame {
        gateway: Role::DlqReplayer.name().into(),
        waited_ms: waited_ms.saturating_add(frame.waited_ms),
        replayed: true,
        events: frame.events,
        ..Frame::default()
    };
    let message =
        PublishMessage::build().message_id(format!("replay-{number}")).payload(wire::encode(&again).into());
    bus.publish(message.outbound_message(bus.topology().event(partition))).await?;
    Ok(Back::Sent)
}
