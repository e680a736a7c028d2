//! The shape of a request's body: one event or an array of them, as the subscription's source writes them. What
//! an event means is not asked here.

use holdline_decide::classify::partition_key;
use holdline_decide::playbook::Subscription;
use holdline_decide::source::{self, Kind, Unreadable, guide};
use holdline_proto::limits::{BATCH_EVENTS_MAX, EVENTS_BYTES_MAX};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::problem::Problem;

/// An event of the body: its own bytes, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enveloped {
    pub bytes: Vec<u8>,
    /// The text to partition by.
    pub key: String,
}

/// Takes a body apart. An array is accepted as a whole or not at all. `message_id`: the signed header that names
/// the request, for events without an id. There may be none in it that says something: a heartbeat.
pub(crate) fn open(
    subscription: &Subscription,
    body: &[u8],
    message_id: Option<&str>,
) -> Result<Vec<Enveloped>, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|error| Problem::bad(format!("the body is not UTF-8: {error}")))?;
    let first = text.trim_start().as_bytes().first().copied();
    if first != Some(b'[') {
        return one(subscription, text, "", message_id);
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| Problem::bad(format!("the body is not JSON: {error}")))?;
    if elements.is_empty() || elements.len() > BATCH_EVENTS_MAX {
        let found = elements.len();
        return Err(Problem::bad(format!(
            "an array of 1 to {BATCH_EVENTS_MAX} events is expected, not {found}"
        )));
    }
    let mut events = vec![];
    for (index, element) in elements.into_iter().enumerate() {
        let message_id = message_id.map(|id| format!("{id}.{index}"));
        events.extend(one(subscription, element.get(), &format!("[{index}]"), message_id.as_deref())?);
    }
    check_size(&events)?;
    Ok(events)
}

/// What one body, or one element of an array, says.
fn one(
    subscription: &Subscription,
    text: &str,
    place: &str,
    message_id: Option<&str>,
) -> Result<Vec<Enveloped>, Problem> {
    let value = parse(text, place)?;
    let named = message_id.is_none() || value.get("id").is_some();
    if subscription.source == Kind::Guide && named {
        guide::check(subscription, &value).map_err(|error| unreadable(place, &error))?;
        let key = partition_key(subscription, &value);
        return Ok(vec![Enveloped { bytes: text.as_bytes().to_vec(), key }]);
    }
    let events = source::read(subscription, &value, message_id).map_err(|error| unreadable(place, &error))?;
    Ok(of_source(subscription, events))
}

/// What a source was read to say.
pub(crate) fn of_source(subscription: &Subscription, events: Vec<Value>) -> Vec<Enveloped> {
    let enveloped = |event: Value| Enveloped {
        bytes: event.to_string().into_bytes(),
        key: partition_key(subscription, &event),
    };
    events.into_iter().map(enveloped).collect()
}

/// Several bodies in one array, each of them several events: there is a bound on what becomes of a request.
fn check_size(events: &[Enveloped]) -> Result<(), Problem> {
    let bytes: usize = events.iter().map(|event| event.bytes.len()).sum();
    if events.len() <= BATCH_EVENTS_MAX && bytes <= EVENTS_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::bad(format!(
        "it becomes more than {BATCH_EVENTS_MAX} events or {EVENTS_BYTES_MAX} bytes; send less at once"
    )))
}

fn parse(text: &str, place: &str) -> Result<Value, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let what = if place.is_empty() { "the body" } else { place };
        Problem::bad(format!("{what} is not JSON: {error}"))
    })
}

fn unreadable(place: &str, error: &Unreadable) -> Problem {
    let at = match (place, error.place.as_str()) {
        ("", "") => "the body".into(),
        ("", part) => part.into(),
        (place, "") => place.into(),
        (place, part) => format!("{place}.{part}"),
    };
    Problem::bad(format!("{at}: {}", error.reason))
}
