//! From a packet to its rule: six rows of bits, one for each thing that rules ask about, and the first bit that all of
//! them have. The work is the same for one rule and for [`RULES_MAX`](crate::layout::RULES_MAX).

use super::generation_of;
use crate::{
    flow_key::{FlowKey, IpAddress, KEY_IPV6},
    hint::opaque,
    layout::{NO_PORTS, RULE_WORDS, RulePair, RuleRow, set_of},
    outcome::Outcome,
    parse::tunnel,
};

/// Action of a rule as the tables hold it: track.
pub const TRACK: u32 = 0;
/// Ignore. Greater numbers sample one flow in so many.
pub const IGNORE: u32 = 1;

/// The tables of rules, in kernel maps or in memory. `None` is for what is not there, which both rule out.
pub trait Lookups {
    /// Rows of the smallest network around an address.
    fn address(&self, set: u32, ipv6: bool, address: &IpAddress) -> Option<&RulePair>;

    /// Rows of a port, or of [`NO_PORTS`].
    fn port(&self, set: u32, port: u32) -> Option<&RulePair>;

    /// Row of a protocol.
    fn protocol(&self, set: u32, protocol: u8) -> Option<&RuleRow>;

    /// Row of an observation point in a direction.
    fn hook(&self, set: u32, hook: u32) -> Option<&RuleRow>;

    /// What a rule says: [`TRACK`], [`IGNORE`], or one in how many flows it keeps.
    fn action(&self, set: u32, rule: usize) -> u32;

    /// What was decided about a flow that is not tracked: for packets of `sender`, 0 for nothing.
    fn remembered(&mut self, key: &FlowKey, sender: u32) -> u32;

    /// Remembers that.
    fn remember(&mut self, key: &FlowKey, sender: u32, decided: u32);
}

/// What is to be counted about a packet that `sender` sent, under the rules of the stamp: [`Outcome::Tracked`],
/// [`Outcome::IgnoredByRule`] or [`Outcome::SampledOut`], as a number. Remembers the latter two.
#[inline(always)]
pub fn judge<L: Lookups>(lookups: &mut L, key: &FlowKey, sender: u32, stamp: u32) -> u32 {
    let remembered = lookups.remembered(key, sender);
    if remembered & 0xff == stamp {
        return remembered >> 8;
    }
    let outcome = decide(lookups, key, stamp);
    if outcome != Outcome::Tracked as u32 {
        lookups.remember(key, sender, outcome << 8 | stamp);
    }
    outcome
}

/// As [`judge`], always by the rules themselves.
#[inline(always)]
pub fn decide<L: Lookups>(lookups: &L, key: &FlowKey, stamp: u32) -> u32 {
    let set = set_of(generation_of(stamp));
    match first_match(lookups, key, set, stamp & 1) {
        None => Outcome::Tracked as u32,
        Some(rule) => apply(lookups.action(set, rule), key),
    }
}

/// Whether a protocol's packets have ports: TCP, UDP and SCTP.
#[inline(always)]
#[must_use]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

/// The number of the first rule that matches.
#[inline(always)]
fn first_match<L: Lookups>(lookups: &L, key: &FlowKey, set: u32, direction: u32) -> Option<usize> {
    let ipv6 = key.flags & KEY_IPV6 != 0;
    let port =
        |wire: u16| if has_ports(key.protocol) { u32::from(u16::from_be(wire)) } else { NO_PORTS };
    let lower = lookups.address(set, ipv6, &key.lower)?;
    let upper = lookups.address(set, ipv6, &key.upper)?;
    let lower_port = lookups.port(set, port(key.lower_port))?;
    let upper_port = lookups.port(set, port(key.upper_port))?;
    let protocol = lookups.protocol(set, key.protocol)?;
    let hook = lookups.hook(set, key.observation_point * 2 + direction)?;
    let mut word = 0;
    while word < RULE_WORDS {
        let lower_is_own = lower.own.words[word]
            & lower_port.own.words[word]
            & upper.peer.words[word]
            & upper_port.peer.words[word];
        let upper_is_own = upper.own.words[word]
            & upper_port.own.words[word]
            & lower.peer.words[word]
            & lower_port.peer.words[word];
        let matching = (lower_is_own | upper_is_own) & protocol.words[word] & hook.words[word];
        if matching != 0 {
            return Some(word * 64 + lowest_bit(matching));
        }
        word += 1;
    }
    None
}

/// What a rule's action means for a flow. Sampling draws by the flow's hash, so that both directions and every
/// interface come to the same.
#[inline(always)]
fn apply(action: u32, key: &FlowKey) -> u32 {
    match action {
        TRACK => Outcome::Tracked as u32,
        IGNORE => Outcome::IgnoredByRule as u32,
        one_in if ((tunnel::placeless(key) >> 32) * u64::from(one_in)) >> 32 == 0 => {
            Outcome::Tracked as u32
        }
        _ => Outcome::SampledOut as u32,
    }
}

/// Number of trailing zeros of a word that is not 0, without a branch. The compiler is not to see that it is that: it
/// would look it up in a table, which this target has no place for.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "kernel and supported hosts have 64 bits")]
fn lowest_bit(word: u64) -> usize {
    opaque((word.wrapping_sub(1) & !word) as usize).count_ones() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_found() {
        for bit in 0..64 {
            assert_eq!(lowest_bit(1 << bit), bit);
            assert_eq!(lowest_bit(u64::MAX << bit), bit);
        }
    }
}
