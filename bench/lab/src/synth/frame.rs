//! Builds whole frames with right lengths and checksums: Ethernet, 802.1Q, IPv4 and IPv6, TCP, UDP,
//! ICMP echo, ARP. Never builds a damaged one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, MutableArpPacket};
use pnet::packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{MutableTcpPacket, TcpOption};
use pnet::packet::udp::MutableUdpPacket;
use pnet::packet::vlan::{ClassOfService, MutableVlanPacket};
use pnet::packet::{icmp, icmpv6, ipv4, tcp, udp};
use pnet::util::MacAddr;

use crate::wire::ETHERNET_BYTES;

const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const ECHO_BYTES: usize = 8;
const ARP_BYTES: usize = 28;
/// Smallest frame on Ethernet, without FCS.
const FRAME_BYTES_MIN: usize = 60;

/// Who sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who opens.
    Originator,
    /// Who answers.
    Responder,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Originator, Self::Responder];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Originator => Self::Responder,
            Self::Responder => Self::Originator,
        }
    }

    /// 0 for the originator, 1 for the responder.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Originator => 0,
            Self::Responder => 1,
        }
    }
}

/// The addresses of a conversation at every layer.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub macs: [MacAddr; 2],
    pub sockets: [SocketAddr; 2],
    pub vlan: Option<u16>,
    /// Time to live with which each side's packets pass.
    pub ttls: [u8; 2],
}

/// The parts of a TCP header that vary.
#[derive(Debug, Clone)]
pub(super) struct TcpHeader {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<TcpOption>,
    pub ip_id: u16,
}

/// A TCP segment.
pub(super) fn tcp(ends: &Ends, from: Side, header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
    let options: usize = header.options.iter().map(tcp::TcpOptionPacket::packet_size).sum();
    let header_bytes = TCP_BYTES + options.next_multiple_of(4);
    let mut segment = vec![0; header_bytes + payload.len()];
    segment[header_bytes..].copy_from_slice(payload);
    let mut packet = MutableTcpPacket::new(&mut segment).expect("the buffer holds a header");
    packet.set_source(ends.sockets[from.index()].port());
    packet.set_destination(ends.sockets[from.other().index()].port());
    packet.set_sequence(header.seq);
    packet.set_acknowledgement(header.ack);
    packet.set_data_offset(u8::try_from(header_bytes / 4).expect("at most 60 bytes of header"));
    packet.set_flags(header.flags);
    packet.set_window(header.window);
    packet.set_options(&header.options);
    let sum = match addresses(ends, from) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            tcp::ipv4_checksum(&packet.to_immutable(), &src, &dst)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            tcp::ipv6_checksum(&packet.to_immutable(), &src, &dst)
        }
        _ => unreachable!("both ends of a conversation have one family"),
    };
    packet.set_checksum(sum);
    ip(ends, from, IpNextHeaderProtocols::Tcp, header.ip_id, &segment)
}

/// A UDP datagram.
pub(super) fn udp(ends: &Ends, from: Side, ip_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; UDP_BYTES + payload.len()];
    datagram[UDP_BYTES..].copy_from_slice(payload);
    let length = length16(datagram.len());
    let mut packet = MutableUdpPacket::new(&mut datagram).expect("the buffer holds a header");
    packet.set_source(ends.sockets[from.index()].port());
    packet.set_destination(ends.sockets[from.other().index()].port());
    packet.set_length(length);
    let sum = match addresses(ends, from) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            udp::ipv4_checksum(&packet.to_immutable(), &src, &dst)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            udp::ipv6_checksum(&packet.to_immutable(), &src, &dst)
        }
        _ => unreachable!("both ends of a conversation have one family"),
    };
    // RFC 768: a checksum of zero is sent as all ones.
    packet.set_checksum(if sum == 0 { 0xffff } else { sum });
    ip(ends, from, IpNextHeaderProtocols::Udp, ip_id, &datagram)
}

/// An ICMP or ICMPv6 echo request of the originator, or reply of the responder.
pub(super) fn echo(
    ends: &Ends,
    from: Side,
    ip_id: u16,
    id: u16,
    seq: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut message = vec![0; ECHO_BYTES + payload.len()];
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&seq.to_be_bytes());
    message[ECHO_BYTES..].copy_from_slice(payload);
    match addresses(ends, from) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            message[0] = if from == Side::Originator { 128 } else { 129 };
            let packet = icmpv6::Icmpv6Packet::new(&message).expect("the buffer holds a header");
            let sum = icmpv6::checksum(&packet, &src, &dst);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ip(ends, from, IpNextHeaderProtocols::Icmpv6, ip_id, &message)
        }
        _ => {
            message[0] = if from == Side::Originator { 8 } else { 0 };
            let packet = icmp::IcmpPacket::new(&message).expect("the buffer holds a header");
            let sum = icmp::checksum(&packet);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ip(ends, from, IpNextHeaderProtocols::Icmp, ip_id, &message)
        }
    }
}

/// An ICMP message, which has its checksum.
pub(super) fn icmp(ends: &Ends, from: Side, message: &[u8]) -> Vec<u8> {
    ip(ends, from, IpNextHeaderProtocols::Icmp, 0, message)
}

/// An ARP request (`None` as target hardware address) or reply.
pub(super) fn arp(
    sender: (MacAddr, Ipv4Addr),
    target: (Option<MacAddr>, Ipv4Addr),
    vlan: Option<u16>,
) -> Vec<u8> {
    let mut message = vec![0; ARP_BYTES];
    let mut packet = MutableArpPacket::new(&mut message).expect("the buffer holds a message");
    let operation: ArpOperation =
        if target.0.is_some() { ArpOperations::Reply } else { ArpOperations::Request };
    packet.set_hardware_type(ArpHardwareTypes::Ethernet);
    packet.set_protocol_type(EtherTypes::Ipv4);
    packet.set_hw_addr_len(6);
    packet.set_proto_addr_len(4);
    packet.set_operation(operation);
    packet.set_sender_hw_addr(sender.0);
    packet.set_sender_proto_addr(sender.1);
    packet.set_target_hw_addr(target.0.unwrap_or_else(MacAddr::zero));
    packet.set_target_proto_addr(target.1);
    let to = target.0.unwrap_or_else(MacAddr::broadcast);
    ethernet(sender.0, to, vlan, EtherTypes::Arp, &message)
}

fn addresses(ends: &Ends, from: Side) -> (IpAddr, IpAddr) {
    (ends.sockets[from.index()].ip(), ends.sockets[from.other().index()].ip())
}

fn ip(
    ends: &Ends,
    from: Side,
    protocol: IpNextHeaderProtocol,
    ip_id: u16,
    payload: &[u8],
) -> Vec<u8> {
    let ttl = ends.ttls[from.index()];
    let (kind, bytes) = match addresses(ends, from) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = vec![0; IPV4_BYTES + payload.len()];
            bytes[IPV4_BYTES..].copy_from_slice(payload);
            let total = length16(bytes.len());
            let mut packet = MutableIpv4Packet::new(&mut bytes).expect("the buffer holds a header");
            packet.set_version(4);
            packet.set_header_length(5);
            packet.set_total_length(total);
            packet.set_identification(ip_id);
            packet.set_flags(Ipv4Flags::DontFragment);
            packet.set_ttl(ttl);
            packet.set_next_level_protocol(protocol);
            packet.set_source(src);
            packet.set_destination(dst);
            let sum = ipv4::checksum(&packet.to_immutable());
            packet.set_checksum(sum);
            (EtherTypes::Ipv4, bytes)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0; IPV6_BYTES + payload.len()];
            bytes[IPV6_BYTES..].copy_from_slice(payload);
            let mut packet = MutableIpv6Packet::new(&mut bytes).expect("the buffer holds a header");
            packet.set_version(6);
            packet.set_payload_length(length16(payload.len()));
            packet.set_next_header(protocol);
            packet.set_hop_limit(ttl);
            packet.set_source(src);
            packet.set_destination(dst);
            (EtherTypes::Ipv6, bytes)
        }
        _ => unreachable!("both ends of a conversation have one family"),
    };
    ethernet(ends.macs[from.index()], ends.macs[from.other().index()], ends.vlan, kind, &bytes)
}

fn ethernet(
    from: MacAddr,
    to: MacAddr,
    vlan: Option<u16>,
    kind: EtherType,
    payload: &[u8],
) -> Vec<u8> {
    let tag_bytes = if vlan.is_some() { VLAN_BYTES } else { 0 };
    let mut frame = vec![0; ETHERNET_BYTES + tag_bytes];
    if let Some(id) = vlan {
        let mut tag = MutableVlanPacket::new(&mut frame[ETHERNET_BYTES..]).expect("room for a tag");
        tag.set_priority_code_point(ClassOfService(0));
        tag.set_vlan_identifier(id);
        tag.set_ethertype(kind);
    }
    let mut header = MutableEthernetPacket::new(&mut frame).expect("room for a header");
    header.set_source(from);
    header.set_destination(to);
    header.set_ethertype(if vlan.is_some() { EtherTypes::Vlan } else { kind });
    frame.extend_from_slice(payload);
    // Padded as on a wire.
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    frame
}

fn length16(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("the synthesizer's packets fit an Ethernet MTU")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn a_segment_is_what_an_independent_parser_reads() {
        let ends = Ends {
            macs: [MacAddr::new(2, 0, 0, 0, 0, 1), MacAddr::new(2, 0, 0, 0, 0, 2)],
            sockets: ["10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap()],
            vlan: Some(100),
            ttls: [64, 60],
        };
        let options =
            vec![TcpOption::mss(1460), TcpOption::sack_perm(), TcpOption::timestamp(1, 2)];
        let header = TcpHeader { seq: 7, ack: 9, flags: 0x18, window: 1, options, ip_id: 3 };
        let frame = tcp(&ends, Side::Responder, &header, b"hello");

        let ip = wire::ip_frame(&frame).expect("an IP frame");
        let segment = wire::tcp_segment(&frame, &ip).expect("a segment");
        assert_eq!((segment.src, segment.dst), (ends.sockets[1], ends.sockets[0]));
        assert_eq!((segment.seq, segment.payload_bytes), (7, 5));
        assert_eq!(wire::tcp_checksum(&frame[..ip.payload.end], &ip, segment.header), 0);
        assert_eq!(wire::checksum(&[&frame[ip.ip..ip.ip + IPV4_BYTES]]), 0);
    }
}
