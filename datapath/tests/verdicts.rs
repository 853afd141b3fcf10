//! linnet's own verdicts on hand-made sequences of segments: each with what is nearly it and must not be.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{
    Ktime,
    parse::tcp::{ACK, FIN, RST, SYN},
    tcp::{
        classes::{DUPLICATE_ACK, KEEP_ALIVE, REUSED_PORTS},
        verdict::{FlowVerdicts, Segment, Verdicts},
    },
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// The handshake's round trip.
const ROUND_TRIP_MS: u64 = 40;
/// Payload of every segment of data.
const LENGTH: u32 = 100;

/// A connection whose client (0) sends data from sequence number 1000 and whose server (1) acknowledges.
struct Connection {
    verdicts: FlowVerdicts,
    handshake_ns: Option<u64>,
    /// Of the client; 0 leaves them out.
    ip_id: u16,
    timestamp: Option<u32>,
}

impl Connection {
    /// Without anything that numbers packets.
    fn bare() -> Self {
        Self {
            verdicts: FlowVerdicts::default(),
            handshake_ns: Some(ROUND_TRIP_MS * MS),
            ip_id: 0,
            timestamp: None,
        }
    }

    /// With identifications that are trusted: ten segments up to sequence number 2000 have passed by 10 ms.
    fn numbered() -> Self {
        let mut connection = Self { ip_id: 500, ..Self::bare() };
        for number in 0..10 {
            connection.data(u64::from(number) * MS, 1000 + number * LENGTH);
        }
        connection
    }

    fn segment(&self, at_ns: u64) -> Segment {
        Segment {
            now: Ktime(1_000_000 * MS + at_ns),
            tcp_flags: ACK,
            window: 500,
            handshake_ns: self.handshake_ns,
            ..Segment::default()
        }
    }

    /// One segment of data with the next identification.
    fn data(&mut self, at_ns: u64, sequence: u32) {
        let ip_id = self.ip_id;
        self.data_with_id(at_ns, sequence, ip_id);
        self.ip_id += u16::from(ip_id != 0);
    }

    fn data_with_id(&mut self, at_ns: u64, sequence: u32, ip_id: u16) {
        let timestamp = self.timestamp;
        let base = self.segment(at_ns);
        self.take(0, Segment { sequence, payload_len: LENGTH, ip_id, timestamp, ..base });
    }

    fn acknowledge(&mut self, at_ns: u64, acknowledgment: u32) {
        self.take(1, Segment { acknowledgment, ..self.segment(at_ns) });
    }

    fn repeat_acknowledgment(&mut self, at_ns: u64, acknowledgment: u32) {
        let classes = DUPLICATE_ACK;
        self.take(1, Segment { acknowledgment, classes, ..self.segment(at_ns) });
    }

    fn acknowledge_selectively(&mut self, at_ns: u64, acknowledgment: u32, block: [u32; 2]) {
        let selective = [block, [0; 2], [0; 2], [0; 2]];
        self.take(1, Segment { acknowledgment, selective, ..self.segment(at_ns) });
    }

    fn take(&mut self, sender: u32, segment: Segment) {
        self.verdicts.segment(sender, &segment);
    }

    /// Verdicts on what the client sent.
    fn counts(&self) -> Verdicts {
        assert_eq!(self.verdicts.counts()[1], Verdicts::default(), "nothing of the server");
        self.verdicts.counts()[0]
    }
}

/// So many segments of data were sent again.
fn retransmitted(segments: u64) -> Verdicts {
    let retransmitted_bytes = segments * u64::from(LENGTH);
    Verdicts { retransmitted_segments: segments, retransmitted_bytes, ..Verdicts::default() }
}

#[test]
fn what_comes_in_order_has_no_verdict() {
    let mut connection = Connection::numbered();
    connection.acknowledge(10 * MS, 2000);
    assert_eq!(connection.counts(), Verdicts::default());
}

#[test]
fn an_older_identification_is_reordering_and_a_newer_one_retransmission() {
    let reordered = Verdicts { reordered_segments: 1, ..Verdicts::default() };
    let filled = Verdicts { lost_upstream: 1, ..retransmitted(1) };
    // Long after a round trip, and long before it.
    for at in [10 * MS + 100 * US, 90 * MS] {
        let mut connection = Connection::numbered();
        connection.data_with_id(10 * MS, 2100, 511);
        connection.data_with_id(at, 2000, 510);
        assert_eq!(connection.counts(), reordered, "{at}");
        let mut connection = Connection::numbered();
        connection.data_with_id(10 * MS, 2100, 511);
        connection.data_with_id(at, 2000, 512);
        assert_eq!(connection.counts(), filled, "{at}");
    }
}

#[test]
fn timestamps_decide_where_there_are_no_identifications() {
    let told = |timestamp| {
        let mut connection = Connection { timestamp: Some(70), ..Connection::bare() };
        connection.data(0, 1000);
        connection.data(MS, 1200);
        connection.timestamp = Some(timestamp);
        connection.data(2 * MS, 1100);
        connection.counts()
    };
    assert_eq!(told(69).reordered_segments, 1);
    assert_eq!(told(71), Verdicts { lost_upstream: 1, ..retransmitted(1) });
    assert_eq!(told(70).reordered_segments, 1, "undecided; but well within the round trip");
}

#[test]
fn it_is_the_packet_that_opened_the_hole_that_decides_and_not_the_newest() {
    for forgotten in [0, 6] {
        let mut connection = Connection { timestamp: Some(70), ..Connection::bare() };
        connection.data(0, 1000);
        connection.data(MS, 1200);
        for later in 0..forgotten {
            connection.data(MS, 1400 + later * 200);
        }
        connection.timestamp = Some(75);
        connection.data(5 * MS, 9000);
        connection.data(6 * MS, 1100);
        assert_eq!(connection.counts().retransmitted_segments, 1, "as new as the newest");
    }
}

#[test]
fn copies_that_come_after_a_burst_are_no_retransmissions() {
    let mut connection = Connection::numbered();
    for burst in 0..3 {
        for copied in [false, true] {
            for number in 0..10 {
                let at = 20 + burst * 20 + u64::from(copied) * 10 + u64::from(number);
                let first = 2000 + u32::try_from(burst).unwrap() * 1000;
                let ip_id = 510 + u16::try_from(burst).unwrap() * 10 + number;
                connection.data_with_id(at * MS, first + u32::from(number) * LENGTH, ip_id);
            }
        }
    }
    let counts = connection.counts();
    assert_eq!(counts.retransmitted_segments, 0, "{counts:?}");
    assert!(counts.duplicate_frames >= 3, "{counts:?}");
}

#[test]
fn acknowledgments_that_repeat_while_nothing_is_on_its_way_ask_for_nothing() {
    for is_awaited in [false, true] {
        let mut connection = Connection::numbered();
        connection.acknowledge(20 * MS, if is_awaited { 1900 } else { 2000 });
        for number in 0..5 {
            connection
                .repeat_acknowledgment((21 + number) * MS, if is_awaited { 1900 } else { 2000 });
        }
        if !is_awaited {
            connection.data(900 * MS, 2000);
        }
        connection
            .data(if is_awaited { 60 } else { 990 } * MS, if is_awaited { 1900 } else { 2000 });
        assert_eq!(connection.counts().fast, u64::from(is_awaited));
    }
}

#[test]
fn what_leaves_a_socket_of_this_host_is_no_copy_and_not_late() {
    let mut connection = Connection::numbered();
    connection.data(20 * MS, 2100);
    let last =
        Segment { sequence: 1900, ip_id: 509, payload_len: LENGTH, ..connection.segment(9 * MS) };
    for sequence in [1900, 2000] {
        connection.take(0, Segment { sequence, from_socket: true, ..last });
    }
    let twice = connection.counts();
    assert_eq!((twice.retransmitted_segments, twice.duplicate_frames), (2, 0), "{twice:?}");
    assert_eq!(twice.reordered_segments, 0);
}

#[test]
fn without_numbers_only_what_comes_well_within_the_round_trip_is_reordered() {
    let told = |handshake_ns, at| {
        let mut connection = Connection { handshake_ns, ..Connection::bare() };
        connection.data(0, 1000);
        connection.data(MS, 1200);
        connection.data(2 * MS, 1300);
        connection.data(at, 1100);
        connection.counts()
    };
    let shaken = Some(ROUND_TRIP_MS * MS);
    let filled = Verdicts { lost_upstream: 1, ..retransmitted(1) };
    assert_eq!(told(shaken, 19 * MS).reordered_segments, 1);
    assert_eq!(told(shaken, 22 * MS), Verdicts::default(), "nothing decides");
    assert_eq!(told(shaken, 41 * MS), filled, "since the hole opened, not since the last segment");
    assert_eq!(told(None, 3 * MS), Verdicts::default(), "nothing decides");
    assert_eq!(told(None, 4 * MS), filled);
    assert_eq!(told(shaken, 0), Verdicts::default(), "time went backwards");
}

#[test]
fn identifications_that_do_not_count_up_decide_nothing() {
    for ids in [[9; 10], [7, 900, 3, 20_000, 60_000, 9, 31_000, 2, 50_000, 17_000]] {
        let mut connection = Connection::bare();
        for (number, ip_id) in (0..).zip(ids) {
            connection.data_with_id(u64::from(number) * MS, 1000 + number * LENGTH, ip_id);
        }
        connection.data_with_id(10 * MS, 2100, ids[0]);
        connection.data_with_id(11 * MS, 2000, ids[0] + 1);
        assert_eq!(connection.counts().reordered_segments, 1, "{ids:?}: by time alone");
    }
}

#[test]
fn the_same_packet_again_is_a_copy_wherever_it_was_captured() {
    let mut connection = Connection::numbered();
    connection.data_with_id(12 * MS, 1900, 509);
    connection.data_with_id(11 * MS, 1700, 507);
    // Three times one of its acknowledgments.
    let copied = Segment { acknowledgment: 7, sequence: 2000, ip_id: 510, ..connection.segment(0) };
    for (at, classes) in [(13, 0), (14, DUPLICATE_ACK), (15, DUPLICATE_ACK)] {
        connection.take(0, Segment { now: Ktime(copied.now.0 + at * MS), classes, ..copied });
    }
    let copies = Verdicts { duplicate_frames: 4, ..Verdicts::default() };
    assert_eq!(connection.counts(), copies, "also out of order, and where time goes backwards");
}

#[test]
fn the_same_data_in_another_packet_is_no_copy() {
    let mut connection = Connection::numbered();
    connection.data_with_id(60 * MS, 1900, 510);
    assert_eq!(connection.counts().duplicate_frames, 0, "another identification");
    assert_eq!(connection.counts().retransmitted_segments, 1);

    let mut connection = Connection::numbered();
    connection.data_with_id(600 * MS, 1900, 509);
    assert_eq!(connection.counts().duplicate_frames, 0, "after half a second");

    for ip_id in [0, 9] {
        let mut connection = Connection::bare();
        connection.data_with_id(0, 1000, ip_id);
        connection.data_with_id(MS, 1100, ip_id);
        connection.data_with_id(2 * MS, 1100, ip_id);
        assert_eq!(connection.counts(), Verdicts::default(), "too soon for either");
        connection.data_with_id(60 * MS, 1100, ip_id);
        let again = Verdicts { lost_downstream: 1, ..retransmitted(1) };
        assert_eq!(connection.counts(), again, "no identification, or always the same");
    }
}

#[test]
fn a_fast_retransmission_needs_three_duplicates_or_a_selective_acknowledgment_of_later_data() {
    let told = |duplicates: u64, block: Option<[u32; 2]>| {
        let mut connection = Connection::numbered();
        connection.acknowledge(10 * MS, 1500);
        for number in 0..duplicates {
            connection.repeat_acknowledgment(11 * MS + number, 1500);
        }
        if let Some(block) = block {
            connection.acknowledge_selectively(12 * MS, 1500, block);
        }
        connection.data(30 * MS, 1500);
        connection.counts()
    };
    let again = Verdicts { lost_downstream: 1, ..retransmitted(1) };
    assert_eq!(told(3, None), Verdicts { fast: 1, ..again });
    assert_eq!(told(2, None), again);
    assert_eq!(told(0, Some([1600, 2000])), Verdicts { fast: 1, ..again });
    assert_eq!(told(0, Some([1500, 1600])), again, "that is the segment itself");
}

#[test]
fn a_time_out_doubles() {
    let told = |times: &[u64]| {
        let mut connection = Connection::numbered();
        connection.acknowledge(10 * MS, 1500);
        times.iter().for_each(|at| connection.data(*at * MS, 1500));
        let counts = connection.counts();
        assert_eq!(counts.retransmitted_segments, times.len() as u64);
        assert_eq!(counts.fast + counts.tail_loss_probe, 0);
        counts.rto
    };
    assert_eq!(told(&[250, 730, 1690]), 3, "240, 480 and 960 ms of silence");
    assert_eq!(told(&[250, 490, 730]), 1, "as a program does that sends at an interval");
    assert_eq!(told(&[180]), 0, "less than any timer waits");
}

#[test]
fn a_time_out_is_of_the_first_unacknowledged_segment() {
    let mut connection = Connection::numbered();
    connection.acknowledge(10 * MS, 1500);
    connection.data(300 * MS, 1600);
    assert_eq!(connection.counts().rto, 0);
    // Without a handshake it is not known how long a timer waits.
    for (at, timeouts) in [(300, 0), (1100, 1)] {
        let mut connection = Connection::numbered();
        connection.handshake_ns = None;
        connection.acknowledge(10 * MS, 1500);
        connection.data(at * MS, 1500);
        assert_eq!(connection.counts().rto, timeouts, "{at} ms");
    }
}

#[test]
fn a_syn_is_repeated_at_equal_intervals_first() {
    let mut connection = Connection { handshake_ns: None, ..Connection::bare() };
    for second in 0..4 {
        let base = connection.segment(second * 1000 * MS);
        connection.take(0, Segment { sequence: 999, tcp_flags: SYN, ..base });
    }
    let syns =
        Verdicts { rto: 3, lost_downstream: 3, retransmitted_segments: 3, ..retransmitted(0) };
    assert_eq!(connection.counts(), syns);
}

#[test]
fn a_tail_loss_probe_repeats_the_last_segment_after_two_round_trips() {
    let told = |sequence, at, duplicates: u64| {
        let mut connection = Connection::numbered();
        connection.acknowledge(10 * MS, sequence);
        for number in 0..duplicates {
            connection.repeat_acknowledgment(10 * MS + number, sequence);
        }
        connection.data(at * MS, sequence);
        let counts = connection.counts();
        assert_eq!(counts.retransmitted_segments, 1);
        (counts.tail_loss_probe, counts.rto, counts.fast)
    };
    assert_eq!(told(1900, 92, 0), (1, 0, 0), "82 ms of silence, two round trips are 80");
    assert_eq!(told(1800, 92, 0), (0, 0, 0), "not the last one");
    assert_eq!(told(1900, 60, 0), (0, 0, 0), "too soon");
    assert_eq!(told(1900, 92, 3), (0, 0, 1), "it was asked for");
    assert_eq!(told(1900, 260, 0), (0, 1, 0), "as late as a time-out");

    let mut connection = Connection::numbered();
    connection.acknowledge(10 * MS, 1900);
    connection.data(92 * MS, 1900);
    connection.data(330 * MS, 1900);
    let counts = connection.counts();
    assert_eq!((counts.tail_loss_probe, counts.rto), (1, 1), "the time-out after the probe");
}

#[test]
fn what_had_been_acknowledged_is_sent_again_without_need() {
    let mut connection = Connection::numbered();
    connection.acknowledge(10 * MS, 2000);
    connection.data(60 * MS, 1900);
    assert_eq!(connection.counts(), Verdicts { spurious: 1, ..retransmitted(1) }, "nothing lost");
}

#[test]
fn what_arrived_twice_was_sent_again_without_need() {
    let told = |acknowledgment, blocks: &[[u32; 2]]| {
        let mut connection = Connection::numbered();
        connection.acknowledge(10 * MS, 1500);
        connection.data(300 * MS, 1500);
        for block in blocks {
            connection.acknowledge_selectively(310 * MS, acknowledgment, *block);
        }
        connection.counts()
    };
    let again = Verdicts { rto: 1, lost_downstream: 1, ..retransmitted(1) };
    let spurious = Verdicts { rto: 1, spurious: 1, ..retransmitted(1) };
    assert_eq!(told(2000, &[[1500, 1600]]), spurious, "and not lost");
    assert_eq!(told(2000, &[[1500, 1600]; 3]), spurious, "once, however often it is told");
    assert_eq!(told(1600, &[[1700, 2000]]), again, "no duplicate, but more than was acknowledged");
    assert_eq!(told(2000, &[[1300, 1400]]), again, "of another segment");
}

#[test]
fn a_loss_is_upstream_where_a_hole_is_filled_and_downstream_where_the_bytes_had_passed() {
    let mut connection = Connection::numbered();
    connection.data_with_id(10 * MS, 2100, 511);
    connection.data_with_id(80 * MS, 2000, 512);
    connection.data_with_id(81 * MS, 2100, 513);
    let both = Verdicts { lost_upstream: 1, lost_downstream: 1, ..retransmitted(2) };
    assert_eq!(connection.counts(), both);
    // What was sent before the capture began may have been lost anywhere.
    connection.data_with_id(82 * MS, 900, 514);
    assert_eq!(
        connection.counts(),
        Verdicts { lost_upstream: 1, lost_downstream: 1, ..retransmitted(3) }
    );
}

#[test]
fn segments_and_bytes_of_a_super_packet_are_those_sent_again() {
    let mut connection = Connection::numbered();
    let base = connection.segment(80 * MS);
    let (payload_len, segment_size) = (5 * LENGTH, LENGTH);
    let large = Segment { sequence: 1750, payload_len, segment_size, ip_id: 510, ..base };
    connection.take(0, large);
    let counts = connection.counts();
    assert_eq!((counts.retransmitted_segments, counts.retransmitted_bytes), (3, 250));
}

#[test]
fn keep_alives_resets_and_a_new_connection_are_nothing_that_was_sent_again() {
    let mut connection = Connection::numbered();
    let base = connection.segment(80 * MS);
    connection.take(1, Segment { acknowledgment: 2000, ip_id: 0, ..base });
    let probe = Segment { sequence: 1999, classes: KEEP_ALIVE, ..base };
    connection.take(0, probe);
    connection.take(0, Segment { payload_len: 1, ..probe });
    connection.take(0, Segment { sequence: 1500, payload_len: 9, tcp_flags: RST, ..base });
    let syn = Segment { sequence: 5, tcp_flags: SYN, classes: REUSED_PORTS, ..base };
    connection.take(0, syn);
    connection.take(0, Segment { sequence: 6, payload_len: 10, ..base });
    assert_eq!(connection.counts(), Verdicts::default());
}

#[test]
fn one_byte_that_was_not_acknowledged_is_data_though_it_looks_like_a_keep_alive() {
    let mut connection = Connection::bare();
    connection.acknowledge(0, 1000);
    let byte = Segment { sequence: 1000, payload_len: 1, ..connection.segment(MS) };
    connection.take(0, byte);
    let again = Segment { classes: KEEP_ALIVE, ..byte };
    connection.take(0, Segment { now: Ktime(byte.now.0 + 260 * MS), ..again });
    let counts = connection.counts();
    assert_eq!((counts.retransmitted_bytes, counts.rto, counts.lost_downstream), (1, 1, 1));
}

#[test]
fn a_fin_sent_again_is_a_segment_without_bytes() {
    let mut connection = Connection::numbered();
    let fin = Segment { sequence: 2000, tcp_flags: FIN | ACK, ..connection.segment(11 * MS) };
    connection.take(0, Segment { ip_id: 510, ..fin });
    connection.take(0, Segment { ip_id: 511, now: Ktime(fin.now.0 + 60 * MS), ..fin });
    let counts = connection.counts();
    assert_eq!((counts.retransmitted_segments, counts.retransmitted_bytes), (1, 0));
}

#[test]
fn a_handshake_that_went_back_in_time_is_none() {
    for handshake_ns in [1 << 62, u64::MAX] {
        let mut connection = Connection { handshake_ns: Some(handshake_ns), ..Connection::bare() };
        connection.data(0, 1000);
        connection.data(MS, 1200);
        connection.data(60 * MS, 1100);
        assert_eq!(connection.counts().reordered_segments, 0);
        assert_eq!(connection.counts().retransmitted_segments, 1);
    }
}

#[test]
fn whatever_comes_no_count_exceeds_what_came() {
    // xorshift64*
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u32| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        u32::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40).unwrap() % below
    };
    for _connection in 0..200 {
        let mut verdicts = FlowVerdicts::default();
        let base = random(1 << 24) << 8;
        for number in 1..=500 {
            let mut near = |width| base.wrapping_add(random(width)).wrapping_sub(width / 2);
            let selective = [[near(2000), near(2000)], [near(2000), near(2000)], [0; 2], [0; 2]];
            let segment = Segment {
                sequence: near(4000),
                acknowledgment: near(2000),
                selective,
                now: Ktime(u64::from(random(1 << 24)) << random(41)),
                payload_len: random(1500),
                tcp_flags: random(32),
                window: random(3),
                classes: random(1 << 15),
                ip_id: u16::try_from(random(1 << 16)).unwrap() >> random(16),
                timestamp: (random(2) == 0).then(|| random(9)),
                from_socket: false,
                segment_size: random(3) * 100,
                handshake_ns: (random(2) == 0).then(|| u64::from(random(1 << 24)) << random(41)),
                round_trip_ns: u64::from(random(1 << 24)) << random(41),
            };
            verdicts.segment(random(2), &segment);
            for counts in verdicts.counts() {
                assert!(counts.retransmitted_segments <= number * 15);
                let causes = counts.rto + counts.fast + counts.tail_loss_probe;
                let places = counts.lost_upstream + counts.lost_downstream;
                assert!(causes <= counts.retransmitted_segments, "{counts:?}");
                assert!(places + counts.spurious <= counts.retransmitted_segments, "{counts:?}");
            }
        }
    }
}
