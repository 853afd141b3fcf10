//! Reading the tracker's maps through their descriptors. Needs no privilege but the descriptors themselves.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::{Map, MapData, PerCpuArray};
use datapath::{
    Direction, FlowKey,
    layout::{
        EndedFlow, FlowEntry, HookCounters, POINTS_MAX, RttHistogram, SERVICES_MAX, ServiceRtt,
    },
};

use super::{
    LiveError,
    batch::{self, Batch, BatchCursor},
    pod::Pod,
    sizes::MapSizes,
};

/// Elements per batch read: 4,096 of them are 2.4 MB, and a bucket is never that long.
const BATCH: usize = 4_096;

/// The kernel's flows: those that live, embryonic or not, and those that ended at once.
#[derive(Debug)]
pub struct FlowMap {
    embryonic: MapData,
    flows: MapData,
    ended: MapData,
    sizes: MapSizes,
    keys: Vec<FlowKey>,
    ended_keys: Vec<EndedFlow>,
    entries: Vec<FlowEntry>,
}

impl FlowMap {
    pub(super) fn new(embryonic: MapData, flows: MapData, ended: MapData, sizes: MapSizes) -> Self {
        Self {
            embryonic,
            flows,
            ended,
            sizes,
            keys: vec![FlowKey::default(); BATCH],
            ended_keys: vec![EndedFlow::default(); BATCH],
            entries: vec![FlowEntry::EMPTY; BATCH],
        }
    }

    /// How many of each fit.
    #[must_use]
    pub const fn sizes(&self) -> MapSizes {
        self.sizes
    }

    /// Calls `visit` with every flow that lives, in batches: those that come or go meanwhile may or may not be met. One
    /// that is promoted meanwhile is met, perhaps twice, since the table that it comes from is read first.
    pub fn sweep(&mut self, mut visit: impl FnMut(&FlowKey, &FlowEntry)) -> Result<(), LiveError> {
        let (keys, entries) = (&mut self.keys[..], &mut self.entries[..]);
        for (name, map) in [("EMBRYONIC", &self.embryonic), ("FLOWS", &self.flows)] {
            read_all(batch::lookup_batch, map, keys, entries, &mut visit).map_err(|source| {
                LiveError::Syscall { call: "BPF_MAP_LOOKUP_BATCH", map: name, source }
            })?;
        }
        Ok(())
    }

    /// Takes every flow out that ended at once, and calls `visit` with it.
    pub fn drain_ended(
        &mut self,
        mut visit: impl FnMut(&FlowKey, &FlowEntry),
    ) -> Result<(), LiveError> {
        let (keys, entries) = (&mut self.ended_keys[..], &mut self.entries[..]);
        read_all(batch::take_batch, &self.ended, keys, entries, |ended, entry| {
            visit(&ended.key, entry);
        })
        .map_err(|source| LiveError::Syscall {
            call: "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
            map: "ENDED",
            source,
        })
    }

    /// Takes a flow out with its last value; `None` where it has gone meanwhile, or has been promoted.
    pub fn take(&self, key: &FlowKey, embryonic: bool) -> Result<Option<FlowEntry>, LiveError> {
        let (name, map) =
            if embryonic { ("EMBRYONIC", &self.embryonic) } else { ("FLOWS", &self.flows) };
        let mut entry = FlowEntry::EMPTY;
        let taken = batch::take(map.fd().as_fd(), key, &mut entry).map_err(|source| {
            LiveError::Syscall { call: "BPF_MAP_LOOKUP_AND_DELETE_ELEM", map: name, source }
        })?;
        Ok(taken.map(|()| entry))
    }
}

/// What reads a batch: [`batch::lookup_batch`] or [`batch::take_batch`].
type ReadBatch<K, V> = fn(
    BorrowedFd<'_>,
    Option<&BatchCursor>,
    &mut BatchCursor,
    &mut [K],
    &mut [V],
) -> io::Result<Batch>;

/// Calls `visit` with every element of a map.
fn read_all<K, V>(
    read: ReadBatch<K, V>,
    map: &MapData,
    keys: &mut [K],
    values: &mut [V],
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut from: Option<BatchCursor> = None;
    loop {
        let mut to = BatchCursor::default();
        let batch = read(map.fd().as_fd(), from.as_ref(), &mut to, keys, values)?;
        for (key, value) in keys.iter().zip(&*values).take(batch.count) {
            visit(key, value);
        }
        if batch.done {
            return Ok(());
        }
        from = Some(to);
    }
}

/// Round trips by service.
pub struct ServiceMap {
    slots: MapData,
    round_trips: PerCpuArray<MapData, Pod<ServiceRtt>>,
}

impl std::fmt::Debug for ServiceMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceMap")
    }
}

impl ServiceMap {
    pub(super) fn new(slots: MapData, round_trips: Map) -> Result<Self, LiveError> {
        let round_trips = PerCpuArray::try_from(round_trips)
            .map_err(|source| LiveError::Map { name: "SERVICE_RTT", source })?;
        Ok(Self { slots, round_trips })
    }

    /// Calls `visit` with every service ([`datapath::service`]) and its round trips; `None` is all those that have no
    /// slot of their own, and flows from before they were promoted.
    pub fn read(&self, mut visit: impl FnMut(Option<u32>, &ServiceRtt)) -> Result<(), LiveError> {
        let size = SERVICES_MAX as usize;
        let (mut services, mut slots) = (vec![0; size], vec![0; size]);
        let mut known = vec![(None, 0)];
        read_all(
            batch::lookup_batch,
            &self.slots,
            &mut services,
            &mut slots,
            |service: &u32, slot: &u32| {
                known.push((Some(*service), *slot));
            },
        )
        .map_err(|source| LiveError::Syscall {
            call: "BPF_MAP_LOOKUP_BATCH",
            map: "SERVICES",
            source,
        })?;
        for (service, slot) in known {
            let per_cpu = self
                .round_trips
                .get(&slot, 0)
                .map_err(|source| LiveError::Map { name: "SERVICE_RTT", source })?;
            let mut sum = ServiceRtt::default();
            for Pod(round_trips) in per_cpu.iter() {
                add_histogram(&mut sum.from_originator, &round_trips.from_originator);
                add_histogram(&mut sum.from_responder, &round_trips.from_responder);
            }
            visit(service, &sum);
        }
        Ok(())
    }
}

/// The counters of every hook.
pub struct HookMap {
    map: PerCpuArray<MapData, Pod<HookCounters>>,
    /// Points that had counters when this was opened.
    counted: Vec<u32>,
}

impl std::fmt::Debug for HookMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookMap")
    }
}

impl HookMap {
    pub(super) fn new(map: Map) -> Result<Self, LiveError> {
        let map = PerCpuArray::try_from(map)
            .map_err(|source| LiveError::Map { name: "HOOKS", source })?;
        let mut hooks = Self { map, counted: Vec::new() };
        for point in 1..POINTS_MAX {
            let ways = [Direction::Ingress, Direction::Egress];
            let seen = ways.map(|way| hooks.read(point, way).map(|counters| counters.seen));
            let [ingress, egress] = seen;
            if ingress? + egress? > 0 {
                hooks.counted.push(point);
            }
        }
        Ok(hooks)
    }

    /// Points that had counters before this process came: those of interfaces that are not watched any more have to be
    /// in every sum, since flows of theirs are.
    pub fn counted(&self) -> impl Iterator<Item = u32> {
        self.counted.iter().copied()
    }

    /// The sum over all CPUs for one observation point and direction.
    pub fn read(&self, point: u32, direction: Direction) -> Result<HookCounters, LiveError> {
        let per_cpu = self
            .map
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
    sum.promoted += counters.promoted;
    sum.contended += counters.contended;
    add_histogram(&mut sum.rtt, &counters.rtt);
}

fn add_histogram(sum: &mut RttHistogram, other: &RttHistogram) {
    for (total, count) in sum.buckets.iter_mut().zip(other.buckets) {
        *total += count;
    }
}
