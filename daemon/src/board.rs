//! What the daemon's parts publish for its readers: the latest whole picture of each, replaced at every sweep.
//! Readers never wait for the kernel, and writers never wait for readers beyond a pointer swap.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock, PoisonError, RwLock, atomic::AtomicBool},
    thread,
};

use captures::LinkType;
use datapath::layout::ServiceRtt;
use serde::Serialize;

use crate::{
    flow::{
        LatencySummary,
        view::{LedgerView, LossView, Naming, protocol_name},
    },
    live::ChainLink,
};

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
    /// Round trips by service.
    pub services: Published<Vec<ServiceView>>,
    /// The daemon itself.
    pub status: Published<StatusView>,
    /// The part of the daemon whose thread has panicked, the first of them if several have.
    pub dead: OnceLock<&'static str>,
    /// The attacher has died, and there is no other yet.
    pub attacher_gone: AtomicBool,
}

/// Stands on a worker thread's stack, so that its panic is known: the figures that it would publish stand still.
#[derive(Debug)]
pub struct Watched {
    board: Arc<Board>,
    part: &'static str,
}

impl Watched {
    /// To be held for as long as the thread works.
    #[must_use]
    pub const fn new(board: Arc<Board>, part: &'static str) -> Self {
        Self { board, part }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                part = self.part,
                "panicked: what it feeds stands still; restart linnet"
            );
            // The first to die is the one to look into.
            let _earlier = self.board.dead.set(self.part);
        }
    }
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
    /// What its frames start with: `ethernet`, `raw_ip`, ...
    pub link: &'static str,
    /// The same as capture files say it.
    #[serde(skip)]
    pub link_type: LinkType,
    /// Whether linnet is attached (`attached`), was taken off by another tool (`displaced`), or the interface has gone
    /// or is not watched any more (`gone`).
    pub state: &'static str,
    /// What feeds each direction.
    pub ingress: Option<AttachmentView>,
    /// What feeds each direction.
    pub egress: Option<AttachmentView>,
    /// Frames seen by interfaces that had the name before, by direction: metrics do not go back.
    #[serde(skip)]
    pub seen_before: [u64; 2],
}

impl InterfaceView {
    /// `state` of an interface that is not there any more.
    pub const GONE: &'static str = "gone";
    /// `state` of an interface that linnet was taken off.
    pub const DISPLACED: &'static str = "displaced";

    /// Whether it is still there.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.state != Self::GONE
    }
}

/// One direction of an interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AttachmentView {
    /// `xdp`, `xdp-generic`, `tcx` or `clsact`; `af_packet` for a socket, `replay` for a file.
    pub hook: String,
    /// Why this one was chosen.
    pub reason: String,
    /// Id of the program in the kernel.
    pub program_id: Option<u32>,
    /// Another tool has taken it off its hook.
    pub displaced: bool,
    /// What is on the hooks of this direction, in the order in which packets meet it.
    pub chain: Vec<ChainLink>,
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
    /// Round trips that were completed here. Those of acknowledgments received are of what lies beyond the interface,
    /// those of acknowledgments sent are of this side of it.
    pub rtt: LatencySummary,
}

/// Round trips of the connections to one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServiceView {
    /// The protocol's name; absent for all services that have no line of their own.
    pub protocol: Option<Cow<'static, str>>,
    /// The responders' port; absent as above.
    pub port: Option<u16>,
    /// On data that originators sent: the way to the service and back.
    pub from_originator: LatencySummary,
    /// On data that the service sent: the way to its originators and back.
    pub from_responder: LatencySummary,
}

impl ServiceView {
    /// What is known of a service ([`datapath::service`]).
    #[must_use]
    pub fn new(service: Option<u32>, round_trips: &ServiceRtt) -> Self {
        let parts = service.map(datapath::service::parts);
        Self {
            protocol: parts.map(|(protocol, _)| protocol_name(protocol)),
            port: parts.map(|(_, port)| port),
            from_originator: LatencySummary::of(&round_trips.from_originator),
            from_responder: LatencySummary::of(&round_trips.from_responder),
        }
    }
}

/// The daemon's own state.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StatusView {
    /// `live` (this host's interfaces) or `replay` (a capture file in real time).
    pub mode: &'static str,
    /// What tells of packets: `ebpf` (the kernel's hooks), `af_packet` (sockets) or `replay`.
    pub source: &'static str,
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
    /// Entries that fit into the table of embryonic flows.
    pub embryonic_capacity: u64,
    /// Bytes of kernel memory that all of them take.
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
    /// Those of them that a sweep had met: counted one by one, while `evicted` is a difference.
    pub evicted_met: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_known_and_one_that_ends_is_not_dead() {
        let board = Arc::new(Board::default());
        let work = |part, work: fn()| {
            let board = Arc::clone(&board);
            let thread = thread::spawn(move || {
                let _watched = Watched::new(board, part);
                work();
            });
            thread.join().is_ok()
        };
        assert!(work("one", || {}) && board.dead.get().is_none());
        assert!(!work("another", || panic!("as wanted")));
        assert!(!work("a third", || panic!("as wanted")));
        assert_eq!(board.dead.get(), Some(&"another"));
    }
}
