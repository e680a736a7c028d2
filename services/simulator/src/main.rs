//! `holdline-simulator`: plays Genesys Cloud until Ctrl-C. It reads nothing, writes nothing and forgets
//! everything when it ends.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use holdline_simulator::{Options, Simulator};
use holdline_stage::run;
use tokio::signal::unix::{SignalKind, signal};

/// Plays Genesys Cloud for demonstrations and tests: REST API, notification channels, tokens, status page
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// What a channel's connectUri begins with, where the own address is not the one to reach it by
    #[arg(long, value_name = "WS_URL")]
    connect_uri: Option<String>,

    /// Calls of a client per minute; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 300)]
    calls_per_minute: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    holdline_stage::telemetry::init("simulator", "info");
    run::finish(play(arguments))
}

fn play(arguments: Arguments) -> anyhow::Result<()> {
    let options = Options {
        listen: arguments.listen,
        connect_uri: arguments.connect_uri,
        calls_per_window: Some(arguments.calls_per_minute).filter(|limit| *limit > 0),
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Before the address is told: whoever reads it may end the program.
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let simulator = Simulator::start(options).await?;
        writeln!(std::io::stdout(), "{}", simulator.url()).context("its address cannot be printed")?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        simulator.stop().await;
        Ok(())
    })
}
