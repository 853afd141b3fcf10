//! The only place that reads a clock. Kernel times are CLOCK_MONOTONIC; wall time is that plus an offset, sampled
//! again and again, so that a step of the wall clock moves no interval.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};

/// An offset that changes by more than this between two samples is a step, not the clock's discipline.
const STEP_NS: u64 = 5_000_000;
/// Readings per sample; the tightest is kept.
const READINGS: usize = 5;

/// A moment in both times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC, ns: intervals are measured in it.
    pub monotonic_ns: u64,
    /// Wall time minus that, ns, as of the last sample.
    pub offset_ns: i64,
}

impl Moment {
    /// Unix ns of a monotonic time, as of this moment.
    #[must_use]
    pub const fn wall_of(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.offset_ns)
    }

    /// Unix ns.
    #[must_use]
    pub const fn wall_ns(self) -> u64 {
        self.wall_of(self.monotonic_ns)
    }
}

/// Monotonic and wall time, and the offset between them.
#[derive(Debug)]
pub struct Clock {
    offset_ns: AtomicI64,
    error_ns: AtomicU64,
    steps: AtomicU64,
}

impl Clock {
    /// A clock with a first sample.
    #[must_use]
    pub fn new() -> Self {
        let (offset_ns, error_ns) = measure();
        Self {
            offset_ns: AtomicI64::new(offset_ns),
            error_ns: AtomicU64::new(error_ns),
            steps: AtomicU64::new(0),
        }
    }

    /// CLOCK_MONOTONIC, ns: what `bpf_ktime_get_ns` reads.
    #[must_use]
    pub fn monotonic_ns(&self) -> u64 {
        u64::try_from(read(ClockId::CLOCK_MONOTONIC)).expect("monotonic time starts at 0")
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment { monotonic_ns: self.monotonic_ns(), offset_ns: self.offset_ns() }
    }

    /// Wall time, ns since the epoch.
    #[must_use]
    pub fn wall_ns(&self) -> i64 {
        read(ClockId::CLOCK_REALTIME)
    }

    /// Samples the offset. Returns true when the wall clock was stepped since the last sample. An offset that both samples
    /// allow is kept, so that the wall time of a moment stays what it was said to be.
    pub fn sample(&self) -> bool {
        let (offset_ns, error_ns) = measure();
        let before = self.offset_ns();
        if offset_ns.abs_diff(before) <= error_ns.saturating_add(self.error_ns()) {
            return false;
        }
        self.offset_ns.store(offset_ns, Ordering::Relaxed);
        self.error_ns.store(error_ns, Ordering::Relaxed);
        let stepped = offset_ns.abs_diff(before) > STEP_NS;
        if stepped {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
        stepped
    }

    /// Wall time minus monotonic time as of the last sample, ns.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        self.offset_ns.load(Ordering::Relaxed)
    }

    /// Bound of that offset's error when it was sampled, ns.
    #[must_use]
    pub fn error_ns(&self) -> u64 {
        self.error_ns.load(Ordering::Relaxed)
    }

    /// Steps of the wall clock seen.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Wall time between two monotonic readings: the tightest pair of several bounds the error best.
fn measure() -> (i64, u64) {
    let sample = || {
        let before = read(ClockId::CLOCK_MONOTONIC);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_MONOTONIC);
        let width = after.abs_diff(before);
        (wall - (before + after) / 2, width.div_ceil(2))
    };
    let samples = std::array::from_fn::<_, READINGS, _>(|_| sample());
    samples.into_iter().min_by_key(|(_, error)| *error).expect("there are several readings")
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("these clocks exist on every Linux");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_joins_the_two_clocks() {
        let clock = Clock::new();
        let wall = clock.wall_ns();
        let joined = i64::try_from(clock.monotonic_ns()).unwrap() + clock.offset_ns();
        assert!(joined.abs_diff(wall) < 1_000_000_000);
        let offset_ns = clock.offset_ns();
        for _ in 0..100 {
            assert!(!clock.sample(), "nothing stepped");
        }
        // No reading was interrupted between its two clocks for longer than its error says.
        assert_eq!(clock.offset_ns(), offset_ns, "and so no moment has another name");
    }
}
