//! The program runs, prints its address, serves there, and ends cleanly.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

#[test]
fn it_says_its_name_and_version() {
    let program = Command::new(env!("CARGO_BIN_EXE_holdline-simulator")).arg("--version").output().unwrap();
    let text = String::from_utf8(program.stdout).unwrap();
    assert_eq!(text.trim(), concat!("holdline-simulator ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn it_prints_where_it_serves_and_ends_when_told() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_holdline-simulator"))
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = "GET /statuspage/api/v2/summary.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("All Systems Operational"), "{answer}");
    let told = Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(program.wait().unwrap().success());
}
