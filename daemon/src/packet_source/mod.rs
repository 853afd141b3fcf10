//! Interfaces that are read by AF_PACKET sockets, where the kernel refuses eBPF: one thread takes every packet through the
//! datapath in user space, and to the captures. What that thread does not get to in time is lost at the socket, and counted
//! there by the kernel. Opens no socket, and follows no interface: those that are handed over are all there will be.

mod rules;
mod tap;

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::rules::Rule;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::rules::SocketRules;
use self::tap::Tap;
use crate::{
    board::Watched,
    capture::Recorder,
    flow::view::RingsView,
    live::{Opened, PacketBuffer},
    software::Software,
};

/// The hook's name in every answer.
pub const HOOK: &str = "af_packet";

/// Packets of one socket before it is the next one's turn.
const BATCH: usize = 64;
/// Packets in all before the file is brought up to date for its readers.
const ROUND: usize = 4_096;
/// How long that may wait where there are fewer; orders wait as long.
const WAIT: Duration = Duration::from_millis(10);
/// The same while somebody waits for the last of a capture's packets.
const SHORT_WAIT: Duration = Duration::from_millis(1);
/// At most one part in so many of the time is spent sweeping: meanwhile nothing is read.
const SHARE: u64 = 4;

/// The sentence on what this source does not see, with why it is in use.
#[must_use]
pub fn notice(why: &str) -> String {
    format!(
        "interfaces are read by AF_PACKET sockets, not by eBPF: what a qdisc drops is not seen, interfaces that come later are not watched, and a packet costs more. The reason: {why}"
    )
}

/// Reads sockets, and what it needs.
#[derive(Debug)]
pub struct PacketSource {
    software: Software,
    recorder: Recorder,
    taps: Vec<Tap>,
    rules: mpsc::Receiver<Vec<Rule>>,
    why: String,
    interval: Duration,
    buffer: PacketBuffer,
    rings: RingsView,
    /// Packets that the kernel has offered to the sockets. Invariant: not less than those that are accounted for, when
    /// nothing waits.
    offered: u64,
    /// Nothing waited in any socket after the last read.
    is_drained: bool,
    turned_ns: u64,
    /// When the next sweep is due, monotonic ns.
    sweep_ns: u64,
}

/// One that reads; ends when stopped.
#[derive(Debug)]
pub struct Reading {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reading {
    /// Stops after a last sweep; a capture that still runs ends first.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the reader of sockets panicked");
        }
    }
}

impl PacketSource {
    /// Of these sockets, with the reason for them and the rules that come; swept at an interval.
    #[must_use]
    pub fn new(
        (opened, why): (Vec<Opened>, String),
        rules: mpsc::Receiver<Vec<Rule>>,
        software: Software,
        recorder: Recorder,
        interval: Duration,
    ) -> Self {
        let taps = (1..).zip(opened).map(|(point, opened)| Tap::new(point, opened)).collect();
        Self {
            software: software.endless(),
            recorder,
            taps,
            rules,
            why,
            interval,
            buffer: PacketBuffer::default(),
            rings: RingsView::default(),
            offered: 0,
            is_drained: false,
            turned_ns: 0,
            sweep_ns: 0,
        }
    }

    /// Reads until stopped, on a thread of its own.
    pub fn start(mut self) -> std::io::Result<Reading> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("af-packet".into()).spawn(move || {
            let board = Arc::clone(self.software.publisher().board());
            let _watched = Watched::new(board, "the reading of sockets");
            while !(stopped.load(Ordering::Relaxed) && self.has_closed()) {
                self.round();
            }
            self.sweep();
        })?;
        Ok(Reading { stop, thread })
    }

    /// Ends captures that run; whether none does.
    fn has_closed(&mut self) -> bool {
        self.recorder.close(self.software.clock().now());
        self.recorder.is_idle()
    }

    /// Waits for packets, reads them, and does what is due.
    fn round(&mut self) {
        let wait = if self.recorder.is_ending() { SHORT_WAIT } else { WAIT };
        let read = self.read();
        let now_ns = self.software.clock().monotonic_ns();
        let due_ns = self.turned_ns + nanos(wait);
        if read >= ROUND || now_ns >= due_ns {
            self.turn();
        }
        if now_ns >= self.sweep_ns {
            self.sweep();
        } else if read < ROUND {
            let left_ns = due_ns.saturating_sub(now_ns).clamp(nanos(SHORT_WAIT), nanos(WAIT));
            self.poll(Duration::from_nanos(left_ns));
        }
    }

    /// Reads from each socket in its turn, until none has anything or there were enough. Returns how many packets.
    fn read(&mut self) -> usize {
        let mut all = 0;
        self.is_drained = false;
        while all < ROUND {
            let mut found = 0;
            for tap in &mut self.taps {
                let (software, recorder) = (&mut self.software, &mut self.recorder);
                let read = tap.read(BATCH, &mut self.buffer, &self.rules, software, recorder);
                self.rings.consumed += read.packets;
                self.rings.lost += read.unreadable;
                found += usize::try_from(read.packets + read.unreadable).unwrap_or(usize::MAX);
            }
            if found == 0 {
                self.is_drained = true;
                break;
            }
            all += found;
        }
        all
    }

    /// Everything but packets, for the captures: losses, limits, orders.
    fn turn(&mut self) {
        // Also where no packet comes that would have to be judged.
        tap::take_rules(&self.rules, &mut self.software);
        for tap in &mut self.taps {
            let (offered, lost) = tap.statistics();
            self.offered += offered;
            self.rings.lost += lost;
        }
        let accounted = self.rings.consumed + self.rings.lost;
        if self.is_drained {
            // What waited from an earlier daemon's time was offered to that one.
            self.offered = self.offered.max(accounted);
        }
        self.rings.produced = self.offered.max(accounted);
        let now = self.software.clock().now();
        self.turned_ns = now.monotonic_ns;
        self.recorder.turn(now, self.rings);
    }

    fn sweep(&mut self) {
        let started_ns = self.software.clock().monotonic_ns();
        for tap in &mut self.taps {
            if tap.has_gone() {
                tracing::warn!(interface = tap.name(), "the interface has gone");
            }
        }
        let places = self.taps.iter().map(|tap| tap.place(&self.why)).collect();
        let counters: Vec<_> = self.taps.iter().flat_map(Tap::counters).collect();
        let notices = self.taps.iter().filter_map(Tap::notice).collect();
        self.software.sweep(places, &counters, notices);
        let now_ns = self.software.clock().monotonic_ns();
        let took_ns = now_ns.saturating_sub(started_ns);
        let rest_ns = took_ns.saturating_mul(SHARE - 1).max(nanos(self.interval));
        self.sweep_ns = now_ns.saturating_add(rest_ns);
    }

    /// Waits until a socket has something.
    fn poll(&self, most: Duration) {
        let sockets = self.taps.iter().filter_map(Tap::socket);
        let mut fds: Vec<_> =
            sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // Whatever it says, the sockets are looked at next.
        let _seen = poll(&mut fds, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO));
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
