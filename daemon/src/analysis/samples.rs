//! A distribution of times: every value as long as there is room, then one in two, one in four and so on of them. Count,
//! least and greatest are of all. Never computes a quantile before it is asked for one.

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
    min_ns: u64,
    max_ns: u64,
}

impl Default for Samples {
    fn default() -> Self {
        Self { kept: Vec::new(), one_in: 1, count: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

impl Samples {
    #[inline]
    pub(super) fn add(&mut self, ns: u64) {
        if self.count & (self.one_in - 1) == 0 {
            if self.kept.len() == SAMPLES_MAX {
                self.thin_out();
            }
            if self.count & (self.one_in - 1) == 0 {
                self.kept.push(ns);
            }
        }
        self.count += 1;
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

    /// Quantiles by the nearest rank among those that are kept.
    #[must_use]
    pub fn quantiles_ns<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        record::quantiles(&self.kept, quantiles)
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
    fn no_samples_have_no_quantile() {
        assert_eq!(Samples::default().quantiles_ns([0.5]), None);
        assert_eq!(Samples::default().min_ns(), None);
    }
}
