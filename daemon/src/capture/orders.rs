//! Orders to the stage. The kernel takes its time for each, checking programs and waiting for runs of others; meanwhile
//! packets have to be read: so they are done on a thread of their own, one after the other.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use super::Stage;
use crate::live::StageConfig;

/// What the stage is to do for the capture of a slot.
#[derive(Debug)]
enum Order {
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
pub(super) struct Orders {
    stage: Arc<dyn Stage>,
    /// Absent where it is done at once.
    to: Option<mpsc::Sender<Order>>,
    done: mpsc::Receiver<Done>,
    told: mpsc::Sender<Done>,
}

impl Orders {
    pub(super) fn new(stage: Arc<dyn Stage>) -> std::io::Result<Self> {
        let (told, done) = mpsc::channel();
        let to = if stage.is_prompt() { None } else { Some(begin(&stage, told.clone())?) };
        Ok(Self { stage, to, done, told })
    }

    /// The stage, for what it answers at once.
    pub(super) fn stage(&self) -> &dyn Stage {
        &*self.stage
    }

    pub(super) fn start(&self, slot: u8, config: StageConfig) {
        self.order(Order::Start(slot, Box::new(config)));
    }

    pub(super) fn stop(&self, slot: u8) {
        self.order(Order::Stop(slot));
    }

    /// The next order that has been done.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    fn order(&self, order: Order) {
        let left = match &self.to {
            Some(to) => to.send(order).err().map(|mpsc::SendError(order)| order),
            None => Some(order),
        };
        // Also where the thread has died: the order is not lost.
        if let Some(order) = left {
            let _told = self.told.send(perform(&*self.stage, order));
        }
    }
}

fn begin(stage: &Arc<dyn Stage>, told: mpsc::Sender<Done>) -> std::io::Result<mpsc::Sender<Order>> {
    let (to, orders) = mpsc::channel();
    let stage = Arc::clone(stage);
    // It ends when nobody gives orders any more.
    let _detached = thread::Builder::new().name("capture-stage".into()).spawn(move || {
        while let Ok(order) = orders.recv()
            && told.send(perform(&*stage, order)).is_ok()
        {}
    })?;
    Ok(to)
}

fn perform(stage: &dyn Stage, order: Order) -> Done {
    match order {
        Order::Start(slot, config) => Done::Started(slot, stage.start(slot, *config)),
        Order::Stop(slot) => Done::Stopped(slot, stage.stop(slot)),
    }
}
