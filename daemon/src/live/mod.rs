//! The kernel side of a running daemon. [`Attacher`] holds every privilege and performs a closed set of verbs; the
//! rest only reads maps through descriptors. Nothing outside of this folder names aya.

mod attach;
mod attacher;
mod batch;
mod chain;
mod error;
mod follower;
mod inspect;
mod links;
mod monitor;
mod namespace;
mod netlink;
mod notices;
mod objects;
mod pins;
mod pod;
mod points;
mod qdisc;
mod records;
mod rings;
mod rules;
mod sizes;
mod stage;
mod tables;
mod verb;
mod wanted;

pub use attacher::Attacher;
pub use chain::{Chain, ChainLink};
pub use error::LiveError;
pub use follower::{Follower, Following, OnDisplaced};
pub use objects::{Object, not_built_reason};
pub use pins::{Detached, detach};
pub use points::{Points, WatchedPoint};
pub use rings::CaptureRing;
pub use rules::RuleMaps;
pub use sizes::MapSizes;
pub use tables::{FlowMap, HookMap, ServiceMap, add};
pub use verb::{
    Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, EgressChoice, Hook,
    IngressChoice, ParseAttachError, RuleRequest, StageConfig, Verb,
};
pub use wanted::{Target, WatchRequest};
