//! What one side of a connection sent, and what became of it. Never mixes the two sides: what is measured at this place
//! of data that one side sent lies beyond it on the other side's way.

use datapath::tcp::{
    classes::CLASSES,
    verdict::{self, Segment},
};

use super::{
    flight::{Flight, RoundTrip},
    graph::{Graph, Point, PointKind},
    mark::{Mark, Occurrences, Span, Told},
    pace::{Doing, Pace},
    responses::Responses,
    samples::Samples,
    timeouts::Timeouts,
    timestamps::Values,
    window::Window,
};

/// Payload of a segment on Ethernet. A receiver with less room than that waits for more (RFC 9293, 3.8.6.2.1).
const SEGMENT_MAX: u32 = 1_460;

/// One side.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Segments, without copies of a frame.
    pub segments: u64,
    /// Segments with payload.
    pub data_segments: u64,
    /// The first and the last segment.
    pub span: Option<Span>,
    /// Options of its SYN ([`datapath::parse::tcp`]), if that was seen.
    pub syn_options: Option<u32>,
    /// From each segment to the acknowledgment that ends with it, as Wireshark's `tcp.analysis.ack_rtt`: also of what was
    /// sent again, from the first time on.
    pub round_trips: Samples,
    /// Those of segments that had more than another segment in flight before them: with what queues there are.
    pub loaded_round_trips: Samples,
    /// By timestamps: only as long as acknowledgments measured nothing.
    pub timestamp_round_trips: Samples,
    /// How long it took to answer the other side.
    pub responses: Responses,
    /// What it has in flight.
    pub flight: Flight,
    /// What it advertised as a receiver.
    pub window: Window,
    /// What its time went by with.
    pub pace: Pace,
    /// What its timer sent again.
    pub timeouts: Timeouts,
    /// Resets that it sent.
    pub resets: Occurrences,
    /// Its FIN.
    pub fin: Option<Mark>,
    /// The greatest payload of a segment.
    pub payload_max: u32,
    /// The last new data.
    pub last_data: Option<Mark>,
    pub(super) last_sent: Option<Mark>,
    pub(super) graph: Option<Box<Graph>>,
    srtt_ns: u64,
    values: Option<Box<Values>>,
    told: Option<Box<Told>>,
}

impl Side {
    /// A segment came, with what is to be said about it.
    #[inline]
    pub(super) fn tell(&mut self, verdict: u32, classes: u32, mark: Mark) {
        if verdict | classes != 0 {
            self.told.get_or_insert_default().add(verdict, classes, mark);
        }
    }

    #[inline]
    pub(super) fn count(&mut self, payload_len: u32, mark: Mark) {
        self.segments += 1;
        self.data_segments += u64::from(payload_len > 0);
        self.payload_max = self.payload_max.max(payload_len);
        self.span.get_or_insert(Span { from: mark, until: mark }).until = mark;
    }

    /// An acknowledgment of its data measured this.
    #[inline]
    pub(super) fn measured(&mut self, round_trip: RoundTrip) {
        let RoundTrip { ns, flight, is_clean } = round_trip;
        self.round_trips.add(ns);
        self.values = None;
        if flight >= 2 * self.payload_max.clamp(1, SEGMENT_MAX) {
            self.loaded_round_trips.add(ns);
        }
        if !is_clean {
            return;
        }
        // RFC 6298, 2.3.
        self.srtt_ns =
            if self.srtt_ns == 0 { ns } else { self.srtt_ns - self.srtt_ns / 8 + ns / 8 };
    }

    /// It sent a timestamp with something that will be acknowledged.
    #[inline]
    pub(super) fn stamped(&mut self, value: u32, is_syn: bool, mark: Mark) {
        if self.round_trips.count() == 0 {
            self.values.get_or_insert_default().sent(value, is_syn, mark.at);
        }
    }

    /// A timestamp of it came back.
    #[inline]
    pub(super) fn came_back(&mut self, echo: u32, mark: Mark) {
        if let Some(values) = &mut self.values
            && let Some(ns) = values.came_back(echo, mark.at)
        {
            self.timestamp_round_trips.add(ns);
        }
    }

    /// What it does from here on, with a receiver that advertised `peer`.
    #[inline]
    pub(super) fn settle(&mut self, peer: &Window) {
        let in_flight = self.flight.bytes();
        let room = self.flight.next().and_then(|next| peer.room(next));
        let segment = self.payload_max.clamp(1, SEGMENT_MAX);
        let doing = match room {
            _ if self.fin.is_some() && in_flight == 0 => Doing::Nothing,
            Some(0) if self.fin.is_none() => Doing::Window,
            Some(room) if room < segment && in_flight > 0 && self.fin.is_none() => Doing::Window,
            Some(_) | None if in_flight > 0 => Doing::InFlight,
            Some(_) | None => Doing::Nothing,
        };
        self.pace.becomes(doing);
    }

    /// The sequence numbers start anew.
    pub(super) fn restart(&mut self) {
        self.flight.restart();
        self.window.restart();
        self.timeouts.close();
        self.fin = None;
        self.values = None;
        self.last_data = None;
        self.last_sent = None;
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
        self.window.finish();
        self.timeouts.close();
        self.values = None;
    }

    /// A point of the graph of its data.
    #[inline]
    pub(super) fn draw(&mut self, kind: PointKind, start: u32, end: u32, mark: Mark) {
        if let Some(graph) = &mut self.graph {
            graph.add(Point { at_ns: mark.at.0, start, end, kind });
        }
    }

    /// Points of an acknowledgment of its data.
    pub(super) fn draw_acknowledgment(&mut self, segment: &Segment, peer: &Window, mark: Mark) {
        if self.graph.is_none() {
            return;
        }
        let acknowledgment = segment.acknowledgment;
        self.draw(PointKind::Acknowledgment, acknowledgment, acknowledgment, mark);
        for [start, end] in segment.selective {
            if start != end {
                self.draw(PointKind::Selective, start, end, mark);
            }
        }
        if let Some(room) = peer.room(acknowledgment) {
            self.draw(PointKind::Window, acknowledgment, acknowledgment.wrapping_add(room), mark);
        }
    }

    /// The smoothed round trip of its data (RFC 6298), without what was sent again (Karn's rule); 0 before the first.
    #[must_use]
    pub const fn srtt_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// Its segments by verdict, in the order of [`verdict::BITS`].
    #[must_use]
    pub fn verdicts(&self) -> [Occurrences; verdict::BITS.len()] {
        self.told.as_deref().map(|told| told.verdicts).unwrap_or_default()
    }

    /// Its segments by Wireshark's class, in the order of [`datapath::tcp::classes::NAMES`].
    #[must_use]
    pub fn classes(&self) -> [Occurrences; CLASSES] {
        self.told.as_deref().map(|told| told.classes).unwrap_or_default()
    }

    /// The graph of its data, where one was asked for.
    #[must_use]
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_deref()
    }
}
