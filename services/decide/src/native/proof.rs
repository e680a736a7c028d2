//! Whether a change has come about, or what was there before is there again (E11): what is looked at afterwards, as if
//! nothing were known of the answer to our own call, and what has to be shown. Pure.

use serde_json::Value;

use super::change::{Change, Kept, fields, is_in, is_made, joined};
use super::in_force::InForce;

/// Between a call and the first look. Milliseconds.
pub(super) const LOOK_AFTER_MS: i64 = 1_000;

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

/// What is shown says of the undo of a change, that was reported carried at `acted_ms`: whether the change stands still. What
/// somebody else has made of it since is no part of that. Unix milliseconds.
///
/// # Errors
/// What the platform shows is not what it is about, or it is not known what was there before.
pub fn shows_undone(change: &Change, known: &InForce, shown: &Value, acted_ms: i64) -> Result<Shows, String> {
    let kept = &known.kept;
    // Wanted again, or undone again by the next who had wanted it: that one has a proof of his own.
    if !known.relying.is_empty() || known.is_undone_since(acted_ms) {
        return Ok(Shows::Worked);
    }
    if kept.wrote.is_empty() {
        return Err("what was there before is not known".into());
    }
    let stands = match change {
        Change::Object(_) => {
            let (now, _) = fields(change, shown)?;
            let mut altered =
                kept.wrote.iter().filter(|(field, wrote)| kept.before.get(*field) != Some(wrote));
            altered.any(|(field, wrote)| now.get(field) == Some(wrote))
        }
        Change::Switch(switch) => {
            let (now, _) = fields(change, shown)?;
            if !now.get(switch.field).is_some_and(Value::is_string) {
                return Err(format!("there is no {}", switch.field));
            }
            is_in(switch, &now, switch.back_from) || is_in(switch, &now, switch.passing)
        }
        // Who is no member any more has nothing to be put back.
        Change::Members(_) => {
            let there = joined(shown);
            let mut found =
                kept.before.iter().filter_map(|(id, joined)| Some((there.get(id.as_str())?, joined)));
            let Some(first) = found.next() else {
                return Err("none of the members is there any more".into());
            };
            std::iter::once(first).chain(found).any(|(now, before)| *now != before)
        }
        Change::Launch(_) => return Err("what was only started is not undone".into()),
    };
    Ok(if stands { Shows::NotYet } else { Shows::Worked })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Given, Plan, kind, plan};
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
        let check = |what: &str, known: InForce, shown: Value, expected: Option<Shows>| {
            assert_eq!(shows_undone(&group, &known, &shown, 0).ok(), expected, "{what}");
        };
        check("as before", undone(), shown(3, false), Some(Shows::Worked));
        check("only said to be", undone(), shown(2, true), Some(Shows::NotYet));
        check("written, and not put back", undone(), shown(3, true), Some(Shows::NotYet));
        check("something else by now", undone(), json!({"enabled": "by hand"}), Some(Shows::Worked));
        let begun = undone().beginning("b", kept.clone());
        // Who has only begun may come to nothing.
        check("begun again", begun.clone(), shown(2, true), Some(Shows::NotYet));
        check("wanted again", begun.clone().carried("b", kept.clone()), shown(4, true), Some(Shows::Worked));
        let again = |ms| begun.clone().carried("b", kept.clone()).without("b", false).undone(ms);
        check("undone again since", again(1_001), shown(4, true), Some(Shows::Worked));
        check("its own undo", again(1_000), shown(4, true), Some(Shows::NotYet));
        check("not known", InForce::default(), shown(3, false), None);
        check("no group", undone(), json!("?"), None);
        // Once that was not seen, it is owed: that proves nothing, and an undo finds something to do.
        let owed = undone().not_undone();
        check("owed", owed.clone(), shown(2, true), Some(Shows::NotYet));
        assert!(owed.owed && owed.without("a", true).owed);
        // Who wants it again before that shows makes it once more, and keeps what was there before.
        let (planned, kept_again) = plan(&group, undone().known("b", false, 1_000), &shown(3, true));
        assert!(matches!(planned, Plan::Send(_)), "{planned:?}");
        assert_eq!((kept_again.before, kept_again.stamp_before), (fields(false), Some(json!(3))));
        // Who has left the queue keeps nobody from being put back.
        let members = change("queue.members", &json!({"queue": "q", "members": ["m", "n"], "joined": true}));
        let before = json!({"m": false, "n": false}).as_object().cloned().unwrap();
        let wrote = json!({"m": true, "n": true}).as_object().cloned().unwrap();
        let known = InForce { kept: Kept { before, wrote, ..Kept::default() }, ..InForce::default() };
        let left = json!({"entities": [{"id": "m", "joined": false}]});
        assert_eq!(shows_undone(&members, &known, &left, 0), Ok(Shows::Worked));
        // What is not shown at all proves nothing.
        assert!(shows_undone(&members, &known, &json!({"entities": []}), 0).is_err());
        let stop = change("campaign.stop", &json!({"campaign": "c"}));
        assert!(shows_undone(&stop, &known, &json!({}), 0).is_err());
        let flow = change("flow.execute", &json!({"flow": "f"}));
        assert!(shows_undone(&flow, &known, &left, 0).is_err(), "nothing to undo");
    }
}
