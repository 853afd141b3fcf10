//! Turning the figures of one sweep into what the board shows. The same for a kernel and for a replayed file.

use std::sync::Arc;

use datapath::layout::HookCounters;

use crate::{
    board::{Board, ClockView, FlowTableView, InterfaceView, ServiceView, StatusView, SweepView},
    clock::Clock,
    flow::{
        table::Departures,
        view::{LedgerView, LossRingsView, LossView, Naming, RingsView, rfc3339},
    },
};

/// Sentences that a status has room for; there is no room for further ones.
const NOTICES_MAX: usize = 32;

/// Frames that may be between the two ends of the pipeline while it is read: one per CPU.
fn in_flight_max() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// Where the rings' balance is to be had; the capture side fills it.
pub type RingsSource = Arc<dyn Fn() -> RingsView + Send + Sync>;

/// Publishes figures, with what does not change from sweep to sweep.
#[derive(Clone)]
pub struct Publisher {
    board: Arc<Board>,
    clock: Arc<Clock>,
    rings: RingsSource,
    mode: &'static str,
    source: &'static str,
    started_at: String,
    /// When the counters began, ns since the epoch.
    since_ns: u64,
    interval_ns: u64,
    notices: Vec<String>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What one sweep found.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The counters of all hooks together.
    pub counters: HookCounters,
    /// The same by interface.
    pub interfaces: Vec<InterfaceView>,
    /// Round trips by service.
    pub services: Vec<ServiceView>,
    /// Names for rows.
    pub naming: Naming,
    /// What is not as it should be at the moment.
    pub notices: Vec<String>,
    /// Flows that left.
    pub departures: Departures,
    /// Flows in the kernel's table.
    pub live: u64,
    /// Flows created less those that are accounted for.
    pub evicted: u64,
    /// Whether that is only a bound, since flows came while the table was read.
    pub approximate: bool,
    /// Records in user space.
    pub records: u64,
    /// Flows that fit into the kernel's table.
    pub capacity: u64,
    /// Embryonic flows that fit into theirs.
    pub embryonic_capacity: u64,
    /// Bytes that it takes.
    pub memory_bytes: u64,
    /// Number of this sweep.
    pub sweeps: u64,
    /// How long it took, ns.
    pub duration_ns: u64,
}

impl Publisher {
    /// A publisher of one mode, `live` or `replay`, for what the kernel's hooks tell.
    #[must_use]
    pub fn new(
        board: Arc<Board>,
        clock: Arc<Clock>,
        rings: RingsSource,
        mode: &'static str,
        interval_ns: u64,
        notices: Vec<String>,
    ) -> Self {
        let now_ns = clock.wall_ns();
        let since_ns = u64::try_from(now_ns).unwrap_or(0);
        let started_at = rfc3339(i128::from(now_ns));
        let source = "ebpf";
        Self { board, clock, rings, mode, source, started_at, since_ns, interval_ns, notices }
    }

    /// Packets that are told of by something else than the kernel's hooks.
    #[must_use]
    pub fn told_by(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    /// Counters that began before this process did.
    #[must_use]
    pub fn counting_since(self, since_ns: u64) -> Self {
        Self { since_ns, ..self }
    }

    /// When the counters began, ns since the epoch.
    #[must_use]
    pub const fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// Says from the next sweep on what else is missing. Returns whether that has not been said before.
    pub fn notice(&mut self, notice: String) -> bool {
        let is_new = self.notices.len() < NOTICES_MAX && !self.notices.contains(&notice);
        if is_new {
            self.notices.push(notice);
        }
        is_new
    }

    /// Where it publishes.
    #[must_use]
    pub const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Puts a sweep's figures onto the board.
    pub fn publish(&self, figures: &Figures) {
        let ledger = LedgerView::new(&figures.counters);
        let balanced = figures.counters.seen.abs_diff(ledger.sum()) <= in_flight_max();
        self.board.naming.publish(figures.naming.clone());
        self.board.interfaces.publish(figures.interfaces.clone());
        self.board.services.publish(figures.services.clone());
        self.board.loss.publish(LossView {
            source: self.source,
            seen: figures.counters.seen,
            ledger,
            contended: figures.counters.contended,
            evicted: figures.evicted,
            approximate: figures.approximate,
            rings: LossRingsView { capture: (self.rings)(), ..LossRingsView::default() },
            since: rfc3339(i128::from(self.since_ns)),
        });
        self.board.status.publish(StatusView {
            mode: self.mode,
            source: self.source,
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel_release(),
            started_at: self.started_at.clone(),
            updated_at: rfc3339(i128::from(self.clock.wall_ns())),
            flows: FlowTableView {
                capacity: figures.capacity,
                embryonic_capacity: figures.embryonic_capacity,
                memory_bytes: figures.memory_bytes,
                live: figures.live,
                created: figures.counters.created,
                closed: figures.departures.closed,
                aged: figures.departures.aged,
                evicted: figures.evicted,
                evicted_met: figures.departures.evicted,
                records: figures.records,
                forgotten: figures.departures.forgotten,
            },
            sweep: SweepView {
                count: figures.sweeps,
                last_duration_ns: figures.duration_ns,
                interval_ns: self.interval_ns,
            },
            clock: ClockView {
                offset_ns: self.clock.offset_ns(),
                error_ns: self.clock.error_ns(),
                steps: self.clock.steps(),
            },
            balanced,
            notices: self.notices.iter().chain(&figures.notices).cloned().collect(),
        });
    }
}

/// The running kernel's release.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}
