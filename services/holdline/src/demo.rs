//! `holdline up --demo`: a believable outage of a voice gateway, against a small simulated orchestrator.
//!
//! What is told comes from the journal and from what the orchestrator saw, never from what was just sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Json, Router};
use holdline_decide::explain::{duration, sentence};
use holdline_decide::playbook;
use holdline_proto::journal::{Decided, Record, What};
use holdline_proto::playbooks::{Bundle, INSTALLATION, Installation};
use holdline_proto::topology::{Bucket, Role, Stream, token};
use holdline_proto::wire;
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

/// The variable that holds the demonstration's secret.
const SECRET: &str = "HOLDLINE_DEMO_SECRET";

/// Between two reports of the gateway.
const BEAT: Duration = Duration::from_secs(1);

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
    ("actions/Switch_To_Primary.json", include_str!("../demo/actions/Switch_To_Primary.json")),
];

/// What the orchestrator was asked, in order.
type Seen = Arc<Mutex<Vec<String>>>;

pub(crate) struct Demo {
    orchestrator: SocketAddr,
    secret: SecretString,
    seen: Seen,
}

impl Demo {
    /// Starts the simulated orchestrator.
    pub(crate) async fn start(tasks: &Tasks) -> anyhow::Result<Demo> {
        let seen = Seen::default();
        let router = Router::new().fallback(asked).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let orchestrator = listener.local_addr()?;
        let stopping = tasks.clone();
        tasks.spawn(async move {
            let serving = axum::serve(listener, router)
                .with_graceful_shutdown(async move { stopping.stopping().await });
            if let Err(error) = serving.await {
                tracing::error!("the simulated orchestrator ended: {error}");
            }
        });
        let given = holdline_gateway::environment()(SECRET);
        // Only as secret as a demonstration on loopback needs.
        let seed = format!("{:?} {}", clock::now(), std::process::id());
        let secret =
            given.unwrap_or_else(|| SecretString::from(token(&[&seed, &clock::wall_ms().to_string()])));
        Ok(Demo { orchestrator, secret, seen })
    }

    pub(crate) fn bundle(&self) -> anyhow::Result<Bundle> {
        let address = self.orchestrator.to_string();
        let files = FILES.map(|(path, text)| (path.to_string(), text.replace("ORCHESTRATOR", &address)));
        Ok(Bundle { files: files.into() })
    }

    pub(crate) fn secrets(&self) -> BTreeMap<String, SecretString> {
        BTreeMap::from([(SECRET.into(), self.secret.clone())])
    }

    /// Plays the outage, tells what happens, and checks that exactly one failover and one revert came of it.
    pub(crate) async fn play(&self, site: &Site, gateway: SocketAddr) -> anyhow::Result<()> {
        let bus = site.bus(Role::Operator).await?;
        let entry = bus.get(Bucket::Playbooks, INSTALLATION).await?.context("not provisioned")?;
        let installation: Installation = wire::decode(&entry.value)?;
        let set = playbook::compile(&self.bundle()?).map_err(anyhow::Error::msg)?;
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
        line(format!("\nThe simulated orchestrator listens on {}. The outage begins.", self.orchestrator));
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
                clock::sleep(BEAT).await;
            }
        }
        // The last decisions may still be on their way to the terminal.
        clock::sleep(BEAT).await;
        telling.finish().await;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if seen != ["SWITCH_TO_BACKUP", "SWITCH_TO_PRIMARY"] {
            bail!(
                "the orchestrator should have been asked for one failover and one revert, but saw {seen:?}"
            );
        }
        line("\nThe orchestrator was asked exactly once to fail over and exactly once to go back.");
        line(
            "`holdline incidents --all`, `holdline incident ID replay` and `holdline why-not EVENT` say more.",
        );
        Ok(())
    }
}

async fn asked(State(seen): State<Seen>, headers: HeaderMap, Json(body): Json<Value>) -> Json<Value> {
    let action = body.get("action").and_then(Value::as_str).unwrap_or_default().to_string();
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    tracing::debug!(action, key, "the orchestrator was asked");
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(action);
    Json(json!({"state": "ok"}))
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
