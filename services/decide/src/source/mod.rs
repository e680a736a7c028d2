//! What each source says, as guide-shaped events: everything further down knows one shape.
//!
//! Pure, and one file per source; `docs/sources.md` has the rule of each in a table. [`read`] takes a body that
//! was authenticated and gives `{"id", "topicName", "timestamp", "data": {"status", "entity", "original"}}` for
//! everything in it that says something: `status` as far as the source tells it, `entity` as far as it names
//! one, and in `original` all that the source said. Nothing is guessed: what has an unexpected shape is
//! [`Unreadable`], what carries no state (a heartbeat) gives no event.

use holdline_proto::limits::{EVENTS_BYTES_MAX, NAME_BYTES_MAX};
use holdline_proto::signal::Health;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::classify::parse_time_ms;
use crate::playbook::{Reports, Subscription};

mod alertmanager;
pub mod channel;
mod cloudevents;
mod eventbridge;
pub mod guide;
mod notification;
pub mod statuspage;

/// EventBridge delivers again for four days; a day more for what waits elsewhere on the way. Milliseconds.
const EVENTBRIDGE_REPEATS_MS: i64 = 5 * 24 * 3_600_000;

/// What a subscription's bodies look like: its field `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The guide's own events, stored byte for byte.
    #[default]
    Guide,
    /// Amazon EventBridge's envelope around a message of the platform.
    EventBridge,
    /// A bare message of the Notification API, posted by a bridge or heard on a channel of the gateway's own.
    Notification,
    /// Atlassian Statuspage: the page's summary. Its webhook only hints.
    Statuspage,
    Alertmanager,
    /// CloudEvents 1.0 in structured mode.
    CloudEvents,
}

impl Kind {
    /// Every kind with the name that a subscription calls it by.
    pub const NAMES: [(&str, Kind); 6] = [
        ("guide", Kind::Guide),
        ("eventbridge", Kind::EventBridge),
        ("notification", Kind::Notification),
        ("statuspage", Kind::Statuspage),
        ("alertmanager", Kind::Alertmanager),
        ("cloudevents", Kind::CloudEvents),
    ];

    pub fn named(name: &str) -> Option<Kind> {
        Kind::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Whether the source repeats its state, unless the subscription's `reports` says otherwise. Alertmanager
    /// does send again, but its repeats cannot be told from retries, so that they are duplicates and its
    /// changes are all that is left.
    pub(crate) fn reports(self, topic: &str) -> Reports {
        match self {
            Kind::Guide | Kind::CloudEvents | Kind::Statuspage => Reports::Repeats,
            Kind::EventBridge if !notification::tells_state(topic) => Reports::Repeats,
            Kind::EventBridge | Kind::Notification | Kind::Alertmanager => Reports::Changes,
        }
    }

    /// For how long the source may deliver an event again, where that is longer than the window that holds
    /// for all. Milliseconds.
    pub fn repeats_for_ms(self) -> Option<i64> {
        (self == Kind::EventBridge).then_some(EVENTBRIDGE_REPEATS_MS)
    }
}

/// Why a body, or a part of it, is not what its source sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Path of the part, empty for the whole.
    pub place: String,
    /// What was expected there.
    pub reason: String,
}

impl Unreadable {
    fn at(place: &str, reason: impl Into<String>) -> Unreadable {
        Unreadable { place: place.into(), reason: reason.into() }
    }
}

/// Reads one body (one element of a posted array). `message_id`: the signed header that names the message,
/// where the request had one; it is the identity of what has none of its own.
///
/// # Errors
/// What is not as the source sends it.
pub fn read(
    subscription: &Subscription,
    body: &Value,
    message_id: Option<&str>,
) -> Result<Vec<Value>, Unreadable> {
    match subscription.source {
        Kind::Guide => guide::read(subscription, body, message_id),
        Kind::EventBridge => eventbridge::read(subscription, body),
        Kind::Notification => notification::read(subscription, body, message_id),
        Kind::Statuspage => statuspage::read(body),
        Kind::Alertmanager => alertmanager::read(subscription, body),
        Kind::CloudEvents => cloudevents::read(subscription, body),
    }
}

/// Whether a topic is the subscription's. A part in braces stands for any one part:
/// `v2.telephony.providers.edges.{id}` has every edge, and no trunk.
pub fn matches_topic(wanted: &str, topic: &str) -> bool {
    if wanted == topic {
        return true;
    }
    let (mut wanted, mut found) = (wanted.split('.'), topic.split('.'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == found || (is_free_part(wanted) && !found.is_empty()) => {
            }
            _ => return false,
        }
    }
}

/// Whether a part of a topic's template stands for any: `{id}`.
pub(crate) fn is_free_part(part: &str) -> bool {
    let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    inner.is_some_and(|inner| !inner.contains(['{', '}']))
}

/// The part of a topic that stands where its template has braces.
fn free_part<'a>(wanted: &str, topic: &'a str) -> Option<&'a str> {
    let free = wanted.split('.').position(|part| part.starts_with('{'))?;
    topic.split('.').nth(free).filter(|part| !part.starts_with('{'))
}

/// An event in the making.
struct Event<'a> {
    id: String,
    topic: &'a str,
    /// When it happened, as the source writes it; without one its arrival counts.
    timestamp: Option<Value>,
    health: Option<Health>,
    entity: Option<String>,
    original: Value,
}

impl Event<'_> {
    fn shape(self) -> Value {
        let mut data = Map::new();
        data.extend(self.health.map(|health| ("status".into(), status(health).into())));
        data.extend(self.entity.map(|entity| ("entity".into(), entity.into())));
        data.insert("original".into(), self.original);
        let mut event = Map::new();
        event.insert("id".into(), self.id.into());
        event.insert("topicName".into(), self.topic.into());
        event.extend(self.timestamp.map(|timestamp| ("timestamp".into(), timestamp)));
        event.insert("data".into(), data.into());
        event.into()
    }
}

fn status(health: Health) -> &'static str {
    match health {
        Health::Failed => "FAILED",
        Health::Degraded => "DEGRADED",
        Health::Healthy => "HEALTHY",
    }
}

/// An id made of what tells an event from every other of its topic. One that is too long for a name becomes
/// its digest.
fn identity(parts: &[&str]) -> String {
    let whole = parts.join(":");
    if whole.len() <= NAME_BYTES_MAX { whole } else { digest(&whole) }
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The first of several values that is a time.
fn first_time<'a>(candidates: impl IntoIterator<Item = Option<&'a Value>>) -> Option<Value> {
    candidates.into_iter().flatten().find(|value| parse_time_ms(value).is_some()).cloned()
}

/// A text that must be there, and fit for a name.
fn name<'a>(of: &'a Value, field: &str, place: &str) -> Result<&'a str, Unreadable> {
    match of.get(field) {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => Ok(text),
        Some(_) => Err(Unreadable::at(place, format!("expected a text of 1 to {NAME_BYTES_MAX} bytes"))),
        None => Err(Unreadable::at(place, "missing")),
    }
}

fn check_topic(subscription: &Subscription, topic: &str, place: &str) -> Result<(), Unreadable> {
    if matches_topic(&subscription.topic, topic) {
        return Ok(());
    }
    let reason = format!("subscription {} carries {}", subscription.name, subscription.topic);
    Err(Unreadable::at(place, reason))
}

/// What several events of one body share is copied into each: not without a bound.
fn check_copies(shared: &Value, events: usize) -> Result<(), Unreadable> {
    if shared.to_string().len().saturating_mul(events) <= EVENTS_BYTES_MAX {
        return Ok(());
    }
    let reason = format!("as {events} events it has more than {EVENTS_BYTES_MAX} bytes; send fewer at once");
    Err(Unreadable::at("", reason))
}

#[cfg(test)]
mod tests;
