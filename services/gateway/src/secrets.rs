//! Resolves the references of subscriptions to secrets, and keeps them up to date: a secret may be replaced in place
//! while the gateway runs, and the one from before is valid for a while longer, so that no event is refused meanwhile.
//! Secrets stay in this process; only references are ever told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use holdline_decide::playbook::{Auth, SecretRef, Set};
use holdline_stage::clock::{self, Instant};
use holdline_stage::secret::{Absent, Lookup};
use secrecy::{ExposeSecret, SecretString};

use crate::signature::standard_key;

/// A secret that was replaced in its place is valid for this much longer: who signs with it may be told later.
const OVERLAP: Duration = Duration::from_secs(300);

/// Earlier values that one place may have at once. A file that is written piece by piece has some.
const EARLIER_MAX: usize = 4;

/// Secrets by subscription, as resolved last.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<RwLock<BTreeMap<String, Arc<[SecretString]>>>>);

impl Secrets {
    pub(crate) fn of(&self, subscription: &str) -> Option<Arc<[SecretString]>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(subscription).cloned()
    }
}

/// Looks secrets up, and remembers what was valid before.
pub(crate) struct Resolver {
    pub lookup: Lookup,
    pub secrets: Secrets,
    places: BTreeMap<SecretRef, Place>,
}

impl Resolver {
    pub(crate) fn new(lookup: Lookup, secrets: Secrets) -> Resolver {
        Resolver { lookup, secrets, places: BTreeMap::new() }
    }

    /// Resolves every reference of a set; gives those that lead nowhere. What the set no longer refers to is valid no
    /// longer.
    pub(crate) async fn resolve(&mut self, set: &Set) -> Vec<String> {
        let references: BTreeSet<&SecretRef> = set.subscriptions.values().flat_map(|s| &s.secrets).collect();
        self.places.retain(|reference, _| references.contains(reference));
        let mut absent = BTreeMap::new();
        for reference in references {
            let found = self.lookup.fetch(reference).await.map_err(|why| absent.insert(reference, why)).ok();
            let place = self.places.entry(reference.clone()).or_default();
            if place.turn(found, clock::now()) {
                tracing::info!(
                    %reference,
                    "the secret in {reference} was replaced; the one from before is valid for {OVERLAP:?} more"
                );
            }
        }
        let (mut resolved, mut missing) = (BTreeMap::new(), vec![]);
        for subscription in set.subscriptions.values() {
            let name = &subscription.name;
            let mut valid = vec![];
            for reference in &subscription.secrets {
                let place = self.places.get(reference);
                let is_key = |secret: &&SecretString| {
                    subscription.auth != Auth::StandardWebhooks || standard_key(secret).is_some()
                };
                if let Some(Absent(why)) = absent.get(reference) {
                    missing.push(format!("{reference} of subscription {name}: {why}"));
                } else if !place.and_then(|place| place.now.as_ref()).is_none_or(|now| is_key(&now)) {
                    missing.push(format!("{reference} of subscription {name}: it is no base64 after whsec_"));
                }
                valid.extend(place.into_iter().flat_map(Place::valid).filter(is_key).cloned());
            }
            resolved.insert(name.clone(), Arc::from(valid));
        }
        *self.secrets.0.write().unwrap_or_else(PoisonError::into_inner) = resolved;
        missing
    }
}

/// What a reference leads to, and has led to.
#[derive(Default)]
struct Place {
    now: Option<SecretString>,
    /// The latest first, each until it is valid no longer.
    earlier: Vec<(SecretString, Instant)>,
}

impl Place {
    /// Takes what was found there at a time; says whether it replaces something else.
    fn turn(&mut self, found: Option<SecretString>, at: Instant) -> bool {
        let same = |a: &SecretString, b: &Option<SecretString>| {
            b.as_ref().is_some_and(|b| a.expose_secret() == b.expose_secret())
        };
        let before = std::mem::replace(&mut self.now, found).filter(|before| !same(before, &self.now));
        let is_replaced = before.is_some() && self.now.is_some();
        if let Some(before) = before {
            self.earlier.insert(0, (before, at + OVERLAP));
        }
        self.earlier.retain(|(secret, until)| at < *until && !same(secret, &self.now));
        self.earlier.truncate(EARLIER_MAX);
        is_replaced
    }

    fn valid(&self) -> impl Iterator<Item = &SecretString> {
        self.now.iter().chain(self.earlier.iter().map(|(secret, _)| secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found at each second, and what is valid then.
    #[test]
    fn g7_what_was_replaced_is_valid_for_a_while_longer() {
        let check = |found: &[(u64, Option<&str>, &[&str])]| {
            let (mut place, began) = (Place::default(), clock::now());
            for (at, found, expected) in found {
                place.turn(found.map(SecretString::from), began + Duration::from_secs(*at));
                let valid: Vec<&str> = place.valid().map(ExposeSecret::expose_secret).collect();
                assert_eq!(valid, *expected, "at {at}");
            }
        };
        let overlap = OVERLAP.as_secs();
        check(&[
            (0, Some("a"), &["a"]),
            (2, Some("a"), &["a"]),
            (4, Some("b"), &["b", "a"]),
            (4 + overlap - 1, Some("b"), &["b", "a"]),
            (4 + overlap, Some("b"), &["b"]),
        ]);
        // Never there; gone for a moment, and for good.
        check(&[(0, None, &[]), (2, Some("a"), &["a"]), (4, None, &["a"]), (6, Some("a"), &["a"])]);
        check(&[(0, Some("a"), &["a"]), (2, None, &["a"]), (2 + overlap, None, &[])]);
        // Back to what it was; and written piece by piece.
        check(&[(0, Some("a"), &["a"]), (2, Some("b"), &["b", "a"]), (4, Some("a"), &["a", "b"])]);
        check(&[
            (0, Some("a"), &["a"]),
            (2, Some("b"), &["b", "a"]),
            (4, Some("bc"), &["bc", "b", "a"]),
            (6, Some("bcd"), &["bcd", "bc", "b", "a"]),
            (8, Some("bcde"), &["bcde", "bcd", "bc", "b", "a"]),
            (10, Some("f"), &["f", "bcde", "bcd", "bc", "b"]),
        ]);
    }
}
