//! Makes the broker as the topology says: streams, buckets, consumers. Idempotent; it adds and widens, and
//! never destroys or narrows.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use futures_util::StreamExt;
use holdline_proto::playbooks::{INSTALLATION, Installation};
use holdline_proto::topology::{
    Bucket, BucketSpec, PARTITIONS_DEFAULT, Stream, StreamSpec, Topology, subject_matches,
};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put};
use holdline_stage::queue::durables;

/// How an installation is laid out. What is left open stays as it is, or is the default of a new one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    pub partitions: Option<u16>,
    /// Copies of every stream: 1 on a single server, 3 in a cluster.
    pub replicas: Option<usize>,
}

/// Publishes with the same message id within this are one (the broker's default).
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Applies the topology, or with `dry_run` only says what would change.
///
/// # Errors
/// When something that exists cannot be brought in line without losing data, or the broker does not answer.
pub async fn provision(bus: &Bus, layout: Layout, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let mut changes = vec![];
    let topology = bus.topology().clone();
    let context = bus.context();
    let replicas = match layout.replicas {
        Some(replicas) => replicas,
        None => replicas(context, &topology).await?,
    };
    for wanted in configs(&topology, replicas) {
        changes.extend(ensure(context, wanted, dry_run).await?);
    }
    for (stream, wanted) in durables(&topology) {
        changes.extend(ensure_consumer(context, &topology.stream(stream), wanted, dry_run).await?);
    }
    changes.extend(ensure_installation(bus, layout.partitions, dry_run).await?);
    Ok(changes)
}

/// A stream, of its own or a bucket's, held against the topology.
pub(crate) struct Standing {
    pub name: String,
    /// `None`: there is no such stream.
    pub info: Option<Info>,
    /// What `holdline provision` would change, or why it refuses to.
    pub changes: Result<Vec<String>, String>,
}

/// Every stream as it stands. Nothing is changed.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn standing(bus: &Bus) -> anyhow::Result<Vec<Standing>> {
    let (topology, context) = (bus.topology(), bus.context());
    let mut found = vec![];
    for wanted in configs(topology, replicas(context, topology).await?) {
        let name = wanted.name.clone();
        let info = existing(context, &name).await?;
        let changes = match &info {
            None => Ok(vec![ABSENT.into()]),
            Some(info) => compare(&info.config, wanted)
                .map(|(_, differences)| differences)
                .map_err(|refused| refused.to_string()),
        };
        found.push(Standing { name, info, changes });
    }
    Ok(found)
}

/// Whether the bucket is there that everything begins with.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn is_begun(bus: &Bus) -> anyhow::Result<bool> {
    let name = bus.topology().bucket_stream(Bucket::Playbooks);
    Ok(existing(bus.context(), &name).await?.is_some())
}

/// What `holdline provision` would change of the durable consumers. Nothing is changed.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn consumers(bus: &Bus) -> anyhow::Result<Vec<String>> {
    let mut changes = vec![];
    for (stream, wanted) in durables(bus.topology()) {
        changes.extend(ensure_consumer(bus.context(), &bus.topology().stream(stream), wanted, true).await?);
    }
    Ok(changes)
}

/// What is said of a stream that is not there.
const ABSENT: &str = "made";

/// Every stream and bucket as it should be.
fn configs(topology: &Topology, replicas: usize) -> Vec<Config> {
    let streams = topology.streams().into_iter().map(|spec| stream_config(&spec, replicas));
    let buckets = topology.buckets().into_iter().map(|spec| bucket_config(topology, &spec, replicas));
    streams.chain(buckets).collect()
}

/// Copies of every stream: what the installation has, its first stream has.
async fn replicas(context: &Context, topology: &Topology) -> anyhow::Result<usize> {
    let events = existing(context, &topology.stream(Stream::Events)).await?;
    Ok(events.map_or(1, |events| events.config.num_replicas))
}

fn stream_config(spec: &StreamSpec, replicas: usize) -> Config {
    Config {
        name: spec.name.clone(),
        description: Some(spec.purpose.into()),
        subjects: spec.subjects.clone(),
        retention: if spec.work_queue { RetentionPolicy::WorkQueue } else { RetentionPolicy::Limits },
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_age: Duration::from_secs(u64::from(spec.max_age_days) * 86_400),
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        deny_delete: spec.append_only,
        deny_purge: spec.append_only,
        allow_message_schedules: spec.schedules,
        allow_message_ttl: spec.schedules || spec.stream == Stream::Dead,
        ..Config::default()
    }
}

fn bucket_config(topology: &Topology, spec: &BucketSpec, replicas: usize) -> Config {
    Config {
        name: topology.bucket_stream(spec.bucket),
        description: Some(spec.purpose.into()),
        subjects: vec![topology.entry(spec.bucket, ">")],
        max_messages_per_subject: spec.history,
        max_age: Duration::from_secs(u64::from(spec.max_age_hours) * 3_600),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: spec.entry_ttl,
        // Replicated streams always are.
        persist_mode: (spec.unsynced && replicas == 1).then_some(PersistenceMode::Async),
        ..Config::default()
    }
}

async fn ensure(context: &Context, wanted: Config, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let name = wanted.name.clone();
    let Some(existing) = existing(context, &name).await? else {
        if !dry_run {
            let made = context.create_stream(wanted).await;
            made.with_context(|| format!("stream {name} cannot be made"))?;
        }
        return Ok(vec![format!("stream {name}: {ABSENT}")]);
    };
    let (merged, differences) = compare(&existing.config, wanted)?;
    if !differences.is_empty() && !dry_run {
        context.update_stream(&merged).await.with_context(|| format!("stream {name} cannot be changed"))?;
    }
    Ok(differences.into_iter().map(|difference| format!("stream {name}: {difference}")).collect())
}

async fn existing(context: &Context, name: &str) -> anyhow::Result<Option<Info>> {
    match context.get_stream(name).await {
        Ok(found) => Ok(Some(found.cached_info().clone())),
        Err(error) if is_absent(&error.to_string()) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("stream {name}")),
    }
}

/// What a stream would become, and what of it would change.
fn compare(existing: &Config, wanted: Config) -> anyhow::Result<(Config, Vec<String>)> {
    refuse_to_narrow(&wanted.name, existing, &wanted)?;
    let merged = merged(existing, wanted);
    let differences = differences(existing, &merged);
    Ok((merged, differences))
}

fn is_absent(error: &str) -> bool {
    error.contains("not found") || error.contains("10059")
}

/// What would destroy is refused, with what to do by hand.
fn refuse_to_narrow(name: &str, existing: &Config, wanted: &Config) -> anyhow::Result<()> {
    let shorter = |a: Duration, b: Duration| !b.is_zero() && (a.is_zero() || b < a);
    if existing.retention != wanted.retention || existing.storage != wanted.storage {
        bail!(
            "stream {name} exists with {:?} retention and {:?} storage, which cannot be changed in place; move its \
             data and delete it by hand, or provision under another prefix",
            existing.retention,
            existing.storage
        );
    }
    let dropped: Vec<&String> =
        existing.subjects.iter().filter(|s| !wanted.subjects.iter().any(|w| subject_matches(w, s))).collect();
    if !dropped.is_empty() {
        bail!(
            "stream {name} has subjects {dropped:?} besides ours; take them off by hand if nothing needs them"
        );
    }
    if shorter(existing.max_age, wanted.max_age) {
        bail!(
            "stream {name} keeps its messages longer ({:?}) than it would ({:?}); shortening deletes, so do it by \
             hand",
            existing.max_age,
            wanted.max_age
        );
    }
    let bounded = |limit: i64| if limit > 0 { limit } else { i64::MAX };
    if bounded(wanted.max_messages_per_subject) < bounded(existing.max_messages_per_subject) {
        bail!(
            "stream {name} keeps more messages of a subject ({}) than it would ({}); keeping fewer deletes, so do it \
             by hand",
            existing.max_messages_per_subject,
            wanted.max_messages_per_subject
        );
    }
    if wanted.num_replicas < existing.num_replicas {
        bail!(
            "stream {name} has {} copies and would have {}; take copies away by hand if that is meant",
            existing.num_replicas,
            wanted.num_replicas
        );
    }
    if existing.persist_mode == Some(PersistenceMode::Async) && wanted.num_replicas > 1 {
        bail!(
            "stream {name} was made for a single server and cannot be copied. What it holds can be lost without \
             harm: stop the services, delete it by hand and provision once more"
        );
    }
    Ok(())
}

/// What exists, widened to what is wanted. What is none of our business (a placement, a compression, a limit
/// of bytes that somebody set) stays as it is.
fn merged(existing: &Config, wanted: Config) -> Config {
    Config {
        description: wanted.description,
        subjects: wanted.subjects,
        max_age: wanted.max_age,
        num_replicas: wanted.num_replicas,
        discard: wanted.discard,
        max_messages_per_subject: wanted.max_messages_per_subject,
        duplicate_window: wanted.duplicate_window.max(existing.duplicate_window),
        allow_direct: wanted.allow_direct,
        // The broker never takes these back.
        allow_rollup: wanted.allow_rollup || existing.allow_rollup,
        deny_delete: wanted.deny_delete || existing.deny_delete,
        deny_purge: wanted.deny_purge || existing.deny_purge,
        allow_message_schedules: wanted.allow_message_schedules || existing.allow_message_schedules,
        allow_message_ttl: wanted.allow_message_ttl || existing.allow_message_ttl,
        ..existing.clone()
    }
}

/// What would change, for people.
fn differences(existing: &Config, wanted: &Config) -> Vec<String> {
    let mut changes = vec![];
    let mut compare = |what: &str, existing: String, wanted: String| {
        if existing != wanted {
            changes.push(format!("{what}: {existing} → {wanted}"));
        }
    };
    compare("subjects", format!("{:?}", existing.subjects), format!("{:?}", wanted.subjects));
    compare("max_age", format!("{:?}", existing.max_age), format!("{:?}", wanted.max_age));
    compare("replicas", existing.num_replicas.to_string(), wanted.num_replicas.to_string());
    compare("discard", format!("{:?}", existing.discard), format!("{:?}", wanted.discard));
    compare("allow_direct", existing.allow_direct.to_string(), wanted.allow_direct.to_string());
    compare(
        "schedules",
        existing.allow_message_schedules.to_string(),
        wanted.allow_message_schedules.to_string(),
    );
    compare("entry ttl", existing.allow_message_ttl.to_string(), wanted.allow_message_ttl.to_string());
    compare(
        "history",
        existing.max_messages_per_subject.max(0).to_string(),
        wanted.max_messages_per_subject.max(0).to_string(),
    );
    compare(
        "duplicate window",
        format!("{:?}", existing.duplicate_window),
        format!("{:?}", wanted.duplicate_window),
    );
    compare("description", format!("{:?}", existing.description), format!("{:?}", wanted.description));
    compare("rollup", existing.allow_rollup.to_string(), wanted.allow_rollup.to_string());
    compare("deny_delete", existing.deny_delete.to_string(), wanted.deny_delete.to_string());
    compare("deny_purge", existing.deny_purge.to_string(), wanted.deny_purge.to_string());
    changes
}

async fn ensure_consumer(
    context: &Context,
    stream: &str,
    wanted: pull::Config,
    dry_run: bool,
) -> anyhow::Result<Vec<String>> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let on = match context.get_stream(stream).await {
        Ok(on) => on,
        Err(_) if dry_run => return Ok(vec![format!("consumer {name} on {stream}: made")]),
        Err(error) => return Err(error.into()),
    };
    let existing: Result<async_nats::jetstream::consumer::Info, _> = on.consumer_info(&name).await;
    let change = match existing {
        Ok(info) => {
            let same = info.config.ack_wait == wanted.ack_wait
                && info.config.max_deliver == wanted.max_deliver
                && info.config.max_ack_pending == wanted.max_ack_pending
                && info.config.filter_subjects == wanted.filter_subjects;
            (!same).then(|| format!("consumer {name} on {stream}: changed"))
        }
        Err(_) => Some(format!("consumer {name} on {stream}: made")),
    };
    if change.is_some() && !dry_run {
        on.create_consumer(wanted).await.with_context(|| format!("consumer {name} on {stream}"))?;
    }
    Ok(change.into_iter().collect())
}

async fn ensure_installation(
    bus: &Bus,
    partitions: Option<u16>,
    dry_run: bool,
) -> anyhow::Result<Vec<String>> {
    let existing = match bus.get(Bucket::Playbooks, INSTALLATION).await {
        Ok(existing) => existing,
        Err(_) if dry_run => None,
        Err(error) => return Err(error.into()),
    };
    match existing {
        Some(entry) => {
            let found: Installation = wire::decode(&entry.value)?;
            if let Some(partitions) = partitions.filter(|partitions| *partitions != found.partitions) {
                bail!(
                    "the installation has {} partitions, not {partitions}: an entity's events would go elsewhere \
                     than its open incident. Changing the number is a migration, which is to come",
                    found.partitions
                );
            }
            Ok(vec![])
        }
        None => {
            let had = partitions_of_records(bus).await?;
            if let (Some(had), Some(partitions)) = (had, partitions)
                && had != partitions
            {
                bail!(
                    "the classifier has records of {had} partitions, so the installation has {had}, not {partitions}"
                );
            }
            let partitions = partitions.or(had).unwrap_or(PARTITIONS_DEFAULT);
            let installation = Installation { partitions };
            if !dry_run {
                let only_new = Put { expect: Some(0), ..Put::default() };
                bus.put(Bucket::Playbooks, INSTALLATION, wire::encode(&installation).into(), only_new)
                    .await?;
            }
            Ok(vec![format!("installation: {} partitions", installation.partitions)])
        }
    }
}

/// How many partitions an installation has had of which nothing else is left: its classifier has written a
/// record in each.
async fn partitions_of_records(bus: &Bus) -> anyhow::Result<Option<u16>> {
    let inputs = bus.context().get_stream_no_info(bus.topology().stream(Stream::Inputs)).await?;
    let prefix = bus.topology().signal(0);
    let prefix = prefix.trim_end_matches('0');
    let Ok(mut subjects) = inputs.info_builder().subjects(format!("{prefix}*")).fetch().await else {
        return Ok(None);
    };
    let mut most = None;
    while let Some(found) = subjects.next().await {
        let (subject, _) = found?;
        let partition = subject.strip_prefix(prefix).and_then(|number| number.parse::<u16>().ok());
        most = most.max(partition.map(|partition| partition.saturating_add(1)));
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing() -> Config {
        Config {
            name: Topology::default().stream(Stream::Events),
            subjects: vec!["x.event.*".into()],
            max_messages_per_subject: 16,
            max_age: Duration::from_secs(100),
            num_replicas: 3,
            storage: StorageType::File,
            ..Config::default()
        }
    }

    #[test]
    fn what_would_delete_is_refused_and_what_widens_is_not() {
        let check = |what: &str, change: fn(&mut Config), refused: Option<&str>| {
            let mut wanted = existing();
            change(&mut wanted);
            let answer = refuse_to_narrow("a stream", &existing(), &wanted);
            let text = answer.err().map(|error| error.to_string());
            match refused {
                None => assert_eq!(text, None, "{what}"),
                Some(part) => assert!(text.is_some_and(|text| text.contains(part)), "{what}"),
            }
        };
        check("nothing", |_| {}, None);
        check("more history", |c| c.max_messages_per_subject = 64, None);
        check("all history", |c| c.max_messages_per_subject = -1, None);
        check("less history", |c| c.max_messages_per_subject = 1, Some("keeping fewer deletes"));
        check("longer", |c| c.max_age = Duration::from_secs(200), None);
        check("for good", |c| c.max_age = Duration::ZERO, None);
        check("shorter", |c| c.max_age = Duration::from_secs(50), Some("shortening deletes"));
        check("more copies", |c| c.num_replicas = 5, None);
        check("fewer copies", |c| c.num_replicas = 1, Some("take copies away by hand"));
        check("wider subjects", |c| c.subjects = vec!["x.>".into()], None);
        check("fewer subjects", |c| c.subjects = vec!["x.other".into()], Some("besides ours"));
        check("memory", |c| c.storage = StorageType::Memory, Some("cannot be changed in place"));
    }

    #[test]
    fn what_is_not_synced_on_a_single_server_is_not_copied_in_place() {
        let single = Config { num_replicas: 1, persist_mode: Some(PersistenceMode::Async), ..existing() };
        let error = refuse_to_narrow("a bucket", &single, &existing()).unwrap_err();
        assert!(error.to_string().contains("delete it by hand"));
        assert!(refuse_to_narrow("a bucket", &single, &single).is_ok());
    }

    #[test]
    fn what_somebody_else_has_set_stays() {
        let theirs = Config { max_bytes: 5_000, deny_delete: true, ..existing() };
        let wanted = Config { description: Some("ours".into()), ..existing() };
        let merged = merged(&theirs, wanted);
        assert_eq!((merged.max_bytes, merged.deny_delete), (5_000, true));
        assert_eq!(merged.description.as_deref(), Some("ours"));
        assert_eq!(differences(&theirs, &merged), ["description: None → Some(\"ours\")"]);
    }
}
