//! What the encoder writes, read by `pcap-file` and by our own reader.
//! Never compares with what the encoder itself thinks it wrote.

use std::borrow::Cow;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::{LinkType, PacketReader};

/// Every block of `file`, as `pcap-file` has it.
fn blocks(file: &[u8]) -> Vec<Block<'static>> {
    let reader = PcapNgReader::new(file).unwrap();
    let section = Block::SectionHeader(reader.section().clone());
    let rest = reader.into_iter().map(Result::unwrap);
    [section].into_iter().chain(rest).collect()
}

fn file(interfaces: u32, packets: &[CapturedPacket<'_>]) -> Vec<u8> {
    let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
    for number in 0..interfaces {
        let mut interface = InterfaceDescription::new(LinkType::ETHERNET, 96);
        interface.name = Some(format!("eth{number}"));
        writer.interface(&interface).unwrap();
    }
    for packet in packets {
        writer.packet(packet).unwrap();
    }
    assert_eq!(writer.whole_bytes(), writer.sink.len() as u64);
    writer.into_inner()
}

const INTERFACES: u32 = 3;

prop_compose! {
    fn packets()(
        (time_ns, data, cut) in (any::<u64>(), vec(any::<u8>(), 0..200), 0_u32..2000),
        (interface, direction) in (
            0..INTERFACES,
            option::of(prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)]),
        ),
        (packet_id, queue, drop_count) in (any::<Option<u64>>(), any::<Option<u32>>(), any::<Option<u64>>()),
        comments in vec("[^\\p{Cc}]{0,20}", 0..4),
    ) -> CapturedPacket<'static> {
        CapturedPacket {
            time_ns,
            original_len: u32::try_from(data.len()).unwrap() + cut,
            data: Cow::Owned(data),
            interface,
            direction,
            packet_id,
            queue,
            drop_count,
            comments: comments.into_iter().map(Cow::Owned).collect(),
        }
    }
}

proptest! {
    #[test]
    fn packets_come_back_from_our_reader_as_they_were(packets in vec(packets(), 0..20)) {
        let file = file(INTERFACES, &packets);
        let mut reader = PacketReader::new(file.as_slice()).unwrap();
        for (number, packet) in (1..).zip(&packets) {
            let read = reader.next_packet().unwrap().unwrap();
            prop_assert_eq!((read.number, read.link_type), (number, LinkType::ETHERNET));
            prop_assert_eq!(&read.packet, packet);
        }
        prop_assert!(reader.next_packet().unwrap().is_none());
        prop_assert_eq!(reader.interfaces()[2].name.as_deref(), Some("eth2"));
    }

    #[test]
    fn packets_come_back_from_pcap_file_as_they_were(packets in vec(packets(), 0..20)) {
        let file = file(INTERFACES, &packets);
        let read: Vec<_> = blocks(&file).into_iter().skip(1 + INTERFACES as usize).collect();
        prop_assert_eq!(read.len(), packets.len());
        for (block, packet) in read.iter().zip(&packets) {
            let Block::EnhancedPacket(block) = block else { panic!("{block:?}") };
            prop_assert_eq!(block.interface_id, packet.interface);
            prop_assert_eq!(block.timestamp, Duration::from_nanos(packet.time_ns));
            prop_assert_eq!(block.original_len, packet.original_len);
            prop_assert_eq!(&block.data, &packet.data);
            prop_assert_eq!(&block.options, &options_of(packet));
        }
    }
}

/// The options a packet should have, as `pcap-file` names them; it knows no packet id and queue.
fn options_of<'a>(packet: &'a CapturedPacket<'_>) -> Vec<EnhancedPacketOption<'a>> {
    let unknown = |code, value: &[u8]| {
        let value = Cow::Owned(value.to_vec());
        let option = pcap_file::pcapng::blocks::opt_common::UnknownOption { code, value };
        EnhancedPacketOption::Common(CommonOption::Unknown(option))
    };
    let flags = packet.direction.map(|direction| match direction {
        Direction::Inbound => EnhancedPacketOption::Flags(1),
        Direction::Outbound => EnhancedPacketOption::Flags(2),
    });
    let comments = packet
        .comments
        .iter()
        .map(|comment| EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(comment))));
    flags
        .into_iter()
        .chain(packet.drop_count.map(EnhancedPacketOption::DropCount))
        .chain(packet.packet_id.map(|id| unknown(5, &id.to_le_bytes())))
        .chain(packet.queue.map(|queue| unknown(6, &queue.to_le_bytes())))
        .chain(comments)
        .collect()
}

#[test]
fn a_packet_block_has_these_bytes() {
    let mut out = Vec::new();
    let mut packet = CapturedPacket::new(0x0102_0304_0506_0708, b"abcde");
    packet.direction = Some(Direction::Outbound);
    enhanced_packet(&mut out, &packet, Snaplen::WHOLE);
    let head = b"\x06\0\0\0\x34\0\0\0\0\0\0\0\x04\x03\x02\x01\x08\x07\x06\x05\x05\0\0\0\x05\0\0\0";
    let rest = b"abcde\0\0\0\x02\0\x04\0\x02\0\0\0\0\0\0\0\x34\0\0\0";
    assert_eq!(out, [&head[..], rest].concat());
}

#[test]
fn sections_and_interfaces_keep_their_texts() {
    let header = SectionHeader {
        hardware: Some("x86_64".into()),
        os: Some("Linux 6.18".into()),
        application: Some("linnet 0.1".into()),
    };
    let interface = InterfaceDescription {
        link_type: LinkType::RAW,
        snaplen: 128,
        name: Some("tun0@tc-in".into()),
        description: Some("first line\nsecond".into()),
        filter: Some("tcp port 443".into()),
        hardware: Some("virtual".into()),
        os: Some("Linux".into()),
    };
    let mut writer = PcapngWriter::new(Vec::new(), &header).unwrap();
    writer.interface(&interface).unwrap();
    let file = writer.into_inner();

    let blocks = blocks(&file);
    let Block::SectionHeader(section) = &blocks[0] else { panic!("{blocks:?}") };
    assert_eq!((section.major_version, section.minor_version, section.section_length), (1, 0, -1));
    assert_eq!(section.options.len(), 3);
    let Block::InterfaceDescription(described) = &blocks[1] else { panic!("{blocks:?}") };
    assert_eq!((u32::from(described.linktype), described.snaplen), (101, 128));
    assert_eq!(described.ts_resolution().to_u8(), 9);
    assert!(
        described
            .options
            .contains(&InterfaceDescriptionOption::IfFilter(Cow::Borrowed(b"\0tcp port 443")))
    );

    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    assert!(reader.next_packet().unwrap().is_none());
    let escaped =
        InterfaceDescription { description: Some("first line\\nsecond".into()), ..interface };
    assert_eq!(reader.interfaces(), [escaped]);
}

#[test]
fn statistics_keep_every_counter() {
    let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
    writer.interface(&InterfaceDescription::new(LinkType::ETHERNET, 0)).unwrap();
    let statistics = InterfaceStatistics {
        interface: 0,
        time_ns: 1,
        start_ns: Some(2),
        end_ns: Some(3),
        received: Some(4),
        dropped: Some(5),
        filter_accepted: Some(6),
        os_dropped: Some(7),
        delivered: Some(8),
    };
    writer.statistics(&statistics).unwrap();
    let blocks = blocks(&writer.into_inner());
    let Block::InterfaceStatistics(read) = &blocks[2] else { panic!("{blocks:?}") };
    let numbers: Vec<u64> = read
        .options
        .iter()
        .filter_map(|option| match option {
            InterfaceStatisticsOption::IsbIfRecv(number)
            | InterfaceStatisticsOption::IsbIfDrop(number)
            | InterfaceStatisticsOption::IsbFilterAccept(number)
            | InterfaceStatisticsOption::IsbOsDrop(number)
            | InterfaceStatisticsOption::IsbUsrDeliv(number) => Some(*number),
            InterfaceStatisticsOption::IsbStartTime(_)
            | InterfaceStatisticsOption::IsbEndTime(_)
            | InterfaceStatisticsOption::Common(_) => None,
        })
        .collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8]);
    assert_eq!(read.options.len(), 7);
}

#[test]
fn too_many_comments_are_counted_in_the_last_one() {
    let mut packet = CapturedPacket::new(0, b"");
    packet.comments = (0..COMMENTS_MAX + 5).map(|n| Cow::Owned(format!("{n}"))).collect();
    let file = file(1, &[packet]);
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    let comments = reader.next_packet().unwrap().unwrap().packet.comments;
    assert_eq!(comments.len(), COMMENTS_MAX);
    assert_eq!(comments[COMMENTS_MAX - 2], "62");
    assert_eq!(comments[COMMENTS_MAX - 1], "6 more comments are left out");
}

#[test]
fn packets_beyond_every_snaplen_are_cut_and_keep_their_length() {
    let data = vec![0; 300_000];
    let file = file(1, &[CapturedPacket::new(0, &data)]);
    let mut reader = PacketReader::new(file.as_slice()).unwrap();
    let packet = reader.next_packet().unwrap().unwrap().packet;
    assert_eq!((packet.captured_len(), packet.original_len), (262_144, 300_000));
}
