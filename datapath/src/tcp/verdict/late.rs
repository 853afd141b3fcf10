//! Segments that leave a hole, and those that lie below the highest sequence number: retransmitted, reordered, or
//! neither, where nothing decides.

use super::{
    DUPLICATE_FRAME, LOST_DOWNSTREAM, LOST_UPSTREAM, NEVER, REORDERED, RETRANSMITTED, SPURIOUS,
    TROUBLED, UNSURE_KNOWN, again,
    cause::{self, handshake_us},
    count_in,
    follow::{advance, end},
    holes::{self, MISSING, SEEN},
    identity::{NEWER, OLDER, SAME, age, by_newest, by_this},
    since, units, us,
};
use crate::{
    hint::{forget, store},
    layout::{FlowEntry, FlowHead, Half, Sides, Trail, Trouble, TroubleSide},
    parse::Headers,
    tcp::{after, at_or_before, before, tracker::OUT_OF_ORDER_NS},
    time::Ktime,
};

/// Time after which the same identification is that of another packet.
const COPY_MAX: i32 = units(500_000_000);
/// What the ends may take in a handshake for themselves, so that later round trips are shorter: on a LAN, most of it.
const ENDS: i32 = units(1_000_000);

/// Reads the blocks of the selective acknowledgment in `headers`, if [`super::notice`] left them to be read.
#[inline(always)]
pub(crate) fn read_selective(
    entry: &mut FlowEntry,
    trouble: &mut Trouble,
    headers: &mut Headers,
    now: Ktime,
) {
    let Sides { own, peer, peer_counts, .. } = entry.sides(headers.sender);
    let (side, peer_side) = trouble.split(headers.sender);
    again::selective(own, peer, side, peer_side, peer_counts, headers, now);
}

/// Judges the segment in `headers`, which [`super::notice`] found to be late, or to leave a hole.
#[inline(always)]
pub(crate) fn judge(
    entry: &mut FlowEntry,
    trouble: &mut Trouble,
    headers: &mut Headers,
    now: Ktime,
) {
    let Sides { head, own_half, own, .. } = entry.sides(headers.sender);
    let (side, _) = trouble.split(headers.sender);
    let headers = forget(headers);
    if before(headers.sequence, own.next) {
        let end = end(headers);
        let old_end = if after(end, own.next) { own.next } else { end };
        size(own, headers);
        holes::fill(own, side, headers.sequence, old_end, headers);
        late(head, own, own_half, forget(headers), now);
    } else {
        by_this(headers, us(now));
        let headers = forget(headers);
        let end = headers.sequence;
        holes::open(own, side, own.next, end, &headers.opened);
    }
}

/// Says why the segment that was judged was sent again, if it was, and counts it.
#[inline(always)]
pub(crate) fn explain(
    entry: &mut FlowEntry,
    trouble: &mut Trouble,
    headers: &mut Headers,
    now: Ktime,
) {
    let Sides { head, peer_half, own, peer, own_counts, .. } = entry.sides(headers.sender);
    let (side, peer_side) = trouble.split(headers.sender);
    let headers = forget(headers);
    if headers.verdict & RETRANSMITTED != 0 {
        let round_trip = crate::rtt::RttTicks(peer_half.rtt_last_ticks).as_ns();
        cause::find(head, own, peer, side, peer_side, headers, round_trip, now);
        place(peer, side, forget(headers));
    }
    let headers = forget(headers);
    count_in(own_counts, headers);
    let end = end(headers);
    if after(end, own.next) {
        advance(own, headers, end, now);
    }
    own.sent_us = us(now);
}

/// Makes what is kept in `trouble` that of the flow in `entry`: it is cleared where it was another connection's, or where
/// the flow's was evicted meanwhile.
#[inline(always)]
pub(crate) fn claim(entry: &mut FlowEntry, trouble: &mut Trouble) {
    let is_ours = trouble.first_seen_ns == entry.head.first_seen_ns;
    trouble.first_seen_ns = entry.head.first_seen_ns;
    ready(&mut entry.trails[0], &mut trouble.sides[0], is_ours);
    ready(&mut entry.trails[1], &mut trouble.sides[1], is_ours);
}

#[inline(always)]
fn ready(trail: &mut Trail, side: &mut TroubleSide, is_ours: bool) {
    if is_ours && trail.bits & TROUBLED != 0 {
        return;
    }
    if trail.bits & TROUBLED != 0 {
        // Its holes are forgotten.
        trail.unsure_before = trail.next;
        trail.bits |= UNSURE_KNOWN;
    }
    trail.bits |= TROUBLED;
    store(&mut side.bits, 0);
    store(&mut side.forgotten.us, 0);
    macro_rules! free {
        ($($list:ident $slot:literal)*) => {
            $({
                store(&mut side.$list[$slot].start, 0);
                store(&mut side.$list[$slot].end, 0);
            })*
        };
    }
    free!(holes 0 holes 1 holes 2 holes 3);
    free!(again 0 again 1 again 2 again 3 again 4 again 5 again 6 again 7);
}

/// How much of the segment had been sent before: bytes, and wire packets.
#[inline(always)]
fn size(own: &Trail, headers: &mut Headers) {
    let old = own.next.wrapping_sub(headers.sequence);
    let bytes = if headers.payload_len < old { headers.payload_len } else { old };
    headers.verdict_bytes = bytes;
    let rounded = bytes.saturating_add(headers.segment_size.wrapping_sub(1));
    headers.verdict_segments = match rounded.checked_div(headers.segment_size) {
        None | Some(0) => 1,
        Some(segments) => segments,
    };
}

/// Retransmitted or reordered: by what the sender numbers its packets with, or else by what had passed here, and when.
#[inline(always)]
fn late(head: &FlowHead, own: &Trail, own_half: &Half, headers: &mut Headers, now: Ktime) {
    if headers.from_socket != 0 {
        // Nothing is between its sender and here.
        headers.verdict = RETRANSMITTED;
        return;
    }
    let coverage = headers.coverage;
    if coverage == SEEN || headers.opened.us == 0 {
        let reached_us = us(Ktime(own_half.next_sequence_ns));
        by_newest(own, &mut headers.opened, reached_us);
    }
    let headers = forget(headers);
    let handshake = handshake_us(head);
    let least = if handshake >= 0 { handshake } else { units(OUT_OF_ORDER_NS.cast_unsigned()) };
    let age = age(own, headers, &headers.opened);
    let late_by = since(us(now), headers.opened.us);
    headers.verdict = if age == NEWER {
        RETRANSMITTED
    } else if age == SAME && coverage == SEEN && late_by < COPY_MAX {
        DUPLICATE_FRAME
    } else if age == OLDER {
        // Two copies of one range, and the second one is older than what followed: the network's doing, or both.
        if coverage == SEEN { 0 } else { REORDERED }
    } else if coverage == SEEN {
        // Nobody sends again what cannot have been answered yet; but without identifications it may be.
        let elapsed = headers.copied_ticks >> 4;
        let is_copy = headers.copied_ticks != NEVER && elapsed < least.cast_unsigned();
        if is_copy { 0 } else { RETRANSMITTED }
    } else if late_by >= least {
        RETRANSMITTED
    } else if late_by >= 0 && coverage == MISSING && late_by < handshake / 2 - ENDS {
        // Nobody can have asked for it, and been heard, in so much less than a round trip; the handshake may have taken up
        // to twice as long as one, where the ends had to find each other first.
        REORDERED
    } else {
        0
    };
}

/// Where the segment was lost that this one replaces.
#[inline(always)]
fn place(peer: &Trail, side: &mut TroubleSide, headers: &mut Headers) {
    let end = end(headers);
    let is_spurious =
        peer.bits & super::ACKNOWLEDGED_KNOWN != 0 && at_or_before(end, peer.acknowledged);
    if is_spurious {
        headers.verdict |= SPURIOUS;
        return;
    }
    let place = if headers.coverage == MISSING {
        headers.verdict |= LOST_UPSTREAM;
        again::UPSTREAM
    } else if headers.coverage == SEEN {
        headers.verdict |= LOST_DOWNSTREAM;
        again::DOWNSTREAM
    } else {
        again::PLACE_UNKNOWN
    };
    let headers = forget(headers);
    again::push(side, headers.sequence, end, headers.verdict_segments, place);
}
