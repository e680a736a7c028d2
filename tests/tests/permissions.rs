//! C3, A3: every pair of user and subject that the topology does not allow is tried and refused by the broker.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::indexing_slicing, clippy::panic)]

use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_proto::audit::WITNESS;
use holdline_proto::topology::{Bucket, Role, Stream, Topology, subject_matches};
use holdline_stage::clock;
use holdline_tests::programs::{
    Installation, STAGES, changed_sample, command, ended, holdline, sample, scratch,
};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::{Value, json};

/// Subjects that stand for everything there is: each kind of message, each bucket, each right over streams.
fn subjects(topology: &Topology) -> Vec<String> {
    let mut subjects = vec![
        topology.event(0),
        topology.signal(0),
        topology.log(0),
        topology.timer(0, "i", 1),
        topology.fired(0),
        topology.command(0, "i"),
        topology.outcome(0, "k"),
        "hl.internal.operator.0".into(),
        "hl.internal.fact.0".into(),
        "hl.internal.retry.0".into(),
        topology.audit(),
        "$SYS.REQ.SERVER.PING".into(),
        "$JS.API.STREAM.CREATE.MINE".into(),
    ];
    subjects.extend(Role::ALL.map(|role| topology.dead(role.name())));
    let streams = topology.streams().into_iter().map(|spec| spec.name);
    let buckets = topology.buckets().into_iter().map(|spec| topology.bucket_stream(spec.bucket));
    for name in streams.chain(buckets) {
        for verb in ["STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.MSG.GET"]
        {
            subjects.push(format!("$JS.API.{verb}.{name}"));
        }
        for verb in ["CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE", "CONSUMER.MSG.NEXT"] {
            subjects.push(format!("$JS.API.{verb}.{name}.mine"));
        }
        subjects.push(format!("$JS.API.DIRECT.GET.{name}"));
    }
    for spec in topology.buckets() {
        for key in ["x", "gateway.lease.0", "classifier.lease.0", "debouncer.lease.0", "executor.x", WITNESS]
        {
            subjects.push(topology.entry(spec.bucket, key));
        }
    }
    subjects
}

struct User {
    client: async_nats::Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl User {
    async fn connect(installation: &Installation, role: Role) -> User {
        let seed = std::fs::read_to_string(installation.seed(role.name())).unwrap();
        let refused = Arc::new(Mutex::new(vec![]));
        let heard = refused.clone();
        let client = async_nats::ConnectOptions::with_nkey(seed.trim().into())
            .custom_inbox_prefix(role.inbox())
            .event_callback(move |event| {
                let heard = heard.clone();
                async move {
                    if let async_nats::Event::ServerError(error) = event {
                        heard.lock().unwrap().push(error.to_string());
                    }
                }
            })
            .connect(installation.url())
            .await
            .unwrap();
        User { client, refused }
    }

    /// What was refused of all that was tried since.
    async fn refusals(&self) -> Vec<String> {
        self.client.flush().await.unwrap();
        // A refusal comes on the side; by the answer to the next ping it is here.
        clock::sleep(Duration::from_millis(100)).await;
        std::mem::take(&mut self.refused.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_every_forbidden_pair_is_refused() {
    let installation = Installation::broker("permissions", &sample("loop"), "default");
    // Whoever may write somewhere writes nonsense there.
    installation.cannot_be_counted();
    let topology = Topology::default();
    let subjects = subjects(&topology);
    let (mut tried, mut wrong) = (0, vec![]);
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Provisioner) {
        let user = User::connect(&installation, role).await;
        let rights = topology.rights(role);
        let mut refusals = vec![];
        // Few at a time: the client drops events that nobody has taken yet.
        for some in subjects.chunks(10) {
            for subject in some {
                user.client.publish(subject.clone(), "{}".into()).await.unwrap();
            }
            refusals.extend(user.refusals().await);
        }
        for subject in &subjects {
            tried += 1;
            let allowed = rights.publish.iter().any(|right| subject_matches(right, subject));
            let was_refused = refusals.iter().any(|refusal| refusal.contains(&format!("\"{subject}\"")));
            if allowed == was_refused {
                wrong.push(format!("{}: {subject}: allowed {allowed}, refused {was_refused}", role.name()));
            }
        }
        // Nobody listens to anything but his own inbox.
        let others =
            Role::ALL.into_iter().filter(|other| *other != role).map(|other| format!("{}.>", other.inbox()));
        let listening: Vec<String> = others
            .chain(["hl.>", ">", "$KV.>", "$JS.>"].map(String::from))
            .chain(["_INBOX.>".into()])
            .collect();
        let mut subscriptions = vec![];
        for subject in &listening {
            subscriptions.push(user.client.subscribe(subject.clone()).await.unwrap());
        }
        let refusals = user.refusals().await;
        for subject in &listening {
            tried += 1;
            if !refusals.iter().any(|refusal| refusal.contains(&format!("\"{subject}\""))) {
                wrong.push(format!("{} may listen to {subject}", role.name()));
            }
        }
    }
    eprintln!("{tried} pairs of user and subject tried");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The executor, and whoever only looks, cannot make the broker write where they may not write themselves: a consumer that
/// delivers to a subject of the pipeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_who_may_write_little_makes_no_consumer_with_a_foreign_deliver_subject() {
    let installation = Installation::broker("deliver", &sample("loop"), "default");
    let topology = Topology::default();
    for role in [Role::Executor, Role::Gateway, Role::DlqReplayer, Role::Viewer] {
        let user = User::connect(&installation, role).await;
        for stream in [
            topology.stream(Stream::Commands),
            topology.stream(Stream::Inputs),
            topology.bucket_stream(Bucket::Playbooks),
            topology.bucket_stream(Bucket::Intents),
        ] {
            let request = format!(
                r#"{{"stream_name": "{stream}", "config": {{"name": "sly", "deliver_subject": "hl.signal.0", "ack_policy": "none"}}}}"#
            );
            user.client
                .publish(format!("$JS.API.CONSUMER.CREATE.{stream}.sly"), request.into())
                .await
                .unwrap();
        }
        assert_eq!(user.refusals().await.len(), 4, "{}", role.name());
    }
}

/// What holdline's commands show an operator they show a viewer; what changes something they do not do for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_with_a_viewers_seed_everything_is_read_and_nothing_changed() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let target = Target::start().await;
    let (playbooks, address) = (scratch("viewer-playbooks"), target.address.to_string());
    changed_sample("loop", &playbooks, |_, text| {
        text.replace("127.0.0.1:44001", &address).replace("failures: 3", "failures: 1")
    });
    let mut installation = Installation::broker("viewer", &playbooks, "default");
    for stage in STAGES {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let (now_ms, sender) = (clock::wall_ms(), Sender::new(installation.gateways(), "telephony"));
    sender.deliver(&json!([event("its-event", "gw-1", "FAILED", now_ms)])).await;
    installation.publish("gateway", "hl.event.0", b"no frame").await;
    let keys = scratch("viewer-keys");
    std::fs::copy(installation.seed("viewer"), keys.join("viewer.nk")).unwrap();
    let (url, keys, token) =
        (installation.url(), keys.to_str().unwrap(), scratch("viewer-token").join("token"));
    let token = token.to_str().unwrap();
    assert!(holdline(&["token", token]).status.success());
    let run = |arguments: &[&str], with: &[&str]| ended(command("holdline").args(arguments).args(with));
    let as_viewer = |arguments: &[&str]| run(arguments, &["--nats", &url, "--keys", keys]);
    let json = |output: &Output| -> Value {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    };
    let as_operator = |arguments: &[&str]| installation.holdline(arguments);
    let began = clock::now();
    let id = loop {
        let incidents = json(&as_operator(&["incidents", "--output", "json"]));
        let letters = json(&as_operator(&["dlq", "list", "--output", "json"]));
        let called = target.calls().len();
        if let (Some(id), 1.., [_, ..]) =
            (incidents[0]["incidentId"].as_str(), called, letters.as_array().unwrap().as_slice())
        {
            break id.to_string();
        }
        assert!(began.elapsed() < PATIENCE, "{}", installation.logs());
        clock::sleep(Duration::from_millis(100)).await;
    };
    let letter = json(&as_operator(&["dlq", "list", "--output", "json"]))[0]["letter"].to_string();
    let reads: [&[&str]; 12] = [
        &["incidents"],
        &["incident", &id],
        &["incident", &id, "explain"],
        &["incident", &id, "replay"],
        &["why-not", "its-event"],
        &["pauses"],
        &["approvals", "--all"],
        &["audit"],
        &["audit", "verify"],
        &["dlq", "list"],
        &["dlq", "show", &letter],
        &["doctor", "--only", "conservation", "--only", "broker"],
    ];
    for arguments in reads {
        let arguments = [arguments, &["--output", "json"]].concat();
        let began = clock::now();
        // What goes on meanwhile is shown a moment later.
        loop {
            let (shown, expected) = (as_viewer(&arguments), as_operator(&arguments));
            let (shown, expected) = (json(&shown), json(&expected));
            // When a broker of one's own syncs only its folder tells.
            let known = |told: &Value| {
                let mut told = told.clone();
                if let Some(findings) = told.get_mut("findings").and_then(Value::as_array_mut) {
                    findings.retain(|finding| finding["what"] != "sync" && finding["what"] != "account");
                }
                told
            };
            if known(&shown) == known(&expected) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{arguments:?}: {shown:#}, not {expected:#}");
            clock::sleep(Duration::from_millis(200)).await;
        }
    }
    let file = scratch("viewer-trail").join("trail.jsonl");
    let exported = as_viewer(&["audit", "export", file.to_str().unwrap()]);
    assert!(exported.status.success() && file.exists(), "{exported:?}");

    let trail = json(&as_operator(&["audit", "--output", "json"]));
    let said = ["--reason", "works"];
    let (set, by) = (playbooks.to_str().unwrap(), ["--token", token]);
    let writes: [Vec<&str>; 7] = [
        vec!["push", set],
        [&["pause", "--for", "1h"], &said[..]].concat(),
        vec!["resume"],
        [&["approve", "00ff"], &said[..], &by].concat(),
        [&["deny", "00ff"], &said[..], &by].concat(),
        vec!["dlq", "replay", "--all"],
        [&["dlq", "discard", "--all"], &said[..]].concat(),
    ];
    for arguments in writes {
        let output = as_viewer(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("a viewer's seed"), "{arguments:?}: {told}");
    }
    let provisions = as_viewer(&["provision"]);
    let told = String::from_utf8_lossy(&provisions.stderr).into_owned();
    assert!(!provisions.status.success() && told.contains("provisioner.nk"), "{told}");
    assert_eq!(json(&as_operator(&["audit", "--output", "json"])), trail, "nothing was tried");
    installation.conserved();
}
