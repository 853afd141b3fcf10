//! Reading the tracker's maps through their descriptors. Needs no privilege but the descriptors themselves.

use std::{io, os::fd::AsFd as _};

use aya::maps::{Map, MapData, PerCpuArray};
use datapath::{
    Direction, FlowKey,
    layout::{FlowEntry, HookCounters},
};

use super::{
    LiveError,
    batch::{self, BatchCursor},
    pod::Pod,
};

/// Elements per batch read: 4,096 of them are 2.4 MB, and a bucket is never that long.
const BATCH: usize = 4_096;

/// The kernel's flow table.
#[derive(Debug)]
pub struct FlowMap {
    map: MapData,
    capacity: u32,
    keys: Vec<FlowKey>,
    entries: Vec<FlowEntry>,
}

impl FlowMap {
    pub(super) fn new(map: MapData, capacity: u32) -> Self {
        Self {
            map,
            capacity,
            keys: vec![FlowKey::default(); BATCH],
            entries: vec![FlowEntry::EMPTY; BATCH],
        }
    }

    /// Flows that fit.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes of kernel memory that the map takes: key, value, element header and bucket.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        /// `struct htab_elem` and the element's share of the buckets.
        const OVERHEAD: u64 = 48 + 16;
        self.capacity as u64 * (size_of::<FlowKey>() + size_of::<FlowEntry>()) as u64
            + self.capacity as u64 * OVERHEAD
    }

    /// Calls `visit` with every entry, in batches: flows that come or go meanwhile may or may not be met.
    pub fn sweep(&mut self, mut visit: impl FnMut(&FlowKey, &FlowEntry)) -> Result<(), LiveError> {
        let failed = |source: io::Error| LiveError::Syscall {
            call: "BPF_MAP_LOOKUP_BATCH",
            map: "FLOWS",
            source,
        };
        let mut from: Option<BatchCursor> = None;
        loop {
            let mut to = BatchCursor::default();
            let batch = batch::lookup_batch(
                self.map.fd().as_fd(),
                from.as_ref(),
                &mut to,
                &mut self.keys,
                &mut self.entries,
            )
            .map_err(failed)?;
            for (key, entry) in self.keys.iter().zip(&self.entries).take(batch.count) {
                visit(key, entry);
            }
            if batch.done {
                return Ok(());
            }
            from = Some(to);
        }
    }

    /// Takes a flow out with its last value; `None` where it has gone meanwhile.
    pub fn take(&self, key: &FlowKey) -> Result<Option<FlowEntry>, LiveError> {
        let mut entry = FlowEntry::EMPTY;
        let taken = batch::take(self.map.fd().as_fd(), key, &mut entry).map_err(|source| {
            LiveError::Syscall { call: "BPF_MAP_LOOKUP_AND_DELETE_ELEM", map: "FLOWS", source }
        })?;
        Ok(taken.map(|()| entry))
    }
}

/// The counters of every hook.
pub struct HookMap(PerCpuArray<MapData, Pod<HookCounters>>);

impl std::fmt::Debug for HookMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookMap")
    }
}

impl HookMap {
    pub(super) fn new(map: Map) -> Result<Self, LiveError> {
        let map = PerCpuArray::try_from(map)
            .map_err(|source| LiveError::Map { name: "HOOKS", source })?;
        Ok(Self(map))
    }

    /// The sum over all CPUs for one observation point and direction.
    pub fn read(&self, point: u32, direction: Direction) -> Result<HookCounters, LiveError> {
        let per_cpu = self
            .0
            .get(&(point * 2 + direction as u32), 0)
            .map_err(|source| LiveError::Map { name: "HOOKS", source })?;
        let mut sum = HookCounters::default();
        for Pod(counters) in per_cpu.iter() {
            add(&mut sum, counters);
        }
        Ok(sum)
    }
}

/// Adds one CPU's, or one hook's, counters to a sum.
pub fn add(sum: &mut HookCounters, counters: &HookCounters) {
    sum.seen += counters.seen;
    for (total, count) in sum.outcomes.iter_mut().zip(counters.outcomes) {
        *total += count;
    }
    sum.packets += counters.packets;
    sum.bytes += counters.bytes;
    sum.created += counters.created;
    sum.contended += counters.contended;
}
