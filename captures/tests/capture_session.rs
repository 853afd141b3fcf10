//! A running capture: limits, counters, statistics, and a sink that fails.
//! Never looks inside: what was captured is read back from the bytes in the sink.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop there")]

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::rc::Rc;

use captures::filter::Instruction;
use captures::format::pcapng::SectionHeader;
use captures::session::{CaptureError, Counters, Loss};
use captures::{
    Capture, CaptureSpec, CapturedPacket, Filter, InterfaceDescription, Limits, LinkType, Offer,
    PacketReader, ReadError, Snaplen, StopReason, Summary,
};
use proptest::prelude::*;

const START_NS: u64 = 1_700_000_000_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Takes `room` bytes, at most `chunk` at a time, then fails with `kind`.
#[derive(Debug)]
struct SmallDisk {
    bytes: Vec<u8>,
    room: usize,
    chunk: usize,
    kind: ErrorKind,
}

impl SmallDisk {
    fn with_room(room: usize) -> Self {
        Self { bytes: Vec::new(), room, chunk: usize::MAX, kind: ErrorKind::StorageFull }
    }
}

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.chunk).min(self.room - self.bytes.len());
        if taken == 0 {
            return Err(self.kind.into());
        }
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spec(limits: Limits) -> CaptureSpec {
    CaptureSpec {
        section: SectionHeader::default(),
        interfaces: vec![InterfaceDescription::new(LinkType::ETHERNET, 0)],
        filters: Vec::new(),
        snaplen: Snaplen::WHOLE,
        limits,
    }
}

fn capture(limits: Limits) -> Capture<Vec<u8>> {
    Capture::start(spec(limits), Vec::new(), START_NS).unwrap()
}

fn packet(data: &[u8]) -> CapturedPacket<'_> {
    CapturedPacket::new(START_NS, data)
}

/// The captured and original lengths of every packet in `file`, which must be undamaged.
fn lengths(file: &[u8]) -> Vec<(u32, u32)> {
    let mut reader = PacketReader::new(file).unwrap();
    let mut lengths = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        lengths.push((read.packet.captured_len(), read.packet.original_len));
    }
    lengths
}

fn balances(counters: &Counters) -> bool {
    counters.matched == counters.written + counters.lost.total()
        && counters.matched <= counters.offered
}

/// `ldb [0]; jeq #k`: the first byte is `first`.
fn first_byte_is(first: u32) -> Filter {
    let program = [(0x30, 0, 0, 0), (0x15, 0, 1, first), (0x06, 0, 0, 1), (0x06, 0, 0, 0)]
        .map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
    Filter::try_new("ether[0] = k", LinkType::ETHERNET, program.to_vec()).unwrap()
}

#[test]
fn packets_are_filtered_whole_and_then_cut() {
    let last_byte = [(0x30, 0, 0, 99), (0x15, 0, 1, 7), (0x06, 0, 0, 1), (0x06, 0, 0, 0)]
        .map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
    let filter = Filter::try_new("ether[99] = 7", LinkType::ETHERNET, last_byte.to_vec()).unwrap();
    let snaplen = Snaplen::try_new(10).unwrap();
    let spec = CaptureSpec { filters: vec![filter], snaplen, ..spec(Limits::default()) };
    let mut capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    assert_eq!(capture.offer(&packet(&[7; 100])), Offer::Written);
    assert_eq!(capture.offer(&packet(&[6; 100])), Offer::NotMatched);
    assert_eq!(capture.offer(&packet(&[7; 99])), Offer::NotMatched);
    let (summary, file) = capture.finish(StopReason::UserRequest, START_NS);
    assert_eq!((summary.counters.offered, summary.counters.matched), (3, 1));
    assert_eq!(lengths(&file), [(10, 100)]);
}

#[test]
fn the_file_names_snaplen_and_filter_of_the_capture() {
    let filter = Some(first_byte_is(1));
    let snaplen = Snaplen::try_new(96).unwrap();
    let spec =
        CaptureSpec { filters: filter.into_iter().collect(), snaplen, ..spec(Limits::default()) };
    let capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    let (_, file) = capture.finish(StopReason::UserRequest, START_NS);
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    assert!(reader.next_packet().unwrap().is_none());
    let interface = &reader.interfaces()[0];
    assert_eq!((interface.snaplen, interface.filter.as_deref()), (96, Some("ether[0] = k")));
}

#[test]
fn the_packet_limit_is_reached_with_its_last_packet() {
    let mut capture = capture(Limits { packets: Some(2), ..Limits::default() });
    assert_eq!(capture.offer(&packet(b"one")), Offer::Written);
    assert_eq!(capture.stopped(), None);
    assert_eq!(capture.offer(&packet(b"two")), Offer::Written);
    assert_eq!(capture.stopped(), Some(StopReason::PacketLimit));
    assert_eq!(capture.offer(&packet(b"three")), Offer::Ended(StopReason::PacketLimit));
    let (summary, file) = capture.finish(StopReason::UserRequest, START_NS);
    assert_eq!(summary.reason, StopReason::PacketLimit);
    assert_eq!(summary.counters.offered, 2);
    assert_eq!(lengths(&file).len(), 2);
}

#[test]
fn a_packet_limit_of_zero_takes_nothing() {
    let mut capture = capture(Limits { packets: Some(0), ..Limits::default() });
    assert_eq!(capture.offer(&packet(b"one")), Offer::Ended(StopReason::PacketLimit));
}

#[test]
fn the_file_with_its_final_statistics_stays_within_the_byte_limit() {
    let (_, empty) = capture(Limits::default()).finish(StopReason::UserRequest, START_NS);
    let needed = empty.len() as u64 + 16; // received and dropped are not known here
    let too_few = spec(Limits { bytes: Some(needed), ..Limits::default() });
    let error = Capture::start(too_few, Vec::new(), START_NS).unwrap_err();
    assert!(matches!(error, CaptureError::BytesTooFew { .. }), "{error}");

    let limit = 2000;
    let mut capture = capture(Limits { bytes: Some(limit), ..Limits::default() });
    capture.note_interface(0, 1, 2);
    let mut written = 0;
    while capture.offer(&packet(&[0; 100])) == Offer::Written {
        written += 1;
        capture.heartbeat(START_NS);
    }
    assert_eq!(capture.stopped(), Some(StopReason::ByteLimit));
    let (summary, file) = capture.finish(StopReason::UserRequest, START_NS);
    assert!(file.len() as u64 <= limit, "{}", file.len());
    assert_eq!(summary.counters.bytes, file.len() as u64);
    assert_eq!((summary.counters.offered, summary.counters.written), (written, written));
    assert_eq!(lengths(&file).len() as u64, written);
}

#[test]
fn the_duration_ends_by_a_packets_time_or_by_a_heartbeat() {
    let limits = Limits { duration_ns: Some(SECOND_NS), ..Limits::default() };
    let mut by_packet = capture(limits);
    let late = CapturedPacket::new(START_NS + SECOND_NS, b"late");
    assert_eq!(
        by_packet.offer(&CapturedPacket { time_ns: START_NS + SECOND_NS - 1, ..late.clone() }),
        Offer::Written
    );
    assert_eq!(by_packet.offer(&late), Offer::Ended(StopReason::DurationLimit));

    let mut by_heartbeat = capture(limits);
    by_heartbeat.heartbeat(START_NS + SECOND_NS - 1);
    assert_eq!(by_heartbeat.stopped(), None);
    by_heartbeat.heartbeat(START_NS + SECOND_NS);
    assert_eq!(by_heartbeat.stopped(), Some(StopReason::DurationLimit));
}

#[test]
fn packets_of_an_interface_that_the_capture_lacks_do_not_match() {
    let mut capture = capture(Limits::default());
    let stray = CapturedPacket { interface: 1, ..packet(b"stray") };
    assert_eq!(capture.offer(&stray), Offer::NotMatched);
}

#[test]
fn losses_on_the_way_are_matched_and_lost() {
    let mut capture = capture(Limits::default());
    capture.offer(&packet(b"one"));
    capture.lose(Some(0), Loss::Ring, 3);
    capture.lose(None, Loss::Budget, 2);
    let counters = capture.counters();
    assert_eq!((counters.offered, counters.matched, counters.written), (6, 6, 1));
    assert_eq!((counters.lost.ring, counters.lost.budget), (3, 2));
    assert!(balances(&counters));
}

#[test]
fn the_statistics_in_the_file_add_up_to_the_counters() {
    let mut spec = spec(Limits::default());
    spec.interfaces.push(InterfaceDescription::new(LinkType::ETHERNET, 0));
    let mut capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    capture.offer(&packet(b"one"));
    capture.lose(Some(1), Loss::Ring, 3);
    capture.lose(None, Loss::Ring, 5);
    let (summary, file) = capture.finish(StopReason::UserRequest, START_NS);
    assert_eq!((summary.counters.matched, summary.counters.lost.ring), (9, 8));
    // The two statistics blocks at the end: fixed part of 20 bytes, times of 12 each, then three numbers of 12 each.
    let of = |interface: usize, number: usize| {
        let at = file.len() - (2 - interface) * 88 + 20 + 2 * 12 + number * 12 + 4;
        u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
    };
    let [accepted, dropped, delivered] = [0, 1, 2].map(|number| of(0, number) + of(1, number));
    assert_eq!((accepted, dropped, delivered), (9, 8, 1));
}

#[test]
fn filters_must_be_for_the_link_type_of_every_interface() {
    let mut spec = spec(Limits::default());
    spec.filters = vec![first_byte_is(1)];
    spec.interfaces.push(InterfaceDescription::new(LinkType::RAW, 0));
    let error = Capture::start(spec, Vec::new(), START_NS).unwrap_err();
    assert!(matches!(error, CaptureError::LinkType { link_type: LinkType::RAW, .. }), "{error}");
}

#[test]
fn captures_need_an_interface() {
    let spec = CaptureSpec { interfaces: Vec::new(), ..spec(Limits::default()) };
    let error = Capture::start(spec, Vec::new(), START_NS).unwrap_err();
    assert!(matches!(error, CaptureError::Interfaces { interfaces: 0 }), "{error}");
}

#[test]
fn a_sink_that_refuses_the_header_is_no_capture() {
    let error = Capture::start(spec(Limits::default()), SmallDisk::with_room(10), START_NS);
    assert!(matches!(error.unwrap_err(), CaptureError::Write(_)));
}

/// A sink that its reader sees into.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_live_reader_sees_packets_and_statistics_at_each_heartbeat() {
    let pipe = Pipe::default();
    let mut capture = Capture::start(spec(Limits::default()), pipe.clone(), START_NS).unwrap();
    let header = pipe.0.borrow().len();
    capture.note_interface(0, 10, 1);
    capture.offer(&packet(b"one"));
    assert_eq!(pipe.0.borrow().len(), header);
    capture.heartbeat(START_NS + 1);
    assert_eq!(lengths(&pipe.0.borrow()), [(3, 3)]);
    let packet_len = 32 + 4;
    let statistics_len = 100;
    assert_eq!(pipe.0.borrow().len(), header + packet_len + statistics_len);
    capture.finish(StopReason::UserRequest, START_NS + 2);
    // The final ones have the end of the capture, too: this is what the byte limit keeps free.
    let final_len = 112;
    assert_eq!(pipe.0.borrow().len(), header + packet_len + statistics_len + final_len);
}

#[test]
fn other_write_errors_end_the_capture_as_write_failed() {
    let disk = SmallDisk { kind: ErrorKind::PermissionDenied, ..SmallDisk::with_room(200) };
    let mut capture = Capture::start(spec(Limits::default()), disk, START_NS).unwrap();
    capture.offer(&packet(&[0; 300]));
    capture.flush();
    assert_eq!(capture.stopped(), Some(StopReason::WriteFailed));
    let (summary, _) = capture.finish(StopReason::UserRequest, START_NS);
    assert_eq!(summary.error.unwrap().kind(), ErrorKind::PermissionDenied);
}

/// Captures `packets` packets of different lengths into `disk`.
fn fill(disk: SmallDisk, packets: usize) -> (Summary, SmallDisk) {
    let mut capture = Capture::start(spec(Limits::default()), disk, START_NS).unwrap();
    for index in 0..packets {
        let offer = capture.offer(&packet(&vec![7; index * 37 % 1500]));
        assert!(balances(&capture.counters()));
        if offer != Offer::Written {
            break;
        }
        if index % 50 == 49 {
            capture.heartbeat(START_NS);
        }
    }
    capture.finish(StopReason::UserRequest, START_NS)
}

proptest! {
    #[test]
    fn a_full_disk_leaves_whole_blocks_and_loses_no_count(
        room in 100_usize..200_000,
        chunk in prop_oneof![Just(usize::MAX), 1_usize..5000],
    ) {
        let (summary, disk) = fill(SmallDisk { chunk, ..SmallDisk::with_room(room) }, 300);
        prop_assert!(balances(&summary.counters));
        let whole = usize::try_from(summary.whole_bytes).unwrap();
        prop_assert!(whole <= disk.bytes.len());
        let packets = lengths(&disk.bytes[..whole]).len() as u64;
        prop_assert_eq!(packets, summary.counters.written);
        if summary.reason == StopReason::DiskFull {
            // The next block does not fit: what is behind the cut is part of it.
            let behind = PacketReader::new(&disk.bytes[..]).map(|mut reader| loop {
                match reader.next_packet() {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            });
            let cut = matches!(behind, Ok(Some(ReadError::Damaged { .. })));
            prop_assert_eq!(cut, disk.bytes.len() > whole);
        } else {
            prop_assert_eq!(summary.reason, StopReason::UserRequest);
            prop_assert_eq!(whole, disk.bytes.len());
        }
    }
}
