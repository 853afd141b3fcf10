//! The receiving half of a simulated TCP: reassembly, delayed acknowledgements (every second
//! segment or 40 ms), SACK, and a window that closes while the process does not read. Never moves
//! the window's right edge back.

use std::collections::BTreeMap;

use super::segment::Segment;

/// Linux's usual delay of an acknowledgement.
const ACK_DELAY_NS: u64 = 40_000_000;
/// With timestamps, three ranges fit the options.
const SACK_RANGES_MAX: usize = 3;

/// How the process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reading {
    /// At once: the window is always `buffer`.
    Eager { buffer: u64 },
    /// At once up to `after` bytes, then not for `pause_ns`, then at once again.
    Pausing { buffer: u64, after: u64, pause_ns: u64 },
}

/// See the file.
#[derive(Debug)]
pub(super) struct Receiver {
    mss: u64,
    reading: Reading,
    /// Next offset expected; 0 before the SYN.
    next: u64,
    /// Received beyond a hole: start to end, merged.
    beyond: BTreeMap<u64, u64>,
    latest_beyond: Option<u64>,
    fin_at: Option<u64>,
    unread: u64,
    pause: Pause,
    right_edge: u64,
    unacked_segments: u32,
    ack_now: bool,
    ack_timer_ns: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    Before,
    Until(u64),
    Over,
}

impl Receiver {
    pub(super) fn new(mss: u64, reading: Reading) -> Self {
        Self {
            mss,
            reading,
            next: 0,
            beyond: BTreeMap::new(),
            latest_beyond: None,
            fin_at: None,
            unread: 0,
            pause: Pause::Before,
            right_edge: 0,
            unacked_segments: 0,
            ack_now: false,
            ack_timer_ns: None,
        }
    }

    /// Takes what a segment carries.
    pub(super) fn handle_segment(&mut self, now_ns: u64, segment: &Segment) {
        let (start, end) = (segment.start, segment.end());
        if segment.fin {
            self.fin_at = Some(end - 1);
        }
        if start == end {
            // A probe below the window wants an answer; a pure acknowledgement does not.
            self.ack_now |= start + 1 == self.next;
            return;
        }
        if end <= self.next {
            // Once more what is here: the sender must have missed the acknowledgement.
            self.ack_now = true;
            return;
        }
        if start > self.next {
            self.keep_beyond(start, end);
            self.ack_now = true;
            return;
        }
        let had_hole = !self.beyond.is_empty();
        let before = self.next;
        self.next = end;
        while let Some((&start, &end)) = self.beyond.first_key_value()
            && start <= self.next
        {
            self.beyond.remove(&start);
            self.next = self.next.max(end);
        }
        self.deliver(now_ns, self.next - before);
        self.unacked_segments += 1;
        if had_hole || segment.syn || segment.fin || self.unacked_segments >= 2 {
            self.ack_now = true;
        } else {
            self.ack_timer_ns = Some(now_ns + ACK_DELAY_NS);
        }
    }

    /// The acknowledgement timer and the end of the process's pause.
    pub(super) fn handle_timer(&mut self, now_ns: u64) {
        if self.ack_timer_ns.is_some_and(|at| at <= now_ns) {
            self.ack_now = true;
        }
        if let Pause::Until(at) = self.pause
            && at <= now_ns
        {
            self.pause = Pause::Over;
            self.unread = 0;
            self.ack_now = true;
        }
    }

    /// Puts acknowledgement, SACK and window into an outgoing segment.
    pub(super) fn acknowledge(&mut self, segment: &mut Segment) {
        if self.next == 0 {
            segment.window = self.window();
            return;
        }
        segment.ack = Some(self.next);
        segment.window = self.window();
        segment.sack = self.sack_ranges();
        self.ack_now = false;
        self.ack_timer_ns = None;
        self.unacked_segments = 0;
    }

    /// True where an acknowledgement must go out by itself.
    pub(super) fn wants_ack(&self) -> bool {
        self.ack_now
    }

    pub(super) fn timer_ns(&self) -> Option<u64> {
        let pause = if let Pause::Until(at) = self.pause { Some(at) } else { None };
        [self.ack_timer_ns, pause].into_iter().flatten().min()
    }

    /// Next offset expected; 0 before the SYN.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// True once everything up to the FIN is here.
    pub(super) fn is_finished(&self) -> bool {
        self.fin_at.is_some_and(|at| self.next > at)
    }

    fn deliver(&mut self, now_ns: u64, bytes: u64) {
        let Reading::Pausing { after, pause_ns, .. } = self.reading else { return };
        if self.pause == Pause::Before && self.next > after {
            self.pause = Pause::Until(now_ns + pause_ns);
        }
        if let Pause::Until(_) = self.pause {
            self.unread += bytes;
        }
    }

    /// RFC 9293, 3.8.6.2.2: the right edge moves by whole segments or not at all.
    fn window(&mut self) -> u64 {
        match self.reading {
            Reading::Eager { buffer } => buffer,
            Reading::Pausing { buffer, .. } => {
                let edge = self.next + buffer.saturating_sub(self.unread);
                if edge >= self.right_edge + self.mss {
                    self.right_edge = edge;
                }
                self.right_edge.saturating_sub(self.next)
            }
        }
    }

    fn keep_beyond(&mut self, start: u64, end: u64) {
        let (mut low, mut high) = (start, end);
        self.beyond.retain(|&l, &mut h| {
            let touches = l <= end && start <= h;
            if touches {
                low = low.min(l);
                high = high.max(h);
            }
            !touches
        });
        self.beyond.insert(low, high);
        self.latest_beyond = Some(low);
    }

    fn sack_ranges(&self) -> Vec<(u64, u64)> {
        let latest = self.latest_beyond.and_then(|low| self.beyond.get_key_value(&low));
        let others = self.beyond.iter().filter(|range| Some(*range) != latest);
        latest.into_iter().chain(others).map(|(l, h)| (*l, *h)).take(SACK_RANGES_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_reported_until_it_is_filled() {
        let mut receiver = receiver(Reading::Eager { buffer: 1 << 16 });
        receiver.handle_segment(0, &data(2001, 1000));
        assert!(receiver.wants_ack());
        assert_eq!(answer(&mut receiver).sack, [(2001, 3001)]);
        receiver.handle_segment(0, &data(1, 2000));
        let answer = answer(&mut receiver);
        assert_eq!((answer.ack, answer.sack.len()), (Some(3001), 0));
    }

    #[test]
    fn every_second_segment_is_acknowledged_at_once_and_the_last_after_a_while() {
        let mut receiver = receiver(Reading::Eager { buffer: 1 << 16 });
        receiver.handle_segment(0, &data(1, 1000));
        assert!(!receiver.wants_ack());
        assert_eq!(receiver.timer_ns(), Some(ACK_DELAY_NS));
        receiver.handle_segment(0, &data(1001, 1000));
        assert!(receiver.wants_ack());
    }

    #[test]
    fn a_pausing_reader_closes_its_window_and_opens_it_again() {
        let reading = Reading::Pausing { buffer: 3000, after: 0, pause_ns: 100 };
        let mut receiver = receiver(reading);
        for start in [1, 1001, 2001] {
            receiver.handle_segment(0, &data(start, 1000));
        }
        assert_eq!(answer(&mut receiver).window, 0);
        receiver.handle_timer(100);
        assert!(receiver.wants_ack());
        assert_eq!(answer(&mut receiver).window, 3000);
    }

    /// One that has the SYN.
    fn receiver(reading: Reading) -> Receiver {
        let mut receiver = Receiver::new(1000, reading);
        receiver.handle_segment(0, &Segment { syn: true, ..Segment::default() });
        answer(&mut receiver);
        receiver
    }

    fn data(start: u64, data: u64) -> Segment {
        Segment { start, data, ..Segment::default() }
    }

    fn answer(receiver: &mut Receiver) -> Segment {
        let mut segment = Segment::default();
        receiver.acknowledge(&mut segment);
        segment
    }
}
