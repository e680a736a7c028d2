//! The REST side of a channel: opening it, subscribing, and listing entities with their state. Every call takes its turn
//! in the rate window, and leaves alone what is kept for remedies.

use std::sync::Arc;
use std::time::Duration;

use holdline_decide::native::{Call, PAGE_SIZE};
use holdline_decide::playbook::Method;
use holdline_decide::rate::Purpose;
use holdline_decide::source::channel::{self, ENTITIES_MAX, Opened};
use holdline_platform::rate::{NoTurn, Pace};
use holdline_platform::{Failed, Response};
use holdline_stage::clock::{self, Instant};
use serde_json::{Value, json};

use super::Pulled;

const CHANNELS: &str = "/api/v2/notifications/channels";

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct CallError {
    pub reason: String,
    /// What the call was about is not there.
    pub gone: bool,
    /// Not to be called before this has passed.
    pub retry_after: Duration,
    /// Nothing is wrong: there is no turn yet, or the platform has asked for quiet.
    pub waits: bool,
}

/// A look at all entities of a subscription's kind.
pub(super) struct Listing {
    begun: Instant,
    /// The same. Unix milliseconds.
    pub at_ms: i64,
    pub entities: Vec<Value>,
}

impl CallError {
    fn unreadable(reason: String) -> CallError {
        CallError { reason, gone: false, retry_after: Duration::ZERO, waits: false }
    }
}

impl Pulled {
    /// Opens a channel.
    pub(super) async fn open(&self) -> Result<Opened, CallError> {
        let answer = self.call(Call { method: Method::Post, path: CHANNELS.into(), body: None }).await?;
        channel::opened(&answer, clock::wall_ms()).map_err(|error| {
            CallError::unreadable(format!("POST {CHANNELS}: {}: {}", error.place, error.reason))
        })
    }

    /// Has a channel carry the topics of these entities and no others, and live on; gives those that it may not.
    pub(super) async fn subscribe(
        &self,
        channel: &str,
        entities: &[String],
    ) -> Result<Vec<String>, CallError> {
        let topic = |id: &String| json!({"id": channel::topic_of(&self.subscription.topic, id)});
        let topics: Vec<Value> = entities.iter().map(topic).collect();
        let path = format!("{CHANNELS}/{channel}/subscriptions");
        let answer = self.call(Call { method: Method::Put, path, body: Some(topics.into()) }).await?;
        Ok(channel::rejected(&answer))
    }

    /// A look that was begun after this was asked for. Lines that ask while another one's look goes on share the
    /// next: else 10,000 entities, 100 pages, would be read ten times.
    pub(super) async fn look(&self) -> Result<Arc<Listing>, CallError> {
        let asked = clock::now();
        let mut listed = self.listed.lock().await;
        if let Some(listing) = listed.as_ref().filter(|listing| listing.begun >= asked) {
            return Ok(listing.clone());
        }
        let (begun, at_ms) = (clock::now(), clock::wall_ms());
        let listing = Arc::new(Listing { begun, at_ms, entities: self.list().await? });
        *listed = Some(listing.clone());
        Ok(listing)
    }

    /// All entities of the subscription's kind, with their state.
    pub(super) async fn list(&self) -> Result<Vec<Value>, CallError> {
        let path = channel::list(&self.subscription.topic).unwrap_or_default();
        let mut entities = vec![];
        for number in 1usize.. {
            let page = self.call(Call::page(path, number)).await?;
            let Some(found) = page.get("entities").and_then(Value::as_array) else {
                return Err(CallError::unreadable(format!("GET {path}: the answer has no entities")));
            };
            entities.extend(found.iter().cloned());
            if entities.len() > ENTITIES_MAX {
                let reason = format!(
                    "GET {path}: there are more than {ENTITIES_MAX}; name those that count in `entities` of \
                     subscription {}",
                    self.subscription.name
                );
                return Err(CallError::unreadable(reason));
            }
            if found.len() < PAGE_SIZE {
                break;
            }
        }
        Ok(entities)
    }

    async fn call(&self, call: Call) -> Result<Value, CallError> {
        let (api, rates, client) = (&self.owner.api, &self.owner.rates, self.pull.client.as_str());
        let pace = Pace::of(&self.platform, client);
        api.prepare(&self.platform, client).await;
        rates.leave(&pace, Purpose::Other).await.map_err(CallError::from)?;
        let sent = api.send(&self.platform, client, &call).await;
        if let Ok(response) = &sent {
            rates.learn(&pace, &response.limits).await;
        }
        match sent {
            Ok(Response { status: 200..300, body, .. }) => Ok(body),
            Ok(response) => {
                let said = response.message();
                let (status, correlation) = (response.status, response.correlation.as_deref());
                // The path of a channel is its secret.
                let path = call.path.strip_prefix(CHANNELS).map_or(call.path.as_str(), |_| CHANNELS);
                let method = call.method.name();
                tracing::debug!(correlation, "{method} {path} was answered {status}: {said}");
                Err(CallError {
                    reason: format!("{method} {path} was answered {status}: {said}"),
                    gone: status == 404,
                    retry_after: Duration::from_millis(response.retry_after_ms.unwrap_or(0)),
                    waits: response.limits.throttled,
                })
            }
            Err(Failed::Unsent { reason, retry_after_ms }) => Err(CallError {
                reason,
                gone: false,
                retry_after: Duration::from_millis(retry_after_ms.unwrap_or(0)),
                waits: false,
            }),
            Err(Failed::Throttled { reason, retry_after_ms }) => Err(CallError {
                reason,
                gone: false,
                retry_after: Duration::from_millis(retry_after_ms),
                waits: true,
            }),
            Err(Failed::Lost { reason }) => Err(CallError::unreadable(reason)),
        }
    }
}

impl From<NoTurn> for CallError {
    fn from(no_turn: NoTurn) -> CallError {
        let retry_after = no_turn.wait();
        CallError { reason: no_turn.to_string(), gone: false, retry_after, waits: true }
    }
}

/// The ids of listed entities that can be subscribed to, in order.
pub(super) fn ids(entities: &[Value]) -> Vec<String> {
    let id = |entity: &Value| Some(entity.get("id")?.as_str()?.to_string());
    let mut ids: Vec<String> = entities.iter().filter_map(id).filter(|id| channel::is_entity(id)).collect();
    ids.sort();
    ids.dedup();
    ids
}
