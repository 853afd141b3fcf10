//! One capture as its readers see it: what was asked for, and how far it is. Never holds up who writes it.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    CaptureId, CaptureView,
    view::{CaptureState, Progress},
};

/// A capture, running or finished.
#[derive(Debug)]
pub struct Session {
    facts: CaptureView,
    /// Bytes of the section and its interfaces, in front of the first packet.
    header_bytes: u64,
    progress: watch::Sender<Progress>,
    finished: Mutex<bool>,
    finish: Condvar,
}

impl Session {
    pub(super) fn new(facts: CaptureView, header_bytes: u64) -> Self {
        let finished = facts.state == CaptureState::Finished;
        let progress = watch::Sender::new(facts.progress());
        let (finished, finish) = (Mutex::new(finished), Condvar::new());
        Self { facts, header_bytes, progress, finished, finish }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> CaptureId {
        self.facts.id
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(&self) -> CaptureView {
        self.facts.at(&self.progress.borrow())
    }

    /// Bytes in front of its first packet.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Whether its file is as it will stay.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.progress.borrow().ended.is_some()
    }

    /// How far it is, and every step from here.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until it is finished, but no longer than `timeout`; returns whether it is.
    pub(super) fn wait_finished(&self, timeout: Duration) -> bool {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.finish.wait_timeout_while(finished, timeout, |finished| !*finished);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn publish(&self, progress: Progress) {
        let ended = progress.ended.is_some();
        self.progress.send_replace(progress);
        if ended {
            *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.finish.notify_all();
        }
    }
}
