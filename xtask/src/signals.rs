//! Turns the wish to stop (Ctrl-C, `kill`, a closed terminal) into something a loop can ask for. Must never
//! stop anything itself.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

/// More wishes than this at once say nothing new.
const PENDING_MAX: usize = 8;

/// The wishes to stop that arrived.
#[derive(Debug)]
pub(crate) struct Signals {
    arrived: Receiver<Signal>,
}

impl Signals {
    /// From here on SIGINT, SIGTERM and SIGHUP are answered by whoever asks this value. To be called before
    /// other threads are started, since they inherit the mask; children do not.
    pub(crate) fn watch() -> Result<Self> {
        let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        set.thread_block().context("cannot block SIGINT, SIGTERM and SIGHUP")?;
        let (sender, arrived) = sync_channel(PENDING_MAX);
        thread::spawn(move || {
            while let Ok(signal) = set.wait() {
                // A full channel holds enough wishes; a closed one means that nobody asks any more.
                let _ = sender.try_send(signal);
            }
        });
        Ok(Self { arrived })
    }

    /// Waits at most `limit` for a wish to stop.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Signal> {
        match self.arrived.recv_timeout(limit) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(limit);
                None
            }
        }
    }
}

#[cfg(test)]
impl Signals {
    /// Wishes that a test makes itself.
    pub(crate) fn of(arrived: Receiver<Signal>) -> Self {
        Self { arrived }
    }
}
