//! Who talks to whom, in an order that does not depend on who sent the packet. Never holds what differs by
//! direction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 address mapped into it (RFC 4291, 2.5.5.2), in wire order in memory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IpAddress {
    words: [u64; 2],
}

/// The second word of `::ffff:0.0.0.0`.
const MAPPED_PREFIX: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);

impl IpAddress {
    /// From the two halves of an IPv6 address as they lie on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// From an IPv4 address as it lies on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { words: [0, MAPPED_PREFIX | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d])] }
    }

    /// From the sixteen octets.
    #[must_use]
    pub fn from_octets(octets: [u8; 16]) -> Self {
        zerocopy::transmute!(octets)
    }

    /// The sixteen octets.
    #[must_use]
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.words[0].to_ne_bytes());
        octets[8..].copy_from_slice(&self.words[1].to_ne_bytes());
        octets
    }

    /// The address as a number, upper half first.
    #[inline(always)]
    const fn number(self) -> (u64, u64) {
        (u64::from_be(self.words[0]), u64::from_be(self.words[1]))
    }
}

/// The key is of IPv6 packets (a mapped address can occur in either family).
pub const KEY_IPV6: u8 = 1 << 0;
/// An ICMP message that nobody answers: the ports are type and code.
pub const KEY_ICMP_ONE_WAY: u8 = 1 << 1;
/// ICMP: the upper endpoint is the one that asks, or that sends one way. Makes the roles part of the key.
pub const KEY_ICMP_UPPER_ASKS: u8 = 1 << 2;
/// First bit of the ICMP query class ([`crate::parse::icmp`]): the ports are the identifier.
pub const KEY_ICMP_QUERY_SHIFT: u32 = 4;

/// Any of the bits that only ICMP keys have.
const KEY_ICMP: u8 = KEY_ICMP_ONE_WAY | 0xf << KEY_ICMP_QUERY_SHIFT;

/// The canonical key of one flow: the numerically smaller (address, port) first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the smaller endpoint.
    pub lower: IpAddress,
    /// Address of the greater endpoint.
    pub upper: IpAddress,
    /// Port of the smaller endpoint, in wire order.
    pub lower_port: u16,
    /// Port of the greater endpoint, in wire order.
    pub upper_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `KEY_*` bits.
    pub flags: u8,
    /// Outer VLAN id, 0 for none.
    pub vlan: u16,
    /// Where it was seen; 0 offline.
    pub observation_point: u32,
    /// VXLAN or Geneve network id, 0 for none.
    pub vni: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 48 && align_of::<FlowKey>() == 8);

/// Which endpoint of a [`FlowKey`] sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Endpoint {
    /// The one with the smaller (address, port).
    Lower = 0,
    /// The other one.
    Upper = 1,
}

impl core::hash::Hash for FlowKey {
    #[inline]
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        // All of it at once, which costs a hasher less than field after field.
        state.write(self.as_bytes());
    }
}

impl FlowKey {
    /// The key as six words, which is all of it.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u64; 6] {
        let ports = (self.lower_port as u64) << 16 | self.upper_port as u64;
        let kind = (self.protocol as u64) << 24 | (self.flags as u64) << 16 | self.vlan as u64;
        let place = (self.observation_point as u64) << 32 | self.vni as u64;
        let ([a, b], [c, d]) = (self.lower.words, self.upper.words);
        [a, b, c, d, ports << 32 | kind, place]
    }

    /// Brings the endpoints, filled as (source, destination), into canonical order and says which one sent.
    #[inline(always)]
    pub fn canonicalize(&mut self) -> Endpoint {
        let (lower, upper) = (self.lower.number(), self.upper.number());
        let swap = if lower.0 != upper.0 {
            lower.0 > upper.0
        } else if lower.1 != upper.1 {
            lower.1 > upper.1
        } else {
            u16::from_be(self.lower_port) > u16::from_be(self.upper_port)
        };
        if !swap {
            return Endpoint::Lower;
        }
        core::mem::swap(&mut self.lower, &mut self.upper);
        core::mem::swap(&mut self.lower_port, &mut self.upper_port);
        if self.flags & KEY_ICMP != 0 {
            self.flags ^= KEY_ICMP_UPPER_ASKS;
        }
        Endpoint::Upper
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16) -> FlowKey {
        FlowKey {
            lower: IpAddress::from_ipv4(source),
            upper: IpAddress::from_ipv4(destination),
            lower_port: sport.to_be(),
            upper_port: dport.to_be(),
            protocol: 6,
            ..FlowKey::default()
        }
    }

    #[test]
    fn both_directions_have_one_key() {
        let mut there = key([10, 0, 0, 9], 443, [192, 168, 0, 1], 50_000);
        let mut back = key([192, 168, 0, 1], 50_000, [10, 0, 0, 9], 443);
        assert_eq!(there.canonicalize(), Endpoint::Lower);
        assert_eq!(back.canonicalize(), Endpoint::Upper);
        assert_eq!(there, back);
    }

    #[test]
    fn order_is_numeric_not_by_memory() {
        let mut a = key([10, 0, 0, 1], 256, [10, 0, 0, 1], 1);
        assert_eq!(a.canonicalize(), Endpoint::Upper, "port 1 is smaller than port 256");
        let mut b = key([1, 0, 0, 2], 5, [2, 0, 0, 1], 5);
        assert_eq!(b.canonicalize(), Endpoint::Lower, "1.0.0.2 is smaller than 2.0.0.1");
    }

    #[test]
    fn ipv4_is_mapped() {
        let octets = IpAddress::from_ipv4([192, 0, 2, 1]).octets();
        assert_eq!(octets, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    }
}
