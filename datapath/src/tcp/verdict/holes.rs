//! What of one direction's sequence space did not pass here, as ranges below the highest sequence number. Where there
//! are more than there is room for, what lies below the highest of them is unsure, and is said to be.

use super::UNSURE_KNOWN;
use crate::{
    hint::{forget, store},
    layout::{Hole, Opened, Trail, TroubleSide},
    parse::Headers,
    tcp::{after, before},
};

/// `Headers::coverage`: all of it had passed here.
pub(super) const SEEN: u32 = 0;
/// Some of it had not; since when that is known is in `Headers::opened_us`.
pub(super) const MISSING: u32 = 1;
/// It lies before the first segment that was seen, or below forgotten holes.
pub(super) const UNSURE: u32 = 2;

macro_rules! each_hole {
    ($side:ident, |$hole:ident| $body:block) => {{
        {
            let $hole = &mut $side.holes[0];
            $body
        }
        {
            let $hole = &mut $side.holes[1];
            $body
        }
        {
            let $hole = &mut $side.holes[2];
            $body
        }
        {
            let $hole = &mut $side.holes[3];
            $body
        }
    }};
}

/// A segment passes from `start` to `end`, below the highest sequence number. Leaves in `headers` what was known of its
/// place.
#[inline(always)]
pub(super) fn fill(
    own: &mut Trail,
    side: &mut TroubleSide,
    start: u32,
    end: u32,
    headers: &mut Headers,
) {
    let is_unsure = own.bits & UNSURE_KNOWN != 0 && before(start, own.unsure_before);
    store(&mut headers.coverage, if is_unsure { UNSURE } else { SEEN });
    copy(&mut headers.opened, &side.forgotten);
    store(&mut headers.split_end, 0);
    store(&mut headers.split_start, 0);
    let headers = forget(headers);
    each_hole!(side, |hole| {
        if hole.start != hole.end && before(hole.start, end) && before(start, hole.end) {
            if headers.coverage != MISSING || after(hole.opened.us, headers.opened.us) {
                copy(&mut headers.opened, &hole.opened);
            }
            store(&mut headers.coverage, MISSING);
            if before(hole.start, start) {
                if after(hole.end, end) {
                    store(&mut headers.split_start, end);
                    store(&mut headers.split_end, hole.end);
                }
                store(&mut hole.end, start);
            } else if after(hole.end, end) {
                store(&mut hole.start, end);
            } else {
                store(&mut hole.end, hole.start);
            }
        }
    });
    let headers = forget(headers);
    if headers.split_start != headers.split_end {
        // At most one hole has something left on both sides.
        open(own, side, headers.split_start, headers.split_end, &headers.opened);
    }
}

/// `start` to `end` did not pass before what follows it did, by which it was `opened`. Takes the place of the lowest hole
/// where there is no room.
#[inline(always)]
pub(super) fn open(own: &mut Trail, side: &mut TroubleSide, start: u32, end: u32, opened: &Opened) {
    each_hole!(side, |hole| {
        if hole.start == hole.end {
            return set(hole, start, end, opened);
        }
    });
    let lowest = lower(
        lower(side.holes[0].start, side.holes[1].start),
        lower(side.holes[2].start, side.holes[3].start),
    );
    if !before(lowest, start) {
        return forget_hole(own, &mut side.forgotten, end, opened);
    }
    each_hole!(side, |hole| {
        if hole.start == lowest {
            forget_hole(own, &mut side.forgotten, hole.end, &hole.opened);
            set(hole, start, end, opened);
        }
    });
}

#[inline(always)]
const fn lower(one: u32, other: u32) -> u32 {
    if before(one, other) { one } else { other }
}

#[inline(always)]
fn set(hole: &mut Hole, start: u32, end: u32, opened: &Opened) {
    store(&mut hole.start, start);
    store(&mut hole.end, end);
    copy(&mut hole.opened, opened);
}

/// Word by word: a copy of the whole would pass through the stack.
#[inline(always)]
fn copy(to: &mut Opened, from: &Opened) {
    store(&mut to.us, from.us);
    store(&mut to.timestamp, from.timestamp);
    store(&mut to.ip_id, from.ip_id);
    store(&mut to.timestamped, from.timestamped);
}

/// Nothing is known any more about what lies below `end`.
#[inline(always)]
fn forget_hole(own: &mut Trail, last: &mut Opened, end: u32, opened: &Opened) {
    if own.bits & UNSURE_KNOWN == 0 || after(end, own.unsure_before) {
        own.unsure_before = end;
        own.bits |= UNSURE_KNOWN;
    }
    if last.us == 0 || after(opened.us, last.us) {
        copy(last, opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Opened = Opened { us: 5, timestamp: 0, ip_id: 0, timestamped: 0 };

    struct Holes {
        own: Trail,
        side: TroubleSide,
    }

    impl Holes {
        fn new() -> Self {
            Self { own: Trail::EMPTY, side: TroubleSide::default() }
        }

        fn open(&mut self, start: u32, end: u32) {
            open(&mut self.own, &mut self.side, start, end, &AT);
        }

        fn fill(&mut self, start: u32, end: u32) -> u32 {
            let mut headers = Headers::default();
            fill(&mut self.own, &mut self.side, start, end, &mut headers);
            assert!(headers.coverage != MISSING || headers.opened.us == AT.us);
            headers.coverage
        }
    }

    #[test]
    fn a_hole_is_filled_from_any_side() {
        let mut holes = Holes::new();
        holes.open(100, 200);
        assert_eq!(holes.fill(140, 150), MISSING);
        assert_eq!(holes.fill(140, 150), SEEN);
        assert_eq!(holes.fill(90, 141), MISSING);
        assert_eq!(holes.fill(149, 300), MISSING);
        assert_eq!(holes.fill(90, 300), SEEN);
    }

    #[test]
    fn below_a_forgotten_hole_it_is_unsure() {
        let mut holes = Holes::new();
        for start in [100, 200, 300, 400, 500] {
            holes.open(start, start + 10);
        }
        assert_eq!(holes.fill(100, 110), UNSURE);
        assert_eq!(holes.fill(110, 120), SEEN);
        assert_eq!(holes.fill(200, 210), MISSING);
        assert_eq!(holes.fill(500, 510), MISSING);
    }

    #[test]
    fn before_the_first_segment_it_is_unsure() {
        let mut holes = Holes::new();
        holes.own.unsure_before = 100;
        holes.own.bits |= UNSURE_KNOWN;
        assert_eq!(holes.fill(50, 60), UNSURE);
        assert_eq!(holes.fill(100, 110), SEEN);
    }
}
