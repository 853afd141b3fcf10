//! The rings of captured packets, one per CPU, read as one in the order of time; and what the stage counted. Never holds
//! a record back longer than it takes the other CPUs to have put theirs in.

use std::{io, time::Duration};

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use datapath::layout::{
    CAPTURES_MAX, CaptureCounts, CaptureGap, CaptureRecord, CaptureTotals, RECORD_GAP,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use zerocopy::FromBytes as _;

use super::{
    LiveError, MapSizes,
    layout::{Found, Shape},
    objects,
    pinned::{self, PinDir},
    pod::Pod,
    ring::Ring,
};

/// How long a packet may take from its time into its ring: so young a record waits for those of other CPUs.
const SETTLED_NS: u64 = 2_000_000;

/// What is in a ring.
#[derive(Clone, Copy, Debug)]
pub enum Captured<'a> {
    /// A packet.
    Packet(&'a CaptureRecord, &'a [u8]),
    /// Packets that found the ring full, by capture.
    Gap(&'a [u32; CAPTURES_MAX]),
}

/// The rings, and what became of the packets that captures wanted.
pub struct CaptureRings {
    rings: Vec<Ring>,
    /// Told when the kernel says so, and not as long as there is something in a ring.
    filling: Epoll,
    /// Packets read, since the maps were made.
    consumed: u64,
    totals: PerCpuArray<MapData, Pod<CaptureTotals>>,
}

impl std::fmt::Debug for CaptureRings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureRings").field("rings", &self.rings.len()).finish_non_exhaustive()
    }
}

impl CaptureRings {
    pub(super) fn new(rings: Vec<MapData>, totals: MapData) -> Result<Self, LiveError> {
        let failed = |call| {
            move |source: io::Error| LiveError::Syscall { call, map: "CAPTURE_RINGS", source }
        };
        let rings: io::Result<Vec<_>> = rings.into_iter().map(Ring::new).collect();
        let rings = rings.map_err(failed("mmap"))?;
        let filling = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| failed("epoll_create1")(errno.into()))?;
        for ring in &rings {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
            filling.add(ring, event).map_err(|errno| failed("epoll_ctl")(errno.into()))?;
        }
        Ok(Self { rings, filling, consumed: 0, totals: per_cpu("CAPTURE_TOTALS", totals)? })
    }

    /// Goes on where an earlier reader ended, however it did: what it left in the rings is read past, and all that was
    /// put in counts as read. To be called while no stage copies.
    pub(super) fn take_over(&mut self) -> Result<(), LiveError> {
        while self.read(usize::MAX, u64::MAX, |_| {}) > 0 {}
        let totals = self.totals()?;
        self.consumed = totals.offered - totals.lost;
        Ok(())
    }

    /// Waits until a ring fills up, but no longer than `timeout`: what is in them is to be read anyway.
    pub fn wait(&self, timeout: Duration) {
        let mut events = [EpollEvent::empty()];
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
        // An interrupted wait is a short one.
        let _ready = self.filling.wait(&mut events, timeout);
    }

    /// Hands out up to `most` records in the order of time, as far as no earlier one can come; returns how many. `now_ns`
    /// is CLOCK_MONOTONIC, or the greatest number where nothing is copied any more.
    pub fn read(&mut self, most: usize, now_ns: u64, mut visit: impl FnMut(Captured<'_>)) -> usize {
        let until = if now_ns == u64::MAX { now_ns } else { now_ns.saturating_sub(SETTLED_NS) };
        let mut read = 0;
        while read < most {
            // The ring with the earliest record, and how far it may be read before another one has to be looked at.
            let (mut first, mut first_ns, mut next_ns) = (None, u64::MAX, until);
            for (index, ring) in self.rings.iter_mut().enumerate() {
                let Some(time_ns) = ring.peek().map(|item| item.record.time_ns) else { continue };
                if first.is_none() || time_ns < first_ns {
                    next_ns = next_ns.min(first_ns);
                    (first, first_ns) = (Some(index), time_ns);
                } else {
                    next_ns = next_ns.min(time_ns);
                }
            }
            let Some(first) = first.filter(|_| first_ns <= until) else { break };
            let ring = &mut self.rings[first];
            while read < most
                && let Some(item) = ring.peek()
                && (item.record.time_ns <= next_ns)
            {
                read += 1;
                if item.record.kind == RECORD_GAP {
                    if let Ok((lost, _)) = <[u32; CAPTURES_MAX]>::read_from_prefix(item.bytes) {
                        visit(Captured::Gap(&lost));
                    }
                } else {
                    self.consumed += 1;
                    let captured = item.record.captured_len as usize;
                    let bytes = item.bytes.get(..captured).unwrap_or(item.bytes);
                    visit(Captured::Packet(&item.record, bytes));
                }
                ring.take();
            }
        }
        read
    }

    /// Packets read since the maps were made, by this reader: there is one.
    #[must_use]
    pub const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// What the stage did since the maps were made, on all CPUs.
    pub fn totals(&self) -> Result<CaptureTotals, LiveError> {
        let per_cpu = self
            .totals
            .get(&0, 0)
            .map_err(|source| LiveError::Map { name: "CAPTURE_TOTALS", source })?;
        let mut sum = CaptureTotals::default();
        for Pod(totals) in per_cpu.iter() {
            sum.offered += totals.offered;
            sum.lost += totals.lost;
        }
        Ok(sum)
    }
}

/// What the stage counted for each capture.
pub struct CaptureCounters(PerCpuArray<MapData, Pod<CaptureCounts>>);

impl std::fmt::Debug for CaptureCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaptureCounters")
    }
}

impl CaptureCounters {
    pub(super) fn new(counts: MapData) -> Result<Self, LiveError> {
        per_cpu("CAPTURE_COUNTS", counts).map(Self)
    }

    /// Of one slot, since the maps were made, on all CPUs.
    pub fn read(&self, slot: u8) -> Result<CaptureCounts, LiveError> {
        let per_cpu = self
            .0
            .get(&u32::from(slot), 0)
            .map_err(|source| LiveError::Map { name: "CAPTURE_COUNTS", source })?;
        let mut sum = CaptureCounts::default();
        for Pod(counts) in per_cpu.iter() {
            sum.matched += counts.matched;
            sum.produced += counts.produced;
            sum.over_budget += counts.over_budget;
            sum.lost_ring += counts.lost_ring;
            sum.lost_copy += counts.lost_copy;
        }
        Ok(sum)
    }
}

fn per_cpu<T>(name: &'static str, map: MapData) -> Result<PerCpuArray<MapData, Pod<T>>, LiveError>
where
    Pod<T>: aya::Pod,
{
    PerCpuArray::try_from(Map::PerCpuArray(map)).map_err(|source| LiveError::Map { name, source })
}

// A gap's numbers stand right behind its record.
const _: () = assert!(std::mem::offset_of!(CaptureGap, lost) == size_of::<CaptureRecord>());

/// As messages call them.
pub(super) const NAME: &str = "CAPTURE_RING";

/// What a CPU's ring is pinned as.
pub(super) fn pin(cpu: usize) -> String {
    format!("{NAME}_{cpu}")
}

/// The rings of all CPUs: those that a dead attacher left, where they are of the configured size.
pub(super) fn make(pins: &PinDir, sizes: MapSizes) -> Result<Vec<MapData>, LiveError> {
    let failed = |source| LiveError::Map { name: NAME, source };
    let (cpus, entries) = (objects::cpus()?, sizes.ring_bytes()?);
    let shape = Shape { name: NAME.to_owned(), kind: RINGBUF, key: 0, value: 0, entries, flags: 0 };
    let mut rings = Vec::new();
    for cpu in 0..cpus as usize {
        let path = pins.map(&pin(cpu));
        let left = match shape.look(&path)? {
            Found::Map(map, found) if found == shape => Some(*map),
            Found::Map(..) | Found::Unusable(_) => {
                std::fs::remove_file(&path)
                    .map_err(|source| pinned::failed("remove", &path, source))?;
                None
            }
            Found::Nothing => None,
        };
        let ring = match left {
            Some(ring) => ring,
            None => {
                let ring = shape.create().map_err(failed)?;
                let error = |error| failed(MapError::PinError { name: Some(pin(cpu)), error });
                ring.pin(&path).map_err(error)?;
                ring
            }
        };
        rings.push(ring);
    }
    Ok(rings)
}

/// `BPF_MAP_TYPE_RINGBUF` (include/uapi/linux/bpf.h).
const RINGBUF: u32 = 27;
