//! The third program: copies the packet at hand once, for all captures whose filters chose it and whose budgets are not
//! spent, into this CPU's ring; or counts for each of them why not. Never looks at the packet.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_ringbuf_output, bpf_ringbuf_query},
    },
};

use super::{
    CAPTURE_CONFIG, CAPTURE_COUNTS, CAPTURE_GAPS, CAPTURE_RINGS, CAPTURE_SCRATCH, CAPTURE_TOTALS,
    CAPTURE_VIEWS, CAPTURES, CaptureScratch, Packet,
};
use crate::{
    hint::opaque,
    kernel::maps::HEADERS,
    layout::{
        CAPTURE_BYTES_MAX, CAPTURES_MAX, CaptureCounts, CaptureGap, CaptureRecord, CaptureSlot,
        RECORD_GAP, UNKNOWN_HEADER_LEN,
    },
};

/// Bytes in front of each record of a ring (kernel/bpf/ringbuf.c), whose length is a multiple of them.
const RING_HEADER: usize = 8;
const _: () = assert!(size_of::<CaptureGap>() % RING_HEADER == 0);

/// What became of one packet.
#[derive(Clone, Copy)]
enum Fate {
    Produced,
    LostRing,
    LostCopy,
}

/// Copies the packet that [`super::prepare`] has left.
#[inline(always)]
pub(super) fn copy(packet: &impl Packet) {
    // SAFETY: the helper only reads the CPU's number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let Some(views) = CAPTURE_VIEWS.get_ptr(0) else { return };
    let Some(scratch) = CAPTURE_SCRATCH.get_ptr_mut(cpu) else { return };
    let Some(config) = CAPTURE_CONFIG.get(0) else { return };
    // SAFETY: this CPU's, as in `prepare`.
    let (matched, scratch) = unsafe { ((*views).matched & (*views).wanted, &mut *scratch) };
    if matched == 0 {
        return;
    }
    scratch.record.header_len = header_len(scratch.record.original_len);
    scratch.record.captures = 0;
    scratch.record.captured_len = 0;
    each(matched, |slot| choose(slot, scratch, config.payload_max));
    if scratch.record.captures == 0 {
        return;
    }
    let Some(totals) = CAPTURE_TOTALS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's slot.
    let totals = unsafe { &mut *totals };
    totals.offered += 1;
    scratch.record.packet_id = u64::from(cpu) << 48 | totals.offered;
    let fate = deliver(packet, scratch, cpu, config.ring_bytes);
    if !matches!(fate, Fate::Produced) {
        totals.lost += 1;
    }
    each(scratch.record.captures, |slot| settle(slot, fate));
}

/// Calls `act` with the number of each bit.
#[inline(always)]
fn each(mut bits: u64, mut act: impl FnMut(u32)) {
    let mut slot = 0;
    while slot < CAPTURES_MAX {
        if bits & 1 != 0 {
            act(slot as u32);
        }
        bits >>= 1;
        if bits == 0 {
            return;
        }
        slot = opaque(slot + 1);
    }
}

/// Bytes of the packet's headers, as the tracker has just found.
#[inline(always)]
fn header_len(length: u32) -> u32 {
    let Some(headers) = HEADERS.get_ptr(0) else { return UNKNOWN_HEADER_LEN };
    // SAFETY: this CPU's slot.
    let found = unsafe { (*headers).header_len };
    if found == 0 || found > length { UNKNOWN_HEADER_LEN } else { found }
}

/// Whether a capture has room for the packet, and how much of it it wants.
#[inline(always)]
fn choose(slot: u32, scratch: &mut CaptureScratch, payload_max: u32) {
    let Some(capture) = CAPTURES.get_ptr_mut(slot) else { return };
    let Some(counts) = CAPTURE_COUNTS.get_ptr_mut(slot) else { return };
    let record = &mut scratch.record;
    // SAFETY: the map keeps the element alive for this program run. What other CPUs count in it is added to atomically.
    let (capture, counts): (&mut CaptureSlot, &mut CaptureCounts) =
        unsafe { (&mut *capture, &mut *counts) };
    if record.time_ns > capture.deadline_ns {
        return;
    }
    counts.matched += 1;
    let payload = least(capture.payload_max, payload_max);
    let mut wanted = least(record.original_len, capture.snaplen);
    if payload != u32::MAX {
        wanted = least(wanted, record.header_len.saturating_add(payload));
    }
    if count(&mut capture.packets, 1) >= capture.packets_max
        || count(&mut capture.bytes, u64::from(wanted)) >= capture.bytes_max
    {
        counts.over_budget += 1;
        return;
    }
    record.captures |= 1 << slot;
    if wanted > record.captured_len {
        record.captured_len = wanted;
    }
}

/// Adds, and returns what there was before.
#[inline(always)]
fn count(counter: &mut u64, by: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering::AcqRel, atomic_xadd};
    // SAFETY: a valid and aligned word, which is only ever counted in like this.
    unsafe { atomic_xadd::<u64, u64, { AcqRel }>(counter, by) }
}

/// Counts what became of the packet for a capture that wanted it.
#[inline(always)]
fn settle(slot: u32, fate: Fate) {
    let Some(counts) = CAPTURE_COUNTS.get_ptr_mut(slot) else { return };
    // SAFETY: this CPU's slot.
    let counts = unsafe { &mut *counts };
    match fate {
        Fate::Produced => counts.produced += 1,
        Fate::LostCopy => counts.lost_copy += 1,
        Fate::LostRing => {
            counts.lost_ring += 1;
            let Some(gap) = CAPTURE_GAPS.get_ptr_mut(0) else { return };
            let place = opaque(slot as usize) & (CAPTURES_MAX - 1);
            // SAFETY: this CPU's slot; the place was just masked to be inside of the array.
            unsafe {
                (*gap).record.captures |= 1 << slot;
                *(*gap).lost.as_mut_ptr().add(place) += 1;
            }
        }
    }
}

/// Puts the packet into the CPU's ring, behind what has been lost since the last one.
#[inline(always)]
fn deliver(packet: &impl Packet, scratch: &mut CaptureScratch, cpu: u32, ring_bytes: u32) -> Fate {
    let Some(ring) = CAPTURE_RINGS.get(cpu) else { return Fate::LostCopy };
    let ring = core::ptr::from_ref(ring).cast_mut().cast();
    let Some(gap) = CAPTURE_GAPS.get_ptr_mut(0) else { return Fate::LostCopy };
    // SAFETY: this CPU's slot.
    let gap = unsafe { &mut *gap };
    let length = opaque(scratch.record.captured_len as usize);
    if length > CAPTURE_BYTES_MAX {
        return Fate::LostCopy;
    }
    // SAFETY: there is room for as many bytes; the ring's helpers take what was just written.
    unsafe {
        let bytes = scratch.bytes.as_mut_ptr();
        if length > 0 && !packet.load(0, bytes, length as u32) {
            return Fate::LostCopy;
        }
        // The reader looks every few milliseconds; it is woken as well with each eighth of the ring that has filled up.
        let available = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA));
        let in_front =
            if gap.record.captures != 0 { RING_HEADER + size_of::<CaptureGap>() } else { 0 };
        let record = RING_HEADER + size_of::<CaptureRecord>() + length;
        let after = available + (in_front + (record + 7 & !7)) as u64;
        let is_urgent = (available ^ after) >= u64::from(ring_bytes / 8);
        let flags = u64::from(if is_urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP });
        if gap.record.captures != 0 {
            gap.record.kind = RECORD_GAP;
            gap.record.time_ns = scratch.record.time_ns;
            let told = bpf_ringbuf_output(
                ring,
                core::ptr::from_mut(gap).cast(),
                size_of_val(gap) as u64,
                flags,
            );
            if told != 0 {
                return Fate::LostRing;
            }
            gap.record.captures = 0;
            for lost in &mut gap.lost {
                core::ptr::write_volatile(lost, 0);
            }
        }
        let size = size_of::<CaptureRecord>() + length;
        let record = core::ptr::from_mut(scratch).cast();
        if bpf_ringbuf_output(ring, record, size as u64, flags) == 0 {
            Fate::Produced
        } else {
            Fate::LostRing
        }
    }
}

#[inline(always)]
const fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}
