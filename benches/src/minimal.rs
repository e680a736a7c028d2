//! The least possible loop, for comparison: HTTP → JetStream → consumer with counters in memory → HTTP, in
//! one process. It verifies nothing, keeps no state and forgets everything when it is killed.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt;
use serde_json::Value;

/// `minimal URL SEED LISTEN TARGET`
pub(crate) async fn run(arguments: &[String]) {
    let [url, seed, listen, target] = arguments else { panic!("minimal URL SEED LISTEN TARGET") };
    rustls::crypto::ring::default_provider().install_default().ok();
    let seed = std::fs::read_to_string(seed).unwrap();
    let client = async_nats::ConnectOptions::with_nkey(seed.trim().into())
        .custom_inbox_prefix("_INBOX.provisioner")
        .connect(url)
        .await
        .unwrap();
    let jetstream = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "LEAST".into(),
        subjects: vec!["least.event".into()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    let consumer = stream
        .create_consumer(pull::Config { durable_name: Some("loop".into()), ..Default::default() })
        .await
        .unwrap();
    let router = axum::Router::new().fallback(accept).with_state(Arc::new(jetstream));
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "it ends with the process")]
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut failures: HashMap<String, u32> = HashMap::new();
    let mut messages = consumer.messages().await.unwrap();
    while let Some(Ok(message)) = messages.next().await {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let entity = event["data"]["gatewayId"].as_str().unwrap().to_string();
        let count = failures.entry(entity.clone()).or_default();
        *count = if event["data"]["status"] == "FAILED" { *count + 1 } else { 0 };
        if *count == 3 {
            let call = http.post(format!("http://{target}/act/remediate/{entity}"));
            let (call, acknowledge) = (call.header("Idempotency-Key", entity), message);
            #[allow(clippy::disallowed_methods, reason = "it ends with the process")]
            tokio::spawn(async move {
                call.send().await.unwrap();
                acknowledge.ack().await.unwrap();
            });
        } else {
            message.ack().await.unwrap();
        }
    }
}

async fn accept(State(jetstream): State<Arc<jetstream::Context>>, body: bytes::Bytes) -> StatusCode {
    jetstream.publish("least.event", body).await.unwrap().await.unwrap();
    StatusCode::OK
}
