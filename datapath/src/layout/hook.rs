//! Counters of one observation point and direction, and the point that an interface index stands for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::RttHistogram;
use crate::{frame::Link, outcome::OUTCOMES};

/// What one CPU counted at one observation point in one direction.
///
/// Invariant: at rest, the sum of `outcomes` is `seen`. The two are counted at the two ends of the pipeline, so a
/// path that forgets its outcome shows.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HookCounters {
    /// Frames that entered the pipeline.
    pub seen: u64,
    /// Frames by outcome, in the order of [`crate::Outcome::ALL`].
    pub outcomes: [u64; OUTCOMES],
    /// Wire packets that those frames stand for.
    pub packets: u64,
    /// Wire bytes of those packets.
    pub bytes: u64,
    /// Flow entries created.
    pub created: u64,
    /// Flows that have grown out of the table of embryonic ones.
    pub promoted: u64,
    /// Packets counted but not analyzed, since another CPU held their flow.
    pub contended: u64,
    /// Round trips that were completed here: by acknowledgments received, of what lies beyond the interface; by
    /// acknowledgments sent, of this side of it.
    pub rtt: RttHistogram,
}

/// Value of the point table: the observation point of an interface index.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Point {
    /// Observation point id, 1 to `POINTS_MAX - 1`; 0 where linnet is not attached.
    pub id: u16,
    /// [`Link`] as a number.
    pub link: u8,
    /// Always 0.
    pub _pad: u8,
}

impl Point {
    /// What the first byte of this interface's frames belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn link(self) -> Link {
        match self.link {
            0 => Link::Ethernet,
            1 => Link::RawIp,
            _ => Link::Unsupported,
        }
    }
}
