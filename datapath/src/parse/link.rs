//! From the first byte to the network layer: link headers, VLAN tags, MPLS labels, PPPoE and LLC, in whatever order
//! they come. Leaves the ethertype and the offset of what follows.
//!
//! Every header is one step of one bounded loop, and `Headers::ethertype` says which kind comes next: an ethertype, or
//! one of the `NEXT_*` marks, which no 16-bit field can hold.

use crate::{
    bytes::{PacketBytes, be16, be32},
    frame::Link,
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
/// MPLS label stack (RFC 5332: downstream- and upstream-assigned).
const MPLS: u32 = 0x8847;
const MPLS_UPSTREAM: u32 = 0x8848;
/// PPP over Ethernet, session stage (RFC 2516).
const PPPOE_SESSION: u32 = 0x8864;
/// Below it, the field is a length and an LLC header follows (IEEE 802.3, 3.2.6).
const ETHERTYPE_MIN: u32 = 0x600;
/// An Ethernet header comes next.
pub(crate) const NEXT_ETHERNET: u32 = 0x1_0000;
/// An LLC header comes next.
const NEXT_LLC: u32 = 0x1_0001;
/// Nothing that linnet reads comes next.
pub(crate) const NEXT_UNKNOWN: u32 = 0x1_0002;
/// A PPP header comes next.
pub(crate) const NEXT_PPP: u32 = 0x1_0003;

/// PPP protocol numbers.
const PPP_IPV4: u32 = 0x0021;
const PPP_IPV6: u32 = 0x0057;

/// Headers between the first byte and the network layer, beside the tag that a hook may keep in metadata.
pub(crate) const STEPS_MAX: u32 = 12;

const ETHERNET_HEADER: u32 = 14;
const TAG: u32 = 4;
const LABEL: u32 = 4;
/// PPPoE's header and the PPP protocol behind it.
const PPPOE_HEADER: u32 = 8;
/// LLC and SNAP.
const SNAP_HEADER: u32 = 8;

/// Reads the first header: of Ethernet, or what says which IP it is.
#[inline(always)]
pub(crate) fn first<P: PacketBytes>(
    packet: &P,
    link: Link,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    match link {
        Link::Ethernet => ethernet(packet, headers)?,
        Link::RawIp => headers.ethertype = ip_version(packet, headers)?,
        Link::Unsupported => return Err(Outcome::LinkUnsupported),
        #[cfg(not(target_arch = "bpf"))]
        offline => super::offline_link::parse(packet, offline, headers)?,
    }
    Ok(())
}

/// Whether what comes next is for [`rest`].
#[inline(always)]
pub(crate) const fn is_link_header(ethertype: u32) -> bool {
    matches!(
        ethertype,
        CUSTOMER_TAG
            | SERVICE_TAG
            | OLD_STACKED_TAG
            | MPLS
            | MPLS_UPSTREAM
            | PPPOE_SESSION
            | NEXT_LLC
            | NEXT_PPP
    )
}

/// Reads link headers from the cursor on, up to the network layer.
#[inline(always)]
pub(crate) fn rest<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let mut steps = 0;
    while steps <= STEPS_MAX {
        let headers = forget(headers);
        match headers.ethertype {
            NEXT_ETHERNET => ethernet(packet, headers)?,
            CUSTOMER_TAG | SERVICE_TAG | OLD_STACKED_TAG => tag(packet, headers)?,
            MPLS | MPLS_UPSTREAM => label(packet, headers)?,
            PPPOE_SESSION => pppoe(packet, headers)?,
            NEXT_LLC => llc(packet, headers)?,
            NEXT_PPP => ppp(packet, headers)?,
            _ => return Ok(()),
        }
        steps += 1;
    }
    Err(Outcome::TooDeep)
}

/// The version of an IP header says which one it is.
#[inline(always)]
fn ip_version<P: PacketBytes>(packet: &P, headers: &Headers) -> Result<u32, Outcome> {
    let Some(first) = packet.at::<1>(headers.offset as usize) else {
        return Err(missing(headers, headers.offset, 1, Outcome::MalformedLink));
    };
    Ok(match first[0] >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => NEXT_UNKNOWN,
    })
}

#[inline(always)]
fn ethernet<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(ethernet) = packet.at::<{ ETHERNET_HEADER as usize }>(offset as usize) else {
        return Err(missing(headers, offset, ETHERNET_HEADER, Outcome::MalformedLink));
    };
    next_by_type_or_length(headers, be16(ethernet, 12), offset + ETHERNET_HEADER);
    Ok(())
}

/// A type field: an ethertype, or the length of an LLC frame.
#[inline(always)]
pub(crate) fn next_by_type(headers: &mut Headers, kind: u32, offset: u32) {
    headers.ethertype = if kind < ETHERTYPE_MIN { NEXT_LLC } else { kind };
    headers.offset = offset;
}

/// As [`next_by_type`], where a length is that of what follows.
#[inline(always)]
fn next_by_type_or_length(headers: &mut Headers, kind: u32, offset: u32) {
    #[cfg(not(target_arch = "bpf"))]
    if kind < ETHERTYPE_MIN {
        ends_after(headers, offset, kind);
    }
    next_by_type(headers, kind, offset);
}

/// What carries the packet says how long it is.
#[cfg(not(target_arch = "bpf"))]
fn ends_after(headers: &mut Headers, offset: u32, length: u32) {
    headers.end = headers.end.min(offset.saturating_add(length));
}

#[inline(always)]
fn tag<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(tag) = packet.at::<{ TAG as usize }>(offset as usize) else {
        return Err(missing(headers, offset, TAG, Outcome::MalformedLink));
    };
    if headers.key.vlan == 0 {
        headers.key.vlan = (be16(tag, 0) & 0xfff) as u16;
    }
    next_by_type_or_length(headers, be16(tag, 2), offset + TAG);
    Ok(())
}

/// One MPLS label (RFC 3032). What the last one covers is told by its first nibble (RFC 4928): IP, or an Ethernet
/// pseudowire with a control word (RFC 4448) or without.
#[inline(always)]
fn label<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(label) = packet.at::<{ LABEL as usize }>(offset as usize) else {
        return Err(missing(headers, offset, LABEL, Outcome::MalformedLink));
    };
    headers.offset = offset + LABEL;
    let is_bottom = label[2] & 1 != 0;
    if !is_bottom {
        return Ok(());
    }
    let Some(first) = packet.at::<1>(headers.offset as usize) else {
        return Err(missing(headers, headers.offset, 1, Outcome::MalformedLink));
    };
    headers.ethertype = match first[0] >> 4 {
        4 => IPV4,
        6 => IPV6,
        // An associated channel (RFC 5586): control traffic.
        1 => NEXT_UNKNOWN,
        0 => {
            headers.offset += LABEL;
            NEXT_ETHERNET
        }
        _ => NEXT_ETHERNET,
    };
    Ok(())
}

#[inline(always)]
fn pppoe<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let offset = headers.offset;
    let Some(pppoe) = packet.at::<{ PPPOE_HEADER as usize }>(offset as usize) else {
        return Err(missing(headers, offset, PPPOE_HEADER, Outcome::MalformedLink));
    };
    #[cfg(not(target_arch = "bpf"))]
    ends_after(headers, offset + PPPOE_HEADER - 2, be16(pppoe, 4));
    headers.offset = offset + PPPOE_HEADER;
    headers.ethertype = ppp_protocol(be16(pppoe, 6));
    Ok(())
}

/// The ethertype that a PPP protocol stands for.
#[inline(always)]
pub(crate) const fn ppp_protocol(number: u32) -> u32 {
    match number {
        PPP_IPV4 => IPV4,
        PPP_IPV6 => IPV6,
        _ => NEXT_UNKNOWN,
    }
}

/// PPP, with or without address and control, the protocol in one byte or in two (RFC 1661, 2 and 6.5).
#[inline(always)]
fn ppp<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const ADDRESS_AND_CONTROL: u32 = 0xff03;
    let offset = headers.offset;
    // Nothing that linnet reads is shorter.
    let Some(start) = packet.at::<4>(offset as usize) else {
        return Err(missing(headers, offset, 4, Outcome::MalformedLink));
    };
    let skipped = if be16(start, 0) == ADDRESS_AND_CONTROL { 2 } else { 0 };
    let (first, both) =
        if skipped == 0 { (start[0], be16(start, 0)) } else { (start[2], be16(start, 2)) };
    let is_short = first & 1 != 0;
    headers.ethertype = ppp_protocol(if is_short { u32::from(first) } else { both });
    headers.offset = offset + skipped + if is_short { 1 } else { 2 };
    Ok(())
}

/// LLC (IEEE 802.2) with SNAP and an ethertype (RFC 1042); anything else carries no IP that linnet reads.
#[inline(always)]
fn llc<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const SNAP: u32 = 0xaaaa_0300;
    let offset = headers.offset;
    let Some(llc) = packet.at::<{ SNAP_HEADER as usize }>(offset as usize) else {
        // Shorter frames of 802.2 are whole, and none of them is IP.
        headers.ethertype = NEXT_UNKNOWN;
        return Ok(());
    };
    // The organisation: 0 for ethertypes; 0x0000f8 where a bridge translated.
    let known = be32(llc, 0) == SNAP && llc[4] == 0 && matches!(llc[5], 0 | 0xf8);
    headers.ethertype = if known { be16(llc, 6) } else { NEXT_UNKNOWN };
    headers.offset = offset + SNAP_HEADER;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::{Frame, Ktime, replay::Replay};

    const ADDRESSES: [u8; 12] = [2; 12];
    /// An IPv4 header of 28 bytes in all, with UDP, and its ports.
    const IP: [u8; 28] = [
        0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9, 0, 8, 0,
        0,
    ];

    /// What is counted of a frame, and the ports of its flow where it has one.
    fn counted(parts: &[&[u8]], link: Link) -> (Outcome, u16, u16) {
        let bytes: Vec<u8> = parts.concat();
        let length = u32::try_from(bytes.len()).unwrap();
        let mut replay = Replay::default();
        let frame = Frame { link, ..Frame::plain(Ktime(1), length) };
        let outcome = replay.frame(bytes.as_slice(), &frame);
        let key = replay.headers().key;
        (outcome, u16::from_be(key.lower_port), u16::from_be(key.upper_port))
    }

    fn on_ethernet(parts: &[&[u8]]) -> (Outcome, u16, u16) {
        let frame: Vec<&[u8]> = [&ADDRESSES[..]].into_iter().chain(parts.iter().copied()).collect();
        counted(&frame, Link::Ethernet)
    }

    const FOUND: (Outcome, u16, u16) = (Outcome::Tracked, 7, 9);

    #[test]
    fn labels_lead_to_ip_and_to_pseudowires() {
        let (label, last) = ([0, 1, 0x00, 64], [0, 2, 0x01, 64]);
        assert_eq!(on_ethernet(&[&[0x88, 0x47], &label, &last, &IP]), FOUND);
        let inner: &[&[u8]] = &[&ADDRESSES, &[8, 0], &IP];
        let inner = inner.concat();
        assert_eq!(on_ethernet(&[&[0x88, 0x48], &last, &[0, 0, 0, 1], &inner]), FOUND);
        assert_eq!(on_ethernet(&[&[0x88, 0x47], &last, &inner]), (Outcome::NotIp, 0, 0), "0x02..");
        let channel = [0x10, 0, 0, 0x21];
        assert_eq!(on_ethernet(&[&[0x88, 0x47], &last, &channel]).0, Outcome::NotIp);
    }

    #[test]
    fn pppoe_leads_to_ip_below_tags() {
        let session = [0x11, 0, 0, 5, 0, 30];
        let frame: &[&[u8]] = &[&[0x81, 0, 0, 5, 0x88, 0x64], &session, &[0x00, 0x21], &IP];
        assert_eq!(on_ethernet(frame), FOUND);
        let control: &[&[u8]] = &[&[0x88, 0x64], &session, &[0xc0, 0x21], &[1, 1, 0, 4]];
        assert_eq!(on_ethernet(control).0, Outcome::NotIp);
    }

    #[test]
    fn snap_has_an_ethertype_and_other_llc_has_no_ip() {
        let length = [0, 36];
        let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        assert_eq!(on_ethernet(&[&length, &snap, &IP]), FOUND);
        let spanning_tree = [0x42, 0x42, 3, 0, 0];
        assert_eq!(on_ethernet(&[&length, &spanning_tree]).0, Outcome::NotIp);
    }

    #[test]
    fn more_headers_than_the_bound_are_too_deep() {
        let tags = [0x81, 0x00, 0x00, 0x01].repeat(STEPS_MAX as usize + 1);
        assert_eq!(on_ethernet(&[&tags, &[8, 0], &IP]).0, Outcome::TooDeep);
        let tags = [0x81, 0x00, 0x00, 0x01].repeat(STEPS_MAX as usize);
        assert_eq!(on_ethernet(&[&tags, &[8, 0], &IP]), FOUND);
    }

    #[test]
    fn links_of_files_lead_to_ip() {
        let sll = [0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 8, 0];
        let sll2 = [8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
        let nflog = [2, 0, 0, 42, 5, 0, 10, 0, 0, 0, 0, 0, 32, 0, 9, 0];
        let nflog_on_a_big_machine = [2, 0, 0, 42, 0, 5, 0, 10, 0, 0, 0, 0, 0, 32, 0, 9];
        let fddi = [0x50, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        for (link, header) in [
            (Link::RawIp, &[][..]),
            (Link::Null, &[2, 0, 0, 0]),
            (Link::Null, &[0, 0, 0, 2]),
            (Link::LinuxSll, &sll),
            (Link::LinuxSll2, &sll2),
            (Link::Ppp, &[0xff, 0x03, 0x00, 0x21]),
            (Link::Ppp, &[0x00, 0x21]),
            (Link::Ppp, &[0x21]),
            (Link::PppEther, &[0x11, 0, 0, 5, 0, 30, 0x00, 0x21]),
            (Link::CiscoHdlc, &[0x0f, 0, 8, 0]),
            (Link::Fddi, &fddi),
            (Link::Nflog, &nflog),
            (Link::Nflog, &nflog_on_a_big_machine),
        ] {
            assert_eq!(counted(&[header, &IP], link), FOUND, "{link:?}");
        }
    }
}
