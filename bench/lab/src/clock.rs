//! The lab's only clock reader: monotonic and wall time as nanoseconds. Never decides anything by
//! time itself; everyone else takes time as an argument or waits through this file.

use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME in nanoseconds since 1970.
#[must_use]
pub fn wall_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

/// A duration as nanoseconds; durations beyond 584 years saturate.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps until CLOCK_MONOTONIC reaches `deadline_ns`.
pub fn sleep_until(deadline_ns: u64) {
    let left = deadline_ns.saturating_sub(monotonic_ns());
    if left > 0 {
        thread::sleep(Duration::from_nanos(left));
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("both clocks exist on every Linux");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(NANOS_PER_SEC).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_advances_past_a_deadline() {
        let deadline = monotonic_ns() + 1_000_000;
        sleep_until(deadline);
        assert!(monotonic_ns() >= deadline);
    }

    #[test]
    fn wall_time_is_after_2020() {
        assert!(wall_ns() > 1_577_836_800 * NANOS_PER_SEC);
    }
}
