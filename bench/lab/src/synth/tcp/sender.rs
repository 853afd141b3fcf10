//! The sending half of a simulated TCP: window, slow start and congestion avoidance, loss detection
//! by SACK (RFC 6675, without the rescue retransmission), retransmission timer (RFC 6298 with
//! Linux's minimum), window probes. Never sends beyond the window.

use std::collections::VecDeque;

use super::segment::Segment;

/// Linux's TCP_RTO_MIN.
const RTO_MIN_NS: u64 = 200_000_000;
/// RFC 6298, before the first sample.
const RTO_INITIAL_NS: u64 = 1_000_000_000;
const RTO_MAX_NS: u64 = 60_000_000_000;
/// RFC 6928.
const INITIAL_WINDOW_SEGMENTS: u64 = 10;
/// Segments above that must have arrived before one is held lost.
const REORDERING: usize = 3;

/// A segment on its way.
#[derive(Debug, Clone)]
struct Sent {
    start: u64,
    end: u64,
    what: What,
    sent_ns: u64,
    copies: u32,
    sacked: bool,
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Syn,
    Data,
    Fin,
}

/// See the file.
#[derive(Debug)]
pub(super) struct Sender {
    mss: u64,
    /// First offset that is not acknowledged.
    una: u64,
    /// First offset that was never sent.
    next: u64,
    /// Offset behind what the process wrote.
    written: u64,
    fin_wanted: bool,
    fin_sent: bool,
    /// Offset behind what the other side has room for.
    right_edge: u64,
    flight: VecDeque<Sent>,
    cwnd_segments: u64,
    ssthresh_segments: u64,
    acked_in_round: u64,
    /// Loss recovery lasts until this is acknowledged.
    recover: u64,
    /// True in fast recovery: the window does not grow.
    is_frozen: bool,
    srtt_ns: Option<u64>,
    rttvar_ns: u64,
    rto_ns: u64,
    timer_ns: Option<u64>,
}

impl Sender {
    pub(super) fn new(mss: u64) -> Self {
        Self {
            mss,
            una: 0,
            next: 0,
            written: 1,
            fin_wanted: false,
            fin_sent: false,
            right_edge: 0,
            flight: VecDeque::new(),
            cwnd_segments: INITIAL_WINDOW_SEGMENTS,
            ssthresh_segments: u64::MAX,
            acked_in_round: 0,
            recover: 0,
            is_frozen: false,
            srtt_ns: None,
            rttvar_ns: 0,
            rto_ns: RTO_INITIAL_NS,
            timer_ns: None,
        }
    }

    /// The process writes up to offset `written`.
    pub(super) fn write(&mut self, written: u64) {
        self.written = self.written.max(written);
    }

    /// The process closes.
    pub(super) fn close(&mut self) {
        self.fin_wanted = true;
    }

    /// Takes an acknowledgement.
    pub(super) fn handle_ack(&mut self, now_ns: u64, segment: &Segment) {
        let Some(ack) = segment.ack else { return };
        if ack < self.una {
            return;
        }
        self.right_edge = ack + segment.window;
        let mut newly_acked = 0;
        while let Some(first) = self.flight.front()
            && first.end <= ack
        {
            // Karn: a segment sent twice says nothing about time.
            if first.copies == 1 && !first.sacked {
                let rtt_ns = now_ns - first.sent_ns;
                self.learn_rtt(rtt_ns);
            }
            self.flight.pop_front();
            newly_acked += 1;
        }
        if ack > self.una {
            self.una = ack;
            self.rto_ns = self.computed_rto_ns();
            self.timer_ns = None;
        }
        for sent in &mut self.flight {
            sent.sacked |= segment.sack.iter().any(|(l, r)| *l <= sent.start && sent.end <= *r);
        }
        self.detect_loss();
        self.is_frozen &= self.una < self.recover;
        if !self.is_frozen {
            self.grow(newly_acked);
        }
    }

    /// The next segment to send, as far as window and congestion allow; ask until `None`. The
    /// caller fills in its own half.
    pub(super) fn poll_transmit(&mut self, now_ns: u64) -> Option<Segment> {
        let segment = self.poll_retransmission(now_ns).or_else(|| self.poll_new(now_ns));
        let must_probe = self.flight.is_empty() && self.next < self.written;
        if self.timer_ns.is_none() && (!self.flight.is_empty() || must_probe) {
            self.timer_ns = Some(now_ns + self.rto_ns);
        }
        if self.flight.is_empty() && !must_probe {
            self.timer_ns = None;
        }
        segment
    }

    /// The timer: either everything in flight is held lost, or a closed window is probed.
    pub(super) fn handle_timer(&mut self, now_ns: u64) -> Option<Segment> {
        if self.timer_ns.is_none_or(|at| at > now_ns) {
            return None;
        }
        self.rto_ns = (self.rto_ns * 2).min(RTO_MAX_NS);
        self.timer_ns = Some(now_ns + self.rto_ns);
        if self.flight.is_empty() {
            // As Linux does: an empty segment just below the window.
            return Some(Segment { start: self.next - 1, ..Segment::default() });
        }
        self.ssthresh_segments = (self.pipe() / 2).max(2);
        self.cwnd_segments = 1;
        self.recover = self.next;
        self.is_frozen = false;
        for sent in self.flight.iter_mut().filter(|sent| !sent.sacked) {
            sent.lost = true;
        }
        None
    }

    pub(super) fn timer_ns(&self) -> Option<u64> {
        self.timer_ns
    }

    /// First offset that was never sent.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// True once the other side has our SYN.
    pub(super) fn is_synchronized(&self) -> bool {
        self.una > 0
    }

    fn poll_retransmission(&mut self, now_ns: u64) -> Option<Segment> {
        if self.pipe() >= self.cwnd_segments {
            return None;
        }
        let written = self.written;
        let sent = self.flight.iter_mut().find(|sent| sent.lost)?;
        sent.lost = false;
        sent.copies += 1;
        sent.sent_ns = now_ns;
        Some(segment_of(sent, written))
    }

    fn poll_new(&mut self, now_ns: u64) -> Option<Segment> {
        let what = self.next_new()?;
        let length = match what {
            What::Syn | What::Fin => 1,
            What::Data => self.data_length()?,
        };
        self.fin_sent |= what == What::Fin;
        let (start, end) = (self.next, self.next + length);
        self.next = end;
        let sent =
            Sent { start, end, what, sent_ns: now_ns, copies: 1, sacked: false, lost: false };
        let segment = segment_of(&sent, self.written);
        self.flight.push_back(sent);
        Some(segment)
    }

    fn next_new(&self) -> Option<What> {
        if self.next == 0 {
            Some(What::Syn)
        } else if !self.is_synchronized() || self.pipe() >= self.cwnd_segments {
            None
        } else if self.next < self.written {
            Some(What::Data)
        } else if self.fin_wanted && !self.fin_sent {
            Some(What::Fin)
        } else {
            None
        }
    }

    /// How much may be sent at once: a full segment or the rest; less where the window has room for
    /// less and nothing is on its way.
    fn data_length(&self) -> Option<u64> {
        let wanted = (self.written - self.next).min(self.mss);
        let room = self.right_edge.saturating_sub(self.next);
        if wanted <= room {
            Some(wanted)
        } else {
            (room > 0 && self.flight.is_empty()).then_some(room)
        }
    }

    /// Segments that are thought to be in the network.
    fn pipe(&self) -> u64 {
        let flying = self.flight.iter().filter(|sent| !sent.sacked && !sent.lost);
        u64::try_from(flying.count()).unwrap_or(u64::MAX)
    }

    fn detect_loss(&mut self) {
        let mut sacked_above = 0;
        let mut found = false;
        for sent in self.flight.iter_mut().rev() {
            if sent.sacked {
                sacked_above += 1;
            } else if sacked_above >= REORDERING && sent.copies == 1 && !sent.lost {
                sent.lost = true;
                found = true;
            }
        }
        if found && self.una >= self.recover {
            self.ssthresh_segments = (self.pipe() / 2).max(2);
            self.cwnd_segments = self.ssthresh_segments;
            self.recover = self.next;
            self.is_frozen = true;
        }
    }

    fn grow(&mut self, acked: u64) {
        if self.cwnd_segments < self.ssthresh_segments {
            self.cwnd_segments += acked;
            return;
        }
        self.acked_in_round += acked;
        if self.acked_in_round >= self.cwnd_segments {
            self.acked_in_round = 0;
            self.cwnd_segments += 1;
        }
    }

    fn learn_rtt(&mut self, rtt_ns: u64) {
        match self.srtt_ns {
            None => {
                self.srtt_ns = Some(rtt_ns);
                self.rttvar_ns = rtt_ns / 2;
            }
            Some(srtt_ns) => {
                self.rttvar_ns = (3 * self.rttvar_ns + srtt_ns.abs_diff(rtt_ns)) / 4;
                self.srtt_ns = Some((7 * srtt_ns + rtt_ns) / 8);
            }
        }
    }

    fn computed_rto_ns(&self) -> u64 {
        let Some(srtt_ns) = self.srtt_ns else { return RTO_INITIAL_NS };
        srtt_ns + (4 * self.rttvar_ns).max(RTO_MIN_NS)
    }
}

fn segment_of(sent: &Sent, written: u64) -> Segment {
    Segment {
        start: sent.start,
        data: if sent.what == What::Data { sent.end - sent.start } else { 0 },
        syn: sent.what == What::Syn,
        fin: sent.what == What::Fin,
        push: sent.what == What::Data && sent.end == written,
        retransmission: sent.copies > 1,
        ..Segment::default()
    }
}
