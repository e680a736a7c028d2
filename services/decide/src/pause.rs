//! May a call leave? Not while people have stopped it (E10, A7).

use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::TrackKey;
use holdline_proto::limits::PAUSES_MAX;
use holdline_proto::pause::{Pause, Pauses, Scope};

/// The pause that stops a command now; of several, the one that ends last. A page is never stopped: people are told
/// of what is held, whatever else is.
pub fn stopping<'a>(pauses: &'a Pauses, command: &Command, now_ms: i64) -> Option<&'a Pause> {
    match command.direction {
        Direction::Page => None,
        Direction::Remediate | Direction::Revert => {
            concerning(pauses, &command.key, command.group.as_deref(), now_ms)
        }
    }
}

/// The pause that stops what is done about an entity; of several, the one that ends last.
pub fn concerning<'a>(
    pauses: &'a Pauses,
    key: &TrackKey,
    group: Option<&str>,
    now_ms: i64,
) -> Option<&'a Pause> {
    let concerns = |pause: &&Pause| match &pause.scope {
        Scope::Everything => true,
        Scope::Playbook(name) => *name == key.playbook,
        Scope::Entity(name) => *name == key.entity,
        Scope::Group(name) => Some(name.as_str()) == group,
    };
    standing(pauses, now_ms).filter(concerns).max_by_key(|pause| pause.until_ms)
}

/// Those that have not ended.
pub fn standing(pauses: &Pauses, now_ms: i64) -> impl Iterator<Item = &Pause> {
    pauses.pauses.iter().filter(move |pause| pause.until_ms > now_ms)
}

/// Adds a pause; one of the same scope gives way to it, and those that have ended are forgotten.
///
/// # Errors
/// When there are [`PAUSES_MAX`] others.
pub fn add(pauses: &Pauses, pause: Pause) -> Result<Pauses, String> {
    let mut left = without(pauses, &pause.scope, pause.since_ms);
    if left.pauses.len() >= PAUSES_MAX {
        return Err(format!("there are {PAUSES_MAX} pauses already: end some, or pause everything"));
    }
    left.pauses.push(pause);
    Ok(left)
}

/// What is left when the pause of a scope is lifted; those that have ended are forgotten.
pub fn without(pauses: &Pauses, scope: &Scope, now_ms: i64) -> Pauses {
    let others = standing(pauses, now_ms).filter(|pause| pause.scope != *scope);
    Pauses { pauses: others.cloned().collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdline_proto::incident::Lane;

    use super::*;

    fn pause(scope: Scope, until_ms: i64) -> Pause {
        Pause { scope, reason: "maintenance".into(), by: "ada".into(), since_ms: 0, until_ms }
    }

    fn command(direction: Direction) -> Command {
        Command {
            course: Default::default(),
            depth: 0,
            incident: "i".into(),
            partition: 0,
            key: TrackKey { playbook: "p".into(), lane: Lane::Failover, entity: "e".into() },
            group: Some("g".into()),
            playbooks: String::new(),
            direction,
            step: 0,
            action: "a".into(),
            undo: None,
            decision: 1,
            decided_ms: 0,
            deadline_ms: 0,
            values: BTreeMap::new(),
            replays: 0,
            approval: None,
        }
    }

    #[test]
    fn a7_a_pause_stops_what_it_names_until_it_ends() {
        let check = |scope: Scope, expected: bool| {
            let pauses = Pauses { pauses: vec![pause(scope.clone(), 100)] };
            for direction in [Direction::Remediate, Direction::Revert] {
                let stopped = |now_ms| stopping(&pauses, &command(direction), now_ms).is_some();
                assert_eq!((stopped(0), stopped(99), stopped(100)), (expected, expected, false), "{scope}");
            }
            assert_eq!(stopping(&pauses, &command(Direction::Page), 0), None, "{scope}");
        };
        check(Scope::Everything, true);
        check(Scope::Playbook("p".into()), true);
        check(Scope::Playbook("e".into()), false);
        check(Scope::Entity("e".into()), true);
        check(Scope::Entity("p".into()), false);
        check(Scope::Group("g".into()), true);
        check(Scope::Group("e".into()), false);
    }

    #[test]
    fn a_scope_is_paused_once_and_what_has_ended_is_forgotten() {
        let everything = add(&Pauses::default(), pause(Scope::Everything, 100)).unwrap();
        let longer = add(&everything, pause(Scope::Everything, 200)).unwrap();
        assert_eq!(longer.pauses, [pause(Scope::Everything, 200)]);
        let both = add(&longer, pause(Scope::Entity("e".into()), 300)).unwrap();
        let stopping = stopping(&both, &command(Direction::Remediate), 0).unwrap();
        assert_eq!(stopping.until_ms, 300, "the one that ends last");
        assert_eq!(without(&both, &Scope::Everything, 0).pauses, [pause(Scope::Entity("e".into()), 300)]);
        assert_eq!(without(&both, &Scope::Group("g".into()), 250).pauses.len(), 1);
    }

    #[test]
    fn pauses_are_bounded() {
        let mut pauses = Pauses::default();
        for n in 0..PAUSES_MAX {
            pauses = add(&pauses, pause(Scope::Entity(n.to_string()), 100)).unwrap();
        }
        assert!(add(&pauses, pause(Scope::Everything, 100)).is_err());
        assert!(add(&pauses, pause(Scope::Entity("7".into()), 200)).is_ok(), "in the place of its own");
        assert!(add(&pauses, Pause { since_ms: 100, ..pause(Scope::Everything, 200) }).is_ok());
    }
}
