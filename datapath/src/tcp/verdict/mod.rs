//! linnet's own verdict on each segment that is sent again or late: a copy of the frame, reordered or retransmitted; why
//! it was sent again, and on which side of here the first one was lost. Never guesses: what nothing decides is not counted.
//!
//! It is a fixed state of each direction, without a list of segments and without a clock. Where Wireshark's classes
//! ([`crate::tcp::classes`]) go by time alone, this goes by what the sender numbers its packets with, by what had passed
//! here, and by what the receiver selectively acknowledged.

mod again;
mod copies;
mod holes;
mod identity;

use again::{Again, Place, SentAgain};
use copies::Copies;
use holes::{Coverage, Holes};
use identity::{Age, Identity, Stamp};

use crate::{
    parse::tcp::{ACK, FIN, RST, SYN},
    tcp::{
        after, at_or_before, before,
        classes::{DUPLICATE_ACK, KEEP_ALIVE, REUSED_PORTS, ZERO_WINDOW_PROBE},
        tracker::OUT_OF_ORDER_NS,
    },
    time::Ktime,
};

/// Blocks of a selective acknowledgment; 40 bytes of options hold at most as many.
pub const SELECTIVE_MAX: usize = 4;

/// Duplicate acknowledgments that make a sender retransmit (RFC 5681, 3.2).
const DUPLICATES_MIN: u8 = 3;
/// A longer handshake was not one: time went backwards in it, or its SYN was of another attempt.
const HANDSHAKE_MAX_NS: i64 = 300_000_000_000;
/// Least time-out of Linux; others wait longer, or as long as the round trip is.
const TIMEOUT_MIN_NS: i64 = 200_000_000;
/// Least silence that is called a time-out where the round trip is not known: RFC 6298 begins with 1 s.
const TIMEOUT_UNKNOWN_NS: i64 = 900_000_000;
/// From here on a time-out need not double any more (RFC 6298, 2.5).
const TIMEOUT_CAPPED_NS: i64 = 60_000_000_000;
/// Linux' greatest time-out. After more silence it is not the timer that sends.
const TIMEOUT_MAX_NS: i64 = 130_000_000_000;
/// Least delay of a tail-loss probe, which is two ticks of the sender's clock.
const PROBE_MIN_NS: i64 = 1_000_000;
/// What a tail-loss probe may be late by, beside a third round trip.
const PROBE_SLACK_NS: i64 = 20_000_000;

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
    /// The handshake's round trip, where it was seen.
    pub handshake_ns: Option<u64>,
    /// The last round trip from here to the receiver and back; 0 before the first.
    pub round_trip_ns: u64,
}

impl Segment {
    /// The handshake's round trip, where it can be one.
    fn handshake(&self) -> Option<i64> {
        let round_trip_ns = i64::try_from(self.handshake_ns?).ok()?;
        (round_trip_ns <= HANDSHAKE_MAX_NS).then_some(round_trip_ns)
    }
}

/// The verdict on one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it is: [`RETRANSMITTED`] and its companions; 0 for a segment about which there is nothing to say.
    pub bits: u32,
    /// Wire packets of it that were sent again, or late.
    pub segments: u32,
    /// Bytes of payload in them that had been sent before.
    pub bytes: u32,
}

/// `Verdict::bits`: sent again.
pub const RETRANSMITTED: u32 = 1 << 0;
/// Overtaken on the way.
pub const REORDERED: u32 = 1 << 1;
/// The same packet captured again.
pub const DUPLICATE_FRAME: u32 = 1 << 2;
/// Of the retransmitted: after a time-out.
pub const RTO: u32 = 1 << 3;
/// After three duplicate acknowledgments, or a selective one of later data.
pub const FAST: u32 = 1 << 4;
/// The last segment, to make its receiver speak (RFC 8985, 7).
pub const TAIL_LOSS_PROBE: u32 = 1 << 5;
/// Without need: it had been acknowledged.
pub const SPURIOUS: u32 = 1 << 6;
/// In place of one lost between the sender and here.
pub const LOST_UPSTREAM: u32 = 1 << 7;
/// In place of one lost between here and the receiver.
pub const LOST_DOWNSTREAM: u32 = 1 << 8;

/// How many segments of one direction got which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Sent again.
    pub retransmitted_segments: u64,
    /// Bytes of payload in them that had been sent before.
    pub retransmitted_bytes: u64,
    /// Overtaken on the way.
    pub reordered_segments: u64,
    /// The same packet captured again.
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
    pub const fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("retransmitted_segments", self.retransmitted_segments),
            ("retransmitted_bytes", self.retransmitted_bytes),
            ("reordered_segments", self.reordered_segments),
            ("duplicate_frames", self.duplicate_frames),
            ("rto", self.rto),
            ("fast", self.fast),
            ("tail_loss_probe", self.tail_loss_probe),
            ("spurious", self.spurious),
            ("lost_upstream", self.lost_upstream),
            ("lost_downstream", self.lost_downstream),
        ]
    }
}

/// The verdicts of one connection, by sender (0 lower, 1 upper), and what they are made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowVerdicts {
    counts: [Verdicts; 2],
    sides: [Side; 2],
}

impl FlowVerdicts {
    /// Takes a segment of `sender` into account, after the tracker has classified it.
    pub fn segment(&mut self, sender: u32, segment: &Segment) -> Verdict {
        let [lower_counts, upper_counts] = &mut self.counts;
        let [lower, upper] = &mut self.sides;
        let (own, peer, counts, peer_counts) = if sender & 1 == 0 {
            (lower, upper, lower_counts, upper_counts)
        } else {
            (upper, lower, upper_counts, lower_counts)
        };
        if segment.tcp_flags & SYN != 0 && segment.classes & REUSED_PORTS != 0 {
            *own = Side::default();
            if segment.tcp_flags & ACK == 0 {
                *peer = Side::default();
            }
        }
        own.copied_ns = own.copies.take(segment);
        if own.copied_ns.is_some() && segment.ip_id != 0 && own.identity.tells_copies() {
            counts.duplicate_frames += 1;
            return Verdict { bits: DUPLICATE_FRAME, segments: 1, bytes: segment.payload_len };
        }
        own.identity.take(segment.ip_id);
        if segment.tcp_flags & RST != 0 {
            return Verdict::default();
        }
        if segment.tcp_flags & ACK != 0
            && let Some(again) = own.acknowledge(peer, segment)
        {
            peer_counts.arrived_twice(&again);
        }
        own.is_shut = segment.window == 0;
        let verdict = own.send(peer, segment);
        counts.add(verdict);
        verdict
    }

    /// The verdicts on what each sent.
    #[must_use]
    pub const fn counts(&self) -> &[Verdicts; 2] {
        &self.counts
    }
}

impl Verdicts {
    const fn add(&mut self, verdict: Verdict) {
        let Verdict { bits, segments, bytes } = verdict;
        let segments = segments as u64;
        if bits & RETRANSMITTED != 0 {
            self.retransmitted_segments += segments;
            self.retransmitted_bytes += bytes as u64;
        }
        self.reordered_segments += if bits & REORDERED != 0 { segments } else { 0 };
        self.rto += if bits & RTO != 0 { segments } else { 0 };
        self.fast += if bits & FAST != 0 { segments } else { 0 };
        self.tail_loss_probe += if bits & TAIL_LOSS_PROBE != 0 { segments } else { 0 };
        self.spurious += if bits & SPURIOUS != 0 { segments } else { 0 };
        self.lost_upstream += if bits & LOST_UPSTREAM != 0 { segments } else { 0 };
        self.lost_downstream += if bits & LOST_DOWNSTREAM != 0 { segments } else { 0 };
    }

    /// Nothing was lost after all.
    fn arrived_twice(&mut self, again: &Again) {
        let segments = u64::from(again.segments);
        self.spurious += segments;
        match again.place {
            Place::Upstream => self.lost_upstream -= segments,
            Place::Downstream => self.lost_downstream -= segments,
            Place::Unknown => {}
        }
    }
}

/// What one endpoint sent and acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    copies: Copies,
    /// How long before the segment at hand the same one had passed.
    copied_ns: Option<u64>,
    identity: Identity,
    holes: Holes,
    again: SentAgain,
    /// One after the highest sequence number; none before the first.
    next: Option<u32>,
    /// When and by which packet that was reached.
    next_at: Ktime,
    newest: Stamp,
    /// When it last sent something that is to be acknowledged.
    sent_at: Ktime,
    /// The last segment that its timer sent again.
    timer: Option<Timer>,

    acknowledged: Option<u32>,
    /// Its last window was 0.
    is_shut: bool,
    /// When it last acknowledged something, or said that something is missing.
    told_at: Ktime,
    duplicates: u8,
    /// End of the highest block that it selectively acknowledged beyond what it acknowledged.
    selective_end: Option<u32>,
}

/// A segment that a timer sent again, and the least silence before that can happen once more.
#[derive(Clone, Copy, Debug)]
struct Timer {
    start: u32,
    silence_ns: i64,
}

/// Why a segment was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout,
    Fast,
    TailLossProbe,
    Unknown,
}

/// What a segment below the highest sequence number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Retransmitted,
    Reordered,
    Undecided,
}

impl Side {
    /// Takes an acknowledgment of what `peer` sent into account. Returns what it tells to have arrived twice.
    fn acknowledge(&mut self, peer: &mut Self, segment: &Segment) -> Option<Again> {
        let acknowledgment = segment.acknowledgment;
        let mut twice = None;
        let mut told_more = false;
        let [first, second, ..] = segment.selective;
        for [start, end] in segment.selective {
            if at_or_before(end, start) {
                continue;
            }
            // RFC 2883, 4: the first block, below what is acknowledged or within the second one.
            let is_within = |[from, to]: [u32; 2]| {
                before(from, to) && at_or_before(from, start) && at_or_before(end, to)
            };
            let tells_twice =
                [start, end] == first && (at_or_before(end, acknowledgment) || is_within(second));
            if tells_twice {
                twice = peer.again.arrived_twice(start, end);
            } else if after(start, acknowledgment) {
                told_more = true;
                if self.selective_end.is_none_or(|highest| after(end, highest)) {
                    self.selective_end = Some(end);
                }
            }
        }
        let Some(last) = self.acknowledged else {
            self.acknowledged = Some(acknowledgment);
            self.told_at = segment.now;
            return twice;
        };
        if after(acknowledgment, last) {
            self.acknowledged = Some(acknowledgment);
            self.told_at = segment.now;
            self.duplicates = 0;
            self.selective_end = self.selective_end.filter(|end| after(*end, acknowledgment));
        } else if acknowledgment == last
            && segment.payload_len == 0
            && segment.tcp_flags & (SYN | FIN) == 0
            && (segment.classes & DUPLICATE_ACK != 0 || told_more)
        {
            self.told_at = segment.now;
            self.duplicates = self.duplicates.saturating_add(1);
        }
        twice
    }

    /// Takes what a segment carries into account.
    fn send(&mut self, peer: &Self, segment: &Segment) -> Verdict {
        let mut verdict = Verdict::default();
        let control = u32::from(segment.tcp_flags & (SYN | FIN) != 0);
        let end = segment.sequence.wrapping_add(segment.payload_len).wrapping_add(control);
        if end == segment.sequence || is_probe(peer, segment, end) {
            return verdict;
        }
        let Some(next) = self.next else {
            if segment.tcp_flags & SYN == 0 {
                self.holes = Holes::unsure_before(segment.sequence);
            }
            self.advance(segment, end);
            return verdict;
        };
        // One byte before the next sequence number may have been a keep-alive's.
        let overlaps_probe = segment.payload_len > 1 && segment.sequence == next.wrapping_sub(1);
        if before(segment.sequence, next) && !overlaps_probe {
            verdict = self.late(peer, segment, end, next);
        } else if after(segment.sequence, next) {
            self.holes.open(next, segment.sequence, segment.now);
        }
        if after(end, next) {
            self.advance(segment, end);
        }
        self.sent_at = segment.now;
        verdict
    }

    fn advance(&mut self, segment: &Segment, end: u32) {
        self.next = Some(end);
        self.next_at = segment.now;
        self.newest = Stamp::of(segment);
        self.sent_at = segment.now;
    }

    /// Judges a segment that begins below the highest sequence number.
    fn late(&mut self, peer: &Self, segment: &Segment, end: u32, next: u32) -> Verdict {
        let old_end = if after(end, next) { next } else { end };
        let bytes = segment.payload_len.min(next.wrapping_sub(segment.sequence));
        let segments = bytes.div_ceil(segment.segment_size.max(1)).max(1);
        let segments = if segment.segment_size == 0 { 1 } else { segments };
        let coverage = self.holes.fill(segment.sequence, old_end);
        let bits = match self.judge(segment, coverage) {
            Late::Undecided => return Verdict::default(),
            Late::Reordered => REORDERED,
            Late::Retransmitted => {
                let cause = self.cause(peer, segment, end, next);
                let is_spurious = peer.acknowledged.is_some_and(|to| at_or_before(end, to));
                let place = match coverage {
                    _ if is_spurious => Place::Unknown,
                    Coverage::Missing(_) => Place::Upstream,
                    Coverage::Seen => Place::Downstream,
                    Coverage::Unsure => Place::Unknown,
                };
                let spurious = if is_spurious { SPURIOUS } else { 0 };
                if !is_spurious {
                    self.again.push(Again { start: segment.sequence, end, segments, place });
                }
                RETRANSMITTED | cause.bit() | place.bit() | spurious
            }
        };
        Verdict { bits, segments, bytes }
    }

    /// Retransmitted or reordered: by what the sender numbers its packets with, or else by what had passed here, and when.
    fn judge(&self, segment: &Segment, coverage: Coverage) -> Late {
        let handshake = segment.handshake();
        let least_ns = handshake.unwrap_or(OUT_OF_ORDER_NS);
        match (self.identity.age(Stamp::of(segment), self.newest), coverage) {
            (Age::Newer, _) => Late::Retransmitted,
            // Two copies of one range, and the second one is older than what followed: the network's doing, or both.
            (Age::Older, Coverage::Seen) => Late::Undecided,
            (Age::Older, Coverage::Missing(_) | Coverage::Unsure) => Late::Reordered,
            // Nobody sends again what cannot have been answered yet; but without identifications it may be.
            (Age::Unknown, Coverage::Seen) => match self.copied_ns {
                Some(elapsed_ns) if elapsed_ns < least_ns.unsigned_abs() => Late::Undecided,
                Some(_) | None => Late::Retransmitted,
            },
            (Age::Unknown, Coverage::Missing(opened)) => match segment.now.since(opened) {
                late_by if late_by >= least_ns => Late::Retransmitted,
                // Nobody can have asked for it, and been heard, in less than a round trip.
                0.. if handshake.is_some() => Late::Reordered,
                _ => Late::Undecided,
            },
            (Age::Unknown, Coverage::Unsure) => match segment.now.since(self.next_at) {
                late_by if late_by >= least_ns => Late::Retransmitted,
                _ => Late::Undecided,
            },
        }
    }

    /// Why it was sent again: what the receiver had said, or how long it had been silent.
    fn cause(&mut self, peer: &Self, segment: &Segment, end: u32, next: u32) -> Cause {
        let start = segment.sequence;
        let acknowledged = peer.acknowledged;
        let is_missed = peer.duplicates >= DUPLICATES_MIN
            && acknowledged.is_some_and(|to| at_or_before(start, to) && before(to, end));
        let was_asked_for = is_missed || peer.selective_end.is_some_and(|to| after(to, end));
        let silence_ns = segment.now.since(self.sent_at.max(peer.told_at));
        let last = i64::try_from(segment.round_trip_ns).unwrap_or(0).min(HANDSHAKE_MAX_NS);
        let round_trip = segment.handshake().map(|shaken| shaken.max(last));
        let is_tail = at_or_before(next, end);
        let before_it = self.timer.filter(|timer| timer.start == start);

        if !was_asked_for
            && is_tail
            && before_it.is_none()
            && let Some(round_trip) = round_trip
            && is_probe_delay(silence_ns, round_trip)
        {
            self.timer = Some(Timer { start, silence_ns: 0 });
            return Cause::TailLossProbe;
        }
        let least_ns = match round_trip {
            Some(round_trip) => TIMEOUT_MIN_NS.max(round_trip + round_trip / 4),
            None => TIMEOUT_UNKNOWN_NS,
        };
        let is_first_unacknowledged = acknowledged.is_none_or(|to| at_or_before(start, to));
        let has_doubled = before_it.is_none_or(|timer| silence_ns >= timer.silence_ns);
        if silence_ns >= least_ns
            && silence_ns <= TIMEOUT_MAX_NS
            && is_first_unacknowledged
            && has_doubled
        {
            // A probe may have had the place of the first time-out, and Linux repeats a SYN several times before it
            // doubles.
            let may_repeat = segment.tcp_flags & SYN != 0 || (before_it.is_none() && is_tail);
            let next_ns = if may_repeat { silence_ns / 4 * 3 } else { silence_ns / 2 * 3 };
            self.timer = Some(Timer { start, silence_ns: next_ns.min(TIMEOUT_CAPPED_NS) });
            return Cause::Timeout;
        }
        if was_asked_for { Cause::Fast } else { Cause::Unknown }
    }
}

impl Cause {
    const fn bit(self) -> u32 {
        match self {
            Self::Timeout => RTO,
            Self::Fast => FAST,
            Self::TailLossProbe => TAIL_LOSS_PROBE,
            Self::Unknown => 0,
        }
    }
}

impl Place {
    const fn bit(self) -> u32 {
        match self {
            Self::Upstream => LOST_UPSTREAM,
            Self::Downstream => LOST_DOWNSTREAM,
            Self::Unknown => 0,
        }
    }
}

impl Stamp {
    const fn of(segment: &Segment) -> Self {
        Self { ip_id: segment.ip_id, timestamp: segment.timestamp }
    }
}

/// Keep-alives and zero window probes say nothing about losses. One byte that an open window waits for is data,
/// though, also where a keep-alive would be.
fn is_probe(peer: &Side, segment: &Segment, end: u32) -> bool {
    let is_data = || !peer.is_shut && peer.acknowledged.is_some_and(|to| before(to, end));
    segment.classes & ZERO_WINDOW_PROBE != 0 || (segment.classes & KEEP_ALIVE != 0 && !is_data())
}

/// Whether a tail-loss probe is due after this silence: two round trips, and sooner than the time-out could be.
fn is_probe_delay(silence_ns: i64, round_trip_ns: i64) -> bool {
    silence_ns >= PROBE_MIN_NS.max(round_trip_ns / 4 * 7)
        && silence_ns <= round_trip_ns * 3 + PROBE_SLACK_NS
        && silence_ns < round_trip_ns + TIMEOUT_MIN_NS
}
