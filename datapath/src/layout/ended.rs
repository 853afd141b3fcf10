//! Flows that ended at once, and wait to be read: their keys may be those of flows that live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow_key::FlowKey;

/// Key of the table of ended flows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EndedFlow {
    /// The flow's key.
    pub key: FlowKey,
    /// [`super::FlowHead::first_seen_ns`], which tells flows of one key apart.
    pub first_seen_ns: u64,
}
