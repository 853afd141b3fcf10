//! Encapsulations: which packets may carry another one, and where that begins. Never reads the inner packet itself:
//! the parser starts over there.

use crate::{
    bytes::{PacketBytes, be16, be32},
    flow_key::FlowKey,
    outcome::Outcome,
    parse::{
        Headers,
        link::{IPV4, IPV6, NEXT_ETHERNET, NEXT_PPP, NEXT_UNKNOWN},
        missing,
        transport::UDP,
    },
};

macro_rules! tunnels {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: u32 = $number;)*

        /// The name of a kind in every answer; `None` for no tunnel.
        #[cfg(not(target_arch = "bpf"))]
        #[must_use]
        pub const fn name(kind: u8) -> Option<&'static str> {
            match kind as u32 {
                $($number => Some($name),)*
                _ => None,
            }
        }
    };
}

tunnels! {
    /// IPv4 in IPv4 (RFC 2003).
    IPIP = 1, "ipip";
    /// IPv6 in IPv4 (RFC 4213).
    SIX_IN_FOUR = 2, "6in4";
    /// IPv4 in IPv6 (RFC 2473).
    FOUR_IN_SIX = 3, "4in6";
    /// IPv6 in IPv6 (RFC 2473).
    SIX_IN_SIX = 4, "6in6";
    /// GRE (RFC 2784, RFC 2890, RFC 2637).
    GRE = 5, "gre";
    /// ERSPAN (draft-foschiano-erspan).
    ERSPAN = 6, "erspan";
    /// VXLAN (RFC 7348).
    VXLAN = 7, "vxlan";
    /// Geneve (RFC 8926).
    GENEVE = 8, "geneve";
    /// Teredo (RFC 4380).
    TEREDO = 9, "teredo";
    /// GTP-U (3GPP TS 29.281).
    GTP = 10, "gtp";
}

const PROTOCOL_IPV4: u32 = 4;
const PROTOCOL_IPV6: u32 = 41;
const PROTOCOL_GRE: u32 = 47;

/// UDP ports by the IANA registry, and Linux's own for VXLAN from before there was one.
const PORT_VXLAN: u32 = 4789;
const PORT_VXLAN_LINUX: u32 = 8472;
const PORT_GENEVE: u32 = 6081;
const PORT_TEREDO: u32 = 3544;
const PORT_GTP: u32 = 2152;

/// What a packet of this protocol may carry, by protocol number or UDP port; 0 for nothing.
#[inline(always)]
pub(crate) fn candidate(headers: &Headers, source: u32, destination: u32) -> u32 {
    let on_ipv6 = headers.ethertype == IPV6;
    match headers.protocol {
        PROTOCOL_IPV4 if on_ipv6 => FOUR_IN_SIX,
        PROTOCOL_IPV4 => IPIP,
        PROTOCOL_IPV6 if on_ipv6 => SIX_IN_SIX,
        PROTOCOL_IPV6 => SIX_IN_FOUR,
        PROTOCOL_GRE => GRE,
        UDP => match by_port(destination) {
            0 => by_port(source),
            kind => kind,
        },
        _ => 0,
    }
}

#[inline(always)]
const fn by_port(port: u32) -> u32 {
    match port {
        PORT_VXLAN | PORT_VXLAN_LINUX => VXLAN,
        PORT_GENEVE => GENEVE,
        PORT_TEREDO => TEREDO,
        PORT_GTP => GTP,
        _ => 0,
    }
}

/// Sets the cursor to the packet that the one at hand carries: `offset`, `ethertype`, `tunnel` and `tunnel_id`.
/// `ethertype` is unknown where it carries none after all.
#[inline(always)]
pub(crate) fn enter<P: PacketBytes>(
    packet: &P,
    kind: u32,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    headers.tunnel = kind;
    headers.tunnel_id = 0;
    headers.parent_tag = tag(&headers.key);
    headers.offset = headers.header_len;
    headers.ethertype = NEXT_UNKNOWN;
    match headers.tunnel {
        IPIP | FOUR_IN_SIX => headers.ethertype = IPV4,
        SIX_IN_FOUR | SIX_IN_SIX => headers.ethertype = IPV6,
        GRE => gre(packet, headers)?,
        VXLAN => vxlan(packet, headers)?,
        GENEVE => geneve(packet, headers)?,
        TEREDO => teredo(packet, headers)?,
        _ => gtp(packet, headers)?,
    }
    if matches!(headers.tunnel, VXLAN | GENEVE) {
        headers.key.vni = headers.tunnel_id;
    }
    Ok(())
}

/// A short name of a key, by which user space finds the flow that carries another one. Never 0.
#[inline(always)]
#[must_use]
pub const fn tag(key: &FlowKey) -> u64 {
    let [.., place] = key.words();
    hash(key, place) | 1
}

/// A hash that is the same wherever the flow is seen.
#[inline(always)]
#[must_use]
pub(crate) const fn placeless(key: &FlowKey) -> u64 {
    hash(key, key.vni as u64)
}

#[inline(always)]
const fn hash(key: &FlowKey, place: u64) -> u64 {
    let [a, b, c, d, e, _] = key.words();
    let mut hash = mix(a, b);
    hash = mix(hash ^ c, d);
    mix(hash ^ e, place)
}

/// Two words into one; the constant is the golden ratio's (Knuth's multiplicative hash).
#[inline(always)]
const fn mix(a: u64, b: u64) -> u64 {
    let word = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 29
}

#[inline(always)]
fn at<'a, const N: usize, P: PacketBytes>(
    packet: &'a P,
    headers: &Headers,
) -> Result<&'a [u8; N], Outcome> {
    #[expect(clippy::cast_possible_truncation, reason = "headers have a few bytes")]
    let needed = N as u32;
    match packet.at::<N>(headers.offset as usize) {
        Some(bytes) => Ok(bytes),
        None => Err(missing(headers, headers.offset, needed, Outcome::MalformedTunnel)),
    }
}

/// GRE: its optional fields, and ERSPAN's header where that is what it carries.
#[inline(always)]
fn gre<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const CHECKSUM: u32 = 0x8000;
    const ROUTING: u32 = 0x4000;
    const KEY: u32 = 0x2000;
    const SEQUENCE: u32 = 0x1000;
    const ACKNOWLEDGMENT: u32 = 0x0080;
    const VERSION: u32 = 0x0007;
    const PPP: u32 = 0x880b;
    const BRIDGED: u32 = 0x6558;
    const ERSPAN_TWO: u32 = 0x88be;
    const ERSPAN_THREE: u32 = 0x22eb;

    let start = at::<4, P>(packet, headers)?;
    let (flags, carried) = (be16(start, 0), be16(start, 2));
    if flags & ROUTING != 0 || flags & VERSION > 1 {
        return Ok(());
    }
    headers.offset += if flags & CHECKSUM != 0 { 8 } else { 4 };
    if flags & KEY != 0 {
        headers.tunnel_id = be32(at::<4, P>(packet, headers)?, 0);
        headers.offset += 4;
    }
    if flags & SEQUENCE != 0 {
        headers.offset += 4;
    }
    // PPTP's variant (RFC 2637): the key's halves are the payload's length and the call.
    if flags & VERSION == 1 {
        headers.tunnel_id &= 0xffff;
        if flags & ACKNOWLEDGMENT != 0 {
            headers.offset += 4;
        }
    }
    headers.ethertype = match carried {
        BRIDGED => NEXT_ETHERNET,
        PPP => NEXT_PPP,
        // Without a sequence number it is the first version, which has no header of its own.
        ERSPAN_TWO if flags & SEQUENCE == 0 => NEXT_ETHERNET,
        ERSPAN_TWO => erspan(packet, headers, 8)?,
        ERSPAN_THREE => erspan(packet, headers, 12)?,
        other => other,
    };
    Ok(())
}

/// ERSPAN of the second or third version: its session is the tunnel's id.
#[inline(always)]
fn erspan<P: PacketBytes>(packet: &P, headers: &mut Headers, length: u32) -> Result<u32, Outcome> {
    let header = at::<8, P>(packet, headers)?;
    headers.tunnel = ERSPAN;
    headers.tunnel_id = be16(header, 2) & 0x03ff;
    headers.offset += length;
    if length == 12 {
        // The third version's last bit says that eight bytes of the platform follow.
        headers.offset -= 4;
        let last = at::<4, P>(packet, headers)?;
        headers.offset += if last[3] & 1 != 0 { 12 } else { 4 };
    }
    Ok(NEXT_ETHERNET)
}

#[inline(always)]
fn vxlan<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    let header = at::<8, P>(packet, headers)?;
    // Without the flag there is no network id, and no inner frame that a receiver would take.
    if header[0] & 0x08 != 0 {
        headers.tunnel_id = be32(header, 4) >> 8;
        headers.offset += 8;
        headers.ethertype = NEXT_ETHERNET;
    }
    Ok(())
}

#[inline(always)]
fn geneve<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const BRIDGED: u32 = 0x6558;
    let header = at::<8, P>(packet, headers)?;
    let (version, options) = (header[0] >> 6, u32::from(header[0] & 0x3f) * 4);
    if version == 0 {
        headers.tunnel_id = be32(header, 4) >> 8;
        headers.offset += 8 + options;
        let carried = be16(header, 2);
        headers.ethertype = if carried == BRIDGED { NEXT_ETHERNET } else { carried };
    }
    Ok(())
}

/// Teredo: an authentication and an origin may stand before the IPv6 header.
#[inline(always)]
fn teredo<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const AUTHENTICATION: u32 = 0x0001;
    const ORIGIN: u32 = 0x0000;
    let mut first = be16(at::<4, P>(packet, headers)?, 0);
    if first == AUTHENTICATION {
        let header = at::<4, P>(packet, headers)?;
        headers.offset += 13 + u32::from(header[2]) + u32::from(header[3]);
        first = be16(at::<4, P>(packet, headers)?, 0);
    }
    if first == ORIGIN {
        headers.offset += 8;
        first = be16(at::<4, P>(packet, headers)?, 0);
    }
    if first >> 12 == 6 {
        headers.ethertype = IPV6;
    }
    Ok(())
}

/// GTP-U, version 1: user data only, behind a bounded chain of extension headers.
#[inline(always)]
fn gtp<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    const VERSION_AND_TYPE: u8 = 0xf0;
    const VERSION_ONE: u8 = 0x30;
    const USER_DATA: u8 = 0xff;
    const EXTENSION: u8 = 0x04;
    const OPTIONAL: u8 = 0x07;
    const EXTENSIONS_MAX: u32 = 4;

    let header = at::<8, P>(packet, headers)?;
    if header[0] & VERSION_AND_TYPE != VERSION_ONE || header[1] != USER_DATA {
        return Ok(());
    }
    headers.tunnel_id = be32(header, 4);
    headers.offset += 8;
    if header[0] & OPTIONAL != 0 {
        let mut next = at::<4, P>(packet, headers)?[3];
        if header[0] & EXTENSION == 0 {
            next = 0;
        }
        headers.offset += 4;
        let mut read = 0;
        while next != 0 {
            if read == EXTENSIONS_MAX {
                return Err(Outcome::TooDeep);
            }
            let length = u32::from(at::<1, P>(packet, headers)?[0]) * 4;
            if length == 0 {
                return Err(Outcome::MalformedTunnel);
            }
            headers.offset += length - 1;
            next = at::<1, P>(packet, headers)?[0];
            headers.offset += 1;
            read += 1;
        }
    }
    let version = at::<1, P>(packet, headers)?[0] >> 4;
    headers.ethertype = match version {
        4 => IPV4,
        6 => IPV6,
        _ => NEXT_UNKNOWN,
    };
    Ok(())
}
