//! G6: the gateway's own TLS, a certificate that is replaced while it serves, and TLS to the broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::certificates::Authority;
use holdline_tests::cluster::Cluster;
use holdline_tests::programs::{
    Installation, Running, STAGES, changed_sample, command, free_address, log, readiness, sample, scratch,
};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use reqwest::ClientBuilder;
use reqwest::tls::{Certificate, TlsInfo, Version};

const SOON: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "{what}: did not come about");
        clock::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that trusts an authority and nobody else.
fn trusting(authority: &Authority) -> ClientBuilder {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = Certificate::from_pem(&std::fs::read(authority.file()).unwrap()).unwrap();
    reqwest::Client::builder().tls_certs_only([root]).tls_info(true).no_proxy().timeout(SOON)
}

/// An installation whose gateway serves the pair `shown`, which is issued first.
fn gateway(name: &str) -> (Installation, Authority, SocketAddr) {
    let mut installation = Installation::broker(name, &sample("loop"), "always");
    let authority = Authority::new(&installation.folder.join("certificates"));
    let (certificate, key) = authority.issue("shown");
    installation.variable("HOLDLINE_GATEWAY_TLS_CERTIFICATE_FILE", certificate.to_str().unwrap());
    installation.variable("HOLDLINE_GATEWAY_TLS_KEY_FILE", key.to_str().unwrap());
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let address = installation.gateways()[0];
    (installation, authority, address)
}

fn body(id: &str) -> Vec<u8> {
    event(id, "gw-1", "HEALTHY", clock::wall_ms()).to_string().into_bytes()
}

/// `openssl s_client`, which says what the other side did.
fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Of RFC 5246: kinds of records, and the alert for a version that is not spoken.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;

/// The first record that `openssl s_client` sends. Bytes 9 and 10 are the version that it asks for.
fn client_hello(arguments: &[&str]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| s_client(address, arguments));
        let hello = record(&mut listener.accept().unwrap().0);
        client.join().unwrap();
        hello
    })
}

/// What comes back first for a record.
fn answer(address: SocketAddr, to: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(to).unwrap();
    record(&mut stream)
}

fn record(stream: &mut TcpStream) -> Vec<u8> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).unwrap();
    record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
    stream.read_exact(&mut record[5..]).unwrap();
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (mut installation, authority, address) = gateway("tls-versions");
    // Who never says a word, before the handshake and after it.
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut quiet = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let open = quiet.stdin.take();
    let mut quiet = Running::of(quiet);

    let sender = Sender::new(vec![address], "telephony");
    for (n, version) in [Version::TLS_1_2, Version::TLS_1_3].into_iter().enumerate() {
        let client = || trusting(&authority).tls_version_min(version).tls_version_max(version);
        for (client, http) in [
            (client().build().unwrap(), reqwest::Version::HTTP_2),
            (client().http1_only().build().unwrap(), reqwest::Version::HTTP_11),
        ] {
            let answer = sender.over_tls(client).send(&body(&format!("{n}-{http:?}"))).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, http));
        }
    }
    // Who is not trusted is not talked to.
    let stranger = Authority::new(&installation.folder.join("strangers"));
    let distrustful = sender.over_tls(trusting(&stranger).build().unwrap());
    assert!(distrustful.send(&body("unheard")).await.unwrap_err().is_connect());
    assert!(sender.send(&body("plain")).await.is_err(), "plain HTTP is not answered");

    let spoken = |arguments: &[&str]| s_client(address, arguments);
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let told = spoken(&[version, "-alpn", "h2,http/1.1"]);
        assert!(told.contains(&format!("New, {name}")) && told.contains("ALPN protocol: h2"), "{told}");
    }
    for version in ["-tls1_1", "-tls1"] {
        let told = spoken(&[version, "-cipher", "DEFAULT:@SECLEVEL=0"]);
        // The client has offered it: what it reports is the alert that came back.
        assert!(told.contains("SSL alert number") && told.contains("Cipher is (NONE)"), "{told}");
    }
    // The version alone is enough: the same hello is answered in 1.2, and refused in 1.1 by the alert for versions.
    let hello = client_hello(&["-tls1_2"]);
    assert_eq!(answer(address, &hello)[0], HANDSHAKE);
    for minor in [2, 1, 0] {
        let older = [&hello[..10], &[minor], &hello[11..]].concat();
        assert_eq!(answer(address, &older), [ALERT, 3, 3, 0, 2, FATAL, PROTOCOL_VERSION], "minor {minor}");
    }

    let mut byte = [0];
    let closed = tokio::time::timeout(SOON, async {
        silent.readable().await.unwrap();
        silent.try_read(&mut byte)
    });
    assert!(matches!(closed.await.unwrap(), Ok(0) | Err(_)), "a connection without a handshake is closed");
    quiet.wait(SOON);
    drop(open);
    installation.service("gateway", 0).signal("TERM");
    assert_eq!(installation.service("gateway", 0).wait(SOON), Some(0));
}

/// Puts a file in the place of another in one step.
fn replace(from: &Path, to: &Path) {
    let aside = to.with_extension("new");
    std::fs::copy(from, &aside).unwrap();
    std::fs::rename(aside, to).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_certificate_is_replaced_under_load_and_no_connection_is_refused() {
    let (installation, authority, address) = gateway("tls-replaced");
    let files = authority.issue("shown-then");
    let folder = installation.folder.join("certificates");
    let shown = (folder.join("shown.pem"), folder.join("shown.key"));
    let put = |pair: &(PathBuf, PathBuf)| {
        replace(&pair.0, &shown.0);
        replace(&pair.1, &shown.1);
    };
    let der = |file: &Path| {
        let output =
            Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(file).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };

    // Every request is a connection of its own; by the certificate that it was shown.
    let seen: Arc<Mutex<BTreeMap<Vec<u8>, u32>>> = Arc::default();
    let times = |certificate: &[u8]| seen.lock().unwrap().get(certificate).copied().unwrap_or(0);
    let enough = Arc::new(AtomicBool::new(false));
    let client = trusting(&authority).pool_max_idle_per_host(0).build().unwrap();
    let sender = Sender::new(vec![address], "telephony").over_tls(client);
    let load: Vec<_> = (0..4)
        .map(|task| {
            let (sender, seen, enough) = (sender.clone(), seen.clone(), enough.clone());
            #[allow(clippy::disallowed_methods, reason = "it is waited for below")]
            tokio::spawn(async move {
                let mut sent = 0u32;
                while !enough.load(Ordering::SeqCst) {
                    let answer = sender.send(&body(&format!("{task}-{sent}"))).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let info = answer.extensions().get::<TlsInfo>().unwrap();
                    *seen.lock().unwrap().entry(info.peer_certificate().unwrap().into()).or_default() += 1;
                    sent += 1;
                }
                sent
            })
        })
        .collect();

    let first = der(&shown.0);
    until("the first certificate is shown", || times(&first) > 50).await;
    put(&files);
    let second = der(&files.0);
    assert_ne!(first, second);
    until("the second certificate is shown", || times(&second) > 50).await;

    // Another's key; then none at all, in a form that an error might repeat.
    let before = times(&first);
    let stranger = authority.issue("stranger");
    replace(&stranger.1, &shown.1);
    let log = || installation.log_of("gateway", 0);
    until("a key that does not fit is told", || log().contains("does not belong to the certificate")).await;
    let ready = || installation.admin("gateway", 0, "/readyz");
    until("readiness says so", || ready().contains("\r\n\r\nready\nnew certificate: gateway.tls_key_file: "))
        .await;
    let key = std::fs::read_to_string(&stranger.1).unwrap().replace('\n', "");
    std::fs::write(folder.join("damaged"), &key).unwrap();
    replace(&folder.join("damaged"), &shown.1);
    until("a damaged key is told", || ready().contains("holds no private key that can be read")).await;
    let told = log();
    assert!(told.contains("ERROR") && told.contains("the certificate is not replaced"), "{told}");
    assert!(told.contains(shown.1.to_str().unwrap()), "{told}");
    let words = key.split("-----").nth(2).unwrap();
    assert!(!told.contains(words) && !ready().contains(words), "a key is no matter for a log");
    let so_far = times(&second);
    until("what was shown is shown still", || times(&second) > so_far + 50).await;
    assert_eq!(times(&first), before, "what was replaced does not come back");

    let third = authority.issue("third");
    put(&third);
    until("the third certificate is shown", || times(&der(&third.0)) > 50).await;
    until("all is well again", || ready().ends_with("\r\n\r\nready\n")).await;
    enough.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for task in load {
        sent += task.await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
    println!("{sent} connections, none refused");
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn g6_files_that_cannot_be_used_are_a_wrong_setting() {
    let folder = scratch("tls-settings");
    let authority = Authority::new(&folder);
    let (certificate, key) = authority.issue("one");
    let (_, other_key) = authority.issue("other");
    let (absent, empty) = (folder.join("absent"), folder.join("empty"));
    std::fs::write(&empty, "").unwrap();
    let check = |section: &str, files: &[(&str, &Path)], parts: &[&str]| {
        let variables =
            files.iter().map(|(name, file)| (format!("HOLDLINE_{section}_TLS_{name}_FILE"), file));
        let output = command("holdline-gateway").envs(variables).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(64), "{told}");
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
    };
    for section in ["GATEWAY", "NATS"] {
        let name = section.to_lowercase();
        let setting = |name_of: &str| format!("{name}.tls_{name_of}_file: ");
        let (of_key, of_certificate) = (setting("key"), setting("certificate"));
        let shown = |file: &Path| file.display().to_string();
        check(
            section,
            &[("CERTIFICATE", &certificate)],
            &[&of_key, "set both, or neither", &shown(&certificate)],
        );
        check(section, &[("KEY", &key)], &[&of_certificate, "set both, or neither", &shown(&key)]);
        for (certificate, key, parts) in [
            (&absent, &key, [&*of_certificate, &shown(&absent), "cannot be read"]),
            (&empty, &key, [&*of_certificate, &shown(&empty), "expected certificates in PEM"]),
            (&certificate, &absent, [&*of_key, &shown(&absent), "cannot be read"]),
            (&certificate, &certificate, [&*of_key, &shown(&certificate), "no private key"]),
            (&certificate, &other_key, [&*of_key, &shown(&other_key), "put both files of one pair there"]),
        ] {
            check(section, &[("CERTIFICATE", certificate), ("KEY", key)], &parts);
        }
    }
    check("NATS", &[("CA", &key)], &["nats.tls_ca_file: ", "expected certificates in PEM"]);
    let typed = command("holdline")
        .args(["pauses", "--nats", "nats://127.0.0.1:1", "--nats-tls-ca-file"])
        .arg(&absent)
        .output()
        .unwrap();
    assert!(typed.status.code() == Some(64) && told(&typed).contains("nats.tls_ca_file: "), "{typed:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_broker_that_asks_for_certificates_is_shown_one() {
    let folder = scratch("tls-broker");
    let authority = Authority::new(&folder.join("certificates"));
    let (server, server_key) = authority.issue("server");
    let (client, client_key) = authority.issue("client");
    let ca = authority.file();
    let cluster = Cluster::configured(
        &folder,
        1,
        &format!(
            "tls {{ verify: true, ca_file: {ca:?}, cert_file: {server:?}, key_file: {server_key:?} }}\n"
        ),
    );
    let files = |ca: &Path, certificate: &Path, key: &Path| {
        [
            ("HOLDLINE_NATS_TLS_CA_FILE", ca.to_path_buf()),
            ("HOLDLINE_NATS_TLS_CERTIFICATE_FILE", certificate.to_path_buf()),
            ("HOLDLINE_NATS_TLS_KEY_FILE", key.to_path_buf()),
        ]
    };
    let good = files(&ca, &client, &client_key);
    // Typed: by the environment, and by flags.
    let typed = |arguments: &[&str]| {
        let mut typed = command("holdline");
        typed.args(arguments).args(["--nats", &cluster.url(), "--keys"]).arg(cluster.keys());
        typed
    };
    until("the broker is provisioned", || {
        typed(&["provision"]).envs(good.clone()).output().unwrap().status.success()
    })
    .await;
    let flags = ["--nats-tls-ca-file", "--nats-tls-certificate-file", "--nats-tls-key-file"];
    let flags = flags.into_iter().zip(&good).flat_map(|(flag, (_, file))| [flag, file.to_str().unwrap()]);
    let (target, playbooks) = (Target::start().await, folder.join("playbooks"));
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    let pushed = typed(&["push", playbooks.to_str().unwrap()]).args(flags).output().unwrap();
    assert!(pushed.status.success(), "{}", told(&pushed));

    let listen = free_address();
    let start = |stage: &str, admin: SocketAddr, name: &str, variables: &[(&str, PathBuf)]| {
        let child = command(&format!("holdline-{stage}"))
            .env("HOLDLINE_NATS_URL", cluster.url())
            .env("HOLDLINE_NATS_SEED_FILE", cluster.keys().join(format!("{stage}.nk")))
            .env("HOLDLINE_NATS_PATIENCE_S", "2")
            .env("HOLDLINE_ADMIN_LISTEN", admin.to_string())
            .env("HOLDLINE_GATEWAY_LISTEN", listen.to_string())
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(log(&folder, name))
            .spawn()
            .unwrap();
        Running::of(child)
    };
    let mut services: Vec<_> = STAGES
        .into_iter()
        .chain(["dlq-replayer"])
        .map(|stage| (stage, free_address()))
        .map(|(stage, admin)| (stage, admin, start(stage, admin, stage, &good)))
        .collect();
    for (stage, admin, _) in &services {
        until(&format!("{stage} is ready"), || readiness(*admin).contains("\r\n\r\nready")).await;
    }
    // One outage, from the first event to its undoing.
    let sender = Sender::new(vec![listen], "telephony");
    for (status, times, calls) in [("FAILED", 3, 1), ("HEALTHY", 2, 2)] {
        for n in 0..times {
            let event = event(&format!("over-tls-{status}-{n}"), "gw-1", status, clock::wall_ms());
            sender.deliver(&event).await;
        }
        until(status, || target.calls().len() == calls).await;
    }
    let calls: Vec<String> = target.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(calls, ["/act/remediate/gw-1", "/act/revert/gw-1"]);
    for (stage, _, service) in &mut services {
        service.signal("TERM");
        assert_eq!(service.wait(SOON), Some(0), "{stage}");
    }

    // Without a certificate, with a stranger's, and where the broker's own comes from a stranger.
    let strangers = Authority::new(&folder.join("strangers"));
    let (stranger, stranger_key) = strangers.issue("client");
    for (name, variables, setting) in [
        ("without", &good[..1], "nats.tls_certificate_file"),
        ("stranger", &files(&ca, &stranger, &stranger_key), "nats.tls_certificate_file"),
        ("elsewhere", &files(&strangers.file(), &client, &client_key), "nats.tls_ca_file"),
        ("nothing", &[], "nats.tls_ca_file"),
    ] {
        let mut refused = start("gateway", free_address(), name, variables);
        assert_eq!(refused.wait(SOON), Some(69), "{name}");
        let told = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
        let question = told.lines().find_map(|line| line.split_once("no nats-server at "));
        assert!(question.is_some_and(|(_, question)| question.contains(setting)), "{name}: {told}");
    }
    drop(cluster);
    std::fs::remove_dir_all(folder).unwrap();
}
