//! What linnet's own verdicts are made from: the trail of each endpoint, in every flow's entry, and what is only needed
//! once something is missing, late, or selectively acknowledged, in a table of its own.
//!
//! Times are in units of 1,024 ns, of which 32 bits last 73 minutes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Packets of one direction that are remembered to know copies of them by.
pub const PASSED_MAX: usize = 4;
/// Ranges of one direction that did not pass here.
pub const HOLES_MAX: usize = 4;
/// Segments of one direction that were sent again, and may yet turn out to have arrived twice.
pub const AGAIN_MAX: usize = 8;
/// Flows with a [`Trouble`] at a time: 16,384 of 528 bytes are 9 MB.
pub const TROUBLES_DEFAULT: u32 = 16_384;
/// Verdicts that are counted.
pub const VERDICTS: usize = 10;

/// Segments of one direction by verdict.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VerdictCounts {
    /// In the order of [`crate::tcp::verdict::NAMES`].
    pub counts: [u32; VERDICTS],
}

/// What one endpoint sent last, and what it said about the other one's segments: one cache line, written with each of
/// its TCP segments.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trail {
    /// Its last packets, by the number of its frames.
    pub passed: [Passed; PASSED_MAX],
    /// One after the highest sequence number.
    pub next: u32,
    /// Highest acknowledgment number.
    pub acknowledged: u32,
    /// Below it nothing is known about what passed.
    pub unsure_before: u32,
    /// When it last sent something that is to be acknowledged.
    pub sent_us: u32,
    /// When it last acknowledged something, or said that something is missing.
    pub told_us: u32,
    /// Timestamp value of the packet that holds the highest sequence number.
    pub newest_timestamp: u32,
    /// Its identification.
    pub newest_ip_id: u16,
    /// Highest identification, as far as they count up.
    pub highest_ip_id: u16,
    /// Bits of the verdicts.
    pub bits: u8,
    /// Steps upwards in a row that identifications have taken.
    pub run: u8,
    /// Length of the run of duplicate acknowledgments.
    pub duplicates: u8,
    /// Always 0.
    pub _pad: u8,
}

/// A packet as it is remembered.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Passed {
    /// Of all that does not change on the way; 0 where there is none.
    pub hash: u32,
    /// When, in ticks of 64 ns.
    pub ticks: u32,
}

/// Value of the table of flows in trouble.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trouble {
    /// [`super::FlowHead::first_seen_ns`] of its flow: the same tuple may have been another one's before.
    pub first_seen_ns: u64,
    /// Of what each endpoint sent: lower, then upper.
    pub sides: [TroubleSide; 2],
}

/// Of what one endpoint sent.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TroubleSide {
    /// What did not pass.
    pub holes: [Hole; HOLES_MAX],
    /// Start of the segment that its timer sent last.
    pub timer_start: u32,
    /// Least silence before that can happen once more.
    pub timer_silence_us: u32,
    /// End of the highest block that this endpoint selectively acknowledged.
    pub selective_end: u32,
    /// Bits of the verdicts, and from the eighth on how many were sent again.
    pub bits: u32,
    /// The last one of the holes that were forgotten; of time 0 where there is none.
    pub forgotten: Opened,
    /// What was sent again last.
    pub again: [Again; AGAIN_MAX],
}

/// A range that did not pass; free where it is empty.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hole {
    /// First sequence number.
    pub start: u32,
    /// After the last.
    pub end: u32,
    /// Since when that is known.
    pub opened: Opened,
}

/// The packet that showed that something did not pass.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Opened {
    /// When.
    pub us: u32,
    /// Its timestamp value.
    pub timestamp: u32,
    /// Its identification.
    pub ip_id: u16,
    /// 1 where it had the timestamp option.
    pub timestamped: u16,
}

/// A range that was sent again; free where it is empty.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Again {
    /// First sequence number.
    pub start: u32,
    /// After the last.
    pub end: u32,
    /// Segments, and in the two lowest bits where the first one was lost.
    pub what: u32,
}

impl Trail {
    /// Of an endpoint that has sent nothing.
    pub const EMPTY: Self = Self {
        passed: [Passed { hash: 0, ticks: 0 }; PASSED_MAX],
        next: 0,
        acknowledged: 0,
        unsure_before: 0,
        sent_us: 0,
        told_us: 0,
        newest_timestamp: 0,
        newest_ip_id: 0,
        highest_ip_id: 0,
        bits: 0,
        run: 0,
        duplicates: 0,
        _pad: 0,
    };
}

impl Trouble {
    /// Of what the sender (0 lower, 1 upper) sent, and of what the other one did.
    #[inline(always)]
    pub(crate) fn split(&mut self, sender: u32) -> (&mut TroubleSide, &mut TroubleSide) {
        let sent = crate::hint::opaque(sender as usize) & 1;
        let sides = core::ptr::from_mut(&mut self.sides).cast::<TroubleSide>();
        // SAFETY: both indices are 0 or 1 and differ, so the two references are inside of the array and disjoint.
        unsafe { (&mut *sides.add(sent), &mut *sides.add(sent ^ 1)) }
    }
}

impl TroubleSide {
    /// Remembers a range that was sent again, in place of the one that was `number` before by [`AGAIN_MAX`].
    #[inline(always)]
    pub(crate) fn remember(&mut self, number: u32, again: Again) {
        let slot = crate::hint::opaque(number as usize) & (AGAIN_MAX - 1);
        // SAFETY: the slot was just masked to be inside of the array; an index expression would link a panic.
        unsafe { *self.again.as_mut_ptr().add(slot) = again };
    }
}

impl Trail {
    /// Remembers packet number `turn`, in place of the one before by [`PASSED_MAX`].
    #[inline(always)]
    pub(crate) fn remember(&mut self, turn: u64, passed: Passed) {
        let slot = crate::hint::opaque((turn & 0xffff) as usize) & (PASSED_MAX - 1);
        // SAFETY: as above.
        unsafe { *self.passed.as_mut_ptr().add(slot) = passed };
    }
}

impl VerdictCounts {
    /// Nothing was found.
    pub const NONE: Self = Self { counts: [0; VERDICTS] };
}

const _: () = assert!(size_of::<Trail>() == 64);
const _: () = assert!(size_of::<TroubleSide>() == 204);
const _: () = assert!(size_of::<Trouble>() == 416);
