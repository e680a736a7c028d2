//! `holdline broker`, `holdline provision`

use std::net::SocketAddr;
use std::path::PathBuf;

use holdline_proto::limits::PARTITIONS_MAX;
use holdline_proto::topology::{Role, Topology};
use holdline_stage::run::signalled;
use serde_json::json;

use super::Installation;
use crate::broker::{DataDir, Embedded, Sync, config};
use crate::output::{self, Output, line};
use crate::provision::{Layout, provision};
use crate::up::retrying;

#[derive(Debug, clap::Args)]
pub(crate) struct Broker {
    /// Folder for the broker's data and keys
    #[arg(long, value_name = "DIR", default_value = "holdline-data")]
    data: PathBuf,
    /// Address of the broker; a free port on loopback unless set
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// When it syncs what it acknowledges
    #[arg(long, value_enum, default_value = "always")]
    sync: Sync,
    /// Partitions of a new installation [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: Option<u16>,
}

impl Broker {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let data = DataDir(self.data);
        data.prepare()?;
        let _lock = data.lock()?;
        let stop = signalled();
        tokio::pin!(stop);
        let embedded = Embedded::start(&data, self.listen, self.sync)?;
        let installation =
            Installation { data: data.0.clone(), nats: None, keys: None, tls: crate::broker::Tls::default() };
        let layout = Layout { partitions: self.partitions, replicas: None };
        let provisioning = async {
            let bus = installation.bus(Role::Provisioner).await?;
            retrying(|| provision(&bus, layout, false)).await
        };
        tokio::select! {
            provisioned = provisioning => drop(provisioned?),
            () = &mut stop => return Ok(()),
        }
        line(format!("nats-server is up on {}", embedded.url));
        line(format!("  seeds of its users are in {}", data.keys().display()));
        line("  Ctrl-C stops it");
        stop.await;
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Provision {
    #[command(flatten)]
    installation: Installation,
    /// Partitions of a new installation [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: Option<u16>,
    /// Copies of every stream: 1 on a single server, 3 in a cluster; as it is unless set
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// Only say what would change, and show the table of subjects and rights
    #[arg(long)]
    diff: bool,
    /// Write the users and their rights as an `authorization` block for a server's configuration, and their
    /// seeds to --keys; nothing else is done
    #[arg(long, value_name = "FILE", requires = "keys")]
    users: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Provision {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let (Some(file), Some(keys)) = (&self.users, &self.installation.keys) {
            std::fs::write(file, config::authorization(keys, &Topology::default())?)?;
            line(format!(
                "include {} in the server's configuration; the seeds are in {}",
                file.display(),
                keys.display()
            ));
            return Ok(());
        }
        let bus = self.installation.bus(Role::Provisioner).await?;
        let layout = Layout { partitions: self.partitions, replicas: self.replicas };
        let changes = provision(&bus, layout, self.diff).await?;
        match self.output {
            Output::Json => output::json(&json!({"applied": !self.diff, "changes": changes})),
            Output::Text => {
                if self.diff {
                    line(bus.topology().table());
                }
                for change in &changes {
                    line(change);
                }
                let done = if self.diff { "would change" } else { "changed" };
                line(format!("{} thing(s) {done}", changes.len()));
            }
        }
        Ok(())
    }
}
