//! The real programs as processes of their own, over a real nats-server.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use holdline_stage::clock;
use serde_json::Value;

use holdline::broker::{DataDir, binary};

use crate::secrecy;
use crate::sender::SECRET;

/// Where cargo has put the programs: beside us, or (for a test) one folder up.
fn built() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    if folder.ends_with("deps") { folder.parent().unwrap().to_path_buf() } else { folder.to_path_buf() }
}

/// One of the programs.
pub fn program(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.is_file(), "{} is not built; `cargo test --workspace` builds it", path.display());
    path
}

/// The samples that stand in this repository.
pub fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/playbooks").join(name)
}

/// A nats-server for all tests of a run, so that it is fetched once.
pub fn nats_server() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let data = DataDir(scratch_root().join("broker"));
        data.prepare().unwrap();
        // Test binaries run one after another, but a developer may run two at once.
        let lock = std::fs::File::create(data.0.join("fetch-lock")).unwrap();
        lock.lock().unwrap();
        binary::find(&data).unwrap()
    })
}

fn scratch_root() -> PathBuf {
    built().join("scratch")
}

/// An empty folder of its own.
pub fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::SeqCst);
    let folder = scratch_root().join(format!("{name}-{}-{number}", std::process::id()));
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A free port on loopback, for a program that will be told to listen there. It lies below the range that
/// kernels take the ports of outgoing connections from (32768 on), or such a connection might be there first;
/// and none is given twice by a process.
pub fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(37).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A copy of a sample, changed.
pub fn changed_sample(name: &str, to: &Path, change: impl Fn(&str, String) -> String) {
    fn visit(from: &Path, to: &Path, change: &impl Fn(&str, String) -> String) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if path.is_dir() {
                visit(&path, &to.join(name), change);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                std::fs::write(to.join(name), change(name.to_str().unwrap(), text)).unwrap();
            }
        }
    }
    visit(&sample(name), to, &change);
}

/// Runs `holdline …` to its end.
pub fn holdline(arguments: &[&str]) -> Output {
    ended(command("holdline").args(arguments))
}

/// Runs a command to its end; what it prints is no secret.
pub fn ended(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    secrecy::assert_untold("a command", [&output.stdout[..], &output.stderr].concat());
    output
}

/// A command for one of the programs, in a bare environment.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDLINE_")) {
        command.env_remove(variable);
    }
    command.env("HOLDLINE_NATS_SERVER", nats_server()).env("HOLDLINE_TELEPHONY_SECRET", SECRET);
    command.stdin(Stdio::null());
    command
}

/// N2: waits until every acceptance has been read, and holds the count against the promise: each ended in
/// exactly one disposition. Counted by `holdline doctor`, from the logs of the broker with this data folder; nothing
/// else is looked at.
pub fn conserved(data: &Path) -> Value {
    let began = clock::now();
    loop {
        let only = ["doctor", "--only", "conservation", "--output", "json", "--data", data.to_str().unwrap()];
        let output = holdline(&only);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("doctor: {error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let count = &told["conservation"];
        for wrong in ["missing", "doubled", "unparked"] {
            assert_eq!(count[wrong], serde_json::json!([]), "{count:#}");
        }
        if count["onTheirWay"] == 0 {
            eprintln!("accepted {} = {}", count["accepted"], count["dispositions"]);
            return count.clone();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "events are still on their way: {count:#}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// A process that ends with this value.
pub struct Running {
    child: Child,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and wait for the end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let done =
            Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Whether a signal keeps it from running.
    pub fn stands_still(&self) -> bool {
        let told = Command::new("ps").args(["-o", "state=", "-p", &self.id().to_string()]).output().unwrap();
        told.stdout.starts_with(b"T")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end; gives the exit code.
    pub fn wait(&mut self, most: Duration) -> Option<i32> {
        let began = clock::now();
        while began.elapsed() < most {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {} did not end within {most:?}", self.id());
    }

    pub fn of(child: Child) -> Running {
        Running { child }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The four stages that run apart, in the order of the data.
pub const STAGES: [&str; 4] = ["gateway", "classifier", "debouncer", "executor"];

/// An installation of separate programs.
pub struct Installation {
    pub folder: PathBuf,
    pub data: PathBuf,
    broker: Running,
    services: BTreeMap<(String, usize), Service>,
    variables: Vec<(String, String)>,
    /// What was accepted has been counted.
    counted: AtomicBool,
}

struct Service {
    running: Option<Running>,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl Installation {
    /// A broker, provisioned, with these playbooks; no service yet.
    pub fn broker(name: &str, playbooks: &Path, sync: &str) -> Installation {
        let folder = scratch(name);
        let data = folder.join("data");
        let mut installation = Installation {
            broker: broker(&folder, &data, sync),
            folder,
            data,
            services: BTreeMap::new(),
            variables: vec![],
            counted: AtomicBool::new(false),
        };
        installation.push(playbooks);
        installation
    }

    /// Everything: so many replicas of each stage.
    pub fn start(name: &str, playbooks: &Path, replicas: usize, sync: &str) -> Installation {
        let mut installation = Installation::broker(name, playbooks, sync);
        for stage in STAGES {
            for replica in 0..replicas {
                installation.spawn(stage, replica);
            }
        }
        installation.wait_ready();
        installation
    }

    /// A variable for services that are started from now on.
    pub fn variable(&mut self, name: &str, value: &str) {
        secrecy::give_variable(name, value);
        self.variables.push((name.into(), value.into()));
    }

    /// Makes a folder of playbooks the current set; waits for the broker.
    pub fn push(&mut self, playbooks: &Path) {
        let began = clock::now();
        loop {
            let output = self.holdline(&["push", playbooks.to_str().unwrap()]);
            if output.status.success() {
                return;
            }
            let told = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(began.elapsed() < Duration::from_secs(60), "{told}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// `holdline … --data` of this installation.
    pub fn holdline(&self, arguments: &[&str]) -> Output {
        ended(command("holdline").args(arguments).arg("--data").arg(&self.data))
    }

    pub fn url(&self) -> String {
        std::fs::read_to_string(self.data.join("nats/url")).unwrap()
    }

    pub fn seed(&self, role: &str) -> PathBuf {
        self.data.join("keys").join(format!("{role}.nk"))
    }

    /// A connection with a role's own rights, past the programs.
    pub async fn client(&self, role: &str) -> async_nats::Client {
        let seed = std::fs::read_to_string(self.seed(role)).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().into());
        options.custom_inbox_prefix(format!("_INBOX.{role}")).connect(self.url()).await.unwrap()
    }

    /// Publishes bytes as a role, past its program.
    pub async fn publish(&self, role: &str, subject: &str, bytes: &[u8]) {
        let client = self.client(role).await;
        client.publish(subject.to_string(), bytes.to_vec().into()).await.unwrap();
        client.flush().await.unwrap();
    }

    /// Starts a replica, or starts it again.
    pub fn spawn(&mut self, stage: &str, replica: usize) {
        self.spawn_with(stage, replica, &[]);
    }

    /// The same, with variables for this start alone.
    pub fn spawn_with(&mut self, stage: &str, replica: usize, variables: &[(&str, &str)]) {
        variables.iter().for_each(|(name, value)| secrecy::give_variable(name, value));
        let key = (stage.to_string(), replica);
        let (gateway, admin) = match self.services.get(&key) {
            Some(service) => (service.gateway, service.admin),
            None => (free_address(), free_address()),
        };
        let child = command(&format!("holdline-{stage}"))
            .env("HOLDLINE_NATS_URL", self.url())
            .env("HOLDLINE_NATS_SEED_FILE", self.seed(stage))
            .env("HOLDLINE_ADMIN_LISTEN", admin.to_string())
            .env("HOLDLINE_REPLICA_NAME", format!("{stage}-{replica}"))
            .env("HOLDLINE_GATEWAY_LISTEN", gateway.to_string())
            .env("HOLDLINE_GATEWAY_SPOOL", self.spool(replica))
            .envs(self.variables.iter().cloned())
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(log(&self.folder, &format!("{stage}-{replica}")))
            .spawn()
            .unwrap();
        self.services.insert(key, Service { running: Some(Running::of(child)), gateway, admin });
    }

    /// `kill -9` of one replica.
    pub fn kill(&mut self, stage: &str, replica: usize) {
        let service = self.services.get_mut(&(stage.to_string(), replica)).unwrap();
        service.running.take().unwrap().kill();
    }

    pub fn service(&mut self, stage: &str, replica: usize) -> &mut Running {
        self.services.get_mut(&(stage.to_string(), replica)).unwrap().running.as_mut().unwrap()
    }

    /// `kill -9` of nats-server itself; `holdline broker` starts it again.
    pub fn kill_nats(&mut self) {
        self.signal_nats("KILL");
    }

    /// To nats-server itself.
    pub fn signal_nats(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.data.join("nats/pid")).unwrap();
        Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().unwrap();
    }

    /// Takes nats-server away until [`Installation::broker_back`]: its keeper stands still.
    pub fn broker_away(&mut self) {
        self.broker.signal("STOP");
        self.kill_nats();
    }

    /// Its keeper starts nats-server again.
    pub fn broker_back(&mut self) {
        self.broker.signal("CONT");
    }

    pub fn broker_process(&mut self) -> &mut Running {
        &mut self.broker
    }

    /// `kill -9` of the broker and what keeps it; it stays away until [`Installation::start_broker`].
    pub fn stop_broker(&mut self) {
        self.broker.kill();
    }

    pub fn start_broker(&mut self, sync: &str) {
        self.broker = broker(&self.folder, &self.data, sync);
    }

    /// Folder of a gateway's spool.
    pub fn spool(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("spool-{replica}"))
    }

    /// Where events are received.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        let gateways = self.services.iter().filter(|((stage, _), _)| stage == "gateway");
        gateways.map(|(_, service)| service.gateway).collect()
    }

    /// Waits until every running service says that it is ready.
    pub fn wait_ready(&self) {
        let began = clock::now();
        for ((stage, replica), service) in &self.services {
            if service.running.is_none() {
                continue;
            }
            loop {
                let answer = readiness(service.admin);
                if answer.contains("\r\n\r\nready") {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "{stage}-{replica}: {answer}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Where a service shows what it says of itself.
    pub fn admin_address(&self, stage: &str, replica: usize) -> SocketAddr {
        self.services[&(stage.to_string(), replica)].admin
    }

    /// What a service shows of itself.
    pub fn admin(&self, stage: &str, replica: usize, path: &str) -> String {
        let page = get(self.services[&(stage.to_string(), replica)].admin, path).unwrap_or_default();
        secrecy::assert_untold(path, &page);
        page
    }

    /// The processes by name, nats-server included.
    pub fn processes(&self) -> BTreeMap<String, u32> {
        let running = self.services.iter().filter_map(|((stage, replica), service)| {
            Some((format!("{stage}-{replica}"), service.running.as_ref()?.id()))
        });
        let nats = std::fs::read_to_string(self.data.join("nats/pid")).unwrap();
        running.chain([("nats-server".to_string(), nats.trim().parse().unwrap())]).collect()
    }

    /// See [`conserved`].
    pub fn conserved(&self) -> Value {
        self.counted.store(true, Ordering::SeqCst);
        conserved(&self.data)
    }

    /// For a test that takes away what it would be counted from.
    pub fn cannot_be_counted(&self) {
        self.counted.store(true, Ordering::SeqCst);
    }

    /// What a replica has logged.
    pub fn log_of(&self, stage: &str, replica: usize) -> String {
        std::fs::read_to_string(self.folder.join(format!("{stage}-{replica}.log"))).unwrap_or_default()
    }

    /// What every process has logged.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                text += &format!("== {}\n", path.display());
                text += &std::fs::read_to_string(&path).unwrap_or_default();
            }
        }
        text
    }
}

/// However a test ends well: what was accepted is counted, and what is left behind shows no secret.
impl Drop for Installation {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.counted.load(Ordering::SeqCst) {
            self.conserved();
        }
        self.services.clear();
        self.broker.signal("CONT");
        if std::thread::panicking() {
            eprintln!("the logs are in {}", self.folder.display());
            return;
        }
        self.broker.kill();
        let told = secrecy::told_in(&self.folder, &self.data.join("keys"));
        assert!(told.is_empty(), "a secret shows in {told:?}");
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn broker(folder: &Path, data: &Path, sync: &str) -> Running {
    let child = command("holdline")
        .args(["broker", "--data", data.to_str().unwrap(), "--sync", sync])
        .stdout(Stdio::null())
        .stderr(log(folder, "broker"))
        .spawn()
        .unwrap();
    Running::of(child)
}

/// Has every stream recognise repeats for this long.
pub async fn shorten_duplicate_windows(jetstream: &async_nats::jetstream::Context, window: Duration) {
    for spec in holdline_proto::topology::Topology::default().streams() {
        let mut config = jetstream.get_stream(&spec.name).await.unwrap().cached_info().config.clone();
        config.duplicate_window = window;
        jetstream.update_stream(&config).await.unwrap();
    }
}

/// A log in a folder, to be added to.
pub fn log(folder: &Path, name: &str) -> std::fs::File {
    let path = folder.join(format!("{name}.log"));
    std::fs::File::options().create(true).append(true).open(path).unwrap()
}

/// What a service says of its readiness.
pub fn readiness(admin: SocketAddr) -> String {
    get(admin, "/readyz").unwrap_or_else(|error| error.to_string())
}

/// A plain GET, without waiting for more than a second.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
