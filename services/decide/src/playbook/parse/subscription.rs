//! `subscriptions/*`: where events come from, how they prove it, what shape they have.

use super::{At, Fields, host_of, is_loopback};
use crate::playbook::finding::{Findings, Source};
use crate::playbook::node::{Kind, Node};
use crate::playbook::predicate::Predicate;
use crate::playbook::secret::{self, SecretRef, Written};
use crate::playbook::{Auth, Poll, Pull, Reports, Subscription};
use crate::source::{Kind as SourceKind, channel, is_free_part};

/// `poll.every` unless set. Milliseconds.
const POLL_EVERY_MS: i64 = 60_000;

/// The least and the most that `poll.every` may be. Milliseconds.
const POLL_EVERY_MS_MIN: i64 = 1_000;
const POLL_EVERY_MS_MAX: i64 = 3_600_000;

/// Reads a subscription; its partition key is the set's to say.
pub(in crate::playbook) fn subscription(
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
    let by_source = |topic: &str| kind.reports(topic);
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
        let message = "Statuspage signs nothing, so its webhooks are not believed: say where the page itself is asked, \
                       `\"poll\": {\"url\": \"https://STATUSPAGE/api/v2/summary.json\"}`";
        fields.findings.error(source, &at, message);
    }
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
            Written::Malformed(why) => {
                fields.findings.error(fields.source, &token.at, format!("`secretToken`: {why}"));
            }
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
                    format!("{}; until then it is looked up as {variable}", secret::INSTEAD),
                );
                secrets.push(SecretRef::Env(variable));
            }
        }
    }
    secrets
}
