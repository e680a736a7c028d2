//! Resolves the references of subscriptions to secrets, and keeps them up to date: a file may be replaced
//! while the gateway runs. Secrets stay in this process; only references are ever told.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use holdline_decide::playbook::{Auth, Set};
use holdline_stage::secret::{Lookup, fetch};
use secrecy::SecretString;

use crate::signature::standard_key;

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
                match fetch(&self.lookup, reference) {
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
}
