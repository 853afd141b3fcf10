//! How large the kernel's maps are, and what that takes.

use datapath::{
    FlowKey,
    layout::{EndedFlow, FlowEntry},
};

/// Room for flows that ended at once, however small the table of flows is.
const ENDED_MIN: u32 = 1_024;

/// Sizes of the maps, fixed when the first program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Flows of the kernel's table, 1 to [`datapath::layout::FLOWS_MAX`].
    pub flows: u32,
    /// Embryonic flows, within the same bounds.
    pub embryonic: u32,
    /// Bytes of the capture ring: a power of two, at least 4,096.
    pub capture_ring_bytes: u32,
}

impl MapSizes {
    /// Flows that ended at once and wait to be read.
    #[must_use]
    pub const fn ended(self) -> u32 {
        if self.flows / 8 < ENDED_MIN { ENDED_MIN } else { self.flows / 8 }
    }

    /// Bytes of kernel memory that all flows take: keys, values, element headers and buckets.
    #[must_use]
    pub const fn flow_bytes(self) -> u64 {
        /// `struct htab_elem` and the element's share of the buckets.
        const OVERHEAD: u64 = 48 + 16;
        let entry = size_of::<FlowEntry>() as u64 + OVERHEAD;
        let live =
            (self.flows as u64 + self.embryonic as u64) * (entry + size_of::<FlowKey>() as u64);
        live + self.ended() as u64 * (entry + size_of::<EndedFlow>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_sizes_are_true() {
        let sizes = MapSizes { flows: 65_536, embryonic: 16_384, capture_ring_bytes: 1 << 24 };
        assert_eq!(sizes.ended(), datapath::layout::ENDED_DEFAULT);
        assert_eq!(sizes.flow_bytes() / 1_000_000, 64);
        let small = MapSizes { flows: 1, ..sizes };
        assert_eq!(small.ended(), ENDED_MIN);
    }
}
