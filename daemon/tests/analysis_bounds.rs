//! The analysis of segments that nobody would send: any numbers, flags, windows and times. It must not panic, keeps what it
//! keeps within its bounds, and counts each segment once.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and makes its own numbers"
)]

mod support;

use daemon::{
    analysis::{
        Analyzer, Side, flight::SELECTED_MAX, graph::POINTS_MAX, pace::STALLS_MAX,
        samples::SAMPLES_MAX, timeouts::TIMEOUTS_MAX, view::GraphsView, view::SideView,
        window::ZERO_PERIODS_MAX,
    },
    flow::view::Naming,
};
use datapath::{
    Ktime,
    replay::Classified,
    tcp::verdict::{FlowVerdicts, Segment},
};
use support::Random;

const SEGMENTS: u64 = 30_000;

#[test]
fn any_segments_are_counted_once_and_stay_within_the_bounds() {
    assert_eq!(SELECTED_MAX, 64);
    for seed in 1..=8 {
        let mut random = Random(seed);
        let (mut analyzer, mut verdicts) = (Analyzer::with_graphs(), FlowVerdicts::default());
        let mut now = 1_000_000_000_u64;
        let mut copies = 0;
        for frame in 1..=SEGMENTS {
            // Half of the seeds are near each other in number and time, half are anywhere.
            let is_near = seed % 2 == 0;
            let step =
                if is_near { random.below(2_000_000) } else { random.next() >> random.below(64) };
            now =
                if random.below(50) == 0 { now.wrapping_sub(step) } else { now.wrapping_add(step) };
            let one = forged(&mut random, &mut verdicts, now, is_near);
            copies += u64::from(one.verdict.bits & datapath::tcp::verdict::DUPLICATE_FRAME != 0);
            analyzer.frame(frame, &[one]);
        }
        analyzer.finish();
        let connection = analyzer.connection(0).unwrap();
        let segments: u64 = connection.sides().iter().map(|side| side.segments).sum();
        assert_eq!(segments + copies, SEGMENTS, "seed {seed}");
        let [lower, upper] = connection.sides();
        hold(lower, seed);
        hold(upper, seed);
        let naming = Naming::default();
        serde_json::to_string(&SideView::new(lower, upper, &naming)).unwrap();
        serde_json::to_string(&GraphsView::new(connection, 1)).unwrap();
    }
}

fn hold(side: &Side, seed: u64) {
    assert!(side.round_trips.kept().len() <= SAMPLES_MAX, "seed {seed}");
    assert!(side.round_trips.count() <= SEGMENTS);
    assert!(side.loaded_round_trips.count() <= side.round_trips.count());
    assert!(side.pace.stalls().as_slice().len() <= STALLS_MAX);
    assert!(side.timeouts.told().as_slice().len() <= TIMEOUTS_MAX);
    assert!(side.timeouts.recovered() <= side.timeouts.told().count());
    assert!(side.timeouts.told().count() <= side.timeouts.tries());
    assert!(side.window.zero_periods().as_slice().len() <= ZERO_PERIODS_MAX);
    assert!(side.graph().unwrap().points().len() <= POINTS_MAX);
    assert!(side.data_segments <= side.segments);
    assert!(u64::from(side.flight.bytes()) <= 1 << 30, "seed {seed}");
    let responses = &side.responses;
    let answers = responses.times().count() + responses.overlapping() + responses.disturbed();
    assert!(answers <= side.data_segments, "seed {seed}");
}

/// A segment of one connection.
fn forged(random: &mut Random, verdicts: &mut FlowVerdicts, now: u64, is_near: bool) -> Classified {
    let number = |random: &mut Random| {
        let near = random.below(20_000) as u32;
        if is_near { near.wrapping_sub(5_000) } else { random.next() as u32 }
    };
    let selective = [(); 4].map(|()| match random.below(3) {
        0 => [number(random), number(random)],
        _ => [0; 2],
    });
    let sender = random.below(2) as u32;
    let segment = Segment {
        now: Ktime(now),
        sequence: number(random),
        acknowledgment: number(random),
        payload_len: [0, 0, 1, 100, 1_460, 65_000][random.below(6) as usize],
        tcp_flags: [0x10, 0x10, 0x10, 0x18, 0x11, 0x02, 0x12, 0x04, 0x14, 0xff]
            [random.below(10) as usize],
        window: [0, 1, 500, 65_535][random.below(4) as usize],
        classes: if random.below(4) == 0 { random.next() as u32 & 0x7fff } else { 0 },
        ip_id: random.below(5) as u16,
        timestamp: (random.below(2) == 0).then(|| number(random)),
        selective,
        segment_size: 0,
        from_socket: false,
        handshake_ns: None,
        round_trip_ns: 0,
    };
    let verdict = verdicts.segment(sender, &segment);
    Classified {
        timestamp_echo: number(random),
        options: random.below(8) as u32,
        window_scale_plus_one: random.below(16) as u32,
        headers_len: 52,
        ..Classified::plain(sender, segment, verdict)
    }
}
