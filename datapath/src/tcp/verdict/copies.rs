//! The last packets of one direction, as hashes: the same packet captured twice. Never compares what is older than
//! half a second.

use crate::{tcp::verdict::Segment, time::Ktime};

/// Packets that are remembered.
const COPIES_MAX: usize = 8;
/// Time after which the same numbers are another packet.
const COPY_NS: u64 = 500_000_000;

#[derive(Clone, Copy, Debug)]
struct Seen {
    hash: u32,
    at: Ktime,
}

/// The last packets of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copies {
    seen: [Option<Seen>; COPIES_MAX],
    oldest: u8,
}

impl Copies {
    /// Remembers a packet, or how long ago it was that the same passed, ns.
    pub(super) fn take(&mut self, segment: &Segment) -> Option<u64> {
        let hash = hash(segment);
        // Also where time goes backwards: two clocks may have stamped the two.
        let elapsed_ns = |seen: &Seen| segment.now.since(seen.at).unsigned_abs();
        let is_same = |seen: &&Seen| seen.hash == hash && elapsed_ns(seen) < COPY_NS;
        if let Some(seen) = self.seen.iter().flatten().find(is_same) {
            return Some(elapsed_ns(seen));
        }
        let slot = usize::from(self.oldest) % COPIES_MAX;
        self.seen[slot] = Some(Seen { hash, at: segment.now });
        self.oldest = self.oldest.wrapping_add(1);
        None
    }
}

/// Of all that does not change on the way: not the hops left, nor the VLAN, which is in the flow's key.
fn hash(segment: &Segment) -> u32 {
    let words = [
        u32::from(segment.ip_id) << 16 | (segment.tcp_flags & 0xff),
        segment.sequence,
        segment.acknowledgment,
        segment.payload_len,
        segment.window,
        segment.timestamp.unwrap_or(0),
    ];
    words
        .into_iter()
        .fold(0x811c_9dc5, |hash: u32, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b1))
}
