//! Who speaks when: how long after the other one's last data each endpoint began to send its own. Never counts a turn in
//! which something was sent again.

use super::{SideEvidence, Tally};

/// How long one endpoint took to answer.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    /// Answers.
    pub tally: Tally,
    /// The longest, ns.
    pub longest_ns: u64,
    /// How long the last of them took, ns.
    times: Vec<u64>,
    /// Turns in which both spoke at once, so that nothing says what answers what.
    pub overlaps: u32,
}

/// Answers whose times are kept.
const TIMES_MAX: usize = 64;

impl Responses {
    fn add(&mut self, now_ns: u64, elapsed_ns: u64) {
        if self.times.len() < TIMES_MAX {
            self.times.push(elapsed_ns);
        } else {
            self.times[self.tally.count as usize % TIMES_MAX] = elapsed_ns;
        }
        self.tally.add(now_ns);
        self.longest_ns = self.longest_ns.max(elapsed_ns);
    }

    /// The median of the last 64.
    #[must_use]
    pub fn median_ns(&self) -> Option<u64> {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len().checked_sub(1)? / 2).copied()
    }
}

/// The turn at hand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    speaker: Option<u32>,
    spoke_ns: u64,
    /// Something was sent again or late in it.
    pub(super) disturbed: bool,
}

impl Turns {
    /// New data of `sender`.
    pub(super) fn data(
        &mut self,
        sender: u32,
        now_ns: u64,
        own: &mut SideEvidence,
        peer: &SideEvidence,
    ) {
        if let Some(speaker) = self.speaker
            && speaker != sender
        {
            let elapsed_ns = now_ns.saturating_sub(self.spoke_ns);
            let is_overlapping = own.in_flight(peer) > 0;
            let responses = own.responses.get_or_insert_default();
            if is_overlapping {
                responses.overlaps += 1;
            } else if !self.disturbed {
                responses.add(now_ns, elapsed_ns);
            }
            self.disturbed = false;
        }
        self.speaker = Some(sender);
        self.spoke_ns = now_ns;
    }
}
