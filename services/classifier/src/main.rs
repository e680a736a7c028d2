//! `holdline-classifier`: reads accepted events, decides what they mean, writes signals.

use std::process::ExitCode;

use holdline_classifier::{Settings, run};
use holdline_proto::topology::Role;

fn main() -> ExitCode {
    holdline_stage::run::service(
        Role::Classifier,
        "Reads accepted events and decides what they mean to the playbooks",
        Settings::read,
        run,
    )
}
