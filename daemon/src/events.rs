//! The thread between the kernel's log of flagged segments and the store: reads it often enough that little is
//! overwritten before. Whoever needs all that has been logged so far can read it too.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::layout::Event;

use crate::{
    board::{Board, Watched},
    flow::{events::EventStore, view::RingsView},
    live::{EventCounts, EventLog},
};

/// From one look to the next: a CPU has room for 4,096 events meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// Words that the thread takes: one, to stop.
const STOPS_MAX: usize = 1;

/// Reads the log into the store.
#[derive(Debug)]
pub struct EventReader {
    log: Mutex<EventLog>,
    store: Arc<EventStore>,
}

/// A running reader; ends when stopped.
#[derive(Debug)]
pub struct Reading {
    stop: mpsc::SyncSender<()>,
    thread: JoinHandle<()>,
}

impl EventReader {
    /// A reader that begins with what is in the log.
    #[must_use]
    pub const fn new(log: EventLog, store: Arc<EventStore>) -> Self {
        Self { log: Mutex::new(log), store }
    }

    /// Where the events go.
    #[must_use]
    pub const fn store(&self) -> &Arc<EventStore> {
        &self.store
    }

    /// Brings everything into the store that has been logged until now.
    pub fn read(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events: Vec<Event> = Vec::new();
        log.read(|event| events.push(*event));
        // Each CPU's are in order.
        events.sort_by_key(|event| event.time_ns);
        let EventCounts { produced, consumed, lost } = log.counts();
        // The lock is held, so that numbers rise.
        self.store.add(&events, log.number(), RingsView { produced, consumed, lost });
    }

    /// Reads until stopped, on a thread of its own.
    pub fn start(self: &Arc<Self>, board: Arc<Board>) -> std::io::Result<Reading> {
        let (stop, stopped) = mpsc::sync_channel(STOPS_MAX);
        let reader = Arc::clone(self);
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            let _watched = Watched::new(board, "the reading of flagged segments");
            while stopped.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                reader.read();
            }
        })?;
        Ok(Reading { stop, thread })
    }
}

impl Reading {
    /// Stops. What comes after is for the next one.
    pub fn stop(self) {
        // A thread that has ended already wants no word.
        let _ended = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the reader of events panicked");
        }
    }
}
