//! The thread that writes one capture's file, and tells its readers how far it is. Never decides which packets, and
//! owns the file alone: what it publishes as whole is whole.

use std::{
    borrow::Cow,
    fs::File,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use captures::{Capture, CapturedPacket, StopReason, session::Loss};

use super::{
    Session,
    queue::{Batch, Message, OutOf, Tally},
    store::Store,
    view::{Ended, Progress},
};
use crate::{clock::Clock, flow::view::rfc3339};

/// One capture's writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) capture: Capture<File>,
    pub(super) from: OutOf,
    pub(super) session: Arc<Session>,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<Clock>,
    pub(super) refused: u64,
    pub(super) copy: u64,
}

impl Writer {
    /// Writes until told to end, until a limit, or until the file fails.
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("capture-file".into()).spawn(move || self.run())
    }

    fn run(mut self) {
        while let Some(message) = self.from.next() {
            match message {
                Message::Batch(batch) => self.batch(batch),
                Message::Heartbeat { wall_ns } => self.capture.heartbeat(wall_ns),
                Message::End { reason, wall_ns } => return self.finish(reason, wall_ns),
            }
            if let Some(reason) = self.capture.stopped() {
                let now_ns = self.clock.wall_ns().cast_unsigned();
                return self.finish(reason, now_ns);
            }
            self.publish();
        }
        // Whoever fed us is gone without a word: the daemon is going down.
        let now_ns = self.clock.wall_ns().cast_unsigned();
        self.finish(StopReason::DaemonStopped, now_ns);
    }

    fn batch(&mut self, batch: Batch) {
        self.tally(&batch.tally);
        let mut data = batch.data.as_slice();
        for queued in &batch.packets {
            let (bytes, rest) = data.split_at(queued.captured_len);
            data = rest;
            let packet = CapturedPacket {
                time_ns: queued.wall_ns,
                original_len: queued.original_len,
                data: Cow::Borrowed(bytes),
                interface: queued.interface,
                direction: Some(queued.direction),
                packet_id: None,
                queue: Some(queued.queue),
                drop_count: None,
                comments: Vec::new(),
            };
            // What a limit keeps out came after the capture; a failing file is counted where it fails.
            let _ended = self.capture.offer(&packet);
        }
        self.capture.flush();
        self.from.release(&batch);
    }

    /// Losses that no interface is known for are counted for the first one, as its description says.
    fn tally(&mut self, tally: &Tally) {
        self.refused += tally.refused;
        self.copy += tally.copy;
        self.capture.lose(Some(0), Loss::Ring, tally.ring + tally.copy);
        for (interface, packets) in (0..).zip(&tally.queue) {
            self.capture.lose(Some(interface), Loss::Shed, *packets);
        }
    }

    fn publish(&self) {
        let counters = self.capture.counters();
        self.session.publish(Progress::new(&counters, self.refused, self.copy, counters.bytes));
    }

    fn finish(self, reason: StopReason, wall_ns: u64) {
        let (summary, file) = self.capture.finish(reason, wall_ns);
        let mut progress =
            Progress::new(&summary.counters, self.refused, self.copy, summary.whole_bytes);
        let mut error = summary.error.map(|error| error.to_string());
        if error.is_some()
            && let Err(uncut) = file.set_len(summary.whole_bytes)
        {
            error = Some(format!("{uncut}; the file may end in half a block"));
        }
        if let Some(error) = &error {
            tracing::warn!(id = %self.session.id(), error, "a capture's file could not be written");
        }
        let at = rfc3339(i128::from(wall_ns));
        progress.ended = Some(Ended { reason: summary.reason.name().into(), at, error });
        // Described before it is announced: who hears of the end may remove it.
        if let Err(error) = self.store.describe(&self.session.view().at(&progress)) {
            tracing::warn!(id = %self.session.id(), %error, "a capture is kept without its description");
        }
        self.session.publish(progress);
    }
}
