//! Host tables for the pipeline: offline files, and the reference that the kernel's maps are held against.

use std::{boxed::Box, vec::Vec};

use crate::{
    bytes::PacketBytes,
    embryonic::is_embryonic,
    flow_key::FlowKey,
    frame::Frame,
    layout::{EMBRYONIC, Event, FlowEntry, HookCounters, SERVICES_MAX, ServiceRtt, Trouble},
    outcome::Outcome,
    parse::{
        Headers,
        fragment::{self, FirstFragment},
    },
    pipeline,
    rtt::RttTicks,
    rules::{HostRules, Rule, decide},
    service,
    tables::{Sample, Tables},
    tcp::verdict::{self, Segment, Verdict, Verdicts},
    time::Ktime,
};

/// Exact round-trip samples kept per flow and direction; later ones are only in the entry's histogram.
pub const RTT_SAMPLES_MAX: usize = 1 << 20;

/// Datagrams whose ports are kept for their later fragments; then all are forgotten.
const FRAGMENTS_MAX: usize = 1 << 16;

/// One flow of a [`Replay`].
#[derive(Debug)]
pub struct ReplayFlow {
    /// The same bytes that the kernel's map would hold.
    pub entry: Box<FlowEntry>,
    /// Samples by acknowledging endpoint (0 lower, 1 upper), in order of time.
    pub rtt: [Vec<RttTicks>; 2],
    /// Number of the frame that opened the flow, from 1.
    pub first_frame: u64,
    /// Number of the flow in order of creation, from 0: one frame may open several.
    pub order: u64,
    /// What the kernel keeps in a table of its own.
    trouble: Option<Box<Trouble>>,
}

impl ReplayFlow {
    /// Verdicts on the segments of each endpoint (0 lower, 1 upper).
    #[must_use]
    pub fn verdicts(&self) -> [Verdicts; 2] {
        self.entry.verdicts.map(Verdicts::from)
    }
}

/// A TCP segment as classified and judged.
#[derive(Clone, Copy, Debug)]
pub struct Classified {
    /// [`ReplayFlow::order`] of its flow.
    pub flow: u64,
    /// Endpoint that sent it: 0 lower, 1 upper.
    pub sender: u32,
    /// The segment.
    pub segment: Segment,
    /// What its sender last heard of the receiver's timestamps, where there is the option.
    pub timestamp_echo: u32,
    /// Options that it had ([`crate::parse::tcp`]).
    pub options: u32,
    /// Shift of its window option plus one; 0 without one.
    pub window_scale_plus_one: u32,
    /// Greatest segment that its sender takes, by its option.
    pub segment_max: Option<u16>,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Type of service, or traffic class: the lower two bits are ECN's.
    pub traffic_class: u8,
    /// No router may fragment it.
    pub unfragmentable: bool,
    /// Bytes of network and transport headers.
    pub headers_len: u32,
    /// The round trip of the receiver's data that it completed ([`crate::rtt`]).
    pub round_trip: Option<RttTicks>,
    /// The verdict on it.
    pub verdict: Verdict,
    /// What the kernel would log of it, if anything.
    pub event: Option<Event>,
}

/// An ICMP error about a packet of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// [`ReplayFlow::order`] of the flow.
    pub flow: u64,
    /// Endpoint that sent the packet that it is about: 0 lower, 1 upper.
    pub sender: u32,
    /// When it passed.
    pub now: Ktime,
    /// Its type and code.
    pub kind: [u8; 2],
    /// MTU that it tells; 0 where it tells none.
    pub mtu: u32,
}

impl Classified {
    /// A segment of flow 0, with whole headers and no options, and nothing else to say about it.
    #[must_use]
    pub const fn plain(sender: u32, segment: Segment, verdict: Verdict) -> Self {
        Self {
            flow: 0,
            sender,
            segment,
            timestamp_echo: 0,
            options: 0,
            window_scale_plus_one: 0,
            segment_max: None,
            hops: 64,
            traffic_class: 0,
            unfragmentable: true,
            headers_len: 40,
            round_trip: None,
            verdict,
            event: None,
        }
    }
}

/// The datapath on the host: one observation point, one direction, no capacity limit but the caller's.
#[derive(Debug, Default)]
pub struct Replay {
    tables: ReplayTables,
    counters: HookCounters,
    headers: Headers,
    frames: u64,
}

/// Looked into for every packet.
type Map<K, V> = std::collections::HashMap<K, V>;

#[derive(Debug, Default)]
struct ReplayTables {
    flows: Map<FlowKey, ReplayFlow>,
    ended: Vec<(FlowKey, ReplayFlow)>,
    services: Map<u32, u32>,
    service_rtt: Map<u32, ServiceRtt>,
    fragments: Map<FlowKey, FirstFragment>,
    rules: HostRules,
    flows_max: Option<usize>,
    tells_segments: bool,
    keeps_no_samples: bool,
    classified: Vec<Classified>,
    noted: Vec<Noted>,
    /// What the packet at hand completed.
    round_trip: Option<RttTicks>,
    frame: u64,
}

impl Replay {
    /// A replay whose table refuses flows beyond `flows_max`.
    #[must_use]
    pub fn with_flows_max(flows_max: usize) -> Self {
        Self {
            tables: ReplayTables { flows_max: Some(flows_max), ..ReplayTables::default() },
            ..Self::default()
        }
    }

    /// Makes it tell the TCP segments that come ([`Replay::classified`]).
    #[must_use]
    pub fn with_segments(mut self) -> Self {
        self.tables.tells_segments = true;
        self
    }

    /// Makes it keep no samples of round trips beside those in the entries: for what runs without an end.
    #[must_use]
    pub fn without_samples(mut self) -> Self {
        self.tables.keeps_no_samples = true;
        self
    }

    /// Takes one frame through the pipeline.
    pub fn frame<P: PacketBytes + ?Sized>(&mut self, packet: &P, frame: &Frame) -> Outcome {
        self.begin();
        let Self { tables, counters, headers, .. } = self;
        pipeline::process(&packet, frame, headers, counters, tables);
        self.headers.outcome()
    }

    /// Takes one frame through the pipeline that is counted elsewhere: by one of several observation points.
    pub fn frame_into<P: PacketBytes + ?Sized>(
        &mut self,
        packet: &P,
        frame: &Frame,
        counters: &mut HookCounters,
    ) -> Outcome {
        self.begin();
        pipeline::process(&packet, frame, &mut self.headers, counters, &mut self.tables);
        self.headers.outcome()
    }

    fn begin(&mut self) {
        self.frames += 1;
        self.tables.frame = self.frames;
        self.tables.classified.clear();
        self.tables.noted.clear();
    }

    /// The TCP segments in the last frame, from the outside in, if the replay tells them. A frame has several in
    /// tunnels.
    #[must_use]
    pub fn classified(&self) -> &[Classified] {
        &self.tables.classified
    }

    /// The ICMP errors in the last frame about flows that are known, if the replay gives verdicts.
    #[must_use]
    pub fn noted(&self) -> &[Noted] {
        &self.tables.noted
    }

    /// What the last frame said.
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The ledger and its companions.
    #[must_use]
    pub const fn counters(&self) -> &HookCounters {
        &self.counters
    }

    /// Every flow whose tuple has not been used for another one since, in no particular order.
    pub fn flows(&self) -> impl Iterator<Item = (&FlowKey, &ReplayFlow)> {
        self.tables.flows.iter()
    }

    /// Every other flow, in the order in which they ended.
    pub fn ended(&self) -> impl Iterator<Item = (&FlowKey, &ReplayFlow)> {
        self.tables.ended.iter().map(|(key, flow)| (key, flow))
    }

    /// Takes them out.
    pub fn take_ended(&mut self) -> Vec<(FlowKey, ReplayFlow)> {
        std::mem::take(&mut self.tables.ended)
    }

    /// Round trips by service ([`service::of`]).
    pub fn services(&self) -> impl Iterator<Item = (u32, ServiceRtt)> {
        let round_trips = |slot| self.tables.service_rtt.get(slot).copied().unwrap_or_default();
        self.tables.services.iter().map(move |(service, slot)| (*service, round_trips(slot)))
    }

    /// The flow of `key`.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<&ReplayFlow> {
        self.tables.flows.get(key)
    }

    /// Puts rules in force for the frames that come.
    pub fn set_rules(&mut self, rules: &[Rule]) {
        self.tables.rules.set(rules);
    }

    /// Forgets every flow and fragment: what comes next has nothing to do with what was. The counters stay.
    pub fn forget(&mut self) {
        self.tables.flows.clear();
        self.tables.ended.clear();
        self.tables.fragments.clear();
    }

    /// Takes a flow out of the table, as the daemon's aging does with the kernel's.
    pub fn remove(&mut self, key: &FlowKey) -> Option<ReplayFlow> {
        self.tables.flows.remove(key)
    }
}

impl Tables for ReplayTables {
    fn existing(&mut self, key: &FlowKey) -> Option<&mut FlowEntry> {
        Some(&mut self.flows.get_mut(key)?.entry)
    }

    fn established(&mut self, key: &FlowKey) -> Option<&mut FlowEntry> {
        self.existing(key).filter(|entry| !is_embryonic(entry))
    }

    fn create(
        &mut self,
        headers: &Headers,
        now: Ktime,
        created: &mut u64,
    ) -> Option<&mut FlowEntry> {
        if self.flows_max.is_some_and(|max| self.flows.len() + self.ended.len() >= max) {
            return None;
        }
        let flow = self.flows.entry(headers.key).or_insert_with(|| {
            let mut entry = Box::new(FlowEntry::EMPTY);
            entry.initialize(now.0, headers);
            let order = *created;
            *created += 1;
            let rtt = [Vec::new(), Vec::new()];
            ReplayFlow { entry, rtt, first_frame: self.frame, order, trouble: None }
        });
        Some(&mut flow.entry)
    }

    fn promote(&mut self, key: &FlowKey) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if let Some(service) = service::of(key, &flow.entry) {
            let next = u32::try_from(self.services.len()).map_or(SERVICES_MAX, |len| len + 1);
            flow.entry.service = match self.services.get(&service) {
                Some(slot) => *slot,
                None if next < SERVICES_MAX => *self.services.entry(service).or_insert(next),
                None => 0,
            };
        }
        flow.entry.head.bits &= !EMBRYONIC;
        flow.entry.head.lock = 0;
    }

    fn settle(&mut self, _key: &FlowKey) {}

    fn retire(&mut self, headers: &mut Headers) {
        self.ended.extend(self.flows.remove_entry(&headers.key));
    }

    fn generation(&self) -> u32 {
        self.rules.generation()
    }

    fn judge(&mut self, headers: &Headers, stamp: u32) -> u32 {
        decide::judge(&mut self.rules, &headers.key, headers.sender, stamp)
    }

    fn keep_first(&mut self, headers: &mut Headers, now: Ktime) {
        let first = FirstFragment::of(headers, now);
        if self.fragments.len() >= FRAGMENTS_MAX {
            self.fragments.clear();
        }
        fragment::with_key(headers, |key| self.fragments.insert(*key, first));
    }

    fn find_first(&mut self, headers: &mut Headers, now: Ktime) -> bool {
        let first = fragment::with_key(headers, |key| self.fragments.get(key).copied());
        first.is_some_and(|first| fragment::complete(headers, &first, now))
    }

    fn measured(&mut self, key: &FlowKey, sample: Sample) {
        self.round_trip = Some(sample.rtt);
        let round_trips = self.service_rtt.entry(sample.service).or_default();
        if sample.from_originator {
            round_trips.from_originator.add(sample.rtt);
        } else {
            round_trips.from_responder.add(sample.rtt);
        }
        if self.keeps_no_samples {
            return;
        }
        if let Some(flow) = self.flows.get_mut(key) {
            let samples = &mut flow.rtt[(sample.acknowledger & 1) as usize];
            if samples.len() < RTT_SAMPLES_MAX {
                samples.push(sample.rtt);
            }
        }
    }

    fn classified(&mut self, headers: &mut Headers, frame: &Frame) {
        let round_trip = self.round_trip.take();
        let Some(flow) = self.flows.get_mut(&headers.key) else { return };
        if headers.unusual != 0 {
            verdict::notice(&mut flow.entry, headers, frame.now);
            if headers.due != 0 {
                let trouble = flow.trouble.get_or_insert_default();
                verdict::complete(&mut flow.entry, trouble, headers, frame.now);
            }
        }
        if !self.tells_segments {
            return;
        }
        self.classified.push(Classified {
            flow: flow.order,
            sender: headers.sender,
            segment: Segment::of(headers, &flow.entry, frame.now),
            timestamp_echo: headers.timestamp_echo,
            options: headers.options,
            window_scale_plus_one: headers.window_scale_plus_one,
            segment_max: headers
                .segment_max_plus_one
                .checked_sub(1)
                .and_then(|max| u16::try_from(max).ok()),
            hops: (headers.hops & 0xff) as u8,
            traffic_class: (headers.traffic_class & 0xff) as u8,
            unfragmentable: headers.unfragmentable != 0,
            headers_len: headers.header_len.saturating_sub(headers.network),
            round_trip,
            verdict: Verdict::of(headers),
            event: verdict::event(headers, &flow.entry, frame.now),
        });
    }

    fn noted(&mut self, headers: &Headers, frame: &Frame) {
        if !self.tells_segments {
            return;
        }
        let Some(flow) = self.flows.get(&headers.key) else { return };
        let [.., kind, code] = headers.icmp_error.to_be_bytes();
        self.noted.push(Noted {
            flow: flow.order,
            sender: headers.sender,
            now: frame.now,
            kind: [kind, code],
            mtu: headers.icmp_mtu,
        });
    }
}
