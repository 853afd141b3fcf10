//! Connections that end otherwise than by a FIN: forgotten by something on the way, or reset by it. Never says anything of a
//! reset that its sender may well have sent.

use super::{Code, Confidence, Facts, Finding, evidence::IDLE_MIN_NS, facts::Direction, filter};

/// A reset after a silence has to come as quickly as this.
const RESET_WITHIN_NS: u64 = 5_000_000_000;
/// Segments sent again in vain after a silence.
const IN_VAIN_MIN: u32 = 3;
/// Packets that show how many hops a sender's packets have left.
const HOPS_PACKETS_MIN: u32 = 3;
/// Difference in hops that no stack makes by itself between a connection's packets and its reset, and routes seldom do.
const HOPS_DIFFERENCE_MIN: u8 = 3;

/// Who breaks a long silence is reset, or not heard any more.
pub(super) fn idle_timeout(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let (sender, idle) = facts.idle()?;
    if sender != direction || idle.silence_ns < IDLE_MIN_NS || idle.after_fin || idle.answered > 0 {
        return None;
    }
    let (outcome, confidence, end_ns) = match idle.reset {
        Some((reset_ns, after_ns)) if after_ns <= RESET_WITHIN_NS => {
            ("reset", Confidence::Likely, reset_ns)
        }
        // The other one may have gone away as well.
        None if idle.sent.1 >= IN_VAIN_MIN => ("no answer", Confidence::Possible, idle.last_ns),
        Some(_) | None => return None,
    };
    let what = match outcome {
        "reset" => filter::both(facts, "tcp.flags.reset == 1"),
        _ => {
            filter::from(facts, direction, "tcp.analysis.retransmission || tcp.analysis.keep_alive")
        }
    };
    let finding = Finding::new(Code::IdleTimeout, confidence, what)
        .between(Some((idle.at_ns, end_ns.max(idle.at_ns))))
        .with("outcome", outcome)
        .with("silence_ns", idle.silence_ns)
        .with("segments_after", idle.sent.0)
        .with("retransmitted_segments", idle.sent.1);
    Some(finding)
}

/// A reset from another distance than its sender's packets.
pub(super) fn forged_reset(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let (sender, reset) = facts.reset()?;
    let (usual, packets) = reset.usual_hops;
    if sender != direction || reset.answers_syn || packets < HOPS_PACKETS_MIN {
        return None;
    }
    let difference = usual.abs_diff(reset.hops);
    if difference < HOPS_DIFFERENCE_MIN {
        return None;
    }
    let confidence = if reset.data_after > 0 { Confidence::Likely } else { Confidence::Possible };
    let what = format!("tcp.flags.reset == 1 && {} == {}", filter::hops_field(facts), reset.hops);
    let finding =
        Finding::new(Code::ForgedReset, confidence, filter::from(facts, direction, &what))
            .between(Some((reset.at_ns, reset.last_ns.max(reset.at_ns))))
            .with("hops_left", u64::from(reset.hops))
            .with("usual_hops_left", u64::from(usual))
            .with("identification", u64::from(reset.id))
            .with("data_segments_after", reset.data_after);
    Some(match reset.usual_id {
        Some(id) => finding.with("last_identification", u64::from(id)),
        None => finding,
    })
}
