//! `holdline-executor`: takes commands, calls targets, writes outcomes.

use std::process::ExitCode;

use holdline_executor::{Settings, run};
use holdline_proto::topology::Role;

fn main() -> ExitCode {
    holdline_stage::run::service(
        Role::Executor,
        "Calls targets, once per decision, and reports what came of it",
        Settings::read,
        run,
    )
}
