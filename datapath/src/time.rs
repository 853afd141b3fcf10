//! Points in time as the datapath knows them: nanoseconds of one monotonic clock, given by the caller.
//! Never reads a clock.

/// Nanoseconds of CLOCK_MONOTONIC in the kernel; nanoseconds since the epoch of the file when replaying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Ktime(pub u64);

/// One tick of the compact times in the round-trip ring, in nanoseconds.
pub const TICK_NS: u64 = 64;

impl Ktime {
    /// Nanoseconds since `earlier`, as the signed difference that a clock stepping back makes negative.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// The compact form for the round-trip ring: 64 ns ticks, wrapping after 274 s, never 0 (0 marks a free slot).
    #[inline(always)]
    #[must_use]
    pub const fn ticks(self) -> u32 {
        let [a, b, c, d, ..] = (self.0 / TICK_NS).to_le_bytes();
        let ticks = u32::from_le_bytes([a, b, c, d]);
        if ticks == 0 { 1 } else { ticks }
    }
}
