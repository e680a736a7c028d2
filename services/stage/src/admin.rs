//! What a process shows of itself: `/livez`, `/readyz` (says what is missing) and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use axum::routing::get;

use crate::run::Tasks;
use crate::telemetry;

/// What is missing before a service can do its work. Silence is never success: a stage that cannot work
/// says so here, in a metric and in the log (L3).
#[derive(Debug, Clone, Default)]
pub struct Health {
    missing: Arc<Mutex<BTreeMap<String, String>>>,
    /// What may be missing, and what does its work meanwhile.
    covered: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Health {
    /// Something is missing.
    pub fn missing(&self, what: &str, why: impl Into<String>) {
        let why = why.into();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.get(what) != Some(&why) {
            match self.covered.lock().unwrap_or_else(PoisonError::into_inner).get(what) {
                Some(by) => tracing::warn!(what, "{what}: {why}; {by} does its work meanwhile"),
                None => tracing::warn!(what, "not ready: {what}: {why}"),
            }
            missing.insert(what.into(), why);
        }
    }

    /// From now on the lack of `what` leaves the service ready: `by` does its work.
    pub fn cover(&self, what: &str, by: &str) {
        let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        if covered.insert(what.into(), by.into()).is_none() {
            tracing::info!(what, "{by} can do the work of {what}");
        }
    }

    /// Nothing covers for `what` any more.
    pub fn uncover(&self, what: &str, why: &str) {
        let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(by) = covered.remove(what) {
            tracing::error!(what, "{by} cannot do the work of {what} any more: {why}");
        }
    }

    /// Something has to come before there is work to do; that is no news yet.
    pub fn awaiting(&self, what: &str, why: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.insert(what.into(), why.into());
    }

    /// It is there now.
    pub fn present(&self, what: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.remove(what).is_some() {
            tracing::info!(what, "ready: {what}");
        }
    }

    /// Everything that is missing and not covered for, with the reason.
    pub fn report(&self) -> BTreeMap<String, String> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|what, _| !covered.contains_key(what));
        missing
    }

    /// Everything that is missing and covered for, with the reason.
    pub fn covered(&self) -> BTreeMap<String, String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        let both = covered.iter().filter_map(|(what, by)| Some((what, missing.get(what)?, by)));
        both.map(|(what, why, by)| (what.clone(), format!("{why}; {by} does its work meanwhile"))).collect()
    }
}

/// Answers on the admin address until the service stops, for everything in it: by what stands before its words.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(listen: SocketAddr, tasks: Tasks, healths: Vec<(String, Health)>) -> anyhow::Result<()> {
    use anyhow::Context;
    let router = axum::Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || std::future::ready(ready(&healths))))
        .route("/metrics", get(|| async { telemetry::prometheus_text() }));
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("admin address {listen} cannot be bound"))?;
    let stopping = tasks.clone();
    tasks.spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.stopping().await })
            .await;
        if let Err(error) = served {
            tracing::error!("admin address {listen} stopped answering: {error}");
        }
    });
    Ok(())
}

fn ready(healths: &[(String, Health)]) -> (StatusCode, String) {
    let lines = |of: fn(&Health) -> BTreeMap<String, String>| -> String {
        let told = healths.iter().flat_map(|(before, health)| {
            of(health).into_iter().map(move |(what, why)| format!("{before}{what}: {why}\n"))
        });
        told.collect()
    };
    let (missing, covered) = (lines(Health::report), lines(Health::covered));
    if missing.is_empty() {
        return (StatusCode::OK, format!("ready\n{covered}"));
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing + &covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l3_what_is_covered_for_is_not_missing_until_the_cover_is_gone() {
        let health = Health::default();
        let check = |expected: &[&str]| {
            assert_eq!(health.report().into_keys().collect::<Vec<_>>(), expected);
        };
        let readiness = || ready(&[(String::new(), health.clone())]).1;
        health.missing("nats", "away");
        check(&["nats"]);
        assert_eq!(readiness(), "nats: away\n");
        health.cover("nats", "the spool");
        check(&[]);
        assert_eq!(readiness(), "ready\nnats: away; the spool does its work meanwhile\n");
        health.missing("secrets", "not found");
        check(&["secrets"]);
        health.uncover("nats", "full");
        check(&["nats", "secrets"]);
        health.present("nats");
        check(&["secrets"]);
    }
}
