//! One connection as its segments tell it: two sides, the handshake, and whose turn it was. Never looks ahead.

use datapath::{
    parse::tcp::{ACK, FIN, OPTION_SACK, RST, SYN},
    replay::Classified,
    tcp::{
        before,
        classes::{
            KEEP_ALIVE, LOST_SEGMENT, RETRANSMITTED as SENT_AGAIN, REUSED_PORTS, ZERO_WINDOW_PROBE,
        },
        verdict::{DUPLICATE_FRAME, REORDERED, RETRANSMITTED},
    },
};

use super::{
    graph::PointKind,
    handshake::Handshake,
    mark::{Mark, Span},
    pace::Event,
    responses::{Said, Turn},
    side::Side,
    timeouts::Timeout,
};

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    sides: [Side; 2],
    handshake: Handshake,
    turn: Option<Turn>,
    span: Option<Span>,
}

impl Connection {
    /// One of which a graph is drawn.
    #[must_use]
    pub(super) fn drawn() -> Self {
        let mut connection = Self::default();
        for side in &mut connection.sides {
            side.graph = Some(Box::default());
        }
        connection
    }

    /// Takes a segment of frame `frame` into account.
    pub(super) fn segment(&mut self, classified: &Classified, frame: u64) {
        let segment = &classified.segment;
        let mark = Mark { frame, at: segment.now };
        let verdict = classified.verdict.bits;
        let sender = (classified.sender & 1) as usize;
        if verdict & DUPLICATE_FRAME != 0 {
            self.sides[sender].tell(verdict, 0, mark);
            return;
        }
        self.pass(mark);
        let flags = segment.tcp_flags;
        if flags & SYN != 0 && segment.classes & REUSED_PORTS != 0 {
            self.restart(sender, flags & ACK == 0);
        }
        self.handshake.take(sender, classified, mark);
        let path_ns = self.path_ns();
        let [lower, upper] = &mut self.sides;
        let (own, peer) = if sender == 0 { (lower, upper) } else { (upper, lower) };
        own.tell(verdict, segment.classes, mark);
        own.count(segment.payload_len, mark);
        if flags & SYN != 0 {
            own.syn_options = Some(classified.options);
            own.window.offer(classified.window_scale_plus_one, flags & ACK != 0);
            own.window.settle(&peer.window);
            peer.window.settle(&own.window);
        }
        if flags & ACK != 0 {
            acknowledge(own, peer, classified, mark, path_ns);
        }
        if flags & RST != 0 {
            own.resets.add(mark);
        }
        let control = u32::from(flags & (SYN | FIN) != 0);
        let end = segment.sequence.wrapping_add(segment.payload_len).wrapping_add(control);
        let is_probe = segment.classes & (ZERO_WINDOW_PROBE | KEEP_ALIVE) != 0;
        if flags & RST == 0 && (is_probe || end != segment.sequence) {
            peer.window.asked(mark);
        }
        if end != segment.sequence {
            let said = send(own, peer, classified, end, mark, path_ns);
            if let Some((is_disturbed, is_alone)) = said {
                let said = Said { by: sender, mark, is_disturbed, is_alone };
                Turn::take(&mut self.turn, said, &mut own.responses);
            }
        }
        own.settle(&peer.window);
        peer.settle(&own.window);
    }

    /// Time passes until `mark`.
    #[inline]
    fn pass(&mut self, mark: Mark) {
        let Some(span) = &mut self.span else {
            self.span = Some(Span { from: mark, until: mark });
            return;
        };
        let silence_ns = mark.since_ns(span.until);
        span.until = mark;
        self.sides.iter_mut().for_each(|side| side.pace.pass(silence_ns));
    }

    /// A SYN, or the answer to one, with other sequence numbers than before.
    fn restart(&mut self, sender: usize, is_both: bool) {
        for (number, side) in self.sides.iter_mut().enumerate() {
            if is_both || number == sender {
                side.restart();
            }
        }
        if is_both {
            self.handshake = Handshake::default();
            self.turn = None;
        }
    }

    /// The round trip of the whole path, as far as it is known: both sides' last ones, or the handshake's.
    #[inline]
    #[must_use]
    pub fn path_ns(&self) -> u64 {
        let shaken = [self.handshake.originator_side_ns(), self.handshake.responder_side_ns()];
        let shaken_ns = shaken.into_iter().flatten().fold(0, u64::saturating_add);
        let [lower, upper] = &self.sides;
        lower.srtt_ns().saturating_add(upper.srtt_ns()).max(shaken_ns)
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
        self.sides.iter_mut().for_each(Side::finish);
    }

    /// The two sides: 0 lower, 1 upper.
    #[must_use]
    pub const fn sides(&self) -> &[Side; 2] {
        &self.sides
    }

    /// Its last handshake.
    #[must_use]
    pub const fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// The first and the last segment.
    #[must_use]
    pub const fn span(&self) -> Option<Span> {
        self.span
    }
}

/// `own` acknowledges what `peer` sent, and advertises a window.
#[inline]
fn acknowledge(own: &mut Side, peer: &mut Side, classified: &Classified, mark: Mark, path_ns: u64) {
    let segment = &classified.segment;
    let in_flight = peer.flight.bytes();
    let acknowledged = peer.flight.acknowledge(segment.acknowledgment, segment.now);
    let selects = classified.options & OPTION_SACK != 0 && peer.flight.select(&segment.selective);
    if acknowledged.is_progress || selects {
        peer.pace.moves(Event::Acknowledged, mark, in_flight, path_ns, own.last_data);
    }
    if acknowledged.is_progress {
        peer.timeouts.acknowledged(segment.acknowledgment, mark);
    }
    if segment.timestamp.is_some() {
        peer.came_back(classified.timestamp_echo, mark);
    }
    if let Some(round_trip) = acknowledged.round_trip {
        peer.measured(round_trip);
    }
    if !peer.flight.is_overtaken(segment.acknowledgment) {
        own.window.advertise(segment, mark);
    }
    peer.draw_acknowledgment(segment, &own.window, mark);
}

/// `own` sends what takes sequence numbers up to `end`. Of data, returns whether something disturbs its turn, and whether
/// it is the only data under way.
#[inline]
fn send(
    own: &mut Side,
    peer: &Side,
    classified: &Classified,
    end: u32,
    mark: Mark,
    path_ns: u64,
) -> Option<(bool, bool)> {
    let segment = &classified.segment;
    let verdict = classified.verdict.bits;
    if segment.tcp_flags & RST != 0 {
        return None;
    }
    if segment.timestamp.is_some() {
        let is_syn = segment.tcp_flags & SYN != 0;
        own.stamped(segment.timestamp.unwrap_or(0), is_syn, mark);
    }
    // One byte that was not acknowledged is data, also where Wireshark sees a keep-alive.
    let is_data = verdict & (RETRANSMITTED | REORDERED) != 0;
    let is_keep_alive = segment.classes & KEEP_ALIVE != 0 && !is_data;
    if is_keep_alive || segment.classes & ZERO_WINDOW_PROBE != 0 {
        own.flight.probe(end, mark);
        return None;
    }
    let in_flight = own.flight.bytes();
    let is_late = own.flight.next().is_some_and(|next| before(segment.sequence, next));
    let event = match is_late && verdict & REORDERED == 0 {
        true => Event::SentAgain,
        false => Event::Sent,
    };
    own.pace.moves(event, mark, in_flight, path_ns, peer.last_data);
    own.flight.send(segment.sequence, end, mark);
    if verdict & RETRANSMITTED != 0 {
        let found = Timeout {
            sequence: segment.sequence,
            payload_len: segment.payload_len,
            first: mark,
            is_tail: own.flight.next() == Some(end),
            is_handshake: segment.tcp_flags & SYN != 0,
            ..Timeout::default()
        };
        own.timeouts.sent(verdict, found, own.last_sent.unwrap_or(mark));
    }
    let kind = match verdict {
        bits if bits & RETRANSMITTED != 0 => PointKind::Retransmission,
        bits if bits & REORDERED != 0 => PointKind::Reordered,
        _ => PointKind::Data,
    };
    own.draw(kind, segment.sequence, end, mark);
    own.last_sent = Some(mark);
    if segment.tcp_flags & FIN != 0 {
        own.fin.get_or_insert(mark);
    }
    if segment.payload_len == 0 {
        return None;
    }
    own.last_data = Some(mark);
    let is_disturbed = is_late || segment.classes & (SENT_AGAIN | LOST_SEGMENT) != 0;
    Some((is_disturbed, in_flight == 0 && peer.flight.bytes() == 0))
}

#[cfg(test)]
mod tests {
    use datapath::{
        Ktime,
        parse::tcp::PSH,
        tcp::verdict::{RTO, Segment, Verdict},
    };

    use super::*;

    const MS: u64 = 1_000_000;

    /// Side `sender` sends this at `at_ms`, with `[sequence, acknowledgment, payload_len, window]`.
    fn segment(
        sender: u32,
        at_ms: u64,
        numbers: [u32; 4],
        classes: u32,
        verdict: u32,
    ) -> Classified {
        let [sequence, acknowledgment, payload_len, window] = numbers;
        let segment = Segment {
            now: Ktime(at_ms * MS),
            sequence,
            acknowledgment,
            payload_len,
            tcp_flags: if payload_len > 0 { ACK | PSH } else { ACK },
            window,
            classes,
            ..Segment::default()
        };
        Classified::plain(sender, segment, Verdict { bits: verdict, ..Verdict::default() })
    }

    fn connection(segments: &[Classified]) -> Connection {
        let mut connection = Connection::default();
        for (segment, frame) in segments.iter().zip(1..) {
            connection.segment(segment, frame);
        }
        connection.finish();
        connection
    }

    #[test]
    fn a_byte_that_is_sent_again_is_data_and_no_keep_alive() {
        let sent_twice = |verdict| {
            let told = connection(&[
                segment(0, 1, [100, 1, 1, 500], 0, 0),
                segment(0, 301, [100, 1, 1, 500], KEEP_ALIVE, verdict),
                segment(1, 321, [1, 101, 0, 500], 0, 0),
            ]);
            let side = &told.sides()[0];
            (side.timeouts.told().count(), side.pace.stalls().count())
        };
        assert_eq!(sent_twice(RETRANSMITTED | RTO), (1, 1));
        assert_eq!(sent_twice(0).0, 0);
    }

    #[test]
    fn losses_are_no_round_trip_of_the_path() {
        let mut segments = Vec::new();
        for n in 0..10_u32 {
            let (at_ms, sequence) = (u64::from(n) * 400, 100 + n * 100);
            segments.extend([
                segment(0, at_ms, [sequence, 1, 100, 500], 0, 0),
                segment(0, at_ms + 300, [sequence, 1, 100, 500], 0, RETRANSMITTED | RTO),
                segment(1, at_ms + 320, [1, sequence + 100, 0, 500], 0, 0),
            ]);
        }
        let told = connection(&segments);
        let side = &told.sides()[0];
        assert_eq!((side.round_trips.min_ns(), told.path_ns()), (Some(320 * MS), 0));
        assert_eq!(side.pace.stalls().count(), 10);
    }

    #[test]
    fn an_overtaken_acknowledgment_closes_no_window() {
        let zero_periods = |acknowledgments: [u32; 2]| {
            let [first, second] = acknowledgments;
            let told = connection(&[
                segment(0, 1, [100, 1, 200, 500], 0, 0),
                segment(1, 10, [1, first, 0, 500], 0, 0),
                segment(1, 11, [1, second, 0, 0], 0, 0),
            ]);
            told.sides()[1].window.zero_periods().count()
        };
        assert_eq!((zero_periods([300, 200]), zero_periods([200, 300])), (0, 1));
    }

    #[test]
    fn a_silent_receiver_without_room_has_none_until_the_last_probe() {
        let told = connection(&[
            segment(0, 1, [100, 1, 200, 500], 0, 0),
            segment(1, 10, [1, 300, 0, 0], 0, 0),
            segment(0, 210, [300, 1, 1, 500], ZERO_WINDOW_PROBE, 0),
            segment(0, 1_010, [299, 1, 0, 500], KEEP_ALIVE, 0),
        ]);
        assert_eq!(told.sides()[1].window.zero_ns(), 1_000 * MS);
    }
}
