//! Whether the gateway will be heard out on the channels of its own: the topics exist, and its clients may hear them.
//!
//! Nothing is created that stays: permission shows only when a channel subscribes, so one channel per client is
//! opened and its topics are taken out again. The platform has no call that closes a channel; it lapses by itself.

use std::collections::BTreeMap;

use holdline_decide::native::Call;
use holdline_decide::playbook::{Method, Pull, Set, Subscription};
use holdline_decide::source::channel::{self, CHANNELS_PER_CLIENT_MAX};
use holdline_decide::subscribe::is_listed;
use serde_json::{Value, json};

use super::{Caller, Refused};
use crate::output::line;

pub(in crate::commands) const TOPICS: &str = "/api/v2/notifications/availabletopics";
const CHANNELS: &str = "/api/v2/notifications/channels";

/// What is known of a subscription that is pulled.
pub(super) struct Listening {
    subscription: String,
    topic: String,
    client: String,
    /// Why nothing would be heard.
    pub(super) problems: Vec<String>,
    /// What could not be tried.
    untried: Option<String>,
}

impl Listening {
    fn new(subscription: &Subscription, pull: &Pull) -> Listening {
        Listening {
            subscription: subscription.name.clone(),
            topic: subscription.topic.clone(),
            client: pull.client.clone(),
            problems: vec![],
            untried: None,
        }
    }

    pub(super) fn show(&self) {
        let Listening { subscription, topic, client, .. } = self;
        for problem in &self.problems {
            line(format!("cannot be heard: {subscription} ({topic}) as the client {client}: {problem}"));
        }
        match &self.untried {
            Some(untried) => line(format!("not tried: {subscription} as the client {client}: {untried}")),
            None if self.problems.is_empty() => {
                line(format!("can be heard: {subscription} ({topic}) as the client {client}"));
            }
            None => {}
        }
    }

    pub(super) fn shape(&self) -> Value {
        json!({
            "subscription": self.subscription,
            "topic": self.topic,
            "client": self.client,
            "problems": self.problems,
            "untried": self.untried,
        })
    }
}

/// Looks at every subscription that is pulled; what cannot be found out is said of each.
pub(super) async fn check(caller: &Caller<'_>, set: &Set) -> Vec<Listening> {
    let mut found = vec![];
    let mut clients: BTreeMap<&str, Vec<(&Subscription, &Pull)>> = BTreeMap::new();
    for subscription in set.subscriptions.values() {
        if let Some(pull) = &subscription.pull {
            clients.entry(&pull.client).or_default().push((subscription, pull));
        }
    }
    for (client, pulled) in clients {
        let mut listening: Vec<Listening> =
            pulled.iter().map(|(subscription, pull)| Listening::new(subscription, pull)).collect();
        if let Err(refused) = try_client(caller, client, &pulled, &mut listening).await {
            listening.iter_mut().for_each(|listening| listening.problems.push(refused.reason.clone()));
        }
        found.extend(listening);
    }
    found
}

async fn try_client(
    caller: &Caller<'_>,
    client: &str,
    pulled: &[(&Subscription, &Pull)],
    listening: &mut [Listening],
) -> Result<(), Refused> {
    let available = caller.get(client, TOPICS.into()).await?;
    let available = available.get("entities").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut topics = vec![];
    for ((subscription, pull), listening) in pulled.iter().zip(listening.iter_mut()) {
        if !is_listed(&available, &subscription.topic) {
            listening.problems.push("the platform lists no such topic".into());
            continue;
        }
        match example(caller, subscription, pull).await {
            Ok(Some(entity)) => topics.push((channel::topic_of(&subscription.topic, &entity), listening)),
            Ok(None) => {
                listening.untried = Some("the platform has no entity of this kind to try it with".into());
            }
            Err(refused) => listening.problems.push(refused.reason),
        }
    }
    if topics.is_empty() {
        return Ok(());
    }
    let open = caller.get(client, format!("{CHANNELS}?includechannels=oauthclient")).await?;
    // One more would close the oldest, which may be the gateway's.
    if open.get("entities").and_then(Value::as_array).map_or(0, Vec::len) >= CHANNELS_PER_CLIENT_MAX {
        let untried =
            format!("it has {CHANNELS_PER_CLIENT_MAX} channels, and one more would close its oldest");
        topics.into_iter().for_each(|(_, listening)| listening.untried = Some(untried.clone()));
        return Ok(());
    }
    let names: Vec<&str> = topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let rejected = rejected(caller, client, &names).await?;
    for (topic, listening) in topics {
        let of_topic = rejected.iter().filter(|told| told.split(' ').next() == Some(topic.as_str()));
        listening.problems.extend(of_topic.cloned());
    }
    Ok(())
}

/// An entity to try a topic with.
async fn example(
    caller: &Caller<'_>,
    subscription: &Subscription,
    pull: &Pull,
) -> Result<Option<String>, Refused> {
    if let Some(entity) = pull.entities.first() {
        return Ok(Some(entity.clone()));
    }
    let Some(list) = channel::list(&subscription.topic) else { return Ok(None) };
    let page = caller.get(&pull.client, format!("{list}?pageSize=1")).await?;
    let id = page.pointer("/entities/0/id").and_then(Value::as_str);
    Ok(id.filter(|id| channel::is_entity(id)).map(String::from))
}

/// Subscribes on a channel of its own, takes the topics out again, and gives those that were refused.
async fn rejected(caller: &Caller<'_>, client: &str, topics: &[&str]) -> Result<Vec<String>, Refused> {
    let call = |method, path, body| Call { method, path, body };
    let opened = caller.ask(client, &call(Method::Post, CHANNELS.into(), None)).await?;
    let id = opened.get("id").and_then(Value::as_str).unwrap_or_default();
    let path = format!("{CHANNELS}/{id}/subscriptions");
    let topics: Vec<Value> = topics.iter().map(|topic| json!({"id": topic})).collect();
    let told = caller.ask(client, &call(Method::Put, path.clone(), Some(topics.into()))).await;
    let cleared = caller.ask(client, &call(Method::Delete, path, None)).await;
    if let Err(refused) = cleared {
        // It carries nothing to anybody, and lapses.
        let reason = without(&refused.reason, id);
        tracing::warn!(client, "the topics of the trial channel were not taken out: {reason}");
    }
    match told {
        Ok(told) => Ok(channel::rejected(&told)),
        Err(refused) => Err(Refused { reason: without(&refused.reason, id), ..refused }),
    }
}

/// The path of a channel is its secret.
fn without(reason: &str, id: &str) -> String {
    if id.is_empty() { reason.into() } else { reason.replace(id, "…") }
}
