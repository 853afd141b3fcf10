//! One flagged TCP segment, in the log of the CPU that saw it: the last ones are there, whoever looks and whenever.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow_key::FlowKey;

/// Events in the log of one CPU; a power of two. 4,096 of 104 bytes are 426 kB. Another number is another layout: a log
/// that was kept has its events in other places.
pub const EVENTS_MAX: u32 = 4_096;

/// A segment that has a class or a verdict.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Its flow's key.
    pub key: FlowKey,
    /// Its flow's [`super::FlowHead::first_seen_ns`].
    pub first_seen_ns: u64,
    /// When it passed.
    pub time_ns: u64,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Window as in the header.
    pub window: u32,
    /// Classes ([`crate::tcp::classes`]).
    pub classes: u32,
    /// Verdict ([`crate::tcp::verdict`]).
    pub verdict: u32,
    /// Wire packets of it that were sent again, or late.
    pub segments: u32,
    /// Bytes in them.
    pub bytes: u32,
    /// How long before neither its sender had sent nor its receiver said anything, in units of 1,024 ns; where it was
    /// sent again.
    pub silence_us: u32,
    /// TCP flags.
    pub tcp_flags: u16,
    /// Endpoint that sent it: 0 lower, 1 upper.
    pub sender: u8,
    /// Always 0.
    pub _pad: u8,
}

/// How far the log of one CPU has come: one cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventHead {
    /// Events so far. The last [`EVENTS_MAX`] of them are in the log; number `n` in slot `n % EVENTS_MAX`.
    pub produced: u64,
    /// Always 0.
    pub _pad: [u64; 7],
}

const _: () = assert!(size_of::<Event>() == 104);
