//! How large the kernel's maps are, and what that takes.

use datapath::{
    FlowKey,
    layout::{
        EMBRYONIC_DEFAULT, EVENTS_MAX, EndedFlow, Event, EventHead, FLOWS_DEFAULT,
        FRAGMENTS_DEFAULT, FlowEntry, TROUBLES_DEFAULT, Trouble,
    },
    parse::fragment::FirstFragment,
};

use super::{LiveError, objects};

/// `struct htab_elem` and the element's share of the buckets.
const OVERHEAD: u64 = 48 + 16;
/// Least bytes of one CPU's ring of captured packets, where there are as many for all.
const RING_MIN: u32 = 1 << 20;
/// Room for flows that ended at once, however small the table of flows is.
const ENDED_MIN: u32 = 1_024;

/// Sizes of the maps, fixed when the first program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Flows of the kernel's table, 1 to [`datapath::layout::FLOWS_MAX`].
    pub flows: u32,
    /// Embryonic flows, within the same bounds.
    pub embryonic: u32,
    /// Fragmented datagrams whose ports are remembered, 1 to [`datapath::layout::FRAGMENTS_MAX`].
    pub fragments: u32,
    /// Bytes of the capture rings of all CPUs: a power of two, at least 4,096.
    pub capture_ring_bytes: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            flows: FLOWS_DEFAULT,
            embryonic: EMBRYONIC_DEFAULT,
            fragments: FRAGMENTS_DEFAULT,
            capture_ring_bytes: 16 << 20,
        }
    }
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
        let entry = size_of::<FlowEntry>() as u64 + OVERHEAD;
        let live =
            (self.flows as u64 + self.embryonic as u64) * (entry + size_of::<FlowKey>() as u64);
        live + self.ended() as u64 * (entry + size_of::<EndedFlow>() as u64)
    }

    /// Bytes of each CPU's ring: an equal share, but not less than [`RING_MIN`] unless there is less for all.
    pub(super) fn ring_bytes(self) -> Result<u32, LiveError> {
        let cpus = objects::cpus()?.next_power_of_two();
        let all = self.capture_ring_bytes;
        Ok((all / cpus).max(all.min(RING_MIN)))
    }

    /// Bytes of kernel memory that fragments take.
    #[must_use]
    pub const fn fragment_bytes(self) -> u64 {
        let element = size_of::<FlowKey>() + size_of::<FirstFragment>();
        self.fragments as u64 * (element as u64 + OVERHEAD)
    }

    /// Bytes of kernel memory that flows take whose segments are missing or late.
    #[must_use]
    pub const fn trouble_bytes() -> u64 {
        let element = size_of::<FlowKey>() + size_of::<Trouble>();
        TROUBLES_DEFAULT as u64 * (element as u64 + OVERHEAD)
    }

    /// Bytes of kernel memory that the log of flagged segments takes, of all CPUs that there may be.
    #[must_use]
    pub fn event_bytes() -> u64 {
        let cpus = aya::util::nr_cpus().map_or(0, |cpus| cpus as u64);
        let log = EVENTS_MAX as usize * size_of::<Event>() + size_of::<EventHead>();
        cpus * log as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_sizes_are_true() {
        let sizes = MapSizes::default();
        assert_eq!(sizes.ended(), datapath::layout::ENDED_DEFAULT);
        assert_eq!(sizes.flow_bytes() / 1_000_000, 82);
        assert_eq!(sizes.fragment_bytes(), 4_096 * 128);
        assert_eq!(MapSizes::trouble_bytes() / 1_000, 8_650);
        assert_eq!(MapSizes::event_bytes() % 426_048, 0);
        let small = MapSizes { flows: 1, ..sizes };
        assert_eq!(small.ended(), ENDED_MIN);
    }
}
