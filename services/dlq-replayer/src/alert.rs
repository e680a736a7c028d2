//! The alert about a letter that stays: an event like any other, by the platform's own name for what cannot
//! be delivered. It ends as "ignored" unless a playbook asks for it by name.

use async_nats::jetstream::message::PublishMessage;
use holdline_decide::classify::partition_key;
use holdline_decide::playbook::Set;
use holdline_decide::retry::ALERT_TOPIC;
use holdline_proto::command::Command;
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::event::{Accepted, Frame};
use holdline_proto::topology::{Role, partition_of};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock;
use holdline_stage::playbooks::Playbooks;
use serde_json::json;

pub(crate) async fn tell(
    bus: &Bus,
    playbooks: &Playbooks<Set>,
    partitions: u16,
    number: u64,
    letter: &DeadLetter,
) -> Result<(), StoreError> {
    let set = playbooks.current().map(|(_, set)| set);
    // An alert about the remedy of an alert would go round for ever.
    if let (Some(set), Ok(command)) = (&set, wire::decode::<Command>(&letter.payload))
        && listens(set, &command.key.playbook)
    {
        return Ok(());
    }
    let event = json!({
        "id": format!("dead-letter-{number}"),
        "topicName": ALERT_TOPIC,
        "timestamp": clock::wall_ms(),
        "data": {
            "status": "FAILED",
            "letter": number,
            "stage": letter.stage,
            "subject": letter.subject,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "replays": letter.replays,
        },
    });
    let subscription =
        set.as_ref().and_then(|set| set.subscriptions.values().find(|s| s.topic == ALERT_TOPIC));
    let (name, key) = match subscription {
        Some(subscription) => (subscription.name.as_str(), partition_key(subscription, &event)),
        None => (ALERT_TOPIC, ALERT_TOPIC.to_string()),
    };
    let partition = partition_of(&key, partitions);
    let now_ms = clock::wall_ms();
    let frame = Frame {
        gateway: Role::DlqReplayer.name().into(),
        replayed: true,
        events: vec![Accepted {
            accept_id: format!("{partition}-{now_ms}-deadletter-{number}"),
            accepted_ms: now_ms,
            subscription: name.into(),
            body: event.to_string().into_bytes(),
            origin: None,
        }],
        ..Frame::default()
    };
    let message =
        PublishMessage::build().message_id(format!("alert-{number}")).payload(wire::encode(&frame).into());
    bus.publish(message.outbound_message(bus.topology().event(partition))).await?;
    tracing::error!(
        letter = number,
        "dead letter {number} stays until a person deals with it: holdline dlq show {number}"
    );
    Ok(())
}

/// Whether a playbook hears alerts.
fn listens(set: &Set, playbook: &str) -> bool {
    let names = set.playbooks.get(playbook).map(|playbook| playbook.on.subscriptions.as_slice());
    names
        .unwrap_or_default()
        .iter()
        .any(|name| set.subscriptions.get(name).is_some_and(|subscription| subscription.topic == ALERT_TOPIC))
}
