//! The last flagged segments of each flow, and how many there were of each kind. [`crate::events`] and the replay bring
//! them here, in the order of their numbers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use datapath::{
    FlowKey,
    layout::{Event, VERDICTS, VerdictCounts},
    tcp::{
        classes::{self, CLASSES},
        verdict,
    },
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    FlowId, FlowIdSource,
    history::map_bytes,
    view::{Naming, RingsView},
};

/// Events of one flow that are kept: the last ones.
pub const EVENTS_OF_FLOW_MAX: usize = 512;
/// Events that are kept of all flows.
pub const EVENTS_KEPT_MAX: usize = 65_536;
/// Interfaces that have gone of which sums are kept by themselves; those of further ones have no name.
const GONE_MAX: usize = 256;

/// An event with its number: events of all flows since the kernel's maps were made, lost ones too.
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    /// Greater than those of all that came before.
    pub number: u64,
    /// What was logged.
    pub event: Event,
}

/// What is kept of one flow.
#[derive(Clone, Debug, Default)]
pub struct OfFlow {
    /// The last ones, by their numbers.
    pub events: VecDeque<Numbered>,
    /// Those before, as far as that is known: with its last one a flow is forgotten.
    pub forgotten: u64,
}

/// Sums over events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events.
    pub flagged: u64,
    /// Segments by class, in the order of [`classes::NAMES`].
    pub classes: [u64; CLASSES],
    /// Segments, and once bytes, by verdict, in the order of [`verdict::NAMES`].
    pub verdicts: [u64; VERDICTS],
}

/// Sums since the beginning, and over the last interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Since the beginning.
    pub total: Sums,
    /// Of the last interval that has ended.
    pub interval: Sums,
    /// `total` at the end of that.
    at_end: Sums,
}

/// All sums at one moment.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// Of everything.
    pub all: Tally,
    /// By observation point.
    pub points: BTreeMap<u32, Tally>,
    /// Of interfaces that have gone, by name; further ones together under an empty name.
    pub gone: BTreeMap<String, Tally>,
    /// How long the last interval was, ns; 0 before its end.
    pub interval_ns: u64,
    /// Since when there are events, in the source's time, ns.
    pub since_ns: u64,
}

/// The store.
#[derive(Debug)]
pub struct EventStore {
    source: FlowIdSource,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    flows: HashMap<FlowId, OfFlow>,
    /// Whose each kept event is; at most [`EVENTS_KEPT_MAX`].
    order: BTreeMap<u64, FlowId>,
    forgotten: u64,
    last: u64,
    rings: RingsView,
    tallies: Tallies,
    /// When the last interval ended.
    ended_ns: u64,
}

impl Sums {
    fn add(&mut self, event: &Event) {
        self.flagged += 1;
        for (class, count) in self.classes.iter_mut().enumerate() {
            *count += u64::from(event.classes >> class & 1);
        }
        let mut verdicts = VerdictCounts::NONE;
        verdict::count(&mut verdicts, event.verdict, event.segments, event.bytes);
        for (sum, count) in self.verdicts.iter_mut().zip(verdicts.counts) {
            *sum += u64::from(count);
        }
    }

    /// Adds other sums.
    pub fn join(&mut self, other: &Self) {
        self.flagged += other.flagged;
        self.classes.iter_mut().zip(other.classes).for_each(|(sum, count)| *sum += count);
        self.verdicts.iter_mut().zip(other.verdicts).for_each(|(sum, count)| *sum += count);
    }

    fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        since.flagged -= before.flagged;
        since.classes.iter_mut().zip(before.classes).for_each(|(sum, count)| *sum -= count);
        since.verdicts.iter_mut().zip(before.verdicts).for_each(|(sum, count)| *sum -= count);
        since
    }

    /// Each class with its count.
    pub fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> {
        classes::NAMES.iter().map(|(name, _)| *name).zip(self.classes)
    }

    /// Each verdict with its count.
    pub fn by_verdict(&self) -> impl Iterator<Item = (&'static str, u64)> {
        verdict::NAMES.into_iter().zip(self.verdicts)
    }
}

impl Serialize for Sums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by_class: Vec<_> = self.by_class().collect();
        let by_verdict: Vec<_> = self.by_verdict().collect();
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("flagged", &self.flagged)?;
        map.serialize_entry("classes", &Named(&by_class))?;
        map.serialize_entry("verdicts", &Named(&by_verdict))?;
        map.end()
    }
}

struct Named<'a>(&'a [(&'static str, u64)]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Tally {
    fn end_interval(&mut self) {
        self.interval = self.total.since(&self.at_end);
        self.at_end = self.total;
    }

    /// Adds another one.
    pub fn join(&mut self, other: &Self) {
        self.total.join(&other.total);
        self.interval.join(&other.interval);
        self.at_end.join(&other.at_end);
    }
}

impl Tallies {
    /// By interface, those that are there and those that have gone; without a name what is of none that is known.
    #[must_use]
    pub fn by_interface(&self, naming: &Naming) -> BTreeMap<Option<String>, Tally> {
        let mut named: BTreeMap<_, Tally> = BTreeMap::new();
        for (point, tally) in &self.points {
            let name = naming.points.get(point).map(|point| point.interface.clone());
            named.entry(name).or_default().join(tally);
        }
        for (name, tally) in &self.gone {
            let name = (!name.is_empty()).then(|| name.clone());
            named.entry(name).or_default().join(tally);
        }
        named
    }
}

impl EventStore {
    /// An empty store for the flows of one origin. `now_ns` is the source's time.
    #[must_use]
    pub fn new(source: FlowIdSource, now_ns: u64) -> Self {
        let kept = Kept {
            flows: HashMap::new(),
            order: BTreeMap::new(),
            forgotten: 0,
            last: 0,
            rings: RingsView::default(),
            tallies: Tallies { since_ns: now_ns, ..Tallies::default() },
            ended_ns: now_ns,
        };
        Self { source, kept: Mutex::new(kept) }
    }

    /// About the most memory that it takes.
    #[must_use]
    pub fn bytes_max() -> u64 {
        let events = EVENTS_KEPT_MAX as u64;
        // Queues and trees have room for up to twice of what is in them.
        let event = 2 * size_of::<Numbered>() + 2 * size_of::<(u64, FlowId)>();
        map_bytes(events, size_of::<(FlowId, OfFlow)>()) + events * event as u64
    }

    /// Takes events in, the last of which has the number `last` and each one before it one less. `rings` is what became of
    /// all of them.
    pub fn add(&self, events: &[Event], last: u64, rings: RingsView) {
        let mut named: Option<(FlowKey, u64, FlowId)> = None;
        let mut ids = Vec::with_capacity(events.len());
        for event in events {
            // Those of one flow often come together.
            let known = named.filter(|(key, first_seen_ns, _)| {
                (key, *first_seen_ns) == (&event.key, event.first_seen_ns)
            });
            let id = known
                .map_or_else(|| self.source.id(&event.key, event.first_seen_ns), |(.., id)| id);
            named = Some((event.key, event.first_seen_ns, id));
            ids.push(id);
        }
        let mut kept = self.kept();
        kept.rings = rings;
        let first = (last + 1).saturating_sub(events.len() as u64);
        for ((number, event), id) in (first..).zip(events).zip(ids) {
            kept.add(Numbered { number, event: *event }, id);
        }
    }

    /// The same of events of which none are lost, each numbered one more than the one before.
    pub fn add_next(&self, events: &[Event]) {
        let (last, mut rings) = {
            let kept = self.kept();
            (kept.last, kept.rings)
        };
        let count = events.len() as u64;
        rings.produced += count;
        rings.consumed += count;
        self.add(events, last + count, rings);
    }

    /// An interval has ended.
    pub fn end_interval(&self, now_ns: u64) {
        let mut kept = self.kept();
        let began_ns = std::mem::replace(&mut kept.ended_ns, now_ns);
        let tallies = &mut kept.tallies;
        tallies.interval_ns = now_ns.saturating_sub(began_ns);
        tallies.all.end_interval();
        tallies.points.values_mut().chain(tallies.gone.values_mut()).for_each(Tally::end_interval);
    }

    /// An observation point's interface has gone, and all of its events are here.
    pub fn settle(&self, point: u32, interface: &str) {
        let gone = &mut self.kept().tallies;
        let Some(tally) = gone.points.remove(&point) else { return };
        let has_room = gone.gone.len() < GONE_MAX || gone.gone.contains_key(interface);
        let name = if has_room { interface } else { "" };
        gone.gone.entry(name.to_owned()).or_default().join(&tally);
    }

    /// What is kept of a flow.
    #[must_use]
    pub fn of_flow(&self, id: FlowId) -> Option<OfFlow> {
        self.kept().flows.get(&id).cloned()
    }

    /// All sums.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        self.kept().tallies.clone()
    }

    /// What became of all events; how many of those that were read are not kept any more; and since when there are
    /// any, in the source's time.
    #[must_use]
    pub fn balance(&self) -> (RingsView, u64, u64) {
        let kept = self.kept();
        (kept.rings, kept.forgotten, kept.tallies.since_ns)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, numbered: Numbered, id: FlowId) {
        let Numbered { number, event } = numbered;
        self.last = number;
        let tallies = &mut self.tallies;
        tallies.since_ns = tallies.since_ns.min(event.time_ns);
        tallies.all.total.add(&event);
        tallies.points.entry(event.key.observation_point).or_default().total.add(&event);
        let of_flow = self.flows.entry(id).or_insert_with(|| OfFlow {
            // Most flows have few; a queue that is left to itself begins with room for four.
            events: VecDeque::with_capacity(1),
            forgotten: 0,
        });
        of_flow.events.push_back(numbered);
        let oldest = if of_flow.events.len() > EVENTS_OF_FLOW_MAX {
            of_flow.events.front().map(|oldest| oldest.number)
        } else {
            None
        };
        self.order.insert(number, id);
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
        while self.order.len() > EVENTS_KEPT_MAX
            && let Some((oldest, _)) = self.order.first_key_value()
        {
            self.forget(*oldest);
        }
    }

    /// The first one of its flow.
    fn forget(&mut self, number: u64) {
        let Some(id) = self.order.remove(&number) else { return };
        self.forgotten += 1;
        let Some(of_flow) = self.flows.get_mut(&id) else { return };
        of_flow.events.pop_front();
        of_flow.forgotten += 1;
        if of_flow.events.is_empty() {
            self.flows.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use datapath::tcp::{
        classes::{FAST_RETRANSMISSION, OUT_OF_ORDER},
        verdict::{FAST, RETRANSMITTED},
    };

    use super::*;

    fn store() -> EventStore {
        EventStore::new(FlowIdSource::new(b"test"), 1_000)
    }

    fn event(port: u16, time_ns: u64) -> Event {
        let key = FlowKey { lower_port: port, observation_point: 3, ..FlowKey::default() };
        Event { key, first_seen_ns: 1, time_ns, classes: OUT_OF_ORDER, ..Event::default() }
    }

    fn id(port: u16) -> FlowId {
        FlowIdSource::new(b"test").id(&event(port, 0).key, 1)
    }

    #[test]
    fn of_each_flow_the_last_ones_are_kept() {
        let store = store();
        let many = EVENTS_OF_FLOW_MAX as u64 + 10;
        let events: Vec<_> = (0..many).map(|n| event(1, n)).collect();
        store.add_next(&events);
        store.add_next(&[event(2, 7)]);
        let of_flow = store.of_flow(id(1)).unwrap();
        assert_eq!((of_flow.events.len(), of_flow.forgotten), (EVENTS_OF_FLOW_MAX, 10));
        assert_eq!(of_flow.events.front().map(|it| (it.number, it.event.time_ns)), Some((11, 10)));
        assert_eq!(of_flow.events.back().map(|it| it.number), Some(many));
        assert_eq!(store.of_flow(id(2)).unwrap().events.len(), 1);
        let rings = RingsView { produced: many + 1, consumed: many + 1, lost: 0 };
        assert_eq!(store.balance(), (rings, 10, 0));
    }

    #[test]
    fn of_all_flows_the_oldest_go_first() {
        let store = store();
        let ports: Vec<_> = (0..u16::MAX).chain(0..3).map(|port| event(port, 5_000)).collect();
        store.add(&ports, 100_000, RingsView::default());
        let (_, forgotten, since_ns) = store.balance();
        assert_eq!((forgotten, since_ns), (2, 1_000));
        let of_flow = |port| store.of_flow(id(port)).map(|it| (it.events.len(), it.forgotten));
        assert_eq!([of_flow(0), of_flow(2)], [Some((1, 1)), Some((2, 0))]);
        store.add_next(&vec![event(1, 5_000); EVENTS_OF_FLOW_MAX]);
        assert_eq!(store.of_flow(id(1)).unwrap().events.len(), EVENTS_OF_FLOW_MAX);
        assert!(store.of_flow(id(9)).is_none(), "its only one is gone, and with it the flow");
        let kept = store.kept();
        let events: usize = kept.flows.values().map(|it| it.events.len()).sum();
        assert_eq!((kept.order.len(), events), (EVENTS_KEPT_MAX, EVENTS_KEPT_MAX));
    }

    #[test]
    fn the_documented_size_is_true() {
        assert_eq!(EventStore::bytes_max() / 1_000_000, 27);
    }

    #[test]
    fn sums_are_of_segments_and_by_interval_and_go_on_when_an_interface_goes() {
        let store = store();
        let sent_again = Event {
            classes: FAST_RETRANSMISSION,
            verdict: RETRANSMITTED | FAST,
            segments: 3,
            bytes: 4_000,
            ..event(1, 2_000)
        };
        store.add_next(&[sent_again, event(1, 3_000)]);
        store.end_interval(2_000);
        store.add_next(&[sent_again]);
        let tallies = store.tallies();
        assert_eq!((tallies.interval_ns, tallies.since_ns), (1_000, 1_000));
        let sums = |sums: &Sums| {
            let verdicts: BTreeMap<_, _> = sums.by_verdict().collect();
            (sums.flagged, verdicts["retransmitted_segments"], verdicts["retransmitted_bytes"])
        };
        assert_eq!(sums(&tallies.all.interval), (2, 3, 4_000));
        assert_eq!(sums(&tallies.points[&3].total), (3, 6, 8_000));
        store.settle(3, "eth0");
        store.add_next(&[event(1, 9_000)]);
        store.end_interval(3_000);
        let tallies = store.tallies();
        assert_eq!(sums(&tallies.gone["eth0"].total), (3, 6, 8_000));
        assert_eq!(sums(&tallies.gone["eth0"].interval), (1, 3, 4_000));
        assert_eq!(sums(&tallies.points[&3].total), (1, 0, 0));
        assert_eq!(tallies.all.total.flagged, 4);
    }
}
