//! T1: the parser agrees with etherparse, which nobody here wrote, on every packet that either can read.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

use datapath::{
    Frame, Ktime, Outcome,
    flow_key::{FlowKey, KEY_IPV6},
    replay::Replay,
};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanSlice};
use proptest::prelude::*;

/// What both parsers say about a packet.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    ends: [(Vec<u8>, u16); 2],
    protocol: u8,
    vlan: u16,
    payload_len: usize,
    sequence: Option<(u32, u32, u16)>,
}

fn ours(data: &[u8]) -> (Outcome, FlowKey, Facts) {
    let mut replay = Replay::default();
    let length = u32::try_from(data.len()).unwrap();
    let outcome = replay.frame(data, &Frame::plain(Ktime(1), length));
    let headers = replay.headers();
    let key = headers.key;
    let address = |octets: [u8; 16]| {
        if key.flags & KEY_IPV6 != 0 { octets.to_vec() } else { octets[12..].to_vec() }
    };
    let lower = (address(key.lower.octets()), u16::from_be(key.lower_port));
    let upper = (address(key.upper.octets()), u16::from_be(key.upper_port));
    let ends = if headers.sender == 0 { [lower, upper] } else { [upper, lower] };
    let window = u16::try_from(headers.window).unwrap();
    let sequence =
        (headers.analyzable != 0).then_some((headers.sequence, headers.acknowledgment, window));
    let payload_len = headers.payload_len as usize;
    (outcome, key, Facts { ends, protocol: key.protocol, vlan: key.vlan, payload_len, sequence })
}

fn theirs(data: &[u8]) -> Option<Facts> {
    let packet = SlicedPacket::from_ethernet(data).ok()?;
    let vlan = match packet.vlan() {
        Some(VlanSlice::SingleVlan(tag)) => tag.vlan_identifier().value(),
        Some(VlanSlice::DoubleVlan(tags)) => tags.outer.vlan_identifier().value(),
        None => 0,
    };
    let (source, destination) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
        NetSlice::Ipv6(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
        NetSlice::Arp(_) => return None,
    };
    let (protocol, ports, payload_len, sequence) = match packet.transport? {
        TransportSlice::Tcp(tcp) => (
            6,
            (tcp.source_port(), tcp.destination_port()),
            tcp.payload().len(),
            Some((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.window_size())),
        ),
        TransportSlice::Udp(udp) => {
            (17, (udp.source_port(), udp.destination_port()), udp.payload().len(), None)
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
            return None;
        }
    };
    let ends = [(source, ports.0), (destination, ports.1)];
    Some(Facts { ends, protocol, vlan, payload_len, sequence })
}

/// Any port but those of tunnels, whose payloads linnet reads and etherparse does not.
fn port() -> impl Strategy<Value = u16> {
    const TUNNELS: [u16; 5] = [2152, 3544, 4789, 6081, 8472];
    any::<u16>().prop_filter("the port of a tunnel", |port| !TUNNELS.contains(port))
}

/// Any frame of plain Ethernet, tags, IPv4 or IPv6, TCP or UDP.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let ends = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<[u8; 16]>(), any::<[u8; 16]>());
    let ports = (port(), port(), any::<u32>(), any::<u16>());
    let shape = (0..3_u8, any::<bool>(), any::<bool>(), any::<bool>());
    (ends, ports, shape, proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(
            (source4, destination4, source6, destination6),
            (sport, dport, sequence, window),
            (tags, ipv6, tcp, timestamps),
            payload,
        )| {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let vlan = |id: u16| etherparse::VlanId::try_new(id & 0xfff).unwrap();
            let id = (sport & 0xfff).max(1);
            macro_rules! finish {
                ($ip:expr) => {{
                    let mut frame = Vec::new();
                    if tcp {
                        let mut segment = $ip.tcp(sport, dport, sequence, window).ack(sequence ^ 7);
                        if timestamps {
                            let option = etherparse::TcpOptionElement::Timestamp(sequence, 5);
                            segment = segment.options(&[option]).unwrap();
                        }
                        segment.write(&mut frame, &payload).unwrap();
                    } else {
                        $ip.udp(sport, dport).write(&mut frame, &payload).unwrap();
                    }
                    frame
                }};
            }
            match (tags, ipv6) {
                (0, false) => finish!(builder.ipv4(source4, destination4, 64)),
                (0, true) => finish!(builder.ipv6(source6, destination6, 64)),
                (1, false) => {
                    finish!(builder.single_vlan(vlan(id)).ipv4(source4, destination4, 64))
                }
                (1, true) => finish!(builder.single_vlan(vlan(id)).ipv6(source6, destination6, 64)),
                (_, false) => finish!(builder.double_vlan(vlan(id), vlan(dport)).ipv4(
                    source4,
                    destination4,
                    64
                )),
                (_, true) => finish!(builder.double_vlan(vlan(id), vlan(dport)).ipv6(
                    source6,
                    destination6,
                    64
                )),
            }
        },
    )
}

proptest! {
    #[test]
    fn agrees_on_whole_frames(frame in frames()) {
        let (outcome, _, facts) = ours(&frame);
        prop_assert_eq!(outcome, Outcome::Tracked);
        prop_assert_eq!(Some(facts), theirs(&frame));
    }

    #[test]
    fn agrees_on_damaged_frames_that_both_track(
        frame in frames(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut frame = frame;
        let at = at.index(frame.len());
        frame[at] = value;
        let (outcome, _, facts) = ours(&frame);
        if outcome == Outcome::Tracked
            && (facts.sequence.is_some() || facts.protocol == 17)
            && let Some(theirs) = theirs(&frame)
            // etherparse ends a payload where the UDP length says; linnet where IP does.
            && theirs.protocol == facts.protocol
        {
            prop_assert_eq!(&facts.ends, &theirs.ends);
            prop_assert_eq!(facts.sequence, theirs.sequence);
        }
    }

    #[test]
    fn any_bytes_are_counted_once(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut replay = Replay::default();
        let length = u32::try_from(bytes.len()).unwrap();
        let _counted = replay.frame(bytes.as_slice(), &Frame::plain(Ktime(1), length));
        prop_assert_eq!(replay.counters().seen, 1);
        prop_assert_eq!(replay.counters().outcomes.iter().sum::<u64>(), 1);
    }

    #[test]
    fn a_cut_frame_is_truncated_or_tracked_but_never_malformed(
        frame in frames(),
        cut in any::<prop::sample::Index>(),
    ) {
        let length = u32::try_from(frame.len()).unwrap();
        let kept = &frame[..cut.index(frame.len())];
        let mut replay = Replay::default();
        let outcome = replay.frame(kept, &Frame::plain(Ktime(1), length));
        prop_assert!(matches!(outcome, Outcome::Tracked | Outcome::Truncated), "{:?}", outcome);
    }
}
