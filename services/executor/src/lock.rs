//! One executor acts on an entity at a time (E4): an entry of LOCKS with a life of its own. The fencing
//! token is its revision; a holder that was paused for too long finds the intent written by somebody else.
//! A lock that is there and that nobody renews (written by hand, say) is taken over, loudly.

use std::time::Duration;

use bytes::Bytes;
use holdline_proto::topology::{Bucket, token};
use holdline_stage::bus::{Bus, Place, Put, StoreError};
use holdline_stage::clock::{self, Instant, Moment};

/// A lock runs out this long after its last renewal.
const TTL: Duration = Duration::from_secs(5);

/// Between renewals.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(1_500);

/// A lock that is seen unchanged for this long is nobody's.
const DEAD_AFTER: Duration = Duration::from_secs(3 * TTL.as_secs());

/// Locks of others that are watched for being renewed; beyond, the ones seen least recently are forgotten.
const OTHERS_MAX: u64 = 10_000;

/// A lock that was given back stays as a note for this long, so that taking it again is one step.
const FREE_KEPT: Duration = Duration::from_secs(60);

/// The key of no lock.
const NOBODYS: &str = "-";

/// A lock that is held: of an entity, and of what is changed for it if that may be somebody else's as well.
#[derive(Debug)]
pub(crate) struct Lock {
    /// In the order in which they were taken.
    held: Vec<Held>,
    holder: String,
    /// The fencing token: the revision at which the first was taken.
    pub(crate) token: u64,
    renewed: Moment,
}

/// Tries to read from the leader, as has to be done before every call.
///
/// # Errors
/// When the broker does not answer, or not us.
pub(crate) async fn can_be_read(bus: &Bus) -> Result<(), StoreError> {
    bus.newest(Bucket::Locks, NOBODYS).await.map(drop)
}

#[derive(Debug)]
struct Held {
    key: String,
    /// What the last write of ours led to, as far as it was answered.
    revision: u64,
    /// No other taking has the same.
    value: Bytes,
}

/// Takes locks, and keeps an eye on those of others.
#[derive(Debug)]
pub(crate) struct Locks {
    /// Revision of a lock that somebody else has, and since when it is that.
    others: moka::sync::Cache<String, (u64, Instant)>,
}

impl Default for Locks {
    fn default() -> Locks {
        // What is not looked at any more has been taken or has run out.
        let others = moka::sync::Cache::builder().max_capacity(OTHERS_MAX).time_to_idle(DEAD_AFTER).build();
        Locks { others }
    }
}

impl Locks {
    /// Takes the lock of an entity; `None` while somebody else has it.
    pub(crate) async fn take(
        &self,
        bus: &Bus,
        entity: &str,
        holder: &str,
    ) -> Result<Option<Lock>, StoreError> {
        let renewed = Moment::now();
        let taken = self.take_key(bus, token(&[entity]), holder).await?;
        Ok(taken.map(|held| Lock { token: held.revision, held: vec![held], holder: holder.into(), renewed }))
    }

    /// Takes the lock of what is changed besides; `false` while somebody else has it.
    pub(crate) async fn take_also(
        &self,
        bus: &Bus,
        lock: &mut Lock,
        object: &str,
    ) -> Result<bool, StoreError> {
        let taken = self.take_key(bus, token(&["object", object]), &lock.holder).await?;
        let is_taken = taken.is_some();
        lock.held.extend(taken);
        Ok(is_taken)
    }

    async fn take_key(&self, bus: &Bus, key: String, holder: &str) -> Result<Option<Held>, StoreError> {
        let found = bus.place(Bucket::Locks, &key).await?;
        let held = found.value.is_some_and(|holder| !holder.is_empty());
        if held && !self.is_dead(&key, found.revision) {
            return Ok(None);
        }
        if held {
            tracing::error!(key, "the lock {key} is there and nobody renews it; taking it over");
        }
        let put = Put { expect: Some(found.revision), ttl: Some(TTL), ..Put::default() };
        let value = Bytes::from(format!("{holder} after {}", found.revision));
        match bus.put(Bucket::Locks, &key, value.clone(), put).await {
            Ok(revision) => Ok(Some(Held { key, revision, value })),
            Err(StoreError::Fenced) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a lock of somebody else has not been renewed for too long.
    fn is_dead(&self, key: &str, revision: u64) -> bool {
        match self.others.get(key) {
            Some((seen, since)) if seen == revision => clock::since(since) >= DEAD_AFTER,
            _ => {
                self.others.insert(key.into(), (revision, clock::now()));
                false
            }
        }
    }
}

impl Lock {
    /// Keeps it for longer.
    pub(crate) async fn renew(&mut self, bus: &Bus) -> Result<(), StoreError> {
        let renewed = Moment::now();
        for held in &mut self.held {
            held.renew(bus).await?;
        }
        self.renewed = renewed;
        Ok(())
    }

    /// When it has to be renewed.
    pub(crate) fn renews_in(&self) -> Duration {
        RENEW_EVERY.saturating_sub(self.renewed.elapsed())
    }

    /// Whether it can be relied on for a call that begins now.
    pub(crate) fn is_sure(&self) -> bool {
        self.renewed.elapsed() < TTL - RENEW_EVERY
    }

    /// When it was renewed last, as the broker's leader has it; `None` if it is not ours any more: our own clocks may
    /// have stood still with us. Unix milliseconds, by the broker's clock.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(crate) async fn renewed_ms(&self, bus: &Bus) -> Result<Option<i64>, StoreError> {
        let looks = self.held.iter().map(|held| bus.newest(Bucket::Locks, &held.key));
        let found = futures_util::future::try_join_all(looks).await?;
        let all_ours = found.iter().zip(&self.held).all(|(place, held)| held.is_ours(place));
        Ok(found.iter().map(|place| place.written_ms).max().filter(|_| all_ours))
    }

    /// Gives it back. If that gets lost, it runs out by itself.
    pub(crate) async fn release(self, bus: &Bus) {
        for Held { key, revision, .. } in self.held.iter().rev() {
            let put = Put { expect: Some(*revision), ttl: Some(FREE_KEPT), ..Put::default() };
            if let Err(error) = bus.put(Bucket::Locks, key, Bytes::new(), put).await {
                tracing::debug!("a lock is left to run out: {error}");
            }
        }
    }
}

impl Held {
    fn is_ours(&self, place: &Place) -> bool {
        place.value.as_ref() == Some(&self.value)
    }

    async fn renew(&mut self, bus: &Bus) -> Result<(), StoreError> {
        let again = |revision| {
            let put = Put { expect: Some(revision), ttl: Some(TTL), ..Put::default() };
            bus.put(Bucket::Locks, &self.key, self.value.clone(), put)
        };
        self.revision = match again(self.revision).await {
            Ok(revision) => revision,
            // Perhaps by a renewal of our own whose answer was lost.
            Err(StoreError::Fenced) => {
                let found = bus.newest(Bucket::Locks, &self.key).await?;
                if !self.is_ours(&found) {
                    return Err(StoreError::Fenced);
                }
                again(found.revision).await?
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }
}
