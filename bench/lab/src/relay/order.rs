//! Which data segments were overtaken on their way through the relay: the truth about reordering. Never looks at the plan,
//! only at what came and left; what is sent again is never overtaken here.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::impair::FLOWS_MAX;
use crate::wire::{TcpSegment, flag};

type FlowEnds = (SocketAddr, SocketAddr);

/// The order of data in every flow of one direction. When there are too many flows, all are forgotten.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// One after the highest sequence number that came.
    came: HashMap<FlowEnds, u32>,
    /// One after the highest that left, and the number of the frame that had it.
    left: HashMap<FlowEnds, (u32, u64)>,
}

impl Order {
    /// A segment comes in; whether all its data comes for the first time.
    pub(super) fn came(&mut self, segment: &TcpSegment) -> bool {
        let ends = (segment.src, segment.dst);
        if segment.flags & flag::SYN != 0 {
            self.came.remove(&ends);
            self.left.remove(&ends);
        }
        if segment.payload_bytes == 0 {
            return false;
        }
        if self.came.len() >= FLOWS_MAX && !self.came.contains_key(&ends) {
            self.came.clear();
            self.left.clear();
        }
        let end = segment.seq.wrapping_add(segment.payload_bytes);
        let highest = self.came.entry(ends).or_insert(segment.seq);
        let is_first = !is_before(segment.seq, *highest);
        if is_before(*highest, end) {
            *highest = end;
        }
        is_first
    }

    /// A segment whose data came for the first time, as the frame of this number, leaves; whether data that came after
    /// it has left before.
    pub(super) fn left(&mut self, segment: &TcpSegment, number: u64) -> bool {
        let end = segment.seq.wrapping_add(segment.payload_bytes);
        let ends = (segment.src, segment.dst);
        let highest = self.left.entry(ends).or_insert((end, number));
        if is_before(highest.0, end) {
            *highest = (end, number);
        }
        number < highest.1
    }
}

fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32) -> TcpSegment {
        let end = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let (src, dst) = (end(1), end(2));
        TcpSegment { src, dst, seq, flags: flag::ACK, payload_bytes: 10, header: 34, data: 54 }
    }

    #[test]
    fn what_later_data_left_before_was_overtaken() {
        let mut order = Order::default();
        assert!([0, 10, 20, 30].into_iter().all(|seq| order.came(&segment(seq))));
        assert!(!order.came(&segment(10)), "sent again");
        let left = [(0, 1), (20, 3), (10, 2), (30, 4)];
        let overtaken = left.map(|(seq, number)| order.left(&segment(seq), number));
        assert_eq!(overtaken, [false, false, true, false]);
    }
}
