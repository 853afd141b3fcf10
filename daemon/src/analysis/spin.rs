//! Round trips of QUIC by its spin bit (RFC 9000, 17.4; RFC 9312, 3.8.2): the client turns over what it last heard, the
//! server returns it, so that in each direction the bit changes once in a round trip. Never believes bits that do not
//! alternate like that: endpoints may set them to anything.

use std::collections::HashMap;

use datapath::{FlowKey, Ktime};

use super::samples::Samples;

/// QUIC flows that are followed; further ones have no round trips.
pub const SPINS_MAX: usize = 1 << 16;
/// Changes in each direction before anything is said.
const CHANGES_MIN: u32 = 4;
/// One change in as many may be out of turn: packets that were overtaken.
const OUT_OF_TURN_ONE_IN: u32 = 8;
/// A change after less than the least round trip divided by this is a packet that was overtaken.
const EARLY: u64 = 8;
/// After more than this many times the least round trip, the sender had nothing to send.
const LATE: u64 = 10;

/// First byte: a long header.
const LONG: u8 = 0x80;
/// First byte: 1 in all packets of QUIC that are not greased.
const FIXED: u8 = 0x40;
/// First byte of a short header: the bit that spins.
const SPIN: u8 = 0x20;

/// All flows of QUIC in a file.
#[derive(Debug, Default)]
pub struct Spins {
    flows: HashMap<FlowKey, Spin>,
}

/// One flow of QUIC.
#[derive(Debug, Default)]
pub struct Spin {
    /// Who sent the first long header: 0 lower, 1 upper.
    client: usize,
    ways: [Way; 2],
    out_of_turn: u32,
}

/// What one endpoint sent.
#[derive(Debug, Default)]
struct Way {
    bit: Option<bool>,
    changed_at: Option<Ktime>,
    changes: u32,
    round_trips: Samples,
}

impl Spins {
    /// Takes the start of a datagram's payload into account.
    #[inline]
    pub fn datagram(&mut self, key: &FlowKey, sender: u32, payload: &[u8], now: Ktime) {
        let Some(first) = payload.first().copied().filter(|first| first & FIXED != 0) else {
            return;
        };
        let sender = (sender & 1) as usize;
        if first & LONG != 0 {
            if is_known_version(payload)
                && self.flows.len() < SPINS_MAX
                && !self.flows.contains_key(key)
            {
                self.flows.insert(*key, Spin { client: sender, ..Spin::default() });
            }
        } else if !self.flows.is_empty()
            && let Some(spin) = self.flows.get_mut(key)
        {
            spin.short(sender, first & SPIN != 0, now);
        }
    }

    /// The flow of `key`, if it is QUIC.
    #[must_use]
    pub fn of(&self, key: &FlowKey) -> Option<&Spin> {
        self.flows.get(key)
    }
}

/// Versions 1 (RFC 9000) and 2 (RFC 9369), and their drafts.
fn is_known_version(payload: &[u8]) -> bool {
    let Some(version) = payload.get(1..5) else { return false };
    matches!(version, [0, 0, 0, 1] | [0x6b, 0x33, 0x43, 0xcf] | [0xff, 0, 0, 1..=34])
}

impl Spin {
    fn short(&mut self, sender: usize, bit: bool, now: Ktime) {
        let heard = self.ways[sender ^ 1].bit;
        let way = &mut self.ways[sender];
        let Some(before) = way.bit.replace(bit) else { return };
        if before == bit {
            return;
        }
        way.changes += 1;
        // The server returns what it heard, the client turns it over.
        let expected = heard.map(|heard| heard != (sender == self.client));
        self.out_of_turn += u32::from(expected.is_some_and(|expected| expected != bit));
        if let Some(changed_at) = way.changed_at.replace(now) {
            let ns = now.since(changed_at).max(0).cast_unsigned();
            let is_likely = way
                .round_trips
                .min_ns()
                .is_none_or(|least| ns >= least / EARLY && ns <= least.saturating_mul(LATE));
            if is_likely {
                way.round_trips.add(ns);
            }
        }
    }

    /// Round trips of the whole path, as the packets of each endpoint tell them (0 lower, 1 upper): nothing where the bit
    /// does not spin.
    #[must_use]
    pub fn round_trips(&self) -> Option<[&Samples; 2]> {
        let [lower, upper] = &self.ways;
        let changes = lower.changes + upper.changes;
        let spins = lower.changes >= CHANGES_MIN
            && upper.changes >= CHANGES_MIN
            && self.out_of_turn <= changes / OUT_OF_TURN_ONE_IN;
        spins.then_some([&lower.round_trips, &upper.round_trips])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn begun() -> Spin {
        Spin::default()
    }

    #[test]
    fn changes_in_one_direction_are_a_round_trip_apart() {
        let mut spin = begun();
        for round in 0..10_u64 {
            let at = round * 50 * MS;
            let bit = round % 2 == 0;
            spin.short(0, bit, Ktime(at));
            spin.short(0, bit, Ktime(at + 5 * MS));
            spin.short(1, bit, Ktime(at + 20 * MS));
        }
        let [client, server] = spin.round_trips().unwrap();
        assert_eq!(client.quantiles_ns([0.5]), Some([50 * MS]));
        assert_eq!(server.quantiles_ns([0.5]), Some([50 * MS]));
    }

    #[test]
    fn a_bit_that_stays_does_not_spin() {
        let mut spin = begun();
        (0..100).for_each(|n| spin.short((n % 2) as usize, false, Ktime(n * MS)));
        assert!(spin.round_trips().is_none());
    }

    #[test]
    fn random_bits_do_not_spin() {
        let mut spin = begun();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for n in 0..1_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            spin.short(usize::from(state & 2 != 0), state & 1 != 0, Ktime(n * MS));
        }
        assert!(spin.round_trips().is_none());
    }

    #[test]
    fn an_overtaken_packet_and_a_pause_measure_nothing() {
        let mut spin = begun();
        let mut at = 0;
        for round in 0..40_u64 {
            let bit = round % 2 == 0;
            at += if round == 20 { 5_000 * MS } else { 50 * MS };
            spin.short(0, bit, Ktime(at));
            spin.short(1, bit, Ktime(at + 20 * MS));
            if round == 30 {
                spin.short(0, !bit, Ktime(at + 21 * MS));
                spin.short(0, bit, Ktime(at + 22 * MS));
            }
        }
        let [client, _] = spin.round_trips().unwrap();
        assert!(client.max_ns().unwrap() <= 51 * MS, "{:?}", client.max_ns());
    }

    #[test]
    fn other_datagrams_are_not_quic() {
        let mut spins = Spins::default();
        let key = FlowKey::default();
        spins.datagram(&key, 0, &[0xc3, 0, 0, 0, 9], Ktime(1));
        spins.datagram(&key, 0, &[0x40], Ktime(1));
        spins.datagram(&key, 0, &[], Ktime(1));
        assert!(spins.of(&key).is_none());
        spins.datagram(&key, 1, &[0xc3, 0, 0, 0, 1], Ktime(1));
        assert_eq!(spins.of(&key).map(|spin| spin.client), Some(1));
    }
}
