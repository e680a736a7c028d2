//! `holdline doctor`: what a person would check, each finding with what to do. Exit code 1 when something
//! needs a person. Nothing is changed, here or at the platform, and no request is made that acts.
//!
//! An [`Area`] is a file here and looks by itself; what it cannot look at it says is not known. [`finding`] has
//! what they say, [`connect`] how others are reached.

mod broker;
mod certificates;
mod connect;
mod conserved;
mod finding;
mod machine;
mod people;
mod platform;
mod prerequisites;
mod secrets;
mod services;
mod targets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use holdline_decide::playbook::Set;
use holdline_proto::playbooks::{INSTALLATION, Installation as Installed};
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::secret::Lookup;
use holdline_stage::settings::Nats;
use serde_json::{Value, json};

use self::connect::Place;
use self::finding::{Finding, State};
use super::{Installation, No, approval};
use crate::broker::{DataDir, Note};
use crate::output::{self, Output, line};
use crate::provision;

/// An area that takes longer is not known. The count of acceptances reads all there is, and takes its time.
const AREA_TIME_MAX: Duration = Duration::from_secs(60);

/// Columns that the names of findings take at most before what was found.
const WHAT_COLUMNS: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    installation: Installation,
    /// Look at this alone; may be given several times [default: all of it]
    #[arg(long, value_enum, value_name = "AREA")]
    only: Vec<Area>,
    /// Where a gateway, or the proxy in front of it, receives events: https://HOST:PORT; may be given several times
    /// [default: as `holdline up` has noted]
    #[arg(long, value_name = "URL", value_parser = Place::of_gateway)]
    gateway: Vec<Place>,
    /// Where a service has its /readyz; may be given several times [default: as `holdline up --admin` has noted]
    #[arg(long, value_name = "ADDR")]
    admin: Vec<SocketAddr>,
    /// With less left on the disk of the data folder a person is needed, in MiB
    #[arg(long, value_name = "MIB", default_value_t = machine::DISK_FREE_MIB_MIN)]
    disk_free_min: u64,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What can be looked at by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Area {
    /// Whether every accepted event has exactly one disposition, counted from the logs
    Conservation,
    /// Playbooks, partitions, and what services say of their readiness
    Services,
    /// What waits for people
    People,
    /// The broker's settings, copies and room
    Broker,
    /// The broker's clock and this machine's
    Clock,
    /// Room on this machine's disk
    Disk,
    /// References that lead to no secret
    Secrets,
    /// OAuth clients: their tokens and what they may
    Platform,
    /// Hosts that are called
    Targets,
    /// Days left of certificates
    Certificates,
    /// What else the guide asks for
    Prerequisites,
}

/// What every area looks at it from.
struct Scene {
    bus: Bus,
    nats: Nats,
    /// How many there are, or why that cannot be told.
    partitions: Result<u16, String>,
    /// The playbooks in force, or why there are none.
    set: Result<Set, String>,
    /// As this environment has them; a service's own may have others.
    secrets: Lookup,
    /// The data folder, where the broker is one of our own.
    data: Option<DataDir>,
    gateways: Vec<Place>,
    admins: Vec<SocketAddr>,
    disk_free_mib_min: u64,
}

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (only, output) = (self.only.clone(), self.output);
        let scene = self.scene().await?;
        let areas = Area::value_variants().iter().filter(|area| only.is_empty() || only.contains(area));
        let areas: Vec<Area> = areas.copied().collect();
        let others: Vec<Area> = areas.iter().copied().filter(|area| *area != Area::Conservation).collect();
        let looking =
            join_all(others.iter().map(|area| tokio::time::timeout(AREA_TIME_MAX, area.look(&scene))));
        // Counting and looking do not wait for each other.
        let counting = async {
            if !areas.contains(&Area::Conservation) {
                return None;
            }
            Some(conserved::look(&scene).await)
        };
        let (counted, looked) = tokio::join!(counting, looking);
        let mut findings: Vec<(Area, Finding)> = vec![];
        let mut count = None;
        if let Some((finding, counted)) = counted {
            findings.push((Area::Conservation, finding));
            count = counted;
        }
        for (area, found) in others.iter().zip(looked) {
            let found = match found {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => vec![Finding::person(
                    area.name(),
                    format!("cannot be looked at: {error:#}"),
                    "look into what it says, then call `holdline doctor` again",
                )],
                Err(_) => vec![Finding::unknown(
                    area.name(),
                    format!("not known: that took longer than {} s", AREA_TIME_MAX.as_secs()),
                    format!("try it again alone: `holdline doctor --only {}`", area.name()),
                )],
            };
            findings.extend(found.into_iter().map(|finding| (*area, finding)));
        }
        let well = findings.iter().all(|(_, finding)| finding.state != State::Person);
        match output {
            Output::Json => output::json(&json!({
                "well": well,
                "conservation": count,
                "findings": findings.iter().map(|(area, finding)| shape(*area, finding)).collect::<Vec<_>>(),
            })),
            Output::Text => {
                show(&findings);
                count.iter().for_each(conserved::name);
            }
        }
        if well { Ok(()) } else { Err(No.into()) }
    }

    async fn scene(self) -> anyhow::Result<Scene> {
        // Two crypto providers are never compiled in, but reqwest wants to be told all the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let data = self.installation.nats.is_none().then(|| DataDir(self.installation.data.clone()));
        let nats = self.installation.connection(self.installation.looking())?;
        let bus = self.installation.bus_to_look().await?;
        // A broker that is in trouble is no reason to look at nothing.
        let partitions = partitions(&bus).await.map_err(|error| format!("{error:#}"));
        let set = approval::current(&bus).await.map_err(|error| format!("{error:#}"));
        let noted = |note| data.as_ref().and_then(|data| data.noted(note));
        let or_noted = |given: Vec<Place>| match noted(Note::Gateway).map(|url| Place::of_gateway(&url)) {
            Some(Ok(noted)) if given.is_empty() => vec![noted],
            _ => given,
        };
        let admins = match noted(Note::Admin).map(|address| address.parse()) {
            Some(Ok(noted)) if self.admin.is_empty() => vec![noted],
            _ => self.admin,
        };
        Ok(Scene {
            partitions,
            set,
            secrets: super::secrets(BTreeMap::new())?,
            gateways: or_noted(self.gateway),
            admins,
            disk_free_mib_min: self.disk_free_min,
            bus,
            nats,
            data,
        })
    }
}

/// How many partitions were provisioned.
async fn partitions(bus: &Bus) -> anyhow::Result<u16> {
    const NOTHING: &str =
        "nothing is provisioned here: `holdline provision` makes the streams, or `holdline up` everything";
    let entry = match bus.get(Bucket::Playbooks, INSTALLATION).await {
        Ok(entry) => entry,
        // Where there is no bucket, nobody answers.
        Err(_) if !provision::is_begun(bus).await? => None,
        Err(error) => return Err(error.into()),
    };
    Ok(wire::decode::<Installed>(&entry.context(NOTHING)?.value)?.partitions)
}

impl Area {
    /// As `--only` takes it.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    fn look(self, scene: &Scene) -> BoxFuture<'_, anyhow::Result<Vec<Finding>>> {
        match self {
            // It stands apart: the count itself is told, too.
            Area::Conservation => async { Ok(vec![]) }.boxed(),
            Area::Services => services::look(scene).boxed(),
            Area::People => people::look(scene).boxed(),
            Area::Broker => broker::look(scene).boxed(),
            Area::Clock => machine::clock(&scene.bus).boxed(),
            Area::Disk => machine::disk(scene).boxed(),
            Area::Secrets => secrets::look(scene).boxed(),
            Area::Platform => platform::look(scene).boxed(),
            Area::Targets => targets::look(scene).boxed(),
            Area::Certificates => certificates::look(scene).boxed(),
            Area::Prerequisites => async { Ok(prerequisites::look(scene)) }.boxed(),
        }
    }
}

fn shape(area: Area, finding: &Finding) -> Value {
    json!({
        "area": area.name(),
        "what": finding.what,
        "state": finding.state.name(),
        "well": finding.state != State::Person,
        "found": finding.found,
        "todo": finding.todo,
    })
}

fn show(findings: &[(Area, Finding)]) {
    let names = findings.iter().map(|(_, finding)| finding.what.chars().count());
    let columns = names.max().unwrap_or_default().min(WHAT_COLUMNS);
    for (_, Finding { what, state, found, todo }) in findings {
        line(format!("{} {what:<columns$}  {found}", state.mark()));
        if !todo.is_empty() {
            line(format!("     → {todo}"));
        }
    }
    let persons = findings.iter().filter(|(_, finding)| finding.state == State::Person).count();
    let unknown = findings.iter().filter(|(_, finding)| finding.state == State::Unknown).count();
    let needed = if persons == 0 {
        "nothing needs a person".into()
    } else {
        format!("{persons} thing(s) need a person: see NO")
    };
    line(format!("{needed}; {unknown} could not be looked at from here"));
}

#[cfg(test)]
mod tests {
    use holdline_decide::playbook::load;
    use holdline_proto::playbooks::Bundle;

    use super::Set;

    /// A set with these files besides a playbook that calls http://127.0.0.1:1.
    pub(super) fn set_with(files: Vec<(String, String)>) -> Set {
        let playbook = "playbook: one\non: {subscription: one, entity: data.id, failed: status == 'FAILED', healthy: status \
                        == 'HEALTHY'}\nconfirm: {failures: 3, stable_for: 1s}\nact: {failed: {do: [one], class: \
                        failover}}\nrevert: {healthy: 2, stable_for: 1s, do: [one]}\n";
        let own = [
            ("one.playbook.yaml", playbook),
            (
                "subscriptions/one.json",
                r#"{"name": "one", "topicName": "a.b.c", "authType": "HMAC", "secretToken": "env:ONE"}"#,
            ),
            (
                "actions/one.json",
                r#"{"name": "one", "actionType": "WEBHOOK", "method": "POST", "url": "http://127.0.0.1:1"}"#,
            ),
        ];
        let own = own.map(|(path, text)| (path.to_string(), text.to_string()));
        let (set, findings) = load(&Bundle { files: own.into_iter().chain(files).collect() });
        set.unwrap_or_else(|| panic!("{findings:?}"))
    }
}
