//! The flow entry: a head and one half for each endpoint, with what that endpoint *sent*.
//!
//! In the kernel the value follows 48 bytes of element header and the 48-byte key, so with a head of 32 bytes the
//! halves start at 128 and 384: each on its own cache lines, its hot fields in the first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Trail, VerdictCounts};
use crate::{parse::Headers, tcp::classes::CLASSES};

/// Segments in flight whose acknowledgment is awaited, per direction; the oldest are kept.
pub const OUTSTANDING_MAX: usize = 4;
/// Octaves of the in-entry round-trip histogram.
pub const RTT_BUCKETS: usize = 24;

/// `FlowHead::bits`: `handshake_rtt_ns` is valid (0 ns is a valid time).
pub const HANDSHAKE_MEASURED: u8 = 1 << 0;
/// `FlowHead::bits`: a SYN was seen, so the originator is known for sure.
pub const SYN_SEEN: u8 = 1 << 1;
/// `FlowHead::bits`: the entry is in the table of embryonic flows.
pub const EMBRYONIC: u8 = 1 << 2;
/// `FlowHead::bits`: a SYN made the tracker start over while the connection before had not closed.
pub const RESTARTED: u8 = 1 << 3;
/// `FlowHead::bits`: there was more than one SYN, so that nobody knows which one was answered.
pub const SYN_REPEATED: u8 = 1 << 4;
/// `FlowHead::bits`: `answered_ns` is valid.
pub const ANSWERED: u8 = 1 << 5;

/// `Half::window_scale`: the handshake showed that windows are not scaled.
pub const WINDOW_SCALE_NONE: u8 = u8::MAX;
/// `Half::window` before the first segment.
pub const WINDOW_UNKNOWN: u32 = u32::MAX;

/// One flow, both directions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowEntry {
    /// What concerns both directions.
    pub head: FlowHead,
    /// What each endpoint of the key sent: lower, then upper.
    pub halves: [Half; 2],
    /// What it came in.
    pub encapsulation: Encapsulation,
    /// ICMP errors about it.
    pub icmp: IcmpErrors,
    /// Slot of [`super::ServiceRtt`] that its round trips are counted in; 0 until it is promoted.
    pub service: u32,
    /// Always 0.
    pub _pad: u32,
    /// Segments of each endpoint by linnet's own verdict.
    pub verdicts: [VerdictCounts; 2],
    /// From the SYN to its first answer, ns: the responder's part of the handshake; valid with [`ANSWERED`].
    pub answered_ns: u64,
    /// What verdicts are made from. In the kernel each is a cache line of its own.
    pub trails: [Trail; 2],
}

/// ICMP errors that quoted a packet of the flow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IcmpErrors {
    /// How many.
    pub count: u64,
    /// Type (upper byte) and code of the last one.
    pub last: u32,
    /// Always 0.
    pub _pad: u32,
}

/// What the flow's first packet came in; written once.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Encapsulation {
    /// [`crate::parse::tunnel::tag`] of the flow around it; 0 for an outermost one.
    pub parent_tag: u64,
    /// Network, key, session or endpoint id; 0 without one.
    pub id: u32,
    /// [`crate::parse::tunnel`] kind; 0 for none.
    pub kind: u8,
    /// Always 0.
    pub _pad: [u8; 3],
}

impl Encapsulation {
    /// Of an outermost flow.
    pub const NONE: Self = Self { parent_tag: 0, id: 0, kind: 0, _pad: [0; 3] };
}

/// What concerns both directions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowHead {
    /// When the first packet was seen, ns.
    pub first_seen_ns: u64,
    /// When the most recent SYN without ACK was seen, ns; 0 before it.
    pub syn_ns: u64,
    /// From that SYN to the first ACK without SYN, ns; valid with [`HANDSHAKE_MEASURED`].
    pub handshake_rtt_ns: u64,
    /// 1 while a CPU updates what is not a counter.
    pub lock: u32,
    /// [`crate::ConntrackState`] as a number.
    pub state: u8,
    /// Endpoint that opened the flow: 0 lower, 1 upper.
    pub originator: u8,
    /// `HANDSHAKE_MEASURED`, `SYN_SEEN`, `EMBRYONIC`, `RESTARTED`, `SYN_REPEATED`, `ANSWERED`.
    pub bits: u8,
    /// 1 where a packet was counted but not analyzed, so that later classes can be off. Written without the lock.
    pub contended: u8,
}

/// A segment whose acknowledgment is awaited.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Outstanding {
    /// First sequence number not yet acknowledged.
    pub start: u32,
    /// Sequence number after the last.
    pub end: u32,
    /// When it was sent, in ticks of 64 ns; 0 marks a free slot.
    pub sent_ticks: u32,
}

/// What one endpoint sent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Half {
    // Line 0: every packet.
    /// Wire packets.
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
    /// Frames as the hook saw them; fewer than `packets` with segmentation offload.
    pub skbs: u64,
    /// Bytes of transport payload.
    pub payload_bytes: u64,
    /// When the last packet was seen, ns.
    pub last_seen_ns: u64,
    /// Highest sequence number sent plus one; 0 before the first.
    pub next_sequence: u32,
    /// Highest sequence number up to which no hole was seen.
    pub contiguous: u32,
    /// Acknowledgment number of the last segment.
    pub last_acknowledgment: u32,
    /// Unscaled window of the last segment, or [`WINDOW_UNKNOWN`].
    pub window: u32,
    /// Length of the run of duplicate acknowledgments.
    pub duplicate_acks: u16,
    /// Classes of the last segment.
    pub last_classes: u16,
    /// Window shift plus one; 0 unknown; [`WINDOW_SCALE_NONE`].
    pub window_scale: u8,
    /// Bits of the tracker.
    pub bits: u8,
    /// Flags seen so far.
    pub flags_seen: u8,
    /// [`crate::rules::stamp`] under which packets of this endpoint were last found to be tracked; 0 before, or
    /// [`crate::rules::DISOWNED`].
    pub rules: u8,

    // Line 1: data segments and the acknowledgments of them.
    /// Segments whose acknowledgment is awaited.
    pub outstanding: [Outstanding; OUTSTANDING_MAX],
    /// Sequence range within which an acknowledgment is unambiguous (Karn): left end.
    pub range_left: u32,
    /// Right end.
    pub range_right: u32,
    /// When `next_sequence` was last advanced, ns.
    pub next_sequence_ns: u64,

    // Line 2: flagged segments.
    /// Segments by class ([`crate::tcp::classes`]).
    pub classes: [u32; CLASSES],
    /// Initial sequence number, or one before the first seen.
    pub base_sequence: u32,

    // Line 3: round trips measured by *this* endpoint's acknowledgments, so on data of the other one.
    /// Samples by octave: bucket `b` holds [2^(b+9), 2^(b+10)) ns; wrapping, read as differences.
    pub rtt_buckets: [u16; RTT_BUCKETS],
    /// Number of samples, wrapping.
    pub rtt_samples: u32,
    /// Smallest sample in ticks of 64 ns; 0 before the first.
    pub rtt_min_ticks: u32,
    /// Greatest sample.
    pub rtt_max_ticks: u32,
    /// Last sample.
    pub rtt_last_ticks: u32,
}

const _: () = assert!(size_of::<FlowHead>() == 32);
const _: () = assert!(size_of::<Half>() == 256);
const _: () = assert!(size_of::<FlowEntry>() == 800);
const _: () = assert!((96 + core::mem::offset_of!(FlowEntry, trails)) % 64 == 0);
const _: () = assert!(core::mem::offset_of!(Half, outstanding) == 64);
const _: () = assert!(core::mem::offset_of!(Half, classes) == 128);
const _: () = assert!(core::mem::offset_of!(Half, rtt_buckets) == 192);

impl Half {
    const EMPTY: Self = Self {
        packets: 0,
        bytes: 0,
        skbs: 0,
        payload_bytes: 0,
        last_seen_ns: 0,
        next_sequence: 0,
        contiguous: 0,
        last_acknowledgment: 0,
        window: WINDOW_UNKNOWN,
        duplicate_acks: 0,
        last_classes: 0,
        window_scale: 0,
        bits: 0,
        flags_seen: 0,
        rules: 0,
        outstanding: [Outstanding { start: 0, end: 0, sent_ticks: 0 }; OUTSTANDING_MAX],
        range_left: 0,
        range_right: 0,
        next_sequence_ns: 0,
        classes: [0; CLASSES],
        base_sequence: 0,
        rtt_buckets: [0; RTT_BUCKETS],
        rtt_samples: 0,
        rtt_min_ticks: 0,
        rtt_max_ticks: 0,
        rtt_last_ticks: 0,
    };
}

impl FlowEntry {
    /// An entry that has seen nothing.
    pub const EMPTY: Self = Self {
        head: FlowHead {
            first_seen_ns: 0,
            syn_ns: 0,
            handshake_rtt_ns: 0,
            lock: 0,
            state: 0,
            originator: 0,
            bits: 0,
            contended: 0,
        },
        halves: [Half::EMPTY; 2],
        encapsulation: Encapsulation::NONE,
        icmp: IcmpErrors { count: 0, last: 0, _pad: 0 },
        service: 0,
        _pad: 0,
        verdicts: [VerdictCounts::NONE; 2],
        answered_ns: 0,
        trails: [Trail::EMPTY; 2],
    };

    /// Makes a zeroed entry one that has seen nothing, embryonic and first seen at `now_ns` in the packet of `headers`. The kernel
    /// calls it on map memory, where a whole-entry copy would not fit the stack.
    #[inline(always)]
    pub const fn initialize(&mut self, now_ns: u64, headers: &Headers) {
        self.head.first_seen_ns = now_ns;
        self.head.bits = EMBRYONIC;
        self.encapsulation.parent_tag = headers.parent_tag;
        self.encapsulation.id = headers.tunnel_id;
        self.encapsulation.kind = (headers.tunnel & 0xff) as u8;
        self.halves[0].window = WINDOW_UNKNOWN;
        self.halves[1].window = WINDOW_UNKNOWN;
    }

    /// Everything by who sent a segment.
    #[inline(always)]
    pub(crate) fn sides(&mut self, sender: u32) -> Sides<'_> {
        let sent = crate::hint::opaque(sender as usize) & 1;
        let halves = core::ptr::from_mut(&mut self.halves).cast::<Half>();
        let trails = core::ptr::from_mut(&mut self.trails).cast::<Trail>();
        let verdicts = core::ptr::from_mut(&mut self.verdicts).cast::<VerdictCounts>();
        // SAFETY: as in `split`, for each of the three arrays.
        unsafe {
            Sides {
                head: &mut self.head,
                peer_half: &*halves.add(sent ^ 1),
                own_half: &*halves.add(sent),
                own: &mut *trails.add(sent),
                peer: &mut *trails.add(sent ^ 1),
                own_counts: &mut *verdicts.add(sent),
                peer_counts: &mut *verdicts.add(sent ^ 1),
            }
        }
    }

    /// The half of the endpoint that sent (0 lower, 1 upper) and the half of the other one, beside the head.
    #[inline(always)]
    pub fn split(&mut self, sender: u32) -> (&mut FlowHead, &mut Half, &mut Half) {
        let halves = core::ptr::from_mut(&mut self.halves).cast::<Half>();
        let sent = crate::hint::opaque(sender as usize) & 1;
        // SAFETY: both indices are 0 or 1 and differ, so the two references are inside the array and disjoint;
        // slices would put a bounds check with a panic into the kernel program.
        let (own, peer) = unsafe { (&mut *halves.add(sent), &mut *halves.add(sent ^ 1)) };
        (&mut self.head, own, peer)
    }
}

/// An entry, seen from a segment's sender.
pub(crate) struct Sides<'a> {
    pub(crate) head: &'a mut FlowHead,
    pub(crate) own_half: &'a Half,
    pub(crate) peer_half: &'a Half,
    pub(crate) own: &'a mut Trail,
    pub(crate) peer: &'a mut Trail,
    pub(crate) own_counts: &'a mut VerdictCounts,
    pub(crate) peer_counts: &'a mut VerdictCounts,
}
