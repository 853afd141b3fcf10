//! A capture as the API shows it and as it is kept beside its file. Renders; counts nothing.

use captures::session::Counters;
use serde::{Deserialize, Serialize};

use super::{CaptureId, RequestLimits};

/// One capture.
///
/// `matched` = `written` + the sum of `lost` when it is finished; while it runs the difference is on its way to the
/// file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CaptureView {
    /// Its id.
    pub id: CaptureId,
    /// Whether it runs.
    pub state: CaptureState,
    /// Why it ended: a name of [`captures::StopReason`], or `interrupted` where the daemon ended first.
    pub stop_reason: Option<String>,
    /// What the system said when the file could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The filter; empty for every packet.
    pub filter: String,
    /// The interface, if only one.
    pub interface: Option<String>,
    /// Most bytes of each packet.
    pub snaplen: u32,
    /// When it stops.
    pub limits: RequestLimits,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// Packets in the file; the same as `written`.
    pub packets: u64,
    /// Bytes of the file, whole blocks only.
    pub bytes: u64,
    /// Packets that the filter saw, and those lost before it.
    pub offered: u64,
    /// Packets that the filter let through, and those lost before it, since they might have matched.
    pub matched: u64,
    /// Packets in the file.
    pub written: u64,
    /// Packets that are not in the file though they matched, or might have.
    pub lost: LostView,
    /// Whether `ring` and `copy` are counted before the filter, so that they bound what is missing from above.
    pub lost_before_filter: bool,
}

/// Whether a capture runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureState {
    /// Packets are being taken, or are on their way to the file.
    Running,
    /// The file is as it will stay.
    Finished,
}

/// Where packets were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LostView {
    /// No room in the kernel's ring.
    pub ring: u64,
    /// The kernel did not copy the frame.
    pub copy: u64,
    /// No room in the queue to the file: the disk is slower than the packets.
    pub queue: u64,
    /// The file could not be written.
    pub disk: u64,
}

impl LostView {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ring + self.copy + self.queue + self.disk
    }
}

/// How far a capture is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets that the filter saw, and those lost before it.
    pub offered: u64,
    /// Packets that it let through, and those lost before it.
    pub matched: u64,
    /// Packets in the file.
    pub written: u64,
    /// Bytes of whole blocks in the file.
    pub bytes: u64,
    /// Packets that are in none of them.
    pub lost: LostView,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: String,
    /// RFC 3339.
    pub at: String,
    /// What the system said, if the file was the reason.
    pub error: Option<String>,
}

impl Progress {
    /// The counters of the file's writer. It counts what the kernel lost as one, and what the filter refused not at
    /// all.
    pub(super) fn new(counters: &Counters, refused: u64, copy: u64, bytes: u64) -> Self {
        let lost = LostView {
            ring: counters.lost.ring - copy,
            copy,
            queue: counters.lost.shed,
            disk: counters.lost.disk,
        };
        Self {
            offered: counters.offered + refused,
            matched: counters.matched,
            written: counters.written,
            bytes,
            lost,
            ended: None,
        }
    }
}

impl CaptureView {
    /// The same capture, further on.
    #[must_use]
    pub fn at(&self, progress: &Progress) -> Self {
        let ended = progress.ended.as_ref();
        let running = ended.is_none();
        Self {
            state: if running { CaptureState::Running } else { CaptureState::Finished },
            stop_reason: ended.map(|ended| ended.reason.clone()),
            error: ended.and_then(|ended| ended.error.clone()),
            ended_at: ended.map(|ended| ended.at.clone()),
            packets: progress.written,
            bytes: progress.bytes,
            offered: progress.offered,
            matched: progress.matched,
            written: progress.written,
            lost: progress.lost,
            ..self.clone()
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let ended = match self.state {
            CaptureState::Running => None,
            CaptureState::Finished => Some(Ended {
                reason: self.stop_reason.clone().unwrap_or_default(),
                at: self.ended_at.clone().unwrap_or_default(),
                error: self.error.clone(),
            }),
        };
        Progress {
            offered: self.offered,
            matched: self.matched,
            written: self.written,
            bytes: self.bytes,
            lost: self.lost,
            ended,
        }
    }
}
