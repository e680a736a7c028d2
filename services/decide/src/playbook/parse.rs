//! From files to what they say: each kind of file, field by field, every mistake noted where it stands.

use std::collections::BTreeMap;
use std::ops::Range;

use super::finding::{Findings, Source};
use super::node::{Entry, Kind, Node, too_deep};
use super::predicate::Predicate;
use super::secret::{self, SecretRef, Written};
use super::template::{Path, Place, Template};
use super::{
    Action, Auth, Client, ConnectTo, Doing, Method, Native, Platform, Poll, Pull, Reports, Subscription,
    Target, Webhook,
};
use crate::debounce::{DEADLINE_MS, Flapping, REVERT_STABLE_FOR_MS, Revert, Rules, SILENCE_MS};
use crate::native::{self, Given};
use crate::playbook;
use crate::source::{Kind as SourceKind, channel, is_free_part};
use crate::verify::{self, Verify};

/// `verify.after` unless set: long enough for the platform's asynchronous changes. Milliseconds.
pub(super) const VERIFY_AFTER_MS: i64 = 5_000;

/// `verify.within` unless set. Milliseconds.
pub(super) const VERIFY_WITHIN_MS: i64 = 60_000;

/// `confirm.failures` unless set: the guide's example.
pub(super) const FAILURES: u32 = 5;

/// `confirm.stable_for` unless set: the guide's example. Milliseconds.
pub(super) const STABLE_FOR_MS: i64 = 20_000;

/// The longest window. Milliseconds.
const WINDOW_MS_MAX: i64 = 24 * 3_600_000;

/// `poll.every` unless set. Milliseconds.
const POLL_EVERY_MS: i64 = 60_000;

/// The least and the most that `poll.every` may be. Milliseconds.
const POLL_EVERY_MS_MIN: i64 = 1_000;
const POLL_EVERY_MS_MAX: i64 = 3_600_000;

/// What a file of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Playbook,
    Subscription,
    Action,
    Settings,
}

pub(super) fn kind_of(path: &str) -> Option<FileKind> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = folder.rsplit('/').next().unwrap_or_default();
    let data = name.ends_with(".json") || name.ends_with(".yaml");
    match folder {
        _ if name.ends_with(".playbook.yaml") => Some(FileKind::Playbook),
        _ if name == "holdline.yaml" => Some(FileKind::Settings),
        "subscriptions" if data => Some(FileKind::Subscription),
        "actions" if data => Some(FileKind::Action),
        _ => None,
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub at: Range<usize>,
}

/// A playbook as its file says it, before it is held against the rest of the set.
#[derive(Debug)]
pub(super) struct Draft {
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
    /// Every action that is named, where it is.
    pub actions: Vec<At<String>>,
}

/// Reads a file's tree, or notes why it cannot be read.
pub(super) fn tree(source: Source<'_>, findings: &mut Findings) -> Option<Node> {
    match Node::parse(source.path, source.text) {
        Ok(node) if too_deep(&node) => {
            findings.error(source, &(0..0), "the file is nested too deep");
            None
        }
        Ok(node) => Some(node),
        Err((at, message)) => {
            findings.error(source, &at, message);
            None
        }
    }
}

/// Reads the fields of one map.
struct Fields<'a, 'f> {
    source: Source<'a>,
    at: Range<usize>,
    entries: &'a [Entry],
    /// What the map is, for messages.
    what: &'static str,
    findings: &'f mut Findings,
}

impl<'a, 'f> Fields<'a, 'f> {
    /// `known`: what may stand there; `planned`: what the design has and this version has not.
    fn of(
        node: &'a Node,
        what: &'static str,
        known: &[&str],
        planned: &[&str],
        source: Source<'a>,
        findings: &'f mut Findings,
    ) -> Option<Fields<'a, 'f>> {
        let Kind::Map(entries) = &node.kind else {
            findings.error(source, &node.at, format!("{what}: expected a map, found {}", node.what()));
            return None;
        };
        for entry in entries {
            if planned.contains(&entry.key.as_str()) {
                findings.unsupported(source, &entry.key_at, &format!("`{}` of {what}", entry.key));
            } else if !known.contains(&entry.key.as_str()) {
                let help = match nearest(&entry.key, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("{what} has {}", known.join(", ")),
                };
                findings.error_with(source, &entry.key_at, format!("{what} has no `{}`", entry.key), help);
            }
        }
        Some(Fields { source, at: node.at.clone(), entries, what, findings })
    }

    fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    fn key_at(&self, key: &str) -> Range<usize> {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map_or(self.at.clone(), |entry| entry.key_at.clone())
    }

    fn missing(&mut self, key: &str) {
        let at = self.entries.first().map_or(self.at.clone(), |entry| entry.key_at.clone());
        self.findings.error(self.source, &at, format!("{} lacks `{key}`", self.what));
    }

    fn wrong(&mut self, key: &str, node: &Node, expected: &str) {
        let found = node.what();
        self.findings.error(self.source, &node.at, format!("`{key}`: expected {expected}, found {found}"));
    }

    fn text(&mut self, key: &str) -> Option<At<String>> {
        let node = self.get(key)?;
        match node.as_str() {
            Some(text) => Some(At { value: text.to_string(), at: node.at.clone() }),
            None => {
                self.wrong(key, node, "text");
                None
            }
        }
    }

    fn needed_text(&mut self, key: &str) -> Option<At<String>> {
        if self.get(key).is_none() {
            self.missing(key);
        }
        self.text(key)
    }

    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<At<T>> {
        let text = self.text(key)?;
        match parse(&text.value) {
            Ok(value) => Some(At { value, at: text.at }),
            Err(error) => {
                self.findings.error(self.source, &text.at, format!("`{key}`: {error}"));
                None
            }
        }
    }

    /// A reference to a secret. The secret itself may not stand here.
    fn reference(&mut self, key: &str) -> Option<SecretRef> {
        let text = self.needed_text(key)?;
        match secret::read(&text.value) {
            Written::Reference(reference) => return Some(reference),
            Written::Vault => self.findings.unsupported(self.source, &text.at, "a `vault:` secret"),
            Written::Literal => {
                let message =
                    format!("`{key}` is written in place, where everyone who reads this file can read it");
                self.findings.error_with(
                    self.source,
                    &text.at,
                    message,
                    "refer to it: `env:NAME` or `file:PATH`",
                );
            }
        }
        None
    }

    /// One of several words.
    fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let chosen = words.iter().find(|(word, _)| *word == text.value);
        if chosen.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let help = match nearest(&text.value, &known) {
                Some(near) => format!("did you mean `{near}`? There are {}", known.join(", ")),
                None => format!("there are {}", known.join(", ")),
            };
            let message = format!("`{key}`: there is no {key} {:?}", text.value);
            self.findings.error_with(self.source, &text.at, message, help);
        }
        chosen.map(|(_, value)| *value)
    }

    fn count(&mut self, key: &str, default: u32, least: u32) -> u32 {
        let Some(node) = self.get(key) else { return default };
        let number = match &node.kind {
            Kind::Scalar(value) => value.as_u64().and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        match number {
            Some(number) if number >= least => number,
            Some(number) => {
                let message = format!("`{key}`: {number} is too few; at least {least}");
                self.findings.error(self.source, &node.at, message);
                default
            }
            None => {
                self.wrong(key, node, "a whole number");
                default
            }
        }
    }

    fn truth(&mut self, key: &str, default: bool) -> bool {
        let Some(node) = self.get(key) else { return default };
        match &node.kind {
            Kind::Scalar(serde_json::Value::Bool(value)) => *value,
            _ => {
                self.wrong(key, node, "true or false");
                default
            }
        }
    }

    fn duration(&mut self, key: &str, default: i64) -> i64 {
        let Some(node) = self.get(key) else { return default };
        match node.as_str().map(parse_duration_ms) {
            Some(Ok(ms)) => ms,
            Some(Err(error)) => {
                self.findings.error(self.source, &node.at, format!("`{key}`: {error}"));
                default
            }
            None => {
                self.wrong(key, node, "a duration such as `20s` or `15m`");
                default
            }
        }
    }

    fn names(&mut self, key: &str) -> Vec<At<String>> {
        let Some(node) = self.get(key) else { return vec![] };
        let Kind::List(items) = &node.kind else {
            self.wrong(key, node, "a list of names, such as `[Failover]`");
            return vec![];
        };
        let mut names = vec![];
        for item in items {
            match item.as_str() {
                Some(name) => names.push(At { value: name.to_string(), at: item.at.clone() }),
                None => self.wrong(key, item, "the name of an action"),
            }
        }
        names
    }
}

fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let scored = known.iter().map(|k| (strsim::normalized_damerau_levenshtein(word, k), *k));
    scored.filter(|(score, _)| *score > 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// `20s`, `15m`, `2h`, `1d`, `500ms`. Milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let expected = || format!("{text:?} is no duration; expected a number and ms, s, m, h or d, as in `20s`");
    let number: i64 = number.parse().map_err(|_| expected())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    let ms = number.saturating_mul(factor);
    if ms > WINDOW_MS_MAX { Err(format!("{text} is too long; at most 24h")) } else { Ok(ms) }
}

/// Reads a playbook.
pub(super) fn playbook(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Draft> {
    let known = ["playbook", "description", "owner", "mode", "on", "confirm", "act", "revert"];
    let mut fields = Fields::of(node, "a playbook", &known, &["guard"], source, findings)?;
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
    let on = on?;
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
    let client = fields.text("client").map(|client| client.value);
    if fields.get("worked").is_none() {
        fields.missing("worked");
    }
    let text = fields.text("worked")?.value;
    let (look, worked) = fields.parsed("worked", |text| verify::parse(text, client))?.value;
    Some(Verify { after_ms, within_ms, look, worked, text })
}

/// Reads a subscription; its partition key is the set's to say.
pub(super) fn subscription(
    source: Source<'_>,
    node: &Node,
    findings: &mut Findings,
) -> Option<At<Subscription>> {
    let known = [
        "name",
        "topicName",
        "filterExpression",
        "callbackUrl",
        "authType",
        "secretToken",
        "retryPolicy",
        "reports",
        "source",
        "entityLabel",
        "poll",
        "client",
        "entities",
    ];
    let mut fields = Fields::of(node, "a subscription", &known, &[], source, findings)?;
    let name = fields.needed_text("name");
    let topic = fields.needed_text("topicName");
    if let Some(topic) = &topic
        && (topic.value == "all" || topic.value.contains(['*', '>']))
    {
        fields.findings.error_with(
            source,
            &topic.at,
            format!("subscribing to {:?} would send every event of the organisation here", topic.value),
            "name one topic per subscription, such as `telephony.service.status`",
        );
    }
    if let Some(topic) = &topic
        && topic.value.split('.').any(|part| part.contains(['{', '}']) && !is_free_part(part))
    {
        let message = format!("{:?}: braces stand for one whole part of a topic", topic.value);
        let help = "as in `v2.telephony.providers.edges.trunks.{id}`";
        fields.findings.error_with(source, &topic.at, message, help);
    }
    let filter = fields.parsed("filterExpression", Predicate::parse).map(|filter| filter.value);
    let callback = fields.parsed("callbackUrl", |url| Ok((url.to_string(), callback_path(url)?)));
    let (callback_url, callback_path) = callback.map(|callback| callback.value).unzip();
    let kind = fields.choice("source", &SourceKind::NAMES).unwrap_or_default();
    let pulled = fields.get("client").is_some();
    if !pulled && fields.get("authType").is_none() {
        fields.missing("authType");
    }
    // What is pulled is posted by nobody, so that nobody has to prove anything.
    let auth = fields.choice("authType", &Auth::NAMES).or(pulled.then_some(Auth::None));
    let pull = read_pull(&mut fields, kind, topic.as_ref());
    let entity_label = fields.text("entityLabel").map(|label| label.value);
    if entity_label.is_some() && kind != SourceKind::Alertmanager {
        let at = fields.key_at("entityLabel");
        let help = "elsewhere a playbook's `on.entity` says where the entity stands";
        fields.findings.error_with(source, &at, "`entityLabel` is for the source alertmanager", help);
    }
    let poll = fields.get("poll").filter(|_| !pulled);
    let poll = poll.and_then(|node| read_poll(source, node, fields.findings));
    if !pulled {
        check_poll(&mut fields, kind, poll.is_some());
    }
    let reports = fields.choice("reports", &[("repeats", Reports::Repeats), ("changes", Reports::Changes)]);
    let by_source = |topic: &str| kind.reports(topic, poll.is_some());
    let reports = reports.or(topic.as_ref().map(|topic| by_source(&topic.value))).unwrap_or_default();
    if reports == Reports::Repeats && pull.as_ref().is_some_and(|pull| pull.every_ms.is_none()) {
        let at = fields.key_at("reports");
        let help = "with `\"poll\": {\"every\": \"60s\"}` every look repeats the state";
        fields.findings.error_with(source, &at, "a channel tells of changes only and repeats nothing", help);
    }
    let retry_policy = fields.get("retryPolicy").filter(|policy| check_retry_policy(&mut fields, policy));
    if retry_policy.is_some() && kind != SourceKind::Guide {
        let at = fields.key_at("retryPolicy");
        fields.findings.warning(
            "retry-policy",
            source,
            &at,
            "`retryPolicy` changes nothing here: who sends this repeats it by rules of his own",
            "it is for the source guide, whose subscriptions `holdline subscriptions apply` makes",
        );
    }
    let secret_name = name.as_ref().map_or("", |name| name.value.as_str());
    let secrets = read_secrets(&mut fields, secret_name);
    let proven = auth.is_some_and(|auth| auth != Auth::None);
    if !pulled && proven && fields.get("secretToken").is_none() {
        fields.missing("secretToken");
    }
    let name = name?;
    let subscription = Subscription {
        name: name.value,
        topic: topic?.value,
        filter,
        callback_url,
        callback_path,
        retry_policy: retry_policy.map(Node::to_json),
        auth: auth?,
        secrets,
        partition_key: None,
        source: kind,
        reports,
        entity_label,
        poll,
        pull,
    };
    Some(At { value: subscription, at: name.at })
}

/// The guide does not say all fields of a retry policy, so each is taken by what it is: what counts attempts is a whole
/// number, every other number (an interval, a factor) is more than 0, and so is each of a list.
fn check_retry_policy(fields: &mut Fields<'_, '_>, policy: &Node) -> bool {
    let source = fields.source;
    let Kind::Map(entries) = &policy.kind else {
        fields.wrong("retryPolicy", policy, "a map, such as `{\"maxAttempts\": 5, \"intervalSeconds\": 2}`");
        return false;
    };
    let found = fields.findings.list.len();
    for entry in entries {
        let name = entry.key.to_ascii_lowercase();
        let counts = name.contains("attempts") || name.contains("retries");
        let fits = |node: &Node| match &node.kind {
            Kind::Scalar(serde_json::Value::Number(number)) if counts => number.as_u64().is_some(),
            Kind::Scalar(serde_json::Value::Number(number)) => number.as_f64().is_some_and(|n| n > 0.0),
            Kind::Scalar(serde_json::Value::String(text)) => !counts && !text.is_empty(),
            Kind::Scalar(serde_json::Value::Bool(_)) => !counts,
            _ => false,
        };
        let good = match &entry.value.kind {
            Kind::List(items) if !counts => !items.is_empty() && items.iter().all(fits),
            _ => fits(&entry.value),
        };
        if !good {
            let expected =
                if counts { "a whole number, 0 or more" } else { "more than 0, or a list of such" };
            let message = format!("`retryPolicy`: `{}`: expected {expected}", entry.key);
            fields.findings.error(source, &entry.value.at, message);
        }
    }
    fields.findings.list.len() == found
}

/// Where a page is asked, and how often.
fn read_poll(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Poll> {
    let mut fields = Fields::of(node, "`poll`", &["url", "every"], &[], source, findings)?;
    if fields.get("url").is_none() {
        fields.missing("url");
    }
    let every_ms = read_every(&mut fields);
    let url = fields.parsed("url", |url| {
        let (scheme, host) = host_of(url).ok_or(format!("{url:?} is no URL"))?;
        match scheme {
            "https" => Ok(url.to_string()),
            "http" if is_loopback(host) => Ok(url.to_string()),
            _ => Err(format!("{url:?}: expected https; what plain HTTP says could be anybody's word")),
        }
    })?;
    Some(Poll { url: url.value, every_ms })
}

fn read_every(fields: &mut Fields<'_, '_>) -> i64 {
    let every_ms = fields.duration("every", POLL_EVERY_MS);
    if !(POLL_EVERY_MS_MIN..=POLL_EVERY_MS_MAX).contains(&every_ms) {
        let at = fields.get("every").map_or(fields.at.clone(), |node| node.at.clone());
        fields.findings.error(fields.source, &at, "`every`: expected 1s to 1h");
    }
    every_ms
}

/// Channels of the gateway's own: `client`, `entities`, and `poll` without a URL. Whether there is such a client is
/// the set's to say.
fn read_pull(fields: &mut Fields<'_, '_>, kind: SourceKind, topic: Option<&At<String>>) -> Option<Pull> {
    let source = fields.source;
    let Some(client) = fields.text("client") else {
        if fields.get("entities").is_some() {
            let at = fields.key_at("entities");
            let help = "name the OAuth client that listens: `client`";
            fields.findings.error_with(source, &at, "`entities` is for a channel of the gateway's own", help);
        }
        return None;
    };
    if kind != SourceKind::Notification {
        let at = fields.key_at("client");
        fields.findings.error(source, &at, "`client` is for the source notification");
    }
    for key in ["authType", "secretToken", "callbackUrl"] {
        if fields.get(key).is_some() {
            let at = fields.key_at(key);
            let message =
                format!("`{key}` and `client`: what the gateway fetches itself is posted by nobody");
            fields.findings.error_with(source, &at, message, format!("leave out `{key}`, or `client`"));
        }
    }
    if let Some(topic) = topic.filter(|topic| channel::list(&topic.value).is_none()) {
        let message = format!("{:?}: the platform has no list of states for this topic", topic.value);
        let help = "a channel is for `v2.telephony.providers.edges.{id}` or `v2.telephony.providers.edges.trunks.{id}`";
        fields.findings.error_with(source, &topic.at, message, help);
    }
    let entities = fields.names("entities");
    if entities.len() > channel::ENTITIES_MAX {
        let (found, most) = (entities.len(), channel::ENTITIES_MAX);
        let at = fields.key_at("entities");
        fields.findings.error(source, &at, format!("`entities`: at most {most}, found {found}"));
    }
    for entity in entities.iter().filter(|entity| !channel::is_entity(&entity.value)) {
        let message = format!("`entities`: {:?} is no id of an edge or a trunk", entity.value);
        fields.findings.error(source, &entity.at, message);
    }
    let poll = fields.get("poll");
    let every_ms = poll.and_then(|node| {
        let mut poll = Fields::of(node, "`poll`", &["every"], &[], source, fields.findings)?;
        Some(read_every(&mut poll))
    });
    if poll.is_none() {
        let at = fields.key_at("client");
        fields.findings.warning(
            "no-repeats",
            source,
            &at,
            "a channel tells health once, and only health that is told twice undoes anything by itself",
            "let the state be looked at: `\"poll\": {\"every\": \"60s\"}`",
        );
    }
    let entities = entities.into_iter().map(|entity| entity.value).collect();
    Some(Pull { client: client.value, entities, every_ms })
}

/// Only Statuspage has a page to ask, and nobody signs its webhooks.
fn check_poll(fields: &mut Fields<'_, '_>, kind: SourceKind, polled: bool) {
    let source = fields.source;
    if polled && kind != SourceKind::Statuspage {
        let at = fields.key_at("poll");
        fields.findings.error(source, &at, "`poll` is for the source statuspage");
    }
    if kind == SourceKind::Statuspage && fields.get("poll").is_none() {
        let at = fields.key_at("source");
        fields.findings.warning(
            "unverified-claims",
            source,
            &at,
            "Statuspage signs nothing: whoever knows the address of this subscription is believed",
            "let the page itself be asked: `\"poll\": {\"url\": \"https://STATUSPAGE/api/v2/summary.json\"}`",
        );
    }
}

/// Scheme and host of a URL; `None` when it names no plain host.
pub(super) fn host_of(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    (!host.is_empty() && !authority.contains('@')).then_some((scheme, host))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn callback_path(url: &str) -> Result<String, String> {
    let rest = url.split_once("://").map(|(_, rest)| rest).ok_or(format!("{url:?} is no URL"))?;
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/");
    Ok(path.split(['?', '#']).next().unwrap_or("/").to_string())
}

fn read_secrets(fields: &mut Fields<'_, '_>, subscription: &str) -> Vec<SecretRef> {
    let Some(node) = fields.get("secretToken") else { return vec![] };
    let tokens: Vec<&Node> = match &node.kind {
        Kind::List(items) => items.iter().collect(),
        _ => vec![node],
    };
    if tokens.is_empty() || tokens.len() > 2 {
        let message = "`secretToken`: one secret, or two while one is being replaced";
        fields.findings.error(fields.source, &node.at, message);
    }
    let mut secrets = vec![];
    for (index, token) in tokens.into_iter().enumerate() {
        let Some(text) = token.as_str() else {
            fields.wrong("secretToken", token, "a reference such as `env:NAME`");
            continue;
        };
        match secret::read(text) {
            Written::Reference(reference) => secrets.push(reference),
            Written::Vault => fields.findings.unsupported(fields.source, &token.at, "a `vault:` secret"),
            Written::Literal if text.is_empty() => {
                fields.findings.error(fields.source, &token.at, "`secretToken` is empty");
            }
            Written::Literal => {
                let variable = secret::derived(subscription, index);
                fields.findings.warning(
                    "literal-secret",
                    fields.source,
                    &token.at,
                    "a secret is written in place, where everyone who reads this file can read it",
                    format!(
                        "refer to it: `env:NAME` or `file:PATH`; until then it is looked up as {variable}"
                    ),
                );
                secrets.push(SecretRef::Env(variable));
            }
        }
    }
    secrets
}

/// Reads an action. Whether its URL may be called, and what its client is, is the set's to say.
pub(super) fn action(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<At<Action>> {
    let Kind::Map(entries) = &node.kind else {
        findings.error(source, &node.at, format!("an action: expected a map, found {}", node.what()));
        return None;
    };
    let kind = entries.iter().find(|entry| entry.key == "actionType");
    if kind.and_then(|entry| entry.value.as_str()) == Some("GENESYS") {
        native_action(source, node, findings)
    } else {
        webhook(source, node, findings)
    }
}

fn webhook(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<At<Action>> {
    let known = ["name", "actionType", "url", "method", "headers", "bodyTemplate", "idempotent"];
    let mut fields = Fields::of(node, "an action", &known, &["allowOverride"], source, findings)?;
    let name = fields.needed_text("name");
    if let Some(kind) = fields.needed_text("actionType").filter(|kind| kind.value != "WEBHOOK") {
        let message = format!("there is no actionType {:?}", kind.value);
        fields.findings.error_with(
            source,
            &kind.at,
            message,
            "WEBHOOK, or GENESYS for an action of the platform",
        );
    }
    if fields.get("url").is_none() {
        fields.missing("url");
    }
    let url = fields.parsed("url", |text| Template::parse(text, Place::Url));
    let method = fields.parsed("method", |text| match text.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::Get),
        "POST" => Ok(Method::Post),
        "PUT" => Ok(Method::Put),
        "PATCH" => Ok(Method::Patch),
        "DELETE" => Ok(Method::Delete),
        other => Err(format!("there is no method {other:?}")),
    });
    let idempotent = fields.truth("idempotent", true);
    let headers = match fields.get("headers") {
        Some(headers) => read_headers(source, headers, fields.findings),
        None => vec![],
    };
    let json = headers.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("content-type") && value.fixed_start().contains("json")
    });
    let body = fields.parsed("bodyTemplate", |text| {
        let json = json || text.trim_start().starts_with(['{', '[']);
        Template::parse(text, if json { Place::Json } else { Place::Text })
    });
    let name = name?;
    let webhook = Webhook {
        method: method.map_or(Method::Post, |method| method.value),
        url: url?.value,
        headers,
        body: body.map(|body| body.value),
        idempotent,
    };
    Some(At { value: Action { name: name.value, what: Doing::Webhook(webhook) }, at: name.at })
}

fn native_action(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<At<Action>> {
    let known = ["name", "actionType", "kind", "client", "parameters"];
    let mut fields = Fields::of(node, "an action", &known, &["allowOverride"], source, findings)?;
    let name = fields.needed_text("name");
    let kind = fields.needed_text("kind").and_then(|kind| {
        let found = native::kind(&kind.value);
        if found.is_none() {
            let names: Vec<&str> = native::KINDS.iter().map(|kind| kind.name).collect();
            let help = match nearest(&kind.value, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            let message = format!("there is no kind {:?}", kind.value);
            fields.findings.error_with(source, &kind.at, message, help);
        }
        found
    });
    let client = fields.text("client").map(|client| client.value);
    let Some(parameters) = fields.get("parameters") else {
        fields.missing("parameters");
        return None;
    };
    let (name, kind) = (name?, kind?);
    let json = parameters.to_json();
    match try_parameters(kind, &json) {
        Ok(parameters) => {
            let native = Native { kind, client, parameters };
            Some(At { value: Action { name: name.value, what: Doing::Native(native) }, at: name.at })
        }
        Err(error) => {
            fields.findings.error(source, &parameters.at, error);
            None
        }
    }
}

/// The parameters as a template. What stands there without placeholders must be right already; a placeholder
/// is given the benefit of the doubt.
fn try_parameters(kind: &native::Kind, json: &serde_json::Value) -> Result<Template, String> {
    let Some(given) = json.as_object() else { return Err("`parameters`: expected a map".into()) };
    let template =
        Template::parse(&json.to_string(), Place::Json).map_err(|e| format!("`parameters`: {e}"))?;
    let unsure = |value: &serde_json::Value| value.to_string().contains("{{");
    let sure = given.iter().filter(|(_, value)| !unsure(value));
    let mut trial: serde_json::Map<_, _> = sure.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, _) in given.iter().filter(|(_, value)| unsure(value)) {
        let known = kind.parameters.iter().find(|parameter| parameter.name == key);
        let sample = known.map_or(serde_json::Value::Null, |parameter| parameter.holds.sample());
        trial.insert(key.clone(), sample);
    }
    Given(&trial).check(kind)?;
    (kind.change)(&Given(&trial))?;
    Ok(template)
}

fn read_headers(source: Source<'_>, node: &Node, findings: &mut Findings) -> Vec<(String, Template)> {
    let Kind::Map(entries) = &node.kind else {
        findings.error(source, &node.at, format!("`headers`: expected a map, found {}", node.what()));
        return vec![];
    };
    let mut headers = vec![];
    for entry in entries {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if entry.key.is_empty() || !entry.key.chars().all(token) {
            findings.error(source, &entry.key_at, format!("{:?} is no header name", entry.key));
            continue;
        }
        match entry.value.as_str().map(|text| Template::parse(text, Place::Header)) {
            Some(Ok(template)) => headers.push((entry.key.clone(), template)),
            Some(Err(error)) => findings.error(source, &entry.value.at, format!("`{}`: {error}", entry.key)),
            None => {
                let found = entry.value.what();
                findings.error(
                    source,
                    &entry.value.at,
                    format!("`{}`: expected text, found {found}", entry.key),
                );
            }
        }
    }
    headers
}

/// The installation's settings.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub targets: Vec<Target>,
    pub platform: Option<Platform>,
    /// Name of the action that tells people of held incidents, and where it stands.
    pub pager: Option<At<String>>,
}

/// Reads the installation's settings.
pub(super) fn settings(source: Source<'_>, node: &Node, findings: &mut Findings) -> Settings {
    let planned = ["business_hours", "people", "groups", "vault"];
    let known = ["targets", "platform", "pager"];
    let Some(mut fields) = Fields::of(node, "holdline.yaml", &known, &planned, source, findings) else {
        return Settings::default();
    };
    let platform = fields.get("platform").and_then(|node| platform(source, node, fields.findings));
    let pager = fields.text("pager");
    let Some(list) = fields.get("targets") else { return Settings { targets: vec![], platform, pager } };
    let Kind::List(items) = &list.kind else {
        fields.findings.error(source, &list.at, format!("`targets`: expected a list, found {}", list.what()));
        return Settings { targets: vec![], platform, pager };
    };
    let targets = items.iter().filter_map(|item| target(source, item, fields.findings)).collect();
    Settings { targets, platform, pager }
}

fn platform(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Platform> {
    let known = ["region", "connect_to", "clients", "calls_per_second"];
    let mut fields = Fields::of(node, "`platform`", &known, &[], source, findings)?;
    let region = fields.needed_text("region")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if !region.value.contains('.') || !region.value.chars().all(plain) {
        let message = format!("`region`: {:?} is no domain", region.value);
        fields.findings.error_with(
            source,
            &region.at,
            message,
            "the region's domain, such as mypurecloud.ie",
        );
    }
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let Some(list) = fields.get("clients") else {
        fields.missing("clients");
        return None;
    };
    let Kind::Map(entries) = &list.kind else {
        fields.wrong("clients", list, "a map from names to `id` and `secret`");
        return None;
    };
    let mut clients = BTreeMap::new();
    for entry in entries {
        let known = ["id", "secret"];
        let mut client = Fields::of(&entry.value, "a client", &known, &[], source, fields.findings)?;
        let (id, secret) = (client.reference("id"), client.reference("secret"));
        if let (Some(id), Some(secret)) = (id, secret) {
            clients.insert(entry.key.clone(), Client { id, secret });
        }
    }
    Some(Platform { region: region.value, connect_to, clients, calls_per_second })
}

fn target(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Target> {
    let known = ["host", "calls_per_second", "connect_to"];
    let mut fields = Fields::of(node, "a target", &known, &[], source, findings)?;
    let host = fields.needed_text("host")?;
    let (name, port) = match host.value.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name.to_string(), Some(port)),
            Err(_) => {
                fields.findings.error(
                    source,
                    &host.at,
                    format!("{:?}: expected HOST or HOST:PORT", host.value),
                );
                return None;
            }
        },
        None => (host.value, None),
    };
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    Some(Target { host: name, port, calls_per_second, connect_to })
}

fn connect_to(text: &str) -> Result<ConnectTo, String> {
    let (tls, address) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(address), _) => (true, address),
        (None, Some(address)) => (false, address),
        (None, None) => (false, text),
    };
    let parsed = address.replace("localhost:", "127.0.0.1:").parse::<std::net::SocketAddr>();
    let address = parsed
        .map_err(|_| format!("{text:?}: expected IP:PORT, plain HTTP to loopback, or https://IP:PORT"))?;
    if !tls && !address.ip().is_loopback() {
        return Err(format!("{text:?}: plain HTTP goes to loopback only; write https:// for TLS"));
    }
    Ok(ConnectTo { tls, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text, expected| assert_eq!(parse_duration_ms(text).ok(), expected, "{text}");
        check("0s", Some(0));
        check("500ms", Some(500));
        check("20s", Some(20_000));
        check("15m", Some(900_000));
        check("24h", Some(86_400_000));
        check("1d", Some(86_400_000));
        check("25h", None);
        check("20", None);
        check("s", None);
        check("-5s", None);
        check("1.5s", None);
        check("20 s", None);
        check("99999999999999999999s", None);
    }
}
