//! What the platform should have of a set's subscriptions, what it has, and what leads from one to the other (G1).
//! Pure.
//!
//! The API is the one that the guide imagines. It has no field for a mark, so a subscription that holdline made is
//! recognised by its name: [`MARK`] and the name that it has in the set, which itself can hold no colon. Nor does
//! it give a secret back: whether the platform signs with the right one cannot be seen, only put right by sending
//! it. [`plan`] compares, [`Change::call`] is the call that a difference takes.

use serde_json::{Map, Value};

use crate::native::Call;
use crate::playbook::{Auth, Method, SecretRef, Set, Subscription, percent};
use crate::source::{Kind, is_free_part};

/// Where the platform keeps subscriptions.
pub const PATH: &str = "/api/v2/events/subscriptions";

/// What the name of a subscription begins with that holdline made.
pub const MARK: &str = "holdline:";

/// What leads from what the platform has to what it should have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In the order in which they are made: nothing is taken away before what takes its place is there.
    pub changes: Vec<Change>,
    /// Names of what the platform has and holdline did not make: never touched.
    pub others: Vec<String>,
    /// Subscriptions of the set that the platform does not send, and why.
    pub left_out: Vec<(String, &'static str)>,
}

/// What is to be done about one subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name in the set.
    pub subscription: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The body is whole but for the secret.
    Create {
        body: Map<String, Value>,
    },
    /// The same. Without a field that differs, only the secret is sent anew.
    Update {
        id: String,
        body: Map<String, Value>,
        fields: Vec<Field>,
    },
    Remove {
        id: String,
    },
}

/// A field that differs, as it may be shown; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// The fields that are compared. The name is the identity, and the secret is not given back.
const FIELDS: [&str; 5] = ["topicName", "filterExpression", "callbackUrl", "authType", "retryPolicy"];

/// Compares a set with the subscriptions that the platform has. `rotate`: every secret is sent anew.
pub fn plan(set: &Set, there: &[Value], rotate: bool) -> Plan {
    let mut plan = Plan::default();
    let (mut creates, mut updates, mut removes) = (vec![], vec![], vec![]);
    let mut kept: Vec<&str> = vec![];
    for subscription in set.subscriptions.values() {
        if let Some(why) = why_left_out(subscription) {
            plan.left_out.push((subscription.name.clone(), why));
            continue;
        }
        let body = body(subscription);
        let Some(found) = there.iter().find(|found| made_for(found) == Some(subscription.name.as_str()))
        else {
            creates.push(change(&subscription.name, What::Create { body }));
            continue;
        };
        let id = text(found, "id");
        kept.push(id);
        let fields = differences(subscription, found, &body);
        if !fields.is_empty() || (rotate && secret(subscription).is_some()) {
            updates.push(change(&subscription.name, What::Update { id: id.into(), body, fields }));
        }
    }
    for found in there {
        let id = text(found, "id");
        match made_for(found) {
            None => plan.others.push(text(found, "name").into()),
            Some(name) if !kept.contains(&id) => removes.push(change(name, What::Remove { id: id.into() })),
            Some(_) => {}
        }
    }
    plan.changes = [creates, updates, removes].concat();
    plan
}

impl Change {
    /// The call that makes it. The platform takes a subscription as a whole, so every call but a removal carries
    /// the secret, if the subscription has one.
    pub fn call(&self, secret: Option<&str>) -> Call {
        let with_secret = |body: &Map<String, Value>| {
            let secret = secret.map(|secret| ("secretToken".to_string(), Value::from(secret)));
            Some(Value::Object(body.clone().into_iter().chain(secret).collect()))
        };
        match &self.what {
            What::Create { body } => {
                Call { method: Method::Post, path: PATH.into(), body: with_secret(body) }
            }
            What::Update { id, body, .. } => {
                Call { method: Method::Put, path: path_of(id), body: with_secret(body) }
            }
            What::Remove { id } => Call { method: Method::Delete, path: path_of(id), body: None },
        }
    }
}

/// The secret that the platform signs with: of two, the second is the one to come.
pub fn secret(subscription: &Subscription) -> Option<&SecretRef> {
    subscription.secrets.last()
}

/// Whether the platform's list of topics has a topic; `{id}` stands for itself, under whatever name.
pub fn is_listed(topics: &[Value], wanted: &str) -> bool {
    let parts = |topic: &str| -> Vec<String> {
        topic.split('.').map(|part| if is_free_part(part) { "{}".into() } else { part.into() }).collect()
    };
    topics.iter().any(|topic| parts(text(topic, "id")) == parts(wanted))
}

fn why_left_out(subscription: &Subscription) -> Option<&'static str> {
    match (subscription.source, &subscription.callback_url) {
        (Kind::Guide, None) => Some("it has no callbackUrl, so somebody else posts to it"),
        (Kind::Guide, Some(_)) => None,
        _ if subscription.pull.is_some() => Some("the gateway listens on channels of its own"),
        _ => Some("its source is not the guide's API"),
    }
}

fn change(name: &str, what: What) -> Change {
    Change { subscription: name.into(), what }
}

fn path_of(id: &str) -> String {
    format!("{PATH}/{}", percent(id))
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The name of the set's subscription for which holdline made this one.
fn made_for(found: &Value) -> Option<&str> {
    text(found, "name").strip_prefix(MARK)
}

/// What the platform should have, but for the secret.
fn body(subscription: &Subscription) -> Map<String, Value> {
    let auth = Auth::NAMES.iter().find(|(_, auth)| *auth == subscription.auth).map(|(name, _)| *name);
    let fields = [
        ("name", Some(Value::from(format!("{MARK}{}", subscription.name)))),
        ("topicName", Some(subscription.topic.clone().into())),
        ("filterExpression", subscription.filter.as_ref().map(|filter| filter.source().into())),
        ("callbackUrl", subscription.callback_url.clone().map(Value::from)),
        ("authType", auth.map(Value::from)),
        ("retryPolicy", subscription.retry_policy.clone()),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

fn differences(subscription: &Subscription, found: &Value, body: &Map<String, Value>) -> Vec<Field> {
    let in_address = subscription.auth == Auth::PathToken || text(found, "authType") == "PATH_TOKEN";
    let mut fields = vec![];
    for name in FIELDS {
        let (old, new) = (found.get(name).filter(|value| !value.is_null()), body.get(name));
        if old == new {
            continue;
        }
        let shown = |value: Option<&Value>| match value?.as_str() {
            Some(url) if name == "callbackUrl" => Some(without_secrets(url, in_address)),
            _ => value.map(Value::to_string),
        };
        fields.push(Field { name, old: shown(old), new: shown(new) });
    }
    fields
}

/// A URL without what may be secret in it: user, query and, where the address is the proof, its path.
fn without_secrets(url: &str, in_address: bool) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) => (rest.get(..at).unwrap_or_default(), "?…"),
        None => (rest, ""),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(_, host)| ("…@", host));
    let path = if in_address { "…" } else { path };
    format!("\"{scheme}://{user}{host}/{path}{query}\"")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::playbook::load;
    use holdline_proto::playbooks::Bundle;

    const PLAYBOOK: &str = "playbook: p\non:\n  topic: t.a\n  entity: data.id\n  failed: status == 'F'\n  \
                            healthy: status == 'H'\nact:\n  failed: {do: [x], class: failover}\nrevert: {do: [x]}\n";

    fn set(subscriptions: &[Value]) -> Set {
        let mut bundle = Bundle::default();
        bundle.files.insert("p.playbook.yaml".into(), PLAYBOOK.into());
        let action = json!({"name": "x", "actionType": "WEBHOOK", "url": "https://example.com/x"});
        bundle.files.insert("actions/x.json".into(), action.to_string());
        let quiet =
            json!({"name": "base", "topicName": "t.a", "authType": "HMAC", "secretToken": "env:BASE"});
        for (n, subscription) in subscriptions.iter().chain([&quiet]).enumerate() {
            bundle.files.insert(format!("subscriptions/{n}.json"), subscription.to_string());
        }
        let (set, findings) = load(&bundle);
        set.unwrap_or_else(|| panic!("{findings:?}"))
    }

    fn wanted(name: &str, more: Value) -> Value {
        let mut subscription = json!({
            "name": name, "topicName": "t.a", "authType": "HMAC", "secretToken": ["env:OLD", "env:NEW"],
            "callbackUrl": "https://user:pass@example.com/hook?key=k",
        });
        subscription.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // Two with one path are refused.
        if let Some(url) = subscription["callbackUrl"].as_str() {
            subscription["callbackUrl"] = url.replace("/hook", &format!("/hook/{name}")).into();
        }
        subscription
    }

    /// What the platform gives back of it.
    fn there(id: &str, wanted: &Value) -> Value {
        let mut found = wanted.clone();
        found["id"] = id.into();
        found["name"] = format!("{MARK}{}", text(wanted, "name")).into();
        found.as_object_mut().unwrap().remove("secretToken");
        found
    }

    fn told(plan: &Plan) -> Vec<String> {
        let field = |field: &Field| {
            let shown = |value: &Option<String>| value.clone().unwrap_or("-".into());
            format!("{} {} {}", field.name, shown(&field.old), shown(&field.new))
        };
        let tell = |change: &Change| match &change.what {
            What::Create { .. } => format!("+ {}", change.subscription),
            What::Update { id, fields, .. } => {
                format!("~ {id} [{}]", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
            What::Remove { id } => format!("- {id}"),
        };
        plan.changes.iter().map(tell).collect()
    }

    #[test]
    fn g1_what_differs_is_created_updated_and_removed_in_this_order() {
        let check = |wanted: &[Value], there: &[Value], rotate, expected: &[&str]| {
            assert_eq!(told(&plan(&set(wanted), there, rotate)), expected, "{wanted:?} {there:?}");
        };
        let (a, b) = (wanted("a", json!({})), wanted("b", json!({"retryPolicy": {"maxAttempts": 3}})));
        let foreign = json!({"id": "9", "name": "a", "topicName": "t.a"});
        check(&[], &[], false, &[]);
        check(std::slice::from_ref(&a), std::slice::from_ref(&foreign), false, &["+ a"]);
        check(&[a.clone(), b.clone()], &[there("1", &a), there("2", &b)], false, &[]);
        check(std::slice::from_ref(&a), &[there("1", &a)], true, &["~ 1 []"]);
        check(std::slice::from_ref(&a), &[foreign, there("2", &b)], false, &["+ a", "- 2"]);
        // Twice, as after an answer that was lost and a list that came too late.
        check(std::slice::from_ref(&a), &[there("1", &a), there("2", &a)], false, &["- 2"]);
        let changed = wanted("b", json!({"filterExpression": "status == 'F'", "authType": "BASIC"}));
        check(
            &[changed, a.clone()],
            &[there("3", &wanted("c", json!({}))), there("2", &b)],
            false,
            &[
                "+ a",
                "~ 2 [filterExpression - \"status == 'F'\", authType \"HMAC\" \"BASIC\", retryPolicy \
                 {\"maxAttempts\":3} -]",
                "- 3",
            ],
        );
        // A null is no value.
        let mut with_null = there("1", &a);
        with_null["retryPolicy"] = Value::Null;
        check(&[a], &[with_null], false, &[]);
    }

    #[test]
    fn g7_what_may_be_secret_in_an_address_is_not_shown() {
        let check = |url: &str, in_address, expected: &str| {
            assert_eq!(without_secrets(url, in_address), format!("{expected:?}"), "{url}");
        };
        check("https://example.com/hook", false, "https://example.com/hook");
        check("https://user:pass@example.com/hook?key=k", false, "https://…@example.com/hook?…");
        check("https://example.com/v1/events/a/token", true, "https://example.com/…");
        check("https://example.com", false, "https://example.com/");
    }

    #[test]
    fn g1_calls_carry_the_secret_to_come_and_leave_out_what_is_not_the_platforms() {
        let set = set(&[wanted("a", json!({"filterExpression": "status == 'F'"}))]);
        let plan =
            plan(&set, &[json!({"id": "x/y", "name": "holdline:gone"}), json!({"name": "by hand"})], false);
        assert_eq!(plan.others, ["by hand"]);
        assert_eq!(plan.left_out, [("base".into(), "it has no callbackUrl, so somebody else posts to it")]);
        let expected = json!({
            "name": "holdline:a", "topicName": "t.a", "filterExpression": "status == 'F'", "authType": "HMAC",
            "callbackUrl": "https://user:pass@example.com/hook/a?key=k", "secretToken": "hush",
        });
        let calls: Vec<Call> = plan.changes.iter().map(|change| change.call(Some("hush"))).collect();
        assert_eq!(calls[0], Call { method: Method::Post, path: PATH.into(), body: Some(expected) });
        assert_eq!(calls[1], Call { method: Method::Delete, path: format!("{PATH}/x%2Fy"), body: None });
        assert_eq!(secret(&set.subscriptions["a"]), Some(&SecretRef::Env("NEW".into())));
    }

    #[test]
    fn topics_are_listed_as_templates() {
        let topics = [json!({"id": "v2.edges.{id}"}), json!({"id": "v2.edges.{id}.metrics"})];
        let check = |topic, expected| assert_eq!(is_listed(&topics, topic), expected, "{topic}");
        check("v2.edges.{id}", true);
        check("v2.edges.{edgeId}", true);
        check("v2.edges.{id}.metrics", true);
        check("v2.edges", false);
        check("v2.edges.metrics", false);
    }
}
