//! Selective acknowledgments: how far they reach, and which segments that were sent again arrived twice (D-SACK, RFC
//! 2883). Each of those counts once, however often it is told.

use super::{
    DOWNSTREAM_COUNT, ONE_AGAIN, SELECTIVE_KNOWN, SPURIOUS_COUNT, UPSTREAM_COUNT, follow::repeat,
};
use crate::{
    hint::{forget, store},
    layout::{Again, Trail, TroubleSide, VerdictCounts},
    parse::Headers,
    tcp::{after, at_or_before, before},
    time::Ktime,
};

/// `Again::what`: nothing tells where the segment was lost that is replaced, or it was not lost.
pub(super) const PLACE_UNKNOWN: u32 = 0;
/// Between its sender and here.
pub(super) const UPSTREAM: u32 = 1;
/// Between here and its receiver.
pub(super) const DOWNSTREAM: u32 = 2;
/// Bits of the place.
const PLACE_BITS: u32 = 2;

/// Takes the blocks of the segment's selective acknowledgment into account: `own` and `side` are its sender's,
/// `peer_side` and `counts` of what they acknowledge.
#[inline(always)]
pub(super) fn selective(
    own: &mut Trail,
    peer: &Trail,
    side: &mut TroubleSide,
    peer_side: &mut TroubleSide,
    counts: &mut VerdictCounts,
    headers: &mut Headers,
    now: Ktime,
) {
    store(&mut headers.told_more, 0);
    let headers = forget(headers);
    let [first, second, third, fourth] = headers.selective;
    let blocks = headers.selective_len;
    let acknowledgment = headers.acknowledgment;
    if blocks > 0 && before(first[0], first[1]) {
        // RFC 2883, 4: the first block, below what is acknowledged or within the second one.
        let is_within = blocks > 1
            && before(second[0], second[1])
            && at_or_before(second[0], first[0])
            && at_or_before(first[1], second[1]);
        if at_or_before(first[1], acknowledgment) || is_within {
            arrived_twice(peer_side, counts, first[0], first[1]);
        } else {
            reaches(own, side, headers, first);
        }
    }
    let headers = forget(headers);
    if blocks > 1 {
        reaches(own, side, headers, second);
    }
    let headers = forget(headers);
    if blocks > 2 {
        reaches(own, side, headers, third);
    }
    let headers = forget(headers);
    if blocks > 3 {
        reaches(own, side, headers, fourth);
    }
    let headers = forget(headers);
    let is_counted = headers.advanced != 0
        || headers.classes & crate::tcp::classes::DUPLICATE_ACK != 0
        || headers.told_more == 0;
    if !is_counted {
        repeat(own, peer, headers, now);
    }
}

/// One block.
#[inline(always)]
fn reaches(own: &Trail, side: &mut TroubleSide, headers: &mut Headers, [start, end]: [u32; 2]) {
    if at_or_before(end, start) || !after(start, headers.acknowledgment) {
        return;
    }
    store(&mut headers.told_more, 1);
    let stands = side.bits & SELECTIVE_KNOWN != 0 && after(side.selective_end, own.acknowledged);
    if !stands || after(end, side.selective_end) {
        side.selective_end = end;
        side.bits |= SELECTIVE_KNOWN;
    }
}

/// Remembers a segment that was sent again and is not known to be spurious.
#[inline(always)]
pub(super) fn push(side: &mut TroubleSide, start: u32, end: u32, segments: u32, place: u32) {
    side.remember(
        side.bits / ONE_AGAIN,
        Again { start, end, what: segments << PLACE_BITS | place },
    );
    side.bits = side.bits.wrapping_add(ONE_AGAIN);
}

/// `start` to `end` arrived twice: of what was sent again in there, or around it, the first is found.
#[inline(always)]
fn arrived_twice(side: &mut TroubleSide, counts: &mut VerdictCounts, start: u32, end: u32) {
    macro_rules! each {
        ($($slot:literal)*) => {
            $({
                let again = &mut side.again[$slot];
                let contains = at_or_before(start, again.start) && at_or_before(again.end, end);
                let is_part = at_or_before(again.start, start) && at_or_before(end, again.end);
                if again.start != again.end && (contains || is_part) {
                    store(&mut again.end, again.start);
                    not_lost(counts, again.what);
                    return;
                }
            })*
        };
    }
    each!(0 1 2 3 4 5 6 7);
}

/// Nothing was lost after all.
#[inline(always)]
fn not_lost(counts: &mut VerdictCounts, what: u32) {
    let (segments, place) = (what >> PLACE_BITS, what & ((1 << PLACE_BITS) - 1));
    let counts = &mut counts.counts;
    counts[SPURIOUS_COUNT] = counts[SPURIOUS_COUNT].wrapping_add(segments);
    if place == UPSTREAM {
        counts[UPSTREAM_COUNT] = counts[UPSTREAM_COUNT].wrapping_sub(segments);
    } else if place == DOWNSTREAM {
        counts[DOWNSTREAM_COUNT] = counts[DOWNSTREAM_COUNT].wrapping_sub(segments);
    }
}
