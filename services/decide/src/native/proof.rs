//! Whether a change has come about, or what was there before is there again (E11): what is looked at afterwards, as if
//! nothing were known of the answer to our own call, and what has to be shown. Pure.

use serde_json::Value;

use super::change::{Change, Kept, fields, is_in, is_made, joined, stamp};
use super::in_force::InForce;
use super::written::Written;

/// Between a call and the first look. Milliseconds.
const LOOK_AFTER_MS: i64 = 1_000;

/// What is changed at once shows this long after the first look at the latest. Milliseconds.
const SHOWS_WITHIN_MS: i64 = 30_000;

/// What takes effect by and by, such as the members of a queue, shows by then. Milliseconds. The platform names no time.
pub(super) const SETTLES_WITHIN_MS: i64 = 120_000;

/// What is looked at to prove a change, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// A path of the platform's API, with its query.
    pub path: String,
    /// The answer comes in pages.
    pub paged: bool,
    /// The first look comes this long after the change was reported carried. Milliseconds.
    pub after_ms: i64,
    /// It must show this long after that. Milliseconds.
    pub within_ms: i64,
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Worked,
    /// Not yet, and perhaps later.
    NotYet,
    /// It has come to another end.
    Failed,
}

/// How something that was started, and is no object's field, tells what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// A path of the API; behind it comes the id of what was started, if the answer to our call named one.
    pub path: String,
    pub has_id: bool,
    pub field: &'static str,
    pub worked: &'static [&'static str],
    pub failed: &'static [&'static str],
    /// See [`Proof`].
    pub after_ms: i64,
    pub within_ms: i64,
}

/// What is looked at to prove a change. `None`: nothing would tell, as the answer to our call is not known.
pub fn proof(change: &Change, kept: &Kept) -> Option<Proof> {
    let of_look = |within_ms| {
        let (path, paged) = change.look()?;
        Some(Proof { path, paged, after_ms: LOOK_AFTER_MS, within_ms })
    };
    match change {
        Change::Object(_) => of_look(SHOWS_WITHIN_MS),
        Change::Switch(switch) => of_look(switch.settles_within_ms),
        Change::Members(_) => of_look(SETTLES_WITHIN_MS),
        Change::Launch(launch) => {
            let Course { path, has_id, after_ms, within_ms, .. } = &launch.course;
            let id = kept.stamp_after.as_ref().and_then(Value::as_str).and_then(super::segment);
            let path = match (has_id, id) {
                (true, Some(id)) => format!("{path}/{id}"),
                (true, None) => return None,
                (false, _) => path.clone(),
            };
            Some(Proof { path, paged: false, after_ms: *after_ms, within_ms: *within_ms })
        }
    }
}

/// What is shown says of a change; else why it says nothing.
///
/// # Errors
/// What the platform shows is not what it is about.
pub fn shows(change: &Change, shown: &Value) -> Result<Shows, String> {
    if let Change::Launch(launch) = change {
        let Course { field, worked, failed, .. } = &launch.course;
        let state = shown.get(*field).and_then(Value::as_str).ok_or(format!("there is no {field}"))?;
        return Ok(match state {
            state if worked.contains(&state) => Shows::Worked,
            state if failed.contains(&state) => Shows::Failed,
            _ => Shows::NotYet,
        });
    }
    let (now, wanted) = fields(change, shown)?;
    Ok(if is_made(change, &now, &wanted) { Shows::Worked } else { Shows::NotYet })
}

/// What is shown says of the undo of a change; else why it says nothing. `written` is what we have written to the object.
///
/// # Errors
/// What the platform shows is not what it is about, or it is not known what was there before.
pub fn shows_undone(
    change: &Change,
    known: &InForce,
    written: &Written,
    shown: &Value,
) -> Result<Shows, String> {
    let kept = &known.kept;
    if known.is_wanted() {
        return Ok(Shows::Worked);
    }
    if kept.wrote.is_empty() {
        return Err("what was there before is not known".into());
    }
    let is_back = match change {
        Change::Object(_) => {
            let (now, _) = fields(change, shown)?;
            let goes_on = |ours: &Value| {
                let found = stamp(change, shown).unwrap_or(Value::Null);
                found != *ours && written.leads(ours, &found)
            };
            // What another action of ours has made of it since is no part of this.
            now == kept.before || kept.stamp_after.as_ref().is_some_and(goes_on)
        }
        Change::Switch(switch) => {
            let (now, _) = fields(change, shown)?;
            !is_in(switch, &now, switch.back_from) && !is_in(switch, &now, switch.passing)
        }
        // Who is no member any more has nothing to be put back.
        Change::Members(_) => {
            let there = joined(shown);
            kept.before.iter().all(|(id, joined)| there.get(id.as_str()).is_none_or(|now| *now == joined))
        }
        Change::Launch(_) => return Err("what was only started is not undone".into()),
    };
    Ok(if is_back { Shows::Worked } else { Shows::NotYet })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Given, kind};
    use super::*;

    fn change(name: &str, parameters: &Value) -> Change {
        (kind(name).unwrap().change)(&Given(parameters.as_object().unwrap())).unwrap()
    }

    /// What each kind shows once it is undone stands with the kinds.
    #[test]
    fn e11_an_undo_is_proven_by_what_was_there_before_unless_somebody_wants_the_change_again() {
        let group = change("emergency_group.set", &json!({"group": "g"}));
        let shown = |version: u64, enabled: bool| json!({"version": version, "enabled": enabled});
        let fields = |enabled: bool| json!({"enabled": enabled}).as_object().cloned().unwrap();
        let kept = Kept {
            before: fields(false),
            wrote: fields(true),
            stamp_before: Some(json!(1)),
            stamp_after: Some(json!(2)),
            called_ms: None,
        };
        let undone = || InForce::default().carried("a", kept.clone()).without("a", false).undone(0);
        let ours = |stamps: &[u64]| {
            let pairs = stamps.windows(2);
            pairs.fold(Written::default(), |written, pair| written.with(json!(pair[0]), json!(pair[1])))
        };
        let check = |what: &str, known: InForce, written: Written, shown: Value, expected: Option<Shows>| {
            assert_eq!(shows_undone(&group, &known, &written, &shown).ok(), expected, "{what}");
        };
        check("as before", undone(), ours(&[1, 2, 3]), shown(3, false), Some(Shows::Worked));
        check("only said to be", undone(), ours(&[1, 2]), shown(2, true), Some(Shows::NotYet));
        check("somebody else's", undone(), ours(&[1, 2, 3]), shown(4, true), Some(Shows::NotYet));
        check("another of our actions", undone(), ours(&[1, 2, 3, 4]), shown(4, true), Some(Shows::Worked));
        let begun = undone().beginning("b", kept.clone());
        check("begun again", begun.clone(), ours(&[1, 2]), shown(2, true), Some(Shows::Worked));
        check(
            "wanted again",
            begun.carried("b", kept.clone()),
            ours(&[]),
            shown(4, true),
            Some(Shows::Worked),
        );
        check("not known", InForce::default(), ours(&[]), shown(3, false), None);
        check("no group", undone(), ours(&[]), json!("?"), None);
        // Once that was not seen, it is owed, and an undo finds something to do.
        let owed = undone().not_undone();
        assert!(owed.owed && owed.without("a", true).owed);
        // Who has left the queue keeps nobody from being put back.
        let members = change("queue.members", &json!({"queue": "q", "members": ["m", "n"], "joined": true}));
        let before = json!({"m": false, "n": false}).as_object().cloned().unwrap();
        let wrote = json!({"m": true, "n": true}).as_object().cloned().unwrap();
        let known = InForce { kept: Kept { before, wrote, ..Kept::default() }, ..InForce::default() };
        let left = json!({"entities": [{"id": "m", "joined": false}]});
        assert_eq!(shows_undone(&members, &known, &ours(&[]), &left), Ok(Shows::Worked));
        let flow = change("flow.execute", &json!({"flow": "f"}));
        assert!(shows_undone(&flow, &known, &ours(&[]), &left).is_err(), "nothing to undo");
    }

    #[test]
    fn e11_of_two_changes_of_the_same_fields_the_one_that_is_undone_last_shows() {
        let puts = |fields: Value| change("queue.put", &json!({"queue": "q", "set": fields}));
        let check = |one: Value, other: Value, expected: bool| {
            let (one, other) = (puts(one), puts(other));
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (expected, expected));
        };
        check(json!({"a": 1}), json!({"a": 2}), true);
        check(json!({"a": 1, "b": 1}), json!({"b": 1, "c": 1}), true);
        check(json!({"a": 1}), json!({"b": 1}), false);
        let stop = |campaign: &str| change("campaign.stop", &json!({"campaign": campaign}));
        assert!(stop("c").overlaps(&stop("c")) && !stop("c").overlaps(&stop("d")));
        let flow = || change("flow.execute", &json!({"flow": "f"}));
        assert!(!flow().overlaps(&flow()), "nothing stays changed");
    }
}
