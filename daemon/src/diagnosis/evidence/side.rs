//! What one endpoint of a TCP connection sent, as far as diagnoses need more than counters. Fixed in size; never keeps a
//! list of segments.

use datapath::{
    Ktime,
    parse::tcp::{ACK, FIN, OPTION_SACK, OPTION_SACK_PERMITTED, OPTION_TIMESTAMPS, RST, SYN},
    replay::{Classified, Noted},
    rtt::RttTicks,
    tcp::{
        after, at_or_before, before,
        classes::{KEEP_ALIVE, SPURIOUS_RETRANSMISSION, ZERO_WINDOW_PROBE},
        verdict::{
            DUPLICATE_FRAME, LOST_DOWNSTREAM, LOST_UPSTREAM, REORDERED, RETRANSMITTED, RTO,
            SPURIOUS, TAIL_LOSS_PROBE,
        },
    },
};

mod innocent;

use super::{
    Holes, LARGE_MIN, Loaded, Responses, Sizes, Tally,
    again::{self, Again, Pending},
};

/// Flags of ECN (RFC 3168, 6.1).
const ECE: u32 = 0x40;
const CWR: u32 = 0x80;
/// Packets with another number of hops left that make it a new path.
const HOPS_SETTLED_MIN: u32 = 8;
/// Time after which a SYN is sent again at the soonest; what comes earlier is a copy.
const RESENT_AFTER_NS: u64 = 100_000_000;
/// Frames that a copy is looked for in.
const COPIES_MAX: usize = 8;

/// Options of a SYN, or of the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Greatest segment that it takes.
    pub segment_max: Option<u16>,
    /// Shift of its windows.
    pub window_scale: Option<u32>,
    /// It sends timestamps.
    pub timestamps: bool,
    /// It takes selective acknowledgments.
    pub selective: bool,
    /// It asks for ECN (a SYN), or agrees to it (the answer).
    pub ecn: bool,
}

/// Hops left of a run of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// Hops left in each of them.
    pub value: u8,
    /// How many there were.
    pub packets: u32,
    /// Least round trip from here to their sender and back meanwhile, ns.
    pub round_trip_ns: Option<u64>,
    /// Round trips meanwhile.
    pub round_trips: u32,
    /// When it began.
    pub since_ns: u64,
}

/// What one endpoint sent.
#[derive(Clone, Debug, Default)]
pub struct SideEvidence {
    /// SYNs without ACK; not those so soon after another one that no timer sent them.
    pub syns: Tally,
    /// Answers to SYNs.
    pub syn_acks: Tally,
    /// All packets with SYN.
    pub syn_packets: u32,
    /// Options of the last of both.
    pub offered: Option<Offered>,
    /// Sequence number of the first of both.
    pub first_sequence: u32,
    /// Packets that are neither copies nor resets.
    pub packets: u32,
    /// Segments with payload, that are no copies.
    pub data: Tally,
    /// Of these, those with timestamps.
    pub data_with_timestamps: u32,
    /// Of these, sent for the first time, by ECN field: not capable, capable (1), capable (0), congestion experienced.
    pub data_by_ecn: [u32; 4],
    /// Packets of any kind that experienced congestion.
    pub congested: Tally,
    /// Segments that echo it.
    pub echoes: Tally,
    /// Segments with blocks of a selective acknowledgment.
    pub selective: Tally,
    /// Acknowledgments of more than the one before.
    pub advances: u32,
    /// What sizes pass.
    pub sizes: Sizes,
    /// What has not passed here.
    pub holes: Holes,
    /// Of the verdicts, with payload: sent again.
    pub retransmitted: Tally,
    /// Without payload (a SYN, an answer to one, or a FIN): those that were called lost upstream, and downstream.
    pub control_lost: [u32; 2],
    /// And those that were called spurious.
    pub control_spurious: u32,
    /// Wire packets that were called lost upstream, and downstream, and are not the network's loss: they had arrived, or
    /// their receiver had no place for them.
    pub excused: [u32; 2],
    /// Of the spurious ones, those that Wireshark calls so too.
    pub spurious_in_class: u32,
    /// Lost between sender and here.
    pub lost_upstream: Tally,
    /// Lost between here and the receiver.
    pub lost_downstream: Tally,
    /// Sent again by a timer, with payload.
    pub timeouts: Tally,
    /// What passed in silence before those, ns.
    pub timeouts_silence_ns: u64,
    /// Of the time-outs, those of the last segment.
    pub tail_timeouts: Tally,
    /// What passed in silence before those, ns.
    pub tail_silence_ns: u64,
    /// Where the last of them began.
    pub tail_sequence: u32,
    /// Tail loss probes.
    pub probes: Tally,
    /// Sent again without need.
    pub spurious: Tally,
    /// Overtaken.
    pub reordered: Tally,
    /// The longest time by which one was late, ns.
    pub reordered_by_ns: u64,
    /// Copies of frames.
    pub copies: Tally,
    /// Copies with fewer hops left, and the greatest number of times that those of one packet fell.
    pub copies_hops: (u32, u32),
    /// Identifications of the first of them, each once.
    pub copies_ids: [u16; 4],
    /// Hops left: before the path changed, and since.
    pub hops_before: Option<Hops>,
    /// Hops left.
    pub hops: Hops,
    hops_next: Hops,
    /// Under load.
    pub loaded: Option<Box<Loaded>>,
    /// Round trips of its data, without the handshake's.
    pub data_round_trips: u32,
    /// Segments with payload that were lost downstream since the receiver last acknowledged anything.
    pub lost_since_progress: u32,
    /// ICMP errors that said that packets are too big, and the least MTU that they told.
    pub too_big: Tally,
    /// That MTU.
    pub mtu: Option<u32>,
    /// Packets beyond the MTU, a while after it was told.
    pub beyond_mtu: Tally,
    /// Largest packet, bytes of IP.
    pub largest_packet: u32,
    /// How long it took to answer the other one.
    pub responses: Option<Box<Responses>>,
    /// Periods in which it took nothing, and how long they were together, and the longest, ns.
    pub shut: Tally,
    /// All of them.
    pub shut_ns: u64,
    /// The longest.
    pub shut_longest_ns: u64,
    /// Most bytes that were in flight when something was acknowledged.
    pub in_flight_max: u32,
    /// ICMP errors that said that the destination cannot be reached, and type and code of the last one.
    pub unreachable: (Tally, [u8; 2]),

    /// When the last one ended, as far as its packets told.
    pub shut_end_ns: u64,
    shut_since_ns: Option<u64>,
    /// Bytes that it had no place for, or that a router may have told to have dropped.
    refused: Option<[u32; 2]>,
    /// What it acknowledged last, and the window in that header.
    window: Option<(u32, u32)>,
    again: Again,
    shut_told_ns: u64,
    /// When it first acknowledged anything without a SYN.
    pub first_ack_ns: Option<u64>,
    pub(super) last_id: Option<u16>,
    next: Option<u32>,
    next_ns: u64,
    last_start: u32,
    sent_ns: u64,
    acknowledged: Option<u32>,
    told_ns: u64,
    /// Identification and hops left of the last packets, and how often the latter fell.
    recent: [Option<(u16, u8, u32)>; COPIES_MAX],
    recent_at: usize,
    least_round_trip_ns: u64,
}

/// Time that a sender has to take an ICMP error into account.
const OBEDIENCE_NS: u64 = 1_000_000_000;

impl SideEvidence {
    /// Takes a segment into account that this endpoint sent to `peer`.
    pub(super) fn segment(&mut self, peer: &mut Self, classified: &Classified) {
        let segment = &classified.segment;
        let now_ns = segment.now.0;
        if classified.verdict.bits & DUPLICATE_FRAME != 0 {
            self.copy(classified);
            return;
        }
        self.recent[self.recent_at % COPIES_MAX] = Some((segment.ip_id, classified.hops, 0));
        self.recent_at = self.recent_at.wrapping_add(1);
        if segment.tcp_flags & RST != 0 {
            return;
        }
        self.packets = self.packets.saturating_add(1);
        self.last_id = Some(segment.ip_id);
        self.pass(classified);
        self.marks(classified);
        self.window(peer, classified);
        self.connection(classified);
        peer.sizes.receiver_spoke();
        if segment.tcp_flags & ACK != 0 {
            if segment.tcp_flags & SYN == 0 {
                self.first_ack_ns.get_or_insert(now_ns);
            }
            self.acknowledge(peer, classified);
        }
        self.send(peer, classified);
        self.told_ns = if segment.tcp_flags & ACK != 0 { now_ns } else { self.told_ns };
    }

    /// The greatest segment that it takes.
    fn segment_max(&self) -> u32 {
        const USUAL: u32 = 1_460;
        self.offered.and_then(|offered| offered.segment_max).map_or(USUAL, u32::from)
    }

    /// First and last time at which its window was shut.
    #[must_use]
    pub fn shut_span(&self) -> Option<(u64, u64)> {
        let (first_ns, last_ns) = self.shut.span()?;
        Some((first_ns, last_ns.max(self.shut_end_ns)))
    }

    /// Whether it acknowledged everything up to `end`.
    #[must_use]
    pub fn has_acknowledged(&self, end: u32) -> bool {
        self.acknowledged.is_some_and(|to| at_or_before(end, to))
    }

    /// Whether something that it sent was never acknowledged.
    #[must_use]
    pub fn is_waiting(&self, peer: &Self) -> bool {
        (self.next.is_some() && peer.acknowledged.is_none()) || self.in_flight(peer) > 0
    }

    /// Bytes that this endpoint sent and `peer` has not acknowledged.
    pub(super) fn in_flight(&self, peer: &Self) -> u32 {
        match (self.next, peer.acknowledged) {
            (Some(next), Some(last)) if after(next, last) => next.wrapping_sub(last),
            _ => 0,
        }
    }

    /// An ICMP error about a packet that this endpoint sent.
    pub(super) fn error(&mut self, peer: &mut Self, noted: &Noted) {
        // ICMP and ICMPv6; neither has the other's type for an error.
        let is_too_big = matches!(noted.kind, [3, 4] | [2, _]);
        let Noted { kind, mtu, now: Ktime(now_ns), .. } = *noted;
        if let (Some(next), Some(acknowledged)) = (self.next, peer.acknowledged)
            && after(next, acknowledged)
        {
            peer.refuse(acknowledged, next);
        }
        if is_too_big {
            self.too_big.add(now_ns);
            if mtu > 0 {
                self.mtu = Some(self.mtu.map_or(mtu, |least| least.min(mtu)));
            }
        } else {
            self.unreachable.0.add(now_ns);
            self.unreachable.1 = kind;
        }
    }

    fn copy(&mut self, classified: &Classified) {
        let id = classified.segment.ip_id;
        if !self.copies_ids.contains(&id)
            && let Some(place) = self.copies_ids.iter_mut().find(|place| **place == 0)
        {
            *place = id;
        }
        self.copies.add(classified.segment.now.0);
        let is_it = |recent: &&mut (u16, u8, u32)| recent.0 == id;
        if let Some((_, hops, falls)) = self.recent.iter_mut().flatten().find(is_it)
            && *hops > classified.hops
        {
            *hops = classified.hops;
            *falls += 1;
            self.copies_hops.0 += 1;
            self.copies_hops.1 = self.copies_hops.1.max(*falls);
        }
    }

    fn pass(&mut self, classified: &Classified) {
        let value = classified.hops;
        if self.hops.packets == 0 {
            self.hops = Hops { value, since_ns: classified.segment.now.0, ..Hops::default() };
        }
        if value == self.hops.value {
            self.hops.packets = self.hops.packets.saturating_add(1);
            self.hops_next = Hops::default();
            return;
        }
        if value != self.hops_next.value || self.hops_next.packets == 0 {
            let since_ns = classified.segment.now.0;
            self.hops_next = Hops { value, since_ns, ..Hops::default() };
        }
        self.hops_next.packets += 1;
        if self.hops_next.packets >= HOPS_SETTLED_MIN {
            self.hops_before = Some(self.hops);
            self.hops = self.hops_next;
            self.hops_next = Hops::default();
        }
    }

    fn window(&mut self, peer: &Self, classified: &Classified) {
        let segment = &classified.segment;
        if segment.tcp_flags & (SYN | FIN) != 0 {
            return;
        }
        let now_ns = segment.now.0;
        let to = segment.acknowledgment;
        if self.acknowledged.is_none_or(|last| !before(to, last)) {
            self.window = Some((to, segment.window));
            if segment.window == 0
                && let Some(next) = peer.next
                && after(next, to)
            {
                self.refuse(to, next);
            }
        }
        match self.shut_since_ns {
            None if segment.window == 0 => {
                self.shut_since_ns = Some(now_ns);
                self.shut.add(now_ns);
            }
            Some(since_ns) => {
                // Each of its packets tells how long it has been.
                let elapsed_ns = now_ns.saturating_sub(since_ns.max(self.shut_told_ns));
                self.shut_ns += elapsed_ns;
                self.shut_told_ns = now_ns;
                self.shut_longest_ns = self.shut_longest_ns.max(now_ns.saturating_sub(since_ns));
                self.shut_end_ns = now_ns;
                if segment.window != 0 {
                    self.shut_since_ns = None;
                }
            }
            None => {}
        }
    }

    fn marks(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        let field = usize::from(classified.traffic_class & 3);
        if field == 3 {
            self.congested.add(segment.now.0);
        }
        let is_first = classified.verdict.bits & RETRANSMITTED == 0;
        if segment.payload_len > 0 && is_first && segment.classes & ZERO_WINDOW_PROBE == 0 {
            self.data_by_ecn[field] = self.data_by_ecn[field].saturating_add(1);
        }
        if segment.tcp_flags & (SYN | ECE) == ECE {
            self.echoes.add(segment.now.0);
        }
    }

    fn connection(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        if segment.tcp_flags & SYN == 0 {
            return;
        }
        let is_answer = segment.tcp_flags & ACK != 0;
        self.syn_packets = self.syn_packets.saturating_add(1);
        if self.offered.is_none() {
            self.first_sequence = segment.sequence;
        }
        let tally = if is_answer { &mut self.syn_acks } else { &mut self.syns };
        let is_resent = tally
            .span()
            .is_none_or(|(_, last_ns)| segment.now.0.saturating_sub(last_ns) >= RESENT_AFTER_NS);
        if is_resent {
            tally.add(segment.now.0);
        }
        self.offered = Some(Offered {
            segment_max: classified.segment_max,
            window_scale: classified.window_scale_plus_one.checked_sub(1),
            timestamps: classified.options & OPTION_TIMESTAMPS != 0,
            selective: classified.options & OPTION_SACK_PERMITTED != 0,
            // RFC 3168, 6.1.1: both in the SYN, and ECE alone in the answer.
            ecn: segment.tcp_flags & (ECE | CWR) == if is_answer { ECE } else { ECE | CWR },
        });
    }

    /// What this endpoint tells of what `peer` sent.
    fn acknowledge(&mut self, peer: &mut Self, classified: &Classified) {
        let segment = &classified.segment;
        let to = segment.acknowledgment;
        if classified.options & OPTION_SACK != 0 {
            self.selective.add(segment.now.0);
            if let Some(block) = again::twice(&segment.selective, to) {
                peer.arrived_twice(block);
            }
        }
        let in_flight = peer.in_flight(self);
        peer.in_flight_max = peer.in_flight_max.max(in_flight);
        if let Some(round_trip) = classified.round_trip {
            if peer.offered.is_none() || to != peer.first_sequence.wrapping_add(1) {
                peer.data_round_trips = peer.data_round_trips.saturating_add(1);
            }
            peer.round_trip(round_trip, in_flight, segment.now.0);
            // From here to this endpoint and back: the way that its packets' hops are of.
            let elapsed_ns = round_trip.as_ns();
            let least = self.hops.round_trip_ns.map_or(elapsed_ns, |least| least.min(elapsed_ns));
            self.hops.round_trip_ns = Some(least);
            self.hops.round_trips = self.hops.round_trips.saturating_add(1);
        }
        let Some(last) = self.acknowledged else {
            self.acknowledged = Some(to);
            peer.acknowledged_up_to(to);
            return;
        };
        if after(to, last) {
            self.acknowledged = Some(to);
            self.advances = self.advances.saturating_add(1);
            let echo = segment.timestamp.map(|_| classified.timestamp_echo);
            peer.needless(to, segment.now.0, echo);
            peer.acknowledged_up_to(to);
        }
    }

    fn acknowledged_up_to(&mut self, to: u32) {
        self.lost_since_progress = 0;
        self.holes.acknowledged(to);
        self.sizes.acknowledged(to);
    }

    /// A round trip of this endpoint's data.
    fn round_trip(&mut self, round_trip: RttTicks, in_flight: u32, now_ns: u64) {
        let elapsed_ns = round_trip.as_ns();
        if self.least_round_trip_ns == 0 || elapsed_ns < self.least_round_trip_ns {
            self.least_round_trip_ns = elapsed_ns;
        }
        if in_flight < 2 * LARGE_MIN {
            return;
        }
        let least_ns = self.least_round_trip_ns;
        self.loaded.get_or_insert_default().add(round_trip, least_ns, in_flight, now_ns);
    }

    fn send(&mut self, peer: &mut Self, classified: &Classified) {
        let segment = &classified.segment;
        let now_ns = segment.now.0;
        let control = u32::from(segment.tcp_flags & (SYN | FIN) != 0);
        let end = segment.sequence.wrapping_add(segment.payload_len).wrapping_add(control);
        let packet_len = classified.headers_len + segment.payload_len;
        self.largest_packet = self.largest_packet.max(packet_len);
        if let (Some(mtu), Some((told_ns, _))) = (self.mtu, self.too_big.span())
            && packet_len > mtu
            && segment.payload_len > 0
            // More is a super-packet of segmentation offload.
            && segment.payload_len <= peer.segment_max()
            && now_ns > told_ns.saturating_add(OBEDIENCE_NS)
        {
            self.beyond_mtu.add(now_ns);
        }
        let is_probe = segment.classes & (KEEP_ALIVE | ZERO_WINDOW_PROBE) != 0;
        if segment.payload_len > 0 {
            self.data.add(now_ns);
            let has_timestamps = segment.timestamp.is_some();
            self.data_with_timestamps += u32::from(has_timestamps);
        }
        self.verdict(peer, classified, end);
        if segment.payload_len > 0 && !is_probe {
            self.sizes.sent(classified, end, packet_len);
        }
        if segment.payload_len > 0 && classified.verdict.bits & RETRANSMITTED == 0 {
            let is_beyond = peer.right_edge(self).is_some_and(|edge| after(end, edge));
            if is_beyond || peer.shut_since_ns.is_some() {
                peer.refuse(segment.sequence, end);
            }
        }
        if end != segment.sequence && !is_probe {
            if let Some(next) = self.next {
                self.holes.sent(segment.sequence, end, next, now_ns);
            }
            if self.next.is_none_or(|next| after(end, next)) {
                self.next = Some(end);
                self.next_ns = now_ns;
                self.last_start = segment.sequence;
            }
            self.sent_ns = now_ns;
        }
    }

    fn verdict(&mut self, peer: &Self, classified: &Classified, end: u32) {
        let (segment, bits) = (&classified.segment, classified.verdict.bits);
        let now_ns = segment.now.0;
        if bits & REORDERED != 0 {
            self.reordered.add(now_ns);
            let opened_ns = self.holes.opened_ns(segment.sequence, end).unwrap_or(self.next_ns);
            self.reordered_by_ns = self.reordered_by_ns.max(now_ns.saturating_sub(opened_ns));
        }
        if bits & RETRANSMITTED == 0 {
            return;
        }
        if segment.payload_len == 0 {
            self.control_lost[0] += u32::from(bits & LOST_UPSTREAM != 0);
            self.control_lost[1] += u32::from(bits & LOST_DOWNSTREAM != 0);
            self.control_spurious += u32::from(bits & SPURIOUS != 0);
            return;
        }
        self.retransmitted.add(now_ns);
        let is_in_class = segment.classes & SPURIOUS_RETRANSMISSION != 0;
        self.spurious_in_class += u32::from(bits & SPURIOUS != 0 && is_in_class);
        let is_refused = peer.has_refused(segment.sequence, end);
        if is_refused && bits & LOST_DOWNSTREAM != 0 {
            self.excused[1] = self.excused[1].saturating_add(classified.verdict.segments);
        } else {
            self.lost_since_progress += u32::from(bits & LOST_DOWNSTREAM != 0);
        }
        let mut pending = Pending {
            start: segment.sequence,
            end,
            sent_ns: now_ns,
            timestamp: segment.timestamp,
            segments: classified.verdict.segments,
            lost: [LOST_UPSTREAM, LOST_DOWNSTREAM].map(|bit| bits & bit != 0),
            is_excused: is_refused && bits & LOST_DOWNSTREAM != 0,
            timeout_ns: None,
            is_tail: false,
            is_open: true,
        };
        let tallies = [
            (LOST_UPSTREAM, &mut self.lost_upstream),
            (LOST_DOWNSTREAM, &mut self.lost_downstream),
            (SPURIOUS, &mut self.spurious),
            (TAIL_LOSS_PROBE, &mut self.probes),
        ];
        for (bit, tally) in tallies {
            if bits & bit != 0 {
                tally.add(now_ns);
            }
        }
        if bits & RTO != 0 && bits & SPURIOUS == 0 && !is_refused {
            let silence_ns = now_ns.saturating_sub(self.sent_ns.max(peer.told_ns));
            self.timeouts.add(now_ns);
            self.timeouts_silence_ns = self.timeouts_silence_ns.saturating_add(silence_ns);
            pending.timeout_ns = Some(silence_ns);
            let is_last =
                |next| at_or_before(next, end) && !before(segment.sequence, self.last_start);
            if self.next.is_some_and(is_last) {
                pending.is_tail = true;
                self.tail_sequence = segment.sequence;
                self.tail_timeouts.add(now_ns);
                self.tail_silence_ns = self.tail_silence_ns.saturating_add(silence_ns);
            }
        }
        if bits & SPURIOUS == 0 {
            self.again.push(pending);
        }
    }
}
