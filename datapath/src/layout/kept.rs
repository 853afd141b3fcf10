//! What outlives every process beside the tables of flows and counters: the daemon's figures, the rules as they were
//! written, and which interface each observation point stands for. No program reads or writes any of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the one element of `KEPT_RULES`: a text, and 0 behind it.
pub const KEPT_RULES_BYTES: usize = 1 << 20;
/// Longest name of an interface (`IFNAMSIZ`, whose last byte is 0).
pub const INTERFACE_NAME_BYTES: usize = 16;
/// Longest name of a network namespace, which is a file's (`NAME_MAX`), and a 0.
pub const NAMESPACE_NAME_BYTES: usize = 256;

/// The one element of `KEPT`: figures that the kernel does not have. The daemon writes, and its successor goes on from
/// them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Kept {
    /// When the first of them began, ns since the epoch; 0 before there was a first.
    pub since_ns: u64,
    /// Flows that closed.
    pub closed: u64,
    /// Flows that were idle for too long.
    pub aged: u64,
    /// Flows that were seen to be evicted.
    pub evicted: u64,
    /// Records without room.
    pub forgotten: u64,
}

/// An element of `REGISTER`, by observation point: the interface that the point stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterRow {
    /// Which reservation of a point this is, from 1: a point that is given to another interface gets a new one. 0 where
    /// the point is free.
    pub incarnation: u64,
    /// 1 where the interface is watched, or was when its attacher ended without a word; 0 where it has gone.
    pub present: u32,
    /// Interface index in its namespace.
    pub ifindex: u32,
    /// Interface name, and 0 behind it.
    pub name: [u8; INTERFACE_NAME_BYTES],
    /// Namespace name, and 0 behind it; empty for the attacher's own.
    pub namespace: [u8; NAMESPACE_NAME_BYTES],
}

impl RegisterRow {
    /// Of a point that stands for nothing.
    pub const FREE: Self = Self {
        incarnation: 0,
        present: 0,
        ifindex: 0,
        name: [0; INTERFACE_NAME_BYTES],
        namespace: [0; NAMESPACE_NAME_BYTES],
    };
}
