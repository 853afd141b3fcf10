//! The capture stage: three programs for each hook, which go on from one to the next by tail calls. The first one shows the
//! packet to the filters ([`prepare`]); the second one, made at run time, runs them; the third one copies the packet once
//! for all captures that want it ([`copy`]). Each passes the packet, also where there is no next one.

mod copy;
mod prepare;

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{ArrayOfMaps, RingBuf},
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::{btf_map, map},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};

use crate::{
    frame::Direction,
    layout::{
        CAPTURE_BYTES_MAX, CAPTURES_MAX, CaptureConfig, CaptureCounts, CaptureGap, CaptureRecord,
        CaptureSlot, CaptureTotals, HOOKS_MAX, Point, STAGE_PREPARE, STAGE_PROGRAMS, VLAN_PRESENT,
        Views,
    },
};

/// One record with room for the longest frame.
#[derive(Debug)]
#[repr(C)]
pub struct CaptureScratch {
    pub(super) record: CaptureRecord,
    pub(super) bytes: [u8; CAPTURE_BYTES_MAX],
}

/// Slot 0: what filters are shown. The attacher writes, the stage reads. 16 B.
#[map]
pub static CAPTURE_CONFIG: Array<CaptureConfig> = Array::with_max_entries(1, 0);

/// Observation point and direction -> captures that want its packets, a bit each. The attacher writes, the stage reads.
#[map]
pub static CAPTURE_WANTED: Array<u64> = Array::with_max_entries(HOOKS_MAX, 0);

/// Capture -> its budgets. The attacher writes them, the stage counts. 3.5 KiB.
#[map]
pub static CAPTURES: Array<CaptureSlot> = Array::with_max_entries(CAPTURES_MAX as u32, 0);

/// Capture -> what this CPU's stage did for it. The stage writes, the daemon reads. 2.5 KiB per CPU.
#[map]
pub static CAPTURE_COUNTS: PerCpuArray<CaptureCounts> =
    PerCpuArray::with_max_entries(CAPTURES_MAX as u32, 0);

/// Slot 0: the packet at hand for the filters. Written and read by this CPU's stage alone. 12.1 KiB per CPU.
#[map]
pub static CAPTURE_VIEWS: PerCpuArray<Views> = PerCpuArray::with_max_entries(1, 0);

/// Slot 0: what found the ring full since the last record. This CPU's stage alone. 312 B per CPU.
#[map]
pub static CAPTURE_GAPS: PerCpuArray<CaptureGap> = PerCpuArray::with_max_entries(1, 0);

/// Slot 0: what became of all packets. The stage writes, the daemon reads. 16 B per CPU.
#[map]
pub static CAPTURE_TOTALS: PerCpuArray<CaptureTotals> = PerCpuArray::with_max_entries(1, 0);

/// CPU -> scratch for one record; a per-CPU map's value may not exceed 32 KiB. The daemon sets the number of CPUs.
/// 64 KiB per CPU.
#[map]
pub static CAPTURE_SCRATCH: Array<CaptureScratch> = Array::with_max_entries(1, 0);

/// CPU -> its ring of records for the daemon. The attacher makes them, as large as configured, and sets them in every
/// object.
#[btf_map]
pub static CAPTURE_RINGS: ArrayOfMaps<RingBuf<CaptureRecord, RING_TEMPLATE>, 1> =
    ArrayOfMaps::new();

/// What a ring is checked against: its size may be another one.
const RING_TEMPLATE: usize = 4096;

/// The programs that the stage goes on in. The attacher writes. One per object.
#[map]
pub static CAPTURE_STAGE: ProgramArray = ProgramArray::with_max_entries(STAGE_PROGRAMS, 0);

/// A packet as the stage has it.
trait Packet {
    /// Copies `length` bytes from an offset on, all of which are there.
    ///
    /// # Safety
    ///
    /// There is room for them.
    unsafe fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool;

    /// Goes on in another program, if there is one.
    fn go_on(&self, slot: u32);

    /// What is known of it without its bytes.
    fn record(&self, point: Point, queue: u32) -> CaptureRecord;
}

/// A frame that came.
struct FromXdp<'a>(&'a XdpContext);

/// A socket buffer.
struct FromTc<'a>(&'a TcContext, Direction);

impl Packet for FromXdp<'_> {
    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_xdp_load_bytes(self.0.as_ptr().cast(), offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn go_on(&self, slot: u32) {
        // SAFETY: an empty slot makes the call fall through; a set one holds a program of this type that passes.
        unsafe { CAPTURE_STAGE.tail_call(self.0, slot) };
    }

    #[inline(always)]
    fn record(&self, point: Point, queue: u32) -> CaptureRecord {
        // SAFETY: the helper only reads the context of this run.
        let length = unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) } as u32;
        CaptureRecord {
            original_len: length,
            point: point.id,
            direction: Direction::Ingress as u8,
            queue,
            ..CaptureRecord::default()
        }
    }
}

impl Packet for FromTc<'_> {
    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_skb_load_bytes(self.0.skb.skb.cast(), offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn go_on(&self, slot: u32) {
        // SAFETY: as above.
        unsafe { CAPTURE_STAGE.tail_call(self.0, slot) };
    }

    #[inline(always)]
    fn record(&self, point: Point, queue: u32) -> CaptureRecord {
        let skb = self.0.skb.skb;
        // SAFETY: the context is valid for this run; the verifier checks each access.
        let (tagged, tci, protocol) =
            unsafe { ((*skb).vlan_present, (*skb).vlan_tci, (*skb).vlan_proto) };
        CaptureRecord {
            original_len: self.0.len(),
            point: point.id,
            direction: self.1 as u8,
            flags: if tagged != 0 { VLAN_PRESENT } else { 0 },
            vlan_tci: (tci & 0xffff) as u16,
            vlan_protocol: u16::from_be((protocol & 0xffff) as u16),
            queue,
            ..CaptureRecord::default()
        }
    }
}

/// Goes on in the XDP capture stage, if one is set.
#[inline(always)]
pub fn go_on(context: &XdpContext) {
    FromXdp(context).go_on(STAGE_PREPARE);
}

/// [`prepare`] for a frame that came.
#[inline(always)]
pub fn prepare_xdp(context: &XdpContext, point: Point, queue: u32) {
    prepare::prepare(&FromXdp(context), point, queue);
}

/// [`prepare`] for a socket buffer.
#[inline(always)]
pub fn prepare_tc(context: &TcContext, point: Point, direction: Direction, queue: u32) {
    prepare::prepare(&FromTc(context, direction), point, queue);
}

/// [`copy`] of a frame that came.
#[inline(always)]
pub fn copy_xdp(context: &XdpContext) {
    copy::copy(&FromXdp(context));
}

/// [`copy`] of a socket buffer.
#[inline(always)]
pub fn copy_tc(context: &TcContext) {
    copy::copy(&FromTc(context, Direction::Ingress));
}
