//! What a filter is shown of a frame: the frame, the frame without its tags, or what one tunnel of it carries.
//! Never copies a byte, never reads beyond the frame, and never looks into a second tunnel.
//!
//! Tunnels are those that the datapath knows and that carry Ethernet or IP by themselves: IPv4 or IPv6 in either
//! (RFC 2003, 2473, 4213), GRE of version 0 (RFC 2784, 2890) with IPv4, IPv6 or Ethernet, VXLAN (RFC 7348) at its port or
//! Linux's older one, and Geneve (RFC 8926) with the same. Teredo, GTP-U, ERSPAN and PPTP are left closed.

use crate::LinkType;

/// One way to look at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The frame as it is on the wire.
    AsItIs,
    /// An Ethernet frame without its first tags, at most [`TAGS_MAX`]; as it is where it has none.
    Untagged,
    /// What one tunnel carries, as an Ethernet frame without its tags; IP behind a header of zero addresses. Nothing
    /// where there is no tunnel, or where its packet is a fragment other than the first.
    Inner,
}

/// Tags that are looked through; a third one stays.
pub const TAGS_MAX: usize = 2;
/// Greatest offset at which a tunnel's packet may begin. Tags, the longest IPv4 header and Geneve with all options need
/// 350 bytes.
pub const INNER_OFFSET_MAX: usize = 512;
/// IPv6 extension headers that are skipped in front of a tunnel.
pub const EXTENSIONS_MAX: usize = 6;

/// IANA's port of VXLAN.
pub(super) const PORT_VXLAN: u16 = 4789;
/// Linux's own, from before there was one.
pub(super) const PORT_VXLAN_LINUX: u16 = 8472;
/// IANA's port of Geneve.
pub(super) const PORT_GENEVE: u16 = 6081;

const TAG: usize = 4;
const ADDRESSES: usize = 12;
const ETHERNET_HEADER: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const BRIDGED: u16 = 0x6558;
/// 802.1Q, 802.1ad, and the type of stacked tags from before that.
const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// What stands before an IPv4 packet that came without a link header.
const BEFORE_IPV4: [u8; ETHERNET_HEADER] = before(IPV4);
/// And before an IPv6 packet.
const BEFORE_IPV6: [u8; ETHERNET_HEADER] = before(IPV6);

const fn before(ethertype: u16) -> [u8; ETHERNET_HEADER] {
    let mut header = [0; ETHERNET_HEADER];
    [header[ADDRESSES], header[ADDRESSES + 1]] = ethertype.to_be_bytes();
    header
}

/// The bytes of a view, which are those of `head` and then those of `tail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The first bytes.
    pub head: &'a [u8],
    /// All others.
    pub tail: &'a [u8],
}

impl Seen<'_> {
    /// `N` bytes from an offset on, if all of them are there.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if let Some(behind) = at.checked_sub(self.head.len()) {
            return chunk(self.tail, behind);
        }
        if let Some(inside) = chunk(self.head, at) {
            return Some(inside);
        }
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            [*byte] = self.bytes::<1>(at.checked_add(index)?)?;
        }
        Some(bytes)
    }
}

impl<'a> From<&'a [u8]> for Seen<'a> {
    fn from(data: &'a [u8]) -> Self {
        Self { head: &[], tail: data }
    }
}

impl View {
    /// Its name in every answer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsItIs => "as_it_is",
            Self::Untagged => "untagged",
            Self::Inner => "inner",
        }
    }

    /// What it shows of a frame; `None` where that has nothing of the kind.
    pub fn of(self, frame: &[u8], link_type: LinkType) -> Option<Seen<'_>> {
        match self {
            Self::AsItIs => Some(frame.into()),
            Self::Untagged => Some(untagged(frame)),
            Self::Inner => inner(frame, link_type),
        }
    }

    /// Bytes of the frame that matter to a program which looks at `reach` bytes of this view.
    pub(super) fn reach(self, reach: u32) -> u32 {
        const TAGS: usize = TAGS_MAX * TAG;
        let (least, more) = match self {
            Self::AsItIs => (0, 0),
            Self::Untagged if reach as usize <= ADDRESSES => (0, 0),
            Self::Untagged => (0, TAGS),
            Self::Inner => (ETHERNET_HEADER, INNER_OFFSET_MAX + TAGS),
        };
        let bytes = (reach as usize).max(least).saturating_add(more);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

fn untagged(frame: &[u8]) -> Seen<'_> {
    match tags(frame) {
        0 => frame.into(),
        tags => Seen { head: &frame[..ADDRESSES], tail: &frame[ADDRESSES + tags * TAG..] },
    }
}

/// How many tags to look through; each of them is there with all of its bytes.
fn tags(frame: &[u8]) -> usize {
    let is_tag = |at| {
        let whole = frame.len() >= at + TAG;
        whole && half(frame, at).is_some_and(|kind| TAG_TYPES.contains(&kind))
    };
    (0..TAGS_MAX).take_while(|tag| is_tag(ADDRESSES + tag * TAG)).count()
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    Ethernet,
    Ipv4,
    Ipv6,
}

impl Carried {
    const fn by_type(ethertype: u16) -> Option<Self> {
        match ethertype {
            BRIDGED => Some(Self::Ethernet),
            IPV4 => Some(Self::Ipv4),
            IPV6 => Some(Self::Ipv6),
            _ => None,
        }
    }
}

fn inner(frame: &[u8], link_type: LinkType) -> Option<Seen<'_>> {
    let (ethertype, network) = if link_type == LinkType::RAW {
        let ethertype = match version(frame, 0)? {
            4 => IPV4,
            6 => IPV6,
            _ => return None,
        };
        (ethertype, 0)
    } else {
        let at = ADDRESSES + tags(frame) * TAG;
        (half(frame, at)?, at + 2)
    };
    let (protocol, transport) = match ethertype {
        IPV4 => behind_ipv4(frame, network)?,
        IPV6 => behind_ipv6(frame, network)?,
        _ => return None,
    };
    let (carried, at) = match protocol {
        4 => (Carried::Ipv4, transport),
        41 => (Carried::Ipv6, transport),
        47 => behind_gre(frame, transport)?,
        17 => behind_udp(frame, transport)?,
        _ => return None,
    };
    if at > INNER_OFFSET_MAX {
        return None;
    }
    let packet = frame.get(at..)?;
    match carried {
        Carried::Ethernet => (packet.len() >= ETHERNET_HEADER).then(|| untagged(packet)),
        Carried::Ipv4 => {
            (version(packet, 0)? == 4).then_some(Seen { head: &BEFORE_IPV4, tail: packet })
        }
        Carried::Ipv6 => {
            (version(packet, 0)? == 6).then_some(Seen { head: &BEFORE_IPV6, tail: packet })
        }
    }
}

/// Protocol and offset of an IPv4 packet's payload, unless it is a later fragment's.
fn behind_ipv4(frame: &[u8], at: usize) -> Option<(u8, usize)> {
    const OFFSET: u16 = 0x1fff;
    let header: [u8; 20] = chunk(frame, at)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let later = u16::from_be_bytes([header[6], header[7]]) & OFFSET != 0;
    let sound = header[0] >> 4 == 4 && length >= 20 && !later;
    sound.then_some((header[9], at + length))
}

/// The same of an IPv6 packet, behind its extension headers.
fn behind_ipv6(frame: &[u8], at: usize) -> Option<(u8, usize)> {
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    /// Hop-by-hop, routing, destination, mobility, HIP, SHIM6.
    const OTHERS: [u8; 6] = [0, 43, 60, 135, 139, 140];
    let header: [u8; 40] = chunk(frame, at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut at) = (header[6], at + 40);
    for _ in 0..EXTENSIONS_MAX {
        let known = matches!(protocol, FRAGMENT | AUTHENTICATION) || OTHERS.contains(&protocol);
        if !known {
            break;
        }
        let extension: [u8; 8] = chunk(frame, at)?;
        let later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
        if protocol == FRAGMENT && later {
            return None;
        }
        at += match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        protocol = extension[0];
    }
    Some((protocol, at))
}

fn behind_gre(frame: &[u8], at: usize) -> Option<(Carried, usize)> {
    const ROUTING_AND_VERSION: u16 = 0x4007;
    /// Checksum, key and sequence number have four bytes each.
    const FIELDS: [u16; 3] = [0x8000, 0x2000, 0x1000];
    let (flags, carried) = (half(frame, at)?, half(frame, at + 2)?);
    if flags & ROUTING_AND_VERSION != 0 {
        return None;
    }
    let fields = FIELDS.iter().filter(|&field| flags & field != 0).count();
    Some((Carried::by_type(carried)?, at + 4 + fields * 4))
}

/// A tunnel by its destination port, else by its source port.
fn behind_udp(frame: &[u8], at: usize) -> Option<(Carried, usize)> {
    let ports = [half(frame, at + 2)?, half(frame, at)?];
    let known = |port: &u16| matches!(*port, PORT_VXLAN | PORT_VXLAN_LINUX | PORT_GENEVE);
    let port = ports.into_iter().find(known)?;
    let at = at + 8;
    let header: [u8; 8] = chunk(frame, at)?;
    if port != PORT_GENEVE {
        const HAS_NETWORK: u8 = 0x08;
        return (header[0] & HAS_NETWORK != 0).then_some((Carried::Ethernet, at + 8));
    }
    let (version, options) = (header[0] >> 6, usize::from(header[0] & 0x3f) * 4);
    let carried = Carried::by_type(u16::from_be_bytes([header[2], header[3]]))?;
    (version == 0).then_some((carried, at + 8 + options))
}

fn version(packet: &[u8], at: usize) -> Option<u8> {
    packet.get(at).map(|first| first >> 4)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(u16::from_be_bytes)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
