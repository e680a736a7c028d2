//! `holdline-debouncer`: reads signals, outcomes and wake-ups, decides, writes the journal.

use std::process::ExitCode;

use holdline_debouncer::{Settings, run};
use holdline_proto::topology::Role;

fn main() -> ExitCode {
    holdline_stage::run::service(
        Role::Debouncer,
        "Decides what is real and what is over, and has it acted on",
        Settings::read,
        run,
    )
}
