//! An analysis as JSON: what `linnet analyze --json` says of each side, and a sequence graph. Renders; computes nothing
//! but quantiles.

use std::collections::BTreeMap;

use datapath::tcp::{classes, verdict};
use serde::Serialize;

use super::{
    Connection, Mark, Occurrences, Samples, Side, Span,
    graph::{Graph, PointKind},
    pace::StallKind,
    spin::Spin,
    window::Scaling,
};
use crate::flow::{
    record::QUANTILES,
    view::{Naming, wall},
};

/// The handshake, split at the place of the capture.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HandshakeView {
    originator_side_ns: Option<u64>,
    responder_side_ns: Option<u64>,
    syns: u32,
    answers: u32,
    complete: bool,
}

/// What one side sent.
#[derive(Clone, Debug, Serialize)]
pub struct SideView {
    round_trips: SamplesView,
    loaded_round_trips: SamplesView,
    timestamp_round_trips: SamplesView,
    response_times: ResponsesView,
    in_flight: Option<PeakView>,
    window: WindowView,
    time: TimeView,
    stalls: StallsView,
    timeouts: TimeoutsView,
    resets: Option<OccurrencesView>,
    troubles: BTreeMap<&'static str, OccurrencesView>,
    not_followed_segments: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct SamplesView {
    samples: u64,
    min_ns: u64,
    p50_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    quantiles_of_one_in: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ResponsesView {
    #[serde(flatten)]
    times: SamplesView,
    beyond_here_p50_ns: Option<u64>,
    overlapping: u64,
    disturbed: u64,
}

#[derive(Clone, Debug, Serialize)]
struct PeakView {
    max_bytes: u32,
    at: String,
    frame: u64,
}

#[derive(Clone, Debug, Serialize)]
struct WindowView {
    scaling: &'static str,
    shift: Option<u8>,
    max_bytes: u32,
    zero_periods: PeriodsView<ZeroView>,
}

/// Several times, the first ones one by one.
#[derive(Clone, Debug, Serialize)]
struct PeriodsView<T> {
    count: u64,
    total_ns: u64,
    longest_ns: u64,
    first: Vec<T>,
}

#[derive(Clone, Debug, Serialize)]
struct SpanView {
    from: String,
    until: String,
    from_frame: u64,
    until_frame: u64,
    duration_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ZeroView {
    #[serde(flatten)]
    span: SpanView,
    over: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct TimeView {
    in_flight_ns: u64,
    window_limited_ns: u64,
    application_limited_ns: u64,
    waiting_ns: u64,
    longest_pause_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
struct StallsView {
    #[serde(flatten)]
    periods: PeriodsView<StallView>,
    by_kind_ns: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Serialize)]
struct StallView {
    #[serde(flatten)]
    span: SpanView,
    kind: &'static str,
    in_flight_bytes: u32,
}

#[derive(Clone, Debug, Serialize)]
struct TimeoutsView {
    count: u64,
    recovered: u64,
    tries: u64,
    most_tries: u32,
    silence_ns: u64,
    first: Vec<TimeoutView>,
}

#[derive(Clone, Debug, Serialize)]
struct TimeoutView {
    sequence: u32,
    payload_bytes: u32,
    tries: u32,
    gaps_ns: Vec<u64>,
    tail: bool,
    handshake: bool,
    recovered: Option<String>,
    #[serde(flatten)]
    span: SpanView,
}

#[derive(Clone, Debug, Serialize)]
struct OccurrencesView {
    count: u64,
    first: String,
    last: String,
    first_frame: u64,
    last_frame: u64,
}

/// Round trips of QUIC, as the spin bit of each side's packets tells them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SpinView {
    from_originator: SamplesView,
    from_responder: SamplesView,
}

/// The sequence graphs of one connection.
#[derive(Clone, Debug, Serialize)]
pub struct GraphsView {
    from_originator: Option<GraphView>,
    from_responder: Option<GraphView>,
}

#[derive(Clone, Debug, Serialize)]
struct GraphView {
    first_sequence: Option<u32>,
    one_in: u64,
    left_out: u64,
    points: Vec<PointView>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PointView {
    at_ns: u64,
    kind: PointKind,
    start: i64,
    end: i64,
}

impl SpinView {
    /// The round trips of a flow of QUIC, if its bit spins.
    #[must_use]
    pub fn new(spin: &Spin, originator: usize) -> Option<Self> {
        let sides = spin.round_trips()?;
        let [from_originator, from_responder] =
            [originator, originator ^ 1].map(|number| SamplesView::new(sides[number & 1]));
        Some(Self { from_originator, from_responder })
    }
}

impl HandshakeView {
    /// The handshake of a connection, if any of it was seen.
    #[must_use]
    pub fn new(connection: &Connection) -> Option<Self> {
        let handshake = connection.handshake();
        (handshake.syns() + handshake.answers() > 0).then(|| Self {
            originator_side_ns: handshake.originator_side_ns(),
            responder_side_ns: handshake.responder_side_ns(),
            syns: handshake.syns(),
            answers: handshake.answers(),
            complete: handshake.is_complete(),
        })
    }
}

impl SideView {
    /// What `side` sent; `peer` is the other one.
    #[must_use]
    pub fn new(side: &Side, peer: &Side, naming: &Naming) -> Self {
        Self {
            round_trips: SamplesView::new(&side.round_trips),
            loaded_round_trips: SamplesView::new(&side.loaded_round_trips),
            timestamp_round_trips: SamplesView::new(&side.timestamp_round_trips),
            response_times: ResponsesView::new(side, peer),
            in_flight: side.flight.peak().map(|peak| PeakView {
                max_bytes: peak.bytes,
                at: time(peak.mark, naming),
                frame: peak.mark.frame,
            }),
            window: WindowView::new(side, naming),
            time: TimeView {
                in_flight_ns: side.pace.in_flight_ns(),
                window_limited_ns: side.pace.window_limited_ns(),
                application_limited_ns: side.pace.application_limited_ns(),
                waiting_ns: side.pace.waiting_ns(),
                longest_pause_ns: side.pace.longest_pause_ns(),
            },
            stalls: StallsView::new(side, naming),
            timeouts: TimeoutsView::new(side, naming),
            resets: OccurrencesView::new(&side.resets, naming),
            troubles: troubles(side, naming),
            not_followed_segments: side.flight.not_followed(),
        }
    }
}

impl SamplesView {
    fn new(samples: &Samples) -> Self {
        let [p50_ns, p95_ns, p99_ns] = samples.quantiles_ns(QUANTILES).unwrap_or_default();
        Self {
            samples: samples.count(),
            min_ns: samples.min_ns().unwrap_or_default(),
            p50_ns,
            p95_ns,
            p99_ns,
            max_ns: samples.max_ns().unwrap_or_default(),
            quantiles_of_one_in: samples.one_in(),
        }
    }
}

impl ResponsesView {
    fn new(side: &Side, peer: &Side) -> Self {
        let times = SamplesView::new(side.responses.times());
        // Its way there and back is the least round trip of what it answers to.
        let way_ns = peer.round_trips.min_ns().filter(|_| times.samples > 0);
        Self {
            times,
            beyond_here_p50_ns: way_ns.map(|way_ns| times.p50_ns.saturating_sub(way_ns)),
            overlapping: side.responses.overlapping(),
            disturbed: side.responses.disturbed(),
        }
    }
}

impl WindowView {
    fn new(side: &Side, naming: &Naming) -> Self {
        let window = &side.window;
        let (scaling, shift) = match window.scaling() {
            Scaling::Unknown => ("unknown", None),
            Scaling::Absent => ("absent", None),
            Scaling::Shift(shift) => ("present", Some(shift)),
        };
        let periods = window.zero_periods();
        Self {
            scaling,
            shift,
            max_bytes: window.max_bytes(),
            zero_periods: PeriodsView {
                count: periods.count(),
                total_ns: window.zero_ns(),
                longest_ns: window.longest_zero_ns(),
                first: (periods.as_slice().iter())
                    .map(|one| ZeroView {
                        span: SpanView::new(&one.span, naming),
                        over: one.is_over,
                    })
                    .collect(),
            },
        }
    }
}

impl StallsView {
    fn new(side: &Side, naming: &Naming) -> Self {
        let pace = &side.pace;
        let by_kind = StallKind::ALL.iter().zip(pace.stalled_ns());
        let stalls = pace.stalls();
        Self {
            periods: PeriodsView {
                count: stalls.count(),
                total_ns: pace.stalled_ns().iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns)),
                longest_ns: pace.longest_stall_ns(),
                first: (stalls.as_slice().iter())
                    .map(|stall| StallView {
                        span: SpanView::new(&stall.span, naming),
                        kind: stall.kind.name(),
                        in_flight_bytes: stall.in_flight_bytes,
                    })
                    .collect(),
            },
            by_kind_ns: by_kind
                .filter(|(_, ns)| *ns > 0)
                .map(|(kind, ns)| (kind.name(), ns))
                .collect(),
        }
    }
}

impl TimeoutsView {
    fn new(side: &Side, naming: &Naming) -> Self {
        let timeouts = &side.timeouts;
        Self {
            count: timeouts.told().count(),
            recovered: timeouts.recovered(),
            tries: timeouts.tries(),
            most_tries: timeouts.most_tries(),
            silence_ns: timeouts.silence_ns(),
            first: (timeouts.told().as_slice().iter())
                .map(|timeout| TimeoutView {
                    sequence: timeout.sequence,
                    payload_bytes: timeout.payload_len,
                    tries: timeout.tries,
                    gaps_ns: timeout.gaps_ns.iter().copied().take(timeout.tries as usize).collect(),
                    tail: timeout.is_tail,
                    handshake: timeout.is_handshake,
                    recovered: timeout.recovered.map(|mark| time(mark, naming)),
                    span: SpanView::new(
                        &Span { from: timeout.before, until: timeout.last },
                        naming,
                    ),
                })
                .collect(),
        }
    }
}

impl SpanView {
    fn new(span: &Span, naming: &Naming) -> Self {
        Self {
            from: time(span.from, naming),
            until: time(span.until, naming),
            from_frame: span.from.frame,
            until_frame: span.until.frame,
            duration_ns: span.duration_ns(),
        }
    }
}

impl OccurrencesView {
    fn new(occurrences: &Occurrences, naming: &Naming) -> Option<Self> {
        let Occurrences { count, span: Span { from, until } } = *occurrences;
        (count > 0).then(|| Self {
            count,
            first: time(from, naming),
            last: time(until, naming),
            first_frame: from.frame,
            last_frame: until.frame,
        })
    }
}

/// Verdicts and classes of which there is one.
fn troubles(side: &Side, naming: &Naming) -> BTreeMap<&'static str, OccurrencesView> {
    let (verdicts, classes) = (side.verdicts(), side.classes());
    let classes = classes::NAMES.iter().map(|(name, _)| *name).zip(&classes);
    verdict::BITS
        .iter()
        .map(|(name, _)| *name)
        .zip(&verdicts)
        .chain(classes)
        .filter_map(|(name, one)| Some((name, OccurrencesView::new(one, naming)?)))
        .collect()
}

fn time(mark: Mark, naming: &Naming) -> String {
    wall(mark.at.0, naming)
}

impl GraphsView {
    /// The graphs of a connection whose originator is the upper endpoint or the lower one.
    #[must_use]
    pub fn new(connection: &Connection, originator: usize) -> Self {
        let graph = |number: usize| {
            let side = &connection.sides()[number & 1];
            side.graph().map(|graph| GraphView::new(side, graph))
        };
        Self { from_originator: graph(originator), from_responder: graph(originator ^ 1) }
    }
}

impl GraphView {
    /// Sequence numbers count from the first one on, and do not wrap.
    fn new(side: &Side, graph: &Graph) -> Self {
        let first_sequence = side.flight.first();
        let mut last = (first_sequence.unwrap_or_default(), 0_i64);
        let mut unwrapped = |sequence: u32| {
            let (last_sequence, at) = last;
            let at = at + i64::from(sequence.wrapping_sub(last_sequence).cast_signed());
            last = (sequence, at);
            at
        };
        let point = |point: &super::graph::Point| PointView {
            at_ns: point.at_ns,
            kind: point.kind,
            start: unwrapped(point.start),
            end: unwrapped(point.end),
        };
        let points = graph.points().iter().map(point).collect();
        Self { first_sequence, one_in: graph.one_in(), left_out: graph.left_out(), points }
    }
}
