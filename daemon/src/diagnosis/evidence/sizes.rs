//! What sizes of segments pass, and the one that does not. Never calls a size passed that was sent twice: which of the two
//! arrived is not known.

use datapath::{
    replay::Classified,
    tcp::{after, at_or_before, before, verdict::RETRANSMITTED},
};

/// Segments whose acknowledgment is awaited to learn what size passes; the oldest are kept.
const AWAITED_MAX: usize = 8;
/// Payload from which on a segment is large: what a path without tunnels always passes, with room to spare.
pub const LARGE_MIN: u32 = 1_200;
/// A segment that was sent again as often as this is not forgotten for another one.
const STUCK_KEPT_MIN: u32 = 3;

/// A segment that was sent again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its sequence number.
    pub sequence: u32,
    /// Bytes of its payload.
    pub payload_len: u32,
    /// Bytes of its IP packet.
    pub packet_len: u32,
    /// How often it was sent again, unchanged.
    pub again: u32,
    /// Whether no router may fragment it.
    pub unfragmentable: bool,
    /// When it was first and last sent.
    pub span: (u64, u64),
    /// A smaller segment with the same start was sent, and acknowledged.
    pub smaller_passed: bool,
    /// The receiver sent something after the first time that it was sent again.
    pub receiver_alive: bool,
    smaller_end: Option<u32>,
}

/// What passes of one endpoint's segments.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Largest payload of a segment that was acknowledged.
    pub largest_acknowledged: u32,
    /// The segment that was sent again most often, if it was large.
    pub stuck: Option<Stuck>,
    /// End and payload.
    awaited: [(u32, u32); AWAITED_MAX],
}

impl Sizes {
    /// What sizes pass, and what is sent again and again.
    pub(super) fn sent(&mut self, classified: &Classified, end: u32, packet_len: u32) {
        let segment = &classified.segment;
        let is_again = classified.verdict.bits & RETRANSMITTED != 0;
        if !is_again {
            if let Some(free) = self.awaited.iter_mut().find(|(_, length)| *length == 0) {
                *free = (end, segment.payload_len);
            }
            if self.stuck.is_none_or(|stuck| stuck.again == 0) && segment.payload_len >= LARGE_MIN {
                self.stuck = Some(Stuck::of(classified, packet_len));
            }
            return;
        }
        // Which of the two was acknowledged is not known.
        for (awaited_end, length) in &mut self.awaited {
            let is_within = *length > 0 && after(*awaited_end, segment.sequence);
            let begins_before = before(awaited_end.wrapping_sub(*length), end);
            if is_within && begins_before {
                *length = 0;
            }
        }
        match &mut self.stuck {
            Some(stuck) if stuck.sequence == segment.sequence => {
                if stuck.payload_len == segment.payload_len {
                    stuck.again += 1;
                    stuck.span.1 = segment.now.0;
                } else if segment.payload_len < stuck.payload_len {
                    stuck.smaller_end = Some(end);
                }
            }
            Some(stuck) if stuck.again >= STUCK_KEPT_MIN => {}
            _ if segment.payload_len >= LARGE_MIN => {
                self.stuck = Some(Stuck { again: 1, ..Stuck::of(classified, packet_len) });
            }
            _ => {}
        }
    }

    /// The receiver acknowledged everything before `to`.
    pub(super) fn acknowledged(&mut self, to: u32) {
        for (end, length) in &mut self.awaited {
            if *length > 0 && at_or_before(*end, to) {
                self.largest_acknowledged = self.largest_acknowledged.max(*length);
                *length = 0;
            }
        }
        if let Some(stuck) = &mut self.stuck
            && let Some(end) = stuck.smaller_end
            && at_or_before(end, to)
        {
            stuck.smaller_passed = true;
        }
    }

    /// The receiver sent something.
    pub(super) fn receiver_spoke(&mut self) {
        if let Some(stuck) = &mut self.stuck {
            stuck.receiver_alive |= stuck.again > 0;
        }
    }
}

impl Stuck {
    fn of(classified: &Classified, packet_len: u32) -> Self {
        let segment = &classified.segment;
        Self {
            sequence: segment.sequence,
            payload_len: segment.payload_len,
            packet_len,
            again: 0,
            unfragmentable: classified.unfragmentable,
            span: (segment.now.0, segment.now.0),
            smaller_passed: false,
            receiver_alive: false,
            smaller_end: None,
        }
    }
}
