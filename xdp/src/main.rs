//! Door 1 into the datapath: XDP, ingress only, before the network stack. Passes every packet, always.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bench;
#[cfg(target_arch = "bpf")]
mod ctx;

#[cfg(target_arch = "bpf")]
mod door {
    //! The programs: track, then hand over to the capture stage while one is set.

    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
    use datapath::{
        Direction,
        kernel::{self, capture},
    };

    use crate::ctx;

    /// Takes a packet through the datapath, and on to the capture stage.
    #[inline(always)]
    pub(crate) fn track(context: &XdpContext) {
        let point = kernel::point(ctx::ifindex(context));
        if point.id != 0 {
            let (window, frame) = ctx::frame(context, point);
            kernel::process(&window, &frame, Direction::Ingress);
            capture::go_on(context);
        }
    }

    /// Tracks each packet that an interface receives.
    #[xdp(frags)]
    pub(crate) fn linnet_xdp(context: XdpContext) -> u32 {
        track(&context);
        xdp_action::XDP_PASS
    }

    /// Shows the packet to the filters of captures. Only ever reached from [`linnet_xdp`].
    #[xdp(frags)]
    pub(crate) fn linnet_xdp_cap(context: XdpContext) -> u32 {
        let point = kernel::point(ctx::ifindex(&context));
        capture::prepare_xdp(&context, point, ctx::queue(&context));
        xdp_action::XDP_PASS
    }

    /// Copies the packet for the captures that want it. Only ever reached from the filters.
    #[xdp(frags)]
    pub(crate) fn linnet_xdp_copy(context: XdpContext) -> u32 {
        capture::copy_xdp(&context);
        xdp_action::XDP_PASS
    }

    /// Does nothing: the floor that every cost is measured from.
    #[xdp(frags)]
    pub(crate) fn linnet_xdp_nop(_context: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Helpers that this program calls are for GPL-compatible programs.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 4] = *b"GPL\0";
}

/// On the host there is nothing to run: the object is built by `cargo xtask bpf`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
