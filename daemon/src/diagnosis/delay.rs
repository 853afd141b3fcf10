//! Queues and ways: what round trips, marks and hops tell. Never takes a receiver's delayed acknowledgments for a queue:
//! only round trips with two large segments in flight count.

use super::{
    Code, Confidence, Facts, Finding, SideFacts, evidence::SideEvidence, facts::Direction, filter,
    loss::percent,
};
use crate::flow::LatencySummary;

/// Round trips under load that make a distribution.
const LOADED_MIN: u64 = 50;
/// Those of them that have to be slow.
const SLOW_MIN: u64 = 20;
/// Queueing that is not a short burst.
const QUEUE_MIN_NS: u64 = 30_000_000;
/// Data in flight while slow, against while quick, from which on the flow's own data makes the queue.
const SELF_MADE: f64 = 1.3;
/// Rate while slow against while quick, or the other way round, up to which it is flat.
const FLAT: f64 = 1.5;
/// Packets that are marked, and their share.
const MARKS_MIN: u32 = 3;
const MARKS_WARNING: f64 = 0.001;
const MARKS_CRITICAL: f64 = 0.01;
/// Segments that would bear marks.
const CAPABLE_MIN: u32 = 20;
/// Packets and round trips of each of two paths.
const PATH_PACKETS_MIN: u32 = 8;
const PATH_ROUND_TRIPS_MIN: u32 = 5;
/// Step in the least round trip between them: this, and a quarter.
const PATH_STEP_NS: u64 = 2_000_000;
/// Round trips of each side against which a handshake is held.
const HANDSHAKE_SAMPLES_MIN: u32 = 8;
/// Those under load, of one side.
const HANDSHAKE_LOADED_MIN: u64 = 20;
/// Differences that no jitter makes.
const HANDSHAKE_SLOWER_NS: u64 = 50_000_000;
const HANDSHAKE_QUICKER_NS: u64 = 20_000_000;

/// Round trips grow with the data in flight, and the rate does not.
pub(super) fn bufferbloat(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let least_ns = side.round_trips(1)?.min_ns;
    let loaded = side.wire?.loaded.as_deref()?;
    let summary = LatencySummary::of(&loaded.round_trips);
    let queue_ns = summary.p95_ns.saturating_sub(least_ns);
    let is_deep = queue_ns > QUEUE_MIN_NS.max(least_ns.saturating_mul(2));
    if summary.samples < LOADED_MIN || loaded.slow.samples < SLOW_MIN || !is_deep {
        return None;
    }
    let (quick, slow) = (&loaded.quick, &loaded.slow);
    // Little's law: what is in flight is rate times round trip.
    let is_self_made = slow.in_flight() >= SELF_MADE * quick.in_flight();
    let is_flat = slow.rate() <= FLAT * quick.rate() && quick.rate() <= FLAT * slow.rate();
    if quick.samples == 0 || !is_self_made || !is_flat {
        return None;
    }
    let what = format!("tcp.analysis.ack_rtt > {:.6}", least_ns as f64 * 2.0 / 1e9);
    let filter = filter::from(facts, direction.other(), &what);
    let finding = Finding::new(Code::Bufferbloat, Confidence::Likely, filter)
        .between(loaded.slow_tally.span())
        .with("round_trip_min_ns", least_ns)
        .with("round_trip_p95_ns", summary.p95_ns)
        .with("round_trips", summary.samples)
        .with("in_flight_while_quick_bytes", quick.in_flight().round())
        .with("in_flight_while_slow_bytes", slow.in_flight().round());
    Some(finding)
}

/// Packets of this side met a queue that marks.
pub(super) fn congestion_marks(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let (own, peer) = (side.wire?, facts.side(direction.other()).wire?);
    let share = f64::from(own.congested.count) / f64::from(own.packets.max(1));
    if own.congested.count >= MARKS_MIN && share > MARKS_WARNING {
        let what = format!("{} == 3", filter::ecn_field(facts));
        let filter = filter::from(facts, direction, &what);
        let finding = Finding::new(Code::CongestionMarks, Confidence::Certain, filter)
            .between(own.congested.span())
            .with("place", "before here")
            .with("marked_packets", own.congested.count)
            .with("packets", own.packets)
            .with("marked_percent", percent(share))
            .with("echoes", peer.echoes.count)
            .with("severity", if share > MARKS_CRITICAL { "critical" } else { "warning" });
        return Some(finding);
    }
    if own.congested.count > 0 || peer.echoes.count < MARKS_MIN || !agreed_on_ecn(facts) {
        return None;
    }
    let filter = filter::from(facts, direction.other(), "tcp.flags.ece == 1 && tcp.flags.syn == 0");
    let finding = Finding::new(Code::CongestionMarks, Confidence::Likely, filter)
        .between(peer.echoes.span())
        .with("place", "behind here")
        .with("echoes", peer.echoes.count)
        .with("packets", own.packets);
    Some(finding)
}

/// Agreed on, and not in the packets.
pub(super) fn ecn_bleached(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let [not_capable, capable @ ..] = own.data_by_ecn;
    if !agreed_on_ecn(facts) || not_capable < CAPABLE_MIN || capable.iter().any(|count| *count > 0)
    {
        return None;
    }
    let what = format!("tcp.len > 0 && {} == 0", filter::ecn_field(facts));
    let filter = filter::from(facts, direction, &what);
    let finding = Finding::new(Code::EcnBleached, Confidence::Likely, filter)
        .between(own.data.span())
        .with("data_segments_not_capable", not_capable);
    Some(finding)
}

/// Whether the handshake, as it passed here, agreed on ECN, once.
fn agreed_on_ecn(facts: &Facts<'_>) -> bool {
    facts.is_one_connection() == Some(true)
        && facts.sides().iter().all(|side| {
            side.wire.is_some_and(|wire| {
                wire.syn_packets == 1 && wire.offered.is_some_and(|offered| offered.ecn)
            })
        })
}

/// Another number of hops, and another least round trip.
pub(super) fn path_change(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let (before, since) = (own.hops_before?, own.hops);
    let (old_ns, new_ns) = (before.round_trip_ns?, since.round_trip_ns?);
    let step_ns = old_ns.abs_diff(new_ns);
    let is_settled = [before, since]
        .iter()
        .all(|hops| hops.packets >= PATH_PACKETS_MIN && hops.round_trips >= PATH_ROUND_TRIPS_MIN);
    if !is_settled || step_ns < PATH_STEP_NS.max(old_ns.min(new_ns) / 4) {
        return None;
    }
    let what = format!("{} == {}", filter::hops_field(facts), since.value);
    let filter = filter::from(facts, direction, &what);
    let finding = Finding::new(Code::PathChange, Confidence::Likely, filter)
        .between(Some((since.since_ns, facts.record.last_seen_ns.max(since.since_ns))))
        .with("hops_left_before", u64::from(before.value))
        .with("hops_left_since", u64::from(since.value))
        .with("round_trip_min_before_ns", old_ns)
        .with("round_trip_min_since_ns", new_ns);
    Some(finding)
}

/// The handshake took another time than data does.
pub(super) fn handshake_differs(facts: &Facts<'_>) -> Option<Finding> {
    let handshake_ns = facts.record.handshake_rtt_ns?;
    let [originator, responder] = facts.sides();
    let is_plain = facts.is_one_connection() == Some(true) && originator.wire?.syn_packets == 1;
    if !is_plain {
        return None;
    }
    let finding = slower_handshake(facts, handshake_ns)
        .or_else(|| quicker_handshake(originator.wire?, handshake_ns))
        .or_else(|| quicker_handshake(responder.wire?, handshake_ns))?;
    let filter = filter::both(facts, "tcp.flags.syn == 1");
    Some(Finding { filter, ..finding }.with("handshake_ns", handshake_ns))
}

/// Than the round trips of both sides together.
fn slower_handshake(facts: &Facts<'_>, handshake_ns: u64) -> Option<Finding> {
    let is_measured = |wire: &SideEvidence| wire.data_round_trips >= HANDSHAKE_SAMPLES_MIN;
    let [a, b] = facts.sides();
    if !is_measured(a.wire?) || !is_measured(b.wire?) {
        return None;
    }
    let median_ns = |side: SideFacts<'_>| Some(side.round_trips(1)?.quantiles_ns[0]);
    let both_ns = median_ns(a)?.saturating_add(median_ns(b)?);
    let least_ns = both_ns.saturating_mul(3).saturating_add(HANDSHAKE_SLOWER_NS);
    let finding = Finding::new(Code::HandshakeRttDiffers, Confidence::Possible, "")
        .with("handshake_is", "slower")
        .with("round_trips_p50_ns", both_ns);
    (handshake_ns > least_ns).then_some(finding)
}

/// Than the round trips of one side's data, which is less than the whole way. Only of those that no receiver delays, as two
/// large segments were in flight.
fn quicker_handshake(wire: &SideEvidence, handshake_ns: u64) -> Option<Finding> {
    let loaded = LatencySummary::of(&wire.loaded.as_deref()?.round_trips);
    let bound_ns = handshake_ns.saturating_mul(3).saturating_add(HANDSHAKE_QUICKER_NS);
    if loaded.samples < HANDSHAKE_LOADED_MIN || loaded.min_ns <= bound_ns {
        return None;
    }
    let finding = Finding::new(Code::HandshakeRttDiffers, Confidence::Possible, "")
        .with("handshake_is", "quicker")
        .with("round_trips_min_ns", loaded.min_ns);
    Some(finding)
}
