//! Notification channels: who hears what. [`crate::api::notifications`] has their endpoints, [`crate::socket`]
//! their sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::faults::SocketFault;
use crate::organisation;
use crate::state::{Ids, Now, micros};

/// Channels of a client; the next one takes the place of the oldest.
const CHANNELS_PER_CLIENT_MAX: usize = 20;

/// Topics of a channel.
pub(crate) const TOPICS_MAX: usize = 1_000;

/// Topics that a test has the platform refuse.
const REFUSED_MAX: usize = 1_000;

/// Messages that wait for a socket; one that does not read them is cut.
const SOCKET_MESSAGES_MAX: usize = 1_000;

/// What a socket is told to do. When its channel is gone, it closes.
#[derive(Debug)]
pub(crate) enum Told {
    Say(String),
    Cut,
    Silence,
}

pub(crate) struct Channel {
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) expires_us: u64,
    /// As the answers tell it.
    pub(crate) expires: String,
    socket: Option<mpsc::Sender<Told>>,
    /// Its socket was told that it will be closed then.
    closes_us: Option<u64>,
}

impl Channel {
    fn tell(&mut self, told: Told) {
        if self.socket.as_ref().is_some_and(|socket| socket.try_send(told).is_err()) {
            // It does not read, or is gone: without its sender it ends.
            self.socket = None;
        }
    }
}

/// Every channel, oldest first.
#[derive(Default)]
pub(crate) struct Channels {
    open: Vec<Channel>,
    /// Topics that whoever subscribes is told there are not.
    pub(crate) refused: BTreeSet<String>,
}

impl Channels {
    /// Opens a channel and gives its id; the client's oldest is given up where it has too many.
    pub(crate) fn create(&mut self, client: &str, life: Duration, now: Now, ids: &mut Ids) -> String {
        let of_client = self.open.iter().filter(|channel| channel.client == client).count();
        if of_client >= CHANNELS_PER_CLIENT_MAX
            && let Some(oldest) = self.open.iter().position(|channel| channel.client == client)
        {
            self.open.remove(oldest);
        }
        let id = format!("streaming-0-{}", ids.next());
        self.open.push(Channel {
            id: id.clone(),
            client: client.into(),
            topics: BTreeSet::new(),
            expires_us: now.us.saturating_add(micros(life)),
            expires: now.date_in(life),
            socket: None,
            closes_us: None,
        });
        id
    }

    pub(crate) fn of(&self, client: &str) -> impl Iterator<Item = &Channel> {
        self.open.iter().filter(move |channel| channel.client == client)
    }

    /// A client's channel.
    pub(crate) fn find(&mut self, client: &str, id: &str) -> Option<&mut Channel> {
        self.open.iter_mut().find(|channel| channel.id == id && channel.client == client)
    }

    /// Whose channel it is.
    pub(crate) fn client(&self, id: &str) -> Option<&str> {
        self.open.iter().find(|channel| channel.id == id).map(|channel| channel.client.as_str())
    }

    /// Gives a channel its socket; the one that it had is closed.
    pub(crate) fn connect(&mut self, id: &str) -> Option<mpsc::Receiver<Told>> {
        let channel = self.open.iter_mut().find(|channel| channel.id == id)?;
        let (sender, receiver) = mpsc::channel(SOCKET_MESSAGES_MAX);
        channel.socket = Some(sender);
        channel.closes_us = None;
        Some(receiver)
    }

    /// Tells everybody who has subscribed to the topic.
    pub(crate) fn push(&mut self, topic: &str, body: &Value, ids: &mut Ids) {
        let listening = self.open.iter_mut().filter(|channel| channel.topics.contains(topic));
        for channel in listening {
            channel.tell(Told::Say(message(topic, body, ids)));
        }
    }

    /// Does something to every open socket.
    pub(crate) fn strike(&mut self, fault: SocketFault, notice: Duration, now: Now, ids: &mut Ids) {
        for channel in &mut self.open {
            match fault {
                SocketFault::Cut => channel.tell(Told::Cut),
                SocketFault::Silence => channel.tell(Told::Silence),
                SocketFault::Closing => announce_end(channel, now.us.saturating_add(micros(notice)), ids),
            }
        }
    }

    /// Tells sockets that the tokens of their clients are good no more, and closes their channels. (That the
    /// channels end with the tokens is a guess: the message is known, what follows it is not.)
    pub(crate) fn revoke_all(&mut self, ids: &mut Ids) {
        for mut channel in std::mem::take(&mut self.open) {
            let topic = format!("v2.system.token_revoked.{}", channel.client);
            let body = json!({
                "channelId": channel.id,
                "systemTopicType": "token_revoked",
                "reason": "user_tokens_revoked",
                "organizationId": organisation::ORGANISATION,
            });
            channel.tell(Told::Say(message(&topic, &body, ids)));
        }
    }

    /// Refuses a topic to whoever subscribes from now on, or does so no more; false: there are too many.
    pub(crate) fn refuse(&mut self, topic: &str, refused: bool) -> bool {
        if !refused {
            self.refused.remove(topic);
        } else if self.refused.len() < REFUSED_MAX || self.refused.contains(topic) {
            self.refused.insert(topic.into());
        }
        refused == self.refused.contains(topic)
    }

    /// How many channels have a socket.
    pub(crate) fn sockets(&self) -> usize {
        let open = |channel: &&Channel| channel.socket.as_ref().is_some_and(|socket| !socket.is_closed());
        self.open.iter().filter(open).count()
    }

    /// When a channel ends next, or is told that it will.
    pub(crate) fn next_us(&self, notice: Duration) -> Option<u64> {
        let next = |channel: &Channel| match channel.closes_us {
            Some(closes_us) => closes_us.min(channel.expires_us),
            None if channel.socket.is_some() => channel.expires_us.saturating_sub(micros(notice)),
            None => channel.expires_us,
        };
        self.open.iter().map(next).min()
    }

    pub(crate) fn settle(&mut self, notice: Duration, now: Now, ids: &mut Ids) {
        self.open.retain(|channel| now.us < channel.expires_us);
        for channel in &mut self.open {
            match channel.closes_us {
                Some(closes_us) if closes_us <= now.us => (channel.socket, channel.closes_us) = (None, None),
                Some(_) => {}
                None if channel.socket.is_some()
                    && channel.expires_us.saturating_sub(micros(notice)) <= now.us =>
                {
                    announce_end(channel, channel.expires_us, ids);
                }
                None => {}
            }
        }
    }
}

fn announce_end(channel: &mut Channel, closes_us: u64, ids: &mut Ids) {
    let body = json!({
        "channelId": channel.id,
        "message": "This connection will be closed shortly, please connect again.",
    });
    channel.tell(Told::Say(message("v2.system.socket_closing", &body, ids)));
    channel.closes_us = channel.socket.is_some().then_some(closes_us);
}

fn message(topic: &str, body: &Value, ids: &mut Ids) -> String {
    json!({
        "topicName": topic,
        "version": "2",
        "eventBody": body,
        "metadata": { "CorrelationId": ids.next() },
    })
    .to_string()
}
