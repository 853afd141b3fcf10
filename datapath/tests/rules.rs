//! Compiled rules against a matcher that reads the list from the top, on random lists and random flows; and what rules
//! mean, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and makes its own numbers"
)]

use datapath::{
    Direction, FlowKey, IpAddress, Outcome,
    flow_key::KEY_IPV6,
    rules::{Action, HostRules, Network, Ports, Rule, decide, stamp},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const SCTP: u8 = 132;

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
struct End {
    address: [u8; 16],
    port: u16,
}

/// A packet of a flow, as its sender sees it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    ipv6: bool,
    ends: [End; 2],
    protocol: u8,
    point: u32,
    direction: Direction,
}

impl Packet {
    fn key(&self) -> (FlowKey, u32) {
        let [source, destination] = self.ends;
        let mut key = FlowKey {
            lower: IpAddress::from_octets(source.address),
            upper: IpAddress::from_octets(destination.address),
            lower_port: source.port.to_be(),
            upper_port: destination.port.to_be(),
            protocol: self.protocol,
            flags: if self.ipv6 { KEY_IPV6 } else { 0 },
            observation_point: self.point,
            ..FlowKey::default()
        };
        let sender = key.canonicalize() as u32;
        (key, sender)
    }

    fn reversed(self) -> Self {
        let [source, destination] = self.ends;
        Self { ends: [destination, source], ..self }
    }
}

fn judge(rules: &mut HostRules, packet: &Packet) -> u32 {
    let (key, sender) = packet.key();
    let stamp = stamp(rules.generation(), packet.direction as u32);
    let outcome = decide::judge(rules, &key, sender, stamp);
    assert_eq!(outcome, decide::judge(rules, &key, sender, stamp), "remembered as decided");
    outcome
}

/// Whether a network has an address, bit by bit.
fn has(network: &Network, ipv6: bool, address: [u8; 16], prefix: u32) -> bool {
    let bit = |octets: [u8; 16], bit: u32| octets[bit as usize / 8] >> (7 - bit % 8) & 1;
    let first = if ipv6 { 0 } else { 96 };
    (first..first + prefix).all(|at| bit(network.address(), at) == bit(address, at))
}

/// A rule with what its networks were made of.
#[derive(Clone, Copy, Debug)]
struct Written {
    rule: Rule,
    /// Family and prefix length of `network` and `peer_network`.
    prefixes: [(bool, u32); 2],
}

/// The oracle: rule by rule, condition by condition.
fn linear(rules: &[Written], packet: &Packet) -> Option<Action> {
    let end_matches = |network: Option<Network>, (ipv6, prefix), port: Option<Ports>, end: &End| {
        let with_ports = [TCP, UDP, SCTP].contains(&packet.protocol);
        network.is_none_or(|it| ipv6 == packet.ipv6 && has(&it, ipv6, end.address, prefix))
            && port.is_none_or(|it| with_ports && it.first <= end.port && end.port <= it.last)
    };
    let matches = |Written { rule, prefixes: [own, peer] }: &Written| {
        let [a, b] = &packet.ends;
        let ends = |own_end, peer_end| {
            end_matches(rule.network, *own, rule.port, own_end)
                && end_matches(rule.peer_network, *peer, rule.peer_port, peer_end)
        };
        (ends(a, b) || ends(b, a))
            && rule.protocol.is_none_or(|it| it == packet.protocol)
            && rule.point.is_none_or(|it| it == packet.point)
            && rule.direction.is_none_or(|it| it == packet.direction)
    };
    rules.iter().find(|rule| matches(rule)).map(|rule| rule.rule.action)
}

/// xorshift64*: the same cases for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) == 0).then(|| make(self))
    }

    /// Few different bits, so that networks nest and addresses fall into them.
    fn address(&mut self, ipv6: bool) -> [u8; 16] {
        let mut address = [0; 16];
        if ipv6 && self.below(8) > 0 {
            address[0] = 0xfd;
            address[7] = self.below(4) as u8 * 64;
        } else {
            address[10..12].copy_from_slice(&[0xff, 0xff]);
            address[12] = 10;
        }
        address[14] = self.below(3) as u8 * 85;
        address[15] = self.below(4) as u8 * 64;
        address
    }

    fn network(&mut self) -> (Network, (bool, u32)) {
        let ipv6 = self.below(2) == 1;
        let address = self.address(ipv6);
        let prefix = if ipv6 {
            [0, 7, 8, 58, 64, 112, 121, 122, 128][self.below(9) as usize]
        } else {
            [0, 8, 20, 24, 25, 26, 32][self.below(7) as usize]
        };
        let network = if ipv6 {
            Network::v6(address, prefix)
        } else {
            Network::v4([address[12], address[13], address[14], address[15]], prefix)
        };
        (network.unwrap(), (ipv6, prefix))
    }

    fn port(&mut self) -> u16 {
        [0, 22, 53, 80, 443, 8_000, 8_080, 65_535][self.below(8) as usize]
    }

    fn ports(&mut self) -> Ports {
        let (a, b) = (self.port(), self.port());
        if self.below(2) == 0 {
            Ports { first: a, last: a }
        } else {
            Ports { first: a.min(b), last: a.max(b) }
        }
    }

    fn protocol(&mut self) -> u8 {
        [TCP, UDP, ICMP, SCTP, 47][self.below(5) as usize]
    }

    fn direction(&mut self) -> Direction {
        if self.below(2) == 0 { Direction::Ingress } else { Direction::Egress }
    }

    fn rule(&mut self) -> Written {
        let (network, peer) = (self.maybe(Self::network), self.maybe(Self::network));
        let action = match self.below(3) {
            0 => Action::Track,
            1 => Action::Ignore,
            _ => Action::Sample(2 + self.below(4) as u32),
        };
        let rule = Rule {
            action,
            network: network.map(|it| it.0),
            port: self.maybe(Self::ports),
            peer_network: peer.map(|it| it.0),
            peer_port: self.maybe(Self::ports),
            protocol: self.maybe(Self::protocol),
            point: self.maybe(|random| 1 + random.below(3) as u32),
            direction: self.maybe(Self::direction),
        };
        let prefix = |it: Option<(Network, (bool, u32))>| it.map_or((false, 0), |it| it.1);
        Written { rule, prefixes: [prefix(network), prefix(peer)] }
    }

    fn packet(&mut self) -> Packet {
        let ipv6 = self.below(2) == 1;
        let protocol = self.protocol();
        let end = |random: &mut Self| End { address: random.address(ipv6), port: random.port() };
        let ends = [end(self), end(self)];
        let point = 1 + self.below(3) as u32;
        Packet { ipv6, ends, protocol, point, direction: self.direction() }
    }
}

#[test]
fn compiled_rules_decide_as_the_list_read_from_the_top() {
    let mut random = Random(0x5eed_0001);
    let mut hits = [0; 4];
    // One object for all lists: each is one more generation, and what is remembered of the one before must not count.
    let mut compiled = HostRules::default();
    for round in 0..600 {
        let length = [0, 1, 3, 10, 64, 65, 200][round % 7];
        let rules: Vec<_> = (0..length).map(|_| random.rule()).collect();
        compiled.set(&rules.iter().map(|it| it.rule).collect::<Vec<_>>());
        for _ in 0..200 {
            let packet = random.packet();
            let expected = linear(&rules, &packet);
            let outcome = judge(&mut compiled, &packet);
            let fits = match expected {
                None | Some(Action::Track) => outcome == Outcome::Tracked as u32,
                Some(Action::Ignore) => outcome == Outcome::IgnoredByRule as u32,
                Some(Action::Sample(_)) => {
                    outcome == Outcome::Tracked as u32 || outcome == Outcome::SampledOut as u32
                }
            };
            assert!(fits, "{packet:?}: {outcome} for {expected:?} of {rules:#?}");
            assert_eq!(outcome, judge(&mut compiled, &packet.reversed()), "{packet:?}");
            hits[match expected {
                None => 0,
                Some(Action::Track) => 1,
                Some(Action::Ignore) => 2,
                Some(Action::Sample(_)) => 3,
            }] += 1;
        }
    }
    assert!(hits.iter().all(|hits| *hits > 5_000), "every action is met: {hits:?}");
}

#[test]
fn a_long_list_is_searched_to_its_end() {
    let nobody = Network::v4([192, 0, 2, 1], 32);
    let mut rules = vec![Rule { network: nobody, ..Rule::everything(Action::Ignore) }; 1_023];
    rules.push(Rule { protocol: Some(UDP), ..Rule::everything(Action::Ignore) });
    let mut compiled = HostRules::default();
    compiled.set(&rules);
    let mut packet = Random(7).packet();
    packet.protocol = UDP;
    assert_eq!(judge(&mut compiled, &packet), Outcome::IgnoredByRule as u32);
    packet.protocol = TCP;
    assert_eq!(judge(&mut compiled, &packet), Outcome::Tracked as u32);
}

#[test]
fn a_sample_keeps_its_share_and_agrees_at_every_interface() {
    let mut compiled = HostRules::default();
    compiled.set(&[Rule::everything(Action::Sample(10))]);
    let mut kept = 0;
    for number in 0..20_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let mut here = [0; 16];
        here[10..].copy_from_slice(&[0xff, 0xff, 10, a, b, c]);
        let mut there = here;
        there[12] = 11;
        let ends = [End { address: here, port: 40_000 }, End { address: there, port: 443 }];
        let packet =
            Packet { ipv6: false, ends, protocol: TCP, point: 1, direction: Direction::Ingress };
        let outcome = judge(&mut compiled, &packet);
        let elsewhere = Packet { point: 9, direction: Direction::Egress, ..packet };
        assert_eq!(judge(&mut compiled, &elsewhere.reversed()), outcome);
        kept += u32::from(outcome == Outcome::Tracked as u32);
    }
    // 2,000 are expected, with a standard deviation of 42.
    assert!((1_830..2_170).contains(&kept), "{kept} of 20,000 flows");
}

#[test]
fn what_is_remembered_does_not_outlive_its_generation() {
    let mut compiled = HostRules::default();
    let packet = Random(3).packet();
    // More changes than there are generations.
    for change in 0..300 {
        let action = if change % 3 == 0 { Action::Ignore } else { Action::Track };
        compiled.set(&[Rule::everything(action)]);
        let expected = if change % 3 == 0 { Outcome::IgnoredByRule } else { Outcome::Tracked };
        assert_eq!(judge(&mut compiled, &packet), expected as u32, "change {change}");
    }
}
