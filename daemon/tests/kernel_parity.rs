//! T2: the same packets through the kernel programs, by `BPF_PROG_TEST_RUN` under a virtual clock, and through the
//! host's pipeline give the same flows, byte for byte, and the same counters.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::collections::{BTreeSet, HashMap};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap as BpfHashMap, PerCpuArray},
    programs::{Program, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use captures::PacketReader;
use daemon::{
    live::{self, Object, RuleMaps},
    offline,
};
use datapath::{
    ConntrackState, Direction, FlowKey, Frame, Ktime, Link, Outcome,
    embryonic::is_embryonic,
    layout::{EndedFlow, FlowEntry, HookCounters, Point, ServiceRtt},
    parse::tunnel,
    replay::Replay,
    rules::{Action, Compiled, Network, Ports, Rule},
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
const POINT: u16 = 1;
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
struct Sample {
    time_ns: u64,
    original_len: u32,
    data: Vec<u8>,
}

impl Sample {
    fn new(time_ns: u64, original_len: u32, data: &[u8]) -> Option<Self> {
        let data = data[..data.len().min(CUT)].to_vec();
        let original_len = original_len.max(u32::try_from(data.len()).ok()?);
        let fits = data.len() >= shortest(&data) && original_len <= WIRE_LEN_MAX;
        fits.then_some(Self { time_ns, original_len, data })
    }
}

/// One door, loaded with the virtual clock.
struct Door {
    object: Ebpf,
    program: &'static str,
    xdp: bool,
}

impl Door {
    fn load(which: Object, program: &'static str) -> Self {
        let mut loader = EbpfLoader::new();
        let cpus = u32::try_from(aya::util::nr_cpus().unwrap()).unwrap();
        loader.override_global("VIRTUAL_CLOCK", &1_u8, true);
        for (name, entries) in
            [("CAPTURE_SCRATCH", cpus), ("FLOWS", 16_384), ("EMBRYONIC", 16_384), ("ENDED", 16_384)]
        {
            loader.map_max_entries(name, entries);
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
        Self { object, program, xdp }
    }

    fn run(&mut self, sample: &Sample) {
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

    fn counters(&self, direction: Direction) -> HookCounters {
        let map: PerCpuArray<_, Bytes<COUNTERS>> =
            self.object.map("HOOKS").unwrap().try_into().unwrap();
        let mut sum = HookCounters::default();
        for Bytes(bytes) in map.get(&(u32::from(POINT) * 2 + direction as u32), 0).unwrap().iter() {
            live::add(&mut sum, &HookCounters::read_from_bytes(bytes).unwrap());
        }
        sum
    }
}

/// Rules that are put in force before the sample of a number.
struct Change {
    before: usize,
    rules: Vec<Rule>,
}

/// Feeds both sides and holds every byte of one against the other.
fn hold(name: &str, samples: &[Sample]) -> u64 {
    hold_under(name, samples, &[]);
    samples.len() as u64
}

/// The same with changes of rules in between; returns what the host counted of what was received.
fn hold_under(name: &str, samples: &[Sample], changes: &[Change]) -> HookCounters {
    let host_of = |direction| {
        let mut host = Replay::default();
        for (number, sample) in samples.iter().enumerate() {
            changes.iter().filter(|change| change.before == number).for_each(|change| {
                host.set_rules(&change.rules);
            });
            let frame = Frame {
                point: u32::from(POINT),
                direction,
                ..Frame::plain(Ktime(sample.time_ns), sample.original_len)
            };
            let _counted = host.frame(sample.data.as_slice(), &frame);
        }
        host
    };
    let mut received = HookCounters::default();
    for (which, program, direction) in [
        (Object::Xdp, "linnet_xdp", Direction::Ingress),
        (Object::Tc, "linnet_ingress", Direction::Ingress),
        (Object::Tc, "linnet_egress", Direction::Egress),
    ] {
        // Without rules, both directions are alike.
        if changes.is_empty() && direction == Direction::Egress {
            continue;
        }
        let host = host_of(direction);
        let mut door = Door::load(which, program);
        let mut maps = RuleMaps::of_object(&door.object).unwrap();
        for (number, sample) in samples.iter().enumerate() {
            changes.iter().filter(|change| change.before == number).for_each(|change| {
                maps.set(&Compiled::new(&change.rules)).unwrap();
            });
            door.run(sample);
        }
        if direction == Direction::Ingress {
            received = *host.counters();
        }
        let counters = door.counters(direction);
        assert_eq!(
            counters.as_bytes(),
            host.counters().as_bytes(),
            "{name} {program}: {counters:?} against {:?}",
            host.counters()
        );
        let (embryonic, grown) = (door.entries("EMBRYONIC"), door.entries("FLOWS"));
        let flows = embryonic.len() + grown.len();
        assert_eq!(flows, host.flows().count(), "{name} {program}: number of flows");
        for (key, flow) in host.flows() {
            let map = if is_embryonic(&flow.entry) { &embryonic } else { &grown };
            let entry = map
                .get::<[u8; KEY]>(key.as_bytes().try_into().unwrap())
                .unwrap_or_else(|| panic!("{name} {program}: no {key:?}"));
            assert_eq!(entry.as_slice(), flow.entry.as_bytes(), "{name} {program}: {key:?}");
        }
        let ended = door.entries("ENDED");
        assert_eq!(ended.len(), host.ended().count(), "{name} {program}: replaced flows");
        for (key, flow) in host.ended() {
            let ended_flow = EndedFlow { key: *key, first_seen_ns: flow.entry.head.first_seen_ns };
            let entry = ended
                .get::<[u8; ENDED]>(ended_flow.as_bytes().try_into().unwrap())
                .unwrap_or_else(|| panic!("{name} {program}: no ended {key:?}"));
            assert_eq!(entry.as_slice(), flow.entry.as_bytes(), "{name} {program}: ended {key:?}");
        }
        let services = door.services();
        assert_eq!(services.len(), host.services().count(), "{name} {program}: services");
        for (service, round_trips) in host.services() {
            let theirs = services.get(&service);
            assert_eq!(theirs, Some(&round_trips), "{name} {program}: {service:x}");
        }
    }
    received
}

#[test]
fn the_kernel_and_the_host_agree_on_real_captures() {
    if !support::kernel("kernel parity on real captures") {
        return;
    }
    let mut packets = 0;
    for path in support::corpus() {
        let Ok(mut reader) = PacketReader::open(&path) else { continue };
        let mut samples = Vec::new();
        // A damaged tail ends the file for both sides.
        while let Ok(Some(read)) = reader.next_packet() {
            if offline::link(read.link_type) != Link::Ethernet {
                continue;
            }
            let packet = &read.packet;
            samples.extend(Sample::new(packet.time_ns, packet.original_len, &packet.data));
        }
        if !samples.is_empty() {
            packets += hold(&path.display().to_string(), &samples);
        }
    }
    println!("{packets} packets through both doors and the host");
}

#[test]
fn the_kernel_and_the_host_agree_on_damaged_packets() {
    if !support::kernel("kernel parity on damaged packets") {
        return;
    }
    let mut random = support::Random(0x11_22_33);
    let mut samples = Vec::new();
    for round in 0..4_000_u64 {
        let mut frame = support::frame(&mut random);
        for _ in 0..random.below(4) {
            let at = random.below(frame.len() as u64) as usize;
            frame[at] = random.next() as u8;
        }
        let original_len = u32::try_from(frame.len()).unwrap();
        frame.truncate(15 + random.below(frame.len() as u64) as usize);
        samples.extend(Sample::new(round * 700_000, original_len, &frame));
    }
    assert!(samples.len() > 2_000);
    hold("damaged packets", &samples);
}

#[test]
fn the_kernel_and_the_host_agree_on_whole_packets_of_every_kind() {
    if !support::kernel("kernel parity on every kind of packet") {
        return;
    }
    let mut random = support::Random(0x77_88_99);
    let samples: Vec<_> = (0..4_000_u64)
        .filter_map(|round| {
            let frame = support::frame(&mut random);
            Sample::new(round * 700_000, u32::try_from(frame.len()).unwrap(), &frame)
        })
        .collect();
    assert!(samples.len() > 3_000);
    let mut host = Replay::default();
    for sample in &samples {
        let frame = Frame::plain(Ktime(sample.time_ns), sample.original_len);
        let _counted = host.frame(sample.data.as_slice(), &frame);
    }
    let kinds: BTreeSet<_> =
        host.flows().map(|(_, flow)| tunnel::name(flow.entry.encapsulation.kind)).collect();
    assert_eq!(kinds.len(), 11, "{kinds:?}");
    let states: BTreeSet<_> = host.flows().map(|(_, flow)| flow.entry.head.state).collect();
    let sctp = states.iter().filter(|state| **state >= ConntrackState::SctpClosed as u8).count();
    assert!(sctp >= 4, "states of SCTP are in the mix: {states:?}");
    let errors: u64 = host.flows().map(|(_, flow)| flow.entry.icmp.count).sum();
    assert!(errors > 10, "{errors} ICMP errors about known flows");
    let count = |outcome: Outcome| host.counters().outcomes[outcome as usize];
    for outcome in [Outcome::Tracked, Outcome::TooDeep, Outcome::FragmentWithoutFirst] {
        assert!(count(outcome) > 0, "{outcome:?}");
    }
    hold("packets of every kind", &samples);
}

/// A rule for some of the frames of [`support::frame`].
fn rule(random: &mut support::Random) -> Rule {
    fn maybe<T>(random: &mut support::Random, make: impl FnOnce(u64) -> T) -> Option<T> {
        (random.below(3) == 0).then(|| make(random.next() >> 16))
    }
    let network = |number: u64| {
        let host = [0, 1, 2, 3, 8, 9][(number % 6) as usize];
        let mut ipv6 = [0; 16];
        (ipv6[0], ipv6[15]) = (0xfd, host);
        let prefix = [0, 8, 24, 28, 30, 31, 32, 32][(number / 6 % 8) as usize];
        if number % 2 == 0 {
            Network::v4([10, 0, 0, host], prefix).unwrap()
        } else {
            Network::v6(ipv6, 96 + prefix).unwrap()
        }
    };
    let ports = |number: u64| {
        let first = [0, 443, 443, 4_789, 6_081, 40_000][(number % 6) as usize];
        Ports { first, last: if number % 5 == 0 { 65_535 } else { first } }
    };
    let action = match random.below(3) {
        0 => Action::Track,
        1 => Action::Ignore,
        _ => Action::Sample(2 + random.below(3) as u32),
    };
    Rule {
        action,
        network: maybe(random, network),
        port: maybe(random, ports),
        peer_network: maybe(random, network),
        peer_port: maybe(random, ports),
        protocol: maybe(random, |number| [6, 17, 1, 58, 47, 4][(number % 6) as usize]),
        point: maybe(random, |number| u32::from(number % 4 == 0) + u32::from(POINT)),
        direction: maybe(random, |number| {
            if number % 2 == 0 { Direction::Ingress } else { Direction::Egress }
        }),
    }
}

#[test]
fn the_kernel_and_the_host_agree_on_rules_that_change() {
    if !support::kernel("kernel parity under rules") {
        return;
    }
    let mut random = support::Random(0x44_55_66);
    let mut sum = HookCounters::default();
    for (round, length) in [1, 5, 64, 200, 1_000].into_iter().enumerate() {
        let samples: Vec<_> = (0..1_500_u64)
            .filter_map(|number| {
                let frame = support::frame(&mut random);
                Sample::new(number * 700_000, u32::try_from(frame.len()).unwrap(), &frame)
            })
            .collect();
        // The first packets see no rules, and the last change takes all of them away.
        let mut change = |before, length: usize| Change {
            before,
            rules: (0..length).map(|_| rule(&mut random)).collect(),
        };
        let changes = [change(200, length), change(500, length), change(800, 3), change(1_200, 0)];
        let counters = hold_under(&format!("rules, round {round}"), &samples, &changes);
        live::add(&mut sum, &counters);
    }
    let count = |outcome: Outcome| sum.outcomes[outcome as usize];
    for outcome in [Outcome::Tracked, Outcome::IgnoredByRule, Outcome::SampledOut] {
        assert!(count(outcome) > 200, "{outcome:?}: {}", count(outcome));
    }
    assert_eq!(sum.seen, sum.outcomes.iter().sum::<u64>());
}

#[test]
fn generations_come_again_without_their_decisions() {
    if !support::kernel("kernel parity over all generations") {
        return;
    }
    let mut random = support::Random(0x12_34);
    let samples: Vec<_> = (0..300_u64)
        .filter_map(|number| {
            let frame = support::frame(&mut random);
            Sample::new(number * 700_000, u32::try_from(frame.len()).unwrap(), &frame)
        })
        .collect();
    let action = |number| if number % 3 == 0 { Action::Ignore } else { Action::Track };
    let change = |before| Change { before, rules: vec![Rule::everything(action(before))] };
    let changes: Vec<_> = (0..samples.len()).map(change).collect();
    assert!(changes.len() > 2 * 126);
    hold_under("every generation twice", &samples, &changes);
}
