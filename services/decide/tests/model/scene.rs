//! What happens in the models: playbooks as people write them, events as senders send them, frames as
//! gateways store them.

use std::collections::BTreeMap;

use holdline_decide::debounce::Rulebook;
use holdline_decide::playbook::{self, Set};
use holdline_proto::event::{Accepted, Frame, Heard};
use holdline_proto::playbooks::Bundle;

/// Not the epoch, so that a forgotten zero shows, and no number that would be read as seconds.
pub(crate) const BEGIN_MS: i64 = 1_700_000_000_000;

pub(crate) const PLAYBOOK: &str = "p";
pub(crate) const SUBSCRIPTION: &str = "s";
pub(crate) const SET: &str = "set";

/// What every request names, as templates refer to it.
pub(crate) const PLACE: &str = "data.gw";

/// The one set of playbooks that everything is judged by.
#[derive(Debug, Clone)]
pub(crate) struct Book(pub Set);

impl Rulebook for Book {
    fn set(&self, hash: &str) -> Option<&Set> {
        (hash == SET).then_some(&self.0)
    }
}

/// Compiles a playbook: `rules` are its `confirm`, `act` and `revert`.
pub(crate) fn book(rules: &str, changes_only: bool, idempotent: bool) -> Book {
    let on = "playbook: p\nmode: live\non:\n  subscription: s\n  entity: data.gw\n  failed: status == 'FAILED'\n  \
              degraded: status == 'DEGRADED'\n  healthy: status == 'HEALTHY'\n";
    let reports = if changes_only { r#", "reports": "changes""# } else { "" };
    let mut files = BTreeMap::from([
        ("p.playbook.yaml".to_string(), format!("{on}{rules}")),
        (
            "subscriptions/s.json".into(),
            format!(
                r#"{{"name": "s", "topicName": "t", "authType": "HMAC", "secretToken": "env:S"{reports}}}"#
            ),
        ),
    ]);
    for name in ["fail", "restore", "scale"] {
        let action = format!(
            r#"{{"name": "{name}", "actionType": "WEBHOOK", "url": "https://t.example.com/{name}/{{{{{PLACE}}}}}", "method": "POST", "idempotent": {idempotent}}}"#
        );
        files.insert(format!("actions/{name}.json"), action);
    }
    let (set, findings) = playbook::load(&Bundle { files });
    Book(set.unwrap_or_else(|| panic!("{findings:?}")))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Failed,
    Degraded,
    Healthy,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Failed => "FAILED",
            Status::Degraded => "DEGRADED",
            Status::Healthy => "HEALTHY",
        }
    }
}

/// An event of the one entity. Times in seconds after the beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) id: &'static str,
    pub(crate) status: Status,
    /// When it happened, by its own time.
    pub(crate) happened_s: i64,
    /// When the gateway had it.
    pub(crate) accepted_s: i64,
    /// It follows from what we did.
    pub(crate) echo: bool,
}

impl Event {
    pub(crate) fn accepted_ms(&self) -> i64 {
        BEGIN_MS + self.accepted_s * 1_000
    }
}

/// A frame with the time at which it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    pub(crate) gateway: &'static str,
    pub(crate) stored_s: i64,
    pub(crate) events: Vec<Event>,
}

impl Beat {
    pub(crate) fn stored_ms(&self) -> i64 {
        BEGIN_MS + self.stored_s * 1_000
    }

    /// As the gateway writes it. `n` tells its acceptances from others'.
    pub(crate) fn frame(&self, n: usize) -> Frame {
        let accepted = |(index, event): (usize, &Event)| {
            Accepted {
            accept_id: format!("0-{}-{n}.{index}-{}", event.accepted_ms(), event.id),
            accepted_ms: event.accepted_ms(),
            subscription: SUBSCRIPTION.into(),
            body: format!(
                r#"{{"id": "{}", "topicName": "t", "timestamp": {}, "data": {{"gw": "gw", "status": "{}"}}}}"#,
                event.id,
                BEGIN_MS + event.happened_s * 1_000,
                event.status.name()
            )
            .into_bytes(),
            origin: None,
        }
        };
        Frame {
            gateway: self.gateway.into(),
            next_within_ms: 24 * 3_600_000,
            heard: vec![Heard { subscription: SUBSCRIPTION.into(), age_ms: 0 }],
            events: self.events.iter().enumerate().map(accepted).collect(),
            ..Frame::default()
        }
    }
}
