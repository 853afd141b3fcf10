//! Segments that a timer sent again, and how often each of them was: what a connection waits longest for. Built upon the
//! verdicts; never finds a time-out that they do not.

use datapath::tcp::{after, verdict::RTO};

use super::mark::{Kept, Mark};

/// Sequences of one side that are told one by one.
pub const TIMEOUTS_MAX: usize = 64;
/// Gaps of one sequence that are told; Linux gives up after 15 tries.
pub const GAPS_MAX: usize = 16;

/// One segment that a timer sent again, once or several times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    /// Where it begins.
    pub sequence: u32,
    /// Its payload.
    pub payload_len: u32,
    /// What was sent last before the first try.
    pub before: Mark,
    /// The first try.
    pub first: Mark,
    /// The last one.
    pub last: Mark,
    /// How often the timer sent it again.
    pub tries: u32,
    /// Silence before each of the first [`GAPS_MAX`] tries, ns; 0 for those that were not.
    pub gaps_ns: [u64; GAPS_MAX],
    /// Nothing had been sent beyond it.
    pub is_tail: bool,
    /// It is a SYN, or the answer to one.
    pub is_handshake: bool,
    /// The acknowledgment that ended it; none came where there is none.
    pub recovered: Option<Mark>,
}

/// Those of one side.
#[derive(Clone, Debug, Default)]
pub struct Timeouts {
    open: Option<Box<Timeout>>,
    told: Kept<Timeout, TIMEOUTS_MAX>,
    tries: u64,
    most_tries: u32,
    recovered: u64,
    silence_ns: u64,
}

impl Timeouts {
    /// A segment with this verdict was sent; `before` is the last one that was.
    pub(super) fn sent(&mut self, verdict: u32, mut found: Timeout, before: Mark) {
        if verdict & RTO == 0 {
            return;
        }
        let mark = found.first;
        if let Some(open) = self.open.as_mut().filter(|open| open.sequence == found.sequence) {
            let gap_ns = mark.since_ns(open.last);
            if let Some(gap) = open.gaps_ns.get_mut(open.tries as usize) {
                *gap = gap_ns;
            }
            open.tries = open.tries.saturating_add(1);
            open.last = mark;
            self.silence_ns = self.silence_ns.saturating_add(gap_ns);
        } else {
            self.close();
            found.before = before;
            found.last = mark;
            found.tries = 1;
            found.gaps_ns[0] = mark.since_ns(before);
            self.silence_ns = self.silence_ns.saturating_add(found.gaps_ns[0]);
            self.open = Some(Box::new(found));
        }
        self.tries += 1;
        self.most_tries = self.most_tries.max(self.open.as_ref().map_or(0, |open| open.tries));
    }

    /// The receiver acknowledged everything before `acknowledgment`.
    #[inline]
    pub(super) fn acknowledged(&mut self, acknowledgment: u32, mark: Mark) {
        if let Some(open) = &mut self.open
            && after(acknowledgment, open.sequence)
        {
            open.recovered = Some(mark);
            self.recovered += 1;
            self.close();
        }
    }

    /// Nothing more comes of it.
    pub(super) fn close(&mut self) {
        self.told.extend(self.open.take().map(|open| *open));
    }

    /// Each, in order of time.
    #[must_use]
    pub const fn told(&self) -> &Kept<Timeout, TIMEOUTS_MAX> {
        &self.told
    }

    /// How often the timer sent any of them again.
    #[must_use]
    pub const fn tries(&self) -> u64 {
        self.tries
    }

    /// How often that one was that was sent again most often.
    #[must_use]
    pub const fn most_tries(&self) -> u32 {
        self.most_tries
    }

    /// Those that were acknowledged in the end.
    #[must_use]
    pub const fn recovered(&self) -> u64 {
        self.recovered
    }

    /// Silence before all tries.
    #[must_use]
    pub const fn silence_ns(&self) -> u64 {
        self.silence_ns
    }
}

#[cfg(test)]
mod tests {
    use datapath::{
        Ktime,
        tcp::verdict::{FAST, RETRANSMITTED, TAIL_LOSS_PROBE},
    };

    use super::*;

    fn mark(at_ms: u64) -> Mark {
        Mark { frame: at_ms, at: Ktime(at_ms * 1_000_000) }
    }

    fn sent(timeouts: &mut Timeouts, verdict: u32, sequence: u32, at_ms: u64) {
        let found = Timeout { sequence, first: mark(at_ms), ..Timeout::default() };
        timeouts.sent(verdict | RETRANSMITTED, found, mark(1));
    }

    #[test]
    fn tries_of_one_segment_are_one_sequence() {
        let mut timeouts = Timeouts::default();
        for at_ms in [201, 601, 1_401] {
            sent(&mut timeouts, RTO, 100, at_ms);
        }
        timeouts.acknowledged(100, mark(1_450));
        assert_eq!(timeouts.told().count(), 0, "what lies before it is none of it");
        timeouts.acknowledged(200, mark(1_500));
        let told = timeouts.told().as_slice();
        assert_eq!((told.len(), told[0].tries, told[0].recovered), (1, 3, Some(mark(1_500))));
        assert_eq!(told[0].gaps_ns[..4], [200, 400, 800, 0].map(|ms| ms * 1_000_000));
        assert_eq!((timeouts.tries(), timeouts.most_tries(), timeouts.recovered()), (3, 3, 1));
    }

    #[test]
    fn what_is_sent_again_for_another_cause_is_no_try() {
        let mut timeouts = Timeouts::default();
        sent(&mut timeouts, RTO, 100, 201);
        sent(&mut timeouts, FAST, 100, 301);
        sent(&mut timeouts, 0, 100, 351);
        sent(&mut timeouts, RTO, 100, 601);
        timeouts.close();
        let told = timeouts.told().as_slice()[0];
        assert_eq!((told.tries, timeouts.tries(), timeouts.most_tries()), (2, 2, 2));
        assert_eq!(told.gaps_ns[..3], [200, 400, 0].map(|ms| ms * 1_000_000));
    }

    #[test]
    fn what_no_timer_sent_is_none() {
        let mut timeouts = Timeouts::default();
        sent(&mut timeouts, FAST, 100, 201);
        sent(&mut timeouts, TAIL_LOSS_PROBE, 100, 301);
        timeouts.close();
        assert_eq!((timeouts.told().count(), timeouts.tries()), (0, 0));
    }

    #[test]
    fn one_that_nobody_acknowledges_is_told_at_the_end() {
        let mut timeouts = Timeouts::default();
        sent(&mut timeouts, RTO, 100, 201);
        timeouts.close();
        assert_eq!(timeouts.told().as_slice()[0].recovered, None);
        assert_eq!(timeouts.recovered(), 0);
    }
}
