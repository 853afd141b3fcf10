//! What the relay did, per direction: the ground truth that tests compare with. Never estimates; a
//! frame that is not listed is counted as unlisted.

use std::net::SocketAddr;

use serde::Serialize;

/// Dropped segments that are listed one by one per direction.
pub const DROPPED_MAX: usize = 4096;

/// The report of both directions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LabReport {
    /// Client to server.
    pub to_server: DirectionReport,
    /// Server to client.
    pub to_client: DirectionReport,
}

/// One direction. `frames = forwarded + held + dropped_* + send_errors - duplicated`, except where
/// super-packets were cut: these count as the wire frames they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DirectionReport {
    /// Wire frames that arrived at the router.
    pub frames: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Frames sent on, duplicates included.
    pub forwarded: u64,
    /// Frames that wait for their time.
    pub held: u64,
    /// Frames the loss rule took.
    pub dropped_loss: u64,
    /// Frames for which the queue had no room.
    pub dropped_queue: u64,
    /// Frames the relay could not carry: cut short, or merged in a way it cannot undo.
    pub dropped_unsupported: u64,
    /// Frames the kernel dropped because the relay was too slow; where not 0, the rest is not the
    /// whole truth.
    pub dropped_socket: u64,
    /// Frames the outgoing interface refused.
    pub send_errors: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Frames held back so that others overtake them.
    pub reordered: u64,
    /// Segments whose data came for the first time and left behind data that had come later. Not all
    /// that were held back: not what was sent again, nor what nothing came behind in time.
    pub overtaken: u64,
    /// Segments with data, SYN or FIN that came again: sent again by an end, not copied here.
    pub again: u64,
    /// Those of them that were sent on behind what has higher sequence numbers and had come earlier, so
    /// that whoever sees only what was sent on can know that they are not new.
    pub again_in_sight: u64,
    /// How much later than planned frames were sent, on average and at worst; part of every
    /// measured delay.
    pub late_mean_ns: u64,
    /// See `late_mean_ns`.
    pub late_max_ns: u64,
    /// Merged super-packets that were cut into wire frames. They come from offloads that someone
    /// turned on.
    pub super_packets: u64,
    /// Dropped segments and frames, up to [`DROPPED_MAX`].
    pub dropped: Vec<DroppedFrame>,
    /// Dropped segments and frames beyond the list.
    pub dropped_unlisted: u64,
}

/// One dropped frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedFrame {
    /// Why.
    pub cause: DropCause,
    /// When it arrived at the router, ns since 1970 (as in a capture).
    pub wall_ns: u64,
    /// Its bytes, without FCS.
    pub frame_bytes: u64,
    /// Which segment it was; `None` where it was not TCP.
    pub segment: Option<DroppedSegment>,
}

/// A dropped TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DroppedSegment {
    /// Who sent it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// Sequence number on the wire.
    pub seq: u32,
    /// Bytes of data.
    pub len: u32,
}

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// The loss rule.
    Loss,
    /// The queue before the rate limit, or the delay line, was full.
    Queue,
}

impl DirectionReport {
    pub(super) fn list(&mut self, frame: DroppedFrame) {
        match frame.cause {
            DropCause::Loss => self.dropped_loss += 1,
            DropCause::Queue => self.dropped_queue += 1,
        }
        if self.dropped.len() < DROPPED_MAX {
            self.dropped.push(frame);
        } else {
            self.dropped_unlisted += 1;
        }
    }

    /// Listed data segments that `src` lost.
    pub fn dropped_data_from(&self, src: SocketAddr) -> impl Iterator<Item = &DroppedSegment> {
        let segments = self.dropped.iter().filter_map(|frame| frame.segment.as_ref());
        segments.filter(move |segment| segment.src == src && segment.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_the_rest_is_counted() {
        let mut report = DirectionReport::default();
        let frame =
            DroppedFrame { cause: DropCause::Loss, wall_ns: 0, frame_bytes: 1, segment: None };
        for _ in 0..DROPPED_MAX + 3 {
            report.list(frame.clone());
        }
        assert_eq!(report.dropped.len(), DROPPED_MAX);
        assert_eq!(report.dropped_unlisted, 3);
        assert_eq!(report.dropped_loss, u64::try_from(DROPPED_MAX).unwrap() + 3);
    }
}
