//! The signals of an attacher, as something to wait for.

use std::{os::fd::AsFd as _, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::child::Daemon;

/// The signals that this process waits for.
#[derive(Debug)]
pub(super) struct Signals {
    waiting: SignalFd,
    stop: bool,
}

impl Signals {
    /// From here on they only wake [`Signals::wait`].
    pub(super) fn take() -> anyhow::Result<Self> {
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD];
        let set: SigSet = signals.into_iter().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { waiting: SignalFd::with_flags(&set, flags)?, stop: false })
    }

    /// Whether there has been one that asks for a stop.
    pub(super) fn asked_to_stop(&mut self) -> anyhow::Result<bool> {
        while let Some(signal) = self.waiting.read_signal()? {
            self.stop |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        Ok(self.stop)
    }

    /// Waits for a signal or the daemon's next word.
    pub(super) fn wait(
        &self,
        daemon: Option<&Daemon>,
        timeout: Option<Duration>,
    ) -> anyhow::Result<()> {
        let mut fds = vec![PollFd::new(self.waiting.as_fd(), PollFlags::POLLIN)];
        fds.extend(daemon.and_then(Daemon::socket).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = timeout.map(|time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for so long, and says whether a stop was asked for.
    pub(super) fn wait_for_stop(&mut self, pause: Duration) -> anyhow::Result<bool> {
        self.wait(None, Some(pause))?;
        self.asked_to_stop()
    }
}
