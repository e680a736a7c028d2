//! nats-servers that a test starts, kills, starves and starts again: one, or a cluster of three.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use holdline_proto::limits::MESSAGE_BYTES_MAX;
use holdline_stage::clock;

use crate::programs::{Running, command, free_address, nats_server};

/// How long servers have to come up or to choose a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers of one installation, with its users and rights.
pub struct Cluster {
    folder: PathBuf,
    servers: Vec<Server>,
    /// What else stands in every server's configuration.
    more: String,
}

struct Server {
    listen: SocketAddr,
    routes: SocketAddr,
    /// Bytes that its store may have.
    store_bytes_max: Option<u64>,
    process: Option<Running>,
}

impl Cluster {
    /// Starts so many servers; with their users, without streams.
    pub fn start(folder: &Path, size: usize) -> Cluster {
        Cluster::configured(folder, size, "")
    }

    /// The same, with more in the servers' configuration.
    pub fn configured(folder: &Path, size: usize, more: &str) -> Cluster {
        let folder = folder.join("nats");
        std::fs::create_dir_all(&folder).unwrap();
        let users = command("holdline")
            .args(["provision", "--users"])
            .arg(folder.join("users.conf"))
            .arg("--keys")
            .arg(folder.join("keys"))
            .output()
            .unwrap();
        assert!(users.status.success(), "{users:?}");
        let servers = (0..size)
            .map(|_| Server {
                listen: free_address(),
                routes: free_address(),
                store_bytes_max: None,
                process: None,
            })
            .collect();
        let mut cluster = Cluster { folder, servers, more: more.into() };
        for server in 0..size {
            cluster.revive(server);
        }
        cluster
    }

    pub fn size(&self) -> usize {
        self.servers.len()
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].listen
    }

    /// Every server, as the programs are told.
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(|s| format!("nats://{}", s.listen)).collect();
        urls.join(",")
    }

    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Starts a server that is not running; gives back at once.
    pub fn revive(&mut self, server: usize) {
        let config = self.configure(server);
        let found = &mut self.servers[server];
        if found.process.is_some() {
            return;
        }
        let child = Command::new(nats_server())
            .arg("-c")
            .arg(config)
            .arg("-l")
            .arg(self.folder.join(format!("server-{server}.log")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        found.process = Some(Running::of(child));
    }

    /// `kill -9`.
    pub fn kill(&mut self, server: usize) {
        if let Some(mut process) = self.servers[server].process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self, server: usize) {
        if let Some(mut process) = self.servers[server].process.take() {
            process.signal("TERM");
            process.wait(PATIENCE);
        }
    }

    /// What the store may hold from the server's next start on.
    pub fn limit_store(&mut self, server: usize, bytes_max: Option<u64>) {
        self.servers[server].store_bytes_max = bytes_max;
    }

    pub fn process(&self, server: usize) -> Option<u32> {
        self.servers[server].process.as_ref().map(Running::id)
    }

    /// Bytes that a server's store has on disk.
    pub fn store_bytes(&self, server: usize) -> u64 {
        fn bytes(folder: &Path) -> u64 {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let sizes = entries.filter_map(|entry| {
                let found = entry.metadata().ok()?;
                Some(if found.is_dir() { bytes(&entry.path()) } else { found.len() })
            });
            sizes.sum()
        }
        bytes(&self.folder.join(format!("store-{server}")))
    }

    fn configure(&self, server: usize) -> PathBuf {
        let single = self.servers.len() == 1;
        let found = &self.servers[server];
        let mut text = format!(
            "server_name: server-{server}\nlisten: \"{}\"\nmax_payload: {MESSAGE_BYTES_MAX}\njetstream {{\n    \
             store_dir: \"{}\"\n",
            found.listen,
            self.folder.join(format!("store-{server}")).display(),
        );
        if single {
            text.push_str("    sync_interval: always\n");
        }
        if let Some(bytes) = found.store_bytes_max {
            writeln!(text, "    max_file_store: {bytes}").unwrap();
        }
        text.push_str("}\n");
        if !single {
            let routes: Vec<String> =
                self.servers.iter().map(|other| format!("\"nats-route://{}\"", other.routes)).collect();
            // Clients go through the lines that they were given, not around them.
            write!(
                text,
                "cluster {{\n    name: holdline\n    listen: \"{}\"\n    no_advertise: true\n    routes: [{}]\n}}\n",
                found.routes,
                routes.join(", ")
            )
            .unwrap();
        }
        text.push_str(&self.more);
        text.push_str("include \"users.conf\"\n");
        let file = self.folder.join(format!("server-{server}.conf"));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// A connection with a role's own rights, past the programs.
    pub async fn client(&self, role: &str) -> async_nats::Client {
        let seed = std::fs::read_to_string(self.keys().join(format!("{role}.nk"))).unwrap();
        let began = clock::now();
        loop {
            let options = async_nats::ConnectOptions::with_nkey(seed.trim().into())
                .custom_inbox_prefix(format!("_INBOX.{role}"))
                .request_timeout(Some(Duration::from_secs(5)))
                .event_callback(|_| async {});
            match options.connect(self.url().split(',').collect::<Vec<_>>()).await {
                Ok(client) => return client,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            clock::sleep(Duration::from_millis(200)).await;
        }
    }

    /// `holdline provision`, again until it has worked.
    pub async fn provision(&self, partitions: u16) {
        let began = clock::now();
        loop {
            let output = command("holdline")
                .args(["provision", "--nats", &self.url(), "--keys"])
                .arg(self.keys())
                .args(["--replicas", &self.size().to_string(), "--partitions", &partitions.to_string()])
                .output()
                .unwrap();
            if output.status.success() {
                return;
            }
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(began.elapsed() < PATIENCE, "{told}");
            clock::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The server that leads a stream.
    pub async fn leader(&self, stream: &str) -> Option<usize> {
        let context = jetstream::new(self.client("operator").await);
        let info = context.get_stream(stream).await.ok()?.cached_info().clone();
        let leader = info.cluster?.leader?;
        leader.strip_prefix("server-")?.parse().ok()
    }
}
