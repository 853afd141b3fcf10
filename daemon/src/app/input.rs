//! What packets come from, and what follows for the rest of the daemon: the capture stage, the rules' way, the thread that
//! feeds the flow table, and what is said about it.

use std::{fs::File, io::Read as _, net::TcpListener, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use datapath::{layout::CaptureCounts, rules::Rule};
use nix::fcntl::Flock;
use tokio_util::sync::CancellationToken;

use super::Source;
use crate::{
    attachment::{self, Attachment},
    board::Board,
    capture::{CaptureManager, Recorder, Stage, reader::RingReader},
    cli::{ExitWith, unreadable},
    clock::Clock,
    config::Config,
    events::{EventReader, Reading},
    flow::{EventStore, FlowIdSource, FlowTable, table::Departures},
    live::{
        AttachedPoint, CaptureCounters, Handover, Keeper, Kinship, Opened, PacketHandover, Points,
        Remote, StageConfig, Succession, Tables, Verb, WatchedPoint,
    },
    live_rules::{LiveRules, fingerprint},
    packet_source::{self, PacketSource, SocketRules},
    past::Past,
    replay::{Player, Playing},
    rules::{NoRules, RuleSink, Rules},
    software::{NoStage, Software},
    status::Publisher,
    supervisor,
    sweep::{Running, Sweeper},
};

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
        // What is left of one that has gone is no part of a capture any more.
        let is_it = |it: &WatchedPoint| it.point.attached.point == point && !it.gone;
        let watched = self.1.latest().into_iter().find(is_it);
        watched.map(|it| it.point)
    }
}

/// What is read from the kernel.
pub(super) struct Kernel {
    remote: Remote,
    tables: Tables,
    keeper: Arc<Keeper>,
    points: Arc<Points>,
    /// What the next attacher has to have in common with this daemon; absent where there is no next one.
    pub(super) kinship: Option<Kinship>,
}

/// What is read from sockets.
pub(super) struct Sockets {
    remote: Remote,
    opened: Vec<Opened>,
    why: String,
    sink: SocketRules,
    lists: std::sync::mpsc::Receiver<Vec<Rule>>,
}

/// What packets come from.
pub(super) enum Input {
    Live(Box<Kernel>),
    Sockets(Box<Sockets>),
    Replay(PathBuf),
}

/// What feeds the flow table.
pub(super) enum Feed {
    Live { sweeper: Running, ring: RingReader, events: Reading },
    Sockets(packet_source::Reading),
    Replay(Playing),
}

/// Who else has to know of an attacher that dies and of the next one.
pub(super) struct Parties {
    pub(super) board: Arc<Board>,
    pub(super) captures: Arc<CaptureManager>,
    pub(super) rules: Arc<Rules>,
}

/// What holds a run folder for this process alone, where no attacher does.
pub(super) type Lock = Option<Flock<File>>;

impl Input {
    /// Of a source, with the address for HTTP.
    pub(super) fn of(source: Source, config: &Config) -> anyhow::Result<(Lock, TcpListener, Self)> {
        Ok(match source {
            Source::Live { handover, remote, ends_with_it } => {
                let Handover { listener, keeper, tables, kinship, config: _ } = *handover;
                let (keeper, points) = (Arc::new(keeper), Arc::default());
                let kinship = (!ends_with_it).then_some(kinship);
                let kernel = Kernel { remote, tables, keeper, points, kinship };
                (None, listener, Self::Live(Box::new(kernel)))
            }
            Source::Sockets { handover, remote } => {
                let PacketHandover { listener, opened, why, config: _ } = *handover;
                let (sink, lists) = SocketRules::new(&opened);
                let sockets = Sockets { remote, opened, why, sink, lists };
                (None, listener, Self::Sockets(Box::new(sockets)))
            }
            Source::Replay(path) => {
                let lock = supervisor::claim(&config.run_dir)?;
                (Some(lock), supervisor::bind(config)?, Self::Replay(path))
            }
        })
    }

    /// The attacher, where there is one.
    pub(super) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Live(kernel) => Some(&kernel.remote),
            Self::Sockets(sockets) => Some(&sockets.remote),
            Self::Replay(_) => None,
        }
    }

    /// Where the next attacher comes, if there is to be one.
    pub(super) fn succession(&self, config: &Config) -> anyhow::Result<Option<Succession>> {
        let Self::Live(kernel) = self else { return Ok(None) };
        let Some(kinship) = kernel.kinship else { return Ok(None) };
        let socket = kernel.remote.descriptor()?;
        let listening = Succession::listen(&config.run_dir, &socket, kinship);
        listening.map(Some).context("cannot listen for another attacher in the folder of --run-dir")
    }

    /// The rules that an earlier daemon put in force.
    pub(super) fn kept_rules(&self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Live(kernel) => Ok(kernel.keeper.rules()?),
            Self::Sockets(_) | Self::Replay(_) => Ok(None),
        }
    }

    /// What copies packets for captures.
    pub(super) fn stage(&self) -> Arc<dyn Stage> {
        match self {
            Self::Live(kernel) => {
                let counters = Arc::clone(&kernel.tables.counters);
                Arc::new(LiveStage(kernel.remote.clone(), Arc::clone(&kernel.points), counters))
            }
            Self::Sockets(_) | Self::Replay(_) => Arc::new(NoStage),
        }
    }

    /// What puts rules in force.
    pub(super) fn rule_sink(&self, config: &Config) -> Box<dyn RuleSink> {
        match self {
            Self::Live(kernel) => {
                let (remote, keeper) = (kernel.remote.clone(), Arc::clone(&kernel.keeper));
                Box::new(LiveRules { remote, keeper, configured: fingerprint(&config.rules) })
            }
            Self::Sockets(sockets) => Box::new(sockets.sink.clone()),
            Self::Replay(_) => Box::new(NoRules),
        }
    }

    /// What makes flow ids unique: this boot, or this file.
    pub(super) fn origin(&self) -> anyhow::Result<FlowIdSource> {
        match self {
            Self::Live(_) | Self::Sockets(_) => {
                let mut boot = String::new();
                File::open("/proc/sys/kernel/random/boot_id")?.read_to_string(&mut boot)?;
                Ok(FlowIdSource::new(boot.trim().as_bytes()))
            }
            Self::Replay(path) => crate::analyze::identity(path).map_err(|error| {
                let message = format!("cannot read `{}`: {error}", path.display());
                ExitWith { code: unreadable(error.kind()), message }.into()
            }),
        }
    }

    /// Where figures go, with what is said about where they come from.
    pub(super) fn publisher(
        &self,
        config: &Config,
        mut notices: Vec<String>,
        board: &Arc<Board>,
        clock: &Arc<Clock>,
        captures: &Arc<CaptureManager>,
    ) -> Publisher {
        let (mode, source) = match self {
            Self::Live(_) => ("live", "ebpf"),
            Self::Sockets(sockets) => {
                notices.insert(0, packet_source::notice(&sockets.why));
                ("live", packet_source::HOOK)
            }
            Self::Replay(path) => {
                notices.push(format!(
                    "this is `{}` played in real time; run as root with --interface to watch this host",
                    path.display()
                ));
                if !config.rules.is_empty() {
                    notices.push("the configuration's rules do not apply to a replay, which tracks every packet of its file".to_owned());
                }
                ("replay", "replay")
            }
        };
        let captures = Arc::clone(captures);
        let interval_ns = u64::try_from(config.sweep_interval.as_nanos()).unwrap_or(u64::MAX);
        let rings = Arc::new(move || captures.rings());
        let (board, clock) = (Arc::clone(board), Arc::clone(clock));
        Publisher::new(board, clock, rings, mode, interval_ns, notices).told_by(source)
    }

    /// What is kept of the attacher when the feed takes the rest.
    pub(super) fn attached(&self, succession: Option<Succession>) -> Option<Attached> {
        let keeper = match self {
            Self::Live(kernel) => Some(Arc::clone(&kernel.keeper)),
            Self::Sockets(_) | Self::Replay(_) => None,
        };
        self.remote().cloned().map(|remote| Attached { remote, keeper, succession })
    }

    /// Starts what feeds the flow table.
    pub(super) fn start(
        self,
        config: &Config,
        (table, store): (Arc<FlowTable>, Arc<EventStore>),
        publisher: Publisher,
        recorder: Recorder,
        clock: &Arc<Clock>,
    ) -> anyhow::Result<Feed> {
        let (clock, interval) = (Arc::clone(clock), config.sweep_interval);
        let flows_max = config.sizes.flows;
        match self {
            Self::Live(kernel) => {
                kernel.start(interval, (table, store), publisher, recorder, clock)
            }
            Self::Sockets(sockets) => {
                tracing::info!(
                    flows = flows_max,
                    bytes_max = Software::bytes_max(flows_max),
                    "memory for the tables that the kernel does not hold"
                );
                let software = Software::new((table, store), publisher, clock, flows_max);
                let Sockets { opened, why, lists, .. } = *sockets;
                let source = PacketSource::new((opened, why), lists, software, recorder, interval);
                Ok(Feed::Sockets(source.start()?))
            }
            Self::Replay(path) => {
                let software = Software::new((table, store), publisher, clock, flows_max);
                Ok(Feed::Replay(Player { path, software, recorder, interval }.start()?))
            }
        }
    }
}

/// An attacher, and what goes on without it.
pub(super) struct Attached {
    remote: Remote,
    /// Absent where the daemon ends with its attacher.
    keeper: Option<Arc<Keeper>>,
    succession: Option<Succession>,
}

impl Attached {
    /// Tells it that the daemon serves from here on, and watches over it. The token is cancelled where the daemon cannot go
    /// on.
    pub(super) fn watch(
        self,
        config: &Config,
        parties: Parties,
    ) -> anyhow::Result<CancellationToken> {
        let Self { remote, keeper, succession } = self;
        remote.perform(&Verb::Serving)?;
        let Some(keeper) = keeper else { return Ok(attachment::end_with(&remote)?) };
        let Parties { board, captures, rules } = parties;
        let configured = config.rules.clone();
        let attachment =
            Attachment { remote, succession, board, captures, rules, keeper, configured };
        Ok(attachment.start()?)
    }
}

impl Kernel {
    fn start(
        self,
        interval: std::time::Duration,
        (table, store): (Arc<FlowTable>, Arc<EventStore>),
        publisher: Publisher,
        recorder: Recorder,
        clock: Arc<Clock>,
    ) -> anyhow::Result<Feed> {
        let Self { remote, tables, keeper, points, kinship: _ } = self;
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
}

impl Feed {
    /// Stops it after a last look at what there is.
    pub(super) fn stop(self) {
        match self {
            Self::Live { sweeper, ring, events } => {
                ring.stop();
                events.stop();
                sweeper.stop();
            }
            Self::Sockets(reading) => reading.stop(),
            Self::Replay(playing) => playing.stop(),
        }
    }
}
