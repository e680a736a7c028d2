//! Secrets from HashiCorp Vault: its KV engine, version 2, read with a token that stands in a file or that AppRole
//! gives.
//!
//! What was read is good for [`READ_EVERY`] without a question, and for [`KEPT_MAX`] while Vault is away, sealed or
//! lets us read no more: that is told ([`Vault::trouble`]) and costs nothing. That a secret is not there is an answer,
//! and holds at once. Whoever asks has the token renewed when that is due; nothing runs beside.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::clock::{self, Instant};
use crate::http::{self, body, reason};
use crate::secret::{file, of_text};
use crate::settings::Reader;

/// What was read is used for this long before Vault is asked again: how soon a replaced secret is found.
const READ_EVERY: Duration = Duration::from_secs(5);

/// What Vault does not let us read is asked for again after this.
const REFUSED_EVERY: Duration = Duration::from_secs(30);

/// What was read is used for this long while Vault cannot be asked.
const KEPT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A Vault that cannot be asked is left alone for this long, doubled with each further failure.
const BACK_OFF: Duration = Duration::from_millis(500);

/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Trouble with a secret that nobody has asked for since then is told no more.
const WANTED_FOR: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Paths that are remembered; beyond, all are read anew.
const PATHS_MAX: usize = 256;

/// A Vault, and what was read there.
pub struct Vault {
    address: Url,
    mount: String,
    namespace: Option<String>,
    login: Login,
    client: Client,
    /// Whoever holds it asks; everybody else waits, or goes by what was read before.
    session: tokio::sync::Mutex<Session>,
    known: Mutex<Known>,
}

/// Where a token comes from.
enum Login {
    /// Out of a file, which somebody else may replace.
    Token {
        file: PathBuf,
    },
    AppRole {
        role_id: SecretString,
        secret_id_file: PathBuf,
    },
}

#[derive(Default)]
struct Session {
    token: Option<Token>,
    failures: u32,
    /// Vault is not asked before this, and why.
    failed: Option<(Instant, String)>,
}

#[derive(Clone)]
struct Token {
    value: SecretString,
    /// What it was given for; none: for ever.
    life: Option<Duration>,
    renewable: bool,
    renew_at: Option<Instant>,
}

#[derive(Default)]
struct Known {
    paths: HashMap<String, Entry>,
    /// What is wrong with the token, though it still serves.
    token_trouble: Option<String>,
}

struct Entry {
    /// The usable values of a path by their keys, and when they were read.
    values: Option<(HashMap<String, SecretString>, Instant)>,
    ask_at: Instant,
    trouble: Option<String>,
}

/// Why Vault gave no answer of the kind that was asked for.
enum Trouble {
    /// It does not do this: 4xx.
    Answered(u16),
    /// It cannot be asked at the moment.
    Away(String),
}

impl Vault {
    /// Reads `vault.address`, `vault.mount`, `vault.namespace`, and `vault.token_file` or `vault.role_id` with
    /// `vault.secret_id_file`. Without any of them there is no Vault.
    pub fn read(reader: &mut Reader) -> Option<Vault> {
        let address: Option<String> = reader.optional("vault", "address");
        let mount: String = reader.or("vault", "mount", "secret".into());
        let namespace: Option<String> = reader.optional("vault", "namespace");
        let token_file: Option<PathBuf> = reader.optional("vault", "token_file");
        let role_id: Option<String> = reader.optional("vault", "role_id");
        let secret_id_file: Option<PathBuf> = reader.optional("vault", "secret_id_file");
        let login = match (token_file, role_id, secret_id_file) {
            (Some(file), None, None) => Some(Login::Token { file }),
            (None, Some(role_id), Some(secret_id_file)) => {
                Some(Login::AppRole { role_id: role_id.into(), secret_id_file })
            }
            (None, None, None) if address.is_none() => return None,
            _ => {
                reader.problem(
                    "vault: expected vault.token_file, or vault.role_id and vault.secret_id_file: set the one or \
                     the other two"
                        .into(),
                );
                None
            }
        };
        let address = match address.as_deref().map(parse_address) {
            Some(Ok(address)) => Some(address),
            Some(Err(problem)) => {
                reader.problem(format!("vault.address: {problem}"));
                None
            }
            None => {
                reader.problem("vault.address: expected beside the rest of vault; set it".into());
                None
            }
        };
        if mount.split('/').any(|part| matches!(part, "" | "." | "..")) {
            reader.problem(format!(
                "vault.mount: {mount:?}: expected the path of a KV engine, such as \"secret\""
            ));
        }
        // Two crypto providers are never compiled in, but reqwest wants to be told all the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = http::client().build().map_err(|error| reader.problem(format!("vault: {error}"))).ok();
        Some(Vault {
            address: address?,
            mount,
            namespace,
            login: login?,
            client: client?,
            session: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        })
    }

    /// The value of a key in the secret at a path below the mount.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn fetch(&self, path: &str, key: &str) -> Result<SecretString, String> {
        let asked = self.known().paths.get(path).map(|entry| (entry.ask_at, entry.answer(key)));
        match asked {
            Some((ask_at, answer)) if clock::now() < ask_at => return answer,
            asked => {
                let mut session = match (self.session.try_lock(), asked) {
                    (Ok(session), _) => session,
                    // Somebody asks already.
                    (Err(_), Some((_, Ok(secret)))) => return Ok(secret),
                    (Err(_), _) => self.session.lock().await,
                };
                // Whoever was waited for may have asked for the same.
                if self.known().paths.get(path).is_none_or(|entry| entry.ask_at <= clock::now()) {
                    self.ask(&mut session, path).await;
                }
            }
        }
        let known = self.known();
        known.paths.get(path).map_or_else(|| Err("it was not read".into()), |entry| entry.answer(key))
    }

    /// What is wrong, while what was read before is used.
    pub fn trouble(&self) -> Option<String> {
        let known = self.known();
        let now = clock::now();
        // What was never read is missing by itself.
        let wanted =
            known.paths.values().filter(|entry| entry.values.is_some() && now < entry.ask_at + WANTED_FOR);
        let mut troubles: Vec<&String> = wanted.filter_map(|entry| entry.trouble.as_ref()).collect();
        troubles.extend(&known.token_trouble);
        troubles.sort();
        troubles.dedup();
        let told = troubles.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        (!told.is_empty()).then_some(told)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a path, unless Vault is left alone, and notes what came of it.
    async fn ask(&self, session: &mut Session, path: &str) {
        let failed = session.failed.clone().filter(|(until, _)| clock::now() < *until);
        let outcome = match failed {
            Some((_, why)) => Err(Trouble::Away(why)),
            None => {
                let outcome = self.read_path(session, path).await;
                match &outcome {
                    Err(Trouble::Away(why)) => {
                        let wait = BACK_OFF.saturating_mul(1 << session.failures.min(16)).min(BACK_OFF_MAX);
                        session.failures = session.failures.saturating_add(1);
                        session.failed = Some((clock::now() + wait, why.clone()));
                    }
                    _ => (session.failures, session.failed) = (0, None),
                }
                outcome
            }
        };
        let now = clock::now();
        let mut known = self.known();
        if known.paths.len() >= PATHS_MAX && !known.paths.contains_key(path) {
            known.paths.clear();
        }
        let values = known.paths.remove(path).and_then(|entry| entry.values);
        let place = format!("{}/{path}", self.mount);
        let entry = match outcome {
            Ok(values) => Entry { values: Some((values, now)), ask_at: now + READ_EVERY, trouble: None },
            // An answer: whoever takes a secret away wants it gone.
            Err(Trouble::Answered(404)) => Entry {
                values: None,
                ask_at: now + READ_EVERY,
                trouble: Some(format!("the Vault has nothing at {place}")),
            },
            Err(Trouble::Answered(status)) => {
                let why = match status {
                    403 => format!("the Vault's policies do not let us read {place}"),
                    other => format!("the Vault answered {other} to a read of {place}"),
                };
                Entry { values, ask_at: now + REFUSED_EVERY, trouble: Some(why) }
            }
            Err(Trouble::Away(why)) => {
                let ask_at = session.failed.as_ref().map_or(now, |(until, _)| *until);
                Entry { values, ask_at, trouble: Some(why) }
            }
        };
        known.paths.insert(path.into(), entry);
    }

    async fn read_path(
        &self,
        session: &mut Session,
        path: &str,
    ) -> Result<HashMap<String, SecretString>, Trouble> {
        let token = self.token(session).await?;
        let read = match self.data(path, &token).await {
            // It may be the token's end: then there is another.
            Err(Trouble::Answered(403)) if self.look_up(&token).await?.is_none() => {
                session.token = None;
                let token = self.token(session).await?;
                self.data(path, &token).await
            }
            read => read,
        };
        let mut answer = read?;
        let Some(Value::Object(values)) = answer.pointer_mut("/data/data").map(Value::take) else {
            return Err(Trouble::Away(format!(
                "the Vault's answer has no data.data: is {} a KV engine of version 2?",
                self.mount
            )));
        };
        let text = |(key, value): (String, Value)| Some((key, of_text(value.as_str()?)?));
        Ok(values.into_iter().filter_map(text).collect())
    }

    async fn data(&self, path: &str, token: &SecretString) -> Result<Value, Trouble> {
        self.call(Method::GET, &format!("{}/data/{path}", self.mount), Some(token), None).await
    }

    /// A token that is good as far as is known.
    async fn token(&self, session: &mut Session) -> Result<SecretString, Trouble> {
        if let Login::Token { file: path } = &self.login {
            let place = path.display();
            let found =
                file(path).await.map_err(|why| Trouble::Away(format!("vault.token_file: {place}: {why}")))?;
            let is_same = |token: &Token| token.value.expose_secret() == found.expose_secret();
            if !session.token.as_ref().is_some_and(is_same) {
                let Some(token) = self.look_up(&found).await? else {
                    return Err(Trouble::Away(format!(
                        "the Vault does not take the token in {place}: put one there that it takes"
                    )));
                };
                self.known().token_trouble = None;
                session.token = Some(token);
            }
        }
        let token = match session.token.take() {
            Some(token) if token.renew_at.is_none_or(|at| clock::now() < at) => token,
            Some(token) => {
                // Whatever becomes of it, it is still good for half of its life.
                session.token = Some(token.clone());
                self.renewed(token).await?
            }
            None => self.log_in().await?,
        };
        Ok(session.token.insert(token).value.clone())
    }

    /// The token for longer, or another.
    async fn renewed(&self, mut token: Token) -> Result<Token, Trouble> {
        if token.renewable {
            let answer =
                self.call(Method::POST, "auth/token/renew-self", Some(&token.value), Some(json!({}))).await;
            let life = match answer {
                Ok(answer) => seconds(&answer, "/auth/lease_duration"),
                Err(Trouble::Answered(_)) => None,
                Err(away) => return Err(away),
            };
            token.renew_at = life.map(|life| clock::now() + life / 2);
            // A token that has reached its greatest age is given no more than what is left of it.
            if life.is_some_and(|life| token.life.is_none_or(|first| life >= first / 2)) {
                tracing::debug!("the Vault's token is renewed for {life:?}");
                return Ok(token);
            }
        }
        match &self.login {
            Login::AppRole { .. } => self.log_in().await,
            Login::Token { file } => {
                let trouble = format!(
                    "the token in {} comes to its end and cannot be renewed: put another there",
                    file.display()
                );
                self.known().token_trouble = Some(trouble);
                token.renew_at = None;
                Ok(token)
            }
        }
    }

    /// A token by AppRole. One out of a file is looked up where it is read.
    async fn log_in(&self) -> Result<Token, Trouble> {
        let Login::AppRole { role_id, secret_id_file } = &self.login else {
            return Err(Trouble::Away("there is no token".into()));
        };
        let place = secret_id_file.display();
        let secret_id = file(secret_id_file).await;
        let secret_id =
            secret_id.map_err(|why| Trouble::Away(format!("vault.secret_id_file: {place}: {why}")))?;
        let credentials = json!({"role_id": role_id.expose_secret(), "secret_id": secret_id.expose_secret()});
        let answer = self.call(Method::POST, "auth/approle/login", None, Some(credentials)).await;
        let answer = answer.map_err(|trouble| match trouble {
            Trouble::Answered(status) => Trouble::Away(format!(
                "the Vault does not take vault.role_id with the secret id in {place} ({status})"
            )),
            away => away,
        })?;
        let token = Token::of(&answer, "/auth/client_token", "/auth/lease_duration", "/auth/renewable");
        let token =
            token.ok_or_else(|| Trouble::Away("the Vault's answer to a login has no token".into()))?;
        tracing::info!("the Vault has given a token for {:?}", token.life.unwrap_or_default());
        Ok(token)
    }

    /// What Vault knows of a token; none: it is not good, or no longer.
    async fn look_up(&self, token: &SecretString) -> Result<Option<Token>, Trouble> {
        match self.call(Method::GET, "auth/token/lookup-self", Some(token), None).await {
            Ok(answer) => {
                let found = Token::of(&answer, "/data/id", "/data/ttl", "/data/renewable");
                Ok(found.map(|found| Token { value: token.clone(), ..found }))
            }
            Err(Trouble::Answered(_)) => Ok(None),
            Err(away) => Err(away),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        content: Option<Value>,
    ) -> Result<Value, Trouble> {
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("v1").extend(path.split('/'));
        }
        let mut request = self.client.request(method, url).header("X-Vault-Request", "true");
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| Trouble::Away("the Vault's token has characters that no token has".into()))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(content) = content {
            request = request.json(&content);
        }
        let at = self.address.as_str().trim_end_matches('/');
        let away = |why: String| Trouble::Away(format!("the Vault at {at} {why}"));
        let answer =
            request.send().await.map_err(|error| away(format!("does not answer: {}", reason(&error))))?;
        let status = answer.status();
        let content =
            body(answer, ANSWER_BYTES_MAX).await.map_err(|why| away(format!("breaks off: {why}")))?;
        match status.as_u16() {
            200..=299 => serde_json::from_slice(&content).map_err(|_| away("answered with no JSON".into())),
            // Nothing else is told of it: it may repeat what was sent.
            503 if String::from_utf8_lossy(&content).contains("sealed") => {
                Err(away("is sealed: unseal it".into()))
            }
            429 => Err(away("throttles us".into())),
            300..=399 => Err(away(format!("answered {status}: set vault.address to where that leads"))),
            400..=499 => Err(Trouble::Answered(status.as_u16())),
            _ => Err(away(format!("answered {status}"))),
        }
    }
}

impl Token {
    /// Out of an answer of Vault. A life of 0 has no end.
    fn of(answer: &Value, value: &str, life: &str, renewable: &str) -> Option<Token> {
        let life = seconds(answer, life).filter(|life| !life.is_zero());
        Some(Token {
            value: SecretString::from(answer.pointer(value)?.as_str()?),
            life,
            renewable: answer.pointer(renewable).and_then(Value::as_bool).unwrap_or(false),
            renew_at: life.map(|life| clock::now() + life / 2),
        })
    }
}

impl Entry {
    fn answer(&self, key: &str) -> Result<SecretString, String> {
        match &self.values {
            Some((values, at)) if clock::now() < *at + KEPT_MAX => values
                .get(key)
                .cloned()
                .ok_or_else(|| "the Vault has no text of up to 4 KiB under this key there".into()),
            _ => Err(self.trouble.clone().unwrap_or_else(|| "the Vault was not asked for too long".into())),
        }
    }
}

fn seconds(answer: &Value, at: &str) -> Option<Duration> {
    answer.pointer(at).and_then(Value::as_u64).map(Duration::from_secs)
}

/// The address of a Vault, over TLS unless it is on this machine.
fn parse_address(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "expected https://HOST:PORT, or http:// to this machine alone";
    let url = Url::parse(text).map_err(|error| format!("{error}; {EXPECTED}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    match url.scheme() {
        "https" if is_bare => Ok(url),
        "http" if is_bare && is_here => Ok(url),
        _ => Err(EXPECTED.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_settings_that_cannot_be_used_are_told() {
        let check = |variables: &'static [(&'static str, &'static str)], expected: Option<&str>| {
            let find =
                move |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string());
            let mut reader = Reader::new(None, Box::new(find));
            let is_there = Vault::read(&mut reader).is_some();
            let told = reader.finish().err().map(|problems| problems.to_string());
            match (&told, expected) {
                (Some(told), Some(expected)) => assert!(told.contains(expected), "{told}"),
                (told, expected) => assert_eq!(told.as_deref(), expected, "{variables:?}"),
            }
            is_there
        };
        const ADDRESS: &str = "HOLDLINE_VAULT_ADDRESS";
        const TOKEN: (&str, &str) = ("HOLDLINE_VAULT_TOKEN_FILE", "/t");
        const ROLE: (&str, &str) = ("HOLDLINE_VAULT_ROLE_ID", "r");
        const SECRET_ID: (&str, &str) = ("HOLDLINE_VAULT_SECRET_ID_FILE", "/s");
        const HERE: (&str, &str) = (ADDRESS, "http://127.0.0.1:8200");
        assert!(!check(&[], None));
        assert!(check(&[HERE, TOKEN], None));
        assert!(check(&[HERE, ROLE, SECRET_ID], None));
        assert!(check(&[(ADDRESS, "http://[::1]:8200/"), TOKEN], None));
        assert!(check(&[(ADDRESS, "https://vault.example.com"), TOKEN], None));
        check(&[TOKEN], Some("vault.address: expected beside"));
        check(&[HERE], Some("expected vault.token_file, or"));
        check(&[HERE, ROLE], Some("expected vault.token_file, or"));
        check(&[HERE, TOKEN, ROLE, SECRET_ID], Some("expected vault.token_file, or"));
        for wrong in ["http://vault.example.com", "https://u:p@v", "https://v/v1", "https://v?x", "vault"] {
            let given: &'static str = wrong;
            check(Box::leak(Box::new([(ADDRESS, given), TOKEN])), Some("expected https://HOST:PORT"));
        }
        check(&[HERE, TOKEN, ("HOLDLINE_VAULT_MOUNT", "/kv")], Some("vault.mount"));
    }
}
