//! `holdline subscriptions diff|apply DIR`: the platform's side of a set's subscriptions.
//!
//! What differs stands in `decide::subscribe`; here it is asked for, shown and made. Topics that the gateway listens
//! to itself are only looked at ([`listening`]).

mod listening;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use holdline_decide::native::{Call, PAGE_SIZE};
use holdline_decide::playbook::{self, Platform, Set, Severity};
use holdline_decide::subscribe::{self, Change, Field, Plan, What};
use holdline_platform::{Api, Failed, Response};
use holdline_proto::audit::{Act, Deed};
use holdline_proto::topology::Role;
use holdline_stage::secret::Lookup;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use self::listening::Listening;
pub(super) use self::listening::TOPICS;
use super::audit::audited;
use super::{Installation, No, Who, files, text};
use crate::output::{self, Output, line};

/// Pages that are read of it.
const PAGES_MAX: usize = 20;

/// The platform does not tell which secret it signs with.
const SECRET: &str = "secrets cannot be compared; `holdline subscriptions apply --rotate` sends them";

#[derive(Debug, Args)]
pub(crate) struct Subscriptions {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What the platform has and what it should have; exit code 1 when they differ
    Diff(Which),
    /// Make it so: create, update, then remove what holdline made and the folder no longer has
    Apply(Box<Apply>),
}

#[derive(Debug, Args)]
struct Which {
    /// Folder of playbooks
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The OAuth client of holdline.yaml that calls; needed where it has several
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    which: Which,
    /// Send every secret anew
    #[arg(long)]
    rotate: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    signed: Signed,
}

/// What the audit trail needs, which is in the installation's broker.
#[derive(Debug, Args)]
struct Signed {
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = text)]
    reason: Option<String>,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    installation: Installation,
}

impl Subscriptions {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (which, rotate, apply) = match self.verb {
            Verb::Diff(which) => (which, false, None),
            Verb::Apply(apply) => {
                let Apply { which, rotate, dry_run, signed } = *apply;
                (which, rotate, (!dry_run).then_some(signed))
            }
        };
        let (set, lookup) = which.load()?;
        let platform = set.platform.as_ref().context(
            "holdline.yaml names no platform: name the region and an OAuth client under `platform` there",
        )?;
        let client = which.client(platform)?;
        // Two crypto providers are never compiled in, but reqwest wants to be told all the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let caller = Caller { api: Api::new(lookup.clone())?, platform, client };
        let plan = subscribe::plan(&set, &caller.list().await?, rotate);
        let listening = listening::check(&caller, &set).await;
        if which.output == Output::Text {
            show(&plan, &listening);
        }
        let applied = match apply {
            Some(signed) => {
                let secrets = secrets(&set, &plan, &lookup).await?;
                Some(signed.make(&caller, &plan, &secrets, rotate, which.output).await?)
            }
            None => None,
        };
        which.conclude(&plan, &listening, applied)
    }
}

impl Which {
    /// The set, when nothing is wrong with it, and where its secrets are to be had.
    fn load(&self) -> anyhow::Result<(Set, Lookup)> {
        let mut bundle = files::read(&self.folder)?;
        let (set, findings) = playbook::load(&bundle);
        let Some(set) = set else {
            match self.output {
                Output::Json => output::json(&json!({"same": false, "findings": findings})),
                Output::Text => {
                    findings.iter().filter(|f| f.severity == Severity::Error).for_each(line);
                    line("\nNothing was asked of the platform: the set cannot be used; see above.");
                }
            }
            return Err(No.into());
        };
        let literals = playbook::replace_literals(&mut bundle);
        let literals = literals.into_iter().map(|(name, literal)| (name, SecretString::from(literal)));
        Ok((set, super::secrets(literals.collect())?))
    }

    fn client<'a>(&'a self, platform: &'a Platform) -> anyhow::Result<&'a str> {
        let there = || platform.clients.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (platform.client(self.client.as_deref()), &self.client) {
            (Some((name, _)), _) => Ok(name),
            (None, Some(name)) => {
                bail!("there is no client {name} in holdline.yaml; there are {}", there())
            }
            (None, None) => {
                bail!("holdline.yaml has several clients: say which one calls with --client ({})", there())
            }
        }
    }

    /// Says how it ended, as an exit code too.
    fn conclude(&self, plan: &Plan, listening: &[Listening], applied: Option<Applied>) -> anyhow::Result<()> {
        let heard = listening.iter().all(|listening| listening.problems.is_empty());
        let good = match &applied {
            None => plan.changes.is_empty(),
            Some(applied) => applied.stopped.is_none(),
        };
        match self.output {
            Output::Json => {
                let done = applied.as_ref().map_or(0, |applied| applied.done);
                let changes: Vec<Value> =
                    plan.changes.iter().enumerate().map(|(n, change)| shape(change, n < done)).collect();
                let left_out: Vec<Value> = plan
                    .left_out
                    .iter()
                    .map(|(name, why)| json!({"subscription": name, "why": why}))
                    .collect();
                output::json(&json!({
                    "same": plan.changes.is_empty() && heard,
                    "applied": applied.is_some(),
                    "stopped": applied.as_ref().and_then(|applied| applied.stopped.clone()),
                    "changes": changes,
                    "others": plan.others,
                    "leftOut": left_out,
                    "channels": listening.iter().map(Listening::shape).collect::<Vec<_>>(),
                }));
            }
            Output::Text => match &applied {
                None if plan.changes.is_empty() => line(format!("nothing differs; {SECRET}")),
                None => line(format!("{} change(s) to make; {SECRET}", plan.changes.len())),
                Some(Applied { done, stopped: None }) => line(format!("{done} change(s) made")),
                Some(Applied { done, stopped: Some(reason) }) => {
                    let (made, left) = plan.changes.split_at((*done).min(plan.changes.len()));
                    line(format!("stopped: {reason}"));
                    line(format!("  made: {}", titles(made)));
                    line(format!(
                        "  not made: {}; the next `holdline subscriptions apply` goes on",
                        titles(left)
                    ));
                }
            },
        }
        if good && heard { Ok(()) } else { Err(No.into()) }
    }
}

/// Whose calls they are, and where they go.
struct Caller<'a> {
    api: Api,
    platform: &'a Platform,
    client: &'a str,
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Refused {
    status: Option<u16>,
    reason: String,
}

impl Caller<'_> {
    /// Makes a call as a client and gives the answer's body.
    async fn ask(&self, client: &str, call: &Call) -> Result<Value, Refused> {
        let (method, path) = (call.method.name(), call.path.split('?').next().unwrap_or_default());
        match self.api.send(self.platform, client, call).await {
            Ok(Response { status: 200..300, body, .. }) => Ok(body),
            Ok(response) => {
                let (status, said) = (response.status, response.message());
                let id = response
                    .correlation
                    .as_ref()
                    .map(|id| format!(" (ININ-Correlation-Id {id})"))
                    .unwrap_or_default();
                let reason = format!("{method} {path} was answered {status}: {said}{id}");
                Err(Refused { status: Some(status), reason })
            }
            Err(Failed::Unsent { reason, .. } | Failed::Throttled { reason, .. }) => {
                Err(Refused { status: None, reason: format!("{method} {path} was not sent: {reason}") })
            }
            Err(Failed::Lost { reason }) => {
                let reason = format!(
                    "{method} {path}: whether it was carried out is not known, the next run looks: {reason}"
                );
                Err(Refused { status: None, reason })
            }
        }
    }

    async fn get(&self, client: &str, path: String) -> Result<Value, Refused> {
        self.ask(client, &Call::get(path)).await
    }

    /// Every subscription of the platform. A part would not do: what is not seen would be made once more.
    async fn list(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = vec![];
        for number in 1..=PAGES_MAX {
            let page = self.ask(self.client, &Call::page(subscribe::PATH, number)).await?;
            let entities = page.get("entities").and_then(Value::as_array);
            let entities = entities.with_context(|| {
                format!("GET {}: the answer has no entities, so nothing was changed", subscribe::PATH)
            })?;
            all.extend(entities.iter().cloned());
            if entities.len() < PAGE_SIZE {
                return Ok(all);
            }
        }
        bail!("the platform has more than {} subscriptions; nothing was changed", PAGE_SIZE * PAGES_MAX)
    }
}

/// The secret of every change, looked up before the first is made.
async fn secrets(set: &Set, plan: &Plan, lookup: &Lookup) -> anyhow::Result<Vec<Option<SecretString>>> {
    let mut secrets = vec![];
    for Change { subscription: name, what, .. } in &plan.changes {
        let subscription = set.subscriptions.get(name).filter(|_| !matches!(what, What::Remove { .. }));
        secrets.push(match subscription.and_then(subscribe::secret) {
            None => None,
            Some(reference) => Some(lookup.fetch(reference).await.with_context(|| {
                format!("subscription {name} has its secret in {reference}, which is not there; nothing was changed")
            })?),
        });
    }
    Ok(secrets)
}

impl Signed {
    /// Makes the changes; the audit trail has them first, and where they stopped.
    async fn make(
        self,
        caller: &Caller<'_>,
        plan: &Plan,
        secrets: &[Option<SecretString>],
        rotate: bool,
        output: Output,
    ) -> anyhow::Result<Applied> {
        if plan.changes.is_empty() {
            return Ok(Applied { done: 0, stopped: None });
        }
        let bus = self.installation.bus(Role::Operator).await?;
        let about = format!("the platform's subscriptions, as client {}", caller.client);
        let why = self.reason.unwrap_or_default();
        let by = self.who.operating(&bus, Act::SubscriptionsApply).await?;
        let deed = Deed::new(by, Act::SubscriptionsApply, about, why);
        let deed = deed.with("changes", titles(&plan.changes));
        let deed = if rotate { deed.with("secrets", "sent anew") } else { deed };
        let mut applied = Applied { done: 0, stopped: None };
        let made = async {
            applied = make(caller, plan, secrets, output).await;
            applied.stopped.clone().map_or(Ok(()), |reason| Err(Stopped(reason).into()))
        };
        match audited(&bus, deed, made).await {
            // Where it stopped is told with what was made.
            Err(error) if !error.is::<Stopped>() => Err(error),
            _ => Ok(applied),
        }
    }
}

/// The platform refused a change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);

/// How far it came.
struct Applied {
    done: usize,
    stopped: Option<String>,
}

/// Makes the changes one by one, up to the first that fails.
async fn make(caller: &Caller<'_>, plan: &Plan, secrets: &[Option<SecretString>], output: Output) -> Applied {
    let mut done = 0;
    for (change, secret) in plan.changes.iter().zip(secrets) {
        let secret = secret.as_ref().map(ExposeSecret::expose_secret);
        match caller.ask(caller.client, &change.call(secret)).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(Refused { status: Some(404), .. }) if matches!(change.what, What::Remove { .. }) => {}
            Err(Refused { reason, .. }) => {
                // The platform may repeat what it was sent.
                let reason = match secret {
                    Some(secret) => reason.replace(secret, "(the secret)"),
                    None => reason,
                };
                return Applied { done, stopped: Some(format!("{}: {reason}", title(change))) };
            }
        }
        done += 1;
        if output == Output::Text {
            line(format!("made: {}", title(change)));
        }
    }
    Applied { done, stopped: None }
}

fn verb(what: &What) -> &'static str {
    match what {
        What::Create { .. } => "create",
        What::Update { .. } => "update",
        What::Remove { .. } => "remove",
    }
}

fn title(change: &Change) -> String {
    format!("{} {}", verb(&change.what), change.subscription)
}

fn titles(changes: &[Change]) -> String {
    if changes.is_empty() {
        "nothing".into()
    } else {
        changes.iter().map(title).collect::<Vec<_>>().join(", ")
    }
}

fn shape(change: &Change, done: bool) -> Value {
    let (id, fields) = match &change.what {
        What::Create { .. } => (None, &[][..]),
        What::Update { id, fields, .. } => (Some(id), fields.as_slice()),
        What::Remove { id } => (Some(id), &[][..]),
    };
    let field = |field: &Field| json!({"name": field.name, "old": field.old, "new": field.new});
    json!({
        "change": verb(&change.what),
        "subscription": change.subscription,
        "id": id,
        "fields": fields.iter().map(field).collect::<Vec<_>>(),
        "done": done,
    })
}

fn show(plan: &Plan, listening: &[Listening]) {
    for change in &plan.changes {
        line(title(change));
        let What::Update { fields, .. } = &change.what else { continue };
        let or_nothing = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        for Field { name, old, new } in fields {
            line(match (old, new) {
                (Some(old), Some(new)) if old == new => {
                    format!("  {name}: {old} → another, in a part that is not shown")
                }
                _ => format!("  {name}: {} → {}", or_nothing(old), or_nothing(new)),
            });
        }
        if fields.is_empty() {
            line("  its secret is sent anew");
        }
    }
    for name in &plan.others {
        line(format!("left alone: {name:?}, which holdline did not make"));
    }
    for (name, why) in &plan.left_out {
        line(format!("not the platform's: {name}; {why}"));
    }
    listening.iter().for_each(Listening::show);
}
