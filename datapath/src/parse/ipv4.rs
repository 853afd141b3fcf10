//! IPv4 with options (RFC 791). Trusts the total length, not the frame's: Ethernet pads short packets.

use crate::{
    bytes::{PacketBytes, be16},
    flow_key::IpAddress,
    outcome::Outcome,
    parse::{FIRST_FRAGMENT, Headers, LATER_FRAGMENT, missing},
};

const HEADER_MIN: u32 = 20;
const MORE_FRAGMENTS: u32 = 0x2000;
const FRAGMENT_OFFSET: u32 = 0x1fff;

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(ip) = packet.at::<{ HEADER_MIN as usize }>(offset as usize) else {
        return Err(missing(headers, offset, HEADER_MIN, Outcome::MalformedIpv4));
    };
    let header_len = u32::from(ip[0] & 0xf) * 4;
    if ip[0] >> 4 != 4 || header_len < HEADER_MIN {
        return Err(Outcome::MalformedIpv4);
    }
    headers.key.lower = IpAddress::from_ipv4([ip[12], ip[13], ip[14], ip[15]]);
    headers.key.upper = IpAddress::from_ipv4([ip[16], ip[17], ip[18], ip[19]]);
    #[cfg(not(target_arch = "bpf"))]
    {
        headers.network = offset;
        headers.hops = u32::from(ip[8]);
        headers.traffic_class = u32::from(ip[1]);
        headers.unfragmentable = u32::from(ip[6] >> 6 & 1);
    }
    headers.protocol = u32::from(ip[9]);
    headers.ip_id = be16(ip, 4);
    let total = match be16(ip, 2) {
        // Segmentation offload and BIG TCP leave the length to the device: the frame has it.
        0 => headers.original_len.saturating_sub(offset),
        total => total,
    };
    if total < header_len {
        return Err(Outcome::MalformedIpv4);
    }
    headers.transport_len = total - header_len;
    headers.offset = offset + header_len;
    let fragment = be16(ip, 6);
    if fragment & FRAGMENT_OFFSET != 0 {
        headers.fragment = LATER_FRAGMENT;
    } else if fragment & MORE_FRAGMENTS != 0 {
        headers.fragment = FIRST_FRAGMENT;
    }
    Ok(())
}
