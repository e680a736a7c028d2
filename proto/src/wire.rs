//! CBOR with a versioned envelope: `[kind, version, body]`.
//!
//! Version n reads n-1 and the known part of n+1 (unknown fields are ignored, missing ones have defaults);
//! any other version is an error, and whoever reads parks the bytes instead of guessing.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this build writes. The feature `next` builds the version to come, so that the two can be
/// run side by side (F15): it writes the next number, and a field that nobody knows yet.
pub const VERSION: u16 = if cfg!(feature = "next") { 2 } else { 1 };

/// Nesting that a decoder follows before it gives up; our own types need fewer than ten levels.
const DEPTH_MAX: usize = 64;

/// A type that travels in an envelope.
pub trait Wire: Serialize + DeserializeOwned {
    /// Names the type in the envelope, so that a message on the wrong subject is noticed.
    const KIND: &'static str;
}

/// Why bytes could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Not CBOR, cut off, or not of the expected shape.
    #[error("not a readable {kind}: {reason}")]
    Malformed { kind: &'static str, reason: String },
    /// The envelope names another type.
    #[error("expected a {expected}, found a {found}")]
    Kind { expected: &'static str, found: String },
    /// Written by a version too far from ours.
    #[error("{kind} has version {found}; this build reads {} to {}", VERSION - 1, VERSION + 1)]
    Version { kind: &'static str, found: u16 },
    /// Something follows the message.
    #[error("{bytes} bytes follow the {kind}")]
    Trailing { kind: &'static str, bytes: usize },
}

#[derive(Serialize)]
struct Sealed<'a, T>(&'a str, u16, &'a T);

#[derive(Deserialize)]
struct Opened<T>(#[allow(dead_code)] String, #[allow(dead_code)] u16, T);

#[derive(Deserialize)]
struct Label(String, u16, serde::de::IgnoredAny);

/// Encodes a message in its envelope.
pub fn encode<T: Wire>(message: &T) -> Vec<u8> {
    encode_as::<T, T>(message)
}

/// Encodes something that has the shape of a `T` (a borrowed twin of it, say) as a `T`.
pub fn encode_as<T: Wire, S: Serialize>(message: &S) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    #[cfg(feature = "next")]
    let message = &next::grown(message);
    let written = ciborium::into_writer(&Sealed(T::KIND, VERSION, message), &mut bytes);
    debug_assert!(written.is_ok(), "a Vec takes every byte, and our types serialise");
    bytes
}

/// Decodes a message, and refuses other kinds, far versions, deep nesting and trailing bytes.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    match read::<Opened<T>>(T::KIND, bytes) {
        Ok(Opened(kind, version, body)) => {
            check_label(T::KIND, &kind, version)?;
            Ok(body)
        }
        // The body may be unreadable because it is another kind or version: then say that instead.
        Err(error) => {
            if let Ok(Label(kind, version, _)) = read::<Label>(T::KIND, bytes) {
                check_label(T::KIND, &kind, version)?;
            }
            Err(error)
        }
    }
}

/// Decodes what every version of a message has, whichever wrote it: for what is kept longer than its neighbours are.
pub fn decode_common<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let Opened(kind, _, common) = read::<Opened<T>>(T::KIND, bytes)?;
    check_kind(T::KIND, &kind)?;
    Ok(common)
}

fn check_kind(expected: &'static str, found: &str) -> Result<(), DecodeError> {
    if found == expected {
        return Ok(());
    }
    Err(DecodeError::Kind { expected, found: found.chars().take(40).collect() })
}

fn check_label(expected: &'static str, found: &str, version: u16) -> Result<(), DecodeError> {
    check_kind(expected, found)?;
    if !(VERSION - 1..=VERSION + 1).contains(&version) {
        return Err(DecodeError::Version { kind: expected, found: version });
    }
    Ok(())
}

fn read<T: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|error| DecodeError::Malformed { kind, reason: error.to_string() })?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { kind, bytes: rest.len() }) }
}

/// What the version to come writes: every struct, however deep, has a field more.
#[cfg(feature = "next")]
mod next {
    use ciborium::Value;
    use serde::Serialize;

    pub(super) fn grown<S: Serialize>(message: &S) -> Value {
        let mut value = Value::serialized(message).unwrap_or(Value::Null);
        grow(&mut value);
        value
    }

    fn grow(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(grow),
            Value::Map(entries) => {
                entries.iter_mut().for_each(|(_, value)| grow(value));
                // A struct, and neither a variant of an enum nor a map of names that people gave.
                let field = |key: &Value| {
                    let lower = |c: char| c.is_ascii_lowercase() || c == '_';
                    key.as_text().is_some_and(|name| name.chars().all(lower))
                };
                if entries.len() > 1 && entries.iter().all(|(key, _)| field(key)) {
                    entries.push(("added_by_next".into(), Value::Array(vec![1.into(), "two".into()])));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
    struct Sample {
        name: String,
        #[serde(default)]
        count: u32,
    }
    impl Wire for Sample {
        const KIND: &'static str = "sample";
    }

    fn sealed<T: Serialize>(kind: &str, version: u16, body: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(&(kind, version, body), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_message_survives_the_round_trip_and_neighbouring_versions() {
        let sample = Sample { name: "gw".into(), count: 7 };
        assert_eq!(decode::<Sample>(&encode(&sample)).unwrap(), sample);
        // n+1 added a field; n-1 lacked one.
        let newer = serde_json::json!({"name": "gw", "count": 7, "added": [1, 2]});
        assert_eq!(decode::<Sample>(&sealed("sample", VERSION + 1, &newer)).unwrap(), sample);
        let older = serde_json::json!({"name": "gw"});
        assert_eq!(decode::<Sample>(&sealed("sample", VERSION - 1, &older)).unwrap().count, 0);
    }

    #[test]
    fn n4_what_cannot_be_understood_is_refused_with_the_reason() {
        let check = |bytes: &[u8], expected: &str| {
            let error = decode::<Sample>(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should mention {expected:?}");
        };
        let good = encode(&Sample::default());
        check(&[], "not a readable sample");
        check(&good[..good.len() - 1], "not a readable sample");
        check(&[good.clone(), vec![0]].concat(), "1 bytes follow");
        check(&sealed("sample", 9, &"anything"), "version 9");
        check(&sealed("other", VERSION, &Sample::default()), "found a other");
        check(&[0x81; 100_000], "not a readable sample");
        check(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "not a readable sample");
    }
}
