//! The running daemon: builds the parts in the order in which they need one another, and stops them in reverse.

mod input;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::input::{Input, Parties};
use crate::{
    api::{self, Access, ApiState, Bound},
    board::Board,
    capture::{self, HostLimits},
    cli::{ExitWith, exit, say},
    clock::Clock,
    config::Config,
    flow::{EventStore, FlowTable},
    live::{self, Handover, PacketHandover, Remote, Succession, Verb},
    live_rules::restore,
    metrics,
    rules::{Rules, RulesError},
    sandbox::{self, Layer, Mode, Policy},
    supervisor,
};

/// Where the packets come from.
#[derive(Debug)]
pub enum Source {
    /// The kernel's hooks, by what an attacher handed over.
    Live {
        /// That.
        handover: Box<Handover>,
        /// The attacher.
        remote: Remote,
        /// Whether the daemon ends with it.
        ends_with_it: bool,
    },
    /// AF_PACKET sockets, which an attacher has opened.
    Sockets {
        /// They.
        handover: Box<PacketHandover>,
        /// The attacher, with which the daemon ends.
        remote: Remote,
    },
    /// A capture file in real time.
    Replay(PathBuf),
}

/// Runs until SIGINT, SIGTERM or SIGHUP. `login` prints a one-time login for a browser.
pub fn run(config: &Config, source: Source, login: bool) -> anyhow::Result<()> {
    let (_lock, listener, input) = Input::of(source, config)?;
    // The only thread, and its children will be as it is.
    let confined = input.remote().is_some();
    // Until somebody listens to them: nothing may be left half made.
    let stops: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    stops.thread_block()?;
    let policy = if confined { Some(policy(config)?) } else { None };
    let mut lacks = Vec::new();
    if let Some(policy) = &policy {
        Policy::prepare();
        // It was started by a link's name.
        let _shown_only = nix::sys::prctl::set_name(c"linnet");
        lacks.extend(policy.enter(Layer::Privileges));
        if !policy.is_powerless() {
            anyhow::bail!("the daemon could not give its privileges up: {}", lacks.join("; "));
        }
    }
    let bound = api::bind(&config.run_dir, listener).map_err(supervisor::not_bound)?;
    let succession = input.succession(config)?;
    if let Some(policy) = &policy {
        for layer in [Layer::Landlock, Layer::Seccomp] {
            lacks.extend(policy.enter(layer));
        }
        lacks.extend(sandbox::leaks());
        for lack in &lacks {
            tracing::warn!("{lack}");
        }
        if config.sandbox == Mode::Strict && !lacks.is_empty() {
            let message = format!("sandbox = \"strict\", and {}", lacks.join("; "));
            return Err(ExitWith { code: exit::FAILED, message }.into());
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        stops.thread_unblock()?;
        serve_until_stopped(config, input, bound, succession, lacks, login, &stop).await
    })
}

/// How the daemon is confined.
fn policy(config: &Config) -> anyhow::Result<Policy> {
    let identity = supervisor::identity(config)?;
    let folders = [&config.run_dir, &config.state_dir].map(Clone::clone).to_vec();
    Ok(Policy { identity, folders, pretence: config.kernel.clone() })
}

async fn serve_until_stopped(
    config: &Config,
    input: Input,
    bound: Bound,
    succession: Option<Succession>,
    notices: Vec<String>,
    login: bool,
    asked_to_stop: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = Arc::new(Clock::new());
    let board = Arc::new(Board::default());
    let recorder = metrics::install()?;
    let access = Arc::new(
        Access::new(&config.run_dir, Arc::clone(&clock)).context("cannot make the token")?,
    );
    let (remote, kept_rules) = (input.remote().cloned(), input.kept_rules()?);
    let rules = Arc::new(Rules::new(input.rule_sink(config)));
    let were_kept = kept_rules.is_some();
    let restored = kept_rules.is_some_and(|text| restore(&rules, &text, &config.rules));
    if remote.is_some() && !restored && (were_kept || !config.rules.is_empty()) {
        rules.set(config.rules.clone()).map_err(|error| rules_of_config(&error))?;
    }
    let dir = config.state_dir.join("captures");
    let limits = HostLimits { payload_max: config.payload_max, ..HostLimits::default() };
    let (captures, capture_recorder) =
        capture::open(&dir, limits, input.stage(), Arc::clone(&board))
            .map_err(|error| no_captures(&dir, error))?;
    let captures = Arc::new(captures);
    let source = input.origin()?;
    let events = Arc::new(EventStore::new(source.clone(), clock.monotonic_ns()));
    let flows = Arc::new(FlowTable::new(source, config.records_max, config.timeouts));
    tracing::info!(
        records = config.records_max,
        bytes_max = FlowTable::bytes_max(
            config.sizes.flows.saturating_add(config.sizes.embryonic),
            config.records_max
        ),
        events_bytes_max = EventStore::bytes_max(),
        "memory for flows in user space"
    );
    let publisher = input.publisher(config, notices, &board, &clock, &captures);
    let attached = input.attached(succession);
    let stores = (Arc::clone(&flows), Arc::clone(&events));
    let feed = input.start(config, stores, publisher, capture_recorder, &clock)?;

    let address = bound.address;
    tracing::info!(%address, socket = %bound.path.display(), "listening");
    let stop = CancellationToken::new();
    let state = ApiState {
        flows,
        events,
        board: Arc::clone(&board),
        captures: Arc::clone(&captures),
        commenting: api::Commenting::default(),
        rules: Arc::clone(&rules),
        access: Arc::clone(&access),
        metrics: recorder,
    };
    let server = tokio::spawn(api::serve(bound, api::router(state), stop.clone()));
    if login {
        announce(address, &access);
    }
    let lost = match attached {
        None => CancellationToken::new(),
        Some(attached) => {
            let parties = Parties { board, captures: Arc::clone(&captures), rules };
            attached.watch(config, parties)?
        }
    };
    let is_told = tokio::select! {
        () = asked_to_stop.cancelled() => true,
        () = lost.cancelled() => false,
    };
    if let Some(remote) = &remote {
        // One that has died needs no word.
        let _gone = remote.perform(&Verb::Ending);
        live::close(&config.run_dir);
    }
    tracing::info!("stopping");
    captures.shutdown();
    stop.cancel();
    server.await??;
    tokio::task::spawn_blocking(move || feed.stop()).await?;
    if !is_told {
        let message = "the attacher has gone, and the daemon does not go on without it".to_owned();
        return Err(ExitWith { code: exit::FAILED, message }.into());
    }
    Ok(())
}

/// The configuration's rules are a mistake of the configuration, unless the kernel refuses them.
fn rules_of_config(error: &RulesError) -> ExitWith {
    let code = match error {
        RulesError::Rule(_) | RulesError::Unavailable(_) => exit::USAGE,
        RulesError::Failed(_) => exit::FAILED,
    };
    ExitWith { code, message: format!("the configuration's rules: {error}") }
}

/// Prints the line that a person opens in a browser.
fn announce(address: std::net::SocketAddr, access: &Access) {
    if let Err(error) = say(&format!("open http://{address}/#login={}\n", access.one_time_login()))
    {
        tracing::warn!(%error, "nobody was told how to log in");
    }
}

fn no_captures(dir: &Path, error: std::io::Error) -> anyhow::Error {
    let dir = dir.display();
    if error.kind() == std::io::ErrorKind::WouldBlock {
        let message = format!(
            "another linnet keeps its captures in `{dir}`; stop it, or give this one a --state-dir of its own"
        );
        return ExitWith { code: exit::BUSY, message }.into();
    }
    anyhow::Error::new(error)
        .context(format!("cannot use `{dir}` for captures; choose another folder with --state-dir"))
}

/// Cancelled by Ctrl-C, `kill`, or the end of the terminal that this runs in; to be had before there is anything that
/// would have to be cleaned up.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let asked = CancellationToken::new();
    let ask = asked.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        ask.cancel();
    });
    Ok(asked)
}
