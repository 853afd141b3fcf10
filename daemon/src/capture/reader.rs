//! The thread between the kernel's ring and the capture: reads, dates and hands on; never filters or writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::layout::VLAN_PRESENT;

use super::{CaptureManager, RawPacket, vlan};
use crate::{clock::Clock, flow::view::RingsView, live::CaptureRing};

/// Records read before the file is brought up to date for its readers.
const BATCH: usize = 1_024;
/// How long to wait for a record.
const WAIT: Duration = Duration::from_millis(50);

/// A running reader.
#[derive(Debug)]
pub struct RingReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RingReader {
    /// Reads until stopped.
    pub fn start(
        mut ring: CaptureRing,
        manager: Arc<CaptureManager>,
        clock: Arc<Clock>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("capture-ring".into()).spawn(move || {
            let mut consumed = 0;
            while !stopped.load(Ordering::Relaxed) {
                ring.wait(WAIT);
                let offset_ns = clock.offset_ns();
                let read = ring.read(BATCH, |record, data| {
                    let tagged = record.flags & VLAN_PRESENT != 0;
                    let tag = if tagged { vlan::TAG_LEN } else { 0 };
                    manager.packet(&RawPacket {
                        wall_ns: record.time_ns.saturating_add_signed(offset_ns),
                        point: u32::from(record.point),
                        direction: u32::from(record.direction),
                        original_len: record.original_len + tag,
                        data: &vlan::insert(record, data),
                        queue: record.queue,
                    });
                });
                consumed += read as u64;
                match ring.stats() {
                    Ok(stats) => manager.tick(RingsView {
                        produced: stats.produced + stats.lost_ring + stats.lost_copy,
                        consumed,
                        lost: stats.lost_ring + stats.lost_copy,
                    }),
                    Err(error) => tracing::error!(%error, "the ring's counters cannot be read"),
                }
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Stops after the batch at hand.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the ring reader panicked");
        }
    }
}
