//! The way from the reader of packets to the writer of the file: bounded in bytes, and whoever finds it full counts.
//! Never waits: a slow disk must not reach back into the kernel's ring.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{Receiver, Sender, channel},
};

/// Most bytes on the way to the file: at 1 Gbit/s, a quarter of a second.
pub const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes after which a batch is sent.
pub(super) const BATCH_BYTES: usize = 64 * 1024;

/// Packets that matched, and what was counted since the batch before.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) packets: Vec<Queued>,
    /// The bytes of those packets, one after the other.
    pub(super) data: Vec<u8>,
    pub(super) tally: Tally,
}

/// What is counted, but is no packet for the file.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Packets that did not match.
    pub(super) refused: u64,
    /// Packets that the ring had no room for.
    pub(super) ring: u64,
    /// Packets that the kernel did not copy.
    pub(super) copy: u64,
    /// Matched packets that the queue had no room for, by interface.
    pub(super) queue: Vec<u64>,
}

/// One packet of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) wall_ns: u64,
    pub(super) interface: u32,
    pub(super) original_len: u32,
    pub(super) captured_len: usize,
    pub(super) queue: u32,
    pub(super) direction: captures::Direction,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    Batch(Batch),
    /// Time for statistics (Unix ns).
    Heartbeat {
        wall_ns: u64,
    },
    /// Nothing comes after this.
    End {
        reason: captures::StopReason,
        wall_ns: u64,
    },
}

impl Batch {
    pub(super) fn push(&mut self, packet: Queued, data: &[u8]) {
        self.packets.push(packet);
        self.data.extend_from_slice(data);
    }

    pub(super) fn cost(&self) -> usize {
        self.data.len() + self.packets.len() * size_of::<Queued>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.tally.is_zero()
    }
}

impl Tally {
    fn is_zero(&self) -> bool {
        self.refused == 0 && self.ring == 0 && self.copy == 0 && self.queue.is_empty()
    }

    fn lose(&mut self, interface: u32) {
        let index = interface as usize;
        if self.queue.len() <= index {
            self.queue.resize(index + 1, 0);
        }
        self.queue[index] += 1;
    }
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct Into {
    sender: Sender<Message>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct OutOf {
    receiver: Receiver<Message>,
    bytes: Arc<AtomicUsize>,
}

pub(super) fn queue(bytes_max: usize) -> (Into, OutOf) {
    let (sender, receiver) = channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    (Into { sender, bytes: Arc::clone(&bytes), bytes_max }, OutOf { receiver, bytes })
}

impl Into {
    /// Sends what has been gathered and leaves an empty batch; what the queue has no room for is counted in that.
    pub(super) fn send(&self, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        let mut full = std::mem::take(batch);
        let cost = full.cost();
        if self.bytes.load(Ordering::Relaxed) + cost > self.bytes_max && !full.packets.is_empty() {
            for packet in full.packets.drain(..) {
                full.tally.lose(packet.interface);
            }
            batch.tally = full.tally;
            return;
        }
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        self.tell(Message::Batch(full));
    }

    /// Sends what takes no room.
    pub(super) fn tell(&self, message: Message) {
        // A writer that panicked reads no more; its capture ends as interrupted.
        let _gone = self.sender.send(message);
    }

    /// Sends the counts of a batch that found no room, then the end.
    pub(super) fn end(&self, mut batch: Batch, reason: captures::StopReason, wall_ns: u64) {
        self.send(&mut batch);
        if !batch.is_empty() {
            self.tell(Message::Batch(batch));
        }
        self.tell(Message::End { reason, wall_ns });
    }
}

impl OutOf {
    /// The next message; `None` once the reader is gone.
    pub(super) fn next(&self) -> Option<Message> {
        self.receiver.recv().ok()
    }

    /// Makes the room of a batch free again.
    pub(super) fn release(&self, batch: &Batch) {
        self.bytes.fetch_sub(batch.cost(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use captures::{Direction, StopReason};

    use super::*;

    fn batch(packets: u32) -> Batch {
        let mut batch = Batch::default();
        for interface in 0..packets {
            let packet = Queued {
                wall_ns: 0,
                interface,
                original_len: 100,
                captured_len: 100,
                queue: 0,
                direction: Direction::Inbound,
            };
            batch.push(packet, &[0; 100]);
        }
        batch
    }

    #[test]
    fn what_finds_no_room_is_counted_by_interface_with_the_next_batch() {
        let (into, out_of) = queue(batch(2).cost());
        into.send(&mut batch(2));
        let mut refused = batch(2);
        into.send(&mut refused);
        assert!(refused.packets.is_empty() && refused.data.is_empty());
        assert_eq!(refused.tally.queue, [1, 1]);

        let Some(Message::Batch(first)) = out_of.next() else { panic!("a batch was sent") };
        out_of.release(&first);
        refused.push(batch(1).packets[0], &[0; 100]);
        into.send(&mut refused);
        let Some(Message::Batch(second)) = out_of.next() else { panic!("a batch was sent") };
        assert_eq!((second.packets.len(), second.tally.queue.as_slice()), (1, &[1, 1][..]));
    }

    #[test]
    fn the_end_brings_the_last_counts_even_when_the_queue_is_full() {
        let (into, out_of) = queue(1);
        into.end(batch(3), StopReason::UserRequest, 7);
        let Some(Message::Batch(last)) = out_of.next() else { panic!("the counts come first") };
        assert_eq!((last.packets.len(), last.tally.queue.as_slice()), (0, &[1, 1, 1][..]));
        assert!(matches!(out_of.next(), Some(Message::End { wall_ns: 7, .. })));
    }
}
