//! `*.playbook.yaml`: what to listen to, when it is real, what to do, when it is over.

use std::collections::BTreeMap;

use holdline_proto::limits::BUDGET_MAX;

use super::{At, Fields};
use crate::approval::{Approval, Covered, EXPIRES_MS, Terms, When};
use crate::budget::{AtMost, BlastRadius, Guard, Per};
use crate::debounce::{DEADLINE_MS, Flapping, REVERT_STABLE_FOR_MS, Revert, Rules, SILENCE_MS};
use crate::playbook::finding::{Findings, Source};
use crate::playbook::node::Node;
use crate::playbook::predicate::Predicate;
use crate::playbook::template::Path;
use crate::playbook::{self, Reports};
use crate::verify::{self, Verify};

/// `verify.after` unless set: long enough for the platform's asynchronous changes. Milliseconds.
const VERIFY_AFTER_MS: i64 = 5_000;

/// `verify.within` unless set. Milliseconds.
const VERIFY_WITHIN_MS: i64 = 60_000;

/// `confirm.failures` unless set: the guide's example.
const FAILURES: u32 = 5;

/// `confirm.stable_for` unless set: the guide's example. Milliseconds.
const STABLE_FOR_MS: i64 = 20_000;

/// A playbook as its file says it, before it is held against the rest of the set.
#[derive(Debug)]
pub(in crate::playbook) struct Draft {
    pub name: At<String>,
    pub description: Option<String>,
    pub owner: Option<String>,
    pub subscription: Option<At<String>>,
    pub topic: Option<At<String>>,
    pub entity: At<Path>,
    pub group: Option<Path>,
    pub failed: At<Predicate>,
    pub degraded: Option<At<Predicate>>,
    pub healthy: Option<At<Predicate>>,
    pub failover: Option<Rules>,
    pub scaling: Option<Rules>,
    pub verify: BTreeMap<playbook::Lane, Verify>,
    pub guard: Guard,
    pub approval: Option<At<Approval>>,
    /// Every action that is named, where it is.
    pub actions: Vec<At<String>>,
}

/// Reads a playbook.
pub(in crate::playbook) fn playbook(
    source: Source<'_>,
    node: &Node,
    findings: &mut Findings,
) -> Option<Draft> {
    let known = ["playbook", "description", "owner", "mode", "on", "confirm", "act", "revert", "guard"];
    let mut fields = Fields::of(node, "a playbook", &known, &[], source, findings)?;
    let name = fields.needed_text("playbook");
    let description = fields.text("description").map(|text| text.value);
    let owner = fields.text("owner").map(|text| text.value);
    if let Some(mode) = fields.text("mode") {
        match mode.value.as_str() {
            "live" => {}
            "shadow" | "approve" | "canary" => {
                fields.findings.unsupported(source, &mode.at, &format!("mode {}", mode.value));
            }
            other => fields.findings.error_with(
                source,
                &mode.at,
                format!("there is no mode {other:?}"),
                "modes are shadow, approve, canary and live; this version has live",
            ),
        }
    }
    let (on, confirm, act, revert) =
        (fields.get("on"), fields.get("confirm"), fields.get("act"), fields.get("revert"));
    for (key, section) in [("on", on), ("act", act)] {
        if section.is_none() {
            fields.missing(key);
        }
    }
    let guard = fields.get("guard");
    let revert_at = revert.map_or(node.at.clone(), |revert| revert.at.clone());
    let on = on.and_then(|on| read_on(source, on, findings));
    let confirm = confirm.map_or_else(Confirm::default, |confirm| read_confirm(source, confirm, findings));
    let mut actions = vec![];
    let (revert, undo) = match revert {
        Some(revert) => read_revert(source, revert, findings),
        None => (default_revert(), vec![]),
    };
    actions.extend(undo);
    let (failover, scaling) = match act {
        Some(act) => read_act(source, act, &confirm, &revert, &mut actions, findings),
        None => (None, None),
    };
    let mut verify = BTreeMap::new();
    let mut judged = |lane, judged: Option<Judged>| {
        let (rules, found) = judged?;
        verify.extend(found.map(|found| (lane, found)));
        Some(rules)
    };
    let failover = judged(playbook::Lane::Failover, failover);
    let scaling = judged(playbook::Lane::Scaling, scaling);
    if failover.is_some() && revert.act.is_empty() && !revert.undo {
        let message = "a failover without a way back: `revert.do` names the action that undoes it, or `undo`";
        findings.error(source, &revert_at, message);
    }
    let guard_at = guard.map_or(node.at.clone(), |guard| guard.at.clone());
    let (guard, approval) = guard.and_then(|guard| read_guard(source, guard, findings)).unwrap_or_default();
    let on = on?;
    if guard.goes_by_group() && on.group.is_none() {
        let message =
            "a budget of a group needs `on.group`, the path that says which group an entity belongs to";
        findings.error(source, &guard_at, message);
    }
    if scaling.is_some() && on.degraded.is_none() {
        findings.error(source, &node.at, "`act.degraded` can never begin, because there is no `on.degraded`");
    }
    Some(Draft {
        name: name?,
        description,
        owner,
        subscription: on.subscription,
        topic: on.topic,
        entity: on.entity?,
        group: on.group,
        failed: on.failed?,
        degraded: on.degraded,
        healthy: on.healthy,
        failover,
        scaling,
        verify,
        guard,
        approval,
        actions,
    })
}

struct OnDraft {
    subscription: Option<At<String>>,
    topic: Option<At<String>>,
    entity: Option<At<Path>>,
    group: Option<Path>,
    failed: Option<At<Predicate>>,
    degraded: Option<At<Predicate>>,
    healthy: Option<At<Predicate>>,
}

fn read_on(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<OnDraft> {
    let known = ["subscription", "topic", "entity", "group", "failed", "degraded", "healthy"];
    let mut fields = Fields::of(node, "`on`", &known, &[], source, findings)?;
    let (subscription, topic) = (fields.text("subscription"), fields.text("topic"));
    if subscription.is_some() == topic.is_some() {
        let at = fields.at.clone();
        fields.findings.error(source, &at, "`on` names one `subscription` or one `topic`");
    }
    for key in ["entity", "failed"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    Some(OnDraft {
        entity: fields.parsed("entity", Path::parse),
        group: fields.parsed("group", Path::parse).map(|group| group.value),
        failed: fields.parsed("failed", Predicate::parse),
        degraded: fields.parsed("degraded", Predicate::parse),
        healthy: fields.parsed("healthy", Predicate::parse),
        subscription,
        topic,
    })
}

struct Confirm {
    failures: u32,
    stable_for_ms: i64,
    flapping: Option<Flapping>,
}

impl Default for Confirm {
    fn default() -> Self {
        Confirm { failures: FAILURES, stable_for_ms: STABLE_FOR_MS, flapping: None }
    }
}

fn read_confirm(source: Source<'_>, node: &Node, findings: &mut Findings) -> Confirm {
    let known = ["failures", "stable_for", "flapping"];
    let Some(mut fields) = Fields::of(node, "`confirm`", &known, &["evidence"], source, findings) else {
        return Confirm::default();
    };
    let failures = fields.count("failures", FAILURES, 1);
    let stable_for_ms = fields.duration("stable_for", STABLE_FOR_MS);
    let flapping = fields.get("flapping");
    Confirm {
        failures,
        stable_for_ms,
        flapping: flapping.and_then(|flapping| read_flapping(source, flapping, findings)),
    }
}

fn read_flapping(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Flapping> {
    let mut fields =
        Fields::of(node, "`flapping`", &["changes", "within", "back_off"], &[], source, findings)?;
    for key in ["changes", "within", "back_off"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    let changes = fields.count("changes", 4, 2);
    let within_ms = fields.duration("within", 600_000);
    let back_off = fields.get("back_off")?;
    let mut fields = Fields::of(back_off, "`back_off`", &["first", "factor", "most"], &[], source, findings)?;
    Some(Flapping {
        changes,
        within_ms,
        first_ms: fields.duration("first", 60_000),
        factor: fields.count("factor", 2, 1),
        most_ms: fields.duration("most", 30 * 60_000),
    })
}

fn read_guard(
    source: Source<'_>,
    node: &Node,
    findings: &mut Findings,
) -> Option<(Guard, Option<At<Approval>>)> {
    let known = ["at_most", "blast_radius", "approval"];
    let fields = Fields::of(node, "`guard`", &known, &["inhibited_by"], source, findings)?;
    let (at_most, blast_radius) = (fields.get("at_most"), fields.get("blast_radius"));
    let approval = fields.get("approval");
    let guard = Guard {
        at_most: at_most.and_then(|node| read_at_most(source, node, fields.findings)),
        blast_radius: blast_radius.and_then(|node| read_blast_radius(source, node, fields.findings)),
    };
    Some((guard, approval.and_then(|node| read_approval(source, node, fields.findings))))
}

fn read_approval(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<At<Approval>> {
    let known = ["for", "when", "people", "expires", "unless_denied"];
    let mut fields = Fields::of(node, "`approval`", &known, &[], source, findings)?;
    if fields.get("for").is_none() {
        fields.missing("for");
    }
    let covers = fields.choices("for", &Covered::NAMES);
    let when = fields.parsed("when", |text| {
        match text.split_once(' ').map(|(word, name)| (word, name.trim().to_string())) {
            None if text == "always" => Ok(When::Always),
            Some(("outside", name)) => Ok(When::Outside(name)),
            Some(("inside", name)) => Ok(When::Inside(name)),
            _ => {
                Err(format!("{text:?}: expected `always`, or `outside` or `inside` and the name of a window"))
            }
        }
    });
    let when = if fields.get("when").is_some() { when?.value } else { When::Always };
    let people = fields.count("people", 1, 1);
    let expires_ms = if fields.get("expires").is_some() { fields.window("expires")? } else { EXPIRES_MS };
    let unless_denied_ms = fields.window("unless_denied");
    if unless_denied_ms.is_some_and(|unless_denied_ms| unless_denied_ms >= expires_ms) {
        let at = fields.key_at("unless_denied");
        let message = "`unless_denied`: by then the request has expired, so it would never be sent";
        fields.findings.error(source, &at, message);
    }
    let terms = Terms { people, expires_ms, unless_denied_ms };
    Some(At { value: Approval { covers, when, terms }, at: node.at.clone() })
}

fn read_at_most(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<AtMost> {
    let mut fields = Fields::of(node, "`at_most`", &["actions", "per", "within"], &[], source, findings)?;
    for key in ["actions", "per", "within"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    let actions = fields.count("actions", 1, 1);
    if actions > BUDGET_MAX {
        let at = fields.key_at("actions");
        fields.findings.error(source, &at, format!("`actions`: at most {BUDGET_MAX}"));
    }
    let within_ms = fields.window("within")?;
    Some(AtMost { actions, per: fields.choice("per", &Per::NAMES)?, within_ms })
}

fn read_blast_radius(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<BlastRadius> {
    let mut fields = Fields::of(node, "`blast_radius`", &["of", "share", "within"], &[], source, findings)?;
    for key in ["of", "share", "within"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    let (of, within_ms) = (fields.choice("of", &[("group", ())]), fields.window("within"));
    let share_percent = fields.parsed("share", |text| {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        number
            .filter(|share| (1..=100).contains(share))
            .ok_or_else(|| format!("{text:?}: expected 1% to 100%"))
    });
    of?;
    Some(BlastRadius { share_percent: share_percent?.value, within_ms: within_ms? })
}

fn default_revert() -> Revert {
    Revert {
        healthy: 2,
        stable_for_ms: REVERT_STABLE_FOR_MS,
        silence_ms: SILENCE_MS,
        act: vec![],
        undo: false,
    }
}

fn read_revert(source: Source<'_>, node: &Node, findings: &mut Findings) -> (Revert, Vec<At<String>>) {
    let known = ["healthy", "stable_for", "silence", "do"];
    let Some(mut fields) = Fields::of(node, "`revert`", &known, &[], source, findings) else {
        return (default_revert(), vec![]);
    };
    let undo = fields.get("do").and_then(Node::as_str) == Some("undo");
    let actions = if undo { vec![] } else { fields.names("do") };
    let revert = Revert {
        healthy: fields.count("healthy", 2, 2),
        stable_for_ms: fields.duration("stable_for", REVERT_STABLE_FOR_MS),
        silence_ms: fields.duration("silence", SILENCE_MS),
        act: actions.iter().map(|action| action.value.clone()).collect(),
        undo,
    };
    (revert, actions)
}

/// A lane's rules, and how it is seen whether its remedies worked.
type Judged = (Rules, Option<Verify>);

fn read_act(
    source: Source<'_>,
    node: &Node,
    confirm: &Confirm,
    revert: &Revert,
    actions: &mut Vec<At<String>>,
    findings: &mut Findings,
) -> (Option<Judged>, Option<Judged>) {
    let Some(mut fields) = Fields::of(node, "`act`", &["failed", "degraded"], &[], source, findings) else {
        return (None, None);
    };
    if fields.entries.is_empty() {
        fields.missing("failed");
    }
    let (failed, degraded) = (fields.get("failed"), fields.get("degraded"));
    let mut lane = |node: &Node, what, class: &str, revert: Revert| {
        let Lane { act, deadline_ms, verify } = read_lane(source, node, what, class, findings)?;
        actions.extend(act.iter().cloned());
        let undone = act.iter().rev().map(|action| action.value.clone());
        let revert = if revert.undo { Revert { act: undone.collect(), ..revert } } else { revert };
        let rules = Rules {
            threshold: confirm.failures,
            stable_for_ms: confirm.stable_for_ms,
            flapping: confirm.flapping.clone(),
            reports: Reports::Repeats,
            act: act.into_iter().map(|action| action.value).collect(),
            deadline_ms,
            pager: None,
            revert,
            listening: verify.as_ref().and_then(Verify::listening),
        };
        Some((rules, verify))
    };
    let failover = failed.and_then(|node| lane(node, "`act.failed`", "failover", revert.clone()));
    let no_undo = Revert { act: vec![], ..revert.clone() };
    let scaling = degraded.and_then(|node| lane(node, "`act.degraded`", "scaling", no_undo));
    (failover, scaling)
}

/// What a lane does.
struct Lane {
    act: Vec<At<String>>,
    deadline_ms: i64,
    verify: Option<Verify>,
}

fn read_lane(
    source: Source<'_>,
    node: &Node,
    what: &'static str,
    expected: &str,
    findings: &mut Findings,
) -> Option<Lane> {
    let known = ["do", "class", "deadline", "verify"];
    let mut fields = Fields::of(node, what, &known, &[], source, findings)?;
    match fields.needed_text("class") {
        Some(class) if class.value == expected => {}
        Some(class) if class.value == "notice" => {
            fields.findings.unsupported(source, &class.at, "class notice");
        }
        Some(class) if class.value == "failover" => fields.findings.error(
            source,
            &class.at,
            "DEGRADED is a warning: it may scale, and it may never fail over",
        ),
        Some(class) => {
            let message = format!("{what} has class {expected:?}, not {:?}", class.value);
            fields.findings.error(source, &class.at, message);
        }
        None => {}
    }
    if fields.get("do").is_none() {
        fields.missing("do");
    }
    let actions = fields.names("do");
    if actions.is_empty() && fields.get("do").is_some() {
        let at = fields.key_at("do");
        fields.findings.error(source, &at, format!("{what} does nothing: `do` names no action"));
    }
    let deadline_ms = fields.duration("deadline", DEADLINE_MS);
    let verify = fields.get("verify").and_then(|node| read_verify(source, node, fields.findings));
    Some(Lane { act: actions, deadline_ms, verify })
}

fn read_verify(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Verify> {
    let known = ["after", "within", "worked", "client"];
    let mut fields = Fields::of(node, "`verify`", &known, &[], source, findings)?;
    let after_ms = fields.duration("after", VERIFY_AFTER_MS);
    let within_ms = fields.duration("within", VERIFY_WITHIN_MS);
    let client = fields.text("client");
    if fields.get("worked").is_none() {
        fields.missing("worked");
    }
    let text = fields.text("worked")?.value;
    let named = client.as_ref().map(|client| client.value.clone());
    let (look, worked) = fields.parsed("worked", |text| verify::parse(text, named))?.value;
    if look.is_none() {
        if within_ms == 0 {
            let at = fields.key_at("within");
            fields.findings.error(source, &at, "`within`: no event is heard within no time");
        }
        if let Some(client) = client {
            let message = "`client`: nobody is asked, because the events come by themselves";
            fields.findings.error_with(source, &client.at, message, "take it away");
        }
    }
    Some(Verify { after_ms, within_ms, look, worked, text })
}
