//! Packets that are missing, late or there twice: by whose doing, and where. Never blames the network for what the capture
//! missed, nor a sender for a copy of its frame.

use datapath::tcp::classes::{ACKED_UNSEEN, LOST_SEGMENT};

use super::{
    Code, Confidence, Facts, Finding, SideFacts,
    evidence::Tally,
    facts::Direction,
    filter::{self, LATE, SPURIOUS},
};

/// Segments that make it more than an accident.
const SEGMENTS_MIN: u64 = 3;
/// Share of all segments from which on it is worth a warning.
const WARNING_SHARE: f64 = 0.001;
/// Share from which on it is critical: TCP's rate falls with its square root.
const CRITICAL_SHARE: f64 = 0.01;
/// Holes and acknowledgments of what is in them, from which on nothing else explains them.
const HOLES_CERTAIN: u64 = 3;
/// Share of frames that are copies, from which on they are worth a word.
const COPIES_SHARE: f64 = 0.01;
/// Silence before a time-out that somebody notices.
const SILENCE_MIN_NS: u64 = 200_000_000;
/// Silence of all time-outs together that is worth a word.
const SILENCES_MIN_NS: u64 = 1_000_000_000;
/// Times that one packet passed, with fewer hops left each time, which only a loop does.
const LOOP_MIN: u32 = 3;

/// What was sent by this side was acknowledged, and not seen here.
pub(super) fn capture_loss(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    if !facts.is_tcp() {
        return None;
    }
    let holes = facts.side(direction).class(LOST_SEGMENT);
    let acknowledged = facts.side(direction.other()).class(ACKED_UNSEEN);
    if holes == 0 || acknowledged == 0 {
        return None;
    }
    let missed = facts.side(direction).wire.map(|wire| wire.holes.missed_bytes());
    let confidence = match missed {
        // It came later: the capture's order is not that of the packets.
        Some(0) => return None,
        Some(_) if holes.min(acknowledged) >= HOLES_CERTAIN => Confidence::Certain,
        Some(_) => Confidence::Likely,
        None => Confidence::Possible,
    };
    let what = filter::both(facts, "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment");
    let finding = Finding::new(Code::CaptureLoss, confidence, what)
        .with("segments_after_a_hole", holes)
        .with("acknowledgments_of_unseen", acknowledged)
        .with("segments", facts.side(direction).record.packets);
    Some(match missed {
        Some(bytes) => finding.with("missed_bytes", bytes),
        None => finding,
    })
}

/// Frames that were captured again.
pub(super) fn duplicate_frames(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let (wire, verdicts) = (side.wire?, side.verdicts()?);
    let copies = verdicts.duplicate_frames;
    let share = copies as f64 / side.record.packets.max(1) as f64;
    if copies < SEGMENTS_MIN || share < COPIES_SHARE {
        return None;
    }
    let (fewer_hops, most_falls) = wire.copies_hops;
    let kind = if most_falls >= LOOP_MIN {
        "routing_loop"
    } else if u64::from(fewer_hops) * 4 >= copies {
        "both_sides_of_a_router"
    } else {
        "captured_twice"
    };
    let ids: Vec<_> =
        wire.copies_ids.iter().filter(|id| **id != 0).map(|id| format!("{id:#x}")).collect();
    if ids.is_empty() {
        return None;
    }
    let what = format!("ip.id in {{{}}}", ids.join(", "));
    let finding = Finding::new(
        Code::DuplicateFrames,
        Confidence::Certain,
        filter::from(facts, direction, &what),
    );
    let finding = finding
        .between(wire.copies.span())
        .with("kind", kind)
        .with("duplicate_frames", copies)
        .with("with_fewer_hops_left", fewer_hops)
        .with("frames", side.record.packets);
    Some(finding)
}

/// Lost between sender and here.
pub(super) fn network_loss_upstream(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let verdicts = side.verdicts()?;
    let control = side.wire.map_or(0, |wire| wire.control_lost[0].saturating_add(wire.excused[0]));
    let tally = side.wire.map(|wire| wire.lost_upstream);
    let lost = verdicts.lost_upstream.saturating_sub(control.into());
    let what = (Code::NetworkLossUpstream, "lost_upstream_segments");
    lost_in_network(facts, direction, what, lost, tally)
}

/// Lost between here and the receiver.
pub(super) fn network_loss_downstream(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let verdicts = side.verdicts()?;
    // What was never acknowledged may be nobody's loss: the receiver has gone away, or cannot be heard.
    let excluded = side.wire.map_or(0, |wire| {
        let unknown = wire.control_lost[1].saturating_add(wire.lost_since_progress);
        unknown.saturating_add(wire.excused[1])
    });
    let tally = side.wire.map(|wire| wire.lost_downstream);
    let lost = verdicts.lost_downstream.saturating_sub(excluded.into());
    let what = (Code::NetworkLossDownstream, "lost_downstream_segments");
    lost_in_network(facts, direction, what, lost, tally)
}

fn lost_in_network(
    facts: &Facts<'_>,
    direction: Direction,
    (code, name): (Code, &'static str),
    lost: u64,
    tally: Option<Tally>,
) -> Option<Finding> {
    let side = facts.side(direction);
    let share = side.share(lost);
    let is_connection = facts.record.handshake_rtt_ns.is_some() && side.record.payload_bytes > 0;
    if tally.is_none() && !is_connection {
        return None;
    }
    if lost < SEGMENTS_MIN || share <= WARNING_SHARE {
        return None;
    }
    // Without a look at each packet, SYNs that nobody answered may be among them.
    let confidence = if tally.is_some() { Confidence::Likely } else { Confidence::Possible };
    let retransmitted = side.verdicts().map_or(0, |verdicts| verdicts.retransmitted_segments);
    let finding = Finding::new(code, confidence, filter::from(facts, direction, LATE))
        .between(tally.and_then(|tally| tally.span()))
        .with(name, lost)
        .with("retransmitted_segments", retransmitted)
        .with("segments", side.segments())
        .with("lost_percent", percent(share))
        .with("severity", if share > CRITICAL_SHARE { "critical" } else { "warning" });
    Some(finding)
}

/// The last segment of a burst was lost, and a timer had to send it again.
pub(super) fn tail_loss(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let wire = side.wire?;
    let tail = &wire.tail_timeouts;
    if tail.count == 0
        || wire.tail_silence_ns < SILENCE_MIN_NS
        || !has_recovered(side, facts, direction)
    {
        return None;
    }
    let what = format!("tcp.seq_raw == {} && tcp.len > 0", wire.tail_sequence);
    let filter = filter::from(facts, direction, &what);
    let finding = Finding::new(Code::TailLoss, Confidence::Likely, filter);
    let finding = finding
        .between(tail.span())
        .with("tail_timeouts", tail.count)
        .with("tail_loss_probes", wire.probes.count)
        .with("silence_ns", wire.tail_silence_ns);
    Some(finding)
}

/// Timers had to send again what was not the last.
pub(super) fn timeouts(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let wire = side.wire?;
    let others = u64::from(wire.timeouts.count.saturating_sub(wire.tail_timeouts.count));
    let silence_ns = wire.timeouts_silence_ns.saturating_sub(wire.tail_silence_ns);
    if others < SEGMENTS_MIN
        || silence_ns < SILENCES_MIN_NS
        || !has_recovered(side, facts, direction)
    {
        return None;
    }
    let finding = Finding::new(
        Code::RetransmissionTimeouts,
        Confidence::Likely,
        filter::from(facts, direction, LATE),
    );
    let finding = finding
        .between(wire.timeouts.span())
        .with("timeouts", others)
        .with("silence_ns", silence_ns)
        .with("segments", side.segments());
    Some(finding)
}

/// Whether the receiver acknowledged everything in the end: one that has gone away is another story.
fn has_recovered(side: SideFacts<'_>, facts: &Facts<'_>, direction: Direction) -> bool {
    let receiver = facts.side(direction.other()).wire;
    side.wire.zip(receiver).is_some_and(|(own, peer)| !own.is_waiting(peer))
}

/// Sent again without need.
pub(super) fn spurious(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let control = side.wire.map_or(0, |wire| wire.control_spurious);
    let count = side.verdicts()?.spurious.saturating_sub(control.into());
    let share = side.share(count);
    if count < SEGMENTS_MIN || share <= WARNING_SHARE {
        return None;
    }
    let in_class = side.wire.map_or(0, |wire| wire.spurious_in_class);
    let what = if count == u64::from(in_class) { SPURIOUS } else { LATE };
    let filter = filter::from(facts, direction, what);
    let finding = Finding::new(Code::SpuriousRetransmissions, Confidence::Likely, filter);
    let span =
        side.wire.and_then(|wire| wire.spurious.span().or_else(|| wire.retransmitted.span()));
    let finding = finding
        .between(span)
        .with("spurious_segments", count)
        .with("segments", side.segments())
        .with("spurious_percent", percent(share));
    Some(finding)
}

/// Overtaken before here.
pub(super) fn reordering(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let count = side.verdicts()?.reordered_segments;
    let share = side.share(count);
    if count < SEGMENTS_MIN || share <= WARNING_SHARE {
        return None;
    }
    let mut finding =
        Finding::new(Code::Reordering, Confidence::Likely, filter::from(facts, direction, LATE))
            .with("reordered_segments", count)
            .with("segments", side.segments())
            .with("reordered_percent", percent(share))
            .with("severity", if share > CRITICAL_SHARE { "critical" } else { "warning" });
    if let Some(wire) = side.wire {
        finding =
            finding.between(wire.reordered.span()).with("late_by_max_ns", wire.reordered_by_ns);
    }
    Some(finding)
}

/// A share in percent, to a hundredth.
pub(super) fn percent(share: f64) -> f64 {
    (share * 10_000.0).round() / 100.0
}
