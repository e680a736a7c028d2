//! Clocks, and the room on this machine's disk.

use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::Bus;
use holdline_stage::clock as clocks;

use super::Scene;
use super::finding::Finding;

/// With less left a person is needed, unless told otherwise: what a gateway's spool may take in an outage.
pub(super) const DISK_FREE_MIB_MIN: u64 = 1_024;

/// With less left it is worth a note.
const DISK_FREE_PERCENT_MIN: u64 = 10;

/// Milliseconds that clocks may differ by. Whoever sets them by NTP has them within a few; the gateway refuses what
/// is signed a minute in its future.
const CLOCK_OFF_MS_MAX: u64 = 5_000;

/// The broker's clock against this machine's.
pub(super) async fn clock(bus: &Bus) -> anyhow::Result<Vec<Finding>> {
    let broker_ms = match BrokerTime::once_ms(bus).await {
        Ok(broker_ms) => broker_ms,
        Err(why) => {
            let todo = "look at the network between here and the broker, then call `holdline doctor` again";
            return Ok(vec![Finding::person("clock", format!("the broker's is not told: {why}"), todo)]);
        }
    };
    Ok(vec![compare(broker_ms, clocks::wall_ms())])
}

fn compare(broker_ms: i64, here_ms: i64) -> Finding {
    let off_ms = here_ms.abs_diff(broker_ms);
    let side = if here_ms > broker_ms { "ahead of" } else { "behind" };
    let found = format!("this machine's is {off_ms} ms {side} the broker's");
    if off_ms <= CLOCK_OFF_MS_MAX {
        return Finding::well("clock", found);
    }
    let todo = "one of the two is wrong: set both machines by NTP (`timedatectl` says whether they are), and those of \
                the services; a gateway with a wrong clock refuses signed events as too old or too early";
    Finding::person("clock", found, todo)
}

/// What is left for the data folder. Of another machine's disk nothing is known here.
pub(super) async fn disk(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let Some(data) = &scene.data else {
        return Ok(vec![Finding::unknown(
            "disk",
            "not known: the broker's store is not in a data folder of this machine",
            "look at the disks of the broker's and the gateways' machines with `df`",
        )]);
    };
    let of = rustix::fs::statvfs(&data.0);
    let of = of.map_err(|error| anyhow::anyhow!("the disk of {}: {error}", data.0.display()))?;
    let mib = |blocks: u64| blocks.saturating_mul(of.f_frsize) / (1024 * 1024);
    let place = data.0.display().to_string();
    Ok(vec![room(&place, mib(of.f_bavail), mib(of.f_blocks), scene.disk_free_mib_min)])
}

fn room(place: &str, free_mib: u64, all_mib: u64, free_mib_min: u64) -> Finding {
    let found = format!("{free_mib} MiB of {all_mib} MiB are left for {place}");
    let todo =
        "make room, or give the data folder a larger disk: when it is full nothing is accepted any more";
    if free_mib < free_mib_min {
        return Finding::person("disk", format!("{found}; {free_mib_min} MiB is the least"), todo);
    }
    if free_mib.saturating_mul(100) < all_mib.saturating_mul(DISK_FREE_PERCENT_MIN) {
        return Finding::note("disk", format!("{found}, less than {DISK_FREE_PERCENT_MIN} %"), todo);
    }
    Finding::well("disk", found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        let check = |here_ms, state, part: &str| {
            let finding = compare(1_000_000, here_ms);
            assert_eq!(finding.state, state, "{here_ms}");
            assert!(finding.found.contains(part), "{}", finding.found);
        };
        check(1_000_003, State::Well, "3 ms ahead of");
        check(995_000, State::Well, "5000 ms behind");
        check(994_999, State::Person, "5001 ms behind");
        check(1_060_000, State::Person, "60000 ms ahead of");
    }

    #[test]
    fn room_is_needed_and_more_is_better() {
        let check = |free, all, state| assert_eq!(room("/data", free, all, 1_024).state, state, "{free}");
        check(1_023, 2_000, State::Person);
        check(1_024, 2_000, State::Well);
        check(1_024, 100_000, State::Note);
        check(10_000, 100_000, State::Well);
    }
}
