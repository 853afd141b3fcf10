//! The flows of this host in user space: live ones as of the last sweep, ended ones for as long as they are kept.
//! Never reads the kernel itself: [`crate::sweep`] and the replay bring entries here.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::{DashMap, Entry};
use datapath::{FlowKey, layout::FlowEntry, parse::tunnel::tag, rtt::RttTicks};
use zerocopy::IntoBytes as _;

use super::{
    FlowId, FlowIdSource, FlowRecord,
    community_id::community_id,
    expiry::Timeouts,
    history::{History, map_bytes},
    record::{Ended, Observation},
    view::PointName,
};

/// The table. All maps keep their default hasher: its random keys are what outsiders, who choose the flow keys,
/// cannot aim at.
#[derive(Debug)]
pub struct FlowTable {
    source: FlowIdSource,
    history: History,
    timeouts: Timeouts,
    live: DashMap<FlowKey, Live>,
    /// Flows whose keys others have now, until the end of the sweep that found out.
    displaced: Mutex<HashMap<FlowId, Live>>,
    /// Live flows by the tag under which those that they carry know them.
    tags: DashMap<u64, FlowId>,
    closed: AtomicU64,
    aged: AtomicU64,
    evicted: AtomicU64,
}

/// A flow of the kernel's table as of the last look at it.
#[derive(Debug)]
struct Live {
    id: FlowId,
    entry: Box<FlowEntry>,
    seen_at_ns: u64,
    sweep: u64,
    /// Its record says all that the entry does, and that nothing moves: there is nothing to do until something does.
    rests: bool,
}

impl Live {
    /// Whether an entry of its key is of the same flow.
    const fn is_of(&self, entry: &FlowEntry) -> bool {
        self.entry.head.first_seen_ns == entry.head.first_seen_ns
    }

    fn new(id: FlowId, seen: Seen<'_>, sweep: u64) -> Self {
        let entry = Box::new(*seen.entry);
        Self { id, entry, seen_at_ns: seen.now_ns, sweep, rests: false }
    }
}

/// An entry at the look before, and how long ago that was, ns.
type Before = (FlowEntry, u64);

/// An entry of the kernel's table, or of a replay's, as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its key.
    pub key: &'a FlowKey,
    /// Its bytes.
    pub entry: &'a FlowEntry,
    /// Exact round trips by acknowledging endpoint, offline.
    pub samples: Option<&'a [Vec<RttTicks>; 2]>,
    /// When it was read.
    pub now_ns: u64,
}

/// How many flows left the table, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// Closed by FIN or RST, or by another flow on the same tuple.
    pub closed: u64,
    /// Idle for too long.
    pub aged: u64,
    /// Instances that were seen and then gone without having ended.
    pub evicted: u64,
    /// Records dropped before their time, or never made, because there were too many.
    pub forgotten: u64,
}

impl FlowTable {
    /// About the most memory that a table takes whose source has room for `flows`.
    #[must_use]
    pub fn bytes_max(flows: u32, records_max: usize) -> u64 {
        // A sweep brings in what is there before it takes out what has gone.
        let flows = u64::from(flows) * 2;
        let live = map_bytes(flows, size_of::<(FlowKey, Live)>())
            + flows * size_of::<FlowEntry>() as u64
            + map_bytes(flows, size_of::<(u64, FlowId)>());
        live.saturating_add(History::bytes_max(records_max))
    }

    /// An empty table of one origin's flows.
    #[must_use]
    pub fn new(source: FlowIdSource, records_max: usize, timeouts: Timeouts) -> Self {
        Self {
            source,
            history: History::new(records_max),
            timeouts,
            live: DashMap::new(),
            displaced: Mutex::default(),
            tags: DashMap::new(),
            closed: AtomicU64::new(0),
            aged: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Goes on from an earlier table's departures.
    pub fn go_on_from(&self, before: Departures) {
        self.closed.store(before.closed, Ordering::Relaxed);
        self.aged.store(before.aged, Ordering::Relaxed);
        self.evicted.store(before.evicted, Ordering::Relaxed);
        self.history.go_on_from(before.forgotten);
    }

    /// When flows end.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Brings in an entry of a flow that lives. When it was first seen tells flows of one key apart. Where there is no
    /// room for its record it is counted as forgotten, once, and gets one as soon as there is room.
    pub fn observe(&self, seen: Seen<'_>, sweep: u64) -> FlowId {
        let Seen { key, entry, now_ns, .. } = seen;
        let mut before: Option<Before> = None;
        let (id, moved) = match self.live.entry(*key) {
            Entry::Occupied(mut known) if known.get().is_of(entry) => {
                let live = known.get_mut();
                live.sweep = sweep;
                let moved = live.entry.as_bytes() != entry.as_bytes();
                if live.rests && !moved {
                    live.seen_at_ns = now_ns;
                    return live.id;
                }
                let ago_ns = now_ns.saturating_sub(std::mem::replace(&mut live.seen_at_ns, now_ns));
                before = Some((std::mem::replace(&mut *live.entry, *entry), ago_ns));
                (live.id, moved)
            }
            known @ (Entry::Occupied(_) | Entry::Vacant(_)) => {
                let id = self.source.id(key, entry.head.first_seen_ns);
                let live = Live::new(id, seen, sweep);
                if let Entry::Occupied(mut other) = known {
                    let other = other.insert(live);
                    self.displaced().insert(other.id, other);
                } else {
                    known.insert(live);
                }
                self.tags.insert(tag(key), id);
                (id, true)
            }
        };
        let recorded = self.record(id, seen, before.as_ref());
        if let Some(mut live) = self.live.get_mut(key) {
            live.rests = recorded && !moved;
        }
        id
    }

    /// Brings in the last bytes of a flow that has left the source's table, and why it has.
    pub fn observe_ended(&self, seen: Seen<'_>, why: Ended) -> FlowId {
        let Seen { key, entry, now_ns, .. } = seen;
        let id = self.source.id(key, entry.head.first_seen_ns);
        let live = self.live.remove_if(key, |_, live| live.id == id).map(|(_, live)| live);
        let live = live.or_else(|| self.displaced().remove(&id));
        let before = live.map(|live| (*live.entry, now_ns.saturating_sub(live.seen_at_ns)));
        self.tags.remove_if(&tag(key), |_, other| *other == id);
        self.record(id, seen, before.as_ref());
        self.depart(id, why, now_ns);
        id
    }

    /// Brings the record of a flow up to date; whether there is room for one.
    fn record(&self, id: FlowId, seen: Seen<'_>, before: Option<&Before>) -> bool {
        let Seen { key, entry, samples, .. } = seen;
        let timeouts = &self.timeouts;
        let parent = match entry.encapsulation.parent_tag {
            0 => None,
            tag => self.tags.get(&tag).map(|parent| *parent),
        };
        if let Some(mut record) = self.history.get_mut(id) {
            let before = before.map(|(entry, ago_ns)| (entry, *ago_ns));
            record.observe(Observation { entry, before, samples, timeouts });
            record.parent = record.parent.or(parent);
            return true;
        }
        let is_recorded = self.history.add(id, || {
            let mut record = FlowRecord::new(id, *key, community_id(key));
            record.observe(Observation { entry, before: None, samples, timeouts });
            record.parent = parent;
            record
        });
        if !is_recorded && before.is_none() {
            self.history.forget();
        }
        is_recorded
    }

    /// After a whole sweep: what it did not meet has been evicted. What has been kept long enough goes.
    pub fn finish_sweep(&self, sweep: u64, now_ns: u64) {
        let mut gone: Vec<_> = self.displaced().drain().map(|(id, _)| id).collect();
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
        self.history.expire(self.timeouts.keep_ended_ns, now_ns);
    }

    /// The observation point's interface has gone, and none of its flows lives: their records keep its name, since the
    /// point may be another interface's from here on.
    pub fn settle(&self, point: u32, place: PointName) {
        self.history.settle(point, &Arc::new(place));
    }

    fn displaced(&self) -> MutexGuard<'_, HashMap<FlowId, Live>> {
        self.displaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn depart(&self, id: FlowId, why: Ended, now_ns: u64) {
        let counter = match why {
            Ended::Closed | Ended::Ignored | Ended::InterfaceRemoved => &self.closed,
            Ended::Idle => &self.aged,
            Ended::Evicted => &self.evicted,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.history.end(id, why, now_ns);
    }

    /// One flow.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<FlowRecord> {
        self.history.get(id)
    }

    /// The instance of `key` that is live as of the last sweep.
    #[must_use]
    pub fn live_id(&self, key: &FlowKey) -> Option<FlowId> {
        self.live.get(key).map(|live| live.id)
    }

    /// Calls `visit` with every record, in no particular order.
    pub fn for_each(&self, visit: impl FnMut(&FlowRecord)) {
        self.history.for_each(visit);
    }

    /// Number of records, live and ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.history.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            forgotten: self.history.forgotten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> FlowTable {
        let timeouts = Timeouts { keep_ended_ns: 100, ..Timeouts::default() };
        FlowTable::new(FlowIdSource::new(b"test"), 4, timeouts)
    }

    fn key(port: u16) -> FlowKey {
        FlowKey { lower_port: port, protocol: 6, ..FlowKey::default() }
    }

    fn entry(packets: u64) -> FlowEntry {
        let mut entry = FlowEntry::EMPTY;
        entry.head.first_seen_ns = 1;
        entry.halves[0].packets = packets;
        entry.halves[0].bytes = packets * 100;
        entry
    }

    fn seen<'a>(key: &'a FlowKey, entry: &'a FlowEntry, now_ns: u64) -> Seen<'a> {
        Seen { key, entry, samples: None, now_ns }
    }

    #[test]
    fn rates_come_from_the_difference_of_two_sweeps() {
        let table = table();
        table.observe(seen(&key(1), &entry(10), 1_000_000_000), 1);
        let id = table.observe(seen(&key(1), &entry(30), 3_000_000_000), 2);
        let record = table.get(id).unwrap();
        assert!((record.from_originator.packets_per_second - 10.0).abs() < 1e-9);
        assert!((record.from_originator.bits_per_second - 8_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_flow_that_rests_has_no_rate_and_wakes_again() {
        let table = table();
        let at = |packets, second: u64| {
            let id = table.observe(seen(&key(1), &entry(packets), second * 1_000_000_000), second);
            table.get(id).unwrap().from_originator
        };
        at(10, 1);
        assert!(at(30, 2).packets_per_second > 19.0);
        for second in 3..6 {
            let rests = at(30, second);
            assert_eq!((rests.packets, rests.packets_per_second.to_bits()), (30, 0));
        }
        let woken = at(37, 6);
        assert_eq!(woken.packets, 37);
        assert!((woken.packets_per_second - 7.0).abs() < 1e-9, "of the last second");
    }

    #[test]
    fn what_a_sweep_does_not_meet_was_evicted_and_is_kept() {
        let table = table();
        let id = table.observe(seen(&key(1), &entry(1), 0), 1);
        table.finish_sweep(2, 50);
        assert_eq!(table.live_len(), 0);
        assert_eq!(table.get(id).unwrap().ended, Some((Ended::Evicted, 50)));
        assert_eq!(table.departures().evicted, 1);
        table.finish_sweep(3, 150);
        assert!(table.get(id).is_none());
    }

    #[test]
    fn a_key_that_comes_back_is_another_flow() {
        let table = table();
        let first = table.observe(seen(&key(1), &entry(1), 0), 1);
        let mut other = entry(1);
        other.head.first_seen_ns = 2;
        let second = table.observe(seen(&key(1), &other, 10), 2);
        assert_ne!(first, second);
        table.finish_sweep(2, 11);
        assert_eq!(table.get(first).unwrap().ended, Some((Ended::Evicted, 11)));
        assert_eq!(table.live_id(&key(1)), Some(second));
    }

    #[test]
    fn a_flow_that_was_replaced_keeps_its_last_figures_whoever_is_read_first() {
        for replaced_is_read_first in [true, false] {
            let table = table();
            let first = table.observe(seen(&key(1), &entry(1), 0), 1);
            let mut other = entry(5);
            other.head.first_seen_ns = 2;
            let replaced = || table.observe_ended(seen(&key(1), &entry(3), 10), Ended::Closed);
            if replaced_is_read_first {
                replaced();
            }
            let second = table.observe(seen(&key(1), &other, 10), 2);
            if !replaced_is_read_first {
                replaced();
            }
            table.finish_sweep(2, 11);
            let record = table.get(first).unwrap();
            assert_eq!(record.from_originator.packets, 3);
            assert_eq!(record.ended, Some((Ended::Closed, 10)));
            assert_eq!(table.get(second).unwrap().ended, None);
            assert_eq!(table.live_id(&key(1)), Some(second));
            let gone = Departures { closed: 1, ..Departures::default() };
            assert_eq!(table.departures(), gone);
        }
    }

    #[test]
    fn the_records_that_ended_first_make_room() {
        let table = table();
        for port in 0..6 {
            table.observe(seen(&key(port), &entry(1), 0), 1);
            let now_ns = u64::from(port);
            table.observe_ended(seen(&key(port), &entry(1), now_ns), Ended::Closed);
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
                table.observe(seen(&key(port), &entry(sweep), sweep), sweep);
            }
            table.finish_sweep(sweep, sweep);
            assert_eq!((table.len(), table.live_len()), (4, 6));
            assert_eq!(table.departures().forgotten, 2);
        }
        table.observe_ended(seen(&key(0), &entry(9), 3), Ended::Closed);
        let id = table.observe(seen(&key(5), &entry(9), 4), 3);
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
