//! Six frames that well-known flow agents get wrong, and what a right one says of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{Frame, Ktime, Outcome, parse::Headers, replay::Replay};

const ETHERNET: [u8; 14] = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0x08, 0x00];

fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 77]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    [ETHERNET.to_vec(), packet, options.to_vec(), payload.to_vec()].concat()
}

fn tcp(flags: u8) -> Vec<u8> {
    vec![0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]
}

fn udp(source: u16, destination: u16, length: u16) -> Vec<u8> {
    let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    [header, vec![0; usize::from(length) - 8]].concat()
}

/// What is said of the last of some frames.
fn said(frames: &[Vec<u8>]) -> (Outcome, Headers, usize) {
    let mut replay = Replay::default();
    let mut outcome = Outcome::NotIp;
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        outcome = replay.frame(frame.as_slice(), &Frame::plain(Ktime(1), length));
    }
    (outcome, *replay.headers(), replay.flows().count())
}

fn ports(headers: &Headers) -> [u16; 2] {
    [headers.key.lower_port, headers.key.upper_port].map(u16::from_be)
}

#[test]
fn ports_stand_behind_ipv4_options() {
    let record_route = [7, 7, 4, 9, 9, 9, 9, 0];
    let (outcome, headers, _) = said(&[ipv4(6, &record_route, 0, &tcp(0x10))]);
    assert_eq!((outcome, ports(&headers)), (Outcome::Tracked, [40_000, 443]));
}

#[test]
fn the_payload_of_a_later_fragment_is_no_ports() {
    let later = ipv4(17, &[], 0x0001, &[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]);
    let (outcome, _, flows) = said(std::slice::from_ref(&later));
    assert_eq!((outcome, flows), (Outcome::FragmentWithoutFirst, 0));
    let first = ipv4(17, &[], 0x2000, &udp(5_000, 53, 16)[..8]);
    let (outcome, headers, flows) = said(&[first, later]);
    assert_eq!((outcome, ports(&headers), flows), (Outcome::Tracked, [5_000, 53], 1));
}

#[test]
fn ports_stand_behind_a_hop_by_hop_header() {
    let mut frame = ETHERNET.to_vec();
    frame[12..].copy_from_slice(&[0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, 28, 0, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfe; 16]);
    frame.extend([6, 0, 5, 2, 0, 0, 1, 0]);
    frame.extend(tcp(0x10));
    let (outcome, headers, _) = said(&[frame]);
    assert_eq!((outcome, ports(&headers)), (Outcome::Tracked, [40_000, 443]));
}

#[test]
fn a_tag_in_the_bytes_is_no_payload() {
    let plain = ipv4(6, &[], 0, &tcp(0x10));
    let tagged = [&plain[..12], &[0x81, 0x00, 0x20, 0x2a], &plain[12..]].concat();
    let (outcome, headers, _) = said(&[tagged]);
    assert_eq!((outcome, ports(&headers)), (Outcome::Tracked, [40_000, 443]));
    assert_eq!(headers.key.vlan, 42);
}

#[test]
fn congestion_flags_change_nothing_about_an_acknowledgment() {
    const ACK_AND_ECE: u8 = 0x50;
    let (outcome, headers, _) = said(&[ipv4(6, &[], 0, &tcp(ACK_AND_ECE))]);
    assert_eq!((outcome, headers.analyzable, headers.acknowledgment), (Outcome::Tracked, 1, 2));
}

#[test]
fn a_datagram_of_258_bytes_has_its_length_in_both_octets() {
    let (outcome, headers, _) = said(&[ipv4(17, &[], 0, &udp(53, 5_353, 258))]);
    assert_eq!((outcome, headers.payload_len), (Outcome::Tracked, 250));
    assert_eq!(ports(&headers), [53, 5_353]);
}
