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
use datapath::{Ktime, layout::HookCounters};

use crate::{
    board::{InterfaceView, Watched},
    capture::{RawPacket, Recorder},
    cli::{ExitWith, exit, unreadable},
    flow::view::{HookNames, PointName, RingsView},
    offline,
    software::{Place, Software, attachment},
};

/// Longest sleep between two looks at the clock, so that a stop is quick and orders to the capture wait no longer.
const NAP: Duration = Duration::from_nanos(NAP_NS);
const NAP_NS: u64 = 20_000_000;
/// Longest pause between two packets, and how far times may go back: beyond it the file's clock was set, or a time is
/// damaged, and the play goes on from there.
const GAP_MAX_NS: i128 = 600_000_000_000;

/// Plays a file; starts again when it ends.
#[derive(Debug)]
pub struct Player {
    /// The file.
    pub path: PathBuf,
    /// Where flows and figures go.
    pub software: Software,
    /// Where packets go.
    pub recorder: Recorder,
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
    /// One for each link type of the file (at most all 65,536 of them), in the order of their first packets.
    hooks: Vec<Hook>,
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
    fn new(first: LinkType) -> Self {
        let hooks = vec![Hook { link_type: first, counters: HookCounters::default() }];
        Self { hooks, turned_ns: 0, packets: 0 }
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
            let _watched =
                Watched::new(Arc::clone(self.software.publisher().board()), "the replay");
            let mut state = State::new(first);
            self.sweep(&state);
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = self.pass(&mut state, &stopped) {
                    self.say_once(&error);
                }
                // So that every flow is seen live, and a short file does not make flows without end.
                self.wait(&mut state, self.after(self.interval), &stopped);
                // The next pass has packets of the same addresses, ports and sequence numbers, which are not these packets
                // sent again.
                self.software.end_flows();
            }
            self.recorder.close(self.software.clock().now());
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
        if self.software.publisher_mut().notice(notice) {
            tracing::warn!(%path, %error, "the file is not played to its end");
        }
    }

    fn after(&self, pause: Duration) -> u64 {
        let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.software.clock().monotonic_ns().saturating_add(pause_ns)
    }

    /// Once through the file.
    fn pass(&mut self, state: &mut State, stopped: &AtomicBool) -> Result<(), ReadError> {
        let mut reader = PacketReader::open(&self.path)?;
        let started_ns = self.software.clock().monotonic_ns();
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
            let header_len = self.software.frame(data, &frame, &mut state.hooks[hook].counters);
            state.packets += 1;
            let now = self.software.clock().now();
            self.recorder.packet(&RawPacket {
                seen_ns: now.monotonic_ns,
                wall_ns: now.wall_of(due_ns),
                point: frame.point,
                direction: 0,
                original_len: frame.original_len,
                data,
                queue: 0,
                header_len,
                packet_id: None,
                chosen: None,
            });
        }
        Ok(())
    }

    fn wait(&mut self, state: &mut State, due_ns: u64, stopped: &AtomicBool) {
        loop {
            let now_ns = self.software.clock().monotonic_ns();
            if now_ns >= state.turned_ns + NAP_NS {
                self.turn(state);
            }
            if u128::from(now_ns - self.software.swept_ns().min(now_ns)) >= self.interval.as_nanos()
            {
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
        let now = self.software.clock().now();
        state.turned_ns = now.monotonic_ns;
        let packets = state.packets;
        self.recorder.turn(now, RingsView { produced: packets, consumed: packets, lost: 0 });
    }

    fn sweep(&mut self, state: &State) {
        let places = state.points().map(|(point, hook)| self.place(point, hook)).collect();
        let counters: Vec<_> = state.hooks.iter().map(|hook| &hook.counters).collect();
        self.software.sweep(places, &counters, Vec::new());
    }

    /// The file's name; behind it the link type, where it is not the file's first one.
    fn name(&self, point: u32, hook: &Hook) -> String {
        let name = file_name(&self.path);
        if point == 1 {
            return name;
        }
        format!("{name}:{}", hook.link_type.to_string().to_lowercase())
    }

    fn place(&self, point: u32, hook: &Hook) -> Place {
        let name = self.name(point, hook);
        let names = HookNames { ingress: Some("replay".into()), egress: None };
        let view = InterfaceView {
            name: name.clone(),
            point,
            link: offline::link(hook.link_type).name(),
            link_type: hook.link_type,
            state: "attached",
            ingress: Some(attachment("replay", "a capture file in real time", &hook.counters)),
            ..InterfaceView::default()
        };
        Place { view, name: PointName { interface: name, hook: names } }
    }
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
