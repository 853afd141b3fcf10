//! Keeping a daemon: answering what it asks, and starting another one when it dies.

use std::net::TcpListener;

use super::{
    STOP_MAX, bind,
    child::{Backoff, Daemon, Ended},
    holdings::Holdings,
    signals::Signals,
};
use crate::{
    cli::exit,
    clock::Clock,
    config::Config,
    live::{Served, Verb},
};

/// What daemons are made of.
pub(super) struct Daemons<'a> {
    pub(super) config: &'a Config,
    pub(super) holdings: &'a dyn Holdings,
    /// The address for HTTP, which outlives a daemon, so that whoever connects meanwhile only waits. A daemon that was
    /// another attacher's has it until it ends.
    pub(super) listener: Option<TcpListener>,
    /// One that runs already.
    pub(super) first: Option<Daemon>,
}

impl Daemons<'_> {
    fn next(&mut self, now_ns: u64) -> anyhow::Result<Daemon> {
        if let Some(daemon) = self.first.take() {
            return Ok(daemon);
        }
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind(self.config)?,
        };
        Daemon::start(self.holdings, self.listener.insert(listener), now_ns)
    }
}

/// Keeps a daemon running until told to stop; returns the exit code.
pub(super) fn keep_a_daemon(
    mut daemons: Daemons<'_>,
    signals: &mut Signals,
    clock: &Clock,
) -> anyhow::Result<u8> {
    let mut backoff = Backoff::default();
    let holdings = daemons.holdings;
    loop {
        let mut daemon = match daemons.next(clock.monotonic_ns()) {
            Ok(daemon) => daemon,
            Err(error) if backoff.is_first() => return Err(error),
            Err(error) => {
                let pause = backoff.after(false, 0);
                tracing::error!(
                    error = format!("{error:#}"),
                    ?pause,
                    "cannot start another daemon"
                );
                if signals.wait_for_stop(pause)? {
                    return Ok(0);
                }
                continue;
            }
        };
        let told = tend(&mut daemon, holdings, signals)?;
        let ended = match told {
            Told::Stop => daemon.stop(holdings, signals, STOP_MAX)?,
            Told::Ended(ended) => ended,
        };
        if told == Told::Stop || daemon.served() {
            holdings.commit();
        }
        // A capture that was its own has no reader any more.
        if let Err(refusal) = holdings.perform(Verb::StopCaptures) {
            tracing::warn!(error = refusal.message, "the capture stage was not stopped");
        }
        let served = daemon.served();
        match ended.code {
            Some(0) => return Ok(0),
            // Told so early that there was nothing yet to end.
            None if told == Told::Stop && !served && ended.signal == Some(libc::SIGTERM) => {
                return Ok(0);
            }
            code if told == Told::Stop => {
                tracing::error!(?code, "the daemon did not end in order");
                return Ok(exit::FAILED);
            }
            // It has said why it cannot run.
            Some(code) if !served && backoff.is_first() => {
                return Ok(code);
            }
            None if !served && backoff.is_first() => {
                tracing::error!(?ended, "the daemon died while it started");
                return Ok(exit::FAILED);
            }
            Some(_) | None => {}
        }
        let pause = backoff.after(served, clock.monotonic_ns().saturating_sub(daemon.started_ns()));
        let stays = holdings.stays();
        tracing::error!(?ended, ?pause, "the daemon died: starting another one; {stays} stay");
        if signals.wait_for_stop(pause)? {
            return Ok(0);
        }
    }
}

/// Why a daemon is not tended any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// This process was told to stop.
    Stop,
    /// The daemon has ended.
    Ended(Ended),
}

/// Performs the daemon's verbs until it ends, or this process is told to.
fn tend(
    daemon: &mut Daemon,
    holdings: &dyn Holdings,
    signals: &mut Signals,
) -> anyhow::Result<Told> {
    loop {
        signals.wait(Some(daemon), None)?;
        serve(daemon, holdings);
        if signals.asked_to_stop()? {
            return Ok(Told::Stop);
        }
        if let Some(ended) = daemon.ended()? {
            return Ok(Told::Ended(ended));
        }
    }
}

/// Answers what the daemon asks. One that has closed its socket can ask for nothing any more, not even a stop.
pub(super) fn serve(daemon: &mut Daemon, holdings: &dyn Holdings) {
    let (mut serving, mut ending) = (false, false);
    let perform = |verb: Verb| {
        serving |= verb == Verb::Serving;
        ending |= verb == Verb::Ending;
        holdings.perform(verb)
    };
    match daemon.serve(perform) {
        Served::Answered | Served::Nothing => {}
        Served::Ended => daemon.kill(),
    }
    if serving {
        daemon.note_serving();
    }
    if ending {
        daemon.note_ending();
    }
}
