//! The broker's time, for what is compared with its timestamps: deadlines, and when a dead letter is due. The
//! clock of the machine that a service runs on may be an hour off, or be set while it runs (F10).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdline_proto::topology::Bucket;
use serde::Deserialize;

use crate::bus::Bus;
use crate::clock::{self, Instant};
use crate::run::{Shell, Stopped};

/// Between looks at the broker's clock; between them the monotonic clock goes on from the last one.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Before the first look has succeeded.
const FIRST_LOOK_EVERY: Duration = Duration::from_millis(200);

/// An answer that took longer says too little.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// The broker's clock, as read last.
#[derive(Debug, Clone)]
pub struct BrokerTime(Arc<Mutex<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    broker_ms: i64,
    at: Instant,
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
        shell.health.awaiting("broker time", "not read yet");
        let first = loop {
            match look(bus).await {
                Ok(reading) => break reading,
                Err(why) => shell.health.missing("broker time", why),
            }
            tokio::select! {
                () = clock::sleep(FIRST_LOOK_EVERY) => {}
                () = shell.tasks.stopping() => return Err(Stopped("the broker's clock was read").into()),
            }
        };
        shell.health.present("broker time");
        let time = BrokerTime(Arc::new(Mutex::new(first)));
        let (kept, bus, tasks) = (time.clone(), bus.clone(), shell.tasks.clone());
        shell.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = clock::sleep(LOOK_EVERY) => {}
                    () = tasks.stopping() => return,
                }
                match look(&bus).await {
                    Ok(reading) => *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = reading,
                    Err(why) => tracing::debug!("the broker's clock is not read: {why}"),
                }
            }
        });
        Ok(time)
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.broker_ms.saturating_add(i64::try_from(reading.at.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

async fn look(bus: &Bus) -> Result<Reading, String> {
    // Any answer about a stream carries the server's time, and everyone may ask about this one.
    let subject = format!("STREAM.INFO.{}", bus.topology().bucket_stream(Bucket::Playbooks));
    let asked = clock::now();
    let told: Told = bus.context().request(subject, &()).await.map_err(|error| error.to_string())?;
    let took = asked.elapsed();
    if took > ROUND_TRIP_MAX {
        return Err(format!("the broker took {took:?} to answer"));
    }
    Ok(Reading { broker_ms: told.ts.as_millisecond(), at: asked + took / 2 })
}
