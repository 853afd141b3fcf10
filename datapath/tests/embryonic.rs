//! Which packets make a flow more than an attempt: whole stories through the pipeline, as an outsider could send them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{Frame, Ktime, embryonic::is_embryonic, replay::Replay};
use etherparse::PacketBuilder;

const INSIDER: ([u8; 4], u16) = ([10, 0, 0, 1], 443);
const OUTSIDER: ([u8; 4], u16) = ([192, 0, 2, 7], 40_000);

/// A segment, by the letters of its flags; `seen` is acknowledged.
fn segment(
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    flags: &str,
    sequence: u32,
    seen: u32,
) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from.0, to.0, 64)
        .tcp(from.1, to.1, sequence, 1_000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'R' => builder.rst(),
            'F' => builder.fin(),
            'A' => builder.ack(seen),
            other => panic!("no flag {other}"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn play(frames: &[Vec<u8>]) -> Replay {
    let mut replay = Replay::default();
    for (millisecond, frame) in (1..).zip(frames) {
        let now = Ktime(millisecond * 1_000_000);
        let length = u32::try_from(frame.len()).unwrap();
        let _counted = replay.frame(frame.as_slice(), &Frame::plain(now, length));
    }
    replay
}

fn embryonic(frames: &[Vec<u8>]) -> Vec<bool> {
    play(frames).flows().map(|(_, flow)| is_embryonic(&flow.entry)).collect()
}

#[test]
fn a_handshake_makes_a_flow() {
    let syn = segment(OUTSIDER, INSIDER, "S", 100, 0);
    let answer = segment(INSIDER, OUTSIDER, "SA", 900, 101);
    let ack = segment(OUTSIDER, INSIDER, "A", 101, 901);
    assert_eq!(embryonic(&[syn.clone(), answer.clone()]), [true]);
    assert_eq!(embryonic(&[syn, answer, ack]), [false]);
}

#[test]
fn whoever_sends_with_a_false_address_makes_none() {
    for story in [["S", "R", "A"], ["S", "A", "A"], ["S", "FA", "A"], ["A", "A", "A"]] {
        let frames = story.map(|flags| segment(OUTSIDER, INSIDER, flags, 100, 901));
        assert_eq!(embryonic(&frames), [true], "{story:?}");
    }
    for chunk in [1, 3, 4, 5, 7, 10, 11] {
        // SCTP: ports, tag and checksum, and a chunk without a body.
        let packet = [0x9c, 0x40, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, chunk, 0, 0, 4];
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(OUTSIDER.0, INSIDER.0, 64);
        builder.write(&mut frame, etherparse::IpNumber(132), &packet).unwrap();
        assert_eq!(embryonic(&[frame.clone(), frame]), [true], "chunk {chunk}");
    }
}

#[test]
fn a_syn_ends_no_connection_that_has_not_closed() {
    let mut frames = vec![
        segment(OUTSIDER, INSIDER, "S", 100, 0),
        segment(INSIDER, OUTSIDER, "SA", 900, 101),
        segment(OUTSIDER, INSIDER, "A", 101, 901),
        segment(INSIDER, OUTSIDER, "S", 77, 0),
        segment(OUTSIDER, INSIDER, "S", 88, 0),
    ];
    let replay = play(&frames);
    assert_eq!((replay.flows().count(), replay.ended().count()), (1, 0));
    let (key, flow) = replay.flows().next().unwrap();
    assert_eq!(flow.entry.head.state, datapath::ConntrackState::Established as u8);
    let opener = if flow.entry.head.originator == 0 { key.lower_port } else { key.upper_port };
    assert_eq!(u16::from_be(opener), OUTSIDER.1, "the originator stays the one who opened it");
    frames.push(segment(OUTSIDER, INSIDER, "R", 88, 0));
    frames.push(segment(OUTSIDER, INSIDER, "S", 88, 0));
    let replay = play(&frames);
    assert_eq!((replay.flows().count(), replay.ended().count()), (1, 1), "that one has closed");
}

#[test]
fn an_attempt_that_is_made_again_is_one() {
    let frames: Vec<_> = (1..20)
        .flat_map(|number| {
            [
                segment(OUTSIDER, INSIDER, "S", number * 1_000, 0),
                segment(INSIDER, OUTSIDER, "RA", 0, number * 1_000 + 1),
            ]
        })
        .collect();
    let replay = play(&frames);
    assert_eq!((replay.flows().count(), replay.ended().count()), (1, 0));
    assert_eq!(embryonic(&frames), [true]);
}
