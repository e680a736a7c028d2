//! Reads `hl.event.<p>`, decides what each event means to the playbooks, writes `hl.signal.<p>`.
//!
//! What an event means stands in `decide::classify`; how it becomes durable in `stage::pipe`. Here the two
//! are wired together. Invariants: every accepted event gets a disposition or a signal; an event id counts
//! once within the window; a position moves only with the record that holds what came of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdline_decide::MACHINE;
use holdline_decide::classify::Partition;
use holdline_decide::playbook::{self, Set};
use holdline_proto::event::Frame;
use holdline_proto::signal::Classified;
use holdline_proto::topology::{Bucket, Role, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::clock::{self, Instant};
use holdline_stage::pipe::{self, Conclusion, Machine, Message, NotReady, Stage, View};
use holdline_stage::playbooks::{Playbooks, installation};
use holdline_stage::run::Shell;
use holdline_stage::secret::{Lookup, environment};
use holdline_stage::settings::Reader;
use secrecy::ExposeSecret;

const STAGE: Stage = Stage {
    role: Role::Classifier,
    reads: Stream::Events,
    inputs: |topology, partition| vec![topology.event(partition)],
    writes: Stream::Inputs,
    record: |topology, partition| topology.signal(partition),
    commands: false,
    machine: MACHINE,
};

/// Settings of the classifier.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an event id is remembered, unless its source may repeat it for longer. Never below the signature
    /// window, the oldest spool and the retry tiers together.
    pub dedup_window: Duration,
    /// Ids remembered per partition; beyond, the oldest go first.
    pub dedup_ids_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { dedup_window: Duration::from_secs(24 * 3_600), dedup_ids_max: 1_000_000 }
    }
}

impl Settings {
    /// Reads `classifier.dedup_window_s` and `classifier.dedup_ids_max`.
    pub fn read(reader: &mut Reader) -> Settings {
        let default = Settings::default();
        Settings {
            dedup_window: Duration::from_secs(reader.or(
                "classifier",
                "dedup_window_s",
                default.dedup_window.as_secs(),
            )),
            dedup_ids_max: reader.or("classifier", "dedup_ids_max", default.dedup_ids_max),
        }
    }
}

/// Runs the classifier until the service is stopped.
///
/// # Errors
/// When the broker stays away or the settings cannot be used.
pub async fn run(settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let bus = Bus::connect(Role::Classifier, &shell.common.nats, &shell.tasks, &shell.health).await?;
    let partitions = installation(&bus, &shell).await?.partitions;
    let playbooks = Playbooks::follow(&bus, &shell, playbook::compile);
    let window_ms = i64::try_from(settings.dedup_window.as_millis()).unwrap_or(i64::MAX);
    pipe::run(STAGE, &bus, &shell, partitions, move |partition| Classifier {
        partition,
        state: Partition::new(window_ms, settings.dedup_ids_max),
        playbooks: playbooks.clone(),
        set: None,
        pending: None,
        window: settings.dedup_window,
        ids: environment(),
        ids_again: None,
    })
    .await;
    Ok(())
}

/// One partition of the classifier.
struct Classifier {
    partition: u16,
    state: Partition,
    playbooks: Playbooks<Set>,
    /// The set that this record's signals are made with; one record, one set.
    set: Option<(String, Arc<Set>)>,
    pending: Option<Classified>,
    window: Duration,
    /// Where the ids of our own OAuth clients are to be had.
    ids: Lookup,
    /// Some were not to be had then, and are looked for again.
    ids_again: Option<Instant>,
}

/// Looks for ids of our own OAuth clients that were not found: a file may come later.
const IDS_EVERY: Duration = Duration::from_secs(10);

/// The ids of the set's OAuth clients, as far as they are known here, and whether some are not. They are no secrets; what
/// belongs to them is neither needed nor looked up.
async fn own_clients(known: &Lookup, set: &Set, tell: bool) -> (BTreeSet<String>, bool) {
    let mut ids = BTreeSet::new();
    let mut missing = false;
    for (name, client) in set.platform.iter().flat_map(|platform| &platform.clients) {
        match known.fetch(&client.id).await {
            Ok(id) => drop(ids.insert(id.expose_secret().to_string())),
            Err(why) => {
                missing = true;
                if tell {
                    tracing::warn!(
                        client = name,
                        "what the platform's audit tells of our client {name} is not known for our own doing: its id is \
                         not known here ({why})"
                    );
                }
            }
        }
    }
    (ids, missing)
}

impl Machine for Classifier {
    type Body = Classified;

    fn fold(&mut self, sequence: u64, body: Classified) {
        self.state.fold(sequence, body);
    }

    fn restored(&mut self, _base: u64, _last: u64) {}

    async fn prepare(&mut self, _input: Option<&Message>) -> Result<(), NotReady> {
        if self.pending.is_none() {
            let current = self.playbooks.current();
            if let Some((hash, set)) = &current {
                let is_new = self.set.as_ref().is_none_or(|(before, _)| before != hash);
                if is_new || self.ids_again.is_some_and(|since| clock::since(since) >= IDS_EVERY) {
                    let (ids, missing) = own_clients(&self.ids, set, is_new).await;
                    self.state.recognise(ids);
                    self.ids_again = missing.then(clock::now);
                }
            }
            self.set = current;
        }
        match self.set {
            Some(_) => Ok(()),
            None => Err(NotReady("no set of playbooks was pushed yet".into())),
        }
    }

    fn decide(&mut self, input: &Message) -> Result<usize, String> {
        let frame: Frame = wire::decode(&input.payload).map_err(|error| error.to_string())?;
        let Some((hash, set)) = &self.set else { return Err("no set of playbooks".into()) };
        let pending = self
            .pending
            .get_or_insert_with(|| Classified { playbooks: hash.clone(), ..Classified::default() });
        self.state.frame(set, input.sequence, input.published_ms, &frame, pending);
        // Its signals, its claims, and room for what they change further down.
        Ok(input.payload.len() + 1_024 * frame.events.len())
    }

    /// Every frame is passed on, a tick too: it carries the watermark.
    fn conclude(&mut self, must: bool) -> Option<Conclusion<Classified>> {
        let pending = self.pending.take().or_else(|| must.then(Classified::default));
        let mut body = pending?;
        self.state.conclude(&mut body);
        let views = self.dedup_view(&body).into_iter().collect();
        Some(Conclusion { base: self.state.base(), effects: vec![], views, body })
    }

    fn committed(&mut self, sequence: u64) {
        self.state.committed(sequence, self.state.now_ms());
    }

    fn views(&self) -> Vec<View> {
        vec![]
    }
}

impl Classifier {
    /// The window as others can look it up: the ids that one record claims, and where.
    fn dedup_view(&self, body: &Classified) -> Option<View> {
        let first = body.claims.first()?.origin;
        let longest_ms = body.claims.iter().map(|claim| claim.window_ms).max().unwrap_or(0);
        let longest = Duration::from_millis(u64::try_from(longest_ms).unwrap_or(0));
        Some(View {
            bucket: Bucket::Dedup,
            key: format!("{}.{}", self.partition, first.sequence),
            value: wire::encode(&holdline_proto::signal::Claims(body.claims.clone())).into(),
            ttl: Some(self.window.max(longest)),
        })
    }
}
