//! One capture at a time: from the kernel's stage, or a replayed file, through a tcpdump filter into a pcapng file.
//! Readers follow the file, so that none of them can hold up the writer or another reader.

pub mod reader;
pub mod vlan;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use captures::{
    Capture, CaptureSpec, CapturedPacket, FilterError, InterfaceDescription, Libpcap, Limits,
    LinkType, Offer, Snaplen, StopReason,
    format::pcapng::SectionHeader,
    session::{Counters, Loss},
};
use datapath::{Link, layout::CAPTURE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    board::Board,
    clock::Clock,
    flow::view::{RingsView, rfc3339},
    live::StageConfig,
};

/// Longest capture.
pub const DURATION_MAX_S: u64 = 24 * 3_600;
/// How long a capture runs when nothing is said.
pub const DURATION_DEFAULT_S: u64 = 60;
/// Largest file.
pub const BYTES_MAX: u64 = 16 << 30;
/// Finished captures that are kept; the oldest goes first.
pub const CAPTURES_KEPT_MAX: usize = 50;
/// From one statistics block to the next.
const HEARTBEAT_NS: u64 = 2_000_000_000;

/// Turns the copying of packets on and off.
pub trait Stage: Send + Sync {
    /// Copies from now on.
    fn start(&self, config: StageConfig) -> anyhow::Result<()>;
    /// Copies no more.
    fn stop(&self) -> anyhow::Result<()>;
}

/// What a client asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// tcpdump's filter language; absent or empty for every packet.
    #[serde(default)]
    pub filter: String,
    /// Interface as in `/interfaces`; absent for all.
    #[serde(default)]
    pub interface: Option<String>,
    /// Most bytes of each packet.
    #[serde(default = "default_snaplen")]
    pub snaplen: u32,
    /// When to stop.
    #[serde(default)]
    pub limits: RequestLimits,
}

/// What the kernel's stage copies at most.
const fn default_snaplen() -> u32 {
    const _: () = assert!(CAPTURE_BYTES_MAX == 65_536);
    65_536
}

/// When to stop; whichever comes first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    /// Packets written.
    pub packets: Option<u64>,
    /// Bytes of the file.
    pub bytes: Option<u64>,
    /// Seconds.
    pub seconds: Option<u64>,
}

/// One capture as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct CaptureView {
    /// Its id.
    pub id: String,
    /// `running` or `finished`.
    pub state: &'static str,
    /// Why it ended.
    pub stop_reason: Option<&'static str>,
    /// The filter.
    pub filter: String,
    /// The interface, if only one.
    pub interface: Option<String>,
    /// Most bytes of each packet.
    pub snaplen: u32,
    /// When it stops.
    pub limits: RequestLimits,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// Packets that the stage copied and the filter saw.
    pub offered: u64,
    /// Packets that the filter let through, or that were lost before it.
    pub matched: u64,
    /// Packets in the file.
    pub written: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Packets that are not in the file though they were wanted, or may have been: `ring` is counted before the
    /// filter.
    pub lost: LostView,
}

/// Why packets are not in the file.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LostView {
    /// No room in the kernel's ring; before the filter.
    pub ring: u64,
    /// The file could not be written.
    pub disk: u64,
}

/// Why a capture cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One runs.
    #[error("the capture {0} is running; stop it first, or wait until it ends")]
    Running(String),
    /// The filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A value is out of bounds.
    #[error("`{field}`: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// No such capture.
    #[error("there is no capture `{0}`; it may have been removed to make room")]
    Unknown(String),
    /// The kernel or the disk refused.
    #[error("the capture could not be started: {0:#}")]
    Failed(anyhow::Error),
}

struct Running {
    view: CaptureView,
    capture: Capture<BufWriter<File>>,
    interfaces: HashMap<(u32, u32), u32>,
    lost_before: u64,
    heartbeat_ns: u64,
    end_ns: u64,
}

/// The captures of this daemon.
pub struct CaptureManager {
    dir: PathBuf,
    stage: Box<dyn Stage>,
    board: Arc<Board>,
    clock: Arc<Clock>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    running: Option<Running>,
    finished: Vec<CaptureView>,
    rings: RingsView,
}

impl std::fmt::Debug for CaptureManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureManager").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// One packet on its way into a capture.
#[derive(Clone, Copy, Debug)]
pub struct RawPacket<'a> {
    /// Unix ns.
    pub wall_ns: u64,
    /// Observation point.
    pub point: u32,
    /// 0 ingress, 1 egress.
    pub direction: u32,
    /// Bytes on the link.
    pub original_len: u32,
    /// What was copied.
    pub data: &'a [u8],
    /// Receive queue.
    pub queue: u32,
}

impl CaptureManager {
    /// Keeps captures in `dir`.
    pub fn new(
        dir: &Path,
        stage: Box<dyn Stage>,
        board: Arc<Board>,
        clock: Arc<Clock>,
    ) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let inner = Mutex::default();
        Ok(Self { dir: dir.to_owned(), stage, board, clock, inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a capture.
    pub fn start(&self, request: CaptureRequest) -> Result<CaptureView, CaptureError> {
        let mut inner = self.lock();
        if let Some(running) = &inner.running {
            return Err(CaptureError::Running(running.view.id.clone()));
        }
        let snaplen = Snaplen::try_new(request.snaplen).map_err(|error| CaptureError::Field {
            field: "snaplen",
            problem: error.to_string(),
        })?;
        let limits = checked(request.limits)?;
        let plan = self.plan(&request, snaplen)?;
        let started_ns = self.clock.wall_ns().cast_unsigned();
        let id = format!("{:013x}{:08x}", started_ns / 1_000_000, rand::random::<u32>());
        let spec = CaptureSpec {
            section: SectionHeader {
                application: Some(format!("linnet {}", env!("CARGO_PKG_VERSION"))),
                ..SectionHeader::default()
            },
            interfaces: plan.descriptions,
            filter: plan.filter,
            snaplen,
            limits: Limits {
                packets: limits.packets,
                bytes: limits.bytes,
                duration_ns: limits.seconds.map(|seconds| seconds * 1_000_000_000),
            },
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(self.path(&id))
            .map_err(|error| CaptureError::Failed(error.into()))?;
        let mut capture = Capture::start(spec, BufWriter::new(file), started_ns)
            .map_err(|error| CaptureError::Failed(error.into()))?;
        capture.flush();
        let seconds = limits.seconds.unwrap_or(DURATION_DEFAULT_S);
        let config = StageConfig {
            snaplen: request.snaplen.min(default_snaplen()),
            deadline_ns: self.clock.monotonic_ns() + (seconds + 1) * 1_000_000_000,
            point: plan.point,
        };
        self.stage.start(config).map_err(CaptureError::Failed)?;
        let view = CaptureView {
            id,
            state: "running",
            stop_reason: None,
            filter: request.filter,
            interface: request.interface,
            snaplen: request.snaplen,
            limits,
            started_at: rfc3339(i128::from(started_ns)),
            ended_at: None,
            offered: 0,
            matched: 0,
            written: 0,
            bytes: 0,
            lost: LostView::default(),
        };
        inner.running = Some(Running {
            view: view.clone(),
            capture,
            interfaces: plan.indexes,
            lost_before: inner.rings.lost,
            heartbeat_ns: started_ns,
            end_ns: started_ns + seconds * 1_000_000_000,
        });
        Ok(view)
    }

    /// One packet from the stage.
    pub fn packet(&self, raw: &RawPacket<'_>) {
        let mut inner = self.lock();
        let Some(running) = &mut inner.running else { return };
        let Some(interface) = running.interfaces.get(&(raw.point, raw.direction)) else { return };
        let mut packet = CapturedPacket::new(raw.wall_ns, raw.data);
        packet.original_len = raw.original_len;
        packet.interface = *interface;
        packet.queue = Some(raw.queue);
        packet.direction = Some(match raw.direction {
            0 => captures::Direction::Inbound,
            _ => captures::Direction::Outbound,
        });
        if let Offer::Ended(reason) = running.capture.offer(&packet) {
            self.finish(&mut inner, reason);
        }
    }

    /// After each batch: what the ring lost, what is due, and everything so far into the file for its readers.
    pub fn tick(&self, rings: RingsView) {
        let mut inner = self.lock();
        inner.rings = rings;
        let now_ns = self.clock.wall_ns().cast_unsigned();
        let Some(running) = &mut inner.running else { return };
        let lost = rings.lost.saturating_sub(running.lost_before);
        if lost > 0 {
            running.lost_before = rings.lost;
            running.capture.lose(None, Loss::Ring, lost);
        }
        if now_ns >= running.heartbeat_ns + HEARTBEAT_NS {
            running.heartbeat_ns = now_ns;
            running.capture.heartbeat(now_ns);
        }
        running.capture.flush();
        let counters = running.capture.counters();
        update(&mut running.view, &counters);
        let ended = running.capture.stopped();
        let due = (now_ns >= running.end_ns).then_some(StopReason::DurationLimit);
        if let Some(reason) = ended.or(due) {
            self.finish(&mut inner, reason);
        }
    }

    fn finish(&self, inner: &mut Inner, reason: StopReason) {
        let Some(running) = inner.running.take() else { return };
        if let Err(error) = self.stage.stop() {
            tracing::error!(%error, "the capture stage was not stopped; it ends at its deadline");
        }
        let mut view = running.view;
        let (summary, _file) = running.capture.finish(reason, self.clock.wall_ns().cast_unsigned());
        update(&mut view, &summary.counters);
        view.bytes = summary.whole_bytes;
        view.state = "finished";
        view.stop_reason = Some(summary.reason.name());
        view.ended_at = Some(rfc3339(i128::from(self.clock.wall_ns())));
        inner.finished.push(view);
        while inner.finished.len() > CAPTURES_KEPT_MAX {
            let oldest = inner.finished.remove(0);
            // What is gone already needs no removing.
            let _gone = fs::remove_file(self.path(&oldest.id));
        }
    }

    /// Ends a running capture; one that has ended stays as it is.
    pub fn stop(&self, id: &str, reason: StopReason) -> Result<CaptureView, CaptureError> {
        let mut inner = self.lock();
        if inner.running.as_ref().is_some_and(|running| running.view.id == id) {
            self.finish(&mut inner, reason);
        }
        drop(inner);
        self.get(id)
    }

    /// Ends whatever runs.
    pub fn shutdown(&self) {
        let mut inner = self.lock();
        self.finish(&mut inner, StopReason::DaemonStopped);
    }

    /// One capture.
    pub fn get(&self, id: &str) -> Result<CaptureView, CaptureError> {
        let inner = self.lock();
        let running = inner.running.as_ref().map(|running| &running.view);
        let found = inner.finished.iter().chain(running).find(|view| view.id == id);
        found.cloned().ok_or_else(|| CaptureError::Unknown(id.to_owned()))
    }

    /// Every capture, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<CaptureView> {
        let inner = self.lock();
        let running = inner.running.as_ref().map(|running| running.view.clone());
        running.into_iter().chain(inner.finished.iter().rev().cloned()).collect()
    }

    /// Removes a capture and its file; a running one ends first.
    pub fn remove(&self, id: &str) -> Result<(), CaptureError> {
        self.stop(id, StopReason::UserRequest)?;
        self.lock().finished.retain(|view| view.id != id);
        fs::remove_file(self.path(id)).map_err(|error| CaptureError::Failed(error.into()))
    }

    /// The file of a capture, whole blocks only.
    pub fn open(&self, id: &str) -> Result<(File, CaptureView), CaptureError> {
        let view = self.get(id)?;
        let file = File::open(self.path(id)).map_err(|error| CaptureError::Failed(error.into()))?;
        Ok((file, view))
    }

    /// What became of the ring's records.
    #[must_use]
    pub fn rings(&self) -> RingsView {
        self.lock().rings
    }

    /// Ids are made here and looked up before they reach a path.
    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.pcapng"))
    }

    /// Which hooks feed the capture, as interfaces of the file, and the filter for their link type.
    fn plan(&self, request: &CaptureRequest, snaplen: Snaplen) -> Result<Plan, CaptureError> {
        let wrong = |problem: String| CaptureError::Field { field: "interface", problem };
        let interfaces = self.board.interfaces.latest();
        let wanted: Vec<_> = interfaces
            .iter()
            .filter(|interface| {
                request.interface.as_ref().is_none_or(|name| *name == interface.name)
            })
            .collect();
        if wanted.is_empty() {
            let name = request.interface.as_deref().unwrap_or("any");
            return Err(wrong(format!(
                "linnet watches no interface `{name}`; /interfaces lists them"
            )));
        }
        let link_type = link_type(wanted[0].link);
        if wanted.iter().any(|interface| self::link_type(interface.link) != link_type) {
            return Err(wrong(
                "interfaces with and without Ethernet headers cannot share one filter; name one"
                    .into(),
            ));
        }
        let filter = if request.filter.trim().is_empty() {
            None
        } else {
            Some(Libpcap::load()?.compile(&request.filter, link_type, snaplen)?)
        };
        let mut plan = Plan {
            descriptions: Vec::new(),
            indexes: HashMap::new(),
            filter,
            point: request.interface.is_some().then_some(wanted[0].point),
        };
        for interface in wanted {
            for (direction, side) in [(0, &interface.ingress), (1, &interface.egress)] {
                let Some(side) = side else { continue };
                let index = u32::try_from(plan.descriptions.len()).unwrap_or(u32::MAX);
                plan.indexes.insert((interface.point, direction), index);
                let way = if direction == 0 { "ingress" } else { "egress" };
                let mut description = InterfaceDescription::new(link_type, snaplen.bytes());
                description.name = Some(format!("{}@{}-{way}", interface.name, side.hook));
                description.filter = (!request.filter.is_empty()).then(|| request.filter.clone());
                plan.descriptions.push(description);
            }
        }
        Ok(plan)
    }
}

struct Plan {
    descriptions: Vec<InterfaceDescription>,
    indexes: HashMap<(u32, u32), u32>,
    filter: Option<captures::Filter>,
    point: Option<u32>,
}

fn link_type(name: &str) -> LinkType {
    if name == link_name(Link::RawIp) { LinkType::RAW } else { LinkType::ETHERNET }
}

/// A link's name as in `/interfaces`.
#[must_use]
pub const fn link_name(link: Link) -> &'static str {
    match link {
        Link::Ethernet => "ethernet",
        Link::RawIp => "raw_ip",
        Link::Null => "null",
        Link::Unsupported => "unsupported",
    }
}

fn update(view: &mut CaptureView, counters: &Counters) {
    view.offered = counters.offered;
    view.matched = counters.matched;
    view.written = counters.written;
    view.bytes = counters.bytes;
    view.lost = LostView { ring: counters.lost.ring, disk: counters.lost.disk };
}

fn checked(limits: RequestLimits) -> Result<RequestLimits, CaptureError> {
    let within = |field, value: Option<u64>, max: u64| match value {
        Some(value) if value == 0 || value > max => Err(CaptureError::Field {
            field,
            problem: format!("{value} is not between 1 and {max}"),
        }),
        other => Ok(other),
    };
    Ok(RequestLimits {
        packets: within("limits.packets", limits.packets, u64::MAX)?,
        bytes: within("limits.bytes", limits.bytes, BYTES_MAX)?.or(Some(BYTES_MAX)),
        seconds: within("limits.seconds", limits.seconds, DURATION_MAX_S)?
            .or(Some(DURATION_DEFAULT_S)),
    })
}
