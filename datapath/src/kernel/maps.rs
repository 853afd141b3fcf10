//! Every map of the tracker: key, value, who writes, who reads, bytes at the default capacity.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray},
};

use crate::{
    flow_key::FlowKey,
    frame::Frame,
    layout::{
        FLOWS_DEFAULT, FRAGMENTS_DEFAULT, FlowEntry, HOOKS_MAX, HookCounters, IFINDEX_MAX,
        POINTS_MAX, Point,
    },
    parse::{Headers, fragment::FirstFragment},
};

/// Flow key -> entry. The programs write; the daemon reads in batches and removes what has ended. Shared by both
/// objects of every namespace. 65,536 x 720 B = 47 MB.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(FLOWS_DEFAULT, 0);

/// Datagram -> its ports, for later fragments. The programs write and read. Shared. 4,096 x 128 B = 0.5 MB.
#[map]
pub static FRAGMENTS: LruHashMap<FlowKey, FirstFragment> =
    LruHashMap::with_max_entries(FRAGMENTS_DEFAULT, 0);

/// Observation point x direction -> counters of this CPU. The programs write, the daemon reads. Shared. 256 x
/// 184 B = 47 kB per CPU.
#[map]
pub static HOOKS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(HOOKS_MAX, 0);

/// Interface index -> observation point. The daemon writes, the programs read. One per namespace, since interface
/// indexes repeat. 65,536 x 8 B = 512 kB.
#[map]
pub static POINTS: Array<Point> = Array::with_max_entries(IFINDEX_MAX + 1, 0);

/// Scratch: what the packet at hand says. 168 B per CPU.
#[map]
pub static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// Scratch: the frame around the packet at hand, for the function that reads what is inside of it. 32 B per CPU.
#[map]
pub static FRAME: PerCpuArray<Frame> = PerCpuArray::with_max_entries(1, 0);

/// Scratch: the entry that a new flow starts from, too large for the stack. 608 B per CPU.
#[map]
pub static FLOW_TEMPLATE: PerCpuArray<FlowEntry> = PerCpuArray::with_max_entries(1, 0);

const _: () = assert!(POINTS_MAX * 2 == HOOKS_MAX);
