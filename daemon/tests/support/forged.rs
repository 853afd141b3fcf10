//! Frames of conversations that never were: TCP, UDP, ICMP, SCTP and others between two hosts that nobody is. Sequence
//! numbers and verification tags are right; checksums other than IP's are 0.

use std::net::Ipv4Addr;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Who sends: the first host or the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    A,
    B,
}

/// One packet of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet {
    /// Flags and bytes of payload.
    Tcp(u8, u16),
    /// An ACK with a window of 0.
    ZeroWindow,
    Udp,
    /// Type of ICMP.
    Icmp(u8),
    /// Types of chunks.
    Sctp(&'static [u8]),
    /// Another protocol.
    Other(u8),
}

impl Packet {
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Icmp(_) => 1,
            Self::Tcp(..) | Self::ZeroWindow => 6,
            Self::Udp => 17,
            Self::Sctp(_) => 132,
            Self::Other(protocol) => protocol,
        }
    }
}

const PORT_A: u16 = 40_000;
const PORT_B: u16 = 443;
/// Verification tags that the two hosts chose.
const TAG_A: u32 = 0x0a0a_0a0a;
const TAG_B: u32 = 0x0b0b_0b0b;

/// Two hosts, and where each is in its sequence numbers.
#[derive(Debug)]
pub(crate) struct Conversation {
    hosts: [Ipv4Addr; 2],
    next: [u32; 2],
}

impl Conversation {
    pub(crate) fn new(a: Ipv4Addr, b: Ipv4Addr) -> Self {
        Self { hosts: [a, b], next: [1_000, 500_000] }
    }

    /// The next frame of the conversation, for the lab's server.
    pub(crate) fn frame(&mut self, from: From, packet: Packet) -> Vec<u8> {
        let ports = match from {
            From::A => [PORT_A, PORT_B],
            From::B => [PORT_B, PORT_A],
        };
        let ports = ports.map(u16::to_be_bytes).concat();
        let payload = match packet {
            Packet::Tcp(flags, payload) => [ports, self.tcp(from, flags, payload, 1_000)].concat(),
            Packet::ZeroWindow => [ports, self.tcp(from, ACK, 0, 0)].concat(),
            Packet::Udp => [ports, vec![0, 12, 0, 0, 1, 2, 3, 4]].concat(),
            Packet::Icmp(kind) => vec![kind, 0, 0, 0, 0, 9, 0, 1],
            Packet::Sctp(chunks) => [ports, sctp(from, chunks)].concat(),
            // GRE without options that carries IPv4 which is not there; nothing to others.
            Packet::Other(_) => vec![0, 0, 8, 0],
        };
        self.ip(from, packet.protocol(), &payload)
    }

    /// What follows the ports.
    fn tcp(&mut self, from: From, flags: u8, payload: u16, window: u16) -> Vec<u8> {
        let [own, peer] = if from == From::A { [0, 1] } else { [1, 0] };
        if flags == SYN {
            // A new connection has new numbers.
            self.next[own] += 100_000;
        }
        let acknowledged = if flags & ACK == 0 { 0 } else { self.next[peer] };
        let mut bytes = [self.next[own], acknowledged].map(u32::to_be_bytes).concat();
        bytes.extend([0x50, flags]);
        bytes.extend(window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(vec![7; usize::from(payload)]);
        // A SYN-ACK in a simultaneous open repeats the SYN's number.
        let is_repeated = flags == SYN | ACK && self.next[own] % 1_000 == 1;
        if is_repeated {
            bytes[..4].copy_from_slice(&(self.next[own] - 1).to_be_bytes());
        } else {
            let occupies = u32::from(flags & (SYN | FIN) != 0);
            self.next[own] += u32::from(payload) + occupies;
        }
        bytes
    }

    fn ip(&self, from: From, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [source, destination] = match from {
            From::A => self.hosts,
            From::B => [self.hosts[1], self.hosts[0]],
        };
        let length = u16::try_from(20 + payload.len()).unwrap();
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend([source.octets(), destination.octets()].concat());
        let sum: u32 =
            header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let ethernet = [2, 0, 0, 0x77, 2, 2, 2, 0, 0, 0x77, 1, 2, 8, 0];
        [&ethernet, header.as_slice(), payload].concat()
    }
}

/// What follows the ports: the tag that the receiver chose, and the chunks (RFC 9260, 3.3).
fn sctp(from: From, chunks: &[u8]) -> Vec<u8> {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    let [own, peer] = if from == From::A { [TAG_A, TAG_B] } else { [TAG_B, TAG_A] };
    let tag = if chunks == [INIT] { 0 } else { peer };
    let mut bytes = tag.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    for kind in chunks {
        let mut value = vec![0; 12];
        if matches!(*kind, INIT | INIT_ACK) {
            value = [own.to_be_bytes().as_slice(), &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat();
        }
        let length = u16::try_from(4 + value.len()).unwrap();
        bytes.extend([*kind, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
    }
    bytes
}
