//! Packets that are too large for the path. Never calls a path black that one packet of the size has passed.

use datapath::flow_key::KEY_IPV6;

use super::{Code, Confidence, Facts, Finding, evidence::LARGE_MIN, facts::Direction, filter};

/// Times that one segment was sent again in vain.
const AGAIN_MIN: u32 = 3;
/// Packets beyond the MTU that are no leftover.
const BEYOND_MIN: u32 = 3;
/// Bytes of IP and TCP headers that the MSS option does not count (RFC 6691).
const HEADERS: u32 = 40;
const HEADERS_V6: u32 = 60;

/// One large segment again and again, while the receiver is alive and smaller ones pass.
pub(super) fn pmtu_black_hole(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let peer = facts.side(direction.other()).wire?;
    let stuck = own.sizes.stuck?;
    let is_told = own.too_big.count > 0;
    let size_passed = own.sizes.largest_acknowledged >= stuck.payload_len;
    if stuck.again < AGAIN_MIN || !stuck.unfragmentable || size_passed || is_told {
        return None;
    }
    let end = stuck.sequence.wrapping_add(stuck.payload_len);
    let confidence = match (stuck.smaller_passed, stuck.receiver_alive) {
        (true, _) => Confidence::Certain,
        (false, _) if peer.has_acknowledged(end) => return None,
        (false, true) => Confidence::Likely,
        // It may just have gone away.
        (false, false) => return None,
    };
    let what = format!("tcp.seq_raw == {} && tcp.len >= {LARGE_MIN}", stuck.sequence);
    let finding =
        Finding::new(Code::PmtuBlackHole, confidence, filter::from(facts, direction, &what))
            .between(Some(stuck.span))
            .with("packet_bytes", stuck.packet_len)
            .with("sent_again", stuck.again)
            .with("largest_payload_acknowledged_bytes", own.sizes.largest_acknowledged)
            .with("smaller_passed", if stuck.smaller_passed { "yes" } else { "not seen" });
    Some(finding)
}

/// An MTU was told, and packets stay larger.
pub(super) fn too_big_ignored(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let mtu = own.mtu?;
    if own.beyond_mtu.count < BEYOND_MIN {
        return None;
    }
    let what = format!("tcp.len > {}", mtu.saturating_sub(HEADERS + 20));
    let filter = filter::from(facts, direction, &what);
    let finding = Finding::new(Code::TooBigIgnored, Confidence::Likely, filter)
        .between(own.beyond_mtu.span())
        .with("mtu_bytes", mtu)
        .with("icmp_errors", own.too_big.count)
        .with("larger_packets_after", own.beyond_mtu.count)
        .with("largest_packet_bytes", own.largest_packet);
    Some(finding)
}

/// An MTU was told that the agreed segments do not fit.
pub(super) fn segment_size_beyond_mtu(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let own = facts.side(direction).wire?;
    let peer = facts.side(direction.other()).wire?;
    let (mtu, segment_max) = (own.mtu?, u32::from(peer.offered?.segment_max?));
    let is_ipv6 = facts.record.key.flags & KEY_IPV6 != 0;
    let headers = if is_ipv6 { HEADERS_V6 } else { HEADERS };
    if segment_max + headers <= mtu {
        return None;
    }
    let what = if is_ipv6 { "icmpv6.type == 2" } else { "icmp.type == 3 && icmp.code == 4" };
    let finding =
        Finding::new(Code::SegmentSizeBeyondMtu, Confidence::Certain, filter::both(facts, what));
    let finding = finding
        .between(own.too_big.span())
        .with("mtu_bytes", mtu)
        .with("segment_size_max_bytes", segment_max)
        .with("icmp_errors", own.too_big.count);
    Some(finding)
}
