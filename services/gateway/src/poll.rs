//! Status pages that are asked: at the start, at the beginning of every interval, and at once when a webhook hints
//! that there is something to see. What the webhook claims is never stored.
//!
//! Every gateway of an installation asks for itself; what they see in the same interval has the same ids
//! (`decide::source::statuspage`), so that it counts once. A page that cannot be read is not heard, and silence is
//! then for the debouncer to judge. A look takes its turn in the rate window like every other call (E5), and waits for
//! it as long as it takes: that, and an answer 429, is no page that cannot be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_decide::playbook::{Poll, Set, Subscription};
use holdline_decide::rate::Purpose;
use holdline_decide::source::statuspage;
use holdline_platform::limits;
use holdline_platform::rate::{Pace, Rates};
use holdline_platform::route::{Routes, body};
use holdline_proto::topology::Role;
use holdline_stage::clock;
use holdline_stage::run::{Shell, Tasks};
use holdline_stage::telemetry::Metric;
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Notify;

use crate::envelope;
use crate::receive::{Entrance, WhenFull, store};

/// Bytes of a page's summary. A larger one is not read.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// From one look to the next, however many hints come.
const LOOK_GAP: Duration = Duration::from_millis(500);

/// The polled subscriptions of the current set, each with who waits for a hint.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<HashMap<String, Arc<Notify>>>);

impl Pages {
    /// Has a page looked at soon.
    pub(crate) fn look(&self, subscription: &str) {
        if let Some(hint) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(subscription) {
            hint.notify_one();
        }
    }

    /// Forgets what was followed, and follows a set's.
    fn follow(&self, set: &Set) -> Vec<(Subscription, Poll, Arc<Notify>)> {
        let mut hints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hints.clear();
        let mut followed = vec![];
        for subscription in set.subscriptions.values() {
            let Some(poll) = &subscription.poll else { continue };
            let hint = Arc::new(Notify::new());
            hints.insert(subscription.name.clone(), hint.clone());
            followed.push((subscription.clone(), poll.clone(), hint));
        }
        followed
    }
}

/// Asks the pages of the current set until the service is stopped.
pub(crate) fn keep(entrance: &Arc<Entrance>, routes: Routes, rates: Arc<Rates>, shell: &Shell) {
    let routes = Arc::new(routes);
    let (entrance, tasks) = (entrance.clone(), shell.tasks.clone());
    shell.tasks.spawn(async move {
        let mut changes = entrance.playbooks.changes();
        while !tasks.is_stopping() {
            let watching = tasks.child();
            if let Some((_, set)) = entrance.playbooks.current() {
                for (subscription, poll, hint) in entrance.pages.follow(&set) {
                    let (set, routes, rates) = (set.clone(), routes.clone(), rates.clone());
                    let page = Page { set, subscription, poll, hint, routes, rates, failing: false };
                    watching.spawn(page.watch(entrance.clone(), watching.clone()));
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { tasks.stopping().await },
                () = tasks.stopping() => {}
            }
            watching.finish().await;
        }
    });
}

/// One subscription's page.
struct Page {
    set: Arc<Set>,
    subscription: Subscription,
    poll: Poll,
    hint: Arc<Notify>,
    routes: Arc<Routes>,
    rates: Arc<Rates>,
    /// The last look failed: it was told, and need not be told again.
    failing: bool,
}

impl Page {
    async fn watch(mut self, entrance: Arc<Entrance>, tasks: Tasks) {
        loop {
            tokio::select! {
                () = self.look(&entrance) => {}
                () = tasks.stopping() => return,
            }
            tokio::select! {
                () = clock::sleep(LOOK_GAP) => {}
                () = tasks.stopping() => return,
            }
            let since_ms = clock::wall_ms().rem_euclid(self.poll.every_ms);
            let left_ms = u64::try_from(self.poll.every_ms.saturating_sub(since_ms)).unwrap_or(0);
            tokio::select! {
                () = clock::sleep(Duration::from_millis(left_ms)) => {}
                () = self.hint.notified() => {}
                () = tasks.stopping() => return,
            }
        }
    }

    async fn look(&mut self, entrance: &Entrance) {
        let seen = self.see(entrance).await;
        let result = if seen.is_ok() { "read" } else { "failed" };
        Metric::Polls.add(1, Role::Gateway.name(), Some(("result", result.into())));
        let name = &self.subscription.name;
        match seen {
            Ok(()) if self.failing => {
                tracing::info!(subscription = name, "{name}: its page can be read again")
            }
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(ref error) => {
                let url = &self.poll.url;
                tracing::warn!(subscription = name, "{name}: {url} tells nothing: {error:#}; asked again");
            }
        }
        self.failing = result == "failed";
    }

    async fn see(&self, entrance: &Entrance) -> anyhow::Result<()> {
        let (summary, at_ms) = self.fetch().await?;
        let events = statuspage::poll(&self.subscription, &summary, at_ms)
            .map_err(|error| anyhow::anyhow!("{}: {}", error.place, error.reason))?;
        let events = envelope::of_source(&self.subscription, events);
        let stored = store(entrance, &self.subscription, events, WhenFull::Refuse).await;
        let ids = stored.map_err(|problem| anyhow::anyhow!("what it says: {}", problem.detail))?;
        Metric::EventsAccepted.add(ids.len() as u64, Role::Gateway.name(), None);
        Ok(())
    }

    /// What the page says, and when it was asked.
    async fn fetch(&self) -> anyhow::Result<(Value, i64)> {
        let url = Url::parse(&self.poll.url)?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
        let target = self.set.target(host, port);
        let pace = Pace::to(host, port, target);
        let connect_to = target.and_then(|target| target.connect_to.as_ref());
        loop {
            while let Err(no_turn) = self.rates.leave(&pace, Purpose::Other).await {
                tracing::debug!("{url}: {no_turn}");
                clock::sleep(no_turn.wait()).await;
            }
            let at_ms = clock::wall_ms();
            let asking =
                self.routes.request(Method::GET, url.clone(), connect_to).map_err(anyhow::Error::msg)?;
            let response = asking.header("Accept", "application/json").send().await?;
            let status = response.status();
            let (_, limits) = limits(status.as_u16(), response.headers());
            self.rates.learn(&pace, &limits).await;
            if limits.throttled {
                continue;
            }
            anyhow::ensure!(status == StatusCode::OK, "it answers {status}, and 200 was expected");
            let page = body(response, PAGE_BYTES_MAX).await.map_err(anyhow::Error::msg)?;
            return Ok((serde_json::from_slice(&page)?, at_ms));
        }
    }
}
