//! A caller of the simulated platform.
#![allow(dead_code, reason = "each test uses a part")]

use std::time::Duration;

use holdline_simulator::{Options, Simulator};
use holdline_stage::clock;
use serde_json::Value;

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Without a limit of calls.
pub(crate) fn options() -> Options {
    Options { calls_per_window: None, ..Options::default() }
}

fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Asks for a token and gives status and body.
pub(crate) async fn token(simulator: &Simulator, id: &str, secret: &str) -> (u16, Value) {
    let asked = client()
        .post(format!("{}/oauth/token", simulator.url()))
        .basic_auth(id, Some(secret))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials");
    let answer = asked.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub(crate) struct Caller {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Caller {
    /// With a token of the client.
    pub(crate) async fn of(simulator: &Simulator, id: &str, secret: &str) -> Caller {
        let (status, body) = token(simulator, id, secret).await;
        assert_eq!(status, 200, "{body}");
        let token = body["access_token"].as_str().unwrap().to_string();
        Caller { client: client(), url: simulator.url(), token }
    }

    /// Null is no body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}{path}", self.url);
        let call = self.client.request(method.parse().unwrap(), url).bearer_auth(&self.token);
        if body.is_null() { call.send().await } else { call.json(body).send().await }
    }

    /// Status, and the body or null.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.send(method, path, body).await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

/// Waits until something holds.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it did not come about");
        clock::sleep(Duration::from_millis(5)).await;
    }
}
