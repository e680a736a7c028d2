//! Resolves the references of subscriptions to secrets, and keeps them up to date: a file may be replaced
//! while the gateway runs. Secrets stay in this process; only references are ever told.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use holdline_decide::playbook::{Auth, SecretRef, Set};
use secrecy::SecretString;

use crate::signature::standard_key;

/// How `env:` references are looked up: the process's environment, and what `holdline up` adds to it.
pub type Lookup = Arc<dyn Fn(&str) -> Option<SecretString> + Send + Sync>;

/// Bytes of a secret's file. Larger ones are no secrets.
const FILE_BYTES_MAX: u64 = 4_096;

/// The process's environment.
pub fn environment() -> Lookup {
    #[allow(clippy::disallowed_methods, reason = "a secret's own variable is no setting")]
    Arc::new(|name| std::env::var(name).ok().filter(|text| !text.is_empty()).map(SecretString::from))
}

/// Secrets by subscription, as resolved last.
#[derive(Clone)]
pub(crate) struct Secrets {
    lookup: Lookup,
    resolved: Arc<RwLock<BTreeMap<String, Arc<[SecretString]>>>>,
}

impl Secrets {
    pub(crate) fn new(lookup: Lookup) -> Secrets {
        Secrets { lookup, resolved: Arc::default() }
    }

    /// Resolves every reference of a set; gives those that lead nowhere.
    pub(crate) fn resolve(&self, set: &Set) -> Vec<String> {
        let mut resolved = BTreeMap::new();
        let mut missing = vec![];
        for subscription in set.subscriptions.values() {
            let mut secrets = vec![];
            for reference in &subscription.secrets {
                match self.fetch(reference) {
                    Some(secret)
                        if subscription.auth == Auth::StandardWebhooks && standard_key(&secret).is_none() =>
                    {
                        missing.push(format!(
                            "{reference} of subscription {}: it is no base64 after whsec_",
                            subscription.name
                        ));
                    }
                    Some(secret) => secrets.push(secret),
                    None => missing.push(format!("{} of subscription {}", reference, subscription.name)),
                }
            }
            resolved.insert(subscription.name.clone(), Arc::from(secrets));
        }
        *self.resolved.write().unwrap_or_else(std::sync::PoisonError::into_inner) = resolved;
        missing
    }

    pub(crate) fn of(&self, subscription: &str) -> Option<Arc<[SecretString]>> {
        self.resolved.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(subscription).cloned()
    }

    fn fetch(&self, reference: &SecretRef) -> Option<SecretString> {
        match reference {
            SecretRef::Env(name) => (self.lookup)(name),
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
}
