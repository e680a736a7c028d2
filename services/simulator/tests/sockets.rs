//! Notification channels and their sockets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod caller;

use std::time::Duration;

use caller::{Caller, options, until};
use futures_util::{SinkExt, StreamExt};
use holdline_simulator::organisation::*;
use holdline_simulator::{Options, Simulator, SocketFault};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const CHANNELS: &str = "/api/v2/notifications/channels";

type Stream = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

struct Socket(Stream);

impl Socket {
    async fn open(channel: &Value) -> Socket {
        Socket(tokio_tungstenite::connect_async(channel["connectUri"].as_str().unwrap()).await.unwrap().0)
    }

    /// The next message; none: the socket is closed or cut.
    async fn hear(&mut self) -> Option<Value> {
        let heard = tokio::time::timeout(Duration::from_secs(10), self.0.next()).await.unwrap();
        match heard {
            Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }

    async fn say(&mut self, body: Value) {
        self.0.send(Message::Text(body.to_string().into())).await.unwrap();
    }

    /// Whether a message comes within a time that is long for this machine.
    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(150), self.0.next()).await.is_err()
    }
}

async fn start(change: impl FnOnce(&mut Options)) -> (Simulator, Caller) {
    let mut options = options();
    change(&mut options);
    let simulator = Simulator::start(options).await.unwrap();
    let caller = Caller::of(&simulator, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET).await;
    (simulator, caller)
}

async fn channel(caller: &Caller) -> Value {
    caller.call("POST", CHANNELS, &Value::Null).await.1
}

fn subscriptions(channel: &Value) -> String {
    format!("{CHANNELS}/{}/subscriptions", channel["id"].as_str().unwrap())
}

fn edge_topic() -> String {
    format!("v2.telephony.providers.edges.{EDGE_MAIN}")
}

fn trunk_topic() -> String {
    format!("v2.telephony.providers.edges.trunks.{TRUNK_PRIMARY}")
}

#[tokio::test]
async fn who_has_subscribed_is_told() {
    let (simulator, caller) = start(|_| {}).await;
    let channel = channel(&caller).await;
    let topics = json!([{ "id": edge_topic() }, { "id": trunk_topic() }, { "id": "v2.operations.events.1" }, { "id": "no.such" }]);
    let (status, answer) = caller.call("PUT", &subscriptions(&channel), &topics).await;
    let states: Vec<&str> =
        answer["entities"].as_array().unwrap().iter().map(|topic| topic["state"].as_str().unwrap()).collect();
    // In the order of their names.
    assert_eq!((status, states), (200, vec!["Rejected", "Rejected", "Permitted", "Permitted"]));
    assert_eq!(answer["entities"][1]["missingPermissions"], json!(["usage:events:view"]));

    let mut socket = Socket::open(&channel).await;
    simulator.set_edge(EDGE_MAIN, false).unwrap();
    let heard = socket.hear().await.unwrap();
    assert_eq!((&heard["topicName"], &heard["version"]), (&json!(edge_topic()), &json!("2")));
    assert_eq!(heard["eventBody"], json!({ "id": EDGE_MAIN, "onlineStatus": "OFFLINE" }));
    assert!(heard["metadata"]["CorrelationId"].is_string());
    simulator.set_edge(EDGE_BRANCH, false).unwrap(); // not subscribed
    simulator.set_trunk(TRUNK_PRIMARY, true, &[true, false]).unwrap();
    let body = socket.hear().await.unwrap()["eventBody"].clone();
    assert_eq!((&body["id"], &body["connectedStatus"]["connected"]), (&json!(TRUNK_PRIMARY), &json!(true)));
    assert_eq!(body["optionsStatus"][1]["errorInfo"]["code"], "sip.options.timeout");
    let trunk = caller.get(&format!("/api/v2/telephony/providers/edges/trunks/{TRUNK_PRIMARY}")).await;
    assert_eq!(trunk["optionsStatus"], body["optionsStatus"]);

    assert_eq!(caller.call("DELETE", &subscriptions(&channel), &Value::Null).await.0, 204);
    simulator.set_edge(EDGE_MAIN, true).unwrap();
    socket.say(json!({ "message": "ping" })).await;
    assert_eq!(socket.hear().await.unwrap()["eventBody"]["message"], "pong");
    let subscribe = json!({ "message": "subscribe", "topics": [edge_topic()], "correlationId": "a1" });
    socket.say(subscribe).await;
    assert_eq!(socket.hear().await.unwrap(), json!({ "result": "200", "status": "subscribed" }));

    // A topic that is refused is not heard from the next subscription on.
    let topics = json!([{ "id": edge_topic() }, { "id": trunk_topic() }]);
    for (refused, state) in [(true, "Rejected"), (false, "Permitted")] {
        simulator.refuse_topic(&trunk_topic(), refused).unwrap();
        let answer = caller.call("PUT", &subscriptions(&channel), &topics).await.1;
        assert_eq!(
            (&answer["entities"][0]["state"], &answer["entities"][1]["state"]),
            (&json!("Permitted"), &json!(state))
        );
        let held = caller.get(&subscriptions(&channel)).await["entities"].as_array().unwrap().len();
        assert_eq!(held, if refused { 1 } else { 2 });
    }

    // A reboot is offline at once and online by itself.
    let reboot = format!("/api/v2/telephony/providers/edges/{EDGE_MAIN}/reboot");
    assert_eq!(caller.call("POST", &reboot, &Value::Null).await.0, 200);
    for status in ["OFFLINE", "ONLINE"] {
        assert_eq!(socket.hear().await.unwrap()["eventBody"]["onlineStatus"], status);
    }
}

#[tokio::test]
async fn the_twenty_first_channel_takes_the_place_of_the_oldest() {
    let (simulator, caller) = start(|_| {}).await;
    let oldest = channel(&caller).await;
    let mut socket = Socket::open(&oldest).await;
    for _ in 1..20 {
        channel(&caller).await;
    }
    assert_eq!(simulator.sockets(), 1);
    channel(&caller).await;
    assert_eq!(socket.hear().await, None);
    assert_eq!(caller.call("GET", &subscriptions(&oldest), &Value::Null).await.0, 404);
    assert_eq!(caller.get(CHANNELS).await["entities"].as_array().unwrap().len(), 20);
    assert!(tokio_tungstenite::connect_async(oldest["connectUri"].as_str().unwrap()).await.is_err());
}

#[tokio::test]
async fn a_channel_has_one_socket_and_a_thousand_topics() {
    let (_simulator, caller) = start(|_| {}).await;
    let channel = channel(&caller).await;
    let mut first = Socket::open(&channel).await;
    let _second = Socket::open(&channel).await;
    assert_eq!(first.hear().await, None);
    let topics = |count: usize| {
        let topic = |number| json!({ "id": format!("v2.telephony.providers.edges.{number}") });
        json!((0..count).map(topic).collect::<Vec<_>>())
    };
    assert_eq!(caller.call("PUT", &subscriptions(&channel), &topics(1_000)).await.0, 200);
    assert_eq!(caller.call("POST", &subscriptions(&channel), &topics(1_001)).await.0, 400);
    let held = caller.get(&subscriptions(&channel)).await;
    assert_eq!(held["entities"].as_array().unwrap().len(), 1_000);
}

#[tokio::test]
async fn a_socket_beats() {
    let (_simulator, caller) = start(|options| options.heartbeat_every = Duration::from_millis(20)).await;
    let mut socket = Socket::open(&channel(&caller).await).await;
    for _ in 0..2 {
        let heard = socket.hear().await.unwrap();
        assert_eq!(heard["topicName"], "channel.metadata");
        assert_eq!(heard["eventBody"]["message"], "WebSocket Heartbeat");
    }
}

#[tokio::test]
async fn sockets_are_cut_silenced_and_closed() {
    let (simulator, caller) = start(|options| options.closing_notice = Duration::from_millis(20)).await;
    let channel = channel(&caller).await;
    caller.call("PUT", &subscriptions(&channel), &json!([{ "id": edge_topic() }])).await;

    let mut socket = Socket::open(&channel).await;
    simulator.strike_sockets(SocketFault::Silence);
    simulator.set_edge(EDGE_MAIN, false).unwrap();
    socket.say(json!({ "message": "ping" })).await;
    assert!(socket.is_silent().await);
    // Who connects again hears again.
    let mut socket = Socket::open(&channel).await;
    simulator.set_edge(EDGE_MAIN, true).unwrap();
    assert_eq!(socket.hear().await.unwrap()["eventBody"]["onlineStatus"], "ONLINE");

    simulator.strike_sockets(SocketFault::Cut);
    assert_eq!(socket.hear().await, None);
    until(|| simulator.sockets() == 0).await;

    let mut socket = Socket::open(&channel).await;
    simulator.strike_sockets(SocketFault::Closing);
    assert_eq!(socket.hear().await.unwrap()["topicName"], "v2.system.socket_closing");
    assert_eq!(socket.hear().await, None);

    let mut socket = Socket::open(&channel).await;
    simulator.revoke_tokens();
    let told = socket.hear().await.unwrap();
    assert_eq!(told["topicName"], format!("v2.system.token_revoked.{TELEPHONY_CLIENT}"));
    assert_eq!(socket.hear().await, None);
}

#[tokio::test]
async fn a_channel_ends_after_its_life_and_says_so_before() {
    let (simulator, caller) = start(|options| {
        options.channel_life = Duration::from_secs(2);
        options.closing_notice = Duration::from_millis(1_800);
    })
    .await;
    let channel = channel(&caller).await;
    let mut socket = Socket::open(&channel).await;
    assert_eq!(socket.hear().await.unwrap()["topicName"], "v2.system.socket_closing");
    assert_eq!(socket.hear().await, None);
    until(|| simulator.sockets() == 0).await;
    assert_eq!(caller.call("GET", &subscriptions(&channel), &Value::Null).await.0, 404);
}
