//! Rules as the programs read them: rows of one bit for each rule, and the tables that lead from a packet to its rows.
//!
//! Every table is there twice. One set is in force, and the next one is written beside it ([`set_of`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow_key::IpAddress;

/// What rules say, one for each rule of a set.
pub const RULE_ACTIONS_MAX: u32 = 1_024;
/// Most rules in force at a time.
pub const RULES_MAX: usize = RULE_ACTIONS_MAX as usize;
/// Words of a row.
pub const RULE_WORDS: usize = RULES_MAX / 64;
/// Sets of tables.
pub const RULE_SETS: u32 = 2;
/// Most networks of a set: two for each rule.
pub const RULE_NETWORKS_MAX: u32 = 2 * RULE_ACTIONS_MAX;
/// Most classes of addresses of a set: one for each network, and one for addresses in none.
pub const RULE_ADDRESS_CLASSES_MAX: u32 = RULE_NETWORKS_MAX + 1;
/// Most classes of ports of a set: each of two ranges of a rule has two ends, which cut the ports into one part more
/// than there are ends; and one for packets without ports.
pub const RULE_PORT_CLASSES_MAX: u32 = 4 * RULE_ACTIONS_MAX + 2;
/// In place of a port, for packets without ports.
pub const NO_PORTS: u32 = 65_536;
/// Words of the table from port to class, four classes a word.
pub const RULE_PORT_WORDS: u32 = NO_PORTS / 4 + 1;
/// Protocols.
pub const RULE_PROTOCOLS: u32 = 256;
/// Flows that are not tracked whose decision is remembered.
pub const UNTRACKED_DEFAULT: u32 = 16_384;
/// The last generation before 1 comes again. Even, so that neighbours are always of different sets.
pub const GENERATION_MAX: u8 = 126;

/// One bit for each rule: whether it is satisfied in one dimension.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RuleRow {
    /// Bit `i % 64` of word `i / 64` is rule `i`.
    pub words: [u64; RULE_WORDS],
}

/// What an address or a port of one endpoint satisfies.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RulePair {
    /// Where that endpoint is the one of `network` and `port`.
    pub own: RuleRow,
    /// Where it is the one of `peer_network` and `peer_port`.
    pub peer: RuleRow,
}

/// Key of the tree of networks, as the kernel compares it: bit by bit from `set` on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NetworkKey {
    /// Bits that count, from `set` on.
    pub bits: u32,
    /// The set of tables.
    pub set: u8,
    /// 1 for IPv6, 0 for IPv4.
    pub ipv6: u8,
    /// Always 0.
    pub _pad: u16,
    /// The address, an IPv4 one mapped.
    pub address: IpAddress,
}

impl NetworkKey {
    /// Bits in front of the address.
    const PLACE_BITS: u32 = 32;

    /// The key by which the longest network around an address is found.
    #[inline(always)]
    #[must_use]
    pub const fn of_address(set: u32, ipv6: bool, address: IpAddress) -> Self {
        Self::of_network(set, ipv6, address, 128)
    }

    /// The key of a network of `prefix` bits of the (mapped) address.
    #[inline(always)]
    #[must_use]
    pub const fn of_network(set: u32, ipv6: bool, address: IpAddress, prefix: u32) -> Self {
        Self {
            bits: Self::PLACE_BITS + prefix,
            set: (set & 1) as u8,
            ipv6: ipv6 as u8,
            _pad: 0,
            address,
        }
    }
}

/// Which rules are in force: one byte, so that no reader sees half a switch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RulesConfig {
    /// 1 to [`GENERATION_MAX`], and then 1 again; 0 before there were any rules: then nothing is looked up.
    pub generation: u8,
    /// Always 0.
    pub _pad: [u8; 7],
    /// How often rules were put in force since the tables were made.
    pub changes: u64,
}

/// The set of tables of a generation.
#[inline(always)]
#[must_use]
pub const fn set_of(generation: u32) -> u32 {
    generation & 1
}

/// What was decided about a flow that is not tracked: for each endpoint's packets, the stamp of [`crate::rules`] and,
/// from bit 8 on, the outcome.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Untracked {
    /// By endpoint: lower, upper.
    pub decided: [u16; 2],
    /// Always 0.
    pub _pad: u32,
}

/// Bytes of kernel memory that the tables take, as the kernel rounds them.
pub const RULES_BYTES: u64 = {
    const fn array(elements: u32, bytes: usize) -> u64 {
        RULE_SETS as u64 * elements as u64 * bytes.next_multiple_of(8) as u64
    }
    /// A leaf of the tree, and a fork above it.
    const NETWORK: usize = 64 + 64;
    /// `struct htab_elem`, the key, and the element's share of the buckets.
    const UNTRACKED: u64 = 48 + 48 + size_of::<Untracked>() as u64 + 16;
    array(RULE_NETWORKS_MAX, NETWORK)
        + array(RULE_ADDRESS_CLASSES_MAX, size_of::<RulePair>())
        + array(RULE_PORT_WORDS, size_of::<u64>())
        + array(RULE_PORT_CLASSES_MAX, size_of::<RulePair>())
        + array(RULE_PROTOCOLS, size_of::<RuleRow>())
        + array(super::HOOKS_MAX, size_of::<RuleRow>())
        + array(RULE_ACTIONS_MAX, size_of::<u32>())
        + UNTRACKED_DEFAULT as u64 * UNTRACKED
};

const _: () = assert!(size_of::<NetworkKey>() == 24);
const _: () = assert!(size_of::<RulesConfig>() == 16);
const _: () = assert!(size_of::<Untracked>() == 8);
const _: () = assert!(GENERATION_MAX < 128 && GENERATION_MAX.is_multiple_of(2));
