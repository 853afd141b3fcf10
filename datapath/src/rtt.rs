//! Round trips from the sequence and acknowledgment numbers alone, with Karn's rule (RFC 6298, 3).
//!
//! Per direction a range (left, right] of sequence numbers is kept in which an acknowledgment is unambiguous, and
//! the send times of up to four segments in it. A gap starts a new range, a retransmission or a pure duplicate
//! acknowledgment empties it. The four oldest segments are kept: overwriting them starves paced flows.

use crate::{
    hint::{opaque, store},
    layout::{Half, Outstanding, RTT_BUCKETS},
    parse::{
        Headers,
        tcp::{ACK, FIN, RST, SYN},
    },
    tcp::{after, at_or_before, before},
    time::{Ktime, TICK_NS},
};

/// `Half::bits`: the range is set. Bits 0 and 1 belong to the tracker.
const RANGE_SET: u8 = 1 << 2;

/// One measured round trip, in ticks of 64 ns, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttTicks(pub u32);

impl RttTicks {
    /// Of a packet that completed no round trip.
    pub const NONE: Self = Self(0);

    /// In nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0 as u64 * TICK_NS
    }
}

/// Forgets what is in flight, but not what was measured.
#[inline(always)]
pub(crate) fn restart(half: &mut Half) {
    store(&mut half.range_left, 0);
    store(&mut half.range_right, 0);
    free_all(half);
}

#[inline(always)]
fn free_all(half: &mut Half) {
    store(&mut half.outstanding[0].sent_ticks, 0);
    store(&mut half.outstanding[1].sent_ticks, 0);
    store(&mut half.outstanding[2].sent_ticks, 0);
    store(&mut half.outstanding[3].sent_ticks, 0);
}

/// Whether a segment only repeats the acknowledgment before it. To be asked before the tracker updates `own`.
#[inline(always)]
pub(crate) fn is_pure_duplicate(own: &Half, headers: &Headers) -> bool {
    headers.payload_len == 0
        && headers.acknowledgment == own.last_acknowledgment
        && headers.window == own.window
        && headers.tcp_flags & (SYN | FIN) == 0
}

/// Takes the segment's acknowledgment and its data into account; returns the round trip that it completes, or
/// [`RttTicks::NONE`].
#[inline(always)]
pub(crate) fn measure(
    own: &mut Half,
    peer: &mut Half,
    headers: &Headers,
    pure_duplicate: bool,
    now: Ktime,
) -> RttTicks {
    let mut sample = RttTicks::NONE;
    if headers.tcp_flags & (ACK | RST) == ACK {
        sample = acknowledged(peer, headers.acknowledgment, pure_duplicate, now.ticks());
        if sample != RttTicks::NONE {
            record(own, sample);
        }
    }
    let control = u32::from(headers.tcp_flags & (SYN | FIN) != 0);
    let length = headers.payload_len.wrapping_add(control);
    if length != 0 && headers.tcp_flags & RST == 0 {
        sent(own, headers.sequence, headers.sequence.wrapping_add(length), now.ticks());
    }
    sample
}

/// An acknowledgment of what `sender` sent.
#[inline(always)]
fn acknowledged(
    sender: &mut Half,
    acknowledgment: u32,
    pure_duplicate: bool,
    now: u32,
) -> RttTicks {
    if sender.bits & RANGE_SET == 0 || sender.range_left == sender.range_right {
        return RttTicks::NONE;
    }
    if before(acknowledgment, sender.range_left) || after(acknowledgment, sender.range_right) {
        return RttTicks::NONE;
    }
    if acknowledgment == sender.range_left {
        if pure_duplicate {
            // A loss is being signalled: what follows may acknowledge either copy.
            sender.range_left = sender.range_right;
            free_all(sender);
        }
        return RttTicks::NONE;
    }
    sender.range_left = acknowledgment;
    let mut ticks = 0;
    settle(&mut sender.outstanding[0], acknowledgment, now, &mut ticks);
    settle(&mut sender.outstanding[1], acknowledgment, now, &mut ticks);
    settle(&mut sender.outstanding[2], acknowledgment, now, &mut ticks);
    settle(&mut sender.outstanding[3], acknowledgment, now, &mut ticks);
    RttTicks(ticks)
}

/// Matches one slot: an acknowledgment inside a segment counts too, since a super-packet is acknowledged in parts.
#[inline(always)]
fn settle(slot: &mut Outstanding, acknowledgment: u32, now: u32, ticks: &mut u32) {
    if slot.sent_ticks == 0 {
        return;
    }
    if after(acknowledgment, slot.start) && at_or_before(acknowledgment, slot.end) {
        let elapsed = now.wrapping_sub(slot.sent_ticks);
        *ticks = if elapsed == 0 { 1 } else { elapsed };
        slot.start = acknowledgment;
        if acknowledgment == slot.end {
            slot.sent_ticks = 0;
        }
    } else if at_or_before(slot.end, acknowledgment) {
        slot.sent_ticks = 0;
    }
}

/// Data, SYN or FIN of `own`.
#[inline(always)]
fn sent(own: &mut Half, start: u32, end: u32, now: u32) {
    if own.bits & RANGE_SET == 0 || own.range_left == own.range_right {
        own.range_left = start;
        own.range_right = end;
        own.bits |= RANGE_SET;
    } else if start == own.range_right {
        own.range_right = end;
    } else if after(start, own.range_right) {
        own.range_left = start;
        own.range_right = end;
    } else {
        // Sent again (Karn): nothing in flight is unambiguous any more.
        own.range_left = end;
        own.range_right = end;
        return;
    }
    let slots = &mut own.outstanding;
    let slot = if slots[0].sent_ticks == 0 {
        &mut slots[0]
    } else if slots[1].sent_ticks == 0 {
        &mut slots[1]
    } else if slots[2].sent_ticks == 0 {
        &mut slots[2]
    } else if slots[3].sent_ticks == 0 {
        &mut slots[3]
    } else {
        return;
    };
    *slot = Outstanding { start, end, sent_ticks: now };
}

/// Books a sample in the half of the endpoint whose acknowledgment completed it.
#[inline(always)]
fn record(half: &mut Half, rtt: RttTicks) {
    half.rtt_samples = half.rtt_samples.wrapping_add(1);
    half.rtt_last_ticks = rtt.0;
    if rtt.0 < half.rtt_min_ticks || half.rtt_min_ticks == 0 {
        half.rtt_min_ticks = rtt.0;
    }
    if rtt.0 > half.rtt_max_ticks {
        half.rtt_max_ticks = rtt.0;
    }
    let bucket = opaque(bucket(rtt)) & 31;
    if bucket < RTT_BUCKETS {
        let buckets = half.rtt_buckets.as_mut_ptr();
        // SAFETY: `bucket` was just compared with the length; an index expression would link a panic.
        unsafe {
            let bucket = buckets.add(bucket);
            *bucket = (*bucket).wrapping_add(1);
        }
    }
}

/// The octave of a sample: 0 below 1,024 ns, then one for each doubling, the last for all from 4.3 s on.
#[inline(always)]
#[must_use]
pub const fn bucket(rtt: RttTicks) -> usize {
    let octave = u32::BITS - (rtt.0 >> 4).leading_zeros();
    let octave = octave as usize;
    if octave < RTT_BUCKETS { octave } else { RTT_BUCKETS - 1 }
}

/// The bounds [from, to) of a bucket in nanoseconds; the last has no upper bound.
#[must_use]
pub const fn bucket_bounds_ns(bucket: usize) -> (u64, u64) {
    let from = if bucket == 0 { 0 } else { 1 << (bucket + 9) };
    let to = if bucket == RTT_BUCKETS - 1 { u64::MAX } else { 1 << (bucket + 10) };
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FlowEntry;

    const MS: u32 = 15_625;

    fn half() -> Half {
        FlowEntry::EMPTY.halves[0]
    }

    #[test]
    fn an_exact_acknowledgment_measures() {
        let mut sender = half();
        sent(&mut sender, 100, 200, MS);
        assert_eq!(acknowledged(&mut sender, 200, false, 21 * MS), RttTicks(20 * MS));
    }

    #[test]
    fn a_retransmission_measures_nothing() {
        let mut sender = half();
        sent(&mut sender, 100, 200, MS);
        sent(&mut sender, 100, 200, 5 * MS);
        assert_eq!(acknowledged(&mut sender, 200, false, 21 * MS), RttTicks::NONE);
    }

    #[test]
    fn a_paced_flow_with_many_segments_in_flight_still_measures() {
        let mut sender = half();
        for segment in 0..40 {
            sent(&mut sender, segment * 10, segment * 10 + 10, (segment + 1) * MS);
        }
        let samples = (0..40)
            .filter(|n| {
                let at = (n + 43) * MS;
                acknowledged(&mut sender, n * 10 + 10, false, at) != RttTicks::NONE
            })
            .count();
        assert_eq!(samples, 4, "the oldest segments are kept, not overwritten");
    }

    #[test]
    fn an_acknowledgment_inside_a_super_packet_measures() {
        let mut sender = half();
        sent(&mut sender, 0, 65_000, MS);
        assert_eq!(acknowledged(&mut sender, 1_448, false, 3 * MS), RttTicks(2 * MS));
        assert_eq!(acknowledged(&mut sender, 65_000, false, 4 * MS), RttTicks(3 * MS));
    }

    #[test]
    fn buckets_partition_time() {
        for index in 0..RTT_BUCKETS - 1 {
            let (from, to) = bucket_bounds_ns(index);
            assert_eq!(bucket_bounds_ns(index + 1).0, to);
            let ticks = u32::try_from(from / TICK_NS).unwrap();
            assert_eq!(bucket(RttTicks(ticks)), index);
            assert_eq!(bucket(RttTicks(u32::try_from(to / TICK_NS).unwrap() - 1)), index);
        }
        assert_eq!(bucket(RttTicks(u32::MAX)), RTT_BUCKETS - 1);
    }
}
