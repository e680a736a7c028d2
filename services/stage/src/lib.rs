//! The shell that every stage shares: it reads, lets a pure function decide, and makes the decision durable.
//!
//! What belongs here: the exactly-once protocol ([`pipe`], [`lease`], [`effects`]; nowhere else), the
//! connection ([`bus`]), starting and draining ([`run`]), and what each process shows of itself ([`admin`],
//! [`telemetry`]). What never does: what an event means, when to act, how to call a target.
//!
//! Invariants: nothing is given up before its outputs are durable; a position moves only with the record
//! that holds what came of it; every wait, queue and cache is bounded.

pub mod run;

pub mod settings;

pub mod tls;

pub mod clock;

pub mod bus;

pub mod broker_time;

pub mod playbooks;

pub mod secret;

pub mod token;

pub mod vault;

pub mod dump;

pub mod http;

pub mod pipe;

pub mod lease;

mod effects;

mod reader;

pub mod queue;

pub mod dead_letter;

pub mod audit;

pub mod crash;

pub mod admin;

pub mod telemetry;
