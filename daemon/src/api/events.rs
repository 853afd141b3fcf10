//! `/flows/{id}/events` and `/tcp/summary`: flagged segments one by one, and how many there were.

use std::{cmp::Reverse, net::SocketAddr};

use axum::{
    Json,
    extract::{Path, State},
    http::Uri,
};
use datapath::{
    layout::Event,
    parse::tcp,
    tcp::{classes, verdict},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ApiError, ApiState,
    flows::no_flow,
    parameters::{Parameters, value},
};
use crate::flow::{
    FlowId, FlowRecord, HalfRecord, LossView,
    events::{EVENTS_OF_FLOW_MAX, Numbered, Sums, Tally},
    view::{Naming, rfc3339, wall},
};

/// What a flow's events can be asked for.
const PARAMETERS: [&str; 3] = ["kind", "limit", "after"];
/// Flows with the most segments that were sent again.
const WORST_MAX: usize = 10;
/// What is shown of the 32 bits that are silent for 1,024 ns each.
const SILENCE_SHIFT: u32 = 10;
/// TCP's flags as tcpdump writes them, in the order of their bits.
const FLAGS: [(u32, char); 9] = [
    (tcp::FIN, 'F'),
    (tcp::SYN, 'S'),
    (tcp::RST, 'R'),
    (1 << 3, 'P'),
    (tcp::ACK, 'A'),
    (1 << 5, 'U'),
    (1 << 6, 'E'),
    (1 << 7, 'C'),
    (1 << 8, 'N'),
];

/// An event as it is sent.
#[derive(Debug, Serialize)]
struct EventView {
    number: u64,
    time: String,
    direction: Option<&'static str>,
    classes: Vec<&'static str>,
    verdicts: Vec<&'static str>,
    segments: u32,
    bytes: u32,
    silence_ns: u64,
    sequence: u32,
    acknowledgment: u32,
    payload_len: u32,
    window: u32,
    flags: String,
}

impl EventView {
    fn new(numbered: &Numbered, record: Option<&FlowRecord>, naming: &Naming) -> Self {
        let Numbered { number, event } = numbered;
        let direction = record.map(|record| {
            let from_originator = (event.sender == 1) == record.upper_originated;
            if from_originator { "from_originator" } else { "from_responder" }
        });
        let has_verdict = event.verdict != 0;
        let flags = u32::from(event.tcp_flags);
        Self {
            number: *number,
            time: wall(event.time_ns, naming),
            direction,
            classes: bits(event.classes, class_bits()),
            verdicts: bits(event.verdict, verdict::BITS),
            segments: if has_verdict { event.segments } else { 0 },
            bytes: if has_verdict { event.bytes } else { 0 },
            silence_ns: u64::from(event.silence_us) << SILENCE_SHIFT,
            sequence: event.sequence,
            acknowledgment: event.acknowledgment,
            payload_len: event.payload_len,
            window: event.window,
            flags: FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, it)| it).collect(),
        }
    }
}

/// Events that are asked for.
#[derive(Debug)]
struct Wanted {
    /// Any of these bits; all events where none is named.
    kinds: Option<(u32, u32)>,
    limit: usize,
    /// Those with greater numbers, from the first one on; the last ones without it.
    after: Option<u64>,
}

impl Wanted {
    fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let parameters = Parameters::read(uri, &PARAMETERS)?;
        Ok(Self {
            kinds: parameters.text("kind").map(kinds).transpose()?,
            limit: parameters.text("limit").map_or(Ok(EVENTS_OF_FLOW_MAX), limit)?,
            after: parameters.text("after").map(after).transpose()?,
        })
    }

    fn takes(&self, event: &Event) -> bool {
        self.kinds.is_none_or(|(classes, verdicts)| {
            event.classes & classes != 0 || event.verdict & verdicts != 0
        })
    }
}

pub(super) async fn of_flow(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let id: FlowId = value("id", &id)?;
    let wanted = Wanted::parse(&uri)?;
    let record = state.flows.get(id);
    let kept = state.events.of_flow(id);
    if record.is_none() && kept.is_none() {
        return Err(no_flow(id));
    }
    let kept = kept.unwrap_or_default();
    let naming = state.board.naming.latest();
    let matching: Vec<_> = kept.events.iter().filter(|it| wanted.takes(&it.event)).collect();
    let total = matching.len();
    let (page, next): (&[&Numbered], _) = match wanted.after {
        Some(after) => {
            let rest = &matching[matching.partition_point(|it| it.number <= after)..];
            let page = &rest[..rest.len().min(wanted.limit)];
            (page, page.last().filter(|_| page.len() < rest.len()).map(|last| last.number))
        }
        None => (&matching[total.saturating_sub(wanted.limit)..], None),
    };
    let views: Vec<_> =
        page.iter().map(|it| EventView::new(it, record.as_ref(), &naming)).collect();
    Ok(Json(json!({
        "events": views,
        "next": next,
        "total": total,
        "forgotten": kept.forgotten,
        "loss": state.loss(),
    })))
}

/// Sums of an interface, or of all.
#[derive(Debug, Default, Serialize)]
struct SumsView {
    total: Sums,
    interval: Sums,
}

impl SumsView {
    const fn new(tally: &Tally) -> Self {
        Self { total: tally.total, interval: tally.interval }
    }
}

#[derive(Debug, Serialize)]
struct InterfaceSumsView {
    interface: Option<String>,
    #[serde(flatten)]
    sums: SumsView,
}

/// A flow, and what was sent again of it.
#[derive(Debug, Serialize)]
struct WorstView {
    id: FlowId,
    originator: String,
    responder: String,
    segments: u64,
    retransmitted_segments: u64,
    ratio: f64,
    from_originator: SentAgainView,
    from_responder: SentAgainView,
}

#[derive(Debug, Serialize)]
struct SentAgainView {
    segments: u64,
    retransmitted_segments: u64,
    retransmitted_bytes: u64,
    ratio: f64,
}

/// The summary as it is sent.
#[derive(Debug, Serialize)]
pub(super) struct SummaryView {
    since: String,
    interval_ns: u64,
    #[serde(flatten)]
    all: SumsView,
    interfaces: Vec<InterfaceSumsView>,
    retransmitting: Vec<WorstView>,
    loss: LossView,
}

pub(super) async fn summary(State(state): State<ApiState>) -> Json<SummaryView> {
    let naming = state.board.naming.latest();
    let tallies = state.events.tallies();
    let interfaces = tallies
        .by_interface(&naming)
        .into_iter()
        .map(|(interface, tally)| InterfaceSumsView { interface, sums: SumsView::new(&tally) });
    Json(SummaryView {
        since: wall(tallies.since_ns, &naming),
        interval_ns: tallies.interval_ns,
        all: SumsView::new(&tallies.all),
        interfaces: interfaces.collect(),
        retransmitting: worst(&state),
        loss: state.loss(),
    })
}

/// The flows with the most segments that were sent again.
fn worst(state: &ApiState) -> Vec<WorstView> {
    let mut counts: Vec<(Reverse<u64>, FlowId)> = Vec::new();
    state.flows.for_each(|flow| {
        let count = sent_again(&flow.from_originator) + sent_again(&flow.from_responder);
        if count > 0 {
            counts.push((Reverse(count), flow.id));
        }
    });
    if counts.len() > WORST_MAX {
        counts.select_nth_unstable(WORST_MAX);
        counts.truncate(WORST_MAX);
    }
    counts.sort_unstable();
    let flows = counts.into_iter().filter_map(|(_, id)| state.flows.get(id));
    flows.map(|flow| WorstView::new(&flow)).collect()
}

impl WorstView {
    fn new(flow: &FlowRecord) -> Self {
        let [from_originator, from_responder] =
            [&flow.from_originator, &flow.from_responder].map(SentAgainView::new);
        let segments = from_originator.segments + from_responder.segments;
        let retransmitted_segments =
            from_originator.retransmitted_segments + from_responder.retransmitted_segments;
        let [originator, responder] =
            flow.ends().map(|(address, port)| SocketAddr::new(address, port).to_string());
        Self {
            id: flow.id,
            originator,
            responder,
            segments,
            retransmitted_segments,
            ratio: ratio(retransmitted_segments, segments),
            from_originator,
            from_responder,
        }
    }
}

impl SentAgainView {
    fn new(half: &HalfRecord) -> Self {
        let verdicts = half.verdicts.unwrap_or_default();
        let retransmitted_segments = verdicts.retransmitted_segments;
        Self {
            segments: half.packets,
            retransmitted_segments,
            retransmitted_bytes: verdicts.retransmitted_bytes,
            ratio: ratio(retransmitted_segments, half.packets),
        }
    }
}

fn sent_again(half: &HalfRecord) -> u64 {
    half.verdicts.map_or(0, |verdicts| verdicts.retransmitted_segments)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is floating point")]
fn ratio(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn bits(value: u32, names: impl IntoIterator<Item = (&'static str, u32)>) -> Vec<&'static str> {
    names.into_iter().filter(|(_, bit)| value & bit != 0).map(|(name, _)| name).collect()
}

fn class_bits() -> impl Iterator<Item = (&'static str, u32)> {
    classes::NAMES.iter().enumerate().map(|(bit, (name, _))| (*name, 1 << bit))
}

/// Names of classes and verdicts, with commas between them.
fn kinds(text: &str) -> Result<(u32, u32), ApiError> {
    let mut kinds = (0, 0);
    for wanted in text.split(',') {
        let bit = |(name, bit)| (name == wanted).then_some(bit);
        let class = class_bits().find_map(bit);
        let verdict = verdict::BITS.into_iter().find_map(bit);
        if class.is_none() && verdict.is_none() {
            let known: Vec<_> = class_bits().chain(verdict::BITS).map(|(name, _)| name).collect();
            let known = known.join(", ");
            let detail = format!("`{wanted}` is no class and no verdict; known are {known}");
            return Err(ApiError::parameter("kind", detail));
        }
        kinds = (kinds.0 | class.unwrap_or(0), kinds.1 | verdict.unwrap_or(0));
    }
    Ok(kinds)
}

fn limit(text: &str) -> Result<usize, ApiError> {
    text.parse().ok().filter(|limit| (1..=EVENTS_OF_FLOW_MAX).contains(limit)).ok_or_else(|| {
        let detail = format!("`{text}` is no number between 1 and {EVENTS_OF_FLOW_MAX}");
        ApiError::parameter("limit", detail)
    })
}

fn after(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        let detail =
            format!("`{text}` is no number of an event; use the `number` of one, or 0 for all");
        ApiError::parameter("after", detail)
    })
}

impl ApiState {
    /// The loss block: as of the last sweep, and of events as of now.
    pub(super) fn loss(&self) -> LossView {
        let mut loss = LossView::clone(&self.board.loss.latest());
        let (log, forgotten, since_ns) = self.events.balance();
        let offset_ns = self.board.naming.latest().wall_offset_ns;
        let events = &mut loss.rings.events;
        (events.log, events.forgotten) = (log, forgotten);
        events.since = rfc3339(i128::from(since_ns) + i128::from(offset_ns));
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_classes_and_verdicts() {
        let wanted = kinds("rto,fast,out_of_order").unwrap();
        assert_eq!(wanted, (classes::OUT_OF_ORDER, verdict::RTO | verdict::FAST));
        assert!(kinds("rto,").is_err() && kinds("retransmitted_bytes").is_err());
    }

    #[test]
    fn flags_have_their_letters() {
        let event = Event { tcp_flags: 0x112, ..Event::default() };
        let view = EventView::new(&Numbered { number: 1, event }, None, &Naming::default());
        assert_eq!(view.flags, "SAN");
        assert_eq!((view.direction, view.segments), (None, 0));
    }
}
