//! The captures that run, their files, and the folder of those before them. Owned by the thread that has the packets: it
//! offers each with [`Recorder::packet`], and calls [`Recorder::turn`] after every batch and, where there are none, every
//! few milliseconds. Never reads a clock.
//!
//! The stage copies a packet once for all that want it, and says for which. A capture ends in two steps: nothing more is
//! copied for it, and when all that was copied until then has been offered, the final statistics are written.

mod running;

use std::sync::{Arc, mpsc};

use captures::{StopReason, session::Loss};
use tokio::sync::watch;

use self::running::{Ending, Running, Then, disk_full};

use super::{
    CAPTURES_MAX, CaptureError, CaptureState, CaptureView, LostView, RawPacket,
    catalogue::{self, Catalogue},
    manager::{Answer, Order, Readers, Snapshot, Task},
    plan::Plan,
    space::Space,
    stage_orders::{Done, StageOrders},
};
use crate::{
    board::Board,
    clock::Moment,
    flow::view::{RingsView, rfc3339},
};

/// The running captures, the finished ones, and who may ask for what; see the module.
pub struct Recorder {
    catalogue: Catalogue,
    stage: StageOrders,
    board: Arc<Board>,
    orders: mpsc::Receiver<Order>,
    published: watch::Sender<Arc<Snapshot>>,
    readers: Arc<Readers>,
    /// In the order of their starts; at most [`CAPTURES_MAX`].
    running: Vec<Running>,
    /// Where in that list the capture of a slot is.
    places: [Option<usize>; CAPTURES_MAX],
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
        stage: StageOrders,
        board: Arc<Board>,
        orders: mpsc::Receiver<Order>,
        (published, readers): (watch::Sender<Arc<Snapshot>>, Arc<Readers>),
    ) -> Self {
        let recorder = Self {
            catalogue,
            stage,
            board,
            orders,
            published,
            readers,
            running: Vec::new(),
            places: [None; CAPTURES_MAX],
            closing: None,
            rings: RingsView::default(),
        };
        recorder.publish();
        recorder
    }

    /// One packet of the stage, in the order in which they were copied.
    pub fn packet(&mut self, raw: &RawPacket<'_>) {
        let stage = self.stage.stage();
        let Some(mut chosen) = raw.chosen else {
            self.running.iter_mut().for_each(|running| running.packet(raw, stage));
            return;
        };
        while chosen != 0 {
            let slot = chosen.trailing_zeros() as usize;
            chosen &= chosen - 1;
            if let Some(running) = self.places[slot].and_then(|place| self.running.get_mut(place)) {
                running.packet(raw, stage);
            }
        }
    }

    /// Packets that found the ring full, by slot, before those that come next.
    pub fn gap(&mut self, lost: &[u32; CAPTURES_MAX]) {
        for running in &mut self.running {
            running.gap(lost[usize::from(running.slot)], self.stage.stage());
        }
    }

    /// Everything but packets: losses, limits, the file's readers, and orders. `rings` is as of after the last packet.
    pub fn turn(&mut self, now: Moment, rings: RingsView) {
        let lost = rings.lost.saturating_sub(self.rings.lost);
        self.rings = rings;
        self.catalogue.repair_one();
        self.take_note(now);
        for running in &mut self.running {
            running.lose(lost, rings, self.stage.stage());
            running.write(now);
            if let Err(error) = running.keep(now, &self.catalogue) {
                tracing::warn!(%error, "what is known about the running capture was not kept");
            }
        }
        self.end_those_due(now);
        self.finish_those_drained(now);
        while let Ok(order) = self.orders.try_recv() {
            self.obey(now, order);
        }
        // Where the stage takes no time.
        self.take_note(now);
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

    /// Whether a capture waits for the stage or the last of its packets, so that turns should follow at once.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.running.iter().any(|it| it.ending.is_some() || it.starting.is_some())
    }

    fn obey(&mut self, now: Moment, order: Order) {
        let Order { task, reply } = order;
        let runs = |id: &str| self.running.iter().any(|running| running.view.id == id);
        match task {
            Task::Start(plan) => {
                if let Err(error) = self.start(now, *plan, &reply) {
                    self.answer(&reply, Err(error));
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

    /// Begins a capture; who wants it is answered once the stage copies for it.
    fn start(
        &mut self,
        now: Moment,
        plan: Plan,
        reply: &mpsc::SyncSender<Answer>,
    ) -> Result<(), CaptureError> {
        let is_free = |slot: &u8| self.running.iter().all(|running| running.slot != *slot);
        let slots = 0..u8::try_from(CAPTURES_MAX).unwrap_or(u8::MAX);
        let slot = slots.into_iter().find(is_free).ok_or(CaptureError::TooMany)?;
        let dir = self.catalogue.dir().to_owned();
        let space = Space::of(&dir).map_err(|error| CaptureError::Failed(error.into()))?;
        if space.is_used_up() {
            return Err(disk_full(dir, space));
        }
        let config = plan.stage_config(now.monotonic_ns);
        let view = new_view(now, &plan);
        let id = view.id.clone();
        let counted = (slot, self.stage.stage().counts(slot));
        let mut running = Running::begin(now, plan, counted, view, &self.catalogue)
            .inspect_err(|_| self.catalogue.discard(&id))?;
        running.starting = Some(reply.clone());
        self.running.push(running);
        self.place();
        self.stage.start(slot, config);
        Ok(())
    }

    /// Looks at what has become of orders to the stage.
    fn take_note(&mut self, now: Moment) {
        while let Some(done) = self.stage.done() {
            match done {
                Done::Started(slot, started) => self.started(now, slot, started),
                Done::Stopped(slot, stopped) => {
                    if let Err(error) = stopped {
                        tracing::error!(%error, "the capture stage was not changed; it ends at its deadline");
                    }
                    if let Some(running) = self.at(slot)
                        && let Some(ending) = &mut running.ending
                    {
                        ending.is_off = true;
                    }
                }
            }
        }
    }

    fn at(&mut self, slot: u8) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.slot == slot)
    }

    /// After any change of the list.
    fn place(&mut self) {
        self.places = [None; CAPTURES_MAX];
        for (place, running) in self.running.iter().enumerate() {
            self.places[usize::from(running.slot)] = Some(place);
        }
    }

    fn started(&mut self, now: Moment, slot: u8, started: anyhow::Result<()>) {
        let Some(place) = self.running.iter().position(|running| running.slot == slot) else {
            return;
        };
        let Some(reply) = self.running[place].starting.take() else { return };
        match started {
            Ok(()) => {
                let view = self.running[place].view.clone();
                let id = view.id.clone();
                tracing::info!(%id, "a capture has started");
                if !self.answer(&reply, Ok(Some(view))) {
                    // Who wanted it has given up waiting, and will not stop it.
                    self.end(now, &id, StopReason::UserRequest, Then::Nothing);
                }
            }
            Err(error) => {
                let running = self.running.remove(place);
                self.place();
                self.catalogue.discard(&running.view.id);
                self.answer(&reply, Err(CaptureError::Failed(error)));
                // Who wanted its end has it.
                for then in running.ending.into_iter().flat_map(|ending| ending.then) {
                    if let Then::Reply(reply) | Then::Remove(reply) = then {
                        self.answer(&reply, Err(CaptureError::Unknown(running.view.id.clone())));
                    }
                }
            }
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
        let Some(running) = found else { return };
        if let Some(ending) = &mut running.ending {
            // It ends already; the first reason holds, and one more waits for it.
            ending.also(then);
            return;
        }
        running.ending = Some(Ending {
            reason,
            is_off: false,
            until: None,
            read: self.rings.consumed,
            read_ns: now.monotonic_ns,
            then: vec![then],
        });
        self.stage.stop(running.slot);
        self.take_note(now);
    }

    /// Finishes captures when all has come that was copied for them.
    fn finish_those_drained(&mut self, now: Moment) {
        let (rings, stage) = (self.rings, self.stage.stage());
        let is_drained = |running: &mut Running| {
            running.starting.is_none() && running.is_drained(now, rings, stage)
        };
        let drained: Vec<_> = self.running.extract_if(.., is_drained).collect();
        self.place();
        for running in drained {
            self.finish(now, running);
        }
    }

    fn finish(&mut self, now: Moment, mut running: Running) {
        let left = running.left(self.rings);
        // What was lost between the last look and the stage's end.
        running.lose(0, self.rings, self.stage.stage());
        let Some(ending) = running.ending.take() else { return };
        if left > 0 {
            tracing::error!(records = left, "the ring did not give back what was put into it");
            running.capture.lose(None, Loss::Ring, left);
        }
        let view = running.finish(now, ending.reason);
        tracing::info!(id = %view.id, reason = view.stop_reason.map(StopReason::name), "a capture has ended");
        self.catalogue.add(view.clone());
        for then in ending.then {
            match then {
                Then::Nothing => {}
                Then::Reply(reply) => {
                    self.answer(&reply, Ok(Some(view.clone())));
                }
                Then::Remove(reply) => {
                    let removed = self.remove(&view.id);
                    self.answer(&reply, removed);
                }
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
        // One that the stage does not copy for yet is not there yet.
        let started = self.running.iter().filter(|running| running.starting.is_none());
        let next = Snapshot {
            running: started.map(|running| running.view.clone()).collect(),
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
        payload_bytes: plan.request.payload_bytes,
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
