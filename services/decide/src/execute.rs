//! What a command sends, and what an answer means.

use crate::native::{Change, Given};
use crate::playbook::{Action, Credential, Doing, Method, Native, Playbook, RenderError, Set, Webhook};
use crate::rate::Limits;
use holdline_proto::cause::{CORRELATION_HEADER, Cause};
use holdline_proto::command::{Command, Course, Direction, Intent};
use holdline_proto::digest::Digest;
use holdline_proto::incident::View;
use holdline_proto::limits::SHOWN_BYTES_MAX;
use holdline_proto::outcome::{Done, Shares};
use holdline_proto::signal::Values;

/// Calls that a command may make before it is given up (R1).
pub const ATTEMPTS_MAX: u32 = 5;

/// Header that carries the idempotency key of every call (E3).
pub const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";

/// A request, ready to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// Headers whose values are still to be looked up.
    pub credentials: Vec<Credential>,
    pub body: Option<String>,
}

/// Renders an action's templates with a command's values; every placeholder is filled or nothing leaves.
///
/// # Errors
/// Names the placeholder that cannot be filled.
pub fn request(action: &Webhook, command: &Command) -> Result<Request, RenderError> {
    let values: &Values = &command.values;
    let mut headers = vec![(IDEMPOTENCY_HEADER.to_string(), command.action_key())];
    for (name, template) in &action.headers {
        headers.push((name.clone(), template.render(values)?));
    }
    Ok(Request {
        method: action.method,
        url: action.url.render(values)?,
        headers,
        credentials: action.credentials.clone(),
        body: action.body.as_ref().map(|body| body.render(values)).transpose()?,
    })
}

/// Marks a request, so that what follows from it is known for ours (C4). An action that has a header of that name means
/// its own. No part of what people allow: it says when the call leaves.
pub fn mark(request: &mut Request, cause: &Cause) {
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(CORRELATION_HEADER)) {
        request.headers.push((CORRELATION_HEADER.into(), cause.to_string()));
    }
}

/// Where the time went until a call was answered; `None` where none was. `published_ms`: when the command reached its
/// queue.
pub fn shares(command: &Command, published_ms: i64, intent: &Intent) -> Option<Shares> {
    let Course { waited_ms, judged_ms, issued_ms } = command.course;
    // Before anything of these was written down.
    if intent.called_ms == 0 || issued_ms == 0 {
        return None;
    }
    let between = |from_ms: i64, to_ms: i64| to_ms.saturating_sub(from_ms).max(0);
    Some(Shares {
        gateway: waited_ms,
        classifier: between(command.decided_ms, judged_ms),
        lineup: between(judged_ms, issued_ms),
        debouncer: between(issued_ms, published_ms),
        executor: between(published_ms, intent.called_ms),
        target: between(intent.called_ms, intent.answered_ms),
        allowed: between(command.decided_ms, command.deadline_ms),
    })
}

/// What a native action is to change, by a command's values.
///
/// # Errors
/// Names the placeholder that cannot be filled, or the parameter that cannot be used.
pub fn change(native: &Native, command: &Command) -> Result<Change, String> {
    change_by(native, &command.values)
}

/// The native actions among the remedies of a command's incident: each as its command would be, and what it changes.
pub fn native_steps(set: &Set, command: &Command) -> Vec<(Command, Change)> {
    let steps = set.rules(&command.key).map(|rules| rules.act.as_slice()).unwrap_or_default();
    let native = |(step, name): (u32, &String)| {
        let Doing::Native(native) = &set.actions.get(name)?.what else { return None };
        let direction = Direction::Remediate;
        let remedy = Command { direction, step, undo: None, action: name.clone(), ..command.clone() };
        let change = change(native, &remedy).ok()?;
        Some((remedy, change))
    };
    (0..).zip(steps).filter_map(native).collect()
}

/// What it is to change whatever the event says, if it takes nothing from one.
pub fn fixed(native: &Native) -> Option<Change> {
    change_by(native, &Values::default()).ok()
}

fn change_by(native: &Native, values: &Values) -> Result<Change, String> {
    let text = native.parameters.render(values).map_err(|error| error.to_string())?;
    let parameters: serde_json::Map<_, _> =
        serde_json::from_str(&text).map_err(|error| format!("`parameters`: {error}"))?;
    let given = Given(&parameters);
    given.check(native.kind)?;
    (native.kind.change)(&given)
}

/// A request as people are asked to allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub text: String,
    /// SHA-256 of all of it, hex.
    pub request: String,
}

/// Headers whose values people see; those of others may be credentials.
const HEADERS_SHOWN: [&str; 3] = ["accept", "content-type", IDEMPOTENCY_HEADER];

/// The request that a command would send, as people are asked to allow it.
///
/// # Errors
/// Why there is none: a placeholder that cannot be filled, a parameter that cannot be used.
pub fn shown(action: &Action, command: &Command) -> Result<Shown, String> {
    let mut digest = Digest::default();
    let mut text;
    match &action.what {
        Doing::Webhook(webhook) => {
            let request = request(webhook, command).map_err(|error| error.to_string())?;
            digest.add(request.method.name());
            digest.add(&request.url);
            text = format!("{} {}", request.method.name(), request.url);
            for (name, value) in &request.headers {
                digest.add(name);
                digest.add(value);
                let shown = HEADERS_SHOWN.iter().any(|shown| shown.eq_ignore_ascii_case(name));
                text += &format!("\n{name}: {}", if shown { value } else { "(not shown)" });
            }
            for Credential { header, scheme, secret } in &request.credentials {
                let reference = secret.to_string();
                digest.add(header);
                digest.add(scheme);
                digest.add(&reference);
                text += &format!("\n{header}: {scheme}({reference})");
            }
            digest.add(request.body.as_deref().unwrap_or_default());
            if let Some(body) = &request.body {
                text += &format!("\n\n{body}");
            }
        }
        Doing::Native(native) => {
            change(native, command)?;
            let parameters = native.parameters.render(&command.values).map_err(|error| error.to_string())?;
            let what = if command.undo.is_some() { "undo " } else { "" };
            let client = native.client.as_deref().unwrap_or_default();
            for part in [what, native.kind.name, client, &parameters] {
                digest.add(part);
            }
            text = format!("{what}{} {parameters}", native.kind.name);
        }
    }
    if text.len() > SHOWN_BYTES_MAX {
        let mut end = SHOWN_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let left = text.len() - end;
        text.truncate(end);
        text += &format!("\n({left} more bytes are not shown)");
    }
    Ok(Shown { text, request: digest.hex() })
}

/// Whether the playbook's lane has the action in that direction. A warning's lane has no failover (A2): what says
/// otherwise has not come from these decisions.
pub fn belongs(playbook: &Playbook, command: &Command) -> bool {
    playbook.rules(command.key.lane).is_some_and(|rules| match command.direction {
        Direction::Remediate => rules.act.contains(&command.action),
        Direction::Revert => rules.revert.act.contains(&command.action),
        Direction::Page => rules.pager.as_ref() == Some(&command.action),
    })
}

/// How a command stands to its incident's latest decision, as its view shows it (O2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the latest decision.
    Current,
    /// The view does not know of it yet: wait.
    Behind,
    /// A later decision has withdrawn or replaced it: no call may leave.
    Replaced { by: u32 },
}

/// Holds a command against the view of its incident. A view that was lost is written again by its owner, so
/// none at all means wait, too.
pub fn standing(command: &Command, view: Option<&View>) -> Standing {
    match view.map(|view| view.decision) {
        Some(latest) if latest > command.decision => Standing::Replaced { by: latest },
        Some(latest) if latest == command.decision => Standing::Current,
        Some(_) | None => Standing::Behind,
    }
}

/// What an earlier intent says about a command: calls of this issue that left, and whether one of this action
/// may have had its effect. `None`: the intent is about another action.
pub fn weigh(intent: &Intent, command: &Command) -> Option<(u32, bool)> {
    // The same action, perhaps issued anew after its deadline: what may have happened may still have.
    let same_issue = intent.issue_key == command.issue_key();
    (intent.action_key == command.action_key()).then(|| {
        let attempts = if same_issue { intent.attempts } else { 0 };
        (attempts, intent.perhaps_done || !intent.answered)
    })
}

/// Whether an answer leaves open or says that the call had its effect.
pub fn may_have_happened(answer: &Answer) -> bool {
    match answer {
        Answer::Status { status, .. } => *status < 300 || *status >= 500 || *status == 408,
        Answer::Unsent { .. } | Answer::Throttled { .. } => false,
        Answer::Lost { .. } => true,
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status {
        status: u16,
        retry_after_ms: Option<u64>,
        /// What its headers say about the target's limit.
        limits: Limits,
    },
    /// No connection came about: nothing was sent.
    Unsent { reason: String },
    /// Nothing was sent: whoever gives leave to call is asked too often.
    Throttled { reason: String, retry_after_ms: u64 },
    /// It was sent, and what became of it is not known.
    Lost { reason: String },
}

/// The status that is reported when the platform was found to be as it should be, so that no call was needed:
/// HTTP's own for it.
pub const UNCHANGED: u16 = 304;

/// What to do after a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Report(Done),
    /// Give the command up: report it, and keep its bytes in the dead letters.
    GiveUp {
        done: Done,
        /// It may go through another time: the dlq-replayer brings it back by itself.
        transient: bool,
    },
    /// The target has not looked at it: no attempt. It waits for its turn in the rate window, which has heard why.
    Throttled {
        after_ms: u64,
    },
    /// Give it back to the broker for this long.
    Retry {
        after_ms: u64,
        reason: String,
    },
}

/// Judges an answer. `attempts` counts the calls that left, this one included; `perhaps_done` says that an
/// earlier one may have had its effect.
pub fn judge(answer: &Answer, attempts: u32, idempotent: bool, perhaps_done: bool) -> Next {
    let (reason, retry_after_ms, perhaps_now) = match answer {
        Answer::Status { status, .. } if (200..300).contains(status) => {
            return Next::Report(Done::Carried { status: *status });
        }
        Answer::Status { status: 429, retry_after_ms, .. } => {
            return Next::Throttled { after_ms: retry_after_ms.unwrap_or(0).max(back_off_ms(1)) };
        }
        Answer::Throttled { retry_after_ms, .. } => {
            return Next::Throttled { after_ms: (*retry_after_ms).max(back_off_ms(1)) };
        }
        Answer::Status { status, retry_after_ms, .. } => {
            let reason = format!("the target answered {status}");
            if !is_transient(*status) {
                return Next::GiveUp { done: Done::Failed { reason, perhaps_done }, transient: false };
            }
            // A 5xx says nothing about how far the target had got.
            (reason, *retry_after_ms, *status >= 500 || *status == 408)
        }
        Answer::Unsent { reason } => (reason.clone(), None, false),
        Answer::Lost { reason } => (reason.clone(), None, true),
    };
    let perhaps_done = perhaps_done || perhaps_now;
    if perhaps_done && !idempotent {
        let reason = format!("{reason}; it may have happened, and this target must not be asked twice");
        return Next::GiveUp { done: Done::Held { reason }, transient: false };
    }
    if attempts >= ATTEMPTS_MAX {
        let reason = format!("{reason} ({attempts} attempts)");
        return Next::GiveUp { done: Done::Failed { reason, perhaps_done }, transient: true };
    }
    Next::Retry { after_ms: back_off_ms(attempts).max(retry_after_ms.unwrap_or(0)), reason }
}

/// Answers that may differ next time, throttling apart. Everything else in 3xx and 4xx is final (architecture.md 14).
fn is_transient(status: u16) -> bool {
    matches!(status, 401 | 408 | 409) || status >= 500
}

/// The wait before the next attempt: 0.5, 1, 2, 4 seconds.
fn back_off_ms(attempts: u32) -> u64 {
    250u64.saturating_mul(2u64.saturating_pow(attempts.clamp(1, ATTEMPTS_MAX)))
}

/// The longest `Retry-After` that is waited for; a target that asks for more is asked again then.
pub const RETRY_AFTER_MS_MAX: u64 = 5 * 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_to_do_next() {
        let status = |status| Answer::Status { status, retry_after_ms: None, limits: Limits::default() };
        let lost = Answer::Lost { reason: "timed out".into() };
        let unsent = Answer::Unsent { reason: "refused".into() };
        let check = |answer: &Answer, attempts, idempotent, expected: &str| {
            let found = match judge(answer, attempts, idempotent, false) {
                Next::Report(Done::Carried { .. }) => "carried".to_string(),
                Next::GiveUp { done: Done::Failed { perhaps_done, .. }, transient } => {
                    format!("failed {perhaps_done}{}", if transient { ", for now" } else { "" })
                }
                Next::GiveUp { done: Done::Held { .. }, .. } => "held".into(),
                Next::Retry { after_ms, .. } => format!("retry {after_ms}"),
                Next::Throttled { after_ms } => format!("throttled {after_ms}"),
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{answer:?} attempt {attempts} idempotent {idempotent}");
        };
        check(&status(200), 1, true, "carried");
        check(&status(204), 1, false, "carried");
        check(&status(301), 1, true, "failed false");
        check(&status(400), 1, true, "failed false");
        check(&status(404), 5, true, "failed false");
        // E5: throttling is never a failed attempt.
        check(&status(429), 1, true, "throttled 500");
        check(&status(429), 5, false, "throttled 500");
        check(&status(409), 2, true, "retry 1000");
        check(&status(401), 4, true, "retry 4000");
        check(&status(503), 3, true, "retry 2000");
        check(&status(503), 5, true, "failed true, for now");
        check(&status(503), 1, false, "held");
        check(&lost, 1, true, "retry 500");
        check(&lost, 1, false, "held");
        check(&unsent, 1, false, "retry 500");
        check(&unsent, 5, false, "failed false, for now");
        let leave = Answer::Throttled { reason: "tokens".into(), retry_after_ms: 3_000 };
        check(&leave, 5, false, "throttled 3000");
        let told =
            |status| Answer::Status { status, retry_after_ms: Some(23_000), limits: Limits::default() };
        check(&told(503), 1, true, "retry 23000");
        check(&told(429), 1, true, "throttled 23000");
    }
}
