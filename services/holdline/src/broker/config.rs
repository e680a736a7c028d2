//! The server's configuration: one nkey user per role, with exactly the rights that the topology gives it.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use holdline_proto::limits::MESSAGE_BYTES_MAX;
use holdline_proto::topology::{Role, Topology};
use nkeys::KeyPair;

use super::DataDir;

/// When the server syncs what it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sync {
    /// Before each acknowledgement: a power cut loses nothing. The choice for a single server.
    Always,
    /// Every two minutes: a killed process loses nothing, a power cut may.
    Default,
}

/// The server's configuration, in its folder.
const FILE: &str = "server.conf";

/// The line of it that has everything synced before it is acknowledged.
const SYNC_ALWAYS: &str = "sync_interval: always";

/// Where a role's seed stands in a folder of keys.
pub fn seed_file(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{}.nk", role.name()))
}

/// The public key of a role; its seed is made once.
fn public_key(keys: &Path, role: Role) -> anyhow::Result<String> {
    let file = seed_file(keys, role);
    let pair = if file.is_file() {
        let seed = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        KeyPair::from_seed(seed.trim()).with_context(|| format!("{} is no nkey seed", file.display()))?
    } else {
        let pair = KeyPair::new_user();
        write_private(&file, &pair.seed()?)?;
        pair
    };
    Ok(pair.public_key())
}

/// Writes a file that only its owner can read, whole or not at all: half a seed would lock its role out.
fn write_private(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let partial = file.with_extension("partial");
    let mut options = std::fs::OpenOptions::new();
    let opened = options.create(true).truncate(true).write(true).mode(0o600).open(&partial);
    let written = opened.and_then(|mut opened| {
        opened.write_all(text.as_bytes())?;
        opened.sync_all()?;
        std::fs::rename(&partial, file)
    });
    written.with_context(|| format!("{} cannot be written", file.display()))
}

/// The `authorization` block of a server's configuration.
///
/// # Errors
/// When a key cannot be read or made.
pub fn authorization(keys: &Path, topology: &Topology) -> anyhow::Result<String> {
    super::private_folder(keys)?;
    let mut text = String::from("authorization {\n  users: [\n");
    for role in Role::ALL {
        let rights = topology.rights(role);
        let list = |subjects: &[String]| serde_json::to_string(subjects).unwrap_or_default();
        write!(
            text,
            "    # {}\n    {{ nkey: {}, permissions: {{\n        publish: {{ allow: {} }}\n        subscribe: {{ \
             allow: {} }} }} }}\n",
            role.name(),
            public_key(keys, role)?,
            list(&rights.publish),
            list(&rights.subscribe),
        )?;
    }
    text.push_str("  ]\n}\n");
    Ok(text)
}

/// Where a data folder's server listens: as asked for, else on the port it had, else on a free one.
pub(super) fn address(data: &DataDir, listen: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
    let file = data.nats().join("port");
    let asked = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    if asked.port() != 0 {
        return wait_until_free(asked);
    }
    let earlier = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let earlier = earlier.map(|port| SocketAddr::new(asked.ip(), port));
    let address = match earlier.filter(|address| TcpListener::bind(address).is_ok()) {
        Some(address) => address,
        None => free(asked.ip())?,
    };
    std::fs::write(&file, address.port().to_string())?;
    Ok(address)
}

/// Ports that a broker of its own choice listens on: below those that kernels give outgoing connections (from 32768 on),
/// one of which might take a free port before the server does.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports that are tried before the kernel is asked for one.
const TRIES_MAX: u64 = 32;

/// An address on which nobody listens.
fn free(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    let random = RandomState::new();
    let many = u64::from(PORTS.end - PORTS.start);
    for number in 0..TRIES_MAX {
        let port = PORTS.start + u16::try_from(random.hash_one(number) % many)?;
        let address = SocketAddr::new(ip, port);
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Ok(TcpListener::bind(SocketAddr::new(ip, 0))?.local_addr()?)
}

/// A server that was killed a moment ago gives its port back a little later. Another program's server on it
/// must never be taken for ours.
fn wait_until_free(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    for _ in 0..40 {
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    TcpListener::bind(address)
        .with_context(|| format!("the broker cannot listen on {address}; choose another with --listen"))?;
    Ok(address)
}

/// Writes the configuration of a data folder's server; gives its path.
pub(super) fn write(
    data: &DataDir,
    address: SocketAddr,
    sync: Sync,
    topology: &Topology,
) -> anyhow::Result<PathBuf> {
    let quoted = |path: &Path| serde_json::to_string(&path.display().to_string()).unwrap_or_default();
    let sync = match sync {
        Sync::Always => format!("    {SYNC_ALWAYS}\n"),
        Sync::Default => String::new(),
    };
    let folder = std::fs::canonicalize(data.nats())?;
    let text = format!(
        "# Written by holdline at each start.\nserver_name: holdline\nlisten: \"{address}\"\nmax_payload: \
         {MESSAGE_BYTES_MAX}\npid_file: {}\njetstream {{\n    store_dir: {}\n{sync}}}\n{}",
        quoted(&folder.join("pid")),
        quoted(&folder.join("store")),
        authorization(&data.keys(), topology)?
    );
    let file = folder.join(FILE);
    std::fs::write(&file, text)?;
    Ok(file)
}

/// When the server of a data folder syncs, by the configuration that it was started with last.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn sync(data: &DataDir) -> anyhow::Result<Sync> {
    let file = data.nats().join(FILE);
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let always = text.lines().any(|line| line.trim() == SYNC_ALWAYS);
    Ok(if always { Sync::Always } else { Sync::Default })
}
