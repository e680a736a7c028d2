//! Which targets fail (TARGETS): an executor that gives a command up says so, and the first that gets an
//! answer takes it back. The dlq-replayer lets nothing but one letter at a time through to a target that
//! fails. A view: lost, it costs a replay that comes too early.

use std::time::Duration;

use holdline_proto::dead_letter::Failing;
use holdline_proto::topology::{Bucket, token};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, Put};
use holdline_stage::clock;

/// A host that answered is not looked up again for this long.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Hosts that are remembered to answer.
const HOSTS_MAX: u64 = 1_000;

/// A host that nobody has called for this long is no longer known to fail: longer than the longest tier.
const KEPT: Duration = Duration::from_secs(3_600);

/// What this replica knows of targets.
pub(crate) struct Targets {
    well: moka::sync::Cache<String, ()>,
}

impl Default for Targets {
    fn default() -> Targets {
        Targets { well: moka::sync::Cache::builder().max_capacity(HOSTS_MAX).time_to_live(KNOWN_FOR).build() }
    }
}

impl Targets {
    /// A command to the host was given up.
    pub(crate) async fn fails(&self, bus: &Bus, host: &str, reason: &str) {
        self.well.invalidate(host);
        let failing =
            Failing { host: host.into(), reason: reason.into(), since_ms: clock::wall_ms(), probe: None };
        let put = Put { ttl: Some(KEPT), ..Put::default() };
        let value = wire::encode(&failing).into();
        if let Err(error) = bus.put(Bucket::Targets, &token(&[host]), value, put).await {
            tracing::debug!(host, "it is not noted that the target fails: {error}");
        }
    }

    /// The host answered.
    pub(crate) async fn answers(&self, bus: &Bus, host: &str) {
        if self.well.contains_key(host) {
            return;
        }
        let key = token(&[host]);
        let told = match bus.get(Bucket::Targets, &key).await {
            Ok(None) => Ok(()),
            Ok(Some(entry)) => bus.delete(Bucket::Targets, &key, Some(entry.revision)).await,
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => self.well.insert(host.into(), ()),
            Err(error) => tracing::debug!(host, "it is not noted that the target answers: {error}"),
        }
    }
}
