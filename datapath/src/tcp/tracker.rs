//! Classifies one segment from a fixed state of its two directions, as Wireshark 4.0 does (`packet-tcp.c`).
//! Never keeps a list of segments.
//!
//! The rules stand in Wireshark's order; the words `own` and `peer` are the halves of the segment's sender and of
//! its receiver. Between the groups the classes found so far pass through map memory, so that the verifier can
//! merge the paths ([`forget`]).

use crate::{
    conntrack::ConntrackState,
    hint::{forget, store},
    layout::{
        ANSWERED, EMBRYONIC, FlowEntry, FlowHead, HANDSHAKE_MEASURED, Half, RESTARTED,
        SYN_REPEATED, SYN_SEEN, WINDOW_SCALE_NONE, WINDOW_UNKNOWN,
    },
    parse::{
        Headers,
        tcp::{ACK, FIN, RST, SYN},
    },
    rtt,
    tcp::{
        after, at_or_before, before,
        classes::{
            ACKED_UNSEEN, DUPLICATE_ACK, FAST_RETRANSMISSION, KEEP_ALIVE, KEEP_ALIVE_ACK,
            LOST_SEGMENT, OUT_OF_ORDER, RETRANSMISSION, REUSED_PORTS, SPURIOUS_RETRANSMISSION,
            WINDOW_FULL, WINDOW_UPDATE, ZERO_WINDOW, ZERO_WINDOW_PROBE, ZERO_WINDOW_PROBE_ACK,
        },
    },
    time::Ktime,
};

/// `Half::bits`: `base_sequence` is set (0 is a valid sequence number).
pub(crate) const BASE_KNOWN: u8 = 1 << 0;
/// `Half::bits`: this side has not yet acknowledged after its SYN, so its window is not yet scaled.
const FIRST_ACK_DUE: u8 = 1 << 1;

/// A retransmission within this time of the duplicate acknowledgments before it is a fast one.
pub(crate) const FAST_RETRANSMISSION_NS: i64 = 20_000_000;
/// Lateness up to which a segment counts as out of order where no handshake was seen.
pub(crate) const OUT_OF_ORDER_NS: i64 = 3_000_000;
/// `Half::duplicate_acks` after an acknowledgment of unseen data, so that a run of them is flagged once.
const UNSEEN_RUN: u16 = u16::MAX;

/// Classifies the segment in `headers`, adds its classes to those there, and updates both halves.
#[inline(always)]
pub fn track(
    head: &mut FlowHead,
    own: &mut Half,
    peer: &mut Half,
    headers: &mut Headers,
    now: Ktime,
) {
    headers.classes |= connection(head, own, peer, headers);
    if headers.analyzable == 0 {
        return;
    }
    bases(own, peer, headers);
    let headers = forget(headers);
    window_and_acknowledgment(own, peer, headers);
    let headers = forget(headers);
    unseen(own, peer, headers);
    let headers = forget(headers);
    sent_again(head, own, peer, headers, now);
    let headers = forget(headers);
    advance(own, headers, control(headers), now);
    let headers = forget(headers);
    handshake(head, own, peer, headers, now);
}

/// Sequence numbers that a SYN or a FIN takes.
#[inline(always)]
pub(crate) fn control(headers: &Headers) -> u32 {
    u32::from(headers.tcp_flags & (SYN | FIN) != 0)
}

/// Whether a SYN in `headers` opens a connection of its own on the tuple of another: that one has closed, and the SYN is
/// not a late copy of the one that it began with. What has not closed goes on, as in nf_conntrack: anybody can send a
/// SYN. An attempt that is made again is one attempt.
#[inline(always)]
pub fn opens_anew(entry: &mut FlowEntry, headers: &Headers) -> bool {
    let (head, own, _) = entry.split(headers.sender);
    let closed =
        head.state == ConntrackState::TimeWait as u8 || head.state == ConntrackState::Close as u8;
    let is_new = own.bits & BASE_KNOWN == 0
        || headers.sequence != own.base_sequence
        || head.bits & RESTARTED != 0;
    closed && is_new && head.bits & EMBRYONIC == 0
}

/// Whether the segment in `headers` acknowledges that `peer`, its receiver's half, has begun to send.
#[inline(always)]
pub fn has_answered(peer: &Half, headers: &Headers) -> bool {
    peer.bits & BASE_KNOWN != 0 && after(headers.acknowledgment, peer.base_sequence)
}

/// A SYN that repeats the one before or begins anew, or an answer that does not repeat the one before.
#[inline(always)]
pub(crate) fn connection(
    head: &mut FlowHead,
    own: &mut Half,
    peer: &mut Half,
    headers: &Headers,
) -> u32 {
    if own.bits & BASE_KNOWN == 0 || headers.tcp_flags & SYN == 0 {
        return 0;
    }
    let new_sequence = headers.sequence != own.base_sequence;
    if headers.tcp_flags & ACK == 0 {
        if new_sequence {
            begin_anew(head, own, peer);
            return REUSED_PORTS;
        }
        own.next_sequence = own.contiguous;
    } else if new_sequence {
        own.base_sequence = headers.sequence;
        return REUSED_PORTS;
    }
    0
}

/// Forgets the connection before.
#[inline(always)]
pub(crate) fn begin_anew(head: &mut FlowHead, own: &mut Half, peer: &mut Half) {
    restart(own);
    restart(peer);
    head.syn_ns = 0;
    head.handshake_rtt_ns = 0;
    head.bits &= !(HANDSHAKE_MEASURED | SYN_SEEN | SYN_REPEATED | ANSWERED);
    head.bits |= RESTARTED;
}

/// What an endpoint sent, but not what was counted.
#[inline(always)]
fn restart(half: &mut Half) {
    store(&mut half.next_sequence, 0);
    store(&mut half.contiguous, 0);
    store(&mut half.last_acknowledgment, 0);
    store(&mut half.window, WINDOW_UNKNOWN);
    store(&mut half.duplicate_acks, 0);
    store(&mut half.last_classes, 0);
    store(&mut half.window_scale, 0);
    store(&mut half.bits, 0);
    store(&mut half.next_sequence_ns, 0);
    store(&mut half.base_sequence, 0);
    store(&mut half.last_seen_ns, 0);
    rtt::restart(half);
}

/// Sequence numbers that the directions begin with.
#[inline(always)]
pub(crate) fn bases(own: &mut Half, peer: &mut Half, headers: &Headers) {
    if own.bits & BASE_KNOWN == 0 {
        let before_first = headers.sequence.wrapping_sub(1);
        own.base_sequence =
            if headers.tcp_flags & SYN != 0 { headers.sequence } else { before_first };
        own.bits |= BASE_KNOWN;
    }
    if peer.bits & BASE_KNOWN == 0 && headers.tcp_flags & ACK != 0 {
        peer.base_sequence = headers.acknowledgment.wrapping_sub(1);
        peer.bits |= BASE_KNOWN;
    }
}

/// Zero windows, probes, keep-alives, window updates and duplicate acknowledgments.
#[inline(always)]
pub(crate) fn window_and_acknowledgment(own: &mut Half, peer: &Half, headers: &mut Headers) {
    let length = headers.payload_len;
    let window = headers.window;
    let handshake_or_end = headers.tcp_flags & (SYN | FIN | RST) != 0;
    let mut classes = headers.classes;

    if length == 1 && headers.sequence == own.next_sequence && peer.window == 0 {
        headers.classes = classes | ZERO_WINDOW_PROBE;
        return;
    }
    if window == 0 && !handshake_or_end {
        classes |= ZERO_WINDOW;
    }
    if own.next_sequence != 0
        && after(headers.sequence, own.next_sequence)
        && headers.tcp_flags & RST == 0
    {
        classes |= LOST_SEGMENT;
    }
    if length <= 1 && headers.sequence == own.next_sequence.wrapping_sub(1) && !handshake_or_end {
        classes |= KEEP_ALIVE;
    }
    let repeats = length == 0
        && headers.sequence == own.next_sequence
        && headers.acknowledgment == own.last_acknowledgment
        && !handshake_or_end;
    if repeats && window != 0 && window != own.window {
        classes |= WINDOW_UPDATE;
    }
    if length > 0 && peer.window_scale != 0 && !handshake_or_end {
        let unscaled = peer.bits & FIRST_ACK_DUE != 0 || peer.window_scale == WINDOW_SCALE_NONE;
        let shift = if unscaled { 0 } else { u32::from(peer.window_scale - 1) & 15 };
        let edge = peer.last_acknowledgment.wrapping_add(peer.window << shift);
        if headers.sequence.wrapping_add(length) == edge {
            classes |= WINDOW_FULL;
        }
    }
    if repeats && window == own.window {
        let answered = u32::from(peer.last_classes);
        if window != 0 && answered & KEEP_ALIVE != 0 {
            classes |= KEEP_ALIVE_ACK;
        } else if window == 0 && answered & ZERO_WINDOW_PROBE != 0 {
            classes |= ZERO_WINDOW_PROBE_ACK;
        } else if window != 0 {
            let run = own.duplicate_acks.wrapping_add(1);
            // The run stays below the mark of UNSEEN_RUN, and above 0.
            own.duplicate_acks = if run == 0 || run == UNSEEN_RUN { 1 } else { run };
            classes |= DUPLICATE_ACK;
        }
    }
    headers.classes = classes;
}

/// Acknowledgments of data that did not pass here.
#[inline(always)]
pub(crate) fn unseen(own: &mut Half, peer: &mut Half, headers: &mut Headers) {
    if headers.acknowledgment != own.last_acknowledgment {
        own.duplicate_acks = 0;
    }
    let beyond = peer.contiguous != 0
        && after(headers.acknowledgment, peer.contiguous)
        && headers.tcp_flags & ACK != 0;
    if !beyond {
        return;
    }
    if before(peer.contiguous, peer.next_sequence) {
        peer.contiguous = peer.next_sequence;
        headers.classes |= ACKED_UNSEEN;
    } else {
        if peer.duplicate_acks == 0 {
            headers.classes |= ACKED_UNSEEN;
        }
        peer.duplicate_acks = UNSEEN_RUN;
    }
}

/// Segments below the highest one sent: spurious, fast, out of order, or plainly retransmitted.
#[inline(always)]
pub(crate) fn sent_again(
    head: &FlowHead,
    own: &Half,
    peer: &Half,
    headers: &mut Headers,
    now: Ktime,
) {
    let length = headers.payload_len;
    let control = control(headers);
    if length + control == 0 || headers.classes & KEEP_ALIVE != 0 {
        return;
    }
    let end = headers.sequence.wrapping_add(length);
    let overlaps_keep_alive = length > 1 && own.next_sequence.wrapping_sub(1) == headers.sequence;
    let old = own.next_sequence != 0
        && before(headers.sequence, own.next_sequence)
        && !overlaps_keep_alive;

    let acknowledged = peer.last_acknowledgment;
    if length > 0 && acknowledged != 0 && at_or_before(end, acknowledged) {
        headers.classes |= SPURIOUS_RETRANSMISSION;
        return;
    }
    if !old {
        return;
    }
    let since_acknowledgment = now.since(Ktime(peer.last_seen_ns)).cast_unsigned();
    if peer.duplicate_acks >= 2
        && acknowledged == headers.sequence
        && since_acknowledgment < FAST_RETRANSMISSION_NS.cast_unsigned()
    {
        headers.classes |= FAST_RETRANSMISSION;
        return;
    }
    let late_by = now.since(Ktime(own.next_sequence_ns)).cast_unsigned();
    let threshold = if head.handshake_rtt_ns != 0 {
        head.handshake_rtt_ns
    } else {
        OUT_OF_ORDER_NS.cast_unsigned()
    };
    let newest = own.next_sequence == end.wrapping_add(control);
    headers.classes |= if late_by < threshold && !newest { OUT_OF_ORDER } else { RETRANSMISSION };
}

/// What the sender's half remembers of this segment, which takes `control` sequence numbers beside its payload.
#[inline(always)]
pub(crate) fn advance(own: &mut Half, headers: &Headers, control: u32, now: Ktime) {
    let end = headers.sequence.wrapping_add(headers.payload_len).wrapping_add(control);
    if headers.classes & ZERO_WINDOW_PROBE == 0 {
        if own.next_sequence == 0 || after(end, own.next_sequence) {
            own.next_sequence = end;
            own.next_sequence_ns = now.0;
        }
        if own.contiguous == 0 || headers.sequence == own.contiguous {
            own.contiguous = own.next_sequence;
        }
    }
    own.window = headers.window;
    own.last_acknowledgment = headers.acknowledgment;
    own.last_classes = (headers.classes & 0xffff) as u16;
    own.flags_seen |= (headers.tcp_flags & 0xff) as u8;
}

/// Window scaling and the handshake's round trip.
#[inline(always)]
pub(crate) fn handshake(
    head: &mut FlowHead,
    own: &mut Half,
    peer: &mut Half,
    headers: &Headers,
    now: Ktime,
) {
    let flags = headers.tcp_flags;
    if headers.window_scale_plus_one != 0 {
        own.window_scale = (headers.window_scale_plus_one & 0xff) as u8;
    }
    if flags & SYN != 0 {
        if own.window_scale == 0 {
            own.window_scale = WINDOW_SCALE_NONE;
            peer.window_scale = WINDOW_SCALE_NONE;
        } else if flags & ACK != 0 && peer.window_scale == WINDOW_SCALE_NONE {
            own.window_scale = WINDOW_SCALE_NONE;
        }
        if flags & ACK == 0 {
            head.syn_ns = now.0;
            head.bits |= if head.bits & SYN_SEEN == 0 { SYN_SEEN } else { SYN_REPEATED };
        }
        own.bits |= FIRST_ACK_DUE;
    } else if flags & ACK != 0 {
        // A round trip of 0 ns is measured again, as Wireshark does: its clock was too coarse to tell.
        if head.bits & SYN_SEEN != 0 && head.handshake_rtt_ns == 0 {
            head.handshake_rtt_ns = now.since(Ktime(head.syn_ns)).cast_unsigned();
            head.bits |= HANDSHAKE_MEASURED;
        }
        own.bits &= !FIRST_ACK_DUE;
    }
}
