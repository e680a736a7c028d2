//! The server's configuration: one nkey user per role, with exactly the rights that the topology gives it.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

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

fn write_private(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    opened.write_all(text.as_bytes())?;
    Ok(())
}

/// The `authorization` block of a server's configuration.
///
/// # Errors
/// When a key cannot be read or made.
pub fn authorization(keys: &Path, topology: &Topology) -> anyhow::Result<String> {
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

/// The port of a data folder: as asked for, else the one it had, else a free one.
pub(super) fn port(data: &DataDir, listen: Option<SocketAddr>) -> anyhow::Result<u16> {
    if let Some(listen) = listen
        && listen.port() != 0
    {
        return Ok(listen.port());
    }
    let file = data.nats().join("port");
    let earlier = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let port = match earlier.filter(|port| is_free(*port)) {
        Some(port) => port,
        None => TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
    };
    std::fs::write(&file, port.to_string())?;
    Ok(port)
}

/// Writes the configuration of a data folder's server; gives its path.
pub(super) fn write(
    data: &DataDir,
    address: &str,
    port: u16,
    sync: Sync,
    topology: &Topology,
) -> anyhow::Result<PathBuf> {
    let quoted = |path: &Path| serde_json::to_string(&path.display().to_string()).unwrap_or_default();
    let sync = match sync {
        Sync::Always => "    sync_interval: always\n",
        Sync::Default => "",
    };
    let folder = std::fs::canonicalize(data.nats())?;
    let text = format!(
        "# Written by holdline at each start.\nserver_name: holdline\nlisten: \"{address}:{port}\"\nmax_payload: \
         {MESSAGE_BYTES_MAX}\npid_file: {}\njetstream {{\n    store_dir: {}\n{sync}}}\n{}",
        quoted(&folder.join("pid")),
        quoted(&folder.join("store")),
        authorization(&data.keys(), topology)?
    );
    let file = folder.join("server.conf");
    std::fs::write(&file, text)?;
    Ok(file)
}
