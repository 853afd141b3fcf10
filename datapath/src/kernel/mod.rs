//! The pipeline's tables as kernel maps. Compiled for the bpf target alone.

pub mod capture;
pub mod maps;
mod rules;

use crate::{
    bytes::PacketBytes,
    flow_key::FlowKey,
    frame::{Direction, Frame},
    hint::{forget, opaque},
    layout::{FlowEntry, HookCounters, Point},
    outcome::Outcome,
    parse::{
        Headers, NOTHING,
        fragment::{self, FirstFragment},
    },
    pipeline::{self, STEPS_MAX},
    rtt::RttTicks,
    tables::Tables,
    time::Ktime,
};
use maps::{FLOW_TEMPLATE, FLOWS, FRAGMENTS, FRAME, HEADERS, HOOKS, POINTS};

/// `BPF_NOEXIST`: fail where another CPU made the entry first.
const NO_EXIST: u64 = 1;

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

    /// [`step`] of this door.
    fn step(&self);

    /// [`judge`] of this door.
    fn judge(stamp: u32) -> u32;
}

/// For a door's function: one step of the pipeline after the first.
#[inline(always)]
pub fn step<C: Context>(window: &Window<C>, direction: Direction) {
    let Some(frame) = FRAME.get_ptr_mut(0) else { return };
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return };
    // SAFETY: as in `process`, which wrote the frame and calls this function.
    let (frame, headers) = unsafe { (&*frame, &mut *headers) };
    let Some(counters) = HOOKS.get_ptr_mut(frame.point * 2 + direction as u32) else { return };
    // SAFETY: as above.
    let counters = unsafe { &mut *counters };
    pipeline::step(window, frame, headers, counters, &mut KernelTables);
}

pub use rules::judge;

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
    fn rest<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        _counters: &mut HookCounters,
        _tables: &mut T,
    ) {
        let Some(scratch) = FRAME.get_ptr_mut(0) else { return };
        // SAFETY: this CPU's slot, as in `process`.
        unsafe { scratch.write(*frame) };
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
        let at = opaque(self.start + (opaque(offset) & 0x7fff));
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
pub fn process<P: PacketBytes>(packet: &P, frame: &Frame, direction: Direction) {
    let Some(headers) = HEADERS.get_ptr_mut(0) else { return };
    let Some(counters) = HOOKS.get_ptr_mut(frame.point * 2 + direction as u32) else { return };
    // SAFETY: a per-CPU slot is used by one program at a time: both hooks run with migration disabled and do not
    // nest on one CPU.
    let (headers, counters) = unsafe { (&mut *headers, &mut *counters) };
    pipeline::process(packet, frame, headers, counters, &mut KernelTables);
}

struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn flow(&mut self, headers: &Headers, now: Ktime, created: &mut u64) -> Option<&mut FlowEntry> {
        let entry = match FLOWS.get_ptr_mut(&headers.key) {
            Some(entry) => entry,
            None => create(headers, now, created)?,
        };
        // SAFETY: the map keeps the element alive for this program run (RCU); other CPUs may write it too, which
        // is what the atomic adds and the lock word are for. An eviction may hand the element to another flow
        // meanwhile: then one packet is booked on that one.
        Some(unsafe { &mut *entry })
    }

    #[inline(always)]
    fn existing(&mut self, key: &FlowKey) -> Option<&mut FlowEntry> {
        // SAFETY: as in `flow`.
        FLOWS.get_ptr_mut(key).map(|entry| unsafe { &mut *entry })
    }

    #[inline(always)]
    fn keep_first(&mut self, headers: &mut Headers, now: Ktime) {
        let first = FirstFragment::of(headers, now);
        // A full table makes room by itself; where the kernel refuses, the later fragments are counted.
        let _kept = fragment::with_key(headers, |key| FRAGMENTS.insert(key, &first, 0));
    }

    #[inline(always)]
    fn find_first(&mut self, headers: &mut Headers, now: Ktime) -> bool {
        match fragment::with_key(headers, |key| FRAGMENTS.get_ptr(key)) {
            // SAFETY: the map keeps the element alive for this program run; another CPU may replace it meanwhile,
            // as it may before.
            Some(first) => fragment::complete(headers, unsafe { &*first }, now),
            None => false,
        }
    }

    #[inline(always)]
    fn measured(&mut self, _key: &FlowKey, _acknowledger: u32, _rtt: RttTicks) {}
}

#[inline(always)]
fn create(headers: &Headers, now: Ktime, created: &mut u64) -> Option<*mut FlowEntry> {
    let template = FLOW_TEMPLATE.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot; nothing but `initialize` ever writes it.
    let template = unsafe { &mut *template };
    template.initialize(now.0, headers);
    // Losing the race to another CPU is as good as winning it: the look-up finds its entry.
    if FLOWS.insert(&headers.key, &*template, NO_EXIST).is_ok() {
        *created += 1;
    }
    FLOWS.get_ptr_mut(&headers.key)
}
