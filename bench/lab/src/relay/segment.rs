//! Undoes what offloads did to a frame, so that the relay sees and sends wire packets: cuts merged
//! TCP super-packets and fills in open checksums. Never sends on what it cannot make right: that is
//! `None`, and counted.
//!
//! Needed although the lab turns offloads off: they may be turned on at any moment, by hand or by
//! kernels whose veth driver turns receive merging on with native XDP (drivers/net/veth.c,
//! `veth_xdp_set`; 6.18 was not seen to).

use crate::wire::{self, IpFrame, TcpSegment, flag};

/// The wire packets of a super-packet of TCP segments of `segment_bytes` data each.
pub(super) fn cut(frame: &[u8], segment_bytes: u16) -> Option<Vec<Vec<u8>>> {
    let ip = wire::ip_frame(frame)?;
    let tcp = wire::tcp_segment(frame, &ip)?;
    let step = usize::from(segment_bytes);
    let data = frame.get(tcp.data..ip.payload.end)?;
    if step == 0 || data.is_empty() {
        return None;
    }
    let last = data.len().div_ceil(step) - 1;
    let part = |(index, chunk): (usize, &[u8])| {
        let mut packet = frame[..tcp.data].to_vec();
        packet.extend_from_slice(chunk);
        renumber(&mut packet, &ip, &tcp, Place { index, last, offset: index * step })?;
        fill_checksums(&mut packet, &ip, tcp.header)?;
        Some(packet)
    };
    data.chunks(step).enumerate().map(part).collect()
}

/// Completes the transport checksum of a frame whose sender left it to hardware. TCP only: UDP is
/// never sent so inside the lab.
pub(super) fn complete_checksum(frame: &mut [u8]) -> Option<()> {
    let ip = wire::ip_frame(frame)?;
    let tcp = wire::tcp_segment(frame, &ip)?;
    if ip.payload.end != frame.len() {
        return None;
    }
    fill_checksums(frame, &ip, tcp.header)
}

/// Where a wire packet stands in its super-packet.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    last: usize,
    offset: usize,
}

/// Gives the packet its own lengths, IPv4 ID, sequence number and flags.
fn renumber(packet: &mut [u8], ip: &IpFrame, tcp: &TcpSegment, place: Place) -> Option<()> {
    if ip.is_v6 {
        let length = u16::try_from(packet.len() - ip.ip - 40).ok()?;
        put16(packet, ip.ip + 4, length);
    } else {
        let length = u16::try_from(packet.len() - ip.ip).ok()?;
        put16(packet, ip.ip + 2, length);
        let id = wire::be16(packet, ip.ip + 4)?;
        put16(packet, ip.ip + 4, id.wrapping_add(u16::try_from(place.index).ok()?));
    }
    let seq = tcp.seq.wrapping_add(u32::try_from(place.offset).ok()?);
    packet[tcp.header + 4..tcp.header + 8].copy_from_slice(&seq.to_be_bytes());
    let mut flags = tcp.flags;
    if place.index < place.last {
        flags &= !(flag::FIN | flag::PSH);
    }
    if place.index > 0 {
        flags &= !flag::CWR;
    }
    packet[tcp.header + 13] = flags;
    Some(())
}

fn fill_checksums(packet: &mut [u8], ip: &IpFrame, tcp_header: usize) -> Option<()> {
    if !ip.is_v6 {
        put16(packet, ip.ip + 10, 0);
        let header_bytes = usize::from(packet.get(ip.ip)? & 0x0f) * 4;
        let sum = wire::checksum(&[packet.get(ip.ip..ip.ip + header_bytes)?]);
        put16(packet, ip.ip + 10, sum);
    }
    put16(packet, tcp_header + 16, 0);
    let sum = wire::tcp_checksum(packet, ip, tcp_header);
    put16(packet, tcp_header + 16, sum);
    Some(())
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_becomes_wire_packets_with_their_own_headers() {
        let packets = cut(&super_packet(2500), 1000).expect("a TCP super-packet");

        let seen: Vec<_> = packets.iter().map(|p| facts(p)).collect();
        assert_eq!(seen[0], (7, 5000, 1000, flag::ACK));
        assert_eq!(seen[1], (8, 6000, 1000, flag::ACK));
        assert_eq!(seen[2], (9, 7000, 500, flag::ACK | flag::PSH));
    }

    #[test]
    fn every_checksum_of_a_cut_is_right() {
        for packet in cut(&super_packet(2500), 1000).expect("a TCP super-packet") {
            let ip = wire::ip_frame(&packet).unwrap();
            assert_eq!(wire::checksum(&[&packet[14..34]]), 0);
            assert_eq!(wire::tcp_checksum(&packet, &ip, 34), 0);
        }
    }

    #[test]
    fn what_is_not_tcp_is_refused() {
        assert!(cut(&[0; 60], 1000).is_none());
        assert!(cut(&super_packet(2500), 0).is_none());
    }

    /// IPv4 ID, sequence number, data bytes and flags.
    fn facts(packet: &[u8]) -> (u16, u32, u32, u8) {
        let ip = wire::ip_frame(packet).unwrap();
        let tcp = wire::tcp_segment(packet, &ip).unwrap();
        (wire::be16(packet, ip.ip + 4).unwrap(), tcp.seq, tcp.payload_bytes, tcp.flags)
    }

    /// ID 7, sequence 5000, PSH and ACK, checksums left open.
    fn super_packet(data: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((40 + data).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x1f, 0x90, 0, 80]);
        frame.extend(5000_u32.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0x50, flag::ACK | flag::PSH, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..data).map(|i| i.to_be_bytes()[1]));
        frame
    }
}
