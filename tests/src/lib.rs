//! The kit of the end-to-end tests: the real programs over a real nats-server, a target that counts, a
//! sender that signs, and a naive reference that knows only the requirements.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::print_stderr)]

pub mod certificates;
pub mod cluster;
pub mod platform;
pub mod programs;
pub mod proxy;
pub mod random;
pub mod reference;
pub mod sdk;
pub mod secrecy;
pub mod sender;
pub mod target;
pub mod traces;
pub mod vault;
