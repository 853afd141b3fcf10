//! The kernel side of a running daemon. [`Attacher`] holds every privilege and performs a closed set of verbs; the
//! rest only reads maps through descriptors. Nothing outside of this folder names aya.

/// What makes `linnet run` the daemon of an attacher.
pub const HANDED_OVER: &str = "--handed-over";

mod adopt;
mod attach;
mod attacher;
mod batch;
mod carry;
mod chain;
mod error;
mod follower;
mod handover;
mod holders;
mod inspect;
mod keeper;
mod layout;
mod link_pins;
mod links;
mod monitor;
mod namespace;
mod netlink;
mod notices;
mod objects;
mod pins;
mod pod;
mod points;
pub(crate) mod probe;
mod process;
mod qdisc;
mod records;
mod register;
mod remote;
mod rings;
mod rules;
mod sizes;
mod stage;
mod succession;
mod tables;
mod verb;
mod wanted;
pub mod wire;

pub use attacher::Attacher;
#[cfg(test)]
pub(crate) use batch::try_command;
pub use batch::{try_map_create, try_prog_load};
pub use chain::{Chain, ChainLink, name_of as program_name};
pub use error::LiveError;
pub use follower::{Follower, Following, OnDisplaced};
pub use handover::{Estate, Handover, Tables};
pub use holders::{end_holders, end_process, has_ended, kill_process, signal};
pub use inspect::Inspected;
pub use keeper::{Keeper, Kept, SEEN_BEFORE_MAX, SeenBefore};
pub use layout::describe;
pub use objects::{Object, not_built_reason};
pub use pins::{Detached, OnStop, detach};
pub use points::{Points, WatchedPoint};
pub use remote::{Remote, Served, Server, answer, channel, wait_for_end};
pub use rings::CaptureRing;
pub use rules::RuleMaps;
pub use sizes::MapSizes;
pub use succession::{Kinship, Succession, Survivor, close};
pub use tables::{FlowMap, HookMap, ServiceMap, add};
pub use verb::{
    Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, EgressChoice, Hook,
    IngressChoice, ParseAttachError, RuleRequest, StageConfig, Verb, Watching,
};
pub use wanted::{Target, WatchRequest};
pub use wire::{Outcome, Refusal, RefusalKind, WireError};
