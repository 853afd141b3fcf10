//! A capture file in real time, as if it were passing an interface: the daemon without root and without eBPF. Plays
//! again from the start when it ends, and never takes the flows of one pass for those of the next.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use captures::{
    LinkType,
    format::read::{PacketReader, ReadError},
};
use datapath::{
    FlowKey, Ktime,
    layout::{HookCounters, UNKNOWN_HEADER_LEN},
    replay::{Replay, ReplayFlow},
};

use crate::{
    board::{AttachmentView, InterfaceView, ServiceView, Watched},
    capture::{RawPacket, Recorder, Stage},
    cli::{ExitWith, exit, unreadable},
    clock::Clock,
    flow::{
        EventStore, FlowTable, LatencySummary,
        record::Ended,
        table::Seen,
        view::{HookNames, LedgerView, Naming, PointName, RingsView},
    },
    live::{StageConfig, add},
    offline,
    status::{Figures, Publisher},
};

/// Longest sleep between two looks at the clock, so that a stop is quick and orders to the capture wait no longer.
const NAP: Duration = Duration::from_nanos(NAP_NS);
const NAP_NS: u64 = 20_000_000;
/// Longest pause between two packets, and how far times may go back: beyond it the file's clock was set, or a time is
/// damaged, and the play goes on from there.
const GAP_MAX_NS: i128 = 600_000_000_000;

/// A replay has no kernel stage: every packet passes the recorder anyway.
#[derive(Debug)]
pub struct NoStage;

impl Stage for NoStage {
    fn start(&self, _slot: u8, _config: StageConfig) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop(&self, _slot: u8) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_prompt(&self) -> bool {
        true
    }
}

/// As the kernel's stage sees it.
const fn header_len(found: u32, original_len: u32) -> u32 {
    if found == 0 || found > original_len { UNKNOWN_HEADER_LEN } else { found }
}

/// Plays a file; starts again when it ends.
#[derive(Debug)]
pub struct Player {
    /// The file.
    pub path: PathBuf,
    /// Where flows go.
    pub table: Arc<FlowTable>,
    /// Where flagged segments go.
    pub events: Arc<EventStore>,
    /// Where figures go.
    pub publisher: Publisher,
    /// Where packets go.
    pub recorder: Recorder,
    /// Time.
    pub clock: Arc<Clock>,
    /// Flows of the table; packets of further ones are counted as `table_full`.
    pub flows_max: usize,
    /// From one publication to the next.
    pub interval: Duration,
}

/// A running player.
#[derive(Debug)]
pub struct Playing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Playing {
    /// Stops at the next packet.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the player panicked");
        }
    }
}

struct State {
    replay: Replay,
    /// One for each link type of the file (at most all 65,536 of them), in the order of their first packets.
    hooks: Vec<Hook>,
    sweeps: u64,
    swept_ns: u64,
    /// When the recorder had its last turn.
    turned_ns: u64,
    packets: u64,
}

/// An observation point: the packets of one link type. Its id is its place in the list, from 1.
struct Hook {
    link_type: LinkType,
    counters: HookCounters,
}

impl State {
    fn new(flows_max: usize, first: LinkType) -> Self {
        Self {
            replay: Replay::with_flows_max(flows_max).with_segments(),
            hooks: vec![Hook { link_type: first, counters: HookCounters::default() }],
            sweeps: 0,
            swept_ns: 0,
            turned_ns: 0,
            packets: 0,
        }
    }

    /// The place of a link type, which is made where there is none.
    fn hook(&mut self, link_type: LinkType) -> usize {
        let known = self.hooks.iter().position(|hook| hook.link_type == link_type);
        known.unwrap_or_else(|| {
            self.hooks.push(Hook { link_type, counters: HookCounters::default() });
            self.hooks.len() - 1
        })
    }

    /// The hooks with their points.
    fn points(&self) -> impl Iterator<Item = (u32, &Hook)> {
        (1..).zip(&self.hooks)
    }
}

/// When packets are due: as far from each other as in the file, as long as its clock goes steadily.
#[derive(Debug)]
struct Pace {
    /// From the file's time to monotonic time.
    offset_ns: i128,
    due_ns: u64,
}

impl Pace {
    /// The first packet is due now.
    fn new(first_ns: u64, now_ns: u64) -> Self {
        Self { offset_ns: i128::from(now_ns) - i128::from(first_ns), due_ns: now_ns }
    }

    /// When, in monotonic time, the next packet is due.
    fn due_ns(&mut self, time_ns: u64) -> u64 {
        let last = i128::from(self.due_ns);
        let wanted = i128::from(time_ns) + self.offset_ns;
        let due = match wanted - last {
            gap if gap > GAP_MAX_NS => last + GAP_MAX_NS,
            gap if gap < -GAP_MAX_NS => last,
            _ => wanted,
        };
        self.offset_ns += due - wanted;
        // Negative only within `GAP_MAX_NS` after the machine's start.
        self.due_ns = u64::try_from(due).unwrap_or(0);
        self.due_ns
    }
}

impl Player {
    /// Plays until stopped, on a thread of its own. A file of which no packet can be read is refused.
    pub fn start(mut self) -> Result<Playing, ExitWith> {
        let first = first_link_type(&self.path).map_err(|error| self.refuse(&error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let play = move || {
            let _watched = Watched::new(Arc::clone(self.publisher.board()), "the replay");
            let mut state = State::new(self.flows_max, first);
            self.sweep(&mut state);
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = self.pass(&mut state, &stopped) {
                    self.say_once(&error);
                }
                // So that every flow is seen live, and a short file does not make flows without end.
                self.wait(&mut state, self.after(self.interval), &stopped);
                self.end_flows(&mut state);
            }
            self.recorder.close(self.clock.now());
            while !self.recorder.is_idle() {
                self.turn(&mut state);
            }
        };
        let thread = thread::Builder::new().name("replay".into()).spawn(play);
        let thread = thread.map_err(|error| ExitWith {
            code: exit::FAILED,
            message: format!("cannot start the replay's thread: {error}"),
        })?;
        Ok(Playing { stop, thread })
    }

    fn refuse(&self, error: &ReadError) -> ExitWith {
        let (path, code) = (self.path.display(), code(error));
        ExitWith { code, message: format!("cannot play `{path}`: {error}") }
    }

    /// The log and the status say what is wrong with the file; not again at every pass.
    fn say_once(&mut self, error: &ReadError) {
        let path = self.path.display();
        let notice = format!("`{path}` is not played to its end: {error}");
        if self.publisher.notice(notice) {
            tracing::warn!(%path, %error, "the file is not played to its end");
        }
    }

    fn after(&self, pause: Duration) -> u64 {
        let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.clock.monotonic_ns().saturating_add(pause_ns)
    }

    /// Once through the file.
    fn pass(&mut self, state: &mut State, stopped: &AtomicBool) -> Result<(), ReadError> {
        let mut reader = PacketReader::open(&self.path)?;
        let started_ns = self.clock.monotonic_ns();
        let mut pace = None;
        while let Some(read) = reader.next_packet()? {
            let time_ns = read.packet.time_ns;
            let due_ns = pace.get_or_insert_with(|| Pace::new(time_ns, started_ns)).due_ns(time_ns);
            self.wait(state, due_ns, stopped);
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut frame = offline::frame(&read);
            frame.now = Ktime(due_ns);
            let (hook, data) = (state.hook(read.link_type), &*read.packet.data);
            frame.point = u32::try_from(hook + 1).unwrap_or(u32::MAX);
            let _counted = state.replay.frame_into(data, &frame, &mut state.hooks[hook].counters);
            let flagged = state.replay.classified().iter().filter_map(|segment| segment.event);
            let flagged: Vec<_> = flagged.collect();
            if !flagged.is_empty() {
                self.events.add_next(&flagged);
            }
            state.packets += 1;
            let now = self.clock.now();
            self.recorder.packet(&RawPacket {
                seen_ns: now.monotonic_ns,
                wall_ns: now.wall_of(due_ns),
                point: frame.point,
                direction: 0,
                original_len: frame.original_len,
                data,
                queue: 0,
                header_len: header_len(state.replay.headers().header_len, frame.original_len),
                packet_id: None,
                chosen: None,
            });
        }
        Ok(())
    }

    /// The file has ended, and its flows with it. The next pass has packets of the same addresses, ports and sequence
    /// numbers, which are not these packets sent again.
    fn end_flows(&self, state: &mut State) {
        let now_ns = self.clock.monotonic_ns();
        self.observe_ended(state, now_ns);
        for (key, flow) in state.replay.flows() {
            let why =
                self.table.timeouts().ended(key, &flow.entry, u64::MAX).unwrap_or(Ended::Idle);
            self.table.observe_ended(seen(key, flow, now_ns), why);
        }
        state.replay.forget();
    }

    fn wait(&mut self, state: &mut State, due_ns: u64, stopped: &AtomicBool) {
        loop {
            let now_ns = self.clock.monotonic_ns();
            if now_ns >= state.turned_ns + NAP_NS {
                self.turn(state);
            }
            if u128::from(now_ns - state.swept_ns.min(now_ns)) >= self.interval.as_nanos() {
                self.sweep(state);
            }
            if now_ns >= due_ns || stopped.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(NAP.min(Duration::from_nanos(due_ns - now_ns)));
        }
    }

    /// Nothing is lost on the way from a file.
    fn turn(&mut self, state: &mut State) {
        let now = self.clock.now();
        state.turned_ns = now.monotonic_ns;
        let packets = state.packets;
        self.recorder.turn(now, RingsView { produced: packets, consumed: packets, lost: 0 });
    }

    fn sweep(&self, state: &mut State) {
        self.clock.sample();
        state.sweeps += 1;
        let now_ns = self.clock.monotonic_ns();
        state.swept_ns = now_ns;
        for (key, why) in self.observe(state, now_ns) {
            if let Some(flow) = state.replay.remove(&key) {
                self.table.observe_ended(seen(&key, &flow, now_ns), why);
            }
        }
        self.observe_ended(state, now_ns);
        self.table.finish_sweep(state.sweeps, now_ns);
        self.events.end_interval(now_ns);
        let live = state.replay.flows().count() as u64;
        let mut counters = HookCounters::default();
        for hook in &state.hooks {
            add(&mut counters, &hook.counters);
        }
        self.publisher.publish(&Figures {
            counters,
            interfaces: state.points().map(|(point, hook)| self.interface(point, hook)).collect(),
            services: services(&state.replay),
            naming: self.naming(state),
            notices: Vec::new(),
            departures: self.table.departures(),
            live,
            evicted: 0,
            approximate: false,
            records: self.table.len() as u64,
            capacity: self.flows_max as u64,
            embryonic_capacity: 0,
            memory_bytes: 0,
            sweeps: state.sweeps,
            duration_ns: self.clock.monotonic_ns().saturating_sub(now_ns),
        });
    }

    /// Brings every flow into the table; returns which have ended.
    fn observe(&self, state: &State, now_ns: u64) -> Vec<(FlowKey, Ended)> {
        let mut ended = Vec::new();
        for (key, flow) in state.replay.flows() {
            self.table.observe(seen(key, flow, now_ns), state.sweeps);
            if let Some(why) = self.table.timeouts().ended(key, &flow.entry, now_ns) {
                ended.push((*key, why));
            }
        }
        ended
    }

    /// Brings in what ended since its tuple was used again.
    fn observe_ended(&self, state: &mut State, now_ns: u64) {
        for (key, flow) in state.replay.take_ended() {
            self.table.observe_ended(seen(&key, &flow, now_ns), Ended::Closed);
        }
    }

    /// The file's name; behind it the link type, where it is not the file's first one.
    fn name(&self, point: u32, hook: &Hook) -> String {
        let name = file_name(&self.path);
        if point == 1 {
            return name;
        }
        format!("{name}:{}", hook.link_type.to_string().to_lowercase())
    }

    fn naming(&self, state: &State) -> Naming {
        let points = state.points().map(|(point, hook)| {
            let names = HookNames { ingress: Some("replay".into()), egress: None };
            (point, PointName { interface: self.name(point, hook), hook: names })
        });
        Naming { wall_offset_ns: self.clock.offset_ns(), points: points.collect() }
    }

    fn interface(&self, point: u32, hook: &Hook) -> InterfaceView {
        let counters = &hook.counters;
        InterfaceView {
            name: self.name(point, hook),
            point,
            link: offline::link(hook.link_type).name(),
            link_type: hook.link_type,
            state: "attached",
            ingress: Some(AttachmentView {
                hook: "replay".into(),
                reason: "a capture file in real time".into(),
                seen: counters.seen,
                packets: counters.packets,
                bytes: counters.bytes,
                ledger: LedgerView::new(counters),
                rtt: LatencySummary::of(&counters.rtt),
                ..AttachmentView::default()
            }),
            ..InterfaceView::default()
        }
    }
}

const fn seen<'a>(key: &'a FlowKey, flow: &'a ReplayFlow, now_ns: u64) -> Seen<'a> {
    Seen { key, entry: &flow.entry, samples: Some(&flow.rtt), now_ns }
}

fn services(replay: &Replay) -> Vec<ServiceView> {
    let view = |(service, round_trips)| ServiceView::new(Some(service), &round_trips);
    replay.services().map(view).collect()
}

/// What the first packet of a file starts with. Without packets: what they would start with, as far as the file says.
fn first_link_type(path: &Path) -> Result<LinkType, ReadError> {
    let mut reader = PacketReader::open(path)?;
    if let Some(read) = reader.next_packet()? {
        return Ok(read.link_type);
    }
    Ok(reader.interfaces().first().map_or(LinkType::ETHERNET, |first| first.link_type))
}

/// The exit code for a file that cannot be played.
fn code(error: &ReadError) -> u8 {
    match error {
        ReadError::Open { source, .. } => unreadable(source.kind()),
        ReadError::NotACapture(_) | ReadError::Damaged { .. } => exit::DAMAGED,
        _ => exit::FAILED,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "replay".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn packets_are_as_far_apart_as_in_the_file() {
        let mut pace = Pace::new(50 * SECOND_NS, 1_000 * SECOND_NS);
        let times = [50, 53, 52, 60].map(|second| pace.due_ns(second * SECOND_NS) / SECOND_NS);
        assert_eq!(times, [1_000, 1_003, 1_002, 1_010]);
    }

    #[test]
    fn a_damaged_time_neither_stops_the_play_nor_hurries_what_follows() {
        let mut pace = Pace::new(0, 1_000 * SECOND_NS);
        assert_eq!(pace.due_ns(0), 1_000 * SECOND_NS);
        assert_eq!(pace.due_ns(u64::MAX), 1_600 * SECOND_NS, "the longest pause");
        assert_eq!(pace.due_ns(7 * SECOND_NS), 1_600 * SECOND_NS, "back to where it was");
        assert_eq!(pace.due_ns(9 * SECOND_NS), 1_602 * SECOND_NS);
    }
}
