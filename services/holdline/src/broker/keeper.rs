//! Keeps the child alive, and takes it along: a thread of its own starts it, starts it again when it dies,
//! and the kernel ends it when this process ends in whatever way.
//!
//! The death signal belongs to the thread that started the child, so that thread lives as long as the
//! process. The child arms it itself before it becomes nats-server (see [`become_child`]), because safe Rust
//! cannot run code between fork and exec.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use super::{DataDir, foreign, nats_server_needs};

/// First argument by which our own binary becomes the child.
const CHILD: &str = "__nats-server";

/// Between looks at the child.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A server reads its whole store before it answers for the first time.
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// A server that keeps ending is started again after 50 ms, then after twice as long each time, up to this.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(5);

/// A server that ran this long is taken to have been well.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// A server that is told to end gets this long before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// `holdline __nats-server PARENT BINARY ARGUMENTS`: arms the death signal and becomes nats-server.
pub fn become_child(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return ExitCode::FAILURE;
    }
    let Some(parent) = arguments.next() else { return ExitCode::from(2) };
    // A parent that died before the signal was armed sends none any more.
    if getppid().is_none_or(|now| now.as_raw_nonzero().to_string() != parent.to_string_lossy()) {
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

/// What is run, and where it answers.
pub(super) struct Server {
    pub binary: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    pub address: SocketAddr,
}

impl Keeper {
    /// Starts the server and waits until it answers. One that ends before that is an error, with its own last
    /// words, and is not tried again.
    pub(super) fn start(server: Server) -> anyhow::Result<Keeper> {
        let (stop, stopped) = channel();
        let (started, first) = channel();
        let keep = move || match server.first() {
            Ok(child) => {
                started.send(Ok(())).ok();
                server.keep(child, &stopped);
            }
            Err(error) => {
                started.send(Err(error)).ok();
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

impl Server {
    fn spawn(&self) -> anyhow::Result<Child> {
        let out = File::options().create(true).append(true).open(&self.log)?;
        // Not `current_exe`: the file of that name may be another one, or gone, after a build.
        let mut command = foreign("/proc/self/exe", nats_server_needs);
        command.arg(CHILD).arg(std::process::id().to_string());
        command.arg(&self.binary).arg("-c").arg(&self.config);
        // A Ctrl-C on the terminal is ours to handle: the server goes last.
        command.process_group(0).stdin(std::process::Stdio::null()).stdout(out.try_clone()?).stderr(out);
        command.spawn().context("nats-server cannot be started")
    }

    fn first(&self) -> anyhow::Result<Child> {
        let mut child = self.spawn()?;
        for _ in 0..START_TIME_MAX.as_millis() / LOOK_EVERY.as_millis() {
            if let Ok(Some(status)) = child.try_wait() {
                bail!("nats-server ended at its start ({status}): {}", self.last_words());
            }
            if TcpStream::connect_timeout(&self.address, LOOK_EVERY).is_ok() {
                return Ok(child);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        end(&mut child);
        bail!("nats-server did not answer within {} s; see {}", START_TIME_MAX.as_secs(), self.log.display())
    }

    /// The last line of the server's log.
    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.trim_end().lines().next_back().unwrap_or("it said nothing").to_string()
    }

    fn keep(&self, child: Child, stopped: &Receiver<()>) {
        let mut child = Some(child);
        let (mut wait, mut ran) = (LOOK_EVERY, Duration::ZERO);
        loop {
            let look_after = if child.is_some() { LOOK_EVERY } else { wait };
            match stopped.recv_timeout(look_after) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    return child.iter_mut().for_each(end);
                }
            }
            let Some(running) = &mut child else {
                wait = RESTART_WAIT_MAX.min(wait * 2);
                match self.spawn() {
                    Ok(again) => (child, ran) = (Some(again), Duration::ZERO),
                    Err(error) => tracing::error!("{error:#}"),
                }
                continue;
            };
            ran = ran.saturating_add(LOOK_EVERY);
            if ran >= WELL_AFTER {
                wait = LOOK_EVERY;
            }
            if let Ok(Some(status)) = running.try_wait() {
                tracing::error!(
                    "nats-server ended by itself ({status}); starting it again, see {}",
                    self.log.display()
                );
                child = None;
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
