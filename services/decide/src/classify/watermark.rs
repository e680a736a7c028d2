//! Up to when everything has been read (architecture.md 7), by the broker's timestamps alone, so that no
//! gateway's clock matters.
//!
//! A gateway has one frame of a partition in flight. So when its next frame is read, everything that it
//! accepted before its previous frame was stored is in one of the two, or the next frame says how much older
//! the oldest event is that it had to leave behind: the previous frame's timestamp, less that, is how far this
//! gateway is complete.

use std::collections::BTreeMap;

use holdline_proto::event::Frame;
use holdline_proto::limits::GATEWAYS_MAX;
use holdline_proto::signal::GatewayMark;

/// A gateway that is this late beyond its own promise is taken for dead, and wake-ups no longer wait for what
/// it may hold in its spool. What it delivers of it after all is late ([`Watermark::has_passed`]).
/// Milliseconds.
const GRACE_MS: i64 = super::LATE_AFTER_MS;

/// A gateway's first frame may have been on its way for this long at most: its write time-out.
const FIRST_FRAME_MS: i64 = 5_000;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Watermark {
    complete_ms: i64,
    now_ms: i64,
    gateways: BTreeMap<String, GatewayMark>,
}

impl Watermark {
    /// A frame was read; `published_ms` is the broker's timestamp.
    pub(super) fn heard(&mut self, frame: &Frame, published_ms: i64) {
        self.now_ms = self.now_ms.max(published_ms);
        if frame.replayed {
            return;
        }
        if frame.leaving {
            self.gateways.remove(&frame.gateway);
            if self.gateways.is_empty() {
                self.complete_ms = self.complete_ms.max(published_ms);
            }
        } else {
            let before = self.gateways.get(&frame.gateway).map(|mark| mark.frame_ms);
            let behind_ms = i64::try_from(frame.behind_ms).unwrap_or(i64::MAX);
            let before_ms = before.unwrap_or(published_ms.saturating_sub(FIRST_FRAME_MS));
            let mark = GatewayMark {
                gateway: frame.gateway.clone(),
                frame_ms: published_ms,
                complete_ms: before_ms.saturating_sub(behind_ms),
                next_within_ms: frame.next_within_ms,
            };
            self.gateways.insert(frame.gateway.clone(), mark);
        }
        let now_ms = self.now_ms;
        self.gateways.retain(|_, mark| {
            now_ms <= mark.frame_ms.saturating_add(i64::from(mark.next_within_ms)).saturating_add(GRACE_MS)
        });
        while self.gateways.len() > GATEWAYS_MAX {
            let oldest = self.gateways.values().min_by_key(|mark| mark.frame_ms).map(|m| m.gateway.clone());
            self.gateways.remove(&oldest.unwrap_or_default());
        }
        let slowest = self.gateways.values().map(|mark| mark.complete_ms).min();
        self.complete_ms = self.complete_ms.max(slowest.unwrap_or(0));
    }

    /// Whether wake-ups may have acted without a frame's events: it comes out of the spool of a gateway that was
    /// not waited for. To be asked before the frame is heard.
    pub(super) fn has_passed(&self, frame: &Frame, published_ms: i64) -> bool {
        let waited_ms = i64::try_from(frame.waited_ms).unwrap_or(i64::MAX);
        waited_ms > 0 && !frame.replayed && published_ms.saturating_sub(waited_ms) < self.complete_ms
    }

    pub(super) fn complete_ms(&self) -> i64 {
        self.complete_ms
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    pub(super) fn gateways(&self) -> Vec<GatewayMark> {
        self.gateways.values().cloned().collect()
    }

    pub(super) fn restore(&mut self, complete_ms: i64, gateways: Vec<GatewayMark>) {
        self.complete_ms = complete_ms;
        self.now_ms = gateways.iter().map(|mark| mark.frame_ms).max().unwrap_or(self.now_ms).max(self.now_ms);
        self.gateways = gateways.into_iter().map(|mark| (mark.gateway.clone(), mark)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_follows_the_slowest_live_gateway() {
        let frame = |gateway: &str, leaving| Frame {
            gateway: gateway.into(),
            next_within_ms: 1_000,
            leaving,
            ..Frame::default()
        };
        let mut watermark = Watermark::default();
        let mut check = |gateway: &str, leaving, at_ms, expected| {
            watermark.heard(&frame(gateway, leaving), at_ms);
            assert_eq!(watermark.complete_ms(), expected, "{gateway} at {at_ms}");
        };
        check("a", false, 10_000, 5_000);
        check("a", false, 11_000, 10_000);
        check("b", false, 11_500, 10_000); // a newcomer never pulls it back
        check("a", false, 12_000, 10_000); // b is complete only to 6,500
        check("b", false, 12_500, 11_000); // a: 11,000, b: 11,500
        check("a", false, 13_500, 11_500);
        check("a", false, 73_499, 11_500);
        check("a", false, 73_501, 73_499); // b is a second and the grace late: dead
        check("a", true, 74_000, 74_000); // said goodbye: nothing is held back
    }

    #[test]
    fn o4_what_a_spool_delivers_after_the_watermark_has_passed_it_is_known() {
        let mut watermark = Watermark::default();
        let mut check = |gateway: &str, (waited_ms, behind_ms), at_ms, expected| {
            let gateway = gateway.to_string();
            let frame = Frame { gateway, waited_ms, behind_ms, next_within_ms: 1_000, ..Frame::default() };
            assert_eq!(watermark.has_passed(&frame, at_ms), expected, "{waited_ms} at {at_ms}");
            watermark.heard(&frame, at_ms);
        };
        check("a", (0, 0), 10_000, false);
        check("b", (0, 0), 10_000, false);
        check("b", (0, 0), 11_000, false);
        check("a", (5_000, 0), 15_000, false); // 10,000: waited for
        check("a", (4_900, 0), 15_001, false);
        check("b", (0, 0), 77_000, false); // a is taken for dead
        check("b", (0, 0), 78_000, false);
        check("a", (5_000, 100), 79_000, true); // 74,000: wake-ups were let go up to 77,000
        check("a", (1_500, 0), 79_000, false);
    }

    #[test]
    fn the_watermark_does_not_pass_what_a_spool_holds_back() {
        let mut watermark = Watermark::default();
        let mut check = |behind_ms, replayed, at_ms, expected| {
            let frame = Frame { behind_ms, replayed, next_within_ms: 1_000, ..Frame::default() };
            watermark.heard(&frame, at_ms);
            assert_eq!(watermark.complete_ms(), expected, "{behind_ms} behind at {at_ms}");
        };
        check(0, false, 10_000, 5_000);
        check(0, false, 11_000, 10_000);
        check(0, false, 40_000, 11_000); // the first of those spooled: the next was accepted after 11,000
        check(20_000, false, 40_100, 20_000); // 20 s before 40,000
        check(20_000, false, 49_000, 20_100); // on its way for long: what is behind it is no younger for that
        check(0, true, 49_050, 20_100); // the dlq-replayer is no gateway
        check(0, false, 49_100, 49_000); // drained
    }
}
