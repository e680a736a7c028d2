//! Holds what happened against what had to happen. It reads only what was sent, what the target saw and the
//! logs; no program is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdline::broker::connection;
use holdline_proto::command::Direction;
use holdline_proto::event::Frame;
use holdline_proto::journal::{Decided, Record, What};
use holdline_proto::outcome::Done;
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Role, Stream};
use holdline_proto::wire;
use holdline_stage::admin::Health;
use holdline_stage::bus::Bus;
use holdline_stage::pipe::Reader;
use holdline_stage::run::Tasks;
use holdline_stage::settings::{Nats, NatsTls};
use holdline_tests::cluster::Cluster;
use holdline_tests::reference::{Delivered, Status, actions};
use serde_json::Value;

use crate::platform::Platform;
use crate::target::{Call, by_entity};
use crate::traffic::{History, Kind, SILENT_MS};
use crate::world::PARTITIONS;

/// Of the playbooks in `playbooks/`.
const FAILURES: usize = 3;
const STABLE_MS: i64 = 1_000;
const HEALTHY: usize = 2;
const WINDOW_MS: i64 = 3_000;

/// An event's own time may lie this far after its arrival.
const FUTURE_MS_MAX: i64 = 300_000;

/// The field that the next version adds, see `wire`.
const NEXT: &[u8] = b"added_by_next";

/// Events that are told of an entity with which something is wrong.
const TOLD_MAX: usize = 25;

/// What the logs say.
#[derive(Default)]
pub(crate) struct Logs {
    /// By (subscription, entity): its events in the order of the log.
    events: BTreeMap<(String, String), Vec<Delivered>>,
    accept_ids: BTreeSet<String>,
    /// Accept ids of what the classifier says the watermark had passed, or had waited for too long.
    late: BTreeSet<String>,
    /// Events that were taken for late and had waited in no spool.
    late_for_nothing: Vec<String>,
    /// Entities that are held, with the reason.
    held: BTreeMap<(String, String), String>,
    /// Entities that were held at some time, or for which an action was decided anew and no longer needed.
    excused: BTreeSet<(String, String)>,
    /// From when a remedy was reported carried out to when its revert was commanded. Unix milliseconds.
    in_force: BTreeMap<(String, String), Vec<(i64, i64)>>,
    /// What went back in time.
    backwards: Vec<String>,
    /// Records of the debouncer, and how many of them the next version wrote (F15).
    pub records: usize,
    pub by_next: usize,
}

/// What a run has shown.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Never allowed, whatever fails.
    pub safety: Vec<String>,
    /// Not done within the time that was given after the last fault.
    pub liveness: Vec<String>,
    pub entities: usize,
    pub events: usize,
    pub effects: usize,
    /// Calls beyond the first with the same key, at a target that honours keys.
    pub repeated: usize,
    /// Left to a person, with a reason on record.
    pub held: Vec<String>,
}

impl Logs {
    /// Reads every partition from its beginning.
    pub(crate) async fn read(cluster: &Cluster) -> Logs {
        let nats = Nats {
            patience: std::time::Duration::from_secs(30),
            ..connection(&cluster.url(), Some(&cluster.keys()), NatsTls::default(), Role::Operator)
        };
        let bus = Bus::connect(Role::Operator, &nats, &Tasks::default(), &Health::default()).await.unwrap();
        let mut logs = Logs::default();
        for partition in 0..PARTITIONS {
            let signals = bus.topology().signal(partition);
            each(&bus, Stream::Inputs, &signals, |_, payload| logs.classified(payload)).await;
            let events = bus.topology().event(partition);
            each(&bus, Stream::Events, &events, |published_ms, payload| logs.frame(published_ms, payload))
                .await;
            let mut position = 0;
            let mut decisions = HashMap::new();
            let log = bus.topology().log(partition);
            each(&bus, Stream::Journal, &log, |published_ms, payload| {
                logs.record(partition, published_ms, &mut position, &mut decisions, payload);
            })
            .await;
        }
        logs
    }

    fn frame(&mut self, published_ms: i64, payload: &[u8]) {
        // What cannot be understood is poison; whether it was parked is doctor's business.
        let Ok(frame) = wire::decode::<Frame>(payload) else { return };
        let spooled_ms = i64::try_from(frame.waited_ms).unwrap_or(i64::MAX);
        for accepted in frame.events {
            // Beyond a minute by the reference's own rule; below, only what waited can have been passed.
            let passed = self.late.contains(&accepted.accept_id);
            if passed && spooled_ms == 0 {
                self.late_for_nothing.push(accepted.accept_id.clone());
            }
            let spooled_ms = if passed { i64::MAX } else { spooled_ms };
            self.accept_ids.insert(accepted.accept_id);
            let Ok(event) = serde_json::from_slice::<Value>(&accepted.body) else { continue };
            let (Some(entity), Some(id)) = (event["data"]["gatewayId"].as_str(), event["id"].as_str()) else {
                continue;
            };
            let status = match event["data"]["status"].as_str() {
                Some("FAILED") => Status::Failed,
                Some("DEGRADED") => Status::Degraded,
                _ => Status::Healthy,
            };
            let own_ms = event["timestamp"].as_i64().unwrap_or(published_ms);
            let at_ms = if own_ms <= published_ms + FUTURE_MS_MAX { own_ms } else { published_ms };
            let delivered = Delivered { id: id.into(), status, at_ms, spooled_ms };
            self.events.entry((accepted.subscription, entity.into())).or_default().push(delivered);
        }
    }

    fn classified(&mut self, payload: &[u8]) {
        let Ok(record) = wire::decode::<Record<Classified>>(payload) else { return };
        let late = record.body.signals.into_iter().filter(|signal| signal.late);
        self.late.extend(late.map(|signal| signal.accept_id));
    }

    fn record(
        &mut self,
        partition: u16,
        published_ms: i64,
        position: &mut u64,
        decisions: &mut HashMap<String, u32>,
        payload: &[u8],
    ) {
        self.records += 1;
        self.by_next += usize::from(payload.windows(NEXT.len()).any(|bytes| bytes == NEXT));
        let record: Record<Decided> = match wire::decode(payload) {
            Ok(record) => record,
            Err(error) => return self.backwards.push(format!("partition {partition}: a record: {error}")),
        };
        if record.position < *position {
            self.backwards.push(format!("partition {partition}: from {position} to {}", record.position));
        }
        *position = record.position;
        for track in &record.body.changed {
            for incident in track.open.iter().chain(&track.closing) {
                let known = decisions.entry(incident.id.clone()).or_default();
                if incident.decision < *known {
                    self.backwards
                        .push(format!("{}: decision {known}, then {}", incident.id, incident.decision));
                }
                *known = incident.decision;
            }
        }
        for decision in record.body.decisions {
            let of = (decision.key.playbook, decision.key.entity);
            match &decision.what {
                What::Reported(outcome)
                    if outcome.direction == Direction::Remediate
                        && matches!(outcome.result, Done::Carried { .. }) =>
                {
                    self.in_force.entry(of.clone()).or_default().push((published_ms, i64::MAX));
                }
                // A person looks from there on.
                What::Held { .. } => self.no_longer_in_force(&of, published_ms),
                What::Commanded(command) if command.direction == Direction::Revert => {
                    self.no_longer_in_force(&of, published_ms);
                }
                _ => {}
            }
            match decision.what {
                What::Held { reason } => {
                    self.excused.insert(of.clone());
                    self.held.insert(of, reason);
                }
                What::DecidedAnew { still_needed: false, .. } => drop(self.excused.insert(of)),
                What::Retried { .. } | What::Commanded(_) => drop(self.held.remove(&of)),
                _ => {}
            }
        }
    }
}

impl Logs {
    fn no_longer_in_force(&mut self, of: &(String, String), now_ms: i64) {
        if let Some((_, to_ms)) = self.in_force.get_mut(of).and_then(|all| all.last_mut()) {
            *to_ms = (*to_ms).min(now_ms);
        }
    }
}

async fn each(bus: &Bus, stream: Stream, subject: &str, mut take: impl FnMut(i64, &[u8])) {
    let Some(last) = bus.last(stream, subject).await.unwrap() else { return };
    let mut reader = Reader::open(bus, stream, vec![subject.into()], 1).await.unwrap();
    loop {
        let message = reader.next().await.unwrap();
        take(message.published_ms, &message.payload);
        if message.sequence >= last.sequence {
            return reader.close().await;
        }
    }
}

/// Checks every entity.
pub(crate) fn check(
    histories: &[History],
    calls: &[Call],
    astray: u64,
    platform: &Platform,
    logs: &Logs,
) -> Verdict {
    let mut verdict = Verdict { entities: histories.len(), ..Verdict::default() };
    let by_entity = by_entity(calls);
    let none = vec![];
    for history in histories {
        let of = (history.kind.subscription().to_string(), history.entity.clone());
        let calls = by_entity.get(&of).unwrap_or(&none);
        verdict.events += history.events.len();
        one(history, calls, platform, logs, &mut verdict);
    }
    let known: BTreeSet<&str> = histories.iter().map(|history| history.entity.as_str()).collect();
    for call in calls.iter().filter(|call| !known.contains(call.entity.as_str())) {
        verdict.safety.push(format!("a call about {} that nobody reported: {call:?}", call.entity));
    }
    if astray > 0 {
        verdict.safety.push(format!("{astray} calls followed a redirection to another host"));
    }
    verdict.safety.extend(logs.backwards.iter().map(|what| format!("a state went back: {what}")));
    verdict
        .safety
        .extend(logs.late_for_nothing.iter().map(|id| format!("{id} is late without having waited")));
    verdict.effects += calls.iter().filter(|call| call.effect).count();
    verdict.repeated = calls.iter().filter(|call| is_repeat(call)).count();
    verdict
}

fn one(history: &History, calls: &[Call], platform: &Platform, logs: &Logs, verdict: &mut Verdict) {
    let of = (history.kind.subscription().to_string(), history.entity.clone());
    let name = format!("{:?} {}", history.kind, history.entity);
    for event in &history.events {
        if !logs.accept_ids.contains(&event.accept_id) {
            verdict.safety.push(format!("{name}: {} was answered 200 and is lost", event.accept_id));
        }
    }
    let effects: Vec<&Call> = calls.iter().filter(|call| call.effect).collect();
    let found: Vec<(String, String)> =
        effects.iter().map(|call| (call.direction.clone(), call.event.clone())).collect();
    let mut keys = BTreeSet::new();
    for call in &effects {
        if !keys.insert(&call.key) {
            verdict.safety.push(format!("{name}: doubled: {call:?}"));
        }
        early(&name, history, call, verdict);
    }
    let events = logs.events.get(&of).cloned().unwrap_or_default();
    let wanted: Vec<(String, String)> = actions(&events, FAILURES, STABLE_MS, HEALTHY, STABLE_MS)
        .into_iter()
        .map(|(direction, event)| (direction.to_string(), event))
        .collect();
    let told = || {
        let told: Vec<String> = events[events.len().saturating_sub(TOLD_MAX)..]
            .iter()
            .map(|e| {
                format!(
                    "{}:{:?}@{}",
                    e.id.rsplit('-').next().unwrap_or_default(),
                    e.status,
                    e.at_ms % 1_000_000
                )
            })
            .collect();
        format!(
            "\n    wanted {wanted:?}\n    found {found:?}\n    held {:?}\n    of {}",
            logs.held.get(&of),
            told.join(" ")
        )
    };
    match history.kind {
        Kind::Counted | Kind::Quiet => {
            if !wanted.starts_with(&found) {
                verdict.safety.push(format!("{name}: other effects than wanted{}", told()));
            } else if found != wanted {
                missing(&name, &of, logs, verdict, &told());
            }
        }
        Kind::Once => {
            let mut rest = wanted.iter();
            if !found.iter().all(|effect| rest.any(|wanted| wanted == effect)) {
                verdict.safety.push(format!("{name}: other effects than wanted{}", told()));
            } else if found != wanted && logs.excused.contains(&of) {
                verdict.held.push(format!("{name}: {:?}", logs.held.get(&of)));
            } else if found != wanted {
                missing(&name, &of, logs, verdict, &told());
            }
        }
        Kind::Native => match platform.effects(&history.entity) {
            Ok(done) => {
                verdict.effects += done.len();
                if done.len() > wanted.len() {
                    verdict.safety.push(format!("{name}: {done:?} was done{}", told()));
                } else if done.len() < wanted.len() {
                    missing(&name, &of, logs, verdict, &told());
                }
            }
            Err(what) => verdict.safety.push(format!("{name}: {what}{}", told())),
        },
        // Other entities' remedies count as well, so how often it was written to says nothing of this one.
        Kind::Shared => {
            if let Err(what) = platform.effects(&history.group) {
                verdict.safety.push(format!("{name}: {what}{}", told()));
            }
            let needed = logs.in_force.get(&of).map_or(&[][..], Vec::as_slice);
            for (from_ms, to_ms) in needed {
                if let Some(at_ms) =
                    history.disabled_ms.iter().find(|at_ms| from_ms < at_ms && *at_ms < to_ms)
                {
                    verdict.safety.push(format!(
                        "{name}: its group was switched off under it at {at_ms}, needed from {from_ms} to {to_ms}"
                    ));
                }
            }
            verdict.effects += needed.len();
        }
        Kind::Final => {
            if !found.is_empty() {
                verdict.safety.push(format!("{name}: an effect of a refused call{}", told()));
            }
        }
        Kind::Blip => {
            let fast = history
                .events
                .last()
                .is_some_and(|healthy| healthy.answered_ms - history.events[0].sent_ms < WINDOW_MS);
            if fast && !found.is_empty() {
                verdict.safety.push(format!("{name}: a wake-up overtook the event that ended it{}", told()));
            }
        }
        Kind::Changes | Kind::Silent => {
            let turns = found
                .iter()
                .enumerate()
                .all(|(n, (direction, _))| direction == if n % 2 == 0 { "remediate" } else { "revert" });
            if !turns || (history.kind == Kind::Changes && found.len() > 2) {
                verdict.safety.push(format!("{name}: effects out of turn{}", told()));
            } else if !found.len().is_multiple_of(2) || found.is_empty() {
                missing(&name, &of, logs, verdict, &told());
            }
        }
    }
    let unexplained = !history.overdue.is_empty() && !logs.held.contains_key(&of);
    if unexplained && history.kind != Kind::Final {
        verdict.liveness.push(format!("{name}: overdue {:?}{}", history.overdue, told()));
    }
}

/// Something is still to be done: held for a reason, or not done in time.
fn missing(name: &str, of: &(String, String), logs: &Logs, verdict: &mut Verdict, told: &str) {
    match logs.held.get(of) {
        Some(reason) => verdict.held.push(format!("{name}: {reason}")),
        None => verdict.liveness.push(format!("{name}: effects are missing{told}")),
    }
}

/// A1: nothing before its time.
fn early(name: &str, history: &History, call: &Call, verdict: &mut Verdict) {
    let events = &history.events;
    let sent_ms = events.iter().filter(|e| e.id == call.event).map(|e| e.sent_ms).min();
    match (history.kind, call.direction.as_str()) {
        (Kind::Changes, "remediate") => {
            let failed_ms = events.iter().filter(|e| e.status == "FAILED").map(|e| e.sent_ms).min();
            if failed_ms.is_none_or(|failed_ms| call.at_ms < failed_ms + WINDOW_MS) {
                verdict.safety.push(format!("{name}: early: {call:?}"));
            }
        }
        (Kind::Silent, "revert") => {
            // From when a report was sent to when the next one was answered, or the call came.
            let before: Vec<_> = events.iter().filter(|e| e.answered_ms <= call.at_ms).collect();
            let next = before.iter().skip(1).map(|e| e.answered_ms).chain([call.at_ms]);
            let longest_ms = before.iter().zip(next).map(|(e, next_ms)| next_ms - e.sent_ms).max();
            if longest_ms.is_none_or(|longest_ms| longest_ms < SILENT_MS) {
                verdict
                    .safety
                    .push(format!("{name}: reverted by silence after {longest_ms:?} ms of it: {call:?}"));
            }
        }
        _ => {
            if sent_ms.is_none_or(|sent_ms| call.at_ms < sent_ms) {
                verdict.safety.push(format!("{name}: before its deciding event was sent: {call:?}"));
            }
        }
    }
}

/// A call at a target that honours keys, beyond its first.
fn is_repeat(call: &Call) -> bool {
    !call.effect && call.kind != "once" && !call.entity.starts_with("final-")
}
