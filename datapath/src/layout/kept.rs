//! What outlives every process beside the tables of flows and counters: the daemon's figures, the rules as they were
//! written, and which interface each observation point stands for. No program reads or writes any of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the one element of `KEPT_RULES`: a text, and 0 behind it.
pub const KEPT_RULES_BYTES: usize = 1 << 20;
/// Longest name of an interface (`IFNAMSIZ`, whose last byte is 0).
pub const INTERFACE_NAME_BYTES: usize = 16;
/// Longest name of a network namespace, which is a file's (`NAME_MAX`), and a 0.
pub const NAMESPACE_NAME_BYTES: usize = 256;

/// Names of interfaces of which it is kept what was seen under them before.
pub const SEEN_BEFORE_MAX: usize = 192;

/// What was seen at interfaces of a name that are no more.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SeenBefore {
    /// Hash of the name; 0 for none.
    pub name: u64,
    /// Frames received and sent.
    pub seen: [u64; 2],
}

/// The one element of `KEPT`: figures that the kernel does not have. The daemon writes, and its successor goes on from
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
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
    /// What was seen at interfaces that are no more.
    pub before: [SeenBefore; SEEN_BEFORE_MAX],
}

impl Default for Kept {
    fn default() -> Self {
        let before = [SeenBefore { name: 0, seen: [0; 2] }; SEEN_BEFORE_MAX];
        Self { since_ns: 0, closed: 0, aged: 0, evicted: 0, forgotten: 0, before }
    }
}

/// An element of `REGISTER`, by observation point: the interface that the point stands for. A point is free, then
/// watched, then left until no flow and no count of it is in the kernel, then free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterRow {
    /// Which of all reservations this is, or was the last: from 1. Of the free points the one that was free for longest
    /// is used next.
    pub incarnation: u64,
    /// The network namespace's cookie, which no other namespace of this boot has.
    pub namespace_cookie: u64,
    /// [`Self::FREE`], [`Self::WATCHED`] or [`Self::LEFT`].
    pub state: u32,
    /// Interface index in its namespace.
    pub ifindex: u32,
    /// What the interface was watched by, by direction: 0 for nothing, else the number of a hook.
    pub hooks: [u32; 2],
    /// Programs, by direction, that may be in a clsact qdisc of the interface: filters stay when their attacher dies. The
    /// last that was noted, and the one before, in whose place it may not have come.
    pub filters: [[u32; 2]; 2],
    /// Interface name, and 0 behind it.
    pub name: [u8; INTERFACE_NAME_BYTES],
    /// Namespace name, and 0 behind it; empty for the attacher's own.
    pub namespace: [u8; NAMESPACE_NAME_BYTES],
}

impl RegisterRow {
    /// The point stands for nothing.
    pub const FREE: u32 = 0;
    /// The interface is watched, or was when its attacher died.
    pub const WATCHED: u32 = 1;
    /// Nothing is attached, but there may be flows.
    pub const LEFT: u32 = 2;
    /// A point that was never used.
    pub const NEW: Self = Self {
        incarnation: 0,
        namespace_cookie: 0,
        state: Self::FREE,
        ifindex: 0,
        hooks: [0; 2],
        filters: [[0; 2]; 2],
        name: [0; INTERFACE_NAME_BYTES],
        namespace: [0; NAMESPACE_NAME_BYTES],
    };
}
