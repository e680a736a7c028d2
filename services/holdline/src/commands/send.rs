//! `holdline send FILE`: a signed event, as the sender would sign it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use holdline_decide::playbook::{self, Auth, Subscription};
use holdline_stage::clock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{No, files};
use crate::output::{self, Output, line};

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The event (JSON), or an array of events
    file: PathBuf,
    /// Its subscription; needed where the playbooks have several
    #[arg(long)]
    subscription: Option<String>,
    /// Folder of playbooks, for the subscription and the reference to its secret
    #[arg(long, value_name = "DIR", default_value = "playbooks")]
    playbooks: PathBuf,
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    gateway: String,
    /// Send it this many times, with the same id each time: only the first should count
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Send {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let body = std::fs::read(&self.file).with_context(|| format!("{}", self.file.display()))?;
        let mut bundle = files::read(&self.playbooks)?;
        let literals = playbook::replace_literals(&mut bundle);
        let set = playbook::compile(&bundle).map_err(anyhow::Error::msg)?;
        let subscription = match &self.subscription {
            Some(name) => {
                set.subscriptions.get(name).with_context(|| format!("there is no subscription {name}"))?
            }
            None if set.subscriptions.len() == 1 => {
                set.subscriptions.values().next().context("there is no subscription")?
            }
            None => {
                bail!("there are {} subscriptions; say which with --subscription", set.subscriptions.len())
            }
        };
        let literals = literals.into_iter().map(|(name, literal)| (name, SecretString::from(literal)));
        let lookup = super::secrets(literals.collect())?;
        let secret = match subscription.secrets.first() {
            None => String::new(),
            Some(reference) => lookup
                .fetch(reference)
                .await
                .with_context(|| format!("{reference} holds the secret, and it is not there"))?
                .expose_secret()
                .to_string(),
        };
        let (mut answers, mut good) = (vec![], true);
        for _ in 0..self.times {
            let (status, answer) = post(&self.gateway, subscription, &secret, body.clone()).await?;
            good &= (200..300).contains(&status);
            if self.output == Output::Text {
                line(format!("{status}: {answer}"));
            }
            answers.push(json!({"status": status, "answer": answer}));
        }
        if self.output == Output::Json {
            // One answer as itself, several as a list.
            let only = if self.times == 1 { answers.pop() } else { None };
            output::json(&only.unwrap_or(Value::Array(answers)));
        }
        if good { Ok(()) } else { Err(No.into()) }
    }
}

/// Posts an event to a gateway, signed as its subscription declares.
pub(crate) async fn post(
    gateway: &str,
    subscription: &Subscription,
    secret: &str,
    body: Vec<u8>,
) -> anyhow::Result<(u16, Value)> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(10)).no_proxy().build()?;
    let mut url = reqwest::Url::parse(gateway).with_context(|| format!("{gateway} is no URL"))?;
    let mut path = vec!["v1", "events", subscription.name.as_str()];
    if subscription.auth == Auth::PathToken {
        path.push(secret);
    }
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    let mut request = client.post(url).header("Content-Type", "application/json");
    match subscription.auth {
        Auth::Hmac => {
            let timestamp = (clock::wall_ms() / 1_000).to_string();
            let signature = hex::encode(sign(secret.as_bytes(), &[timestamp.as_bytes(), b".", &body])?);
            request =
                request.header("X-PureCloud-Timestamp", timestamp).header("X-PureCloud-Signature", signature);
        }
        Auth::StandardWebhooks => {
            let (id, timestamp) = (message_id(&body), (clock::wall_ms() / 1_000).to_string());
            let key = base64::engine::general_purpose::STANDARD
                .decode(secret.strip_prefix("whsec_").unwrap_or(secret))
                .context("the secret is no base64 after whsec_")?;
            let signature = sign(&key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", &body])?;
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", format!("v1,{}", base64(&signature)));
        }
        Auth::HubSignature => {
            let signature = sign(secret.as_bytes(), &[&body])?;
            request = request.header("X-Hub-Signature-256", format!("sha256={}", base64(&signature)));
        }
        // It is in the address already.
        Auth::PathToken => {}
        Auth::Basic => {
            let credentials =
                if secret.contains(':') { secret.to_string() } else { format!("holdline:{secret}") };
            request = request.header("Authorization", format!("Basic {}", base64(credentials.as_bytes())));
        }
        Auth::None => {}
    }
    // Without the address, which may be a secret.
    let sent = request.body(body).send().await.map_err(reqwest::Error::without_url);
    let response = sent.with_context(|| format!("{gateway} does not answer"))?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn sign(key: &[u8], content: &[&[u8]]) -> anyhow::Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).context("the secret is no key")?;
    content.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().to_vec())
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The same for the same body, so that what is sent again is a duplicate.
fn message_id(body: &[u8]) -> String {
    format!("msg_{}", hex::encode(Sha256::digest(body).get(..12).unwrap_or_default()))
}
