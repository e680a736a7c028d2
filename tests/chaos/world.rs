//! The real programs, so many replicas of each, with a line of its own between each of them and each server,
//! between the sources and each gateway, and before the target.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};
use holdline_tests::cluster::Cluster;
use holdline_tests::programs::{Running, command, ended, free_address, log, program, readiness, scratch};
use holdline_tests::proxy::{Line, Proxy};
use holdline_tests::secrecy;
use holdline_tests::sender::Sender;

use crate::platform::{Platform, SECRETS};
use crate::target::Target;

/// Partitions of the installation.
pub(crate) const PARTITIONS: u16 = 4;

/// Every service, in the order of the data.
pub(crate) const STAGES: [&str; 5] = ["gateway", "classifier", "debouncer", "executor", "dlq-replayer"];

/// How long everything may take to be ready again once nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process that is told to stop before it has begun to listen for that dies of it.
const BORN_WITHIN: Duration = Duration::from_secs(2);

/// A replica of a stage.
pub(crate) type Replica = (&'static str, usize);

/// How a replica is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct How {
    /// The build with the next version of every message (F15).
    pub next: bool,
    /// Bytes that any file of it may have (F9). The kernel counts in KiB.
    pub file_kib_max: Option<u64>,
    /// Its clock is off by this (F10).
    pub clock_shift_ms: Option<i64>,
}

/// Everything that runs.
pub(crate) struct World {
    pub folder: PathBuf,
    pub cluster: Cluster,
    pub target: Target,
    pub target_line: Proxy,
    pub platform: Platform,
    services: BTreeMap<Replica, Service>,
    /// Programs of the next version, where they were built.
    next: Option<PathBuf>,
    kept: bool,
}

struct Service {
    process: Option<Running>,
    born: Instant,
    /// One to each server.
    broker: Vec<Proxy>,
    /// Where a gateway listens, and the line to it.
    listen: SocketAddr,
    front: Proxy,
    admin: SocketAddr,
}

/// Builds the programs with the next version of every message (F15), and tells where they are. Only they are put
/// elsewhere: what they are built from is shared with the current ones.
pub(crate) fn programs_of_next_version() -> PathBuf {
    let shared = program("holdline-gateway").ancestors().nth(2).unwrap().to_path_buf();
    let target = shared.join("next");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of the whole workspace, so that no dependency has other features and has to be built anew.
    cargo.args(["build", "--locked", "--quiet", "--bins", "--workspace"]);
    cargo.args(["--exclude", "holdline-tests", "--exclude", "holdline-benches"]);
    cargo.args(["--features", "holdline-proto/next", "--target-dir"]).arg(&target);
    cargo.env("CARGO_BUILD_BUILD_DIR", &shared).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    assert!(cargo.status().unwrap().success(), "the next version does not build");
    target.join("debug")
}

impl World {
    pub(crate) async fn start(servers: usize, replicas: usize, next: Option<PathBuf>) -> World {
        let folder = scratch("chaos");
        let cluster = Cluster::start(&folder, servers);
        let target = Target::start().await;
        let target_line = Proxy::to(target.address).await;
        let platform = Platform::start().await;
        // What a run goes by stays as it is, whoever edits it meanwhile.
        let playbooks = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/chaos/playbooks"));
        copy(playbooks, &folder.join("playbooks"), &|text| text);
        cluster.provision(PARTITIONS).await;
        let mut world = World {
            folder,
            cluster,
            target,
            target_line,
            platform,
            services: BTreeMap::new(),
            next,
            kept: false,
        };
        world.push("");
        for stage in STAGES {
            for number in 0..replicas {
                let listen = free_address();
                let mut broker = vec![];
                for server in 0..servers {
                    broker.push(Proxy::to(world.cluster.address(server)).await);
                }
                let front = Proxy::to(listen).await;
                let service = Service {
                    process: None,
                    born: clock::now(),
                    broker,
                    listen,
                    front,
                    admin: free_address(),
                };
                world.services.insert((stage, number), service);
                world.spawn((stage, number), &How::default());
            }
        }
        world.wait_ready().await;
        world
    }

    pub(crate) fn replicas(&self) -> Vec<Replica> {
        self.services.keys().copied().collect()
    }

    /// Leaves the folder, to be looked at.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    pub(crate) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Makes the playbooks current, with a remark that changes their hash (F14).
    pub(crate) fn push(&self, remark: &str) {
        let folder = scratch("chaos-playbooks");
        let (target, platform) = (self.target_line.address.to_string(), self.platform.address().to_string());
        copy(&self.folder.join("playbooks"), &folder, &|text| {
            text.replace("TARGET", &target)
                .replace("PLATFORM", &platform)
                .replace("mode: live", &format!("mode: live\ndescription: \"{remark}\""))
        });
        let began = clock::now();
        loop {
            let output = self.holdline(&["push", folder.to_str().unwrap()]);
            if output.status.success() {
                break;
            }
            let told = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(began.elapsed() < PATIENCE, "{told}");
            std::thread::sleep(Duration::from_millis(500));
        }
        std::fs::remove_dir_all(folder).ok();
    }

    /// A set that cannot be right; it must be refused (F14).
    pub(crate) fn push_bad(&self) {
        let folder = scratch("chaos-playbooks");
        copy(&self.folder.join("playbooks"), &folder, &|text| text.replace("failures: 3", "failures: -3"));
        let output = self.holdline(&["push", folder.to_str().unwrap()]);
        assert!(!output.status.success(), "a bad set of playbooks was taken");
        std::fs::remove_dir_all(folder).ok();
    }

    /// `holdline …` as an operator of this installation.
    pub(crate) fn holdline(&self, arguments: &[&str]) -> std::process::Output {
        let keys = self.cluster.keys();
        ended(command("holdline").args(arguments).args(["--nats", &self.cluster.url(), "--keys"]).arg(keys))
    }

    /// Starts a replica that does not run.
    pub(crate) fn spawn(&mut self, replica: Replica, how: &How) {
        let (stage, number) = replica;
        let name = format!("holdline-{stage}");
        let program = match (&self.next, how.next) {
            (Some(next), true) => next.join(&name),
            _ => program(&name),
        };
        let service = self.services.get_mut(&replica).unwrap();
        let urls: Vec<String> =
            service.broker.iter().map(|line| format!("nats://{}", line.address)).collect();
        let bare = command(&name);
        let mut starting = match how.file_kib_max {
            // A write beyond the limit has to fail, as it does on a full disk, and not to kill.
            Some(kib) => {
                let mut shell = Command::new("bash");
                shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\"")).arg(&program);
                shell
            }
            None => Command::new(&program),
        };
        for (variable, value) in bare.get_envs() {
            match value {
                Some(value) => starting.env(variable, value),
                None => starting.env_remove(variable),
            };
        }
        if let Some(shift) = how.clock_shift_ms {
            starting.env("HOLDLINE_CLOCK_SHIFT_MS", shift.to_string());
        }
        let child = starting
            .env("HOLDLINE_NATS_URL", urls.join(","))
            .env("HOLDLINE_NATS_SEED_FILE", self.cluster.keys().join(format!("{stage}.nk")))
            .env("HOLDLINE_ADMIN_LISTEN", service.admin.to_string())
            .env("HOLDLINE_REPLICA_NAME", format!("{stage}-{number}"))
            .env("HOLDLINE_GATEWAY_LISTEN", service.listen.to_string())
            .env("HOLDLINE_GATEWAY_SPOOL", self.folder.join(format!("spool-{number}")))
            .env("HOLDLINE_REPLAYER_TIERS_S", "2,4,8")
            .envs(SECRETS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&self.folder, &format!("{stage}-{number}")))
            .spawn()
            .unwrap();
        service.process = Some(Running::of(child));
        service.born = clock::now();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, replica: Replica) {
        if let Some(mut process) = self.services.get_mut(&replica).unwrap().process.take() {
            process.kill();
        }
    }

    /// SIGTERM; it has to drain and to end with 0.
    pub(crate) fn stop(&mut self, replica: Replica) {
        let service = self.services.get_mut(&replica).unwrap();
        let just_born = service.born.elapsed() < BORN_WITHIN;
        if let Some(mut process) = service.process.take() {
            process.signal("TERM");
            let code = process.wait(Duration::from_secs(30));
            assert!(code == Some(0) || (just_born && code.is_none()), "{replica:?} did not drain: {code:?}");
        }
    }

    /// SIGSTOP, SIGCONT.
    pub(crate) fn signal(&self, replica: Replica, signal: &str) {
        if let Some(process) = &self.services[&replica].process {
            process.signal(signal);
        }
    }

    /// What a replica's connections to the servers do.
    pub(crate) fn set_line(&self, replica: Replica, line: Line) {
        for proxy in &self.services[&replica].broker {
            proxy.set(line);
        }
    }

    /// What the connections of the sources to a gateway do.
    pub(crate) fn set_front(&self, replica: Replica, line: Line) {
        self.services[&replica].front.set(line);
    }

    /// Where a gateway is reached, past its line.
    pub(crate) fn gateway(&self, number: usize) -> SocketAddr {
        self.services[&("gateway", number)].listen
    }

    /// For each gateway, a sender that reaches it through its line.
    pub(crate) fn senders(&self) -> Vec<Sender> {
        let gateways = self.services.iter().filter(|((stage, _), _)| *stage == "gateway");
        gateways.map(|(_, service)| Sender::new(vec![service.front.address], "counted")).collect()
    }

    /// Waits until every replica says that it is ready.
    pub(crate) async fn wait_ready(&self) {
        let began = clock::now();
        for (replica, service) in &self.services {
            loop {
                let answer = readiness(service.admin);
                if answer.contains("\r\n\r\nready") {
                    break;
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "{replica:?} is not ready: {answer}; {}",
                    self.folder.display()
                );
                clock::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for service in self.services.values_mut() {
            service.process.take();
        }
        for server in 0..self.cluster.size() {
            self.cluster.kill(server);
        }
        if self.kept || std::thread::panicking() {
            eprintln!("the logs are in {}", self.folder.display());
        } else {
            let told = secrecy::told_in(&self.folder, &self.cluster.keys());
            assert!(told.is_empty(), "a secret shows in {told:?}");
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

fn copy(from: &Path, to: &Path, change: &impl Fn(String) -> String) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, change);
        } else {
            std::fs::write(target, change(std::fs::read_to_string(&path).unwrap())).unwrap();
        }
    }
}
