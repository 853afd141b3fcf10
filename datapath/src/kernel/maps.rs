//! Every map of the tracker: key, value, who writes, who reads, bytes at the default capacity.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};

use crate::{
    flow_key::FlowKey,
    frame::Frame,
    layout::{
        self, EMBRYONIC_DEFAULT, ENDED_DEFAULT, EVENTS_MAX, EndedFlow, Event, EventHead,
        FLOWS_DEFAULT, FRAGMENTS_DEFAULT, FlowEntry, HOOKS_MAX, HookCounters, IFINDEX_MAX,
        KEPT_RULES_BYTES, Kept, Meta, POINTS_MAX, Point, RULE_ACTIONS_MAX,
        RULE_ADDRESS_CLASSES_MAX, RULE_NETWORKS_MAX, RULE_PORT_CLASSES_MAX, RULE_PORT_WORDS,
        RULE_SETS, RegisterRow, RulePair, RuleRow, RulesConfig, SERVICES_MAX, ServiceRtt,
        TROUBLES_DEFAULT, Trouble, UNTRACKED_DEFAULT, Untracked,
    },
    parse::{Headers, fragment::FirstFragment},
};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Flow key -> entry of what has proved to be a flow. The programs write; the daemon reads in batches and removes what
/// has ended. Shared by both objects of every namespace. 65,536 x 896 B = 59 MB.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(FLOWS_DEFAULT, 0);

/// The same for what has not, or not yet. 16,384 x 896 B = 15 MB.
#[map]
pub static EMBRYONIC: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(EMBRYONIC_DEFAULT, 0);

/// Flows that ended at once, for the daemon, which takes them out. Full, the flow is lost to history and counts as
/// evicted. 8,192 x 904 B = 7 MB.
#[map]
pub static ENDED: HashMap<EndedFlow, FlowEntry> = HashMap::with_max_entries(ENDED_DEFAULT, 0);

/// Service -> slot. The programs write, the daemon reads. Slot 0 is for services beyond the table's size. 128 x
/// 64 B = 8 kB.
#[map]
pub static SERVICES: HashMap<u32, u32> = HashMap::with_max_entries(SERVICES_MAX, 0);

/// Slot -> round trips, of this CPU. The programs write, the daemon reads. 128 x 3,840 B = 492 kB per CPU.
#[map]
pub static SERVICE_RTT: PerCpuArray<ServiceRtt> = PerCpuArray::with_max_entries(SERVICES_MAX, 0);

/// The slot that was given away last.
#[map]
pub static SERVICE_LAST: Array<u32> = Array::with_max_entries(1, 0);

/// What the layout of all these is. The daemon writes.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// Figures that the kernel does not have. The daemon writes, and its successor goes on from them. 40 B.
#[map]
pub static KEPT: Array<Kept> = Array::with_max_entries(1, 0);

/// The rules in force as they were written. The daemon writes, and its successor reads. 1 MiB.
#[map]
pub static KEPT_RULES: Array<[u8; KEPT_RULES_BYTES]> = Array::with_max_entries(1, 0);

/// Observation point -> its interface. The attacher writes and reads. 128 x 288 B = 37 kB.
#[map]
pub static REGISTER: Array<RegisterRow> = Array::with_max_entries(POINTS_MAX, 0);

/// Datagram -> its ports, for later fragments. The programs write and read. Shared. 4,096 x 128 B = 0.5 MB.
#[map]
pub static FRAGMENTS: LruHashMap<FlowKey, FirstFragment> =
    LruHashMap::with_max_entries(FRAGMENTS_DEFAULT, 0);

/// Observation point x direction -> counters of this CPU. The programs write, the daemon reads. Shared. 256 x
/// 2,112 B = 541 kB per CPU.
#[map]
pub static HOOKS: PerCpuArray<HookCounters> = PerCpuArray::with_max_entries(HOOKS_MAX, 0);

/// Interface index -> observation point. The daemon writes, the programs read. One per namespace, since interface
/// indexes repeat. 65,536 x 8 B = 512 kB.
#[map]
pub static POINTS: Array<Point> = Array::with_max_entries(IFINDEX_MAX + 1, 0);

/// Scratch: what the packet at hand says. 168 B per CPU.
#[map]
pub static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// Scratch: the frame around the packet at hand, for the function that reads what is inside of it. 40 B per CPU.
#[map]
pub static FRAME: PerCpuArray<Frame> = PerCpuArray::with_max_entries(1, 0);

/// Scratch: the key of a flow that ends at once. 56 B per CPU.
#[map]
pub static ENDED_KEY: PerCpuArray<EndedFlow> = PerCpuArray::with_max_entries(1, 0);

/// Scratch: the entry that a new flow starts from, too large for the stack. 800 B per CPU.
#[map]
pub static FLOW_TEMPLATE: PerCpuArray<FlowEntry> = PerCpuArray::with_max_entries(1, 0);

/// Flow key -> what its verdicts need beyond its entry, once something is missing or late. The programs write and read.
/// Shared. 16,384 x 528 B = 9 MB.
#[map]
pub static TROUBLES: LruHashMap<FlowKey, Trouble> =
    LruHashMap::with_max_entries(TROUBLES_DEFAULT, 0);

/// Scratch: what a new one starts from. 416 B per CPU.
#[map]
pub static TROUBLE_TEMPLATE: PerCpuArray<Trouble> = PerCpuArray::with_max_entries(1, 0);

/// CPU and slot -> flagged segments. The programs of that CPU write, the daemon reads it as memory. The daemon sets the
/// number of CPUs. Shared. 4,096 x 104 B = 426 kB per CPU.
#[map]
pub static EVENTS: Array<Event> = Array::with_max_entries(EVENTS_MAX, MMAPABLE);

/// CPU -> how far its log has come. The same. 64 B per CPU.
#[map]
pub static EVENT_HEADS: Array<EventHead> = Array::with_max_entries(1, MMAPABLE);

/// Which rules are in force. The daemon writes, the programs read with each packet. Shared. 16 B.
#[map]
pub static RULES_CONFIG: Array<RulesConfig> = Array::with_max_entries(1, 0);

/// Set and network -> class of its addresses. The daemon writes, the programs find the smallest network around an
/// address. Shared, as all tables of rules. 128 B for each network that a rule names, at most 4,096 x 128 B = 0.5 MB.
#[map]
pub static RULE_NETWORKS: LpmTrie<[u8; 20], u32> =
    LpmTrie::with_max_entries(RULE_SETS * RULE_NETWORKS_MAX, 0);

/// Set and class of an address -> its rows. The daemon writes, the programs read. 4,098 x 256 B = 1.0 MB.
#[map]
pub static RULE_ADDRESSES: Array<RulePair> =
    Array::with_max_entries(RULE_SETS * RULE_ADDRESS_CLASSES_MAX, 0);

/// Set and port / 4 -> the classes of four ports. The daemon writes, the programs read. 32,770 x 8 B = 262 kB.
#[map]
pub static RULE_PORT_CLASSES: Array<u64> = Array::with_max_entries(RULE_SETS * RULE_PORT_WORDS, 0);

/// Set and class of a port -> its rows. The daemon writes, the programs read. 8,196 x 256 B = 2.1 MB.
#[map]
pub static RULE_PORTS: Array<RulePair> =
    Array::with_max_entries(RULE_SETS * RULE_PORT_CLASSES_MAX, 0);

/// Set and protocol -> its row. The daemon writes, the programs read. 512 x 128 B = 66 kB.
#[map]
pub static RULE_PROTOCOLS: Array<RuleRow> =
    Array::with_max_entries(RULE_SETS * layout::RULE_PROTOCOLS, 0);

/// Set, observation point and direction -> their row. The daemon writes, the programs read. 512 x 128 B = 66 kB.
#[map]
pub static RULE_HOOKS: Array<RuleRow> = Array::with_max_entries(RULE_SETS * HOOKS_MAX, 0);

/// Set and rule -> what it says. The daemon writes, the programs read. 2,048 x 8 B = 16 kB.
#[map]
pub static RULE_ACTIONS: Array<u32> = Array::with_max_entries(RULE_SETS * RULE_ACTIONS_MAX, 0);

/// Flow that is not tracked -> what was decided about it. The programs write and read; the daemon empties it when
/// generations come again. Shared. 16,384 x 120 B = 2.0 MB.
#[map]
pub static UNTRACKED: LruHashMap<FlowKey, Untracked> =
    LruHashMap::with_max_entries(UNTRACKED_DEFAULT, 0);

const _: () = assert!(POINTS_MAX * 2 == HOOKS_MAX);
