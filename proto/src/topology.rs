//! The one table: subjects, streams, buckets, users and who may do what.
//!
//! Provisioning, the embedded server's permissions, the services and the docs are all made from here, so
//! that the picture, the code and the rights cannot drift apart. A subject or stream name is written
//! nowhere else.

use crate::audit::{KEPT_DAYS, WITNESS};
use crate::digest::Digest;
use crate::incident::TrackKey;

/// A process that connects with its own key and rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Gateway,
    Classifier,
    Debouncer,
    Executor,
    DlqReplayer,
    /// People: reads everything, pushes playbooks.
    Operator,
    /// People who only look: reads everything, and can have nothing written, not by the broker either.
    Viewer,
    /// Creates streams and buckets; used by `provision` alone.
    Provisioner,
}

impl Role {
    /// Every role, in the order in which data flows.
    pub const ALL: [Role; 8] = [
        Role::Gateway,
        Role::Classifier,
        Role::Debouncer,
        Role::Executor,
        Role::DlqReplayer,
        Role::Operator,
        Role::Viewer,
        Role::Provisioner,
    ];

    /// The name in subjects, settings and files.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Classifier => "classifier",
            Role::Debouncer => "debouncer",
            Role::Executor => "executor",
            Role::DlqReplayer => "dlq-replayer",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
            Role::Provisioner => "provisioner",
        }
    }

    /// The program that runs as this role.
    pub fn program(self) -> &'static str {
        match self {
            Role::Gateway => "holdline-gateway",
            Role::Classifier => "holdline-classifier",
            Role::Debouncer => "holdline-debouncer",
            Role::Executor => "holdline-executor",
            Role::DlqReplayer => "holdline-dlq-replayer",
            Role::Operator | Role::Viewer | Role::Provisioner => "holdline",
        }
    }

    /// Replies reach a role on its own inboxes only, so that no user can read another's.
    pub fn inbox(self) -> String {
        format!("_INBOX.{}", self.name())
    }
}

/// A stream of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    Events,
    Inputs,
    Journal,
    Commands,
    Dead,
    Retry,
    Audit,
}

/// A key-value bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    Playbooks,
    Leases,
    Dedup,
    Incidents,
    Locks,
    Intents,
    Targets,
    Rate,
    Pauses,
    Budgets,
    Approvals,
    Witness,
}

/// How a stream is kept. Every field is what `provision` sets and `--diff` compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    pub stream: Stream,
    pub name: String,
    pub subjects: Vec<String>,
    /// A message leaves when it is acknowledged; otherwise when it is too old.
    pub work_queue: bool,
    /// 0: for good.
    pub max_age_days: u32,
    /// Holds schedules (wake-ups).
    pub schedules: bool,
    /// Nothing can be taken out of it, but by age.
    pub append_only: bool,
    /// What it is for.
    pub purpose: &'static str,
}

/// How a bucket is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSpec {
    pub bucket: Bucket,
    pub name: String,
    pub history: i64,
    /// Entries vanish after this. 0: never by themselves.
    pub max_age_hours: u32,
    /// Single entries may have a life of their own.
    pub entry_ttl: bool,
    /// Can be lost without harm, so on a single server it is acknowledged before it is synced.
    pub unsynced: bool,
    pub purpose: &'static str,
}

/// What a user may publish and subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

/// Name of the executor's durable consumer on COMMANDS.
pub const EXECUTOR_CONSUMER: &str = "executor";

/// Name of the dlq-replayer's durable consumers on DEAD and RETRY.
pub const DLQ_CONSUMER: &str = "dlq-replayer";

/// `hl.dead.<this>`: what became of letters that are no longer there.
pub const RESOLVED: &str = "resolved";

/// Partitions of a single machine unless set otherwise: more than the fsync rate can fill only make small
/// frames (architecture.md 5).
pub const PARTITIONS_DEFAULT: u16 = 4;

/// The names of one installation: subjects begin with its prefix, so that several can share a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
}

impl Default for Topology {
    fn default() -> Self {
        Topology { prefix: "hl".into() }
    }
}

impl Topology {
    /// An installation by its prefix.
    ///
    /// # Errors
    /// Says what is wrong with a prefix that is not a short lower-case word.
    pub fn new(prefix: &str) -> Result<Self, String> {
        let fits = !prefix.is_empty()
            && prefix.len() <= 32
            && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits {
            Ok(Topology { prefix: prefix.into() })
        } else {
            Err(format!("{prefix:?} is no prefix: expected 1 to 32 lower-case letters and digits"))
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    // --- subjects, in the order in which data flows ---

    /// Frames of accepted events.
    pub fn event(&self, partition: u16) -> String {
        format!("{}.event.{partition}", self.prefix)
    }

    /// The classifier's records.
    pub fn signal(&self, partition: u16) -> String {
        format!("{}.signal.{partition}", self.prefix)
    }

    /// The debouncer's records.
    pub fn log(&self, partition: u16) -> String {
        format!("{}.log.{partition}", self.prefix)
    }

    /// A schedule of its own per incident and generation, never published to twice.
    pub fn timer(&self, partition: u16, incident: &str, generation: u64) -> String {
        format!("{}.timer.{partition}.{incident}.{generation}", self.prefix)
    }

    /// Where the broker puts a wake-up when it is due.
    pub fn fired(&self, partition: u16) -> String {
        format!("{}.internal.fired.{partition}", self.prefix)
    }

    /// Work for the executor.
    pub fn command(&self, partition: u16, incident: &str) -> String {
        format!("{}.command.{partition}.{incident}", self.prefix)
    }

    /// What the executor reports.
    pub fn outcome(&self, partition: u16, issue_key: &str) -> String {
        format!("{}.internal.outcome.{partition}.{issue_key}", self.prefix)
    }

    /// What a stage gives up.
    pub fn dead(&self, stage: &str) -> String {
        format!("{}.dead.{stage}", self.prefix)
    }

    /// A tier of a dead letter's way back: a schedule, never published to twice.
    pub fn retry(&self, tier: usize, letter: u64, attempt: u32) -> String {
        format!("{}.retry.{tier}.{letter}.{attempt}", self.prefix)
    }

    /// Where the broker puts a letter's turn when its tier has run out.
    pub fn retry_due(&self) -> String {
        format!("{}.retry.due", self.prefix)
    }

    /// Where people ask for a letter to be replayed or discarded.
    pub fn retry_asked(&self) -> String {
        format!("{}.retry.asked", self.prefix)
    }

    /// What comes back to the debouncer; each key once.
    pub fn retried(&self, partition: u16, key: &str) -> String {
        format!("{}.internal.retry.{partition}.{key}", self.prefix)
    }

    /// What people have decided.
    pub fn operator(&self, partition: u16) -> String {
        format!("{}.internal.operator.{partition}", self.prefix)
    }

    /// The audit trail.
    pub fn audit(&self) -> String {
        format!("{}.audit", self.prefix)
    }

    /// Where messages of a stream are asked for without a consumer, many at once.
    pub fn pages(&self, stream: Stream) -> String {
        format!("$JS.API.DIRECT.GET.{}", self.stream(stream))
    }

    /// What the debouncer of a partition decides on, as filters of its consumer.
    pub fn debouncer_inputs(&self, partition: u16) -> Vec<String> {
        vec![
            self.signal(partition),
            format!("{}.internal.*.{partition}", self.prefix),
            format!("{}.internal.outcome.{partition}.*", self.prefix),
            format!("{}.internal.retry.{partition}.*", self.prefix),
        ]
    }

    // --- streams and buckets ---

    /// The name of a stream; the default prefix leaves it plain.
    pub fn stream(&self, stream: Stream) -> String {
        self.named(match stream {
            Stream::Events => "EVENTS",
            Stream::Inputs => "INPUTS",
            Stream::Journal => "JOURNAL",
            Stream::Commands => "COMMANDS",
            Stream::Dead => "DEAD",
            Stream::Retry => "RETRY",
            Stream::Audit => "AUDIT",
        })
    }

    /// The name of a bucket.
    pub fn bucket(&self, bucket: Bucket) -> String {
        self.named(match bucket {
            Bucket::Playbooks => "PLAYBOOKS",
            Bucket::Leases => "LEASES",
            Bucket::Dedup => "DEDUP",
            Bucket::Incidents => "INCIDENTS",
            Bucket::Locks => "LOCKS",
            Bucket::Intents => "INTENTS",
            Bucket::Targets => "TARGETS",
            Bucket::Rate => "RATE",
            Bucket::Pauses => "PAUSES",
            Bucket::Budgets => "BUDGETS",
            Bucket::Approvals => "APPROVALS",
            Bucket::Witness => "WITNESS",
        })
    }

    /// The stream that a bucket lives in.
    pub fn bucket_stream(&self, bucket: Bucket) -> String {
        format!("KV_{}", self.bucket(bucket))
    }

    /// The subject of a bucket's entry.
    pub fn entry(&self, bucket: Bucket, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket(bucket))
    }

    fn named(&self, name: &str) -> String {
        if self.prefix == "hl" { name.into() } else { format!("{}_{name}", self.prefix) }
    }

    /// Every stream.
    pub fn streams(&self) -> Vec<StreamSpec> {
        let p = &self.prefix;
        let spec = |stream, subjects: &[&str], max_age_days, purpose| StreamSpec {
            stream,
            name: self.stream(stream),
            subjects: subjects.iter().map(|s| format!("{p}.{s}")).collect(),
            work_queue: stream == Stream::Commands,
            max_age_days,
            schedules: matches!(stream, Stream::Inputs | Stream::Retry),
            append_only: stream == Stream::Audit,
            purpose,
        };
        vec![
            spec(Stream::Events, &["event.*"], 30, "accepted events, as they arrived"),
            spec(
                Stream::Inputs,
                &[
                    "signal.*",
                    "internal.fact.*",
                    "internal.fired.*",
                    "internal.operator.*",
                    "internal.outcome.*.*",
                    "internal.retry.*.*",
                    "timer.*.*.*",
                ],
                30,
                "all that decisions are made on, in order; pending wake-ups",
            ),
            spec(Stream::Journal, &["log.*"], 365, "what was decided and why"),
            spec(Stream::Commands, &["command.*.*"], 0, "work for the executor"),
            spec(Stream::Dead, &["dead.*"], 0, "what could not be understood or carried out"),
            spec(
                Stream::Retry,
                &["retry.asked", "retry.due", "retry.*.*.*"],
                30,
                "the way back of dead letters: tiers that run, tiers that have run out, what people ask for",
            ),
            spec(Stream::Audit, &["audit"], KEPT_DAYS, "who did what and why, chained by hash"),
        ]
    }

    /// Every bucket.
    pub fn buckets(&self) -> Vec<BucketSpec> {
        let spec = |bucket, purpose| BucketSpec {
            bucket,
            name: self.bucket(bucket),
            history: 1,
            max_age_hours: 0,
            entry_ttl: false,
            unsynced: false,
            purpose,
        };
        vec![
            BucketSpec { history: 16, ..spec(Bucket::Playbooks, "sets of playbooks, and which is current") },
            BucketSpec {
                entry_ttl: true,
                ..spec(
                    Bucket::Leases,
                    "who owns which partition, who listens on channels; how far it had got",
                )
            },
            BucketSpec {
                max_age_hours: 24 * 5,
                entry_ttl: true,
                unsynced: true,
                ..spec(Bucket::Dedup, "event ids of the dedup window and who claimed them")
            },
            BucketSpec {
                entry_ttl: true,
                unsynced: true,
                ..spec(Bucket::Incidents, "incidents as people see them")
            },
            // A lock that a broker's crash takes away lets a second executor try; the intent refuses it.
            BucketSpec {
                entry_ttl: true,
                unsynced: true,
                ..spec(Bucket::Locks, "one executor acts on an entity at a time")
            },
            BucketSpec {
                entry_ttl: true,
                ..spec(Bucket::Intents, "calls about to be made, attempts, fencing tokens")
            },
            BucketSpec {
                entry_ttl: true,
                unsynced: true,
                ..spec(Bucket::Targets, "hosts that failed: replays to them wait")
            },
            // Synced: what a broker's crash took away would be called for a second time within the second.
            BucketSpec {
                entry_ttl: true,
                ..spec(Bucket::Rate, "the last second's calls to a host, and what it allows")
            },
            BucketSpec { history: 64, ..spec(Bucket::Pauses, "what people have stopped, and why") },
            BucketSpec { entry_ttl: true, ..spec(Bucket::Budgets, "what remedies have taken of budgets") },
            BucketSpec {
                history: 64,
                entry_ttl: true,
                ..spec(Bucket::Approvals, "what waits for people, and what they have said")
            },
            spec(Bucket::Witness, "the newest entry of the audit trail, noted apart from it"),
        ]
    }

    // --- rights ---

    /// What a role may do; everything else is refused by the broker.
    pub fn rights(&self, role: Role) -> Rights {
        let p = &self.prefix;
        let mut publish: Vec<String> = vec![];
        let own = |subjects: &[&str]| subjects.iter().map(|s| format!("{p}.{s}")).collect::<Vec<_>>();
        match role {
            Role::Gateway => {
                publish.extend(own(&["event.*"]));
                // Which gateway listens on notification channels.
                publish.extend(self.lease_rights(role));
                // What it asks takes turns with what the executors call.
                publish.push(self.entry(Bucket::Rate, ">"));
                publish.extend(self.look_up_rights(Bucket::Rate));
            }
            Role::Classifier => {
                publish.extend(own(&["signal.*", "dead.classifier"]));
                publish.extend(self.lease_rights(role));
                publish.extend(self.show_rights(Bucket::Dedup));
                publish.extend(self.read_rights(Stream::Events));
                publish.extend(self.read_rights(Stream::Inputs));
            }
            Role::Debouncer => {
                publish.extend(own(&[
                    "log.*",
                    "command.*.*",
                    "timer.*.*.*",
                    "internal.fact.*",
                    "dead.debouncer",
                ]));
                publish.extend(self.lease_rights(role));
                publish.extend(self.show_rights(Bucket::Incidents));
                publish.extend(self.read_rights(Stream::Inputs));
                publish.extend(self.read_rights(Stream::Journal));
                // Whether the queue is still the one that commands were handed to.
                publish.push(format!("$JS.API.STREAM.INFO.{}", self.stream(Stream::Commands)));
            }
            Role::Executor => {
                publish.extend(own(&["internal.outcome.*.*", "dead.executor"]));
                publish.extend(self.audit_rights());
                publish.push(self.entry(Bucket::Locks, ">"));
                publish.push(self.entry(Bucket::Intents, ">"));
                publish.extend(self.look_up_rights(Bucket::Locks));
                publish.extend(self.look_up_rights(Bucket::Intents));
                // From the leader: a replica that lags would let a call leave without its lock, or leave a remedy in
                // force.
                for bucket in [Bucket::Locks, Bucket::Intents] {
                    publish.push(format!("$JS.API.STREAM.MSG.GET.{}", self.bucket_stream(bucket)));
                }
                publish.push(self.entry(Bucket::Targets, ">"));
                publish.extend(self.look_up_rights(Bucket::Targets));
                publish.push(self.entry(Bucket::Rate, ">"));
                publish.extend(self.look_up_rights(Bucket::Rate));
                publish.push(self.entry(Bucket::Budgets, ">"));
                publish.extend(self.look_up_rights(Bucket::Budgets));
                // From the leader: a replica that lags would let a call leave that has been stopped.
                let pauses = self.bucket_stream(Bucket::Pauses);
                publish.push(format!("$JS.API.STREAM.INFO.{pauses}"));
                publish.push(format!("$JS.API.STREAM.MSG.GET.{pauses}"));
                // What it asks people for, and what they say: from the leader, too.
                publish.push(self.entry(Bucket::Approvals, ">"));
                let approvals = self.bucket_stream(Bucket::Approvals);
                publish.push(format!("$JS.API.STREAM.INFO.{approvals}"));
                publish.push(format!("$JS.API.STREAM.MSG.GET.{approvals}"));
                // Whether a command is still its incident's latest decision.
                publish.extend(self.look_up_rights(Bucket::Incidents));
                // Its own outcomes, by subject, from the leader: a consumer of INPUTS it may not have.
                publish.push(format!("$JS.API.STREAM.MSG.GET.{}", self.stream(Stream::Inputs)));
                publish.extend(self.consume_rights(Stream::Commands, EXECUTOR_CONSUMER));
            }
            Role::DlqReplayer => {
                publish.extend(own(&[
                    "event.*",
                    "internal.retry.*.*",
                    "retry.*.*.*",
                    "dead.dlq-replayer",
                    "dead.resolved",
                ]));
                publish.extend(self.consume_rights(Stream::Dead, DLQ_CONSUMER));
                publish.extend(self.consume_rights(Stream::Retry, DLQ_CONSUMER));
                // A letter by its number, and its end.
                let dead = self.stream(Stream::Dead);
                publish.push(format!("$JS.API.STREAM.MSG.GET.{dead}"));
                publish.push(format!("$JS.API.STREAM.MSG.DELETE.{dead}"));
                publish.push(self.entry(Bucket::Targets, ">"));
                publish.extend(self.look_up_rights(Bucket::Targets));
                // Whether the stage that gave up is there again.
                publish.extend(self.look_up_rights(Bucket::Leases));
                let commands = self.stream(Stream::Commands);
                publish.push(format!("$JS.API.CONSUMER.INFO.{commands}.{EXECUTOR_CONSUMER}"));
            }
            Role::Operator => {
                publish.extend(own(&["internal.operator.*", "retry.asked"]));
                publish.extend(self.audit_rights());
                publish.push(self.entry(Bucket::Playbooks, ">"));
                publish.push(self.entry(Bucket::Pauses, ">"));
                publish.push(self.entry(Bucket::Approvals, ">"));
                for spec in self.streams() {
                    publish.extend(self.read_rights(spec.stream));
                }
                for spec in self.buckets() {
                    publish.extend(self.watch_rights(spec.bucket));
                }
                publish.push("$JS.API.INFO".into());
                let commands = self.stream(Stream::Commands);
                publish.push(format!("$JS.API.CONSUMER.INFO.{commands}.{EXECUTOR_CONSUMER}"));
            }
            Role::Viewer => {
                // No consumers: whoever makes one says where the broker is to deliver, which is as good as writing there.
                for spec in self.streams() {
                    publish.push(self.pages(spec.stream));
                    publish.extend(looking(&spec.name));
                }
                for spec in self.buckets() {
                    publish.extend(looking(&self.bucket_stream(spec.bucket)));
                    publish.extend(self.look_up_rights(spec.bucket));
                }
                publish.push("$JS.API.INFO".into());
            }
            Role::Provisioner => publish.push(">".into()),
        }
        // Everyone follows the current set of playbooks.
        publish.extend(self.look_up_rights(Bucket::Playbooks));
        publish.sort();
        publish.dedup();
        Rights { publish, subscribe: vec![format!("{}.>", role.inbox())] }
    }

    /// The table for people: what there is, what for, who may write it and who may read it.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for spec in self.streams() {
            let readers = self.who_may(&Self::reads(&spec.name));
            text += &format!("{} ({}); read by {readers}\n", spec.name, spec.purpose);
            for subject in &spec.subjects {
                let writers = self.who_may(&[subject.replace('*', "x")]);
                text += &format!("  {subject:<28} written by {writers}\n");
            }
        }
        for spec in self.buckets() {
            let keys = ["x", "gateway.x", "classifier.x", "debouncer.x", WITNESS]
                .map(|key| self.entry(spec.bucket, key));
            let mut reads = Self::reads(&self.bucket_stream(spec.bucket));
            reads.push(format!("$JS.API.DIRECT.GET.{}.{}", self.bucket_stream(spec.bucket), keys.join("")));
            let (writers, readers) = (self.who_may(&keys), self.who_may(&reads));
            text += &format!("{} ({}); written by {writers}; read by {readers}\n", spec.name, spec.purpose);
        }
        text
    }

    fn reads(stream: &str) -> Vec<String> {
        let verbs = ["CREATE.{}.x", "MSG.NEXT.{}.executor", "MSG.NEXT.{}.dlq-replayer"];
        let mut reads: Vec<String> =
            verbs.map(|verb| format!("$JS.API.CONSUMER.{}", verb.replace("{}", stream))).into();
        reads.push(format!("$JS.API.DIRECT.GET.{stream}"));
        reads
    }

    /// The roles that may publish any of these subjects.
    fn who_may(&self, subjects: &[String]) -> String {
        let may = |role: &Role| {
            let rights = self.rights(*role).publish;
            *role != Role::Provisioner
                && subjects.iter().any(|subject| rights.iter().any(|right| subject_matches(right, subject)))
        };
        let names: Vec<&str> = Role::ALL.into_iter().filter(may).map(Role::name).collect();
        if names.is_empty() { "nobody but the broker".into() } else { names.join(", ") }
    }

    /// Reading a stream in order from a position, and its last record from the leader.
    fn read_rights(&self, stream: Stream) -> Vec<String> {
        reading(&self.stream(stream))
    }

    /// Adding to the audit trail: behind its last entry, which is read from the leader and noted apart.
    fn audit_rights(&self) -> Vec<String> {
        let stream = self.stream(Stream::Audit);
        vec![
            self.audit(),
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            self.entry(Bucket::Witness, WITNESS),
            format!("$JS.API.STREAM.MSG.GET.{}", self.bucket_stream(Bucket::Witness)),
        ]
    }

    /// Listing a bucket.
    fn watch_rights(&self, bucket: Bucket) -> Vec<String> {
        let mut rights = reading(&self.bucket_stream(bucket));
        rights.extend(self.look_up_rights(bucket));
        rights
    }

    /// Reading single entries of a bucket.
    fn look_up_rights(&self, bucket: Bucket) -> Vec<String> {
        let stream = self.bucket_stream(bucket);
        vec![
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}.{}", self.entry(bucket, ">")),
        ]
    }

    /// Writing views, and looking at the fences that say whose they are.
    fn show_rights(&self, bucket: Bucket) -> Vec<String> {
        let fences = self.entry(bucket, "fence.*");
        vec![self.entry(bucket, ">"), format!("$JS.API.DIRECT.GET.{}.{fences}", self.bucket_stream(bucket))]
    }

    /// A stage's own leases, and nobody else's.
    fn lease_rights(&self, role: Role) -> Vec<String> {
        let mut rights = self.look_up_rights(Bucket::Leases);
        rights.push(self.entry(Bucket::Leases, &format!("{}.>", role.name())));
        rights
    }

    /// Pulling from one durable consumer, acknowledging, and making it again if the broker has lost it.
    fn consume_rights(&self, stream: Stream, consumer: &str) -> Vec<String> {
        let stream = self.stream(stream);
        vec![
            format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            format!("$JS.ACK.{stream}.{consumer}.>"),
            format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
        ]
    }
}

fn reading(stream: &str) -> Vec<String> {
    [
        "STREAM.INFO.{}",
        "STREAM.MSG.GET.{}",
        "CONSUMER.CREATE.{}.>",
        "CONSUMER.INFO.{}.*",
        "CONSUMER.MSG.NEXT.{}.*",
        "CONSUMER.DELETE.{}.*",
    ]
    .iter()
    .map(|verb| format!("$JS.API.{}", verb.replace("{}", stream)))
    .collect()
}

/// What a stream is, who consumes it, and single messages of it, from the leader.
fn looking(stream: &str) -> Vec<String> {
    ["STREAM.INFO.{}", "STREAM.MSG.GET.{}", "CONSUMER.INFO.{}.*"]
        .iter()
        .map(|verb| format!("$JS.API.{}", verb.replace("{}", stream)))
        .collect()
}

/// Whether a subject falls under a pattern with `*` and `>`, as the broker matches them.
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut subject = subject.split('.');
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(expected), Some(found)) if expected == found => {}
            _ => return false,
        }
    }
}

/// The partition of an entity: a hash of its name alone, the same in every build and on every machine.
pub fn partition_of(entity: &str, partitions: u16) -> u16 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(entity.as_bytes());
    let word = digest.iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    u16::try_from(word % u64::from(partitions.max(1))).unwrap_or(0)
}

/// A short name that is safe as a subject token and the same in every run: the first 12 characters of the
/// base-32 SHA-256 of its parts.
pub fn token(parts: &[&str]) -> String {
    const ALPHABET: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'j', 'k', 'm', 'n', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w',
        'x', 'y', 'z', '2', '3', '4', '5', '6', '7', '8', '9', '0',
    ];
    Digest::of(parts)
        .bytes()
        .iter()
        .take(12)
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)))
        .collect()
}

/// A track's name as a subject token: what the executor locks.
pub fn track_token(key: &TrackKey) -> String {
    token(&[&key.playbook, &key.lane.to_string(), &key.entity])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_broker_does() {
        let check = |pattern, subject, expected| {
            assert_eq!(subject_matches(pattern, subject), expected, "{pattern} {subject}");
        };
        check("hl.event.*", "hl.event.3", true);
        check("hl.event.*", "hl.event.3.x", false);
        check("hl.event.*", "hl.event", false);
        check(">", "a.b", true);
        check("a.>", "a", false);
        check("a.*.c", "a.b.c", true);
        check("a.*.c", "a.b.d", false);
    }

    #[test]
    fn c3_only_the_gateway_and_the_replayer_write_events_and_only_the_classifier_signals() {
        let topology = Topology::default();
        let writers = |subject: &str| {
            Role::ALL
                .into_iter()
                .filter(|role| *role != Role::Provisioner)
                .filter(|role| topology.rights(*role).publish.iter().any(|p| subject_matches(p, subject)))
                .collect::<Vec<_>>()
        };
        assert_eq!(writers("hl.event.0"), [Role::Gateway, Role::DlqReplayer]);
        assert_eq!(writers("hl.signal.0"), [Role::Classifier]);
        assert_eq!(writers("hl.log.0"), [Role::Debouncer]);
        assert_eq!(writers("hl.command.0.x"), [Role::Debouncer]);
        assert_eq!(writers("hl.timer.0.x.1"), [Role::Debouncer]);
        assert_eq!(writers("hl.internal.outcome.0.x"), [Role::Executor]);
        assert_eq!(writers("hl.internal.operator.0"), [Role::Operator]);
        assert_eq!(writers("hl.internal.fired.0"), []);
        assert_eq!(writers("hl.audit"), [Role::Executor, Role::Operator]);
        // The two that call others share one window (E5).
        assert_eq!(writers(&topology.entry(Bucket::Rate, "x")), [Role::Gateway, Role::Executor]);
    }

    #[test]
    fn a3_a_viewer_reads_and_has_nothing_written() {
        let rights = Topology::default().rights(Role::Viewer).publish;
        let reads = ["INFO", "STREAM.INFO.", "STREAM.MSG.GET.", "DIRECT.GET.", "CONSUMER.INFO."];
        for right in &rights {
            let asked = right.strip_prefix("$JS.API.").unwrap_or_else(|| panic!("{right} writes"));
            assert!(reads.iter().any(|verb| asked.starts_with(verb)), "{right} is no reading");
        }
        assert!(rights.len() > 50, "{rights:?}");
    }

    #[test]
    fn every_subject_belongs_to_exactly_one_stream() {
        let topology = Topology::default();
        let subjects = [
            topology.event(0),
            topology.signal(0),
            topology.log(0),
            topology.timer(0, "i", 1),
            topology.fired(0),
            topology.command(0, "i"),
            topology.outcome(0, "k"),
            topology.dead("gateway"),
            topology.audit(),
        ];
        for subject in subjects {
            let holders = topology
                .streams()
                .into_iter()
                .filter(|s| s.subjects.iter().any(|p| subject_matches(p, &subject)))
                .count();
            assert_eq!(holders, 1, "{subject}");
        }
    }

    #[test]
    fn entities_spread_and_stay_where_they_are() {
        // Pinned: a change of the hash would tear open incidents from their events.
        assert_eq!((partition_of("gw-1", 4), partition_of("gw-2", 4), partition_of("gw-3", 4)), (1, 3, 1));
        let mut counts = [0u32; 4];
        for n in 0..4_000 {
            counts[usize::from(partition_of(&format!("gw-{n}"), 4))] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }
}
