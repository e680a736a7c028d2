//! The client of the platform's API: what the services that call it share.
//!
//! [`Api::send`] makes one call as one OAuth client; [`oauth`] has its token ready, and [`route`] knows where
//! a host is really to be reached. What a call is for, how fast calls may leave and what an answer means is
//! the caller's business.

mod api;
mod limits;
pub mod oauth;
pub mod route;

pub use api::{Api, Failed, Response};
pub use limits::limits;
