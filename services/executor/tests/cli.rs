//! The surface of the program: help, version, exit codes. (Also what makes `cargo test --workspace` build it.)
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_holdline-executor"))
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn help_version_and_exit_codes() {
    assert_eq!(run(&["--help"], &[]).0, 0);
    let (code, text) = run(&["--version"], &[]);
    assert_eq!((code, text.trim()), (0, concat!("holdline-executor ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(run(&["--nonsense"], &[]).0, 2);
    let bad = [("HOLDLINE_ADMIN_LISTEN", "nowhere"), ("HOLDLINE_NATS_PREFIX", "Not OK")];
    let (code, text) = run(&[], &bad);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("HOLDLINE_ADMIN_LISTEN") && text.contains("nats.prefix"), "all at once: {text}");
    // A port on which nothing listens.
    let away = [
        ("HOLDLINE_NATS_URL", "nats://127.0.0.1:1"),
        ("HOLDLINE_NATS_PATIENCE_S", "1"),
        ("HOLDLINE_GATEWAY_LISTEN", "127.0.0.1:0"),
    ];
    let (code, text) = run(&[], &away);
    assert_eq!(code, 69, "{text}");
}
