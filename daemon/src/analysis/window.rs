//! The windows that one side advertised, as the receiver of the other one's data. Never guesses a scale: where the
//! handshake was not seen only a window of 0 is known.

use datapath::{
    parse::tcp::{FIN, RST, SYN},
    tcp::verdict::Segment,
};

use super::mark::{Kept, Mark, Span};

/// Zero-window periods of one side that are told one by one.
pub const ZERO_PERIODS_MAX: usize = 64;

/// Whether and how windows are scaled (RFC 7323, 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scaling {
    /// The handshake was not seen.
    #[default]
    Unknown,
    /// One of the two did not offer it: windows are at most 64 KiB.
    Absent,
    /// By this many bits.
    Shift(u8),
}

/// A time without room: from the first window of 0 until one that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroPeriod {
    /// From the segment that said so to the one that ended it, or to the last one that said so again or asked.
    pub span: Span,
    /// It ended while the capture went on.
    pub is_over: bool,
}

/// What one side advertised.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The window option of its SYN, if that was seen: a shift, or none.
    offered: Option<Option<u8>>,
    sent_syn_ack: bool,
    scaling: Scaling,
    /// Right edge: beyond it nothing may be sent.
    edge: Option<u32>,
    is_zero: bool,
    zero: Option<Span>,
    zero_periods: Kept<ZeroPeriod, ZERO_PERIODS_MAX>,
    zero_ns: u64,
    longest_zero_ns: u64,
    max_bytes: u32,
}

impl Window {
    /// Takes the window option of a SYN; `scale_plus_one` is 0 without one.
    pub(super) fn offer(&mut self, scale_plus_one: u32, is_answer: bool) {
        let shift = u8::try_from(scale_plus_one).ok().and_then(|plus_one| plus_one.checked_sub(1));
        self.offered = Some(shift);
        self.sent_syn_ack |= is_answer;
    }

    /// Settles how windows are scaled, from what both offered.
    pub(super) const fn settle(&mut self, peer: &Self) {
        self.scaling = match (self.offered, peer.offered) {
            (Some(Some(shift)), Some(Some(_))) => Scaling::Shift(shift),
            (Some(None), _) | (_, Some(None)) => Scaling::Absent,
            // An answer has the option only where the SYN had it.
            (Some(Some(shift)), None) if self.sent_syn_ack => Scaling::Shift(shift),
            (Some(Some(_)), None) | (None, _) => Scaling::Unknown,
        };
    }

    /// Takes the window of a segment with an acknowledgment.
    #[inline]
    pub(super) fn advertise(&mut self, segment: &Segment, mark: Mark) {
        let is_syn = segment.tcp_flags & SYN != 0;
        let shift = match self.scaling {
            _ if is_syn => Some(0),
            Scaling::Absent => Some(0),
            Scaling::Shift(shift) => Some(u32::from(shift)),
            Scaling::Unknown => None,
        };
        let bytes = shift.map(|shift| segment.window << shift);
        let bytes = if segment.window == 0 { Some(0) } else { bytes };
        self.edge = bytes.map(|bytes| segment.acknowledgment.wrapping_add(bytes));
        if let Some(bytes) = bytes {
            self.max_bytes = self.max_bytes.max(bytes);
        }
        if segment.tcp_flags & (SYN | FIN | RST) != 0 {
            return;
        }
        self.is_zero = segment.window == 0;
        match &mut self.zero {
            None if self.is_zero => self.zero = Some(Span { from: mark, until: mark }),
            None => {}
            Some(zero) => {
                zero.until = mark;
                if !self.is_zero {
                    self.end_zero(true);
                }
            }
        }
    }

    /// The sender asked for room: as long as nobody answers, there is none.
    #[inline]
    pub(super) const fn asked(&mut self, mark: Mark) {
        if let Some(zero) = &mut self.zero {
            zero.until = mark;
        }
    }

    fn end_zero(&mut self, is_over: bool) {
        let Some(span) = self.zero.take() else { return };
        self.zero_ns = self.zero_ns.saturating_add(span.duration_ns());
        self.longest_zero_ns = self.longest_zero_ns.max(span.duration_ns());
        self.zero_periods.push(ZeroPeriod { span, is_over });
    }

    /// The sequence numbers start anew.
    pub(super) fn restart(&mut self) {
        self.finish();
        self.offered = None;
        self.sent_syn_ack = false;
        self.scaling = Scaling::Unknown;
        self.edge = None;
        self.is_zero = false;
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
        self.end_zero(false);
    }

    /// Bytes that may still be sent from `next` on, where that is known.
    #[inline]
    pub(super) fn room(&self, next: u32) -> Option<u32> {
        let room = self.edge?.wrapping_sub(next);
        // A right edge that was withdrawn leaves no room.
        Some(if room.cast_signed() < 0 { 0 } else { room })
    }

    /// How windows are scaled.
    #[must_use]
    pub const fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// The greatest window, where the scale was known.
    #[must_use]
    pub const fn max_bytes(&self) -> u32 {
        self.max_bytes
    }

    /// Times without room.
    #[must_use]
    pub const fn zero_periods(&self) -> &Kept<ZeroPeriod, ZERO_PERIODS_MAX> {
        &self.zero_periods
    }

    /// How long they were together.
    #[must_use]
    pub const fn zero_ns(&self) -> u64 {
        self.zero_ns
    }

    /// How long the longest one was.
    #[must_use]
    pub const fn longest_zero_ns(&self) -> u64 {
        self.longest_zero_ns
    }
}

#[cfg(test)]
mod tests {
    use datapath::{Ktime, parse::tcp::ACK};

    use super::*;

    fn advertise(window: &mut Window, at_ms: u64, bytes: u32) {
        let segment =
            Segment { acknowledgment: 1_000, window: bytes, tcp_flags: ACK, ..Segment::default() };
        window.advertise(&segment, Mark { frame: at_ms, at: Ktime(at_ms * 1_000_000) });
    }

    #[test]
    fn a_zero_window_lasts_until_there_is_room() {
        let mut window = Window::default();
        for (at_ms, bytes) in [(1, 500), (10, 0), (20, 0), (110, 400), (120, 0), (130, 0)] {
            advertise(&mut window, at_ms, bytes);
        }
        window.finish();
        let told: Vec<_> = window.zero_periods().as_slice().iter().collect();
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].span.duration_ns(), told[0].is_over), (100_000_000, true));
        assert_eq!((told[1].span.from.frame, told[1].span.until.frame), (120, 130));
        assert!(!told[1].is_over, "nobody saw its end");
        assert_eq!((window.zero_ns(), window.longest_zero_ns()), (110_000_000, 100_000_000));
    }

    #[test]
    fn a_zero_window_lasts_until_somebody_last_asked() {
        let mut window = Window::default();
        let mark = |at_ms: u64| Mark { frame: at_ms, at: Ktime(at_ms * 1_000_000) };
        window.asked(mark(1));
        advertise(&mut window, 10, 0);
        [200, 600, 1_400].into_iter().for_each(|at_ms| window.asked(mark(at_ms)));
        window.finish();
        let [told] = window.zero_periods().as_slice() else { panic!("one period") };
        assert_eq!((told.span.duration_ns(), told.is_over), (1_390_000_000, false));
        window.asked(mark(1_500));
        assert_eq!(window.zero_ns(), 1_390_000_000, "it has ended");
    }

    #[test]
    fn scaling_needs_both_options() {
        let scaling = |own: Option<u32>, peer: Option<u32>, is_answer| {
            let [mut window, mut other] = [Window::default(), Window::default()];
            own.into_iter().for_each(|scale| window.offer(scale, is_answer));
            peer.into_iter().for_each(|scale| other.offer(scale, !is_answer));
            window.settle(&other);
            window.scaling()
        };
        assert_eq!(scaling(Some(8), Some(1), false), Scaling::Shift(7));
        assert_eq!(scaling(Some(8), Some(0), false), Scaling::Absent);
        assert_eq!(scaling(Some(8), None, false), Scaling::Unknown);
        assert_eq!(scaling(Some(8), None, true), Scaling::Shift(7));
        assert_eq!(scaling(None, None, false), Scaling::Unknown);
    }

    #[test]
    fn room_is_what_is_left_before_the_edge() {
        let mut window = Window::default();
        window.offer(1, false);
        let mut peer = Window::default();
        peer.offer(1, true);
        window.settle(&peer);
        advertise(&mut window, 1, 500);
        assert_eq!(
            [window.room(1_000), window.room(1_500), window.room(1_600)].map(Option::unwrap),
            [500, 0, 0]
        );
        assert_eq!(window.max_bytes(), 500);
    }
}
