//! From the IP protocol to ports: which transport it is, and UDP, whose header is fixed.

use crate::{
    bytes::{PacketBytes, be16, wire16},
    outcome::Outcome,
    parse::{Headers, NOTHING, WHOLE, icmp, missing, sctp, tcp, tunnel},
};

pub(crate) const ICMP: u32 = 1;
pub(crate) const TCP: u32 = 6;
pub(crate) const UDP: u32 = 17;
pub(crate) const ICMPV6: u32 = 58;

const UDP_HEADER: u32 = 8;

/// Whether the packet is what nearly every packet is: TCP or UDP, and whole.
#[inline(always)]
pub(crate) const fn is_common(headers: &Headers) -> bool {
    matches!(headers.protocol, TCP | UDP) && headers.fragment == WHOLE
}

/// As [`parse`], for such a packet.
#[inline(always)]
pub(crate) fn common<P: PacketBytes>(
    packet: &P,
    headers: &mut Headers,
) -> Result<Outcome, Outcome> {
    headers.key.protocol = (headers.protocol & 0xff) as u8;
    headers.header_len = headers.offset;
    if headers.protocol == TCP { tcp::parse(packet, headers) } else { udp(packet, headers) }
}

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<Outcome, Outcome> {
    headers.key.protocol = (headers.protocol & 0xff) as u8;
    headers.header_len = headers.offset;
    match headers.protocol {
        TCP => tcp::parse(packet, headers),
        UDP => udp(packet, headers),
        sctp::PROTOCOL => sctp::parse(packet, headers),
        ICMP | ICMPV6 => icmp::parse(packet, headers),
        _ => {
            headers.payload_len = headers.transport_len;
            headers.pending = tunnel::candidate(headers, 0, 0);
            let known = headers.pending != NOTHING;
            Ok(if known { Outcome::Tracked } else { Outcome::UnknownTransport })
        }
    }
}

/// Source and destination port, which every transport here has in its first four bytes.
#[inline(always)]
pub(crate) fn ports<P: PacketBytes>(
    packet: &P,
    headers: &mut Headers,
    malformed: Outcome,
) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(ports) = packet.at::<4>(offset as usize) else {
        return Err(missing(headers, offset, 4, malformed));
    };
    headers.key.lower_port = wire16(ports, 0);
    headers.key.upper_port = wire16(ports, 2);
    Ok(())
}

/// RFC 768. A length of 0 stands for the whole datagram (RFC 2675, offload).
#[inline(always)]
fn udp<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<Outcome, Outcome> {
    ports(packet, headers, Outcome::MalformedUdp)?;
    let offset = headers.offset;
    let Some(udp) = packet.at::<{ UDP_HEADER as usize }>(offset as usize) else {
        return Ok(missing(headers, offset, UDP_HEADER, Outcome::MalformedUdp));
    };
    let length = be16(udp, 4);
    headers.header_len = offset + UDP_HEADER;
    headers.payload_len = headers.transport_len.saturating_sub(UDP_HEADER);
    let (source, destination) = (be16(udp, 0), be16(udp, 2));
    headers.pending = tunnel::candidate(headers, source, destination);
    let bad_length = length != 0 && length < UDP_HEADER;
    let beyond = length > headers.transport_len && headers.fragment == WHOLE;
    if bad_length || beyond { Ok(Outcome::MalformedUdp) } else { Ok(Outcome::Tracked) }
}
