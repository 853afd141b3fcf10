//! Why a segment was sent again: what the receiver had said, or how long it had been silent.

use super::{
    ACKNOWLEDGED_KNOWN, FAST, RTO, SELECTIVE_KNOWN, TAIL_LOSS_PROBE, TIMER_KNOWN, follow::end,
    since, units, us,
};
use crate::{
    layout::{FlowHead, HANDSHAKE_MEASURED, Trail, TroubleSide},
    parse::{Headers, tcp::SYN},
    tcp::{after, at_or_before, before},
    time::Ktime,
};

/// Duplicate acknowledgments that make a sender retransmit (RFC 5681, 3.2).
const DUPLICATES_MIN: u8 = 3;
/// A longer handshake was not one: time went backwards in it, or its SYN was of another attempt.
const HANDSHAKE_MAX_NS: u64 = 300_000_000_000;
/// Least time-out of Linux; others wait longer, or as long as the round trip is.
const TIMEOUT_MIN: i32 = units(200_000_000);
/// Least silence that is called a time-out where the round trip is not known: RFC 6298 begins with 1 s.
const TIMEOUT_UNKNOWN: i32 = units(900_000_000);
/// From here on a time-out need not double any more (RFC 6298, 2.5).
const TIMEOUT_CAPPED: i32 = units(60_000_000_000);
/// Linux' greatest time-out. After more silence it is not the timer that sends.
const TIMEOUT_MAX: i32 = units(130_000_000_000);
/// Least delay of a tail-loss probe, which is two ticks of the sender's clock.
const PROBE_MIN: i32 = units(1_000_000);
/// What a tail-loss probe may be late by, beside a third round trip.
const PROBE_SLACK: i32 = units(20_000_000);

/// The handshake's round trip, in units of 1,024 ns; negative where none was seen that can be one.
#[inline(always)]
pub(super) fn handshake_us(head: &FlowHead) -> i32 {
    if head.bits & HANDSHAKE_MEASURED == 0 || head.handshake_rtt_ns > HANDSHAKE_MAX_NS {
        return -1;
    }
    units(head.handshake_rtt_ns)
}

/// Adds the cause to the verdict in `headers`, and leaves the silence before the segment there. `side` is of what its
/// sender sent, `peer_side` of what its receiver did; `last_ns` the last round trip between here and that.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "all that is known, and no more")]
pub(super) fn find(
    head: &FlowHead,
    own: &Trail,
    peer: &Trail,
    side: &mut TroubleSide,
    peer_side: &TroubleSide,
    headers: &mut Headers,
    last_ns: u64,
    now: Ktime,
) {
    let (start, end, next) = (headers.sequence, end(headers), own.next);
    let is_acknowledging = peer.bits & ACKNOWLEDGED_KNOWN != 0;
    let acknowledged = peer.acknowledged;
    let is_missed = is_acknowledging
        && peer.duplicates >= DUPLICATES_MIN
        && at_or_before(start, acknowledged)
        && before(acknowledged, end);
    let is_behind = peer_side.bits & SELECTIVE_KNOWN != 0
        && after(peer_side.selective_end, acknowledged)
        && after(peer_side.selective_end, end);
    let was_asked_for = is_missed || is_behind;

    let mut silence = since(us(now), own.sent_us);
    if is_acknowledging {
        let told = since(us(now), peer.told_us);
        silence = if told < silence { told } else { silence };
    }
    headers.silence_us = if silence > 0 { silence.cast_unsigned() } else { 0 };

    let handshake = handshake_us(head);
    let last_ns = if last_ns > HANDSHAKE_MAX_NS { HANDSHAKE_MAX_NS } else { last_ns };
    let last = units(last_ns);
    let round_trip = if handshake < last { last } else { handshake };
    let is_tail = at_or_before(next, end);
    let sent_by_timer = side.bits & TIMER_KNOWN != 0 && side.timer_start == start;

    let is_probe = !was_asked_for
        && is_tail
        && !sent_by_timer
        && handshake >= 0
        && is_probe_delay(silence, round_trip);
    if is_probe {
        side.timer_start = start;
        side.timer_silence_us = 0;
        side.bits |= TIMER_KNOWN;
        headers.verdict |= TAIL_LOSS_PROBE;
        return;
    }
    let late = round_trip + round_trip / 4;
    let least = if handshake < 0 {
        TIMEOUT_UNKNOWN
    } else if late > TIMEOUT_MIN {
        late
    } else {
        TIMEOUT_MIN
    };
    let is_first_unacknowledged = !is_acknowledging || at_or_before(start, acknowledged);
    let has_doubled = !sent_by_timer || silence >= side.timer_silence_us.cast_signed();
    let is_timeout =
        silence >= least && silence <= TIMEOUT_MAX && is_first_unacknowledged && has_doubled;
    if is_timeout {
        // A probe may have had the place of the first time-out, and Linux repeats a SYN several times before it
        // doubles.
        let may_repeat = headers.tcp_flags & SYN != 0 || (!sent_by_timer && is_tail);
        let next_silence = if may_repeat { silence / 4 * 3 } else { silence / 2 * 3 };
        let capped = if next_silence > TIMEOUT_CAPPED { TIMEOUT_CAPPED } else { next_silence };
        side.timer_start = start;
        side.timer_silence_us = capped.cast_unsigned();
        side.bits |= TIMER_KNOWN;
        headers.verdict |= RTO;
    } else if was_asked_for {
        headers.verdict |= FAST;
    }
}

/// Whether a tail-loss probe is due after this silence: two round trips, and sooner than the time-out could be.
#[inline(always)]
const fn is_probe_delay(silence: i32, round_trip: i32) -> bool {
    let soonest = round_trip / 4 * 7;
    let soonest = if soonest > PROBE_MIN { soonest } else { PROBE_MIN };
    silence >= soonest
        && silence <= round_trip * 3 + PROBE_SLACK
        && silence < round_trip + TIMEOUT_MIN
}
