//! Verdicts by themselves: on segments that come from anywhere, without a table of flows.

use std::{boxed::Box, vec::Vec};

use super::{complete, follow, notice};
use crate::{
    layout::{Event, FlowEntry, HANDSHAKE_MEASURED, Trouble, VERDICTS, VerdictCounts},
    parse::{
        Headers, SELECTIVE_MAX,
        tcp::{OPTION_SACK, OPTION_TIMESTAMPS, RST},
    },
    rtt::RttTicks,
    time::{Ktime, TICK_NS},
};

/// One segment, as far as verdicts need it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// When it passed.
    pub now: Ktime,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Flags ([`crate::parse::tcp`]).
    pub tcp_flags: u32,
    /// Window as in the header.
    pub window: u32,
    /// Wireshark's classes of it.
    pub classes: u32,
    /// Identification of IPv4; 0 without one.
    pub ip_id: u16,
    /// Timestamp value, where there is the option.
    pub timestamp: Option<u32>,
    /// Blocks of the selective acknowledgment, from start to end; empty ones are none.
    pub selective: [[u32; 2]; SELECTIVE_MAX],
    /// Payload of each wire packet of a super-packet; 0 where it is none.
    pub segment_size: u32,
    /// It is on its way out of a socket of this host.
    pub from_socket: bool,
    /// The handshake's round trip, where it was seen.
    pub handshake_ns: Option<u64>,
    /// The last round trip from here to the receiver and back; 0 before the first.
    pub round_trip_ns: u64,
}

impl Segment {
    /// The segment that `headers` are of, classified at `now` on the flow of `entry`.
    pub(crate) fn of(headers: &Headers, entry: &FlowEntry, now: Ktime) -> Self {
        let head = &entry.head;
        let is_measured = head.bits & HANDSHAKE_MEASURED != 0;
        let receiver = &entry.halves[((headers.sender ^ 1) & 1) as usize];
        let mut selective = [[0; 2]; SELECTIVE_MAX];
        if headers.options & OPTION_SACK != 0 {
            let blocks = headers.selective.iter().take(headers.selective_len as usize);
            selective.iter_mut().zip(blocks).for_each(|(to, block)| *to = *block);
        }
        Self {
            now,
            sequence: headers.sequence,
            acknowledgment: headers.acknowledgment,
            payload_len: headers.payload_len,
            tcp_flags: headers.tcp_flags,
            window: headers.window,
            classes: headers.classes,
            ip_id: (headers.ip_id & 0xffff) as u16,
            timestamp: (headers.options & OPTION_TIMESTAMPS != 0).then_some(headers.timestamp),
            selective,
            segment_size: headers.segment_size,
            from_socket: headers.from_socket != 0,
            handshake_ns: is_measured.then_some(head.handshake_rtt_ns),
            round_trip_ns: RttTicks(receiver.rtt_last_ticks).as_ns(),
        }
    }

    fn headers(&self, sender: u32) -> Headers {
        let blocks: Vec<_> = self.selective.into_iter().filter(|block| *block != [0; 2]).collect();
        let mut selective = [[0; 2]; SELECTIVE_MAX];
        selective[..blocks.len()].copy_from_slice(&blocks);
        let stamped = self.timestamp.map_or(0, |_| OPTION_TIMESTAMPS);
        Headers {
            sender,
            sequence: self.sequence,
            acknowledgment: self.acknowledgment,
            payload_len: self.payload_len,
            tcp_flags: self.tcp_flags,
            window: self.window,
            classes: self.classes,
            ip_id: u32::from(self.ip_id),
            timestamp: self.timestamp.unwrap_or(0),
            options: stamped | if blocks.is_empty() { 0 } else { OPTION_SACK },
            selective,
            selective_len: u32::try_from(blocks.len()).unwrap_or(0),
            segment_size: self.segment_size,
            from_socket: u32::from(self.from_socket),
            ..Headers::default()
        }
    }
}

/// The verdict on one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it is: [`super::RETRANSMITTED`] and its companions; 0 where there is nothing to say.
    pub bits: u32,
    /// Wire packets of it that were sent again, or late.
    pub segments: u32,
    /// Bytes of payload in them that had been sent before.
    pub bytes: u32,
    /// How long before neither its sender had sent nor its receiver said anything, ns; where it was sent again.
    pub silence_ns: u64,
}

impl Verdict {
    /// As it was left in `headers`.
    pub(crate) fn of(headers: &Headers) -> Self {
        if headers.unusual == 0 || headers.verdict == 0 {
            return Self::default();
        }
        Self {
            bits: headers.verdict,
            segments: headers.verdict_segments,
            bytes: headers.verdict_bytes,
            silence_ns: u64::from(headers.silence_us) << 10,
        }
    }
}

/// The segment in `headers` as the kernel's program logs it; none where it has neither a class nor a verdict.
pub(crate) fn event(headers: &Headers, entry: &FlowEntry, now: Ktime) -> Option<Event> {
    if headers.unusual == 0 || headers.classes | headers.verdict == 0 {
        return None;
    }
    let mut event = Event::default();
    super::tell(&mut event, headers, entry, now);
    Some(event)
}

/// How many segments of one direction got which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Sent again.
    pub retransmitted_segments: u64,
    /// Bytes of payload in them that had been sent before.
    pub retransmitted_bytes: u64,
    /// Overtaken on the way.
    pub reordered_segments: u64,
    /// The same packet seen again.
    pub duplicate_frames: u64,
    /// Of the retransmitted: after a time-out.
    pub rto: u64,
    /// After three duplicate acknowledgments, or a selective one of later data.
    pub fast: u64,
    /// The last segment, to make its receiver speak (RFC 8985, 7).
    pub tail_loss_probe: u64,
    /// Without need: it had been acknowledged, or arrived twice.
    pub spurious: u64,
    /// In place of one lost between the sender and here.
    pub lost_upstream: u64,
    /// In place of one lost between here and the receiver.
    pub lost_downstream: u64,
}

impl Verdicts {
    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); VERDICTS] {
        let counts = [
            self.retransmitted_segments,
            self.retransmitted_bytes,
            self.reordered_segments,
            self.duplicate_frames,
            self.rto,
            self.fast,
            self.tail_loss_probe,
            self.spurious,
            self.lost_upstream,
            self.lost_downstream,
        ];
        core::array::from_fn(|place| (super::NAMES[place], counts[place]))
    }
}

impl From<VerdictCounts> for Verdicts {
    fn from(counts: VerdictCounts) -> Self {
        let [segments, bytes, reordered, copies, rto, fast, probe, spurious, upstream, downstream] =
            counts.counts.map(u64::from);
        Self {
            retransmitted_segments: segments,
            retransmitted_bytes: bytes,
            reordered_segments: reordered,
            duplicate_frames: copies,
            rto,
            fast,
            tail_loss_probe: probe,
            spurious,
            lost_upstream: upstream,
            lost_downstream: downstream,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct FlowVerdicts {
    entry: Box<FlowEntry>,
    trouble: Box<Trouble>,
}

impl Default for FlowVerdicts {
    fn default() -> Self {
        Self { entry: Box::new(FlowEntry::EMPTY), trouble: Box::default() }
    }
}

impl FlowVerdicts {
    /// Takes a segment of `sender` (0 lower, 1 upper), which the tracker has classified.
    pub fn segment(&mut self, sender: u32, segment: &Segment) -> Verdict {
        let Self { entry, trouble } = self;
        let now = segment.now;
        let mut headers = segment.headers(sender);
        entry.head.handshake_rtt_ns = segment.handshake_ns.unwrap_or(0);
        entry.head.bits = segment.handshake_ns.map_or(0, |_| HANDSHAKE_MEASURED);
        let (_, own, peer) = entry.split(sender);
        own.skbs += 1;
        if segment.tcp_flags & RST == 0 {
            own.window = segment.window;
        }
        peer.rtt_last_ticks = u32::try_from(segment.round_trip_ns / TICK_NS).unwrap_or(u32::MAX);
        let before = entry.trails[(sender & 1) as usize].next;
        headers.unusual = u32::from(follow(entry, &headers, now));
        if headers.unusual != 0 {
            notice(entry, &mut headers, now);
        }
        if headers.unusual != 0 && headers.due != 0 {
            complete(entry, trouble, &mut headers, now);
        }
        if entry.trails[(sender & 1) as usize].next != before {
            entry.halves[(sender & 1) as usize].next_sequence_ns = now.0;
        }
        Verdict::of(&headers)
    }

    /// The verdicts on what each sent.
    #[must_use]
    pub fn counts(&self) -> [Verdicts; 2] {
        self.entry.verdicts.map(Verdicts::from)
    }
}
