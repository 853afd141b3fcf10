//! Ctrl-C, `kill` and a closed terminal as something that a command waits for. Must never end anything itself.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The wishes to stop: SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(super) struct Interrupts {
    set: SigSet,
    pending: SignalFd,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Somebody wants the command to stop.
    Stop,
    /// The other end of one of the files is gone.
    Closed(usize),
    /// The time is over.
    Timeout,
}

impl Interrupts {
    /// From here on the signals end nothing: they are seen by whoever waits. To be called before threads are
    /// started, since they inherit the mask.
    pub(super) fn watch() -> io::Result<Self> {
        let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        set.thread_block()?;
        let pending = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { set, pending })
    }

    /// Waits for a signal, or for the reader of a pipe or socket among `files` to go, at most `limit`.
    pub(super) fn wait(&self, files: &[BorrowedFd<'_>], limit: Duration) -> io::Result<Wake> {
        let mut polled = vec![PollFd::new(self.pending.as_fd(), PollFlags::POLLIN)];
        // No events are asked for: hang-ups and errors are always reported.
        polled.extend(files.iter().map(|file| PollFd::new(*file, PollFlags::empty())));
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, limit) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Wake::Timeout),
            Err(error) => return Err(error.into()),
        }
        if self.pending.read_signal()?.is_some() {
            return Ok(Wake::Stop);
        }
        let gone = |file: &PollFd<'_>| file.revents().is_some_and(|events| !events.is_empty());
        Ok(polled[1..].iter().position(gone).map_or(Wake::Timeout, Wake::Closed))
    }

    /// Gives the calling thread the signals' usual effect back: the next Ctrl-C ends the process at once.
    pub(super) fn release(&self) -> io::Result<()> {
        Ok(self.set.thread_unblock()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_ends_the_wait() {
        let interrupts = Interrupts::watch().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let files = [writer.as_fd()];
        assert_eq!(interrupts.wait(&files, Duration::ZERO).unwrap(), Wake::Timeout);
        drop(reader);
        assert_eq!(interrupts.wait(&files, Duration::from_secs(5)).unwrap(), Wake::Closed(0));
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let interrupts = Interrupts::watch().unwrap();
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        assert_eq!(interrupts.wait(&[], Duration::from_secs(5)).unwrap(), Wake::Stop);
    }
}
