//! Looking secrets up, in the process that uses them.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdline_proto::secret::SecretRef;
use secrecy::SecretString;

/// How `env:` references are looked up: the process's environment, and what `holdline up` adds to it.
pub type Lookup = Arc<dyn Fn(&str) -> Option<SecretString> + Send + Sync>;

/// Bytes of a secret's file. Larger ones are no secrets.
const FILE_BYTES_MAX: u64 = 4_096;

/// The process's environment.
pub fn environment() -> Lookup {
    #[allow(clippy::disallowed_methods, reason = "a secret's own variable is no setting")]
    Arc::new(|name| std::env::var(name).ok().filter(|text| !text.is_empty()).map(SecretString::from))
}

/// Secrets that are at hand, by the names of their variables, before the process's environment.
pub fn environment_with(given: BTreeMap<String, SecretString>) -> Lookup {
    let environment = environment();
    Arc::new(move |name| given.get(name).cloned().or_else(|| environment(name)))
}

/// The secret, if the reference leads to one. A file is read anew each time: it may have been replaced.
pub fn fetch(lookup: &Lookup, reference: &SecretRef) -> Option<SecretString> {
    match reference {
        SecretRef::Env(name) => lookup(name),
        SecretRef::File(path) => {
            if std::fs::metadata(path).ok()?.len() > FILE_BYTES_MAX {
                return None;
            }
            let text = std::fs::read_to_string(path).ok()?;
            let text = text.trim_end_matches(['\r', '\n']);
            (!text.is_empty()).then(|| SecretString::from(text.to_string()))
        }
    }
}
