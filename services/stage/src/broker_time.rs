//! The broker's time, for what is compared with its timestamps: deadlines, and when a dead letter is due. The
//! clock of the machine that a service runs on may be an hour off, or be set while it runs (F10). Read often
//! enough, and by the quickest answers, that replicas agree on it to a few milliseconds (E5).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_proto::topology::Bucket;
use serde::Deserialize;

use crate::bus::Bus;
use crate::clock::{self, Instant};
use crate::run::Shell;

/// Between looks at the broker's clock; between them the monotonic clock goes on from the last one.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Before the first look has succeeded.
const FIRST_LOOK_EVERY: Duration = Duration::from_millis(200);

/// Questions of one look; the quickest answer says most.
const QUESTIONS: u32 = 4;

/// A reading is off by one more unit for each so many that have passed since: clocks run at slightly different
/// speeds.
const DRIFT: u32 = 5_000;

/// An answer that took longer says too little.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// The broker's clock, as read last.
#[derive(Debug, Clone)]
pub struct BrokerTime(Arc<Mutex<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    broker_us: i64,
    at: Instant,
    /// How far it may be off.
    doubt: Duration,
}

#[derive(Deserialize)]
struct Told {
    ts: jiff::Timestamp,
}

impl BrokerTime {
    /// Reads the broker's clock and goes on doing so; waits for the first answer, loudly.
    ///
    /// # Errors
    /// When the service is stopped before there was one.
    pub async fn follow(bus: &Bus, shell: &Shell) -> anyhow::Result<BrokerTime> {
        let first = shell.wait_for("broker time", FIRST_LOOK_EVERY, || look(bus)).await?;
        let time = BrokerTime(Arc::new(Mutex::new(first)));
        let (kept, bus, tasks) = (time.clone(), bus.clone(), shell.tasks.clone());
        shell.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = clock::sleep(LOOK_EVERY) => {}
                    () = tasks.stopping() => return,
                }
                match look(&bus).await {
                    Ok(reading) => {
                        let mut kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
                        *kept = kept.or(reading);
                    }
                    Err(why) => tracing::debug!("the broker's clock is not read: {why}"),
                }
            }
        });
        Ok(time)
    }

    /// The broker's clock, read once: for a command that somebody types. Unix milliseconds.
    ///
    /// # Errors
    /// When the broker does not answer in time.
    pub async fn once_ms(bus: &Bus) -> Result<i64, String> {
        Ok(look(bus).await?.told_at(clock::now()) / 1_000)
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_us() / 1_000
    }

    /// Unix microseconds.
    pub fn now_us(&self) -> i64 {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.told_at(clock::now())
    }
}

impl Reading {
    /// What the broker's clock shows at an instant. Unix microseconds.
    fn told_at(self, at: Instant) -> i64 {
        let passed = at.saturating_duration_since(self.at).as_micros();
        self.broker_us.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// The better of this and a later one: the later, unless it is less certain; and always, when the clock has
    /// been set between them.
    fn or(self, later: Reading) -> Reading {
        let aged = self.doubt + later.at.saturating_duration_since(self.at) / DRIFT;
        let apart = Duration::from_micros(self.told_at(later.at).abs_diff(later.broker_us));
        if later.doubt <= aged || apart > later.doubt + aged { later } else { self }
    }
}

/// A few questions in a row.
async fn look(bus: &Bus) -> Result<Reading, String> {
    let mut best: Option<Reading> = None;
    for _ in 0..QUESTIONS {
        let reading = ask(bus).await?;
        if best.is_none_or(|best| reading.doubt <= best.doubt) {
            best = Some(reading);
        }
    }
    best.ok_or_else(|| "nothing was asked".into())
}

async fn ask(bus: &Bus) -> Result<Reading, String> {
    // Any answer about a stream carries the server's time, and everyone may ask about this one.
    let subject = format!("STREAM.INFO.{}", bus.topology().bucket_stream(Bucket::Playbooks));
    let asked = clock::now();
    let told: Told = bus.context().request(subject, &()).await.map_err(|error| error.to_string())?;
    let took = clock::since(asked);
    if took > ROUND_TRIP_MAX {
        return Err(format!("the broker took {took:?} to answer"));
    }
    Ok(Reading { broker_us: told.ts.as_microsecond(), at: asked + took / 2, doubt: took / 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_certain_reading_is_kept_until_it_is_old_or_contradicted() {
        let start = clock::now();
        let reading = |after_ms: u64, off_ms: i64, doubt_ms| Reading {
            broker_us: 1_000_000 + i64::try_from(after_ms).unwrap() * 1_000 + off_ms * 1_000,
            at: start + Duration::from_millis(after_ms),
            doubt: Duration::from_millis(doubt_ms),
        };
        let check = |later: Reading, is_taken: bool| {
            let kept = reading(0, 0, 2).or(later);
            assert_eq!(kept.at == later.at, is_taken, "{later:?}");
        };
        check(reading(10_000, 1, 2), true);
        check(reading(10_000, 30, 40), false);
        check(reading(10_000, 0, 4), true);
        check(reading(10_000, 0, 5), false);
        check(reading(10_000, -3_000, 40), true);
    }
}
