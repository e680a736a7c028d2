//! What happens to the debouncer: each script leads through one part of its rules.

use holdline_proto::outcome::Done;

pub(crate) use crate::debouncer::Script;
use crate::debouncer::Terms;
use crate::scene::{Beat, Event, Status};
use Status::{Degraded, Failed, Healthy};

const TERMS: Terms = Terms {
    failures: 3,
    stable_s: 15,
    healthy: 2,
    healthy_s: 15,
    silence_s: 900,
    changes_only: false,
    flapping: false,
};

const CARRIED: Done = Done::Carried { status: 200 };

/// A frame that is stored as soon as its events are there.
fn at(stored_s: i64, events: &[(&'static str, Status)]) -> Beat {
    let event = |(id, status): &(&'static str, Status)| Event {
        id,
        status: *status,
        happened_s: stored_s,
        accepted_s: stored_s,
        echo: false,
    };
    Beat { gateway: "g", stored_s, events: events.iter().map(event).collect() }
}

/// A frame whose event waited: for the frame before it, which was on its way.
fn late(stored_s: i64, accepted_s: i64, id: &'static str, status: Status) -> Beat {
    let event = Event { id, status, happened_s: accepted_s, accepted_s, echo: false };
    Beat { gateway: "g", stored_s, events: vec![event] }
}

/// What our own action leads to.
fn echo(stored_s: i64, id: &'static str, status: Status) -> Beat {
    let mut beat = at(stored_s, &[(id, status)]);
    beat.events[0].echo = true;
    beat
}

fn script(name: &'static str, terms: Terms, beats: Vec<Beat>) -> Script {
    let slots = beats.into_iter().map(|beat| vec![beat]).collect();
    Script {
        name,
        terms,
        slots,
        lags: false,
        backlog: 2,
        calm: false,
        fewer_faults: 0,
        answers: vec![CARRIED],
        proves: false,
    }
}

pub(crate) fn all() -> Vec<Script> {
    vec![
        circle(),
        anew(),
        proven(),
        silence(),
        late_silence(),
        changes(),
        flapping(),
        nearer(),
        hasty(),
        echoes(),
        everything(),
    ]
}

/// Confirmed, remedied, recovered, reverted.
pub(crate) fn circle() -> Script {
    let terms = Terms { failures: 1, stable_s: 0, ..TERMS };
    let beats = vec![
        at(0, &[("a", Failed)]),
        at(1, &[("b", Healthy)]),
        at(20, &[("c", Healthy)]),
        // Silence would be looked at, were there anything left to look at.
        at(2_000, &[]),
    ];
    script("circle", terms, beats)
}

/// The remedy's deadline passes and it is issued anew, or it fails, while health comes.
pub(crate) fn anew() -> Script {
    let answers = vec![
        CARRIED,
        Done::Expired { perhaps_done: false },
        Done::Failed { reason: "404".into(), perhaps_done: false },
    ];
    Script { name: "anew", answers, ..circle() }
}

/// The revert is looked at, and whether it has worked is told while trouble comes back.
pub(crate) fn proven() -> Script {
    let mut script = Script { name: "proven", proves: true, calm: true, ..circle() };
    script.slots.insert(3, vec![at(30, &[("d", Failed)])]);
    script
}

/// Only failures are reported, and then nothing: over after a time. The last failure waits behind a frame.
pub(crate) fn silence() -> Script {
    let terms = Terms { failures: 1, stable_s: 0, silence_s: 40, ..TERMS };
    let beats =
        vec![at(0, &[("a", Failed)]), at(38, &[]), late(45, 37, "b", Failed), at(90, &[]), at(100, &[])];
    Script { calm: true, ..script("silence", terms, beats) }
}

/// The same, and its frames lag: there are more states without a fault than elsewhere with two.
pub(crate) fn late_silence() -> Script {
    Script { name: "late silence", calm: false, lags: true, backlog: 1, fewer_faults: 2, ..silence() }
}

/// A source of changes: the window's end confirms, unless health was accepted before it.
pub(crate) fn changes() -> Script {
    let terms = Terms { failures: 1, stable_s: 20, changes_only: true, ..TERMS };
    let beats = vec![at(2, &[("a", Failed)]), at(25, &[]), at(30, &[]), at(60, &[])];
    let mut script = Script { lags: true, ..script("changes", terms, beats) };
    script.slots[2].push(late(30, 21, "b", Healthy));
    script
}

/// It changes so often that the action waits for one wake-up, and its end for another.
pub(crate) fn flapping() -> Script {
    let terms = Terms { failures: 2, stable_s: 0, silence_s: 60, flapping: true, ..TERMS };
    let beats = vec![
        at(0, &[("a", Failed)]),
        at(1, &[("b", Healthy)]),
        at(2, &[("c", Failed)]),
        at(3, &[("d", Failed)]),
        at(50, &[]),
        at(200, &[]),
        at(300, &[]),
    ];
    script("flapping", terms, beats)
}

/// What follows from our own actions comes between what counts.
pub(crate) fn echoes() -> Script {
    let terms = Terms { failures: 2, stable_s: 0, ..TERMS };
    let beats = vec![
        at(0, &[("a", Failed)]),
        echo(1, "e", Failed),
        at(2, &[("b", Failed)]),
        at(3, &[("c", Healthy)]),
        echo(20, "f", Healthy),
        at(21, &[("d", Healthy)]),
        at(2_000, &[]),
    ];
    Script { calm: true, ..script("echoes", terms, beats) }
}

/// Every history of six inputs: trouble of both kinds, health, and trouble that is older than it looks.
pub(crate) fn everything() -> Script {
    const NAMES: [[&str; 4]; 6] = [
        ["f1", "d1", "h1", "o1"],
        ["f2", "d2", "h2", "o2"],
        ["f3", "d3", "h3", "o3"],
        ["f4", "d4", "h4", "o4"],
        ["f5", "d5", "h5", "o5"],
        ["f6", "d6", "h6", "o6"],
    ];
    // Close together and far apart, so that count and span are reached one without the other.
    let slot = |(names, stored_s): (&[&'static str; 4], i64)| {
        let [failed, degraded, healthy, old] = *names;
        let mut older = at(stored_s, &[(old, Failed)]);
        older.events[0].happened_s = stored_s - 30;
        vec![
            at(stored_s, &[(failed, Failed)]),
            at(stored_s, &[(degraded, Degraded)]),
            at(stored_s, &[(healthy, Healthy)]),
            older,
        ]
    };
    let slots = NAMES.iter().zip([0, 1, 20, 21, 40, 60]).map(slot).collect();
    Script { slots, calm: true, ..script("everything", TERMS, vec![]) }
}

/// A wake-up for silence is far off when another incident wants a nearer one.
pub(crate) fn nearer() -> Script {
    let terms = Terms { failures: 1, stable_s: 0, healthy_s: 0, flapping: true, ..TERMS };
    let beats = vec![
        at(0, &[("a", Failed)]),
        at(1, &[("b", Healthy)]),
        at(2, &[("c", Healthy)]),
        at(3, &[("d", Failed)]),
        at(500, &[]),
        at(3_000, &[]),
    ];
    Script { calm: true, ..script("nearer", terms, beats) }
}

/// Healthy twice, and then for long enough.
pub(crate) fn hasty() -> Script {
    let terms = Terms { failures: 1, stable_s: 0, ..TERMS };
    let beats = vec![
        at(0, &[("a", Failed)]),
        at(1, &[("b", Healthy)]),
        at(2, &[("c", Healthy)]),
        at(30, &[("d", Healthy)]),
    ];
    script("hasty", terms, beats)
}
