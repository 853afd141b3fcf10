//! What rules do to frames: outer and inner packets, fragments, directions, and flows that were there before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use datapath::{
    Direction, Frame, Ktime, Outcome,
    replay::Replay,
    rules::{Action, DISOWNED, Network, Ports, Rule},
};

const ETHERNET: [u8; 14] = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0x08, 0x00];
const UDP: u8 = 17;
const IPIP: u8 = 4;

/// An IPv4 packet between two hosts of 10.0.0.0/24; `fragment` is the field of flags and offset.
fn ipv4(protocol: u8, ends: [u8; 2], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let [[a, b], [c, d]] =
        [u16::try_from(20 + payload.len()).unwrap(), fragment].map(u16::to_be_bytes);
    let start =
        [0x45, 0, a, b, 0, 7, c, d, 64, protocol, 0, 0, 10, 0, 0, ends[0], 10, 0, 0, ends[1]];
    [&start[..], payload].concat()
}

fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [[ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat(), payload.to_vec()].concat()
}

/// A question of host 1 to host 2, and its answer.
fn question() -> Vec<u8> {
    ipv4(UDP, [1, 2], 0, &udp([50_000, 53], &[0; 12]))
}

fn answer() -> Vec<u8> {
    ipv4(UDP, [2, 1], 0, &udp([53, 50_000], &[0; 12]))
}

fn send(replay: &mut Replay, packet: &[u8], direction: Direction) -> Outcome {
    let frame = [&ETHERNET[..], packet].concat();
    let length = u32::try_from(frame.len()).unwrap();
    let now = Ktime(1 + replay.counters().seen);
    replay.frame(frame.as_slice(), &Frame { direction, ..Frame::plain(now, length) })
}

fn receive(replay: &mut Replay, packet: &[u8]) -> Outcome {
    send(replay, packet, Direction::Ingress)
}

fn of_host(host: u8) -> Option<Network> {
    Network::v4([10, 0, 0, host], 32)
}

fn ignore(network: Option<Network>) -> Rule {
    Rule { network, ..Rule::everything(Action::Ignore) }
}

/// Hosts of every flow that is there.
fn hosts(replay: &Replay) -> Vec<[u8; 2]> {
    let last = |octets: [u8; 16]| octets[15];
    let ends = replay.flows().map(|(key, _)| [last(key.lower.octets()), last(key.upper.octets())]);
    let mut hosts: Vec<_> = ends.collect();
    hosts.sort_unstable();
    hosts
}

#[test]
fn what_is_inside_of_an_ignored_packet_is_not_looked_at() {
    let tunneled = ipv4(IPIP, [8, 9], 0, &question());
    let mut replay = Replay::default();
    replay.set_rules(&[ignore(of_host(8))]);
    assert_eq!(receive(&mut replay, &tunneled), Outcome::IgnoredByRule);
    assert_eq!(hosts(&replay), [[0; 2]; 0]);
    assert_eq!(receive(&mut replay, &question()), Outcome::Tracked, "the same without a tunnel");
}

#[test]
fn a_rule_for_an_inner_packet_leaves_the_outer_one_alone() {
    let tunneled = ipv4(IPIP, [8, 9], 0, &question());
    let mut replay = Replay::default();
    replay.set_rules(&[ignore(of_host(1))]);
    assert_eq!(receive(&mut replay, &tunneled), Outcome::Tracked);
    assert_eq!(hosts(&replay), [[8, 9]]);
    // Nor is what the inner one carries looked at.
    let twice =
        ipv4(IPIP, [8, 9], 0, &ipv4(IPIP, [1, 7], 0, &ipv4(UDP, [3, 4], 0, &udp([1, 2], &[]))));
    assert_eq!(receive(&mut replay, &twice), Outcome::Tracked);
    assert_eq!(hosts(&replay), [[8, 9]]);
}

#[test]
fn later_fragments_fall_under_the_rule_of_their_ports() {
    const MORE: u16 = 0x2000;
    let mut replay = Replay::default();
    let dns = Some(Ports { first: 53, last: 53 });
    replay.set_rules(&[Rule { port: dns, ..Rule::everything(Action::Ignore) }]);
    let first = ipv4(UDP, [1, 2], MORE, &udp([50_000, 53], &[0; 16]));
    let later = ipv4(UDP, [1, 2], 3, &[0; 16]);
    assert_eq!(receive(&mut replay, &first), Outcome::IgnoredByRule);
    assert_eq!(receive(&mut replay, &later), Outcome::IgnoredByRule);
    assert_eq!(hosts(&replay), [[0; 2]; 0]);
}

#[test]
fn one_direction_can_be_ignored_without_an_end_to_the_flow() {
    let mut replay = Replay::default();
    let received = Some(Direction::Ingress);
    replay.set_rules(&[Rule { direction: received, ..Rule::everything(Action::Ignore) }]);
    for _ in 0..3 {
        assert_eq!(send(&mut replay, &question(), Direction::Egress), Outcome::Tracked);
        assert_eq!(send(&mut replay, &answer(), Direction::Ingress), Outcome::IgnoredByRule);
    }
    let (_, flow) = replay.flows().next().unwrap();
    assert_eq!(flow.entry.halves.map(|half| half.packets), [3, 0]);
    assert!(flow.entry.halves.iter().all(|half| half.rules != DISOWNED));
    assert_eq!(replay.counters().created, 1);
}

#[test]
fn a_flow_that_new_rules_ignore_is_marked_and_can_come_back() {
    let mut replay = Replay::default();
    assert_eq!(receive(&mut replay, &question()), Outcome::Tracked, "there were no rules");
    replay.set_rules(&[ignore(of_host(2))]);
    assert_eq!(receive(&mut replay, &answer()), Outcome::IgnoredByRule);
    let halves = replay.flows().next().unwrap().1.entry.halves;
    assert_eq!(halves.map(|half| (half.packets, half.rules)), [(1, DISOWNED), (0, DISOWNED)]);
    replay.set_rules(&[]);
    assert_eq!(receive(&mut replay, &answer()), Outcome::Tracked);
    let halves = replay.flows().next().unwrap().1.entry.halves;
    assert!(halves.iter().any(|half| half.rules != DISOWNED), "nobody took it out before");
    assert_eq!(halves.map(|half| half.packets), [1, 1]);
}

#[test]
fn the_ledger_has_every_packet_under_a_rule() {
    let mut replay = Replay::default();
    let rules = [ignore(of_host(1)), Rule::everything(Action::Sample(2))];
    replay.set_rules(&rules);
    for host in 1..=40 {
        for _ in 0..2 {
            let _counted = receive(&mut replay, &ipv4(UDP, [host, 99], 0, &udp([1, 2], &[])));
        }
    }
    let count = |outcome: Outcome| replay.counters().outcomes[outcome as usize];
    assert_eq!(count(Outcome::IgnoredByRule), 2);
    let kept = replay.flows().count() as u64;
    assert_eq!((count(Outcome::Tracked), count(Outcome::SampledOut)), (2 * kept, 78 - 2 * kept));
    assert!((8..32).contains(&kept), "{kept} of 39 flows");
}
