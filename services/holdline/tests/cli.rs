//! The program runs. Its whole surface is held by `tests/tests/cli.rs`; that this file is here makes
//! `cargo test --workspace` build the program.

#[test]
fn it_says_its_name_and_version() {
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_holdline")).arg("--version").output();
    let text = program.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    assert!(text.is_ok_and(|text| text.trim() == concat!("holdline ", env!("CARGO_PKG_VERSION"))));
}
