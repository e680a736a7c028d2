//! The broker: what it can do, whether its streams are as provisioned, how many copies there are of them, when they
//! are synced, how much room is left, and whether the audit trail still has its end.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Info;
use holdline_decide::audit::End;
use holdline_proto::audit;
use holdline_proto::limits::MESSAGE_BYTES_MAX;

use super::Scene;
use super::finding::Finding;
use crate::broker::{Sync, binary, config};
use crate::commands::audit::noted_end;
use crate::provision::{self, Standing};

/// A limit of a stream or of the account that is taken up so far needs a person, in percent.
const FILLED_PERCENT_MAX: u64 = 80;

/// What is found of the audit trail.
const TRAIL: &str = "end of the audit trail";

/// Copies of a stream with which one server may be lost and the rest still agree.
const REPLICAS_GOOD: usize = 3;

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let bus = &scene.bus;
    let told = bus.client().server_info();
    let mut found = vec![server(&told.version, told.max_payload)];
    let standing = provision::standing(bus).await?;
    let consumers = provision::consumers(bus).await?;
    found.push(settings(&standing, &consumers));
    let infos: Vec<&Info> = standing.iter().filter_map(|standing| standing.info.as_ref()).collect();
    let replicas = infos.iter().map(|info| info.config.num_replicas).min().unwrap_or(1);
    found.push(copies(replicas));
    found.extend(followers(&infos));
    let sync = scene.data.as_ref().map(config::sync).transpose();
    found.push(synced(sync.ok().flatten(), replicas));
    found.push(limits(&infos));
    found.push(account(scene).await);
    found.push(trail(scene).await.unwrap_or_else(|error| {
        let todo = "`holdline provision` makes its stream, where an older version has set the broker up";
        Finding::unknown(TRAIL, format!("it cannot be read: {error:#}"), todo)
    }));
    Ok(found)
}

/// Whether the audit trail still has the end that was noted apart from it. All of it is `holdline audit verify`'s.
async fn trail(scene: &Scene) -> anyhow::Result<Finding> {
    Ok(match noted_end(&scene.bus).await? {
        Ok(None) => Finding::well(TRAIL, "nothing was noted of it yet"),
        Ok(Some((number, end))) => ended(number, end),
        Err(why) => Finding::person(
            TRAIL,
            format!("what was noted of it in WITNESS cannot be read: {why}"),
            "`holdline audit verify --from HASH`, with a hash that you have kept: without the note, an end that was cut off \
             shows by that alone. A newer holdline may have written it; else find out who did. The next entry is noted anew",
        ),
    })
}

/// What the end of the trail comes to, and what to do about it.
fn ended(number: u64, end: End) -> Finding {
    match end {
        End::AsNoted => Finding::well(TRAIL, format!("entry {number}, as it was noted")),
        End::Aged => {
            Finding::well(TRAIL, format!("entry {number} was the last one, and has left at its time"))
        }
        End::Replaced => Finding::person(
            TRAIL,
            format!("entry {number} is not the one that was noted"),
            "`holdline audit verify` says what was replaced; docs/audit.md what may have led to it",
        ),
        End::Missing => Finding::person(
            TRAIL,
            format!("entry {number} was noted, and is not there"),
            "`holdline audit verify` says what is missing; docs/audit.md what may have led to it",
        ),
        End::TakenOut => Finding::person(
            TRAIL,
            format!(
                "entry {number} and all before it were taken out before they were {} days old",
                audit::KEPT_DAYS
            ),
            "find out who could: the stream was made again or kept for a shorter time, which takes the provisioner's seed or \
             the broker's disk. What was exported is what is left of it: `holdline audit verify FILE`",
        ),
    }
}

fn server(version: &str, payload_max: usize) -> Finding {
    let found = format!("nats-server {version}, messages of up to {payload_max} bytes");
    let payload_enough = payload_max >= MESSAGE_BYTES_MAX;
    match binary::is_new_enough(version) {
        Some((true, _)) if payload_enough => Finding::well("broker", found),
        Some((true, _)) => Finding::person(
            "broker",
            found,
            format!(
                "set max_payload: {MESSAGE_BYTES_MAX} in its configuration, or large records are refused"
            ),
        ),
        Some((false, oldest)) => {
            Finding::person("broker", found, format!("{oldest} or newer is needed: update it"))
        }
        None => {
            Finding::unknown("broker", found, "that version cannot be read: see that it is a nats-server's")
        }
    }
}

fn settings(standing: &[Standing], consumers: &[String]) -> Finding {
    let mut differ: Vec<String> = consumers.to_vec();
    let mut refused = vec![];
    for Standing { name, changes, .. } in standing {
        match changes {
            Ok(changes) => differ.extend(changes.iter().map(|change| format!("stream {name}: {change}"))),
            Err(why) => refused.push(why.clone()),
        }
    }
    let all = standing.len();
    match (differ.is_empty(), refused.is_empty()) {
        (true, true) => Finding::well("streams", format!("{all} streams and buckets stand as provisioned")),
        (false, true) => Finding::person(
            "streams",
            format!("not as provisioned, `holdline provision` would change: {}", differ.join("; ")),
            "`holdline provision` puts them right; nothing is lost by it",
        ),
        (_, false) => {
            refused.extend(differ);
            Finding::person(
                "streams",
                format!("not as provisioned: {}", refused.join("; ")),
                "do by hand what it says, then `holdline provision`",
            )
        }
    }
}

fn copies(replicas: usize) -> Finding {
    let found = match replicas {
        1 => {
            "1 copy of every stream: it survives the crash of a process, and not the loss of its disk".into()
        }
        more => format!("{more} copies of every stream"),
    };
    if replicas >= REPLICAS_GOOD {
        return Finding::well("copies", found);
    }
    Finding::note(
        "copies",
        found,
        format!(
            "three servers on machines of their own and `holdline provision --replicas {REPLICAS_GOOD}` survive the loss \
             of one"
        ),
    )
}

/// Whether every copy is there and up to date. `None` where there is one only.
fn followers(infos: &[&Info]) -> Option<Finding> {
    let clusters = infos.iter().filter_map(|info| Some((info.config.name.as_str(), info.cluster.as_ref()?)));
    let clusters: Vec<_> = clusters.filter(|(_, cluster)| !cluster.replicas.is_empty()).collect();
    if clusters.is_empty() {
        return None;
    }
    let mut wrong = vec![];
    // A server that is lost only lags behind until the others have given it up.
    let mut behind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (stream, cluster) in clusters {
        if cluster.leader.is_none() {
            wrong.push(format!("{stream} has no leader"));
        }
        for peer in cluster.replicas.iter().filter(|peer| peer.offline || !peer.current) {
            behind.entry(&peer.name).or_default().push(stream);
        }
    }
    wrong.extend(behind.iter().map(|(server, streams)| {
        let first = streams.first().copied().unwrap_or_default();
        format!("{server} is away or lags behind, in {} stream(s) such as {first}", streams.len())
    }));
    Some(match wrong.is_empty() {
        true => Finding::well("followers", "every copy is there and up to date"),
        false => Finding::person(
            "followers",
            wrong.join("; "),
            "look at the servers that are named: with one more lost, nothing can be stored",
        ),
    })
}

fn synced(sync: Option<Sync>, replicas: usize) -> Finding {
    match sync {
        Some(Sync::Always) => Finding::well("sync", "everything is synced before it is acknowledged"),
        _ if replicas >= REPLICAS_GOOD => {
            let found = format!("{replicas} copies: a power cut of one machine loses nothing");
            Finding::well("sync", found)
        }
        Some(Sync::Default) => Finding::note(
            "sync",
            "synced every two minutes: a power cut loses what was acknowledged since",
            "start it with `--sync always`, which is what it does unless told otherwise",
        ),
        None => Finding::unknown(
            "sync",
            "not known: a server does not tell when it syncs",
            "see that its configuration has `sync_interval: always` under `jetstream`: by default a power cut loses what \
             was acknowledged within two minutes",
        ),
    }
}

fn limits(infos: &[&Info]) -> Finding {
    let mut near = vec![];
    for info in infos {
        let messages = (info.state.messages, info.config.max_messages, "messages");
        let bytes = (info.state.bytes, info.config.max_bytes, "bytes");
        for (has, most, what) in [messages, bytes] {
            near.extend(
                filled(has, most)
                    .map(|percent| format!("{} has {has} of {most} {what} ({percent} %)", info.config.name)),
            );
        }
    }
    match near.is_empty() {
        true => Finding::well("limits", "no stream is near a limit of messages or bytes"),
        false => Finding::person(
            "limits",
            near.join("; "),
            "raise the limit (`nats stream edit`), or see why so much lies there: at the limit a bucket refuses, and a \
             stream drops what is oldest",
        ),
    }
}

/// How much is taken up of a limit that is near, in percent.
fn filled(has: u64, most: i64) -> Option<u64> {
    let most = u64::try_from(most).ok().filter(|most| *most > 0)?;
    let percent = has.saturating_mul(100) / most;
    (percent >= FILLED_PERCENT_MAX).then_some(percent)
}

async fn account(scene: &Scene) -> Finding {
    let account = match scene.bus.context().query_account().await {
        Ok(account) => account,
        Err(error) => {
            let found = format!("not known: {error}");
            let todo = "look at it with `nats account info`, as a user who may";
            return Finding::unknown("account", found, todo);
        }
    };
    let (used, most) = (account.storage, account.limits.max_storage.unwrap_or(-1));
    if most <= 0 {
        let found = format!("{used} bytes on disk; the account has no limit of its own");
        return Finding::well("account", found);
    }
    let found = format!("{used} of {most} bytes on disk");
    match filled(used, most) {
        None => Finding::well("account", found),
        Some(percent) => Finding::person(
            "account",
            format!("{found} ({percent} %)"),
            "raise the account's limit of storage: at the limit nothing is stored any more",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_limit_is_told_before_it_is_reached() {
        let check = |has, most, expected| assert_eq!(filled(has, most), expected, "{has} of {most}");
        check(1_000, -1, None);
        check(0, 0, None);
        check(79, 100, None);
        check(80, 100, Some(80));
        check(120, 100, Some(120));
    }

    #[test]
    fn the_server_is_new_enough_and_takes_large_messages() {
        let check = |version, payload, state| assert_eq!(server(version, payload).state, state, "{version}");
        check("2.15.1", MESSAGE_BYTES_MAX, State::Well);
        check("2.16.0-RC.1", MESSAGE_BYTES_MAX, State::Well);
        check("2.15.1", MESSAGE_BYTES_MAX - 1, State::Person);
        check("2.11.4", MESSAGE_BYTES_MAX, State::Person);
        check("something", MESSAGE_BYTES_MAX, State::Unknown);
    }

    #[test]
    fn what_cannot_be_known_of_syncing_is_not_said_to_be_well() {
        let check = |sync, replicas, state| assert_eq!(synced(sync, replicas).state, state);
        check(Some(Sync::Always), 1, State::Well);
        check(Some(Sync::Default), 1, State::Note);
        check(Some(Sync::Default), 3, State::Well);
        check(None, 3, State::Well);
        check(None, 1, State::Unknown);
    }
}
