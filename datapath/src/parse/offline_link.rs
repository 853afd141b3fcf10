//! Link headers that only capture files have: cooked captures, BSD loopback, PPP, HDLC, FDDI, netfilter's log. Compiled for the host
//! alone, since no interface of the kernel path begins like this.

use crate::{
    bytes::{PacketBytes, be16},
    frame::Link,
    outcome::Outcome,
    parse::{
        Headers,
        link::{IPV4, IPV6, NEXT_PPP, NEXT_UNKNOWN, next_by_type},
        missing,
    },
};

/// Reads the one header in front of what [`super::link`] reads.
pub(super) fn parse<P: PacketBytes>(
    packet: &P,
    link: Link,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    match link {
        Link::Null => null(packet, headers),
        Link::LinuxSll => {
            let sll = header::<16, P>(packet, headers)?;
            next_by_type(headers, be16(sll, 14), 16);
            Ok(())
        }
        Link::LinuxSll2 => {
            let sll2 = header::<20, P>(packet, headers)?;
            next_by_type(headers, be16(sll2, 0), 20);
            Ok(())
        }
        Link::Ppp => {
            headers.ethertype = NEXT_PPP;
            Ok(())
        }
        Link::PppEther => {
            next_by_type(headers, 0x8864, 0);
            Ok(())
        }
        // Address and control, then an ethertype (RFC 1547, Cisco's framing).
        Link::CiscoHdlc => {
            let hdlc = header::<4, P>(packet, headers)?;
            next_by_type(headers, be16(hdlc, 2), 4);
            Ok(())
        }
        // Frame control and two addresses, then LLC (RFC 1188).
        Link::Fddi => {
            header::<13, P>(packet, headers)?;
            next_by_type(headers, 0, 13);
            Ok(())
        }
        Link::Nflog => nflog(packet, headers),
        Link::Ethernet | Link::RawIp | Link::Unsupported => Err(Outcome::LinkUnsupported),
    }
}

fn header<'a, const N: usize, P: PacketBytes>(
    packet: &'a P,
    headers: &Headers,
) -> Result<&'a [u8; N], Outcome> {
    let needed = u32::try_from(N).unwrap_or(u32::MAX);
    packet.at::<N>(0).ok_or_else(|| missing(headers, 0, needed, Outcome::MalformedLink))
}

/// The BSD loopback header: an address family in the order of the machine that captured, then IP.
fn null<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let family = header::<4, P>(packet, headers)?;
    let little = u32::from_le_bytes(*family);
    let family = if little > 0xffff { u32::from_be_bytes(*family) } else { little };
    headers.offset = 4;
    // AF_INET is 2 everywhere; AF_INET6 is 24, 28 or 30 on the BSDs and macOS, 10 on Linux.
    headers.ethertype = match family {
        2 => IPV4,
        10 | 24 | 28 | 30 => IPV6,
        _ => NEXT_UNKNOWN,
    };
    Ok(())
}

/// Netfilter's log (`linux/netfilter/nfnetlink_log.h`): a family, then attributes in the order of the machine that
/// captured, of which one is the packet.
fn nflog<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const ATTRIBUTES_MAX: u32 = 32;
    const PAYLOAD: u16 = 9;
    let [family, ..] = *header::<4, P>(packet, headers)?;
    let mut at = 4;
    for _attribute in 0..ATTRIBUTES_MAX {
        let Some(attribute) = packet.at::<4>(at as usize) else {
            return Err(missing(headers, at, 4, Outcome::MalformedLink));
        };
        let [a, b, c, d] = *attribute;
        // Kinds are small, which tells the order.
        let order =
            if u16::from_le_bytes([c, d]) > 0xff { u16::from_be_bytes } else { u16::from_le_bytes };
        let (length, kind) = (u32::from(order([a, b])), order([c, d]));
        if length < 4 {
            return Err(Outcome::MalformedLink);
        }
        if kind == PAYLOAD {
            headers.offset = at + 4;
            headers.end = headers.end.min(at.saturating_add(length));
            headers.ethertype = match family {
                2 => IPV4,
                10 => IPV6,
                _ => NEXT_UNKNOWN,
            };
            return Ok(());
        }
        at += length.next_multiple_of(4);
    }
    Err(Outcome::TooDeep)
}
