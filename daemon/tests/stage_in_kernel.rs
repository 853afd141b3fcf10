//! T2: the whole capture stage on frames of `BPF_PROG_TEST_RUN`, set up by the attacher as for a host: of every frame, the
//! captures that the kernel chose it for are those whose filters match here, through tags and into a tunnel; and its ring
//! has the frame's bytes, once. Never sends anything.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{maps::MapInfo, programs::loaded_programs};
use captures::{Filter, Libpcap, LinkType, Snaplen, Treatment};
use daemon::live::{
    Attacher, CaptureCounters, CaptureRings, Captured, MapSizes, Object, StageConfig, Verb,
    filters::{Alternative, test_run},
};
use datapath::layout::CAPTURES_MAX;
use lab::{Lab, Plan};
use support::{
    Random,
    filters::{EXPRESSIONS, Packet, packets},
};

/// Beyond what every link has: tags, tunnels and what is in them, and the forms that do not look through them.
const MORE: [&str; 12] = [
    "vlan 100 and udp",
    "not vlan",
    "vlan and not vlan 100",
    "geneve and udp",
    "udp port 4789 or udp port 8472",
    "udp port 4789 and greater 100",
    "proto gre",
    "ip proto 4 or ip proto 41",
    "ip6 proto 4 or ip6 proto 41",
    "not ip and not ip6",
    "ether[12:2] = 0x8100",
    "icmp6 and ip6[6] = 58",
];

/// The stage on the loopback devices of two namespaces, one for each kind of hook, and its rings.
struct Stage {
    attacher: Attacher,
    rings: CaptureRings,
    counters: CaptureCounters,
    pins: PathBuf,
    _lab: Lab,
}

impl Stage {
    fn new(name: &str) -> Self {
        lab::processor::stay_on_one(0).unwrap();
        let lab = Lab::build(Plan { direct: true, ..Plan::new(name) }).unwrap();
        let pins = PathBuf::from(format!("/sys/fs/bpf/linnet-test-{}-{name}", std::process::id()));
        let sizes = MapSizes { flows: 1_024, capture_ring_bytes: 64 << 20, ..MapSizes::default() };
        let mut attacher = Attacher::new(&pins, sizes).unwrap();
        let [client, server] = [lab.client(), lab.server()].map(lab::Namespace::name);
        for spec in [format!("{client}/lo,ingress=xdp-generic"), format!("{server}/lo")] {
            attacher.attach(spec.parse().unwrap()).unwrap();
        }
        let rings = attacher.capture_rings().unwrap();
        let counters = attacher.capture_counters().unwrap();
        Self { attacher, rings, counters, pins, _lab: lab }
    }

    fn start(&mut self, slot: usize, filters: &[Filter]) {
        let config = StageConfig {
            snaplen: 65_536,
            payload_max: None,
            deadline_ns: u64::MAX,
            packets_max: u64::MAX,
            bytes_max: u64::MAX,
            point: None,
            filter: Some(Alternative::of(filters)),
        };
        self.attacher.perform(Verb::StartCapture { slot: slot as u8, config }).unwrap();
    }

    fn stop_all(&mut self) {
        self.attacher.perform(Verb::StopCaptures).unwrap();
    }

    /// The first program of the hook, of those that use this stage's maps.
    fn program(&self, object: Object) -> OwnedFd {
        let wanted = MapInfo::from_pin(self.pins.join("CAPTURE_WANTED")).unwrap().id();
        let name = if object == Object::Xdp { "linnet_xdp_cap" } else { "linnet_cap_in" };
        let is_ours = |info: &aya::programs::ProgramInfo| {
            info.name() == name.as_bytes()
                && info.map_ids().unwrap().is_some_and(|ids| ids.contains(&wanted))
        };
        let info = loaded_programs().map(Result::unwrap).find(is_ours).unwrap();
        info.fd().unwrap().as_fd().try_clone_to_owned().unwrap()
    }

    /// What came into the rings: the captures that wanted it, and its bytes.
    fn taken(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut taken = Vec::new();
        while self.rings.read(usize::MAX, u64::MAX, |captured| match captured {
            Captured::Packet(record, bytes) => {
                assert_eq!(record.original_len as usize, bytes.len());
                taken.push((record.captures, bytes.to_vec()));
            }
            Captured::Gap(lost) => panic!("the ring was full: {lost:?}"),
        }) > 0
        {}
        taken
    }

    fn matched(&self) -> Vec<u64> {
        let of_slot = |slot| self.counters.read(slot as u8).unwrap().matched;
        (0..CAPTURES_MAX).map(of_slot).collect()
    }
}

/// Whether a test run takes it: what claims to be IP must hold an IP header.
fn is_taken(frame: &[u8]) -> bool {
    let shortest = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() >= shortest
}

/// Made frames, and those of the corpus: some of each file, or all.
fn frames() -> Vec<Vec<u8>> {
    let mut random = Random(0x57a6e);
    let made: Vec<_> = (0..3_000).map(|_| support::frame(&mut random)).collect();
    let most = if support::full() { usize::MAX } else { 60 };
    let read = |path: &PathBuf| packets(Path::new(path), most);
    let read =
        support::corpus().iter().flat_map(read).map(|packet| packet.data).collect::<Vec<_>>();
    let cut = |frame: Vec<u8>| Packet::new(0, &frame).data;
    made.into_iter().map(cut).chain(read).filter(|frame| is_taken(frame)).collect()
}

/// Tolerant filters: the expressions, and then pairs of them.
fn filters(libpcap: &Libpcap, count: usize) -> Vec<Filter> {
    let mut random = Random(0xf117e5);
    let texts: Vec<_> = MORE.iter().chain(EXPRESSIONS).copied().collect();
    let compile = |text: &str| {
        libpcap.compile_as(Treatment::Tolerant, text, LinkType::ETHERNET, Snaplen::WHOLE)
    };
    let mut filters: Vec<_> = texts.iter().map(|text| compile(text).unwrap()).collect();
    while filters.len() < count {
        let mut pick = || texts[random.below(texts.len() as u64) as usize];
        let (one, other) = (pick(), pick());
        // Some make no sense together, which libpcap says.
        filters.extend(compile(&format!("({one}) and not ({other})")).ok());
    }
    filters.truncate(count);
    filters
}

#[test]
fn the_stage_chooses_what_the_filters_match_and_copies_it_once() {
    let what = "the capture stage on frames";
    if !support::kernel(what) || !lab::require_root(what) {
        return;
    }
    let libpcap = match Libpcap::load() {
        Ok(libpcap) => libpcap,
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}: {error}");
            println!("skipped: {what}: {error}");
            return;
        }
    };
    let filters = filters(&libpcap, if support::full() { 512 } else { 128 });
    let frames = frames();
    let mut stage = Stage::new("stage-frames");
    let (mut matches, mut different) = (0, 0);
    for group in filters.chunks(CAPTURES_MAX) {
        for (slot, filter) in group.iter().enumerate() {
            stage.start(slot, std::slice::from_ref(filter));
        }
        let expected: Vec<(u64, &[u8])> = frames
            .iter()
            .map(|frame| {
                let matches = |filter: &Filter| filter.matches(frame, frame.len() as u32);
                let bit = |(slot, filter)| u64::from(matches(filter)) << slot;
                (group.iter().enumerate().map(bit).sum(), frame.as_slice())
            })
            .collect();
        for (object, pass) in [(Object::Xdp, 2), (Object::Tc, u32::MAX)] {
            let (program, before) = (stage.program(object), stage.matched());
            let mut taken = Vec::new();
            for frames in expected.chunks(1_000) {
                for (_, frame) in frames {
                    let run = test_run(program.as_fd(), frame, 1).unwrap();
                    assert_eq!(run.returned, pass, "the stage passes every packet");
                }
                taken.extend(stage.taken());
            }
            let mut taken = taken.iter();
            for (mask, frame) in expected.iter().filter(|(mask, _)| *mask != 0) {
                let (chosen, bytes) = taken.next().expect("a frame is missing");
                assert_eq!(bytes, frame, "{object:?}: not the next frame");
                let slot = (chosen ^ mask).trailing_zeros() as usize;
                assert_eq!(chosen, mask, "{object:?}: {:?} on {frame:02x?}", group.get(slot));
            }
            assert_eq!(taken.next(), None, "{object:?}: a frame that nobody wants");
            for (slot, (before, now)) in before.iter().zip(stage.matched()).enumerate() {
                let of_slot = expected.iter().filter(|(mask, _)| mask >> slot & 1 != 0).count();
                assert_eq!(now - before, of_slot as u64, "{object:?}: slot {slot}");
            }
        }
        matches += expected.iter().map(|(mask, _)| u64::from(mask.count_ones())).sum::<u64>();
        different += count_not_strict(group, &frames);
        stage.stop_all();
    }
    println!(
        "{} filters on {} frames, by XDP and by TC: {matches} matches, {different} of them only through tags or a tunnel",
        filters.len(),
        frames.len()
    );
    assert!(different > 0);
}

/// Matches that the frame as it is does not have.
fn count_not_strict(filters: &[Filter], frames: &[Vec<u8>]) -> u64 {
    let as_it_is = |filter: &Filter| {
        Filter::try_new("as it is", filter.link_type(), filter.instructions().to_vec()).unwrap()
    };
    let count = |filter: &Filter| {
        let strict = as_it_is(filter);
        let differs = |frame: &&Vec<u8>| {
            let len = frame.len() as u32;
            filter.matches(frame, len) && !strict.matches(frame, len)
        };
        frames.iter().filter(differs).count() as u64
    };
    filters.iter().map(count).sum()
}
