//! Everything that the platform remembers, and its time.

use std::time::Duration;

use jiff::Timestamp;

use crate::Options;
use crate::calls::Calls;
use crate::channels::Channels;
use crate::faults::Faults;
use crate::oauth::Tokens;
use crate::quota::Quotas;
use crate::statuspage::Statuspage;
use crate::world::World;

/// An instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Microseconds on the monotonic clock since the start.
    pub(crate) us: u64,
    /// Unix milliseconds.
    pub(crate) wall_ms: i64,
}

impl Now {
    /// `2026-11-23T10:00:00.000Z`
    pub(crate) fn date(self) -> String {
        self.date_in(Duration::ZERO)
    }

    /// The date when a time from now has passed.
    pub(crate) fn date_in(self, time: Duration) -> String {
        let ahead = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let date = Timestamp::from_millisecond(self.wall_ms.saturating_add(ahead)).unwrap_or_default();
        format!("{date:.3}")
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Fresh UUIDs: of this run and in order, so that a log of them can be read.
pub(crate) struct Ids {
    run: u32,
    given: u64,
}

impl Ids {
    pub(crate) fn next(&mut self) -> String {
        self.given += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.run, self.given & 0xffff_ffff_ffff)
    }
}

/// What stands behind the one mutex.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) world: World,
    pub(crate) tokens: Tokens,
    pub(crate) quotas: Quotas,
    pub(crate) faults: Faults,
    pub(crate) calls: Calls,
    pub(crate) channels: Channels,
    pub(crate) statuspage: Statuspage,
    pub(crate) ids: Ids,
}

impl State {
    pub(crate) fn new(options: Options, now: Now) -> State {
        // The milliseconds of the start keep tokens and ids of two runs apart: a token outlasts no restart.
        let run = u32::try_from(now.wall_ms & 0xffff_ffff).unwrap_or_default();
        State {
            options,
            world: World::new(now),
            tokens: Tokens::default(),
            quotas: Quotas::default(),
            faults: Faults::default(),
            calls: Calls::default(),
            channels: Channels::default(),
            statuspage: Statuspage::new(now),
            ids: Ids { run, given: 0 },
        }
    }

    /// When something happens by itself next. Microseconds since the start.
    pub(crate) fn next_us(&self) -> Option<u64> {
        [self.world.next_us(), self.channels.next_us(self.options.closing_notice)].into_iter().flatten().min()
    }

    /// Lets happen what is due.
    pub(crate) fn settle(&mut self, now: Now) {
        for change in self.world.settle(now) {
            (change.kind.0.settled)(self, &change.key, &change.fields);
        }
        self.channels.settle(self.options.closing_notice, now, &mut self.ids);
    }
}
