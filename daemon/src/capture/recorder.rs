//! The captures that run, their files, and the folder of those before them. Owned by the thread that has the packets: it
//! offers each with [`Recorder::packet`], and calls [`Recorder::turn`] after every batch and, where there are none, every
//! few milliseconds. Never reads a clock.
//!
//! The stage copies what any of them wants. A capture ends in two steps: nothing more is copied for it, and when all that
//! was copied until then has been offered, the final statistics are written. Orders wait meanwhile.

mod running;

use std::sync::{Arc, mpsc};

use captures::{StopReason, session::Loss};
use tokio::sync::watch;

use self::running::{Ending, Running, Then, disk_full};

use super::{
    CAPTURES_MAX, CaptureError, CaptureState, CaptureView, LostView, RawPacket, Stage,
    catalogue::{self, Catalogue},
    manager::{Answer, Order, Readers, Snapshot, Task},
    plan::Plan,
    space::Space,
};
use crate::{
    board::Board,
    clock::Moment,
    flow::view::{RingsView, rfc3339},
    live::StageConfig,
};

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

#[cfg(test)]
mod tests;
