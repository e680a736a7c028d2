//! `hl.dead.<stage>`: what could not be understood or carried out, with its bytes and the reason.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// A message that was parked. Nothing is dropped (N3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The stage that gave up.
    pub stage: String,
    /// Why, for a person.
    pub reason: String,
    /// Where the message stood.
    pub subject: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Tries that were made.
    pub attempts: u32,
    /// The message itself.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

impl Wire for DeadLetter {
    const KIND: &'static str = "dead-letter";
}
