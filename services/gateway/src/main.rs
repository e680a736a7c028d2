//! `holdline-gateway`: takes signed events, writes them to the log, answers.

use std::process::ExitCode;

use holdline_gateway::{Settings, run};
use holdline_proto::topology::Role;

fn main() -> ExitCode {
    holdline_stage::run::service(
        Role::Gateway,
        "Takes signed events over HTTP and makes them durable",
        Settings::read,
        run,
    )
}
