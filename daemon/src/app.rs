//! The running daemon: builds the parts in the order in which they need one another, and stops them in reverse.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Access, ApiState, BindError, Bound},
    board::Board,
    capture::{self, CaptureManager, Keep, Recorder, Stage, reader::RingReader},
    cli::{ExitWith, exit, unreadable},
    clock::Clock,
    config::Config,
    flow::{FlowIdSource, FlowTable},
    live::{
        Answer, AttachedPoint, Attacher, CaptureRing, FlowMap, HookMap, StageConfig, Verb, watch,
    },
    metrics,
    replay::{NoStage, Player, Playing},
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

impl Stage for LiveStage {
    fn start(&self, config: StageConfig) -> anyhow::Result<()> {
        self.perform(Verb::StartCapture(config))
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.perform(Verb::StopCapture)
    }
}

/// What is read from the kernel.
struct Kernel {
    attacher: Arc<Mutex<Attacher>>,
    flows: FlowMap,
    hooks: HookMap,
    ring: CaptureRing,
    points: Vec<AttachedPoint>,
}

/// What feeds the flow table.
enum Feed {
    Live { sweeper: Running, ring: RingReader, attacher: Arc<Mutex<Attacher>> },
    Replay(Playing),
}

/// Runs until SIGINT, SIGTERM or SIGHUP. `login` prints a one-time login for a browser.
pub fn run(config: &Config, source: &Source, login: bool) -> anyhow::Result<()> {
    let _lock = claim(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_until_stopped(config, source, login))
}

async fn serve_until_stopped(config: &Config, source: &Source, login: bool) -> anyhow::Result<()> {
    let clock = Arc::new(Clock::new());
    let board = Arc::new(Board::default());
    let recorder = metrics::install()?;
    let access = Arc::new(
        Access::new(&config.run_dir, Arc::clone(&clock)).context("cannot make the token")?,
    );
    let bound = bind(config).await?;
    let kernel = match source {
        Source::Live => Some(attach(config)?),
        Source::Replay(_) => None,
    };
    let stage: Box<dyn Stage> = match &kernel {
        Some(kernel) => Box::new(LiveStage(Arc::clone(&kernel.attacher))),
        None => Box::new(NoStage),
    };
    let dir = config.state_dir.join("captures");
    let (captures, capture_recorder) =
        capture::open(&dir, Keep::default(), stage, Arc::clone(&board)).with_context(|| {
            format!(
                "cannot use `{}` for captures; choose another folder with --state-dir",
                dir.display()
            )
        })?;
    let captures = Arc::new(captures);
    let flows = Arc::new(FlowTable::new(origin(source)?, config.records_max));
    tracing::info!(
        records = config.records_max,
        bytes_max = FlowTable::bytes_max(config.sizes.flows, config.records_max),
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
        access: Arc::clone(&access),
        metrics: recorder,
    };
    let server = tokio::spawn(api::serve(bound, api::router(state), stop.clone()));
    if login {
        announce(address, &access);
    }
    wait_for_signal().await?;
    tracing::info!("stopping");
    captures.shutdown();
    stop.cancel();
    server.await?;
    tokio::task::spawn_blocking(move || stop_feed(feed)).await?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the line that a person opens in a browser")]
fn announce(address: std::net::SocketAddr, access: &Access) {
    println!("open http://{address}/#login={}", access.one_time_login());
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
        BindError::InUse(_) => ExitWith { code: exit::BUSY, message: error.to_string() }.into(),
        BindError::PortTaken(_) | BindError::Tcp { .. } | BindError::Unix { .. } => error.into(),
    })
}

/// Loads the programs and attaches them.
fn attach(config: &Config) -> anyhow::Result<Kernel> {
    let mut attacher = Attacher::new(&config.pin_dir, config.sizes)?;
    let requests = if config.interfaces.is_empty() {
        watch::default_requests()
    } else {
        config.interfaces.clone()
    };
    if requests.is_empty() {
        let message = "no interface is up but loopback; name one with --interface".into();
        return Err(ExitWith { code: exit::USAGE, message }.into());
    }
    let mut points = Vec::new();
    for request in requests {
        let Answer::Attached(attached) = attacher.perform(Verb::Attach(request.clone()))? else {
            continue;
        };
        for (way, hook) in [("ingress", &attached.ingress), ("egress", &attached.egress)] {
            match hook {
                Some(hook) => {
                    tracing::info!(interface = %request, way, hook = %hook.hook, why = hook.reason, "attached")
                }
                None => tracing::info!(interface = %request, way, "not watched"),
            }
        }
        points.push(AttachedPoint { request, attached });
    }
    let (flows, hooks, ring) = (attacher.flows()?, attacher.hooks()?, attacher.capture_ring()?);
    tracing::info!(
        flows = flows.capacity(),
        flow_table_bytes = flows.memory_bytes(),
        capture_ring_bytes = config.sizes.capture_ring_bytes,
        "kernel memory"
    );
    Ok(Kernel { attacher: Arc::new(Mutex::new(attacher)), flows, hooks, ring, points })
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
        Source::Replay(path) => (
            "replay",
            vec![format!(
                "this is `{}` played in real time; run as root with --interface to watch this host",
                path.display()
            )],
        ),
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
    let (timeouts, interval) = (config.timeouts, config.sweep_interval);
    match (source, kernel) {
        (Source::Live, Some(kernel)) => {
            let ring = RingReader::start(kernel.ring, recorder, Arc::clone(&clock))?;
            let (flow_map, hook_map, points) = (kernel.flows, kernel.hooks, kernel.points);
            let sweeper =
                Sweeper { flow_map, hook_map, points, table, publisher, clock, timeouts, interval };
            Ok(Feed::Live { sweeper: sweeper.start()?, ring, attacher: kernel.attacher })
        }
        (Source::Replay(path), _) => {
            let path = path.clone();
            let flows_max = usize::try_from(config.sizes.flows).unwrap_or(usize::MAX);
            let player =
                Player { path, table, publisher, recorder, clock, flows_max, timeouts, interval };
            Ok(Feed::Replay(player.start()?))
        }
        (Source::Live, None) => anyhow::bail!("the kernel side was not set up"),
    }
}

fn stop_feed(feed: Feed) {
    match feed {
        Feed::Live { sweeper, ring, attacher } => {
            ring.stop();
            sweeper.stop();
            // Last: the programs come off their hooks and the pins go.
            drop(attacher);
        }
        Feed::Replay(playing) => playing.stop(),
    }
}

/// Ctrl-C, `kill`, or the end of the terminal that this runs in.
async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
