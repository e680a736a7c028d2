//! The simulated platform, for native actions (F8): each entity has an emergency group of its own, or shares one
//! with others, which is enabled while it fails. Every write moves the group's version by one, so nothing is done twice unseen.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use holdline_simulator::organisation::{CLIENT, CLIENT_SECRET, GROUP_EVACUATION};
use holdline_simulator::{Fault, Options, Outcome, Simulator};
use holdline_tests::platform::found_group;
use serde_json::{Value, json};

/// What the playbooks refer to, and what it holds.
pub(crate) const SECRETS: [(&str, &str); 2] =
    [("CHAOS_CLIENT_ID", CLIENT), ("CHAOS_CLIENT_SECRET", CLIENT_SECRET)];

const TOKEN: &str = "/oauth/token";
const GROUPS: &str = "/api/v2/architect/emergencygroups";

/// What is wrong with the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No token is good any more, and nobody gets a new one: 503, no answer, or "too many requests".
    TokenEndpointFails,
    TokenEndpointHangs,
    TokenEndpointThrottles,
    /// No token is good any more.
    TokensRevoked,
    Throttled {
        retry_after_s: Option<u64>,
    },
    /// What is asked is done, and answered with 500, not at all, or by half.
    FailsAfterwards,
    HangsAfterwards,
    BreaksOff,
}

impl Trouble {
    pub(crate) const ALL: [Trouble; 9] = [
        Trouble::TokenEndpointFails,
        Trouble::TokenEndpointHangs,
        Trouble::TokenEndpointThrottles,
        Trouble::TokensRevoked,
        Trouble::Throttled { retry_after_s: None },
        Trouble::Throttled { retry_after_s: Some(2) },
        Trouble::FailsAfterwards,
        Trouble::HangsAfterwards,
        Trouble::BreaksOff,
    ];
}

/// A running platform.
#[derive(Clone)]
pub(crate) struct Platform {
    simulator: Arc<Simulator>,
    /// Of the group that every other is a copy of.
    version: u64,
    founded: Arc<Mutex<HashSet<String>>>,
}

impl Platform {
    pub(crate) async fn start() -> Platform {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let version = version(&simulator.group(GROUP_EVACUATION));
        Platform { simulator: Arc::new(simulator), version, founded: Arc::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.simulator.address()
    }

    /// A group comes into being, unless another entity has it.
    pub(crate) fn found(&self, group: &str) {
        let mut founded = self.founded.lock().unwrap();
        if founded.insert(group.to_string()) {
            found_group(&self.simulator, group);
        }
    }

    pub(crate) fn is_enabled(&self, group: &str) -> bool {
        self.simulator.group(group)["enabled"] == json!(true)
    }

    /// What has been done to an entity's group, in order; what cannot have been is told.
    pub(crate) fn effects(&self, entity: &str) -> Result<Vec<&'static str>, String> {
        let group = self.simulator.group(entity);
        let writes = version(&group) - self.version;
        if group["enabled"] != json!(writes % 2 == 1) {
            return Err(format!("after {writes} writes the group is {group}"));
        }
        Ok((0..writes).map(|n| if n % 2 == 0 { "remediate" } else { "revert" }).collect())
    }

    pub(crate) fn strike(&self, trouble: Trouble) {
        let status =
            |path, status, retry_after_s| Fault::new(path, Outcome::Status { status, retry_after_s });
        let put = |outcome| Fault::new(GROUPS, outcome).method("PUT");
        let fault = match trouble {
            Trouble::TokenEndpointFails => status(TOKEN, 503, None),
            Trouble::TokenEndpointHangs => Fault::new(TOKEN, Outcome::Hang),
            Trouble::TokenEndpointThrottles => status(TOKEN, 429, None),
            Trouble::TokensRevoked => return self.simulator.revoke_tokens(),
            Trouble::Throttled { retry_after_s } => status(GROUPS, 429, retry_after_s),
            Trouble::FailsAfterwards => put(Outcome::Status { status: 500, retry_after_s: None }).applied(),
            Trouble::HangsAfterwards => put(Outcome::Hang).applied(),
            Trouble::BreaksOff => put(Outcome::CloseMidBody),
        };
        let of_token = fault.path_prefix == TOKEN;
        self.simulator.fault(fault);
        if of_token {
            self.simulator.revoke_tokens();
        }
    }

    pub(crate) fn heal(&self) {
        self.simulator.clear_faults();
    }
}

fn version(group: &Value) -> u64 {
    group["version"].as_u64().unwrap()
}
