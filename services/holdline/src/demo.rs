//! `holdline up --demo`: a believable outage of a voice gateway, on the platform simulator.
//!
//! While the gateway is down, outbound calls leave by the backup carrier first. What is told comes from the journal
//! and from what the simulator has become, never from what was just sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use holdline_decide::explain::{duration, sentence};
use holdline_decide::playbook;
use holdline_proto::journal::{Decided, Record, What};
use holdline_proto::playbooks::{Bundle, INSTALLATION, Installation};
use holdline_proto::topology::{Bucket, Role, Stream, token};
use holdline_proto::wire;
use holdline_simulator::organisation::{ROUTE, SITE_MAIN, TRUNK_BASE_BACKUP, TRUNK_BASE_PRIMARY};
use holdline_simulator::{Client, Kind, Options, Simulator};
use holdline_stage::bus::Bus;
use holdline_stage::clock::{self, Instant};
use holdline_stage::pipe::Reader;
use holdline_stage::run::Tasks;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::commands::send::post;
use crate::output::line;
use crate::up::Site;

/// The gateway whose outage is played, but for its number. Each run has a gateway of its own: one that has
/// failed before is judged more slowly, and one whose outage was cut short is still failed over.
const ENTITY: &str = "voice-gw-lisbon-";

/// The variable that holds the demonstration's secret: events are signed with it, and the simulator's OAuth client has
/// it as id and as secret, so that services which were started apart need no other.
const SECRET: &str = "HOLDLINE_DEMO_SECRET";

/// Between two reports of the gateway.
const BEAT: Duration = Duration::from_secs(1);

/// Looks at the platform in each.
const LOOKS: u32 = 20;

/// What is played: words for the person who watches, and what the gateway reports, one letter a beat (F
/// failed, H healthy).
const SCENES: [(&str, &str); 4] = [
    ("Jitter: a few failures among healthy reports. Nobody should act on this.", "FFHFH"),
    ("Now it fails for real.", "FFFFFFF"),
    ("One healthy report, and it fails again. Nobody should revert on this.", "HFF"),
    ("Now it recovers.", "HHHHH"),
];

/// The demonstration set, as files.
const FILES: [(&str, &str); 4] = [
    ("voice-gateway.playbook.yaml", include_str!("../demo/voice-gateway.playbook.yaml")),
    ("subscriptions/telephony.json", include_str!("../demo/subscriptions/telephony.json")),
    ("actions/Switch_To_Backup.json", include_str!("../demo/actions/Switch_To_Backup.json")),
    ("holdline.yaml", include_str!("../demo/holdline.yaml")),
];

pub(crate) struct Demo {
    platform: Simulator,
    secret: SecretString,
}

impl Demo {
    /// Starts the platform simulator.
    pub(crate) async fn start() -> anyhow::Result<Demo> {
        let given = holdline_stage::secret::environment().variable(SECRET);
        // Only as secret as a demonstration on loopback needs.
        let seed = format!("{:?} {}", clock::now(), std::process::id());
        let secret =
            given.unwrap_or_else(|| SecretString::from(token(&[&seed, &clock::wall_ms().to_string()])));
        let exposed = secret.expose_secret();
        let client = Client::new(exposed, exposed, &["telephony:plugin:all"]);
        let options = Options { clients: vec![client], ..Options::default() };
        Ok(Demo { platform: Simulator::start(options).await?, secret })
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let words = [
            ("PLATFORM", self.platform.address().to_string()),
            ("SITE", SITE_MAIN.into()),
            ("ROUTE", ROUTE.into()),
            ("PRIMARY", TRUNK_BASE_PRIMARY.into()),
            ("BACKUP", TRUNK_BASE_BACKUP.into()),
        ];
        let fill = |text: &str| {
            let whole = |word: &str| format!("<{word}>");
            words.iter().fold(text.to_string(), |text, (word, value)| text.replace(&whole(word), value))
        };
        Bundle { files: FILES.map(|(path, text)| (path.to_string(), fill(text))).into() }
    }

    /// The carriers that outbound calls leave by, in their order, as the simulator has it now.
    fn carriers(&self) -> String {
        let route = self.platform.object(Kind::OUTBOUND_ROUTE, &format!("{SITE_MAIN}/{ROUTE}"));
        let bases = route.get("externalTrunkBases").and_then(Value::as_array);
        let name = |base: &Value| match base.get("id").and_then(Value::as_str) {
            Some(TRUNK_BASE_PRIMARY) => "the primary carrier",
            Some(TRUNK_BASE_BACKUP) => "the backup carrier",
            _ => "another carrier",
        };
        bases.into_iter().flatten().map(name).collect::<Vec<_>>().join(", then ")
    }

    /// How often the route was written.
    fn writes(&self) -> usize {
        let calls = self.platform.calls().into_iter();
        calls.filter(|call| call.method == "PUT" && call.path.contains("/outboundroutes/")).count()
    }

    /// Waits for a beat, and tells meanwhile what the platform has become.
    async fn beat(&self, began: Instant, told: &mut Vec<String>) {
        for _ in 0..LOOKS {
            clock::sleep(BEAT / LOOKS).await;
            self.look(began, told);
        }
    }

    /// Tells the carriers when they have changed since they were told last.
    fn look(&self, began: Instant, told: &mut Vec<String>) {
        let carriers = self.carriers();
        if told.last() != Some(&carriers) {
            say(began, "◆", &format!("On the platform, outbound calls now leave by {carriers}."));
            told.push(carriers);
        }
    }

    pub(crate) fn secrets(&self) -> BTreeMap<String, SecretString> {
        BTreeMap::from([(SECRET.into(), self.secret.clone())])
    }

    /// Plays the outage, tells what happens, and checks that exactly one failover and one revert came of it.
    pub(crate) async fn play(&self, site: &Site, gateway: SocketAddr) -> anyhow::Result<()> {
        let bus = site.bus(Role::Operator).await?;
        let entry = bus.get(Bucket::Playbooks, INSTALLATION).await?.context("not provisioned")?;
        let installation: Installation = wire::decode(&entry.value)?;
        let set = playbook::compile(&self.bundle()).map_err(anyhow::Error::msg)?;
        let subscription = set.subscriptions.get("telephony").context("the demonstration set is broken")?;
        let last = bus.bounds(Stream::Journal).await?.last;
        let began = clock::now();
        // Every run leaves records in the journal, so its end is a number that no earlier run had.
        let entity = format!("{ENTITY}{}", last + 1);
        let telling = Tasks::default();
        let (told, stop) = (entity.clone(), telling.clone());
        telling.spawn(async move {
            tokio::select! {
                () = tell(bus, installation.partitions, last + 1, began, &told) => {}
                () = stop.stopping() => {}
            }
        });
        let primary = self.carriers();
        let mut told = vec![primary.clone()];
        line(format!(
            "\nThe simulated platform is {}. Its outbound calls leave by {primary}. The outage begins.",
            self.platform.url()
        ));
        let run = clock::wall_ms();
        let mut number = 0;
        for (words, reports) in SCENES {
            say(began, "—", words);
            for report in reports.chars() {
                number += 1;
                let status = if report == 'F' { "FAILED" } else { "HEALTHY" };
                let event = json!({
                    "id": format!("demo-{run}-{number}"),
                    "topicName": "telephony.service.status",
                    "timestamp": crate::output::iso(clock::wall_ms()),
                    "data": {"gatewayId": entity, "site": "lisbon", "status": status},
                });
                let gateway = format!("http://{gateway}");
                let body = event.to_string().into_bytes();
                let (code, answer) = post(&gateway, subscription, self.secret.expose_secret(), body).await?;
                if code != 200 {
                    bail!("the gateway answered {code}: {answer}");
                }
                self.beat(began, &mut told).await;
            }
        }
        // The last decisions may still be on their way to the terminal.
        self.beat(began, &mut told).await;
        telling.finish().await;
        let writes = self.writes();
        if writes != 2 || told.len() != 3 || told.last() != Some(&primary) {
            bail!(
                "the platform should have been asked for one failover and one way back, but its route was written \
                 {writes} time(s), and was {told:?}"
            );
        }
        line("\nThe platform was asked exactly once to fail over and exactly once to go back.");
        line(
            "`holdline incidents --all`, `holdline incident ID replay` and `holdline why-not EVENT` say more.",
        );
        Ok(())
    }
}

fn say(began: Instant, who: &str, words: &str) {
    let at = duration(i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX));
    line(format!("{at:>8}  {who} {words}"));
}

/// Tells every decision from the journal, as it is made.
async fn tell(bus: Bus, partitions: u16, from: u64, began: Instant, entity: &str) {
    let subjects = (0..partitions).map(|partition| bus.topology().log(partition)).collect();
    let mut reader = match Reader::open(&bus, Stream::Journal, subjects, from).await {
        Ok(reader) => reader,
        Err(error) => return tracing::error!("the journal cannot be read: {error}"),
    };
    while let Ok(message) = reader.next().await {
        let Ok(record) = wire::decode::<Record<Decided>>(&message.payload) else { continue };
        for decision in record.body.decisions.iter().filter(|decision| decision.key.entity == entity) {
            let mark = match decision.what {
                What::Commanded(_) | What::Reported(_) => "▶",
                _ => "·",
            };
            say(began, mark, &sentence(decision));
        }
    }
}
