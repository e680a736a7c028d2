//! Follows the current set of playbooks in the PLAYBOOKS bucket, and fetches older sets by their hash.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdline_proto::playbooks::{Bundle, CURRENT, INSTALLATION, Installation};
use holdline_proto::topology::Bucket;
use holdline_proto::wire;
use tokio::sync::watch;

use crate::bus::{Bus, Put, StoreError};
use crate::run::Shell;

/// How soon a push is noticed.
const POLL: Duration = Duration::from_secs(1);

/// Between looks whether the installation is provisioned.
const INSTALLATION_WAIT: Duration = Duration::from_millis(500);

/// Compiled sets kept in memory: the current one and those of incidents still open.
const SETS_MAX: u64 = 16;

/// Compiles a bundle into what the service needs of it.
pub type Compile<T> = fn(&Bundle) -> Result<T, String>;

/// The sets of playbooks, compiled.
pub struct Playbooks<T> {
    bus: Bus,
    compile: Compile<T>,
    sets: moka::sync::Cache<String, Arc<T>>,
    current: watch::Receiver<Option<(String, Arc<T>)>>,
}

impl<T> Clone for Playbooks<T> {
    fn clone(&self) -> Self {
        Playbooks {
            bus: self.bus.clone(),
            compile: self.compile,
            sets: self.sets.clone(),
            current: self.current.clone(),
        }
    }
}

/// Why a set could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("the broker does not answer: {0}")]
    Unreachable(#[from] StoreError),
    #[error("the set {0} of playbooks is not in the PLAYBOOKS bucket; it was deleted by hand")]
    Missing(String),
    #[error("the set {hash} of playbooks cannot be used by this version: {reason}")]
    Unusable { hash: String, reason: String },
    #[error("{0:?} names no set of playbooks; it was written by hand")]
    NoHash(String),
}

impl<T: Send + Sync + 'static> Playbooks<T> {
    /// Starts to follow. What is missing shows in the shell's health until there is a set.
    pub fn follow(bus: &Bus, shell: &Shell, compile: Compile<T>) -> Playbooks<T> {
        Playbooks::follow_from(bus, shell, compile, None)
    }

    /// Starts to follow from a set that is remembered: it is in force until the broker tells of another.
    pub fn follow_from(
        bus: &Bus,
        shell: &Shell,
        compile: Compile<T>,
        remembered: Option<&Bundle>,
    ) -> Playbooks<T> {
        let begun = remembered.and_then(|bundle| match compile(bundle) {
            Ok(set) => Some((bundle.hash(), Arc::new(set))),
            Err(reason) => {
                tracing::error!("the remembered set {} cannot be used: {reason}", bundle.hash());
                None
            }
        });
        if begun.is_none() {
            shell.health.awaiting("playbooks", "no set was read yet");
        }
        let (sender, current) = watch::channel(begun);
        let playbooks =
            Playbooks { bus: bus.clone(), compile, sets: moka::sync::Cache::new(SETS_MAX), current };
        let (following, shell) = (playbooks.clone(), shell.clone());
        shell.tasks.clone().spawn(async move {
            loop {
                following.poll(&sender, &shell).await;
                tokio::select! {
                    () = crate::clock::sleep(POLL) => {}
                    () = shell.tasks.stopping() => return,
                }
            }
        });
        playbooks
    }

    async fn poll(&self, sender: &watch::Sender<Option<(String, Arc<T>)>>, shell: &Shell) {
        let entry = match self.bus.get(Bucket::Playbooks, CURRENT).await {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return shell.health.missing("playbooks", "no set was pushed yet; `holdline push DIR` does");
            }
            Err(error) => return tracing::debug!("playbooks: {error}"),
        };
        let hash = String::from_utf8_lossy(&entry.value).into_owned();
        if sender.borrow().as_ref().is_some_and(|(current, _)| *current == hash) {
            return shell.health.present("playbooks");
        }
        match self.by_hash(&hash).await {
            Ok(set) => {
                tracing::info!(set = hash, "playbooks: set {hash} is in force");
                sender.send_replace(Some((hash, set)));
                shell.health.present("playbooks");
            }
            Err(error) => shell.health.missing("playbooks", error.to_string()),
        }
    }

    /// The names of the installation that these are the playbooks of.
    pub fn topology(&self) -> &holdline_proto::topology::Topology {
        self.bus.topology()
    }

    /// The current set and its hash, once there is one.
    pub fn current(&self) -> Option<(String, Arc<T>)> {
        self.current.borrow().clone()
    }

    /// Tells of changes of the current set.
    pub fn changes(&self) -> watch::Receiver<Option<(String, Arc<T>)>> {
        self.current.clone()
    }

    /// A set by its hash.
    ///
    /// # Errors
    /// See [`SetError`].
    pub async fn by_hash(&self, hash: &str) -> Result<Arc<T>, SetError> {
        if let Some(set) = self.sets.get(hash) {
            return Ok(set);
        }
        let bundle = self.bundle(hash).await?;
        let unusable = |reason| SetError::Unusable { hash: hash.into(), reason };
        let set = Arc::new((self.compile)(&bundle).map_err(unusable)?);
        self.sets.insert(hash.into(), set.clone());
        Ok(set)
    }

    /// The files of a set.
    ///
    /// # Errors
    /// See [`SetError`].
    pub async fn bundle(&self, hash: &str) -> Result<Bundle, SetError> {
        if !Bundle::is_hash(hash) {
            return Err(SetError::NoHash(hash.chars().take(80).collect()));
        }
        let entry = self.bus.get(Bucket::Playbooks, &Bundle::key(hash)).await?;
        let entry = entry.ok_or_else(|| SetError::Missing(hash.into()))?;
        let unusable = |reason| SetError::Unusable { hash: hash.into(), reason };
        wire::decode(&entry.value).map_err(|error| unusable(error.to_string()))
    }
}

/// Stores a set and makes it the current one; gives its hash. The caller has checked it.
///
/// # Errors
/// When the broker does not answer.
pub async fn push(bus: &Bus, bundle: &Bundle) -> Result<String, StoreError> {
    let hash = bundle.hash();
    bus.put(Bucket::Playbooks, &Bundle::key(&hash), wire::encode(bundle).into(), Put::default()).await?;
    bus.put(Bucket::Playbooks, CURRENT, Bytes::from(hash.clone()), Put::default()).await?;
    Ok(hash)
}

/// What was settled at provisioning; waits, loudly, until it is there.
///
/// # Errors
/// When the service is stopped meanwhile.
pub async fn installation(bus: &Bus, shell: &Shell) -> anyhow::Result<Installation> {
    let read = || async move {
        match bus.get(Bucket::Playbooks, INSTALLATION).await {
            Ok(Some(entry)) => wire::decode(&entry.value).map_err(|e| e.to_string()),
            Ok(None) => Err("not provisioned; run `holdline provision`".into()),
            Err(error) => Err(error.to_string()),
        }
    };
    shell.wait_for("installation", INSTALLATION_WAIT, read).await
}
