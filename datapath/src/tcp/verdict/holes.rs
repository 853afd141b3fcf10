//! What of one direction's sequence space did not pass here, as ranges below the highest sequence number. Where there
//! are more than there is room for, what lies below the highest of them is unsure, and is said to be.

use super::UNSURE_KNOWN;
use crate::{
    hint::{forget, store},
    layout::{Hole, Trail, TroubleSide},
    parse::Headers,
    tcp::{after, at_or_before, before},
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
    store(&mut headers.split_end, 0);
    store(&mut headers.split_start, 0);
    let headers = forget(headers);
    each_hole!(side, |hole| {
        if hole.start != hole.end && before(hole.start, end) && before(start, hole.end) {
            if headers.coverage != MISSING || after(hole.opened_us, headers.opened_us) {
                store(&mut headers.opened_us, hole.opened_us);
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
        open(own, side, headers.split_start, headers.split_end, headers.opened_us);
    }
}

/// `start` to `end` did not pass before what follows it did. In place of the lowest hole where there is no room.
#[inline(always)]
pub(super) fn open(own: &mut Trail, side: &mut TroubleSide, start: u32, end: u32, opened_us: u32) {
    each_hole!(side, |hole| {
        if hole.start == hole.end {
            store(hole, Hole { start, end, opened_us });
            return;
        }
    });
    // The lowest one ends up in the first place.
    let [first, second, third, fourth] = &mut side.holes;
    lower(first, second);
    lower(first, third);
    lower(first, fourth);
    let forgotten = if before(first.start, start) {
        let end_of_first = first.end;
        store(first, Hole { start, end, opened_us });
        end_of_first
    } else {
        end
    };
    if own.bits & UNSURE_KNOWN == 0 || !at_or_before(forgotten, own.unsure_before) {
        own.unsure_before = forgotten;
        own.bits |= UNSURE_KNOWN;
    }
}

/// Puts the lower of two holes into the first place.
#[inline(always)]
fn lower(first: &mut Hole, other: &mut Hole) {
    if before(other.start, first.start) {
        let held = *first;
        store(first, *other);
        store(other, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u32 = 5;

    struct Holes {
        own: Trail,
        side: TroubleSide,
    }

    impl Holes {
        fn new() -> Self {
            Self { own: Trail::EMPTY, side: TroubleSide::default() }
        }

        fn open(&mut self, start: u32, end: u32) {
            open(&mut self.own, &mut self.side, start, end, AT);
        }

        fn fill(&mut self, start: u32, end: u32) -> u32 {
            let mut headers = Headers::default();
            fill(&mut self.own, &mut self.side, start, end, &mut headers);
            assert!(headers.coverage != MISSING || headers.opened_us == AT);
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
