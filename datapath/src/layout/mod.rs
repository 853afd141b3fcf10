//! The bytes that kernel and user space share through maps. `repr(C)`, no padding left implicit, no enums.
//!
//! Every change of a layout here is a change of [`ABI_VERSION`].

mod capture;
mod ended;
mod event;
mod flow;
mod histogram;
mod hook;
mod kept;
mod meta;
mod rules;
mod trail;
mod views;

pub use capture::{
    CAPTURE_BYTES_MAX, CAPTURES_MAX, CaptureConfig, CaptureCounts, CaptureGap, CaptureRecord,
    CaptureSlot, CaptureTotals, RECORD_GAP, RECORD_PACKET, STAGE_COPY, STAGE_FILTERS,
    STAGE_PREPARE, STAGE_PROGRAMS, UNKNOWN_HEADER_LEN, VLAN_PRESENT,
};
pub use ended::EndedFlow;
pub use event::{EVENTS_MAX, Event, EventHead};
pub(crate) use flow::Sides;
pub use flow::{
    ANSWERED, EMBRYONIC, Encapsulation, FlowEntry, FlowHead, HANDSHAKE_MEASURED, Half, IcmpErrors,
    OUTSTANDING_MAX, Outstanding, RESTARTED, RTT_BUCKETS, SYN_REPEATED, SYN_SEEN,
    WINDOW_SCALE_NONE, WINDOW_UNKNOWN,
};
pub use histogram::{HISTOGRAM_BUCKETS, RttHistogram, SUB_BUCKETS, ServiceRtt, bucket_ticks};
pub use hook::{HookCounters, Point};
pub use kept::{
    INTERFACE_NAME_BYTES, KEPT_RULES_BYTES, Kept, NAMESPACE_NAME_BYTES, RegisterRow,
    SEEN_BEFORE_MAX, SeenBefore,
};
pub use meta::{LAYOUT_HASH, Meta};
pub use rules::{
    GENERATION_MAX, NO_PORTS, NetworkKey, RULE_ACTIONS_MAX, RULE_ADDRESS_CLASSES_MAX,
    RULE_NETWORKS_MAX, RULE_PORT_CLASSES_MAX, RULE_PORT_WORDS, RULE_PROTOCOLS, RULE_SETS,
    RULE_WORDS, RULES_BYTES, RULES_MAX, RulePair, RuleRow, RulesConfig, UNTRACKED_DEFAULT,
    Untracked, set_of,
};

pub use trail::{
    AGAIN_MAX, Again, HOLES_MAX, Hole, Opened, PASSED_MAX, Passed, TROUBLES_DEFAULT, Trail,
    Trouble, TroubleSide, VERDICTS, VerdictCounts,
};
pub use views::{VIEW_AT_MAX, VIEW_BYTES_MAX, VIEWS, VIEWS_BYTES, Views};

/// Version of every layout in this module; pinned maps of another version are never read.
pub const ABI_VERSION: u32 = 6;

/// Flows in the table unless configured otherwise: 65,536 entries of 896 bytes are 59 MB.
pub const FLOWS_DEFAULT: u32 = 65_536;
/// Embryonic flows in their table unless configured otherwise: 15 MB.
pub const EMBRYONIC_DEFAULT: u32 = 16_384;
/// Flows that ended at once and wait for the next sweep, unless the table of flows is of another size: an eighth of it.
pub const ENDED_DEFAULT: u32 = FLOWS_DEFAULT / 8;
/// Services whose round trips are counted apart; slot 0 is all the others.
pub const SERVICES_MAX: u32 = 128;
/// Most flows that a table may be configured to hold.
pub const FLOWS_MAX: u32 = 4 * 1024 * 1024;
/// Fragmented datagrams whose ports are remembered.
pub const FRAGMENTS_DEFAULT: u32 = 4_096;
/// The most that may be configured.
pub const FRAGMENTS_MAX: u32 = 1024 * 1024;
/// Observation points of one host.
pub const POINTS_MAX: u32 = 128;
/// Greatest interface index that the point table can hold.
pub const IFINDEX_MAX: u32 = 65_535;
/// Slots of the counters' map: each point in both directions.
pub const HOOKS_MAX: u32 = POINTS_MAX * 2;
