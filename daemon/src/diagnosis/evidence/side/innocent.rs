//! What was sent again and was no loss of the network: it had arrived, or its receiver refused it. Takes back what was
//! counted before that was known.

use datapath::tcp::{after, before};

use super::SideEvidence;
use crate::diagnosis::evidence::again::Pending;

impl SideEvidence {
    /// A receiver has what acknowledged it before it was sent again.
    pub(super) fn needless(&mut self, to: u32, now_ns: u64, echo: Option<u32>) {
        let mut again = std::mem::take(&mut self.again);
        again.acknowledged((to, now_ns), echo, self.least_round_trip_ns, |pending| {
            self.withdraw(pending);
            if !pending.is_excused {
                for (excused, _) in self.excused.iter_mut().zip(pending.lost).filter(|it| it.1) {
                    *excused = excused.saturating_add(pending.segments);
                }
                pending.is_excused = true;
            }
        });
        self.again = again;
    }

    /// The receiver got it twice. The verdicts' counters know that.
    pub(super) fn arrived_twice(&mut self, block: [u32; 2]) {
        let Some(mut pending) = self.again.arrived_twice(block) else { return };
        self.withdraw(&mut pending);
        if pending.is_excused {
            for (excused, _) in self.excused.iter_mut().zip(pending.lost).filter(|it| it.1) {
                *excused = excused.saturating_sub(pending.segments);
            }
        }
    }

    /// The time-out of something that had arrived is none of a loss.
    fn withdraw(&mut self, pending: &mut Pending) {
        let Some(silence_ns) = pending.timeout_ns.take() else { return };
        self.timeouts.withdraw();
        self.timeouts_silence_ns = self.timeouts_silence_ns.saturating_sub(silence_ns);
        if pending.is_tail {
            self.tail_timeouts.withdraw();
            self.tail_silence_ns = self.tail_silence_ns.saturating_sub(silence_ns);
        }
    }

    /// Whether it is known why this endpoint did not get these bytes when they first came.
    pub(super) fn has_refused(&self, start: u32, end: u32) -> bool {
        self.refused.is_some_and(|[from, to]| after(end, from) && before(start, to))
    }

    /// It does not get these bytes, and that is known.
    pub(super) fn refuse(&mut self, start: u32, end: u32) {
        self.refused = Some(match self.refused {
            // What it had no place for before is long acknowledged.
            Some([_, to]) if self.has_acknowledged(to) => [start, end],
            Some([from, to]) => [
                if before(start, from) { start } else { from },
                if after(end, to) { end } else { to },
            ],
            None => [start, end],
        });
    }

    /// How far its window reaches, where that is known.
    pub(super) fn right_edge(&self, peer: &Self) -> Option<u32> {
        let (acknowledgment, window) = self.window?;
        let shift = match (self.offered?.window_scale, peer.offered?.window_scale) {
            (Some(own), Some(_)) => own.min(14),
            _ => 0,
        };
        Some(acknowledgment.wrapping_add(window << shift))
    }
}
