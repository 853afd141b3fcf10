//! linnet's own verdict on each segment that is sent again or late: retransmitted, and why; reordered; or the same
//! frame seen twice. Made from a fixed state of each direction, beside Wireshark's classes and after them.
//!
//! Nearly every segment comes in order and says nothing new: `follow` takes it, and only its line of the flow's entry
//! is touched. The rest is for `notice`, and where something is missing, late or selectively acknowledged for
//! `complete` too, which needs a `Trouble`. In the kernel these are functions of their own.
//! Between their parts, what was found is left in the headers, so that the verifier can merge the paths.

mod again;
mod cause;
mod follow;
mod holes;
#[cfg(not(target_arch = "bpf"))]
mod host;
mod identity;
mod late;

pub(crate) use follow::{follow, notice};
#[cfg(not(target_arch = "bpf"))]
pub(crate) use host::event;
#[cfg(not(target_arch = "bpf"))]
pub use host::{FlowVerdicts, Segment, Verdict, Verdicts};
pub(crate) use late::{claim, explain, judge, read_selective};

#[cfg(not(target_arch = "bpf"))]
use crate::layout::Trouble;
use crate::{
    layout::{Event, FlowEntry, VerdictCounts},
    parse::Headers,
    time::Ktime,
};

/// Sent again.
pub const RETRANSMITTED: u32 = 1 << 0;
/// Overtaken on the way.
pub const REORDERED: u32 = 1 << 1;
/// The same packet seen again.
pub const DUPLICATE_FRAME: u32 = 1 << 2;
/// Of the retransmitted: after a time-out.
pub const RTO: u32 = 1 << 3;
/// After three duplicate acknowledgments, or a selective one of later data.
pub const FAST: u32 = 1 << 4;
/// The last segment, to make its receiver speak (RFC 8985, 7).
pub const TAIL_LOSS_PROBE: u32 = 1 << 5;
/// Without need: it had been acknowledged.
pub const SPURIOUS: u32 = 1 << 6;
/// In place of one lost between the sender and here.
pub const LOST_UPSTREAM: u32 = 1 << 7;
/// In place of one lost between here and the receiver.
pub const LOST_DOWNSTREAM: u32 = 1 << 8;

/// The counters of [`VerdictCounts`], in their order.
pub const NAMES: [&str; crate::layout::VERDICTS] = [
    "retransmitted_segments",
    "retransmitted_bytes",
    "reordered_segments",
    "duplicate_frames",
    "rto",
    "fast",
    "tail_loss_probe",
    "spurious",
    "lost_upstream",
    "lost_downstream",
];

/// Each bit with the name of the counter that it is counted in.
pub const BITS: [(&str, u32); 9] = [
    (NAMES[0], RETRANSMITTED),
    (NAMES[2], REORDERED),
    (NAMES[3], DUPLICATE_FRAME),
    (NAMES[4], RTO),
    (NAMES[5], FAST),
    (NAMES[6], TAIL_LOSS_PROBE),
    (NAMES[7], SPURIOUS),
    (NAMES[8], LOST_UPSTREAM),
    (NAMES[9], LOST_DOWNSTREAM),
];

const SPURIOUS_COUNT: usize = 7;
const UPSTREAM_COUNT: usize = 8;
const DOWNSTREAM_COUNT: usize = 9;

/// `Trail::bits`: `next` is set (0 is a valid sequence number).
const NEXT_KNOWN: u8 = 1 << 0;
/// `acknowledged` is set.
const ACKNOWLEDGED_KNOWN: u8 = 1 << 1;
/// `unsure_before` is set.
const UNSURE_KNOWN: u8 = 1 << 2;
/// `newest_timestamp` is set.
const TIMESTAMPED: u8 = 1 << 3;
/// Different packets had the same identification.
const IDS_REPEAT: u8 = 1 << 4;
/// There is, or was, a [`TroubleSide`](crate::layout::TroubleSide) with more.
const TROUBLED: u8 = 1 << 5;

/// `TroubleSide::bits`: the timer's fields are set.
const TIMER_KNOWN: u32 = 1 << 0;
/// `selective_end` is set.
const SELECTIVE_KNOWN: u32 = 1 << 1;
/// One more that was sent again.
const ONE_AGAIN: u32 = 1 << 8;

/// `Headers::due`: blocks of a selective acknowledgment are to be read.
pub(crate) const DUE_SELECTIVE: u32 = 1 << 0;
/// The segment's data is late, or leaves a hole.
pub(crate) const DUE_DATA: u32 = 1 << 1;

/// `Headers::copied_ticks`: no such packet is remembered.
const NEVER: u32 = u32::MAX;

/// Does what [`notice`] left to do on the segment in `headers`.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn complete(
    entry: &mut FlowEntry,
    trouble: &mut Trouble,
    headers: &mut Headers,
    now: Ktime,
) {
    if headers.due != 0 {
        claim(entry, trouble);
    }
    if headers.due & DUE_SELECTIVE != 0 {
        read_selective(entry, trouble, headers, now);
    }
    if headers.due & DUE_DATA != 0 {
        judge(entry, trouble, headers, now);
        explain(entry, trouble, headers, now);
    }
}

/// Writes the segment in `headers`, with its verdict, as an event.
#[inline(always)]
pub(crate) fn tell(event: &mut Event, headers: &Headers, entry: &FlowEntry, now: Ktime) {
    event.key = headers.key;
    event.first_seen_ns = entry.head.first_seen_ns;
    event.time_ns = now.0;
    event.sequence = headers.sequence;
    event.acknowledgment = headers.acknowledgment;
    event.payload_len = headers.payload_len;
    event.window = headers.window;
    event.classes = headers.classes;
    event.verdict = headers.verdict;
    event.segments = headers.verdict_segments;
    event.bytes = headers.verdict_bytes;
    event.silence_us = headers.silence_us;
    event.tcp_flags = (headers.tcp_flags & 0xffff) as u16;
    event.sender = (headers.sender & 1) as u8;
}

/// Time in units of 1,024 ns.
#[inline(always)]
const fn us(now: Ktime) -> u32 {
    (now.0 >> 10 & 0xffff_ffff) as u32
}

/// A duration in the same units.
#[inline(always)]
const fn units(ns: u64) -> i32 {
    (ns >> 10 & 0x7fff_ffff) as i32
}

/// The time from `earlier` to `later`, negative where it is not earlier.
#[inline(always)]
const fn since(later: u32, earlier: u32) -> i32 {
    later.wrapping_sub(earlier).cast_signed()
}

/// Adds the verdict in `headers` to the counters of its sender.
#[inline(always)]
fn count_in(counts: &mut VerdictCounts, headers: &Headers) {
    count(counts, headers.verdict, headers.verdict_segments, headers.verdict_bytes);
}

/// Counts so many `segments`, with so many bytes, for the verdict that has these `bits`.
#[inline(always)]
pub fn count(counts: &mut VerdictCounts, bits: u32, segments: u32, bytes: u32) {
    if bits & RETRANSMITTED != 0 {
        counts.counts[0] = counts.counts[0].wrapping_add(segments);
        counts.counts[1] = counts.counts[1].wrapping_add(bytes);
    }
    macro_rules! each {
        ($($slot:literal $bit:ident)*) => {
            $(if bits & $bit != 0 {
                counts.counts[$slot] = counts.counts[$slot].wrapping_add(segments);
            })*
        };
    }
    each!(2 REORDERED 3 DUPLICATE_FRAME 4 RTO 5 FAST 6 TAIL_LOSS_PROBE 7 SPURIOUS 8 LOST_UPSTREAM 9 LOST_DOWNSTREAM);
}
