//! What a commented capture has: read by `pcap-file` and by our own reader, never by the annotator's own means.

use std::borrow::Cow;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block as Parsed, PcapNgReader};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::pcapng::{OPTION_MAX, PcapngWriter, SectionHeader};
use crate::format::read::Damage;
use crate::{CapturedPacket, Direction, InterfaceDescription, PacketReader};

const LINKS: [LinkType; 2] = [LinkType::ETHERNET, LinkType::RAW];

/// Says what it has on its list, packet by packet, and keeps what it was asked.
#[derive(Clone, Debug, Default)]
struct Listed {
    comments: Vec<String>,
    asked: Vec<(LinkType, u64)>,
}

impl Listed {
    fn new(comments: &[&str]) -> Self {
        let comments = comments.iter().map(|comment| (*comment).to_owned()).collect();
        Self { comments, asked: Vec::new() }
    }
}

impl Commentator for Listed {
    fn comment(&mut self, link_type: LinkType, packet: &StreamedPacket<'_>, comment: &mut String) {
        if let Some(next) = self.comments.get(self.asked.len()) {
            comment.push_str(next);
        }
        self.asked.push((link_type, packet.time_ns));
    }
}

/// The packets on two interfaces, with statistics between and behind them.
fn capture(packets: &[CapturedPacket<'_>]) -> Vec<u8> {
    let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
    for link in LINKS {
        writer.interface(&InterfaceDescription::new(link, 0)).unwrap();
    }
    for packet in packets {
        writer.packet(packet).unwrap();
        let statistics = pcapng::InterfaceStatistics { interface: 1, ..Default::default() };
        writer.statistics(&statistics).unwrap();
    }
    writer.into_inner()
}

fn annotated(capture: &[u8], piece: usize, commentator: Listed) -> (Vec<u8>, Listed) {
    let (mut annotator, mut out) = (Annotator::new(commentator), Vec::new());
    for piece in capture.chunks(piece) {
        annotator.annotate(piece, &mut out).unwrap();
    }
    annotator.finish().unwrap();
    (out, annotator.commentator)
}

fn read(file: &[u8]) -> Vec<CapturedPacket<'static>> {
    let mut reader = PacketReader::new(file).unwrap();
    let mut packets = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        packets.push(read.packet.into_owned());
    }
    packets
}

prop_compose! {
    fn packets()(
        (time_ns, data, cut) in (0..u64::MAX, vec(any::<u8>(), 0..50), 0_u32..2000),
        (interface, inbound, queue) in (0..2_u32, any::<bool>(), any::<Option<u32>>()),
        (packet_id, drop_count) in (any::<Option<u64>>(), any::<Option<u64>>()),
        comments in vec("[^\\p{Cc}]{0,20}", 0..3),
    ) -> CapturedPacket<'static> {
        CapturedPacket {
            time_ns,
            original_len: u32::try_from(data.len()).unwrap() + cut,
            data: Cow::Owned(data),
            interface,
            direction: inbound.then_some(Direction::Inbound),
            packet_id,
            queue,
            drop_count,
            comments: comments.into_iter().map(Cow::Owned).collect(),
        }
    }
}

proptest! {
    #[test]
    fn each_packet_has_what_it_had_and_its_comment_whatever_the_pieces(
        packets in vec((packets(), "[^\\p{Cc}]{0,30}"), 0..12),
        piece in 1_usize..400,
    ) {
        let (packets, comments): (Vec<_>, Vec<_>) = packets.into_iter().unzip();
        let capture = capture(&packets);
        let listed = Listed { comments: comments.clone(), asked: Vec::new() };
        let (whole, commentator) = annotated(&capture, capture.len(), listed.clone());
        prop_assert_eq!(&annotated(&capture, piece, listed).0, &whole);
        let asked: Vec<_> = packets
            .iter()
            .map(|packet| (LINKS[packet.interface as usize], packet.time_ns))
            .collect();
        prop_assert_eq!(commentator.asked, asked);
        let expected: Vec<_> = packets
            .into_iter()
            .zip(comments)
            .map(|(mut packet, comment)| {
                packet.comments.extend((!comment.is_empty()).then_some(Cow::Owned(comment)));
                packet
            })
            .collect();
        prop_assert_eq!(read(&whole), expected);
        // An independent reader finds as many blocks, each of a whole length.
        let blocks = |file: &[u8]| PcapNgReader::new(file).unwrap().into_iter().map(Result::unwrap).count();
        prop_assert_eq!(blocks(&whole), blocks(&capture));
    }

    #[test]
    fn a_capture_about_which_nothing_is_said_stays_as_it_is(
        packets in vec(packets(), 0..12),
        piece in 1_usize..400,
    ) {
        let capture = capture(&packets);
        prop_assert_eq!(annotated(&capture, piece, Listed::default()).0, capture);
    }
}

#[test]
fn a_comment_stands_behind_the_other_options_and_before_their_end() {
    let mut packet = CapturedPacket::new(0x0102_0304_0506_0708, b"abcde");
    let head = b"\x04\x03\x02\x01\x08\x07\x06\x05\x05\0\0\0\x05\0\0\0abcde\0\0\0";
    let one = |packet: &CapturedPacket<'_>| {
        let before = capture(&[]).len();
        let (out, _) = annotated(&capture(std::slice::from_ref(packet)), 99, Listed::new(&["why"]));
        out[before..].to_vec()
    };
    let bare = [&b"\x06\0\0\0\x34\0\0\0\0\0\0\0"[..], head, b"\x01\0\x03\0why\0\0\0\0\0\x34\0\0\0"];
    assert!(one(&packet).starts_with(&bare.concat()), "a list is made where there is none");
    packet.direction = Some(Direction::Outbound);
    let directed = [
        &b"\x06\0\0\0\x3c\0\0\0\0\0\0\0"[..],
        head,
        b"\x02\0\x04\0\x02\0\0\0\x01\0\x03\0why\0\0\0\0\0\x3c\0\0\0",
    ];
    assert!(one(&packet).starts_with(&directed.concat()));
}

#[test]
fn a_list_without_an_end_gets_one() {
    let mut packet = CapturedPacket::new(1, b"abcd");
    packet.queue = Some(7);
    let mut block = Vec::new();
    pcapng::enhanced_packet(&mut block, &packet, crate::Snaplen::WHOLE);
    // Without the end of its options, and so 4 bytes shorter.
    let (at, len) = (block.len() - 8, u32::try_from(block.len() - 4).unwrap().to_le_bytes());
    block.drain(at..at + 4);
    block[4..8].copy_from_slice(&len);
    let tail = block.len() - 4;
    block[tail..].copy_from_slice(&len);
    let (out, _) = annotated(&[capture(&[]), block].concat(), 5, Listed::new(&["why"]));
    packet.comments.push("why".into());
    assert_eq!(read(&out), [packet]);
    assert!(out.ends_with(b"why\0\0\0\0\0\x38\0\0\0"), "{out:?}");
}

#[test]
fn a_comment_is_what_another_reader_finds() {
    let long = "é".repeat(OPTION_MAX);
    let capture = capture(&[1, 2, 3].map(|time_ns| CapturedPacket::new(time_ns, b"abc")));
    let (out, _) = annotated(&capture, 77, Listed::new(&["one\n", "", &long]));
    let blocks: Vec<_> =
        PcapNgReader::new(&out[..]).unwrap().into_iter().map(Result::unwrap).collect();
    let comments = blocks.iter().filter_map(|block| {
        let Parsed::EnhancedPacket(packet) = block else { return None };
        Some(packet.options.clone())
    });
    let comment = |text: &str| {
        vec![EnhancedPacketOption::Common(CommonOption::Comment(text.to_owned().into()))]
    };
    let cut = &long[..OPTION_MAX - 1];
    assert!(comments.eq([comment("one\\n"), Vec::new(), comment(cut)]));
}

#[test]
fn what_comes_is_given_at_once_and_only_whole() {
    let capture = capture(&[CapturedPacket::new(1, b"abc")]);
    let (mut annotator, mut out) = (Annotator::new(Listed::new(&["why"])), Vec::new());
    let (most, last) = capture.split_at(capture.len() - 1);
    annotator.annotate(most, &mut out).unwrap();
    assert_eq!(read(&out)[0].comments, ["why"], "the packet does not wait for the statistics");
    assert!(annotator.finish().is_err(), "those end too early");
    annotator.annotate(last, &mut out).unwrap();
    annotator.finish().unwrap();
}

#[test]
fn what_is_no_capture_of_linnets_is_refused_behind_what_came_before() {
    let mut stray = Vec::new();
    let packet = CapturedPacket { interface: 2, ..CapturedPacket::new(1, b"abc") };
    pcapng::enhanced_packet(&mut stray, &packet, crate::Snaplen::WHOLE);
    let good = capture(&[]);
    let fails = |stream: &[u8]| {
        let mut out = Vec::new();
        let error = Annotator::new(Listed::new(&["why"])).annotate(stream, &mut out).unwrap_err();
        assert_eq!(out, good);
        error
    };
    let error = fails(&[&good[..], &stray].concat());
    assert!(matches!(error, AnnotateError::Interface { interface: 2 }), "{error}");

    let mut broken = Vec::new();
    let packet = CapturedPacket { queue: Some(1), ..CapturedPacket::new(1, b"abcd") };
    pcapng::enhanced_packet(&mut broken, &packet, crate::Snaplen::WHOLE);
    let length = broken.len() - 4 - 4 - 8 + 2;
    broken[length] = 99;
    let error = fails(&[&good[..], &broken].concat());
    let AnnotateError::Stream(StreamError { offset, what }) = error else { panic!("{error}") };
    assert_eq!((offset, what), (good.len() as u64, Damage::OptionsOverrun));
}

#[test]
fn interfaces_are_a_sections_and_are_bounded() {
    let interface = |out: &mut Vec<u8>, link| {
        pcapng::interface_description(out, &InterfaceDescription::new(link, 0));
    };
    let packet = |out: &mut Vec<u8>| {
        pcapng::enhanced_packet(out, &CapturedPacket::new(1, b"abc"), crate::Snaplen::WHOLE);
    };
    let mut two = Vec::new();
    for link in LINKS {
        pcapng::section_header(&mut two, &SectionHeader::default());
        interface(&mut two, link);
        packet(&mut two);
    }
    let (_, commentator) = annotated(&two, 9, Listed::default());
    assert_eq!(commentator.asked, LINKS.map(|link| (link, 1)));

    let mut many = Vec::new();
    pcapng::section_header(&mut many, &SectionHeader::default());
    (0..=INTERFACES_MAX).for_each(|_| interface(&mut many, LINKS[0]));
    let error = Annotator::new(Listed::default()).annotate(&many, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, AnnotateError::Interfaces), "{error}");
}
