//! Who speaks when: how long after the other one's last data each endpoint began to send its own. Never counts a turn in
//! which something was sent again.

use datapath::{layout::RttHistogram, rtt::RttTicks, time::TICK_NS};

use super::{SideEvidence, Tally};

/// How long one endpoint took to answer.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    /// Answers.
    pub tally: Tally,
    /// By how long they took.
    pub times: RttHistogram,
    /// Turns in which both spoke at once, so that nothing says what answers what.
    pub overlaps: u32,
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
            let ticks = u32::try_from(elapsed_ns / TICK_NS).unwrap_or(u32::MAX).max(1);
            let is_overlapping = own.in_flight(peer) > 0;
            let responses = own.responses.get_or_insert_default();
            if is_overlapping {
                responses.overlaps += 1;
            } else if !self.disturbed {
                responses.tally.add(now_ns);
                responses.times.add(RttTicks(ticks));
            }
            self.disturbed = false;
        }
        self.speaker = Some(sender);
        self.spoke_ns = now_ns;
    }
}
