//! One simulated host of a TCP connection: its two halves, its timestamps and its IP counter. Never
//! looks at the network; it is given segments and times, and asked for segments.

use super::receiver::{Reading, Receiver};
use super::segment::Segment;
use super::sender::Sender;
use crate::rng::Rng;
use crate::synth::frame::Side;

/// A SYN's window is not scaled.
const SYN_WINDOW_MAX: u64 = 65_535;

/// See the file.
#[derive(Debug)]
pub(super) struct Endpoint {
    side: Side,
    sender: Sender,
    receiver: Receiver,
    timestamp_base: u32,
    timestamp_recent: u32,
    ip_id: u16,
    is_open: bool,
    wants_reset: bool,
    probe: Option<Segment>,
}

impl Endpoint {
    pub(super) fn new(side: Side, mss: u64, reading: Reading, rng: &mut Rng) -> Self {
        Self {
            side,
            sender: Sender::new(mss),
            receiver: Receiver::new(mss, reading),
            timestamp_base: rng.next_u32(),
            timestamp_recent: 0,
            ip_id: rng.next_u16(),
            is_open: true,
            wants_reset: false,
            probe: None,
        }
    }

    /// A segment arrived.
    pub(super) fn handle_segment(&mut self, now_ns: u64, segment: &Segment) {
        if segment.rst {
            self.is_open = false;
        }
        if !self.is_open {
            return;
        }
        // Older timestamps are of segments that were overtaken (RFC 7323, 4.3).
        if segment.tsval.wrapping_sub(self.timestamp_recent) < 1 << 31 || self.receiver.next() == 0
        {
            self.timestamp_recent = segment.tsval;
        }
        self.sender.handle_ack(now_ns, segment);
        self.receiver.handle_segment(now_ns, segment);
    }

    /// A timer may have expired.
    pub(super) fn handle_timer(&mut self, now_ns: u64) {
        if self.is_open {
            self.receiver.handle_timer(now_ns);
            self.probe = self.sender.handle_timer(now_ns);
        }
    }

    /// The process writes up to stream offset `written`.
    pub(super) fn write(&mut self, written: u64) {
        self.sender.write(written);
    }

    /// The process closes.
    pub(super) fn close(&mut self) {
        self.sender.close();
    }

    /// The process aborts.
    pub(super) fn reset(&mut self) {
        self.wants_reset = true;
    }

    /// The next segment to send; ask until `None`.
    pub(super) fn poll_transmit(&mut self, now_ns: u64) -> Option<Segment> {
        let may_speak = self.side == Side::Originator || self.receiver.next() > 0;
        if !self.is_open || !may_speak {
            return None;
        }
        if self.wants_reset {
            self.is_open = false;
            let start = self.sender.next();
            return Some(self.stamp(now_ns, Segment { start, rst: true, ..Segment::default() }));
        }
        let bare = |start| Segment { start, ..Segment::default() };
        let segment = self
            .probe
            .take()
            .or_else(|| self.sender.poll_transmit(now_ns))
            .or_else(|| self.receiver.wants_ack().then(|| bare(self.sender.next())))?;
        Some(self.stamp(now_ns, segment))
    }

    pub(super) fn timer_ns(&self) -> Option<u64> {
        if !self.is_open {
            return None;
        }
        [self.sender.timer_ns(), self.receiver.timer_ns()].into_iter().flatten().min()
    }

    /// Stream offset up to which everything arrived.
    pub(super) fn received(&self) -> u64 {
        self.receiver.next()
    }

    /// True once both SYNs arrived, as far as this side knows.
    pub(super) fn is_established(&self) -> bool {
        self.sender.is_synchronized() && self.receiver.next() > 0
    }

    /// True once the other side's FIN and everything before it is here.
    pub(super) fn has_seen_end(&self) -> bool {
        self.receiver.is_finished()
    }

    fn stamp(&mut self, now_ns: u64, mut segment: Segment) -> Segment {
        self.receiver.acknowledge(&mut segment);
        if segment.syn {
            segment.window = segment.window.min(SYN_WINDOW_MAX);
        }
        let milliseconds = u32::try_from((now_ns / 1_000_000) & 0xffff_ffff).unwrap_or(0);
        segment.tsval = self.timestamp_base.wrapping_add(milliseconds);
        segment.tsecr = self.timestamp_recent;
        self.ip_id = self.ip_id.wrapping_add(1);
        segment.ip_id = self.ip_id;
        segment
    }
}
