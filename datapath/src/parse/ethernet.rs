//! Link headers: Ethernet II with 802.1Q and 802.1ad tags, devices without a link header, and the BSD null link.
//! Leaves the ethertype and the offset of what follows.

use crate::{
    bytes::{PacketBytes, be16},
    hint::forget,
    outcome::Outcome,
    parse::{Headers, missing},
};

pub(crate) const IPV4: u32 = 0x0800;
pub(crate) const IPV6: u32 = 0x86dd;
/// 802.1Q customer tag.
const CUSTOMER_TAG: u32 = 0x8100;
/// 802.1ad service tag.
const SERVICE_TAG: u32 = 0x88a8;
/// The tag type that equipment used for stacked tags before 802.1ad.
const OLD_STACKED_TAG: u32 = 0x9100;
/// VLAN tags read inside the bytes, beside the one that a hook may keep in metadata.
pub(crate) const VLAN_TAGS_MAX: u32 = 3;

const HEADER: u32 = 14;
const TAG: u32 = 4;

#[inline(always)]
const fn is_tag(ethertype: u32) -> bool {
    matches!(ethertype, CUSTOMER_TAG | SERVICE_TAG | OLD_STACKED_TAG)
}

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let Some(ethernet) = packet.at::<{ HEADER as usize }>(0) else {
        return Err(missing(headers, 0, HEADER, Outcome::MalformedLink));
    };
    headers.ethertype = be16(ethernet, 12);
    headers.offset = HEADER;
    let mut depth = 0;
    while depth < VLAN_TAGS_MAX && is_tag(headers.ethertype) {
        let Some(tag) = packet.at::<{ TAG as usize }>(headers.offset as usize) else {
            return Err(missing(headers, headers.offset, TAG, Outcome::MalformedLink));
        };
        if headers.key.vlan == 0 {
            headers.key.vlan = (be16(tag, 0) & 0xfff) as u16;
        }
        headers.ethertype = be16(tag, 2);
        headers.offset += TAG;
        depth += 1;
    }
    if is_tag(headers.ethertype) {
        return Err(Outcome::TooDeep);
    }
    forget(headers);
    Ok(())
}

/// A frame that starts with its IP header: the version says which.
#[inline(always)]
pub(crate) fn parse_raw<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let Some(first) = packet.at::<1>(0) else {
        return Err(missing(headers, 0, 1, Outcome::MalformedLink));
    };
    headers.offset = 0;
    headers.ethertype = match first[0] >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => 0,
    };
    Ok(())
}

/// The BSD loopback header: an address family in the order of the machine that captured, then IP.
#[inline(always)]
pub(crate) fn parse_null<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let Some(family) = packet.at::<4>(0) else {
        return Err(missing(headers, 0, 4, Outcome::MalformedLink));
    };
    let little = u32::from_le_bytes(*family);
    let family = if little > 0xffff { u32::from_be_bytes(*family) } else { little };
    headers.offset = 4;
    // AF_INET is 2 everywhere; AF_INET6 is 24, 28 or 30 on the BSDs and macOS, 10 on Linux.
    headers.ethertype = match family {
        2 => IPV4,
        10 | 24 | 28 | 30 => IPV6,
        _ => 0,
    };
    Ok(())
}
