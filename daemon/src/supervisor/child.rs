//! The daemon of an attacher: its child, started from the same program and spoken to over its standard input, or the one
//! of an attacher that died. It is ended in order or by force. And how long to wait until the next one is started.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{holdings::Holdings, signals::Signals, tend};
use crate::live::{self, Outcome, Served, Server, Verb, channel};

/// This program, also after its file was replaced.
const PROGRAM: &str = "/proc/self/exe";
/// A daemon that runs.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Process,
    /// Until the daemon has closed it.
    server: Option<Server>,
    started_ns: u64,
    served: bool,
    ending: bool,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    /// Another attacher's child, whose exit code nobody here is told.
    Adopted(OwnedFd),
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code, or that of one that said that it ends.
    pub(super) code: Option<u8>,
    pub(super) signal: Option<i32>,
}

impl Daemon {
    /// Goes on with one whose attacher died.
    pub(super) const fn adopted(server: Server, process: OwnedFd, now_ns: u64) -> Self {
        let process = Process::Adopted(process);
        Self { process, server: Some(server), started_ns: now_ns, served: true, ending: false }
    }

    /// Starts one with this process's own arguments.
    pub(super) fn start(
        holdings: &dyn Holdings,
        listener: &TcpListener,
        now_ns: u64,
    ) -> anyhow::Result<Self> {
        let (server, theirs) = channel()?;
        let child = Command::new(PROGRAM)
            .arg0("linnet")
            .args(std::env::args_os().skip(1))
            .args(holdings.arguments())
            .stdin(theirs)
            .spawn()?;
        let process = Process::Child(child);
        let daemon = Self {
            process,
            server: Some(server),
            started_ns: now_ns,
            served: false,
            ending: false,
        };
        if let Some(server) = &daemon.server {
            holdings.hand_over(server, listener)?;
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

    pub(super) const fn note_ending(&mut self) {
        self.ending = true;
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
    pub(super) fn ended(&mut self) -> io::Result<Option<Ended>> {
        match &mut self.process {
            Process::Child(child) => Ok(child.try_wait()?.map(|status| Ended {
                code: status.code().and_then(|code| u8::try_from(code).ok()),
                signal: status.signal(),
            })),
            Process::Adopted(process) => {
                let code = self.ending.then_some(0);
                Ok(live::has_ended(process, Duration::ZERO)?
                    .then_some(Ended { code, signal: None }))
            }
        }
    }

    /// Ends it at once, and waits for that.
    pub(super) fn kill(&mut self) {
        let killed = match &mut self.process {
            Process::Child(child) => child.kill().and_then(|()| child.wait().map(drop)),
            Process::Adopted(process) => live::kill_process(process),
        };
        if let Err(error) = killed {
            tracing::warn!(%error, "the daemon was not killed");
        }
    }

    fn terminate(&self) -> anyhow::Result<()> {
        match &self.process {
            Process::Child(child) => {
                kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
            }
            Process::Adopted(process) => live::signal(process, rustix::process::Signal::TERM),
        }
        Ok(())
    }

    /// Tells it to stop, and goes on answering meanwhile: it stops a capture first.
    pub(super) fn stop(
        &mut self,
        holdings: &dyn Holdings,
        signals: &mut Signals,
        most: Duration,
    ) -> anyhow::Result<Ended> {
        let clock = crate::clock::Clock::new();
        let started_ns = clock.monotonic_ns();
        if self.ended()?.is_none() {
            self.terminate()?;
        }
        loop {
            if let Some(ended) = self.ended()? {
                return Ok(ended);
            }
            let taken = Duration::from_nanos(clock.monotonic_ns().saturating_sub(started_ns));
            let Some(left) = most.checked_sub(taken) else {
                tracing::error!("the daemon does not end: killing it");
                self.kill();
                return Ok(Ended { code: None, signal: Some(libc::SIGKILL) });
            };
            signals.wait(Some(self), Some(left))?;
            signals.asked_to_stop()?;
            tend::serve(self, holdings);
        }
    }
}

impl Drop for Daemon {
    /// No daemon without its attacher.
    fn drop(&mut self) {
        if let Ok(None) = self.ended() {
            self.kill();
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
