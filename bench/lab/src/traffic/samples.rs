//! A summary of measured times. Never interpolates: each figure is one of the samples.

use serde::Serialize;

/// Quantiles of some samples, in nanoseconds; all zero where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Samples {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min_ns: u64,
    /// Half are no larger.
    pub p50_ns: u64,
    /// 95 of 100 are no larger.
    pub p95_ns: u64,
    /// 99 of 100 are no larger.
    pub p99_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

impl Samples {
    /// Of samples in any order.
    #[must_use]
    pub fn of(mut samples_ns: Vec<u64>) -> Self {
        samples_ns.sort_unstable();
        let (Some(&min_ns), Some(&max_ns)) = (samples_ns.first(), samples_ns.last()) else {
            return Self::default();
        };
        let rank = |percent: usize| samples_ns[(samples_ns.len() * percent).div_ceil(100) - 1];
        let (p50_ns, p95_ns, p99_ns) = (rank(50), rank(95), rank(99));
        let count = u64::try_from(samples_ns.len()).unwrap_or(u64::MAX);
        Self { count, min_ns, p50_ns, p95_ns, p99_ns, max_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples::of((1..=100).rev().collect());
        assert_eq!((samples.min_ns, samples.p50_ns, samples.p95_ns), (1, 50, 95));
        assert_eq!((samples.p99_ns, samples.max_ns, samples.count), (99, 100, 100));
        assert_eq!(Samples::of(vec![7]).p50_ns, 7);
        assert_eq!(Samples::of(vec![]), Samples::default());
    }
}
