//! The kernel programs under `BPF_PROG_TEST_RUN` with a virtual clock, and the frames that they take. Loads and runs
//! them; never attaches or pins anything.
#![allow(clippy::wildcard_enum_match_arm, reason = "aya names every kind of program; ours are two")]

use std::collections::HashMap;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap as BpfHashMap, PerCpuArray},
    programs::{Program, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use daemon::live::{self, EventCounts, EventLog, Object, RuleMaps};
use datapath::{
    Direction, FlowKey, Frame, Ktime, Link, Outcome,
    embryonic::is_embryonic,
    layout::{EVENTS_MAX, EndedFlow, Event, FlowEntry, HookCounters, Point, ServiceRtt},
    parse::fragment::FirstFragment,
    replay::Replay,
    rules::{Compiled, Rule},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Bytes of a frame that a test run takes; both sides see the same cut.
const CUT: usize = 1_500;
/// Shortest frame that a test run takes: what claims to be IP must hold an IP header.
fn shortest(data: &[u8]) -> usize {
    match data.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    }
}
/// Largest original length that the TC context can carry.
const WIRE_LEN_MAX: u32 = 65_536;
/// Where the frames of a test are seen.
pub(crate) const POINT: u16 = 1;
/// Where `BPF_PROG_TEST_RUN` says that packets come from.
const LOOPBACK: u32 = 1;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes<const N: usize>([u8; N]);
// SAFETY: any bytes are a value of a byte array.
unsafe impl<const N: usize> Pod for Bytes<N> {}

const KEY: usize = size_of::<FlowKey>();
const ENDED: usize = size_of::<EndedFlow>();
const SERVICE: usize = size_of::<ServiceRtt>();
const ENTRY: usize = size_of::<FlowEntry>();
const COUNTERS: usize = size_of::<HookCounters>();

/// One frame as a test feeds it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) time_ns: u64,
    pub(crate) original_len: u32,
    pub(crate) data: Vec<u8>,
    /// On its way out of a socket of this host: only for the door of what is sent.
    pub(crate) from_socket: bool,
}

impl Sample {
    /// `None` where a test run does not take it.
    pub(crate) fn new(time_ns: u64, original_len: u32, data: &[u8]) -> Option<Self> {
        let data = data[..data.len().min(CUT)].to_vec();
        let original_len = original_len.max(u32::try_from(data.len()).ok()?);
        let fits = data.len() >= shortest(&data) && original_len <= WIRE_LEN_MAX;
        fits.then_some(Self { time_ns, original_len, data, from_socket: false })
    }

    /// The frame as the host's pipeline wants to see it.
    pub(crate) fn frame(&self) -> Frame {
        let plain = Frame::plain(Ktime(self.time_ns), self.original_len);
        Frame { point: u32::from(POINT), from_socket: u32::from(self.from_socket), ..plain }
    }
}

/// One door, loaded with the virtual clock.
#[derive(Debug)]
pub(crate) struct Door {
    object: Ebpf,
    program: &'static str,
    xdp: bool,
    direction: Direction,
    rules: RuleMaps,
    events: EventLog,
}

impl Door {
    /// Both ingress doors, with room for so many flows.
    pub(crate) fn both(flows: u32) -> [Self; 2] {
        [(Object::Xdp, "linnet_xdp"), (Object::Tc, "linnet_ingress")]
            .map(|(object, program)| Self::load(object, program, flows))
    }

    /// The door for what is sent.
    pub(crate) fn egress(flows: u32) -> Self {
        let door = Self::load(Object::Tc, "linnet_egress", flows);
        Self { direction: Direction::Egress, ..door }
    }

    /// Which way its frames pass.
    pub(crate) const fn direction(&self) -> Direction {
        self.direction
    }

    /// Puts rules in force for the frames that come.
    pub(crate) fn set_rules(&mut self, rules: &[Rule]) {
        self.rules.set(&Compiled::new(rules)).unwrap();
    }

    fn load(which: Object, program: &'static str, flows: u32) -> Self {
        let mut loader = EbpfLoader::new();
        let cpus = u32::try_from(aya::util::nr_cpus().unwrap()).unwrap();
        loader.override_global("VIRTUAL_CLOCK", &1_u8, true);
        for (name, entries) in
            [("CAPTURE_SCRATCH", cpus), ("EVENTS", cpus * EVENTS_MAX), ("EVENT_HEADS", cpus)]
        {
            loader.map_max_entries(name, entries);
        }
        for name in ["FLOWS", "EMBRYONIC", "ENDED"] {
            loader.map_max_entries(name, flows);
        }
        let mut object = loader.load(which.bytes().unwrap()).unwrap();
        let mut points: Array<_, Bytes<4>> = object.map_mut("POINTS").unwrap().try_into().unwrap();
        let point = Point { id: POINT, link: Link::Ethernet as u8, _pad: 0 };
        let mut bytes = Bytes([0; 4]);
        bytes.0.copy_from_slice(point.as_bytes());
        points.set(LOOPBACK, bytes, 0).unwrap();
        let xdp = which == Object::Xdp;
        match object.program_mut(program).unwrap() {
            Program::Xdp(program) => program.load().unwrap(),
            Program::SchedClassifier(program) => program.load().unwrap(),
            other => panic!("{other:?} is no door"),
        }
        let rules = RuleMaps::of_object(&object).unwrap();
        let events = EventLog::of_object(&object).unwrap();
        Self { object, program, xdp, direction: Direction::Ingress, rules, events }
    }

    /// What it has logged since the last time, each CPU's by themselves, and what became of all of that.
    pub(crate) fn events(&mut self) -> (Vec<Event>, EventCounts) {
        let mut events = Vec::new();
        self.events.read(|event| events.push(*event));
        (events, self.events.counts())
    }

    pub(crate) fn run(&mut self, sample: &Sample) {
        let program = self.object.program_mut(self.program).unwrap();
        let mut options = TestRunOptions::new();
        let verdict = if self.xdp {
            let mut data = sample.time_ns.to_ne_bytes().to_vec();
            data.extend_from_slice(&u64::from(sample.original_len).to_ne_bytes());
            data.extend_from_slice(&sample.data);
            let mut context = [0; 24];
            context[..4].copy_from_slice(&16_u32.to_ne_bytes());
            context[4..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_ne_bytes());
            options.data_in = Some(&data);
            options.ctx_in = Some(&context);
            let program: &mut Xdp = program.try_into().unwrap();
            program.test_run(options).unwrap().return_value
        } else {
            let mut context = [0; 192];
            // The mark stands for the socket, which a test run always has.
            context[8..12].copy_from_slice(&u32::from(sample.from_socket).to_ne_bytes());
            context[152..160].copy_from_slice(&sample.time_ns.to_ne_bytes());
            context[160..164].copy_from_slice(&sample.original_len.to_ne_bytes());
            options.data_in = Some(&sample.data);
            options.ctx_in = Some(&context);
            let program: &mut SchedClassifier = program.try_into().unwrap();
            let run = program.test_run(options);
            run.unwrap_or_else(|error| {
                panic!(
                    "{error:?} on {} of {} bytes: {:02x?}",
                    sample.data.len(),
                    sample.original_len,
                    sample.data
                )
            })
            .return_value
        };
        let pass = if self.xdp { 2 } else { u32::MAX };
        assert_eq!(verdict, pass, "a door passes every packet");
    }

    fn entries<const N: usize>(&self, map: &str) -> HashMap<[u8; N], [u8; ENTRY]> {
        let map: BpfHashMap<_, Bytes<N>, Bytes<ENTRY>> =
            self.object.map(map).unwrap().try_into().unwrap();
        map.iter().map(|item| item.map(|(key, entry)| (key.0, entry.0)).unwrap()).collect()
    }

    /// Round trips by service.
    fn services(&self) -> HashMap<u32, ServiceRtt> {
        let slots: BpfHashMap<_, u32, u32> =
            self.object.map("SERVICES").unwrap().try_into().unwrap();
        let round_trips: PerCpuArray<_, Bytes<SERVICE>> =
            self.object.map("SERVICE_RTT").unwrap().try_into().unwrap();
        let read = |slot: u32| {
            let per_cpu = round_trips.get(&slot, 0).unwrap();
            let mut services =
                per_cpu.iter().map(|bytes| ServiceRtt::read_from_bytes(&bytes.0).unwrap());
            // A test run stays on one CPU at a time, but may change it from one packet to the next.
            let mut sum = services.next().unwrap();
            for service in services {
                for (total, add) in [
                    (&mut sum.from_originator, service.from_originator),
                    (&mut sum.from_responder, service.from_responder),
                ] {
                    total
                        .buckets
                        .iter_mut()
                        .zip(add.buckets)
                        .for_each(|(total, add)| *total += add);
                }
            }
            sum
        };
        slots
            .iter()
            .map(|item| item.map(|(service, slot)| (service, read(slot))).unwrap())
            .collect()
    }

    fn counters(&self) -> HookCounters {
        let map: PerCpuArray<_, Bytes<COUNTERS>> =
            self.object.map("HOOKS").unwrap().try_into().unwrap();
        let mut sum = HookCounters::default();
        for Bytes(bytes) in
            map.get(&(u32::from(POINT) * 2 + self.direction as u32), 0).unwrap().iter()
        {
            live::add(&mut sum, &HookCounters::read_from_bytes(bytes).unwrap());
        }
        sum
    }

    /// Holds every counter and every byte of every flow against the host's.
    pub(crate) fn hold(&self, name: &str, host: &Replay) {
        let program = self.program;
        let (ours, theirs) = (host.counters(), self.counters());
        for (at, outcome) in Outcome::ALL.iter().enumerate() {
            let (host, kernel) = (ours.outcomes[at], theirs.outcomes[at]);
            assert_eq!(kernel, host, "{name} {program}: {}", outcome.name());
        }
        let equal = ours.as_bytes() == theirs.as_bytes();
        assert!(equal, "{name} {program}: {theirs:?} against {ours:?}");
        let (embryonic, grown) = (self.entries("EMBRYONIC"), self.entries("FLOWS"));
        let flows = embryonic.len() + grown.len();
        assert_eq!(flows, host.flows().count(), "{name} {program}: number of flows");
        for (key, flow) in host.flows() {
            let map = if is_embryonic(&flow.entry) { &embryonic } else { &grown };
            let entry = map
                .get::<[u8; KEY]>(key.as_bytes().try_into().unwrap())
                .unwrap_or_else(|| panic!("{name} {program}: no {key:?}"));
            assert_eq!(entry.as_slice(), flow.entry.as_bytes(), "{name} {program}: {key:?}");
        }
        let ended = self.entries("ENDED");
        // Of two that began at the same nanosecond, as captures may have it, the kernel's table keeps the later one.
        let replaced: HashMap<[u8; ENDED], _> = host
            .ended()
            .map(|(key, flow)| {
                let ended = EndedFlow { key: *key, first_seen_ns: flow.entry.head.first_seen_ns };
                (ended.as_bytes().try_into().unwrap(), (key, flow))
            })
            .collect();
        assert_eq!(ended.len(), replaced.len(), "{name} {program}: replaced flows");
        for (ended_flow, (key, flow)) in replaced {
            let entry = ended
                .get(&ended_flow)
                .unwrap_or_else(|| panic!("{name} {program}: no ended {key:?}"));
            assert_eq!(entry.as_slice(), flow.entry.as_bytes(), "{name} {program}: ended {key:?}");
        }
        let services = self.services();
        assert_eq!(services.len(), host.services().count(), "{name} {program}: services");
        for (service, round_trips) in host.services() {
            let theirs = services.get(&service);
            assert_eq!(theirs, Some(&round_trips), "{name} {program}: {service:x}");
        }
    }

    /// Forgets flows and fragments, as [`Replay::forget`] does; counters and services go on.
    pub(crate) fn forget(&mut self) {
        self.empty::<KEY, ENTRY>("FLOWS");
        self.empty::<KEY, ENTRY>("EMBRYONIC");
        self.empty::<ENDED, ENTRY>("ENDED");
        self.empty::<KEY, { size_of::<FirstFragment>() }>("FRAGMENTS");
    }

    fn empty<const N: usize, const VALUE: usize>(&mut self, name: &str) {
        let map = self.object.map_mut(name).unwrap();
        let mut map: BpfHashMap<_, Bytes<N>, Bytes<VALUE>> = map.try_into().unwrap();
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().unwrap();
        for key in keys {
            map.remove(&key).unwrap();
        }
    }
}
