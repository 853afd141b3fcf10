//! The datapath in user space: frames go through the kernel's own code into tables of this process, and from those at an
//! interval into the flow table. For sources that are no hook: a file that is played, and sockets. Reads no packet itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datapath::{
    FlowKey, Frame,
    embryonic::is_embryonic,
    layout::{FlowEntry, HookCounters, Trouble, UNKNOWN_HEADER_LEN},
    replay::{Replay, ReplayFlow},
    rules::Rule,
};

use crate::{
    board::{AttachmentView, InterfaceView, ServiceView},
    capture::Stage,
    clock::Clock,
    flow::{
        EventStore, FlowTable, LatencySummary,
        expiry::last_seen_ns,
        history::map_bytes,
        record::Ended,
        table::Seen,
        view::{LedgerView, Naming, PointName},
    },
    live::{StageConfig, add},
    status::{Figures, Publisher},
};

/// There is no kernel stage: every packet passes the recorder anyway.
#[derive(Debug)]
pub struct NoStage;

impl Stage for NoStage {
    fn start(&self, _slot: u8, _config: StageConfig) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop(&self, _slot: u8) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_prompt(&self) -> bool {
        true
    }
}

/// The datapath, and where its flows and figures go.
#[derive(Debug)]
pub struct Software {
    table: Arc<FlowTable>,
    events: Arc<EventStore>,
    publisher: Publisher,
    clock: Arc<Clock>,
    flows_max: usize,
    /// Packets have no end.
    is_endless: bool,
    replay: Replay,
    sweeps: u64,
    swept_ns: u64,
}

/// An observation point at a sweep.
#[derive(Debug)]
pub struct Place {
    /// As it is shown.
    pub view: InterfaceView,
    /// Its name on rows.
    pub name: PointName,
}

impl Software {
    /// Of an empty table, in which packets of flows beyond `flows_max` are counted as `table_full`.
    #[must_use]
    pub fn new(
        (table, events): (Arc<FlowTable>, Arc<EventStore>),
        publisher: Publisher,
        clock: Arc<Clock>,
        flows_max: u32,
    ) -> Self {
        let flows_max = usize::try_from(flows_max).unwrap_or(usize::MAX);
        let replay = Replay::with_flows_max(flows_max).with_segments();
        Self {
            table,
            events,
            publisher,
            clock,
            flows_max,
            is_endless: false,
            replay,
            sweeps: 0,
            swept_ns: 0,
        }
    }

    /// Most bytes that so many flows take here, without samples.
    #[must_use]
    pub fn bytes_max(flows: u32) -> u64 {
        let apart = size_of::<FlowEntry>() + size_of::<Trouble>();
        map_bytes(flows.into(), size_of::<(FlowKey, ReplayFlow)>())
            + u64::from(flows) * apart as u64
    }

    /// The same for packets without an end: exact round trips are not kept, since there would be no end of them, and a
    /// table that is nearly full is relieved at each sweep of flows that have not been answered.
    #[must_use]
    pub fn endless(self) -> Self {
        Self { replay: self.replay.without_samples(), is_endless: true, ..self }
    }

    /// Takes a frame to which these counters belong. Returns the bytes of its headers as the kernel's stage sees them.
    pub fn frame(&mut self, data: &[u8], frame: &Frame, counters: &mut HookCounters) -> u32 {
        let _counted = self.replay.frame_into(data, frame, counters);
        let flagged = self.replay.classified().iter().filter_map(|segment| segment.event);
        let flagged: Vec<_> = flagged.collect();
        if !flagged.is_empty() {
            self.events.add_next(&flagged);
        }
        match self.replay.headers().header_len {
            0 => UNKNOWN_HEADER_LEN,
            found if found > frame.original_len => UNKNOWN_HEADER_LEN,
            found => found,
        }
    }

    /// Puts rules in force for the frames that come.
    pub fn set_rules(&mut self, rules: &[Rule]) {
        self.replay.set_rules(rules);
    }

    /// Brings everything into the flow table and onto the board. Flows at points that are gone have ended.
    pub fn sweep(&mut self, places: Vec<Place>, counters: &[&HookCounters], notices: Vec<String>) {
        self.clock.sample();
        self.sweeps += 1;
        let now_ns = self.clock.monotonic_ns();
        self.swept_ns = now_ns;
        let gone = places.iter().filter(|place| !place.view.is_present());
        let gone: BTreeSet<_> = gone.map(|place| place.view.point).collect();
        for (key, why) in self.observe(&gone, now_ns) {
            if let Some(flow) = self.replay.remove(&key) {
                self.table.observe_ended(self.seen(&key, &flow, now_ns), why);
            }
        }
        for key in self.crowding() {
            if let Some(flow) = self.replay.remove(&key) {
                self.table.observe_ended(self.seen(&key, &flow, now_ns), Ended::Evicted);
            }
        }
        self.observe_ended(now_ns);
        self.table.finish_sweep(self.sweeps, now_ns);
        self.events.end_interval(now_ns);
        let live = self.replay.flows().count() as u64;
        let mut sum = HookCounters::default();
        counters.iter().for_each(|counters| add(&mut sum, counters));
        let (interfaces, names): (Vec<_>, BTreeMap<_, _>) = places
            .into_iter()
            .map(|Place { view, name }| {
                let point = view.point;
                (view, (point, name))
            })
            .unzip();
        let departures = self.table.departures();
        self.publisher.publish(&Figures {
            counters: sum,
            interfaces,
            services: services(&self.replay),
            naming: Naming { wall_offset_ns: self.clock.offset_ns(), points: names },
            notices,
            departures,
            live,
            evicted: departures.evicted,
            approximate: false,
            records: self.table.len() as u64,
            capacity: self.flows_max as u64,
            embryonic_capacity: 0,
            memory_bytes: 0,
            sweeps: self.sweeps,
            duration_ns: self.clock.monotonic_ns().saturating_sub(now_ns),
        });
    }

    /// Ends every flow, as idle if it has not closed: what comes next has nothing to do with them.
    pub fn end_flows(&mut self) {
        let now_ns = self.clock.monotonic_ns();
        self.observe_ended(now_ns);
        for (key, flow) in self.replay.flows() {
            let why =
                self.table.timeouts().ended(key, &flow.entry, u64::MAX).unwrap_or(Ended::Idle);
            self.table.observe_ended(self.seen(key, flow, now_ns), why);
        }
        self.replay.forget();
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where figures go.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The same, to say from the next sweep on what else is missing.
    pub const fn publisher_mut(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// When the last sweep began, monotonic ns; 0 before the first.
    #[must_use]
    pub const fn swept_ns(&self) -> u64 {
        self.swept_ns
    }

    /// Brings every flow into the table; returns which have ended.
    fn observe(&self, gone: &BTreeSet<u32>, now_ns: u64) -> Vec<(FlowKey, Ended)> {
        let mut ended = Vec::new();
        for (key, flow) in self.replay.flows() {
            self.table.observe(self.seen(key, flow, now_ns), self.sweeps);
            let why = self.table.timeouts().ended(key, &flow.entry, now_ns);
            let removed = gone.contains(&key.observation_point).then_some(Ended::InterfaceRemoved);
            if let Some(why) = why.or(removed) {
                ended.push((*key, why));
            }
        }
        ended
    }

    /// Flows that have not been answered, as many as leave a quarter of the table free where it is nearly full; those that
    /// were unused for longest.
    fn crowding(&self) -> Vec<FlowKey> {
        let count = self.replay.flows().count();
        if !self.is_endless || count * 8 <= self.flows_max * 7 {
            return Vec::new();
        }
        let unanswered = self.replay.flows().filter(|(_, flow)| is_embryonic(&flow.entry));
        let mut unanswered: Vec<_> =
            unanswered.map(|(key, flow)| (last_seen_ns(&flow.entry), *key)).collect();
        unanswered.sort_unstable_by_key(|(last_ns, _)| *last_ns);
        unanswered.truncate(count - self.flows_max / 4 * 3);
        unanswered.into_iter().map(|(_, key)| key).collect()
    }

    /// Brings in what ended since its tuple was used again.
    fn observe_ended(&mut self, now_ns: u64) {
        for (key, flow) in self.replay.take_ended() {
            self.table.observe_ended(self.seen(&key, &flow, now_ns), Ended::Closed);
        }
    }

    fn seen<'a>(&self, key: &'a FlowKey, flow: &'a ReplayFlow, now_ns: u64) -> Seen<'a> {
        let samples = (!self.is_endless).then_some(&flow.rtt);
        Seen { key, entry: &flow.entry, samples, now_ns }
    }
}

/// What feeds a direction of an interface, and why, with what was counted there.
#[must_use]
pub fn attachment(hook: &str, reason: &str, counters: &HookCounters) -> AttachmentView {
    AttachmentView {
        hook: hook.into(),
        reason: reason.into(),
        seen: counters.seen,
        packets: counters.packets,
        bytes: counters.bytes,
        ledger: LedgerView::new(counters),
        rtt: LatencySummary::of(&counters.rtt),
        ..AttachmentView::default()
    }
}

fn services(replay: &Replay) -> Vec<ServiceView> {
    let view = |(service, round_trips)| ServiceView::new(Some(service), &round_trips);
    replay.services().map(view).collect()
}

#[cfg(test)]
mod tests {
    use datapath::Ktime;

    use super::*;
    use crate::{
        board::Board,
        flow::{FlowIdSource, expiry::Timeouts, view::RingsView},
    };

    const FLOWS: u32 = 64;

    /// A datagram between two ports, on Ethernet.
    fn datagram([from, to]: [u16; 2], hosts: [u8; 2]) -> Vec<u8> {
        let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
        frame.extend(hosts.iter().flat_map(|host| [10, 0, 0, *host]));
        frame.extend([from, to, 8, 0].iter().flat_map(|word| word.to_be_bytes()));
        frame
    }

    fn software() -> (Software, Arc<Board>) {
        let (board, clock) = (Arc::new(Board::default()), Arc::new(Clock::new()));
        let source = || FlowIdSource::new(b"test");
        let table = Arc::new(FlowTable::new(source(), 1_000, Timeouts::default()));
        let rings = Arc::new(RingsView::default);
        let publisher =
            Publisher::new(Arc::clone(&board), Arc::clone(&clock), rings, "live", 0, Vec::new());
        let events = Arc::new(EventStore::new(source(), 0));
        (Software::new((table, events), publisher, clock, FLOWS), board)
    }

    #[test]
    fn what_nobody_answers_makes_room_where_packets_have_no_end() {
        for is_endless in [true, false] {
            let (software, board) = software();
            let mut software = if is_endless { software.endless() } else { software };
            let mut counters = HookCounters::default();
            let mut take = |software: &mut Software, ports, hosts| {
                let data = datagram(ports, hosts);
                let mut frame = Frame::plain(Ktime(software.clock().monotonic_ns()), 42);
                frame.point = 1;
                software.frame(&data, &frame, &mut counters);
            };
            // One that is answered, before all others.
            take(&mut software, [7, 9], [1, 2]);
            take(&mut software, [9, 7], [2, 1]);
            let flood = |port: u16| [40_000 + port, 9];
            (0..100).for_each(|port| take(&mut software, flood(port), [1, 2]));
            software.sweep(Vec::new(), &[&counters], Vec::new());
            let flows = board.status.latest().flows.clone();
            let left = if is_endless { u64::from(FLOWS) / 4 * 3 } else { u64::from(FLOWS) };
            assert_eq!((flows.live, flows.evicted), (left, u64::from(FLOWS) - left));
            assert_eq!(flows.created, flows.live + flows.evicted);
            let answered = software.replay.flows().any(|(_, flow)| !is_embryonic(&flow.entry));
            assert!(answered, "it is there, though it is the oldest");
            let full = counters.outcomes[datapath::Outcome::TableFull as usize];
            assert_eq!(full, 101 - u64::from(FLOWS));
        }
    }
}
