//! From an XDP context to the datapath's view of a frame. Reads the context only, never the packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::{bpf_ktime_get_ns, generated::bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use datapath::{
    Direction, Frame, Ktime,
    frame::NO_VLAN,
    kernel::{self, Window},
    layout::Point,
};

/// 1 in tests: time and original length come in front of the packet, since a test run has no clock to set.
#[unsafe(no_mangle)]
static VIRTUAL_CLOCK: u8 = 0;

#[inline(always)]
fn is_virtual() -> bool {
    // SAFETY: a read of read-only data; volatile, because the loader sets it before the verifier folds it.
    unsafe { core::ptr::read_volatile(&raw const VIRTUAL_CLOCK) != 0 }
}

/// Index of the interface that received the packet.
#[inline(always)]
pub(crate) fn ifindex(context: &XdpContext) -> u32 {
    context.ingress_ifindex() as u32
}

/// Index of the queue that received it.
#[inline(always)]
pub(crate) fn queue(context: &XdpContext) -> u32 {
    context.rx_queue_index()
}

/// The bytes in the first buffer, which holds all headers, and what the hook knows about the frame.
#[inline(always)]
pub(crate) fn frame(context: &XdpContext, point: Point) -> (Window<Md>, Frame) {
    let window = window(context.ctx);
    // SAFETY: both helpers only read; the context is the one of this run.
    let (mut now, mut length) =
        unsafe { (0, bpf_xdp_get_buff_len(context.as_ptr().cast()) as u32) };
    if is_virtual() {
        let metadata = context.metadata();
        if metadata + 16 <= context.data() {
            // SAFETY: the 16 bytes were just compared with the start of the packet.
            unsafe {
                now = *(metadata as *const u64);
                length = *((metadata + 8) as *const u32);
            }
        }
    } else {
        // SAFETY: the helper only reads a clock.
        now = unsafe { bpf_ktime_get_ns() };
    }
    let frame = Frame {
        now: Ktime(now),
        point: u32::from(point.id),
        direction: Direction::Ingress,
        link: point.link(),
        original_len: length,
        segments: 1,
        segment_size: 0,
        vlan: NO_VLAN,
        from_socket: 0,
    };
    (window, frame)
}

/// The context, for the functions of this door.
pub(crate) struct Md(*mut xdp_md);

impl kernel::Context for Md {
    // The first buffer holds all headers that a driver lets XDP see.
    const FETCHES: bool = false;

    #[inline(always)]
    fn tcp_options(&self) {
        linnet_xdp_options(self.0);
    }

    #[inline(always)]
    fn book(&self) {
        linnet_xdp_book();
    }

    #[inline(always)]
    fn step(&self) {
        linnet_xdp_step(self.0);
    }

    #[inline(always)]
    fn apply_rules(stamp: u32, known: u32) -> bool {
        linnet_xdp_rules(stamp, known) != 0
    }
}

/// Direct access to the first buffer.
#[inline(always)]
fn window(md: *mut xdp_md) -> Window<Md> {
    let context = XdpContext::new(md);
    Window { start: context.data(), end: context.data_end(), context: Md(md) }
}

/// A function for the verifier to walk once, wherever it is called from.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_xdp_options(md: *mut xdp_md) -> i32 {
    kernel::tcp_options(&window(md));
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_xdp_book() -> i32 {
    kernel::book::<Md>(Direction::Ingress);
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_xdp_step(md: *mut xdp_md) -> i32 {
    kernel::step(&window(md), Direction::Ingress);
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_xdp_rules(stamp: u32, known: u32) -> i32 {
    i32::from(kernel::apply_rules::<Md>(stamp, known))
}
