//! `actions/*`: webhooks as the guide has them, and actions on the platform itself.

use super::{At, Fields, nearest};
use crate::native::{self, Given};
use crate::playbook::finding::{Findings, Source};
use crate::playbook::node::{Kind, Node};
use crate::playbook::secret::{self, Written};
use crate::playbook::template::{Place, Template};
use crate::playbook::{Action, Credential, Doing, Method, Native, Webhook};

/// Reads an action. Whether its URL may be called, and what its client is, is the set's to say.
pub(in crate::playbook) fn action(
    source: Source<'_>,
    node: &Node,
    findings: &mut Findings,
) -> Option<At<Action>> {
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
    let known = [
        "name",
        "actionType",
        "url",
        "method",
        "headers",
        "bodyTemplate",
        "idempotent",
        "allowOverride",
        "emits",
    ];
    let mut fields = Fields::of(node, "an action", &known, &[], source, findings)?;
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
    let allow_override = fields.truth("allowOverride", false);
    let emits = emits(&mut fields);
    let (headers, credentials) = match fields.get("headers") {
        Some(headers) => read_headers(source, headers, fields.findings),
        None => Default::default(),
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
        credentials,
        body: body.map(|body| body.value),
        idempotent,
    };
    Some(At {
        value: Action { name: name.value, allow_override, emits, what: Doing::Webhook(webhook) },
        at: name.at,
    })
}

fn native_action(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<At<Action>> {
    let known = ["name", "actionType", "kind", "client", "parameters", "allowOverride", "emits"];
    let mut fields = Fields::of(node, "an action", &known, &[], source, findings)?;
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
    let allow_override = fields.truth("allowOverride", false);
    let emits = emits(&mut fields);
    let Some(parameters) = fields.get("parameters") else {
        fields.missing("parameters");
        return None;
    };
    let (name, kind) = (name?, kind?);
    let json = parameters.to_json();
    match try_parameters(kind, &json) {
        Ok(parameters) => {
            let native = Native { kind, client, parameters };
            let what = Doing::Native(native);
            Some(At { value: Action { name: name.value, allow_override, emits, what }, at: name.at })
        }
        Err(error) => {
            fields.findings.error(source, &parameters.at, error);
            None
        }
    }
}

/// The topics that it is known to lead to.
fn emits(fields: &mut Fields<'_, '_>) -> Vec<String> {
    let mut topics = vec![];
    for At { value: topic, at } in
        fields.texts("emits", "a list of topics, such as `[telephony.service.status]`")
    {
        if topic.split('.').any(str::is_empty) {
            let message = format!("`emits`: {topic:?} is no topic: its parts are separated by single dots");
            fields.findings.error(fields.source, &at, message);
        } else {
            topics.push(topic);
        }
    }
    topics
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

/// Parts of the names of headers that carry credentials.
const CREDENTIAL_HEADERS: [&str; 6] = ["authorization", "cookie", "api-key", "apikey", "token", "secret"];

/// Takes `Bearer env:NAME` apart, or `env:NAME` alone; `None`: it is no reference.
fn read_credential(header: &str, text: &str) -> Option<Result<Credential, String>> {
    let (scheme, reference) = match text.split_once(' ') {
        Some((scheme, reference)) => (format!("{scheme} "), reference.trim_start()),
        None => (String::new(), text),
    };
    match secret::read(reference) {
        Written::Reference(secret) => Some(Ok(Credential { header: header.into(), scheme, secret })),
        Written::Malformed(why) => Some(Err(why)),
        Written::Literal => None,
    }
}

fn read_headers(
    source: Source<'_>,
    node: &Node,
    findings: &mut Findings,
) -> (Vec<(String, Template)>, Vec<Credential>) {
    let Kind::Map(entries) = &node.kind else {
        findings.error(source, &node.at, format!("`headers`: expected a map, found {}", node.what()));
        return Default::default();
    };
    let (mut headers, mut credentials) = (vec![], vec![]);
    for entry in entries {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if entry.key.is_empty() || !entry.key.chars().all(token) {
            findings.error(source, &entry.key_at, format!("{:?} is no header name", entry.key));
            continue;
        }
        let text = entry.value.as_str();
        match text.and_then(|text| read_credential(&entry.key, text)) {
            Some(Ok(credential)) => {
                credentials.push(credential);
                continue;
            }
            Some(Err(why)) => {
                findings.error(source, &entry.value.at, format!("`{}`: {why}", entry.key));
                continue;
            }
            None => {}
        }
        let name = entry.key.to_ascii_lowercase();
        if CREDENTIAL_HEADERS.iter().any(|part| name.contains(part))
            && text.is_some_and(|text| !text.contains("{{"))
        {
            findings.warning(
                "literal-secret",
                source,
                &entry.value.at,
                format!("`{}` is written in place, where everyone who reads the set can read it", entry.key),
                format!("{}, behind its scheme if it has one: `Bearer env:NAME`", secret::INSTEAD),
            );
        }
        match text.map(|text| Template::parse(text, Place::Header)) {
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
    (headers, credentials)
}
