//! SCTP frames through the pipeline: ports, states, the ledger and the bounds of what is read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{ConntrackState, Frame, Ktime, Outcome, replay::Replay};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const DATA: u8 = 0;

/// An Ethernet frame from port 5000 of 10.0.0.1 to port 6000 of 10.0.0.2, or back, with these chunks.
fn frame(forth: bool, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0]);
    let chunks = chunks.concat();
    let length = u16::try_from(32 + chunks.len()).unwrap();
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 132, 0, 0]);
    let ends = [(1, 5_000_u16), (2, 6_000_u16)];
    let [from, to] = if forth { ends } else { [ends[1], ends[0]] };
    frame.extend([10, 0, 0, from.0, 10, 0, 0, to.0]);
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    frame.extend([0; 8]);
    frame.extend(chunks);
    frame
}

/// A chunk padded to four bytes, as it is on the wire.
fn chunk(kind: u8, value_len: u8) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 4 + value_len];
    chunk.resize((4 + usize::from(value_len)).next_multiple_of(4), 0);
    chunk
}

fn play(frames: &[Vec<u8>]) -> (Replay, Vec<Outcome>) {
    let mut replay = Replay::default();
    let outcomes = frames.iter().enumerate().map(|(at, data)| {
        let length = u32::try_from(data.len()).unwrap();
        replay.frame(data.as_slice(), &Frame::plain(Ktime(at as u64), length))
    });
    let outcomes = outcomes.collect();
    (replay, outcomes)
}

fn state(replay: &Replay) -> ConntrackState {
    let (_, flow) = replay.flows().next().unwrap();
    ConntrackState::from_u8(flow.entry.head.state).unwrap()
}

#[test]
fn a_bundle_is_read_chunk_by_chunk() {
    let frames = [
        frame(true, &[chunk(INIT, 16)]),
        frame(false, &[chunk(INIT_ACK, 30)]),
        frame(true, &[chunk(COOKIE_ECHO, 5), chunk(DATA, 20)]),
        frame(false, &[chunk(COOKIE_ACK, 0), chunk(SACK, 12)]),
    ];
    let (replay, outcomes) = play(&frames);
    assert_eq!(outcomes, [Outcome::Tracked; 4]);
    assert_eq!(state(&replay), ConntrackState::SctpEstablished);
    let (key, flow) = replay.flows().next().unwrap();
    assert_eq!((u16::from_be(key.lower_port), u16::from_be(key.upper_port)), (5_000, 6_000));
    assert_eq!(flow.entry.halves[0].payload_bytes, 20 + 12 + 24, "chunks with their padding");
    assert_eq!(replay.counters().bytes, frames.iter().map(|frame| frame.len() as u64).sum());
}

#[test]
fn eight_chunks_are_read_and_no_more() {
    let many = |last: u8, before: usize| {
        let mut chunks = vec![chunk(DATA, 0); before];
        chunks.push(chunk(last, 0));
        play(&[frame(true, &[chunk(DATA, 0)]), frame(true, &chunks)])
    };
    let shutdown = 7;
    assert_eq!(state(&many(shutdown, 7).0), ConntrackState::SctpShutdownSent);
    let (replay, outcomes) = many(shutdown, 8);
    assert_eq!(state(&replay), ConntrackState::SctpJoined);
    assert_eq!(outcomes, [Outcome::Tracked; 2]);
}

#[test]
fn a_bundle_that_may_not_be_changes_nothing() {
    for chunks in [[INIT, DATA], [DATA, INIT], [DATA, COOKIE_ECHO], [SACK, COOKIE_ACK]] {
        let chunks = chunks.map(|kind| chunk(kind, 0));
        let (replay, outcomes) = play(&[frame(true, &chunks)]);
        assert_eq!(outcomes, [Outcome::Tracked]);
        assert_eq!(state(&replay), ConntrackState::Unreplied, "{chunks:?}");
    }
}

#[test]
fn what_contradicts_itself_is_malformed_and_still_booked() {
    let short = frame(true, &[vec![DATA, 0, 0, 3]]);
    let zero = frame(true, &[vec![DATA, 0, 0, 0]]);
    let beyond = frame(true, &[vec![DATA, 0, 0, 9, 1, 1, 1, 1]]);
    let mut headless = frame(true, &[]);
    headless[17] = 30;
    let (replay, outcomes) = play(&[short, zero, beyond, headless]);
    assert_eq!(outcomes, [Outcome::MalformedSctp; 4]);
    let (_, flow) = replay.flows().next().unwrap();
    assert_eq!((replay.flows().count(), flow.entry.halves[0].packets), (1, 4));
}

#[test]
fn a_cut_frame_is_truncated_where_a_chunk_header_is_missing() {
    let whole = frame(true, &[chunk(DATA, 8), chunk(DATA, 8)]);
    let original_len = u32::try_from(whole.len()).unwrap();
    // Link 14, IP 20, SCTP 12, and chunks of 12.
    for (kept, outcome) in [
        (14 + 20 + 3, Outcome::Truncated),
        (14 + 20 + 4, Outcome::Truncated),
        (14 + 20 + 12 + 3, Outcome::Truncated),
        (14 + 20 + 12 + 4, Outcome::Truncated),
        (14 + 20 + 12 + 12 + 3, Outcome::Truncated),
        (14 + 20 + 12 + 12 + 4, Outcome::Tracked),
    ] {
        let mut replay = Replay::default();
        let counted = replay.frame(&whole[..kept], &Frame::plain(Ktime(1), original_len));
        assert_eq!(counted, outcome, "{kept} bytes");
        assert_eq!(replay.flows().count(), usize::from(kept >= 14 + 20 + 4), "{kept} bytes");
    }
}
