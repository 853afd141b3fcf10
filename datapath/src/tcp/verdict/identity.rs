//! What a sender numbers its packets with: IPv4's identification, as far as it counts up, and the timestamp option.
//! Never trusts an identification that has not proved to be a counter.

use super::{IDS_REPEAT, TIMESTAMPED};
use crate::{
    layout::Trail,
    parse::{Headers, tcp::OPTION_TIMESTAMPS},
    tcp::{after, before},
};

/// Steps upwards in a row after which identifications are trusted.
const RUN_MIN: u8 = 8;
/// Greatest step of a counter, which the sender's other connections may advance too. Eight random numbers in a row are
/// that close to each other once in 2^40.
const STEP_MAX: i16 = 2048;

/// Older than what it is compared with.
pub(super) const OLDER: u32 = 1;
/// Newer than it.
pub(super) const NEWER: u32 = 2;
/// Nothing tells.
pub(super) const UNKNOWN: u32 = 0;

/// Takes a packet's identification into account.
#[inline(always)]
pub(super) fn number(own: &mut Trail, ip_id: u32) {
    let ip_id = (ip_id & 0xffff) as u16;
    if ip_id == 0 {
        // Not numbered, as what must not be fragmented need not be (RFC 6864).
        return;
    }
    let step = ip_id.wrapping_sub(own.highest_ip_id).cast_signed();
    let is_first = own.highest_ip_id == 0;
    if !is_first && own.run >= RUN_MIN && (-STEP_MAX..0).contains(&step) {
        // A late packet.
        return;
    }
    own.highest_ip_id = ip_id;
    if is_first || !(0..=STEP_MAX).contains(&step) {
        own.run = 0;
    } else if step == 0 {
        own.run = 0;
        own.bits |= IDS_REPEAT;
    } else if own.run < RUN_MIN {
        own.run += 1;
        if own.run >= RUN_MIN {
            own.bits &= !IDS_REPEAT;
        }
    }
}

/// When the segment in `headers` was sent, compared with the one that holds the highest sequence number.
#[inline(always)]
pub(super) fn age(own: &Trail, headers: &Headers) -> u32 {
    let ip_id = (headers.ip_id & 0xffff) as u16;
    if own.run >= RUN_MIN && ip_id != 0 && own.newest_ip_id != 0 {
        let step = ip_id.wrapping_sub(own.newest_ip_id).cast_signed();
        if step != 0 {
            return if step > 0 { NEWER } else { OLDER };
        }
    }
    if headers.options & OPTION_TIMESTAMPS == 0 || own.bits & TIMESTAMPED == 0 {
        return UNKNOWN;
    }
    if after(headers.timestamp, own.newest_timestamp) {
        NEWER
    } else if before(headers.timestamp, own.newest_timestamp) {
        OLDER
    } else {
        // The clock has not ticked in between.
        UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_ids(ids: impl IntoIterator<Item = u16>) -> Trail {
        let mut trail = Trail::EMPTY;
        ids.into_iter().for_each(|ip_id| number(&mut trail, u32::from(ip_id)));
        trail
    }

    fn aged(ids: impl IntoIterator<Item = u16>, newest: u16, ip_id: u16) -> u32 {
        let trail = Trail { newest_ip_id: newest, ..after_ids(ids) };
        age(&trail, &Headers { ip_id: u32::from(ip_id), ..Headers::default() })
    }

    #[test]
    fn a_counter_is_trusted_after_eight_steps() {
        assert!(after_ids(100..108).run < RUN_MIN);
        assert!(after_ids(100..109).run >= RUN_MIN);
        let wide = (0..9).map(|step| 65_500_u16.wrapping_add(step * 7));
        assert!(after_ids(wide).run >= RUN_MIN);
    }

    #[test]
    fn late_packets_do_not_shake_the_trust_and_jumps_do() {
        assert!(after_ids((100..110).chain([104, 105, 111])).run >= RUN_MIN);
        assert!(after_ids((100..110).chain([30_000])).run < RUN_MIN);
    }

    #[test]
    fn what_does_not_count_up_decides_nothing() {
        assert_eq!(aged([7; 20], 7, 8), UNKNOWN);
        assert_eq!(aged((0..20).map(|step| step * 3000), 100, 101), UNKNOWN);
        assert_eq!(aged([0; 20], 0, 0), UNKNOWN);
        assert_eq!(aged(100..120, 119, 120), NEWER);
        assert_eq!(aged(100..120, 119, 118), OLDER);
    }

    #[test]
    fn timestamps_decide_where_identifications_do_not() {
        let trail = Trail { newest_timestamp: 5, bits: TIMESTAMPED, ..Trail::EMPTY };
        let at =
            |timestamp| Headers { timestamp, options: OPTION_TIMESTAMPS, ..Headers::default() };
        assert_eq!(age(&trail, &at(6)), NEWER);
        assert_eq!(age(&trail, &at(4)), OLDER);
        assert_eq!(age(&trail, &at(5)), UNKNOWN);
        assert_eq!(age(&trail, &Headers { timestamp: 6, ..Headers::default() }), UNKNOWN);
    }

    #[test]
    fn different_packets_with_one_identification_are_remembered() {
        assert!(after_ids([7, 7]).bits & IDS_REPEAT != 0);
        assert!(after_ids([7, 7].into_iter().chain(8..17)).bits & IDS_REPEAT == 0);
    }
}
