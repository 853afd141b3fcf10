//! A distribution of times: every value as long as there is room, then one in two, one in four and so on of them. Count,
//! octaves, least and greatest are of all. Never computes a quantile before it is asked for one.

use datapath::{layout::RTT_BUCKETS, rtt, rtt::RttTicks, time::TICK_NS};

use crate::flow::record;

/// Values kept of one distribution.
pub const SAMPLES_MAX: usize = 1 << 18;

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Samples {
    kept: Vec<u64>,
    /// One in as many is kept: a power of two.
    one_in: u64,
    count: u64,
    /// All of them, by octave.
    buckets: [u64; RTT_BUCKETS],
    min_ns: u64,
    max_ns: u64,
}

impl Default for Samples {
    fn default() -> Self {
        let buckets = [0; RTT_BUCKETS];
        Self { kept: Vec::new(), one_in: 1, count: 0, buckets, min_ns: u64::MAX, max_ns: 0 }
    }
}

impl Samples {
    #[inline]
    pub(crate) fn add(&mut self, ns: u64) {
        if self.count & (self.one_in - 1) == 0 {
            if self.kept.len() == SAMPLES_MAX {
                self.thin_out();
            }
            if self.count & (self.one_in - 1) == 0 {
                self.kept.push(ns);
            }
        }
        self.count += 1;
        let ticks = u32::try_from(ns / TICK_NS).unwrap_or(u32::MAX);
        self.buckets[rtt::bucket(RttTicks(ticks))] += 1;
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Keeps every second one of those that are kept.
    fn thin_out(&mut self) {
        let mut is_kept = false;
        self.kept.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        self.one_in *= 2;
    }

    /// All there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The least one.
    #[must_use]
    pub fn min_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// The greatest one.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// All there were, by octave.
    #[must_use]
    pub const fn buckets(&self) -> &[u64; RTT_BUCKETS] {
        &self.buckets
    }

    /// Those that are kept, in order of time.
    #[must_use]
    pub fn kept(&self) -> &[u64] {
        &self.kept
    }

    /// One in as many is kept.
    #[must_use]
    pub const fn one_in(&self) -> u64 {
        self.one_in
    }

    /// Quantiles by the nearest rank among those that are kept. Where these are not all, each lies in the octave of the
    /// true one.
    #[must_use]
    pub fn quantiles_ns<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        let near = record::quantiles(&self.kept, quantiles)?;
        if self.one_in == 1 {
            return Some(near);
        }
        let mut held = near;
        for (value, quantile) in held.iter_mut().zip(quantiles) {
            let (from, to) = rtt::bucket_bounds_ns(self.octave(record::rank(quantile, self.count)));
            *value = (*value).clamp(from.max(self.min_ns), (to - 1).min(self.max_ns));
        }
        Some(held)
    }

    /// A quantile's true value lies within this factor of it.
    #[must_use]
    pub const fn error_factor(&self) -> f64 {
        if self.one_in == 1 { 1.0 } else { 2.0 }
    }

    /// Where the value of a rank, from 1, is.
    fn octave(&self, rank: u64) -> usize {
        let mut below = 0;
        let reaches = |count: &u64| {
            below += count;
            below >= rank
        };
        self.buckets.iter().position(reaches).unwrap_or(RTT_BUCKETS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_are_all_kept() {
        let mut samples = Samples::default();
        (1..=100).for_each(|ns| samples.add(ns));
        assert_eq!(samples.quantiles_ns([0.5, 0.95, 0.99]), Some([50, 95, 99]));
        assert_eq!((samples.min_ns(), samples.max_ns()), (Some(1), Some(100)));
    }

    #[test]
    fn many_samples_keep_their_shape_within_the_bound() {
        let mut samples = Samples::default();
        let many = 5 * SAMPLES_MAX as u64;
        (0..many).for_each(|ns| samples.add(ns));
        assert!(samples.kept().len() <= SAMPLES_MAX);
        assert_eq!((samples.count(), samples.one_in()), (many, 8));
        let [median] = samples.quantiles_ns([0.5]).unwrap();
        assert!(median.abs_diff(many / 2) < many / 100, "{median} of {many}");
    }

    #[test]
    fn what_is_left_out_moves_no_quantile_out_of_its_octave() {
        let mut samples = Samples::default();
        // One in eight is kept, and these are the quick ones.
        for number in 0..5 * SAMPLES_MAX as u64 {
            samples.add(if number % 8 == 0 { 1_000_000 } else { 10_000_000 });
        }
        let [median] = samples.quantiles_ns([0.5]).unwrap();
        assert!((5_000_000..=10_000_000).contains(&median), "{median}");
        assert_eq!((samples.error_factor(), samples.one_in()), (2.0, 8));
    }

    #[test]
    fn no_samples_have_no_quantile() {
        assert_eq!(Samples::default().quantiles_ns([0.5]), None);
        assert_eq!(Samples::default().min_ns(), None);
    }
}
