//! IPv6 and its extension headers (RFC 8200), to a fixed depth.

use crate::{
    bytes::{PacketBytes, be16, be32, wire64},
    flow_key::{IpAddress, KEY_IPV6},
    hint::forget,
    outcome::Outcome,
    parse::{FIRST_FRAGMENT, Headers, LATER_FRAGMENT, REACH_MAX, missing},
};

const HEADER: u32 = 40;
/// Extension headers read before the transport.
pub(crate) const EXTENSIONS_MAX: u32 = 6;

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
const DESTINATION: u32 = 60;
const MOBILITY: u32 = 135;
const HIP: u32 = 139;
const SHIM6: u32 = 140;

#[inline(always)]
pub(crate) const fn is_extension(protocol: u32) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(ip) = packet.at::<{ HEADER as usize }>(offset as usize) else {
        return Err(missing(headers, offset, HEADER, Outcome::MalformedIpv6));
    };
    if ip[0] >> 4 != 6 {
        return Err(Outcome::MalformedIpv6);
    }
    headers.key.flags = KEY_IPV6;
    headers.key.lower = IpAddress::from_wire([wire64(ip, 8), wire64(ip, 16)]);
    headers.key.upper = IpAddress::from_wire([wire64(ip, 24), wire64(ip, 32)]);
    #[cfg(not(target_arch = "bpf"))]
    {
        headers.network = offset;
        headers.hops = u32::from(ip[7]);
        headers.traffic_class = be16(ip, 0) >> 4 & 0xff;
        headers.unfragmentable = 1;
    }
    headers.protocol = u32::from(ip[6]);
    headers.offset = offset + HEADER;
    headers.transport_len = match be16(ip, 4) {
        // Jumbograms (RFC 2675), offload and BIG TCP: the frame has the length.
        0 => headers.original_len.saturating_sub(headers.offset),
        length => length,
    };
    Ok(())
}

/// The extension headers, up to the transport or to the payload of a later fragment.
#[inline(always)]
pub(crate) fn extensions<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let mut depth = 0;
    while depth < EXTENSIONS_MAX && is_extension(headers.protocol) {
        let at = headers.offset;
        let Some(extension) = packet.at::<8>(at as usize) else {
            return Err(missing(headers, at, 8, Outcome::MalformedIpv6));
        };
        let length = match headers.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(extension[1]) + 2) * 4,
            _ => (u32::from(extension[1]) + 1) * 8,
        };
        if headers.protocol == FRAGMENT {
            let fragment = be16(extension, 2);
            headers.ip_id = be32(extension, 4);
            if fragment & 0xfff8 != 0 {
                headers.fragment = LATER_FRAGMENT;
            } else if fragment & 1 != 0 {
                headers.fragment = FIRST_FRAGMENT;
            }
        }
        if length > headers.transport_len {
            return Err(Outcome::MalformedIpv6);
        }
        headers.protocol = u32::from(extension[0]);
        headers.offset = at + length;
        headers.transport_len -= length;
        if headers.offset > REACH_MAX {
            return Err(Outcome::TooDeep);
        }
        if headers.fragment == LATER_FRAGMENT {
            break;
        }
        depth += 1;
        forget(headers);
    }
    if is_extension(headers.protocol) && headers.fragment != LATER_FRAGMENT {
        return Err(Outcome::TooDeep);
    }
    Ok(())
}
