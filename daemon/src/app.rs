//! The running daemon: builds the parts in the order in which they need one another, and stops them in reverse.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use datapath::layout::RULES_BYTES;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Access, ApiState, BindError, Bound},
    board::Board,
    capture::{self, CaptureManager, Keep, Recorder, Stage, reader::RingReader},
    cli::{ExitWith, exit, say, unreadable},
    clock::Clock,
    config::Config,
    flow::{FlowIdSource, FlowTable},
    live::{
        Answer, AttachedPoint, Attacher, CaptureRing, FlowMap, Follower, Following, HookMap,
        RuleRequest, ServiceMap, StageConfig, Verb, WatchRequest,
    },
    metrics,
    past::Past,
    replay::{NoStage, Player, Playing},
    rules::{NoRules, RuleSink, Rules, RulesError},
    status::Publisher,
    sweep::{Running, Sweeper},
};

/// Where the packets come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The kernel's hooks.
    Live,
    /// A capture file in real time.
    Replay(PathBuf),
}

/// The attacher behind a lock: the capture manager asks it to copy, the app to attach.
struct LiveStage(Arc<Mutex<Attacher>>);

impl LiveStage {
    fn perform(&self, verb: Verb) -> anyhow::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).perform(verb)?;
        Ok(())
    }
}

impl RuleSink for LiveStage {
    fn set(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        let mut attacher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match attacher.perform(Verb::SetRules(rules))? {
            Answer::RulesSet { generation } => Ok(generation),
            Answer::Attached(_) | Answer::Described(_) | Answer::Inspected(_) | Answer::Done => {
                Ok(0)
            }
        }
    }
}

impl Stage for LiveStage {
    fn start(&self, config: StageConfig) -> anyhow::Result<()> {
        self.perform(Verb::StartCapture(config))
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.perform(Verb::StopCapture)
    }

    fn interface(&self, point: u32) -> Option<AttachedPoint> {
        let mut attacher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match attacher.perform(Verb::Describe { point }) {
            Ok(Answer::Described(described)) => Some(described),
            _ => None,
        }
    }
}

/// What is read from the kernel.
struct Kernel {
    attacher: Arc<Mutex<Attacher>>,
    flows: FlowMap,
    hooks: HookMap,
    services: ServiceMap,
    ring: CaptureRing,
    follower: Follower,
}

/// What feeds the flow table.
enum Feed {
    Live { follower: Following, sweeper: Running, ring: RingReader, attacher: Arc<Mutex<Attacher>> },
    Replay(Playing),
}

/// Runs until SIGINT, SIGTERM or SIGHUP. `login` prints a one-time login for a browser.
pub fn run(config: &Config, source: &Source, login: bool) -> anyhow::Result<()> {
    let _lock = claim(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        serve_until_stopped(config, source, login, &stop).await
    })
}

async fn serve_until_stopped(
    config: &Config,
    source: &Source,
    login: bool,
    asked_to_stop: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = Arc::new(Clock::new());
    let board = Arc::new(Board::default());
    let recorder = metrics::install()?;
    let access = Arc::new(
        Access::new(&config.run_dir, Arc::clone(&clock)).context("cannot make the token")?,
    );
    let bound = bind(config).await?;
    let kernel = match source {
        Source::Live => Some(attach(config, &clock, asked_to_stop)?),
        Source::Replay(_) => None,
    };
    if asked_to_stop.is_cancelled() {
        // What there is goes in the reverse order of its making.
        tracing::info!("told to stop while starting");
        return Ok(());
    }
    let stage: Box<dyn Stage> = match &kernel {
        Some(kernel) => Box::new(LiveStage(Arc::clone(&kernel.attacher))),
        None => Box::new(NoStage),
    };
    let sink: Box<dyn RuleSink> = match &kernel {
        Some(kernel) => Box::new(LiveStage(Arc::clone(&kernel.attacher))),
        None => Box::new(NoRules),
    };
    let rules = Arc::new(Rules::new(sink));
    if kernel.is_some() && !config.rules.is_empty() {
        rules.set(config.rules.clone()).map_err(|error| rules_of_config(&error))?;
    }
    let dir = config.state_dir.join("captures");
    let (captures, capture_recorder) =
        capture::open(&dir, Keep::default(), stage, Arc::clone(&board))
            .map_err(|error| no_captures(&dir, error))?;
    let captures = Arc::new(captures);
    let flows = Arc::new(FlowTable::new(origin(source)?, config.records_max, config.timeouts));
    tracing::info!(
        records = config.records_max,
        bytes_max = FlowTable::bytes_max(
            config.sizes.flows.saturating_add(config.sizes.embryonic),
            config.records_max
        ),
        "memory for flows in user space"
    );
    let publisher = publisher(config, source, &board, &clock, &captures);
    let feed = start_feed(config, source, kernel, &flows, publisher, capture_recorder, &clock)?;

    let address = bound.address;
    tracing::info!(%address, socket = %bound.path.display(), "listening");
    let stop = CancellationToken::new();
    let state = ApiState {
        flows,
        board,
        captures: Arc::clone(&captures),
        rules,
        access: Arc::clone(&access),
        metrics: recorder,
    };
    let server = tokio::spawn(api::serve(bound, api::router(state), stop.clone()));
    if login {
        announce(address, &access);
    }
    asked_to_stop.cancelled().await;
    tracing::info!("stopping");
    captures.shutdown();
    stop.cancel();
    server.await?;
    tokio::task::spawn_blocking(move || stop_feed(feed)).await?;
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

/// One daemon per run folder: the lock ends with the process.
fn claim(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o750);
    let path = run_dir.join("lock");
    let file = builder.create(run_dir).and_then(|()| File::create(&path)).with_context(|| {
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

async fn bind(config: &Config) -> anyhow::Result<Bound> {
    api::bind(&config.run_dir, config.listen).await.map_err(|error| match error {
        BindError::InUse(_) | BindError::PortOfLinnet(_) => {
            ExitWith { code: exit::BUSY, message: error.to_string() }.into()
        }
        BindError::PortTaken(_) | BindError::Tcp { .. } | BindError::Unix { .. } => error.into(),
    })
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

/// Loads the programs and attaches them, until it is told to stop.
fn attach(
    config: &Config,
    clock: &Arc<Clock>,
    asked_to_stop: &CancellationToken,
) -> anyhow::Result<Kernel> {
    let attacher = Attacher::new(&config.pin_dir, config.sizes)?;
    let (flows, hooks, services) = (attacher.flows()?, attacher.hooks()?, attacher.services()?);
    let ring = attacher.capture_ring()?;
    let attacher = Arc::new(Mutex::new(attacher));
    let by_default = config.interfaces.is_empty();
    let wanted =
        if by_default { vec![WatchRequest::every_up()] } else { config.interfaces.clone() };
    let mut follower =
        Follower::new(Arc::clone(&attacher), wanted, config.on_displaced, Arc::clone(clock))?;
    follower.begin(|| asked_to_stop.is_cancelled())?;
    let points = follower.points();
    if by_default && points.latest().is_empty() && !asked_to_stop.is_cancelled() {
        let mut message =
            "no interface that could be watched is up but loopback; name one with --interface"
                .to_owned();
        for notice in points.notices().iter().take(1) {
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
    Ok(Kernel { attacher, flows, hooks, services, ring, follower })
}

/// What makes flow ids unique: this boot, or this file.
fn origin(source: &Source) -> anyhow::Result<FlowIdSource> {
    match source {
        Source::Live => {
            let mut boot = String::new();
            File::open("/proc/sys/kernel/random/boot_id")?.read_to_string(&mut boot)?;
            Ok(FlowIdSource::new(boot.trim().as_bytes()))
        }
        Source::Replay(path) => crate::analyze::identity(path).map_err(|error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            ExitWith { code: unreadable(error.kind()), message }.into()
        }),
    }
}

fn publisher(
    config: &Config,
    source: &Source,
    board: &Arc<Board>,
    clock: &Arc<Clock>,
    captures: &Arc<CaptureManager>,
) -> Publisher {
    let (mode, notices) = match source {
        Source::Live => ("live", Vec::new()),
        Source::Replay(path) => {
            let mut notices = vec![format!(
                "this is `{}` played in real time; run as root with --interface to watch this host",
                path.display()
            )];
            if !config.rules.is_empty() {
                notices.push("the configuration's rules do not apply to a replay, which tracks every packet of its file".to_owned());
            }
            ("replay", notices)
        }
    };
    let captures = Arc::clone(captures);
    let interval_ns = u64::try_from(config.sweep_interval.as_nanos()).unwrap_or(u64::MAX);
    let rings = Arc::new(move || captures.rings());
    Publisher::new(Arc::clone(board), Arc::clone(clock), rings, mode, interval_ns, notices)
}

fn start_feed(
    config: &Config,
    source: &Source,
    kernel: Option<Kernel>,
    table: &Arc<FlowTable>,
    publisher: Publisher,
    recorder: Recorder,
    clock: &Arc<Clock>,
) -> anyhow::Result<Feed> {
    let (table, clock) = (Arc::clone(table), Arc::clone(clock));
    let interval = config.sweep_interval;
    match (source, kernel) {
        (Source::Live, Some(kernel)) => {
            let ring = RingReader::start(kernel.ring, recorder, Arc::clone(&clock))?;
            let board = Arc::clone(publisher.board());
            let sweeper = Sweeper {
                flow_map: kernel.flows,
                hook_map: kernel.hooks,
                service_map: kernel.services,
                points: Arc::clone(kernel.follower.points()),
                past: Past::default(),
                table,
                publisher,
                clock,
                interval,
            };
            let sweeper = sweeper.start()?;
            let follower = kernel.follower.start(sweeper.hurry(), board)?;
            Ok(Feed::Live { follower, sweeper, ring, attacher: kernel.attacher })
        }
        (Source::Replay(path), _) => {
            let path = path.clone();
            let flows_max = usize::try_from(config.sizes.flows).unwrap_or(usize::MAX);
            let player = Player { path, table, publisher, recorder, clock, flows_max, interval };
            Ok(Feed::Replay(player.start()?))
        }
        (Source::Live, None) => anyhow::bail!("the kernel side was not set up"),
    }
}

fn stop_feed(feed: Feed) {
    match feed {
        Feed::Live { follower, sweeper, ring, attacher } => {
            follower.stop();
            ring.stop();
            sweeper.stop();
            // Last: the programs come off their hooks and the pins go.
            drop(attacher);
        }
        Feed::Replay(playing) => playing.stop(),
    }
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
