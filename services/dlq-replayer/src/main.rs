//! `holdline-dlq-replayer`: watches the dead letters.

use std::process::ExitCode;

use holdline_dlq_replayer::{Settings, run};
use holdline_proto::topology::Role;

fn main() -> ExitCode {
    holdline_stage::run::service(
        Role::DlqReplayer,
        "Watches what could not be understood or carried out",
        Settings::read,
        run,
    )
}
