//! Programs that are run on frames by the bench alone, and never attached: the tracker with many flows in turn, and what
//! its parts cost by themselves.

use aya_ebpf::{
    bindings::xdp_action, helpers::bpf_ktime_get_ns, macros::xdp, programs::XdpContext,
};
use datapath::kernel::turn;

use crate::door::track;

/// The bench's observation point.
const POINT: u32 = 1;

/// Makes the frame the next flow's: the floor that the others with flows in turn are measured from.
#[xdp(frags)]
pub(crate) fn linnet_xdp_turn_nop(context: XdpContext) -> u32 {
    turn::next(context.data(), context.data_end());
    xdp_action::XDP_PASS
}

/// The same, tracked as `linnet_xdp` does.
#[xdp(frags)]
pub(crate) fn linnet_xdp_turn(context: XdpContext) -> u32 {
    turn::next(context.data(), context.data_end());
    track(&context);
    xdp_action::XDP_PASS
}

/// The same, with the look-up of its flow and no more.
#[xdp(frags)]
pub(crate) fn linnet_xdp_turn_look(context: XdpContext) -> u32 {
    turn::next(context.data(), context.data_end());
    turn::look(context.data(), context.data_end(), POINT);
    xdp_action::XDP_PASS
}

/// The same, with one counter of its flow.
#[xdp(frags)]
pub(crate) fn linnet_xdp_turn_count(context: XdpContext) -> u32 {
    turn::next(context.data(), context.data_end());
    turn::count(context.data(), context.data_end(), POINT);
    xdp_action::XDP_PASS
}

/// Reads the clock.
#[xdp(frags)]
pub(crate) fn linnet_xdp_clock(_context: XdpContext) -> u32 {
    // SAFETY: the helper only reads a clock.
    let _now = unsafe { bpf_ktime_get_ns() };
    xdp_action::XDP_PASS
}
