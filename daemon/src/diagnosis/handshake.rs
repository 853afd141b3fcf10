//! Connections that do not come about, and what their handshakes tell of the way. Never calls an attempt unanswered that may
//! have been answered out of sight.

use datapath::ConntrackState;

use super::{Code, Confidence, Facts, Finding, facts::Direction, filter};
use Direction::{FromOriginator, FromResponder};

/// SYNs in vain that are more than one that was lost.
const SYNS_MIN: u64 = 2;
/// Least time between the first and the last of them: a stack's first timer, less what its clock may be off.
const SYNS_SPAN_NS: u64 = 900_000_000;
/// Packets of one side that cannot all have been sent without an answer, and their payload.
const ONE_SIDED_PACKETS: u64 = 10;
const ONE_SIDED_BYTES: u64 = 65_536;
/// Acknowledgments of what did not pass here.
const ONE_SIDED_ADVANCES: u32 = 3;
/// Segments that show how a side uses options.
const OPTION_SEGMENTS_MIN: u32 = 10;
/// Selective acknowledgments that are no accident.
const SELECTIVE_MIN: u32 = 3;
const UNREACHABLE: u8 = 3;
const UNREACHABLE_V6: u8 = 1;
const FRAGMENTATION_NEEDED: u8 = 4;

/// Data or acknowledgments of one side only.
pub(super) fn one_sided(facts: &Facts<'_>) -> Option<Finding> {
    if !facts.is_tcp() {
        return None;
    }
    let present = Direction::BOTH
        .into_iter()
        .find(|direction| facts.side(direction.other()).record.packets == 0)?;
    let side = facts.side(present);
    if side.record.packets < ONE_SIDED_PACKETS {
        return None;
    }
    let confidence = match side.wire {
        Some(wire) if wire.advances >= ONE_SIDED_ADVANCES => Confidence::Certain,
        // More than a first window, of which nothing was sent again.
        _ if side.record.payload_bytes >= ONE_SIDED_BYTES
            && crate::flow::query::sent_again(&side.record.classes) == 0 =>
        {
            Confidence::Likely
        }
        Some(_) | None => return None,
    };
    let finding = Finding::new(Code::OneSidedCapture, confidence, filter::from(facts, present, ""))
        .with("missing", present.other().sender())
        .with("packets", side.record.packets)
        .with("payload_bytes", side.record.payload_bytes);
    Some(match side.wire {
        Some(wire) => finding.with("acknowledgments_of_unseen", wire.advances),
        None => finding,
    })
}

/// The SYN again and again, and nothing else.
pub(super) fn syn_unanswered(facts: &Facts<'_>) -> Option<Finding> {
    if facts.record.icmp_errors.0 > 0 {
        return None;
    }
    let (syns, span) = only_syns(facts)?;
    if syns < SYNS_MIN || span.1.saturating_sub(span.0) < SYNS_SPAN_NS {
        return None;
    }
    let filter = filter::from(facts, FromOriginator, "tcp.flags.syn == 1");
    let finding = Finding::new(Code::SynUnanswered, Confidence::Likely, filter)
        .between(Some(span))
        .with("syns", syns)
        .with("waited_ns", span.1.saturating_sub(span.0));
    Some(finding)
}

/// The SYN more than once, and an answer in the end.
pub(super) fn syn_retransmitted(facts: &Facts<'_>) -> Option<Finding> {
    let [originator, responder] = facts.sides();
    let (own, peer) = (originator.wire?, responder.wire?);
    let (first_ns, last_ns) = own.syns.span()?;
    let (answer_ns, _) = peer.syn_acks.span()?;
    let delay_ns = last_ns.saturating_sub(first_ns);
    let syns = u64::from(own.syns.count);
    if facts.is_one_connection() != Some(true) || syns < SYNS_MIN || delay_ns < SYNS_SPAN_NS {
        return None;
    }
    let kind = if answer_ns < last_ns { "after_an_answer" } else { "before_any_answer" };
    let filter = filter::both(facts, "tcp.flags.syn == 1");
    let finding = Finding::new(Code::SynRetransmitted, Confidence::Likely, filter)
        .between(Some((first_ns, last_ns.max(answer_ns))))
        .with("kind", kind)
        .with("syns", syns)
        .with("delay_ns", delay_ns);
    Some(finding)
}

/// How many SYNs the originator sent, where nothing else passed, and the first and the last of them.
fn only_syns(facts: &Facts<'_>) -> Option<(u64, (u64, u64))> {
    let [originator, responder] = facts.sides();
    if !facts.is_tcp() || responder.record.packets > 0 {
        return None;
    }
    match originator.wire {
        Some(wire) => {
            let syns = wire.syns.count;
            (syns > 0 && wire.packets == wire.syn_packets)
                .then_some((syns.into(), wire.syns.span()?))
        }
        None => {
            let record = facts.record;
            let is_attempt = record.state == ConntrackState::SynSent && record.embryonic;
            let span = (record.first_seen_ns, record.last_seen_ns);
            is_attempt.then_some((originator.record.packets, span))
        }
    }
}

/// An ICMP error answered the SYN.
pub(super) fn syn_rejected(facts: &Facts<'_>) -> Option<Finding> {
    let (syns, span) = only_syns(facts)?;
    let (errors, [kind, code]) = facts.record.icmp_errors;
    let is_ipv6 = facts.record.key.flags & datapath::flow_key::KEY_IPV6 != 0;
    let is_unreachable = if is_ipv6 {
        kind == UNREACHABLE_V6
    } else {
        kind == UNREACHABLE && code != FRAGMENTATION_NEEDED
    };
    if errors == 0 || !is_unreachable {
        return None;
    }
    let what = if is_ipv6 { "icmpv6.type == 1" } else { "icmp.type == 3" };
    let finding = Finding::new(Code::SynRejected, Confidence::Certain, filter::both(facts, what))
        .between(Some(span))
        .with("syns", syns)
        .with("icmp_errors", errors)
        .with("icmp_type", u64::from(kind))
        .with("icmp_code", u64::from(code))
        .with("meaning", meaning(is_ipv6, code));
    Some(finding)
}

/// Codes of "destination unreachable" (RFC 792, RFC 1812, RFC 4443).
const fn meaning(is_ipv6: bool, code: u8) -> &'static str {
    match (is_ipv6, code) {
        (false, 9 | 10 | 13) | (true, 1 | 5 | 6) => "administratively prohibited",
        (false, 0) | (true, 0) => "no route to the network",
        (false, 1) | (true, 3) => "host unreachable",
        (false, 2) => "protocol unreachable",
        (false, 3) | (true, 4) => "port unreachable",
        _ => "unreachable",
    }
}

/// A reset answered the SYN.
pub(super) fn connection_refused(facts: &Facts<'_>) -> Option<Finding> {
    let (direction, reset) = facts.reset()?;
    let [originator, _] = facts.sides();
    let wire = originator.wire?;
    let is_attempt = originator.record.payload_bytes == 0 && wire.packets == wire.syn_packets;
    if direction != FromResponder || !reset.answers_syn || !is_attempt {
        return None;
    }
    let (syn_ns, _) = wire.syns.span()?;
    let filter = filter::from(facts, FromResponder, "tcp.flags.reset == 1");
    let finding = Finding::new(Code::ConnectionRefused, Confidence::Certain, filter)
        .between(Some((syn_ns, reset.last_ns.max(syn_ns))))
        .with("syns", wire.syns.count)
        .with("resets", reset.count)
        .with("reset_after_ns", reset.at_ns.saturating_sub(syn_ns));
    Some(finding)
}

/// More answers than SYNs.
pub(super) fn syn_ack_retransmitted(facts: &Facts<'_>) -> Option<Finding> {
    let [originator, responder] = facts.sides();
    let (own, peer) = (responder.wire?, originator.wire?);
    let (answers, syns) = (own.syn_acks.count, peer.syns.count);
    if facts.is_one_connection() != Some(true) || syns != 1 || answers < 2 {
        return None;
    }
    let (first_ns, last_ns) = own.syn_acks.span()?;
    let kind = match peer.first_ack_ns {
        Some(ack_ns) if ack_ns < last_ns => "after_the_ack_passed",
        Some(_) | None => "without_an_ack",
    };
    let filter = filter::from(facts, FromResponder, "tcp.flags.syn == 1");
    let finding = Finding::new(Code::SynAckRetransmitted, Confidence::Likely, filter)
        .between(Some((first_ns, last_ns)))
        .with("kind", kind)
        .with("syns", syns)
        .with("syn_acks", answers);
    Some(finding)
}

/// What a side sends contradicts what it and the other one said of their options here.
pub(super) fn options_stripped(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let peer = facts.side(direction.other()).wire?;
    let (offered, other) = (own.offered?, peer.offered?);
    if facts.is_one_connection() != Some(true) || own.syn_packets > 1 {
        return None;
    }
    let agreed = offered.timestamps && other.timestamps;
    let (option, segments, what) =
        if agreed && own.data.count >= OPTION_SEGMENTS_MIN && own.data_with_timestamps == 0 {
            // RFC 7323, 3.2: once agreed upon, every segment has it.
            ("timestamps", own.data.count, "tcp.len > 0 && !tcp.options.timestamp")
        } else if !other.selective && own.selective.count >= SELECTIVE_MIN {
            ("selective_acknowledgments", own.selective.count, "tcp.options.sack_le")
        } else {
            return None;
        };
    let filter = filter::from(facts, direction, what);
    let finding = Finding::new(Code::OptionsStripped, Confidence::Likely, filter)
        .between(if option == "timestamps" { own.data.span() } else { own.selective.span() })
        .with("option", option)
        .with("segments", segments);
    Some(finding)
}
