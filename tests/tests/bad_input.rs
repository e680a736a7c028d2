//! G5, F12, F13: bad input gets a clear answer, is not passed on, and harms nobody.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use holdline_proto::dead_letter::{DeadLetter, Recall, Wish};
use holdline_proto::event::Frame;
use holdline_proto::incident::{Lane, TrackKey};
use holdline_proto::journal::WakeUp;
use holdline_proto::playbooks::Installation as Installed;
use holdline_proto::topology::{Bucket, Topology, token};
use holdline_proto::wire;
use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::random::Random;
use holdline_tests::sender::{Sender, event, sign};
use holdline_tests::target::Target;
use serde_json::Value;

async fn installed(name: &str) -> (Installation, Target) {
    let target = Target::start().await;
    let playbooks = scratch("bad-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    (Installation::start(name, &playbooks, 1, "always"), target)
}

/// The pipeline still does its job.
async fn still_works(installation: &Installation, target: &Target, entity: &str) {
    let before = target.effects().len();
    let sender = Sender::new(installation.gateways(), "telephony");
    let now = clock::wall_ms();
    for n in 0..3i64 {
        sender.deliver(&event(&format!("{entity}-{n}"), entity, "FAILED", now + n)).await;
    }
    assert_eq!(target.wait_for(before + 1, Duration::from_secs(20)).await.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_every_kind_of_bad_request_has_its_answer() {
    let (installation, target) = installed("bad-requests").await;
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let gateway = installation.gateways()[0];
    let now = clock::wall_ms() / 1_000;
    let good = event("good", "gw-1", "FAILED", now * 1_000).to_string();
    let post = async |path: &str, body: Vec<u8>, headers: Vec<(&str, String)>| -> (u16, String, bool) {
        let mut request = client.post(format!("http://{gateway}{path}")).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        let problem = response.headers().get("content-type").is_some_and(|t| t == "application/problem+json");
        (response.status().as_u16(), response.text().await.unwrap(), problem)
    };
    let signed = |body: &[u8], at: i64| {
        let at = at.to_string();
        vec![
            ("X-PureCloud-Signature", sign(&at, body)),
            ("X-PureCloud-Timestamp", at),
            ("Content-Type", "application/json".into()),
        ]
    };
    let path = "/v1/events/telephony";
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep = good.replace("\"FAILED\"", &nested);
    let large = good.replace("gw-1", &"x".repeat(256 * 1024));
    let array_with_a_bad_one = format!("[{good}, {{\"id\": 7}}]");
    // Bodies that are signed well, and what is wrong with them.
    for (body, status, part) in [
        (b"not json".to_vec(), 400, "not JSON"),
        (b"".to_vec(), 400, "not JSON"),
        (b"\xff\xfe{}".to_vec(), 400, "not UTF-8"),
        (b"[]".to_vec(), 400, "1 to 1000 events"),
        (b"null".to_vec(), 400, "expected an event"),
        (b"{}".to_vec(), 400, "id: missing"),
        (good.replace("\"good\"", "7").into_bytes(), 400, "id: expected a text"),
        (good.replace("\"good\"", "\"\"").into_bytes(), 400, "id: expected a text"),
        (
            good.replace("telephony.service.status", "other").into_bytes(),
            400,
            "topicName: subscription telephony",
        ),
        (good.replace("data", "other").into_bytes(), 400, "data: missing"),
        (
            good.replace("\"timestamp\":", "\"timestamp\":\"soon\", \"t\":").into_bytes(),
            400,
            "timestamp: expected",
        ),
        (array_with_a_bad_one.into_bytes(), 400, "[1].id: expected a text"),
        (deep.into_bytes(), 400, "recursion limit"),
        (large.into_bytes(), 413, "at most 262144 bytes"),
    ] {
        let headers = signed(&body, now);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let (found, text, problem) = post(path, body, headers).await;
        assert!(found == status && text.contains(part) && problem, "{shown}: {found} {text}");
    }
    // A good body, and what is wrong around it.
    let body = good.as_bytes().to_vec();
    let without = |name: &str| signed(&body, now).into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let mut typed = without("Content-Type");
    typed.push(("Content-Type", "text/plain".into()));
    let mut zipped = signed(&body, now);
    zipped.push(("Content-Encoding", "gzip".into()));
    for (path, headers, status) in [
        (path, vec![], 401),
        (path, without("X-PureCloud-Signature"), 401),
        (path, without("X-PureCloud-Timestamp"), 401),
        (path, signed(b"another body", now), 401),
        (path, signed(&body, now - 31 * 60), 401),
        (path, signed(&body, now + 31 * 60), 401),
        (path, typed, 415),
        (path, zipped, 415),
        ("/v1/events/nothing", signed(&body, now), 404),
        ("/elsewhere", signed(&body, now), 404),
    ] {
        let (found, text, problem) = post(path, body.clone(), headers).await;
        assert!(found == status && problem, "{path}: {found} {text}, expected {status}");
        assert!(!text.contains("timestamp") && !text.contains("stale"), "says which part was wrong: {text}");
    }
    let got = client.get(format!("http://{gateway}/webhooks/telephony")).send().await.unwrap();
    assert_eq!(got.status(), 405);
    // Nothing of all this was passed on.
    assert_eq!(target.calls().len(), 0);
    let refused = installation.admin("gateway", 0, "/metrics");
    assert!(refused.contains("reason=\"stale\"") && refused.contains("reason=\"future\""), "{refused}");
    // A replay of what was accepted is acknowledged and not counted again.
    let headers = signed(&body, now);
    for _ in 0..5 {
        let (status, text, _) = post(path, body.clone(), headers.clone()).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["accepted"], 1);
    }
    clock::sleep(Duration::from_secs(1)).await;
    assert_eq!(target.calls().len(), 0, "five times the same failure is one failure");
    still_works(&installation, &target, "gw-9").await;
    installation.conserved();
}

/// A connection that sends this and then nothing is closed; gives how long that took.
fn stall(gateway: SocketAddr, start: &[u8]) -> Duration {
    let began = clock::now();
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.write_all(start).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_slow_clients_are_let_go_and_hold_nobody_up() {
    let (installation, target) = installed("slow").await;
    let gateway = installation.gateways()[0];
    let idle: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(gateway).unwrap()).collect();
    let half_header = b"POST /v1/events/telephony HTTP/1.1\r\nHost: x\r\n".to_vec();
    let half_body = [&half_header[..], b"Content-Length: 100\r\n\r\n{"].concat();
    let stalls: Vec<_> = [vec![], half_header, half_body]
        .into_iter()
        .map(|start| std::thread::spawn(move || stall(gateway, &start)))
        .collect();
    still_works(&installation, &target, "gw-1").await;
    for stalled in stalls {
        assert!(stalled.join().unwrap() < Duration::from_secs(20));
    }
    drop(idle);
    installation.conserved();
}

/// A poison by what is wrong with it. Those made from `good` are nearly what the reader waits for.
fn poisons(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(7);
    let other_kind = wire::encode(&Installed { partitions: 4 });
    // [kind, version, body]: the version follows the kind.
    let mut version_9 = good.to_vec();
    let at = 2 + usize::from(version_9[1] - 0x60);
    assert_eq!(u16::from(version_9[at]), wire::VERSION);
    version_9[at] = 9;
    let huge = |number: &[u8]| [&good[..=at], number].concat();
    vec![
        ("empty", vec![]),
        ("JSON", b"{}".to_vec()),
        ("random", (0..4_096).map(|_| u8::try_from(random.below(256)).unwrap()).collect()),
        ("cut off", good[..good.len() - 1].to_vec()),
        ("more than one", [good, good].concat()),
        ("deep arrays", vec![0x81; 100_000]),
        ("deep within the envelope", huge(&[0xa1, 0x61, 0x78].repeat(50_000))),
        ("an array of 2^63", huge(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("bytes of 2^63", huge(&[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a big number", huge(&[&[0xc2, 0x59, 0xff, 0xff][..], &[0xff; 65_535]].concat())),
        ("not a number", huge(&[0xf9, 0x7e, 0x00])),
        ("invalid UTF-8", huge(&[0xa1, 0x67, b'g', b'a', 0xff, 0xfe, b'w', b'a', b'y', 0x01])),
        ("another kind", other_kind),
        ("version 9", version_9),
        ("a gzip bomb", [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xec, 0xc1][..], &[0; 10_000]].concat()),
        ("a megabyte", vec![0xff; 1 << 20]),
    ]
}

/// What the DEAD stream holds: stage, subject and bytes of every letter.
async fn letters(jetstream: &Context) -> Vec<(String, String, Vec<u8>)> {
    let mut dead = jetstream.get_stream("DEAD").await.unwrap();
    let last = dead.info().await.unwrap().state.last_sequence;
    let mut letters = vec![];
    for number in 1..=last {
        let Ok(message) = dead.get_raw_message(number).await else { continue };
        if let Ok(letter) = wire::decode::<DeadLetter>(&message.payload) {
            assert!(!letter.reason.is_empty());
            letters.push((letter.stage, letter.subject, letter.payload));
        }
    }
    letters
}

async fn until(what: &str, most: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let began = clock::now();
    while !holds().await {
        assert!(began.elapsed() < most, "not within {most:?}: {what}");
        clock::sleep(Duration::from_millis(100)).await;
    }
}

const SOON: Duration = Duration::from_secs(20);

/// N3, F12: a message that cannot be understood is parked with its bytes on every reader, and the stage goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_f12_poison_of_every_kind_is_parked_on_every_reader_and_the_stages_go_on() {
    let (mut installation, target) = installed("poison").await;
    installation.spawn("dlq-replayer", 0);
    installation.wait_ready();
    let topology = Topology::default();
    let jetstream = jetstream::new(installation.client("provisioner").await);
    let publish = async |subject: &str, bytes: &[u8]| {
        let published = jetstream.publish(subject.to_string(), bytes.to_vec().into()).await.unwrap();
        published.await.unwrap().sequence
    };
    let frame = wire::encode(&Frame { gateway: "somebody".into(), ..Frame::default() });
    let wake_up = wire::encode(&WakeUp {
        key: TrackKey { playbook: "loop".into(), lane: Lane::Failover, entity: "gw-1".into() },
        incident: "none".into(),
        generation: 1,
        deadline_ms: 0,
    });
    let recall = Recall { letter: u64::MAX, what: Wish::Replay, by: "test".into(), reason: String::new() };
    let recall = wire::encode(&recall);
    let readers = [
        ("classifier", topology.event(0), &frame),
        ("debouncer", topology.fired(1), &wake_up),
        ("debouncer", topology.outcome(1, "poison"), &wake_up),
        ("debouncer", topology.retried(1, "poison"), &wake_up),
        ("debouncer", format!("{}.internal.fact.2", topology.prefix()), &wake_up),
        ("debouncer", format!("{}.internal.operator.2", topology.prefix()), &wake_up),
        ("executor", topology.command(2, "poison"), &wake_up),
        ("dlq-replayer", topology.retry_asked(), &recall),
        ("dlq-replayer", topology.retry_due(), &recall),
    ];
    let mut wanted = vec![];
    for (stage, subject, good) in &readers {
        for (_, poison) in poisons(good) {
            publish(subject, &poison).await;
            wanted.push((stage.to_string(), subject.clone(), poison));
        }
    }
    // What is in DEAD already stays there; its reader goes on.
    for (_, poison) in poisons(&wire::encode(&DeadLetter::default())) {
        publish(&topology.dead("executor"), &poison).await;
    }
    for n in 0..8 {
        still_works(&installation, &target, &format!("gw-{n}")).await;
    }
    until("every poison is parked", SOON, async || letters(&jetstream).await.len() >= wanted.len()).await;
    let mut found = letters(&jetstream).await;
    found.sort();
    wanted.sort();
    assert!(
        found == wanted,
        "{} letters, {} wanted, with other stages, subjects or bytes",
        found.len(),
        wanted.len()
    );
    assert!(
        installation.holdline(&["dlq", "list"]).status.success(),
        "what cannot be read is listed all the same"
    );

    // As large as the broker takes: its beginning is parked, with where the rest is.
    let most = jetstream.client().server_info().max_payload;
    let large = vec![0xff; most - 1_024];
    publish(&topology.event(0), &large).await;
    publish(&topology.fired(1), &large).await;
    let cut =
        async || letters(&jetstream).await.iter().filter(|(_, _, bytes)| bytes.len() > most / 2).count();
    until("both are parked", SOON, async || cut().await == 2).await;
    still_works(&installation, &target, "gw-after-the-large").await;

    // On hl.signal only the classifier may write, and expects its own record there: the debouncer parks what is
    // strange, the classifier of that partition says which message is in its way until a person takes it out.
    let signal = topology.signal(3);
    let before = letters(&jetstream).await.len();
    let mut strange = vec![];
    for (_, poison) in poisons(&frame) {
        strange.push(publish(&signal, &poison).await);
    }
    until("the debouncer parks it", SOON, async || letters(&jetstream).await.len() == before + strange.len())
        .await;
    let readiness = || installation.admin("classifier", 0, "/readyz");
    until("the classifier says so", SOON, async || readiness().contains("take that message out")).await;
    let inputs = jetstream.get_stream("INPUTS").await.unwrap();
    for sequence in strange {
        inputs.delete_message(sequence).await.unwrap();
    }
    until("the classifier goes on", SOON, async || readiness().contains("ready\n")).await;
    for n in 0..8 {
        still_works(&installation, &target, &format!("gw-last-{n}")).await;
    }
    installation.conserved();
}

/// N3, F12: entries of buckets that cannot be read are told of, and the stages go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_f12_poison_in_every_bucket_is_told_of_and_the_stages_go_on() {
    let target = Target::start().await;
    let playbooks = scratch("bad-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &playbooks, |_, text| text.replace("127.0.0.1:44001", &address));
    let mut installation = Installation::broker("poison-buckets", &playbooks, "default");
    installation.variable("HOLDLINE_REPLAYER_TIERS_S", "2");
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let jetstream = jetstream::new(installation.client("provisioner").await);
    let store = async |bucket| jetstream.get_key_value(Topology::default().bucket(bucket)).await.unwrap();
    let sender = Sender::new(installation.gateways(), "telephony");
    let report = async |entity: &str, status: &str, times: i64| {
        for n in 0..times {
            let now = clock::wall_ms();
            sender.deliver(&event(&format!("{entity}-{status}-{now}-{n}"), entity, status, now)).await;
        }
    };
    let calls = |path: &str| target.calls().iter().filter(|call| call.path == path).count();
    let kinds = poisons(&wire::encode(&Installed { partitions: 4 }));

    // INTENTS: it counts as "perhaps made", so this idempotent target is asked, with its key.
    let intents = store(Bucket::Intents).await;
    for (n, (what, poison)) in kinds.iter().enumerate() {
        let entity = format!("gw-{n}");
        intents.put(token(&["loop", "failover", &entity]), poison.clone().into()).await.unwrap();
        report(&entity, "FAILED", 3).await;
        let path = format!("/act/remediate/{entity}");
        until(&format!("{path} despite {what}"), SOON, async || calls(&path) == 1).await;
    }
    assert!(installation.log_of("executor", 0).contains("an intent cannot be read"));

    // INCIDENTS: people see the others; the next decision of the incident writes it anew.
    let incidents = store(Bucket::Incidents).await;
    let output = installation.holdline(&["incidents", "--output", "json"]);
    let open: Value = serde_json::from_slice(&output.stdout).unwrap();
    let open = open.as_array().unwrap();
    assert_eq!(open.len(), kinds.len());
    for (incident, (_, poison)) in open.iter().zip(&kinds) {
        incidents.put(incident["incidentId"].as_str().unwrap(), poison.clone().into()).await.unwrap();
    }
    let output = installation.holdline(&["incidents", "--output", "json"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("cannot be read"));
    for n in 0..kinds.len() {
        report(&format!("gw-{n}"), "HEALTHY", 2).await;
    }
    for n in 0..kinds.len() {
        let path = format!("/act/revert/gw-{n}");
        until(&path, SOON, async || calls(&path) == 1).await;
    }

    // RATE: as if the whole second had been used, and then it is written anew.
    store(Bucket::Rate).await.put(token(&[&address]), vec![0xff; 100].into()).await.unwrap();
    report("gw-rate", "FAILED", 3).await;
    until("the call in its turn", SOON, async || calls("/act/remediate/gw-rate") == 1).await;
    assert!(installation.log_of("executor", 0).contains("an entry of RATE cannot be read"));

    // TARGETS: it says nothing, so the letter goes back.
    target.fail_at("gw-target", 5, 503);
    report("gw-target", "FAILED", 3).await;
    until("the letter", SOON, async || !letters(&jetstream).await.is_empty()).await;
    store(Bucket::Targets).await.put(token(&[&address]), vec![0xff; 100].into()).await.unwrap();
    until("the replay", SOON, async || calls("/act/remediate/gw-target") == 6).await;
    assert!(installation.log_of("dlq-replayer", 0).contains("of TARGETS"));

    // PLAYBOOKS: the set in force stays in force.
    let playbooks_bucket = store(Bucket::Playbooks).await;
    for (n, (what, poison)) in kinds.iter().enumerate() {
        if n % 2 == 0 {
            playbooks_bucket.put("current", poison.clone().into()).await.unwrap();
        } else {
            let hash = format!("{n:016x}");
            playbooks_bucket.put(format!("set.{hash}"), poison.clone().into()).await.unwrap();
            playbooks_bucket.put("current", hash.into()).await.unwrap();
        }
        until(what, SOON, async || installation.admin("classifier", 0, "/readyz").contains("playbooks: "))
            .await;
    }
    report("gw-by-the-old-set", "FAILED", 3).await;
    until("the call", SOON, async || calls("/act/remediate/gw-by-the-old-set") == 1).await;
    installation.push(&playbooks);
    until("ready", SOON, async || installation.admin("classifier", 0, "/readyz").contains("ready\n")).await;

    // What was provisioned: a stage that starts waits, and says for what.
    let good = playbooks_bucket.get("installation").await.unwrap().unwrap();
    playbooks_bucket.put("installation", kinds[2].1.clone().into()).await.unwrap();
    installation.kill("debouncer", 0);
    installation.spawn("debouncer", 0);
    until("it waits", SOON, async || {
        installation.admin("debouncer", 0, "/readyz").contains("not a readable installation")
    })
    .await;
    playbooks_bucket.put("installation", good).await.unwrap();
    report("gw-last", "FAILED", 3).await;
    until("the last call", SOON, async || calls("/act/remediate/gw-last") == 1).await;
    installation.conserved();
}
