//! What crosses a wire, as data only: no runtime, no clock, no I/O.
//!
//! Start with [`topology`]: the one table of subjects, streams, buckets, users and permissions.
//! Then follow an event: [`event`] → [`signal`] → [`incident`] and [`journal`] → [`command`] → [`outcome`].
//! [`wire`] encodes them all.

pub mod topology;

pub mod wire;

pub mod digest;

pub mod event;

pub mod signal;

pub mod incident;

pub mod journal;

pub mod command;

pub mod outcome;

pub mod dead_letter;

pub mod rate;

pub mod pause;

/// What waits for people.
pub mod approval;
pub mod budget;
pub mod cause;

pub mod audit;

pub mod playbooks;

pub mod secret;

pub mod limits;
