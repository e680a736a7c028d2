//! What does it mean? Accepted events become signals, or end here with a reason.
//!
//! [`Partition`] folds the frames of one partition: it remembers who claimed an event id ([`window`]) and up
//! to when everything has been read ([`watermark`]).

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::event::{Accepted, Frame, Origin};
use holdline_proto::journal::{Disposed, Disposition};
use holdline_proto::limits::{NAME_BYTES_MAX, VALUES_BYTES_MAX};
use holdline_proto::signal::{Claim, Classified, Health, Said, Signal, Values};
use serde_json::Value;

use crate::debounce::PROOF_EVERY_MS;
use crate::playbook::{Facts, Path, Playbook, Predicate, Set, Subscription};
use crate::source::Kind;

mod cause;
mod watermark;
mod window;

pub use window::{Claimed, Window, Windows, event_key};

use cause::Ours;
use watermark::Watermark;

/// An event's own time may lie this far after its arrival; further, the arrival counts. Milliseconds.
const FUTURE_MS_MAX: i64 = 5 * 60_000;

/// An event that reaches the log this long after it was accepted is late, and so is one that the watermark has
/// passed: it counts, and begins no action by itself. Milliseconds.
pub const LATE_AFTER_MS: i64 = 60_000;

/// What the classifier knows of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    windows: Windows,
    watermark: Watermark,
    /// Ids of our own OAuth clients.
    clients: BTreeSet<String>,
}

impl Partition {
    /// `window_ms`: how long an event id is remembered, unless its source needs longer; `ids_max`: how many at
    /// most.
    pub fn new(window_ms: i64, ids_max: usize) -> Partition {
        Partition {
            windows: Windows::new(window_ms, ids_max),
            watermark: Watermark::default(),
            clients: BTreeSet::new(),
        }
    }

    /// From now on these are the ids of our own OAuth clients: what they did is no news.
    pub fn recognise(&mut self, clients: BTreeSet<String>) {
        self.clients = clients;
    }

    /// Classifies one frame into `out`. `sequence` and `published_ms` are its place and time in the log.
    pub fn frame(
        &mut self,
        set: &Set,
        sequence: u64,
        published_ms: i64,
        frame: &Frame,
        out: &mut Classified,
    ) {
        let late =
            frame.waited_ms > LATE_AFTER_MS.unsigned_abs() || self.watermark.has_passed(frame, published_ms);
        self.watermark.heard(frame, published_ms);
        for heard in &frame.heard {
            note(&mut out.heard, &heard.subscription, published_ms.saturating_sub(i64::from(heard.age_ms)));
        }
        for (index, accepted) in (0u32..).zip(&frame.events) {
            let arrival = Arrival {
                origin: accepted.origin.unwrap_or(Origin { sequence, index }),
                accepted,
                received_ms: published_ms,
                accepted_ms: match frame.replayed {
                    true => accepted.accepted_ms,
                    false => published_ms.saturating_sub_unsigned(frame.waited_ms),
                },
                waited_ms: i64::try_from(frame.waited_ms).unwrap_or(i64::MAX),
                late,
            };
            let ours = self.event(set, &arrival, out);
            // Neither a replay nor an echo of ours proves anything about the way in, and what has waited proves that
            // it was open then.
            if !frame.replayed && !ours {
                let waited_ms = i64::try_from(frame.waited_ms).unwrap_or(i64::MAX);
                note(&mut out.heard, &accepted.subscription, published_ms.saturating_sub(waited_ms));
            }
        }
    }

    /// What every record says of the watermark.
    pub fn conclude(&self, out: &mut Classified) {
        out.watermark_ms = self.watermark.complete_ms();
        out.gateways = self.watermark.gateways();
    }

    /// Folds a committed record.
    pub fn fold(&mut self, sequence: u64, body: Classified) {
        let at_ms = body.gateways.iter().map(|gateway| gateway.frame_ms).max().unwrap_or(0);
        self.committed(sequence, at_ms.max(body.watermark_ms));
        for claim in body.claims {
            self.windows.restore(&claim);
        }
        self.watermark.restore(body.watermark_ms, body.gateways);
    }

    /// A record is durable; claims that follow belong to later ones.
    pub fn committed(&mut self, sequence: u64, at_ms: i64) {
        self.windows.record(sequence, at_ms);
    }

    /// Broker time of the newest frame. Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.watermark.now_ms()
    }

    /// The record after which the whole window can be folded.
    pub fn base(&self) -> u64 {
        self.windows.base()
    }

    /// Says whether the event follows from an action of ours.
    fn event(&mut self, set: &Set, arrival: &Arrival<'_>, out: &mut Classified) -> bool {
        let (origin, accepted) = (arrival.origin, arrival.accepted);
        let dispose = |event_id: &str, disposition| Disposed {
            origin,
            accept_id: accepted.accept_id.clone(),
            event_id: event_id.into(),
            disposition,
        };
        let event: Value = match serde_json::from_slice(&accepted.body) {
            Ok(event) => event,
            Err(error) => {
                let reason = format!("the stored event is no JSON: {error}");
                out.disposed.push(dispose("", Disposition::Undecidable { reason }));
                return false;
            }
        };
        let ours = Ours::find(&event, event_ms(arrival, &event), &self.clients);
        let event_id = text_at(&event, "id").unwrap_or_default();
        let topic = text_at(&event, "topicName").unwrap_or_default();
        let key = event_key(topic, event_id);
        // T2: the same id from another place is a duplicate; from the same place it is finished, unless it
        // comes back from the dead letters: a claim and what came of it are in one record, so a claim says
        // that a replay has nothing left to finish.
        let source = set.subscriptions.get(&accepted.subscription).map(|subscription| subscription.source);
        let window_ms = self.windows.needed_ms(source.and_then(Kind::repeats_for_ms));
        match self.windows.claim(&key, origin, arrival.received_ms, window_ms) {
            Claimed::By(earlier) if earlier != origin || accepted.origin.is_some() => {
                out.disposed.push(dispose(event_id, Disposition::Duplicate { of: earlier }));
                return ours.is_some();
            }
            Claimed::By(_) => {}
            Claimed::Now => out.claims.push(Claim { id: key.to_vec(), origin, window_ms }),
        }
        let said = said(set, arrival, &event, ours.as_ref());
        let heard = !said.is_empty();
        out.said.extend(said);
        match signals(set, arrival, &event, ours.as_ref()) {
            Ok(signals) => out.signals.extend(signals),
            Err(Disposition::Ignored { reason }) if heard => {
                let reason = format!("{reason}; it was heard as to whether a remedy worked");
                out.disposed.push(dispose(event_id, Disposition::Ignored { reason }));
            }
            Err(disposition) => out.disposed.push(dispose(event_id, disposition)),
        }
        ours.is_some()
    }
}

/// Keeps the first and the latest time per subscription, and every other one without which a gap would open
/// that was none: how many frames are in a record must not decide whether the path was alive.
fn note(heard: &mut Vec<(String, i64)>, subscription: &str, at_ms: i64) {
    let mut of = heard.iter_mut().filter(|(name, _)| name == subscription).rev();
    let (latest, before) = (of.next(), of.next());
    match (latest, before) {
        (Some((_, latest)), _) if *latest >= at_ms => {}
        (Some((_, latest)), Some((_, before))) if at_ms.saturating_sub(*before) <= PROOF_EVERY_MS => {
            *latest = at_ms;
        }
        _ => heard.push((subscription.into(), at_ms)),
    }
}

/// An accepted event and the circumstances of its arrival.
struct Arrival<'a> {
    origin: Origin,
    accepted: &'a Accepted,
    received_ms: i64,
    /// When it was accepted, by the broker's clock as far as that can be known. Unix milliseconds.
    accepted_ms: i64,
    /// In its gateway. Milliseconds.
    waited_ms: i64,
    /// See [`LATE_AFTER_MS`].
    late: bool,
}

/// What an event says of remedies, to every playbook that listens for it. An event that has no entity says nothing, and
/// neither does an echo: that we have called is no proof that it worked.
fn said(set: &Set, arrival: &Arrival<'_>, event: &Value, ours: Option<&Ours>) -> Vec<Said> {
    let facts = Facts::new(event);
    let mut said = vec![];
    for playbook in set.listeners(&arrival.accepted.subscription) {
        for (lane, verify) in playbook.verify.iter().filter(|(_, verify)| verify.look.is_none()) {
            let Ok(entity) = name_at(&playbook.on.entity, event) else { continue };
            if ours.is_some_and(|ours| ours.is_echo_to(&playbook.name, &entity)) {
                continue;
            }
            said.push(Said {
                event_id: text_at(event, "id").unwrap_or_default().into(),
                playbook: playbook.name.clone(),
                lane: *lane,
                entity,
                worked: verify.worked.evaluate(&facts).ok(),
                at_ms: event_ms(arrival, event).min(arrival.accepted_ms),
            });
        }
    }
    said
}

/// One signal per playbook that wants the event, or why none does.
fn signals(
    set: &Set,
    arrival: &Arrival<'_>,
    event: &Value,
    ours: Option<&Ours>,
) -> Result<Vec<Signal>, Disposition> {
    let ignored = |reason: String| Disposition::Ignored { reason };
    let name = &arrival.accepted.subscription;
    let Some(subscription) = set.subscriptions.get(name) else {
        return Err(ignored(format!("the current set of playbooks has no subscription {name}")));
    };
    let facts = Facts::new(event);
    let mut signals = vec![];
    let mut reasons = vec![];
    for playbook in set.listeners(name) {
        match signal(subscription, playbook, arrival, event, &facts, ours) {
            Ok(signal) => signals.push(signal),
            // One playbook that cannot be evaluated must not silence the others, nor be taken for "no".
            Err(disposition) => reasons.push(disposition),
        }
    }
    if !signals.is_empty() {
        return Ok(signals);
    }
    let undecidable = reasons.iter().position(|r| matches!(r, Disposition::Undecidable { .. })).unwrap_or(0);
    if reasons.is_empty() {
        return Err(ignored(format!("no playbook listens to subscription {name}")));
    }
    Err(reasons.swap_remove(undecidable))
}

fn signal(
    subscription: &Subscription,
    playbook: &Playbook,
    arrival: &Arrival<'_>,
    event: &Value,
    facts: &Facts<'_>,
    ours: Option<&Ours>,
) -> Result<Signal, Disposition> {
    let undecidable = |reason: String| Disposition::Undecidable { reason };
    let health = health(subscription, playbook, facts)?;
    let entity = name_at(&playbook.on.entity, event).map_err(undecidable)?;
    let echo = ours.filter(|ours| ours.is_echo_to(&playbook.name, &entity));
    let group = match &playbook.on.group {
        Some(path) if path.get(event).is_some() => Some(name_at(path, event).map_err(undecidable)?),
        _ => None,
    };
    Ok(Signal {
        origin: arrival.origin,
        accept_id: arrival.accepted.accept_id.clone(),
        event_id: text_at(event, "id").unwrap_or_default().into(),
        subscription: arrival.accepted.subscription.clone(),
        playbook: playbook.name.clone(),
        entity,
        group,
        health,
        event_ms: event_ms(arrival, event),
        received_ms: arrival.received_ms,
        waited_ms: arrival.waited_ms,
        late: arrival.late,
        depth: ours.map_or(0, Ours::depth),
        echo: echo.map(Ours::to_string),
        values: values(playbook, event).map_err(undecidable)?,
    })
}

/// FAILED before DEGRADED before HEALTHY. A predicate that cannot be evaluated is not "false".
fn health(
    subscription: &Subscription,
    playbook: &Playbook,
    facts: &Facts<'_>,
) -> Result<Health, Disposition> {
    let holds = |which: &str, predicate: &Predicate| {
        predicate.evaluate(facts).map_err(|error| Disposition::Undecidable {
            reason: format!("{}: on.{which}: {error}", playbook.name),
        })
    };
    let kinds = [
        ("failed", Health::Failed, Some(&playbook.on.failed)),
        ("degraded", Health::Degraded, playbook.on.degraded.as_ref()),
        ("healthy", Health::Healthy, playbook.on.healthy.as_ref()),
    ];
    for (which, health, predicate) in kinds {
        let Some(predicate) = predicate else { continue };
        if !holds(which, predicate)? {
            continue;
        }
        // G3: the subscription's filter is applied again to what counts as trouble, never to health.
        if health != Health::Healthy
            && let Some(filter) = &subscription.filter
            && !holds("subscription.filterExpression", filter)?
        {
            let reason = format!("filterExpression of subscription {} excludes it", subscription.name);
            return Err(Disposition::Ignored { reason });
        }
        return Ok(health);
    }
    Err(Disposition::Ignored {
        reason: format!("{}: neither failed nor degraded nor healthy", playbook.name),
    })
}

/// The event's own time, else the accept time; never much later than its arrival. Unix milliseconds.
fn event_ms(arrival: &Arrival<'_>, event: &Value) -> i64 {
    let own = event.get("timestamp").and_then(parse_time_ms);
    let latest = arrival.received_ms.saturating_add(FUTURE_MS_MAX);
    match own {
        Some(own) if own <= latest => own,
        Some(_) => arrival.received_ms,
        None => arrival.accepted.accepted_ms,
    }
}

/// ISO 8601 text, or a number of seconds or milliseconds since 1970.
pub(crate) fn parse_time_ms(value: &Value) -> Option<i64> {
    // Beyond this a number of seconds would lie after the year 5000.
    const SECONDS_MAX: i64 = 100_000_000_000;
    match value {
        Value::String(text) => Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()),
        Value::Number(number) => {
            let number = number.as_i64()?;
            Some(if number.abs() < SECONDS_MAX { number.saturating_mul(1_000) } else { number })
        }
        _ => None,
    }
}

fn text_at<'a>(event: &'a Value, field: &str) -> Option<&'a str> {
    event.get(field).and_then(Value::as_str)
}

/// The text of an entity or a group: a string as it is, a number or a truth value as JSON writes it. The
/// gateway hashes the same text.
pub fn name_at(path: &Path, event: &Value) -> Result<String, String> {
    let name = match path.get(event) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        Some(_) => return Err(format!("{path} is neither text nor a number")),
        None => return Err(format!("the event has no {path}")),
    };
    match name.len() {
        0 => Err(format!("{path} is empty")),
        1..=NAME_BYTES_MAX => Ok(name),
        length => Err(format!("{path} has {length} bytes; at most {NAME_BYTES_MAX} are a name")),
    }
}

/// What an event's partition is chosen by: its entity's text, as its playbooks read it; an event without one
/// goes where its subscription's go, and gets its disposition there.
pub fn partition_key(subscription: &Subscription, event: &Value) -> String {
    let entity = subscription.partition_key.as_ref().and_then(|path| name_at(path, event).ok());
    entity.unwrap_or_else(|| subscription.name.clone())
}

fn values(playbook: &Playbook, event: &Value) -> Result<Values, String> {
    let mut values = BTreeMap::new();
    let mut bytes = 0;
    for path in &playbook.paths {
        if let Some(value) = path.get(event) {
            bytes += match value {
                Value::String(text) => text.len(),
                other => other.to_string().len(),
            };
            values.insert(path.to_string(), value.clone());
        }
    }
    if bytes > VALUES_BYTES_MAX {
        return Err(format!(
            "{}: the fields that its actions refer to have {bytes} bytes; at most {VALUES_BYTES_MAX} are carried",
            playbook.name
        ));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use holdline_proto::cause::Cause;
    use holdline_proto::playbooks::Bundle;
    use serde_json::json;

    use super::*;
    use crate::playbook::{self, Lane};

    /// One playbook that listens after a failover, and one that does not.
    fn listening() -> Set {
        let mut bundle = Bundle::default();
        let mut file = |path: &str, text: String| bundle.files.insert(path.into(), text);
        for (name, verify) in [("p", ", verify: {worked: event(data.status == 'BACKUP')}"), ("q", "")] {
            let text = format!(
                "playbook: {name}\nmode: live\non: {{subscription: s, entity: data.gw, failed: data.status == \
                 'FAILED', healthy: data.status == 'HEALTHY'}}\nact:\n  failed: {{do: [a], class: \
                 failover{verify}}}\nrevert: {{do: [a]}}\n"
            );
            file(&format!("{name}.playbook.yaml"), text);
        }
        let subscription = r#"{"name": "s", "topicName": "t", "authType": "HMAC", "secretToken": "env:S"}"#;
        file("subscriptions/s.json", subscription.into());
        let action =
            r#"{"name": "a", "actionType": "WEBHOOK", "url": "https://t.example.com/", "method": "POST"}"#;
        file("actions/a.json", action.into());
        playbook::compile(&bundle).unwrap()
    }

    #[test]
    fn e11_what_an_event_says_of_a_remedy_is_told_besides_what_it_is() {
        let set = listening();
        let accepted = |body: &Value| Accepted {
            accept_id: "0-0-t-0".into(),
            accepted_ms: 7_000,
            subscription: "s".into(),
            body: body.to_string().into_bytes(),
            origin: None,
        };
        // A frame that reached the log at 10 s; what is told of the remedies, how many signals, how many end here.
        let check =
            |event: Value, frame: Frame, expected: Option<(Option<bool>, i64)>, ends: (usize, usize)| {
                let mut out = Classified::default();
                let frame = Frame { events: vec![accepted(&event)], ..frame };
                Partition::new(1_000, 10).frame(&set, 1, 10_000, &frame, &mut out);
                let said = |(worked, at_ms)| Said {
                    event_id: "e".into(),
                    playbook: "p".into(),
                    lane: Lane::Failover,
                    entity: "gw".into(),
                    worked,
                    at_ms,
                };
                assert_eq!(out.said, expected.map(said).into_iter().collect::<Vec<_>>(), "{event}");
                assert_eq!((out.signals.len(), out.disposed.len()), ends, "{event}");
            };
        let event = |status: &str, at_s: i64| {
            let timestamp = format!("1970-01-01T00:00:{at_s:02}Z");
            json!({"id": "e", "timestamp": timestamp, "data": {"gw": "gw", "status": status}})
        };
        let (live, spooled) = (Frame::default(), Frame { waited_ms: 2_000, ..Frame::default() });
        let replayed = Frame { replayed: true, ..Frame::default() };
        check(event("BACKUP", 9), live.clone(), Some((Some(true), 9_000)), (0, 1));
        check(event("FAILED", 9), live.clone(), Some((Some(false), 9_000)), (2, 0));
        check(event("HEALTHY", 9), live.clone(), Some((Some(false), 9_000)), (2, 0));
        check(json!({"id": "e", "data": {"gw": "gw"}}), live.clone(), Some((None, 7_000)), (0, 1));
        check(json!({"id": "e", "data": {"status": "BACKUP"}}), live.clone(), None, (0, 1));
        // Never later than it was accepted: by the broker's clock less its time in the spool, or as it was at first.
        check(event("BACKUP", 12), live, Some((Some(true), 10_000)), (0, 1));
        check(event("BACKUP", 12), spooled.clone(), Some((Some(true), 8_000)), (0, 1));
        check(event("BACKUP", 5), spooled, Some((Some(true), 5_000)), (0, 1));
        check(event("BACKUP", 12), replayed, Some((Some(true), 7_000)), (0, 1));
    }

    #[test]
    fn c4_an_echo_of_our_own_action_counts_for_nothing() {
        let set = listening();
        let cause = |depth: u32, playbook: &str, entity: &str| {
            let track = holdline_proto::cause::track(playbook, entity);
            Cause { depth, at_ms: 9_000, track, incident: "i".into() }.to_string()
        };
        // What becomes of the event for p and q, each with its depth; who says that the remedy worked; whether the path
        // is proven.
        let check = |event: Value, signals: &[(&str, u32)], echoes: &[&str], said: usize, heard: bool| {
            let mut out = Classified::default();
            let accepted = Accepted {
                accept_id: "0-0-t-0".into(),
                accepted_ms: 7_000,
                subscription: "s".into(),
                body: event.to_string().into_bytes(),
                origin: None,
            };
            let mut partition = Partition::new(1_000, 10);
            partition.recognise(BTreeSet::from(["ours".into()]));
            let frame = Frame { events: vec![accepted], ..Frame::default() };
            partition.frame(&set, 1, 10_000, &frame, &mut out);
            let of = |echo: bool| out.signals.iter().filter(move |signal| signal.echo.is_some() == echo);
            let found: Vec<(&str, u32)> = of(false).map(|s| (s.playbook.as_str(), s.depth)).collect();
            assert_eq!(found, signals, "{event}");
            let found: Vec<&str> = of(true).map(|signal| signal.playbook.as_str()).collect();
            assert_eq!(found, echoes, "{event}");
            assert_eq!((out.said.len(), !out.heard.is_empty()), (said, heard), "{event}");
        };
        let event = |status: &str, correlation: &str| {
            json!({"id": "e", "timestamp": "1970-01-01T00:00:10Z", "correlationId": correlation,
                "data": {"gw": "gw", "status": status}})
        };
        check(event("FAILED", "theirs"), &[("p", 0), ("q", 0)], &[], 1, true);
        check(event("FAILED", &cause(1, "p", "gw")), &[("q", 1)], &["p"], 0, false);
        check(event("FAILED", &cause(1, "q", "gw")), &[("p", 1)], &["q"], 1, false);
        // What an action on one entity does to another is that one's trouble.
        check(event("FAILED", &cause(1, "p", "other")), &[("p", 1), ("q", 1)], &[], 1, false);
        check(event("FAILED", &cause(2, "r", "gw")), &[("p", 2), ("q", 2)], &[], 1, false);
        check(event("BACKUP", &cause(1, "p", "gw")), &[], &[], 0, false);
        let audit = |client: &str| {
            json!({"id": "e", "topicName": "v2.audits.entitytype.QUEUE.entityid.q", "eventBody": {"clientId": {"id": client}},
                "data": {"gw": "gw", "status": "FAILED"}})
        };
        check(audit("ours"), &[], &["p", "q"], 0, false);
        check(audit("theirs"), &[("p", 0), ("q", 0)], &[], 1, true);
    }

    #[test]
    fn d4_one_record_hides_no_proof_of_the_path() {
        let check = |minutes: &[i64], expected: &[i64]| {
            let mut heard = vec![];
            for at in minutes {
                note(&mut heard, "s", at * 60_000);
                note(&mut heard, "other", 0);
            }
            let kept: Vec<i64> =
                heard.iter().filter(|(name, _)| name == "s").map(|(_, at_ms)| at_ms / 60_000).collect();
            assert_eq!(kept, expected, "{minutes:?}");
        };
        check(&[1], &[1]);
        check(&[1, 2, 3, 4], &[1, 4]);
        check(&[1, 4, 8, 12, 13], &[1, 4, 8, 13]);
        check(&[1, 9, 10, 11], &[1, 9, 11]);
        check(&[3, 2, 3], &[3]);
    }
}
