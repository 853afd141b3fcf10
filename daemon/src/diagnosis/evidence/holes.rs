//! Sequence numbers of one endpoint that have not passed here, and whether they were acknowledged all the same. Never more
//! than a few at a time.

use datapath::tcp::{after, at_or_before, before};

/// Holes that are followed at a time; of further ones, the oldest is settled as it stands.
const HOLES_MAX: usize = 8;
/// A longer one is a sequence number that leads nowhere.
const HOLE_BYTES_MAX: u32 = 1 << 26;

#[derive(Clone, Copy, Debug)]
struct Hole {
    start: u32,
    end: u32,
    /// When something behind it passed.
    opened_ns: u64,
    is_acknowledged: bool,
}

/// What has not passed.
#[derive(Clone, Debug, Default)]
pub struct Holes {
    open: Vec<Hole>,
    missed_bytes: u64,
}

impl Holes {
    /// A segment fills holes, or leaves one between `next`, the highest sequence number so far, and itself.
    pub(super) fn sent(&mut self, start: u32, end: u32, next: u32, now_ns: u64) {
        if before(start, next) {
            for hole in &mut self.open {
                // What is left of one in two parts is taken for the later one.
                if at_or_before(start, hole.start) && after(end, hole.start) {
                    hole.start = if after(end, hole.end) { hole.end } else { end };
                } else if after(hole.end, start) && at_or_before(hole.end, end) {
                    hole.end = start;
                } else if before(hole.start, start) && before(end, hole.end) {
                    hole.start = end;
                }
            }
            self.open.retain(|hole| hole.start != hole.end);
        } else if after(start, next) && start.wrapping_sub(next) <= HOLE_BYTES_MAX {
            if self.open.len() == HOLES_MAX {
                let oldest = self.open.remove(0);
                self.missed_bytes += oldest.missed_bytes();
            }
            let is_acknowledged = false;
            self.open.push(Hole { start: next, end: start, opened_ns: now_ns, is_acknowledged });
        }
    }

    /// When something passed that is behind `start` to `end`, and of which that had not passed.
    pub(super) fn opened_ns(&self, start: u32, end: u32) -> Option<u64> {
        let is_in = |hole: &&Hole| before(start, hole.end) && before(hole.start, end);
        self.open.iter().find(is_in).map(|hole| hole.opened_ns)
    }

    /// The receiver acknowledged everything before `to`.
    pub(super) fn acknowledged(&mut self, to: u32) {
        for hole in &mut self.open {
            hole.is_acknowledged |= at_or_before(hole.end, to);
        }
    }

    /// Bytes that never passed here, and yet were acknowledged.
    #[must_use]
    pub fn missed_bytes(&self) -> u64 {
        self.open.iter().map(Hole::missed_bytes).sum::<u64>().saturating_add(self.missed_bytes)
    }
}

impl Hole {
    fn missed_bytes(&self) -> u64 {
        if self.is_acknowledged { u64::from(self.end.wrapping_sub(self.start)) } else { 0 }
    }
}
