//! Who owns which partition (architecture.md 5): a key per partition with a life of its own, renewed by
//! compare-and-set, released on drain. The record's fence makes a wrong lease harmless, so a lease only has
//! to be right most of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdline_proto::topology::{Bucket, Role};

use crate::bus::{Bus, Place, Put, StoreError};
use crate::clock::{self, Instant};
use crate::run::{BEGINNING, Shell, Tasks};
use crate::telemetry::Metric;

/// A lease runs out this long after its last renewal.
const TTL: Duration = Duration::from_secs(4);

/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_millis(1_300);

/// Between looks at who owns what.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Between looks at whether the others' keys are still renewed.
const CHECK_EVERY: Duration = TTL;

/// A key that nobody has renewed for this long is nobody's, although it is there: a person wrote it, or its
/// life has no end in a bucket that was altered.
const DEAD_AFTER: Duration = Duration::from_secs(3 * TTL.as_secs());

/// A partition whose worker ended is left alone for this long, so that an owner that was refused does not
/// race the new one.
const REST: Duration = Duration::from_secs(1);

struct Owned {
    revision: u64,
    renewed: Instant,
    tasks: Tasks,
    ended: Arc<AtomicBool>,
}

/// Holds this replica's share of what the replicas of a role share out among them, and runs `work` for each, until
/// the service stops. `what` they are called in readiness: `partitions`.
pub async fn hold<W, F>(bus: &Bus, shell: &Shell, role: Role, what: &str, partitions: u16, work: W)
where
    W: Fn(u16, Tasks) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut leases = Leases {
        bus,
        stage: role.name(),
        replica: &shell.common.replica,
        partitions,
        owned: BTreeMap::new(),
        resting: BTreeMap::new(),
        greeted: None,
        all_taken: false,
        others: BTreeMap::new(),
        checked: None,
    };
    let (leased, leasing) = (format!("{} {what}", role.name()), format!("{} leases", role.name()));
    let mut well = clock::now();
    shell.health.awaiting(&leased, "nobody was asked yet");
    shell.health.present(BEGINNING);
    loop {
        let looked = tokio::select! {
            looked = leases.look(&work) => looked,
            // What it was about to take or to renew runs out by itself.
            () = shell.tasks.stopping() => break,
        };
        match looked {
            Ok(()) => {
                well = clock::now();
                shell.health.present(&leasing);
            }
            // Work goes on, fenced by its records; but nobody would take over.
            Err(error) if clock::since(well) >= TTL => shell.health.missing(&leasing, error.to_string()),
            Err(error) => tracing::debug!("leases: {error}"),
        }
        Metric::PartitionsOwned.set(leases.owned.len() as u64, role.name(), None);
        // A replica beyond the number of partitions stands by, which is ready.
        if leases.owned.is_empty() && !leases.all_taken {
            shell.health.missing(&leased, "some have no owner");
        } else {
            shell.health.present(&leased);
        }
        tokio::select! {
            () = clock::sleep(LOOK_EVERY) => {}
            () = shell.tasks.stopping() => break,
        }
    }
    leases.release_all().await;
}

struct Leases<'a> {
    bus: &'a Bus,
    stage: &'static str,
    replica: &'a str,
    partitions: u16,
    owned: BTreeMap<u16, Owned>,
    resting: BTreeMap<u16, Instant>,
    greeted: Option<Instant>,
    /// At the last look every partition had an owner.
    all_taken: bool,
    /// The keys of other replicas: their revision, and since when it is that.
    others: BTreeMap<String, Other>,
    checked: Option<Instant>,
}

struct Other {
    revision: u64,
    since: Instant,
    /// What a deletion leaves behind.
    deleted: bool,
}

impl Other {
    fn lives(&self) -> bool {
        !self.deleted && clock::since(self.since) < DEAD_AFTER
    }
}

impl Leases<'_> {
    fn key(&self, partition: u16) -> String {
        format!("{}.lease.{partition}", self.stage)
    }

    async fn look<W, F>(&mut self, work: &W) -> Result<(), StoreError>
    where
        W: Fn(u16, Tasks) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        self.greet().await?;
        self.let_go_of_ended().await?;
        self.renew().await?;
        let (members, taken) = self.survey().await?;
        self.all_taken = taken.len() >= usize::from(self.partitions);
        let share = usize::from(self.partitions).div_ceil(members.max(1));
        if self.owned.len() > share
            && let Some(partition) = self.owned.keys().next_back().copied()
        {
            tracing::info!(stage = self.stage, partition, "partition {partition} goes to another replica");
            return self.release(partition).await;
        }
        self.resting.retain(|_, since| clock::since(*since) < REST);
        for partition in 0..self.partitions {
            let free = !taken.contains(&partition) && !self.resting.contains_key(&partition);
            if free && self.owned.len() < share && !self.owned.contains_key(&partition) {
                self.take(partition, work).await?;
            }
        }
        Ok(())
    }

    /// Says that this replica lives, so that the others leave it its share.
    async fn greet(&mut self) -> Result<(), StoreError> {
        if self.greeted.is_some_and(|at| clock::since(at) < RENEW_EVERY) {
            return Ok(());
        }
        let key = format!("{}.member.{}", self.stage, self.replica);
        let put = Put { ttl: Some(TTL), ..Put::default() };
        self.bus.put(Bucket::Leases, &key, Bytes::new(), put).await?;
        self.greeted = Some(clock::now());
        Ok(())
    }

    /// Live replicas, and partitions that have an owner.
    async fn survey(&mut self) -> Result<(usize, BTreeSet<u16>), StoreError> {
        let member = format!("{}.member.", self.stage);
        let lease = format!("{}.lease.", self.stage);
        let of = |key: &str| key.strip_prefix(&lease).and_then(|partition| partition.parse::<u16>().ok());
        let mut keys = self.bus.keys(Bucket::Leases, &format!("{}.>", self.stage)).await?;
        keys.retain(|key| {
            let others = key.strip_prefix(&member).is_some_and(|replica| replica != self.replica);
            others || of(key).is_some_and(|partition| !self.owned.contains_key(&partition))
        });
        self.others.retain(|key, _| keys.contains(key));
        let check = self.checked.is_none_or(|at| clock::since(at) >= CHECK_EVERY);
        for key in keys {
            if check || !self.others.contains_key(&key) {
                self.check(key).await?;
            }
        }
        if check {
            self.checked = Some(clock::now());
        }
        let alive = || self.others.iter().filter(|(_, other)| other.lives()).map(|(key, _)| key);
        let members = 1 + alive().filter(|key| key.starts_with(&member)).count();
        let taken = alive().filter_map(|key| of(key)).chain(self.owned.keys().copied()).collect();
        Ok((members, taken))
    }

    /// Whether another replica's key is still renewed.
    async fn check(&mut self, key: String) -> Result<(), StoreError> {
        let Place { value, revision, .. } = self.bus.place(Bucket::Leases, &key).await?;
        let fresh = Other { revision, since: clock::now(), deleted: value.is_none() };
        match self.others.get(&key) {
            Some(other) if other.revision == revision => {
                if !other.deleted && !other.lives() {
                    tracing::error!(key, "{key} of LEASES is there and nobody renews it: taken for nobody's");
                }
            }
            _ => drop(self.others.insert(key, fresh)),
        }
        Ok(())
    }

    async fn take<W, F>(&mut self, partition: u16, work: &W) -> Result<(), StoreError>
    where
        W: Fn(u16, Tasks) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let left_behind = self.others.get(&self.key(partition)).map_or(0, |other| other.revision);
        let put = Put { expect: Some(left_behind), ttl: Some(TTL), ..Put::default() };
        let owner = Bytes::from(self.replica.to_string());
        let revision = match self.bus.put(Bucket::Leases, &self.key(partition), owner, put).await {
            Ok(revision) => revision,
            // Another replica was faster, or what was left behind is gone.
            Err(StoreError::Fenced) => {
                self.others.remove(&self.key(partition));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let tasks = Tasks::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (working, over) = (work(partition, tasks.clone()), ended.clone());
        tasks.spawn(async move {
            working.await;
            over.store(true, Ordering::Release);
        });
        self.owned.insert(partition, Owned { revision, renewed: clock::now(), tasks, ended });
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        let mut lost = vec![];
        for (partition, owned) in &mut self.owned {
            if clock::since(owned.renewed) < RENEW_EVERY {
                continue;
            }
            let key = format!("{}.lease.{partition}", self.stage);
            let put = Put { expect: Some(owned.revision), ttl: Some(TTL), ..Put::default() };
            match self.bus.put(Bucket::Leases, &key, Bytes::from(self.replica.to_string()), put).await {
                Ok(revision) => {
                    owned.revision = revision;
                    owned.renewed = clock::now();
                }
                Err(StoreError::Fenced) => lost.push(*partition),
                Err(error) => return Err(error),
            }
        }
        for partition in lost {
            tracing::warn!(stage = self.stage, partition, "the lease of partition {partition} is lost");
            if let Some(owned) = self.owned.remove(&partition) {
                owned.tasks.finish().await;
                self.resting.insert(partition, clock::now());
            }
        }
        Ok(())
    }

    async fn let_go_of_ended(&mut self) -> Result<(), StoreError> {
        let over = |owned: &Owned| owned.ended.load(Ordering::Acquire);
        let ended: Vec<u16> = self.owned.iter().filter(|(_, owned)| over(owned)).map(|(p, _)| *p).collect();
        for partition in ended {
            self.release(partition).await?;
        }
        Ok(())
    }

    async fn release(&mut self, partition: u16) -> Result<(), StoreError> {
        let Some(owned) = self.owned.remove(&partition) else { return Ok(()) };
        owned.tasks.finish().await;
        self.resting.insert(partition, clock::now());
        match self.bus.delete(Bucket::Leases, &self.key(partition), Some(owned.revision)).await {
            Ok(()) | Err(StoreError::Fenced) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends all work, and gives back what the broker takes before it would have run out anyway.
    async fn release_all(&mut self) {
        self.owned.values().for_each(|owned| owned.tasks.stop());
        for owned in self.owned.values() {
            owned.tasks.wait().await;
        }
        tokio::select! {
            () = self.give_back_all() => {}
            () = clock::sleep(TTL) => tracing::warn!("the broker does not answer; what is not given back runs out"),
        }
    }

    async fn give_back_all(&mut self) {
        for partition in self.owned.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.release(partition).await {
                tracing::warn!(partition, "partition {partition} is left to run out: {error}");
            }
        }
        let key = format!("{}.member.{}", self.stage, self.replica);
        if let Err(error) = self.bus.delete(Bucket::Leases, &key, None).await {
            tracing::debug!("leases: {error}");
        }
    }
}
