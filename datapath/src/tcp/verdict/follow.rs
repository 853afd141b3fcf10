//! What every segment leaves in its sender's trail: first the usual ones, in order, then all others.

use super::{
    ACKNOWLEDGED_KNOWN, DUE_DATA, DUE_SELECTIVE, DUPLICATE_FRAME, IDS_REPEAT, NEVER, NEXT_KNOWN,
    TIMESTAMPED, UNSURE_KNOWN, count_in, identity::number, since, us,
};
use crate::{
    hint::{forget, store},
    layout::{FlowEntry, Half, Passed, Sides, Trail},
    parse::{
        Headers,
        tcp::{ACK, FIN, OPTION_SACK, OPTION_TIMESTAMPS, RST, SYN},
    },
    tcp::{
        after, before,
        classes::{DUPLICATE_ACK, KEEP_ALIVE, REUSED_PORTS, ZERO_WINDOW_PROBE},
    },
    time::Ktime,
};

/// Ticks of 64 ns after which the same numbers are another packet: half a second.
const COPY_TICKS: i32 = 500_000_000 / 64;

/// Takes the segment in `headers` into account if it is in order and unsuspicious, as nearly all are; whether it takes
/// [`notice`] instead.
#[inline(always)]
pub(crate) fn follow(entry: &mut FlowEntry, headers: &Headers, now: Ktime) -> bool {
    let Sides { own_half, own, .. } = entry.sides(headers.sender);
    let end = end(headers);
    let is_usual = headers.classes == 0
        && headers.sequence == own.next
        && own.bits & (NEXT_KNOWN | ACKNOWLEDGED_KNOWN) == NEXT_KNOWN | ACKNOWLEDGED_KNOWN
        && headers.tcp_flags & (SYN | RST | ACK) == ACK
        && headers.options & OPTION_SACK == 0
        && (after(headers.acknowledgment, own.acknowledged)
            || (headers.acknowledgment == own.acknowledged && end != headers.sequence));
    if !is_usual {
        return true;
    }
    if headers.from_socket == 0 {
        remember(own, own_half.skbs, hash(headers), now);
    }
    number(own, headers.ip_id, false);
    if headers.acknowledgment != own.acknowledged {
        own.acknowledged = headers.acknowledgment;
        own.told_us = us(now);
        own.duplicates = 0;
    }
    if end != headers.sequence {
        advance(own, headers, end, now);
    }
    false
}

/// One after the last sequence number that the segment takes.
#[inline(always)]
pub(super) fn end(headers: &Headers) -> u32 {
    let control = if headers.tcp_flags & (SYN | FIN) != 0 { 1 } else { 0 };
    headers.sequence.wrapping_add(headers.payload_len).wrapping_add(control)
}

/// The segment holds the highest sequence number now.
#[inline(always)]
pub(super) fn advance(own: &mut Trail, headers: &Headers, end: u32, now: Ktime) {
    own.next = end;
    own.sent_us = us(now);
    own.newest_ip_id = (headers.ip_id & 0xffff) as u16;
    own.newest_timestamp = headers.timestamp;
    let stamped = if headers.options & OPTION_TIMESTAMPS != 0 { TIMESTAMPED } else { 0 };
    own.bits = (own.bits & !TIMESTAMPED) | NEXT_KNOWN | stamped;
}

/// Takes any other segment into account, as far as that takes nothing but the flow's entry. Leaves the verdict in
/// `headers`, and in `headers.due` what is left to do.
#[inline(always)]
pub(crate) fn notice(entry: &mut FlowEntry, headers: &mut Headers, now: Ktime) {
    let Sides { own_half, peer_half, own, peer, own_counts, .. } = entry.sides(headers.sender);
    store(&mut headers.due, 0);
    store(&mut headers.verdict, 0);
    store(&mut headers.verdict_segments, 1);
    store(&mut headers.verdict_bytes, headers.payload_len);
    store(&mut headers.silence_us, 0);
    store(&mut headers.advanced, 0);
    if headers.tcp_flags & SYN != 0 && headers.classes & REUSED_PORTS != 0 {
        restart(own);
        if headers.tcp_flags & ACK == 0 {
            restart(peer);
        }
    }
    let headers = forget(headers);
    let hash = hash(headers);
    find_copy(own, hash, headers, now);
    let headers = forget(headers);
    if headers.copied_ticks == NEVER {
        remember(own, own_half.skbs, hash, now);
    } else if headers.ip_id != 0 && own.bits & IDS_REPEAT == 0 {
        headers.verdict = DUPLICATE_FRAME;
        count_in(own_counts, headers);
        return;
    }
    number(own, headers.ip_id, true);
    if headers.tcp_flags & RST != 0 {
        return;
    }
    if headers.tcp_flags & ACK != 0 {
        acknowledge(own, peer, headers, now);
        if headers.options & OPTION_SACK != 0 {
            headers.due = DUE_SELECTIVE;
        }
    }
    let headers = forget(headers);
    send(own, peer, peer_half, headers, now);
}

/// What an endpoint sent, but not what was counted.
#[inline(always)]
fn restart(trail: &mut Trail) {
    store(&mut trail.passed[0].hash, 0);
    store(&mut trail.passed[1].hash, 0);
    store(&mut trail.passed[2].hash, 0);
    store(&mut trail.passed[3].hash, 0);
    store(&mut trail.highest_ip_id, 0);
    store(&mut trail.run, 0);
    store(&mut trail.duplicates, 0);
    store(&mut trail.bits, 0);
}

/// Of all that does not change on the way: not the hops left, nor the VLAN, which is in the flow's key. Never 0.
#[inline(always)]
fn hash(headers: &Headers) -> u32 {
    let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let names = (headers.ip_id & 0xffff) << 16 | (headers.tcp_flags & 0xff);
    let stamp = if headers.options & OPTION_TIMESTAMPS != 0 { headers.timestamp } else { 0 };
    // Odd, and of no structure of their own.
    let hash = pair(headers.sequence, headers.acknowledgment).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ pair(headers.payload_len, names).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ pair(headers.window, stamp).wrapping_mul(0x1656_67b1_9e37_79f9);
    ((hash >> 32 ^ hash) & 0xffff_ffff) as u32 | 1
}

#[inline(always)]
fn remember(own: &mut Trail, turn: u64, hash: u32, now: Ktime) {
    own.remember(turn, Passed { hash, ticks: now.ticks() });
}

/// Leaves in `headers.copied_ticks` how long ago the same packet passed. Also where time goes backwards: two clocks may
/// have stamped the two.
#[inline(always)]
fn find_copy(own: &Trail, hash: u32, headers: &mut Headers, now: Ktime) {
    store(&mut headers.copied_ticks, NEVER);
    if headers.from_socket != 0 {
        return;
    }
    macro_rules! each {
        ($($slot:literal)*) => {
            $(if own.passed[$slot].hash == hash {
                let elapsed = since(now.ticks(), own.passed[$slot].ticks);
                if elapsed < COPY_TICKS && elapsed > -COPY_TICKS {
                    store(&mut headers.copied_ticks, elapsed.unsigned_abs());
                }
            })*
        };
    }
    each!(0 1 2 3);
}

/// What the segment acknowledges, but for blocks of it.
#[inline(always)]
fn acknowledge(own: &mut Trail, peer: &Trail, headers: &mut Headers, now: Ktime) {
    let acknowledgment = headers.acknowledgment;
    if own.bits & ACKNOWLEDGED_KNOWN == 0 || after(acknowledgment, own.acknowledged) {
        own.acknowledged = acknowledgment;
        own.told_us = us(now);
        own.duplicates = 0;
        own.bits |= ACKNOWLEDGED_KNOWN;
        headers.advanced = 1;
    } else if headers.classes & DUPLICATE_ACK != 0 {
        repeat(own, peer, headers, now);
    }
}

/// The same acknowledgment again, in a segment that carries nothing, while something is on its way (RFC 5681, 2): that,
/// or some of it, is missing.
#[inline(always)]
pub(super) fn repeat(own: &mut Trail, peer: &Trail, headers: &Headers, now: Ktime) {
    let is_pure = headers.payload_len == 0 && headers.tcp_flags & (SYN | FIN) == 0;
    let is_awaited = peer.bits & NEXT_KNOWN != 0 && after(peer.next, own.acknowledged);
    if is_pure && is_awaited && headers.acknowledgment == own.acknowledged {
        own.told_us = us(now);
        own.duplicates = own.duplicates.saturating_add(1);
    }
}

/// What the segment carries, if that is in order.
#[inline(always)]
fn send(own: &mut Trail, peer: &Trail, peer_half: &Half, headers: &mut Headers, now: Ktime) {
    let end = end(headers);
    if end == headers.sequence || is_probe(peer, peer_half, headers, end) {
        return;
    }
    if own.bits & NEXT_KNOWN == 0 {
        if headers.tcp_flags & SYN == 0 {
            own.unsure_before = headers.sequence;
            own.bits |= UNSURE_KNOWN;
        }
        advance(own, headers, end, now);
        return;
    }
    // One byte before the next sequence number may have been a keep-alive's.
    let overlaps_probe = headers.payload_len > 1 && headers.sequence == own.next.wrapping_sub(1);
    if headers.sequence != own.next && !overlaps_probe {
        headers.due |= DUE_DATA;
        return;
    }
    if after(end, own.next) {
        advance(own, headers, end, now);
    }
    own.sent_us = us(now);
}

/// Keep-alives and zero window probes say nothing about losses. One byte that an open window waits for is data,
/// though, also where a keep-alive would be.
#[inline(always)]
fn is_probe(peer: &Trail, peer_half: &Half, headers: &Headers, end: u32) -> bool {
    if headers.classes & ZERO_WINDOW_PROBE != 0 {
        return true;
    }
    let is_waited_for = peer_half.window != 0
        && peer.bits & ACKNOWLEDGED_KNOWN != 0
        && before(peer.acknowledged, end);
    headers.classes & KEEP_ALIVE != 0 && !is_waited_for
}
