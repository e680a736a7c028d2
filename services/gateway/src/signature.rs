//! Does a request come from where it says? Pure: headers, bytes and a time in, yes or no out.
//!
//! The answer never says which part was wrong; the reason is for our own log and metrics.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use holdline_decide::playbook::Auth;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// A request signed longer ago than this is refused (G5). Milliseconds.
pub const AGE_MS_MAX: i64 = 30 * 60_000;

/// Signatures of one request that are looked at, while a sender's keys are being replaced. The rest is ignored.
const SIGNATURES_MAX: usize = 8;

/// A sender's clock may be ahead of ours by this much. Milliseconds.
pub const AHEAD_MS_MAX: i64 = 60_000;

/// The headers that prove where a request comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proof<'a> {
    /// `X-PureCloud-Signature`
    pub signature: Option<&'a str>,
    /// `X-PureCloud-Timestamp`
    pub timestamp: Option<&'a str>,
    /// `Authorization`
    pub authorization: Option<&'a str>,
    /// `webhook-id`
    pub webhook_id: Option<&'a str>,
    /// `webhook-timestamp`
    pub webhook_timestamp: Option<&'a str>,
    /// `webhook-signature`
    pub webhook_signature: Option<&'a str>,
    /// `X-Hub-Signature-256`
    pub hub_signature: Option<&'a str>,
    /// What follows the subscription in the address.
    pub path_token: Option<&'a str>,
}

/// Why a request was refused; for the metrics, never for the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Unsigned,
    Forged,
    Undated,
    Stale,
    Future,
    NotLoopback,
}

impl Refused {
    pub fn name(self) -> &'static str {
        match self {
            Refused::Unsigned => "unsigned",
            Refused::Forged => "forged",
            Refused::Undated => "undated",
            Refused::Stale => "stale",
            Refused::Future => "future",
            Refused::NotLoopback => "not_loopback",
        }
    }
}

/// Checks a request by the one way that its subscription declares. Any of the secrets may be the right one.
///
/// # Errors
/// Why it is refused.
pub fn verify(
    auth: Auth,
    secrets: &[SecretString],
    proof: Proof<'_>,
    body: &[u8],
    now_ms: i64,
    peer: IpAddr,
) -> Result<(), Refused> {
    match auth {
        Auth::Hmac => {
            let signature = proof.signature.ok_or(Refused::Unsigned)?;
            let timestamp = proof.timestamp.ok_or(Refused::Undated)?;
            let signature = decode_signature(signature).ok_or(Refused::Forged)?;
            let signs = |secret: &SecretString| {
                is_signature(
                    &signature,
                    secret.expose_secret().as_bytes(),
                    &[timestamp.as_bytes(), b".", body],
                )
            };
            if !secrets.iter().any(signs) {
                return Err(Refused::Forged);
            }
            check_age(timestamp, now_ms)
        }
        Auth::StandardWebhooks => {
            let signatures = proof.webhook_signature.ok_or(Refused::Unsigned)?;
            let id = proof.webhook_id.filter(|id| !id.is_empty()).ok_or(Refused::Unsigned)?;
            let timestamp = proof.webhook_timestamp.ok_or(Refused::Undated)?;
            let content: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
            let signs = |secret: &SecretString| {
                let Some(key) = standard_key(secret) else { return false };
                let listed = signatures.split_ascii_whitespace().take(SIGNATURES_MAX);
                // Other versions than ours may stand in the list as well.
                listed
                    .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
                    .any(|signature| is_signature(&signature, &key, &content))
            };
            if !secrets.iter().any(signs) {
                return Err(Refused::Forged);
            }
            check_age(timestamp, now_ms)
        }
        Auth::HubSignature => {
            let signature = proof.hub_signature.ok_or(Refused::Unsigned)?;
            let signature = signature.trim().strip_prefix("sha256=").ok_or(Refused::Forged)?;
            let signature = decode_signature(signature).ok_or(Refused::Forged)?;
            let signs =
                |secret: &SecretString| is_signature(&signature, secret.expose_secret().as_bytes(), &[body]);
            if secrets.iter().any(signs) { Ok(()) } else { Err(Refused::Forged) }
        }
        Auth::PathToken => {
            let given = proof.path_token.ok_or(Refused::Unsigned)?;
            let is_token = |secret: &SecretString| same(secret.expose_secret().as_bytes(), given.as_bytes());
            if secrets.iter().any(is_token) { Ok(()) } else { Err(Refused::Forged) }
        }
        Auth::Basic => {
            let authorization = proof.authorization.ok_or(Refused::Unsigned)?;
            let given = decode_basic(authorization).ok_or(Refused::Forged)?;
            if !secrets.iter().any(|secret| knows(secret, &given)) {
                return Err(Refused::Forged);
            }
            proof.timestamp.map_or(Ok(()), |timestamp| check_age(timestamp, now_ms))
        }
        Auth::None if peer.is_loopback() => Ok(()),
        Auth::None => Err(Refused::NotLoopback),
    }
}

/// The key of Standard Webhooks: what follows `whsec_`, as base64. `None`: the secret is no such key.
pub(crate) fn standard_key(secret: &SecretString) -> Option<Vec<u8>> {
    let text = secret.expose_secret();
    let text = text.strip_prefix("whsec_").unwrap_or(text);
    let key = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
    (!key.is_empty()).then_some(key)
}

/// Whether these bytes are the HMAC-SHA256 of the content.
fn is_signature(signature: &[u8], key: &[u8], content: &[&[u8]]) -> bool {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    content.iter().for_each(|part| mac.update(part));
    mac.verify_slice(signature).is_ok()
}

/// Hex or base64, with or without `sha256=`.
fn decode_signature(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let text = text.strip_prefix("sha256=").unwrap_or(text);
    let bytes = if text.len() == 64 {
        hex::decode(text).ok()?
    } else {
        STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?
    };
    (bytes.len() == 32).then_some(bytes)
}

fn decode_basic(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, credentials) = authorization.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(credentials.trim()).ok()?;
    bytes.contains(&b':').then_some(bytes)
}

/// The secret is `user:password`, or a password alone with any user.
fn knows(secret: &SecretString, given: &[u8]) -> bool {
    let secret = secret.expose_secret().as_bytes();
    let given = if secret.contains(&b':') {
        given
    } else {
        given.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default()
    };
    same(secret, given)
}

/// Compares in a time that tells nothing, by comparing digests.
fn same(a: &[u8], b: &[u8]) -> bool {
    let digest = |bytes: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"compare").ok()?;
        mac.update(bytes);
        Some(mac)
    };
    match (digest(a), digest(b)) {
        (Some(a), Some(b)) => a.verify_slice(&b.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}

fn check_age(timestamp: &str, now_ms: i64) -> Result<(), Refused> {
    let signed_ms = parse_timestamp_ms(timestamp).ok_or(Refused::Undated)?;
    if signed_ms < now_ms.saturating_sub(AGE_MS_MAX) {
        Err(Refused::Stale)
    } else if signed_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
        Err(Refused::Future)
    } else {
        Ok(())
    }
}

/// Unix seconds, or ISO 8601.
fn parse_timestamp_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1_000),
        Err(_) => Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_428_000_000;

    fn sign(secret: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn the_signature_is_hmac_sha256_as_published() {
        // RFC 4231, test case 2; its data is split at our separator's place by choosing it so.
        let mac = {
            let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
            mac.update(b"what do ya want for nothing?");
            mac.finalize().into_bytes()
        };
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(mac), expected);
    }

    #[test]
    fn g5_signed_requests() {
        let secrets = [SecretString::from("old"), SecretString::from("new")];
        let now = (NOW / 1_000).to_string();
        let body = br#"{"id":"1"}"#;
        let check = |timestamp: Option<&str>, signature: Option<String>, body: &[u8], expected| {
            let proof = Proof { signature: signature.as_deref(), timestamp, ..Proof::default() };
            let found = verify(Auth::Hmac, &secrets, proof, body, NOW, [9, 9, 9, 9].into());
            assert_eq!(found, expected, "{timestamp:?} {signature:?}");
        };
        let hex_of = |secret, at: &str| Some(hex::encode(sign(secret, at, body)));
        check(Some(&now), hex_of("new", &now), body, Ok(()));
        check(Some(&now), hex_of("old", &now), body, Ok(()));
        check(Some(&now), Some(hex::encode_upper(sign("new", &now, body))), body, Ok(()));
        check(Some(&now), Some(format!("sha256={}", hex::encode(sign("new", &now, body)))), body, Ok(()));
        check(Some(&now), Some(STANDARD.encode(sign("new", &now, body))), body, Ok(()));
        check(Some(&now), Some(STANDARD_NO_PAD.encode(sign("new", &now, body))), body, Ok(()));
        let iso = "2026-11-23T10:00:00Z";
        check(Some(iso), hex_of("new", iso), body, Ok(()));
        check(Some(&now), hex_of("other", &now), body, Err(Refused::Forged));
        check(Some(&now), hex_of("new", &now), b"{}", Err(Refused::Forged));
        check(Some(&now), hex_of("new", "1"), body, Err(Refused::Forged));
        check(Some(&now), Some("zz".into()), body, Err(Refused::Forged));
        check(Some(&now), Some(String::new()), body, Err(Refused::Forged));
        check(Some(&now), None, body, Err(Refused::Unsigned));
        check(None, hex_of("new", &now), body, Err(Refused::Undated));
        check(Some("soon"), hex_of("new", "soon"), body, Err(Refused::Undated));
        for (seconds, expected) in
            [(-1_800, Ok(())), (-1_801, Err(Refused::Stale)), (60, Ok(())), (61, Err(Refused::Future))]
        {
            let at = (NOW / 1_000 + seconds).to_string();
            check(Some(&at), hex_of("new", &at), body, expected);
        }
    }

    #[test]
    fn g5_basic_and_none() {
        let check = |auth, secret: &str, given: Option<&str>, peer: [u8; 4], expected| {
            let header = given.map(|given| format!("Basic {}", STANDARD.encode(given)));
            let proof = Proof { authorization: header.as_deref(), ..Proof::default() };
            let found = verify(auth, &[SecretString::from(secret)], proof, b"", NOW, peer.into());
            assert_eq!(found, expected, "{auth:?} {secret} {given:?}");
        };
        check(Auth::Basic, "aGVsbG8gd29ybGQ=", Some("anyone:aGVsbG8gd29ybGQ="), [9; 4], Ok(()));
        check(Auth::Basic, "user:pass", Some("user:pass"), [9; 4], Ok(()));
        check(Auth::Basic, "user:pass", Some("other:pass"), [9; 4], Err(Refused::Forged));
        check(Auth::Basic, "pass", Some("user:other"), [9; 4], Err(Refused::Forged));
        check(Auth::Basic, "pass", Some("pass"), [9; 4], Err(Refused::Forged));
        check(Auth::Basic, "pass", None, [9; 4], Err(Refused::Unsigned));
        check(Auth::None, "", None, [127, 0, 0, 1], Ok(()));
        check(Auth::None, "", None, [9; 4], Err(Refused::NotLoopback));
    }

    #[test]
    fn g5_standard_webhooks() {
        // The example of the specification, whose own time is long gone.
        let specified = Proof {
            webhook_id: Some("msg_p5jXN8AQM9LWM0D4loKWxJek"),
            webhook_timestamp: Some("1614265330"),
            webhook_signature: Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ..Proof::default()
        };
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let at = |now_ms| {
            verify(
                Auth::StandardWebhooks,
                std::slice::from_ref(&secret),
                specified,
                body,
                now_ms,
                [9; 4].into(),
            )
        };
        assert_eq!(at(1_614_265_330_000), Ok(()));
        assert_eq!(at(1_614_265_330_000 + AGE_MS_MAX + 1), Err(Refused::Stale));
        assert_eq!(at(1_614_265_330_000 - AHEAD_MS_MAX - 1), Err(Refused::Future));

        let key = |text: &str| SecretString::from(format!("whsec_{}", STANDARD.encode(text)));
        let secrets = [key("old"), key("new")];
        let now = (NOW / 1_000).to_string();
        let signed = |by: &str| {
            let content = format!("id.{now}.");
            let mut mac = Hmac::<Sha256>::new_from_slice(by.as_bytes()).unwrap();
            mac.update(content.as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        let check = |id: Option<&str>, timestamp: Option<&str>, signatures: Option<String>, expected| {
            let proof = Proof {
                webhook_id: id,
                webhook_timestamp: timestamp,
                webhook_signature: signatures.as_deref(),
                ..Proof::default()
            };
            let found = verify(Auth::StandardWebhooks, &secrets, proof, body, NOW, [9; 4].into());
            assert_eq!(found, expected, "{id:?} {timestamp:?} {signatures:?}");
        };
        let (id, at) = (Some("id"), Some(now.as_str()));
        for by in ["old", "new"] {
            check(id, at, Some(signed(by)), Ok(()));
            check(id, at, Some(format!("v1a,AAAA v1,{} {}", STANDARD.encode([0; 32]), signed(by))), Ok(()));
        }
        let far = format!("{}{}", "v1,AAAA ".repeat(SIGNATURES_MAX), signed("new"));
        check(id, at, Some(far), Err(Refused::Forged));
        check(id, at, Some(signed("other")), Err(Refused::Forged));
        check(id, at, Some(signed("new").replace("v1,", "v2,")), Err(Refused::Forged));
        check(id, at, Some(signed("new").replace("v1,", "")), Err(Refused::Forged));
        check(Some("ie"), at, Some(signed("new")), Err(Refused::Forged));
        check(id, Some("1"), Some(signed("new")), Err(Refused::Forged));
        check(Some(""), at, Some(signed("new")), Err(Refused::Unsigned));
        check(None, at, Some(signed("new")), Err(Refused::Unsigned));
        check(id, None, Some(signed("new")), Err(Refused::Undated));
        check(id, at, None, Err(Refused::Unsigned));
        assert_eq!(standard_key(&SecretString::from("whsec_not base64")), None);
    }

    #[test]
    fn g5_hub_signature_and_path_token() {
        let secrets = [SecretString::from("old"), SecretString::from("new")];
        let body = b"{}";
        let hub = |signature: Option<String>, expected| {
            let proof = Proof { hub_signature: signature.as_deref(), ..Proof::default() };
            let found = verify(Auth::HubSignature, &secrets, proof, body, NOW, [9; 4].into());
            assert_eq!(found, expected, "{signature:?}");
        };
        let mac = |secret: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
            mac.update(body);
            mac.finalize().into_bytes()
        };
        for secret in ["old", "new"] {
            hub(Some(format!("sha256={}", STANDARD.encode(mac(secret)))), Ok(()));
            hub(Some(format!("sha256={}", hex::encode(mac(secret)))), Ok(()));
        }
        hub(Some(format!("sha256={}", hex::encode(mac("other")))), Err(Refused::Forged));
        hub(Some(hex::encode(mac("new"))), Err(Refused::Forged));
        hub(Some(format!("sha1={}", hex::encode(mac("new")))), Err(Refused::Forged));
        hub(Some("sha256=".into()), Err(Refused::Forged));
        hub(None, Err(Refused::Unsigned));
        let token = |given: Option<&str>, expected| {
            let proof = Proof { path_token: given, ..Proof::default() };
            let found = verify(Auth::PathToken, &secrets, proof, body, NOW, [9; 4].into());
            assert_eq!(found, expected, "{given:?}");
        };
        token(Some("old"), Ok(()));
        token(Some("new"), Ok(()));
        token(Some("ne"), Err(Refused::Forged));
        token(Some(""), Err(Refused::Forged));
        token(None, Err(Refused::Unsigned));
    }

    /// Proof of another kind than the declared one is none, however good it is.
    #[test]
    fn g5_only_the_declared_way_passes() {
        let (secret, body, now) = ("c2VjcmV0", b"{}", (NOW / 1_000).to_string());
        let hmac = hex::encode(sign(secret, &now, body));
        let mac = |key: &[u8], content: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(content.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        };
        let standard = format!("v1,{}", mac(b"secret", &format!("id.{now}.{{}}")));
        let hub = format!("sha256={}", mac(secret.as_bytes(), "{}"));
        let basic = format!("Basic {}", STANDARD.encode(format!("user:{secret}")));
        let none = Proof::default();
        let proofs = [
            (Auth::Hmac, Proof { signature: Some(&hmac), timestamp: Some(&now), ..none }),
            (
                Auth::StandardWebhooks,
                Proof {
                    webhook_id: Some("id"),
                    webhook_timestamp: Some(&now),
                    webhook_signature: Some(&standard),
                    ..none
                },
            ),
            (Auth::HubSignature, Proof { hub_signature: Some(&hub), ..none }),
            (Auth::PathToken, Proof { path_token: Some(secret), ..none }),
            (Auth::Basic, Proof { authorization: Some(&basic), ..none }),
        ];
        for (declared, _) in &proofs {
            for (given, proof) in &proofs {
                let found = verify(*declared, &[secret.into()], *proof, body, NOW, [9; 4].into());
                assert_eq!(
                    found.is_ok(),
                    declared == given,
                    "{declared:?} declared, {given:?} given: {found:?}"
                );
            }
        }
    }
}
