//! Keeps the child alive, and takes it along: a thread of its own starts it, starts it again when it dies,
//! and the kernel ends it when this process ends in whatever way.
//!
//! The death signal belongs to the thread that started the child, so that thread lives as long as the
//! process. The child arms it itself before it becomes nats-server (see [`become_child`]), because safe Rust
//! cannot run code between fork and exec.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::DataDir;

/// First argument by which our own binary becomes the child.
const CHILD: &str = "__nats-server";

/// Between looks at the child.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A server that is told to end gets this long before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// `holdline __nats-server BINARY ARGUMENTS`: arms the death signal and becomes nats-server.
pub fn become_child(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return ExitCode::FAILURE;
    }
    let Some(binary) = arguments.next() else { return ExitCode::from(2) };
    let error = Command::new(binary).args(arguments).exec();
    tracing::error!("nats-server cannot be started: {error}");
    ExitCode::FAILURE
}

pub(super) struct Keeper {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(binary: PathBuf, config: PathBuf, data: &DataDir) -> anyhow::Result<Keeper> {
        let log = data.nats().join("server.log");
        let (stop, stopped) = channel();
        let (started, first) = channel();
        let keep = move || {
            let child = spawn(&binary, &config, &log);
            match child {
                Ok(child) => {
                    started.send(Ok(())).ok();
                    keep(child, &binary, &config, &log, &stopped);
                }
                Err(error) => {
                    started.send(Err(error)).ok();
                }
            }
        };
        let thread = std::thread::Builder::new().name("nats-server keeper".into()).spawn(keep)?;
        first.recv().context("the keeper of nats-server ended")??;
        Ok(Keeper { stop, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.send(()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn spawn(binary: &Path, config: &Path, log: &Path) -> anyhow::Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    command.arg(CHILD).arg(binary).arg("-c").arg(config);
    // A Ctrl-C on the terminal is ours to handle: the server goes last.
    command.process_group(0).stdin(std::process::Stdio::null()).stdout(out.try_clone()?).stderr(out);
    command.spawn().context("nats-server cannot be started")
}

fn keep(mut child: Child, binary: &Path, config: &Path, log: &Path, stopped: &Receiver<()>) {
    loop {
        match stopped.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return end(&mut child),
        }
        if let Ok(Some(status)) = child.try_wait() {
            tracing::error!(
                "nats-server ended by itself ({status}); starting it again, see {}",
                log.display()
            );
            match spawn(binary, config, log) {
                Ok(again) => child = again,
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }
}

fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM).ok();
    }
    let looks = END_TIME_MAX.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.kill().ok();
    child.wait().ok();
}

/// Ends a nats-server of this folder that a killed program has left behind.
pub(super) fn end_left_behind(data: &DataDir) -> anyhow::Result<()> {
    let file = data.nats().join("pid");
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    let config = std::fs::canonicalize(data.nats())?.join("server.conf");
    let raw = text.trim().parse::<i32>().ok();
    let is_ours = || {
        // The number may belong to another process by now.
        let command = std::fs::read(format!("/proc/{}/cmdline", text.trim())).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains("nats-server") && command.contains(&config.display().to_string())
    };
    if let Some(pid) = raw.and_then(Pid::from_raw)
        && is_ours()
    {
        tracing::warn!("a nats-server was left behind in {}; ending it", data.0.display());
        kill_process(pid, Signal::TERM).ok();
        for _ in 0..100 {
            if !is_ours() {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if is_ours() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
    std::fs::remove_file(&file).ok();
    Ok(())
}
