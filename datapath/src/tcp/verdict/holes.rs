//! What of one direction's sequence space did not pass here, as ranges below the highest sequence number. Where there
//! are more than it has room for, it is unsure about what lies below, and says so.

use crate::{
    tcp::{after, at_or_before, before},
    time::Ktime,
};

/// Ranges that are remembered.
pub(super) const HOLES_MAX: usize = 4;

/// A range that did not pass here.
#[derive(Clone, Copy, Debug)]
struct Hole {
    start: u32,
    end: u32,
    opened: Ktime,
}

/// What is known of a segment's place in the sequence space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// All of it had passed here.
    Seen,
    /// Some of it had not; since when that is known.
    Missing(Ktime),
    /// It lies before the first segment of the capture, or below forgotten holes.
    Unsure,
}

/// The holes of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holes {
    holes: [Option<Hole>; HOLES_MAX],
    unsure_before: Option<u32>,
}

impl Holes {
    /// Of a direction whose first segment begins at `sequence`, with what came before it unknown.
    pub(super) fn unsure_before(sequence: u32) -> Self {
        Self { unsure_before: Some(sequence), ..Self::default() }
    }

    /// `start` to `end` did not pass before what follows it did.
    pub(super) fn open(&mut self, start: u32, end: u32, opened: Ktime) {
        self.keep(Hole { start, end, opened });
    }

    /// A segment passes that lies below the highest sequence number; what was known of its place.
    pub(super) fn fill(&mut self, start: u32, end: u32) -> Coverage {
        let mut since: Option<Ktime> = None;
        for slot in 0..HOLES_MAX {
            let Some(hole) = self.holes[slot] else { continue };
            if at_or_before(end, hole.start) || at_or_before(hole.end, start) {
                continue;
            }
            since = Some(since.map_or(hole.opened, |at| at.max(hole.opened)));
            self.holes[slot] = None;
            if before(hole.start, start) {
                self.holes[slot] = Some(Hole { end: start, ..hole });
            }
            if after(hole.end, end) {
                self.keep(Hole { start: end, ..hole });
            }
        }
        match since {
            Some(opened) => Coverage::Missing(opened),
            None if self.unsure_before.is_some_and(|first| before(start, first)) => {
                Coverage::Unsure
            }
            None => Coverage::Seen,
        }
    }

    /// Keeps a hole, in place of the lowest one where there is no room.
    fn keep(&mut self, hole: Hole) {
        if let Some(free) = self.holes.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(hole);
            return;
        }
        let mut lowest = hole;
        for slot in self.holes.iter_mut().flatten() {
            if before(slot.start, lowest.start) {
                core::mem::swap(slot, &mut lowest);
            }
        }
        if self.unsure_before.is_none_or(|first| before(first, lowest.end)) {
            self.unsure_before = Some(lowest.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Ktime = Ktime(5);

    #[test]
    fn a_hole_is_filled_from_any_side() {
        let mut holes = Holes::default();
        holes.open(100, 200, AT);
        assert_eq!(holes.fill(140, 150), Coverage::Missing(AT));
        assert_eq!(holes.fill(140, 150), Coverage::Seen);
        assert_eq!(holes.fill(90, 141), Coverage::Missing(AT));
        assert_eq!(holes.fill(149, 300), Coverage::Missing(AT));
        assert_eq!(holes.fill(90, 300), Coverage::Seen);
    }

    #[test]
    fn below_a_forgotten_hole_it_is_unsure() {
        let mut holes = Holes::default();
        for start in [100, 200, 300, 400, 500] {
            holes.open(start, start + 10, AT);
        }
        assert_eq!(holes.fill(100, 110), Coverage::Unsure);
        assert_eq!(holes.fill(110, 120), Coverage::Seen);
        assert_eq!(holes.fill(200, 210), Coverage::Missing(AT));
        assert_eq!(holes.fill(500, 510), Coverage::Missing(AT));
    }

    #[test]
    fn before_the_first_segment_it_is_unsure() {
        let mut holes = Holes::unsure_before(100);
        assert_eq!(holes.fill(50, 60), Coverage::Unsure);
        assert_eq!(holes.fill(100, 110), Coverage::Seen);
    }
}
