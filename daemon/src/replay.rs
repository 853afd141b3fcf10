//! A capture file in real time, as if it were passing an interface: the daemon without root and without eBPF.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use captures::format::read::{PacketReader, ReadError};
use datapath::{Ktime, layout::HookCounters, replay::Replay};

use crate::{
    board::{AttachmentView, InterfaceView},
    capture::{RawPacket, Recorder, Stage},
    clock::Clock,
    flow::{
        FlowTable,
        expiry::Timeouts,
        view::{HookNames, LedgerView, Naming, PointName, RingsView},
    },
    live::StageConfig,
    offline,
    status::{Figures, Publisher},
};

/// The one observation point of a replay.
const POINT: u32 = 1;
/// Longest sleep between two looks at the clock, so that a stop is quick and orders to the capture wait no longer.
const NAP: Duration = Duration::from_nanos(NAP_NS);
const NAP_NS: u64 = 20_000_000;

/// A replay has no kernel stage: every packet passes the recorder anyway.
#[derive(Debug)]
pub struct NoStage;

impl Stage for NoStage {
    fn start(&self, _config: StageConfig) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Plays a file; starts again when it ends.
#[derive(Debug)]
pub struct Player {
    /// The file.
    pub path: PathBuf,
    /// Where flows go.
    pub table: Arc<FlowTable>,
    /// Where figures go.
    pub publisher: Publisher,
    /// Where packets go.
    pub recorder: Recorder,
    /// Time.
    pub clock: Arc<Clock>,
    /// When flows have ended.
    pub timeouts: Timeouts,
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
    sweeps: u64,
    swept_ns: u64,
    /// When the recorder had its last turn.
    turned_ns: u64,
    packets: u64,
}

impl Player {
    /// Plays until stopped, on a thread of its own. The first pass over the file is checked here.
    pub fn start(mut self) -> Result<Playing, ReadError> {
        PacketReader::open(&self.path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let replay = Replay::default();
            let mut state = State { replay, sweeps: 0, swept_ns: 0, turned_ns: 0, packets: 0 };
            self.sweep(&mut state);
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = self.pass(&mut state, &stopped) {
                    tracing::error!(%error, "the file ends early");
                }
                let next_ns = self.clock.monotonic_ns() + NAP_NS;
                self.wait(&mut state, next_ns, &stopped);
            }
            self.recorder.close(self.clock.now());
            while !self.recorder.is_idle() {
                self.turn(&mut state);
            }
        });
        Ok(Playing { stop, thread })
    }

    /// Once through the file, each packet as long after the first as it was then.
    fn pass(&mut self, state: &mut State, stopped: &AtomicBool) -> Result<(), ReadError> {
        let mut reader = PacketReader::open(&self.path)?;
        let started_ns = self.clock.monotonic_ns();
        let mut first_ns = None;
        while let Some(read) = reader.next_packet()? {
            let first_ns = *first_ns.get_or_insert(read.packet.time_ns);
            let due_ns = started_ns + read.packet.time_ns.saturating_sub(first_ns);
            self.wait(state, due_ns, stopped);
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut frame = offline::frame(&read);
            frame.now = Ktime(due_ns);
            frame.point = POINT;
            let data = &*read.packet.data;
            let _counted = state.replay.frame(data, &frame);
            state.packets += 1;
            let now = self.clock.now();
            self.recorder.packet(&RawPacket {
                seen_ns: now.monotonic_ns,
                wall_ns: now.wall_of(due_ns),
                point: POINT,
                direction: 0,
                original_len: frame.original_len,
                data,
                queue: 0,
            });
        }
        Ok(())
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
        let mut ended = Vec::new();
        for (key, flow) in state.replay.flows() {
            let samples = Some(&flow.rtt);
            let instance = flow.entry.head.first_seen_ns;
            self.table.observe(*key, &flow.entry, instance, samples, now_ns, state.sweeps);
            if let Some(why) = self.timeouts.ended(key, &flow.entry, now_ns) {
                ended.push((*key, why));
            }
        }
        for (key, why) in ended {
            state.replay.remove(&key);
            self.table.end(&key, why, now_ns);
        }
        self.table.finish_sweep(state.sweeps, self.timeouts.keep_ended_ns, now_ns);
        let live = state.replay.flows().count() as u64;
        let counters = *state.replay.counters();
        self.publisher.publish(&Figures {
            counters,
            interfaces: vec![self.interface(&counters)],
            naming: self.naming(),
            departures: self.table.departures(),
            live,
            evicted: 0,
            approximate: false,
            records: self.table.len() as u64,
            capacity: 0,
            memory_bytes: 0,
            sweeps: state.sweeps,
            duration_ns: self.clock.monotonic_ns().saturating_sub(now_ns),
        });
    }

    fn name(&self) -> String {
        file_name(&self.path)
    }

    fn naming(&self) -> Naming {
        let hook = HookNames { ingress: Some("replay".into()), egress: None };
        let point = PointName { interface: self.name(), hook };
        Naming { wall_offset_ns: self.clock.offset_ns(), points: [(POINT, point)].into() }
    }

    fn interface(&self, counters: &HookCounters) -> InterfaceView {
        InterfaceView {
            name: self.name(),
            point: POINT,
            link: datapath::Link::Ethernet.name(),
            state: "attached",
            ingress: Some(AttachmentView {
                hook: "replay".into(),
                reason: "a capture file in real time".into(),
                seen: counters.seen,
                packets: counters.packets,
                bytes: counters.bytes,
                ledger: LedgerView::new(counters),
                ..AttachmentView::default()
            }),
            ..InterfaceView::default()
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "replay".into(), |name| name.to_string_lossy().into_owned())
}
