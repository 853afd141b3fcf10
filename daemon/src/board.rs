//! What the daemon's parts publish for its readers: the latest whole picture of each, replaced at every sweep.
//! Readers never wait for the kernel, and writers never wait for readers beyond a pointer swap.

use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

use crate::flow::view::{LedgerView, LossView, Naming};

/// One value that is replaced as a whole.
#[derive(Debug, Default)]
pub struct Published<T>(RwLock<Arc<T>>);

impl<T> Published<T> {
    /// Replaces the value.
    pub fn publish(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }

    /// The value as of now.
    #[must_use]
    pub fn latest(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Everything that is published.
#[derive(Debug, Default)]
pub struct Board {
    /// Names of observation points, and the offset to wall time.
    pub naming: Published<Naming>,
    /// The loss block of all points together.
    pub loss: Published<LossView>,
    /// What linnet is attached to.
    pub interfaces: Published<Vec<InterfaceView>>,
    /// The daemon itself.
    pub status: Published<StatusView>,
}

/// One interface that linnet watches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InterfaceView {
    /// Name, with `namespace/` in front where it is not in the daemon's own.
    pub name: String,
    /// Its namespace's name; absent for the daemon's own.
    pub namespace: Option<String>,
    /// Interface index in that namespace.
    pub ifindex: u32,
    /// Observation point id.
    pub point: u32,
    /// `ethernet`, `raw_ip` or `unsupported`.
    pub link: &'static str,
    /// Whether it is up and attached (`attached`) or has gone (`gone`).
    pub state: &'static str,
    /// What feeds each direction.
    pub ingress: Option<AttachmentView>,
    /// What feeds each direction.
    pub egress: Option<AttachmentView>,
}

impl InterfaceView {
    /// `state` of an interface that is not there any more.
    pub const GONE: &'static str = "gone";

    /// Whether it is still there.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.state != Self::GONE
    }
}

/// One direction of an interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AttachmentView {
    /// `xdp`, `xdp-generic`, `tcx` or `clsact`.
    pub hook: String,
    /// Why this one was chosen.
    pub reason: String,
    /// Id of the program in the kernel.
    pub program_id: Option<u32>,
    /// Frames that entered the datapath here.
    pub seen: u64,
    /// Wire packets that those of known flows stand for.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Whether `packets` can fall short of the wire's: generic XDP runs after receive offload.
    pub packets_approximate: bool,
    /// Those frames by what was counted about them.
    pub ledger: LedgerView,
}

/// The daemon's own state.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StatusView {
    /// `live` (kernel datapath) or `replay` (a capture file in real time).
    pub mode: &'static str,
    /// Version of linnet.
    pub version: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; when the figures here were taken.
    pub updated_at: String,
    /// The kernel's flow table.
    pub flows: FlowTableView,
    /// Reading that table.
    pub sweep: SweepView,
    /// The clock that turns kernel times into wall times.
    pub clock: ClockView,
    /// `seen` equals the sum of the ledger, but for frames in flight while it was read (at most one per CPU).
    pub balanced: bool,
    /// Sentences about what is missing or limited in this mode, and what to do.
    pub notices: Vec<String>,
}

/// The kernel's flow table and what became of its flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FlowTableView {
    /// Entries that fit.
    pub capacity: u64,
    /// Bytes of kernel memory that it takes.
    pub memory_bytes: u64,
    /// Flows in it as of the last sweep.
    pub live: u64,
    /// Flows ever created.
    pub created: u64,
    /// Flows that closed.
    pub closed: u64,
    /// Flows idle for too long.
    pub aged: u64,
    /// Flows that left without having ended.
    pub evicted: u64,
    /// Records kept in user space, live and ended.
    pub records: u64,
    /// Records dropped before their time, because there were too many.
    pub forgotten: u64,
}

/// Reading the kernel's table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SweepView {
    /// Sweeps done.
    pub count: u64,
    /// How long the last one took, ns.
    pub last_duration_ns: u64,
    /// Configured interval, ns.
    pub interval_ns: u64,
}

/// How kernel time becomes wall time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClockView {
    /// Wall time minus monotonic time, ns.
    pub offset_ns: i64,
    /// Bound of the error of that offset, ns.
    pub error_ns: u64,
    /// Steps of the wall clock seen since the start.
    pub steps: u64,
}
