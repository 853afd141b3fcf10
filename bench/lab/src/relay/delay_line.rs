//! Frames that wait for their release time, bounded in bytes. Never reorders frames with equal
//! times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::order::Carries;

/// Bytes that one direction may hold at once; what comes beyond is counted as dropped from the
/// queue.
pub(crate) const HELD_BYTES_MAX: usize = 64 << 20;

/// A queue by release time, first in first out among equals.
#[derive(Debug, Default)]
pub(super) struct DelayLine {
    heap: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    next_number: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    release_ns: u64,
    number: u64,
    frame: Vec<u8>,
    carries: Carries,
}

/// A frame whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub frame: Vec<u8>,
    /// When it was due.
    pub release_ns: u64,
    /// Frames before it in the order in which they came.
    pub number: u64,
    /// As given to [`DelayLine::hold`].
    pub carries: Carries,
}

impl DelayLine {
    /// Keeps `frame` until `release_ns`; false where there is no room.
    pub(super) fn hold(&mut self, frame: Vec<u8>, release_ns: u64, carries: Carries) -> bool {
        if self.held_bytes + frame.len() > HELD_BYTES_MAX {
            return false;
        }
        self.held_bytes += frame.len();
        self.heap.push(Reverse(Held { release_ns, number: self.next_number, frame, carries }));
        self.next_number += 1;
        true
    }

    /// The next frame whose time has come.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<Due> {
        if self.next_release_ns()? > now_ns {
            return None;
        }
        let Reverse(Held { release_ns, number, frame, carries }) = self.heap.pop()?;
        self.held_bytes -= frame.len();
        Some(Due { frame, release_ns, number, carries })
    }

    pub(super) fn next_release_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(held)| held.release_ns)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_at_their_time_and_equals_in_order() {
        let mut line = DelayLine::default();
        for (byte, at) in [(1, 20), (2, 10), (3, 10)] {
            assert!(line.hold(vec![byte], at, Carries::Nothing));
        }
        assert_eq!(line.take_due(9), None);
        assert_eq!(line.next_release_ns(), Some(10));
        let order: Vec<u8> =
            std::iter::from_fn(|| line.take_due(20)).flat_map(|due| due.frame).collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn a_full_line_refuses_and_makes_room_again() {
        let mut line = DelayLine::default();
        assert!(line.hold(vec![0; HELD_BYTES_MAX], 1, Carries::Nothing));
        assert!(!line.hold(vec![0], 1, Carries::Nothing));
        line.take_due(1);
        assert!(line.hold(vec![0], 1, Carries::Nothing));
    }
}
