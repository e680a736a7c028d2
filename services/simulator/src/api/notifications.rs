//! Channels and what they subscribe to.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Family, Route, no_content, ok, route};
use crate::channels::{Channel, TOPICS_MAX};
use crate::oauth::Client;
use crate::refusal::Refusal;
use crate::state::{Now, State, micros};

const CHANNELS: &str = "/api/v2/notifications/channels";
const SUBSCRIPTIONS: &str = "/api/v2/notifications/channels/{id}/subscriptions";

/// Topics that exist here, with the permission that each needs. A client whose topic is none of these is told
/// `Rejected`. Which topics also travel by EventBridge is not known: the transports are invented.
const TOPICS: [(&str, &str); 7] = [
    ("v2.telephony.providers.edges.{id}", "telephony:plugin:all"),
    ("v2.telephony.providers.edges.{id}.metrics", "telephony:plugin:all"),
    ("v2.telephony.providers.edges.trunks.{id}", "telephony:plugin:all"),
    ("v2.telephony.providers.edges.trunks.{id}.metrics", "telephony:plugin:all"),
    ("v2.operations.events.{id}", "usage:events:view"),
    ("v2.analytics.queues.{id}.observations", "analytics:queueObservation:view"),
    ("v2.audits.entitytype.{id}.entityid.{id}", "audits:audit:view"),
];

pub(super) const FAMILY: Family = Family { kinds: &[], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, "/api/v2/notifications/availabletopics", &[], |_, _| {
        let topic = |(id, permission): &(&str, &str)| {
            json!({
                "id": id,
                "description": format!("Tells of changes of {id}"),
                "requiresPermissions": [permission],
                "visibility": "Public",
                "transports": ["All"],
                "enforced": true,
            })
        };
        ok(json!({ "entities": TOPICS.iter().map(topic).collect::<Vec<_>>() }))
    }),
    route(Method::GET, CHANNELS, &[], |state, asked| {
        let channels = state.channels.of(&asked.client.id).map(|channel| shown(state, channel));
        ok(json!({ "entities": channels.collect::<Vec<_>>() }))
    }),
    route(Method::POST, CHANNELS, &[], |state, asked| {
        let life = state.options.channel_life;
        let id = state.channels.create(&asked.client.id, life, asked.now, &mut state.ids);
        let created = state.channels.of(&asked.client.id).find(|channel| channel.id == id);
        ok(shown(state, created.ok_or_else(Refusal::not_found)?))
    }),
    route(Method::GET, SUBSCRIPTIONS, &[], |state, asked| {
        let channel = find(state, asked)?;
        let topics = channel.topics.iter().map(|id| permitted(id)).collect::<Vec<_>>();
        ok(json!({ "entities": topics }))
    }),
    route(Method::PUT, SUBSCRIPTIONS, &[], |state, asked| subscribe(state, asked, true)),
    route(Method::POST, SUBSCRIPTIONS, &[], |state, asked| subscribe(state, asked, false)),
    route(Method::DELETE, SUBSCRIPTIONS, &[], |state, asked| {
        find(state, asked)?.topics.clear();
        no_content()
    }),
];

/// The permissions that topics need.
pub(super) fn permissions() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|(_, permission)| *permission)
}

fn find<'a>(state: &'a mut State, asked: &Asked) -> Result<&'a mut Channel, Refusal> {
    state.channels.find(&asked.client.id, asked.first()).ok_or_else(Refusal::not_found)
}

fn shown(state: &State, channel: &Channel) -> Value {
    let base = state.options.connect_uri.as_deref().unwrap_or_default().trim_end_matches('/');
    json!({
        "connectUri": format!("{base}/channels/{}", channel.id),
        "id": channel.id,
        "expires": channel.expires,
    })
}

fn permitted(topic: &str) -> Value {
    json!({ "id": topic, "state": "Permitted", "selfUri": format!("/api/v2/notifications/availabletopics/{topic}") })
}

/// Subscribes to what the client may hear and says for each topic whether he may. `anew`: what was subscribed
/// before is given up.
fn subscribe(state: &mut State, asked: &Asked, anew: bool) -> Answer {
    find(state, asked)?;
    let given = asked.body.as_array().ok_or_else(|| Refusal::bad_request("the body is no JSON array"))?;
    let id = |topic: &Value| Some(topic.get("id")?.as_str()?.to_string());
    let topics: Option<BTreeSet<String>> = given.iter().map(id).collect();
    let topics = topics.ok_or_else(|| Refusal::bad_request("a topic has no id"))?;
    let answers: Vec<Value> = topics.iter().map(|topic| judge(state, topic, &asked.client)).collect();
    let topics = topics.into_iter().filter(|topic| missing(state, topic, &asked.client).is_none()).collect();
    state.listen(&asked.client.id, asked.first(), topics, anew, asked.now)?;
    ok(json!({ "entities": answers }))
}

fn judge(state: &State, topic: &str, client: &Client) -> Value {
    match missing(state, topic, client) {
        None => permitted(topic),
        Some(Missing::Topic) => {
            json!({ "id": topic, "state": "Rejected", "rejectionReason": "no such topic" })
        }
        Some(Missing::Permission(permission)) => json!({
            "id": topic,
            "state": "Rejected",
            "rejectionReason": "missing permissions",
            "missingPermissions": [permission],
        }),
    }
}

enum Missing {
    Topic,
    Permission(&'static str),
}

fn missing(state: &State, topic: &str, client: &Client) -> Option<Missing> {
    if state.channels.refused.contains(topic) {
        return Some(Missing::Topic);
    }
    // A template that says more comes first: `…edges.trunks.{id}` is no edge.
    let found = TOPICS.iter().find(|(template, _)| is_of(topic, template));
    match found {
        None => Some(Missing::Topic),
        Some((_, permission)) => (!client.may(&[permission])).then_some(Missing::Permission(permission)),
    }
}

/// Whether a topic comes from a template: part for part, `{id}` being any one part.
fn is_of(topic: &str, template: &str) -> bool {
    let (mut topic, mut template) = (topic.split('.'), template.split('.'));
    loop {
        match (topic.next(), template.next()) {
            (None, None) => return true,
            (Some(part), Some("{id}")) if !part.is_empty() && part != "{id}" => {}
            (Some(part), Some(wanted)) if part == wanted && part != "{id}" => {}
            _ => return false,
        }
    }
}

impl State {
    /// Gives a client's channel its topics, and a new life.
    fn listen(
        &mut self,
        client: &str,
        channel: &str,
        topics: BTreeSet<String>,
        anew: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let life = self.options.channel_life;
        let channel = self.channels.find(client, channel).ok_or_else(Refusal::not_found)?;
        let kept = if anew { BTreeSet::new() } else { channel.topics.clone() };
        let all: BTreeSet<String> = kept.into_iter().chain(topics).collect();
        if all.len() > TOPICS_MAX {
            let count = all.len();
            return Err(Refusal::bad_request(format!("{count} topics; a channel holds {TOPICS_MAX}")));
        }
        channel.topics = all;
        (channel.expires_us, channel.expires) = (now.us.saturating_add(micros(life)), now.date_in(life));
        Ok(())
    }

    /// Subscribes over the socket: all topics, or none when one of them may not be heard.
    pub(crate) fn subscribe_in_band(&mut self, channel: &str, topics: BTreeSet<String>, now: Now) -> bool {
        let id = self.channels.client(channel).unwrap_or_default().to_string();
        let client = self.options.clients.iter().find(|client| client.id == id);
        let may =
            client.is_some_and(|client| topics.iter().all(|topic| missing(self, topic, client).is_none()));
        may && self.listen(&id, channel, topics, false, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_come_from_templates() {
        let check = |topic, expected: Option<&str>| {
            let found =
                TOPICS.iter().find(|(template, _)| is_of(topic, template)).map(|(template, _)| *template);
            assert_eq!(found, expected, "{topic}");
        };
        check("v2.telephony.providers.edges.5f0a", Some("v2.telephony.providers.edges.{id}"));
        check("v2.telephony.providers.edges.trunks.b7c1", Some("v2.telephony.providers.edges.trunks.{id}"));
        check("v2.operations.events.1", Some("v2.operations.events.{id}"));
        check("v2.telephony.providers.edges.{id}", None);
        check("v2.telephony.providers.edges", None);
        check("telephony.service.status", None);
    }
}
