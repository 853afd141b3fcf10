//! One flow in user space: the kernel's entry seen by originator and responder, with what needs more than one look
//! at it: rates, and histograms beyond their 16 bits.

use std::{net::IpAddr, sync::Arc};

use datapath::{
    ConntrackState, FlowKey,
    embryonic::is_embryonic,
    layout::{ANSWERED, FlowEntry, HANDSHAKE_MEASURED, Half, RTT_BUCKETS},
    rtt::{RttTicks, bucket_bounds_ns},
    tcp::{classes::CLASSES, verdict::Verdicts},
};

use super::{
    FlowId,
    community_id::address,
    expiry::{Timeouts, last_seen_ns},
    view::PointName,
};
use crate::analysis::Samples;

/// Why a flow is no longer in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It closed: FIN from both sides, or RST.
    Closed,
    /// Nothing was seen of it for its protocol's idle time.
    Idle,
    /// Rules have changed, and say not to track it.
    Ignored,
    /// Its interface has gone, or is not watched any more.
    InterfaceRemoved,
    /// The table needed the room.
    Evicted,
}

/// One flow instance.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// Its name.
    pub id: FlowId,
    /// Its key.
    pub key: FlowKey,
    /// Its Community ID v1.
    pub community_id: Box<str>,
    /// Where it was seen, once the observation point may be another interface's.
    pub place: Option<Arc<PointName>>,
    /// Kind ([`datapath::parse::tunnel`]) and id of the encapsulation that it came in; kind 0 for none.
    pub tunnel: (u8, u32),
    /// The flow that carries it, as far as it is known.
    pub parent: Option<FlowId>,
    /// ICMP errors that quoted its packets, and type and code of the last one.
    pub icmp_errors: (u64, [u8; 2]),
    /// Connection state.
    pub state: ConntrackState,
    /// It has not, or not yet, proved to be more than an attempt.
    pub embryonic: bool,
    /// Whether the originator is the key's upper endpoint.
    pub upper_originated: bool,
    /// First packet, in the source's time, ns.
    pub first_seen_ns: u64,
    /// Last packet, ns.
    pub last_seen_ns: u64,
    /// How long after its last packet it ends, ns.
    pub timeout_ns: u64,
    /// SYN to the ACK that completes the handshake, ns.
    pub handshake_rtt_ns: Option<u64>,
    /// SYN to its first answer, ns.
    pub answered_ns: Option<u64>,
    /// A packet was counted but not analyzed: later classes can be off.
    pub contended: bool,
    /// Why and when (source's time, ns) it left the kernel's table.
    pub ended: Option<(Ended, u64)>,
    /// What the originator sent.
    pub from_originator: HalfRecord,
    /// What the responder sent.
    pub from_responder: HalfRecord,
}

/// What one side sent.
#[derive(Clone, Debug, Default)]
pub struct HalfRecord {
    /// Wire packets.
    pub packets: u64,
    /// Frames as the hook saw them.
    pub skbs: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
    /// Bytes of transport payload.
    pub payload_bytes: u64,
    /// Round trips of data that this side sent.
    pub rtt: RttSummary,
    /// Segments by class, in the order of [`datapath::tcp::classes::NAMES`].
    pub classes: [u32; CLASSES],
    /// linnet's own verdicts on them; of TCP alone.
    pub verdicts: Option<Verdicts>,
    /// Wire packets per second over the last sweep interval.
    pub packets_per_second: f64,
    /// Bits per second over the last sweep interval.
    pub bits_per_second: f64,
}

/// Round trips of one direction's data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RttSummary {
    /// Number of samples.
    pub samples: u64,
    /// Smallest, ns.
    pub min_ns: u64,
    /// Greatest, ns.
    pub max_ns: u64,
    /// Median, 95th and 99th percentile, ns.
    pub quantiles_ns: [u64; 3],
    /// A quantile's true value lies within this factor of it: 1 exact, 2 from octaves.
    pub error_factor: f64,
    /// Samples by octave ([`bucket_bounds_ns`]).
    pub buckets: [u64; RTT_BUCKETS],
}

/// The quantiles of every summary.
pub const QUANTILES: [f64; 3] = [0.50, 0.95, 0.99];

impl RttSummary {
    /// From every sample there was.
    #[must_use]
    pub fn exact(samples: &[RttTicks]) -> Self {
        let mut all = Samples::default();
        samples.iter().for_each(|sample| all.add(sample.as_ns()));
        Self::of(&all)
    }

    /// From a distribution.
    #[must_use]
    pub fn of(samples: &Samples) -> Self {
        Self {
            samples: samples.count(),
            min_ns: samples.min_ns().unwrap_or_default(),
            max_ns: samples.max_ns().unwrap_or_default(),
            quantiles_ns: samples.quantiles_ns(QUANTILES).unwrap_or_default(),
            error_factor: samples.error_factor(),
            buckets: *samples.buckets(),
        }
    }

    /// Adds what the entry's histogram gained since `before`, its bytes at the sweep before.
    fn advance(&mut self, before: Option<&Half>, now: &Half) {
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            let old = before.map_or(0, |half| half.rtt_buckets[index]);
            *bucket += u64::from(now.rtt_buckets[index].wrapping_sub(old));
        }
        self.samples = self.buckets.iter().sum();
        self.min_ns = RttTicks(now.rtt_min_ticks).as_ns();
        self.max_ns = RttTicks(now.rtt_max_ticks).as_ns();
        self.quantiles_ns = QUANTILES.map(|q| self.interpolate(q));
        self.error_factor = 2.0;
    }

    /// A quantile from the octaves, interpolated inside its octave and held between minimum and maximum.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the result is held between two u64 bounds"
    )]
    fn interpolate(&self, q: f64) -> u64 {
        if self.samples == 0 {
            return 0;
        }
        let rank = rank(q, self.samples);
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            if below + count >= rank {
                let (from, to) = bucket_bounds_ns(index);
                let (from, to) = (from.max(self.min_ns), to.min(self.max_ns));
                let share = (rank - below) as f64 / *count as f64;
                let value = from as f64 + to.saturating_sub(from) as f64 * share;
                return (value as u64).clamp(self.min_ns, self.max_ns);
            }
            below += count;
        }
        self.max_ns
    }
}

/// Quantiles of values by the nearest rank; none of none.
#[must_use]
pub fn quantiles<const N: usize>(values: &[u64], of: [f64; N]) -> Option<[u64; N]> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |q| {
        let index = usize::try_from(rank(q, sorted.len() as u64)).map_or(0, |rank| rank - 1);
        sorted[index]
    };
    (!sorted.is_empty()).then(|| of.map(at))
}

/// The rank, from 1, of a quantile among `count` samples (nearest rank).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is a count"
)]
pub(crate) fn rank(q: f64, count: u64) -> u64 {
    ((q * count as f64).ceil() as u64).clamp(1, count)
}

/// What a record is made of: the entry now, the entry at the sweep before, and exact samples where there are any.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The entry's bytes now.
    pub entry: &'a FlowEntry,
    /// The entry's bytes at the last look, and how long ago that was, ns.
    pub before: Option<(&'a FlowEntry, u64)>,
    /// Exact samples by acknowledging endpoint, offline.
    pub samples: Option<&'a [Vec<RttTicks>; 2]>,
    /// When flows end.
    pub timeouts: &'a Timeouts,
}

impl FlowRecord {
    /// A record that has seen nothing.
    #[must_use]
    pub fn new(id: FlowId, key: FlowKey, community_id: String) -> Self {
        Self {
            id,
            key,
            community_id: community_id.into_boxed_str(),
            place: None,
            tunnel: (0, 0),
            icmp_errors: (0, [0; 2]),
            parent: None,
            state: ConntrackState::None,
            embryonic: false,
            upper_originated: false,
            first_seen_ns: 0,
            last_seen_ns: 0,
            timeout_ns: 0,
            handshake_rtt_ns: None,
            answered_ns: None,
            contended: false,
            ended: None,
            from_originator: HalfRecord::default(),
            from_responder: HalfRecord::default(),
        }
    }

    /// What belongs to the lower and to the upper endpoint, as that of the originator and of the responder.
    #[must_use]
    pub fn by_role<T>(&self, [lower, upper]: [T; 2]) -> [T; 2] {
        if self.upper_originated { [upper, lower] } else { [lower, upper] }
    }

    /// Address and port of the originator and of the responder.
    #[must_use]
    pub fn ends(&self) -> [(IpAddr, u16); 2] {
        let key = &self.key;
        let ends = [(key.lower, key.lower_port), (key.upper, key.upper_port)];
        self.by_role(ends).map(|(end, port)| (address(key, end), u16::from_be(port)))
    }

    /// Whether the key's ports are those of a transport.
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        const SCTP: u8 = 132;
        matches!(self.key.protocol, TCP | UDP | SCTP)
    }

    /// Nothing more comes.
    pub(super) const fn stand_still(&mut self) {
        self.from_originator.packets_per_second = 0.0;
        self.from_originator.bits_per_second = 0.0;
        self.from_responder.packets_per_second = 0.0;
        self.from_responder.bits_per_second = 0.0;
    }

    /// Brings the record up to the entry.
    pub fn observe(&mut self, observation: Observation<'_>) {
        let entry = observation.entry;
        let head = &entry.head;
        let upper_originated = head.originator == 1;
        if upper_originated != self.upper_originated {
            // A late SYN showed who opened the flow: what was told of the two sides changes places.
            std::mem::swap(&mut self.from_originator, &mut self.from_responder);
            self.upper_originated = upper_originated;
        }
        self.state = ConntrackState::from_u8(head.state).unwrap_or(ConntrackState::None);
        self.first_seen_ns = head.first_seen_ns;
        self.last_seen_ns = last_seen_ns(entry);
        self.timeout_ns = observation.timeouts.timeout_ns(&self.key, entry);
        self.handshake_rtt_ns =
            (head.bits & HANDSHAKE_MEASURED != 0).then_some(head.handshake_rtt_ns);
        self.answered_ns = (head.bits & ANSWERED != 0).then_some(entry.answered_ns);
        self.tunnel = (entry.encapsulation.kind, entry.encapsulation.id);
        let [.., kind, code] = entry.icmp.last.to_be_bytes();
        self.icmp_errors = (entry.icmp.count, [kind, code]);
        self.contended = head.contended != 0;
        self.embryonic = is_embryonic(entry);
        let originator = usize::from(head.originator & 1);
        self.from_originator.observe(observation, originator);
        self.from_responder.observe(observation, originator ^ 1);
    }
}

impl HalfRecord {
    /// `endpoint` is the sender. Its data's round trips lie in the half of the one who acknowledges.
    fn observe(&mut self, observation: Observation<'_>, endpoint: usize) {
        let half = &observation.entry.halves[endpoint];
        let acknowledger = &observation.entry.halves[endpoint ^ 1];
        self.verdicts = Some(observation.entry.verdicts[endpoint].into());
        if let Some((before, elapsed_ns)) = observation.before
            && elapsed_ns > 0
        {
            let before = &before.halves[endpoint];
            let seconds = elapsed_ns as f64 / 1e9;
            let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.packets_per_second = per_second(half.packets, before.packets);
            self.bits_per_second = per_second(half.bytes, before.bytes) * 8.0;
        }
        self.packets = half.packets;
        self.skbs = half.skbs;
        self.bytes = half.bytes;
        self.payload_bytes = half.payload_bytes;
        self.classes = half.classes;
        match observation.samples {
            Some(samples) => self.rtt = RttSummary::exact(&samples[endpoint ^ 1]),
            None => {
                let before = observation.before.map(|(entry, _)| &entry.halves[endpoint ^ 1]);
                self.rtt.advance(before, acknowledger);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_quantiles_are_the_nearest_rank() {
        let samples: Vec<_> = (1..=100).map(RttTicks).collect();
        let rtt = RttSummary::exact(&samples);
        assert_eq!(rtt.quantiles_ns, [50, 95, 99].map(|ticks| ticks * 64));
        assert_eq!((rtt.min_ns, rtt.max_ns), (64, 6_400));
    }

    #[test]
    fn quantiles_from_octaves_keep_their_bound() {
        let mut half = FlowEntry::EMPTY.halves[0];
        let samples: Vec<_> = (0..1_000).map(|n| RttTicks(300_000 + n * 400)).collect();
        for sample in &samples {
            half.rtt_buckets[datapath::rtt::bucket(*sample)] += 1;
        }
        half.rtt_min_ticks = samples[0].0;
        half.rtt_max_ticks = samples[999].0;
        let mut rough = RttSummary::default();
        rough.advance(None, &half);
        let exact = RttSummary::exact(&samples);
        for (rough, exact) in rough.quantiles_ns.iter().zip(exact.quantiles_ns) {
            let factor = (*rough as f64 / exact as f64).max(exact as f64 / *rough as f64);
            assert!(factor <= 2.0, "{rough} against {exact}");
        }
    }

    #[test]
    fn wrapped_buckets_count_on() {
        let mut before = FlowEntry::EMPTY.halves[0];
        before.rtt_buckets[5] = u16::MAX;
        let mut now = before;
        now.rtt_buckets[5] = 9;
        let mut rtt = RttSummary::default();
        rtt.advance(None, &before);
        rtt.advance(Some(&before), &now);
        assert_eq!(rtt.samples, u64::from(u16::MAX) + 10);
    }
}
