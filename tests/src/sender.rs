//! A sender that signs as the guide says, and repeats what was not accepted with the same id.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use holdline_stage::clock;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::secrecy;

/// The secret that the tests' gateways are given.
pub const SECRET: &str = "test-secret-of-the-suite";

/// Signs a body.
pub fn sign(timestamp: &str, body: &[u8]) -> String {
    sign_with(SECRET, timestamp, body)
}

/// The same with another secret.
pub fn sign_with(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// A guide-shaped event.
pub fn event(id: &str, entity: &str, status: &str, at_ms: i64) -> Value {
    json!({
        "id": id,
        "topicName": "telephony.service.status",
        "timestamp": at_ms,
        "data": {"gatewayId": entity, "status": status},
    })
}

/// Posts signed events to one or more gateways.
#[derive(Clone)]
pub struct Sender {
    client: reqwest::Client,
    scheme: &'static str,
    gateways: Vec<SocketAddr>,
    subscription: String,
    secret: String,
    turn: Arc<AtomicUsize>,
}

impl Sender {
    pub fn new(gateways: Vec<SocketAddr>, subscription: &str) -> Sender {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap();
        let (subscription, secret) = (subscription.into(), SECRET.into());
        Sender { client, scheme: "http", gateways, subscription, secret, turn: Arc::default() }
    }

    /// The same for another subscription.
    pub fn to(&self, subscription: &str) -> Sender {
        Sender { subscription: subscription.into(), ..self.clone() }
    }

    /// The same, signing with another secret.
    pub fn signing_with(&self, secret: &str) -> Sender {
        Sender { secret: secret.into(), ..self.clone() }
    }

    /// The same over TLS, by a client that knows whom to trust.
    pub fn over_tls(&self, client: reqwest::Client) -> Sender {
        Sender { client, scheme: "https", ..self.clone() }
    }

    /// Posts once, to the next gateway in turn.
    pub async fn post(&self, body: &[u8]) -> Result<(u16, Value), reqwest::Error> {
        let response = self.send(body).await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        secrecy::assert_untold("an answer", &text);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The same, for what else the answer says.
    pub async fn send(&self, body: &[u8]) -> Result<reqwest::Response, reqwest::Error> {
        let timestamp = (clock::wall_ms() / 1_000).to_string();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let gateway = self.gateways[turn % self.gateways.len()];
        self.client
            .post(format!("{}://{gateway}/v1/events/{}", self.scheme, self.subscription))
            .header("Content-Type", "application/json")
            .header("X-PureCloud-Signature", sign_with(&self.secret, &timestamp, body))
            .header("X-PureCloud-Timestamp", timestamp)
            .body(body.to_vec())
            .send()
            .await
    }

    /// Posts until it is accepted; gives the number of tries. Panics on any answer but 200 and 503.
    pub async fn deliver(&self, event: &Value) -> u32 {
        let body = event.to_string().into_bytes();
        for attempt in 1..=1_200u32 {
            match self.post(&body).await {
                Ok((200, _)) => return attempt,
                Ok((503, _)) | Err(_) => clock::sleep(Duration::from_millis(100)).await,
                Ok((status, answer)) => panic!("{event} was answered {status}: {answer}"),
            }
        }
        panic!("{event} was not accepted within two minutes");
    }
}
