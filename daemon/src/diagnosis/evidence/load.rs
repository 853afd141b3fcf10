//! Round trips under load. Never those of a single segment, which a receiver may acknowledge late on purpose.

use datapath::{layout::RttHistogram, rtt::RttTicks};

use super::Tally;

/// A round trip is slow if it takes that much longer than the least one, and twice as long.
const SLOW_BY_NS: u64 = 15_000_000;

/// Round trips while at least two large segments were in flight.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// All of them.
    pub round_trips: RttHistogram,
    /// Of those that were not slow.
    pub quick: Flight,
    /// Of those that took at least twice the least, and 15 ms longer.
    pub slow: Flight,
    /// When the slow ones were.
    pub slow_tally: Tally,
}

impl Loaded {
    /// A round trip while `in_flight` bytes were on their way; `least_ns` is the least of all.
    pub(super) fn add(&mut self, round_trip: RttTicks, least_ns: u64, in_flight: u32, now_ns: u64) {
        let elapsed_ns = round_trip.as_ns();
        self.round_trips.add(round_trip);
        let slow_ns = least_ns.saturating_mul(2).max(least_ns.saturating_add(SLOW_BY_NS));
        if elapsed_ns > slow_ns {
            self.slow_tally.add(now_ns);
            self.slow.add(in_flight, elapsed_ns);
        } else {
            self.quick.add(in_flight, elapsed_ns);
        }
    }
}

/// Round trips, and what was in flight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flight {
    /// How many.
    pub samples: u64,
    bytes: u64,
    elapsed_ns: u64,
}

impl Flight {
    const fn add(&mut self, bytes: u32, elapsed_ns: u64) {
        self.samples += 1;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.elapsed_ns = self.elapsed_ns.saturating_add(elapsed_ns);
    }

    /// Bytes in flight on average; 0 where there was no round trip.
    #[must_use]
    pub fn in_flight(&self) -> f64 {
        self.bytes as f64 / self.samples.max(1) as f64
    }

    /// Bytes per ns, by Little's law.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed_ns.max(1) as f64
    }
}
