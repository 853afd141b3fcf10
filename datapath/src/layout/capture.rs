//! Between the capture stage and the daemon: what to copy, what was copied, and what was lost.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes of one frame that the stage copies.
pub const CAPTURE_BYTES_MAX: usize = 65_536;

/// `CaptureRecord::flags`: `vlan_tci` holds a tag that the bytes lack.
pub const VLAN_PRESENT: u16 = 1 << 0;

/// What the stage copies while a capture runs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureConfig {
    /// Monotonic ns after which the stage copies nothing, whatever happens to the daemon.
    pub deadline_ns: u64,
    /// Bytes of each frame to copy; 0 turns the stage off.
    pub snaplen: u32,
    /// Only this observation point; 0 for all of them.
    pub point: u32,
}

/// In front of each frame's bytes in the ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureRecord {
    /// When the stage saw it, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// Bytes of the frame on the link, without a tag kept in metadata.
    pub original_len: u32,
    /// Bytes that follow.
    pub captured_len: u32,
    /// Observation point id.
    pub point: u16,
    /// [`crate::Direction`] as a number.
    pub direction: u8,
    /// Always 0.
    pub _pad: u8,
    /// `VLAN_PRESENT`.
    pub flags: u16,
    /// Tag control information kept outside of the bytes.
    pub vlan_tci: u16,
    /// Ethertype of that tag, host order.
    pub vlan_protocol: u16,
    /// Always 0.
    pub _pad2: u16,
    /// Receive queue.
    pub queue: u32,
}

const _: () = assert!(size_of::<CaptureRecord>() == 32);

/// What one CPU's stage did. Invariant: `produced` + `lost_ring` + `lost_copy` = frames offered to the ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureStats {
    /// Records put into the ring.
    pub produced: u64,
    /// Frames that found the ring full.
    pub lost_ring: u64,
    /// Frames whose bytes the kernel refused to copy.
    pub lost_copy: u64,
}
