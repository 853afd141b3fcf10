//! The captures of this daemon: one that runs, and those that are kept. Never writes a file itself, and holds its lock
//! for no longer than a packet takes: nothing that waits for names, namespaces or disks happens under it.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use captures::{Capture, CaptureSpec, Limits, StopReason, format::pcapng::SectionHeader};
use datapath::layout::CaptureStats;

use super::{
    CAPTURES_KEPT_MAX, CaptureError, CaptureId, CaptureRequest, CaptureView, HEARTBEAT_NS,
    KEPT_BYTES_MAX, RawPacket, Session, Stage,
    plan::Plan,
    queue::{Batch, QUEUE_BYTES_MAX, queue},
    request::Wanted,
    running::Running,
    store::Store,
    view::{CaptureState, LostView},
    writer::Writer,
};
use crate::{
    board::Board,
    clock::Clock,
    flow::view::{RingsView, rfc3339},
    live::StageConfig,
};

/// How long a stop waits for what is still in the kernel's ring.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long a stop waits for the file.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// The captures of this daemon.
pub struct CaptureManager {
    store: Arc<Store>,
    stage: Box<dyn Stage>,
    board: Arc<Board>,
    clock: Arc<Clock>,
    /// Held while a capture is started, so that there is one at a time.
    starting: Mutex<()>,
    inner: Mutex<Inner>,
    /// The running capture was taken out of `inner`.
    ended: Condvar,
}

#[derive(Default)]
struct Inner {
    running: Option<Running>,
    sessions: BTreeMap<CaptureId, Arc<Session>>,
    rings: RingsView,
    stats: CaptureStats,
    /// Whether the feed says when it has read everything; one that never does holds nothing back.
    drains: bool,
}

impl std::fmt::Debug for CaptureManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureManager").field("store", &self.store).finish_non_exhaustive()
    }
}

fn failed(error: impl Into<anyhow::Error>) -> CaptureError {
    CaptureError::Failed(error.into())
}

impl CaptureManager {
    /// Keeps captures in `dir`, where those of earlier daemons are found again.
    pub fn new(
        dir: &Path,
        stage: Box<dyn Stage>,
        board: Arc<Board>,
        clock: Arc<Clock>,
    ) -> io::Result<Self> {
        let store = Arc::new(Store::open(dir)?);
        let earlier = store.earlier()?.into_iter();
        let sessions = earlier.map(|view| (view.id, Arc::new(Session::new(view, 0)))).collect();
        let inner = Mutex::new(Inner { sessions, ..Inner::default() });
        let (starting, ended) = (Mutex::default(), Condvar::new());
        let manager = Self { store, stage, board, clock, starting, inner, ended };
        manager.make_room();
        Ok(manager)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall_ns(&self) -> u64 {
        self.clock.wall_ns().cast_unsigned()
    }

    /// Starts a capture. May take seconds: libpcap asks the system's resolver for names in a filter.
    pub fn start(&self, request: CaptureRequest) -> Result<CaptureView, CaptureError> {
        let wanted = Wanted::try_from(request)?;
        let plan = Plan::new(&wanted, &self.board.interfaces.latest())?;
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        self.reap();
        if let Some(running) = &self.lock().running {
            return Err(CaptureError::Running(running.session.id().to_string()));
        }
        self.make_room();
        let now_ns = self.clock.monotonic_ns();
        let deadline_ns = now_ns.saturating_add(wanted.seconds * 1_000_000_000);
        let config = StageConfig { snaplen: plan.stage_snaplen, deadline_ns, point: plan.point };
        let session = self.open(&wanted, plan, now_ns, deadline_ns)?;
        if let Err(error) = self.stage.start(config) {
            self.forget(&session);
            return Err(failed(error));
        }
        Ok(session.view())
    }

    /// Makes the file and its writer, and takes packets from here on.
    fn open(
        &self,
        wanted: &Wanted,
        plan: Plan,
        now_ns: u64,
        deadline_ns: u64,
    ) -> Result<Arc<Session>, CaptureError> {
        let wall_ns = self.wall_ns();
        let id = CaptureId::new(wall_ns);
        let kernel = self.board.status.latest().kernel.clone();
        let spec = CaptureSpec {
            section: SectionHeader {
                hardware: None,
                os: (!kernel.is_empty()).then(|| format!("Linux {kernel}")),
                application: Some(format!("linnet {}", env!("CARGO_PKG_VERSION"))),
            },
            interfaces: plan.interfaces,
            filter: plan.passed,
            snaplen: wanted.snaplen,
            // The duration is ours: this capture's times are wall times, which may be stepped.
            limits: Limits {
                packets: wanted.packets,
                bytes: Some(wanted.bytes),
                duration_ns: None,
            },
        };
        let file = self.store.create(id).map_err(failed)?;
        let started = self.start_writer(spec, file, facts(id, wanted, wall_ns));
        let (session, into) = started.inspect_err(|_| {
            // The file is empty; where it cannot be removed the next start does it.
            let _left = self.store.remove(id);
        })?;
        let mut inner = self.lock();
        inner.sessions.insert(id, Arc::clone(&session));
        inner.running = Some(Running {
            session: Arc::clone(&session),
            taps: plan.taps,
            point: plan.point,
            snaplen: wanted.snaplen,
            into,
            batch: Batch::default(),
            started_ns: now_ns,
            deadline_ns,
            heartbeat_ns: now_ns + HEARTBEAT_NS,
            stats: inner.stats,
            ending: None,
        });
        Ok(session)
    }

    fn start_writer(
        &self,
        spec: CaptureSpec,
        file: File,
        facts: CaptureView,
    ) -> Result<(Arc<Session>, super::queue::Into), CaptureError> {
        let started_ns = self.wall_ns();
        let capture = Capture::start(spec, file, started_ns).map_err(|error| match error {
            captures::session::CaptureError::BytesTooFew { .. } => {
                CaptureError::Field { field: "limits.bytes", problem: error.to_string() }
            }
            other => failed(other),
        })?;
        let header_bytes = capture.counters().bytes;
        let facts = CaptureView { bytes: header_bytes, ..facts };
        self.store.describe(&facts).map_err(failed)?;
        let session = Arc::new(Session::new(facts, header_bytes));
        let (into, from) = queue(QUEUE_BYTES_MAX);
        let writer = Writer {
            capture,
            from,
            session: Arc::clone(&session),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            refused: 0,
            copy: 0,
        };
        writer.start().map_err(failed)?;
        Ok((session, into))
    }

    /// A capture whose stage did not start was none.
    fn forget(&self, session: &Session) {
        let mut inner = self.lock();
        let running = inner.running.take();
        inner.sessions.remove(&session.id());
        drop(inner);
        if let Some(running) = running {
            running.end(StopReason::DaemonStopped, self.wall_ns());
        }
        session.wait_finished(FINISH_MAX);
        if let Err(error) = self.store.remove(session.id()) {
            tracing::warn!(id = %session.id(), %error, "the file of a capture that did not start stays");
        }
    }

    /// One packet, in order. Packets before the capture's start or of points that it does not watch are ignored.
    pub fn packet(&self, raw: &RawPacket<'_>) {
        let mut inner = self.lock();
        let Some(running) = &mut inner.running else { return };
        if let Some(reason) = running.offer(raw) {
            self.end(inner, reason);
        }
    }

    /// What the stage counted since it was loaded. Call it after each batch, before [`Self::tick`].
    pub fn kernel_stats(&self, stats: CaptureStats) {
        let mut inner = self.lock();
        inner.stats = stats;
        if let Some(running) = &mut inner.running {
            running.lost(stats);
        }
    }

    /// After each batch, and at least every second: sends on what was gathered, and sees what is due.
    pub fn tick(&self, rings: RingsView) {
        let mut inner = self.lock();
        inner.rings = rings;
        let drained = !inner.drains;
        self.look(inner, drained);
    }

    /// Everything that the stage copied so far has been read. A feed that reads from a ring must call this whenever it
    /// finds the ring empty, after [`Self::kernel_stats`]: a capture ends there.
    pub fn idle(&self) {
        let mut inner = self.lock();
        inner.drains = true;
        self.look(inner, true);
    }

    fn look(&self, mut inner: MutexGuard<'_, Inner>, drained: bool) {
        let Some(running) = &mut inner.running else { return };
        let now_ns = self.clock.monotonic_ns();
        let beat = running.beat(now_ns, self.wall_ns());
        let gone = beat && running.point.is_some_and(|point| self.is_gone(point));
        let reason = running.due(now_ns, drained);
        if let Some(reason) = reason.or(gone.then_some(StopReason::InterfaceRemoved)) {
            self.end(inner, reason);
        }
    }

    fn is_gone(&self, point: u32) -> bool {
        let interfaces = self.board.interfaces.latest();
        interfaces.iter().any(|interface| interface.point == point && interface.state == "gone")
    }

    /// Ends the running capture; the file is finished by its writer, later.
    fn end(&self, mut inner: MutexGuard<'_, Inner>, reason: StopReason) {
        let Some(running) = inner.running.take() else { return };
        drop(inner);
        running.end(reason, self.wall_ns());
        self.ended.notify_all();
        self.stop_stage();
    }

    fn stop_stage(&self) {
        if let Err(error) = self.stage.stop() {
            tracing::error!(%error, "the capture stage was not stopped; it ends at its deadline");
        }
    }

    /// Takes a capture out of the way that its writer has ended.
    fn reap(&self) {
        let inner = self.lock();
        if inner.running.as_ref().is_some_and(|running| running.session.is_finished()) {
            self.end(inner, StopReason::UserRequest);
        }
    }

    /// Ends a running capture and waits for its file; one that has ended stays as it is. May take seconds.
    pub fn stop(&self, id: &str, reason: StopReason) -> Result<CaptureView, CaptureError> {
        let session = self.session(id)?;
        self.stop_session(&session, reason);
        Ok(session.view())
    }

    fn stop_session(&self, session: &Session, reason: StopReason) {
        let is_this = |inner: &Inner| {
            inner.running.as_ref().is_some_and(|running| running.session.id() == session.id())
        };
        let mut inner = self.lock();
        if is_this(&inner) && inner.drains {
            if let Some(running) = &mut inner.running {
                running.ending.get_or_insert(reason);
            }
            drop(inner);
            // The stage first, so that the ring runs dry; then the feed ends the capture.
            self.stop_stage();
            let waiting =
                self.ended.wait_timeout_while(self.lock(), DRAIN_MAX, |inner| is_this(inner));
            inner = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
        if is_this(&inner) {
            self.end(inner, reason);
        } else {
            drop(inner);
        }
        if !session.wait_finished(FINISH_MAX) {
            tracing::warn!(id = %session.id(), "the file of a capture is still being written");
        }
    }

    /// Ends whatever runs, and waits for its file.
    pub fn shutdown(&self) {
        let running = self.lock().running.as_ref().map(|running| Arc::clone(&running.session));
        if let Some(session) = running {
            self.stop_session(&session, StopReason::DaemonStopped);
        }
    }

    /// One capture, to read it or to follow it.
    pub fn session(&self, id: &str) -> Result<Arc<Session>, CaptureError> {
        let unknown = || CaptureError::Unknown(id.to_owned());
        let known = id.parse().map_err(|_| unknown())?;
        self.lock().sessions.get(&known).cloned().ok_or_else(unknown)
    }

    /// One capture.
    pub fn get(&self, id: &str) -> Result<CaptureView, CaptureError> {
        Ok(self.session(id)?.view())
    }

    /// Every capture, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<CaptureView> {
        self.lock().sessions.values().rev().map(|session| session.view()).collect()
    }

    /// Removes a capture and its file; a running one ends first. May take seconds.
    pub fn remove(&self, id: &str) -> Result<(), CaptureError> {
        let session = self.session(id)?;
        self.stop_session(&session, StopReason::UserRequest);
        self.lock().sessions.remove(&session.id());
        self.store.remove(session.id()).map_err(failed)
    }

    /// The file of a capture; what is whole of it is in the session's view.
    pub fn open_file(&self, session: &Session) -> Result<File, CaptureError> {
        self.store.read(session.id()).map_err(failed)
    }

    /// What became of the ring's records.
    #[must_use]
    pub fn rings(&self) -> RingsView {
        self.lock().rings
    }

    /// Removes the oldest finished captures until one more fits.
    fn make_room(&self) {
        let mut inner = self.lock();
        let views: Vec<_> = inner.sessions.values().map(|session| session.view()).collect();
        let (mut count, mut bytes) =
            (views.len(), views.iter().map(|view| view.bytes).sum::<u64>());
        let mut removed = Vec::new();
        for view in views.iter().filter(|view| view.state == CaptureState::Finished) {
            if count < CAPTURES_KEPT_MAX && bytes <= KEPT_BYTES_MAX {
                break;
            }
            (count, bytes) = (count - 1, bytes - view.bytes);
            inner.sessions.remove(&view.id);
            removed.push(view.id);
        }
        drop(inner);
        for id in removed {
            match self.store.remove(id) {
                Ok(()) => tracing::info!(%id, "the oldest capture was removed to make room"),
                Err(error) => tracing::warn!(%id, %error, "an old capture cannot be removed"),
            }
        }
    }
}

/// What does not change about a capture, and nothing counted yet.
fn facts(id: CaptureId, wanted: &Wanted, wall_ns: u64) -> CaptureView {
    CaptureView {
        id,
        state: CaptureState::Running,
        stop_reason: None,
        error: None,
        filter: wanted.filter.clone(),
        interface: wanted.interface.clone(),
        snaplen: wanted.snaplen.bytes(),
        limits: wanted.limits(),
        started_at: rfc3339(i128::from(wall_ns)),
        ended_at: None,
        packets: 0,
        bytes: 0,
        offered: 0,
        matched: 0,
        written: 0,
        lost: LostView::default(),
        lost_before_filter: true,
    }
}
