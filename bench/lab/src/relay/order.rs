//! What data of each flow came to the relay and left it in which order: the truth about what is sent again and what is
//! overtaken. Never looks at the plan.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::impair::FLOWS_MAX;
use crate::wire::{TcpSegment, flag};

type FlowEnds = (SocketAddr, SocketAddr);

/// Whether what a frame carries came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Carries {
    /// No SYN, no FIN and no data; or a copy that the relay made.
    Nothing,
    /// What came for the first time.
    New,
    /// What begins before the end of what had come: it is sent again.
    Again,
}

/// What becomes of a frame at the relay's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    InOrder,
    /// New data, behind data that came after it.
    Overtaken,
    /// What is sent again, behind data of higher sequence numbers and not overtaken itself: an observer
    /// can know.
    AgainInSight,
}

/// The order of every flow of one direction. When there are too many flows, all are forgotten.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// One after the highest sequence number that came.
    came: HashMap<FlowEnds, u32>,
    /// One after the highest that left, and the number of the frame that had it.
    left: HashMap<FlowEnds, (u32, u64)>,
}

impl Order {
    /// A segment comes in.
    pub(super) fn came(&mut self, segment: &TcpSegment) -> Carries {
        let ends = (segment.src, segment.dst);
        let Some(end) = end(segment) else { return Carries::Nothing };
        let is_syn = segment.flags & flag::SYN != 0;
        if is_syn && self.came.get(&ends).is_some_and(|highest| *highest != end) {
            self.came.remove(&ends);
            self.left.remove(&ends);
        }
        if self.came.len() >= FLOWS_MAX && !self.came.contains_key(&ends) {
            self.came.clear();
            self.left.clear();
        }
        let highest = self.came.entry(ends).or_insert(segment.seq);
        let is_again = is_before(segment.seq, *highest);
        if is_before(*highest, end) {
            *highest = end;
        }
        if is_again { Carries::Again } else { Carries::New }
    }

    /// A segment leaves as the frame of this number.
    pub(super) fn left(&mut self, segment: &TcpSegment, carries: Carries, number: u64) -> Leaves {
        let (Some(end), true) = (end(segment), carries != Carries::Nothing) else {
            return Leaves::InOrder;
        };
        let highest = self.left.entry((segment.src, segment.dst)).or_insert((segment.seq, number));
        let (before, by) = *highest;
        if is_before(before, end) {
            *highest = (end, number);
        }
        match carries {
            Carries::New if number < by && is_before(segment.seq, before) => Leaves::Overtaken,
            Carries::Again if number > by && is_before(segment.seq, before) => Leaves::AgainInSight,
            Carries::Nothing | Carries::New | Carries::Again => Leaves::InOrder,
        }
    }
}

/// One after the last sequence number of what has to be acknowledged.
fn end(segment: &TcpSegment) -> Option<u32> {
    let control = u32::from(segment.flags & (flag::SYN | flag::FIN) != 0);
    let length = segment.payload_bytes + control;
    (length > 0).then(|| segment.seq.wrapping_add(length))
}

fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32, flags: u8, payload_bytes: u32) -> TcpSegment {
        let end = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let (src, dst) = (end(1), end(2));
        TcpSegment { src, dst, seq, flags, payload_bytes, header: 34, data: 54 }
    }

    #[test]
    fn what_later_data_left_before_was_overtaken() {
        let mut order = Order::default();
        let data = |seq| segment(seq, flag::ACK, 10);
        assert!([0, 10, 20, 30].iter().all(|seq| order.came(&data(*seq)) == Carries::New));
        let left = [(0, 1), (20, 3), (10, 2), (30, 4)];
        let leaves = left.map(|(seq, number)| order.left(&data(seq), Carries::New, number));
        let wanted = [Leaves::InOrder, Leaves::InOrder, Leaves::Overtaken, Leaves::InOrder];
        assert_eq!(leaves, wanted);
    }

    #[test]
    fn what_came_before_is_sent_again_and_seen_behind_what_is_higher() {
        let mut order = Order::default();
        let syn = segment(99, flag::SYN, 0);
        assert_eq!([order.came(&syn), order.came(&syn)], [Carries::New, Carries::Again]);
        assert_eq!(order.left(&syn, Carries::Again, 1), Leaves::InOrder, "the first was lost");
        let (lost, next) = (segment(100, flag::ACK, 10), segment(110, flag::ACK, 10));
        assert_eq!(order.came(&lost), Carries::New);
        assert_eq!(order.came(&next), Carries::New);
        assert_eq!(order.left(&next, Carries::New, 3), Leaves::InOrder);
        assert_eq!(order.came(&lost), Carries::Again);
        assert_eq!(order.left(&lost, Carries::Again, 4), Leaves::AgainInSight);
        let other = segment(5_000, flag::SYN, 0);
        assert_eq!(order.came(&other), Carries::New, "another connection");
    }
}
