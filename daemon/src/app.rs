//! The running daemon: builds the parts in the order in which they need one another, and stops them in reverse.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use datapath::layout::CaptureCounts;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Access, ApiState, Bound},
    attachment::Attachment,
    board::Board,
    capture::{self, CaptureManager, Keep, Recorder, Stage, reader::RingReader},
    cli::{ExitWith, exit, say, unreadable},
    clock::Clock,
    config::Config,
    events::{EventReader, Reading},
    flow::{EventStore, FlowIdSource, FlowTable, table::Departures},
    live::{
        self, AttachedPoint, CaptureCounters, Handover, Keeper, Kinship, Points, Remote,
        StageConfig, Succession, Tables, Verb,
    },
    live_rules::{LiveRules, fingerprint, restore},
    metrics,
    past::Past,
    replay::{NoStage, Player, Playing},
    rules::{NoRules, RuleSink, Rules, RulesError},
    sandbox::{self, Layer, Mode, Policy},
    status::Publisher,
    supervisor,
    sweep::{Running, Sweeper},
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
    /// A capture file in real time.
    Replay(PathBuf),
}

/// The attacher and what is watched, to whoever asks for captures.
struct LiveStage(Remote, Arc<Points>, Arc<CaptureCounters>);

impl Stage for LiveStage {
    fn start(&self, slot: u8, config: StageConfig) -> anyhow::Result<()> {
        self.0.perform(&Verb::StartCapture { slot, config })?;
        Ok(())
    }

    fn stop(&self, slot: u8) -> anyhow::Result<()> {
        self.0.perform(&Verb::StopCapture { slot })?;
        Ok(())
    }

    fn counts(&self, slot: u8) -> Option<CaptureCounts> {
        let counts = self.2.read(slot);
        counts.inspect_err(|error| tracing::error!(%error, slot, "no counters")).ok()
    }

    fn interface(&self, point: u32) -> Option<AttachedPoint> {
        // It may have come since the last sweep, or have another name by now.
        if let Err(error) = self.1.refresh(&self.0) {
            tracing::warn!(%error, point, "what an observation point stands for is not known");
        }
        let watched = self.1.latest().into_iter().find(|it| it.point.attached.point == point);
        watched.map(|it| it.point)
    }
}

/// What is read from the kernel.
struct Kernel {
    remote: Remote,
    tables: Tables,
    keeper: Arc<Keeper>,
    points: Arc<Points>,
    /// What the next attacher has to have in common with this daemon; absent where there is no next one.
    kinship: Option<Kinship>,
}

/// What packets come from, and what is said about it.
enum Input {
    Live(Box<Kernel>),
    Replay(PathBuf),
}

/// What feeds the flow table.
enum Feed {
    Live { sweeper: Running, ring: RingReader, events: Reading },
    Replay(Playing),
}

/// Runs until SIGINT, SIGTERM or SIGHUP. `login` prints a one-time login for a browser.
pub fn run(config: &Config, source: Source, login: bool) -> anyhow::Result<()> {
    let (_lock, listener, input) = match source {
        Source::Live { handover, remote, ends_with_it } => {
            let Handover { listener, keeper, tables, kinship, config: _ } = *handover;
            let (keeper, points) = (Arc::new(keeper), Arc::default());
            let kinship = (!ends_with_it).then_some(kinship);
            let kernel = Kernel { remote, tables, keeper, points, kinship };
            (None, listener, Input::Live(Box::new(kernel)))
        }
        Source::Replay(path) => {
            let lock = supervisor::claim(&config.run_dir)?;
            (Some(lock), supervisor::bind(config)?, Input::Replay(path))
        }
    };
    // The only thread, and its children will be as it is.
    let confined = matches!(input, Input::Live(_));
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
    let succession = succession(config, &input)?;
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

/// Where the daemon's next attacher comes.
fn succession(config: &Config, input: &Input) -> anyhow::Result<Option<Succession>> {
    let Input::Live(kernel) = input else { return Ok(None) };
    let Some(kinship) = kernel.kinship else { return Ok(None) };
    let socket = kernel.remote.descriptor()?;
    let listening = Succession::listen(&config.run_dir, &socket, kinship);
    listening.map(Some).context("cannot listen for another attacher in the folder of --run-dir")
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
    let (remote, kept_rules) = match &input {
        Input::Live(kernel) => (Some(kernel.remote.clone()), kernel.keeper.rules()?),
        Input::Replay(_) => (None, None),
    };
    let (stage, sink): (Arc<dyn Stage>, Box<dyn RuleSink>) = match &input {
        Input::Live(kernel) => {
            let Kernel { remote, keeper, points, tables, .. } = &**kernel;
            let (remote, keeper) = (remote.clone(), Arc::clone(keeper));
            let configured = fingerprint(&config.rules);
            let counters = Arc::clone(&tables.counters);
            let stage = Arc::new(LiveStage(remote.clone(), Arc::clone(points), counters));
            (stage, Box::new(LiveRules { remote, keeper, configured }))
        }
        Input::Replay(_) => (Arc::new(NoStage), Box::new(NoRules)),
    };
    let rules = Arc::new(Rules::new(sink));
    let were_kept = kept_rules.is_some();
    let restored = kept_rules.is_some_and(|text| restore(&rules, &text, &config.rules));
    if remote.is_some() && !restored && (were_kept || !config.rules.is_empty()) {
        rules.set(config.rules.clone()).map_err(|error| rules_of_config(&error))?;
    }
    let dir = config.state_dir.join("captures");
    let (captures, capture_recorder) =
        capture::open(&dir, Keep::default(), stage, Arc::clone(&board))
            .map_err(|error| no_captures(&dir, error))?;
    let captures = Arc::new(captures);
    let source = origin(&input)?;
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
    let publisher = publisher(config, &input, notices, &board, &clock, &captures);
    let attachment = match &input {
        Input::Replay(_) => None,
        Input::Live(kernel) => Some(Attachment {
            remote: kernel.remote.clone(),
            succession,
            board: Arc::clone(&board),
            captures: Arc::clone(&captures),
            rules: Arc::clone(&rules),
            keeper: Arc::clone(&kernel.keeper),
            configured: config.rules.clone(),
        }),
    };
    let stores = (Arc::clone(&flows), Arc::clone(&events));
    let feed = start_feed(config, input, stores, publisher, capture_recorder, &clock)?;

    let address = bound.address;
    tracing::info!(%address, socket = %bound.path.display(), "listening");
    let stop = CancellationToken::new();
    let state = ApiState {
        flows,
        events,
        board: Arc::clone(&board),
        captures: Arc::clone(&captures),
        rules,
        access: Arc::clone(&access),
        metrics: recorder,
    };
    let server = tokio::spawn(api::serve(bound, api::router(state), stop.clone()));
    if login {
        announce(address, &access);
    }
    let lost = match attachment {
        None => CancellationToken::new(),
        Some(attachment) => {
            attachment.remote.perform(&Verb::Serving)?;
            attachment.start()?
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
    tokio::task::spawn_blocking(move || stop_feed(feed)).await?;
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

/// What makes flow ids unique: this boot, or this file.
fn origin(input: &Input) -> anyhow::Result<FlowIdSource> {
    match input {
        Input::Live(_) => {
            let mut boot = String::new();
            File::open("/proc/sys/kernel/random/boot_id")?.read_to_string(&mut boot)?;
            Ok(FlowIdSource::new(boot.trim().as_bytes()))
        }
        Input::Replay(path) => crate::analyze::identity(path).map_err(|error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            ExitWith { code: unreadable(error.kind()), message }.into()
        }),
    }
}

fn publisher(
    config: &Config,
    input: &Input,
    lacks: Vec<String>,
    board: &Arc<Board>,
    clock: &Arc<Clock>,
    captures: &Arc<CaptureManager>,
) -> Publisher {
    let (mode, notices) = match input {
        Input::Live(_) => ("live", lacks),
        Input::Replay(path) => {
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
    input: Input,
    (table, store): (Arc<FlowTable>, Arc<EventStore>),
    publisher: Publisher,
    recorder: Recorder,
    clock: &Arc<Clock>,
) -> anyhow::Result<Feed> {
    let clock = Arc::clone(clock);
    let interval = config.sweep_interval;
    match input {
        Input::Live(kernel) => {
            let Kernel { remote, tables, keeper, points, kinship: _ } = *kernel;
            let kept = keeper.kept().context("cannot read what an earlier daemon kept")?;
            table.go_on_from(Departures {
                closed: kept.closed,
                aged: kept.aged,
                evicted: kept.evicted,
                forgotten: kept.forgotten,
            });
            let events = Arc::new(EventReader::new(tables.events, store));
            let reading = events.start(Arc::clone(publisher.board()))?;
            let ring = RingReader::start(tables.rings, recorder, Arc::clone(&clock))?;
            let sweeper = Sweeper {
                flow_map: tables.flows,
                hook_map: tables.hooks,
                service_map: tables.services,
                events,
                points,
                remote: Some(remote),
                past: Past::after(&kept.before),
                keeper: Some(keeper),
                table,
                publisher: publisher.counting_since(kept.since_ns),
                clock,
                interval,
                waited_ns: 0,
            };
            Ok(Feed::Live { sweeper: sweeper.start()?, ring, events: reading })
        }
        Input::Replay(path) => {
            let flows_max = usize::try_from(config.sizes.flows).unwrap_or(usize::MAX);
            let player = Player {
                path,
                table,
                events: store,
                publisher,
                recorder,
                clock,
                flows_max,
                interval,
            };
            Ok(Feed::Replay(player.start()?))
        }
    }
}

fn stop_feed(feed: Feed) {
    match feed {
        Feed::Live { sweeper, ring, events } => {
            ring.stop();
            events.stop();
            sweeper.stop();
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
