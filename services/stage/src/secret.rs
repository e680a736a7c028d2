//! Looking secrets up, in the process that uses them: in its environment, in files and in a Vault.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use holdline_proto::secret::SecretRef;
use secrecy::SecretString;
use tokio::io::AsyncReadExt;

use crate::admin::Health;
use crate::vault::Vault;

/// Bytes of a secret. What is larger is none.
const SECRET_BYTES_MAX: usize = 4_096;

/// Why a reference leads to no secret. Tells nothing of what a secret is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Absent(pub String);

/// Where secrets are to be had.
#[derive(Clone)]
pub struct Lookup {
    /// Before the process's environment.
    given: Arc<BTreeMap<String, SecretString>>,
    vault: Option<Arc<Vault>>,
}

/// The process's environment, and files.
pub fn environment() -> Lookup {
    environment_with(BTreeMap::new())
}

/// Secrets that are at hand, by the names of their variables, before the process's environment.
pub fn environment_with(given: BTreeMap<String, SecretString>) -> Lookup {
    Lookup { given: Arc::new(given), vault: None }
}

impl Lookup {
    /// The same, and a Vault if there is one.
    #[must_use]
    pub fn with_vault(self, vault: Option<Vault>) -> Lookup {
        Lookup { vault: vault.map(Arc::new), ..self }
    }

    /// Whether there is a Vault to be asked.
    pub fn has_vault(&self) -> bool {
        self.vault.is_some()
    }

    /// An environment variable's.
    pub fn variable(&self, name: &str) -> Option<SecretString> {
        #[allow(clippy::disallowed_methods, reason = "a secret's own variable is no setting")]
        let environment = || std::env::var(name).ok().filter(|text| !text.is_empty()).map(SecretString::from);
        self.given.get(name).cloned().or_else(environment)
    }

    /// The secret that a reference leads to. A file is read anew each time, and a Vault every few seconds: either may
    /// have been replaced.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn fetch(&self, reference: &SecretRef) -> Result<SecretString, Absent> {
        let found = match reference {
            SecretRef::Env(name) => self.variable(name).ok_or_else(|| "the variable is not set".into()),
            SecretRef::File(path) => file(path.as_ref()).await,
            SecretRef::Vault { path, key } => match &self.vault {
                Some(vault) => vault.fetch(path, key).await,
                None => Err("no Vault is known here: set vault.address, and who asks there".into()),
            },
        };
        found.map_err(Absent)
    }

    /// Shows in a service's readiness what is wrong with Vault. What was read there before does its work meanwhile,
    /// so that alone makes no service unready.
    pub fn tell(&self, health: &Health) {
        let Some(vault) = &self.vault else { return };
        health.cover("vault", "what was read last");
        match vault.trouble() {
            Some(trouble) => health.missing("vault", trouble),
            None => health.present("vault"),
        }
    }
}

/// The secret in a file.
///
/// # Errors
/// Why there is none.
pub(crate) async fn file(path: &Path) -> Result<SecretString, String> {
    let unreadable = |error: std::io::Error| format!("the file cannot be read: {error}");
    let opened = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = String::new();
    opened.take(SECRET_BYTES_MAX as u64 + 1).read_to_string(&mut text).await.map_err(unreadable)?;
    of_text(&text).ok_or_else(|| format!("the file is empty, or has more than {SECRET_BYTES_MAX} bytes"))
}

/// The secret in a text: line ends behind it are no part of it, blanks are.
pub(crate) fn of_text(text: &str) -> Option<SecretString> {
    let secret = text.trim_end_matches(['\r', '\n']);
    (!secret.is_empty() && text.len() <= SECRET_BYTES_MAX).then(|| SecretString::from(secret))
}
