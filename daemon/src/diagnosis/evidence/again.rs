//! What was sent again lately, until something tells that it had arrived all the same: a receiver that got it twice
//! (RFC 2883), one that answers the timestamp of what was sent first (RFC 3522), or one that answers sooner than it can.

use datapath::tcp::{after, at_or_before, before};

/// Segments that are remembered, as many as by the verdicts.
const PENDING_MAX: usize = 8;

/// One segment that was sent again, and what it was counted as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) sent_ns: u64,
    pub(super) timestamp: Option<u32>,
    /// Wire packets.
    pub(super) segments: u32,
    /// Lost upstream, downstream.
    pub(super) lost: [bool; 2],
    /// The loss is not held against the network already.
    pub(super) is_excused: bool,
    /// After a time-out, with this silence; that of the last segment.
    pub(super) timeout_ns: Option<u64>,
    pub(super) is_tail: bool,
    /// Nothing has acknowledged it yet.
    pub(super) is_open: bool,
}

/// The last of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Again {
    pending: [Option<Pending>; PENDING_MAX],
    at: usize,
}

impl Again {
    pub(super) fn push(&mut self, pending: Pending) {
        self.pending[self.at % PENDING_MAX] = Some(pending);
        self.at = self.at.wrapping_add(1);
    }

    /// Everything up to `to` is acknowledged for the first time, with this echo. Calls `needless` with each that had arrived
    /// before it was sent again.
    pub(super) fn acknowledged(
        &mut self,
        (to, now_ns): (u32, u64),
        echo: Option<u32>,
        round_trip_ns: u64,
        mut needless: impl FnMut(&mut Pending),
    ) {
        for pending in self.pending.iter_mut().flatten() {
            if !pending.is_open || !at_or_before(pending.end, to) {
                continue;
            }
            pending.is_open = false;
            let is_older = echo
                .zip(pending.timestamp)
                .is_some_and(|(echo, sent)| echo != 0 && before(echo, sent));
            // A quarter for what round trips vary by.
            let is_too_soon = now_ns.saturating_sub(pending.sent_ns) < round_trip_ns / 4 * 3;
            if is_older || is_too_soon {
                needless(pending);
            }
        }
    }

    /// `start` to `end` arrived twice: the first that it can be.
    pub(super) fn arrived_twice(&mut self, [start, end]: [u32; 2]) -> Option<Pending> {
        let is_it = |place: &&mut Option<Pending>| {
            place.is_some_and(|pending| {
                let contains = at_or_before(start, pending.start) && at_or_before(pending.end, end);
                let is_part = at_or_before(pending.start, start) && at_or_before(end, pending.end);
                contains || is_part
            })
        };
        self.pending.iter_mut().find(is_it)?.take()
    }
}

/// The block of a selective acknowledgment that tells what arrived twice (RFC 2883, 4), if the first one does.
pub(super) fn twice(blocks: &[[u32; 2]], acknowledgment: u32) -> Option<[u32; 2]> {
    let first = *blocks.first()?;
    if !after(first[1], first[0]) {
        return None;
    }
    let is_within = blocks.get(1).is_some_and(|second| {
        after(second[1], second[0])
            && at_or_before(second[0], first[0])
            && at_or_before(first[1], second[1])
    });
    (at_or_before(first[1], acknowledgment) || is_within).then_some(first)
}
