//! The pipeline's tables as kernel maps. Compiled for the bpf target alone.

pub mod capture;
pub mod maps;
mod rules;
mod tables;
pub mod turn;
mod verdict;

use crate::{
    book::{self, Booked, Size},
    bytes::PacketBytes,
    frame::{Direction, Frame},
    hint::{forget, opaque},
    layout::{FlowEntry, HookCounters, Point},
    outcome::Outcome,
    parse::{Headers, NOTHING, REACH_MAX},
    pipeline::{self, STEPS_MAX},
    rtt::RttTicks,
    tables::{Sample, Tables},
    time::Ktime,
};
use maps::{EMBRYONIC, FLOWS, FRAME, HEADERS, HOOKS, POINTS, SERVICE_RTT};
use tables::KernelTables;
pub(crate) use verdict::notice;

/// The verifier wants a bound. No header that the parser asks for lies beyond ([`crate::parse`] sees to that).
const OFFSET_MASK: usize = 0x7fff;

const _: () = assert!(REACH_MAX as usize + 0xfff == OFFSET_MASK);

/// The bytes of a packet that the verifier lets a program read directly.
#[derive(Debug)]
pub struct Window<C> {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
    /// The door's context.
    pub context: C,
}

/// What a door does in functions of its own.
pub trait Context {
    /// Whether this door's functions bring headers into reach that are not.
    const FETCHES: bool;

    /// [`tcp_options`] of this door.
    fn tcp_options(&self);

    /// [`book`] of this door.
    fn book(&self);

    /// [`step`] of this door.
    fn step(&self);

    /// [`apply_rules`] of this door.
    fn apply_rules(stamp: u32, known: u32) -> bool;
}

/// Leaves the frame for the functions that are about to be called.
#[inline(always)]
fn leave(frame: &Frame) {
    if let Some(scratch) = FRAME.get_ptr_mut(0) {
        // SAFETY: this CPU's slot, as in `process`.
        unsafe { scratch.write(*frame) };
    }
}

/// What is at hand for the functions that [`process`] calls: frame, headers, and the counters of its hook.
#[inline(always)]
fn at_hand(
    direction: Direction,
) -> Option<(&'static Frame, &'static mut Headers, &'static mut HookCounters)> {
    let frame = FRAME.get_ptr(0)?;
    // SAFETY: this CPU's slots, as in `process`, which wrote them and waits for the function that asks.
    unsafe {
        let counters = HOOKS.get_ptr_mut((*frame).point * 2 + direction as u32)?;
        Some((&*frame, &mut *HEADERS.get_ptr_mut(0)?, &mut *counters))
    }
}

/// For a door's function: books the packet at hand.
#[inline(always)]
pub fn book<C: Context>(direction: Direction) {
    if let Some((frame, headers, counters)) = at_hand(direction) {
        book::book(frame, headers, counters, &mut KernelTables::<C>::new());
    }
}

/// For a door's function: whether the rules of a stamp keep the packet at hand from being tracked.
#[inline(always)]
pub fn apply_rules<C: Context>(stamp: u32, known: u32) -> bool {
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return false };
    // SAFETY: as in `at_hand`.
    let headers = unsafe { &mut *headers };
    book::turn_away(&mut KernelTables::<C>::new(), headers, stamp & 0xff, known != 0)
}

/// Calls [`linnet_update`] with the packet at hand.
#[inline(always)]
pub(crate) fn update(entry: &mut FlowEntry, held: bool, now: Ktime, size: &Size) -> Booked {
    let booked = linnet_update(entry, u32::from(held), now.0, size.packets, size.bytes);
    Booked { rtt: RttTicks(booked as u32), grown: booked & GROWN != 0 }
}

/// Beside the round trip in what [`linnet_update`] returns: the flow has grown.
const GROWN: u64 = 1 << 32;

/// [`book::update`] as a function for the verifier to walk once, wherever the entry lies.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn linnet_update(
    entry: *mut FlowEntry,
    held: u32,
    now_ns: u64,
    packets: u64,
    bytes: u64,
) -> u64 {
    // SAFETY: the one caller passes a reference; the verifier wants to see that it is none to nothing.
    let Some(entry) = (unsafe { entry.as_mut() }) else { return 0 };
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    let headers = unsafe { &mut *headers };
    let (now, size) = (Ktime(now_ns), Size { packets, bytes });
    let Booked { rtt, grown } = book::update(entry, held != 0, now, headers, &size);
    u64::from(rtt.0) | if grown { GROWN } else { 0 }
}

/// How often a packet looks whether another CPU has done with an embryonic flow: some microseconds.
const LOOKS_MAX: usize = 32;

/// Waits until the embryonic flow of the packet at hand is not locked, or has been promoted, or for [`LOOKS_MAX`] looks.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn linnet_settle() -> i32 {
    let Some(headers) = HEADERS.get_ptr(0) else { return 0 };
    // SAFETY: as in `at_hand`.
    let key = unsafe { &(*headers).key };
    let mut looks = 0;
    while looks < LOOKS_MAX {
        if FLOWS.get_ptr(key).is_some() {
            return 0;
        }
        let Some(entry) = EMBRYONIC.get_ptr(key) else { return 0 };
        // SAFETY: the map keeps the element alive for this program run. Volatile: another CPU writes the word.
        if unsafe { core::ptr::read_volatile(&raw const (*entry).head.lock) } == 0 {
            return 0;
        }
        looks = opaque(looks + 1);
    }
    0
}

/// Calls [`linnet_measured`].
#[inline(always)]
pub(crate) fn measured(frame: &Frame, sample: Sample) {
    let hook = frame.point * 2 + frame.direction as u32;
    linnet_measured(hook, sample.rtt.0, sample.service, u32::from(sample.from_originator));
}

/// Counts a round trip for its hook and its service; a function of its own, since few packets complete one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn linnet_measured(
    hook: u32,
    ticks: u32,
    service: u32,
    from_originator: u32,
) -> i32 {
    let rtt = RttTicks(ticks);
    let Some(counters) = HOOKS.get_ptr_mut(hook) else { return 0 };
    // SAFETY: this CPU's slot, as in `process`.
    unsafe { (*counters).rtt.add(rtt) };
    let Some(round_trips) = SERVICE_RTT.get_ptr_mut(service) else { return 0 };
    // SAFETY: as above.
    let round_trips = unsafe { &mut *round_trips };
    if from_originator != 0 {
        round_trips.from_originator.add(rtt);
    } else {
        round_trips.from_responder.add(rtt);
    }
    0
}

/// For a door's function: one step of the pipeline after the first.
#[inline(always)]
pub fn step<C: Context>(window: &Window<C>, direction: Direction) {
    if let Some((frame, headers, counters)) = at_hand(direction) {
        pipeline::step(window, frame, headers, counters, &mut KernelTables::<C>::new());
    }
}

/// For a door's function: reads the options of the packet at hand.
#[inline(always)]
pub fn tcp_options<C: Context>(window: &Window<C>) {
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return };
    // SAFETY: as in `process`, which is what calls this function.
    crate::parse::tcp::options(window, unsafe { &mut *headers });
}

impl<C: Context> PacketBytes for Window<C> {
    const FETCHES: bool = C::FETCHES;

    #[inline(always)]
    fn tcp_options(&self, _headers: &mut Headers) {
        self.context.tcp_options();
    }

    #[inline(always)]
    fn book<T: Tables>(
        &self,
        frame: &Frame,
        _headers: &mut Headers,
        _counters: &mut HookCounters,
        _tables: &mut T,
    ) {
        leave(frame);
        self.context.book();
    }

    #[inline(always)]
    fn rest<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        _counters: &mut HookCounters,
        _tables: &mut T,
    ) {
        leave(frame);
        let mut steps = 0;
        while steps < STEPS_MAX {
            self.context.step();
            if forget(headers).pending == NOTHING {
                return;
            }
            steps += 1;
        }
        headers.outcome = Outcome::TooDeep as u32;
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // The verifier accepts a variable offset into a packet only below its own bound; and the comparison must
        // be made on the very pointer that is used, which LLVM would else rewrite.
        let at = opaque(self.start + (opaque(offset) & OFFSET_MASK));
        if opaque(at + N) > self.end {
            None
        } else {
            // SAFETY: `at .. at + N` was just compared with the end of the packet.
            Some(unsafe { &*(at as *const [u8; N]) })
        }
    }
}

/// The observation point of an interface; one with id 0 where linnet is not attached.
#[inline(always)]
pub fn point(ifindex: u32) -> Point {
    POINTS.get(ifindex).copied().unwrap_or_default()
}

/// Takes a frame through the pipeline with this CPU's tables. Does nothing where a per-CPU slot is missing, which the
/// kernel rules out for slot 0, and the daemon for the counters of a point that it made.
#[inline(always)]
pub fn process<C: Context>(packet: &Window<C>, frame: &Frame, direction: Direction) {
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return };
    let Some(counters) = HOOKS.get_ptr_mut(frame.point * 2 + direction as u32) else { return };
    // SAFETY: a per-CPU slot is used by one program at a time: both hooks run with migration disabled and do not
    // nest on one CPU.
    let (headers, counters) = unsafe { (&mut *headers, &mut *counters) };
    pipeline::process(packet, frame, headers, counters, &mut KernelTables::<C>::new());
}
