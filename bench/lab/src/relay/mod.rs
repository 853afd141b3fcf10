//! The relay of one direction: a thread in the router's namespace that carries frames from one
//! interface to the other and lets the impairments meet them. Never changes a frame it carries,
//! except to undo offloads.
//!
//! Timing: delay counts from the kernel's arrival stamp, so being woken late costs nothing while
//! the delay is longer; what remains is the wake-up for the release, kept short by a real-time
//! priority (where allowed), 1 ns of timer slack, and by waking up earlier by what wake-ups lately
//! took (a short spin makes up the rest).

mod delay_line;
mod impair;
mod order;
mod report;
mod segment;
mod socket;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::time::{TimeSpec, TimeValLike};

use self::delay_line::{DelayLine, Due};
use self::impair::{Facts, Fate, Impairer};
use self::order::{Carries, Leaves, Order};
pub use self::report::{
    DROPPED_MAX, DirectionReport, DropCause, DroppedFrame, DroppedSegment, LabReport,
};
use self::socket::{Received, Receiver, Sender};
use crate::clock::{NANOS_PER_SEC, monotonic_ns, wall_ns};
use crate::error::LabError;
use crate::namespace::Namespace;
use crate::offload;
use crate::plan::Impairment;
use crate::wire;

/// Which way a relay carries frames.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub ingress: &'static str,
    pub egress: &'static str,
    pub impairment: Impairment,
    pub seed: u64,
}

/// A running relay; dropped, it stops.
#[derive(Debug)]
pub(crate) struct Relay {
    report: Arc<Mutex<DirectionReport>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts the thread, and returns once it carries frames.
    pub(crate) fn start(router: &Namespace, way: Way) -> Result<Self, LabError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = EventFd::from_value_and_flags(0, flags)
            .map_err(|errno| LabError::WakeUp { source: errno.into() })?;
        let stop = Arc::new(stop);
        let report = Arc::new(Mutex::new(DirectionReport::default()));
        // The sockets belong to the namespace in which they are made, whoever uses them.
        let (receiver, sender) =
            router.run(|| Ok((Receiver::open(way.ingress)?, Sender::open(way.egress)?)))??;
        let (ready, is_ready) = mpsc::channel();
        let entry = router.entry();
        let worker = {
            let (stop, report) = (Arc::clone(&stop), Arc::clone(&report));
            move || {
                // In the namespace too, so that offloads can be turned off again.
                let entered = entry.enter();
                let go_on = entered.is_ok();
                ready.send(entered).ok();
                if go_on {
                    prepare_thread();
                    Worker::new(way, receiver, sender, report).run(stop.as_fd());
                }
            }
        };
        let name = "lab-relay".to_owned();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(worker)
            .map_err(|source| LabError::Thread { name: name.clone(), source })?;
        let relay = Self { report, stop, thread: Some(thread) };
        match is_ready.recv() {
            Ok(Ok(())) => Ok(relay),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let source = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                Err(LabError::Thread { name, source })
            }
        }
    }

    /// What it did so far.
    pub(crate) fn report(&self) -> DirectionReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.write(1).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Best effort: without it the delays are a little longer under load.
fn prepare_thread() {
    prctl::set_timerslack(1).ok();
    let lowest_realtime = libc::sched_param { sched_priority: 1 };
    // SAFETY: pid 0 is the calling thread, and the parameter is a live sched_param.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest_realtime) };
}

struct Worker {
    way: Way,
    receiver: Receiver,
    sender: Sender,
    impairer: Impairer,
    line: DelayLine,
    order: Order,
    report: Arc<Mutex<DirectionReport>>,
    last_arrival_ns: u64,
    offload_retry_ns: u64,
    /// How long a timed wake-up takes, smoothed; at most [`LEAD_MAX_NS`].
    lead_ns: u64,
    late_sum_ns: u64,
}

/// The most that a wake-up is brought forward, and so the longest spin.
const LEAD_MAX_NS: u64 = 100_000;

/// When a frame arrived, on both clocks.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    monotonic_ns: u64,
    wall_ns: u64,
}

impl Worker {
    fn new(
        way: Way,
        receiver: Receiver,
        sender: Sender,
        report: Arc<Mutex<DirectionReport>>,
    ) -> Self {
        let impairer = Impairer::new(way.impairment.clone(), way.seed);
        let line = DelayLine::default();
        Self {
            way,
            receiver,
            sender,
            impairer,
            line,
            order: Order::default(),
            report,
            last_arrival_ns: 0,
            offload_retry_ns: 0,
            lead_ns: 0,
            late_sum_ns: 0,
        }
    }

    fn run(mut self, stop: BorrowedFd<'_>) {
        loop {
            self.release();
            let arrived = self.receive();
            if arrived > 0 {
                continue;
            }
            let wake_at_ns = self.line.next_release_ns().map(|at| at.saturating_sub(self.lead_ns));
            let wait_ns = wake_at_ns.map(|at| at.saturating_sub(monotonic_ns()));
            if wait_ns == Some(0) {
                std::hint::spin_loop();
                continue;
            }
            let timeout =
                wait_ns.map(|ns| TimeSpec::nanoseconds(i64::try_from(ns).unwrap_or(i64::MAX)));
            let mut wake = [
                PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop, PollFlags::POLLIN),
            ];
            let answer = ppoll(&mut wake, timeout, None);
            if wake[1].any().unwrap_or(false) {
                return;
            }
            match answer {
                Ok(0) => self.learn_lead(wake_at_ns),
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                // Nothing else can fail here but memory; without waiting, the relay would spin.
                Err(_) => return,
            }
        }
    }

    /// Remembers how late a timed wake-up came.
    fn learn_lead(&mut self, wake_at_ns: Option<u64>) {
        let late_ns = wake_at_ns.map_or(0, |at| monotonic_ns().saturating_sub(at));
        self.lead_ns = (self.lead_ns * 7 + late_ns.min(LEAD_MAX_NS)) / 8;
    }

    /// Sends what is due.
    fn release(&mut self) {
        let (mut forwarded, mut refused, mut late_max_ns) = (0, 0, 0);
        let (mut overtaken, mut again_in_sight) = (0, 0);
        loop {
            let now_ns = monotonic_ns();
            let Some(due) = self.line.take_due(now_ns) else { break };
            match self.sender.send(&due.frame) {
                Ok(()) => forwarded += 1,
                Err(_) => refused += 1,
            }
            match self.leaves(&due) {
                Leaves::InOrder => {}
                Leaves::Overtaken => overtaken += 1,
                Leaves::AgainInSight => again_in_sight += 1,
            }
            self.late_sum_ns += now_ns - due.release_ns;
            late_max_ns = late_max_ns.max(now_ns - due.release_ns);
        }
        if forwarded + refused > 0 {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.late_max_ns = report.late_max_ns.max(late_max_ns);
            report.late_mean_ns = self.late_sum_ns / (report.forwarded + forwarded).max(1);
            report.forwarded += forwarded;
            report.send_errors += refused;
            report.overtaken += overtaken;
            report.again_in_sight += again_in_sight;
            report.held = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        }
    }

    fn leaves(&mut self, due: &Due) -> Leaves {
        if due.carries == Carries::Nothing {
            return Leaves::InOrder;
        }
        let segment = wire::ip_frame(&due.frame).and_then(|ip| wire::tcp_segment(&due.frame, &ip));
        segment
            .map_or(Leaves::InOrder, |segment| self.order.left(&segment, due.carries, due.number))
    }

    /// Takes one batch of frames; returns how many.
    fn receive(&mut self) -> usize {
        let clocks = Arrival { monotonic_ns: monotonic_ns(), wall_ns: wall_ns() };
        let mut batch = Vec::new();
        let answer = self.receiver.receive(|received| batch.push(unwrap_offloads(received)));
        // ENETDOWN while the namespace goes away: nothing will come any more, and the stop will.
        let count = answer.unwrap_or(0);
        if count == 0 {
            return 0;
        }
        let dropped_by_kernel = self.receiver.dropped();
        let report = Arc::clone(&self.report);
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.dropped_socket = dropped_by_kernel;
        let mut merged = false;
        for (frames, arrival_wall_ns) in batch {
            let arrival = self.arrival(clocks, arrival_wall_ns);
            match frames {
                Frames::Wire(frame) => self.carry(frame, arrival, &mut report),
                Frames::Cut(frames) => {
                    merged = true;
                    report.super_packets += 1;
                    for frame in frames {
                        self.carry(frame, arrival, &mut report);
                    }
                }
                Frames::Unsupported { bytes } => {
                    report.frames += 1;
                    report.bytes += bytes;
                    report.dropped_unsupported += 1;
                }
            }
        }
        report.held = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        drop(report);
        if merged {
            self.stop_merging(clocks.monotonic_ns);
        }
        count
    }

    /// Lets one wire frame meet its fate.
    fn carry(&mut self, frame: Vec<u8>, arrival: Arrival, report: &mut DirectionReport) {
        let ip = wire::ip_frame(&frame);
        let tcp = ip.as_ref().and_then(|ip| wire::tcp_segment(&frame, ip));
        let facts = Facts {
            bytes: frame.len(),
            is_address_resolution: wire::is_address_resolution(&frame, ip.as_ref()),
            is_ip: ip.is_some(),
            tcp: tcp.as_ref(),
        };
        let frame_bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        report.frames += 1;
        report.bytes += frame_bytes;
        let segment = tcp.as_ref().map(|tcp| DroppedSegment {
            src: tcp.src,
            dst: tcp.dst,
            seq: tcp.seq,
            len: tcp.payload_bytes,
        });
        let carries = tcp.as_ref().map_or(Carries::Nothing, |tcp| self.order.came(tcp));
        report.again += u64::from(carries == Carries::Again);
        let wall_ns = arrival.wall_ns;
        let dropped = |cause| DroppedFrame { cause, wall_ns, frame_bytes, segment };
        match self.impairer.fate(facts, arrival.monotonic_ns) {
            Fate::Lost => report.list(dropped(DropCause::Loss)),
            Fate::QueueFull => report.list(dropped(DropCause::Queue)),
            Fate::Sent { release_ns, duplicated, reordered } => {
                let copy = duplicated.then(|| frame.clone());
                if !self.line.hold(frame, release_ns, carries) {
                    report.list(dropped(DropCause::Queue));
                    return;
                }
                report.reordered += u64::from(reordered);
                if let Some(copy) = copy {
                    report.duplicated +=
                        u64::from(self.line.hold(copy, release_ns, Carries::Nothing));
                }
            }
        }
    }

    /// The arrival on the monotonic clock. Clamped, since the wall clock may have been set in
    /// between; never before the frame received last, so that order is kept.
    fn arrival(&mut self, clocks: Arrival, stamp: Option<u64>) -> Arrival {
        let wall_ns = stamp.unwrap_or(clocks.wall_ns);
        let age_ns = clocks.wall_ns.saturating_sub(wall_ns).min(NANOS_PER_SEC / 10);
        let monotonic_ns = clocks.monotonic_ns.saturating_sub(age_ns).max(self.last_arrival_ns);
        self.last_arrival_ns = monotonic_ns;
        Arrival { monotonic_ns, wall_ns }
    }

    /// Turns off receive merging that someone turned on, at most once a
    /// second.
    fn stop_merging(&mut self, now_ns: u64) {
        if now_ns >= self.offload_retry_ns {
            self.offload_retry_ns = now_ns + NANOS_PER_SEC;
            // Best effort: frames are cut right either way.
            offload::receive_merging_off(self.way.ingress).ok();
        }
    }
}

/// A received frame as wire frames.
enum Frames {
    Wire(Vec<u8>),
    Cut(Vec<Vec<u8>>),
    Unsupported { bytes: u64 },
}

fn unwrap_offloads(received: &Received<'_>) -> (Frames, Option<u64>) {
    let mut frame = received.to_frame();
    let unsupported = Frames::Unsupported { bytes: u64::try_from(frame.len()).unwrap_or(u64::MAX) };
    let frames = if received.cut {
        unsupported
    } else if let Some(segment_bytes) = received.segment_bytes {
        segment::cut(&frame, segment_bytes).map_or(unsupported, Frames::Cut)
    } else if received.checksum_open {
        match segment::complete_checksum(&mut frame) {
            Some(()) => Frames::Wire(frame),
            None => unsupported,
        }
    } else {
        Frames::Wire(frame)
    };
    (frames, received.arrival_wall_ns)
}
