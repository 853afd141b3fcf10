//! The queue of what will happen to a simulated connection, by virtual time and, at equal times, in
//! order of creation. Never forgets an event.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::segment::Segment;
use crate::synth::frame::Side;

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum What {
    /// A side's segment passes the observer.
    Passes(Side, Segment),
    /// A segment arrives at a side.
    Arrives(Side, Segment),
    /// A side's timer may have expired.
    Timer(Side),
    /// A process says the message of this index.
    Says(usize),
    /// A side's process closes or aborts.
    Closes(Side),
}

/// See the file.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Event>>,
    next_number: u64,
}

impl Events {
    /// Plans `what` for `at_ns`.
    pub(super) fn push(&mut self, at_ns: u64, what: What) {
        self.heap.push(Reverse(Event { at_ns, number: self.next_number, what }));
        self.next_number += 1;
    }

    /// What happens next, and when.
    pub(super) fn pop(&mut self) -> Option<(u64, What)> {
        self.heap.pop().map(|Reverse(event)| (event.at_ns, event.what))
    }
}

#[derive(Debug)]
struct Event {
    at_ns: u64,
    number: u64,
    what: What,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}
