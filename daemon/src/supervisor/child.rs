//! A daemon as a child of the attacher: started from the same program, spoken to over its standard input, ended in
//! order or by force. And how long to wait until the next one is started.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Performer, Signals};
use crate::live::{Estate, Outcome, Served, Server, Verb, channel};

/// This program, also after its file was replaced.
const PROGRAM: &str = "/proc/self/exe";
/// What makes `linnet run` the daemon of an attacher.
const HANDED_OVER: &str = "--handed-over";

/// A daemon that was started.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    /// Until the daemon has closed it.
    server: Option<Server>,
    started_ns: u64,
    served: bool,
}

impl Daemon {
    /// Starts one with this process's own arguments.
    pub(super) fn start(estate: &Estate, now_ns: u64) -> anyhow::Result<Self> {
        let (server, theirs) = channel()?;
        let child = Command::new(PROGRAM)
            .arg0("linnet")
            .args(std::env::args_os().skip(1))
            .arg(HANDED_OVER)
            .stdin(theirs)
            .spawn()?;
        let daemon = Self { child, server: Some(server), started_ns: now_ns, served: false };
        if let Some(server) = &daemon.server {
            estate.hand_over(server)?;
        }
        Ok(daemon)
    }

    /// Whether it has come to serve.
    pub(super) const fn served(&self) -> bool {
        self.served
    }

    pub(super) const fn note_serving(&mut self) {
        self.served = true;
    }

    /// Monotonic ns.
    pub(super) const fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Where it can be heard.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(|server| server.as_fd())
    }

    /// Answers what it asks, if it does.
    pub(super) fn serve(&mut self, perform: impl FnOnce(Verb) -> Outcome) -> Served {
        let Some(server) = &mut self.server else { return Served::Nothing };
        let served = server.serve(perform);
        if served == Served::Ended {
            self.server = None;
        }
        served
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::warn!(%error, "the daemon was not killed");
        }
    }

    /// Tells it to stop, and goes on answering meanwhile: it stops a capture first.
    pub(super) fn stop(
        &mut self,
        performer: &Performer,
        signals: &mut Signals,
        most: Duration,
    ) -> anyhow::Result<ExitStatus> {
        let clock = crate::clock::Clock::new();
        let started_ns = clock.monotonic_ns();
        if self.ended()?.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.child.id())?);
            kill(pid, Signal::SIGTERM)?;
        }
        loop {
            if let Some(ended) = self.ended()? {
                return Ok(ended);
            }
            let taken = Duration::from_nanos(clock.monotonic_ns().saturating_sub(started_ns));
            let Some(left) = most.checked_sub(taken) else {
                tracing::error!("the daemon does not end: killing it");
                self.kill();
                return Ok(self.child.wait()?);
            };
            signals.wait(Some(self), Some(left))?;
            signals.asked_to_stop()?;
            super::serve(self, performer);
        }
    }
}

impl Drop for Daemon {
    /// No daemon without its attacher.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
            // It has been killed, so that it ends.
            let _ended = self.child.wait();
        }
    }
}

/// The first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest after one that had come to serve: whoever watches with it should not wait for the next.
const PAUSE_SERVED_MAX: Duration = Duration::from_millis(400);
/// A daemon that lived for so long was well.
const WELL_NS: u64 = 1_000_000_000;

/// How long to wait between two daemons: longer with each that did not live.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    before: bool,
    failures: u32,
}

impl Backoff {
    /// Whether no daemon has ever been well.
    pub(super) const fn is_first(&self) -> bool {
        !self.before
    }

    /// The pause after a daemon that lived for so long.
    pub(super) fn after(&mut self, served: bool, lived_ns: u64) -> Duration {
        self.before = true;
        self.failures = if served && lived_ns >= WELL_NS { 0 } else { self.failures + 1 };
        let most = if served { PAUSE_SERVED_MAX } else { PAUSE_MAX };
        PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_does_not_live_is_waited_for_longer_each_time_and_never_too_long() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_first());
        assert_eq!(backoff.after(true, WELL_NS), PAUSE_MIN);
        assert!(!backoff.is_first());
        let pauses: Vec<_> = (0..40).map(|_| backoff.after(false, WELL_NS)).collect();
        assert!(pauses.is_sorted() && pauses[0] > PAUSE_MIN, "{pauses:?}");
        assert_eq!(pauses[39], PAUSE_MAX);
        assert_eq!(backoff.after(true, WELL_NS - 1), PAUSE_SERVED_MAX, "it served");
        assert_eq!(backoff.after(true, WELL_NS), PAUSE_MIN, "it was well");
    }
}
