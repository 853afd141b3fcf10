//! Log-linear histograms of round trips as percentiles with a stated bound, for interfaces and services.

use datapath::{
    layout::{HISTOGRAM_BUCKETS, RttHistogram, SUB_BUCKETS, bucket_ticks},
    time::TICK_NS,
};
use serde::Serialize;

/// A percentile and the sample that it stands for differ at most by this factor: a bucket's width.
const ERROR_FACTOR: f64 = 1.0 + 1.0 / SUB_BUCKETS as f64;

/// Round trips of many flows together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencySummary {
    /// Number of round trips.
    pub samples: u64,
    /// Least value of the lowest bucket that has any, ns.
    pub min_ns: u64,
    /// Median, ns.
    pub p50_ns: u64,
    /// 95th percentile, ns.
    pub p95_ns: u64,
    /// 99th percentile, ns.
    pub p99_ns: u64,
    /// Greatest value of the highest bucket that has any, ns.
    pub max_ns: u64,
    /// Each value's true one lies within this factor of it, and a tick of 64 ns.
    pub error_factor: f64,
}

impl Default for LatencySummary {
    fn default() -> Self {
        Self::of(&RttHistogram::default())
    }
}

impl LatencySummary {
    /// What a histogram says.
    #[must_use]
    pub fn of(histogram: &RttHistogram) -> Self {
        let buckets = &histogram.buckets;
        let samples = buckets.iter().sum();
        let lowest = buckets.iter().position(|count| *count > 0);
        let highest = buckets.iter().rposition(|count| *count > 0);
        let at = |percent| percentile_ns(buckets, samples, percent);
        Self {
            samples,
            min_ns: lowest.map_or(0, |bucket| bucket_ticks(bucket) * TICK_NS),
            p50_ns: at(50),
            p95_ns: at(95),
            p99_ns: at(99),
            max_ns: highest.map_or(0, |bucket| (bucket_ticks(bucket + 1) - 1) * TICK_NS),
            error_factor: ERROR_FACTOR,
        }
    }
}

/// The nearest rank's place in its bucket, as if the samples of a bucket were spread evenly over it.
fn percentile_ns(buckets: &[u64; HISTOGRAM_BUCKETS], samples: u64, percent: u64) -> u64 {
    let rank = samples.saturating_mul(percent).div_ceil(100).max(1);
    let mut below = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        if below + count >= rank {
            let from = bucket_ticks(bucket) * TICK_NS;
            let width = (bucket_ticks(bucket + 1) - 1) * TICK_NS - from;
            // At most 274 s times a count that fits 64 bits.
            let share = u128::from(width) * u128::from(rank - below) / u128::from(*count);
            return from + u64::try_from(share).unwrap_or(width);
        }
        below += count;
    }
    0
}

#[cfg(test)]
mod tests {
    use datapath::rtt::RttTicks;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_keep_their_bound(samples in prop::collection::vec(1..200_000_000_u32, 1..400)) {
            let mut histogram = RttHistogram::default();
            samples.iter().for_each(|ticks| histogram.add(RttTicks(*ticks)));
            let summary = LatencySummary::of(&histogram);
            let LatencySummary { min_ns, p50_ns, p95_ns, p99_ns, max_ns, .. } = summary;
            prop_assert!([min_ns, p50_ns, p95_ns, p99_ns, max_ns].is_sorted());
            let mut sorted = samples;
            sorted.sort_unstable();
            let exact = |percent: usize| {
                u64::from(sorted[(sorted.len() * percent).div_ceil(100) - 1]) * TICK_NS
            };
            prop_assert_eq!(summary.samples, sorted.len() as u64);
            for (published, exact) in [
                (summary.min_ns, exact(1).min(u64::from(sorted[0]) * TICK_NS)),
                (summary.p50_ns, exact(50)),
                (summary.p95_ns, exact(95)),
                (summary.p99_ns, exact(99)),
                (summary.max_ns, exact(100)),
            ] {
                let (least, greatest) = (published.min(exact), published.max(exact));
                let bound = (least + TICK_NS) as f64 * ERROR_FACTOR;
                prop_assert!(greatest as f64 <= bound, "{} for {}", published, exact);
            }
        }
    }

    #[test]
    fn without_samples_all_is_zero() {
        let summary = LatencySummary::default();
        assert_eq!((summary.samples, summary.p50_ns, summary.max_ns), (0, 0, 0));
    }
}
