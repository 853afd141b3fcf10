//! Where what a capture filter looks at begins, beside the frame as it is: the frame without its tags, and what one tunnel
//! carries. Says where, and copies nothing; never looks into a second tunnel.
//!
//! The rules are those of `captures::filter::views`, which run on whole frames; here they run on the start of one.

use crate::frame::Link;

/// Tags that are looked through; a third one stays.
pub const TAGS_MAX: usize = 2;
/// Bytes of a tag.
pub const TAG: usize = 4;
/// Bytes of both hardware addresses, behind which tags stand.
pub const ADDRESSES: usize = 12;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Greatest offset at which a tunnel's packet may begin.
pub const INNER_AT_MAX: usize = 512;
/// Bytes of a frame that decide where that is.
pub const INNER_REACH: usize = INNER_AT_MAX + 40;
/// IPv6 extension headers that are skipped in front of a tunnel.
const EXTENSIONS_MAX: usize = 6;

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const BRIDGED: u32 = 0x6558;

/// A frame's first bytes.
pub trait Head {
    /// Whether there are `end` bytes of it.
    fn holds(&self, end: usize) -> bool;

    /// A byte.
    fn byte(&self, at: usize) -> Option<u32>;

    /// Two, as one big-endian number.
    fn half(&self, at: usize) -> Option<u32>;

    /// [`behind_extension`], as a call where that matters.
    #[inline(always)]
    fn behind_extension(&self, protocol: u32, at: usize) -> Option<(u32, usize)> {
        behind_extension(self, protocol, at)
    }
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Carried {
    /// A frame.
    Ethernet = 1,
    /// A packet without a link header.
    Ipv4 = 2,
    /// The same.
    Ipv6 = 3,
}

impl Carried {
    #[inline(always)]
    const fn by_type(ethertype: u32) -> Option<Self> {
        if ethertype == BRIDGED {
            Some(Self::Ethernet)
        } else if ethertype == IPV4 {
            Some(Self::Ipv4)
        } else if ethertype == IPV6 {
            Some(Self::Ipv6)
        } else {
            None
        }
    }

    /// What stands before such a packet in a view of Ethernet; none for a frame.
    #[inline(always)]
    #[must_use]
    pub const fn ethertype(self) -> Option<u16> {
        match self {
            Self::Ethernet => None,
            Self::Ipv4 => Some(0x0800),
            Self::Ipv6 => Some(0x86dd),
        }
    }
}

/// Whether a tag begins there, with all of its bytes.
#[inline(always)]
pub fn is_tag<H: Head + ?Sized>(head: &H, at: usize) -> bool {
    let Some(kind) = head.half(at) else { return false };
    head.holds(at + TAG) && (kind == 0x8100 || kind == 0x88a8 || kind == 0x9100)
}

/// Where what one tunnel carries begins, of a frame whose first `tags` tags are looked through.
#[inline(always)]
pub fn inner<H: Head + ?Sized>(head: &H, link: Link, tags: usize) -> Option<(Carried, usize)> {
    let (ethertype, network) = if link == Link::RawIp {
        let version = head.byte(0)? >> 4;
        let ethertype = if version == 4 {
            IPV4
        } else if version == 6 {
            IPV6
        } else {
            return None;
        };
        (ethertype, 0)
    } else {
        let at = ADDRESSES + tags * TAG;
        (head.half(at)?, at + 2)
    };
    let (protocol, transport) = if ethertype == IPV4 {
        behind_ipv4(head, network)?
    } else if ethertype == IPV6 {
        behind_ipv6(head, network)?
    } else {
        return None;
    };
    let (carried, at) = if protocol == 4 {
        (Carried::Ipv4, transport)
    } else if protocol == 41 {
        (Carried::Ipv6, transport)
    } else if protocol == 47 {
        behind_gre(head, transport)?
    } else if protocol == 17 {
        behind_udp(head, transport)?
    } else {
        return None;
    };
    if at > INNER_AT_MAX {
        return None;
    }
    let is_there = match carried {
        Carried::Ethernet => head.holds(at + ETHERNET_HEADER),
        Carried::Ipv4 => head.byte(at)? >> 4 == 4,
        Carried::Ipv6 => head.byte(at)? >> 4 == 6,
    };
    if is_there { Some((carried, at)) } else { None }
}

/// Protocol and offset of an IPv4 packet's payload, unless it is a later fragment's.
#[inline(always)]
fn behind_ipv4<H: Head + ?Sized>(head: &H, at: usize) -> Option<(u32, usize)> {
    const OFFSET: u32 = 0x1fff;
    if !head.holds(at + 20) {
        return None;
    }
    let first = head.byte(at)?;
    let length = (first & 0xf) as usize * 4;
    if first >> 4 != 4 || length < 20 || head.half(at + 6)? & OFFSET != 0 {
        return None;
    }
    Some((head.byte(at + 9)?, at + length))
}

/// The same of an IPv6 packet, behind its extension headers.
#[inline(always)]
fn behind_ipv6<H: Head + ?Sized>(head: &H, at: usize) -> Option<(u32, usize)> {
    if !head.holds(at + 40) || head.byte(at)? >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut at) = (head.byte(at + 6)?, at + 40);
    let mut extensions = 0;
    while extensions < EXTENSIONS_MAX && is_extension(protocol) {
        extensions += 1;
        (protocol, at) = head.behind_extension(protocol, at)?;
    }
    Some((protocol, at))
}

const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;

/// Those, hop-by-hop, routing, destination, mobility, HIP, SHIM6.
#[inline(always)]
const fn is_extension(protocol: u32) -> bool {
    protocol == FRAGMENT
        || protocol == AUTHENTICATION
        || protocol == 0
        || protocol == 43
        || protocol == 60
        || protocol == 135
        || protocol == 139
        || protocol == 140
}

/// What follows one extension header, unless it is a later fragment's.
#[inline(always)]
pub fn behind_extension<H: Head + ?Sized>(
    head: &H,
    protocol: u32,
    at: usize,
) -> Option<(u32, usize)> {
    if !head.holds(at + 8) {
        return None;
    }
    let units = head.byte(at + 1)? as usize;
    let length = if protocol == FRAGMENT {
        if head.half(at + 2)? & 0xfff8 != 0 {
            return None;
        }
        8
    } else if protocol == AUTHENTICATION {
        (units + 2) * 4
    } else {
        (units + 1) * 8
    };
    let next = at + length;
    if next > INNER_AT_MAX { None } else { Some((head.byte(at)?, next)) }
}

#[inline(always)]
fn behind_gre<H: Head + ?Sized>(head: &H, at: usize) -> Option<(Carried, usize)> {
    const ROUTING_AND_VERSION: u32 = 0x4007;
    let flags = head.half(at)?;
    if flags & ROUTING_AND_VERSION != 0 {
        return None;
    }
    // Checksum, key and sequence number have four bytes each.
    let fields = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
    Some((Carried::by_type(head.half(at + 2)?)?, at + 4 + fields as usize * 4))
}

/// A tunnel by its destination port, else by its source port.
#[inline(always)]
fn behind_udp<H: Head + ?Sized>(head: &H, at: usize) -> Option<(Carried, usize)> {
    const GENEVE: u32 = 6081;
    const HAS_NETWORK: u32 = 0x08;
    let (source, destination) = (head.half(at)?, head.half(at + 2)?);
    let port = if is_tunnel(destination) { destination } else { source };
    if !is_tunnel(port) {
        return None;
    }
    let at = at + 8;
    if !head.holds(at + 8) {
        return None;
    }
    let first = head.byte(at)?;
    if port != GENEVE {
        return if first & HAS_NETWORK != 0 { Some((Carried::Ethernet, at + 8)) } else { None };
    }
    if first >> 6 != 0 {
        return None;
    }
    let options = (first & 0x3f) as usize * 4;
    Some((Carried::by_type(head.half(at + 2)?)?, at + 8 + options))
}

/// VXLAN, at its port or Linux's older one, or Geneve.
#[inline(always)]
const fn is_tunnel(port: u32) -> bool {
    port == 4789 || port == 8472 || port == 6081
}

impl Head for [u8] {
    fn holds(&self, end: usize) -> bool {
        end <= self.len()
    }

    fn byte(&self, at: usize) -> Option<u32> {
        self.get(at).map(|byte| u32::from(*byte))
    }

    fn half(&self, at: usize) -> Option<u32> {
        let bytes = self.get(at..)?.first_chunk()?;
        Some(u32::from(u16::from_be_bytes(*bytes)))
    }
}
