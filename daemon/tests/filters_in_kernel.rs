//! T2: filters translated for the kernel and run there by `BPF_PROG_TEST_RUN` choose what the interpreter chooses; and
//! what their program does beside choosing. Never attaches it.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::os::fd::AsFd as _;

use aya::{
    EbpfLoader,
    programs::{SchedClassifier, Xdp},
};
use captures::{Filter, Libpcap, LinkType, Snaplen, filter::Instruction};
use daemon::live::{
    Object,
    filters::{Alternative, FilterSet, FiltersError, SLOTS_MAX, Slot, View, set_program},
};
use datapath::{Link, layout::VIEW_AT_MAX};
use support::{
    Random,
    filters::{
        EXPRESSIONS, Packet, Stage, compiled, packets, put, random_filter, set_of, strict, views,
    },
};

/// Both kinds of hooks.
const OBJECTS: [Object; 2] = [Object::Xdp, Object::Tc];

/// Libpcap, where there is one; a lack of it has been told by the tests of `captures`.
fn libpcap(what: &str) -> Option<Libpcap> {
    if !support::root(what) {
        return None;
    }
    match Libpcap::load() {
        Ok(libpcap) => Some(libpcap),
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}: {error}");
            println!("skipped: {what}: {error}");
            None
        }
    }
}

/// Runs every filter on every packet, in the kernel and here. Returns the comparisons, and how many of them matched.
fn hold(filters: &[Filter], packets: &[Packet]) -> [u64; 2] {
    let groups: Vec<_> = filters.chunks(usize::from(SLOTS_MAX)).collect();
    let stages = OBJECTS.map(|object| (object, Stage::new()));
    let programs = stages.each_ref().map(|(object, stage)| {
        let load = |group: &&[Filter]| stage.load(&set_of(group), *object);
        groups.iter().map(load).collect::<Vec<_>>()
    });
    let mut sums = [0; 2];
    for packet in packets {
        let views = views(packet, u64::MAX);
        for (number, group) in groups.iter().enumerate() {
            let bit = |(slot, filter): (usize, &Filter)| {
                u64::from(filter.matches(&packet.data, packet.original_len)) << slot
            };
            let expected: u64 = group.iter().enumerate().map(bit).sum();
            for ((object, stage), programs) in stages.iter().zip(&programs) {
                let matched = stage.run(&programs[number], *object, &views);
                let different = (matched ^ expected).trailing_zeros() as usize;
                if let Some(filter) = group.get(different) {
                    panic!("{object:?}: {filter:?} on {packet:02x?}: {matched:x}, {expected:x}");
                }
                assert_eq!(matched, expected, "slots without a filter match nothing");
                sums[0] += group.len() as u64;
            }
            sums[1] += u64::from(expected.count_ones());
        }
    }
    sums
}

/// Frames of every kind and packets of the corpus: some of each file, or all.
fn all_packets() -> Vec<Packet> {
    let most = if support::full() { usize::MAX } else { 40 };
    let mut random = Random(0x77_88_99);
    let made = (0..if support::full() { 4_000 } else { 600 }).map(|round| {
        let mut frame = support::frame(&mut random);
        let original_len = frame.len() as u32;
        if round % 3 == 0 {
            frame.truncate(1 + random.below(u64::from(original_len)) as usize);
        }
        Packet::new(original_len, &frame)
    });
    let made: Vec<_> = made.collect();
    let read = support::corpus();
    made.into_iter().chain(read.iter().flat_map(|path| packets(path, most))).collect()
}

#[test]
fn compiled_filters_choose_in_the_kernel_what_the_interpreter_chooses() {
    let Some(libpcap) = libpcap("compiled filters in the kernel") else { return };
    let filters = compiled(&libpcap, if support::full() { 1_024 } else { 512 });
    let packets = all_packets();
    let [compared, matched] = hold(&filters, &packets);
    println!(
        "{} compiled filters on {} packets: {compared} comparisons, {matched} matches",
        filters.len(),
        packets.len()
    );
    assert!(matched > 0);
}

#[test]
fn random_programs_choose_in_the_kernel_what_the_interpreter_chooses() {
    if !support::root("random programs in the kernel") {
        return;
    }
    let mut random = Random(0x0bad_cafe);
    let count = if support::full() { 8_192 } else { 1_024 };
    let filters: Vec<_> = (0..count).map(|_| random_filter(&mut random)).collect();
    let most = if support::full() { 4_000 } else { 500 };
    let packets = all_packets();
    let step = packets.len().div_ceil(most);
    let mut packets: Vec<_> = packets.into_iter().step_by(step).collect();
    for len in [1, 2, 3, 14, 3_495, 3_496, 3_499, 3_500] {
        packets.push(Packet::new(u32::MAX - len as u32, &vec![0xff; len]));
    }
    let [compared, matched] = hold(&filters, &packets);
    println!(
        "{count} random programs on {} packets: {compared} comparisons, {matched} matches",
        packets.len()
    );
    assert!(matched > 0);
}

/// A packet of 60 bytes, and a filter that matches where the byte at 20 is so.
fn packet() -> Packet {
    Packet::new(60, &[7; 60])
}

fn byte_at_20(value: u32) -> Vec<Instruction> {
    let instruction = |code, jf, k| Instruction { code, jt: 0, jf, k };
    vec![
        instruction(0x30, 0, 20),
        instruction(0x15, 1, value),
        instruction(6, 0, 1),
        instruction(6, 0, 0),
    ]
}

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

#[test]
fn each_view_is_looked_at_by_its_own_filters_and_only_where_it_is() {
    if !support::root("views of a packet") {
        return;
    }
    let mut set = FilterSet::default();
    let alternative =
        |view, link, value| Alternative { view, link, instructions: byte_at_20(value) };
    set.push(slot(0), alternative(View::Wire, Link::Ethernet, 7));
    set.push(slot(1), alternative(View::Untagged, Link::Ethernet, 8));
    set.push(slot(33), alternative(View::Tunneled, Link::Ethernet, 9));
    set.push(slot(33), alternative(View::Wire, Link::Ethernet, 1));
    set.push(slot(63), alternative(View::Untagged, Link::Ethernet, 1));
    set.push(slot(63), alternative(View::Tunneled, Link::Ethernet, 9));
    set.push(slot(63), alternative(View::Wire, Link::RawIp, 7));
    set.push(slot(31), alternative(View::Wire, Link::RawIp, 7));
    let bits = |slots: &[u8]| slots.iter().map(|number| slot(*number).bit()).sum::<u64>();
    for object in OBJECTS {
        let stage = Stage::new();
        let program = stage.load(&set, object);
        let mut views = views(&packet(), u64::MAX);
        assert_eq!(stage.run(&program, object, &views), bits(&[0]));
        put(&mut views, View::Untagged, 4_096, &[8; 21]);
        assert_eq!(stage.run(&program, object, &views), bits(&[0, 1]));
        put(&mut views, View::Tunneled, VIEW_AT_MAX, &[9; 4_096]);
        assert_eq!(stage.run(&program, object, &views), bits(&[0, 1, 33, 63]));
        // One byte less than the filter reads.
        put(&mut views, View::Tunneled, VIEW_AT_MAX, &[9; 20]);
        assert_eq!(stage.run(&program, object, &views), bits(&[0, 1]));
        views.link = 1;
        assert_eq!(stage.run(&program, object, &views), bits(&[31, 63]));
        views.at = [VIEW_AT_MAX as u32 + 1; 3];
        assert_eq!(stage.run(&program, object, &views), 0, "a view that leaves the bytes is none");
    }
}

#[test]
fn what_is_not_wanted_is_not_run_and_everything_is_what_is_wanted() {
    if !support::root("wanted filters") {
        return;
    }
    let stage = Stage::new();
    let mut set = FilterSet::default();
    for number in 0..SLOTS_MAX {
        let alternative = || strict(&Filter::match_all(LinkType::ETHERNET));
        if number % 2 == 0 {
            set.match_all(slot(number))
        } else {
            set.push(slot(number), alternative())
        }
    }
    let program = stage.load(&set, Object::Xdp);
    for wanted in [0, 1, 2, 1 << 31, 1 << 32, 1 << 63, 0x0123_4567_89ab_cdef, u64::MAX] {
        assert_eq!(stage.run(&program, Object::Xdp, &views(&packet(), wanted)), wanted);
    }
    let nothing = stage.load(&FilterSet::default(), Object::Xdp);
    assert_eq!(stage.run(&nothing, Object::Xdp, &views(&packet(), u64::MAX)), 0);
}

#[test]
fn the_program_goes_on_with_what_is_behind_it() {
    if !support::kernel("the program behind the filters") {
        return;
    }
    let mut everything = FilterSet::default();
    everything.match_all(slot(5));
    for object in OBJECTS {
        // The one behind leaves its mark in views of its own.
        let (stage, behind) = (Stage::new(), Stage::new());
        let program = stage.load(&FilterSet::default(), object);
        let mark = behind.load(&everything, object);
        for wanted in [0, 1] {
            behind.write(&views(&packet(), u64::MAX));
            let unmarked = behind.matched();
            assert_eq!(stage.run(&program, object, &views(&packet(), wanted)), 0);
            assert_eq!(behind.matched(), unmarked);
        }
        set_program(stage.next(), 0, mark.as_fd()).unwrap();
        for wanted in [0, 1] {
            behind.write(&views(&packet(), u64::MAX));
            assert_eq!(stage.run(&program, object, &views(&packet(), wanted)), 0);
            assert_eq!(behind.matched(), slot(5).bit(), "{wanted} wanted");
        }
        // Programs of aya's fit behind it as well, and it fits before those.
        let mut loaded = EbpfLoader::new().load(object.bytes().unwrap()).unwrap();
        let fd = if object == Object::Xdp {
            let program: &mut Xdp =
                loaded.program_mut("linnet_xdp_nop").unwrap().try_into().unwrap();
            program.load().unwrap();
            program.fd().unwrap().try_clone().unwrap()
        } else {
            let program = loaded.program_mut("linnet_tc_nop").unwrap();
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap();
            program.fd().unwrap().try_clone().unwrap()
        };
        set_program(stage.next(), 0, fd.as_fd()).unwrap();
        let first = Stage::new();
        set_program(first.next(), 0, fd.as_fd()).unwrap();
        set_program(first.next(), 0, program.as_fd()).unwrap();
    }
}

#[test]
fn sixty_four_filters_load_within_the_verifiers_limits() {
    let Some(libpcap) = libpcap("64 filters at once") else { return };
    let compile = |text: &str| libpcap.compile(text, LinkType::ETHERNET, Snaplen::WHOLE).unwrap();
    let longest = {
        let mut filters = compiled(&libpcap, 512);
        filters.sort_by_key(|filter| std::cmp::Reverse(filter.instructions().len()));
        filters.truncate(64);
        filters
    };
    let ports = |from: u32, many: u32| {
        let ports = (0..many).map(|port| format!("port {}", from * 100 + port));
        ports.collect::<Vec<_>>().join(" or ")
    };
    let sets = [
        ("the expressions", EXPRESSIONS[..64].iter().map(|text| compile(text)).collect()),
        ("the longest of two expressions", longest),
        ("of forty ports", (1..=64).map(|number| compile(&ports(number, 40))).collect()),
    ];
    for (name, filters) in sets {
        let filters: Vec<Filter> = filters;
        let instructions: usize = filters.iter().map(|filter| filter.instructions().len()).sum();
        for object in OBJECTS {
            let stage = Stage::new();
            let start = lab::clock::monotonic_ns();
            let program = stage.load(&set_of(&filters), object);
            let load_us = (lab::clock::monotonic_ns() - start) / 1_000;
            let cost = program.cost().unwrap();
            println!(
                "{name}, {object:?}: {instructions} classic, {cost:?}, loaded in {load_us} us"
            );
            assert!(cost.verified < 500_000, "{cost:?}");
            let matched = stage.run(&program, object, &views(&packet(), u64::MAX));
            let expected = |filter: &Filter| filter.matches(&packet().data, 60);
            assert_eq!(
                matched.count_ones() as usize,
                filters.iter().filter(|it| expected(it)).count()
            );
        }
    }
}

#[test]
fn programs_longer_than_jumps_reach_have_islands_and_a_filter_has_a_limit() {
    if !support::root("long programs") {
        return;
    }
    let instruction = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let long = |rounds: usize, number: u32| {
        let round = [instruction(0x07, 0), instruction(0x40, 4), instruction(0x24, number)];
        let end = [instruction(0x54, 1), instruction(0x16, 0)];
        // X is small before each load, or most would be outside.
        let round = [&round[1..], &[instruction(0x54, 31), instruction(0x07, 0)]].concat();
        let program = [round.repeat(rounds), end.to_vec()].concat();
        Filter::try_new("long", LinkType::ETHERNET, program).unwrap()
    };
    let stage = Stage::new();
    let filters: Vec<_> = (0..64).map(|number| long(150, number)).collect();
    let program = stage.load(&set_of(&filters), Object::Xdp);
    println!("64 filters of 602 instructions: {:?}", program.cost().unwrap());
    let mut random = Random(0x1234);
    for _ in 0..100 {
        let data: Vec<_> = (0..80).map(|_| random.next() as u8).collect();
        let packet = Packet::new(80, &data);
        let expected = filters.iter().enumerate();
        let expected: u64 =
            expected.map(|(slot, it)| u64::from(it.matches(&data, 80)) << slot).sum();
        assert_eq!(stage.run(&program, Object::Xdp, &views(&packet, u64::MAX)), expected);
        let mut elsewhere = views(&packet, u64::MAX);
        elsewhere.link = 1;
        assert_eq!(stage.run(&program, Object::Xdp, &elsewhere), 0);
    }
    let most = Filter::try_new(
        "too long",
        LinkType::ETHERNET,
        [[instruction(0x40, 4)].repeat(4_095), vec![instruction(0x16, 0)]].concat(),
    );
    let refused = stage.try_load(&set_of(&[most.unwrap()]), Object::Xdp).unwrap_err();
    assert!(matches!(refused, FiltersError::TooLong { slot: 0, .. }), "{refused}");
}
