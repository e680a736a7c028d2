//! Whether a change has come about (E11): what is looked at afterwards, as if nothing were known of the answer to our
//! own call, and what has to be shown. Pure.

use serde_json::Value;

use super::change::{Change, Kept, fields, is_made};

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
