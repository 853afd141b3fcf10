//! The records of flows, live and ended, within a bound. Where room is needed, the one that ended first goes; those that
//! never were more than an attempt go before all others, so that a flood leaves the history of real flows alone.

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::{DashMap, mapref::one::RefMut};

use super::{FlowId, FlowRecord, record::Ended, view::PointName};

/// Records of flows, live and ended, unless configured otherwise.
pub const RECORDS_DEFAULT: usize = 262_144;

/// Bytes of a Community ID, with what the allocator adds.
const COMMUNITY_ID_BYTES: u64 = 48;

/// The records. The map keeps its default hasher: its random keys are what outsiders, who choose the flow keys, cannot
/// aim at.
#[derive(Debug)]
pub(super) struct History {
    max: usize,
    /// At most `max`.
    records: DashMap<FlowId, FlowRecord>,
    /// Each record that ended is in it, with when it did.
    ended: Mutex<Queues>,
    forgotten: AtomicU64,
}

/// When records ended, and which; the first that ended first.
#[derive(Debug, Default)]
struct Queues {
    attempts: VecDeque<(u64, FlowId)>,
    flows: VecDeque<(u64, FlowId)>,
}

impl History {
    pub(super) fn new(max: usize) -> Self {
        Self { max, records: DashMap::new(), ended: Mutex::default(), forgotten: AtomicU64::new(0) }
    }

    /// About the most memory that so many records take.
    pub(super) fn bytes_max(records: usize) -> u64 {
        let count = records as u64;
        map_bytes(count, size_of::<(FlowId, FlowRecord)>())
            .saturating_add(count.saturating_mul(COMMUNITY_ID_BYTES))
            .saturating_add(count.saturating_mul(size_of::<(u64, FlowId)>() as u64))
    }

    /// The record of a flow that lives, or is about to end: to be brought up to date.
    pub(super) fn get_mut(&self, id: FlowId) -> Option<RefMut<'_, FlowId, FlowRecord>> {
        let mut record = self.records.get_mut(&id)?;
        record.ended = None;
        Some(record)
    }

    /// Removes a record that ended at `at_ns`, unless its flow has been met again since.
    fn remove(&self, id: FlowId, at_ns: u64) {
        self.records.remove_if(&id, |_, record| record.ended.is_some_and(|(_, at)| at == at_ns));
    }

    /// Adds what `make` makes, if there is room or can be made.
    pub(super) fn add(&self, id: FlowId, make: impl FnOnce() -> FlowRecord) -> bool {
        let has_room = self.records.len() < self.max || self.make_room();
        if has_room {
            self.records.insert(id, make());
        }
        has_room
    }

    /// A flow came for whose record there was no room.
    pub(super) fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    fn make_room(&self) -> bool {
        while self.records.len() >= self.max {
            let first = {
                let mut ended = self.ended();
                ended.attempts.pop_front().or_else(|| ended.flows.pop_front())
            };
            let Some((at_ns, id)) = first else { return false };
            self.remove(id, at_ns);
        }
        self.forget();
        true
    }

    /// A flow has left the kernel's table.
    pub(super) fn end(&self, id: FlowId, why: Ended, now_ns: u64) {
        let Some(mut record) = self.records.get_mut(&id) else { return };
        record.ended = Some((why, now_ns));
        record.stand_still();
        let embryonic = record.embryonic;
        drop(record);
        let mut ended = self.ended();
        let queue = if embryonic { &mut ended.attempts } else { &mut ended.flows };
        queue.push_back((now_ns, id));
    }

    /// What has been kept long enough goes.
    pub(super) fn expire(&self, keep_ended_ns: u64, now_ns: u64) {
        let is_due =
            |(at_ns, _): &mut (u64, FlowId)| now_ns.saturating_sub(*at_ns) >= keep_ended_ns;
        let mut ended = self.ended();
        let Queues { attempts, flows } = &mut *ended;
        for queue in [attempts, flows] {
            while let Some((at_ns, id)) = queue.pop_front_if(is_due) {
                self.remove(id, at_ns);
            }
        }
    }

    pub(super) fn get(&self, id: FlowId) -> Option<FlowRecord> {
        self.records.get(&id).map(|record| record.clone())
    }

    /// Calls `visit` with every record, in no particular order.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&FlowRecord)) {
        for record in &self.records {
            visit(&record);
        }
    }

    /// The records of an observation point are of this interface, whatever has its id from here on.
    pub(super) fn settle(&self, point: u32, place: &Arc<PointName>) {
        for mut record in self.records.iter_mut() {
            if record.key.observation_point == point && record.place.is_none() {
                record.place = Some(Arc::clone(place));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Records dropped before their time, or never made, because there were too many.
    pub(super) fn go_on_from(&self, forgotten: u64) {
        self.forgotten.store(forgotten, Ordering::Relaxed);
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    fn ended(&self) -> MutexGuard<'_, Queues> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a hash table of so many entries: a power of two of slots, at most 7/8 of them used, with a byte for each.
pub(crate) fn map_bytes(entries: u64, entry_bytes: usize) -> u64 {
    let slots = (entries.saturating_mul(8) / 7).saturating_add(1).next_power_of_two();
    slots.saturating_mul(entry_bytes as u64 + 1)
}

#[cfg(test)]
mod tests {
    use datapath::FlowKey;

    use super::*;
    use crate::flow::FlowIdSource;

    fn add(history: &History, number: u64, embryonic: bool) -> FlowId {
        let id = FlowIdSource::new(b"test").id(&FlowKey::default(), number);
        let mut record = FlowRecord::new(id, FlowKey::default(), String::new());
        record.embryonic = embryonic;
        assert!(history.add(id, || record));
        id
    }

    #[test]
    fn attempts_make_room_before_flows() {
        let history = History::new(3);
        let flow = add(&history, 1, false);
        let attempt = add(&history, 2, true);
        let live = add(&history, 3, false);
        history.end(flow, Ended::Closed, 1);
        history.end(attempt, Ended::Evicted, 2);
        add(&history, 4, false);
        assert!(history.get(attempt).is_none() && history.get(flow).is_some());
        add(&history, 5, false);
        assert!(history.get(flow).is_none() && history.get(live).is_some());
        assert_eq!((history.len(), history.forgotten()), (3, 2));
    }

    #[test]
    fn both_are_kept_for_the_same_time() {
        let history = History::new(3);
        let ids = [add(&history, 1, false), add(&history, 2, true)];
        ids.iter().for_each(|id| history.end(*id, Ended::Idle, 10));
        history.expire(100, 109);
        assert_eq!(history.len(), 2);
        history.expire(100, 110);
        assert_eq!(history.len(), 0);
    }
}
