//! The attacher as a process: attaches, starts the daemon, performs its verbs, and starts another one when it dies.
//! Serves no HTTP and sees no packet. Programs, maps and the address to listen on outlive a daemon; a stop ends the
//! daemon first, then everything else.

mod child;

use std::{
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
    live::{
        Answer, AttachRequest, Attached, AttachedPoint, Attacher, Estate, Outcome, Refusal,
        RefusalKind, Served, Verb, watch,
    },
    sandbox::{self, Identity, folders},
};

/// Longest list of what is not watched.
const NOTICES_MAX: usize = 16;
/// How long a daemon may take to end: requests at hand, and the last packets of a capture.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Attaches and keeps a daemon running until told to stop; returns the exit code.
pub fn run(config: &Config, text: &str) -> anyhow::Result<u8> {
    let mut signals = Signals::take()?;
    let _lock = claim(&config.run_dir)?;
    let clock = Clock::new();
    let listener = bind(config)?;
    let since_ns = u64::try_from(clock.wall_ns()).unwrap_or(0);
    let Some((attacher, estate)) = attach(config, text, listener, since_ns, &mut signals)? else {
        tracing::info!("told to stop while starting");
        return Ok(0);
    };
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
    let mut performer = Performer { attacher, config };
    let mut backoff = Backoff::default();
    loop {
        let mut daemon = Daemon::start(&estate, clock.monotonic_ns())?;
        let told = tend(&mut daemon, &mut performer, &mut signals)?;
        let ended = match told {
            Told::Stop => daemon.stop(&mut performer, &mut signals, STOP_MAX)?,
            Told::Ended(ended) => ended,
        };
        if told == Told::Stop || daemon.served() {
            performer.attacher.on_stop(config.on_stop);
        }
        // A capture that was its own has no reader any more.
        if let Err(error) = performer.attacher.perform(Verb::StopCapture) {
            tracing::warn!(%error, "the capture stage was not stopped");
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

/// Whose the daemon is.
pub(crate) fn identity(config: &Config) -> anyhow::Result<Identity> {
    Identity::of(&config.user)
        .map_err(|error| ExitWith { code: exit::USAGE, message: error.to_string() }.into())
}

/// Does what a daemon asks for, within what was configured.
#[derive(Debug)]
struct Performer<'a> {
    attacher: Attacher,
    config: &'a Config,
}

impl Performer<'_> {
    fn perform(&mut self, verb: Verb) -> Outcome {
        if let Verb::Attach(AttachRequest { namespace: Some(namespace), .. }) = &verb
            && !self.config.interfaces.iter().any(|it| it.namespace.as_ref() == Some(namespace))
        {
            let message =
                format!("no interface of the network namespace `{namespace}` is configured");
            return Err(Refusal { kind: RefusalKind::OneInterface, rule: None, message });
        }
        self.attacher.perform(verb).map_err(|error| Refusal::from(&error))
    }
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
fn tend(
    daemon: &mut Daemon,
    performer: &mut Performer<'_>,
    signals: &mut Signals,
) -> anyhow::Result<Told> {
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
fn serve(daemon: &mut Daemon, performer: &mut Performer<'_>) {
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

/// Loads the programs and attaches them; `None` where it was told to stop meanwhile.
fn attach(
    config: &Config,
    text: &str,
    listener: TcpListener,
    since_ns: u64,
    signals: &mut Signals,
) -> anyhow::Result<Option<(Attacher, Estate)>> {
    let mut attacher = Attacher::new(&config.pin_dir, config.sizes)?;
    let by_default = config.interfaces.is_empty();
    let watch::Defaults { requests, skipped: mut notices } = if by_default {
        watch::defaults().context("cannot list the interfaces; name them with --interface")?
    } else {
        watch::Defaults { requests: config.interfaces.clone(), skipped: Vec::new() }
    };
    let mut points = Vec::new();
    for request in requests {
        if signals.asked_to_stop()? {
            break;
        }
        match attacher.perform(Verb::Attach(request.clone())) {
            Ok(Answer::Attached(attached)) => {
                log_attached(&request, &attached);
                points.push(AttachedPoint { request, attached });
            }
            Ok(Answer::Done | Answer::RulesSet { .. } | Answer::Present(_)) => {}
            Err(error) if by_default && error.is_of_one_interface() => {
                notices.push(format!("the interface `{request}` is not watched: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    if signals.asked_to_stop()? {
        attacher.on_stop(config.on_stop);
        return Ok(None);
    }
    if points.is_empty() {
        let mut message =
            "no interface that could be watched is up but loopback; name one with --interface"
                .to_owned();
        for notice in notices.iter().take(1) {
            message = format!("{message} ({notice})");
        }
        return Err(ExitWith { code: exit::USAGE, message }.into());
    }
    if notices.len() > NOTICES_MAX {
        let more = notices.split_off(NOTICES_MAX - 1).len();
        notices.push(format!("{more} more interfaces are not watched; the log names each"));
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
    let estate = Estate::new(&attacher, text, listener, since_ns, points, notices)?;
    Ok(Some((attacher, estate)))
}

fn log_attached(request: &AttachRequest, attached: &Attached) {
    for (way, hook) in [("ingress", &attached.ingress), ("egress", &attached.egress)] {
        match hook {
            Some(hook) => {
                tracing::info!(interface = %request, way, hook = %hook.hook, why = hook.reason, "attached")
            }
            None => tracing::info!(interface = %request, way, "not watched"),
        }
    }
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
