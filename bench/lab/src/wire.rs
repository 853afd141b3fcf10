//! The little the lab must know about frames: where the headers are, which TCP segment it is, and
//! checksums. Never panics on a damaged frame; what it does not understand is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// Ethernet header without tags.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// Longest chain of VLAN tags and of IPv6 extension headers that is followed.
const CHAIN_MAX: usize = 8;

/// TCP flag bits.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const CWR: u8 = 0x80;
}

/// Where the parts of an IP frame are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpFrame {
    /// Offset of the IP header.
    pub ip: usize,
    /// True for IPv6.
    pub is_v6: bool,
    /// Protocol above IP; after extension headers.
    pub protocol: u8,
    /// Offsets of the IP payload, without link-layer padding; a later fragment's is empty.
    pub payload: Range<usize>,
}

/// A TCP segment as the relay counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpSegment {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: u32,
    pub flags: u8,
    /// Bytes of data.
    pub payload_bytes: u32,
    /// Offset of the TCP header.
    pub header: usize,
    /// Offset of the data.
    pub data: usize,
}

/// Finds the IP header behind Ethernet and VLAN tags.
pub(crate) fn ip_frame(frame: &[u8]) -> Option<IpFrame> {
    let mut at = 12;
    for _ in 0..CHAIN_MAX {
        match be16(frame, at)? {
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return ipv4(frame, at + 2),
            0x86dd => return ipv6(frame, at + 2),
            _ => return None,
        }
    }
    None
}

/// The TCP segment in `frame`, where there is a whole first one.
pub(crate) fn tcp_segment(frame: &[u8], ip: &IpFrame) -> Option<TcpSegment> {
    if ip.protocol != TCP || ip.payload.len() < 20 {
        return None;
    }
    let header = ip.payload.start;
    let header_bytes = usize::from(frame.get(header + 12)? >> 4) * 4;
    let data = header + header_bytes;
    if header_bytes < 20 || data > ip.payload.end {
        return None;
    }
    let (src, dst) = addresses(frame, ip)?;
    Some(TcpSegment {
        src: SocketAddr::new(src, be16(frame, header)?),
        dst: SocketAddr::new(dst, be16(frame, header + 2)?),
        seq: be32(frame, header + 4)?,
        flags: *frame.get(header + 13)?,
        payload_bytes: u32::try_from(ip.payload.end - data).ok()?,
        header,
        data,
    })
}

/// True for ARP and IPv6 neighbour discovery, without which nothing else flows.
pub(crate) fn is_address_resolution(frame: &[u8], ip: Option<&IpFrame>) -> bool {
    match ip {
        None => be16(frame, 12) == Some(0x0806),
        Some(ip) => {
            let kind = frame.get(ip.payload.clone()).and_then(<[u8]>::first);
            ip.protocol == ICMPV6 && kind.is_some_and(|kind| (133..=137).contains(kind))
        }
    }
}

/// Source and destination address.
pub(crate) fn addresses(frame: &[u8], ip: &IpFrame) -> Option<(IpAddr, IpAddr)> {
    let bytes = frame.get(ip.ip..)?;
    if ip.is_v6 {
        let v6 = |at| <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok();
        Some((Ipv6Addr::from(v6(8)?).into(), Ipv6Addr::from(v6(24)?).into()))
    } else {
        let v4 = |at| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
        Some((Ipv4Addr::from(v4(12)?).into(), Ipv4Addr::from(v4(16)?).into()))
    }
}

/// The Internet checksum (RFC 1071) of the given parts, each of which but the last has an even
/// length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits above")
}

/// The TCP checksum of the segment that fills `frame[header..]`, whose checksum field must be zero.
pub(crate) fn tcp_checksum(frame: &[u8], ip: &IpFrame, header: usize) -> u16 {
    let segment = &frame[header..];
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX).to_be_bytes();
    let addresses =
        if ip.is_v6 { &frame[ip.ip + 8..ip.ip + 40] } else { &frame[ip.ip + 12..ip.ip + 20] };
    checksum(&[addresses, &length, &[0, TCP], segment])
}

/// Two bytes at `at`, big-endian.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Four bytes at `at`, big-endian.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn ipv4(frame: &[u8], ip: usize) -> Option<IpFrame> {
    let first = *frame.get(ip)?;
    let header_bytes = usize::from(first & 0x0f) * 4;
    let total = usize::from(be16(frame, ip + 2)?);
    if first >> 4 != 4 || header_bytes < 20 || total < header_bytes || ip + total > frame.len() {
        return None;
    }
    let is_later_fragment = be16(frame, ip + 6)? & 0x1fff != 0;
    let end = ip + total;
    let start = if is_later_fragment { end } else { ip + header_bytes };
    Some(IpFrame { ip, is_v6: false, protocol: *frame.get(ip + 9)?, payload: start..end })
}

fn ipv6(frame: &[u8], ip: usize) -> Option<IpFrame> {
    let end = ip + 40 + usize::from(be16(frame, ip + 4)?);
    if frame.get(ip)? >> 4 != 6 || end > frame.len() {
        return None;
    }
    let mut protocol = *frame.get(ip + 6)?;
    let mut at = ip + 40;
    for _ in 0..CHAIN_MAX {
        match protocol {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                protocol = *frame.get(at)?;
                at += 8 + 8 * usize::from(*frame.get(at + 1)?);
            }
            44 => {
                let is_later = be16(frame, at + 2)? & 0xfff8 != 0;
                protocol = *frame.get(at)?;
                at = if is_later { end } else { at + 8 };
                if is_later {
                    break;
                }
            }
            _ => break,
        }
        if at > end {
            return None;
        }
    }
    Some(IpFrame { ip, is_v6: true, protocol, payload: at.min(end)..end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_rfc_1071_is_right() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn a_tagged_ipv4_segment_is_found_and_padding_is_not_data() {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0x00, 0x00, 0x64, 0x08, 0x00]);
        let ip = frame.len();
        frame.extend([0x45, 0, 0, 42, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([
            0x1f,
            0x90,
            0x00,
            0x50,
            0,
            0,
            0,
            9,
            0,
            0,
            0,
            0,
            0x50,
            flag::ACK,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        frame.extend([b'h', b'i', 0, 0, 0, 0]);

        let found = ip_frame(&frame).expect("an IP frame");
        let segment = tcp_segment(&frame, &found).expect("a segment");

        assert_eq!(found.ip, ip);
        assert_eq!((segment.seq, segment.payload_bytes), (9, 2));
        assert_eq!(segment.src.to_string(), "10.0.0.1:8080");
    }

    #[test]
    fn damaged_frames_are_not_understood_and_never_panic() {
        let mut rng = crate::rng::Rng::new(3);
        for _ in 0..20_000 {
            let length = rng.below(90);
            let mut frame: Vec<u8> = (0..length).map(|_| rng.next_u64().to_be_bytes()[0]).collect();
            if frame.len() > 20 {
                let kind: u16 = if rng.chance(0.5) { 0x0800 } else { 0x86dd };
                frame[12..14].copy_from_slice(&kind.to_be_bytes());
                frame[14] = if kind == 0x0800 { 0x45 } else { 0x60 };
                frame[16] = 0;
            }
            if let Some(ip) = ip_frame(&frame) {
                tcp_segment(&frame, &ip);
                addresses(&frame, &ip);
                is_address_resolution(&frame, Some(&ip));
            }
        }
    }
}
