//! Whatever the facts, rules end, and say only what can be said: no panic, no empty filter, times in order.

use datapath::{
    ConntrackState, FlowKey, Ktime,
    replay::Classified,
    tcp::verdict::{Segment, Verdict, Verdicts},
};
use proptest::prelude::*;

use super::{Code, Confidence, Evidence, diagnose, precedence};
use crate::flow::{FlowIdSource, FlowRecord, HalfRecord, RttSummary};

/// Small numbers, and those at the edges.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, any::<u32>().prop_map(u64::from), Just(u64::MAX), any::<u64>()]
}

prop_compose! {
    fn half()(
        packets in number(),
        payload_bytes in number(),
        classes in prop::array::uniform15(prop_oneof![0..20_u32, any::<u32>()]),
        rtt in prop::array::uniform6(number()),
        verdicts in prop::option::of(prop::array::uniform6(number())),
    ) -> HalfRecord {
        let [samples, min_ns, max_ns, quantiles_ns @ ..] = rtt;
        let rtt = RttSummary { samples, min_ns, max_ns, quantiles_ns, ..RttSummary::default() };
        let verdicts = verdicts.map(|[again, late, copies, spurious, up, down]| Verdicts {
            retransmitted_segments: again,
            reordered_segments: late,
            duplicate_frames: copies,
            spurious,
            lost_upstream: up,
            lost_downstream: down,
            ..Verdicts::default()
        });
        HalfRecord { packets, payload_bytes, classes, rtt, verdicts, ..HalfRecord::default() }
    }
}

prop_compose! {
    fn record()(
        halves in (half().boxed(), half().boxed()),
        times in prop::array::uniform3(number()),
        bits in any::<[bool; 4]>(),
        protocol in prop::sample::select(vec![6_u8, 6, 17, 1]),
        state in prop::sample::select(ConntrackState::ALL.to_vec()),
        icmp in (number(), any::<[u8; 2]>()),
        vlan in 0..3_u16,
    ) -> FlowRecord {
        let key = FlowKey { protocol, vlan, ..FlowKey::default() };
        let id = FlowIdSource::new(b"test").id(&key, 1);
        let mut record = FlowRecord::new(id, key, String::new());
        (record.from_originator, record.from_responder) = halves;
        [record.first_seen_ns, record.last_seen_ns, _] = times;
        record.handshake_rtt_ns = bits[0].then_some(times[2]);
        (record.embryonic, record.upper_originated) = (bits[1], bits[2]);
        record.state = state;
        record.icmp_errors = icmp;
        record
    }
}

prop_compose! {
    /// Segments as a hostile file may have them.
    fn classified()(
        sender in 0..2_u32,
        at in prop_oneof![0..1_000_u64, number()],
        numbers in prop::array::uniform2(prop_oneof![0..10_000_u32, any::<u32>()]),
        payload_len in prop_oneof![0..1_500_u32, any::<u32>()],
        flags in 0..256_u32,
        window in prop_oneof![Just(0), 0..65_536_u32],
        bits in 0..512_u32,
        classes in 0..32_768_u32,
        small in any::<[u8; 4]>(),
        round_trip in prop::option::of(any::<u32>()),
    ) -> Classified {
        let [hops, traffic_class, options, scale] = small;
        let segment = Segment {
            now: Ktime(at),
            sequence: numbers[0],
            acknowledgment: numbers[1],
            payload_len,
            tcp_flags: flags,
            window,
            classes,
            ..Segment::default()
        };
        let verdict = Verdict { bits, segments: 1, bytes: payload_len, silence_ns: 0 };
        Classified {
            options: u32::from(options & 7),
            window_scale_plus_one: u32::from(scale & 15),
            segment_max: Some(1_460),
            hops,
            traffic_class,
            unfragmentable: scale & 16 != 0,
            round_trip: round_trip.map(datapath::rtt::RttTicks),
            ..Classified::plain(sender, segment, verdict)
        }
    }
}

proptest! {
    #[test]
    fn no_facts_make_a_rule_panic(
        record in record().boxed(),
        segments in prop::collection::vec(classified().boxed(), 0..40),
        is_offline: bool,
    ) {
        let mut evidence = Evidence::default();
        segments.iter().for_each(|segment| evidence.segment(segment));
        for diagnosis in diagnose(&record, evidence.of(0).filter(|_| is_offline)) {
            prop_assert!(!diagnosis.display_filter.is_empty());
            prop_assert!(!diagnosis.evidence.is_empty());
        }
    }

    #[test]
    fn no_message_makes_dns_panic(
        payload in prop::collection::vec(any::<u8>(), 0..40),
        times in prop::collection::vec(number(), 1..20),
    ) {
        let mut evidence = Evidence::default();
        for (number, at_ns) in (0..).zip(times) {
            evidence.datagram(0, number & 1, &payload, at_ns);
        }
        prop_assert!(evidence.of(0).is_some());
    }
}

#[test]
fn names_are_words_and_each_is_there_once() {
    let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    assert!(
        names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Code::ALL.len());
}

#[test]
fn capture_loss_withholds_what_it_explains() {
    let of = |code, confidence| (None, super::Finding::new(code, confidence, "tcp"));
    let mut found = vec![
        of(Code::CaptureLoss, Confidence::Certain),
        of(Code::NetworkLossUpstream, Confidence::Likely),
        of(Code::NetworkLossDownstream, Confidence::Likely),
    ];
    precedence::apply(&mut found);
    let left: Vec<_> =
        found.iter().map(|(_, finding)| (finding.code, finding.confidence)).collect();
    let lowered = (Code::NetworkLossDownstream, Confidence::Possible);
    assert_eq!(left, [(Code::CaptureLoss, Confidence::Certain), lowered]);
}
