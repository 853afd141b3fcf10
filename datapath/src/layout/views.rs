//! Between the programs of the capture stage: the start of one packet as filters look at it, and which of them want it.
//! Never leaves its CPU: written anew for each packet, and no packet is known by it afterwards.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ways to look at one packet: as it is on the wire, without VLAN tags, and what a tunnel carries.
pub const VIEWS: usize = 3;

/// Most bytes of one view. No filter reads behind them.
pub const VIEW_BYTES_MAX: usize = 4_096;

/// Bytes behind the views, so that what is copied may be rounded up.
const SLACK: usize = 64;

/// Bytes of all views.
pub const VIEWS_BYTES: usize = VIEWS * VIEW_BYTES_MAX + SLACK;

/// Where the last view may start.
pub const VIEW_AT_MAX: usize = VIEWS_BYTES - VIEW_BYTES_MAX;

/// One packet for the filters. Invariant: `at` of a view is at most [`VIEW_AT_MAX`], and `len` at most
/// [`VIEW_BYTES_MAX`], so that no view leaves `bytes`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Views {
    /// The filters to run, a bit each.
    pub wanted: u64,
    /// Those of them that match.
    pub matched: u64,
    /// Bytes of the frame on the link: what `len` is in a filter, in every view.
    pub original_len: u32,
    /// What every view begins with: [`crate::Link`] as a number, Ethernet or raw IP.
    pub link: u32,
    /// Where each view starts in `bytes`.
    pub at: [u32; VIEWS],
    /// Bytes of each view; 0 where the packet has no such view.
    pub len: [u32; VIEWS],
    /// Of all views.
    pub bytes: [u8; VIEWS_BYTES],
}

impl Default for Views {
    /// No view of any packet.
    fn default() -> Self {
        Self {
            wanted: 0,
            matched: 0,
            original_len: 0,
            link: 0,
            at: [0; VIEWS],
            len: [0; VIEWS],
            bytes: [0; VIEWS_BYTES],
        }
    }
}

// What the kernel gives a value of a map of each CPU's own (`PCPU_MIN_UNIT_SIZE`).
const _: () = assert!(size_of::<Views>() < 32 * 1024);
const _: () = assert!(size_of::<Views>().is_multiple_of(8));
