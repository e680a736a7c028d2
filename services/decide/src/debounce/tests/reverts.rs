//! E11: a revert is over once it is seen to have worked; what people, time-outs and new trouble make of one that is not.

use super::*;

/// An incident whose reverts wait for what the test says of them.
struct Reverting {
    world: World,
    incident: String,
    at_ms: i64,
}

/// A look tells within this.
const VERDICT_WITHIN_MS: i64 = 60_000;

impl Reverting {
    fn begin(rules: &str, timeline: &str) -> Reverting {
        let never = ["restore", "also"].map(|action| (action, None));
        let circumstances = Circumstances { outcomes: never.into(), pager: true, ..Circumstances::default() };
        let world = run(rules, circumstances, timeline, 40);
        let mut reverting = Reverting { world, incident: String::new(), at_ms: BEGIN + 41_000 };
        reverting.incident = reverting.outstanding().incident;
        reverting
    }

    fn outstanding(&self) -> Command {
        self.world.live.tracks().values().find_map(|track| track.outstanding.clone()).unwrap()
    }

    fn told(&mut self, outcome: &Outcome) {
        self.at_ms += 1_000;
        let commands = self.world.step(self.at_ms, Input::Outcome(outcome));
        self.world.outcomes(self.at_ms, commands);
    }

    fn carried(&mut self, command: &Command) {
        let carried = Outcome::of(command, Done::Carried { status: 200 }, 1);
        self.told(&Outcome { verdict_within_ms: Some(VERDICT_WITHIN_MS), ..carried });
    }

    fn verdict(&mut self, command: &Command, worked: Option<bool>) {
        self.told(&Outcome::of(command, Done::Verified { worked, seen: "seen".into() }, 0));
    }

    fn replayed(&mut self, command: &Command) {
        self.at_ms += 1_000;
        self.world.step(self.at_ms, Input::Retried(command));
    }

    fn incident(&self) -> Option<&Incident> {
        let tracks = self.world.live.tracks().values();
        tracks.flat_map(|track| &track.closing).find(|incident| incident.id == self.incident)
    }

    /// Whether it is over, whether it is held, and how often people were paged.
    fn check(&self, what: &str, expected: (bool, bool, usize)) {
        let paged = self.world.actions.iter().filter(|(_, action)| action == "page gw").count();
        let held = self.incident().is_some_and(|incident| incident.held.is_some());
        let found = (self.incident().is_none(), held, paged);
        assert_eq!(found, expected, "{what}\n{:#?}", self.world.decisions);
        let is_closed = |d: &&Decision| matches!(d.what, What::Closed { .. }) && d.incident == self.incident;
        assert_eq!(self.world.decisions.iter().filter(is_closed).count(), usize::from(found.0), "{what}");
    }
}

/// Health ends it at 11 s.
const OVER: &str = "0 +1 x3 F, 10 H, 11 H";

#[test]
fn e11_a_revert_is_over_once_it_is_seen_to_have_worked() {
    let check = |verdicts: &[Option<bool>], expected: (bool, bool, usize)| {
        let mut reverting = Reverting::begin(LOOP, OVER);
        let mut command = reverting.outstanding();
        reverting.carried(&command);
        for (n, worked) in verdicts.iter().enumerate() {
            if n > 0 {
                // A person has it repeated, with `holdline dlq replay`.
                let earlier = command;
                reverting.replayed(&earlier);
                command = reverting.outstanding();
                reverting.carried(&command);
                // What is said of an earlier issue is said of none that is waited for.
                reverting.verdict(&earlier, Some(true));
            }
            reverting.verdict(&command, *worked);
        }
        reverting.check(&format!("{verdicts:?}"), expected);
    };
    check(&[], (false, false, 0));
    check(&[Some(true)], (true, false, 0));
    check(&[Some(false)], (false, true, 1));
    check(&[None], (false, true, 1));
    check(&[Some(false), Some(true)], (true, false, 1));
    check(&[None, Some(false)], (false, true, 2));
}

#[test]
fn e11_a_verdict_that_does_not_come_is_not_waited_for() {
    let mut reverting = Reverting::begin(LOOP, OVER);
    let command = reverting.outstanding();
    reverting.carried(&command);
    let from_ms = reverting.at_ms;
    reverting.world.pass(from_ms, from_ms + VERDICT_WITHIN_MS - 1_000);
    reverting.check("there is time", (false, false, 0));
    reverting.world.pass(from_ms + VERDICT_WITHIN_MS - 1_000, from_ms + VERDICT_WITHIN_MS + 1_000);
    reverting.check("nobody has told", (true, false, 1));
    assert!(reverting.world.live.tracks().values().all(|track| track.armed.is_none()));
}

#[test]
fn e11_each_step_of_a_revert_is_proven_for_itself_and_can_be_repeated_alone() {
    let both = LOOP.replace("do: [restore]", "do: [restore, also]");
    // The first is not proven, and the second is carried out, or given up.
    for given_up in [false, true] {
        let what = format!("the second is given up: {given_up}");
        let mut reverting = Reverting::begin(&both, OVER);
        let first = reverting.outstanding();
        reverting.carried(&first);
        let second = reverting.outstanding();
        assert_eq!((first.action.as_str(), second.action.as_str()), ("restore", "also"));
        reverting.verdict(&first, Some(false));
        let pages = 1 + usize::from(given_up);
        if given_up {
            let failed = Done::Failed { reason: "404".into(), perhaps_done: false };
            reverting.told(&Outcome::of(&second, failed, 1));
        } else {
            reverting.carried(&second);
            reverting.verdict(&second, Some(true));
        }
        reverting.check(&what, (false, true, pages));
        // All that lies among the dead letters goes back at once.
        reverting.replayed(&first);
        reverting.replayed(&second);
        let first = reverting.outstanding();
        reverting.carried(&first);
        reverting.verdict(&first, Some(true));
        reverting.check(&what, (!given_up, false, pages));
        if given_up {
            let second = reverting.outstanding();
            reverting.carried(&second);
            reverting.verdict(&second, Some(true));
            reverting.check(&what, (true, false, pages));
        }
        let issued = |action: &str| {
            let all = reverting.world.actions.iter();
            all.filter(|(_, issued)| *issued == format!("{action} gw")).count()
        };
        assert_eq!((issued("restore"), issued("also")), (2, 1 + usize::from(given_up)), "{what}");
    }
}

#[test]
fn e11_a_step_that_is_repeated_alone_stays_alone_when_that_fails() {
    let both = LOOP.replace("do: [restore]", "do: [restore, also]");
    let mut reverting = Reverting::begin(&both, OVER);
    let mut first = reverting.outstanding();
    reverting.carried(&first);
    let second = reverting.outstanding();
    reverting.told(&Outcome::of(&second, Done::Carried { status: 200 }, 1));
    reverting.verdict(&first, None);
    reverting.replayed(&first);
    first = reverting.outstanding();
    let failed = Done::Failed { reason: "503".into(), perhaps_done: false };
    reverting.told(&Outcome::of(&first, failed, 5));
    reverting.check("it failed", (false, true, 2));
    reverting.replayed(&first);
    first = reverting.outstanding();
    // There was nothing to put back any more, so nothing is looked at.
    reverting.told(&Outcome::of(&first, Done::Carried { status: 304 }, 1));
    reverting.check("it was so already", (true, false, 2));
    let issued = reverting.world.actions.iter().filter(|(_, action)| action == "also gw").count();
    assert_eq!(issued, 1, "the second was carried out");
}

#[test]
fn e11_what_people_deny_of_a_revert_is_not_over_because_the_rest_is_proven() {
    let both = LOOP.replace("do: [restore]", "do: [restore, also]");
    let mut reverting = Reverting::begin(&both, OVER);
    let first = reverting.outstanding();
    reverting.carried(&first);
    let second = reverting.outstanding();
    let denied = Done::Failed { reason: "denied by ada: not now".into(), perhaps_done: false };
    reverting.told(&Outcome::of(&second, denied, 0));
    reverting.verdict(&first, Some(true));
    reverting.check("denied", (false, true, 1));
    // What people deny before it was with the executor has no letter.
    let mut reverting = Reverting::begin(&both, OVER);
    let first = reverting.outstanding();
    reverting.carried(&first);
    let second = reverting.outstanding();
    let asks = Done::AwaitsApproval {
        approval: "a".into(),
        until_ms: reverting.at_ms + 600_000,
        unless_denied: false,
        perhaps_done: false,
    };
    reverting.told(&Outcome::of(&second, asks, 0));
    reverting.world.asked.push("a".into());
    let at_s = (reverting.at_ms - BEGIN) / 1_000 + 1;
    reverting.at_ms += 2_000;
    reverting.world.ruled(at_s, 0, Word::Deny);
    // Nor is it over because the rest is repeated.
    reverting.verdict(&first, Some(false));
    reverting.replayed(&first);
    let first = reverting.outstanding();
    reverting.carried(&first);
    reverting.verdict(&first, Some(true));
    reverting.check("denied by people", (false, true, 3));
}

#[test]
fn e11_new_trouble_is_remedied_while_a_revert_is_not_proven_yet() {
    let timeline = format!("{OVER}, 20 +1 x3 F");
    for (verdict, over) in [(None, false), (Some(Some(true)), true), (Some(Some(false)), true)] {
        let mut reverting = Reverting::begin(LOOP, &timeline);
        let command = reverting.outstanding();
        // The remedy waits for the revert to be carried out, and not for its proof.
        reverting.carried(&command);
        assert_eq!(reverting.world.actions.last().unwrap().1, "fail gw");
        // What is seen then is the remedy again.
        if let Some(worked) = verdict {
            reverting.verdict(&command, worked);
        }
        reverting.check(&format!("{verdict:?}"), (over, false, 0));
        let track = reverting.world.live.tracks().values().next().unwrap();
        let open = track.open.as_ref().map(|incident| (incident.phase, incident.held.is_some()));
        assert_eq!(open, Some((Phase::Remediating, false)), "{verdict:?}");
    }
}
