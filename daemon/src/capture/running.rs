//! The running capture on the reader's side: picks packets and queues them. Never waits and never writes.

use std::{collections::HashMap, sync::Arc};

use captures::{Direction, Snaplen, StopReason};
use datapath::layout::CaptureStats;

use super::{
    HEARTBEAT_NS, RawPacket, Session,
    plan::Tap,
    queue::{BATCH_BYTES, Batch, Into, Message, Queued},
};

/// How long after its deadline a capture goes on reading what the stage copied before it.
const DRAIN_MAX_NS: u64 = 2_000_000_000;

/// A capture that takes packets.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) session: Arc<Session>,
    pub(super) taps: HashMap<(u32, u32), Tap>,
    pub(super) point: Option<u32>,
    pub(super) snaplen: Snaplen,
    pub(super) into: Into,
    pub(super) batch: Batch,
    /// Packets before are of an earlier capture (monotonic ns).
    pub(super) started_ns: u64,
    /// Packets from then on are no part of the capture (monotonic ns).
    pub(super) deadline_ns: u64,
    /// When statistics are due (monotonic ns).
    pub(super) heartbeat_ns: u64,
    /// The stage's counters as of the last look.
    pub(super) stats: CaptureStats,
    /// Somebody asked for the end, which waits for what is in the ring.
    pub(super) ending: Option<StopReason>,
}

impl Running {
    /// Takes a packet if it is wanted. Returns why the capture ends, if it does.
    pub(super) fn offer(&mut self, raw: &RawPacket<'_>) -> Option<StopReason> {
        if raw.time_ns < self.started_ns {
            return None;
        }
        if raw.time_ns >= self.deadline_ns {
            return Some(StopReason::DurationLimit);
        }
        let tap = self.taps.get(&(raw.point, raw.direction))?;
        if !tap.wants(raw.data, raw.original_len) {
            self.batch.tally.refused += 1;
            return None;
        }
        let data = self.snaplen.cut(raw.data);
        let queued = Queued {
            wall_ns: raw.wall_ns,
            interface: tap.interface,
            original_len: raw.original_len,
            captured_len: data.len(),
            queue: raw.queue,
            direction: if raw.direction == 0 { Direction::Inbound } else { Direction::Outbound },
        };
        self.batch.push(queued, data);
        if self.batch.data.len() >= BATCH_BYTES {
            self.flush();
        }
        // A writer that ended by itself says so in its session.
        self.session.is_finished().then_some(StopReason::UserRequest)
    }

    /// Counts what the stage has lost since the last look.
    pub(super) fn lost(&mut self, stats: CaptureStats) {
        let tally = &mut self.batch.tally;
        tally.ring += stats.lost_ring.saturating_sub(self.stats.lost_ring);
        tally.copy += stats.lost_copy.saturating_sub(self.stats.lost_copy);
        self.stats = stats;
    }

    /// Sends on what has been gathered, with statistics when they are due; returns whether they were.
    pub(super) fn beat(&mut self, now_ns: u64, wall_ns: u64) -> bool {
        self.flush();
        let due = now_ns >= self.heartbeat_ns;
        if due {
            self.heartbeat_ns = now_ns + HEARTBEAT_NS;
            self.into.tell(Message::Heartbeat { wall_ns });
        }
        due
    }

    fn flush(&mut self) {
        self.into.send(&mut self.batch);
    }

    /// Why the capture is to end at `now_ns`, if it is. `drained` says that everything copied so far has been read.
    pub(super) fn due(&self, now_ns: u64, drained: bool) -> Option<StopReason> {
        if self.session.is_finished() {
            return Some(StopReason::UserRequest);
        }
        if drained && self.ending.is_some() {
            return self.ending;
        }
        let late = now_ns >= self.deadline_ns.saturating_add(DRAIN_MAX_NS);
        (late || drained && now_ns >= self.deadline_ns).then_some(StopReason::DurationLimit)
    }

    /// Sends the last packets and the end.
    pub(super) fn end(self, reason: StopReason, wall_ns: u64) {
        self.into.end(self.batch, reason, wall_ns);
    }
}
