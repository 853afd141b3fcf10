//! The one function that every door calls, in the kernel and offline. Counts; never decides about the packet.

use crate::{
    atomic::add,
    book,
    bytes::PacketBytes,
    frame::Frame,
    hint::{forget, opaque},
    layout::HookCounters,
    outcome::{OUTCOMES, Outcome},
    parse::{self, FRAGMENT_PORTS, Headers, NOTHING, QUOTED_PACKET},
    rules,
    tables::Tables,
};

/// Steps of one frame after the first: packets inside of packets, and fragments among them.
pub const STEPS_MAX: u32 = 6;

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
        Ok(()) if book::book_known(frame, headers, counters, tables) => {}
        Ok(()) => packet.book(frame, headers, counters, tables),
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
                #[cfg(not(target_arch = "bpf"))]
                tables.noted(headers, frame);
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
    packet.book(frame, forget(headers), counters, tables);
    let headers = forget(headers);
    if headers.tunnel != 0 && rules::is_refusal(headers.outcome) {
        // Of this packet, but not of the frame.
        headers.outcome = before;
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

#[inline(always)]
fn count(counters: &mut HookCounters, headers: &Headers) {
    let slot = opaque(headers.outcome as usize) & 31;
    if slot < OUTCOMES {
        let slots = counters.outcomes.as_mut_ptr();
        // SAFETY: `slot` was just compared with the length; an index expression would link a panic.
        unsafe { *slots.add(slot) += 1 };
    }
}
