//! How a connection ends, and what comes after a long silence. Never says why.

use datapath::{
    parse::tcp::{ACK, FIN, RST, SYN},
    replay::Classified,
    tcp::{
        after,
        classes::KEEP_ALIVE,
        verdict::{DUPLICATE_FRAME, RETRANSMITTED},
    },
};

use super::FlowEvidence;

/// Silence that is long: what state tables forget connections after begins here.
pub const IDLE_MIN_NS: u64 = 60_000_000_000;

/// The first reset of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Endpoint that it bears as its sender.
    pub sender: u32,
    /// When it came.
    pub at_ns: u64,
    /// Its sequence number.
    pub sequence: u32,
    /// Hops left.
    pub hops: u8,
    /// What its sender's packets had left until then, and how many of them there were.
    pub usual_hops: (u8, u32),
    /// Its sender's last packet, other than resets, before it.
    pub usual_id: Option<u16>,
    /// Its identification.
    pub id: u16,
    /// It answers a SYN, and its sender had sent nothing else.
    pub answers_syn: bool,
    /// One of both had sent a FIN.
    pub after_fin: bool,
    /// Resets of this sender.
    pub count: u32,
    /// Segments with new data that its sender sent all the same.
    pub data_after: u32,
    /// Of its sender.
    pub last_ns: u64,
}

/// The last long silence of a connection that was established, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How long.
    pub silence_ns: u64,
    /// Who broke it.
    pub sender: u32,
    /// When.
    pub at_ns: u64,
    /// Segments of that endpoint since, and how many of them were sent again.
    pub sent: (u32, u32),
    /// Packets of the other one since, other than resets.
    pub answered: u32,
    /// When the other one reset it first, and how long after the last segment since.
    pub reset: Option<(u64, u64)>,
    /// Packet before it of who broke it, or of the other one, was a FIN.
    pub after_fin: bool,
    /// Last segment since.
    pub last_ns: u64,
}

impl FlowEvidence {
    /// To be called before the sides take the segment.
    pub(super) fn ends(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        let now_ns = segment.now.0;
        let is_copy = classified.verdict.bits & DUPLICATE_FRAME != 0;
        let is_reset = segment.tcp_flags & RST != 0;
        if is_copy {
            return;
        }
        if segment.tcp_flags & FIN != 0 {
            self.finished = true;
        }
        self.data_after_reset(classified);
        let silence_ns = now_ns.saturating_sub(self.last_ns);
        let [lower, upper] = &self.sides;
        let is_established =
            lower.packets > 0 && upper.packets > 0 && lower.advances + upper.advances > 0;
        // Keep-alives that nobody answers come a minute apart too.
        let is_same = |idle: &Idle| {
            idle.sender == classified.sender && idle.answered == 0 && idle.reset.is_none()
        };
        let is_new = silence_ns >= IDLE_MIN_NS && !self.idle.as_ref().is_some_and(is_same);
        if self.last_ns != 0 && is_new && is_established && !is_reset {
            self.idle = Some(Idle {
                silence_ns,
                sender: classified.sender,
                at_ns: now_ns,
                sent: (0, 0),
                answered: 0,
                reset: None,
                after_fin: self.finished,
                last_ns: now_ns,
            });
        }
        let Some(idle) = &mut self.idle else { return };
        if classified.sender == idle.sender {
            idle.sent.0 += 1;
            idle.sent.1 += u32::from(
                classified.verdict.bits & RETRANSMITTED != 0
                    || (segment.classes & KEEP_ALIVE != 0 && idle.sent.0 > 1),
            );
            idle.last_ns = now_ns;
        } else if is_reset {
            let after_ns = now_ns.saturating_sub(idle.last_ns);
            idle.reset.get_or_insert((now_ns, after_ns));
        } else {
            idle.answered += 1;
        }
    }

    /// To be called before the sides take the segment, which is a reset.
    pub(super) fn resets(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        if classified.verdict.bits & DUPLICATE_FRAME != 0 {
            return;
        }
        if let Some(reset) = &mut self.reset {
            if reset.sender == classified.sender {
                reset.count = reset.count.saturating_add(1);
                reset.last_ns = segment.now.0;
            }
            return;
        }
        let own = &self.sides[(classified.sender & 1) as usize];
        let peer = &self.sides[(classified.sender & 1 ^ 1) as usize];
        let is_answer = segment.tcp_flags & ACK != 0
            && segment.acknowledgment == peer.first_sequence.wrapping_add(1);
        self.reset = Some(Reset {
            sender: classified.sender,
            at_ns: segment.now.0,
            sequence: segment.sequence,
            hops: classified.hops,
            usual_hops: (own.hops.value, own.hops.packets),
            usual_id: own.last_id,
            id: segment.ip_id,
            answers_syn: own.packets == 0 && peer.syns.count > 0 && is_answer,
            after_fin: self.finished,
            count: 1,
            data_after: 0,
            last_ns: segment.now.0,
        });
    }

    fn data_after_reset(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        let is_data = segment.payload_len > 0 && segment.tcp_flags & (SYN | RST) == 0;
        if let Some(reset) = &mut self.reset
            && is_data
            && classified.sender == reset.sender
            && after(segment.sequence.wrapping_add(segment.payload_len), reset.sequence)
        {
            reset.data_after = reset.data_after.saturating_add(1);
            reset.last_ns = segment.now.0;
        }
    }
}
