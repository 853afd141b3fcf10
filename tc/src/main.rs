//! Door 2 into the datapath: TC, both directions, after XDP. Passes every packet on to the next program, always.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod ctx;

#[cfg(target_arch = "bpf")]
mod door {
    //! The programs. The capture stage is a program of its own, next to the tracker in the chain.

    use aya_ebpf::{macros::classifier, programs::TcContext};
    use datapath::{
        Direction,
        kernel::{self, capture},
    };

    use crate::ctx;

    /// `TCX_NEXT` and `TC_ACT_UNSPEC`: go on as if this program were not here.
    const NEXT: i32 = -1;

    #[inline(always)]
    fn track(context: &TcContext, direction: Direction) -> i32 {
        let point = kernel::point(ctx::ifindex(context));
        if point.id != 0 {
            let (window, frame) = ctx::frame(context, point, direction);
            kernel::process(&window, &frame, direction);
        }
        NEXT
    }

    /// Tracks each packet that an interface received.
    #[classifier]
    pub(crate) fn linnet_ingress(context: TcContext) -> i32 {
        track(&context, Direction::Ingress)
    }

    /// Tracks each packet that an interface is about to send.
    #[classifier]
    pub(crate) fn linnet_egress(context: TcContext) -> i32 {
        track(&context, Direction::Egress)
    }

    #[inline(always)]
    fn prepare(context: &TcContext, direction: Direction) -> i32 {
        let point = kernel::point(ctx::ifindex(context));
        capture::prepare_tc(context, point, direction, ctx::queue(context));
        NEXT
    }

    /// Shows received packets to the filters of captures; attached while there are any.
    #[classifier]
    pub(crate) fn linnet_cap_in(context: TcContext) -> i32 {
        prepare(&context, Direction::Ingress)
    }

    /// Shows packets about to be sent to the filters; as above.
    #[classifier]
    pub(crate) fn linnet_cap_out(context: TcContext) -> i32 {
        prepare(&context, Direction::Egress)
    }

    /// Copies the packet for the captures that want it. Only ever reached from the filters.
    #[classifier]
    pub(crate) fn linnet_cap_copy(context: TcContext) -> i32 {
        capture::copy_tc(&context);
        NEXT
    }

    /// Does nothing: the floor that every cost is measured from.
    #[classifier]
    pub(crate) fn linnet_tc_nop(_context: TcContext) -> i32 {
        NEXT
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Helpers that these programs call are for GPL-compatible programs.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 4] = *b"GPL\0";
}

/// On the host there is nothing to run: the object is built by `cargo xtask bpf`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
