//! Captures: one at a time, from the kernel's stage or a replayed file, through a tcpdump filter into a pcapng file.
//! Never lets a slow disk or a slow reader hold up the kernel's ring, and counts what either of them costs.
//!
//! The way of a packet: a feed ([`reader`], or the replay) hands it to [`CaptureManager::packet`], which filters it and
//! queues what matches; the capture's writer thread encodes it once into the file. Readers, live ones too, follow the
//! file: each goes at its own pace, and a slow one costs nobody anything.
//!
//! What is counted: `matched = written + lost{ring, copy, queue, disk}`. The kernel's stage copies every frame and the
//! filter runs here, so that `ring` and `copy` are lost before the filter and bound what is missing from above.
//!
//! linnet's own HTTP over loopback is captured like everything else where `lo` is watched; a live reader of that capture
//! over TCP feeds it with its own packets until a limit ends it. Read over the unix socket, or add `not port 8470`.

mod error;
mod id;
mod manager;
mod plan;
mod queue;
mod reach;
pub mod reader;
mod repair;
mod request;
mod running;
mod session;
mod store;
mod view;
pub mod vlan;
mod writer;

pub use error::CaptureError;
pub use id::{CAPTURE_ID_LEN, CaptureId, ParseCaptureIdError};
pub use manager::CaptureManager;
pub use queue::QUEUE_BYTES_MAX;
pub use request::{CaptureRequest, RequestLimits};
pub use session::Session;
pub use store::INTERRUPTED;
pub use view::{CaptureState, CaptureView, Ended, LostView, Progress};

use datapath::Link;

use crate::live::StageConfig;

/// Longest capture.
pub const DURATION_MAX_S: u64 = 24 * 3_600;
/// How long a capture runs when nothing is said.
pub const DURATION_DEFAULT_S: u64 = 60;
/// Largest file.
pub const BYTES_MAX: u64 = 16 << 30;
/// Largest file when nothing is said.
pub const BYTES_DEFAULT: u64 = 1 << 30;
/// Captures that are kept, a running one included; the oldest finished one goes first.
pub const CAPTURES_KEPT_MAX: usize = 50;
/// Bytes of finished captures above which the oldest go when a new one starts.
pub const KEPT_BYTES_MAX: u64 = 32 << 30;
/// From one statistics block to the next.
const HEARTBEAT_NS: u64 = 2_000_000_000;

/// Turns the copying of packets on and off.
///
/// Called from requests and from the feed's own thread: it must neither call back nor wait for the feed.
pub trait Stage: Send + Sync {
    /// Copies from now on.
    fn start(&self, config: StageConfig) -> anyhow::Result<()>;
    /// Copies no more.
    fn stop(&self) -> anyhow::Result<()>;
}

/// One packet on its way into a capture.
#[derive(Clone, Copy, Debug)]
pub struct RawPacket<'a> {
    /// When it was seen, CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// The same in Unix ns.
    pub wall_ns: u64,
    /// Observation point.
    pub point: u32,
    /// 0 ingress, 1 egress.
    pub direction: u32,
    /// Bytes on the link, VLAN tag included.
    pub original_len: u32,
    /// What was copied of them, VLAN tag included.
    pub data: &'a [u8],
    /// Receive queue.
    pub queue: u32,
}

/// A link's name as in `/interfaces`.
#[must_use]
pub const fn link_name(link: Link) -> &'static str {
    match link {
        Link::Ethernet => "ethernet",
        Link::RawIp => "raw_ip",
        Link::Null => "null",
        Link::Unsupported => "unsupported",
    }
}
