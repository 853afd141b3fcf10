//! Files that are unusual, old or damaged, and what is read of each.
//! Never takes the encoder's word: every file is built by hand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop there")]

#[path = "support/build.rs"]
mod build;

use build::Order::{self, Big, Little};
use captures::format::read::{Damage, NotACapture};
use captures::{CapturedPacket, LinkType, PacketReader, ReadError};
use proptest::collection::vec;
use proptest::prelude::*;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const PATCHED: u32 = 0xa1b2_cd34;

/// Ticks of a microsecond interface, and the same time in nanoseconds.
const TICKS: u64 = 1_700_000_000_000_001;
const TIME_NS: u64 = TICKS * 1000;

fn data() -> Vec<u8> {
    (0..60).collect()
}

/// Every packet, then the error if there is one.
fn read(file: &[u8]) -> (Vec<CapturedPacket<'static>>, Option<ReadError>) {
    let mut packets = Vec::new();
    let mut reader = match PacketReader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    loop {
        match reader.next_packet() {
            Ok(Some(read)) => packets.push(read.packet.into_owned()),
            Ok(None) => return (packets, None),
            Err(error) => {
                assert!(reader.next_packet().unwrap().is_none(), "damage is an error once");
                return (packets, Some(error));
            }
        }
    }
}

/// The packets of a file without damage.
fn sound(file: &[u8]) -> Vec<CapturedPacket<'static>> {
    let (packets, error) = read(file);
    assert!(error.is_none(), "{error:?}");
    packets
}

/// How many packets precede the damage, and what it is.
fn damage(file: &[u8]) -> (usize, Damage) {
    let (packets, error) = read(file);
    match error {
        Some(ReadError::Damaged { packets_read, what, .. }) => {
            assert_eq!(packets_read, packets.len() as u64);
            (packets.len(), what)
        }
        other => panic!("{other:?}"),
    }
}

fn classic(order: Order, magic: u32) -> Vec<u8> {
    order.classic(magic, (2, 4), 65_535, 1)
}

fn record(order: Order) -> Vec<u8> {
    order.record((1, 2), (60, 60), &data())
}

/// A section with one Ethernet interface that counts microseconds.
fn section(order: Order) -> Vec<u8> {
    [order.section((1, 0)), order.interface(1, 0, &[])].concat()
}

#[test]
fn classic_files_are_read_in_both_byte_orders_and_resolutions() {
    for order in [Little, Big] {
        for (magic, time_ns) in [(MICROSECONDS, 1_000_002_000), (NANOSECONDS, 1_000_000_002)] {
            let packets = sound(&[classic(order, magic), record(order)].concat());
            assert_eq!(packets, [CapturedPacket::new(time_ns, &data())]);
        }
    }
}

#[test]
fn patched_record_headers_are_recognised_by_their_contents() {
    let data = data();
    for order in [Little, Big] {
        // Interface index, protocol, packet type, padding; SuSE's has five bytes more.
        let patch = [&order.u32(3)[..], &order.u16(0x800), &[4, 0]].concat();
        let longer = [&patch[..], &[0, 0, 0, 0]].concat();
        for (magic, patch) in [(PATCHED, &patch), (PATCHED, &longer), (MICROSECONDS, &patch)] {
            let mut file = classic(order, magic);
            for _ in 0..4 {
                file.extend(order.record((1, 2), (60, 60), &[patch, &data[..]].concat()));
            }
            let expected = CapturedPacket::new(1_000_002_000, &data);
            assert_eq!(sound(&file), vec![expected; 4], "{order:?} {magic:#x} {}", patch.len());
        }
    }
}

#[test]
fn lengths_are_in_the_order_of_the_files_version() {
    for (version, lengths) in [
        ((2, 2), (100, 60)),
        ((2, 3), (100, 60)),
        ((2, 3), (60, 100)),
        ((2, 4), (60, 100)),
        ((3, 0), (60, 100)),
        ((543, 0), (100, 60)),
    ] {
        let header = Little.classic(MICROSECONDS, version, 65_535, 1);
        let packets = sound(&[header, Little.record((1, 2), lengths, &data())].concat());
        assert_eq!((packets[0].captured_len(), packets[0].original_len), (60, 100), "{version:?}");
    }
}

#[test]
fn the_link_field_loses_its_fcs_bits_and_may_have_no_reserved_ones() {
    let with_fcs = Little.classic(MICROSECONDS, (2, 4), 65_535, 0x2400_0001);
    let file = [with_fcs, record(Little)].concat();
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    assert_eq!(reader.next_packet().unwrap().unwrap().link_type, LinkType::ETHERNET);
    let reserved = Little.classic(MICROSECONDS, (2, 4), 65_535, 0x0001_0001);
    assert_eq!(damage(&reserved), (0, Damage::LinkTypeReserved(0x0001_0001)));
}

#[test]
fn packets_may_be_longer_than_the_snaplen_and_than_they_were() {
    let header = Little.classic(MICROSECONDS, (2, 4), 20, 1);
    let packets = sound(&[header, Little.record((1, 2), (60, 10), &data())].concat());
    assert_eq!((packets[0].captured_len(), packets[0].original_len), (60, 10));
    let body = Little.packet_body(0, TICKS, 10, &data(), &[]);
    let packets = sound(&[section(Little), Little.block(6, &body)].concat());
    assert_eq!((packets[0].captured_len(), packets[0].original_len), (60, 10));
}

#[test]
fn a_fraction_of_more_than_a_second_is_carried() {
    let late = Little.record((1, 1_500_000), (60, 60), &data());
    let packets = sound(&[classic(Little, MICROSECONDS), record(Little), late].concat());
    assert_eq!(packets[1].time_ns, 2_500_000_000);
}

#[test]
fn damaged_classic_files_give_what_precedes_the_damage() {
    let good = [classic(Little, MICROSECONDS), record(Little), record(Little)].concat();
    assert_eq!(damage(&good[..good.len() - 1]), (1, Damage::CutShort { missing: 1 }));
    assert_eq!(damage(&[&good[..], &[0; 5]].concat()), (2, Damage::CutShort { missing: 11 }));
    assert_eq!(damage(&good[..20]), (0, Damage::CutShort { missing: 4 }));
    let long = Little.record((1, 2), (262_145, 262_145), &[0; 262_145]);
    let too_long = Damage::PacketTooLong { captured_len: 262_145, max: 262_144 };
    assert_eq!(damage(&[&good[..], &record(Little), &long].concat()), (3, too_long));
    let old = Little.classic(MICROSECONDS, (1, 4), 65_535, 1);
    assert_eq!(damage(&old), (0, Damage::Version { major: 1, minor: 4 }));
}

#[test]
fn the_place_of_damage_is_where_its_record_begins() {
    let good = [classic(Little, MICROSECONDS), record(Little)].concat();
    let (_, error) = read(&[&good[..], &record(Little)[..70]].concat());
    let Some(ReadError::Damaged { offset, .. }) = error else { panic!("{error:?}") };
    assert_eq!(offset, good.len() as u64);
}

#[test]
fn what_is_no_capture_is_another_error_and_says_what_it_is() {
    for (bytes, expected) in [
        (&b""[..], NotACapture::Empty),
        (b"\x1f\x8b\x08\0", NotACapture::Compressed("gunzip")),
        (b"\x28\xb5\x2f\xfd", NotACapture::Compressed("unzstd")),
        (b"hello", NotACapture::Unknown(*b"hell")),
        (b"ab", NotACapture::Unknown(*b"ab\0\0")),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0abcd", NotACapture::Unknown(*b"\x0a\x0d\x0d\x0a")),
    ] {
        let (_, error) = read(bytes);
        let Some(ReadError::NotACapture(what)) = error else { panic!("{error:?}") };
        assert_eq!(what, expected);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = PacketReader::open("/no/such/file.pcap".as_ref()).unwrap_err();
    assert!(error.to_string().contains("`/no/such/file.pcap`"), "{error}");
}

#[test]
fn sections_of_both_byte_orders_follow_each_other() {
    let named = |order: Order, name: &[u8]| order.interface(1, 0, &order.option(2, name));
    let file = [
        Big.section((1, 0)),
        named(Big, b"a"),
        Big.packet(TICKS, b"1"),
        Little.section((1, 2)),
        named(Little, b"b"),
        named(Little, b"c"),
        Little.block(6, &Little.packet_body(1, TICKS, 1, b"2", &[])),
        Little.packet(TICKS, b"3"),
    ]
    .concat();
    let packets = sound(&file);
    let interfaces: Vec<u32> = packets.iter().map(|packet| packet.interface).collect();
    assert_eq!(interfaces, [0, 2, 1]);
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    while reader.next_packet().unwrap().is_some() {}
    let names: Vec<_> = reader.interfaces().iter().map(|known| known.name.as_deref()).collect();
    assert_eq!(names, [Some("a"), Some("b"), Some("c")]);
}

#[test]
fn simple_packets_have_the_first_interface_its_snaplen_and_the_previous_time() {
    for order in [Little, Big] {
        let file = [
            order.section((1, 0)),
            order.interface(101, 40, &[]),
            order.simple_packet(30, &data()[..30]),
            order.packet(TICKS, &data()[..50]),
            order.simple_packet(60, &data()[..40]),
        ]
        .concat();
        let seen: Vec<_> = sound(&file)
            .iter()
            .map(|packet| (packet.time_ns, packet.original_len, packet.captured_len()))
            .collect();
        assert_eq!(seen, [(0, 30, 30), (TIME_NS, 50, 50), (TIME_NS, 60, 40)]);
    }
}

#[test]
fn obsolete_packet_blocks_are_packets() {
    for order in [Little, Big] {
        let mut body = order.packet_body(0, TICKS, 60, &data(), &order.option(2, &order.u32(2)));
        body[..2].copy_from_slice(&order.u16(0));
        body[2..4].copy_from_slice(&order.u16(5));
        let counted = order.block(2, &body);
        body[2..4].copy_from_slice(&order.u16(0xffff));
        let packets = sound(&[section(order), counted, order.block(2, &body)].concat());
        assert_eq!((packets[0].time_ns, packets[0].drop_count), (TIME_NS, Some(5)));
        assert_eq!(packets[0].direction, Some(captures::Direction::Outbound));
        assert_eq!(packets[1].drop_count, None);
    }
}

#[test]
fn times_are_counted_in_the_interfaces_unit_from_its_offset() {
    let options =
        |order: Order| [order.option(9, &[0x80 | 10]), order.option(14, &order.u64(1000))].concat();
    for order in [Little, Big] {
        let interface = order.interface(1, 0, &options(order));
        let file = [order.section((1, 0)), interface, order.packet(3 << 9, b"x")].concat();
        assert_eq!(sound(&file)[0].time_ns, 1_001_500_000_000);
    }
}

#[test]
fn picoseconds_and_reserved_fields_and_bad_text_do_not_stop_reading() {
    let options = [Little.option(9, &[12]), Little.option(2, b"\xff\xfe")].concat();
    let mut interface = Little.interface(1, 0, &options);
    interface[10] = 7;
    let packet =
        Little.packet_body(0, 1_700_000_999_999_999_999, 1, b"x", &Little.option(1, b"\xff"));
    let packets = sound(&[Little.section((1, 0)), interface, Little.block(6, &packet)].concat());
    assert_eq!(packets[0].time_ns, 1_700_000_999_999_999);
    assert_eq!(packets[0].comments, ["\u{fffd}"]);
}

#[test]
fn other_blocks_are_stepped_over() {
    let others = [
        Little.block(0x99, &[1; 40_000]),
        Little.block(0x8000_0001, b"local"),
        Little.block(4, &[0; 4]),
        Little.block(5, &[0; 12]),
        Little.block(9, b"__REALTIME_TIMESTAMP=1700000000000000\n"),
        Little.block(10, &[0; 8]),
        Little.block(0xbad, &[0; 4]),
    ]
    .concat();
    let file = [section(Little), others, Little.packet(TICKS, b"x")].concat();
    assert_eq!(sound(&file).len(), 1);
}

#[test]
fn damaged_sections_give_what_precedes_the_damage() {
    let good = [section(Little), Little.packet(TICKS, &data())].concat();
    let behind = |block: &[u8]| damage(&[&good[..], block].concat());
    let too_short = |block_type, len| Damage::BlockTooShort { block_type, len };

    let (_, missing) = behind(&Little.packet(TICKS, &data())[..50]);
    assert_eq!(missing, Damage::CutShort { missing: 42 });
    assert_eq!(behind(&[6, 0, 0, 0, 92]), (1, Damage::CutShort { missing: 7 }));
    let stranger = Little.block(6, &Little.packet_body(1, 0, 0, b"", &[]));
    assert_eq!(behind(&stranger), (1, Damage::Interface { interface: 1, known: 1 }));
    let tail = Little.block_with_lengths(6, &Little.packet_body(0, 0, 0, b"", &[]), 32, 36);
    assert_eq!(behind(&tail), (1, Damage::BlockLengths { first: 32, second: 36 }));
    let mut overlong = Little.packet_body(0, 0, 0, b"", &[]);
    overlong[12] = 1;
    assert_eq!(behind(&Little.block(6, &overlong)), (1, too_short(6, 32)));
    assert_eq!(behind(&Little.block(6, &[0; 16])), (1, too_short(6, 28)));
    assert_eq!(behind(&Little.block_with_lengths(0x99, b"", 8, 8)), (1, too_short(0x99, 8)));
    let flags = Little.packet_body(0, 0, 0, b"", &Little.option(2, b"12345"));
    assert_eq!(behind(&Little.block(6, &flags)), (1, Damage::OptionLength { code: 2, len: 5 }));
    assert_eq!(behind(&Little.section((3, 0))), (1, Damage::Version { major: 3, minor: 0 }));
    let simple = Damage::SimplePacketLength { captured_len: 8, more: 4 };
    assert_eq!(behind(&Little.simple_packet(8, &[0; 12])), (1, simple));
    let names = Little.block(4, b"\x01\0\x30\0abcd");
    assert_eq!(behind(&names), (1, Damage::ContentsOverrun { block_type: 4 }));
    assert_eq!(behind(&Little.block(10, &[0xff; 8])), (1, too_short(10, 20)));
}

#[test]
fn an_interface_too_many_is_damage() {
    let mut file = Little.section((1, 0));
    for _ in 0..=captures::format::read::INTERFACES_MAX {
        file.extend(Little.interface(1, 0, &[]));
    }
    assert_eq!(damage(&file), (0, Damage::TooManyInterfaces));
}

/// A file with most kinds of block, to break.
fn to_break(order: Order) -> Vec<u8> {
    let options =
        [order.option(1, b"why"), order.option(2, &order.u32(1)), order.option(5, &order.u64(9))];
    let noted = order.packet_body(0, TICKS, 60, &data(), &options.concat());
    [
        order.section((1, 0)),
        order.interface(1, 40, &[order.option(2, b"eth0"), order.option(9, &[9])].concat()),
        order.block(6, &noted),
        order.simple_packet(60, &data()[..40]),
        order.block(4, &[0; 4]),
        order.block(5, &[0; 12]),
        order.packet(TICKS, &data()),
    ]
    .concat()
}

proptest! {
    #[test]
    fn any_bytes_end_in_packets_or_one_error(bytes in vec(any::<u8>(), 0..400), kind in 0..5_usize) {
        let start = [
            Vec::new(),
            classic(Little, MICROSECONDS),
            classic(Big, PATCHED),
            section(Little),
            section(Big),
        ][kind].clone();
        let (packets, _) = read(&[start, bytes].concat());
        prop_assert!(packets.len() <= 400 / 12);
    }

    #[test]
    fn broken_files_end_in_packets_or_one_error(
        big in any::<bool>(),
        breaks in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = to_break(if big { Big } else { Little });
        for (at, byte) in breaks {
            *at.get_mut(&mut file) = byte;
        }
        file.truncate(cut.index(file.len() + 1));
        let (packets, _) = read(&file);
        prop_assert!(packets.len() <= 3);
    }
}
