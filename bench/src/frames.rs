//! The frames that are measured, built byte by byte. Never sent anywhere; checksums stay 0, since the datapath reads
//! none.

use datapath::Outcome;

/// Source port of the first frame; each frame has its own, and so a flow of its own.
const FIRST_PORT: u16 = 40_001;
const PORT: u16 = 443;
/// Sequence number of what is measured, so that it lies before what [`Sample::earlier`] sent.
const SEQUENCE: u32 = 1_000;
/// NOP, NOP, timestamps (RFC 7323, appendix A).
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
/// IPv4 option (RFC 2113).
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
pub const FULL_SEGMENT: usize = 1_448;
const VXLAN_PORT: u16 = 4_789;
/// What a fragment carries in a packet of 1,500 bytes.
const FRAGMENT: usize = 1_480;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;

/// Which way a repeated frame takes through the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// An acknowledgment that repeats the one before it.
    DuplicateAck,
    /// Data that was sent before.
    Retransmission,
    /// An acknowledgment from before data that was sent since.
    OldAck,
    /// As [`Self::DuplicateAck`], on a flow inside of another one.
    InnerDuplicateAck,
    /// A datagram: no TCP analysis.
    Datagram,
    /// A datagram's first fragment, whose ports are kept for the others.
    FirstFragment,
    /// One of the others, whose ports are looked up.
    LaterFragment,
    /// On no flow.
    NotIp,
}

impl Path {
    /// As in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuplicateAck => "duplicate ACK, flagged",
            Self::Retransmission => "retransmission, flagged",
            Self::OldAck => "old ACK, not flagged",
            Self::InnerDuplicateAck => "datagram, and inside of it a duplicate ACK, flagged",
            Self::Datagram => "datagram",
            Self::FirstFragment => "fragment, its ports kept",
            Self::LaterFragment => "fragment, its ports looked up",
            Self::NotIp => "not IP, no flow",
        }
    }

    /// Whether the tracker puts each repetition into a class.
    #[must_use]
    pub const fn is_flagged(self) -> bool {
        match self {
            Self::DuplicateAck | Self::Retransmission | Self::InnerDuplicateAck => true,
            Self::OldAck
            | Self::Datagram
            | Self::FirstFragment
            | Self::LaterFragment
            | Self::NotIp => false,
        }
    }

    /// What the ledger says.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::NotIp => Outcome::NotIp,
            Self::DuplicateAck
            | Self::Retransmission
            | Self::OldAck
            | Self::InnerDuplicateAck
            | Self::Datagram
            | Self::FirstFragment
            | Self::LaterFragment => Outcome::Tracked,
        }
    }
}

/// One kind of frame.
#[derive(Clone, Debug)]
pub struct Sample {
    /// As in the table.
    pub name: &'static str,
    /// What a repetition of it means to the tracker.
    pub path: Path,
    /// The bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// A frame of the same flow that passes once before.
    pub earlier: Option<Vec<u8>>,
}

/// Every kind of frame, each of a flow of its own.
#[must_use]
pub fn all() -> Vec<Sample> {
    let port = |offset: u16| FIRST_PORT + offset;
    let ack = |port| segment(port, SEQUENCE, &TIMESTAMPS, 0);
    let data = |port| segment(port, SEQUENCE, &TIMESTAMPS, FULL_SEGMENT);
    let tcp = |transport: &[u8]| ethernet(ipv4(TCP, &[], transport));
    let udp = |transport: &[u8]| ethernet(ipv4(UDP, &[], transport));
    let sample = |name, path, bytes| Sample { name, path, bytes, earlier: None };
    vec![
        sample("TCP ACK, timestamps", Path::DuplicateAck, tcp(&ack(port(0)))),
        Sample {
            earlier: Some(tcp(&data(port(1)))),
            ..sample("TCP ACK, timestamps", Path::OldAck, tcp(&ack(port(1))))
        },
        sample("TCP data 1448 B, timestamps", Path::Retransmission, tcp(&data(port(2)))),
        sample("UDP, frame of 64 B", Path::Datagram, udp(&datagram(port(3), 22))),
        sample(
            "IPv6, hop-by-hop, TCP ACK",
            Path::DuplicateAck,
            ethernet(ipv6_hop_by_hop(&ack(port(4)))),
        ),
        sample("802.1Q, TCP ACK", Path::DuplicateAck, tagged(5, &tcp(&ack(port(5))))),
        sample(
            "IPv4 options, TCP ACK",
            Path::DuplicateAck,
            ethernet(ipv4(TCP, &ROUTER_ALERT, &ack(port(6)))),
        ),
        sample("VXLAN, TCP ACK", Path::InnerDuplicateAck, vxlan(port(7), &tcp(&ack(port(7))))),
        sample(
            "UDP, first fragment of 1500 B",
            Path::FirstFragment,
            fragment(8, 0, &long_datagram(port(8))[..FRAGMENT]),
        ),
        Sample {
            earlier: Some(fragment(9, 0, &long_datagram(port(9))[..FRAGMENT])),
            ..sample(
                "UDP, last fragment of 84 B",
                Path::LaterFragment,
                fragment(9, FRAGMENT, &long_datagram(port(9))[FRAGMENT..]),
            )
        },
        sample("ARP", Path::NotIp, arp()),
    ]
}

/// The smallest datagram among them.
#[must_use]
pub fn smallest_datagram() -> Sample {
    let datagrams = all().into_iter().filter(|sample| sample.path == Path::Datagram);
    datagrams.min_by_key(|sample| sample.bytes.len()).expect("one of the frames is a datagram")
}

/// A full segment of data, with timestamps.
#[must_use]
pub fn data() -> Sample {
    let samples = all().into_iter().find(|sample| sample.path == Path::Retransmission);
    samples.expect("data is among the frames")
}

/// A payload and the ethertype that announces it.
struct Network {
    ethertype: u16,
    bytes: Vec<u8>,
}

fn ethernet(network: Network) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(network.ethertype.to_be_bytes());
    frame.extend(network.bytes);
    frame
}

fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0x00], &vlan.to_be_bytes(), rest].concat()
}

/// `options` must be a multiple of four bytes.
fn ipv4(protocol: u8, options: &[u8], transport: &[u8]) -> Network {
    let header_len = 20 + options.len();
    let mut bytes = vec![0x40 | byte(header_len / 4), 0];
    bytes.extend(length(header_len + transport.len()));
    bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend([192, 0, 2, 1, 198, 51, 100, 2]);
    bytes.extend(options);
    bytes.extend(transport);
    Network { ethertype: 0x0800, bytes }
}

fn ipv6_hop_by_hop(transport: &[u8]) -> Network {
    // Router alert (RFC 2711), PadN.
    const HOP_BY_HOP: [u8; 8] = [TCP, 0, 5, 2, 0, 0, 1, 0];
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length(HOP_BY_HOP.len() + transport.len()));
    bytes.extend([0, 64]);
    for host in [1, 2] {
        bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    bytes.extend(HOP_BY_HOP);
    bytes.extend(transport);
    Network { ethertype: 0x86dd, bytes }
}

/// `options` must be a multiple of four bytes.
fn segment(source_port: u16, sequence: u32, options: &[u8], payload: usize) -> Vec<u8> {
    let mut bytes = [source_port.to_be_bytes(), PORT.to_be_bytes()].concat();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(5_000_u32.to_be_bytes());
    bytes.extend([byte((20 + options.len()) / 4) << 4, ACK, 0x01, 0xf5, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(vec![0x55; payload]);
    bytes
}

fn datagram(source_port: u16, payload: usize) -> Vec<u8> {
    let mut bytes = [source_port.to_be_bytes(), PORT.to_be_bytes()].concat();
    bytes.extend(length(8 + payload));
    bytes.extend([0, 0]);
    bytes.extend(vec![0x55; payload]);
    bytes
}

/// An Ethernet frame in a datagram (RFC 7348).
fn vxlan(source_port: u16, frame: &[u8]) -> Vec<u8> {
    let header = [0x08, 0, 0, 0, 0, 0, 42, 0];
    let payload = [&header, frame].concat();
    let mut bytes = [source_port.to_be_bytes(), VXLAN_PORT.to_be_bytes()].concat();
    bytes.extend(length(8 + payload.len()));
    bytes.extend([0, 0]);
    bytes.extend(payload);
    ethernet(ipv4(UDP, &[], &bytes))
}

/// A datagram that takes two fragments.
fn long_datagram(source_port: u16) -> Vec<u8> {
    datagram(source_port, FRAGMENT + 64 - 8)
}

/// The part of a datagram from `offset` on, a multiple of eight; the others of it have the same identification.
fn fragment(identification: u8, offset: usize, part: &[u8]) -> Vec<u8> {
    const MORE: u16 = 0x2000;
    let mut network = ipv4(UDP, &[], part);
    let more = if offset == 0 { MORE } else { 0 };
    let place = u16::try_from(offset / 8).expect("datagrams here are short") | more;
    network.bytes[4..6].copy_from_slice(&[0, identification]);
    network.bytes[6..8].copy_from_slice(&place.to_be_bytes());
    ethernet(network)
}

fn arp() -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 192, 0, 2, 1];
    bytes.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
    // Ethernet's least payload.
    bytes.resize(46, 0);
    ethernet(Network { ethertype: 0x0806, bytes })
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("frames here are shorter than 64 KiB").to_be_bytes()
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("header lengths here fit their field")
}

#[cfg(test)]
mod tests {
    use datapath::{Frame, Ktime, replay::Replay};

    use super::*;

    /// A sample's frames through the datapath.
    fn pass(host: &mut Replay, sample: &Sample) -> Outcome {
        let mut pass = |bytes: &Vec<u8>| {
            let length = u32::try_from(bytes.len()).unwrap();
            host.frame(bytes.as_slice(), &Frame::plain(Ktime(1), length))
        };
        if let Some(earlier) = &sample.earlier {
            assert_eq!(pass(earlier), Outcome::Tracked, "{}", sample.name);
        }
        pass(&sample.bytes)
    }

    #[test]
    fn each_frame_has_the_outcome_it_is_measured_as() {
        for sample in all() {
            let outcome = pass(&mut Replay::default(), &sample);
            assert_eq!(outcome, sample.path.outcome(), "{}", sample.name);
        }
    }

    #[test]
    fn frames_are_of_different_flows() {
        let mut host = Replay::default();
        for sample in all() {
            let _outcome = pass(&mut host, &sample);
        }
        let tracked =
            all().iter().filter(|sample| sample.path.outcome() == Outcome::Tracked).count();
        let around = all().iter().filter(|sample| sample.path == Path::InnerDuplicateAck).count();
        assert_eq!(host.flows().count(), tracked + around);
    }

    #[test]
    fn the_lengths_are_what_the_names_say() {
        let length = |name: &str| all().iter().find(|s| s.name == name).map(|s| s.bytes.len());
        assert_eq!(length("UDP, frame of 64 B"), Some(64));
        assert_eq!(length("TCP data 1448 B, timestamps"), Some(1_514));
        assert_eq!(length("TCP ACK, timestamps"), Some(66));
        assert_eq!(length("UDP, first fragment of 1500 B"), Some(1_514));
        assert_eq!(length("UDP, last fragment of 84 B"), Some(98));
    }
}
