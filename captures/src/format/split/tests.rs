//! What files a divided capture comes to. Never compares with the splitter's own idea of them: the reader's and the
//! stream's count.

use proptest::collection::vec;
use proptest::{option, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::session::Loss;
use crate::{
    Capture, CaptureSpec, CapturedPacket, InterfaceDescription, Limits, LinkType, PacketReader,
    Snaplen, StopReason,
};

const SECOND: u64 = 1_000_000_000;
const START_NS: u64 = 1_700_000_000 * SECOND + 5;

#[derive(Debug, Default)]
struct Memory(Vec<(u64, Vec<u8>)>);

impl Files for Memory {
    fn begin(&mut self, start_ns: u64) -> io::Result<()> {
        self.0.push((start_ns, Vec::new()));
        Ok(())
    }

    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        self.0.last_mut().unwrap().1.extend_from_slice(blocks);
        Ok(())
    }
}

/// A capture with packets at these times, on two interfaces in turn, one lost packet before each and statistics behind.
fn capture(times: &[u64]) -> Vec<u8> {
    let interface = InterfaceDescription::new(LinkType::ETHERNET, 0);
    let spec = CaptureSpec {
        section: pcapng::SectionHeader::default(),
        interfaces: vec![interface.clone(), interface.clone()],
        filters: Vec::new(),
        snaplen: Snaplen::WHOLE,
        limits: Limits::default(),
    };
    let mut capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    for (number, time) in (0_u32..).zip(times) {
        let data = number.to_le_bytes();
        capture.lose(Some(number % 2), Loss::Ring, 1);
        capture.note_interface(0, u64::from(number) * 10, 0);
        capture.offer(&CapturedPacket {
            interface: number % 2,
            ..CapturedPacket::new(START_NS + time, &data)
        });
        capture.heartbeat(START_NS + time);
    }
    let end_ns = START_NS + times.iter().max().unwrap() + 1;
    capture.finish(StopReason::UserRequest, end_ns).1
}

fn split(stream: &[u8], piece: usize, files_max: Option<u64>) -> Vec<(u64, Vec<u8>)> {
    let spans = Spans {
        start_ns: START_NS,
        length_ns: NonZeroU64::new(2 * SECOND).unwrap(),
        files_max: files_max.and_then(NonZeroU64::new),
    };
    let mut files = Memory(vec![(START_NS, Vec::new())]);
    let mut splitter = Splitter::new(spans);
    for piece in stream.chunks(piece) {
        splitter.push(piece, &mut files).unwrap();
    }
    splitter.finish().unwrap();
    assert_eq!(splitter.files(), files.0.len() as u64);
    files.0
}

/// The numbers of the packets in a file.
fn numbers(file: &[u8]) -> Vec<u8> {
    let mut reader = PacketReader::new(file).unwrap();
    let mut numbers = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        numbers.push(read.packet.data[0]);
    }
    assert_eq!(reader.interfaces().len(), 2);
    numbers
}

/// The last statistics of each interface in a file.
fn ends(file: &[u8]) -> [InterfaceStatistics; 2] {
    let mut blocks = Blocks::default();
    blocks.push(file);
    let mut last = [InterfaceStatistics::default(); 2];
    while let Some(block) = blocks.next_block().unwrap() {
        if let Content::Statistics(statistics) = block.content {
            last[statistics.interface as usize] = statistics;
        }
    }
    last
}

#[test]
fn every_packet_is_in_one_file_by_its_span() {
    let times = [0, 1, 2 * SECOND - 1, 2 * SECOND, 3 * SECOND, 8 * SECOND, 9 * SECOND];
    let stream = capture(&times);
    for piece in [1, 100, stream.len()] {
        let files = split(&stream, piece, None);
        let seconds: Vec<_> = files.iter().map(|(start, _)| (start - START_NS) / SECOND).collect();
        assert_eq!(seconds, [0, 2, 8], "a span without packets has no file");
        let packets: Vec<_> = files.iter().map(|(_, file)| numbers(file)).collect();
        assert_eq!(packets, [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
    }
}

#[test]
fn a_packet_that_comes_late_is_in_the_file_that_was_begun() {
    let files = split(&capture(&[0, 2 * SECOND, 1, 3 * SECOND]), 64, None);
    let packets: Vec<_> = files.iter().map(|(_, file)| numbers(file)).collect();
    assert_eq!(packets, [vec![0], vec![1, 2, 3]]);
}

#[test]
fn statistics_of_the_files_add_up_to_those_of_the_capture() {
    let stream = capture(&[0, SECOND, 2 * SECOND, 5 * SECOND, 6 * SECOND]);
    let files = split(&stream, 64, None);
    assert_eq!(files.len(), 4);
    let whole = ends(&stream);
    for interface in 0..2 {
        let of = |field: fn(&InterfaceStatistics) -> Option<u64>| {
            let each = files.iter().map(|(_, file)| field(&ends(file)[interface]).unwrap_or(0));
            (each.sum::<u64>(), field(&whole[interface]).unwrap_or(0))
        };
        for (sum, whole) in [
            of(|statistics| statistics.delivered),
            of(|statistics| statistics.os_dropped),
            of(|statistics| statistics.filter_accepted),
            of(|statistics| statistics.received),
        ] {
            assert_eq!(sum, whole, "interface {interface}");
        }
    }
    for (start_ns, file) in &files {
        for end in ends(file) {
            assert_eq!(end.start_ns, Some(*start_ns));
            assert!(end.end_ns.unwrap() > *start_ns, "the last ones are final: {end:?}");
            assert_eq!(
                end.filter_accepted.unwrap(),
                end.delivered.unwrap() + end.os_dropped.unwrap()
            );
        }
    }
}

#[test]
fn the_last_file_that_may_be_takes_the_rest() {
    let files = split(&capture(&[0, 2 * SECOND, 4 * SECOND, 6 * SECOND]), 64, Some(2));
    let packets: Vec<_> = files.iter().map(|(_, file)| numbers(file)).collect();
    assert_eq!(packets, [vec![0], vec![1, 2, 3]]);
}

#[test]
fn an_interface_that_comes_later_is_described_in_every_file_from_there_on() {
    let interface = InterfaceDescription::new(LinkType::ETHERNET, 0);
    let spec = CaptureSpec {
        section: pcapng::SectionHeader::default(),
        interfaces: vec![interface.clone()],
        filters: Vec::new(),
        snaplen: Snaplen::WHOLE,
        limits: Limits::default(),
    };
    let mut capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    let offer = |capture: &mut Capture<Vec<u8>>, interface, seconds| {
        let time_ns = START_NS + seconds * SECOND;
        capture.offer(&CapturedPacket { interface, ..CapturedPacket::new(time_ns, b"a") });
    };
    offer(&mut capture, 0, 0);
    offer(&mut capture, 0, 2);
    assert_eq!(capture.add_interface(interface), Some(1));
    offer(&mut capture, 1, 3);
    offer(&mut capture, 1, 4);
    let stream = capture.finish(StopReason::UserRequest, START_NS + 5 * SECOND).1;
    let described = split(&stream, 64, None).into_iter().map(|(_, file)| {
        let mut reader = PacketReader::new(file.as_slice()).unwrap();
        while reader.next_packet().unwrap().is_some() {}
        (reader.interfaces().len(), reader.packets_read())
    });
    assert_eq!(described.collect::<Vec<_>>(), [(1, 1), (2, 2), (2, 1)]);
}

proptest! {
    #[test]
    fn however_packets_come_and_bytes_are_cut_none_is_lost_or_doubled(
        milliseconds in vec(0_u64..20_000, 1..60),
        piece in 1_usize..3_000,
        files_max in option::of(1_u64..6),
    ) {
        let times: Vec<_> = milliseconds.iter().map(|time| time * 1_000_000).collect();
        let stream = capture(&times);
        let files = split(&stream, piece, files_max);
        let packets: Vec<_> = files.iter().flat_map(|(_, file)| numbers(file)).collect();
        let count = u8::try_from(times.len()).unwrap();
        prop_assert_eq!(packets, (0..count).collect::<Vec<_>>());
        prop_assert!(files_max.is_none_or(|most| files.len() as u64 <= most));
        prop_assert!(files.is_sorted_by(|(one, _), (next, _)| one < next));
        let delivered = |file: &[u8]| ends(file).iter().filter_map(|end| end.delivered).sum::<u64>();
        let all: u64 = files.iter().map(|(_, file)| delivered(file)).sum();
        prop_assert_eq!(all, times.len() as u64);
    }
}

#[test]
fn a_capture_of_one_span_is_left_as_it_is() {
    let stream = capture(&[0, 1, SECOND]);
    let files = split(&stream, 64, None);
    assert_eq!(files, [(START_NS, stream)]);
}
