//! BUDGETS: what remedies have taken of the budgets that playbooks set (E10, A5). An entry is changed by
//! compare-and-set only, so whatever the interleaving, no budget is overdrawn.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// One entry: what was taken of one budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub taken: Vec<Taken>,
}

/// One remedy's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What counts once: an incident, or an entity.
    pub what: String,
    /// The incident that took it: a command that comes again takes nothing more, and where a budget has it so, it counts
    /// until the incident is over.
    pub incident: String,
    /// The issue of the command ([`crate::command::Command::issue_key`]) that took it: if it comes again without having
    /// called anybody, and another budget refuses it, this is given back. Empty: an earlier version took it.
    #[serde(default)]
    pub issue: String,
    /// Unix milliseconds, broker's clock.
    pub at_ms: i64,
}

impl Wire for Spent {
    const KIND: &'static str = "spent";
}
