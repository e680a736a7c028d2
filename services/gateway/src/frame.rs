//! The hot path: whatever waits for a partition becomes one frame, one durable write (architecture.md 2).
//!
//! One task per partition, one frame of it in flight: a retry can never overtake, and while a write is under
//! way the next frame gathers. A lone event waits for nothing. When there is nothing to send, ticks say that
//! nothing is held back; they come ever more rarely, but never later than a thirtieth of the quiet time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use holdline_proto::event::{Accepted, Frame, Heard};
use holdline_proto::limits::{FRAME_BYTES_MAX, FRAME_EVENTS_MAX};
use holdline_proto::wire;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock::{self, Instant};
use holdline_stage::run::Tasks;
use tokio::sync::{mpsc, oneshot};

/// Events of one partition that wait for a frame. Beyond: 503.
pub(crate) const WAITING_MAX: usize = 8_192;

/// A frame that is not known to be stored after this is given up, and its events are answered 503. Below the
/// platform's own patience of five seconds.
const WRITE_MAX: Duration = Duration::from_millis(4_000);

/// The first tick after an event.
const TICK_MIN: Duration = Duration::from_secs(1);

/// Ticks come at least this often.
const TICK_MAX: Duration = Duration::from_secs(30);

/// An event that waits to be stored, and who wants to know.
pub(crate) struct Waiting {
    pub event: Accepted,
    pub stored: oneshot::Sender<bool>,
}

/// When each subscription was last heard, whatever its partition.
#[derive(Debug, Default)]
pub(crate) struct LastHeard(Mutex<HashMap<String, Instant>>);

impl LastHeard {
    pub(crate) fn note(&self, subscription: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(subscription) {
            Some(at) => *at = clock::now(),
            None => drop(last.insert(subscription.into(), clock::now())),
        }
    }

    /// Those heard since an earlier look.
    fn since(&self, earlier: Option<Instant>) -> Vec<Heard> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = last.iter().filter(|(_, at)| earlier.is_none_or(|earlier| **at >= earlier));
        heard
            .map(|(subscription, at)| Heard {
                subscription: subscription.clone(),
                age_ms: u32::try_from(at.elapsed().as_millis()).unwrap_or(u32::MAX),
            })
            .collect()
    }
}

/// Where frames are made durable: the broker, or a test.
pub(crate) trait Log: Send + Sync + 'static {
    /// Stores a frame under an id that makes a repeat harmless.
    fn store(
        &self,
        partition: u16,
        id: &str,
        frame: bytes::Bytes,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Log for Bus {
    async fn store(&self, partition: u16, id: &str, frame: bytes::Bytes) -> Result<(), StoreError> {
        let mut epoch = self.epoch();
        epoch.mark_unchanged();
        let message = PublishMessage::build().message_id(id).payload(frame);
        tokio::select! {
            stored = self.publish(message.outbound_message(self.topology().event(partition))) => stored.map(drop),
            // On a new connection no answer to the old one's publishes will come.
            _ = epoch.changed() => Err(StoreError::Unknown("the connection is new".into())),
        }
    }
}

/// One partition's frames.
pub(crate) struct Framer<L> {
    pub log: Arc<L>,
    pub partition: u16,
    /// Stable name of the gateway.
    pub gateway: String,
    /// Distinguishes this run's message ids from those of earlier ones.
    pub run: String,
    pub heard: Arc<LastHeard>,
}

impl<L: Log> Framer<L> {
    /// Sends frames until the senders are gone, then says goodbye.
    pub(crate) async fn send(self, mut waiting: mpsc::Receiver<Waiting>, tasks: Tasks) {
        let mut frames = 0u64;
        let mut told = None;
        let mut quiet_since = clock::now();
        let mut left_over = None;
        loop {
            let pause = tick_after(quiet_since.elapsed());
            let first = match left_over.take() {
                Some(waiting) => Some(waiting),
                // The very first frame goes out at once: the watermark begins with it.
                None if frames == 0 => waiting.try_recv().ok(),
                None => match tokio::time::timeout(pause, waiting.recv()).await {
                    Ok(Some(waiting)) => Some(waiting),
                    Ok(None) => break,
                    Err(_) => None,
                },
            };
            let mut gathered = vec![];
            if let Some(first) = first {
                quiet_since = clock::now();
                left_over = gather(first, &mut waiting, &mut gathered);
            }
            let looked = clock::now();
            let next_within = tick_after(quiet_since.elapsed());
            let frame = self.frame(&mut gathered, next_within, false, told);
            let stored = self.store(frames, &frame, &tasks).await;
            frames += 1;
            if stored {
                told = Some(looked);
            }
            for (_, sender) in gathered {
                // A sender that has hung up no longer wants to know.
                sender.send(stored).ok();
            }
        }
        let goodbye = self.frame(&mut vec![], Duration::ZERO, true, told);
        self.store(frames, &goodbye, &tasks).await;
    }

    fn frame(
        &self,
        gathered: &mut Vec<(Accepted, oneshot::Sender<bool>)>,
        next_within: Duration,
        leaving: bool,
        told: Option<Instant>,
    ) -> bytes::Bytes {
        let mut senders = vec![];
        let mut events = vec![];
        for (event, sender) in gathered.drain(..) {
            events.push(event);
            senders.push(sender);
        }
        let frame = Frame {
            gateway: self.gateway.clone(),
            next_within_ms: u32::try_from(next_within.as_millis()).unwrap_or(u32::MAX),
            leaving,
            heard: self.heard.since(told),
            events,
            ..Frame::default()
        };
        let bytes = wire::encode(&frame);
        gathered.extend(frame.events.into_iter().zip(senders));
        bytes.into()
    }

    /// Stores a frame, again under the same id while it is not known to be stored.
    async fn store(&self, number: u64, frame: &bytes::Bytes, tasks: &Tasks) -> bool {
        let id = format!("{}-{}-{}-{number}", self.gateway, self.run, self.partition);
        let began = clock::now();
        loop {
            let error = match self.log.store(self.partition, &id, frame.clone()).await {
                Ok(()) => return true,
                Err(error) => error,
            };
            let left = WRITE_MAX.saturating_sub(began.elapsed());
            if left.is_zero() || tasks.is_stopping() {
                tracing::error!(
                    partition = self.partition,
                    "a frame is given up after {WRITE_MAX:?}: {error}"
                );
                return false;
            }
            tracing::warn!(partition = self.partition, "a frame is not known to be stored: {error}; again");
            clock::sleep(Duration::from_millis(20).min(left)).await;
        }
    }
}

/// Takes what waits, up to a frame's bounds; gives back what no longer fits.
fn gather(
    first: Waiting,
    waiting: &mut mpsc::Receiver<Waiting>,
    gathered: &mut Vec<(Accepted, oneshot::Sender<bool>)>,
) -> Option<Waiting> {
    let mut bytes = first.event.body.len();
    gathered.push((first.event, first.stored));
    while gathered.len() < FRAME_EVENTS_MAX {
        let Ok(next) = waiting.try_recv() else { return None };
        bytes += next.event.body.len();
        if bytes > FRAME_BYTES_MAX {
            return Some(next);
        }
        gathered.push((next.event, next.stored));
    }
    None
}

/// The pause before the next tick: a thirtieth of the quiet time.
fn tick_after(quiet: Duration) -> Duration {
    (quiet / 30).clamp(TICK_MIN, TICK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails the first so many writes, and keeps what was stored.
    struct Shaky {
        failures: Mutex<u32>,
        stored: Mutex<Vec<(String, Frame)>>,
    }

    impl Log for Shaky {
        async fn store(&self, _partition: u16, id: &str, frame: bytes::Bytes) -> Result<(), StoreError> {
            clock::sleep(Duration::from_millis(10)).await;
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(StoreError::Unknown("test".into()));
            }
            self.stored.lock().unwrap().push((id.into(), wire::decode(&frame).unwrap()));
            Ok(())
        }
    }

    fn event(n: usize, bytes: usize) -> Accepted {
        Accepted {
            accept_id: n.to_string(),
            accepted_ms: 0,
            subscription: "s".into(),
            body: vec![b' '; bytes],
            origin: None,
        }
    }

    /// Sends events of these sizes at once; gives the frames' sizes and whether each event was stored.
    async fn run(failures: u32, sizes: &[usize]) -> (Vec<(String, usize)>, Vec<bool>) {
        let log = Arc::new(Shaky { failures: Mutex::new(failures), stored: Mutex::default() });
        let framer = Framer {
            log: log.clone(),
            partition: 0,
            gateway: "g".into(),
            run: "r".into(),
            heard: Arc::default(),
        };
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut answers = vec![];
        for (n, bytes) in sizes.iter().enumerate() {
            let (stored, answer) = oneshot::channel();
            sender.send(Waiting { event: event(n, *bytes), stored }).await.unwrap();
            answers.push(answer);
        }
        let tasks = Tasks::default();
        tasks.spawn(framer.send(receiver, tasks.clone()));
        let mut stored = vec![];
        for answer in answers {
            stored.push(answer.await.unwrap());
        }
        drop(sender);
        tasks.wait().await;
        let log = log.stored.lock().unwrap();
        let order: Vec<String> =
            log.iter().flat_map(|(_, f)| &f.events).map(|e| e.accept_id.clone()).collect();
        let expected: Vec<String> = (0..order.len()).map(|n| n.to_string()).collect();
        assert_eq!(order, expected, "in the order of acceptance");
        assert!(log.last().unwrap().1.leaving, "it says goodbye");
        let frames = log.iter().filter(|(_, f)| !f.events.is_empty());
        (frames.map(|(id, frame)| (id.clone(), frame.events.len())).collect(), stored)
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_becomes_one_write() {
        let (frames, stored) = run(0, &[100; 50]).await;
        assert_eq!(frames, [("g-r-0-0".to_string(), 50)]);
        assert!(stored.iter().all(|stored| *stored));
        let (frames, _) = run(0, &[1; 600]).await;
        assert_eq!(frames.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [128, 128, 128, 128, 88]);
        let (frames, _) = run(0, &[100_000, 100_000, 200_000, 10]).await;
        assert_eq!(frames.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_write_is_repeated_under_its_id_and_given_up_in_time() {
        let (frames, stored) = run(3, &[10, 10]).await;
        assert_eq!((frames, stored), (vec![("g-r-0-0".to_string(), 2)], vec![true, true]));
        let (frames, stored) = run(150, &[10]).await;
        assert_eq!((frames, stored), (vec![], vec![false]));
    }

    #[test]
    fn ticks_become_rarer_with_the_quiet_time() {
        let check = |quiet_s, expected_s| {
            assert_eq!(tick_after(Duration::from_secs(quiet_s)), Duration::from_secs(expected_s));
        };
        check(0, 1);
        check(30, 1);
        check(90, 3);
        check(900, 30);
        check(90_000, 30);
    }
}
