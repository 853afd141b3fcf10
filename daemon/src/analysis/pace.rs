//! What a sender's time went by with: waiting for acknowledgments, for room at the receiver, for the other side's turn,
//! or for its own application; and when it stood still. Never calls a pause a stall that a round trip explains.

use super::mark::{Kept, Mark, Span};

/// Stalls of one side that are told one by one.
pub const STALLS_MAX: usize = 64;
/// Least silence that is a stall: Linux' least time-out.
pub const STALL_MIN_NS: u64 = 200_000_000;

/// What ended a stall, or what it was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// It ended when something was sent again.
    Retransmission,
    /// It ended when what was in flight was acknowledged, late.
    Acknowledgment,
    /// The receiver had no room.
    Window,
    /// There was room, and more was sent before anything was acknowledged: the sender had had nothing to send.
    Sender,
}

impl StallKind {
    /// All, in the order of [`Pace::stalled_ns`].
    pub const ALL: [Self; 4] =
        [Self::Retransmission, Self::Acknowledgment, Self::Window, Self::Sender];

    /// Its name in every answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
            Self::Acknowledgment => "acknowledgment",
            Self::Window => "window",
            Self::Sender => "sender",
        }
    }
}

/// Data was outstanding, or had no room, and nothing moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// From the last segment that moved something to the next one.
    pub span: Span,
    /// What it was waiting for.
    pub kind: StallKind,
    /// Bytes in flight.
    pub in_flight_bytes: u32,
}

/// What a sender is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing is in flight.
    #[default]
    Nothing,
    /// Something is in flight, and there is room for more.
    InFlight,
    /// The receiver has no room for another segment.
    Window,
}

/// What may end a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// New data.
    Sent,
    /// Data that was sent before, or late.
    SentAgain,
    /// The receiver acknowledged more.
    Acknowledged,
}

/// One sender's time.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    doing: Doing,
    /// The last segment that moved something.
    moved: Option<Mark>,
    /// There was no room since then.
    had_no_room: bool,
    in_flight_ns: u64,
    window_limited_ns: u64,
    application_limited_ns: u64,
    waiting_ns: u64,
    stalls: Kept<Stall, STALLS_MAX>,
    stalled_ns: [u64; StallKind::ALL.len()],
    longest_stall_ns: u64,
    longest_pause_ns: u64,
}

impl Pace {
    /// Time passes until the next segment of the connection.
    #[inline]
    pub(super) const fn pass(&mut self, elapsed_ns: u64) {
        match self.doing {
            Doing::Nothing => {}
            Doing::InFlight => self.in_flight_ns = self.in_flight_ns.saturating_add(elapsed_ns),
            Doing::Window => {
                self.window_limited_ns = self.window_limited_ns.saturating_add(elapsed_ns);
            }
        }
    }

    /// What it does from here on.
    #[inline]
    pub(super) fn becomes(&mut self, doing: Doing) {
        self.doing = doing;
        self.had_no_room |= doing == Doing::Window;
    }

    /// Something moves. `in_flight_bytes` were so before; a path's round trip takes `round_trip_ns`; the other side last
    /// sent data at `peer_sent`.
    #[inline]
    pub(super) fn moves(
        &mut self,
        event: Event,
        mark: Mark,
        in_flight_bytes: u32,
        round_trip_ns: u64,
        peer_sent: Option<Mark>,
    ) {
        let had_no_room = std::mem::take(&mut self.had_no_room);
        let Some(moved) = self.moved.replace(mark) else { return };
        let silence_ns = mark.since_ns(moved);
        if silence_ns <= round_trip_ns {
            return;
        }
        if in_flight_bytes > 0 || had_no_room {
            if silence_ns <= STALL_MIN_NS.max(2 * round_trip_ns) {
                return;
            }
            let kind = match event {
                _ if had_no_room => StallKind::Window,
                Event::Sent => StallKind::Sender,
                Event::SentAgain => StallKind::Retransmission,
                Event::Acknowledged => StallKind::Acknowledgment,
            };
            let span = Span { from: moved, until: mark };
            self.stalled_ns[kind as usize] =
                self.stalled_ns[kind as usize].saturating_add(silence_ns);
            self.longest_stall_ns = self.longest_stall_ns.max(silence_ns);
            self.stalls.push(Stall { span, kind, in_flight_bytes });
        } else if event == Event::Sent {
            self.rested(moved, mark, round_trip_ns, peer_sent);
        }
    }

    /// Nothing was in flight since `moved`. As long as the other side was sending, it was that one's turn.
    fn rested(&mut self, moved: Mark, mark: Mark, round_trip_ns: u64, peer_sent: Option<Mark>) {
        let since = peer_sent.filter(|peer| peer.since_ns(moved) > 0).unwrap_or(moved);
        self.waiting_ns = self.waiting_ns.saturating_add(since.since_ns(moved));
        let pause_ns = mark.since_ns(since);
        if pause_ns > round_trip_ns {
            self.application_limited_ns = self.application_limited_ns.saturating_add(pause_ns);
            self.longest_pause_ns = self.longest_pause_ns.max(pause_ns);
        }
    }

    /// Time with data in flight and room for more.
    #[must_use]
    pub const fn in_flight_ns(&self) -> u64 {
        self.in_flight_ns
    }

    /// Time in which the receiver had no room for another segment.
    #[must_use]
    pub const fn window_limited_ns(&self) -> u64 {
        self.window_limited_ns
    }

    /// Time with nothing in flight, in the middle of what this side had to say: pauses longer than a round trip.
    #[must_use]
    pub const fn application_limited_ns(&self) -> u64 {
        self.application_limited_ns
    }

    /// Time with nothing in flight until the other side had sent what this one then went on after.
    #[must_use]
    pub const fn waiting_ns(&self) -> u64 {
        self.waiting_ns
    }

    /// Stalls.
    #[must_use]
    pub const fn stalls(&self) -> &Kept<Stall, STALLS_MAX> {
        &self.stalls
    }

    /// How long all stalls of each kind were, in the order of [`StallKind::ALL`].
    #[must_use]
    pub const fn stalled_ns(&self) -> [u64; StallKind::ALL.len()] {
        self.stalled_ns
    }

    /// How long the longest stall was.
    #[must_use]
    pub const fn longest_stall_ns(&self) -> u64 {
        self.longest_stall_ns
    }

    /// How long the longest pause was.
    #[must_use]
    pub const fn longest_pause_ns(&self) -> u64 {
        self.longest_pause_ns
    }
}

#[cfg(test)]
mod tests {
    use datapath::Ktime;

    use super::*;

    const MS: u64 = 1_000_000;

    fn mark(at_ms: u64) -> Mark {
        Mark { frame: at_ms, at: Ktime(at_ms * MS) }
    }

    /// A silence of `silence_ms` with so much in flight, on a path of `round_trip_ms`.
    fn silence(silence_ms: u64, event: Event, in_flight: u32, round_trip_ms: u64) -> Pace {
        let mut pace = Pace::default();
        pace.moves(Event::Sent, mark(1), 0, round_trip_ms * MS, None);
        pace.moves(event, mark(1 + silence_ms), in_flight, round_trip_ms * MS, None);
        pace
    }

    #[test]
    fn a_stall_is_longer_than_two_round_trips_and_than_200_ms() {
        let stalls = |silence_ms, round_trip_ms| {
            silence(silence_ms, Event::SentAgain, 100, round_trip_ms).stalls().count()
        };
        assert_eq!([stalls(200, 10), stalls(201, 10)], [0, 1]);
        assert_eq!([stalls(600, 300), stalls(601, 300)], [0, 1]);
    }

    #[test]
    fn stalls_tell_what_ended_them() {
        for (event, kind) in [
            (Event::Sent, StallKind::Sender),
            (Event::SentAgain, StallKind::Retransmission),
            (Event::Acknowledged, StallKind::Acknowledgment),
        ] {
            let pace = silence(500, event, 100, 10);
            assert_eq!(pace.stalls().as_slice()[0].kind, kind);
            assert_eq!(pace.stalled_ns()[kind as usize], 500 * MS);
        }
    }

    #[test]
    fn without_data_in_flight_it_is_a_pause() {
        let pace = silence(500, Event::Sent, 0, 10);
        assert_eq!((pace.stalls().count(), pace.application_limited_ns()), (0, 500 * MS));
        assert_eq!(silence(9, Event::Sent, 0, 10).longest_pause_ns(), 0, "within a round trip");
    }

    #[test]
    fn without_room_it_is_the_window() {
        let mut pace = Pace::default();
        pace.moves(Event::Sent, mark(1), 0, 0, None);
        pace.becomes(Doing::Window);
        pace.pass(700 * MS);
        pace.becomes(Doing::Nothing);
        pace.moves(Event::Sent, mark(801), 0, 0, None);
        assert_eq!(pace.stalls().as_slice()[0].kind, StallKind::Window);
        assert_eq!((pace.window_limited_ns(), pace.application_limited_ns()), (700 * MS, 0));
    }

    #[test]
    fn the_turn_of_the_other_side_is_no_pause() {
        let mut pace = Pace::default();
        pace.moves(Event::Sent, mark(1), 0, 10 * MS, None);
        pace.moves(Event::Acknowledged, mark(11), 100, 10 * MS, None);
        pace.moves(Event::Sent, mark(511), 0, 10 * MS, Some(mark(491)));
        assert_eq!((pace.waiting_ns(), pace.application_limited_ns()), (480 * MS, 20 * MS));
        assert_eq!(pace.stalls().count(), 0);
    }
}
