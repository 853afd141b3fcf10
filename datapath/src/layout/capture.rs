//! Between the capture stage and the daemon: what to copy, what was copied, and what was lost.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Captures that may run at a time; each has a slot, which is a bit wherever there are masks.
pub const CAPTURES_MAX: usize = 64;
/// Most bytes of one frame that the stage copies.
pub const CAPTURE_BYTES_MAX: usize = 65_536;
/// Headers of a frame that the tracker does not know, as far as limits of payload go.
pub const UNKNOWN_HEADER_LEN: u32 = 64;

/// Places in the stage's array of programs: what shows the packet to the filters, behind the XDP tracker.
pub const STAGE_PREPARE: u32 = 0;
/// The filters, which are made at run time.
pub const STAGE_FILTERS: u32 = 1;
/// What copies the packet.
pub const STAGE_COPY: u32 = 2;
/// All of them.
pub const STAGE_PROGRAMS: u32 = 3;

/// `CaptureRecord::flags`: `vlan_tci` holds a tag that the bytes lack.
pub const VLAN_PRESENT: u16 = 1 << 0;

/// `CaptureRecord::kind`: a packet's bytes follow.
pub const RECORD_PACKET: u8 = 0;
/// A [`CaptureGap`] follows: so many packets were lost here.
pub const RECORD_GAP: u8 = 1;

/// What the stage prepares for the filters. All zero while no capture runs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureConfig {
    /// Bytes of each view that filters look at.
    pub reach: u32,
    /// The views that any filter looks at, a bit each.
    pub views: u32,
    /// Most bytes of payload that any capture may have; `u32::MAX` for all.
    pub payload_max: u32,
    /// Bytes of one CPU's ring.
    pub ring_bytes: u32,
}

/// What one capture wants, and how much of it it has had, on all CPUs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureSlot {
    /// Monotonic ns after which it has ended, whatever happens to the daemon.
    pub deadline_ns: u64,
    /// Packets that it may have.
    pub packets_max: u64,
    /// Bytes that it may have.
    pub bytes_max: u64,
    /// Packets that it had.
    pub packets: u64,
    /// Bytes that it had.
    pub bytes: u64,
    /// Most bytes of each frame.
    pub snaplen: u32,
    /// Most bytes behind the headers; `u32::MAX` for all.
    pub payload_max: u32,
}

/// What one CPU's stage did for one capture. Invariant: at rest, `matched` is the sum of all others.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureCounts {
    /// Packets that its filter chose before its deadline.
    pub matched: u64,
    /// Packets put into the ring.
    pub produced: u64,
    /// Packets that found its budget spent.
    pub over_budget: u64,
    /// Packets that found the ring full.
    pub lost_ring: u64,
    /// Packets whose bytes the kernel refused to copy.
    pub lost_copy: u64,
}

/// In front of each frame's bytes in a ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureRecord {
    /// When the stage saw it, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// The captures that it is for, a bit each.
    pub captures: u64,
    /// Its number on this CPU, behind the CPU's number in the upper 16 bits.
    pub packet_id: u64,
    /// Bytes of the frame on the link, without a tag kept in metadata.
    pub original_len: u32,
    /// Bytes that follow.
    pub captured_len: u32,
    /// Receive queue.
    pub queue: u32,
    /// Bytes of headers; [`UNKNOWN_HEADER_LEN`] where the tracker does not know them.
    pub header_len: u32,
    /// Observation point id.
    pub point: u16,
    /// [`crate::Direction`] as a number.
    pub direction: u8,
    /// `RECORD_*`.
    pub kind: u8,
    /// `VLAN_PRESENT`.
    pub flags: u16,
    /// Tag control information kept outside of the bytes.
    pub vlan_tci: u16,
    /// Ethertype of that tag, host order.
    pub vlan_protocol: u16,
    /// Always 0.
    pub _pad: [u16; 3],
}

/// Packets that found the ring of this CPU full since the record before, by capture.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureGap {
    /// In front of it in the ring.
    pub record: CaptureRecord,
    /// How many.
    pub lost: [u32; CAPTURES_MAX],
}

/// What became of the packets of one CPU that any capture wanted, each counted once.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureTotals {
    /// Packets that captures wanted and had room for: the number of the last one.
    pub offered: u64,
    /// Those of them that are not in the ring.
    pub lost: u64,
}

const _: () = assert!(size_of::<CaptureRecord>() == 56);
