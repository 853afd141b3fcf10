//! The capture stage: copies whole frames, up to the snaplen, into one ring for the daemon. Decides nothing, and
//! stops by itself at the deadline in its configuration.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    },
    macros::map,
    maps::{Array, PerCpuArray, ProgramArray, RingBuf},
    programs::{TcContext, XdpContext},
};

use crate::{
    frame::Direction,
    layout::{CAPTURE_BYTES_MAX, CaptureConfig, CaptureRecord, CaptureStats, Point, VLAN_PRESENT},
};

/// One record with room for the longest frame.
#[derive(Debug)]
#[repr(C)]
pub struct CaptureScratch {
    record: CaptureRecord,
    bytes: [u8; CAPTURE_BYTES_MAX],
}

/// Slot 0: what to copy. The daemon writes, the stage reads. 16 B.
#[map]
pub static CAPTURE_CONFIG: Array<CaptureConfig> = Array::with_max_entries(1, 0);

/// Records for the daemon. 16 MiB unless configured otherwise.
#[map]
pub static CAPTURE_RING: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// Slot 0: what this CPU's stage did. The stage writes, the daemon reads. 24 B per CPU.
#[map]
pub static CAPTURE_STATS: PerCpuArray<CaptureStats> = PerCpuArray::with_max_entries(1, 0);

/// CPU -> scratch for one record; a per-CPU map's value may not exceed 32 KiB. The daemon sets the number of CPUs.
/// 64 KiB per CPU.
#[map]
pub static CAPTURE_SCRATCH: Array<CaptureScratch> = Array::with_max_entries(1, 0);

/// Slot 0: the XDP capture stage while a capture runs.
#[map]
pub static CAPTURE_STAGE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Goes on in the XDP capture stage, if one is set.
#[inline(always)]
pub fn tail_call(context: &XdpContext) {
    // SAFETY: an empty slot makes the call fall through; a set one holds a program of this type that passes.
    unsafe { CAPTURE_STAGE.tail_call(context, 0) };
}

/// Copies an XDP frame.
#[inline(always)]
pub fn from_xdp(context: &XdpContext, point: Point, queue: u32) {
    // SAFETY: the helper only reads the context of this run.
    let length = unsafe { bpf_xdp_get_buff_len(context.as_ptr().cast()) } as u32;
    let record = CaptureRecord {
        original_len: length,
        point: point.id,
        direction: Direction::Ingress as u8,
        queue,
        ..CaptureRecord::default()
    };
    copy(record, |bytes, length| {
        // SAFETY: `bytes` has room for CAPTURE_BYTES_MAX, which `length` does not exceed.
        unsafe { bpf_xdp_load_bytes(context.as_ptr().cast(), 0, bytes.cast(), length) == 0 }
    });
}

/// Copies a socket buffer.
#[inline(always)]
pub fn from_tc(context: &TcContext, point: Point, direction: Direction, queue: u32) {
    let skb = context.skb.skb;
    // SAFETY: the context is valid for this run; the verifier checks each access.
    let (tagged, tci, protocol) =
        unsafe { ((*skb).vlan_present, (*skb).vlan_tci, (*skb).vlan_proto) };
    let record = CaptureRecord {
        original_len: context.len(),
        point: point.id,
        direction: direction as u8,
        flags: if tagged != 0 { VLAN_PRESENT } else { 0 },
        vlan_tci: (tci & 0xffff) as u16,
        vlan_protocol: u16::from_be((protocol & 0xffff) as u16),
        queue,
        ..CaptureRecord::default()
    };
    copy(record, |bytes, length| {
        // SAFETY: as in `from_xdp`.
        unsafe { bpf_skb_load_bytes(skb.cast(), 0, bytes.cast(), length) == 0 }
    });
}

/// Fills this CPU's scratch record and puts it into the ring, or counts why not.
#[inline(always)]
fn copy(record: CaptureRecord, load: impl FnOnce(*mut u8, u32) -> bool) {
    let Some(config) = CAPTURE_CONFIG.get(0) else { return };
    // SAFETY: the helper only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (deadline, snaplen) = (config.deadline_ns, config.snaplen);
    let wanted = config.point == 0 || config.point == u32::from(record.point);
    if snaplen == 0 || now > deadline || record.point == 0 || !wanted {
        return;
    }
    // SAFETY: the helper only reads the CPU's number.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(scratch) = CAPTURE_SCRATCH.get_ptr_mut(cpu as u32) else { return };
    let Some(stats) = CAPTURE_STATS.get_ptr_mut(0) else { return };
    let wanted = if record.original_len < snaplen { record.original_len } else { snaplen };
    let length = crate::hint::opaque(wanted as usize);
    if length == 0 || length > CAPTURE_BYTES_MAX {
        return;
    }
    // SAFETY: the slots are this CPU's: hooks run with migration disabled and do not nest on one CPU.
    unsafe {
        (*scratch).record = record;
        (*scratch).record.time_ns = now;
        (*scratch).record.captured_len = length as u32;
        if !load((&raw mut (*scratch).bytes).cast(), length as u32) {
            (*stats).lost_copy += 1;
            return;
        }
        let bytes = core::slice::from_raw_parts(
            scratch.cast::<u8>().cast_const(),
            size_of::<CaptureRecord>() + length,
        );
        if CAPTURE_RING.output::<[u8]>(bytes, 0).is_err() {
            (*stats).lost_ring += 1;
        } else {
            (*stats).produced += 1;
        }
    }
}
