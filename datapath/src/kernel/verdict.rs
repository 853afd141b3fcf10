//! The functions that complete a verdict, and the log of flagged segments.

use aya_ebpf::helpers::bpf_get_smp_processor_id;

use super::{
    maps::{EVENT_HEADS, EVENTS, HEADERS, TROUBLE_TEMPLATE, TROUBLES},
    tables::NO_EXIST,
};
use crate::{
    hint::{forget, opaque},
    layout::{EVENTS_MAX, FlowEntry, Trouble},
    parse::Headers,
    tcp::verdict,
    time::Ktime,
};

/// Completes the verdict on the packet at hand, which is not in order or has a class, and logs it. In functions of their
/// own, since few packets are; one after the other, since the kernel's stack is short. What they need of the flow's trouble
/// is looked up once, and handed to each.
#[inline(always)]
pub(crate) fn notice(entry: &mut FlowEntry, now: Ktime) {
    let due = linnet_notice(entry, now.0);
    if due != 0
        && let Some(trouble) = trouble(entry)
    {
        linnet_claim(entry, trouble);
        if due & verdict::DUE_SELECTIVE != 0 {
            linnet_selective(entry, trouble, now.0);
        }
        if due & verdict::DUE_DATA != 0 {
            linnet_judge(entry, trouble, now.0);
            linnet_explain(entry, trouble, now.0);
        }
    }
    linnet_log(entry, now.0);
}

/// What is known of the trouble of the flow of the packet at hand; a new element where it has none, and nothing where the
/// table takes no more.
#[inline(always)]
fn trouble(entry: &FlowEntry) -> Option<*mut Trouble> {
    let headers = HEADERS.get_ptr(0)?;
    // SAFETY: as in `at_hand`.
    let key = unsafe { &(*headers).key };
    TROUBLES.get_ptr_mut(key).or_else(|| {
        linnet_make(entry.head.first_seen_ns);
        TROUBLES.get_ptr_mut(key)
    })
}

/// Makes an element for the flow of the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_make(first_seen_ns: u64) -> i32 {
    let Some(headers) = HEADERS.get_ptr(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    let key = unsafe { &(*headers).key };
    let Some(template) = TROUBLE_TEMPLATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's slot.
    let template = unsafe { &mut *template };
    // Nobody's yet.
    template.first_seen_ns = !first_seen_ns;
    let _made = TROUBLES.insert(key, &*template, NO_EXIST);
    0
}

/// [`verdict::notice`]; what is left to do.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_notice(entry: *mut FlowEntry, now_ns: u64) -> u32 {
    // SAFETY: as in `linnet_update`.
    let Some(entry) = (unsafe { entry.as_mut() }) else { return 0 };
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    let headers = unsafe { &mut *headers };
    verdict::notice(entry, headers, Ktime(now_ns));
    forget(headers).due
}

/// [`verdict::claim`] for the flow of the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_claim(entry: *mut FlowEntry, trouble: *mut Trouble) -> i32 {
    // SAFETY: as in `linnet_update`.
    let Some(entry) = (unsafe { entry.as_mut() }) else { return 0 };
    // SAFETY: as in `with`.
    let Some(trouble) = (unsafe { trouble.as_mut() }) else { return 0 };
    verdict::claim(entry, trouble);
    0
}

/// [`verdict::read_selective`] on the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_selective(
    entry: *mut FlowEntry,
    trouble: *mut Trouble,
    now_ns: u64,
) -> i32 {
    with(entry, trouble, now_ns, verdict::read_selective)
}

/// [`verdict::judge`] on the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_judge(
    entry: *mut FlowEntry,
    trouble: *mut Trouble,
    now_ns: u64,
) -> i32 {
    with(entry, trouble, now_ns, verdict::judge)
}

/// [`verdict::explain`] on the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_explain(
    entry: *mut FlowEntry,
    trouble: *mut Trouble,
    now_ns: u64,
) -> i32 {
    with(entry, trouble, now_ns, verdict::explain)
}

#[inline(always)]
fn with(
    entry: *mut FlowEntry,
    trouble: *mut Trouble,
    now_ns: u64,
    act: impl FnOnce(&mut FlowEntry, &mut Trouble, &mut Headers, Ktime),
) -> i32 {
    // SAFETY: as in `linnet_update`.
    let Some(entry) = (unsafe { entry.as_mut() }) else { return 0 };
    // SAFETY: the map keeps the element alive for this program run; who has it holds the lock of its flow.
    let Some(trouble) = (unsafe { trouble.as_mut() }) else { return 0 };
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    act(entry, trouble, unsafe { &mut *headers }, Ktime(now_ns));
    0
}

/// Writes the packet at hand, if it has a class or a verdict, into this CPU's log, over the oldest one there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_log(entry: *mut FlowEntry, now_ns: u64) -> i32 {
    // SAFETY: as in `linnet_update`.
    let Some(entry) = (unsafe { entry.as_mut() }) else { return 0 };
    let Some(headers) = HEADERS.get_ptr(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    let headers = unsafe { &*headers };
    if headers.classes | headers.verdict == 0 {
        return 0;
    }
    // SAFETY: the helper only reads the CPU's number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let Some(head) = EVENT_HEADS.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: this CPU's: hooks run with migration disabled and do not nest on one CPU. Volatile: the daemon reads it.
    let number = unsafe { core::ptr::read_volatile(&raw const (*head).produced) };
    let slot = opaque(number as usize) as u32 & (EVENTS_MAX - 1);
    let Some(event) = EVENTS.get_ptr_mut(cpu * EVENTS_MAX + slot) else { return 0 };
    // SAFETY: as above; who reads it looks at the head before and after.
    unsafe {
        verdict::tell(&mut *event, headers, entry, Ktime(now_ns));
        // The event is whole before it is counted: the exchange is a full barrier.
        use core::intrinsics::{AtomicOrdering::AcqRel, atomic_xchg};
        let _before = atomic_xchg::<u64, { AcqRel }>(&raw mut (*head).produced, number + 1);
    }
    0
}
