//! The thread between the kernel's rings and the captures: reads, dates and hands on. Owns the recorder; whatever holds
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
    live::{CaptureRings, Captured},
};

/// Records read in one go.
const BATCH: usize = 4_096;
/// How long to wait for rings to fill up; records that are there already, orders and the files' readers wait as long.
const WAIT_NS: u64 = 10_000_000;
/// The same while somebody waits for the last of a capture's packets.
const SHORT_WAIT: Duration = Duration::from_millis(1);

/// A running reader.
#[derive(Debug)]
pub struct RingReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RingReader {
    /// Reads until stopped.
    pub fn start(
        rings: CaptureRings,
        recorder: Recorder,
        clock: Arc<Clock>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("capture-ring".into())
            .spawn(move || read(rings, recorder, &clock, &stopped))?;
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

fn read(mut rings: CaptureRings, mut recorder: Recorder, clock: &Clock, stopped: &AtomicBool) {
    let _watched = Watched::new(Arc::clone(recorder.board()), "the reading of captured packets");
    let mut seen = RingsView::default();
    let (mut failing, mut read, mut turn_ns) = (false, 0, 0);
    loop {
        if stopped.load(Ordering::Relaxed) {
            recorder.close(clock.now());
            if recorder.is_idle() {
                return;
            }
        }
        if read < BATCH {
            rings.wait(if recorder.is_ending() {
                SHORT_WAIT
            } else {
                Duration::from_nanos(WAIT_NS)
            });
        }
        let now = clock.now();
        read = rings.read(BATCH, now.monotonic_ns, |captured| match captured {
            Captured::Packet(record, data) => {
                recorder.packet(&packet(now, record, &vlan::insert(record, data)));
            }
            Captured::Gap(lost) => recorder.gap(lost),
        });
        // Under load, what there is to be read goes before everything else.
        let now = clock.now();
        if read == BATCH && now.monotonic_ns < turn_ns + WAIT_NS {
            continue;
        }
        turn_ns = now.monotonic_ns;
        seen.consumed = rings.consumed();
        match rings.totals() {
            Ok(totals) => {
                seen.lost = totals.lost;
                seen.produced = totals.offered;
                failing = false;
            }
            // Said once: what cannot be read will not be read again.
            Err(error) if !failing => {
                tracing::error!(%error, "the stage's counters cannot be read: its losses are not counted");
                failing = true;
            }
            Err(_) => {}
        }
        recorder.turn(now, seen);
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
        header_len: record.header_len + tag,
        packet_id: Some(record.packet_id),
        chosen: Some(record.captures),
    }
}
