//! The attacher as a process: attaches, or opens sockets where it may not, starts the daemon, does what it asks for, and
//! starts another one when it dies. Serves no HTTP and sees no packet. What daemons work with, and the address to listen on,
//! outlive each of them; a stop ends the daemon first, then everything else. A daemon that reads maps outlives its attacher
//! too, and the next one goes on with it.

mod child;
mod holdings;
mod programs;
mod signals;
mod sockets;
mod tend;

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

use self::{
    child::Daemon,
    programs::{Attached, Programs},
    signals::Signals,
    sockets::Sockets,
    tend::Daemons,
};
use crate::{
    api::{self, BindError},
    cli::{ExitWith, exit},
    clock::Clock,
    config::{Config, WatchBy},
    kernel::Kernel,
    live::{self, Estate, Survivor, WatchRequest},
    sandbox::{self, Identity, Needs, folders},
};

/// How long a daemon may take to end: requests at hand, and the last packets of a capture.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Watches interfaces and keeps a daemon running until told to stop; returns the exit code.
pub fn run(config: &Config, text: &str) -> anyhow::Result<u8> {
    let mut signals = Signals::take()?;
    let kernel = Kernel::look(&config.kernel);
    if config.source == WatchBy::Ebpf
        && let Some(message) = kernel.refusal()
    {
        return Err(ExitWith { code: exit::KERNEL, message }.into());
    }
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
    let start = Start { config, text, clock, identity, listener };
    let why = match sockets::reason(config, &kernel) {
        Some(why) => why,
        None => {
            let has_survivor = survivor.is_some();
            match programs::attach(config, &kernel, &start.clock, &mut signals, has_survivor) {
                Ok(Some(attached)) => return start.with_programs(attached, survivor, &mut signals),
                Ok(None) => {
                    tracing::info!("told to stop while starting");
                    return Ok(0);
                }
                Err(error) => match sockets::reason_of(config, &error) {
                    Some(why) => why,
                    None => return Err(error),
                },
            }
        }
    };
    start.with_sockets(&why, survivor, &mut signals)
}

/// What a start has before it has anything to watch with.
struct Start<'a> {
    config: &'a Config,
    /// The text of the configuration file.
    text: &'a str,
    clock: Arc<Clock>,
    identity: Identity,
    listener: Option<TcpListener>,
}

impl Start<'_> {
    /// Keeps a daemon that reads maps; one that has lost its attacher goes on.
    fn with_programs(
        self,
        attached: Attached,
        survivor: Option<Survivor>,
        signals: &mut Signals,
    ) -> anyhow::Result<u8> {
        let Self { config, text, clock, identity, listener } = self;
        let since_ns = u64::try_from(clock.wall_ns()).unwrap_or(0);
        let pid = survivor.as_ref().map(Survivor::pid);
        live::end_holders(&config.pin_dir.join("FLOWS"), pid, STOP_MAX);
        let estate = attached.estate(text, since_ns)?;
        prepare(config, &identity)?;
        let namespaces = config.interfaces.iter().any(|request| request.namespace.is_some());
        give_up(Needs::Programs { namespaces });
        let first = match survivor {
            None => None,
            Some(survivor) => adopted(survivor, &estate, &clock)?,
        };
        // After its own privileges are what is needed: threads have those of who makes them.
        let programs = Programs::new(attached, &estate, config.on_stop)?;
        let daemons = Daemons { config, holdings: &programs, listener, first };
        let ended = tend::keep_a_daemon(daemons, signals, &clock);
        programs.stop_following();
        ended
    }

    /// Keeps a daemon that reads sockets. One that has lost its attacher reads maps.
    fn with_sockets(
        self,
        why: &str,
        survivor: Option<Survivor>,
        signals: &mut Signals,
    ) -> anyhow::Result<u8> {
        let Self { config, text, clock, identity, listener } = self;
        let sockets = Sockets::open(config, text, why)?;
        prepare(config, &identity)?;
        give_up(Needs::Sockets);
        if let Some(survivor) = survivor {
            tracing::info!("ending the daemon of an attacher that died");
            live::end_process(&survivor.into_process(), STOP_MAX)
                .context("cannot end the daemon of before")?;
        }
        let daemons = Daemons { config, holdings: &sockets, listener, first: None };
        tend::keep_a_daemon(daemons, signals, &clock)
    }
}

/// Makes the daemon's folders.
fn prepare(config: &Config, identity: &Identity) -> anyhow::Result<()> {
    // The inner one first: what is in a folder is made while that is still root's.
    for folder in [&config.run_dir, &config.state_dir.join("captures"), &config.state_dir] {
        folders::prepare(folder, identity).with_context(|| {
            let folder = folder.display();
            format!(
                "cannot make `{folder}` the daemon's; choose another with --run-dir or --state-dir"
            )
        })?;
    }
    Ok(())
}

/// Gives up what is not needed from here on.
fn give_up(needs: Needs) {
    for lack in sandbox::keep_what_the_attacher_needs(needs) {
        tracing::warn!("{lack}");
    }
}

/// The daemon of an attacher that died, if it fits; else it is ended.
fn adopted(survivor: Survivor, estate: &Estate, clock: &Clock) -> anyhow::Result<Option<Daemon>> {
    match survivor.adopt(estate.kinship()) {
        Ok((server, process)) => {
            tracing::info!("going on with the daemon of an attacher that died");
            Ok(Some(Daemon::adopted(server, process, clock.monotonic_ns())))
        }
        Err(process) => {
            tracing::info!("ending that daemon");
            live::end_process(&process, STOP_MAX).context("cannot end the daemon of before")?;
            Ok(None)
        }
    }
}

/// What is to be watched.
fn wanted(config: &Config) -> Vec<WatchRequest> {
    if config.interfaces.is_empty() {
        return vec![WatchRequest::every_up()];
    }
    config.interfaces.clone()
}

/// Nothing is named and nothing is up; with what else was said.
struct NothingUp(Option<String>);

impl From<NothingUp> for anyhow::Error {
    fn from(NothingUp(notice): NothingUp) -> Self {
        let mut message =
            "no interface that could be watched is up but loopback; name one with --interface"
                .to_owned();
        if let Some(notice) = notice {
            message = format!("{message} ({notice})");
        }
        ExitWith { code: exit::USAGE, message }.into()
    }
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
