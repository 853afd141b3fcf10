//! The verbs' bytes against whatever a daemon might send: nothing that cannot be read as a whole is performed, nothing
//! that was written is read as something else, and no message makes the attacher use memory that it does not hold.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, says what it did, and makes its own numbers"
)]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use captures::filter::Instruction;
use daemon::live::filters::{Alternative, View};
use daemon::live::{
    Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, Chain, ChainLink, Hook, Points,
    RuleRequest, StageConfig, Verb, WatchedPoint, Watching, answer,
    wire::{self, MESSAGE_MAX},
};
use datapath::rules::{Action, Network, Ports, Rule};
use support::Random;

/// What the largest message may make of its bytes, and some room for sentences.
const MEMORY_MAX: usize = 16 * MESSAGE_MAX;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// Counts what a thread allocates.
struct Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _counted = ALLOCATED.try_with(|sum| sum.set(sum.get() + layout.size()));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A rule with every condition that it can have.
fn full_rule(interface: &str) -> RuleRequest {
    let rule = Rule {
        network: Network::v4([10, 1, 0, 0], 16),
        port: Some(Ports { first: 1, last: 1_023 }),
        peer_network: Network::v6([0xfd; 16], 128),
        peer_port: Some(Ports { first: 443, last: 443 }),
        protocol: Some(6),
        direction: Some(datapath::Direction::Egress),
        ..Rule::everything(Action::Sample(100))
    };
    RuleRequest { rule, interface: Some(interface.to_owned()) }
}

/// All packets of a point, or of all.
fn stage(point: Option<u32>) -> StageConfig {
    StageConfig {
        snaplen: 96,
        payload_max: None,
        deadline_ns: u64::MAX,
        packets_max: 1_000,
        bytes_max: u64::MAX,
        point,
        filter: None,
    }
}

/// A filter of so many instructions, which everything matches.
fn accepting(view: View, length: usize) -> Alternative {
    const RETURN: u16 = 0x06;
    let all = Instruction { code: RETURN, jt: 0, jf: 0, k: u32::MAX };
    Alternative { view, link: datapath::Link::Ethernet, instructions: vec![all; length] }
}

/// One of every verb, and of their forms.
fn verbs() -> Vec<Verb> {
    let everything_of = |slot, point| Verb::StartCapture { slot, config: stage(point) };
    let filtered = StageConfig {
        payload_max: Some(0),
        filter: Some(vec![accepting(View::Wire, 1), accepting(View::Tunneled, 4_096)]),
        ..stage(Some(1))
    };
    let everything = RuleRequest { rule: Rule::everything(Action::Ignore), interface: None };
    vec![
        everything_of(0, None),
        everything_of(63, Some(127)),
        Verb::StartCapture { slot: 1, config: filtered },
        Verb::StopCapture { slot: 63 },
        Verb::StopCaptures,
        Verb::SetRules(Vec::new()),
        Verb::SetRules(vec![full_rule("blue/eth0"), everything, full_rule("eth1")]),
        Verb::SetRules(vec![full_rule("eth0"); 1_024]),
        Verb::Look { left: Vec::new() },
        Verb::Look { left: (1..128).collect() },
        Verb::RestoreRules(vec![full_rule("eth0")]),
        Verb::Serving,
        Verb::Ending,
    ]
}

#[test]
fn every_verb_comes_back_as_it_was_and_no_part_of_it_does() {
    for verb in verbs() {
        let bytes = wire::request(7, &verb).unwrap();
        assert_eq!(wire::read_request(&bytes), (7, Ok(verb.clone())));
        // Every cut of a short message, and some of a long one.
        for length in (0..bytes.len()).step_by(bytes.len().div_ceil(500)) {
            let (_, read) = wire::read_request(&bytes[..length]);
            assert!(read.is_err(), "{verb:?} cut to {length} is {read:?}");
        }
        let (_, read) = wire::read_request(&[&bytes[..], &[0]].concat());
        assert_eq!(read, Err(wire::WireError::Trailing(1)), "{verb:?}");
        let other = [&[wire::VERSION + 1], &bytes[1..]].concat();
        assert_eq!(wire::read_request(&other).1, Err(wire::WireError::Version(wire::VERSION + 1)));
    }
}

#[test]
fn what_no_daemon_may_ask_for_is_refused() {
    let named = |name: &str| wire::request(1, &Verb::SetRules(vec![full_rule(name)])).unwrap();
    let bad = |bytes: Vec<u8>, from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        let changed = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
        let (_, read) = wire::read_request(&changed);
        assert!(read.is_err(), "{read:?}");
    };
    bad(named("blue/eth0"), b"eth0", b"\xff\xff\xff\xff");
    let beyond = Verb::SetRules(vec![full_rule("eth0"); 1_025]);
    assert!(wire::request(1, &beyond).is_err(), "more rules than fit");
    for point in [0, 128, u32::MAX] {
        let look = wire::request(1, &Verb::Look { left: vec![1, point] }).unwrap();
        assert!(wire::read_request(&look).1.is_err(), "{point}");
    }
    let start = |slot, config| wire::request(1, &Verb::StartCapture { slot, config }).unwrap();
    for snaplen in [0, 65_537] {
        let config = StageConfig { snaplen, ..stage(None) };
        assert!(wire::read_request(&start(0, config)).1.is_err(), "{snaplen}");
    }
    assert!(wire::read_request(&start(64, stage(None))).1.is_err(), "a slot that there is not");
    // A jump behind the end.
    let mut wrong = accepting(View::Wire, 2);
    wrong.instructions[0] = Instruction { code: 0x05, jt: 0, jf: 0, k: 7 };
    let config = StageConfig { filter: Some(vec![wrong]), ..stage(None) };
    assert!(wire::read_request(&start(0, config)).1.is_err(), "a filter that leaves itself");
    let many = vec![accepting(View::Wire, 1); 7];
    let verb =
        Verb::StartCapture { slot: 0, config: StageConfig { filter: Some(many), ..stage(None) } };
    assert!(wire::request(1, &verb).is_err(), "more ways to match than there are");
}

/// A message of random bytes, or a good one with a few places changed, cut or doubled.
fn message(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = if random.below(4) == 0 {
        let length = random.below(300) as usize;
        (0..length).map(|_| random.next() as u8).collect()
    } else {
        good[random.below(good.len() as u64) as usize].clone()
    };
    for _ in 0..random.below(4) {
        let length = bytes.len() as u64;
        if length == 0 {
            break;
        }
        let at = random.below(length.min(200)) as usize;
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            2 => bytes[at] = random.next() as u8,
            3 => bytes[at] ^= 1 << random.below(8),
            _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
        }
    }
    bytes
}

#[test]
fn no_message_makes_the_attacher_panic_or_do_what_was_not_said() {
    let seconds = if support::full() { 60 } else { 3 };
    let end_ns = lab::clock::monotonic_ns() + lab::clock::nanos(Duration::from_secs(seconds));
    let good: Vec<_> = verbs().iter().map(|verb| wire::request(1, verb).unwrap()).collect();
    let mut random = Random(0x5eed_0004);
    let (mut messages, mut performed, mut most) = (0_u64, 0_u64, 0);
    while lab::clock::monotonic_ns() < end_ns {
        for _ in 0..100 {
            let bytes = message(&mut random, &good);
            let before = ALLOCATED.get();
            let mut asked = None;
            let (number, outcome) = answer(&bytes, |verb| {
                asked = Some(verb);
                Ok(Answer::Done)
            });
            most = most.max(ALLOCATED.get() - before);
            messages += 1;
            // Either it was performed and says again what was sent, byte for byte, or nothing was performed.
            match asked {
                Some(verb) => {
                    performed += 1;
                    assert_eq!(wire::request(number, &verb).unwrap(), bytes);
                    assert_eq!(outcome, Ok(Answer::Done));
                }
                None => assert!(!outcome.unwrap_err().message.is_empty()),
            }
        }
    }
    println!("{messages} messages in {seconds} s: {performed} performed, at most {most} bytes");
    assert!(messages > 10_000 && performed > 0 && performed < messages);
    assert!(most < MEMORY_MAX, "{most} bytes for one message");
}

/// So many interfaces with so many links in each chain, and long names.
fn watching(interfaces: u32, links: usize) -> Watching {
    let hook = AttachedHook {
        hook: Hook::Tcx,
        reason: "tc sees what the stack sees and changes nothing".into(),
        program_id: Some(u32::MAX),
    };
    let link =
        |ours| ChainLink { hook: "tcx", program_id: Some(7), name: Some("x".repeat(32)), ours };
    let links: Vec<_> = (0..links).map(|number| link(number == 0)).collect();
    let points = (1..=interfaces).map(|point| {
        let name = format!("{}/interface-{point:05}", "n".repeat(255));
        let mut request: AttachRequest = name.parse().unwrap();
        request.interface.truncate(15);
        let attached = Attached {
            point,
            ifindex: point,
            link: datapath::Link::Ethernet,
            ingress: Some(hook.clone()),
            egress: Some(hook.clone()),
        };
        let point = AttachedPoint { request, attached };
        let chain = Chain { links: links.clone(), displaced: true };
        let chains = [chain.clone(), chain];
        WatchedPoint { point, namespace_number: 1, gone: false, chains }
    });
    Watching { points: points.collect(), notices: vec!["n".repeat(1_024); 16] }
}

#[test]
fn what_is_watched_fits_into_a_message_however_much_it_is() {
    let points = Points::from(watching(127, 16));
    let told = points.watching();
    let bytes = wire::response(1, &Ok(Answer::Watched(told.clone()))).unwrap();
    println!("127 interfaces with 16 links on each hook: {} bytes of {MESSAGE_MAX}", bytes.len());
    assert_eq!(wire::read_response(&bytes), (1, Ok(Ok(Answer::Watched(told.clone())))));
    let first = &told.points[0].chains[0];
    assert_eq!((first.links.len(), told.points[126].chains[1].links.len()), (16, 1));
}

#[test]
fn no_response_makes_the_daemon_panic() {
    let good: Vec<_> = [
        Ok(Answer::Done),
        Ok(Answer::RulesSet { generation: 3 }),
        Ok(Answer::Watched(watching(3, 2))),
        Err(daemon::live::Refusal {
            kind: daemon::live::RefusalKind::OneInterface,
            rule: Some(4),
            message: "é".repeat(5_000),
        }),
    ]
    .iter()
    .map(|outcome| wire::response(1, outcome).unwrap())
    .collect();
    let mut random = Random(0x5eed_0005);
    for _ in 0..100_000 {
        let bytes = message(&mut random, &good);
        let (number, read) = wire::read_response(&bytes);
        if let Ok(outcome) = read {
            assert_eq!(wire::response(number, &outcome).unwrap(), bytes);
        }
    }
}
