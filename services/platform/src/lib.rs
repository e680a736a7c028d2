//! The client of the platform's API: what the services that call it share.
//!
//! [`Api::send`] makes one call as one OAuth client; [`oauth`] has its token ready, and [`route`] knows where
//! a host is really to be reached. [`rate`] says when a call may leave, over all replicas of all services. What a
//! call is for and what an answer means is the caller's business.

mod api;
mod limits;
pub mod oauth;
pub mod rate;
pub mod route;

pub use api::{Api, Failed, Response};
pub use limits::limits;
