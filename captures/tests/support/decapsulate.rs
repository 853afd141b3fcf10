//! Frames without their tags, and what their tunnels carry, as etherparse reads them: what the tolerant treatment is held
//! against.
//! Never uses the views under test.

use etherparse::{IpNumber, LaxIpSlice, LaxNetSlice, LaxSlicedPacket};

const ETHERNET: usize = 14;

/// The frame without its first two tags.
pub(crate) fn untagged(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..2 {
        let tag = frame.len() >= ETHERNET + 2
            && matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8] | [0x91, 0]);
        if tag {
            frame.drain(12..16);
        }
    }
    frame
}

/// What one tunnel of an Ethernet frame carries, as a frame.
pub(crate) fn inner(frame: &[u8]) -> Option<Vec<u8>> {
    let frame = untagged(frame);
    if !matches!(frame.get(12..14)?, [0x08, 0] | [0x86, 0xdd]) {
        return None;
    }
    inner_of_ip(&frame[ETHERNET..])
}

/// What one tunnel of an IP packet carries, as a frame.
pub(crate) fn inner_of_ip(packet: &[u8]) -> Option<Vec<u8>> {
    let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
    let net = sliced.net.as_ref()?;
    let payload = net.ip_payload_ref()?;
    let later = match net {
        LaxNetSlice::Ipv4(ip) => ip.header().fragments_offset().value() != 0,
        LaxNetSlice::Ipv6(_) => later_ipv6(packet)?,
        LaxNetSlice::Arp(_) => return None,
    };
    if later {
        return None;
    }
    // To the frame's end, whatever the length in the header.
    let at = payload.payload.as_ptr() as usize - packet.as_ptr() as usize;
    carried(payload.ip_number, packet.get(at..)?)
}

/// Whether any fragment header says that this is a later fragment.
fn later_ipv6(packet: &[u8]) -> Option<bool> {
    let (LaxIpSlice::Ipv6(ip), _) = LaxIpSlice::from_slice(packet).ok()? else { return None };
    let fragment = |extension| match extension {
        etherparse::Ipv6ExtensionSlice::Fragment(fragment) => {
            Some(fragment.fragment_offset().value())
        }
        _ => None,
    };
    Some(ip.extensions().clone().into_iter().filter_map(fragment).any(|offset| offset != 0))
}

fn carried(protocol: IpNumber, payload: &[u8]) -> Option<Vec<u8>> {
    match protocol {
        IpNumber::IPV4 => framed(0x0800, payload),
        IpNumber::IPV6 => framed(0x86dd, payload),
        IpNumber::GRE => gre(payload),
        IpNumber::UDP => {
            let (source, destination) = (half(payload, 0)?, half(payload, 2)?);
            let payload = payload.get(8..)?;
            let by_port = |port| match port {
                4789 | 8472 => Some(vxlan(payload)),
                6081 => Some(geneve(payload)),
                _ => None,
            };
            by_port(destination).or_else(|| by_port(source))?
        }
        _ => None,
    }
}

fn gre(payload: &[u8]) -> Option<Vec<u8>> {
    let (first, version, protocol) = (*payload.first()?, payload.get(1)? & 7, half(payload, 2)?);
    let fields: usize =
        [0x80, 0x20, 0x10].iter().map(|bit| if first & bit != 0 { 4 } else { 0 }).sum();
    let open = first & 0x40 == 0 && version == 0;
    if open { framed(protocol, payload.get(4 + fields..)?) } else { None }
}

fn vxlan(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.first()? & 8 != 0 { framed(0x6558, payload.get(8..)?) } else { None }
}

fn geneve(payload: &[u8]) -> Option<Vec<u8>> {
    let first = *payload.first()?;
    let carried = payload.get(8 + usize::from(first & 0x3f) * 4..)?;
    if first >> 6 == 0 { framed(half(payload, 2)?, carried) } else { None }
}

/// A packet of an ethertype as a frame without tags.
fn framed(ethertype: u16, packet: &[u8]) -> Option<Vec<u8>> {
    let version = packet.first()? >> 4;
    match (ethertype, version) {
        (0x6558, _) => (packet.len() >= ETHERNET).then(|| untagged(packet)),
        (0x0800, 4) | (0x86dd, 6) => {
            Some([&[0; 12][..], &ethertype.to_be_bytes(), packet].concat())
        }
        _ => None,
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
