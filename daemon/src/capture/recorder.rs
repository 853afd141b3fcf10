//! The captures that run, their files, and the folder of those before them. Owned by the thread that has the packets: it
//! offers each with [`Recorder::packet`], and calls [`Recorder::turn`] after every batch and, where there are none, every
//! few milliseconds. Never reads a clock.
//!
//! The stage copies what any of them wants. A capture ends in two steps: nothing more is copied for it, and when all that
//! was copied until then has been offered, the final statistics are written. Orders wait meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, mpsc},
};

use captures::{
    Capture, CaptureSpec, CapturedPacket, Direction, InterfaceDescription, Limits, StopReason,
    format::pcapng::SectionHeader,
    session::{self, Loss},
};
use tokio::sync::watch;

use super::{
    CAPTURES_MAX, CaptureError, CaptureState, CaptureView, LostView, RawPacket, Stage,
    catalogue::{self, Catalogue},
    manager::{Answer, Order, Readers, Snapshot, Task},
    plan::{self, Plan},
    space::Space,
};
use crate::{
    board::{Board, InterfaceView},
    clock::Moment,
    flow::view::{RingsView, rfc3339},
    live::{AttachedPoint, StageConfig},
};

/// From one statistics block to the next.
const HEARTBEAT_NS: u64 = 2_000_000_000;
/// How long what was copied may take to come out of the ring.
const DRAIN_MAX_NS: u64 = 5_000_000_000;

/// The running captures, the finished ones, and who may ask for what; see the module.
pub struct Recorder {
    catalogue: Catalogue,
    stage: Box<dyn Stage>,
    board: Arc<Board>,
    orders: mpsc::Receiver<Order>,
    published: watch::Sender<Arc<Snapshot>>,
    readers: Arc<Readers>,
    /// In the order of their starts; at most [`CAPTURES_MAX`].
    running: Vec<Running>,
    /// Who waits until nothing runs any more.
    closing: Option<mpsc::SyncSender<Answer>>,
    rings: RingsView,
}

/// A capture that runs. Invariant: `ending` is set as soon as nothing more is copied for it.
struct Running {
    view: CaptureView,
    /// What the stage has to copy for it.
    config: StageConfig,
    capture: Capture<File>,
    interfaces: HashMap<(u32, u32), u32>,
    /// Points that came since the start and are no part of it, and those that are and are not listed yet: at most as
    /// many as there are points.
    strangers: BTreeSet<u32>,
    fresh: BTreeSet<u32>,
    /// The list of interfaces that was looked at last.
    listed: Option<Arc<Vec<InterfaceView>>>,
    /// Monotonic; packets from here on are part of it.
    start_ns: u64,
    /// Monotonic; packets from here on are no part of it.
    end_ns: u64,
    /// Monotonic.
    heartbeat_ns: u64,
    /// Monotonic; when its live stream had a reader for the last time.
    read_ns: u64,
    ending: Option<Ending>,
}

/// A capture for which nothing more is copied.
struct Ending {
    reason: StopReason,
    /// Records to be read first, since the ring was made; known with the first look at the ring after that.
    until: Option<u64>,
    /// Monotonic; they are not waited for any longer.
    give_up_ns: u64,
    then: Then,
}

/// What follows an end.
enum Then {
    /// It came by itself.
    Nothing,
    Reply(mpsc::SyncSender<Answer>),
    Remove(mpsc::SyncSender<Answer>),
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("dir", &self.catalogue.dir()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new(
        catalogue: Catalogue,
        stage: Box<dyn Stage>,
        board: Arc<Board>,
        orders: mpsc::Receiver<Order>,
        (published, readers): (watch::Sender<Arc<Snapshot>>, Arc<Readers>),
    ) -> Self {
        let (running, closing, rings) = (Vec::new(), None, RingsView::default());
        let recorder =
            Self { catalogue, stage, board, orders, published, readers, running, closing, rings };
        recorder.publish();
        recorder
    }

    /// One packet of the stage, in the order in which they were copied.
    pub fn packet(&mut self, raw: &RawPacket<'_>) {
        for running in &mut self.running {
            running.packet(raw, &*self.stage);
        }
    }

    /// Everything but packets: losses, limits, the file's readers, and orders. `rings` is as of after the last packet.
    pub fn turn(&mut self, now: Moment, rings: RingsView) {
        let lost = rings.lost.saturating_sub(self.rings.lost);
        self.rings = rings;
        self.catalogue.repair_one();
        for running in &mut self.running {
            running.lose(lost);
            running.write(now);
            if let Err(error) = running.keep(now, &self.catalogue) {
                tracing::warn!(%error, "what is known about the running capture was not kept");
            }
        }
        self.end_those_due(now);
        self.finish_those_drained(now);
        while !self.is_ending()
            && let Ok(order) = self.orders.try_recv()
        {
            self.obey(now, order);
        }
        if self.is_idle()
            && let Some(reply) = self.closing.take()
        {
            self.answer(&reply, Ok(None));
        }
        self.publish();
    }

    /// Ends whatever runs, for the daemon's own end: to be followed by turns until [`Recorder::is_idle`].
    pub fn close(&mut self, now: Moment) {
        let ids: Vec<_> = self.running.iter().map(|running| running.view.id.clone()).collect();
        for id in ids {
            self.end(now, &id, StopReason::DaemonStopped, Then::Nothing);
        }
    }

    /// Where interfaces are seen to go, and a panic is told.
    pub(super) const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Whether nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether a capture waits for the last of its packets, so that turns should follow at once.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.running.iter().any(|running| running.ending.is_some())
    }

    fn obey(&mut self, now: Moment, order: Order) {
        let Order { task, reply } = order;
        let runs = |id: &str| self.running.iter().any(|running| running.view.id == id);
        match task {
            Task::Start(plan) => {
                let started = self.start(now, *plan);
                let id = started.as_ref().ok().map(|view| view.id.clone());
                if !self.answer(&reply, started.map(Some))
                    && let Some(id) = id
                {
                    // Who wanted it has given up waiting, and will not stop it.
                    self.end(now, &id, StopReason::UserRequest, Then::Nothing);
                }
            }
            Task::Stop { id, reason } if runs(&id) => {
                self.end(now, &id, reason, Then::Reply(reply));
            }
            Task::Stop { id, .. } => {
                let found = self.catalogue.get(&id).cloned();
                self.answer(&reply, found.map(Some).ok_or(CaptureError::Unknown(id)));
            }
            Task::Remove { id } if runs(&id) => {
                self.end(now, &id, StopReason::UserRequest, Then::Remove(reply));
            }
            Task::Remove { id } => {
                let removed = self.remove(&id);
                self.answer(&reply, removed);
            }
            Task::Shutdown => {
                self.close(now);
                self.closing = Some(reply);
            }
        }
    }

    fn start(&mut self, now: Moment, plan: Plan) -> Result<CaptureView, CaptureError> {
        if self.running.len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany);
        }
        let dir = self.catalogue.dir().to_owned();
        let space = Space::of(&dir).map_err(|error| CaptureError::Failed(error.into()))?;
        if space.is_used_up() {
            return Err(disk_full(dir, space));
        }
        let config = StageConfig {
            snaplen: plan.copied_bytes(),
            deadline_ns: now.monotonic_ns + plan.seconds * 1_000_000_000,
            point: plan.point,
        };
        let view = new_view(now, &plan);
        let begun =
            Running::begin(now, plan, config, view.clone(), &self.catalogue).and_then(|running| {
                self.running.push(running);
                self.stage_all().map_err(|error| {
                    self.running.pop();
                    // It may be on at some of its hooks.
                    self.restage();
                    CaptureError::Failed(error)
                })
            });
        match begun {
            Ok(()) => {
                tracing::info!(id = %view.id, "a capture has started");
                Ok(view)
            }
            Err(error) => {
                self.catalogue.discard(&view.id);
                Err(error)
            }
        }
    }

    /// Lets the stage copy what any of the captures wants that do not end.
    fn stage_all(&self) -> anyhow::Result<()> {
        let copied = self.running.iter().filter(|running| running.ending.is_none());
        match copied.map(|running| running.config).reduce(StageConfig::with) {
            Some(all) => self.stage.start(all),
            None => self.stage.stop(),
        }
    }

    /// The same where nobody is there who could be told.
    fn restage(&self) {
        if let Err(error) = self.stage_all() {
            tracing::error!(%error, "the capture stage was not changed; it ends at its deadline");
        }
    }

    /// Ends captures where there is a reason to.
    fn end_those_due(&mut self, now: Moment) {
        let is_full = !self.running.is_empty()
            && Space::of(self.catalogue.dir()).is_ok_and(|space| space.is_used_up());
        let mut due = Vec::new();
        for running in &mut self.running {
            if self.readers.has(&running.view.id) {
                running.read_ns = now.monotonic_ns;
            }
            running.follow(&self.board);
            let full = is_full.then_some(StopReason::DiskFull);
            if running.ending.is_none()
                && let Some(reason) = running.is_due(now).or(full)
            {
                due.push((running.view.id.clone(), reason));
            }
        }
        for (id, reason) in due {
            self.end(now, &id, reason, Then::Nothing);
        }
    }

    /// Lets nothing more be copied for a capture; what has been is still to come.
    fn end(&mut self, now: Moment, id: &str, reason: StopReason, then: Then) {
        let found = self.running.iter_mut().find(|running| running.view.id == id);
        let Some(running) = found.filter(|running| running.ending.is_none()) else { return };
        let give_up_ns = now.monotonic_ns + DRAIN_MAX_NS;
        running.ending = Some(Ending { reason, until: None, give_up_ns, then });
        self.restage();
    }

    /// Finishes captures when the ring has been read up to what was in it when nothing more was copied for them.
    fn finish_those_drained(&mut self, now: Moment) {
        let rings = self.rings;
        let is_drained = |running: &mut Running| running.is_drained(now, rings);
        let drained: Vec<_> = self.running.extract_if(.., is_drained).collect();
        for running in drained {
            self.finish(now, running);
        }
    }

    fn finish(&mut self, now: Moment, mut running: Running) {
        let Some(ending) = running.ending.take() else { return };
        let left = ending.until.unwrap_or_default().saturating_sub(self.rings.consumed);
        if left > 0 {
            tracing::error!(records = left, "the ring did not give back what was put into it");
            running.capture.lose(None, Loss::Ring, left);
        }
        let view = running.finish(now, ending.reason);
        tracing::info!(id = %view.id, reason = view.stop_reason.map(StopReason::name), "a capture has ended");
        self.catalogue.add(view.clone());
        match ending.then {
            Then::Nothing => {}
            Then::Reply(reply) => {
                self.answer(&reply, Ok(Some(view)));
            }
            Then::Remove(reply) => {
                let removed = self.remove(&view.id);
                self.answer(&reply, removed);
            }
        }
    }

    fn remove(&mut self, id: &str) -> Answer {
        if self.catalogue.get(id).is_none() {
            return Err(CaptureError::Unknown(id.to_owned()));
        }
        self.catalogue.remove(id).map_err(|error| CaptureError::Failed(error.into()))?;
        Ok(None)
    }

    /// Answers, after what the answer says can be read by everyone. Returns whether anyone still waited for it.
    fn answer(&self, reply: &mpsc::SyncSender<Answer>, answer: Answer) -> bool {
        self.publish();
        reply.send(answer).is_ok()
    }

    fn publish(&self) {
        let next = Snapshot {
            running: self.running.iter().map(|running| running.view.clone()).collect(),
            finished: self.catalogue.finished(),
            rings: self.rings,
        };
        self.published.send_if_modified(|current| {
            let differs = **current != next;
            if differs {
                *current = Arc::new(next);
            }
            differs
        });
    }
}

impl Running {
    fn begin(
        now: Moment,
        plan: Plan,
        config: StageConfig,
        mut view: CaptureView,
        catalogue: &Catalogue,
    ) -> Result<Self, CaptureError> {
        let refused = |error: io::Error| {
            if is_full(&error)
                && let Ok(space) = Space::of(catalogue.dir())
            {
                return disk_full(catalogue.dir().to_owned(), space);
            }
            CaptureError::Failed(error.into())
        };
        let file = catalogue.create(&view).map_err(refused)?;
        let spec = CaptureSpec {
            section: SectionHeader {
                application: Some(format!("linnet {}", env!("CARGO_PKG_VERSION"))),
                ..SectionHeader::default()
            },
            interfaces: plan.descriptions,
            filters: plan.filters,
            snaplen: plan.snaplen,
            // Without the duration: the file's times are wall times, which can be stepped.
            limits: Limits {
                packets: view.limits.packets,
                bytes: view.limits.bytes,
                duration_ns: None,
            },
        };
        let capture = Capture::start(spec, file, now.wall_ns()).map_err(|error| match error {
            session::CaptureError::Write(error) => refused(error),
            session::CaptureError::BytesTooFew { .. } => {
                CaptureError::Field { field: "limits.bytes", problem: error.to_string() }
            }
            session::CaptureError::Interfaces { .. } | session::CaptureError::LinkType { .. } => {
                CaptureError::Failed(error.into())
            }
        })?;
        view.bytes = capture.counters().bytes;
        Ok(Self {
            view,
            config,
            capture,
            interfaces: plan.indexes,
            strangers: BTreeSet::new(),
            fresh: BTreeSet::new(),
            listed: None,
            start_ns: now.monotonic_ns,
            end_ns: now.monotonic_ns + plan.seconds * 1_000_000_000,
            heartbeat_ns: now.monotonic_ns,
            read_ns: now.monotonic_ns,
            ending: None,
        })
    }

    fn packet(&mut self, raw: &RawPacket<'_>, stage: &dyn Stage) {
        if raw.seen_ns < self.start_ns || raw.seen_ns >= self.end_ns {
            return;
        }
        let place = (raw.point, raw.direction);
        if !self.interfaces.contains_key(&place) {
            self.join(raw.point, stage);
        }
        let Some(interface) = self.interfaces.get(&place) else { return };
        let mut packet = CapturedPacket::new(raw.wall_ns, raw.data);
        packet.original_len = raw.original_len;
        packet.interface = *interface;
        packet.queue = Some(raw.queue);
        packet.direction = Some(match raw.direction {
            0 => Direction::Inbound,
            _ => Direction::Outbound,
        });
        // Whether the capture has ended with it is seen at the next turn.
        let _offered = self.capture.offer(&packet);
    }

    /// Why it ends, if it does.
    fn is_due(&self, now: Moment) -> Option<StopReason> {
        let over = || (now.monotonic_ns >= self.end_ns).then_some(StopReason::DurationLimit);
        let unread = || self.is_unread(now).then_some(StopReason::Unread);
        let gone = || self.interfaces.is_empty().then_some(StopReason::InterfaceRemoved);
        self.capture.stopped().or_else(over).or_else(unread).or_else(gone)
    }

    /// Whether it ends and all of its packets have come, or are not waited for any longer.
    fn is_drained(&mut self, now: Moment, rings: RingsView) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        let until = *ending.until.get_or_insert_with(|| rings.produced.saturating_sub(rings.lost));
        until <= rings.consumed || now.monotonic_ns >= ending.give_up_ns
    }

    /// An interface has come: a capture of all of them has it from its first packet on.
    fn join(&mut self, point: u32, stage: &dyn Stage) {
        if self.view.interface.is_some() || self.strangers.contains(&point) {
            return;
        }
        let Some(AttachedPoint { request, attached }) = stage.interface(point) else { return };
        let link_type = plan::link_type(attached.link.name());
        for (direction, way, hook) in
            [(0, "ingress", attached.ingress), (1, "egress", attached.egress)]
        {
            let Some(hook) = hook else { continue };
            let mut description = InterfaceDescription::new(link_type, self.view.snaplen);
            description.name = Some(format!("{request}@{}-{way}", hook.hook));
            match self.capture.add_interface(description) {
                Some(index) => {
                    self.interfaces.insert((point, direction), index);
                    self.fresh.insert(point);
                }
                None => {
                    tracing::warn!(interface = %request, way, "no part of the capture: it has no filter for such frames, or no room");
                    self.strangers.insert(point);
                }
            }
        }
    }

    /// Counts what the ring lost since the last turn. What was lost after a limit was reached is no part of the
    /// capture; in the turn in which it was reached that cannot be told apart, and counts.
    fn lose(&mut self, packets: u64) {
        let counts = self
            .ending
            .as_ref()
            .is_none_or(|ending| ending.until.is_none() && self.capture.stopped().is_none());
        if counts && packets > 0 {
            self.capture.lose(None, Loss::Ring, packets);
        }
    }

    /// Brings the file up to date for its readers, with statistics every now and then.
    fn write(&mut self, now: Moment) {
        if self.ending.is_none() && self.beats(now) {
            self.capture.heartbeat(now.wall_ns());
        } else {
            self.capture.flush();
        }
        self.update();
    }

    /// Keeps with each heartbeat what is known so far, for the case that this process is killed.
    fn keep(&mut self, now: Moment, catalogue: &Catalogue) -> io::Result<()> {
        if !self.beats(now) {
            return Ok(());
        }
        self.heartbeat_ns = now.monotonic_ns;
        catalogue.save(&self.view)
    }

    fn beats(&self, now: Moment) -> bool {
        now.monotonic_ns >= self.heartbeat_ns + HEARTBEAT_NS
    }

    fn update(&mut self) {
        let counters = self.capture.counters();
        self.view.offered = counters.offered;
        self.view.matched = counters.matched;
        self.view.written = counters.written;
        self.view.bytes = counters.bytes;
        self.view.lost = counters.lost.into();
    }

    /// Whether its live stream has been without a reader for as long as it may be.
    fn is_unread(&self, now: Moment) -> bool {
        let without_ns = now.monotonic_ns.saturating_sub(self.read_ns);
        self.view.limits.unread_seconds.is_some_and(|most| without_ns >= most * 1_000_000_000)
    }

    /// Lets interfaces go that have gone: their points may be others' from here on.
    fn follow(&mut self, board: &Board) {
        let listed = board.interfaces.latest();
        if self.listed.as_ref().is_some_and(|before| Arc::ptr_eq(before, &listed)) {
            return;
        }
        let present = listed.iter().filter(|interface| interface.is_present());
        let present: BTreeSet<_> = present.map(|interface| interface.point).collect();
        self.fresh.retain(|point| !present.contains(point));
        let is_there = |point: &u32| present.contains(point) || self.fresh.contains(point);
        self.interfaces.retain(|(point, _), _| is_there(point));
        self.strangers.retain(|point| present.contains(point));
        self.listed = Some(listed);
    }

    /// Writes the end of the file, and cuts off what a failed write left behind its last whole block.
    fn finish(self, now: Moment, reason: StopReason) -> CaptureView {
        let mut view = self.view;
        let (summary, file) = self.capture.finish(reason, now.wall_ns());
        if let Some(error) = &summary.error {
            tracing::warn!(id = %view.id, %error, "the capture's file could not be written");
        }
        let cut = file.metadata().and_then(|file_now| {
            if file_now.len() > summary.whole_bytes {
                file.set_len(summary.whole_bytes)
            } else {
                Ok(())
            }
        });
        if let Err(error) = cut {
            tracing::error!(id = %view.id, %error, "the capture's file could not be cut behind its last whole block");
        }
        view.state = CaptureState::Finished;
        view.stop_reason = Some(summary.reason);
        view.ended_at = Some(rfc3339(now.wall_ns().into()));
        view.offered = summary.counters.offered;
        view.matched = summary.counters.matched;
        view.written = summary.counters.written;
        view.bytes = summary.whole_bytes;
        view.lost = summary.counters.lost.into();
        view
    }
}

fn new_view(now: Moment, plan: &Plan) -> CaptureView {
    CaptureView {
        id: catalogue::new_id(now.wall_ns()),
        state: CaptureState::Running,
        stop_reason: None,
        filter: plan.request.filter.clone(),
        strict: plan.request.strict,
        interface: plan.request.interface.clone(),
        snaplen: plan.request.snaplen,
        limits: plan.request.limits,
        started_at: rfc3339(now.wall_ns().into()),
        ended_at: None,
        offered: 0,
        matched: 0,
        written: 0,
        bytes: 0,
        lost: LostView::default(),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn disk_full(dir: PathBuf, space: Space) -> CaptureError {
    let Space { free_bytes, reserve_bytes } = space;
    CaptureError::DiskFull { dir, free_bytes, reserve_bytes }
}

#[cfg(test)]
mod tests;
