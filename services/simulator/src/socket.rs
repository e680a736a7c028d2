//! The WebSocket at a channel's `connectUri`: it says what the channel hears, and beats.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use holdline_stage::clock;
use serde_json::{Value, json};

use crate::channels::Told;
use crate::serve::Shared;

/// A peer that takes nothing for this long is given up.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// `GET /channels/{id}`: whoever knows the id may listen, as at the platform.
pub(crate) async fn open(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(told) = shared.with(|state, _| state.channels.connect(&id)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    upgrade.on_upgrade(move |socket| Talk { shared, channel: id, socket, silent: false }.run(told))
}

struct Talk {
    shared: Arc<Shared>,
    channel: String,
    socket: WebSocket,
    silent: bool,
}

/// Whether the socket goes on.
#[derive(PartialEq)]
enum Then {
    Stay,
    /// With a closing handshake.
    Close,
    /// Without a word.
    Drop,
}

impl Talk {
    async fn run(mut self, mut told: tokio::sync::mpsc::Receiver<Told>) {
        let every = self.shared.with(|state, _| state.options.heartbeat_every);
        let mut beat_at = clock::now() + every;
        loop {
            let then = tokio::select! {
                told = told.recv() => match told {
                    Some(Told::Say(text)) => self.say(text).await,
                    Some(Told::Silence) => {
                        self.silent = true;
                        Then::Stay
                    }
                    Some(Told::Cut) => Then::Drop,
                    None => Then::Close,
                },
                () = tokio::time::sleep_until(beat_at) => {
                    beat_at += every;
                    self.say(metadata("WebSocket Heartbeat")).await
                }
                came = self.socket.recv() => match came {
                    Some(Ok(Message::Text(text))) => self.answer(&text).await,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => Then::Drop,
                    Some(Ok(_)) => Then::Stay,
                },
                () = self.shared.tasks.stopping() => Then::Drop,
            };
            match then {
                Then::Stay => {}
                Then::Drop => return,
                Then::Close => {
                    // A silent socket's peer learns nothing, not even this.
                    if !self.silent {
                        let _ =
                            tokio::time::timeout(SEND_TIME_MAX, self.socket.send(Message::Close(None))).await;
                    }
                    return;
                }
            }
        }
    }

    async fn say(&mut self, text: String) -> Then {
        if self.silent {
            return Then::Stay;
        }
        match tokio::time::timeout(SEND_TIME_MAX, self.socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Then::Stay,
            Ok(Err(_)) | Err(_) => Then::Drop,
        }
    }

    /// A ping, or a subscription without the REST API. What is no JSON of either kind stays without an answer.
    async fn answer(&mut self, text: &str) -> Then {
        let Ok(asked) = serde_json::from_str::<Value>(text) else { return Then::Stay };
        match asked.get("message").and_then(Value::as_str) {
            Some("ping") => self.say(metadata("pong")).await,
            Some("subscribe") => {
                let topics = asked.get("topics").and_then(Value::as_array).cloned().unwrap_or_default();
                let topics = topics.iter().filter_map(|topic| Some(topic.as_str()?.to_string())).collect();
                let channel = self.channel.clone();
                let subscribed =
                    self.shared.with(|state, now| state.subscribe_in_band(&channel, topics, now));
                // Only the good answer has been seen at the platform; the other is invented.
                let answer = match subscribed {
                    true => json!({ "result": "200", "status": "subscribed" }),
                    false => json!({ "result": "400", "status": "rejected" }),
                };
                self.say(answer.to_string()).await
            }
            _ => Then::Stay,
        }
    }
}

fn metadata(message: &str) -> String {
    json!({ "topicName": "channel.metadata", "version": "2", "eventBody": { "message": message } })
        .to_string()
}
