//! How a simulated segment looks on the wire: sequence numbers from stream offsets, options as
//! Linux orders them, the scaled window. Never decides what is sent.

use pnet::packet::tcp::TcpOption;

use super::segment::Segment;
use crate::synth::frame::{Ends, TcpHeader};
use crate::wire::flag;

/// What a host announced in its SYN.
#[derive(Debug, Clone, Copy)]
pub(super) struct TcpLook {
    pub mss: u16,
    pub scale: u8,
}

/// Largest segment of an Ethernet path, without options.
pub(super) fn mss(ends: &Ends) -> u16 {
    if ends.sockets[0].is_ipv6() { 1440 } else { 1460 }
}

/// The header of a segment; `isns` are the sender's and the other side's.
pub(super) fn header(segment: &Segment, isns: [u32; 2], look: TcpLook) -> TcpHeader {
    let seq_of = |isn: u32, offset: u64| {
        isn.wrapping_add(u32::try_from(offset & 0xffff_ffff).expect("32 bits are left"))
    };
    let mut flags = 0;
    for (is_set, bit) in [
        (segment.syn, flag::SYN),
        (segment.fin, flag::FIN),
        (segment.rst, flag::RST),
        (segment.push, flag::PSH),
        (segment.ack.is_some(), flag::ACK),
    ] {
        flags |= if is_set { bit } else { 0 };
    }
    let timestamps = TcpOption::timestamp(segment.tsval, segment.tsecr);
    let (scale, mut options) = if segment.syn {
        let (mss, scale) = (TcpOption::mss(look.mss), TcpOption::wscale(look.scale));
        (0, vec![mss, TcpOption::sack_perm(), timestamps, TcpOption::nop(), scale])
    } else {
        (look.scale, vec![TcpOption::nop(), TcpOption::nop(), timestamps])
    };
    if !segment.sack.is_empty() {
        let edges = segment.sack.iter().flat_map(|(left, right)| [*left, *right]);
        let edges: Vec<u32> = edges.map(|offset| seq_of(isns[1], offset)).collect();
        options.extend([TcpOption::nop(), TcpOption::nop(), TcpOption::selective_ack(&edges)]);
    }
    TcpHeader {
        seq: seq_of(isns[0], segment.start),
        ack: segment.ack.map_or(0, |ack| seq_of(isns[1], ack)),
        flags,
        window: u16::try_from(segment.window >> scale).unwrap_or(u16::MAX),
        options,
        ip_id: 0,
    }
}
