//! Packets inside of packets: each level is a flow, with its tunnel's kind and id and the tag of the flow around it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{
    Frame, Ktime, Outcome,
    flow_key::FlowKey,
    layout::FlowEntry,
    parse::tunnel::{self, tag},
    replay::Replay,
};

const ETHERNET: [u8; 14] = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0x08, 0x00];

fn ipv4(protocol: u8, ends: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let [source, destination] = ends;
    let start = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    [&start[..], &[10, 0, 0, source, 10, 0, 0, destination], payload].concat()
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [[50_000, port, length, 0].map(u16::to_be_bytes).concat(), payload.to_vec()].concat()
}

/// A DNS question between two hosts of the inner network.
fn question() -> Vec<u8> {
    ipv4(17, [1, 2], &udp(53, &[0; 12]))
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    [&ETHERNET[..], packet].concat()
}

/// Every flow of one frame, the outermost first, and what was counted.
fn flows(frame: &[u8]) -> (Outcome, Vec<(FlowKey, FlowEntry)>) {
    let mut replay = Replay::default();
    let length = u32::try_from(frame.len()).unwrap();
    let outcome = replay.frame(frame, &Frame::plain(Ktime(1), length));
    assert_eq!(replay.counters().packets, 1, "totals count outermost packets");
    let mut flows: Vec<_> =
        replay.flows().map(|(key, flow)| (flow.order, *key, *flow.entry)).collect();
    flows.sort_unstable_by_key(|(order, ..)| *order);
    (outcome, flows.into_iter().map(|(_, key, entry)| (key, entry)).collect())
}

/// That the frame is one packet around the question, by this tunnel.
fn assert_carries(frame: &[u8], kind: u32, id: u32) -> FlowKey {
    let (outcome, flows) = flows(frame);
    assert_eq!(outcome, Outcome::Tracked);
    let [(outer, around), (inner, entry)] = flows.as_slice() else { panic!("{flows:?}") };
    assert_eq!((around.encapsulation.kind, around.encapsulation.parent_tag), (0, 0));
    assert_eq!((u32::from(entry.encapsulation.kind), entry.encapsulation.id), (kind, id));
    assert_eq!(entry.encapsulation.parent_tag, tag(outer));
    assert_eq!([inner.lower_port, inner.upper_port].map(u16::from_be), [50_000, 53]);
    let bytes: u64 = entry.halves.iter().map(|half| half.bytes).sum();
    assert_eq!(bytes, frame.len() as u64, "an inner row has the whole frame's bytes");
    *inner
}

#[test]
fn vxlan_and_geneve_have_their_network_in_the_key() {
    let vxlan = [&[8, 0, 0, 0, 0, 0x12, 0x34, 0][..], &ethernet(&question())].concat();
    let frame = ethernet(&ipv4(17, [8, 9], &udp(4_789, &vxlan)));
    assert_eq!(assert_carries(&frame, tunnel::VXLAN, 0x1234).vni, 0x1234);
    let option = [1, 2, 3, 4];
    let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 7, 0][..], &option, &ethernet(&question())].concat();
    let frame = ethernet(&ipv4(17, [8, 9], &udp(6_081, &geneve)));
    assert_eq!(assert_carries(&frame, tunnel::GENEVE, 7).vni, 7);
}

#[test]
fn keys_sessions_and_endpoints_are_ids_but_not_in_the_key() {
    let gre = [&[0x20, 0, 8, 0, 0, 0, 0, 5][..], &question()].concat();
    assert_eq!(assert_carries(&ethernet(&ipv4(47, [8, 9], &gre)), tunnel::GRE, 5).vni, 0);
    let erspan = [
        &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1][..],
        &[0x10, 0, 0, 9, 0, 0, 0, 0],
        &ethernet(&question()),
    ]
    .concat();
    assert_carries(&ethernet(&ipv4(47, [8, 9], &erspan)), tunnel::ERSPAN, 9);
    let extension = [0, 0, 0, 0x85, 1, 0, 0, 0];
    let gtp = [&[0x34, 0xff, 0, 44, 0, 0, 0, 6][..], &extension, &question()].concat();
    assert_carries(&ethernet(&ipv4(17, [8, 9], &udp(2_152, &gtp))), tunnel::GTP, 6);
    assert_carries(&ethernet(&ipv4(4, [8, 9], &question())), tunnel::IPIP, 0);
}

#[test]
fn what_a_tunnel_does_not_carry_leaves_its_flow_alone() {
    let arp = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &[2; 12], &[0x08, 0x06], &[0; 28]].concat();
    let (outcome, found) = flows(&ethernet(&ipv4(17, [8, 9], &udp(4_789, &arp))));
    assert_eq!((outcome, found.len()), (Outcome::Tracked, 1));
    let dns_by_chance = udp(2_152, &[0; 12]);
    let (outcome, found) = flows(&ethernet(&ipv4(17, [8, 9], &dns_by_chance)));
    assert_eq!((outcome, found.len()), (Outcome::Tracked, 1));
}

#[test]
fn a_frame_is_counted_by_the_first_packet_that_cannot_be_read() {
    let mut inner = question();
    inner[0] = 0x41;
    let (outcome, found) = flows(&ethernet(&ipv4(4, [8, 9], &inner)));
    assert_eq!((outcome, found.len()), (Outcome::MalformedIpv4, 1));
}

#[test]
fn levels_have_a_bound() {
    let nested =
        |levels: u8| (0..levels).fold(question(), |inner, level| ipv4(4, [level, 99], &inner));
    let (outcome, found) = flows(&ethernet(&nested(5)));
    assert_eq!((outcome, found.len()), (Outcome::Tracked, 6));
    let (outcome, found) = flows(&ethernet(&nested(6)));
    assert_eq!((outcome, found.len()), (Outcome::TooDeep, 6), "those read so far are booked");
}

#[test]
fn an_icmp_error_is_noted_on_the_flow_that_it_quotes() {
    let mut replay = Replay::default();
    let mut feed = |frame: Vec<u8>| {
        let length = u32::try_from(frame.len()).unwrap();
        replay.frame(frame.as_slice(), &Frame::plain(Ktime(1), length))
    };
    let _asked = feed(ethernet(&question()));
    let unreachable = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &question()[..28]].concat();
    assert_eq!(feed(ethernet(&ipv4(1, [2, 1], &unreachable))), Outcome::Tracked);
    let about = |protocol| {
        let (_, flow) = replay.flows().find(|(key, _)| key.protocol == protocol).unwrap();
        flow.entry.icmp
    };
    assert_eq!((about(17).count, about(17).last), (1, 0x0303));
    assert_eq!(about(1).count, 0);
}
