//! The one function that every door calls, in the kernel and offline. Counts; never decides about the packet.

use crate::{
    atomic::{add, try_lock, unlock},
    bytes::PacketBytes,
    conntrack::{
        ConntrackState, sctp,
        tcp::{after_segment, originates},
    },
    frame::{Frame, NO_VLAN},
    hint::{forget, opaque},
    layout::{FlowEntry, FlowHead, HookCounters, SYN_SEEN, WAS_CONTENDED},
    outcome::{OUTCOMES, Outcome},
    parse::{self, FRAGMENT_PORTS, Headers, NOTHING, QUOTED_PACKET, fragment},
    rtt::{self, RttTicks},
    tables::Tables,
    tcp,
};

const TCP: u8 = 6;
/// Bytes of a VLAN tag, which a hook may keep outside of the frame's bytes.
const TAG_LEN: u32 = 4;

/// Steps of one frame after the first: packets inside of packets, and fragments among them.
pub const STEPS_MAX: u32 = 5;

/// Takes one frame through the datapath and counts it exactly once.
///
/// `headers` is scratch space: its contents before do not matter, after the call they describe the frame, with the
/// outcome that was counted. `counters` are those of the hook that the frame came through; in the kernel, of this CPU.
#[inline(always)]
pub fn process<P: PacketBytes, T: Tables>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    counters.seen += 1;
    let parsed = parse::parse(packet, frame, headers);
    let headers = forget(headers);
    match parsed {
        _ if P::FETCHES && is_cut(parsed, headers) => parse::restart(frame, headers),
        Ok(()) => {
            let size = size(frame, headers);
            counters.packets += size.packets;
            counters.bytes += size.bytes;
            book(frame, headers, &size, counters, tables);
        }
        Err(outcome) => headers.outcome = outcome as u32,
    }
    let headers = forget(headers);
    if headers.pending != NOTHING {
        packet.rest(frame, headers, counters, tables);
    }
    count(counters, forget(headers));
}

/// Whether headers were out of reach.
#[inline(always)]
fn is_cut(parsed: Result<(), Outcome>, headers: &Headers) -> bool {
    match parsed {
        Ok(()) => headers.outcome == Outcome::Truncated as u32,
        Err(outcome) => outcome as u32 == Outcome::Truncated as u32,
    }
}

/// Does what is left to do with the frame: headers that few have, and the packets inside of this one, from the outside
/// in. Each is booked on a flow of its own; the frame is counted by its outermost packet, or by the first one that
/// could not be read.
#[inline(always)]
pub fn rest<P: PacketBytes + ?Sized, T: Tables>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    let mut steps = 0;
    while headers.pending != NOTHING {
        if steps == STEPS_MAX {
            headers.outcome = Outcome::TooDeep as u32;
            return;
        }
        step(packet, frame, headers, counters, tables);
        steps += 1;
    }
}

/// One step of [`rest`]. Leaves `pending` at [`NOTHING`] where it was the last one.
#[inline(always)]
pub fn step<P: PacketBytes + ?Sized, T: Tables>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    let before = headers.outcome;
    if headers.pending == FRAGMENT_PORTS {
        headers.pending = NOTHING;
        if !tables.find_first(headers, frame.now) {
            return;
        }
        headers.outcome = Outcome::Tracked as u32;
    } else {
        let resumed = parse::resume(&packet, frame, headers);
        let headers = forget(headers);
        if headers.tunnel == QUOTED_PACKET {
            headers.outcome = before;
            headers.pending = NOTHING;
            if resumed.is_ok() {
                note(headers, tables);
            }
            return;
        }
        match resumed {
            Ok(()) => {}
            // What carries no packet that linnet reads is whole by itself.
            Err(Outcome::NotIp) if headers.tunnel != 0 => {
                headers.outcome = before;
                return;
            }
            Err(outcome) => {
                headers.outcome = outcome as u32;
                return;
            }
        }
    }
    let headers = forget(headers);
    let size = size(frame, headers);
    if headers.tunnel == 0 {
        counters.packets += size.packets;
        counters.bytes += size.bytes;
    }
    book(frame, headers, &size, counters, tables);
    if headers.chunks != 0
        && let Some(entry) = tables.existing(&headers.key)
    {
        sctp::track(&mut entry.head, headers);
    }
}

/// Notes an ICMP error, which has been booked on a flow of its own, on the flow of the packet that it quotes.
#[inline(always)]
fn note<T: Tables>(headers: &Headers, tables: &mut T) {
    if let Some(entry) = tables.existing(&headers.key) {
        add(&mut entry.icmp.count, 1);
        entry.icmp.last = headers.icmp_error;
    }
}

/// Books the packet on its flow.
#[inline(always)]
fn book<T: Tables>(
    frame: &Frame,
    headers: &mut Headers,
    size: &Size,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    let Some(entry) = tables.flow(headers, frame.now, &mut counters.created) else {
        headers.outcome = Outcome::TableFull as u32;
        return;
    };
    match update(entry, frame, headers, size) {
        Update::Contended => counters.contended += 1,
        Update::Done(Some(rtt)) => tables.measured(&headers.key, headers.sender, rtt),
        Update::Done(None) => {}
    }
    if fragment::is_first(headers) {
        tables.keep_first(headers, frame.now);
    }
}

/// What one frame stands for on the wire.
struct Size {
    packets: u64,
    bytes: u64,
    payload: u64,
}

/// Segmentation offload repeats the headers in each wire packet of a super-packet.
#[inline(always)]
fn size(frame: &Frame, headers: &Headers) -> Size {
    let packets = if frame.segments > 1 {
        frame.segments
    } else if frame.segments == 0 && frame.segment_size != 0 {
        let payload = headers.payload_len.saturating_add(frame.segment_size - 1);
        match payload.checked_div(frame.segment_size) {
            None | Some(0) => 1,
            Some(packets) => packets,
        }
    } else {
        1
    };
    let tag = if frame.vlan == NO_VLAN { 0 } else { TAG_LEN };
    let repeated = u64::from(packets - 1) * u64::from(headers.header_len + tag);
    Size {
        packets: u64::from(packets),
        bytes: u64::from(headers.original_len) + repeated,
        payload: u64::from(headers.payload_len),
    }
}

enum Update {
    /// Counted; another CPU held the flow, so it was not analyzed.
    Contended,
    /// Counted and analyzed, with the round trip that it completed.
    Done(Option<RttTicks>),
}

/// Counters first, by atomic adds; then, under the entry's lock, everything that depends on order.
#[inline(always)]
fn update(entry: &mut FlowEntry, frame: &Frame, headers: &mut Headers, size: &Size) -> Update {
    let (head, own, peer) = entry.split(headers.sender);
    add(&mut own.packets, size.packets);
    add(&mut own.bytes, size.bytes);
    add(&mut own.skbs, 1);
    add(&mut own.payload_bytes, size.payload);

    if headers.key.protocol != TCP {
        other_state(head, headers.sender);
        own.last_seen_ns = frame.now.0;
        return Update::Done(None);
    }
    if !try_lock(&mut head.lock) {
        head.bits |= WAS_CONTENDED;
        return Update::Contended;
    }
    orient(head, headers);
    let from_originator = u32::from(head.originator) == headers.sender;
    head.state = after_segment(head.state, headers.tcp_flags, from_originator);
    let headers = forget(headers);
    let pure_duplicate = rtt::is_pure_duplicate(own, headers);
    tcp::track(head, own, peer, headers, frame.now);
    let headers = forget(headers);
    if headers.classes != 0 {
        count_classes(&mut own.classes, headers.classes);
    }
    let mut sample = None;
    if headers.analyzable != 0 {
        sample = rtt::measure(own, peer, headers, pure_duplicate, frame.now);
    }
    own.last_seen_ns = frame.now.0;
    unlock(&mut head.lock);
    Update::Done(sample)
}

/// Who opened the flow: the first packet's sender, until a SYN says otherwise.
#[inline(always)]
fn orient(head: &mut FlowHead, headers: &Headers) {
    let syn_seen = head.bits & SYN_SEEN != 0;
    let sender = (headers.sender & 1) as u8;
    match originates(head.state, headers.tcp_flags, syn_seen) {
        Some(true) => head.originator = sender,
        Some(false) => head.originator = sender ^ 1,
        None => {}
    }
}

/// Without TCP, a flow is replied once both sides have sent. SCTP's states are set by [`sctp::track`].
#[inline(always)]
fn other_state(head: &mut FlowHead, sender: u32) {
    if head.state == ConntrackState::None as u8 {
        head.originator = (sender & 1) as u8;
        head.state = ConntrackState::Unreplied as u8;
    } else if head.state == ConntrackState::Unreplied as u8 && u32::from(head.originator) != sender
    {
        head.state = ConntrackState::Replied as u8;
    }
}

/// One add for each class that is set; unrolled, since the verifier walks loops one by one.
#[inline(always)]
fn count_classes(counters: &mut [u32; tcp::classes::CLASSES], classes: u32) {
    macro_rules! each {
        ($($bit:literal)*) => {
            $(if classes & (1 << $bit) != 0 { counters[$bit] = counters[$bit].wrapping_add(1); })*
        };
    }
    each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[inline(always)]
fn count(counters: &mut HookCounters, headers: &Headers) {
    let slot = opaque(headers.outcome as usize) & 31;
    if slot < OUTCOMES {
        let slots = counters.outcomes.as_mut_ptr();
        // SAFETY: `slot` was just compared with the length; an index expression would link a panic.
        unsafe { *slots.add(slot) += 1 };
    }
}
