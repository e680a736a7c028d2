//! Starting, running and draining a service; exit codes.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use holdline_proto::topology::Role;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Health};
use crate::settings::{BadSettings, Common, Reader};
use crate::{clock, dump, telemetry};

/// Exit code for settings that cannot be used.
pub const EXIT_CONFIGURATION: u8 = 64;
/// Exit code for a dependency that stays away.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// What a service is missing until it has said what else it needs.
pub const BEGINNING: &str = "beginning";

/// A dependency that stayed away for longer than the start was willing to wait.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// The service was told to stop before it had begun its work: no failure, there was nothing to drain.
#[derive(Debug, thiserror::Error)]
#[error("stopped before it had {0}")]
pub struct Stopped(pub &'static str);

/// Tasks of a service: they end when it is stopped, and stopping waits for them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task. It should end soon after [`Tasks::stopping`].
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Begins the end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Completes when the end has begun.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tasks that end with these or earlier, and can be waited for apart.
    pub fn child(&self) -> Tasks {
        Tasks { stop: self.stop.child_token(), tracker: TaskTracker::new() }
    }

    /// Waits for every task to end by itself.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Stops, and waits for every task.
    pub async fn finish(&self) {
        self.stop();
        self.wait().await;
    }
}

/// What a service gets from the process it runs in: alike in its own process and within `holdline up`.
#[derive(Debug, Clone)]
pub struct Shell {
    pub common: Common,
    pub tasks: Tasks,
    pub health: Health,
}

impl Shell {
    /// Tries to read something that the service cannot begin without until it is there. What is in the way shows in
    /// `/readyz` meanwhile.
    ///
    /// # Errors
    /// When the service is stopped meanwhile.
    pub async fn wait_for<T, E: Display, F: Future<Output = Result<T, E>>>(
        &self,
        what: &'static str,
        every: Duration,
        mut read: impl FnMut() -> F,
    ) -> anyhow::Result<T> {
        self.health.awaiting(what, "not read yet");
        loop {
            match read().await {
                Ok(found) => {
                    self.health.present(what);
                    return Ok(found);
                }
                Err(why) => self.health.missing(what, why.to_string()),
            }
            tokio::select! {
                () = clock::sleep(every) => {}
                () = self.tasks.stopping() => return Err(Stopped(what).into()),
            }
        }
    }
}

#[derive(Parser, Debug)]
struct Arguments {
    /// YAML file with `section:` and `name: value` lines; HOLDLINE_<SECTION>_<NAME> wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The whole of a service's `main`: reads settings, runs until SIGTERM or Ctrl-C, drains, and says how it
/// went by its exit code (0 drained, 64 settings, 69 a dependency stayed away, 1 anything else).
pub fn service<S, F, R>(role: Role, about: &'static str, read: fn(&mut Reader) -> S, run: R) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>> + Send,
    R: FnOnce(S, Shell) -> F,
{
    use clap::{CommandFactory, FromArgMatches};
    let closed = dump::forbid();
    let command = Arguments::command().name(role.program()).version(env!("CARGO_PKG_VERSION")).about(about);
    let arguments = match command.try_get_matches().and_then(|m| Arguments::from_arg_matches(&m)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            return if error.print().is_err() || usage { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let mut reader = Reader::of_process(arguments.config.as_deref());
    let common = Common::read(&mut reader);
    let settings = read(&mut reader);
    telemetry::init(role.name(), "info");
    if let Err(open) = closed {
        tracing::warn!("{open}");
    }
    match reader.finish() {
        Ok(()) => finish(start(settings, common, run)),
        Err(error) => finish(Err(error.into())),
    }
}

fn start<S, F, R>(settings: S, common: Common, run: R) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
    R: FnOnce(S, Shell) -> F,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shell = Shell { common, tasks: Tasks::default(), health: Health::default() };
        let stop = shell.tasks.clone();
        let signalled = signalled();
        shell.tasks.spawn(async move {
            tokio::select! {
                () = signalled => stop.stop(),
                () = stop.stopping() => {}
            }
        });
        // Until it has said what it needs, nothing that is missing can show.
        shell.health.awaiting(BEGINNING, "it has only just begun");
        if let Some(listen) = shell.common.admin {
            admin::serve(listen, shell.tasks.clone(), vec![(String::new(), shell.health.clone())]).await?;
        }
        let tasks = shell.tasks.clone();
        let ran = run(settings, shell).await;
        tasks.finish().await;
        match ran {
            Err(error) if error.is::<Stopped>() => {
                tracing::info!("{error}");
                Ok(())
            }
            ran => ran,
        }
    })
}

/// Completes on SIGTERM or Ctrl-C; both are listened for from this call on.
pub fn signalled() -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let listening = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    async move {
        let [Ok(mut terminate), Ok(mut interrupt)] = listening else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Tells an error once and turns it into an exit code.
pub fn finish(ran: anyhow::Result<()>) -> ExitCode {
    let Err(error) = ran else { return ExitCode::SUCCESS };
    tracing::error!("{error:#}");
    if error.is::<BadSettings>() {
        ExitCode::from(EXIT_CONFIGURATION)
    } else if error.is::<Unavailable>() {
        ExitCode::from(EXIT_UNAVAILABLE)
    } else {
        ExitCode::FAILURE
    }
}
