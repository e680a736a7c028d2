//! One executor acts on an entity at a time (E4): an entry of LOCKS with a life of its own. The fencing
//! token is its revision; a holder that was paused for too long finds the intent written by somebody else.

use std::time::Duration;

use bytes::Bytes;
use holdline_proto::topology::{Bucket, token};
use holdline_stage::bus::{Bus, Put, StoreError};
use holdline_stage::clock::{self, Instant};

/// A lock runs out this long after its last renewal.
const TTL: Duration = Duration::from_secs(5);

/// Between renewals.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(1_500);

/// A lock that was given back stays as a note for this long, so that taking it again is one step.
const FREE_KEPT: Duration = Duration::from_secs(60);

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct Lock {
    key: String,
    revision: u64,
    holder: String,
    /// The fencing token: the revision at which it was taken.
    pub(crate) token: u64,
    renewed: Instant,
}

/// Takes the lock of an entity; `None` while somebody else has it.
pub(crate) async fn take(bus: &Bus, entity: &str, holder: &str) -> Result<Option<Lock>, StoreError> {
    let key = token(&[entity]);
    let found = bus.get(Bucket::Locks, &key).await?;
    if found.as_ref().is_some_and(|entry| !entry.value.is_empty()) {
        return Ok(None);
    }
    let expect = Some(found.map_or(0, |entry| entry.revision));
    let renewed = clock::now();
    let put = Put { expect, ttl: Some(TTL), ..Put::default() };
    match bus.put(Bucket::Locks, &key, Bytes::from(holder.to_string()), put).await {
        Ok(revision) => Ok(Some(Lock { key, revision, holder: holder.into(), token: revision, renewed })),
        Err(StoreError::Fenced) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Lock {
    /// Keeps it for longer.
    pub(crate) async fn renew(&mut self, bus: &Bus) -> Result<(), StoreError> {
        let renewed = clock::now();
        let put = Put { expect: Some(self.revision), ttl: Some(TTL), ..Put::default() };
        let holder = Bytes::from(self.holder.clone());
        self.revision = bus.put(Bucket::Locks, &self.key, holder, put).await?;
        self.renewed = renewed;
        Ok(())
    }

    /// Whether it can be relied on for a call that begins now.
    pub(crate) fn is_sure(&self) -> bool {
        self.renewed.elapsed() < TTL - RENEW_EVERY
    }

    /// Gives it back. If that gets lost, it runs out by itself.
    pub(crate) async fn release(self, bus: &Bus) {
        let put = Put { expect: Some(self.revision), ttl: Some(FREE_KEPT), ..Put::default() };
        if let Err(error) = bus.put(Bucket::Locks, &self.key, Bytes::new(), put).await {
            tracing::debug!("a lock is left to run out: {error}");
        }
    }
}
