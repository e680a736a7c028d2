//! Days left of certificates: those that gateways and the broker show, and those that stand in files here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdline_stage::clock;
use holdline_stage::settings::Reader;
use holdline_stage::tls::{self, Pair};
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Scene;
use super::connect::{Doors, Place, Shown, Tls, believing, handshake};
use super::finding::{Finding, State};

/// With fewer days left it is worth a note.
const DAYS_SOON: i64 = 30;

/// With fewer days left a person is needed: what renews it should have done so.
const DAYS_MIN: i64 = 7;

const DAY_MS: i64 = 24 * 3_600_000;

/// A broker's first words.
const GREETING_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of them.
const GREETING_BYTES_MAX: u64 = 64 * 1024;

/// What to do about a certificate of our own.
const RENEW: &str = "renew it: put the new files in its place; the gateway and the connections to the broker take them up \
                     by themselves";

/// From when to when a certificate is good. Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    from_ms: i64,
    until_ms: i64,
}

impl Validity {
    /// Of the one that a server shows of itself. An issuer's that has expired may be one of several ways, so it is
    /// the handshake's business.
    pub(super) fn of_server(chain: &[CertificateDer<'_>]) -> Result<Validity, String> {
        Validity::of(chain.first().ok_or("it shows none")?)
    }

    fn of(certificate: &CertificateDer<'_>) -> Result<Validity, String> {
        let read = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let times = read.tbs_certificate.validity;
        let ms = |since: Duration| i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Ok(Validity {
            from_ms: ms(times.not_before.to_unix_duration()),
            until_ms: ms(times.not_after.to_unix_duration()),
        })
    }

    /// The one of several that is good for longest: while one issuer takes another's place, both stand there.
    fn longest(certificates: &[CertificateDer<'_>]) -> Result<Validity, String> {
        let all: Result<Vec<Validity>, String> = certificates.iter().map(Validity::of).collect();
        all?.into_iter().max_by_key(|validity| validity.until_ms).ok_or_else(|| "there is none".into())
    }
}

/// Says how long a certificate is good still.
pub(super) fn judge(what: &str, validity: Validity, now_ms: i64) -> Finding {
    let day = |ms: i64| crate::output::iso(ms).chars().take(10).collect::<String>();
    let Validity { from_ms, until_ms } = validity;
    let (state, found) = if now_ms < from_ms {
        (State::Person, format!("its certificate is not good before {}", day(from_ms)))
    } else if until_ms <= now_ms {
        (State::Person, format!("its certificate has expired, on {}", day(until_ms)))
    } else {
        let days = (until_ms - now_ms) / DAY_MS;
        let state = match days {
            ..DAYS_MIN => State::Person,
            DAYS_MIN..DAYS_SOON => State::Note,
            DAYS_SOON.. => State::Well,
        };
        (state, format!("its certificate is good for {days} day(s), until {}", day(until_ms)))
    };
    Finding::new(what, state, found, if state == State::Well { "" } else { RENEW })
}

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let now_ms = clock::wall_ms();
    let doors = Doors::new()?;
    let mut found = vec![];
    for gateway in &scene.gateways {
        found.push(of_gateway(gateway, &doors, now_ms).await);
    }
    let in_file = gateway_file(now_ms)?;
    if scene.gateways.is_empty() && in_file.is_none() {
        found.push(Finding::unknown(
            "gateway's certificate",
            "not known: no gateway's address is known here",
            "name each, or the proxy in front of it, with --gateway https://HOST:PORT",
        ));
    }
    found.extend(in_file);
    found.extend(of_broker(scene, now_ms).await?);
    Ok(found)
}

async fn of_gateway(gateway: &Place, doors: &Doors, now_ms: i64) -> Finding {
    let what = format!("certificate of {gateway}");
    if gateway.tls == Tls::None {
        let todo = "put it behind a proxy that speaks TLS 1.2 or newer, and name that with --gateway; or set \
                    gateway.tls_certificate_file and gateway.tls_key_file";
        return Finding::note(
            what,
            "the gateway speaks plain HTTP, which the platform must not be led to",
            todo,
        );
    }
    let untrusted = match doors.open(gateway).await {
        Ok(reached) => return shown(&what, reached.over_tls.as_ref(), now_ms),
        Err(why) => why,
    };
    // Who does not trust it, looks at it all the same.
    match doors.open(&Place { tls: Tls::Any, ..gateway.clone() }).await {
        Ok(reached) => {
            let told = shown(&what, reached.over_tls.as_ref(), now_ms);
            let todo = "the platform takes certificates of public issuers for the gateway's own name alone: get one, \
                        and put those of its issuers behind it in the file";
            Finding::person(what, format!("{untrusted}; {}", told.found), todo)
        }
        Err(why) => Finding::unknown(what, format!("not known: {why}"), "see what is said of the gateway"),
    }
}

fn shown(what: &str, shown: Option<&Shown>, now_ms: i64) -> Finding {
    let chain = shown.map_or(&[][..], |shown| &shown.chain);
    match Validity::of_server(chain) {
        Ok(validity) => judge(what, validity, now_ms),
        Err(why) => Finding::unknown(what, format!("not known: {why}"), "look at it with `openssl s_client`"),
    }
}

/// The gateway's files, where this environment names them.
fn gateway_file(now_ms: i64) -> anyhow::Result<Option<Finding>> {
    let mut reader = Reader::of_process(None);
    let pair = Pair::read(&mut reader, "gateway");
    reader.finish()?;
    Ok(pair.map(|pair| of_pair(&pair, now_ms)))
}

fn of_pair(pair: &Pair, now_ms: i64) -> Finding {
    let what = format!("certificate in {}", pair.certificate_file.display());
    match pair.load() {
        Ok(certified) => match Validity::of_server(&certified.cert) {
            Ok(validity) => judge(&what, validity, now_ms),
            Err(why) => Finding::unknown(what, format!("not known: {why}"), "look at it with `openssl x509`"),
        },
        Err(why) => Finding::person(what, why, "put a certificate and its key there that belong together"),
    }
}

/// What the broker shows, and what is shown to it.
async fn of_broker(scene: &Scene, now_ms: i64) -> anyhow::Result<Vec<Finding>> {
    let mut found = vec![];
    let files = &scene.nats.tls;
    if let Some(file) = &files.ca_file {
        let what = format!("certificates in {}", file.display());
        let read = tls::certificates("nats.tls_ca_file", file).and_then(|all| Validity::longest(&all));
        found.push(match read {
            Ok(validity) => judge(&what, validity, now_ms),
            Err(why) => Finding::person(what, why, "put those there that the broker's must come from"),
        });
    }
    found.extend(files.certificate.as_ref().map(|pair| of_pair(pair, now_ms)));
    let over_tls = files.is_set() || scene.bus.client().server_info().tls_required;
    for address in scene.nats.url.split(',') {
        let address = if address.contains("://") { address.into() } else { format!("nats://{address}") };
        let url = reqwest::Url::parse(&address).with_context(|| format!("nats.url: {address}"))?;
        let host = url.host_str().unwrap_or_default().to_string();
        let place = Place { host, port: url.port().unwrap_or(4_222), tls: Tls::Any, address: None };
        let what = format!("certificate of the broker {place}");
        found.push(if over_tls || url.scheme() == "tls" {
            match greeted(&place, files.certificate.as_ref()).await {
                Ok(greeted) => shown(&what, Some(&greeted), now_ms),
                Err(why) => Finding::unknown(what, format!("not known: {why}"), "look at the broker's log"),
            }
        } else if place.is_loopback() {
            Finding::well(what, "none is needed: the connection does not leave this machine")
        } else {
            let todo = "give the broker TLS, and set nats.tls_ca_file everywhere: keys prove who we are, and hide \
                        nothing of what is said";
            Finding::note(what, "the connection is not encrypted", todo)
        });
    }
    Ok(found)
}

/// What of the broker's greeting matters here.
#[derive(Deserialize)]
struct Greeting {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    tls_available: bool,
}

/// A broker greets in plain text, and shakes hands then.
async fn greeted(place: &Place, own: Option<&Pair>) -> Result<Shown, String> {
    let own = own.map(Pair::load).transpose()?;
    let own = own.map(|certified| {
        Arc::new(SingleCertAndKey::from(certified)) as Arc<dyn rustls::client::ResolvesClientCert>
    });
    let connector = TlsConnector::from(Arc::new(believing(own).map_err(|error| error.to_string())?));
    let (_, mut stream) = place.connect().await?;
    let greeting = tokio::time::timeout(GREETING_TIME_MAX, greeting(&mut stream)).await;
    let greeting = greeting.map_err(|_| format!("it says nothing in {GREETING_TIME_MAX:?}"))??;
    if !greeting.tls_required && !greeting.tls_available {
        return Err("it does not offer TLS".into());
    }
    handshake(&connector, place.host.trim_matches(['[', ']']), stream).await
}

async fn greeting(stream: &mut TcpStream) -> Result<Greeting, String> {
    let mut line = vec![];
    // One byte at a time: what follows the line belongs to the handshake.
    let mut reader = BufReader::with_capacity(1, stream).take(GREETING_BYTES_MAX);
    reader.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    let json = line.strip_prefix(b"INFO ").ok_or("it does not greet as a nats-server does")?;
    serde_json::from_slice(json).map_err(|error| format!("its greeting: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_before_it_expires() {
        let check = |from: i64, until: i64, state, part: &str| {
            let validity = Validity { from_ms: from * DAY_MS, until_ms: until * DAY_MS };
            let finding = judge("x", validity, 100 * DAY_MS);
            assert_eq!(finding.state, state, "{from} {until}");
            assert!(finding.found.contains(part), "{}", finding.found);
            assert_eq!(finding.todo.is_empty(), state == State::Well);
        };
        check(0, 190, State::Well, "good for 90 day(s), until 1970-07-10");
        check(0, 130, State::Well, "good for 30");
        check(0, 129, State::Note, "good for 29");
        check(0, 107, State::Note, "good for 7");
        check(0, 106, State::Person, "good for 6");
        check(0, 100, State::Person, "has expired");
        check(101, 190, State::Person, "not good before 1970-04-12");
    }
}
