//! Makes the broker as the topology says: streams, buckets, consumers. Idempotent; it adds and widens, and
//! never destroys or narrows.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use holdline_proto::playbooks::{INSTALLATION, Installation};
use holdline_proto::topology::{
    Bucket, BucketSpec, DLQ_CONSUMER, EXECUTOR_CONSUMER, Stream, StreamSpec, Topology, subject_matches,
};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put};

/// How an installation is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub partitions: u16,
    /// Copies of every stream: 1 on a single server, 3 in a cluster.
    pub replicas: usize,
}

/// A command that is not acknowledged, and tells of no progress, is delivered again after this. Progress is
/// told every two seconds.
const ACK_WAIT: Duration = Duration::from_secs(6);

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
    for spec in topology.streams() {
        let name = spec.name.clone();
        changes.extend(ensure(context, &name, stream_config(&spec, layout), dry_run).await?);
    }
    for spec in topology.buckets() {
        let name = topology.bucket_stream(spec.bucket);
        changes.extend(ensure(context, &name, bucket_config(&topology, &spec, layout), dry_run).await?);
    }
    for (stream, consumer) in [(Stream::Commands, EXECUTOR_CONSUMER), (Stream::Dead, DLQ_CONSUMER)] {
        changes.extend(ensure_consumer(context, &topology.stream(stream), consumer, dry_run).await?);
    }
    changes.extend(ensure_installation(bus, layout, dry_run).await?);
    Ok(changes)
}

fn stream_config(spec: &StreamSpec, layout: Layout) -> Config {
    Config {
        name: spec.name.clone(),
        description: Some(spec.purpose.into()),
        subjects: spec.subjects.clone(),
        retention: if spec.work_queue { RetentionPolicy::WorkQueue } else { RetentionPolicy::Limits },
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_age: Duration::from_secs(u64::from(spec.max_age_days) * 86_400),
        num_replicas: layout.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_message_schedules: spec.schedules,
        allow_message_ttl: spec.schedules,
        ..Config::default()
    }
}

fn bucket_config(topology: &Topology, spec: &BucketSpec, layout: Layout) -> Config {
    Config {
        name: topology.bucket_stream(spec.bucket),
        description: Some(spec.purpose.into()),
        subjects: vec![topology.entry(spec.bucket, ">")],
        max_messages_per_subject: spec.history,
        max_age: Duration::from_secs(u64::from(spec.max_age_hours) * 3_600),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: layout.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: spec.entry_ttl,
        // Replicated streams always are.
        persist_mode: (spec.unsynced && layout.replicas == 1).then_some(PersistenceMode::Async),
        ..Config::default()
    }
}

async fn ensure(context: &Context, name: &str, wanted: Config, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let existing = match context.get_stream(name).await {
        Ok(found) => found.cached_info().config.clone(),
        Err(error) if is_absent(&error.to_string()) => {
            if !dry_run {
                context
                    .create_stream(wanted)
                    .await
                    .with_context(|| format!("stream {name} cannot be made"))?;
            }
            return Ok(vec![format!("stream {name}: made")]);
        }
        Err(error) => return Err(error).with_context(|| format!("stream {name}")),
    };
    let differences = differences(name, &existing, &wanted)?;
    if !differences.is_empty() && !dry_run {
        context.update_stream(&wanted).await.with_context(|| format!("stream {name} cannot be changed"))?;
    }
    Ok(differences.into_iter().map(|difference| format!("stream {name}: {difference}")).collect())
}

fn is_absent(error: &str) -> bool {
    error.contains("not found") || error.contains("10059")
}

/// What would change. What would destroy is refused.
fn differences(name: &str, existing: &Config, wanted: &Config) -> anyhow::Result<Vec<String>> {
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
    Ok(changes)
}

async fn ensure_consumer(
    context: &Context,
    stream: &str,
    name: &str,
    dry_run: bool,
) -> anyhow::Result<Vec<String>> {
    let wanted = pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: 1_024,
        ..pull::Config::default()
    };
    let on = match context.get_stream(stream).await {
        Ok(on) => on,
        Err(_) if dry_run => return Ok(vec![format!("consumer {name} on {stream}: made")]),
        Err(error) => return Err(error.into()),
    };
    let existing: Result<async_nats::jetstream::consumer::Info, _> = on.consumer_info(name).await;
    let change = match existing {
        Ok(info) => {
            let same = info.config.ack_wait == wanted.ack_wait
                && info.config.max_deliver == wanted.max_deliver
                && info.config.max_ack_pending == wanted.max_ack_pending;
            (!same).then(|| format!("consumer {name} on {stream}: changed"))
        }
        Err(_) => Some(format!("consumer {name} on {stream}: made")),
    };
    if change.is_some() && !dry_run {
        on.create_consumer(wanted).await.with_context(|| format!("consumer {name} on {stream}"))?;
    }
    Ok(change.into_iter().collect())
}

async fn ensure_installation(bus: &Bus, layout: Layout, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let installation = Installation { partitions: layout.partitions };
    let existing = match bus.get(Bucket::Playbooks, INSTALLATION).await {
        Ok(existing) => existing,
        Err(_) if dry_run => None,
        Err(error) => return Err(error.into()),
    };
    match existing {
        Some(entry) => {
            let found: Installation = wire::decode(&entry.value)?;
            if found != installation {
                bail!(
                    "the installation has {} partitions, not {}: an entity's events would go elsewhere than its \
                     open incident. Changing the number is a migration, which is to come",
                    found.partitions,
                    layout.partitions
                );
            }
            Ok(vec![])
        }
        None => {
            if !dry_run {
                bus.put(Bucket::Playbooks, INSTALLATION, wire::encode(&installation).into(), Put::default())
                    .await?;
            }
            Ok(vec![format!("installation: {} partitions", layout.partitions)])
        }
    }
}
