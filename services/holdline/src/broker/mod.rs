//! The nats-server beside us: found or fetched ([`binary`]), configured with the users and rights of the
//! topology ([`config`]), kept alive and taken along when we end ([`keeper`]).

pub mod binary;
pub mod config;
mod keeper;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use holdline_proto::topology::{Role, Topology};
use holdline_stage::settings::{BadSettings, Nats, NatsTls};
use holdline_stage::tls::Pair;

pub use config::Sync;
pub use keeper::become_child;

/// What `holdline up` notes in its data folder of where it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    /// URL of the gateway.
    Gateway,
    /// Address of `/readyz`.
    Admin,
}

impl Note {
    fn file(self) -> &'static str {
        match self {
            Note::Gateway => "gateway",
            Note::Admin => "admin",
        }
    }
}

/// Where an installation on this machine keeps everything.
#[derive(Debug, Clone)]
pub struct DataDir(pub PathBuf);

impl DataDir {
    /// Makes the folder, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self) -> anyhow::Result<()> {
        [self.0.clone(), self.nats(), self.keys()].iter().try_for_each(|folder| private_folder(folder))
    }

    /// Only one program at a time works in a data folder; the lock ends with the file handle. What an earlier one
    /// has noted of itself is forgotten.
    ///
    /// # Errors
    /// When another has it.
    pub fn lock(&self) -> anyhow::Result<std::fs::File> {
        let path = self.0.join("lock");
        let file = std::fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
        file.try_lock().map_err(|_| {
            anyhow::anyhow!(
                "{} is in use by another holdline; stop it, or choose another folder with --data",
                self.0.display()
            )
        })?;
        for note in [Note::Gateway, Note::Admin] {
            std::fs::remove_file(self.0.join(note.file())).ok();
        }
        Ok(file)
    }

    /// Notes where the program of this folder answers, for `holdline doctor`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn note(&self, note: Note, address: &str) -> anyhow::Result<()> {
        let file = self.0.join(note.file());
        std::fs::write(&file, address).with_context(|| format!("{}", file.display()))
    }

    /// What was noted, if anything.
    pub(crate) fn noted(&self, note: Note) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(note.file())).ok()?;
        Some(text.trim().to_string()).filter(|text| !text.is_empty())
    }

    pub fn nats(&self) -> PathBuf {
        self.0.join("nats")
    }

    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// How a role reaches the broker of this folder.
    ///
    /// # Errors
    /// When no broker was ever started here.
    pub fn connection(&self, role: Role) -> anyhow::Result<Nats> {
        let file = self.nats().join("url");
        let url = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "{} holds no installation; start one with `holdline up`, or name another with --data or --nats",
                self.0.display()
            )
        })?;
        Ok(connection(url.trim(), Some(&self.keys()), NatsTls::default(), role))
    }
}

/// Makes a folder that only its owner can read.
pub(crate) fn private_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("the folder {} cannot be made", folder.display()))
}

/// TLS to a broker that is not ours, as a command is told of it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Tls {
    /// For TLS to --nats: the certificates that the broker's must come from
    #[arg(long, value_name = "FILE", env = "HOLDLINE_NATS_TLS_CA_FILE", hide_short_help = true)]
    nats_tls_ca_file: Option<PathBuf>,
    /// A certificate for --nats, which may ask for one
    #[arg(long, value_name = "FILE", env = "HOLDLINE_NATS_TLS_CERTIFICATE_FILE", hide_short_help = true)]
    nats_tls_certificate_file: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", env = "HOLDLINE_NATS_TLS_KEY_FILE", hide_short_help = true)]
    nats_tls_key_file: Option<PathBuf>,
}

impl Tls {
    /// # Errors
    /// What is wrong with the files.
    pub(crate) fn read(&self) -> Result<NatsTls, BadSettings> {
        let Tls { nats_tls_ca_file, nats_tls_certificate_file, nats_tls_key_file } = self.clone();
        let certificate = Pair::of("nats", nats_tls_certificate_file, nats_tls_key_file);
        let certificate = certificate.map_err(|problem| BadSettings(vec![problem]))?;
        let tls = NatsTls { ca_file: nats_tls_ca_file, certificate };
        match tls.problems() {
            problems if problems.is_empty() => Ok(tls),
            problems => Err(BadSettings(problems)),
        }
    }
}

/// A program of somebody else's, with only what it needs of our environment: another program of our user can read its, and
/// in ours there are secrets.
fn foreign(program: impl AsRef<OsStr>, needs: fn(&str) -> bool) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(needs)));
    command
}

/// What nats-server needs of our environment: the times in its log are those of this place.
fn nats_server_needs(name: &str) -> bool {
    ["PATH", "TZ"].contains(&name)
}

/// How a role reaches a broker, with the seed from a folder of keys if there is one.
pub fn connection(url: &str, keys: Option<&Path>, tls: NatsTls, role: Role) -> Nats {
    Nats {
        url: url.into(),
        seed_file: keys.map(|keys| config::seed_file(keys, role)),
        tls,
        topology: Topology::default(),
        patience: std::time::Duration::from_secs(20),
    }
}

/// Whether a folder has the seed of a role's user.
pub(crate) fn has_seed(keys: &Path, role: Role) -> bool {
    config::seed_file(keys, role).exists()
}

/// A running nats-server of our own; it ends with this value, and with this process however that ends. Only
/// for programs whose `main` hands over to [`become_child`]: the child is this very program once more.
pub struct Embedded {
    pub url: String,
    _keeper: keeper::Keeper,
}

impl Embedded {
    /// Starts the nats-server of a data folder. One left behind there by a killed program is ended first.
    ///
    /// # Errors
    /// When there is no usable binary, or it does not start.
    pub fn start(
        data: &DataDir,
        listen: Option<std::net::SocketAddr>,
        sync: Sync,
    ) -> anyhow::Result<Embedded> {
        data.prepare()?;
        let binary = binary::find(data)?;
        keeper::end_left_behind(data)?;
        let address = config::address(data, listen)?;
        let url = format!("nats://{address}");
        let config = config::write(data, address, sync, &Topology::default())?;
        let log = data.nats().join("server.log");
        let keeper = keeper::Keeper::start(keeper::Server { binary, config, log, address })?;
        std::fs::write(data.nats().join("url"), &url)?;
        Ok(Embedded { url, _keeper: keeper })
    }
}
