//! Load: signed events over plain connections, as cheap as a generator that shares the machine can be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdline_stage::clock::{self, Instant};
use holdline_stage::run::Tasks;
use holdline_tests::sender::sign;
use holdline_tests::target::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// In the closed loop one event in so many leads to an action: each entity fails three times and is then
/// healthy twice, 20 times over.
pub(crate) const EVENTS_PER_ACTION: u64 = 50;

struct Connection {
    stream: TcpStream,
    path: String,
}

impl Connection {
    async fn open(to: SocketAddr, path: &str) -> Connection {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, path: path.into() }
    }

    async fn post(&mut self, id: &str, entity: &str, status: &str) {
        let now_ms = clock::wall_ms();
        let body = format!(
            r#"{{"id":"{id}","topicName":"telephony.service.status","timestamp":{now_ms},"data":{{"gatewayId":"{entity}","status":"{status}","site":"lisbon","detail":"{}"}}}}"#,
            "x".repeat(220)
        );
        let timestamp = (now_ms / 1_000).to_string();
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\nX-PureCloud-Timestamp: {timestamp}\r\nX-PureCloud-Signature: {}\r\n\r\n{body}",
            self.path,
            body.len(),
            sign(&timestamp, body.as_bytes())
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        let mut buffer = [0; 4_096];
        loop {
            let read = self.stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the connection was closed");
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if rest.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
                    return;
                }
            }
        }
    }
}

/// So many connections, each posting its next event when the last one is answered; gives the number of
/// events and the latencies in ms. One event in [`EVENTS_PER_ACTION`] leads to an action.
pub(crate) async fn closed(to: SocketAddr, path: &str, connections: u64, time: Duration) -> (u64, Vec<f64>) {
    let latencies = Arc::new(Mutex::new(vec![]));
    let tasks = Tasks::default();
    let until = clock::now() + time;
    for connection in 0..connections {
        let (latencies, path) = (latencies.clone(), path.to_string());
        tasks.spawn(async move {
            let mut to = Connection::open(to, &path).await;
            let mut own = vec![];
            let mut n = 0u64;
            while clock::now() < until {
                let began = clock::now();
                let entity = format!("closed-{connection}-{}", n / EVENTS_PER_ACTION);
                // 47 events of jitter, which never confirms, then a failure.
                let status = match n % EVENTS_PER_ACTION {
                    step if step >= EVENTS_PER_ACTION - 3 => "FAILED",
                    step if step % 2 == 0 => "FAILED",
                    _ => "HEALTHY",
                };
                to.post(&format!("c{connection}-{n}"), &entity, status).await;
                own.push(began.elapsed().as_secs_f64() * 1_000.0);
                n += 1;
            }
            latencies.lock().unwrap().extend(own);
        });
    }
    tasks.wait().await;
    let latencies = latencies.lock().unwrap().clone();
    (latencies.len() as u64, latencies)
}

/// So many entities per second fail three times, whatever became of the earlier ones; gives the times from
/// the instant when the third failure was due to the arrival of the action, in ms.
pub(crate) async fn open(
    to: SocketAddr,
    path: &str,
    target: &Target,
    per_second: u64,
    time: Duration,
) -> Vec<f64> {
    let run = clock::wall_ms();
    let due: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let tasks = Tasks::default();
    let began = clock::now() + Duration::from_millis(300);
    // Enough connections that one waiting answer holds nobody up.
    const CONNECTIONS: u64 = 64;
    let count = per_second * time.as_secs();
    for connection in 0..CONNECTIONS {
        let (due, path) = (due.clone(), path.to_string());
        tasks.spawn(async move {
            let mut to = Connection::open(to, &path).await;
            for n in (connection..count).step_by(CONNECTIONS as usize) {
                let at = began + Duration::from_secs_f64(n as f64 / per_second as f64);
                let entity = format!("open-{run}-{n}");
                due.lock().unwrap().insert(entity.clone(), at);
                for (step, early_ms) in [(0, 100u64), (1, 50), (2, 0)] {
                    tokio::time::sleep_until(at - Duration::from_millis(early_ms)).await;
                    to.post(&format!("{entity}-{step}"), &entity, "FAILED").await;
                }
            }
        });
    }
    tasks.wait().await;
    let mut arrived = HashMap::new();
    let waited = clock::now();
    while (arrived.len() as u64) < count && waited.elapsed() < Duration::from_secs(30) {
        clock::sleep(Duration::from_millis(200)).await;
        arrived = target
            .effects()
            .into_iter()
            .filter_map(|call| Some((call.path.rsplit('/').next()?.to_string(), call.at)))
            .filter(|(entity, _)| due.lock().unwrap().contains_key(entity))
            .collect();
    }
    let due = due.lock().unwrap();
    arrived.iter().map(|(entity, at)| at.duration_since(due[entity]).as_secs_f64() * 1_000.0).collect()
}

pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// p50, p99, max and how many of those wanted.
pub(crate) fn shown(values: &[f64], wanted: u64) -> String {
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} of {wanted} actions)",
        percentile(values, 50.0),
        percentile(values, 99.0),
        percentile(values, 100.0),
        values.len()
    )
}
