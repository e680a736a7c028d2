//! What a person types, one file per noun.

mod approval;
pub(crate) mod audit;
mod check;
mod dlq;
mod doctor;
pub(crate) mod files;
mod incident;
mod incidents;
mod install;
mod pause;
pub(crate) mod push;
pub(crate) mod send;
mod subscriptions;
mod why_not;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use holdline_decide::approval::{Person, Right, expired};
use holdline_proto::approval::Verdict;
use holdline_proto::audit::{Act, Deed};
use holdline_proto::topology::Role;
use holdline_stage::admin::Health;
use holdline_stage::audit::append;
use holdline_stage::bus::Bus;
use holdline_stage::run::{Tasks, finish};
use holdline_stage::secret::{Lookup, environment_with};
use holdline_stage::settings::{Nats, Reader};
use holdline_stage::token::Token;
use holdline_stage::vault::Vault;
use holdline_stage::{dump, telemetry};
use secrecy::SecretString;

use crate::broker::{self, DataDir};
use crate::up::Up;

/// Bytes of a reason, and of a person's name.
const TEXT_BYTES_MAX: usize = 1_000;

/// Autonomous incident response for contact centres on Genesys Cloud.
#[derive(Debug, Parser)]
#[command(name = "holdline", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All five services in one process, beside a nats-server of their own
    Up(Box<Up>),
    /// The nats-server alone, for services that are started apart
    Broker(install::Broker),
    /// Create or update streams, buckets and consumers; never destroys
    Provision(install::Provision),
    /// Check a folder of playbooks
    Check(check::Check),
    /// Make a folder of playbooks the current set
    Push(push::Push),
    /// Send a signed event to the gateway
    Send(send::Send),
    /// List incidents
    Incidents(incidents::Incidents),
    /// One incident: show it, or replay its decisions from the recorded inputs
    Incident(incident::Incident),
    /// What became of an event, by its accept id or its own id
    WhyNot(why_not::WhyNot),
    /// Stop what holdline would do: everything, a playbook, an entity, a group
    Pause(pause::Pause),
    /// Let it go on
    Resume(pause::Resume),
    /// What is paused, by whom and why
    Pauses(pause::Pauses),
    /// What waits for people to allow it, with the exact request
    Approvals(approval::Approvals),
    /// Allow what waits, with your token
    Approve(approval::Rule),
    /// Forbid what waits, or take back what you have allowed
    Deny(approval::Rule),
    /// Make a token for a person
    Token(approval::NewToken),
    /// Who did what and why; verify that nothing of it was changed; export it
    Audit(audit::Audit),
    /// The dead letters: list, show, replay, discard
    Dlq(dlq::Dlq),
    /// The platform's side: subscriptions as the playbooks' folder has them
    Subscriptions(subscriptions::Subscriptions),
    /// Check the installation, and count that every accepted event ended exactly once
    Doctor(doctor::Doctor),
}

/// Which installation a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct Installation {
    /// The data folder of `holdline up`
    #[arg(long, value_name = "DIR", default_value = "holdline-data")]
    data: PathBuf,
    /// A broker instead
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Folder with the seeds of the broker's users (<role>.nk); with --data it is the data folder's own
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    tls: broker::Tls,
}

impl Installation {
    pub(crate) fn connection(&self, role: Role) -> anyhow::Result<Nats> {
        match &self.nats {
            Some(url) => Ok(broker::connection(url, self.keys.as_deref(), self.tls.read()?, role)),
            None => {
                let own = DataDir(self.data.clone()).connection(role)?;
                Ok(match &self.keys {
                    Some(keys) => broker::connection(&own.url, Some(keys), own.tls, role),
                    None => own,
                })
            }
        }
    }

    /// The role of a command that only reads: an operator's, or a viewer's where his is the only seed.
    pub(crate) fn looking(&self) -> Role {
        let own = || DataDir(self.data.clone()).keys();
        let keys = self.keys.clone().or_else(|| self.nats.is_none().then(own));
        let has = |role| keys.as_ref().is_some_and(|keys| broker::has_seed(keys, role));
        if has(Role::Viewer) && !has(Role::Operator) { Role::Viewer } else { Role::Operator }
    }

    /// The same, connected.
    pub(crate) async fn bus_to_look(&self) -> anyhow::Result<Bus> {
        let role = self.looking();
        Bus::connect(role, &self.connection(role)?, &Tasks::default(), &Health::default()).await
    }

    pub(crate) async fn bus(&self, role: Role) -> anyhow::Result<Bus> {
        if role == Role::Operator && self.looking() == Role::Viewer {
            let told = "this is not for whoever only looks: among the keys is a viewer's seed (viewer.nk), and no \
                        operator's (operator.nk)";
            return Err(Refused(told.into()).into());
        }
        Bus::connect(role, &self.connection(role)?, &Tasks::default(), &Health::default()).await
    }
}

/// Who types it; the audit trail has it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Who {
    /// Who you are
    #[arg(long, value_name = "NAME", env = "USER", default_value = "somebody", value_parser = text)]
    pub by: String,
    /// The file with your token, where `people` of holdline.yaml says who may operate
    #[arg(long, value_name = "FILE", env = "HOLDLINE_TOKEN_FILE")]
    token: Option<PathBuf>,
}

impl Who {
    /// The name of whoever operates. Once the set in force names people who may, only their tokens say who somebody is.
    /// Who is refused is in the audit trail, with the act that he was about.
    ///
    /// # Errors
    /// [`Refused`] when it takes a token, and this is none of theirs; another when the broker does not say who may.
    pub(crate) async fn operating(self, bus: &Bus, act: Act) -> anyhow::Result<String> {
        let set = match approval::stored(bus).await.context("it is not known who may operate")? {
            Ok(set) => set,
            // A set that cannot be used names nobody, and must not keep anybody from pushing a better one.
            Err(reason) => {
                tracing::debug!("nobody is known by a token: {reason}");
                return Ok(self.by);
            }
        };
        if !set.people.values().any(|person| person.rights.contains(&Right::Operate)) {
            return Ok(self.by);
        }
        let now_ms = approval::now_ms(bus).await?;
        let public = self.token.as_deref().map(|file| Ok(Token::read(file)?.public()));
        let (by, reason) =
            match public.transpose().map(|public| operator(&set.people, public.as_deref(), now_ms)) {
                Ok(Ok(name)) => return Ok(name),
                Ok(Err((known, reason))) => (known.unwrap_or(self.by), anyhow!(reason)),
                Err(unreadable) => (self.by, unreadable),
            };
        let deed = Deed::new(by, Act::OperationRefused, act.to_string(), format!("{reason:#}"));
        append(bus, &deed).await.context("it is refused, and that cannot be written to the audit trail")?;
        Err(Refused(format!("{reason:#}")).into())
    }
}

/// Who has the token of this public half, if he may operate; else by what he is known, and why he may not.
fn operator(
    people: &BTreeMap<String, Person>,
    public: Option<&str>,
    now_ms: i64,
) -> Result<String, (Option<String>, String)> {
    let Some(public) = public else {
        let told =
            "`people` of holdline.yaml says who may operate: name the file with your token with --token";
        return Err((None, told.into()));
    };
    let Some((name, person)) = people.iter().find(|(_, person)| person.token == public) else {
        return Err((
            Some(public.into()),
            format!("the token {public} may not operate: `people` of holdline.yaml has nobody with it"),
        ));
    };
    if !person.rights.contains(&Right::Operate) {
        let told = format!("{name} may not operate: `people` of holdline.yaml gives no such role");
        return Err((Some(name.clone()), told));
    }
    match expired(name, Some(person), now_ms) {
        Some(reason) => Err((Some(name.clone()), reason)),
        None => Ok(name.clone()),
    }
}

/// What a person says, for others to read.
fn text(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected something that others understand".into()),
        long if long.len() > TEXT_BYTES_MAX => Err(format!("at most {TEXT_BYTES_MAX} bytes")),
        text => Ok(text.into()),
    }
}

/// Where a command looks secrets up: those that stand in the files themselves, the environment, files, and the Vault
/// that `HOLDLINE_VAULT_…` names.
pub(crate) fn secrets(literals: BTreeMap<String, SecretString>) -> anyhow::Result<Lookup> {
    let mut reader = Reader::of_process(None);
    let vault = Vault::read(&mut reader);
    reader.finish()?;
    Ok(environment_with(literals).with_vault(vault))
}

/// It may not be: an answer, for programs as well, and no failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// The answer was "no": exit code 1, nothing more to say.
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub(crate) struct No;

/// Runs what was typed.
pub fn main() -> ExitCode {
    let closed = dump::forbid();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            return if error.print().is_err() || usage { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    // A person reads the terminal: what goes well is said by the command itself.
    telemetry::init("holdline", "warn");
    if let Err(open) = closed {
        tracing::warn!("{open}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ran = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments.command)),
        Err(error) => Err(error.into()),
    };
    match ran {
        Err(error) if error.is::<No>() => ExitCode::FAILURE,
        ran => finish(ran),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => Box::pin(up.run()).await,
        Command::Broker(broker) => broker.run().await,
        Command::Provision(provision) => provision.run().await,
        Command::Check(check) => check.run(),
        Command::Push(push) => push.run().await,
        Command::Send(send) => send.run().await,
        Command::Incidents(incidents) => incidents.run().await,
        Command::Incident(incident) => incident.run().await,
        Command::WhyNot(why_not) => why_not.run().await,
        Command::Pause(pause) => pause.run().await,
        Command::Resume(resume) => resume.run().await,
        Command::Pauses(pauses) => pauses.run().await,
        Command::Approvals(approvals) => approvals.run().await,
        Command::Approve(rule) => rule.run(Verdict::Approve).await,
        Command::Deny(rule) => rule.run(Verdict::Deny).await,
        Command::Token(token) => token.run(),
        Command::Audit(audit) => audit.run().await,
        Command::Dlq(dlq) => dlq.run().await,
        Command::Subscriptions(subscriptions) => Box::pin(subscriptions.run()).await,
        Command::Doctor(doctor) => doctor.run().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_a_living_token_of_the_role_operates() {
        let person = |name: &str, right, until_ms| {
            (
                name.to_string(),
                Person { token: format!("U{name}"), rights: BTreeSet::from([right]), until_ms },
            )
        };
        let people =
            BTreeMap::from([person("ada", Right::Approve, None), person("bob", Right::Operate, Some(5_000))]);
        let check = |public: Option<&str>, now_ms, expected: Result<&str, (Option<&str>, &str)>| {
            let found = operator(&people, public, now_ms);
            match (&found, expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected),
                (Err((by, why)), Err((known, part))) => {
                    assert!(by.as_deref() == known && why.contains(part), "{by:?}: {why}");
                }
                _ => panic!("{found:?}, not {expected:?}"),
            }
        };
        check(Some("Ubob"), 4_999, Ok("bob"));
        check(Some("Ubob"), 5_000, Err((Some("bob"), "has expired")));
        check(Some("Uada"), 0, Err((Some("ada"), "may not operate")));
        check(Some("Umallory"), 0, Err((Some("Umallory"), "may not operate")));
        check(None, 0, Err((None, "--token")));
    }
}
