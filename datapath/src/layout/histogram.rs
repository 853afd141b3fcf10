//! Log-linear histograms of round trips, for whatever is no single flow: interfaces and services.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{hint::opaque, rtt::RttTicks};

/// Buckets of each octave: a bucket is at most an eighth as wide as its least value.
pub const SUB_BUCKETS: u32 = 8;
/// Buckets of a histogram: every number of ticks has one.
pub const HISTOGRAM_BUCKETS: usize = 240;
/// log2 of [`SUB_BUCKETS`].
const SUB_BITS: u32 = 3;

/// Round trips by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RttHistogram {
    /// Samples by bucket, [`bucket_ticks`].
    pub buckets: [u64; HISTOGRAM_BUCKETS],
}

impl Default for RttHistogram {
    fn default() -> Self {
        Self { buckets: [0; HISTOGRAM_BUCKETS] }
    }
}

impl RttHistogram {
    /// Counts a sample.
    #[inline(always)]
    pub fn add(&mut self, rtt: RttTicks) {
        let bucket = opaque(bucket(rtt)) & 255;
        if bucket < HISTOGRAM_BUCKETS {
            let buckets = self.buckets.as_mut_ptr();
            // SAFETY: `bucket` was just compared with the length; an index expression would link a panic.
            unsafe { *buckets.add(bucket) += 1 };
        }
    }
}

/// Round trips of one service port, by who sent the data that was acknowledged.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ServiceRtt {
    /// Data of the originators: the way to the service and back.
    pub from_originator: RttHistogram,
    /// Data of the service: the way to the originators and back.
    pub from_responder: RttHistogram,
}

/// The bucket of a sample: the number of ticks itself below 8, then eight for each doubling.
#[inline(always)]
#[must_use]
pub(crate) const fn bucket(rtt: RttTicks) -> usize {
    if rtt.0 < SUB_BUCKETS {
        return rtt.0 as usize;
    }
    let octave = 31 - rtt.0.leading_zeros();
    let sub = (rtt.0 >> (octave - SUB_BITS)) & (SUB_BUCKETS - 1);
    ((octave - SUB_BITS + 1) * SUB_BUCKETS + sub) as usize
}

/// The least number of ticks in a bucket; that of the bucket after the last is beyond 32 bits.
#[must_use]
pub const fn bucket_ticks(bucket: usize) -> u64 {
    let sub_buckets = SUB_BUCKETS as usize;
    if bucket < sub_buckets {
        return bucket as u64;
    }
    let (octave, sub) = (bucket / sub_buckets - 1, bucket % sub_buckets);
    ((sub_buckets + sub) as u64) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_partition_every_number_of_ticks() {
        for index in 0..HISTOGRAM_BUCKETS {
            let (from, to) = (bucket_ticks(index), bucket_ticks(index + 1));
            let ticks = |ticks: u64| RttTicks(u32::try_from(ticks).unwrap());
            assert_eq!(bucket(ticks(from)), index);
            assert_eq!(bucket(ticks(to - 1)), index);
            assert!(from < 8 || (to - from) * 8 <= from, "{index} is an eighth wide at most");
        }
        assert_eq!(bucket_ticks(HISTOGRAM_BUCKETS), 1 << 32);
    }

    #[test]
    fn the_longest_round_trip_is_counted_too() {
        let mut histogram = RttHistogram::default();
        histogram.add(RttTicks(u32::MAX));
        histogram.add(RttTicks(1));
        assert_eq!(histogram.buckets[HISTOGRAM_BUCKETS - 1], 1);
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 2);
    }
}
