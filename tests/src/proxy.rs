//! A TCP line that a test can cut, delay or darken: between the programs, the broker and the target.

use std::net::SocketAddr;
use std::time::Duration;

use holdline_stage::clock;
use holdline_stage::run::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a line does to what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Open,
    /// Every piece arrives this much later.
    Slow(Duration),
    /// Nothing passes in either direction, and nobody is told; what waits passes when it opens again.
    Dark,
    /// What is sent arrives, and no answer comes back: the half-open connection.
    Deaf,
    /// Every connection is closed, and new ones at once.
    Cut,
}

/// A running line.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    line: watch::Sender<Line>,
    tasks: Tasks,
}

impl Proxy {
    /// A line to an address, whether or not anybody listens there yet.
    pub async fn to(upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, watching) = watch::channel(Line::Open);
        let tasks = Tasks::default();
        tasks.spawn(accept(listener, upstream, watching, tasks.clone()));
        Proxy { address, line, tasks }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, line: watch::Receiver<Line>, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping() => return,
        };
        let Ok((client, _)) = accepted else { continue };
        let line = line.clone();
        let stopping = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = carry(client, upstream, line) => {}
                () = stopping.stopping() => {}
            }
        });
    }
}

/// Carries one connection until either side ends it or the line is cut.
async fn carry(client: TcpStream, upstream: SocketAddr, line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = line.clone();
    tokio::select! {
        () = pass(from_client, to_server, line.clone(), false) => {}
        () = pass(from_server, to_client, line, true) => {}
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    answers: bool,
) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(length) = from.read(&mut piece).await else { return };
        let blocked = |line: &Line| *line == Line::Dark || (answers && *line == Line::Deaf);
        if line.wait_for(|line| !blocked(line)).await.is_err() {
            return;
        }
        let now = *line.borrow_and_update();
        if let Line::Slow(by) = now {
            clock::sleep(by).await;
        }
        if length == 0 || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
