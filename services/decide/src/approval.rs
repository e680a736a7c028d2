//! May it be done without a person, and have people allowed it (E7, A4)?

use std::collections::{BTreeMap, BTreeSet};

use holdline_proto::approval::{Asked, Ruling, Verdict};
use holdline_proto::command::{Command, Direction};
use holdline_proto::incident::Lane;
use holdline_proto::limits::RULINGS_MAX;
use holdline_proto::outcome::Done;

use crate::execute::Shown;
use crate::playbook::{Action, Playbook, Set};

/// `guard.approval.expires` unless set. Milliseconds.
pub const EXPIRES_MS: i64 = 10 * 60_000;

/// People that a request may need: as many rulings as are kept, but for a denial. Beyond: the set is refused.
pub const APPROVERS_MAX: usize = RULINGS_MAX - 1;

/// `guard.approval` of a playbook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// What of the playbook needs it.
    pub covers: Vec<Covered>,
    pub when: When,
    pub terms: Terms,
}

/// What a playbook does, as `for` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covered {
    Failover,
    Scaling,
    /// Undoing either.
    Revert,
}

impl Covered {
    pub const NAMES: [(&str, Covered); 3] =
        [("failover", Covered::Failover), ("scaling", Covered::Scaling), ("revert", Covered::Revert)];

    fn of(command: &Command) -> Option<Covered> {
        match (command.direction, command.key.lane) {
            (Direction::Remediate, Lane::Failover) => Some(Covered::Failover),
            (Direction::Remediate, Lane::Scaling) => Some(Covered::Scaling),
            (Direction::Revert, _) => Some(Covered::Revert),
            (Direction::Page, _) => None,
        }
    }
}

/// When it is needed. The names are those of `windows` in holdline.yaml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    Always,
    Outside(String),
    Inside(String),
}

/// How people allow something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How many different people. At least 1.
    pub people: u32,
    /// What they say is void this long after they were asked. Milliseconds.
    pub expires_ms: i64,
    /// A soft block: it is done this long after they were asked, unless somebody has objected. Milliseconds.
    pub unless_denied_ms: Option<i64>,
}

/// A person, as `people` of holdline.yaml has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The token's public half: what it signs can be checked with it, and it cannot be guessed from it.
    pub token: String,
    pub rights: BTreeSet<Right>,
    /// The token is void from then on. Unix milliseconds.
    pub until_ms: Option<i64>,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Look,
    Approve,
    /// Pause, resume, push, replay.
    Operate,
}

impl Right {
    pub const NAMES: [(&str, Right); 3] =
        [("look", Right::Look), ("approve", Right::Approve), ("operate", Right::Operate)];
}

/// On which terms people have to allow a command now; `None`: it needs nobody. An action that says so itself
/// (`allowOverride`) needs them always, unless its playbook says when.
pub fn terms(set: &Set, action: &Action, command: &Command, now_ms: i64) -> Option<Terms> {
    let covered = Covered::of(command)?;
    let approval = set.playbooks.get(&command.key.playbook).and_then(|playbook| playbook.approval.as_ref());
    let Some(approval) = approval else {
        let terms = Terms { people: 1, expires_ms: EXPIRES_MS, unless_denied_ms: None };
        return action.allow_override.then_some(terms);
    };
    if !action.allow_override && !approval.covers.contains(&covered) {
        return None;
    }
    let inside = |name: &String| set.windows.get(name).is_some_and(|window| window.contains(now_ms));
    let needed = match &approval.when {
        When::Always => true,
        When::Outside(name) => !inside(name),
        When::Inside(name) => inside(name),
    };
    needed.then_some(approval.terms)
}

/// A playbook that needs more people than may approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub playbook: String,
    pub needed: usize,
    pub there: usize,
}

/// Playbooks for which fewer people may approve at that time than it takes: their tokens have expired by then. That as
/// many are named was checked before.
pub fn lacks(set: &Set, at_ms: i64) -> Vec<Lack> {
    let may = |(name, person): &(&String, &Person)| {
        person.rights.contains(&Right::Approve) && expired(name, Some(person), at_ms).is_none()
    };
    let there = set.people.iter().filter(may).count();
    let overrides = |name: &String| set.actions.get(name).is_some_and(|action| action.allow_override);
    let needed = |playbook: &Playbook| match &playbook.approval {
        Some(approval) => usize::try_from(approval.terms.people).unwrap_or(usize::MAX),
        None => {
            let rules = [&playbook.failover, &playbook.scaling].into_iter().flatten();
            let overriding = rules.flat_map(|rules| rules.act.iter().chain(&rules.revert.act)).any(overrides);
            usize::from(overriding)
        }
    };
    let lacking = set.playbooks.values().map(|playbook| (playbook, needed(playbook)));
    let lacking = lacking.filter(|(_, needed)| there < *needed);
    lacking.map(|(playbook, needed)| Lack { playbook: playbook.name.clone(), needed, there }).collect()
}

/// Those of [`lacks`] that a set would bring about in the place of another: whose approvers had expired before, in the
/// same number, is no reason to refuse what somebody changes elsewhere.
pub fn worsened(before: Option<&Set>, next: &Set, at_ms: i64) -> Vec<Lack> {
    let missing = |lack: &Lack| lack.needed.saturating_sub(lack.there);
    let before: Vec<Lack> = before.map(|set| lacks(set, at_ms)).unwrap_or_default();
    let missed = |playbook: &str| before.iter().find(|lack| lack.playbook == playbook).map_or(0, missing);
    lacks(next, at_ms).into_iter().filter(|lack| missing(lack) > missed(&lack.playbook)).collect()
}

/// What people are asked: exactly this request, from now on, on these terms. Nothing is said of it yet, and it is not sealed.
pub fn ask(command: &Command, terms: &Terms, shown: Shown, now_ms: i64) -> Asked {
    Asked {
        id: holdline_proto::approval::id(command, &shown.request),
        incident: command.incident.clone(),
        partition: command.partition,
        key: command.key.clone(),
        group: command.group.clone(),
        direction: command.direction,
        step: command.step,
        action: command.action.clone(),
        shown: shown.text,
        request: shown.request,
        people: terms.people,
        asked_ms: now_ms,
        expires_ms: now_ms.saturating_add(terms.expires_ms),
        sends_ms: terms.unless_denied_ms.map(|ms| now_ms.saturating_add(ms)),
        used: None,
        seal: vec![],
        rulings: vec![],
    }
}

/// A request on the terms that are in force now, whatever they were when people were asked: it takes no fewer people, is
/// void no later, and is sent without their word no sooner, and only if the terms still have that.
pub fn on_terms(asked: Asked, terms: &Terms) -> Asked {
    let after = |ms: i64| asked.asked_ms.saturating_add(ms);
    let sends_ms = asked.sends_ms.zip(terms.unless_denied_ms).map(|(sends_ms, ms)| sends_ms.max(after(ms)));
    Asked {
        people: asked.people.max(terms.people),
        expires_ms: asked.expires_ms.min(after(terms.expires_ms)),
        sends_ms,
        ..asked
    }
}

/// What people have said of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// By these; by nobody where nobody has objected to a soft block in time.
    Allowed {
        by: Vec<String>,
    },
    /// Of so many more people the word is missing; and what was said that counts for nothing, with the reason.
    Waits {
        missing: u32,
        void: Vec<String>,
    },
    Denied {
        by: String,
        reason: String,
    },
    /// Nobody decided in time, or what was allowed was not used in time.
    Expired,
}

/// Weighs what people have said. `authentic`: whether the signature of a ruling is its person's.
pub fn judge(
    asked: &Asked,
    people: &BTreeMap<String, Person>,
    authentic: impl Fn(&Person, &Ruling) -> bool,
    now_ms: i64,
) -> Standing {
    let mut allowed: Vec<String> = vec![];
    let mut void_words = vec![];
    for ruling in asked.rulings.iter().take(RULINGS_MAX) {
        if let Some(reason) = void(asked, people, &authentic, ruling, now_ms) {
            void_words.push(format!("{} by {}: {reason}", ruling.verdict, ruling.by));
            continue;
        }
        match ruling.verdict {
            Verdict::Deny => {
                return Standing::Denied { by: ruling.by.clone(), reason: ruling.reason.clone() };
            }
            Verdict::Approve if !allowed.contains(&ruling.by) => allowed.push(ruling.by.clone()),
            Verdict::Approve => {}
        }
    }
    if now_ms >= asked.expires_ms {
        return Standing::Expired;
    }
    let missing = asked.people.max(1).saturating_sub(u32::try_from(allowed.len()).unwrap_or(u32::MAX));
    if missing == 0 || asked.sends_ms.is_some_and(|sends_ms| now_ms >= sends_ms) {
        return Standing::Allowed { by: allowed };
    }
    Standing::Waits { missing, void: void_words }
}

/// Why a ruling counts for nothing.
fn void(
    asked: &Asked,
    people: &BTreeMap<String, Person>,
    authentic: impl Fn(&Person, &Ruling) -> bool,
    ruling: &Ruling,
    now_ms: i64,
) -> Option<String> {
    let person = people.get(&ruling.by);
    if person.is_some_and(|person| !authentic(person, ruling)) {
        return Some("the signature is not this person's".into());
    }
    refused(asked, &ruling.by, person, ruling.at_ms).or_else(|| {
        // When it was said is known from its owner alone. An objection stays, whatever became of its token.
        let is_yes = ruling.verdict == Verdict::Approve;
        is_yes.then(|| expired(&ruling.by, person, now_ms)).flatten()
    })
}

/// What stands under the id that a command names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// See [`is_about`].
    pub is_about: bool,
    /// An executor has asked exactly this.
    pub is_sealed: bool,
    pub standing: Standing,
}

/// What people's word comes to for a command that wants to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// It needs nobody.
    NotNeeded,
    Allowed {
        by: Vec<String>,
    },
    /// See [`Standing::Waits`].
    Waits {
        missing: u32,
        void: Vec<String>,
    },
    Denied {
        by: String,
        reason: String,
    },
    /// People have to be asked, or asked anew; and why what they were asked before allows nothing, if that is no matter of
    /// time.
    Ask {
        because: Option<&'static str>,
    },
}

/// What comes of what people were asked before. `needed`: it takes people now. `named`: `None` where the command names no
/// id, or nothing that can be read stands there.
pub fn permission(needed: bool, named: Option<Named>) -> Permission {
    match named {
        // Whether it takes people or not, and whoever has asked them.
        Some(Named { is_about: true, standing: Standing::Denied { by, reason }, .. }) => {
            Permission::Denied { by, reason }
        }
        _ if !needed => Permission::NotNeeded,
        None => Permission::Ask { because: None },
        Some(Named { is_about: false, .. }) => {
            let because =
                "it is for another request than the one that would leave now: people are asked anew";
            Permission::Ask { because: Some(because) }
        }
        Some(Named { is_sealed: false, .. }) => {
            Permission::Ask { because: Some("it is not as the executor has asked it: people are asked anew") }
        }
        Some(Named { standing: Standing::Allowed { by }, .. }) => Permission::Allowed { by },
        Some(Named { standing: Standing::Waits { missing, void }, .. }) => {
            Permission::Waits { missing, void }
        }
        Some(Named { standing: Standing::Expired, .. }) => Permission::Ask { because: None },
    }
}

/// Whether exactly this is what people were asked for.
pub fn is_about(asked: &Asked, command: &Command, shown: &Shown) -> bool {
    let same = asked.incident == command.incident
        && asked.direction == command.direction
        && asked.step == command.step
        && asked.action == command.action;
    same && asked.request == shown.request
}

/// How a command ends that waits for people. `perhaps_done`: a call of it may have left.
pub fn awaits(asked: &Asked, perhaps_done: bool) -> Done {
    Done::AwaitsApproval {
        approval: asked.id.clone(),
        until_ms: asked.sends_ms.unwrap_or(asked.expires_ms),
        unless_denied: asked.sends_ms.is_some(),
        perhaps_done,
    }
}

/// A request with what counts of what people have said: what does not must keep nobody from saying it.
pub fn without_void(
    asked: Asked,
    people: &BTreeMap<String, Person>,
    authentic: impl Fn(&Person, &Ruling) -> bool,
    now_ms: i64,
) -> Asked {
    let counts = |ruling: &&Ruling| void(&asked, people, &authentic, ruling, now_ms).is_none();
    let rulings = asked.rulings.iter().filter(counts).cloned().collect();
    Asked { rulings, ..asked }
}

/// The terms by which people are told how a request stands: its playbook's, inside and outside of their window.
pub fn terms_told<'a>(set: &'a Set, asked: &Asked) -> Option<&'a Terms> {
    Some(&set.playbooks.get(&asked.key.playbook)?.approval.as_ref()?.terms)
}

/// Why a person's word on a request counts for nothing at that time.
pub fn refused(asked: &Asked, name: &str, person: Option<&Person>, at_ms: i64) -> Option<String> {
    let Some(person) = person else {
        return Some(format!("`people` of holdline.yaml has no {name}"));
    };
    if !person.rights.contains(&Right::Approve) {
        return Some(format!("{name} may not approve: `people` of holdline.yaml gives no such role"));
    }
    if at_ms >= asked.expires_ms {
        return Some("the request has expired".into());
    }
    if at_ms < asked.asked_ms {
        return Some("it was said before anybody was asked".into());
    }
    expired(name, Some(person), at_ms)
}

/// Whether a person's token is void at that time; why that is so.
pub fn expired(name: &str, person: Option<&Person>, at_ms: i64) -> Option<String> {
    let until_ms = person?.until_ms?;
    (at_ms >= until_ms).then(|| format!("the token of {name} has expired"))
}

/// Why a ruling cannot be added: it would change nothing, or too much was said already. There is always room for one
/// denial.
pub fn unneeded(asked: &Asked, name: &str, verdict: Verdict) -> Option<String> {
    if asked.rulings.iter().any(|ruling| ruling.verdict == Verdict::Deny) {
        return Some("it is denied already".into());
    }
    if verdict == Verdict::Approve && asked.rulings.iter().any(|ruling| ruling.by == name) {
        return Some(format!("{name} has approved it already; nobody counts twice"));
    }
    let most = if verdict == Verdict::Approve { APPROVERS_MAX } else { RULINGS_MAX };
    (asked.rulings.len() >= most).then(|| format!("{most} people have spoken already"))
}

#[cfg(test)]
mod tests {
    use holdline_proto::incident::TrackKey;

    use super::*;

    fn asked() -> Asked {
        Asked {
            id: "id".into(),
            incident: "i".into(),
            partition: 0,
            key: TrackKey { playbook: "p".into(), lane: Lane::Failover, entity: "gw-1".into() },
            group: None,
            direction: Direction::Remediate,
            step: 0,
            action: "Failover".into(),
            shown: String::new(),
            request: "hash".into(),
            people: 1,
            asked_ms: 1_000,
            expires_ms: 10_000,
            sends_ms: None,
            used: None,
            seal: vec![],
            rulings: vec![],
        }
    }

    fn people() -> BTreeMap<String, Person> {
        let person = |name: &str, right, until_ms| {
            (name.to_string(), Person { token: name.into(), rights: BTreeSet::from([right]), until_ms })
        };
        BTreeMap::from([
            person("ada", Right::Approve, None),
            person("bob", Right::Approve, Some(5_000)),
            person("eve", Right::Look, None),
        ])
    }

    fn ruling(by: &str, verdict: Verdict, at_ms: i64) -> Ruling {
        Ruling { by: by.into(), verdict, reason: "because".into(), at_ms, signature: by.into() }
    }

    #[test]
    fn a4_what_people_were_asked_allows_exactly_that() {
        let allowed = || Standing::Allowed { by: vec!["ada".into()] };
        let waits = || Standing::Waits { missing: 1, void: vec![] };
        let denied = || Standing::Denied { by: "ada".into(), reason: "no".into() };
        let named = |is_about, is_sealed, standing| Some(Named { is_about, is_sealed, standing });
        let check = |what: &str, needed, named: Option<Named>, expected: &str| {
            let found = match permission(needed, named) {
                Permission::NotNeeded => "not needed",
                Permission::Allowed { .. } => "allowed",
                Permission::Waits { .. } => "waits",
                Permission::Denied { .. } => "denied",
                Permission::Ask { because: None } => "ask",
                Permission::Ask { because: Some(why) } if why.contains("another request") => "ask: another",
                Permission::Ask { because: Some(_) } => "ask: not sealed",
            };
            assert_eq!(found, expected, "{what}");
        };
        check("nobody was asked", true, None, "ask");
        check("it needs nobody", false, None, "not needed");
        check("allowed", true, named(true, true, allowed()), "allowed");
        check("allowed and not needed any more", false, named(true, true, allowed()), "not needed");
        check("allowed for another request", true, named(false, true, allowed()), "ask: another");
        check("allowed, and nobody has asked", true, named(true, false, allowed()), "ask: not sealed");
        check("waits", true, named(true, true, waits()), "waits");
        check("waits for nothing", false, named(true, true, waits()), "not needed");
        check("expired", true, named(true, true, Standing::Expired), "ask");
        // A no counts whether it takes people or not, and whoever has asked them; but only of this request.
        check("denied", true, named(true, true, denied()), "denied");
        check("denied, not needed", false, named(true, true, denied()), "denied");
        check("denied, not sealed", true, named(true, false, denied()), "denied");
        check("another denied", true, named(false, true, denied()), "ask: another");
        check("another denied, not needed", false, named(false, true, denied()), "not needed");
    }

    #[test]
    fn a4_only_what_counts_allows_a_request() {
        let check = |change: &dyn Fn(&mut Asked), now_ms: i64, expected: &str| {
            let mut asked = asked();
            change(&mut asked);
            let authentic = |person: &Person, ruling: &Ruling| ruling.signature == person.token.as_bytes();
            let found = match judge(&asked, &people(), authentic, now_ms) {
                Standing::Allowed { by } => format!("allowed by {by:?}"),
                Standing::Waits { missing, void } => format!("waits for {missing} {void:?}"),
                Standing::Denied { by, .. } => format!("denied by {by}"),
                Standing::Expired => "expired".into(),
            };
            assert!(found.starts_with(expected), "{found}, not {expected}: {asked:?}");
        };
        let said = |rulings: Vec<Ruling>| move |asked: &mut Asked| asked.rulings.clone_from(&rulings);
        let yes = |by, at_ms| ruling(by, Verdict::Approve, at_ms);
        let no = |by, at_ms| ruling(by, Verdict::Deny, at_ms);
        check(&|_| {}, 2_000, "waits for 1 []");
        check(&said(vec![yes("ada", 2_000)]), 2_000, "allowed by [\"ada\"]");
        check(&said(vec![yes("ada", 2_000)]), 9_999, "allowed");
        check(&said(vec![yes("ada", 2_000)]), 10_000, "expired");
        check(&said(vec![yes("ada", 10_000)]), 9_000, "waits for 1 [\"approve by ada: the request has");
        check(&said(vec![yes("ada", 999)]), 2_000, "waits for 1 [\"approve by ada: it was said before");
        check(&said(vec![yes("eve", 2_000)]), 2_000, "waits for 1 [\"approve by eve: eve may not");
        check(&said(vec![yes("mallory", 2_000)]), 2_000, "waits for 1 [\"approve by mallory: `people`");
        check(&said(vec![yes("bob", 4_998)]), 4_999, "allowed");
        check(&said(vec![yes("bob", 5_000)]), 6_000, "waits for 1 [\"approve by bob: the token");
        // Whoever has an expired token can say when he says it; an objection stands.
        check(&said(vec![yes("bob", 4_999)]), 5_000, "waits for 1 [\"approve by bob: the token");
        check(&said(vec![no("bob", 4_999)]), 5_000, "denied by bob");
        check(&said(vec![no("bob", 5_000)]), 6_000, "waits for 1 [\"deny by bob: the token");
        let forged = Ruling { signature: b"bob".to_vec(), ..yes("ada", 2_000) };
        check(&said(vec![forged]), 2_000, "waits for 1 [\"approve by ada: the signature");
        // Taken back, by oneself or by another.
        check(&said(vec![yes("ada", 2_000), no("ada", 3_000)]), 3_000, "denied by ada");
        check(&said(vec![yes("ada", 2_000), no("bob", 3_000)]), 3_000, "denied by bob");
        check(&said(vec![no("eve", 2_000), yes("ada", 2_000)]), 3_000, "allowed");
        // Two people, never the same one twice.
        let two = |rulings: Vec<Ruling>| {
            move |asked: &mut Asked| {
                asked.people = 2;
                asked.rulings.clone_from(&rulings);
            }
        };
        check(&two(vec![yes("ada", 2_000)]), 2_000, "waits for 1");
        check(&two(vec![yes("ada", 2_000), yes("ada", 2_001)]), 3_000, "waits for 1");
        check(&two(vec![yes("ada", 2_000), yes("bob", 2_001)]), 3_000, "allowed by [\"ada\", \"bob\"]");
        // A soft block.
        let soft = |rulings: Vec<Ruling>| {
            move |asked: &mut Asked| {
                asked.sends_ms = Some(4_000);
                asked.rulings.clone_from(&rulings);
            }
        };
        check(&soft(vec![]), 3_999, "waits");
        check(&soft(vec![]), 4_000, "allowed by []");
        check(&soft(vec![yes("ada", 2_000)]), 2_500, "allowed by [\"ada\"]");
        check(&soft(vec![no("ada", 2_000)]), 4_000, "denied by ada");
        check(&soft(vec![]), 10_000, "expired");
    }

    #[test]
    fn a4_terms_that_have_changed_allow_no_more_than_they_say() {
        let check = |sends_ms, terms: Terms, expected: (u32, i64, Option<i64>)| {
            let found = on_terms(Asked { people: 2, sends_ms, ..asked() }, &terms);
            assert_eq!((found.people, found.expires_ms, found.sends_ms), expected, "{terms:?}");
        };
        let terms = |people, expires_ms, unless_denied_ms| Terms { people, expires_ms, unless_denied_ms };
        check(None, terms(1, 9_000, None), (2, 10_000, None));
        check(None, terms(3, 90_000, Some(5)), (3, 10_000, None));
        check(Some(4_000), terms(2, 2_000, Some(3_000)), (2, 3_000, Some(4_000)));
        // Written by somebody else, or asked before the set changed.
        check(Some(1), terms(2, 9_000, None), (2, 10_000, None));
        check(Some(1), terms(2, 9_000, Some(3_000)), (2, 10_000, Some(4_000)));
    }

    /// A set whose only playbook needs so many, with approvers whose tokens last until these days.
    fn set(needed: u32, until: &[&str]) -> Set {
        let person = |(n, until): (usize, &&str)| {
            let letter = char::from(b"ABCD"[n]);
            format!("{{token: U{}, roles: [approve], until: {until}}}", letter.to_string().repeat(55))
        };
        let people = until.iter().enumerate().map(|(n, until)| format!("p{n}: {}", person((n, until))));
        let people = people.collect::<Vec<_>>().join(", ");
        let files = [
            (
                "one.playbook.yaml",
                format!(
                    "playbook: one\non: {{subscription: one, entity: data.id, failed: status == 'FAILED', healthy: status == \
                     'HEALTHY'}}\nconfirm: {{failures: 3, stable_for: 1s}}\nact: {{failed: {{do: [one], class: failover}}}}\n\
                     revert: {{healthy: 2, stable_for: 1s, do: [one]}}\nguard: {{approval: {{for: [failover], people: \
                     {needed}}}}}\n"
                ),
            ),
            (
                "subscriptions/one.json",
                r#"{"name": "one", "topicName": "a.b.c", "authType": "HMAC", "secretToken": "env:ONE"}"#
                    .into(),
            ),
            (
                "actions/one.json",
                r#"{"name": "one", "actionType": "WEBHOOK", "method": "POST", "url": "http://127.0.0.1:1"}"#
                    .into(),
            ),
            ("holdline.yaml", format!("people: {{{people}}}\n")),
        ];
        let files = files.map(|(path, text)| (path.to_string(), text)).into();
        let (set, findings) = crate::playbook::load(&holdline_proto::playbooks::Bundle { files });
        set.unwrap_or_else(|| panic!("{findings:?}"))
    }

    #[test]
    fn only_what_a_set_makes_worse_is_held_against_it() {
        // The middle of 2026.
        let now_ms = 1_782_864_000_000;
        let (valid, expired) = ("2027-01-01", "2026-01-31");
        let check = |before: Option<Set>, next: Set, expected: &[(usize, usize)]| {
            let found: Vec<_> = worsened(before.as_ref(), &next, now_ms)
                .iter()
                .map(|lack| (lack.needed, lack.there))
                .collect();
            assert_eq!(found, expected);
        };
        check(None, set(1, &[valid, expired]), &[]);
        check(None, set(2, &[valid, expired]), &[(2, 1)]);
        check(Some(set(2, &[valid, valid])), set(2, &[valid, expired]), &[(2, 1)]);
        // They had expired before: whoever changes something else is not kept from it.
        check(Some(set(2, &[valid, expired])), set(2, &[expired, valid]), &[]);
        check(Some(set(2, &[expired, expired])), set(2, &[valid, expired]), &[]);
        check(Some(set(2, &[valid, expired])), set(3, &[valid, expired, expired]), &[(3, 1)]);
        check(Some(set(2, &[valid, expired])), set(2, &[expired, expired]), &[(2, 0)]);
    }

    #[test]
    fn nobody_counts_twice() {
        let check = |rulings: Vec<Ruling>, name, verdict, expected: Option<&str>| {
            let asked = Asked { rulings, ..asked() };
            let found = unneeded(&asked, name, verdict);
            let fits = match (&found, expected) {
                (Some(found), Some(part)) => found.contains(part),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(fits, "{found:?}, not {expected:?}");
        };
        let yes = ruling("ada", Verdict::Approve, 2_000);
        check(vec![], "ada", Verdict::Approve, None);
        check(vec![yes.clone()], "ada", Verdict::Approve, Some("nobody counts twice"));
        check(vec![yes.clone()], "bob", Verdict::Approve, None);
        check(vec![yes.clone()], "ada", Verdict::Deny, None);
        let no = ruling("bob", Verdict::Deny, 2_000);
        check(vec![yes.clone(), no], "eve", Verdict::Approve, Some("denied already"));
        check(vec![yes.clone(); RULINGS_MAX - 1], "bob", Verdict::Approve, Some("people have spoken"));
        check(vec![yes.clone(); RULINGS_MAX - 1], "bob", Verdict::Deny, None);
        check(vec![yes; RULINGS_MAX], "bob", Verdict::Deny, Some("people have spoken"));
    }
}
