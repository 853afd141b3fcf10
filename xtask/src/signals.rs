//! Turns the wish to stop (Ctrl-C, `kill`, a closed terminal) into something a loop can ask for. Must never
//! stop anything itself.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator,
};
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
    /// From here on SIGINT, SIGTERM and SIGHUP are answered by whoever asks this value. By handlers rather than by
    /// a blocked mask, which every program started from here would inherit.
    pub(crate) fn watch() -> Result<Self> {
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
            .context("cannot watch for SIGINT, SIGTERM and SIGHUP")?;
        let (sender, arrived) = sync_channel(PENDING_MAX);
        thread::spawn(move || {
            for signal in signals.forever().filter_map(|number| Signal::try_from(number).ok()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn programs_started_meanwhile_can_be_ended_by_signals() {
        let _signals = Signals::watch().unwrap();

        let status = Command::new("/bin/sh").args(["-c", "kill -TERM $$; sleep 60"]).status();

        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.unwrap().signal(), Some(SIGTERM));
    }
}
