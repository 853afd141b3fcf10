//! Captures: from the kernel's stage, or a replayed file, each through a tcpdump filter into a pcapng file.
//! Readers follow the file, so that none of them can hold up the writer or another reader.
//!
//! The thread that has the packets owns the [`Recorder`], and with it the file; [`CaptureManager`] is what others
//! hold. It sends orders and reads what the recorder has published, so that nobody waits for a disk but who must.
//! A disk that is too slow shows as loss at the kernel's ring, counted by the kernel: there is no second queue.

mod catalogue;
mod explain;
mod manager;
mod plan;
pub mod reader;
mod recorder;
mod space;
mod stage_orders;
pub mod vlan;

use std::path::PathBuf;

use captures::{FilterError, StopReason, session::Lost};
use datapath::layout::{CAPTURE_BYTES_MAX, CaptureCounts};
use serde::{Deserialize, Serialize};

pub use catalogue::{HostLimits, KEPT_BYTES_MAX, KEPT_MAX};
pub use explain::{FilterLink, FilterRequest, FilterView, explain};
pub use manager::{CaptureManager, Reading, Snapshot, open};
pub use recorder::Recorder;

use crate::live::{AttachedPoint, StageConfig};

/// Captures that may run at a time.
pub const CAPTURES_MAX: usize = 64;
/// Longest capture.
pub const DURATION_MAX_S: u64 = 24 * 3_600;
/// How long a capture runs when nothing is said.
pub const DURATION_DEFAULT_S: u64 = 60;
/// Largest file.
pub const BYTES_MAX: u64 = 16 << 30;

/// What copies packets for captures, each of which has a slot: a number below [`CAPTURES_MAX`].
pub trait Stage: Send + Sync {
    /// Copies this from here on for the capture of a slot, without a gap in what it copies for others.
    fn start(&self, slot: u8, config: StageConfig) -> anyhow::Result<()>;
    /// Copies and counts nothing more for that capture after this has returned.
    fn stop(&self, slot: u8) -> anyhow::Result<()>;
    /// What it has counted for a slot, also for those before; `None` where it counts nothing, and every packet is offered
    /// to every capture.
    fn counts(&self, _slot: u8) -> Option<CaptureCounts> {
        None
    }
    /// Whether orders take no time, so that they may be waited for.
    fn is_prompt(&self) -> bool {
        false
    }
    /// The interface that an observation point stands for, where it has come since the start.
    fn interface(&self, _point: u32) -> Option<AttachedPoint> {
        None
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// tcpdump's filter language; absent or empty for every packet.
    #[serde(default)]
    pub filter: String,
    /// Whether frames are filtered as they are on the wire, rather than through tags and into a tunnel.
    #[serde(default)]
    pub strict: bool,
    /// Interface as in `/interfaces`; absent for all.
    #[serde(default)]
    pub interface: Option<String>,
    /// Most bytes of each packet.
    #[serde(default = "default_snaplen")]
    pub snaplen: u32,
    /// Most bytes of each packet behind its headers; absent for all.
    #[serde(default)]
    pub payload_bytes: Option<u32>,
    /// When to stop.
    #[serde(default)]
    pub limits: RequestLimits,
}

/// What the kernel's stage copies at most.
const fn default_snaplen() -> u32 {
    const _: () = assert!(CAPTURE_BYTES_MAX == 65_536);
    65_536
}

/// When to stop; whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    /// Packets written.
    pub packets: Option<u64>,
    /// Bytes of the file.
    pub bytes: Option<u64>,
    /// Seconds.
    pub seconds: Option<u64>,
    /// Seconds without a reader of the live stream.
    #[serde(default)]
    pub unread_seconds: Option<u64>,
}

/// Whether a capture still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureState {
    /// It does.
    Running,
    /// It does not.
    Finished,
}

/// One capture as the API shows it, and as it is kept beside its file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CaptureView {
    /// Its id.
    pub id: String,
    /// Whether it runs.
    pub state: CaptureState,
    /// Why it ended.
    #[serde(with = "reason")]
    pub stop_reason: Option<StopReason>,
    /// The filter.
    pub filter: String,
    /// Whether frames are filtered as they are on the wire.
    #[serde(default)]
    pub strict: bool,
    /// The interface, if only one.
    pub interface: Option<String>,
    /// Most bytes of each packet.
    pub snaplen: u32,
    /// Most bytes of each packet behind its headers.
    #[serde(default)]
    pub payload_bytes: Option<u32>,
    /// When it stops.
    pub limits: RequestLimits,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// Packets that were filtered here or matched in the kernel, and those that were lost.
    pub offered: u64,
    /// Packets that matched.
    pub matched: u64,
    /// Packets in the file.
    pub written: u64,
    /// Bytes of whole blocks in the file: as far as it may be read.
    pub bytes: u64,
    /// Packets that are not in the file though they were wanted, or may have been. Invariant: `matched` is `written`
    /// and all of these.
    pub lost: LostView,
}

/// Why packets are not in the file: the keys are always these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LostView {
    /// They did not reach the daemon: no room in the kernel's ring, or the kernel refused to copy their bytes.
    pub ring: u64,
    /// The capture's budget in the kernel was spent.
    pub budget: u64,
    /// Left out under load.
    pub shed: u64,
    /// The file could not be written.
    pub disk: u64,
    /// A live reader was too slow.
    pub reader: u64,
}

impl From<Lost> for LostView {
    fn from(lost: Lost) -> Self {
        let Lost { ring, budget, shed, disk, reader } = lost;
        Self { ring, budget, shed, disk, reader }
    }
}

impl LostView {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ring + self.budget + self.shed + self.disk + self.reader
    }
}

/// Why a capture cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No room for one more.
    #[error(
        "{CAPTURES_MAX} captures are running, which is the most; stop one first, or wait until one ends"
    )]
    TooMany,
    /// The filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A value is out of bounds.
    #[error("`{field}`: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// No such capture.
    #[error("there is no capture `{0}`; it may have been removed to make room")]
    Unknown(String),
    /// The disk has no room.
    #[error(
        "there is no room for a capture: `{dir}` has {free_bytes} bytes free, of which linnet leaves {reserve_bytes} \
         to others; delete captures or other files there",
        dir = dir.display()
    )]
    DiskFull {
        /// Where captures are kept.
        dir: PathBuf,
        /// Bytes that could be written there.
        free_bytes: u64,
        /// Bytes that captures leave free.
        reserve_bytes: u64,
    },
    /// The recorder does not answer.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The kernel or the disk refused.
    #[error("the capture failed: {0:#}")]
    Failed(anyhow::Error),
}

/// One packet on its way into a capture.
#[derive(Clone, Copy, Debug)]
pub struct RawPacket<'a> {
    /// When it was seen, CLOCK_MONOTONIC ns: whether it is part of a capture.
    pub seen_ns: u64,
    /// Its time in the file, unix ns.
    pub wall_ns: u64,
    /// Observation point.
    pub point: u32,
    /// 0 ingress, 1 egress.
    pub direction: u32,
    /// Bytes on the link.
    pub original_len: u32,
    /// What was copied.
    pub data: &'a [u8],
    /// Receive queue.
    pub queue: u32,
    /// Bytes of its headers.
    pub header_len: u32,
    /// Its number, where it has one.
    pub packet_id: Option<u64>,
    /// The slots of the captures that have chosen it, a bit each; `None` where it has not been filtered yet.
    pub chosen: Option<u64>,
}

/// Reasons by their names.
mod reason {
    use captures::StopReason;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        reason: &Option<StopReason>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        reason.map(StopReason::name).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<StopReason>, D::Error> {
        let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let reason = StopReason::from_name(&name);
        reason.map(Some).ok_or_else(|| D::Error::custom(format!("no stop reason `{name}`")))
    }
}
