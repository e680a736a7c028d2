//! What no single file can know: that the files of a set fit together.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use holdline_proto::limits::{BUNDLE_BYTES_MAX, PLAYBOOKS_PER_SUBSCRIPTION_MAX, SUBSCRIPTIONS_MAX};
use holdline_proto::playbooks::Bundle;
use serde_json::{Value, json};

use super::finding::{Finding, Findings, Source};
use super::loops::{self, Link, Links};
use super::parse::{self, At, Draft, FileKind};
use super::{Action, Doing, Facts, Lane, On, Path, Playbook, Predicate, Set, Subscription};
use crate::approval::{APPROVERS_MAX, Approval, Right, Terms, When};
use crate::budget::{AtMost, BlastRadius};
use crate::debounce::{CAUSAL_DEPTH_MAX, Rules};
use crate::execute;
use crate::explain::duration;
use crate::native;
use crate::source::channel::{CHANNELS_PER_CLIENT_MAX, TOPICS_MAX};
use crate::verify::Look;

/// A thing and the file that it came from.
struct Filed<'a, T> {
    source: Source<'a>,
    at: Range<usize>,
    value: T,
}

#[derive(Default)]
struct Drafts<'a> {
    playbooks: BTreeMap<String, Filed<'a, Draft>>,
    subscriptions: BTreeMap<String, Filed<'a, Subscription>>,
    actions: BTreeMap<String, Filed<'a, Action>>,
    settings: parse::Settings,
    pager: Option<(Source<'a>, At<String>)>,
    /// Kinds of which a file could not be read: what is missing may be in there.
    broken: Vec<FileKind>,
}

pub(super) fn load(bundle: &Bundle) -> (Option<Set>, Vec<Finding>) {
    let mut findings = Findings::default();
    let bytes: usize = bundle.files.values().map(String::len).sum();
    let whole = Source { path: "(the set)", text: "" };
    if bytes > BUNDLE_BYTES_MAX {
        findings.error(whole, &(0..0), format!("the set has {bytes} bytes; at most {BUNDLE_BYTES_MAX}"));
        return (None, findings.list);
    }
    let mut drafts = read(bundle, &mut findings);
    if drafts.playbooks.is_empty() && !findings.has_errors() {
        findings.error(whole, &(0..0), "there is no *.playbook.yaml here");
    }
    check_subscriptions(&drafts, &mut findings);
    check_urls(&drafts, &mut findings);
    check_clients(&drafts, &mut findings);
    check_pager(&drafts, &mut findings);
    let playbooks = join(&mut drafts, &mut findings);
    check_loops(&drafts, &playbooks, &mut findings);
    check_classes(&drafts, &playbooks, &mut findings);
    check_members(&drafts, &playbooks, &mut findings);
    // While something cannot be read, what uses what cannot be said.
    if !findings.has_errors() {
        check_use(&drafts, &playbooks, &mut findings);
    }
    findings.list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    if findings.has_errors() {
        return (None, findings.list);
    }
    let set = Set {
        hash: bundle.hash(),
        subscriptions: drafts.subscriptions.into_iter().map(|(name, filed)| (name, filed.value)).collect(),
        actions: drafts.actions.into_iter().map(|(name, filed)| (name, filed.value)).collect(),
        playbooks,
        targets: drafts.settings.targets,
        platform: drafts.settings.platform,
        group_sizes: drafts.settings.group_sizes,
        windows: drafts.settings.windows,
        people: drafts.settings.people,
    };
    (Some(set), findings.list)
}

fn read<'a>(bundle: &'a Bundle, findings: &mut Findings) -> Drafts<'a> {
    let mut drafts = Drafts::default();
    for (path, text) in &bundle.files {
        let Some(kind) = parse::kind_of(path) else { continue };
        let source = Source { path, text };
        let Some(node) = parse::tree(source, findings) else {
            drafts.broken.push(kind);
            continue;
        };
        match kind {
            FileKind::Playbook => {
                if let Some(draft) = parse::playbook(source, &node, findings) {
                    let (name, at) = (draft.name.value.clone(), draft.name.at.clone());
                    file(
                        &mut drafts.playbooks,
                        "playbook",
                        name,
                        Filed { source, at, value: draft },
                        findings,
                    );
                }
            }
            FileKind::Subscription => {
                if let Some(At { value, at }) = parse::subscription(source, &node, findings) {
                    let name = value.name.clone();
                    file(
                        &mut drafts.subscriptions,
                        "subscription",
                        name,
                        Filed { source, at, value },
                        findings,
                    );
                } else {
                    drafts.broken.push(kind);
                }
            }
            FileKind::Action => {
                if let Some(At { value, at }) = parse::action(source, &node, findings) {
                    file(
                        &mut drafts.actions,
                        "action",
                        value.name.clone(),
                        Filed { source, at, value },
                        findings,
                    );
                } else {
                    drafts.broken.push(kind);
                }
            }
            FileKind::Settings => {
                drafts.settings = parse::settings(source, &node, findings);
                drafts.pager = drafts.settings.pager.clone().map(|pager| (source, pager));
            }
        }
    }
    drafts
}

fn file<'a, T>(
    files: &mut BTreeMap<String, Filed<'a, T>>,
    what: &str,
    name: String,
    filed: Filed<'a, T>,
    findings: &mut Findings,
) {
    if let Some(other) = files.get(&name) {
        let message = format!("there is another {what} {name}, in {}", other.source.path);
        findings.error(filed.source, &filed.at, message);
    } else {
        files.insert(name, filed);
    }
}

fn check_subscriptions(drafts: &Drafts<'_>, findings: &mut Findings) {
    let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
    for (n, filed) in drafts.subscriptions.values().enumerate() {
        if n == SUBSCRIPTIONS_MAX {
            findings.error(
                filed.source,
                &filed.at,
                format!("there are more than {SUBSCRIPTIONS_MAX} subscriptions"),
            );
        }
        let safe = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if filed.value.name.is_empty() || !filed.value.name.chars().all(safe) {
            let message = "a subscription's name is part of its address: letters, digits, `_`, `-` and `.`";
            findings.error(filed.source, &filed.at, message);
        }
        let Some(path) = &filed.value.callback_path else { continue };
        if path != "/"
            && let Some(other) = paths.insert(path, &filed.value.name)
        {
            let message = format!("its callbackUrl has the path of subscription {other}: {path}");
            findings.error(filed.source, &filed.at, message);
        }
    }
}

/// Plain HTTP goes to loopback, or to a host that the settings name.
fn check_urls(drafts: &Drafts<'_>, findings: &mut Findings) {
    for filed in drafts.actions.values() {
        let Doing::Webhook(webhook) = &filed.value.what else { continue };
        let start = webhook.url.fixed_start();
        if !start.contains("://") {
            findings.error(filed.source, &filed.at, format!("{start:?} is no URL"));
            continue;
        }
        let Some((scheme, host)) = parse::host_of(start) else {
            findings.error(filed.source, &filed.at, format!("{start:?} names no plain host"));
            continue;
        };
        let named = drafts.settings.targets.iter().any(|target| target.host == host);
        if scheme == "http" && !parse::is_loopback(host) && !named {
            findings.error_with(
                filed.source,
                &filed.at,
                format!("plain HTTP to {host} would show everyone on the way what is done"),
                "use https, or name the host under `targets` in holdline.yaml",
            );
        } else if scheme != "http" && scheme != "https" {
            findings.error(filed.source, &filed.at, format!("{scheme:?} cannot be called; https can"));
        }
    }
}

/// The pager is an action of the set, and no remedy.
fn check_pager(drafts: &Drafts<'_>, findings: &mut Findings) {
    let Some((source, pager)) = &drafts.pager else { return };
    match drafts.actions.get(&pager.value) {
        Some(action) if matches!(action.value.what, Doing::Webhook(_)) => {}
        Some(_) => findings.error(*source, &pager.at, "`pager`: people are told by a webhook"),
        None if drafts.broken.contains(&FileKind::Action) => {}
        None => findings.error(*source, &pager.at, format!("`pager`: there is no action {}", pager.value)),
    }
}

/// Whoever looks at the platform after a remedy needs a client, too.
fn check_looks(source: Source<'_>, draft: &Draft, drafts: &Drafts<'_>, findings: &mut Findings) {
    for verify in draft.verify.values() {
        let Some(Look::Platform { client, .. }) = &verify.look else { continue };
        let platform = drafts.settings.platform.as_ref();
        if platform.is_none_or(|platform| platform.client(client.as_deref()).is_none()) {
            findings.error_with(
                source,
                &draft.name.at,
                format!("`verify` looks at the platform as a client that there is not: {}", verify.text),
                "name one under `platform` in holdline.yaml, and say which with `client` where there are several",
            );
        }
    }
}

/// What people have to allow needs people who may, and windows that there are.
fn check_approval(source: Source<'_>, draft: &Draft, drafts: &Drafts<'_>, findings: &mut Findings) {
    if drafts.broken.contains(&FileKind::Settings) {
        return;
    }
    let may =
        drafts.settings.people.values().filter(|person| person.rights.contains(&Right::Approve)).count();
    let help =
        "name them under `people` in holdline.yaml, with the role `approve`; `holdline token` makes tokens";
    let overriding = |name: &&At<String>| {
        drafts.actions.get(&name.value).is_some_and(|action| action.value.allow_override)
    };
    match &draft.approval {
        Some(At { value: approval, at }) => {
            let needed = usize::try_from(approval.terms.people).unwrap_or(usize::MAX);
            if needed > APPROVERS_MAX {
                let message =
                    format!("`people`: {needed} must approve, and {APPROVERS_MAX} at most are counted");
                findings.error_with(source, at, message, format!("name {APPROVERS_MAX} or fewer"));
            } else if may < needed {
                let message = format!("{needed} must approve, and {may} may: it would never be done");
                findings.error_with(source, at, message, help);
            }
            if let When::Outside(name) | When::Inside(name) = &approval.when
                && !drafts.settings.windows.contains_key(name)
            {
                let there: Vec<&str> = drafts.settings.windows.keys().map(String::as_str).collect();
                findings.error_with(
                    source,
                    at,
                    format!("`when`: there is no window {name}"),
                    match there.is_empty() {
                        true => "name it under `windows` in holdline.yaml, with its time zone".into(),
                        false => format!("`windows` in holdline.yaml has {}", there.join(", ")),
                    },
                );
            }
        }
        None => {
            if let Some(action) = draft.actions.iter().find(overriding)
                && may == 0
            {
                let message =
                    format!("{} has `allowOverride`: a person must approve it, and nobody may", action.value);
                findings.error_with(source, &action.at, message, help);
            }
        }
    }
}

/// A share of a small group can come to no entity at all. Which groups a playbook sees only its events tell, but each that
/// is named is there for some playbook with such a budget: one of which none allows anything is held by whichever sees it.
fn check_shares(
    source: Source<'_>,
    draft: &Draft,
    radii: &[BlastRadius],
    drafts: &Drafts<'_>,
    findings: &mut Findings,
) {
    let Some(radius) = draft.guard.blast_radius else { return };
    let is_held = |size: u32| radii.iter().all(|radius| radius.entities(Some(size)) == 0);
    let of_none = drafts.settings.group_sizes.iter().filter(|(_, size)| is_held(**size));
    let told: Vec<String> = of_none.map(|(group, size)| format!("{group} ({size})")).collect();
    if !told.is_empty() {
        findings.warning(
            "nothing-allowed",
            source,
            &draft.name.at,
            format!(
                "`blast_radius`: {}% of these groups is not one entity, so that whatever fails there is held: {}",
                radius.share_percent,
                told.join(", ")
            ),
            "give a larger `share`, or correct `groups` in holdline.yaml",
        );
    }
}

/// Native actions need a platform to act on, and a client that acts; channels one that listens.
fn check_clients(drafts: &Drafts<'_>, findings: &mut Findings) {
    for filed in drafts.actions.values() {
        let Doing::Native(native) = &filed.value.what else { continue };
        let what = format!("{} acts on", native.kind.name);
        check_client(drafts, native.client.as_deref(), &what, filed.source, &filed.at, findings);
    }
    let mut channels: BTreeMap<&str, usize> = BTreeMap::new();
    for filed in drafts.subscriptions.values() {
        let Some(pull) = &filed.value.pull else { continue };
        let what = format!("subscription {} listens to", filed.value.name);
        check_client(drafts, Some(&pull.client), &what, filed.source, &filed.at, findings);
        // One at least: how many entities the platform lists is not known here.
        let channels = channels.entry(&pull.client).or_default();
        *channels += pull.entities.len().div_ceil(TOPICS_MAX).max(1);
        if *channels > CHANNELS_PER_CLIENT_MAX {
            let message = format!(
                "with subscription {} the client {} listens on {channels} channels, and the platform allows it \
                 {CHANNELS_PER_CLIENT_MAX}",
                filed.value.name, pull.client
            );
            let help =
                format!("a channel has {TOPICS_MAX} entities of one subscription; name another client");
            findings.error_with(filed.source, &filed.at, message, help);
        }
    }
}

fn check_client(
    drafts: &Drafts<'_>,
    client: Option<&str>,
    what: &str,
    source: Source<'_>,
    at: &Range<usize>,
    findings: &mut Findings,
) {
    let Some(platform) = &drafts.settings.platform else {
        if !drafts.broken.contains(&FileKind::Settings) {
            let help = "name the region and an OAuth client under `platform` in holdline.yaml";
            findings.error_with(source, at, format!("{what} the platform, and there is none"), help);
        }
        return;
    };
    if platform.client(client).is_none() {
        let there: Vec<&str> = platform.clients.keys().map(String::as_str).collect();
        let message = match client {
            Some(name) => format!("there is no client {name} under `platform` in holdline.yaml"),
            None if there.is_empty() => "there is no client under `platform` in holdline.yaml".into(),
            None => "there is more than one client, so `client` must say which".into(),
        };
        findings.error_with(source, at, message, format!("there are {}", there.join(", ")));
    }
}

/// `revert.do: undo` needs remedies that keep their pre-image.
fn check_undo(source: Source<'_>, draft: &Draft, drafts: &Drafts<'_>, findings: &mut Findings) {
    let undone = |rules: &Option<Rules>| rules.as_ref().is_some_and(|rules| rules.revert.undo);
    if !undone(&draft.failover) && !undone(&draft.scaling) {
        return;
    }
    for named in &draft.actions {
        let action = drafts.actions.get(&named.value);
        if let Some(reason) = action.and_then(|filed| filed.value.why_no_undo()) {
            let message = format!("`revert.do: undo` cannot undo {}: {reason}", named.value);
            findings.error_with(
                source,
                &named.at,
                message,
                "name the action that undoes it under `revert.do`",
            );
        }
    }
}

/// Holds the playbooks against the subscriptions and actions they name.
fn join(drafts: &mut Drafts<'_>, findings: &mut Findings) -> BTreeMap<String, Playbook> {
    let mut playbooks = BTreeMap::new();
    let filed = std::mem::take(&mut drafts.playbooks);
    let radii: Vec<BlastRadius> = filed.values().filter_map(|filed| filed.value.guard.blast_radius).collect();
    for (name, filed) in filed {
        let (source, draft) = (filed.source, filed.value);
        let subscriptions = subscriptions_of(source, &draft, drafts, findings);
        for action in &draft.actions {
            if !drafts.actions.contains_key(&action.value) && !drafts.broken.contains(&FileKind::Action) {
                findings.error(source, &action.at, format!("there is no action {}", action.value));
            }
        }
        check_undo(source, &draft, drafts, findings);
        check_looks(source, &draft, drafts, findings);
        check_approval(source, &draft, drafts, findings);
        check_shares(source, &draft, &radii, drafts, findings);
        agree(source, &draft, &subscriptions, drafts, findings);
        agree_on_reports(source, &draft, &subscriptions, drafts, findings);
        try_predicates(source, &draft, &subscriptions, drafts, findings);
        check_listening(&draft, &subscriptions, drafts, findings);
        playbooks.insert(name.clone(), finish(name, draft, subscriptions, drafts));
    }
    for subscription in drafts.subscriptions.values() {
        let listeners = playbooks
            .values()
            .filter(|p: &&Playbook| p.on.subscriptions.contains(&subscription.value.name))
            .count();
        if listeners > PLAYBOOKS_PER_SUBSCRIPTION_MAX {
            let message =
                format!("{listeners} playbooks listen to it; at most {PLAYBOOKS_PER_SUBSCRIPTION_MAX}");
            findings.error(subscription.source, &subscription.at, message);
        }
    }
    playbooks
}

fn subscriptions_of(
    source: Source<'_>,
    draft: &Draft,
    drafts: &Drafts<'_>,
    findings: &mut Findings,
) -> Vec<String> {
    if let Some(named) = &draft.subscription {
        if drafts.subscriptions.contains_key(&named.value) {
            return vec![named.value.clone()];
        }
        if !drafts.broken.contains(&FileKind::Subscription) {
            findings.error(source, &named.at, format!("there is no subscription {}", named.value));
        }
    }
    let Some(topic) = &draft.topic else { return vec![] };
    let of_topic = drafts.subscriptions.values().filter(|filed| filed.value.topic == topic.value);
    let found: Vec<String> = of_topic.map(|filed| filed.value.name.clone()).collect();
    if found.is_empty() && !drafts.broken.contains(&FileKind::Subscription) {
        findings.error(source, &topic.at, format!("no subscription has the topic {}", topic.value));
    }
    found
}

/// Everyone who listens to a subscription must mean the same entity: it is what events are partitioned by.
fn agree(
    source: Source<'_>,
    draft: &Draft,
    subscriptions: &[String],
    drafts: &mut Drafts<'_>,
    findings: &mut Findings,
) {
    for name in subscriptions {
        let Some(subscription) = drafts.subscriptions.get_mut(name) else { continue };
        let key = subscription.value.partition_key.get_or_insert_with(|| draft.entity.value.clone());
        if *key != draft.entity.value {
            let message = format!(
                "another playbook on subscription {name} has the entity {key}; events are kept in order per \
                 entity, so all playbooks on a subscription must agree on it"
            );
            findings.error(source, &draft.entity.at, message);
        }
    }
}

/// A playbook has one rule for when it believes what it hears.
fn agree_on_reports(
    source: Source<'_>,
    draft: &Draft,
    subscriptions: &[String],
    drafts: &Drafts<'_>,
    findings: &mut Findings,
) {
    let mut reports =
        subscriptions.iter().filter_map(|name| Some((name, drafts.subscriptions.get(name)?.value.reports)));
    let Some((first, expected)) = reports.next() else { return };
    if let (Some((other, _)), Some(topic)) = (reports.find(|(_, reports)| *reports != expected), &draft.topic)
    {
        findings.error_with(
            source,
            &topic.at,
            format!(
                "of its subscriptions {first} and {other} one repeats its state and one tells of changes"
            ),
            "set `reports` of both alike, or give each a playbook of its own",
        );
    }
}

/// A trial on made-up events shows functions that are not there, and filters that keep health away.
fn try_predicates(
    source: Source<'_>,
    draft: &Draft,
    subscriptions: &[String],
    drafts: &Drafts<'_>,
    findings: &mut Findings,
) {
    let Some(healthy) = &draft.healthy else {
        if draft.failover.is_some() {
            findings.warning(
                "no-health",
                source,
                &draft.failed.at,
                "without `on.healthy` nothing but silence can end an incident",
                "say what a healthy event looks like, such as `healthy: status == 'HEALTHY'`",
            );
        }
        return;
    };
    let event = trial_event(&healthy.value);
    if healthy.value.evaluate(&Facts::new(&event)) != Ok(true) {
        return;
    }
    for name in subscriptions {
        let Some(filed) = drafts.subscriptions.get(name) else { continue };
        let kept = filed.value.filter.as_ref().map(|filter| filter.evaluate(&Facts::new(&event)));
        if kept == Some(Ok(false)) {
            findings.warning(
                "filter-hides-health",
                filed.source,
                &filed.at,
                format!(
                    "filterExpression of subscription {name} keeps every healthy event away, so that only silence \
                     can end an incident"
                ),
                "add health to it, such as `OR status == 'HEALTHY'`",
            );
        }
    }
}

/// An event that says that a remedy worked has to be let through.
fn check_listening(draft: &Draft, subscriptions: &[String], drafts: &Drafts<'_>, findings: &mut Findings) {
    for verify in draft.verify.values().filter(|verify| verify.look.is_none()) {
        let event = trial_event(&verify.worked);
        if verify.worked.evaluate(&Facts::new(&event)) != Ok(true) {
            continue;
        }
        for name in subscriptions {
            let Some(filed) = drafts.subscriptions.get(name) else { continue };
            let kept = filed.value.filter.as_ref().map(|filter| filter.evaluate(&Facts::new(&event)));
            if kept == Some(Ok(false)) {
                findings.warning(
                    "filter-hides-worked",
                    filed.source,
                    &filed.at,
                    format!(
                        "filterExpression of subscription {name} keeps away what `verify` waits for: {}",
                        verify.text
                    ),
                    "add it with `OR`",
                );
            }
        }
    }
}

/// An event for which the predicate's comparisons hold.
fn trial_event(predicate: &Predicate) -> Value {
    let mut event = json!({"id": "trial", "data": {}});
    for (path, text) in predicate.texts() {
        let mut at = &mut event;
        let path = path.strip_prefix("event.").unwrap_or(&path);
        for step in path.split('.') {
            if !at.is_object() {
                *at = json!({});
            }
            let Some(map) = at.as_object_mut() else { return json!({}) };
            at = map.entry(step).or_insert(Value::Null);
        }
        *at = Value::String(text);
    }
    event
}

fn finish(name: String, draft: Draft, subscriptions: Vec<String>, drafts: &Drafts<'_>) -> Playbook {
    let reports = subscriptions.first().and_then(|name| drafts.subscriptions.get(name));
    let reports = reports.map(|filed| filed.value.reports).unwrap_or_default();
    let pager = drafts.settings.pager.as_ref().map(|pager| pager.value.clone());
    let lane = |rules: Option<Rules>| rules.map(|rules| Rules { reports, pager: pager.clone(), ..rules });
    let mut paths: Vec<Path> = vec![];
    for action in draft.actions.iter().filter_map(|action| drafts.actions.get(&action.value)) {
        paths.extend(action.value.paths().into_iter().cloned());
    }
    let pager = pager.as_ref().and_then(|pager| drafts.actions.get(pager));
    paths.extend(pager.into_iter().flat_map(|pager| pager.value.paths().into_iter().cloned()));
    paths.extend(draft.verify.values().flat_map(|verify| &verify.look).flat_map(Look::paths).cloned());
    paths.sort();
    paths.dedup();
    Playbook {
        name,
        description: draft.description,
        owner: draft.owner,
        on: On {
            subscriptions,
            entity: draft.entity.value,
            group: draft.group,
            failed: draft.failed.value,
            degraded: draft.degraded.map(|degraded| degraded.value),
            healthy: draft.healthy.map(|healthy| healthy.value),
        },
        failover: lane(draft.failover),
        scaling: lane(draft.scaling),
        verify: draft.verify,
        guard: draft.guard,
        approval: draft.approval.map(|approval| approval.value),
        paths,
    }
}

/// A2: what is done about failures is a failover, whatever a warning's lane calls it.
fn check_classes(drafts: &Drafts<'_>, playbooks: &BTreeMap<String, Playbook>, findings: &mut Findings) {
    let does = |rules: Option<&Rules>, name: &String| rules.is_some_and(|rules| rules.act.contains(name));
    for (name, filed) in &drafts.actions {
        let failing = playbooks.values().find(|playbook| does(playbook.rules(Lane::Failover), name));
        let warned = playbooks.values().find(|playbook| does(playbook.rules(Lane::Scaling), name));
        if let (Some(failing), Some(warned)) = (failing, warned) {
            findings.error_with(
                filed.source,
                &filed.at,
                format!(
                    "{name} is what {} does about failures, class failover, and {} would do it about a warning",
                    failing.name, warned.name
                ),
                "give the warning an action of its own",
            );
        }
    }
}

/// Two remedies of one queue that share members and are not the same are not both in force: the second is held.
fn check_members(drafts: &Drafts<'_>, playbooks: &BTreeMap<String, Playbook>, findings: &mut Findings) {
    let undone = |rules: &Rules, name: &String| rules.revert.undo && rules.act.contains(name);
    let is_undone = |name: &String| {
        let lanes = [Lane::Failover, Lane::Scaling];
        let rules = playbooks.values().flat_map(|playbook| lanes.map(|lane| playbook.rules(lane)));
        rules.flatten().any(|rules| undone(rules, name))
    };
    // What takes its members from an event is known when it comes.
    let changes: Vec<_> = drafts
        .actions
        .iter()
        .filter(|(name, _)| is_undone(name))
        .filter_map(|(name, filed)| match &filed.value.what {
            Doing::Native(native) => Some((name, filed, execute::fixed(native)?)),
            Doing::Webhook(_) => None,
        })
        .collect();
    for (number, (name, filed, change)) in changes.iter().enumerate() {
        let others = changes.iter().take(number);
        for (other, ..) in others.filter(|(_, _, other)| native::collide(change, other)) {
            findings.warning(
                "members-shared",
                filed.source,
                &filed.at,
                format!("{name} and {other} share some members of one queue and not all: whichever comes second is held"),
                "name the same members in both, or none that are in both",
            );
        }
    }
}

/// C4: no playbook may set itself off, by whatever way; and what is cut off at run time should be no surprise.
fn check_loops(drafts: &Drafts<'_>, playbooks: &BTreeMap<String, Playbook>, findings: &mut Findings) {
    let action = |name: &str| drafts.actions.get(name).map(|filed| &filed.value);
    let subscription = |name: &str| drafts.subscriptions.get(name).map(|filed| &filed.value);
    let links = Links::of(playbooks, action, subscription);
    let filed = |links: &[Link<'_>]| {
        let action = drafts.actions.get(links.first()?.action)?;
        Some((action.source, action.at.clone(), loops::told(links)))
    };
    let found = links.loops();
    for (source, at, told) in found.iter().filter_map(|links| filed(links)) {
        let help = "act by something that emits none of this, or have the playbook listen to something else";
        findings.error_with(source, &at, format!("a loop: {told}"), help);
    }
    if !found.is_empty() {
        return;
    }
    let deepest = usize::try_from(CAUSAL_DEPTH_MAX).unwrap_or(usize::MAX);
    for way in links.longest().iter().filter(|way| way.len() >= deepest) {
        let Some((source, at, told)) = filed(way) else { continue };
        findings.warning(
            "cut-off",
            source,
            &at,
            format!(
                "{told}; {CAUSAL_DEPTH_MAX} actions may lead to one another, so the last one acts no more"
            ),
            "what has led to that often is held, and people are told",
        );
    }
}

fn check_use(drafts: &Drafts<'_>, playbooks: &BTreeMap<String, Playbook>, findings: &mut Findings) {
    let used = |name: &String| {
        playbooks.values().flat_map(|p| p.failover.iter().chain(&p.scaling)).any(|rules| {
            rules.act.contains(name) || rules.revert.act.contains(name) || rules.pager.as_ref() == Some(name)
        })
    };
    for (name, filed) in &drafts.actions {
        if !used(name) {
            let message = format!("no playbook uses the action {name}");
            findings.warning("unused", filed.source, &filed.at, message, "remove it, or name it under `do`");
        }
    }
    for (name, filed) in &drafts.subscriptions {
        if filed.value.partition_key.is_none() {
            let message =
                format!("no playbook listens to subscription {name}; its events are recorded and ignored");
            findings.warning("unused", filed.source, &filed.at, message, "name it under `on` of a playbook");
        }
    }
}

fn explain_approval(approval: &Approval) -> String {
    let Approval { covers, when, terms: Terms { people, expires_ms, unless_denied_ms } } = approval;
    let covers: Vec<String> = covers.iter().map(|covered| format!("{covered:?}").to_lowercase()).collect();
    let when = match when {
        When::Always => "always".into(),
        When::Outside(name) => format!("outside {name}"),
        When::Inside(name) => format!("inside {name}"),
    };
    let sent = match unless_denied_ms {
        Some(ms) => format!("; sent after {} unless somebody objects", duration(*ms)),
        None => String::new(),
    };
    format!(
        "{} needs approval {when}, by {people}, within {}{sent}; the deadline stands still meanwhile",
        covers.join(", "),
        duration(*expires_ms)
    )
}

/// Every default and every rule that applies, in words: nothing is hidden.
pub fn explain(set: &Set) -> String {
    let mut text = String::new();
    for playbook in set.playbooks.values() {
        writeln!(text, "{}", playbook.name).ok();
        let on = &playbook.on;
        writeln!(text, "  listens to {}, one incident per {}", on.subscriptions.join(", "), on.entity).ok();
        if let Some(AtMost { actions, per, within_ms }) = playbook.guard.at_most {
            let within = duration(within_ms);
            writeln!(
                text,
                "  at most {actions} remedied incidents per {per:?} within {within}; the rest is held"
            )
            .ok();
        }
        if let Some(radius) = playbook.guard.blast_radius {
            let (share, within) = (radius.share_percent, duration(radius.within_ms));
            writeln!(text, "  at most {share}% of a group's entities in failover, or remedied within {within}; the rest is held").ok();
            for (group, size) in &set.group_sizes {
                writeln!(text, "    {group}: {} of {size}", radius.entities(Some(*size))).ok();
            }
            writeln!(text, "    any other: {}", radius.entities(None)).ok();
        }
        if let Some(approval) = &playbook.approval {
            writeln!(text, "  {}", explain_approval(approval)).ok();
        }
        for (kind, rules) in [("failed", &playbook.failover), ("degraded", &playbook.scaling)] {
            let Some(rules) = rules else { continue };
            let revert = &rules.revert;
            writeln!(
                text,
                "  {kind}: {} in a row over at least {} → {}; not later than {} after the deciding event, else \
                 decided anew",
                rules.threshold,
                duration(rules.stable_for_ms),
                rules.act.join(", "),
                duration(rules.deadline_ms)
            )
            .ok();
            writeln!(
                text,
                "    over after {} healthy in a row over at least {} (doubled after each relapse, at most {}), or \
                 after {} of silence where silence can mean health → {}",
                revert.healthy,
                duration(revert.stable_for_ms),
                duration(crate::debounce::REVERT_STABLE_FOR_MS_MAX.max(revert.stable_for_ms)),
                duration(revert.silence_ms),
                match (revert.undo, revert.act.is_empty()) {
                    (true, _) => format!("undo {} from what was there before", revert.act.join(", ")),
                    (false, true) => "nothing to undo".into(),
                    (false, false) => revert.act.join(", "),
                }
            )
            .ok();
            let lane = if kind == "failed" { Lane::Failover } else { Lane::Scaling };
            if let Some(verify) = playbook.verify.get(&lane) {
                writeln!(
                    text,
                    "    {} {} after it was carried out, for at most {}: {}; else held for a person",
                    if verify.look.is_some() { "looked at" } else { "its events are listened to from" },
                    duration(verify.after_ms),
                    duration(verify.within_ms),
                    verify.text
                )
                .ok();
            }
            if let Some(pager) = &rules.pager {
                writeln!(text, "    what is held is told by {pager}").ok();
            }
            match &rules.flapping {
                None => writeln!(text, "    flapping: not looked for").ok(),
                Some(flapping) => writeln!(
                    text,
                    "    flapping: {} changes within {} delay the action by {}, then {} times longer each time, at \
                     most {}",
                    flapping.changes,
                    duration(flapping.within_ms),
                    duration(flapping.first_ms),
                    flapping.factor,
                    duration(flapping.most_ms)
                )
                .ok(),
            };
        }
    }
    text
}
