//! Books one packet on its flow: counters by atomic adds and, under the entry's lock, everything that depends on order.
//! An embryonic flow is counted under its lock too, since its entry may be about to move to the other table.

use crate::{
    atomic::{add, try_lock, unlock},
    conntrack::{
        ConntrackState, sctp,
        tcp::{after_segment, originates},
    },
    embryonic::{self, is_embryonic},
    frame::{Frame, NO_VLAN},
    hint::forget,
    layout::{ANSWERED, FlowEntry, FlowHead, HookCounters, SYN_REPEATED, SYN_SEEN},
    outcome::Outcome,
    parse::{
        Headers, NOTHING, fragment,
        tcp::{ACK, SYN},
    },
    rtt::{self, RttTicks},
    rules,
    tables::{Sample, Tables},
    tcp::{self, classes::REUSED_PORTS, verdict},
    time::Ktime,
};

const TCP: u8 = 6;
/// Bytes of a VLAN tag, which a hook may keep outside of the frame's bytes.
const TAG_LEN: u32 = 4;

/// Books the packet in `headers` where nothing but its flow's entry is needed, as for nearly every packet: the flow has
/// proved to be one, the rules in force track it, and the packet, TCP or UDP and whole, opens nothing. Returns whether it
/// did, or [`book`] has to.
#[inline(always)]
pub fn book_known<T: Tables>(
    frame: &Frame,
    headers: &mut Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) -> bool {
    if headers.tcp_flags & (SYN | ACK) == SYN {
        return false;
    }
    let stamp = rules::stamp(tables.generation(), frame.direction as u32);
    let Some(entry) = tables.established(&headers.key) else { return false };
    if !is_decided(Some(entry), headers.sender, stamp) {
        return false;
    }
    let size = count(frame, headers, counters);
    let ordered = headers.key.protocol == TCP;
    let held = ordered && try_lock(&mut entry.head.lock);
    if ordered && !held {
        entry.head.contended = 1;
        counters.contended += 1;
    }
    let Booked { rtt, .. } = updated(entry, held, frame.now, forget(headers), &size);
    if rtt != RttTicks::NONE {
        measured(sample(entry, headers, rtt), frame, headers, counters, tables);
    }
    #[cfg(not(target_arch = "bpf"))]
    classified(frame, headers, tables);
    true
}

/// Books the packet in `headers` on its flow, which is made where there is none. Wire packets and bytes of outermost
/// packets are added to `counters`.
#[inline(always)]
pub fn book<T: Tables>(
    frame: &Frame,
    headers: &mut Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    if fragment::is_first(headers) {
        // Also where it is not tracked: nor are the later ones then, and they have to be found out.
        tables.keep_first(headers, frame.now);
    }
    let headers = forget(headers);
    let stamp = rules::stamp(tables.generation(), frame.direction as u32);
    let mut found = tables.existing(&headers.key);
    if !is_decided(found.as_deref_mut(), headers.sender, stamp) {
        let known = found.is_some();
        if tables.turn_away(headers, stamp, known) {
            return;
        }
        found = tables.existing(&headers.key);
    }
    let headers = forget(headers);
    if headers.tcp_flags & (SYN | ACK) == SYN
        && found.as_mut().is_some_and(|entry| tcp::opens_anew(entry, headers))
    {
        // Locked for good: whoever else has found this entry does nothing to it any more.
        if found.is_some_and(|entry| try_lock(&mut entry.head.lock)) {
            tables.retire(headers);
            headers.classes = REUSED_PORTS;
        }
        found = tables.existing(&headers.key);
    }
    let entry = match found {
        Some(entry) => Some(entry),
        None => tables.create(headers, frame.now, &mut counters.created),
    };
    let Some(mut entry) = entry else {
        headers.outcome = Outcome::TableFull as u32;
        return;
    };
    let ordered = headers.key.protocol == TCP || headers.chunks != 0;
    let mut held = (ordered || is_embryonic(entry)) && try_lock(&mut entry.head.lock);
    if !held && is_embryonic(entry) {
        // Another CPU has it, perhaps to promote it: then it is in the other table before it is gone from this one.
        tables.settle(&headers.key);
        let Some(again) = tables.existing(&headers.key) else {
            // Evicted this very moment.
            headers.outcome = Outcome::TableFull as u32;
            return;
        };
        entry = again;
        held = (ordered || is_embryonic(entry)) && try_lock(&mut entry.head.lock);
    }
    entry.split(headers.sender).1.rules = (stamp & 0xff) as u8;
    if !held && (ordered || is_embryonic(entry)) {
        // On an embryonic entry it may even be lost to its flow.
        entry.head.contended = 1;
        counters.contended += 1;
    }
    let size = count(frame, headers, counters);
    let Booked { rtt, grown } = updated(entry, held, frame.now, forget(headers), &size);
    if rtt != RttTicks::NONE {
        measured(sample(entry, headers, rtt), frame, headers, counters, tables);
    }
    #[cfg(not(target_arch = "bpf"))]
    classified(frame, headers, tables);
    if grown {
        counters.promoted += 1;
        tables.promote(&headers.key);
    }
}

/// Counts a round trip for everything that is no flow.
#[inline(always)]
fn measured<T: Tables>(
    sample: Sample,
    frame: &Frame,
    headers: &Headers,
    counters: &mut HookCounters,
    tables: &mut T,
) {
    #[cfg(target_arch = "bpf")]
    {
        let _at_hand = (headers, counters, tables);
        crate::kernel::measured(frame, sample);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _offline = frame;
        counters.rtt.add(sample.rtt);
        tables.measured(&headers.key, sample);
    }
}

/// Completes the verdict on the segment; in the kernel, functions of their own do that.
#[cfg(not(target_arch = "bpf"))]
fn classified<T: Tables>(frame: &Frame, headers: &mut Headers, tables: &mut T) {
    if headers.key.protocol == TCP && headers.analyzable != 0 {
        tables.classified(headers, frame);
    }
}

/// What a round trip is known by.
#[inline(always)]
fn sample(entry: &FlowEntry, headers: &Headers, rtt: RttTicks) -> Sample {
    let acknowledger = headers.sender;
    let from_originator = u32::from(entry.head.originator) != acknowledger;
    Sample { rtt, acknowledger, service: entry.service, from_originator }
}

/// Whether packets like the one at hand are known to be tracked under the rules in force, if there are any.
#[inline(always)]
fn is_decided(found: Option<&mut FlowEntry>, sender: u32, stamp: u32) -> bool {
    if rules::generation_of(stamp) == 0 {
        return true;
    }
    found.is_some_and(|entry| u32::from(entry.split(sender).1.rules) == stamp)
}

/// Whether the rules of a stamp keep the packet from being tracked. Then it is not looked into either, and its flow, where
/// one is `known`, ends, unless the other endpoint's packets are tracked.
#[inline(always)]
pub fn turn_away<T: Tables>(
    tables: &mut T,
    headers: &mut Headers,
    stamp: u32,
    known: bool,
) -> bool {
    let outcome = tables.judge(headers, stamp);
    let headers = forget(headers);
    if !rules::is_refusal(outcome) {
        return false;
    }
    headers.outcome = outcome;
    headers.pending = NOTHING;
    if known && let Some(entry) = tables.existing(&headers.key) {
        let (_, own, peer) = entry.split(headers.sender);
        if rules::generation_of(u32::from(peer.rules)) != rules::generation_of(stamp) {
            own.rules = rules::DISOWNED;
            peer.rules = rules::DISOWNED;
        }
    }
    true
}

/// What one frame stands for on the wire.
pub(crate) struct Size {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Adds what an outermost packet stands for to the counters of its hook.
#[inline(always)]
fn count(frame: &Frame, headers: &Headers, counters: &mut HookCounters) -> Size {
    let size = size(frame, headers);
    if headers.tunnel == 0 {
        counters.packets += size.packets;
        counters.bytes += size.bytes;
    }
    size
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
    Size { packets: u64::from(packets), bytes: u64::from(headers.original_len) + repeated }
}

/// What came of a packet.
pub(crate) struct Booked {
    /// The round trip that it completed, or none.
    pub(crate) rtt: RttTicks,
    /// The flow is to be promoted, and is left locked until then.
    pub(crate) grown: bool,
}

/// [`update`]; in the kernel a function of its own, which the verifier walks once for the entries of all tables.
#[inline(always)]
fn updated(
    entry: &mut FlowEntry,
    held: bool,
    now: Ktime,
    headers: &mut Headers,
    size: &Size,
) -> Booked {
    #[cfg(target_arch = "bpf")]
    {
        let _at_hand = headers;
        crate::kernel::update(entry, held, now, size)
    }
    #[cfg(not(target_arch = "bpf"))]
    update(entry, held, now, headers, size)
}

/// Counters by atomic adds, so that they are right without the lock too; the rest only where it is `held`.
#[inline(always)]
pub(crate) fn update(
    entry: &mut FlowEntry,
    held: bool,
    now: Ktime,
    headers: &mut Headers,
    size: &Size,
) -> Booked {
    let (head, own, peer) = entry.split(headers.sender);
    add(&mut own.packets, size.packets);
    add(&mut own.bytes, size.bytes);
    add(&mut own.skbs, 1);
    add(&mut own.payload_bytes, u64::from(headers.payload_len));

    let mut rtt = RttTicks::NONE;
    let mut grown = false;
    if headers.key.protocol != TCP {
        other_state(head, headers.sender);
        if headers.chunks != 0 && held {
            sctp::track(head, headers);
        }
    } else if held {
        orient(head, headers);
        let from_originator = u32::from(head.originator) == headers.sender;
        head.state = after_segment(head.state, headers.tcp_flags, from_originator);
        let headers = forget(headers);
        let pure_duplicate = rtt::is_pure_duplicate(own, headers);
        tcp::track(head, own, peer, headers, now);
        let headers = forget(headers);
        if headers.classes != 0 {
            count_classes(&mut own.classes, headers.classes);
        }
        if headers.analyzable != 0 {
            rtt = rtt::measure(own, peer, headers, pure_duplicate, now);
        }
    }
    own.last_seen_ns = now.0;
    let headers = forget(headers);
    if held && headers.key.protocol == TCP && headers.analyzable != 0 {
        answer(entry, headers, now);
        if verdict::follow(entry, headers, now) {
            headers.unusual = 1;
            #[cfg(target_arch = "bpf")]
            crate::kernel::notice(entry, now);
        }
    }
    let headers = forget(headers);
    if held {
        let (head, own, peer) = entry.split(headers.sender);
        grown = embryonic::has_grown(head, own, peer, headers, now);
        if !grown {
            unlock(&mut head.lock);
        }
    }
    Booked { rtt, grown }
}

/// Splits the handshake's round trip at its first answer.
#[inline(always)]
fn answer(entry: &mut FlowEntry, headers: &Headers, now: Ktime) {
    let head = &mut entry.head;
    if headers.tcp_flags & (SYN | ACK) == SYN | ACK
        && head.bits & (SYN_SEEN | SYN_REPEATED | ANSWERED) == SYN_SEEN
    {
        entry.answered_ns = now.since(Ktime(head.syn_ns)).cast_unsigned();
        head.bits |= ANSWERED;
    }
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
