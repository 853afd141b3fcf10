//! The attacher as a process: attaches, starts the daemon, performs its verbs, and starts another one when it dies.
//! Serves no HTTP and sees no packet. Programs, maps and the address to listen on outlive a daemon; a stop ends the
//! daemon first, then everything else.

mod child;

use std::{
    cell::RefCell,
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::AsFd as _,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            process::ExitStatusExt as _,
        },
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use datapath::layout::RULES_BYTES;
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use self::child::{Backoff, Daemon};
use crate::{
    api::{self, BindError},
    cli::{ExitWith, exit},
    clock::Clock,
    config::Config,
    kernel::{Kernel, Pretence},
    live::{
        Answer, Attacher, Estate, Follower, Following, Outcome, Points, Refusal, Served, Verb,
        WatchRequest,
    },
    sandbox::{self, Identity, folders},
};

/// How long a daemon may take to end: requests at hand, and the last packets of a capture.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Attaches and keeps a daemon running until told to stop; returns the exit code.
pub fn run(config: &Config, text: &str) -> anyhow::Result<u8> {
    let mut signals = Signals::take()?;
    let kernel = accepted(&config.kernel)?;
    let _lock = claim(&config.run_dir)?;
    let clock = Arc::new(Clock::new());
    let listener = bind(config)?;
    let since_ns = u64::try_from(clock.wall_ns()).unwrap_or(0);
    let attached = attach(config, &kernel, &clock, &mut signals)?;
    let Some((attacher, follower)) = attached else {
        tracing::info!("told to stop while starting");
        return Ok(0);
    };
    let estate = Estate::new(&locked(&attacher), text, listener, since_ns)?;
    let identity = identity(config)?;
    // The inner one first: what is in a folder is made while that is still root's.
    for folder in [&config.run_dir, &config.state_dir.join("captures"), &config.state_dir] {
        folders::prepare(folder, &identity).with_context(|| {
            let folder = folder.display();
            format!(
                "cannot make `{folder}` the daemon's; choose another with --run-dir or --state-dir"
            )
        })?;
    }
    let namespaces = config.interfaces.iter().any(|request| request.namespace.is_some());
    for lack in sandbox::keep_what_the_attacher_needs(namespaces) {
        tracing::warn!("{lack}");
    }
    // After its own privileges are what is needed: threads have those of who makes them.
    let points = Arc::clone(follower.points());
    let mut performer = Performer { attacher, points, following: Some(follower.start()?) };
    let ended = keep_a_daemon(&estate, &performer, &mut signals, &clock);
    performer.stop_following();
    ended
}

/// Keeps a daemon running until told to stop; returns the exit code.
fn keep_a_daemon(
    estate: &Estate,
    performer: &Performer,
    signals: &mut Signals,
    clock: &Clock,
) -> anyhow::Result<u8> {
    let mut backoff = Backoff::default();
    loop {
        let mut daemon = Daemon::start(estate, clock.monotonic_ns())?;
        let told = tend(&mut daemon, performer, signals)?;
        let ended = match told {
            Told::Stop => daemon.stop(performer, signals, STOP_MAX)?,
            Told::Ended(ended) => ended,
        };
        // A capture that was its own has no reader any more.
        if let Err(refusal) = performer.perform(Verb::StopCapture) {
            tracing::warn!(error = refusal.message, "the capture stage was not stopped");
        }
        let served = daemon.served();
        match ended.code() {
            Some(0) => return Ok(0),
            // Told so early that there was nothing yet to end.
            None if told == Told::Stop && !served && ended.signal() == Some(libc::SIGTERM) => {
                return Ok(0);
            }
            code if told == Told::Stop => {
                tracing::error!(?code, "the daemon did not end in order");
                return Ok(exit::FAILED);
            }
            // It has said why it cannot run.
            Some(code) if !served && backoff.is_first() => {
                return Ok(u8::try_from(code).unwrap_or(exit::FAILED));
            }
            None if !served && backoff.is_first() => {
                tracing::error!(%ended, "the daemon died while it started");
                return Ok(exit::FAILED);
            }
            Some(_) | None => {}
        }
        let pause = backoff.after(served, clock.monotonic_ns().saturating_sub(daemon.started_ns()));
        tracing::error!(%ended, ?pause, "the daemon died: starting another one; programs and tables stay");
        if signals.wait_for_stop(pause)? {
            return Ok(0);
        }
    }
}

/// The kernel, if linnet can work on it.
fn accepted(pretence: &Pretence) -> anyhow::Result<Kernel> {
    let kernel = Kernel::look(pretence);
    if let Some(message) = kernel.refusal() {
        return Err(ExitWith { code: exit::KERNEL, message }.into());
    }
    Ok(kernel)
}

/// Whose the daemon is.
pub(crate) fn identity(config: &Config) -> anyhow::Result<Identity> {
    Identity::of(&config.user)
        .map_err(|error| ExitWith { code: exit::USAGE, message: error.to_string() }.into())
}

/// Does what a daemon asks for.
#[derive(Debug)]
struct Performer {
    attacher: Arc<Mutex<Attacher>>,
    points: Arc<Points>,
    following: Option<Following>,
}

impl Performer {
    fn perform(&self, verb: Verb) -> Outcome {
        let Verb::Look { left } = verb else {
            return locked(&self.attacher).perform(verb).map_err(|error| Refusal::from(&error));
        };
        left.iter().for_each(|point| self.points.leave(*point));
        if let Some(following) = &self.following
            && !left.is_empty()
        {
            // An interface may have waited for an id.
            following.wake();
        }
        Ok(Answer::Watched(self.points.watching()))
    }

    fn stop_following(&mut self) {
        self.following.take().into_iter().for_each(Following::stop);
    }
}

fn locked(attacher: &Mutex<Attacher>) -> std::sync::MutexGuard<'_, Attacher> {
    attacher.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a daemon is not tended any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// This process was told to stop.
    Stop,
    /// The daemon has ended.
    Ended(std::process::ExitStatus),
}

/// Performs the daemon's verbs until it ends, or this process is told to.
fn tend(daemon: &mut Daemon, performer: &Performer, signals: &mut Signals) -> anyhow::Result<Told> {
    loop {
        signals.wait(Some(daemon), None)?;
        serve(daemon, performer);
        if signals.asked_to_stop()? {
            return Ok(Told::Stop);
        }
        if let Some(ended) = daemon.ended()? {
            return Ok(Told::Ended(ended));
        }
    }
}

/// Answers what the daemon asks. One that has closed its socket can ask for nothing any more, not even a stop.
fn serve(daemon: &mut Daemon, performer: &Performer) {
    let mut serving = false;
    let perform = |verb: Verb| {
        serving |= verb == Verb::Serving;
        performer.perform(verb)
    };
    match daemon.serve(perform) {
        Served::Answered | Served::Nothing => {}
        Served::Ended => daemon.kill(),
    }
    if serving {
        daemon.note_serving();
    }
}

/// The signals that this process waits for.
#[derive(Debug)]
struct Signals {
    waiting: SignalFd,
    stop: bool,
}

impl Signals {
    /// From here on they only wake [`Signals::wait`].
    fn take() -> anyhow::Result<Self> {
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD];
        let set: SigSet = signals.into_iter().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { waiting: SignalFd::with_flags(&set, flags)?, stop: false })
    }

    /// Whether there has been one that asks for a stop.
    fn asked_to_stop(&mut self) -> anyhow::Result<bool> {
        while let Some(signal) = self.waiting.read_signal()? {
            self.stop |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        Ok(self.stop)
    }

    /// Waits for a signal or the daemon's next word.
    fn wait(&self, daemon: Option<&Daemon>, timeout: Option<Duration>) -> anyhow::Result<()> {
        let mut fds = vec![PollFd::new(self.waiting.as_fd(), PollFlags::POLLIN)];
        fds.extend(daemon.and_then(Daemon::socket).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = timeout.map(|time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for so long, and says whether a stop was asked for.
    fn wait_for_stop(&mut self, pause: Duration) -> anyhow::Result<bool> {
        self.wait(None, Some(pause))?;
        self.asked_to_stop()
    }
}

/// One daemon per run folder: the lock ends with the process.
pub(crate) fn claim(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o750);
    let path = run_dir.join("lock");
    // The folder is the daemon's: what it may have put there in the lock's place is neither followed nor changed.
    let mut lock = File::options();
    lock.write(true).create(true).truncate(false).mode(0o644);
    lock.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = builder.create(run_dir).and_then(|()| lock.open(&path)).with_context(|| {
        let folder = run_dir.display();
        format!("cannot use the folder `{folder}`; run as root, or choose another with --run-dir")
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let message = format!(
            "another linnet runs in `{}`; stop it, or give this one a --run-dir of its own",
            run_dir.display()
        );
        ExitWith { code: exit::BUSY, message }.into()
    })
}

/// The address for HTTP, which outlives a daemon, so that whoever connects meanwhile only waits.
pub(crate) fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    api::bind_tcp(config.listen).map_err(not_bound)
}

pub(crate) fn not_bound(error: BindError) -> anyhow::Error {
    match error {
        BindError::InUse(_) | BindError::PortOfLinnet(_) => {
            ExitWith { code: exit::BUSY, message: error.to_string() }.into()
        }
        BindError::PortTaken(_) | BindError::Tcp { .. } | BindError::Unix { .. } => error.into(),
    }
}

/// Loads the programs and attaches them to what is there; `None` where it was told to stop meanwhile.
fn attach(
    config: &Config,
    kernel: &Kernel,
    clock: &Arc<Clock>,
    signals: &mut Signals,
) -> anyhow::Result<Option<(Arc<Mutex<Attacher>>, Follower)>> {
    let attacher = Attacher::without(kernel.lacks(), &config.pin_dir, config.sizes)?;
    let attacher = Arc::new(Mutex::new(attacher));
    for doubt in kernel.doubts() {
        tracing::info!("{doubt}");
    }
    let standing = kernel.notices();
    for notice in &standing {
        tracing::warn!("{notice}");
    }
    let of_kernel = standing.len();
    let by_default = config.interfaces.is_empty();
    let wanted =
        if by_default { vec![WatchRequest::every_up()] } else { config.interfaces.clone() };
    let mut follower =
        Follower::new(Arc::clone(&attacher), wanted, config.on_displaced, Arc::clone(clock))?
            .saying(standing);
    let signals = RefCell::new(signals);
    // A signal that cannot be read is told by the next wait.
    let asked_to_stop = || signals.borrow_mut().asked_to_stop().unwrap_or(false);
    follower.begin(asked_to_stop)?;
    if asked_to_stop() {
        return Ok(None);
    }
    let points = follower.points().watching();
    if by_default && points.points.is_empty() {
        let mut message =
            "no interface that could be watched is up but loopback; name one with --interface"
                .to_owned();
        for notice in points.notices.iter().skip(of_kernel).take(1) {
            message = format!("{message} ({notice})");
        }
        return Err(ExitWith { code: exit::USAGE, message }.into());
    }
    tracing::info!(
        flows = config.sizes.flows,
        embryonic = config.sizes.embryonic,
        flow_tables_bytes = config.sizes.flow_bytes(),
        fragments_bytes = config.sizes.fragment_bytes(),
        capture_ring_bytes = config.sizes.capture_ring_bytes,
        rules_bytes = RULES_BYTES,
        "kernel memory"
    );
    Ok(Some((attacher, follower)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, run) = (folder.path().join("file"), folder.path().join("run"));
        fs::write(&file, "mine").unwrap();
        fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink(&file, run.join("lock")).unwrap();
        assert!(claim(&run).is_err());
        fs::remove_file(run.join("lock")).unwrap();
        fs::hard_link(&file, run.join("lock")).unwrap();
        let first = claim(&run).unwrap();
        assert!(claim(&run).unwrap_err().to_string().contains("another linnet"));
        drop(first);
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }
}
