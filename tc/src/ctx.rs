//! From a socket buffer to the datapath's view of a frame: VLAN tag and segment count come from its metadata.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_pull_data},
    programs::TcContext,
};
use datapath::{
    Direction, Frame, Ktime,
    frame::NO_VLAN,
    kernel::{self, Window},
    layout::Point,
};

/// Header bytes that are brought into the linear part where a packet has headers beyond it.
const FETCHED_MAX: u32 = 256;
/// Bytes of the tag that the kernel keeps in metadata.
const TAG_LEN: u32 = 4;

/// 1 in tests: time and original length come in the context, since a test run has no clock to set.
#[unsafe(no_mangle)]
static VIRTUAL_CLOCK: u8 = 0;

#[inline(always)]
fn is_virtual() -> bool {
    // SAFETY: a read of read-only data; volatile, because the loader sets it before the verifier folds it.
    unsafe { core::ptr::read_volatile(&raw const VIRTUAL_CLOCK) != 0 }
}

/// Index of the interface whose hook this is.
#[inline(always)]
pub(crate) fn ifindex(context: &TcContext) -> u32 {
    // SAFETY: the context is valid for this run; the verifier checks the access.
    unsafe { (*context.skb.skb).ifindex }
}

/// Index of the queue, 0 where none was recorded.
#[inline(always)]
pub(crate) fn queue(context: &TcContext) -> u32 {
    // SAFETY: as in `ifindex`.
    unsafe { (*context.skb.skb).queue_mapping }
}

/// The header bytes and what the hook knows about the frame.
#[inline(always)]
pub(crate) fn frame(
    context: &TcContext,
    point: Point,
    direction: Direction,
) -> (Window<Skb>, Frame) {
    let window = linear(context.skb.skb, direction);
    let skb = context.skb.skb;
    // SAFETY: as in `ifindex`; every field is read whole, at its constant offset.
    let (segments, segment_size, tagged, tci) =
        unsafe { ((*skb).gso_segs, (*skb).gso_size, (*skb).vlan_present, (*skb).vlan_tci) };
    let tag = if tagged != 0 { TAG_LEN } else { 0 };
    let (now, length) = if is_virtual() {
        // SAFETY: as in `ifindex`. Volatile: LLVM would else join these loads with those of the other branch into
        // one load at a computed offset, which the verifier refuses on a context.
        unsafe {
            let time = core::ptr::read_volatile(&raw const (*skb).tstamp);
            (time, core::ptr::read_volatile(&raw const (*skb).wire_len))
        }
    } else {
        // SAFETY: the helper only reads a clock. `skb.tstamp` is no clock: TCP keeps its departure time there.
        (unsafe { bpf_ktime_get_ns() }, context.len())
    };
    let from_socket = from_socket(skb, direction);
    let frame = Frame {
        now: Ktime(now),
        point: u32::from(point.id),
        direction,
        link: point.link(),
        original_len: length + tag,
        segments,
        segment_size,
        vlan: if tagged != 0 { tci & 0xfff } else { NO_VLAN },
        from_socket,
    };
    (window, frame)
}

/// Whether the packet is on its way out of a socket of this host: what is forwarded has none any more.
#[inline(always)]
fn from_socket(skb: *mut __sk_buff, direction: Direction) -> u32 {
    if is_virtual() {
        // A test run makes a socket for every packet; the mark says whether it is to count.
        // SAFETY: as in `ifindex`.
        return unsafe { (*skb).mark };
    }
    // SAFETY: as in `ifindex`; the pointer is only compared.
    let has_socket = !unsafe { (*skb).__bindgen_anon_2.sk }.is_null();
    if has_socket && direction as u32 == Direction::Egress as u32 { 1 } else { 0 }
}

/// The context and the direction, for the functions of this door.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
    direction: Direction,
}

impl kernel::Context for Skb {
    const FETCHES: bool = true;

    #[inline(always)]
    fn tcp_options(&self) {
        linnet_tc_options(self.skb);
    }

    #[inline(always)]
    fn book(&self) {
        linnet_tc_book(self.direction as u32);
    }

    #[inline(always)]
    fn step(&self) {
        linnet_tc_step(self.skb, self.direction as u32);
    }

    #[inline(always)]
    fn apply_rules(stamp: u32, known: u32) -> bool {
        linnet_tc_rules(stamp, known) != 0
    }
}

/// Brings headers that lie in fragments into the linear part. For what few packets have: pulling changes how the
/// kernel keeps a packet, and costs it a copy.
#[inline(always)]
fn fetch(skb: *mut __sk_buff) {
    let context = TcContext::new(skb);
    let length = context.len();
    let wanted = if length < FETCHED_MAX { length } else { FETCHED_MAX };
    if context.data() + (wanted as usize) > context.data_end() {
        // SAFETY: the context is the one of this run; pointers read before are not used again. Where the pull fails
        // the bytes stay absent, which the parser counts.
        unsafe { bpf_skb_pull_data(skb, wanted) };
    }
}

/// Direct access to what is linear.
#[inline(always)]
fn linear(skb: *mut __sk_buff, direction: Direction) -> Window<Skb> {
    let context = TcContext::new(skb);
    let (start, end) = (context.data(), context.data_end());
    Window { start, end, context: Skb { skb, direction } }
}

/// A function for the verifier to walk once, wherever it is called from.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_tc_options(skb: *mut __sk_buff) -> i32 {
    fetch(skb);
    kernel::tcp_options(&linear(skb, Direction::Ingress));
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_tc_book(direction: u32) -> i32 {
    kernel::book::<Skb>(direction_of(direction));
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_tc_step(skb: *mut __sk_buff, direction: u32) -> i32 {
    let direction = direction_of(direction);
    fetch(skb);
    kernel::step(&linear(skb, direction), direction);
    0
}

/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn linnet_tc_rules(stamp: u32, known: u32) -> i32 {
    i32::from(kernel::apply_rules::<Skb>(stamp, known))
}

#[inline(always)]
const fn direction_of(number: u32) -> Direction {
    if number == 0 { Direction::Ingress } else { Direction::Egress }
}
