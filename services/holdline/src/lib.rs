//! `holdline`: everything that a person types.
//!
//! [`up`] runs the five services in one process beside a nats-server of its own ([`broker`]); [`commands`]
//! has one file per noun; [`provision`] applies the topology.

pub mod broker;
pub mod commands;
mod conservation;
mod demo;
mod output;
pub mod provision;
mod read;
mod up;
