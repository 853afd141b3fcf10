//! T2 under rules: the same packets, lists and changes of lists through the kernel programs and through the host's
//! pipeline give the same flows, byte for byte, and the same counters.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and makes its own numbers"
)]

mod support;

use daemon::live;
use datapath::{
    Direction, Frame, Outcome,
    layout::HookCounters,
    replay::Replay,
    rules::{Action, Network, Ports, Rule},
};
use support::door::{Door, POINT, Sample};

/// Rules that are put in force before the sample of a number.
struct Change {
    before: usize,
    rules: Vec<Rule>,
}

/// Frames of every kind, none of them damaged.
fn samples(random: &mut support::Random, count: u64) -> Vec<Sample> {
    let sample = |number: u64| {
        let frame = support::frame(random);
        Sample::new(number * 700_000, u32::try_from(frame.len()).unwrap(), &frame)
    };
    (0..count).filter_map(sample).collect()
}

/// Feeds both sides, each door's frames in its direction, and holds every byte of one against the other. Returns what
/// was counted of received frames.
fn hold(name: &str, samples: &[Sample], changes: &[Change]) -> HookCounters {
    let mut received = HookCounters::default();
    for mut door in Door::both(16_384).into_iter().chain([Door::egress(16_384)]) {
        let mut host = Replay::default();
        for (number, sample) in samples.iter().enumerate() {
            for change in changes.iter().filter(|change| change.before == number) {
                host.set_rules(&change.rules);
                door.set_rules(&change.rules);
            }
            let frame = Frame { direction: door.direction(), ..sample.frame() };
            let _counted = host.frame(sample.data.as_slice(), &frame);
            door.run(sample);
        }
        door.hold(name, &host);
        if door.direction() == Direction::Ingress {
            received = *host.counters();
        }
    }
    received
}

/// A rule for some of the frames of [`support::frame`].
fn rule(random: &mut support::Random) -> Rule {
    fn maybe<T>(random: &mut support::Random, make: impl FnOnce(u64) -> T) -> Option<T> {
        (random.below(3) == 0).then(|| make(random.next() >> 16))
    }
    let network = |number: u64| {
        let host = [0, 1, 2, 3, 8, 9][(number % 6) as usize];
        let mut ipv6 = [0; 16];
        (ipv6[0], ipv6[15]) = (0xfd, host);
        let prefix = [0, 8, 24, 28, 30, 31, 32, 32][(number / 6 % 8) as usize];
        if number.is_multiple_of(2) {
            Network::v4([10, 0, 0, host], prefix).unwrap()
        } else {
            Network::v6(ipv6, 96 + prefix).unwrap()
        }
    };
    let ports = |number: u64| {
        let first = [0, 443, 443, 4_789, 6_081, 40_000][(number % 6) as usize];
        Ports { first, last: if number.is_multiple_of(5) { 65_535 } else { first } }
    };
    let action = match random.below(3) {
        0 => Action::Track,
        1 => Action::Ignore,
        _ => Action::Sample(2 + random.below(3) as u32),
    };
    Rule {
        action,
        network: maybe(random, network),
        port: maybe(random, ports),
        peer_network: maybe(random, network),
        peer_port: maybe(random, ports),
        protocol: maybe(random, |number| [6, 17, 1, 58, 47, 4][(number % 6) as usize]),
        point: maybe(random, |number| u32::from(number % 4 == 0) + u32::from(POINT)),
        direction: maybe(random, |number| {
            if number.is_multiple_of(2) { Direction::Ingress } else { Direction::Egress }
        }),
    }
}

#[test]
fn the_kernel_and_the_host_agree_on_rules_that_change() {
    if !support::kernel("kernel parity under rules") {
        return;
    }
    let mut random = support::Random(0x44_55_66);
    let mut sum = HookCounters::default();
    for (round, length) in [1, 5, 64, 200, 1_000].into_iter().enumerate() {
        let samples = samples(&mut random, 1_500);
        // The first packets see no rules, and the last change takes all of them away.
        let mut change = |before, length: usize| Change {
            before,
            rules: (0..length).map(|_| rule(&mut random)).collect(),
        };
        let changes = [change(200, length), change(500, length), change(800, 3), change(1_200, 0)];
        let counters = hold(&format!("rules, round {round}"), &samples, &changes);
        live::add(&mut sum, &counters);
    }
    let count = |outcome: Outcome| sum.outcomes[outcome as usize];
    for outcome in [Outcome::Tracked, Outcome::IgnoredByRule, Outcome::SampledOut] {
        assert!(count(outcome) > 200, "{outcome:?}: {}", count(outcome));
    }
    assert_eq!(sum.seen, sum.outcomes.iter().sum::<u64>());
}

#[test]
fn generations_come_again_without_their_decisions() {
    if !support::kernel("kernel parity over all generations") {
        return;
    }
    let mut random = support::Random(0x12_34);
    let samples = samples(&mut random, 300);
    let action = |number| if number % 3 == 0 { Action::Ignore } else { Action::Track };
    let change = |before| Change { before, rules: vec![Rule::everything(action(before))] };
    let changes: Vec<_> = (0..samples.len()).map(change).collect();
    assert!(changes.len() > 2 * 126);
    hold("every generation twice", &samples, &changes);
}
