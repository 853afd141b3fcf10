//! The rules of Wireshark 4.4 that are not those of 4.0: they look into the list of segments that were not acknowledged,
//! and at selective acknowledgments. On the host alone: the kernel has room for neither.

use crate::{
    layout::{FlowHead, Half},
    parse::{
        Headers,
        tcp::{ACK, FIN, RST, SYN},
    },
    tcp::{
        after, at_or_before, before,
        classes::{
            ACKED_UNSEEN, DUPLICATE_ACK, FAST_RETRANSMISSION, KEEP_ALIVE, OUT_OF_ORDER,
            RETRANSMISSION, REUSED_PORTS, SPURIOUS_RETRANSMISSION, WINDOW_UPDATE,
            ZERO_WINDOW_PROBE, ZERO_WINDOW_PROBE_ACK,
        },
        tracker::{self, BASE_KNOWN, FAST_RETRANSMISSION_NS, OUT_OF_ORDER_NS},
    },
    time::Ktime,
};

use super::{
    stream::{Sent, Side},
    walk::Options,
};

/// Blocks of a selective acknowledgment that are looked at.
const BLOCKS_MAX: usize = 4;

/// Whether a SYN or the answer to one begins anew: with another sequence number than the stream began with, or after the
/// stream `has_ended`.
pub(super) fn connection(
    head: &mut FlowHead,
    own: &mut Half,
    peer: &mut Half,
    has_ended: bool,
    headers: &Headers,
) -> u32 {
    if own.bits & BASE_KNOWN == 0 || headers.tcp_flags & SYN == 0 {
        return 0;
    }
    if has_ended || headers.sequence != own.base_sequence {
        tracker::begin_anew(head, own, peer);
        return REUSED_PORTS;
    }
    if headers.tcp_flags & ACK == 0 {
        own.next_sequence = own.contiguous;
    }
    0
}

/// Whether the stream ends with the segment, as far as Wireshark tells.
pub(super) const fn ends(headers: &Headers) -> bool {
    headers.tcp_flags & RST != 0 || headers.tcp_flags & (FIN | ACK) == FIN | ACK
}

/// The classes of a segment, from the state before it.
pub(super) fn analyze(
    head: &FlowHead,
    (own, side): (&mut Half, &Side),
    (peer, other): (&mut Half, &Side),
    headers: &mut Headers,
    now: Ktime,
) {
    tracker::window_and_acknowledgment(own, peer, headers);
    if headers.classes & ZERO_WINDOW_PROBE == 0 {
        probe_taken(own, peer, headers);
    }
    if headers.acknowledgment != own.last_acknowledgment {
        own.duplicate_acks = 0;
    }
    unseen(own, peer, other, headers);
    sent_again(head, (own, side), (peer, other), headers, now);
}

/// Notes the blocks of a selective acknowledgment. What would be a window update is a duplicate acknowledgment with them.
pub(super) fn selective(
    own: &mut Half,
    peer: &Half,
    side: &mut Side,
    options: Options<'_>,
    headers: &mut Headers,
) {
    side.selective.clear();
    let base = peer.base_sequence;
    let blocks = options.selective_acknowledgment().take(BLOCKS_MAX);
    side.selective
        .extend(blocks.map(|(left, right)| (left.wrapping_sub(base), right.wrapping_sub(base))));
    if headers.classes & WINDOW_UPDATE != 0 && !side.selective.is_empty() {
        headers.classes ^= WINDOW_UPDATE | DUPLICATE_ACK;
        own.duplicate_acks = own.duplicate_acks.saturating_add(1);
    }
}

/// A zero window probe's byte was taken after all: the answer acknowledges it.
fn probe_taken(own: &Half, peer: &mut Half, headers: &mut Headers) {
    let repeats = headers.payload_len == 0
        && headers.window == 0
        && own.window == 0
        && headers.sequence == own.next_sequence
        && headers.tcp_flags & (SYN | FIN | RST) == 0;
    if repeats && answers_probe(own, peer, headers) {
        headers.classes |= ZERO_WINDOW_PROBE_ACK;
        peer.next_sequence = headers.acknowledgment;
        peer.contiguous = headers.acknowledgment;
    }
}

/// Whether one byte more is acknowledged than before, and that of a zero window probe.
fn answers_probe(own: &Half, peer: &Half, headers: &Headers) -> bool {
    headers.acknowledgment == own.last_acknowledgment.wrapping_add(1)
        && u32::from(peer.last_classes) & ZERO_WINDOW_PROBE != 0
}

/// Acknowledgments of data that did not pass here, or of a probe's byte by which the window opens.
fn unseen(own: &Half, peer: &mut Half, other: &Side, headers: &mut Headers) {
    let beyond = peer.contiguous != 0
        && after(headers.acknowledgment, peer.contiguous)
        && headers.tcp_flags & ACK != 0;
    if !beyond {
        return;
    }
    if headers.sequence == own.next_sequence && answers_probe(own, peer, headers) {
        peer.next_sequence = headers.acknowledgment;
        peer.contiguous = headers.acknowledgment;
        headers.classes |= WINDOW_UPDATE;
        return;
    }
    peer.contiguous = tail(&other.unacknowledged, headers.acknowledgment);
    headers.classes |= ACKED_UNSEEN;
}

/// End of what was seen without a hole from `acknowledgment` on, as far as the newest segments tell.
fn tail(unacknowledged: &[Sent], acknowledgment: u32) -> u32 {
    let (mut left, mut right) = (0, 0);
    for sent in unacknowledged.iter().rev() {
        if left == right {
            (left, right) = (sent.start, sent.end);
        }
        if !before(sent.start, acknowledgment) {
            if sent.end != left {
                right = sent.end;
            }
            left = sent.start;
        }
    }
    if left == acknowledgment && after(right, acknowledgment) { right } else { acknowledgment }
}

/// Segments below the highest one sent: spurious, fast, out of order, or plainly retransmitted.
fn sent_again(
    head: &FlowHead,
    (own, side): (&Half, &Side),
    (peer, other): (&Half, &Side),
    headers: &mut Headers,
    now: Ktime,
) {
    let (start, length) = (headers.sequence, headers.payload_len);
    let control = tracker::control(headers);
    if length + control == 0 || headers.classes & KEEP_ALIVE != 0 {
        return;
    }
    let end = start.wrapping_add(length);
    let acknowledged = peer.last_acknowledgment;
    if length > 0 && acknowledged != 0 && at_or_before(end, acknowledged) {
        headers.classes |= SPURIOUS_RETRANSMISSION;
        return;
    }
    let overlaps_keep_alive = length > 1 && own.next_sequence.wrapping_sub(1) == start;
    let is_old = own.next_sequence != 0 && before(start, own.next_sequence) && !overlaps_keep_alive;
    if !is_old {
        return;
    }
    // Time that goes backwards stands still.
    let since_acknowledgment = now.since(Ktime(peer.last_seen_ns)).max(0);
    if peer.duplicate_acks >= 2 && since_acknowledgment < FAST_RETRANSMISSION_NS {
        // Wireshark compares with blocks that are relative, so nearly none of them holds the segment.
        let is_held = other.selective.iter().any(|(left, right)| start >= *left && end <= *right);
        if acknowledged == start || (!other.selective.is_empty() && !is_held) {
            headers.classes |= FAST_RETRANSMISSION;
            return;
        }
    }
    let late_by = now.since(Ktime(own.next_sequence_ns)).max(0).cast_unsigned();
    let threshold = match head.handshake_rtt_ns {
        0 => OUT_OF_ORDER_NS.cast_unsigned(),
        measured => measured,
    };
    let within = |sent: &Sent| !before(start, sent.start) && at_or_before(end, sent.end);
    let was_seen = side.unacknowledged.iter().any(within);
    let is_newest = own.next_sequence == end.wrapping_add(control);
    let is_late = late_by < threshold && !was_seen && (!is_newest || side.newest_len == 0);
    headers.classes |= if is_late { OUT_OF_ORDER } else { RETRANSMISSION };
}
