//! The flows of this host in user space: live ones as of the last sweep, ended ones for as long as they are kept.
//! Never reads the kernel itself: [`crate::sweep`] and the replay bring entries here.

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use datapath::{FlowKey, layout::FlowEntry, parse::tunnel::tag, rtt::RttTicks};

use super::{
    FlowId, FlowIdSource, FlowRecord,
    community_id::community_id,
    expiry::Timeouts,
    record::{Ended, Observation},
};

/// Records of flows, live and ended, unless configured otherwise.
pub const RECORDS_DEFAULT: usize = 262_144;

/// Bytes of a Community ID, with what the allocator adds.
const COMMUNITY_ID_BYTES: u64 = 48;

/// The table. All maps keep their default hasher: its random keys are what outsiders, who choose the flow keys,
/// cannot aim at.
#[derive(Debug)]
pub struct FlowTable {
    source: FlowIdSource,
    records_max: usize,
    timeouts: Timeouts,
    /// At most `records_max`.
    records: DashMap<FlowId, FlowRecord>,
    /// When records ended, and which; the first that ended first. Each record that ended is in it once.
    ended: Mutex<VecDeque<(u64, FlowId)>>,
    live: DashMap<FlowKey, Live>,
    /// Live flows by the tag under which those that they carry know them.
    tags: DashMap<u64, FlowId>,
    closed: AtomicU64,
    aged: AtomicU64,
    evicted: AtomicU64,
    forgotten: AtomicU64,
}

/// A flow of the kernel's table as of the last look at it.
#[derive(Debug)]
struct Live {
    id: FlowId,
    entry: Box<FlowEntry>,
    seen_at_ns: u64,
    sweep: u64,
}

/// How many flows left the table, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// Closed by FIN or RST.
    pub closed: u64,
    /// Idle for too long.
    pub aged: u64,
    /// Instances that were seen and then gone without having ended.
    pub evicted: u64,
    /// Records dropped before their time, or never made, because there were too many.
    pub forgotten: u64,
}

/// Bytes of a hash table of so many entries: a power of two of slots, at most 7/8 of them used, with a byte for each.
fn map_bytes(entries: u64, entry_bytes: usize) -> u64 {
    let slots = (entries.saturating_mul(8) / 7).saturating_add(1).next_power_of_two();
    slots.saturating_mul(entry_bytes as u64 + 1)
}

impl FlowTable {
    /// About the most memory that a table takes whose source has room for `flows`.
    #[must_use]
    pub fn bytes_max(flows: u32, records_max: usize) -> u64 {
        let (flows, records) = (u64::from(flows), records_max as u64);
        let live = map_bytes(flows, size_of::<(FlowKey, Live)>())
            + flows * size_of::<FlowEntry>() as u64
            + map_bytes(flows, size_of::<(u64, FlowId)>());
        let recorded = map_bytes(records, size_of::<(FlowId, FlowRecord)>())
            .saturating_add(records.saturating_mul(COMMUNITY_ID_BYTES))
            .saturating_add(records.saturating_mul(size_of::<(u64, FlowId)>() as u64));
        live.saturating_add(recorded)
    }

    /// An empty table of one origin's flows.
    #[must_use]
    pub fn new(source: FlowIdSource, records_max: usize, timeouts: Timeouts) -> Self {
        Self {
            source,
            records_max,
            timeouts,
            records: DashMap::new(),
            ended: Mutex::default(),
            live: DashMap::new(),
            tags: DashMap::new(),
            closed: AtomicU64::new(0),
            aged: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    /// When flows end.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Brings in an entry as it is at `now_ns`. `instance` tells flows of one key apart: the kernel's first-seen
    /// time, or the first frame's number. Where there is no room for its record it is counted as forgotten, once, and
    /// gets one as soon as there is room.
    pub fn observe(
        &self,
        key: FlowKey,
        entry: &FlowEntry,
        instance: u64,
        samples: Option<&[Vec<RttTicks>; 2]>,
        now_ns: u64,
        sweep: u64,
    ) -> FlowId {
        let id = self.source.id(&key, instance);
        let mut before = None;
        if let Some(live) = self.live.get(&key) {
            if live.id == id {
                before = Some((live.entry.clone(), now_ns.saturating_sub(live.seen_at_ns)));
            } else {
                let gone = live.id;
                drop(live);
                self.depart(gone, Ended::Evicted, now_ns);
            }
        }
        self.tags.insert(tag(&key), id);
        let parent = self.tags.get(&entry.encapsulation.parent_tag).map(|parent| *parent);
        if let Some(mut record) = self.records.get_mut(&id) {
            record.observe(Observation {
                entry,
                before: before.as_ref().map(|(entry, ago)| (&**entry, *ago)),
                samples,
                timeouts: &self.timeouts,
            });
            record.parent = record.parent.or(parent);
        } else if self.has_room() {
            let mut record = FlowRecord::new(id, key, community_id(&key));
            let timeouts = &self.timeouts;
            record.observe(Observation { entry, before: None, samples, timeouts });
            record.parent = parent;
            self.records.insert(id, record);
        } else if before.is_none() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        self.live.insert(key, Live { id, entry: Box::new(*entry), seen_at_ns: now_ns, sweep });
        id
    }

    /// The flow of `key` was taken out of the kernel's table.
    pub fn end(&self, key: &FlowKey, why: Ended, now_ns: u64) {
        if let Some((_, live)) = self.live.remove(key) {
            self.tags.remove_if(&tag(key), |_, id| *id == live.id);
            self.depart(live.id, why, now_ns);
        }
    }

    /// After a whole sweep: what it did not meet has been evicted. What has been kept long enough goes.
    pub fn finish_sweep(&self, sweep: u64, keep_ended_ns: u64, now_ns: u64) {
        let mut gone = Vec::new();
        self.live.retain(|key, live| {
            let met = live.sweep == sweep;
            if !met {
                self.tags.remove_if(&tag(key), |_, id| *id == live.id);
                gone.push(live.id);
            }
            met
        });
        for id in gone {
            self.depart(id, Ended::Evicted, now_ns);
        }
        let is_due = |at_ns: u64| now_ns.saturating_sub(at_ns) >= keep_ended_ns;
        let mut ended = self.ended();
        while let Some((_, id)) = ended.pop_front_if(|(at_ns, _)| is_due(*at_ns)) {
            self.records.remove(&id);
        }
    }

    /// Whether one more record fits, after the one that ended first has made room if need be.
    fn has_room(&self) -> bool {
        if self.records.len() < self.records_max {
            return true;
        }
        let Some((_, id)) = self.ended().pop_front() else { return false };
        self.records.remove(&id);
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<(u64, FlowId)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn depart(&self, id: FlowId, why: Ended, now_ns: u64) {
        let counter = match why {
            Ended::Closed => &self.closed,
            Ended::Idle => &self.aged,
            Ended::Evicted => &self.evicted,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(mut record) = self.records.get_mut(&id) {
            if record.ended.replace((why, now_ns)).is_none() {
                self.ended().push_back((now_ns, id));
            }
            for half in [true, false] {
                let half =
                    if half { &mut record.from_originator } else { &mut record.from_responder };
                half.packets_per_second = 0.0;
                half.bits_per_second = 0.0;
            }
        }
    }

    /// One flow.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<FlowRecord> {
        self.records.get(&id).map(|record| record.clone())
    }

    /// The instance of `key` that is live as of the last sweep.
    #[must_use]
    pub fn live_id(&self, key: &FlowKey) -> Option<FlowId> {
        self.live.get(key).map(|live| live.id)
    }

    /// Calls `visit` with every record, in no particular order.
    pub fn for_each(&self, mut visit: impl FnMut(&FlowRecord)) {
        for record in &self.records {
            visit(&record);
        }
    }

    /// Number of records, live and ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of live flows as of the last sweep.
    #[must_use]
    pub fn live_len(&self) -> usize {
        self.live.len()
    }

    /// How many flows left, and why.
    #[must_use]
    pub fn departures(&self) -> Departures {
        Departures {
            closed: self.closed.load(Ordering::Relaxed),
            aged: self.aged.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            forgotten: self.forgotten.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> FlowTable {
        FlowTable::new(FlowIdSource::new(b"test"), 4, Timeouts::default())
    }

    fn key(port: u16) -> FlowKey {
        FlowKey { lower_port: port, protocol: 6, ..FlowKey::default() }
    }

    fn entry(packets: u64) -> FlowEntry {
        let mut entry = FlowEntry::EMPTY;
        entry.halves[0].packets = packets;
        entry.halves[0].bytes = packets * 100;
        entry
    }

    #[test]
    fn rates_come_from_the_difference_of_two_sweeps() {
        let table = table();
        table.observe(key(1), &entry(10), 1, None, 1_000_000_000, 1);
        let id = table.observe(key(1), &entry(30), 1, None, 3_000_000_000, 2);
        let record = table.get(id).unwrap();
        assert!((record.from_originator.packets_per_second - 10.0).abs() < 1e-9);
        assert!((record.from_originator.bits_per_second - 8_000.0).abs() < 1e-9);
    }

    #[test]
    fn what_a_sweep_does_not_meet_was_evicted_and_is_kept() {
        let table = table();
        let id = table.observe(key(1), &entry(1), 1, None, 0, 1);
        table.finish_sweep(2, 100, 50);
        assert_eq!(table.live_len(), 0);
        assert_eq!(table.get(id).unwrap().ended, Some((Ended::Evicted, 50)));
        assert_eq!(table.departures().evicted, 1);
        table.finish_sweep(3, 100, 150);
        assert!(table.get(id).is_none());
    }

    #[test]
    fn a_key_that_comes_back_is_another_flow() {
        let table = table();
        let first = table.observe(key(1), &entry(1), 1, None, 0, 1);
        let second = table.observe(key(1), &entry(1), 2, None, 10, 2);
        assert_ne!(first, second);
        assert_eq!(table.get(first).unwrap().ended, Some((Ended::Evicted, 10)));
        assert_eq!(table.live_id(&key(1)), Some(second));
    }

    #[test]
    fn the_records_that_ended_first_make_room() {
        let table = table();
        for port in 0..6 {
            table.observe(key(port), &entry(1), 1, None, 0, 1);
            table.end(&key(port), Ended::Closed, u64::from(port));
        }
        assert_eq!(table.len(), 4);
        assert_eq!(table.departures().forgotten, 2);
        let mut ports = Vec::new();
        table.for_each(|record| ports.push(record.key.lower_port));
        ports.sort_unstable();
        assert_eq!(ports, [2, 3, 4, 5]);
    }

    #[test]
    fn live_flows_without_room_are_counted_once_and_recorded_later() {
        let table = table();
        for sweep in 1..3 {
            for port in 0..6 {
                table.observe(key(port), &entry(sweep), 1, None, sweep, sweep);
            }
            table.finish_sweep(sweep, u64::MAX, sweep);
            assert_eq!((table.len(), table.live_len()), (4, 6));
            assert_eq!(table.departures().forgotten, 2);
        }
        table.end(&key(0), Ended::Closed, 3);
        let id = table.observe(key(5), &entry(9), 1, None, 4, 3);
        assert_eq!(table.get(id).map(|record| record.from_originator.packets), Some(9));
        assert_eq!((table.len(), table.departures().forgotten), (4, 3));
    }

    #[test]
    fn the_bound_covers_the_records_and_the_live_flows() {
        let records = 1_000 * size_of::<FlowRecord>() as u64;
        assert!(FlowTable::bytes_max(1, 1_000) > records);
        let live = 1_000 * (size_of::<FlowEntry>() + size_of::<FlowKey>()) as u64;
        assert!(FlowTable::bytes_max(1_000, 1) > live);
    }
}
