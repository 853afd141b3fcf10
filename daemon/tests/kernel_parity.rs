//! T2: the same packets through the kernel programs, by `BPF_PROG_TEST_RUN` under a virtual clock, and through the
//! host's pipeline give the same flows, byte for byte, and the same counters.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::collections::BTreeSet;

use captures::PacketReader;
use daemon::offline;
use datapath::{
    ConntrackState, Frame, Ktime, Link, Outcome, layout::Event, parse::tunnel, replay::Replay,
};
use support::door::{Door, Sample};
use zerocopy::IntoBytes as _;

/// Feeds both sides and holds every byte of one against the other.
fn hold(name: &str, samples: &[Sample]) -> [u64; 2] {
    let mut host = Replay::default().with_segments();
    let mut flagged: Vec<Vec<_>> = Vec::new();
    for sample in samples {
        let _counted = host.frame(sample.data.as_slice(), &sample.frame());
        flagged.push(host.classified().iter().filter_map(|segment| segment.event).collect());
    }
    for mut door in Door::both(16_384) {
        for (number, (sample, expected)) in samples.iter().zip(&flagged).enumerate() {
            door.run(sample);
            hold_events(&format!("{name}, frame {}", number + 1), &mut door, expected);
        }
        door.hold(name, &host);
    }
    let events: usize = flagged.iter().map(Vec::len).sum();
    [samples.len() as u64, events as u64]
}

/// What the kernel's program logged of one frame is what the host says of it, in every field.
fn hold_events(what: &str, door: &mut Door, expected: &[Event]) {
    let (events, counts) = door.events();
    assert_eq!(counts.lost, 0, "{what}");
    assert_eq!(events.len(), expected.len(), "{what}: {events:?} against {expected:?}");
    for (event, expected) in events.iter().zip(expected) {
        let are_equal = event.as_bytes() == expected.as_bytes();
        assert!(are_equal, "{what}: {event:?} against {expected:?}");
    }
}

/// The packets of a capture that a test run takes.
fn samples(path: &std::path::Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    let Ok(mut reader) = PacketReader::open(path) else { return samples };
    // A damaged tail ends the file for both sides.
    while let Ok(Some(read)) = reader.next_packet() {
        if offline::link(read.link_type) != Link::Ethernet {
            continue;
        }
        let packet = &read.packet;
        samples.extend(Sample::new(packet.time_ns, packet.original_len, &packet.data));
    }
    samples
}

#[test]
fn the_kernel_and_the_host_agree_on_real_captures() {
    if !support::kernel("kernel parity on real captures") {
        return;
    }
    let mut sums = [0; 2];
    for path in support::corpus() {
        let samples = samples(&path);
        if !samples.is_empty() {
            let held = hold(&path.display().to_string(), &samples);
            sums.iter_mut().zip(held).for_each(|(sum, held)| *sum += held);
        }
    }
    let [packets, events] = sums;
    println!("{packets} packets and {events} events through both doors and the host");
}

#[test]
fn the_kernel_and_the_host_agree_on_what_leaves_a_socket() {
    if !support::kernel("kernel parity on what leaves a socket") {
        return;
    }
    let mut retransmitted = 0;
    for path in support::corpus() {
        let mut samples = samples(&path);
        samples.iter_mut().for_each(|sample| sample.from_socket = true);
        let mut door = Door::egress(16_384);
        let mut host = Replay::default();
        for sample in &samples {
            let frame = Frame { direction: door.direction(), ..sample.frame() };
            let _counted = host.frame(sample.data.as_slice(), &frame);
            door.run(sample);
        }
        door.hold(&path.display().to_string(), &host);
        for verdicts in host.flows().flat_map(|(_, flow)| flow.verdicts()) {
            assert_eq!((verdicts.reordered_segments, verdicts.duplicate_frames), (0, 0));
            retransmitted += verdicts.retransmitted_segments;
        }
    }
    println!("{retransmitted} segments sent again, and none that is late or a copy");
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
    let [packets, events] = hold("damaged packets", &samples);
    println!("{packets} damaged packets and {events} events");
    assert!(events > 0);
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
    let [packets, events] = hold("packets of every kind", &samples);
    println!("{packets} packets of every kind and {events} events");
    assert!(events > 0);
}
