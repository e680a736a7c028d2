//! The nats-server of a data folder and what is made on it, where something goes wrong.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use holdline::broker::{DataDir, binary};
use holdline_proto::topology::Topology;
use holdline_stage::clock;

/// Ends what a test has started, also when it fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An empty folder of its own.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A nats-server for all tests of this file, so that it is fetched once.
fn nats_server() -> PathBuf {
    let data = DataDir(Path::new(env!("CARGO_TARGET_TMPDIR")).join("broker"));
    data.prepare().unwrap();
    let lock = std::fs::File::create(data.0.join("fetch-lock")).unwrap();
    lock.lock().unwrap();
    std::fs::canonicalize(binary::find(&data).unwrap()).unwrap()
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("HOLDLINE_NATS_SERVER", nats_server());
    command
}

fn holdline(arguments: &[&str]) -> Output {
    command(Path::new(env!("CARGO_BIN_EXE_holdline")), arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = clock::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pid(data: &Path) -> Option<String> {
    let pid = std::fs::read_to_string(data.join("nats/pid")).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
    (!stat.contains(") Z ")).then(|| pid.trim().to_string())
}

fn diff(data: &str) -> Output {
    holdline(&["provision", "--diff", "--output", "json", "--data", data])
}

fn start(program: &Path, data: &str, more: &[&str]) -> Running {
    let mut command = command(program, &["broker", "--sync", "default", "--data", data]);
    let child = command.args(more).stdout(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    wait_until("it is provisioned", || {
        Path::new(data).join("nats/url").is_file() && said(&diff(data)).contains("\"changes\": []")
    });
    running
}

#[test]
fn an_installation_keeps_its_partitions_unless_told_and_then_refuses() {
    let data = scratch("partitions");
    let data = data.to_str().unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_holdline"));
    drop(start(own, data, &["--partitions", "8"]));
    // Without the flag it is what it was.
    let _again = start(own, data, &[]);
    let refused = holdline(&["provision", "--partitions", "4", "--data", data]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("has 8 partitions, not 4"), "{}", said(&refused));
    assert_eq!(holdline(&["provision", "--partitions", "0", "--data", data]).status.code(), Some(2));
}

#[test]
fn a_taken_address_is_said_at_once_and_another_server_is_never_used() {
    let data = scratch("taken");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let refused = holdline(&["broker", "--data", data.to_str().unwrap(), "--listen", &address]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains(&format!("cannot listen on {address}")), "{}", said(&refused));
}

#[test]
fn a_server_that_ends_at_its_start_is_told_with_its_last_words_and_not_tried_again() {
    let folder = scratch("ends");
    let fake = folder.join("nats-server");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'nats-server: v2.15.9' && exit\necho the disk is full\nexit 3\n";
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let data = folder.join("data");
    let failed = Command::new(env!("CARGO_BIN_EXE_holdline"))
        .args(["broker", "--data", data.to_str().unwrap()])
        .env("HOLDLINE_NATS_SERVER", &fake)
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("ended at its start"), "{}", said(&failed));
    assert!(said(&failed).contains("the disk is full"), "{}", said(&failed));
    let log = std::fs::read_to_string(data.join("nats/server.log")).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn a_broker_that_dies_is_started_again_even_when_our_own_file_is_gone() {
    let folder = scratch("rebuilt");
    let own = folder.join("holdline");
    std::fs::copy(env!("CARGO_BIN_EXE_holdline"), &own).unwrap();
    let data = folder.join("data");
    let _running = start(&own, data.to_str().unwrap(), &[]);
    // What a build does to a program that runs.
    std::fs::remove_file(&own).unwrap();
    let first = pid(&data).unwrap();
    assert!(Command::new("kill").args(["-9", &first]).status().unwrap().success());
    wait_until("it is started again", || pid(&data).is_some_and(|again| again != first));
    wait_until("it answers", || said(&diff(data.to_str().unwrap())).contains("\"changes\": []"));
}

#[test]
fn users_are_written_without_a_broker_and_only_their_owner_can_read_the_seeds() {
    let folder = scratch("users");
    let (file, keys) = (folder.join("users.conf"), folder.join("keys"));
    let arguments = ["provision", "--users", file.to_str().unwrap(), "--keys", keys.to_str().unwrap()];
    let written = holdline(&arguments);
    assert!(written.status.success(), "{}", said(&written));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("authorization {") && text.contains(&Topology::default().event(0).replace('0', "*")),
        "{text}"
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&keys), mode(&keys.join("gateway.nk"))), (0o700, 0o600));
    // The keys are made once: written again it is the same.
    assert!(holdline(&arguments).status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

/// A gateway that has failed before is judged more slowly, so a second run needs another one.
#[test]
fn the_demonstration_plays_again_in_the_same_folder() {
    let folder = scratch("demo-again");
    for run in ["first", "second"] {
        let arguments = ["up", "--demo", "--then-exit", "--sync", "default"];
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_holdline")), &arguments);
        let played = command.current_dir(&folder).output().unwrap();
        assert!(played.status.success(), "the {run} run: {}", said(&played));
    }
}
