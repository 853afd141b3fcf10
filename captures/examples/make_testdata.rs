//! Makes the sample captures of `captures/testdata/`: `cargo run -p captures --example make_testdata`.
//! Never uses randomness or a clock: the same code makes the same bytes.

use std::fs;
use std::io;
use std::path::Path;

use captures::format::pcap::{PcapWriter, Resolution};
use captures::format::pcapng::SectionHeader;
use captures::{
    Capture, CaptureSpec, CapturedPacket, Direction, InterfaceDescription, Limits, LinkType,
    Snaplen, StopReason,
};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (name, bytes) in files() {
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// 2023-11-14 22:13:20 UTC.
const START_NS: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Every file by name, with its bytes.
pub(crate) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let two_ends = two_ends();
    let cut = two_ends.len() - 250;
    vec![
        ("handshake.pcap", handshake()),
        ("cut_short.pcapng", two_ends[..cut].to_vec()),
        ("two_ends.pcapng", two_ends),
    ]
}

/// One TCP connection over IPv4, 10 ms away: handshake, request, response, close.
fn handshake() -> Vec<u8> {
    let client = Host { ports: [40_000, 80], ..Host::client(&[10, 0, 0, 1], &[10, 0, 0, 2]) };
    let server = client.other_end();
    let request: &[u8] = b"GET / HTTP/1.1\r\nHost: server.example\r\n\r\n";
    let response: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (asked, answered) = (1001 + length::<u32>(request), 5001 + length::<u32>(response));
    let frames = [
        (0, client.tcp(SYN, 1000, 0, b"")),
        (10 * MS, server.tcp(SYN | ACK, 5000, 1001, b"")),
        (10 * MS + 50_000, client.tcp(ACK, 1001, 5001, b"")),
        (11 * MS, client.tcp(PSH | ACK, 1001, 5001, request)),
        (21 * MS, server.tcp(ACK, 5001, asked, b"")),
        (22 * MS, server.tcp(PSH | ACK, 5001, asked, response)),
        (23 * MS, client.tcp(FIN | ACK, asked, answered, b"")),
        (33 * MS, server.tcp(FIN | ACK, answered, asked + 1, b"")),
        (34 * MS, client.tcp(ACK, asked + 1, answered + 1, b"")),
    ];
    let link_type = LinkType::ETHERNET;
    let mut writer =
        PcapWriter::new(Vec::new(), link_type, Snaplen::WHOLE, Resolution::Microseconds)
            .expect("a vector takes every byte");
    for (after_ns, frame) in &frames {
        let packet = CapturedPacket::new(START_NS + after_ns, frame);
        writer.packet(&packet).expect("the times are of 2023");
    }
    writer.into_inner()
}

/// A TCP connection over IPv6 in VLAN 100, seen in both directions, whose first data segment comes
/// twice, 200 ms apart; then a DNS query without an answer.
fn two_ends() -> Vec<u8> {
    let [near, far] = [1, 2].map(|last| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat());
    let client = Host { vlan: Some(100), ports: [40_001, 443], ..Host::client(&near, &far) };
    let server = client.other_end();
    let resolver = Host { ports: [5353, 53], ..Host::client(&near, &far) };
    let hello = [0x16; 120];
    let frames = [
        (0, Direction::Outbound, client.tcp(SYN, u32::MAX, 0, b"")),
        (20 * MS, Direction::Inbound, server.tcp(SYN | ACK, 9000, 0, b"")),
        (20 * MS + 80_000, Direction::Outbound, client.tcp(ACK, 0, 9001, b"")),
        (21 * MS, Direction::Outbound, client.tcp(PSH | ACK, 0, 9001, &hello)),
        (221 * MS, Direction::Outbound, client.tcp(PSH | ACK, 0, 9001, &hello)),
        (241 * MS, Direction::Inbound, server.tcp(ACK, 9001, 120, b"")),
        (
            250 * MS,
            Direction::Outbound,
            resolver.udp(b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x1c\0\x01"),
        ),
    ];
    let interface = |name: &str| {
        let mut interface = InterfaceDescription::new(LinkType::ETHERNET, 0);
        interface.name = Some(name.to_owned());
        interface
    };
    let spec = CaptureSpec {
        section: SectionHeader { application: Some("linnet".to_owned()), ..Default::default() },
        interfaces: vec![interface("eth0@tc-in"), interface("eth0@tc-out")],
        filters: Vec::new(),
        snaplen: Snaplen::try_new(128).expect("128 is in its range"),
        limits: Limits::default(),
    };
    let mut capture =
        Capture::start(spec, Vec::new(), START_NS).expect("a vector takes every byte");
    for (number, (after_ns, direction, frame)) in (1..).zip(&frames) {
        let mut packet = CapturedPacket::new(START_NS + after_ns, frame);
        packet.direction = Some(*direction);
        packet.interface = u32::from(*direction == Direction::Outbound);
        packet.packet_id = Some(number);
        if number == 5 {
            packet.comments.push("the same segment again".into());
        }
        capture.offer(&packet);
    }
    capture.finish(StopReason::UserRequest, START_NS + 251 * MS).1
}

/// One end of a flow, and what its frames begin with.
#[derive(Clone)]
struct Host {
    macs: [u8; 2],
    vlan: Option<u16>,
    /// Own address and the other end's, of 4 or 16 bytes each.
    addresses: [Vec<u8>; 2],
    ports: [u16; 2],
}

impl Host {
    fn client(own: &[u8], other: &[u8]) -> Self {
        let addresses = [own.to_vec(), other.to_vec()];
        Self { macs: [1, 2], vlan: None, addresses, ports: [0, 0] }
    }

    fn other_end(&self) -> Self {
        let mut other = self.clone();
        other.macs.reverse();
        other.addresses.reverse();
        other.ports.reverse();
        other
    }

    fn tcp(&self, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
        let mut segment = self.port_bytes();
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        // Five words, flags, window 64,240, checksum to come, no urgent data.
        segment.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        segment.extend(payload);
        self.frame(6, segment, 16)
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut datagram = self.port_bytes();
        datagram.extend((8 + length::<u16>(payload)).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.frame(17, datagram, 6)
    }

    fn port_bytes(&self) -> Vec<u8> {
        self.ports.iter().flat_map(|port| port.to_be_bytes()).collect()
    }

    /// Ethernet, VLAN and IP around `transport`, whose checksum is at `checksum_at`.
    fn frame(&self, protocol: u8, mut transport: Vec<u8>, checksum_at: usize) -> Vec<u8> {
        let addresses = self.addresses.concat();
        let len: u16 = length(&transport);
        let pseudo_header = [&addresses[..], &[0, protocol], &len.to_be_bytes()].concat();
        let sum = checksum(&[&pseudo_header[..], &transport].concat());
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum);

        let [own, other] = self.macs;
        let mut frame = vec![2, 0, 0, 0, 0, other, 2, 0, 0, 0, 0, own];
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        if addresses.len() == 8 {
            let total = (len + 20).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend(&addresses);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            frame.extend([8, 0]);
            frame.extend(header);
        } else {
            let len = len.to_be_bytes();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], protocol, 64]);
            frame.extend(addresses);
        }
        frame.extend(transport);
        frame
    }
}

/// A length as a header field or a step of sequence numbers.
fn length<N: TryFrom<usize>>(bytes: &[u8]) -> N {
    N::try_from(bytes.len()).ok().expect("test packets are short")
}

/// The Internet checksum (RFC 1071), in wire order.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}
