//! A flow as JSON, with the same names in `linnet analyze --json` and in the API. Renders; computes nothing.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use datapath::{
    Outcome,
    layout::HookCounters,
    parse::tunnel,
    tcp::{classes, verdict::Verdicts},
};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{FlowId, FlowRecord, HalfRecord, RttSummary, community_id::icmp_types, record::Ended};
use crate::analysis::{
    Connection,
    spin::Spin,
    view::{HandshakeView, SideView, SpinView},
};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Turns the source's time into wall time, and observation points into names.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// Wall time minus the source's time, ns; 0 offline.
    pub wall_offset_ns: i64,
    /// What is known of each observation point.
    pub points: BTreeMap<u32, PointName>,
}

/// What a flow row says of its observation point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PointName {
    /// Interface, with its namespace in front where it is not the daemon's.
    pub interface: String,
    /// The hooks that feed the row.
    pub hook: HookNames,
}

/// Which hook owns each direction; absent where none does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HookNames {
    /// `xdp`, `xdp-generic`, `tcx`, `clsact`.
    pub ingress: Option<String>,
    /// `tcx`, `clsact`.
    pub egress: Option<String>,
}

/// One flow.
#[derive(Clone, Debug, Serialize)]
pub struct FlowView {
    id: FlowId,
    community_id: Box<str>,
    protocol: Cow<'static, str>,
    originator: EndpointView,
    responder: EndpointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<IcmpView>,
    vlan: Option<u16>,
    tunnel: Option<TunnelView>,
    parent: Option<FlowId>,
    icmp_errors: Option<IcmpErrorsView>,
    state: &'static str,
    timeout_ns: u64,
    embryonic: bool,
    ended: Option<Ended>,
    first_seen: String,
    last_seen: String,
    handshake_rtt_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<Handshake>,
    /// Null where it is QUIC, and nothing spins.
    #[serde(skip_serializing_if = "Option::is_none")]
    spin_rtt: Option<Option<SpinView>>,
    contended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<HookNames>,
    from_originator: HalfView,
    from_responder: HalfView,
}

#[derive(Clone, Debug, Serialize)]
struct EndpointView {
    address: IpAddr,
    port: u16,
}

#[derive(Clone, Debug, Serialize)]
struct IcmpView {
    #[serde(rename = "type")]
    kind: u8,
    code: Option<u8>,
    identifier: Option<u16>,
}

/// ICMP errors about the flow.
#[derive(Clone, Debug, Serialize)]
struct IcmpErrorsView {
    count: u64,
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
}

/// An encapsulation.
#[derive(Clone, Debug, Serialize)]
struct TunnelView {
    kind: &'static str,
    id: u32,
}

/// The handshake's round trip in two parts, as they are seen from here.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Handshake {
    /// By the flow's entry.
    Parts { originator_side_ns: Option<u64>, responder_side_ns: Option<u64> },
    /// By its segments.
    Analyzed(HandshakeView),
}

impl Handshake {
    fn of(record: &FlowRecord) -> Self {
        let responder_side_ns = record.answered_ns;
        let both = record.handshake_rtt_ns.zip(responder_side_ns);
        let originator_side_ns = both.and_then(|(all, part)| all.checked_sub(part));
        Self::Parts { originator_side_ns, responder_side_ns }
    }
}

#[derive(Clone, Debug, Serialize)]
struct HalfView {
    packets: u64,
    skbs: u64,
    bytes: u64,
    payload_bytes: u64,
    rtt: RttView,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    analysis: Option<Box<SideView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateView>,
}

#[derive(Clone, Debug, Serialize)]
struct RttView {
    samples: u64,
    min_ns: u64,
    p50_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    error_factor: f64,
}

#[derive(Clone, Debug, Serialize)]
struct RateView {
    packets_per_second: f64,
    bits_per_second: f64,
}

/// Segments by Wireshark's classes, and linnet's own verdicts where it gives any.
#[derive(Clone, Debug)]
struct TcpView {
    segments: u64,
    classes: [u32; classes::CLASSES],
    verdicts: Option<VerdictsView>,
}

#[derive(Clone, Debug)]
struct VerdictsView(Verdicts);

impl Serialize for VerdictsView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.named())
    }
}

impl Serialize for TcpView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("segments", &self.segments)?;
        for ((name, _), count) in classes::NAMES.iter().zip(self.classes) {
            map.serialize_entry(name, &count)?;
        }
        if let Some(verdicts) = &self.verdicts {
            map.serialize_entry("verdicts", verdicts)?;
        }
        map.end()
    }
}

impl FlowView {
    /// Renders a record. `live` adds what only a running daemon knows: interface, hook and rates.
    #[must_use]
    pub fn new(record: &FlowRecord, naming: &Naming, live: bool) -> Self {
        let key = &record.key;
        let [originator, responder] = record.ends();
        let icmp = icmp(record, originator.1, responder.1);
        let endpoint =
            |(address, port)| EndpointView { address, port: if icmp.is_some() { 0 } else { port } };
        let settled = record.place.as_deref();
        let point = || settled.or_else(|| naming.points.get(&key.observation_point));
        let point = live.then(point).flatten();
        Self {
            id: record.id,
            community_id: record.community_id.clone(),
            protocol: protocol_name(key.protocol),
            originator: endpoint(originator),
            responder: endpoint(responder),
            vlan: (key.vlan != 0).then_some(key.vlan),
            tunnel: tunnel::name(record.tunnel.0)
                .map(|kind| TunnelView { kind, id: record.tunnel.1 }),
            parent: record.parent,
            icmp_errors: icmp_errors(record),
            state: record.state.name(),
            timeout_ns: record.timeout_ns,
            embryonic: record.embryonic,
            ended: record.ended.map(|(why, _)| why),
            first_seen: wall(record.first_seen_ns, naming),
            last_seen: wall(record.last_seen_ns, naming),
            handshake_rtt_ns: record.handshake_rtt_ns,
            handshake: (live && key.protocol == TCP).then(|| Handshake::of(record)),
            spin_rtt: None,
            contended: record.contended,
            interface: point.map(|point| point.interface.clone()),
            hook: point.map(|point| point.hook.clone()),
            from_originator: HalfView::new(&record.from_originator, key.protocol, live),
            from_responder: HalfView::new(&record.from_responder, key.protocol, live),
            icmp,
        }
    }

    /// Adds what an analysis of the flow's segments tells, to a view of `record`.
    #[must_use]
    pub fn analyzed(
        mut self,
        record: &FlowRecord,
        connection: &Connection,
        naming: &Naming,
    ) -> Self {
        let [own, peer] = record.by_role(connection.sides().each_ref());
        let view = |side, other| Some(Box::new(SideView::new(side, other, naming)));
        self.handshake = HandshakeView::new(connection).map(Handshake::Analyzed);
        self.from_originator.analysis = view(own, peer);
        self.from_responder.analysis = view(peer, own);
        self
    }

    /// Adds what the spin bit tells, to a view of `record`.
    #[must_use]
    pub fn spun(mut self, record: &FlowRecord, spin: &Spin) -> Self {
        self.spin_rtt = Some(SpinView::new(spin, usize::from(record.upper_originated)));
        self
    }
}

fn icmp_errors(record: &FlowRecord) -> Option<IcmpErrorsView> {
    let (count, [kind, code]) = record.icmp_errors;
    (count > 0).then_some(IcmpErrorsView { count, kind, code })
}

/// Type and identifier, or type and code of a one-way message.
fn icmp(record: &FlowRecord, originator: u16, responder: u16) -> Option<IcmpView> {
    let key = &record.key;
    if key.protocol != ICMP && key.protocol != ICMPV6 {
        return None;
    }
    let byte = |port: u16| u8::try_from(port & 0xff).expect("masked to a byte");
    Some(match icmp_types(key) {
        Some((request, _)) => IcmpView { kind: request, code: None, identifier: Some(originator) },
        None => IcmpView { kind: byte(originator), code: Some(byte(responder)), identifier: None },
    })
}

impl HalfView {
    fn new(half: &HalfRecord, protocol: u8, live: bool) -> Self {
        Self {
            packets: half.packets,
            skbs: half.skbs,
            bytes: half.bytes,
            payload_bytes: half.payload_bytes,
            rtt: RttView::new(&half.rtt),
            tcp: (protocol == TCP).then_some(TcpView {
                segments: half.packets,
                classes: half.classes,
                verdicts: half.verdicts.map(VerdictsView),
            }),
            analysis: None,
            rate: live.then_some(RateView {
                packets_per_second: half.packets_per_second,
                bits_per_second: half.bits_per_second,
            }),
        }
    }
}

impl RttView {
    const fn new(rtt: &RttSummary) -> Self {
        let [p50_ns, p95_ns, p99_ns] = rtt.quantiles_ns;
        let (min_ns, max_ns) = (rtt.min_ns, rtt.max_ns);
        let error_factor = rtt.error_factor;
        Self { samples: rtt.samples, min_ns, p50_ns, p95_ns, p99_ns, max_ns, error_factor }
    }
}

/// The assigned name of an IP protocol, or its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> Cow<'static, str> {
    Cow::Borrowed(match protocol {
        1 => "icmp",
        2 => "igmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "icmpv6",
        89 => "ospf",
        103 => "pim",
        112 => "vrrp",
        132 => "sctp",
        136 => "udplite",
        other => return Cow::Owned(other.to_string()),
    })
}

/// The number of a protocol's name, or of a number.
#[must_use]
pub fn protocol_number(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    // Not "+6", which would parse.
    let number = name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()));
    number.or_else(|| (0..=255).find(|number| protocol_name(*number) == name))
}

/// The source's time as RFC 3339 with nanoseconds.
#[must_use]
pub fn wall(source_ns: u64, naming: &Naming) -> String {
    rfc3339(i128::from(source_ns) + i128::from(naming.wall_offset_ns))
}

/// Nanoseconds since the epoch as RFC 3339, always with nine digits.
#[must_use]
pub fn rfc3339(unix_ns: i128) -> String {
    let time = Timestamp::from_nanosecond(unix_ns).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
}

/// What stands behind every list: how much was seen, and what became of all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LossView {
    /// What tells of packets: `ebpf`, `af_packet` or `replay`. Empty before the first figures.
    pub source: &'static str,
    /// Frames that entered the datapath.
    pub seen: u64,
    /// Those frames by what was counted about them; the sum is `seen` at rest.
    pub ledger: LedgerView,
    /// Packets counted but not analyzed, since another CPU held their flow.
    pub contended: u64,
    /// Flows that left the kernel's table without having ended.
    pub evicted: u64,
    /// Whether `evicted` is a bound rather than exact.
    pub approximate: bool,
    /// What became of what was on its way to the daemon.
    pub rings: LossRingsView,
    /// Since when all of this is counted.
    pub since: String,
}

/// Records of the capture ring, and beside them events.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LossRingsView {
    /// Records of the capture ring.
    #[serde(flatten)]
    pub capture: RingsView,
    /// Flagged segments.
    pub events: EventsLossView,
}

/// What became of flagged segments.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EventsLossView {
    /// On their way from the log.
    #[serde(flatten)]
    pub log: RingsView,
    /// Of those that were read, the ones that are not kept any more.
    pub forgotten: u64,
    /// Since when all of this is counted.
    pub since: String,
}

/// What became of the records of the rings: `produced` = `consumed` + `lost` + what is in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingsView {
    /// Records offered to a ring.
    pub produced: u64,
    /// Records read from it.
    pub consumed: u64,
    /// Records that found no room.
    pub lost: u64,
}

/// Counts by ledger key; every key is always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerView(pub [u64; datapath::outcome::OUTCOMES]);

impl LedgerView {
    /// The ledger of summed counters.
    #[must_use]
    pub const fn new(counters: &HookCounters) -> Self {
        Self(counters.outcomes)
    }

    /// The frames counted.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Serialize for LedgerView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (outcome, count) in Outcome::ALL.iter().zip(self.0) {
            map.serialize_entry(outcome.name(), &count)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_nanoseconds() {
        assert_eq!(rfc3339(1_000_000_001), "1970-01-01T00:00:01.000000001Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn protocols_have_a_name_or_a_number() {
        assert_eq!(protocol_number("TCP"), Some(6));
        assert_eq!(protocol_number("200"), Some(200));
        assert_eq!(protocol_number("nonsense"), None);
        assert_eq!(protocol_number("+6"), None);
        assert_eq!(protocol_name(200), "200");
    }
}
