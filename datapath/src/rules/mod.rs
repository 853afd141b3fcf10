//! Rules: which flows are tracked. They decide nothing about the packet itself.
//!
//! The host compiles a list of rules into rows of bits ([`compile`]); kernel and host find the first rule that matches
//! by the same code ([`decide`]), at a cost that does not grow with the list. A decision holds for the packets of one
//! endpoint of a flow in one direction of one generation of rules, which its [`stamp`] says.

pub mod decide;

#[cfg(not(target_arch = "bpf"))]
pub mod compile;
#[cfg(not(target_arch = "bpf"))]
mod host;

#[cfg(not(target_arch = "bpf"))]
pub use self::{compile::Compiled, host::HostRules};

#[cfg(not(target_arch = "bpf"))]
use crate::{flow_key::IpAddress, frame::Direction};
use crate::{layout::GENERATION_MAX, outcome::Outcome};

/// Names a generation and a direction in one byte. No flow has been stamped before there are rules, since a stamp of
/// generation 0 is never compared.
#[inline(always)]
#[must_use]
pub const fn stamp(generation: u32, direction: u32) -> u32 {
    generation << 1 | direction & 1
}

/// Instead of a stamp, in both halves of an entry that rules have ended: there is no such generation.
pub const DISOWNED: u8 = u8::MAX;

const _: () = assert!(stamp(GENERATION_MAX as u32, 1) < DISOWNED as u32 - 1);

/// The generation of a stamp.
#[inline(always)]
#[must_use]
pub const fn generation_of(stamp: u32) -> u32 {
    stamp >> 1
}

/// Whether an outcome, as a number, says that a rule keeps a packet from being tracked.
#[inline(always)]
#[must_use]
pub(crate) const fn is_refusal(outcome: u32) -> bool {
    outcome == Outcome::IgnoredByRule as u32 || outcome == Outcome::SampledOut as u32
}

/// What becomes of a flow that a rule matches.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is tracked.
    Track,
    /// It is not.
    Ignore,
    /// One flow in so many is tracked, the others are not; 2 to [`SAMPLE_MAX`].
    Sample(u32),
}

/// Fewest flows of which one is kept by [`Action::Sample`].
#[cfg(not(target_arch = "bpf"))]
pub const SAMPLE_MIN: u32 = 2;
/// Most flows of which one is kept by [`Action::Sample`].
#[cfg(not(target_arch = "bpf"))]
pub const SAMPLE_MAX: u32 = 65_536;

/// A network of one address family.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddress,
    ipv6: bool,
    /// Bits of the (mapped) address.
    bits: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Network {
    /// Bits in front of a mapped IPv4 address.
    const MAPPED_BITS: u32 = 96;

    /// `prefix` bits of an IPv4 address; `None` beyond 32.
    #[must_use]
    pub fn v4(address: [u8; 4], prefix: u32) -> Option<Self> {
        let bits = Self::MAPPED_BITS + prefix;
        (prefix <= 32).then(|| Self::masked(IpAddress::from_ipv4(address), false, bits))
    }

    /// `prefix` bits of an IPv6 address; `None` beyond 128.
    #[must_use]
    pub fn v6(address: [u8; 16], prefix: u32) -> Option<Self> {
        let address = IpAddress::from_octets(address);
        (prefix <= 128).then(|| Self::masked(address, true, prefix))
    }

    fn masked(address: IpAddress, ipv6: bool, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let number = u128::from_be_bytes(address.octets()) & mask;
        Self { address: IpAddress::from_octets(number.to_be_bytes()), ipv6, bits }
    }

    /// Whether every address of the other one is in this one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.ipv6 == other.ipv6
            && self.bits <= other.bits
            && Self::masked(other.address, other.ipv6, self.bits) == *self
    }

    /// Bits of its prefix, in its own family, and whether that is IPv6.
    #[must_use]
    pub fn prefix(&self) -> (u32, bool) {
        let bits = if self.ipv6 { self.bits } else { self.bits - Self::MAPPED_BITS };
        (bits, self.ipv6)
    }

    /// Its lowest address.
    #[must_use]
    pub fn address(&self) -> [u8; 16] {
        self.address.octets()
    }
}

/// A range of ports, both ends included.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// One rule: a condition that is absent always holds.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it says.
    pub action: Action,
    /// One endpoint's address.
    pub network: Option<Network>,
    /// The same endpoint's port.
    pub port: Option<Ports>,
    /// The other endpoint's address.
    pub peer_network: Option<Network>,
    /// The other endpoint's port.
    pub peer_port: Option<Ports>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Observation point.
    pub point: Option<u32>,
    /// Direction of the hook that saw the packet.
    pub direction: Option<Direction>,
}

#[cfg(not(target_arch = "bpf"))]
impl Rule {
    /// A rule for every packet.
    #[must_use]
    pub const fn everything(action: Action) -> Self {
        Self {
            action,
            network: None,
            port: None,
            peer_network: None,
            peer_port: None,
            protocol: None,
            point: None,
            direction: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_its_lowest_address() {
        let network = Network::v4([10, 1, 2, 3], 8).unwrap();
        assert_eq!(network, Network::v4([10, 0, 0, 0], 8).unwrap());
        assert!(network.contains(&Network::v4([10, 255, 0, 0], 16).unwrap()));
        assert!(!network.contains(&Network::v4([11, 0, 0, 0], 16).unwrap()));
        assert!(!network.contains(&Network::v4([10, 0, 0, 0], 7).unwrap()));
        assert_eq!(Network::v4([0; 4], 33), None);
        assert_eq!(Network::v6([0; 16], 129), None);
    }

    #[test]
    fn families_do_not_contain_each_other() {
        let all_of_ipv6 = Network::v6([0; 16], 0).unwrap();
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        assert!(all_of_ipv6.contains(&Network::v6(mapped, 128).unwrap()));
        assert!(!all_of_ipv6.contains(&Network::v4([10, 0, 0, 1], 32).unwrap()));
        assert!(!Network::v4([0; 4], 0).unwrap().contains(&Network::v6(mapped, 128).unwrap()));
    }
}
