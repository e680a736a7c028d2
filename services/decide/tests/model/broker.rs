//! The broker as the machines see it: logs in one order, publishing with an expectation, and schedules.
//!
//! It is harsher than the real one where that costs nothing: it knows no duplicate window, so whatever is
//! published twice is there twice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, Index};
use std::sync::Arc;

use serde::Serialize;

/// Another record than the expected one is the last.
#[derive(Debug)]
pub(crate) struct Refused;

/// The messages of one subject, or of one stream that is read as a whole; sequences count from 1.
#[derive(Debug)]
pub(crate) struct Log<T> {
    messages: Vec<Stored<T>>,
}

#[derive(Debug)]
struct Stored<T> {
    published_ms: i64,
    /// Stands for the message wherever states are compared.
    print: u64,
    message: Arc<T>,
}

impl<T: Serialize> Log<T> {
    /// Stores a message; gives its sequence.
    pub(crate) fn publish(&mut self, published_ms: i64, message: T) -> u64 {
        let print = print(&message);
        self.messages.push(Stored { published_ms, print, message: Arc::new(message) });
        self.last()
    }

    /// Stores a message if the last one has this sequence.
    pub(crate) fn publish_after(
        &mut self,
        expected: u64,
        published_ms: i64,
        message: T,
    ) -> Result<u64, Refused> {
        if self.last() == expected { Ok(self.publish(published_ms, message)) } else { Err(Refused) }
    }
}

impl<T> Log<T> {
    /// Sequence of the last message; 0: there is none.
    pub(crate) fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(crate) fn published_ms(&self, sequence: u64) -> i64 {
        self.messages[place(sequence)].published_ms
    }

    /// The messages with their sequences.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (1..).zip(&self.messages).map(|(sequence, stored)| (sequence, &*stored.message))
    }

    pub(crate) fn newest(&self) -> Option<&T> {
        self.messages.last().map(|stored| &*stored.message)
    }
}

fn place(sequence: u64) -> usize {
    usize::try_from(sequence).unwrap() - 1
}

impl<T> Index<u64> for Log<T> {
    type Output = T;
    fn index(&self, sequence: u64) -> &T {
        &self.messages[place(sequence)].message
    }
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Log { messages: vec![] }
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        let copy = |stored: &Stored<T>| Stored { message: stored.message.clone(), ..*stored };
        Log { messages: self.messages.iter().map(copy).collect() }
    }
}

impl<T> PartialEq for Log<T> {
    fn eq(&self, other: &Self) -> bool {
        let mine = self.messages.iter().map(|stored| (stored.published_ms, stored.print));
        mine.eq(other.messages.iter().map(|stored| (stored.published_ms, stored.print)))
    }
}

impl<T> Hash for Log<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for stored in &self.messages {
            (stored.published_ms, stored.print).hash(state);
        }
        self.messages.len().hash(state);
    }
}

/// A value with what stands for it wherever states are compared.
#[derive(Debug)]
pub(crate) struct Printed<T> {
    print: u64,
    value: Arc<T>,
}

impl<T: Serialize> Printed<T> {
    pub(crate) fn new(value: T) -> Printed<T> {
        Printed { print: print(&value), value: Arc::new(value) }
    }
}

impl<T> Deref for Printed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Clone for Printed<T> {
    fn clone(&self) -> Self {
        Printed { print: self.print, value: self.value.clone() }
    }
}

impl<T> PartialEq for Printed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl<T> Hash for Printed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

/// What stands for a value wherever states are compared.
pub(crate) fn print(value: &impl Serialize) -> u64 {
    hash_of(&serde_json::to_vec(value).unwrap())
}

/// What stands for a history: what stood for it before, and what came to it.
pub(crate) fn chain(before: u64, added: u64) -> u64 {
    hash_of(&(before, added))
}

pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
