//! The kernel side of a running daemon. [`Attacher`] holds every privilege and performs a closed set of verbs; the
//! rest only reads maps through descriptors. Nothing outside of this folder names aya.

/// What makes `linnet run` the daemon of an attacher.
pub const HANDED_OVER: &str = "--handed-over";
/// What makes it, beside that, one that reads sockets.
pub const HANDED_SOCKETS: &str = "--handed-sockets";

mod af_packet;
mod attach;
mod attacher;
mod batch;
mod chain;
mod error;
mod events;
pub mod filters;
mod follow;
mod handover;
mod inspect;
mod namespace;
mod netlink;
mod objects;
mod pinned;
mod pod;
mod points;
pub(crate) mod probe;
mod qdisc;
mod remote;
mod ring;
mod rings;
mod rules;
mod sizes;
mod stage;
mod stage_config;
mod succession;
mod tables;
mod verb;
pub mod wire;

use follow::{links, notices, process, wanted};
use pinned::{adopt, holders, layout, link_pins, records, register};

pub use af_packet::{
    Opened, Packet, PacketBuffer, PacketEstate, PacketHandover, PacketInterface, PacketSocket,
    Received, Standing, no_ebpf, open as open_sockets, refuses_ebpf,
};
pub use attacher::Attacher;
#[cfg(test)]
pub(crate) use batch::try_command;
pub use batch::{try_map_create, try_prog_load};
pub use chain::{Chain, ChainLink, name_of as program_name};
pub use error::LiveError;
pub use events::{EventCounts, EventLog};
pub use follow::wanted::{Target, WatchRequest};
pub use follow::{Follower, Following, OnDisplaced};
pub use handover::{Estate, Handover, Tables};
pub use inspect::Inspected;
pub use objects::{Object, not_built_reason};
pub use pinned::holders::{end_holders, end_process, has_ended, kill_process, signal};
pub use pinned::keeper::{Keeper, Kept, SEEN_BEFORE_MAX, SeenBefore};
pub use pinned::layout::describe;
pub use pinned::{Detached, OnStop, detach, left_in};
pub use points::{Points, WatchedPoint};
pub use remote::{Remote, Served, Server, answer, channel, wait_for_end};
pub use rings::{CaptureCounters, CaptureRings, Captured};
pub use rules::RuleMaps;
pub use sizes::MapSizes;
pub use succession::{Kinship, Succession, Survivor, close};
pub use tables::{FlowMap, HookMap, ServiceMap, add};
pub use verb::{
    Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, EgressChoice, Hook,
    IngressChoice, ParseAttachError, RuleRequest, StageConfig, Verb, Watching,
};
pub use wire::{Outcome, Refusal, RefusalKind, WireError};
