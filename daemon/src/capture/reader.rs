//! The thread between the kernel's ring and the capture: reads, dates and hands on. Owns the recorder; whatever holds
//! this thread up shows as records that found no room in the ring.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::layout::{CaptureRecord, VLAN_PRESENT};

use super::{RawPacket, Recorder, vlan};
use crate::{
    board::Watched,
    clock::{Clock, Moment},
    flow::view::RingsView,
    live::CaptureRing,
};

/// Records read before the file is brought up to date for its readers.
const BATCH: usize = 1_024;
/// How long to wait for a record; orders wait as long.
const WAIT: Duration = Duration::from_millis(20);

/// A running reader.
#[derive(Debug)]
pub struct RingReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RingReader {
    /// Reads until stopped.
    pub fn start(
        ring: CaptureRing,
        recorder: Recorder,
        clock: Arc<Clock>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("capture-ring".into())
            .spawn(move || read(ring, recorder, &clock, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Stops; a capture that still runs ends first.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the ring reader panicked");
        }
    }
}

fn read(mut ring: CaptureRing, mut recorder: Recorder, clock: &Clock, stopped: &AtomicBool) {
    let _watched = Watched::new(Arc::clone(recorder.board()), "the reading of captured packets");
    let mut rings = RingsView::default();
    let mut failing = false;
    loop {
        if stopped.load(Ordering::Relaxed) {
            recorder.close(clock.now());
            if recorder.is_idle() {
                return;
            }
        }
        ring.wait(if recorder.is_ending() { Duration::ZERO } else { WAIT });
        let now = clock.now();
        ring.read(BATCH, |record, data| {
            recorder.packet(&packet(now, record, &vlan::insert(record, data)))
        });
        rings.consumed = ring.consumed();
        match ring.stats() {
            Ok(stats) => {
                rings.lost = stats.lost_ring + stats.lost_copy;
                rings.produced = stats.produced + rings.lost;
                failing = false;
            }
            // Said once: a ring whose counters fail will fail again.
            Err(error) if !failing => {
                tracing::error!(%error, "the ring's counters cannot be read: its losses are not counted");
                failing = true;
            }
            Err(_) => {}
        }
        recorder.turn(clock.now(), rings);
    }
}

/// A record as a packet on the wire.
fn packet<'a>(now: Moment, record: &CaptureRecord, data: &'a [u8]) -> RawPacket<'a> {
    let tag = if record.flags & VLAN_PRESENT != 0 { vlan::TAG_LEN } else { 0 };
    RawPacket {
        seen_ns: record.time_ns,
        wall_ns: now.wall_of(record.time_ns),
        point: u32::from(record.point),
        direction: u32::from(record.direction),
        original_len: record.original_len + tag,
        data,
        queue: record.queue,
    }
}
