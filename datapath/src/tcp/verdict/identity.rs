//! What a sender numbers its packets with: IPv4's identification, as far as it counts up, and the timestamp option.
//! Never trusts an identification that has not proved to be a counter.

use super::{IDS_REPEAT, TIMESTAMPED};
use crate::{
    hint::store,
    layout::{Opened, Trail},
    parse::{Headers, tcp::OPTION_TIMESTAMPS},
    tcp::{after, before},
};

/// Steps upwards in a row after which identifications are trusted.
const RUN_MIN: u8 = 8;
/// Greatest step of a counter, which the sender's other connections may advance too. Eight random numbers in a row are
/// that close to each other once in 2^40.
const STEP_MAX: i16 = 2048;

/// Greatest step back of a late packet before that.
const BACK_MAX: i16 = 64;

/// Older than what it is compared with.
pub(super) const OLDER: u32 = 1;
/// Newer than it.
pub(super) const NEWER: u32 = 2;
/// The same packet.
pub(super) const SAME: u32 = 3;
/// Nothing tells.
pub(super) const UNKNOWN: u32 = 0;

/// Takes a packet's identification into account. `may_be_copy` where the packet is not simply the next one.
#[inline(always)]
pub(super) fn number(own: &mut Trail, ip_id: u32, may_be_copy: bool) {
    let ip_id = (ip_id & 0xffff) as u16;
    if ip_id == 0 {
        // Not numbered, as what must not be fragmented need not be (RFC 6864).
        return;
    }
    let step = ip_id.wrapping_sub(own.highest_ip_id).cast_signed();
    let is_first = own.highest_ip_id == 0;
    let back_max = if own.run >= RUN_MIN { STEP_MAX } else { BACK_MAX };
    if !is_first && step < 0 && step >= -back_max {
        // A late packet, or a copy of one.
        return;
    }
    if step == 0 && may_be_copy && own.run >= RUN_MIN {
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

/// Takes the packet that holds the highest sequence number for the one that opened the hole.
#[inline(always)]
pub(super) fn by_newest(own: &Trail, opened: &mut Opened, at_us: u32) {
    store(&mut opened.us, at_us);
    store(&mut opened.timestamp, own.newest_timestamp);
    store(&mut opened.ip_id, own.newest_ip_id);
    store(&mut opened.timestamped, if own.bits & TIMESTAMPED != 0 { 1 } else { 0 });
}

/// The packet at hand opens a hole.
#[inline(always)]
pub(super) fn by_this(headers: &mut Headers, at_us: u32) {
    let timestamped = if headers.options & OPTION_TIMESTAMPS != 0 { 1 } else { 0 };
    store(&mut headers.opened.us, at_us);
    store(&mut headers.opened.timestamp, headers.timestamp);
    store(&mut headers.opened.ip_id, (headers.ip_id & 0xffff) as u16);
    store(&mut headers.opened.timestamped, timestamped);
}

/// When the segment in `headers` was sent, compared with another one of its sender.
#[inline(always)]
pub(super) fn age(own: &Trail, headers: &Headers, other: &Opened) -> u32 {
    let ip_id = (headers.ip_id & 0xffff) as u16;
    if own.run >= RUN_MIN && ip_id != 0 && other.ip_id != 0 {
        let step = ip_id.wrapping_sub(other.ip_id).cast_signed();
        return if step == 0 {
            SAME
        } else if step > 0 {
            NEWER
        } else {
            OLDER
        };
    }
    if headers.options & OPTION_TIMESTAMPS == 0 || other.timestamped == 0 {
        return UNKNOWN;
    }
    if after(headers.timestamp, other.timestamp) {
        NEWER
    } else if before(headers.timestamp, other.timestamp) {
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
        ids.into_iter().for_each(|ip_id| number(&mut trail, u32::from(ip_id), false));
        trail
    }

    fn of_newest(own: &Trail) -> Opened {
        let mut opened = Opened::default();
        by_newest(own, &mut opened, 0);
        opened
    }

    fn aged(ids: impl IntoIterator<Item = u16>, newest: u16, ip_id: u16) -> u32 {
        let trail = Trail { newest_ip_id: newest, ..after_ids(ids) };
        let headers = Headers { ip_id: u32::from(ip_id), ..Headers::default() };
        age(&trail, &headers, &of_newest(&trail))
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
        let age = |headers: &Headers| age(&trail, headers, &of_newest(&trail));
        let at =
            |timestamp| Headers { timestamp, options: OPTION_TIMESTAMPS, ..Headers::default() };
        assert_eq!(age(&at(6)), NEWER);
        assert_eq!(age(&at(4)), OLDER);
        assert_eq!(age(&at(5)), UNKNOWN);
        assert_eq!(age(&Headers { timestamp: 6, ..Headers::default() }), UNKNOWN);
    }

    #[test]
    fn different_packets_with_one_identification_are_remembered() {
        assert!(after_ids([7, 7]).bits & IDS_REPEAT != 0);
        assert!(after_ids([7, 7].into_iter().chain(8..17)).bits & IDS_REPEAT == 0);
    }
}
