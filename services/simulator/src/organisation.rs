//! The organisation that is there at the start: two sites with an edge each, three trunks, and what an incident
//! there is answered with. The objects stand in the files of their endpoints ([`crate::api`], the modules `founded`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api;
pub use crate::api::founded::*;
use crate::oauth::Client;

pub const ORGANISATION: &str = "23faea37-1117-4c0a-88a2-572c46780b03";
pub const DIVISION: &str = "d0000000-0000-4000-8000-000000000000";
/// The person whose hand [`crate::Simulator::edit`] is.
pub const HUMAN: &str = "a0000000-0000-4000-8000-000000000001";

/// A client that may do everything but telephony.
pub const CLIENT: &str = "6d2e1f00-0000-4000-8000-000000000001";
pub const CLIENT_SECRET: &str = "simulated-secret";
/// A client that may do telephony and nothing else: `telephony:plugin:all` is all or nothing.
pub const TELEPHONY_CLIENT: &str = "6d2e1f00-0000-4000-8000-000000000002";
pub const TELEPHONY_CLIENT_SECRET: &str = "simulated-telephony-secret";

/// The status page's component that stands for the organisation's region.
pub const STATUS_COMPONENT: &str = "c0mp0n3nt001";
/// A component of another region.
pub const STATUS_COMPONENT_OTHER: &str = "c0mp0n3nt002";

/// Kinds of operational events: id, name, description. Invented, as no list of the real ones is public.
pub const OPERATIONAL_EVENT_DEFINITIONS: [(&str, &str, &str); 2] = [
    ("0e000000-0000-4000-8000-000000000001", "Rate limit exceeded", "A client exceeded its rate limit"),
    ("0e000000-0000-4000-8000-000000000002", "Data action failed", "A data action failed repeatedly"),
];

/// The clients of the organisation.
pub fn clients() -> Vec<Client> {
    let permissions: BTreeSet<&str> = api::permissions().filter(|one| *one != TELEPHONY).collect();
    let permissions: Vec<&str> = permissions.into_iter().collect();
    vec![
        Client::new(CLIENT, CLIENT_SECRET, &permissions),
        Client::new(TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET, &[TELEPHONY]),
    ]
}

const TELEPHONY: &str = "telephony:plugin:all";

pub(crate) fn reference(id: &str, name: &str) -> Value {
    json!({ "id": id, "name": name })
}

pub(crate) fn division() -> Value {
    json!({ "id": DIVISION, "name": "Home", "selfUri": format!("/api/v2/authorization/divisions/{DIVISION}") })
}
