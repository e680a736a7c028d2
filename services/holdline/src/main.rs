//! `holdline`: reads what a person types, and says how it went by its exit code (0 yes, 1 no, 2 usage, 64
//! settings, 69 a dependency stayed away).

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "__nats-server") {
        return holdline::broker::become_child(arguments);
    }
    holdline::commands::main()
}
