//! What a sender numbers its packets with: IPv4's identification, as far as it counts up, and the timestamp option.
//! Never trusts an identification that has not proved to be a counter.

use crate::tcp::{after, before};

/// Steps upwards in a row after which identifications are trusted.
const RUN_MIN: u8 = 8;
/// Greatest step of a counter, which the sender's other connections may advance too. Eight random numbers in a row are
/// that close to each other once in 2^40.
const STEP_MAX: i16 = 2048;

/// When a segment was sent, compared with another one of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// After it.
    Newer,
    /// Before it.
    Older,
    /// Nothing tells.
    Unknown,
}

/// What numbers one segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    /// Identification; 0 is none.
    pub(super) ip_id: u16,
    /// Timestamp value, where there is the option.
    pub(super) timestamp: Option<u32>,
}

/// The identifications of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identity {
    highest: u16,
    run: u8,
    repeats: bool,
}

impl Identity {
    /// Takes a packet's identification into account.
    pub(super) fn take(&mut self, ip_id: u16) {
        if ip_id == 0 {
            // Not numbered, as what must not be fragmented need not be (RFC 6864).
            return;
        }
        let step = ip_id.wrapping_sub(self.highest).cast_signed();
        let is_first = self.highest == 0;
        if !is_first && self.is_trusted() && (-STEP_MAX..0).contains(&step) {
            // A late packet.
            return;
        }
        self.highest = ip_id;
        if is_first || !(0..=STEP_MAX).contains(&step) {
            self.run = 0;
        } else if step == 0 {
            self.run = 0;
            self.repeats = true;
        } else if self.run < RUN_MIN {
            self.run += 1;
            self.repeats &= self.run < RUN_MIN;
        }
    }

    /// Whether they count up.
    pub(super) const fn is_trusted(&self) -> bool {
        self.run >= RUN_MIN
    }

    /// Whether a second packet with the same one can only be a copy: different packets had different ones.
    pub(super) const fn tells_copies(&self) -> bool {
        !self.repeats
    }

    /// When `segment` was sent, compared with `other`.
    pub(super) fn age(&self, segment: Stamp, other: Stamp) -> Age {
        if self.is_trusted() && segment.ip_id != 0 && other.ip_id != 0 {
            let step = segment.ip_id.wrapping_sub(other.ip_id).cast_signed();
            if step != 0 {
                return if step > 0 { Age::Newer } else { Age::Older };
            }
        }
        match (segment.timestamp, other.timestamp) {
            (Some(own), Some(other)) if after(own, other) => Age::Newer,
            (Some(own), Some(other)) if before(own, other) => Age::Older,
            // Its clock has not ticked in between, or there is none.
            _ => Age::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_ids(ids: impl IntoIterator<Item = u16>) -> Identity {
        let mut identity = Identity::default();
        ids.into_iter().for_each(|ip_id| identity.take(ip_id));
        identity
    }

    fn stamp(ip_id: u16) -> Stamp {
        Stamp { ip_id, timestamp: None }
    }

    #[test]
    fn a_counter_is_trusted_after_eight_steps() {
        assert!(!after_ids(100..108).is_trusted());
        assert!(after_ids(100..109).is_trusted());
        assert!(after_ids((0..9).map(|step| 65_500_u16.wrapping_add(step * 7))).is_trusted());
    }

    #[test]
    fn late_packets_do_not_shake_the_trust_and_jumps_do() {
        let mut identity = after_ids(100..120);
        identity.take(112);
        assert!(identity.is_trusted());
        assert_eq!(identity.age(stamp(112), stamp(119)), Age::Older);
        assert_eq!(identity.age(stamp(120), stamp(119)), Age::Newer);
        identity.take(30_000);
        assert!(!identity.is_trusted());
        assert_eq!(identity.age(stamp(30_000), stamp(119)), Age::Unknown);
    }

    #[test]
    fn constant_and_absent_ones_say_nothing() {
        assert!(!after_ids([7; 20]).is_trusted());
        assert!(!after_ids([7; 2]).tells_copies());
        assert!(!after_ids([0; 20]).is_trusted());
        let random = [7, 40_000, 3, 20_000, 60_000, 9, 31_000, 2, 50_000, 17_000];
        assert!(!after_ids(random).is_trusted());
        assert!(after_ids(random).tells_copies());
    }

    #[test]
    fn timestamps_decide_where_identifications_do_not() {
        let identity = Identity::default();
        let at = |timestamp| Stamp { ip_id: 0, timestamp: Some(timestamp) };
        assert_eq!(identity.age(at(5), at(4)), Age::Newer);
        assert_eq!(identity.age(at(u32::MAX), at(4)), Age::Older);
        assert_eq!(identity.age(at(4), at(4)), Age::Unknown);
        assert_eq!(identity.age(at(5), stamp(0)), Age::Unknown);
    }
}
