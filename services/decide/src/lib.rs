//! The decisions: values in, values out. No clock, no I/O, no async, no randomness; the same code runs
//! live, in replay, in tests and under a model checker.
//!
//! Follow an event: [`source`] reads what arrives in other shapes than the guide's, [`classify`] turns accepted
//! events into signals, [`debounce`] turns signals into incidents and decides when to act and when to undo,
//! [`execute`] turns a command into a request and a response into an outcome when [`rate`] lets it leave, and
//! [`native`] what the platform shows into the one call that is needed. Before that, people may have to allow it
//! ([`approval`], and [`hours`] say when), may have stopped it ([`pause`]), or allow only so much ([`budget`]).
//! [`verify`] says whether it worked, unless the entity's own events do; [`retry`] says what of the dead letters comes
//! back. [`replay`] folds recorded inputs again. [`subscribe`] compares the platform's subscriptions with a set's,
//! [`audit`] an audit trail with what it says of itself. [`playbook`] is what they all go by.

pub mod playbook;

pub mod source;

pub mod classify;

pub mod debounce;

pub mod execute;

pub mod native;

pub mod rate;

pub mod pause;

pub mod budget;

pub mod approval;

pub mod hours;

pub mod verify;

pub mod retry;

pub mod subscribe;

pub mod replay;

pub mod audit;

pub mod explain;

/// Version of these decisions; every record names it, so that a replay can say when it differs.
pub const MACHINE: &str = concat!("decide-", env!("CARGO_PKG_VERSION"));
