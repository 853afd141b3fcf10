//! The attacher as a process: attaches, starts the daemon, performs its verbs, and starts another one when it dies.
//! Serves no HTTP and sees no packet. Programs, maps and the address to listen on outlive a daemon; a stop ends the
//! daemon first, then everything else. A daemon outlives its attacher too, and the next one goes on with it.

mod child;
mod signals;
mod tend;

use std::{
    cell::RefCell,
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use datapath::layout::RULES_BYTES;
use nix::fcntl::{Flock, FlockArg};

use self::{
    child::Daemon,
    signals::Signals,
    tend::{Daemons, Performer, locked},
};
use crate::{
    api::{self, BindError},
    cli::{ExitWith, exit},
    clock::Clock,
    config::Config,
    kernel::{Kernel, Pretence},
    live::{self, Attacher, Estate, Follower, MapSizes, Survivor, WatchRequest},
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
    let identity = identity(config)?;
    // It has the address.
    let survivor = Survivor::find(&config.run_dir, identity.uid.as_raw());
    let listener = match bind(config) {
        Ok(listener) => Some(listener),
        // It has the address, and the daemon that takes its place will have it.
        Err(_) if survivor.as_ref().is_some_and(|it| it.listens_at(config.listen.port())) => None,
        Err(error) => return Err(error),
    };
    let since_ns = u64::try_from(clock.wall_ns()).unwrap_or(0);
    let attached = attach(config, &kernel, &clock, &mut signals, survivor.is_some())?;
    let Some((attacher, follower)) = attached else {
        tracing::info!("told to stop while starting");
        return Ok(0);
    };
    let pid = survivor.as_ref().map(Survivor::pid);
    live::end_holders(&config.pin_dir.join("FLOWS"), pid, STOP_MAX);
    let estate = Estate::new(&locked(&attacher), text, since_ns)?;
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
    let first = match survivor.map(|survivor| survivor.adopt(estate.kinship())) {
        None => None,
        Some(Ok((server, process))) => {
            tracing::info!("going on with the daemon of an attacher that died");
            Some(Daemon::adopted(server, process, clock.monotonic_ns()))
        }
        Some(Err(process)) => {
            tracing::info!("ending that daemon");
            live::end_process(&process, STOP_MAX).context("cannot end the daemon of before")?;
            None
        }
    };
    // After its own privileges are what is needed: threads have those of who makes them.
    let performer = Performer::new(attacher, follower)?;
    let daemons = Daemons { config, estate: &estate, listener, first };
    let ended = tend::keep_a_daemon(daemons, &performer, &mut signals, &clock);
    performer.stop_following();
    ended
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
    has_survivor: bool,
) -> anyhow::Result<Option<(Arc<Mutex<Attacher>>, Follower)>> {
    let mut attacher = Attacher::without(kernel.lacks(), &config.pin_dir, config.sizes)?;
    if let Some(bytes) = config.payload_max {
        attacher.limit_payload(bytes)?;
    }
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
        // A daemon that lives on needs what is there.
        if !has_survivor {
            locked(&attacher).on_stop(config.on_stop);
        }
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
        troubles_bytes = MapSizes::trouble_bytes(),
        events_bytes = MapSizes::event_bytes(),
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
