//! Orders to the stage. The kernel takes its time for each, checking programs and waiting for runs of others; meanwhile
//! packets have to be read: so they are done on a thread of their own, one after the other.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use super::Stage;
use crate::live::StageConfig;

/// What the stage is to do for the capture of a slot.
#[derive(Debug)]
enum StageOrder {
    Start(u8, Box<StageConfig>),
    Stop(u8),
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    /// It copies for this slot, or cannot.
    Started(u8, anyhow::Result<()>),
    /// It copies nothing more for this slot, or could not be told so.
    Stopped(u8, anyhow::Result<()>),
}

/// The stage, to whoever must not wait for it.
pub(super) struct StageOrders {
    stage: Arc<dyn Stage>,
    /// Absent where it is done at once.
    worker: Option<Worker>,
    done: mpsc::Receiver<Done>,
    told: mpsc::Sender<Done>,
}

/// The thread that performs them.
struct Worker {
    to: mpsc::Sender<StageOrder>,
    thread: JoinHandle<()>,
}

/// Nobody gives the stage orders any more after this, and it is let go.
impl Drop for StageOrders {
    fn drop(&mut self) {
        if let Some(Worker { to, thread }) = self.worker.take() {
            drop(to);
            if thread.join().is_err() {
                tracing::error!("the thread that changes the capture stage panicked");
            }
        }
    }
}

impl StageOrders {
    pub(super) fn new(stage: Arc<dyn Stage>) -> std::io::Result<Self> {
        let (told, done) = mpsc::channel();
        let worker = if stage.is_prompt() { None } else { Some(begin(&stage, told.clone())?) };
        Ok(Self { stage, worker, done, told })
    }

    /// The stage, for what it answers at once.
    pub(super) fn stage(&self) -> &dyn Stage {
        &*self.stage
    }

    pub(super) fn start(&self, slot: u8, config: StageConfig) {
        self.order(StageOrder::Start(slot, Box::new(config)));
    }

    pub(super) fn stop(&self, slot: u8) {
        self.order(StageOrder::Stop(slot));
    }

    /// The next order that has been done.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    fn order(&self, order: StageOrder) {
        let left = match &self.worker {
            Some(worker) => worker.to.send(order).err().map(|mpsc::SendError(order)| order),
            None => Some(order),
        };
        // Also where the thread has died: the order is not lost.
        if let Some(order) = left {
            let _told = self.told.send(perform(&*self.stage, order));
        }
    }
}

fn begin(stage: &Arc<dyn Stage>, told: mpsc::Sender<Done>) -> std::io::Result<Worker> {
    let (to, orders) = mpsc::channel();
    let stage = Arc::clone(stage);
    let thread = thread::Builder::new().name("capture-stage".into()).spawn(move || {
        while let Ok(order) = orders.recv()
            && told.send(perform(&*stage, order)).is_ok()
        {}
    })?;
    Ok(Worker { to, thread })
}

fn perform(stage: &dyn Stage, order: StageOrder) -> Done {
    match order {
        StageOrder::Start(slot, config) => Done::Started(slot, stage.start(slot, *config)),
        StageOrder::Stop(slot) => Done::Stopped(slot, stage.stop(slot)),
    }
}
