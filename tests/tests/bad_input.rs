//! G5, F12, F13: bad input gets a clear answer, is not passed on, and harms nobody.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holdline_proto::topology::Topology;
use holdline_stage::clock;
use holdline_tests::programs::{Installation, changed_sample, scratch};
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
}

/// N3: a message that cannot be understood is parked with its bytes on every reader, and the stage goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_poison_is_parked_and_the_stages_go_on() {
    let (installation, target) = installed("poison").await;
    let topology = Topology::default();
    let client = installation.client("provisioner").await;
    let poisons: Vec<Vec<u8>> =
        vec![vec![], b"{}".to_vec(), vec![0xff; 1_000], vec![0x81; 100_000], (0..=255).collect()];
    let mut count = 0;
    for partition in 0..4 {
        for subject in [
            topology.event(partition),
            format!("hl.internal.fact.{partition}"),
            format!("hl.internal.operator.{partition}"),
            topology.retried(partition, "poison"),
            topology.fired(partition),
            topology.outcome(partition, "poison"),
            topology.command(partition, "poison"),
        ] {
            for poison in &poisons {
                client.publish(subject.clone(), poison.clone().into()).await.unwrap();
                count += 1;
            }
        }
    }
    client.flush().await.unwrap();
    for n in 0..8 {
        still_works(&installation, &target, &format!("gw-{n}")).await;
    }
    let jetstream = async_nats::jetstream::new(client);
    for _ in 0..200 {
        let parked = jetstream.get_stream("DEAD").await.unwrap().cached_info().state.messages;
        if parked == count {
            return;
        }
        clock::sleep(Duration::from_millis(50)).await;
    }
    let parked = jetstream.get_stream("DEAD").await.unwrap().cached_info().state.messages;
    assert_eq!(parked, count);
}
