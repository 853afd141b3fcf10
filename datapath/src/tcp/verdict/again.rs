//! The last segments of one direction that were sent again, until a selective acknowledgment tells that one of them
//! arrived twice (D-SACK, RFC 2883).

use crate::tcp::at_or_before;

/// Segments that are remembered.
const AGAIN_MAX: usize = 8;

/// Where the segment that is replaced was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between its sender and here.
    Upstream,
    /// Between here and its receiver.
    Downstream,
    /// Nothing tells, or it was not lost.
    Unknown,
}

/// One that was sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) segments: u32,
    pub(super) place: Place,
}

/// The last ones of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentAgain {
    list: [Option<Again>; AGAIN_MAX],
    oldest: u8,
}

impl SentAgain {
    /// Remembers one that is not known to be spurious.
    pub(super) fn push(&mut self, again: Again) {
        self.list[usize::from(self.oldest) % AGAIN_MAX] = Some(again);
        self.oldest = self.oldest.wrapping_add(1);
    }

    /// `start` to `end` arrived twice: takes out what was sent again of that. Each counts once, however often it is told.
    pub(super) fn arrived_twice(&mut self, start: u32, end: u32) -> Option<Again> {
        let lies_within = |again: &Again| {
            let contains = at_or_before(start, again.start) && at_or_before(again.end, end);
            let is_part = at_or_before(again.start, start) && at_or_before(end, again.end);
            contains || is_part
        };
        self.list.iter_mut().find(|slot| slot.as_ref().is_some_and(lies_within))?.take()
    }
}
