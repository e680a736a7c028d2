//! Whether a remedy worked, and whether it is undone (E11): what is looked at after it was carried out, and what that says;
//! or what its entity's events must say. Worked, failed or unknown; the answer to our own call proves nothing, so it is
//! never asked.
//!
//! What a playbook wants proven stands here; what every native action proves by itself in `native::proof`. Looks are
//! judged here, for the executor; events where they are counted, in `debounce::verify`.

use holdline_proto::outcome::Done;
use serde_json::{Value, json};

use crate::debounce::Listening;
use crate::native::{self, Change, InForce, Shows};
use crate::playbook::{Facts, Path, Predicate, Template};

/// Between two looks, at first and at most: as long again as has been looked for. Milliseconds.
const LOOK_EVERY_MS_MIN: i64 = 1_000;
const LOOK_EVERY_MS_MAX: i64 = 8_000;

/// `verify` of a playbook's lane.
#[derive(Debug, Clone)]
pub struct Verify {
    /// The first look comes, or the first event counts, this long after the last remedy was reported carried.
    /// Milliseconds.
    pub after_ms: i64,
    /// It must have worked this long after that. Milliseconds.
    pub within_ms: i64,
    /// What is asked: a URL, or the platform's API. `None`: nobody; the events of the entity tell.
    pub look: Option<Look>,
    /// What the answer, or an event, must say.
    pub worked: Predicate,
    /// As it was written.
    pub text: String,
}

impl Verify {
    /// When events count, if it is they that tell.
    pub fn listening(&self) -> Option<Listening> {
        let listening = Listening { after_ms: self.after_ms, within_ms: self.within_ms };
        self.look.is_none().then_some(listening)
    }
}

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Look {
    /// A path of the platform's API, asked by one of its OAuth clients; `None`: by the only one.
    Platform { path: Template, client: Option<String> },
    /// A URL of somebody else.
    Http(Template),
}

/// A path of the API is parsed behind this, so that a placeholder stands behind a host as in any URL.
const API: &str = "https://api";

impl Look {
    /// Every path into the event that it refers to.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        match self {
            Look::Platform { path, .. } => path.paths(),
            Look::Http(url) => url.paths(),
        }
    }

    /// The path of the API that a filled template stands for.
    pub fn api_path(filled: &str) -> &str {
        filled.strip_prefix(API).unwrap_or(filled)
    }
}

/// Takes `worked` apart: what is looked at, if anything is, and what the answer or an event must say.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, client: Option<String>) -> Result<(Option<Look>, Predicate), String> {
    let bare = without_quoted(text);
    match (bare.contains("get("), bare.contains("event(")) {
        (true, true) => {
            Err("`get(…)` looks and `event(…)` listens: write the one by which it can be told".into())
        }
        (false, true) => Ok((None, parse_event(text, &bare)?)),
        (_, false) => parse_get(text, client).map(|(look, worked)| (Some(look), worked)),
    }
}

/// The predicate in `event(status == 'BACKUP')`, over an event as everywhere else. `bare`: see [`without_quoted`].
fn parse_event(text: &str, bare: &str) -> Result<Predicate, String> {
    let inside = |text: &str| Some(text.trim().strip_prefix("event(")?.strip_suffix(')')?.to_string());
    // The bracket that ends it is the one that began it.
    let whole = inside(bare).is_some_and(|bare| {
        let mut open = 0i32;
        let closes_early = bare.chars().any(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open < 0
        });
        !closes_early && open == 0
    });
    let (true, Some(inner)) = (whole, inside(text)) else {
        return Err("expected one predicate in one `event(…)` and nothing besides, such as \
                    `event(status == 'BACKUP' && load < 5)`"
            .into());
    };
    if inner.contains("{{") {
        return Err("nothing is filled in here: `event(…)` sees the event itself, as `on.failed` does".into());
    }
    Predicate::parse(&inner)
}

/// The same, of the same length, with blanks for what stands in quotes.
fn without_quoted(text: &str) -> String {
    let mut quote: Option<char> = None;
    let blanked = text.chars().map(|c| match quote {
        Some(end) => {
            quote = quote.filter(|_| c != end);
            ' '
        }
        None => {
            quote = Some(c).filter(|c| matches!(c, '\'' | '"'));
            c
        }
    });
    blanked.collect()
}

/// Takes `get('/api/v2/…').state == 'BACKUP'` apart: what is looked at, and what the answer (`data`) must say.
fn parse_get(text: &str, client: Option<String>) -> Result<(Look, Predicate), String> {
    let expected = "expected what the answer must say, such as `get('/api/v2/…').state == 'BACKUP'`, or what an event \
                    must say, such as `event(status == 'BACKUP')`";
    let mut address: Option<&str> = None;
    let mut predicate = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("get(") {
        let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quoted = quote.and_then(|quote| after.get(1..)?.split_once(quote));
        let Some((found, after)) = quoted else {
            return Err(format!("`get(` without a text in quotes: {expected}"));
        };
        let Some(after) = after.strip_prefix(')') else {
            return Err(format!("`get(…` is not closed: {expected}"));
        };
        if address.is_some_and(|address| address != found) {
            return Err("it looks at two addresses; one is what it can look at".into());
        }
        address = Some(found);
        predicate.push_str(before);
        predicate.push_str("data");
        rest = after;
    }
    predicate.push_str(rest);
    let Some(address) = address else { return Err(format!("it looks at nothing: {expected}")) };
    let look = if address.starts_with('/') {
        Look::Platform { path: Template::of_url(&format!("{API}{address}"))?, client }
    } else {
        Look::Http(Template::of_url(address)?)
    };
    Ok((look, Predicate::parse(&predicate)?))
}

/// What a look leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Look (again) after this. Milliseconds.
    Look {
        after_ms: i64,
    },
    /// It was to be the last, and has told nothing: look again at once, after this. Milliseconds.
    Again {
        after_ms: i64,
    },
    Report(Done),
}

/// When a remedy that was reported carried at `acted_ms` is looked at. Unix milliseconds, both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looking {
    pub acted_ms: i64,
    /// The first look comes this long after that.
    pub after_ms: i64,
    /// The last this long after the first.
    pub within_ms: i64,
}

/// Looks that find no turn in the rate window are waited for this long beyond their time. Milliseconds.
const TURN_WAIT_MAX_MS: i64 = 900_000;

/// Tries of the look that comes when time is over, or later, where nobody has looked in time: while none tells anything.
pub const LAST_LOOKS_MAX: u32 = 3;

impl Looking {
    fn over_ms(&self) -> i64 {
        self.acted_ms.saturating_add(self.after_ms).saturating_add(self.within_ms)
    }

    /// Within which time of having acted the verdict is told at the latest, with as long again for whoever is away.
    pub fn told_within_ms(&self) -> i64 {
        self.after_ms.saturating_add(self.within_ms).saturating_add(2 * TURN_WAIT_MAX_MS)
    }

    /// For how long the first look has to wait still.
    pub fn due(&self, now_ms: i64) -> Option<i64> {
        let wait_ms = self.acted_ms.saturating_add(self.after_ms).saturating_sub(now_ms);
        (wait_ms > 0).then_some(wait_ms)
    }

    /// Whether a turn is still worth waiting for: that there is none says nothing of the remedy.
    pub fn waits_for_a_turn(&self, now_ms: i64) -> bool {
        now_ms < self.over_ms().saturating_add(TURN_WAIT_MAX_MS)
    }

    /// Judges what was seen. `tries`: looks since time was over, or the only one before.
    pub fn judge(&self, seen: Seen, tries: u32, now_ms: i64) -> Next {
        let is_over = now_ms >= self.over_ms();
        if is_over && seen.worked.is_none() && !seen.is_final && tries < LAST_LOOKS_MAX {
            return Next::Again { after_ms: LOOK_EVERY_MS_MIN };
        }
        if seen.worked == Some(true) || seen.is_final || is_over {
            return Next::Report(Done::Verified { worked: seen.worked, seen: seen.told });
        }
        let looked_for_ms = now_ms.saturating_sub(self.acted_ms.saturating_add(self.after_ms));
        let pause_ms = looked_for_ms.clamp(LOOK_EVERY_MS_MIN, LOOK_EVERY_MS_MAX);
        // The last look comes when time is over.
        Next::Look { after_ms: pause_ms.min(self.over_ms().saturating_sub(now_ms)) }
    }
}

/// What a look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `None`: it could not be told.
    pub worked: Option<bool>,
    /// No further look would show anything else.
    pub is_final: bool,
    /// For people.
    pub told: String,
}

impl Seen {
    fn nothing(told: String) -> Seen {
        Seen { worked: None, is_final: false, told }
    }
}

/// What an answer, or that there was none and why, says to a playbook that asked.
pub fn seen(verify: &Verify, answer: &Result<Value, String>) -> Seen {
    let body = match answer {
        Ok(body) => body,
        Err(reason) => return Seen::nothing(reason.clone()),
    };
    match verify.worked.evaluate(&Facts::new(&json!({"data": body}))) {
        Ok(worked) => Seen { worked: Some(worked), is_final: false, told: short(body) },
        Err(error) => Seen::nothing(format!("{error}; it answered {}", short(body))),
    }
}

/// The same for what a native action proves by itself.
pub fn seen_of_change(change: &Change, answer: &Result<Value, String>) -> Seen {
    let body = match answer {
        Ok(body) => body,
        Err(reason) => return Seen::nothing(reason.clone()),
    };
    let told = |what: &str| format!("{what}; it shows {}", short(body));
    match native::shows(change, body) {
        Ok(Shows::Worked) => Seen { worked: Some(true), is_final: true, told: "it stands".into() },
        Ok(Shows::NotYet) => {
            Seen { worked: Some(false), is_final: false, told: told("it is not as we wanted it") }
        }
        Ok(Shows::Failed) => Seen { worked: Some(false), is_final: true, told: told("it has failed") },
        Err(reason) => Seen::nothing(told(&reason)),
    }
}

/// The same of one that was undone.
pub fn seen_of_undo(change: &Change, known: &InForce, acted_ms: i64, answer: &Result<Value, String>) -> Seen {
    let body = match answer {
        Ok(body) => body,
        Err(reason) => return Seen::nothing(reason.clone()),
    };
    match native::shows_undone(change, known, body, acted_ms) {
        Ok(Shows::Worked) => Seen { worked: Some(true), is_final: true, told: "it is undone".into() },
        Ok(Shows::NotYet | Shows::Failed) => Seen {
            worked: Some(false),
            is_final: false,
            told: format!("it is not as it was before; it shows {}", short(body)),
        },
        Err(reason) => Seen::nothing(format!("{reason}; it shows {}", short(body))),
    }
}

/// Bytes of what was seen that are told.
const SEEN_BYTES_MAX: usize = 300;

fn short(body: &Value) -> String {
    let text = body.to_string();
    let mut end = text.len().min(SEEN_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(worked: &str) -> Verify {
        let (look, predicate) = parse(worked, None).unwrap();
        Verify { after_ms: 5_000, within_ms: 60_000, look, worked: predicate, text: worked.into() }
    }

    #[test]
    fn e11_worked_failed_and_unknown_are_three() {
        let verify = verify("get('/api/v2/x').state == 'BACKUP' && get('/api/v2/x').load != 'HIGH'");
        let check_at = |seen: Result<Value, &str>, tries, now_ms, expected: Option<Option<bool>>| {
            let looking = Looking { acted_ms: 1_000, after_ms: 5_000, within_ms: 60_000 };
            let found = match looking.judge(
                super::seen(&verify, &seen.clone().map_err(str::to_string)),
                tries,
                now_ms,
            ) {
                Next::Look { after_ms } if after_ms > 0 && now_ms < 66_000 => None,
                Next::Again { after_ms: 1_000 } if now_ms >= 66_000 => None,
                Next::Report(Done::Verified { worked, .. }) => Some(worked),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{seen:?} at {now_ms}");
        };
        let check = |seen, now_ms, expected| check_at(seen, LAST_LOOKS_MAX, now_ms, expected);
        let backup = json!({"state": "BACKUP", "load": "LOW"});
        check(Ok(backup.clone()), 6_000, Some(Some(true)));
        check(Ok(json!({"state": "PRIMARY", "load": "LOW"})), 6_000, None);
        check(Ok(json!({"state": "PRIMARY", "load": "LOW"})), 66_000, Some(Some(false)));
        check(Ok(json!({})), 6_000, None);
        check(Ok(json!({})), 66_000, Some(None));
        check(Err("it answered 500"), 65_999, None);
        check(Err("it answered 500"), 66_000, Some(None));
        // However late: what is seen counts.
        check_at(Ok(backup), 1, 1_000_000, Some(Some(true)));
        check_at(Ok(json!({"state": "PRIMARY", "load": "LOW"})), 1, 66_000, Some(Some(false)));
        // One that told nothing is not the last word, for so many tries.
        for tries in 1..LAST_LOOKS_MAX {
            check_at(Err("it answered 500"), tries, 1_000_000, None);
            check_at(Ok(json!({})), tries, 66_000, None);
        }
        let looking = Looking { acted_ms: 1_000, after_ms: 5_000, within_ms: 60_000 };
        assert_eq!((looking.due(2_000), looking.due(6_000)), (Some(4_000), None));
        let nothing = || Seen::nothing(String::new());
        for (now_ms, after_ms) in
            [(6_000, 1_000), (7_000, 1_000), (9_000, 3_000), (40_000, 8_000), (65_990, 10)]
        {
            assert_eq!(looking.judge(nothing(), 1, now_ms), Next::Look { after_ms }, "at {now_ms}");
        }
        assert!(looking.waits_for_a_turn(66_000) && !looking.waits_for_a_turn(66_000 + TURN_WAIT_MAX_MS));
    }

    /// What proves which kind stands with the kinds.
    #[test]
    fn e11_a_native_action_is_proven_by_another_look() {
        let kind = native::kind("flow.execute").unwrap();
        let change = (kind.change)(&native::Given(json!({"flow": "f"}).as_object().unwrap())).unwrap();
        let check = |answer: Result<Value, &str>, worked, is_final, told: &str| {
            let seen = seen_of_change(&change, &answer.map_err(str::to_string));
            assert_eq!((seen.worked, seen.is_final), (worked, is_final), "{seen:?}");
            assert!(seen.told.contains(told), "{seen:?}");
        };
        check(Ok(json!({"status": "COMPLETED"})), Some(true), true, "it stands");
        check(Ok(json!({"status": "RUNNING"})), Some(false), false, "not as we wanted it; it shows");
        check(Ok(json!({"status": "ERROR"})), Some(false), true, "it has failed; it shows");
        check(Ok(json!({})), None, false, "there is no status; it shows");
        check(Err("the platform answered 500"), None, false, "the platform answered 500");
    }

    #[test]
    fn what_is_looked_at_is_taken_apart() {
        let check = |text, expected: Result<bool, &str>| match (parse(text, None), expected) {
            (Ok((look, _)), Ok(platform)) => {
                assert_eq!(matches!(look, Some(Look::Platform { .. })), platform, "{text}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (found, expected) => panic!("{text}: {:?}, not {expected:?}", found.map(|_| ())),
        };
        check("get('/api/v2/architect/emergencygroups/{{data.group}}').enabled == true", Ok(true));
        check("get(\"https://sbc.example.net/state\").active == 'B'", Ok(false));
        check("state == 'BACKUP'", Err("looks at nothing"));
        check("get('/a').x == 1 && get('/b').x == 1", Err("two addresses"));
        check("get(/a).x == 1", Err("in quotes"));
        check("get('/a'.x == 1", Err("not closed"));
        check("get('https://{{data.host}}/a').x == 1", Err("host"));
        check("get('/a').x ==", Err(""));
        check("get('/a').x == 'event('", Ok(true));
    }

    #[test]
    fn what_is_listened_for_is_a_predicate_over_an_event() {
        let event = json!({"id": "e1", "data": {"status": "BACKUP", "of": "a) && (b", "load": 3}});
        let check = |text: &str, expected: Result<bool, &str>| match (parse(text, None), expected) {
            (Ok((None, worked)), Ok(expected)) => {
                assert_eq!(worked.evaluate(&Facts::new(&event)), Ok(expected), "{text}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
        };
        check("event(status == 'BACKUP')", Ok(true));
        check(" event( status = 'PRIMARY' ) ", Ok(false));
        check("event((status == 'BACKUP' OR load > 5) && event.id == 'e1')", Ok(true));
        check("event(of == 'a) && (b')", Ok(true));
        check("event(of == 'get(')", Ok(false));
        check("event(status == 'BACKUP') && event(load < 5)", Err("one `event(…)` and nothing besides"));
        check("event(status == 'BACKUP') == true", Err("one `event(…)` and nothing besides"));
        check("!event(status == 'BACKUP')", Err("one `event(…)` and nothing besides"));
        check("event(status == 'BACKUP'", Err("one `event(…)` and nothing besides"));
        check("event()", Err("empty"));
        check("event(status == )", Err(""));
        check("event(nosuch(status))", Err("no function"));
        check("event(status == 'BACKUP') && get('/a').x == 1", Err("the one by which it can be told"));
        check("event(status == '{{data.status}}')", Err("nothing is filled in here"));
    }
}
