//! What people write: playbooks, subscriptions, actions and settings, parsed and checked.
//!
//! [`load`] reads a set of files and either gives a [`Set`] or says everything that is wrong with it.
//! Start reading at [`parse`]; [`predicate`] and [`template`] are the two little languages inside;
//! [`check`] holds what no single file can know.

use std::collections::BTreeMap;

pub use holdline_proto::incident::Lane;
use holdline_proto::incident::TrackKey;
use holdline_proto::playbooks::Bundle;

use crate::{debounce, native, source};

mod check;
mod finding;
mod loops;
mod node;
mod parse;
mod predicate;
mod secret;
mod template;

pub use check::explain;
pub use finding::{Finding, Severity};
pub use parse::parse_duration_ms;
pub use predicate::{Facts, Predicate};
pub use secret::{SecretRef, replace_literals, was_literal};
pub(crate) use template::percent;
pub use template::{Path, RenderError, Template};

/// A set of playbooks that passed every check.
#[derive(Debug, Clone)]
pub struct Set {
    /// Identity of the set: [`Bundle::hash`] of its files.
    pub hash: String,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub actions: BTreeMap<String, Action>,
    pub playbooks: BTreeMap<String, Playbook>,
    pub targets: Vec<Target>,
    /// The organisation that native actions act on.
    pub platform: Option<Platform>,
    /// How many entities a group has, for blast radii.
    pub group_sizes: BTreeMap<String, u32>,
    /// Windows of the week, such as business hours.
    pub windows: BTreeMap<String, crate::hours::Window>,
    /// Who may approve.
    pub people: BTreeMap<String, crate::approval::Person>,
}

/// Reads a set. Gives the set when there is no error among the findings; all findings at once, in the order
/// of files and lines.
pub fn load(bundle: &Bundle) -> (Option<Set>, Vec<Finding>) {
    check::load(bundle)
}

/// Compiles a set that was checked before; if it cannot be used after all, every reason.
///
/// # Errors
/// What is wrong with it.
pub fn compile(bundle: &Bundle) -> Result<Set, String> {
    let (set, findings) = load(bundle);
    set.ok_or_else(|| findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; "))
}

/// Whether a path below the playbooks' folder belongs to a set: `**/*.playbook.yaml`,
/// `subscriptions/*.{json,yaml}`, `actions/*.{json,yaml}`, `holdline.yaml`.
pub fn belongs(path: &str) -> bool {
    parse::kind_of(path).is_some()
}

impl Set {
    /// The playbooks that listen to a subscription, in the order of their names.
    pub fn listeners<'a>(&'a self, subscription: &'a str) -> impl Iterator<Item = &'a Playbook> {
        self.playbooks.values().filter(move |p| p.on.subscriptions.iter().any(|s| s == subscription))
    }

    /// What an entity's kind of trouble leads to, if the set has its playbook.
    pub fn rules(&self, key: &TrackKey) -> Option<&debounce::Rules> {
        self.playbooks.get(&key.playbook)?.rules(key.lane)
    }

    /// The target that an action's host and port fall under, if the settings name it.
    pub fn target(&self, host: &str, port: u16) -> Option<&Target> {
        self.targets.iter().find(|t| t.host == host && t.port.is_none_or(|p| p == port))
    }

    /// What calls are made with: every reference to a secret, and who needs it.
    pub fn credentials(&self) -> impl Iterator<Item = (String, &SecretRef)> {
        let clients = self.platform.iter().flat_map(|platform| &platform.clients);
        let of_clients = clients.flat_map(|(name, client)| {
            [&client.id, &client.secret].map(|reference| (format!("client {name}"), reference))
        });
        let of_actions = self.actions.iter().flat_map(|(name, action)| {
            let credentials = match &action.what {
                Doing::Webhook(webhook) => webhook.credentials.as_slice(),
                Doing::Native(_) => &[],
            };
            credentials.iter().map(move |credential| (format!("action {name}"), &credential.secret))
        });
        of_clients.chain(of_actions)
    }
}

/// Where events come from: the guide's JSON, and holdline's own fields `reports`, `source`, `entityLabel`,
/// `poll`, `client`, `entities`.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub name: String,
    /// What its bodies look like.
    pub source: source::Kind,
    /// A topic, or a template of topics: see [`source::matches_topic`].
    pub topic: String,
    /// What counts as trouble; never applied to health (G3).
    pub filter: Option<Predicate>,
    /// Where the platform posts to, as written.
    pub callback_url: Option<String>,
    /// Its path, on which the gateway listens as well.
    pub callback_path: Option<String>,
    /// How the platform repeats what it could not deliver: sent to it as written.
    pub retry_policy: Option<serde_json::Value>,
    pub auth: Auth,
    /// One or two secrets, valid at once (rotation).
    pub secrets: Vec<SecretRef>,
    /// Path of the entity, by which events are partitioned; `None` when no playbook listens.
    pub partition_key: Option<Path>,
    pub reports: Reports,
    /// Alertmanager only: the label whose value is the entity; the alert's fingerprint without one.
    pub entity_label: Option<String>,
    /// Statuspage only: where the page is asked, so that nobody's claim needs to be believed.
    pub poll: Option<Poll>,
    /// Notification only: the gateway listens on channels of its own, and nobody may post.
    pub pull: Option<Pull>,
}

/// Notification channels that the gateway opens by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// The platform's OAuth client whose channels they are.
    pub client: String,
    /// Ids of the edges or trunks; empty: all that the platform lists.
    pub entities: Vec<String>,
    /// From one look at their state to the next; `None`: only after each connect. Milliseconds.
    pub every_ms: Option<i64>,
}

/// A page that the gateway asks by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// HTTPS, or plain HTTP to loopback.
    pub url: String,
    /// From one look to the next. Milliseconds.
    pub every_ms: i64,
}

/// How a request proves where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The guide's signature: `X-PureCloud-Signature` over `<timestamp>.<body>`.
    Hmac,
    /// `webhook-id`, `webhook-timestamp` and `webhook-signature`, as standardwebhooks.com has them.
    StandardWebhooks,
    /// `X-Hub-Signature-256` over the body. It has no time, so that only the dedup window stops replays.
    HubSignature,
    /// A secret address, for senders that cannot sign. It has no time either.
    PathToken,
    Basic,
    /// Spelled out, and then for loopback senders only.
    None,
}

impl Auth {
    /// Every way with the name that a subscription calls it by.
    pub const NAMES: [(&str, Auth); 6] = [
        ("HMAC", Auth::Hmac),
        ("STANDARD_WEBHOOKS", Auth::StandardWebhooks),
        ("HUB_SIGNATURE", Auth::HubSignature),
        ("PATH_TOKEN", Auth::PathToken),
        ("BASIC", Auth::Basic),
        ("NONE", Auth::None),
    ];
}

/// Whether a source repeats its state or tells of changes only (D2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reports {
    #[default]
    Repeats,
    /// The state persists until the source says otherwise.
    Changes,
}

/// An action.
#[derive(Debug, Clone)]
pub struct Action {
    pub name: String,
    /// `allowOverride`: people have to allow it, whatever its playbook says.
    pub allow_override: bool,
    /// Topics of events that it is known to lead to: holdline's own field `emits`. Each may be a template, see
    /// [`source::matches_topic`].
    pub emits: Vec<String>,
    pub what: Doing,
}

/// What an action does.
#[derive(Debug, Clone)]
pub enum Doing {
    /// `actionType: WEBHOOK`
    Webhook(Webhook),
    /// `actionType: GENESYS`
    Native(Native),
}

impl Action {
    /// Every path that its templates refer to.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.what {
            Doing::Webhook(webhook) => std::iter::once(&webhook.url)
                .chain(webhook.headers.iter().map(|(_, value)| value))
                .chain(&webhook.body)
                .flat_map(Template::paths)
                .collect(),
            Doing::Native(native) => native.parameters.paths().collect(),
        }
    }

    /// Whether a call that may have happened may be made again: the target honours the idempotency key, or it
    /// is looked at before every call.
    pub fn may_be_repeated(&self) -> bool {
        match &self.what {
            Doing::Webhook(webhook) => webhook.idempotent,
            Doing::Native(native) => native.kind.can_be_looked_at,
        }
    }

    /// Why `revert.do: undo` cannot undo it, if it cannot.
    pub fn why_no_undo(&self) -> Option<&'static str> {
        match &self.what {
            Doing::Webhook(_) => Some("a webhook keeps no pre-image"),
            Doing::Native(native) if !native.kind.can_be_looked_at => Some("its kind cannot be undone"),
            Doing::Native(_) => None,
        }
    }
}

/// An action on the platform itself.
#[derive(Debug, Clone)]
pub struct Native {
    pub kind: &'static native::Kind,
    /// Which of the platform's OAuth clients calls; `None`: the only one.
    pub client: Option<String>,
    /// A JSON object with placeholders.
    pub parameters: Template,
}

/// A webhook action, as the guide's JSON says it.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub method: Method,
    pub url: Template,
    pub headers: Vec<(String, Template)>,
    pub credentials: Vec<Credential>,
    pub body: Option<Template>,
    /// The target honours the idempotency key, so an ambiguous call may be repeated with the same one.
    /// `"idempotent": false` (holdline's own field) has such a call held for a person.
    pub idempotent: bool,
}

/// A header whose value is a secret. The executor looks it up for each call; it is stored nowhere and shown to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub header: String,
    /// Stands before the secret: `Bearer `. Empty, if it is the whole value.
    pub scheme: String,
    pub secret: SecretRef,
}

impl Webhook {
    /// Whom it calls: scheme, host and port, which no placeholder can stand in.
    pub fn origin(&self) -> &str {
        let start = self.url.fixed_start();
        let host_at = start.find("://").map_or(0, |at| at + 3);
        let end = start.get(host_at..).and_then(|rest| rest.find(['/', '?', '#'])).map(|at| host_at + at);
        end.and_then(|end| start.get(..end)).unwrap_or(start)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// One playbook.
#[derive(Debug, Clone)]
pub struct Playbook {
    pub name: String,
    pub description: Option<String>,
    pub owner: Option<String>,
    pub on: On,
    /// What FAILED leads to.
    pub failover: Option<debounce::Rules>,
    /// What DEGRADED leads to.
    pub scaling: Option<debounce::Rules>,
    /// How it is seen whether the remedies of a lane worked.
    pub verify: BTreeMap<Lane, crate::verify::Verify>,
    /// How much it may do.
    pub guard: crate::budget::Guard,
    /// What of it people have to allow, and when.
    pub approval: Option<crate::approval::Approval>,
    /// Every path that a template of its actions refers to.
    pub paths: Vec<Path>,
}

impl Playbook {
    /// What it does about one kind of trouble.
    pub fn rules(&self, lane: Lane) -> Option<&debounce::Rules> {
        match lane {
            Lane::Failover => self.failover.as_ref(),
            Lane::Scaling => self.scaling.as_ref(),
        }
    }
}

/// What a playbook listens to.
#[derive(Debug, Clone)]
pub struct On {
    /// The one that is named, or all of the topic.
    pub subscriptions: Vec<String>,
    pub entity: Path,
    pub group: Option<Path>,
    pub failed: Predicate,
    pub degraded: Option<Predicate>,
    pub healthy: Option<Predicate>,
}

/// The organisation that native actions act on: `platform` in holdline.yaml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The region's domain: the API is at `api.<region>`, tokens come from `login.<region>`.
    pub region: String,
    /// Connect there instead, for tests and the demonstration.
    pub connect_to: Option<ConnectTo>,
    /// OAuth clients by the names that actions call them by: one per family of permissions, because
    /// `telephony:plugin:all` is all or nothing (genesys.md 3).
    pub clients: BTreeMap<String, Client>,
    /// Calls in any second, all clients together; `None`: the default of 100.
    pub calls_per_second: Option<u32>,
}

impl Platform {
    /// The client of that name; without a name the only one there is.
    pub fn client<'a>(&'a self, name: Option<&'a str>) -> Option<(&'a str, &'a Client)> {
        match name {
            Some(name) => self.clients.get(name).map(|client| (name, client)),
            None if self.clients.len() == 1 => {
                self.clients.first_key_value().map(|(name, client)| (name.as_str(), client))
            }
            None => None,
        }
    }
}

/// An OAuth client (client credentials).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub id: SecretRef,
    pub secret: SecretRef,
}

/// A host that the settings name.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub host: String,
    pub port: Option<u16>,
    /// Calls in any second; `None`: the default of 100.
    pub calls_per_second: Option<u32>,
    /// Connect there instead, for tests.
    pub connect_to: Option<ConnectTo>,
}

/// Another address for a target. A bare address is spoken to in plain HTTP and must be loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTo {
    pub tls: bool,
    pub address: std::net::SocketAddr,
}
