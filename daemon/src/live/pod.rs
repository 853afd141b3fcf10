//! The shared layouts as aya wants to see them: plain bytes of a fixed size.

use datapath::layout::{
    CaptureConfig, CaptureCounts, CaptureSlot, CaptureTotals, HookCounters, Meta, Point, ServiceRtt,
};

/// A layout of the datapath in a map.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct Pod<T>(pub(super) T);

macro_rules! pod {
    ($($layout:ty),*) => {
        $(
            // SAFETY: the layout is `repr(C)` without padding, and any bytes are a value of it: zerocopy's
            // derives check both.
            unsafe impl aya::Pod for Pod<$layout> {}
        )*
    };
}

pod!(
    CaptureConfig,
    CaptureCounts,
    CaptureSlot,
    CaptureTotals,
    HookCounters,
    Meta,
    Point,
    ServiceRtt
);
