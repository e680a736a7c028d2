//! The services: who owns partitions, who takes work, and what each says of its readiness.

use std::net::SocketAddr;

use holdline_proto::topology::{Bucket, DLQ_CONSUMER, EXECUTOR_CONSUMER, Role, Stream};
use holdline_stage::bus::Bus;
use holdline_stage::http::{self, body, reason};

use super::Scene;
use super::connect::{Doors, Place};
use super::finding::{Finding, State};

/// Bytes of a readiness that are read.
const READINESS_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let mut found = vec![playbooks(scene)];
    match &scene.partitions {
        Ok(partitions) => {
            for stage in [Role::Classifier, Role::Debouncer] {
                found.push(owned(&scene.bus, stage, *partitions).await?);
            }
        }
        Err(why) => found.push(Finding::person(
            "installation",
            why,
            "without it nobody knows how many partitions there are: look at the broker, or provision it",
        )),
    }
    for (role, stream, consumer, what) in [
        (Role::Executor, Stream::Commands, EXECUTOR_CONSUMER, "commands"),
        (Role::DlqReplayer, Stream::Dead, DLQ_CONSUMER, "dead letters"),
    ] {
        found.push(pulled(&scene.bus, role, stream, consumer, what).await);
    }
    let doors = Doors::new()?;
    for gateway in &scene.gateways {
        found.push(answers(gateway, &doors).await);
    }
    if scene.gateways.is_empty() {
        found.push(Finding::unknown(
            "gateway",
            "not asked: no gateway's address is known here",
            "name each with --gateway https://HOST:PORT",
        ));
    }
    for admin in &scene.admins {
        found.push(ready(*admin).await);
    }
    if scene.admins.is_empty() {
        found.push(Finding::unknown(
            "readiness",
            "not asked: no service's admin address is known here, so what they miss is not known",
            "start them with admin.listen (`holdline up --admin ADDR`), and name each with --admin ADDR",
        ));
    }
    Ok(found)
}

fn playbooks(scene: &Scene) -> Finding {
    match &scene.set {
        Ok(set) => {
            Finding::well("playbooks", format!("set {}: {} playbook(s)", set.hash, set.playbooks.len()))
        }
        Err(why) => Finding::person(
            "playbooks",
            why,
            "nothing is decided without a set: `holdline check DIR`, then `holdline push DIR`",
        ),
    }
}

async fn owned(bus: &Bus, stage: Role, partitions: u16) -> anyhow::Result<Finding> {
    let prefix = format!("{}.lease.", stage.name());
    let mut owned = 0;
    for key in bus.keys(Bucket::Leases, &format!("{}.>", stage.name())).await? {
        if key.starts_with(&prefix) && bus.get(Bucket::Leases, &key).await?.is_some() {
            owned += 1;
        }
    }
    let found = format!("{owned} of {partitions} partitions have an owner");
    if owned == usize::from(partitions) {
        return Ok(Finding::well(stage.name(), found));
    }
    let todo = "start the service, or look at its /readyz: a partition without an owner decides nothing";
    Ok(Finding::person(stage.name(), found, todo))
}

async fn pulled(bus: &Bus, role: Role, stream: Stream, consumer: &str, what: &str) -> Finding {
    let found = match bus.is_pulled(stream, consumer).await {
        Ok(true) => return Finding::well(role.name(), format!("takes {what}")),
        Ok(false) => format!("nobody takes {what}"),
        Err(error) => format!("nobody takes {what}: {error}"),
    };
    let todo = format!(
        "start the {}, or look at its /readyz; a consumer that was deleted comes back with `holdline provision`",
        role.name()
    );
    Finding::person(role.name(), found, todo)
}

/// Whether something listens where a gateway should. What it shows is the certificates' business.
async fn answers(gateway: &Place, doors: &Doors) -> Finding {
    let what = format!("gateway {gateway}");
    match doors.open(gateway).await {
        Ok(reached) => Finding::well(what, format!("{reached}")),
        Err(why) => Finding::person(
            what,
            why,
            "start it, or look at its log: until it answers, the platform keeps what it reports for a short while \
             only",
        ),
    }
}

/// What a service says it is missing; secrets are among it, as its own environment has them.
async fn ready(admin: SocketAddr) -> Finding {
    let what = format!("readiness {admin}");
    let asked = async {
        let client = http::client().build().map_err(|error| reason(&error))?;
        let asking = client.get(format!("http://{admin}/readyz")).send().await;
        let answer = asking.map_err(|error| reason(&error))?;
        let status = answer.status().as_u16();
        let text = body(answer, READINESS_BYTES_MAX).await?;
        Ok::<_, String>((status, String::from_utf8_lossy(&text).into_owned()))
    };
    match asked.await {
        Ok((status, text)) => {
            let (state, found, todo) = judge(status, &text);
            Finding::new(what, state, found, todo)
        }
        Err(why) => Finding::person(
            what,
            format!("does not answer: {why}"),
            "start the service, or look at its log; its admin.listen has to be this address",
        ),
    }
}

fn judge(status: u16, text: &str) -> (State, String, &'static str) {
    let lines = text.lines().filter(|line| *line != "ready").collect::<Vec<_>>().join("; ");
    match (status, lines.is_empty()) {
        (200, true) => (State::Well, "ready".into(), ""),
        (200, false) => (State::Note, lines, "it goes on meanwhile; put it right before that ends"),
        (503, _) => {
            let todo = "give it what it misses: a secret belongs into the service's own environment, files or Vault \
                        (docs/secrets.md)";
            (State::Person, format!("not ready: {lines}"), todo)
        }
        (other, _) => {
            let todo = "is this the admin address of a service of holdline?";
            (State::Person, format!("/readyz was answered {other}"), todo)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_as_the_service_says_it() {
        let check = |status, text, state, found: &str| {
            let (is, told, todo) = judge(status, text);
            assert_eq!((is, told.as_str()), (state, found));
            assert_eq!(todo.is_empty(), state == State::Well);
        };
        check(200, "ready\n", State::Well, "ready");
        check(200, "ready\nnats: away; the spool does it\n", State::Note, "nats: away; the spool does it");
        check(
            503,
            "secrets: not found: env:X\nnats: away\n",
            State::Person,
            "not ready: secrets: not found: env:X; nats: away",
        );
        check(404, "", State::Person, "/readyz was answered 404");
    }
}
