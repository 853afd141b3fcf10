//! What rules cost: a packet of a known flow and of a new one, by a list of one rule and of a thousand. Refuses to report
//! a packet about which was decided otherwise than the table says.

use daemon::live::{Object, RuleMaps};
use datapath::{
    Outcome,
    rules::{Action, Compiled, Network, Rule},
};

use crate::{
    BenchError,
    door::Door,
    frames::{self, Sample},
    measure::{REPEATS, ROUNDS, Rounds},
};

/// Packets of new flows, each measured by itself.
pub const NEW_FLOWS: u16 = 4_096;
/// Rules of a long list.
pub const MANY: usize = 1_000;
/// Where the source address and the source port of the frame lie: behind Ethernet, in and behind IPv4.
const SOURCE_ADDRESS: usize = 26;
const SOURCE_PORT: usize = 34;

/// An object's programs: the empty one, the tracker, and the verdict that passes a packet.
const PROGRAMS: [(Object, &str, &str, u32); 2] = [
    (Object::Xdp, "linnet_xdp_nop", "linnet_xdp", 2),
    (Object::Tc, "linnet_tc_nop", "linnet_ingress", u32::MAX),
];

/// One line of the table.
#[derive(Clone, Debug)]
pub struct RuleCost {
    /// The program.
    pub program: &'static str,
    /// What the packet is.
    pub packet: &'static str,
    /// How many rules are in force; `None` where there never were any.
    pub rules: Option<usize>,
    /// The empty program.
    pub empty: Rounds,
    /// The tracker.
    pub tracker: Rounds,
}

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    packet: &'static str,
    /// Each packet is of another flow.
    new: bool,
    action: Action,
    rules: Option<usize>,
}

const fn case(packet: &'static str, new: bool, action: Action, rules: Option<usize>) -> Case {
    Case { packet, new, action, rules }
}

const CASES: [Case; 10] = [
    case("known flow, tracked", false, Action::Track, None),
    case("known flow, tracked", false, Action::Track, Some(1)),
    case("known flow, tracked", false, Action::Track, Some(MANY)),
    case("known flow, ignored", false, Action::Ignore, Some(1)),
    case("known flow, ignored", false, Action::Ignore, Some(MANY)),
    case("new flow, tracked", true, Action::Track, None),
    case("new flow, tracked", true, Action::Track, Some(1)),
    case("new flow, tracked", true, Action::Track, Some(MANY)),
    case("new flow, ignored", true, Action::Ignore, Some(1)),
    case("new flow, ignored", true, Action::Ignore, Some(MANY)),
];

/// Measures every case with both doors.
pub fn all() -> Result<Vec<RuleCost>, BenchError> {
    let mut costs = Vec::new();
    for (object, empty, tracker, pass) in PROGRAMS {
        for case in CASES {
            // Tables of its own, so that no case fills them for the next.
            let mut door = Door::open(object)?;
            for program in [empty, tracker] {
                door.load(program, 1)?;
            }
            if let Some(count) = case.rules {
                RuleMaps::of_object(door.maps())?.set(&Compiled::new(&list(count, case.action)))?;
            }
            costs.push(measure(&door, case, (empty, tracker), pass)?);
        }
    }
    Ok(costs)
}

/// Rules of which only the last one matches: each of the others names a network and a port of its own.
fn list(count: usize, action: Action) -> Vec<Rule> {
    let elsewhere = |number: usize| {
        let [.., high, low] = u32::try_from(number).unwrap_or(0).to_be_bytes();
        let network = Network::v4([172, 16 + high, low, 0], 24);
        Rule { network, protocol: Some(17), ..Rule::everything(Action::Ignore) }
    };
    let mut rules: Vec<_> = (1..count).map(elsewhere).collect();
    rules.push(Rule { protocol: Some(17), ..Rule::everything(action) });
    rules
}

fn measure(
    door: &Door,
    case: Case,
    (empty, tracker): (&'static str, &'static str),
    pass: u32,
) -> Result<RuleCost, BenchError> {
    let sample = frames::smallest_datagram();
    let mut cost = RuleCost {
        program: tracker,
        packet: case.packet,
        rules: case.rules,
        empty: Rounds::default(),
        tracker: Rounds::default(),
    };
    let run = |program, bytes: &[u8], repeat| {
        let run = door.run(program, bytes, repeat)?;
        if run.returned == pass {
            return Ok(run.ns);
        }
        let (frame, returned, expected) = (case.packet, run.returned, pass);
        Err(BenchError::NotPassed { program, frame, returned, expected })
    };
    let mut fed = 0;
    if case.new {
        for number in 0..NEW_FLOWS {
            let bytes = of_flow(&sample, number);
            cost.empty.push(run(empty, &bytes, 1)?);
            cost.tracker.push(run(tracker, &bytes, 1)?);
            fed += 1;
        }
    } else {
        for round in 0..=ROUNDS {
            let floor_ns = run(empty, &sample.bytes, REPEATS)?;
            let ns = run(tracker, &sample.bytes, REPEATS)?;
            fed += u64::from(REPEATS);
            if round > 0 {
                cost.empty.push(floor_ns);
                cost.tracker.push(ns);
            }
        }
    }
    hold(door, case, tracker, fed)?;
    Ok(cost)
}

/// The frame as another flow's.
fn of_flow(sample: &Sample, number: u16) -> Vec<u8> {
    let mut bytes = sample.bytes.clone();
    bytes[SOURCE_ADDRESS..SOURCE_ADDRESS + 4].copy_from_slice(&[10, 0, 0, 1]);
    bytes[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&(1_024 + number).to_be_bytes());
    bytes
}

/// That about each packet was decided what the table says.
fn hold(door: &Door, case: Case, program: &'static str, fed: u64) -> Result<(), BenchError> {
    let counters = door.counters()?;
    let outcome = match case.action {
        Action::Ignore => Outcome::IgnoredByRule,
        Action::Track | Action::Sample(_) => Outcome::Tracked,
    };
    let flows = match (outcome, case.new) {
        (Outcome::Tracked, true) => u64::from(NEW_FLOWS),
        (Outcome::Tracked, false) => 1,
        _ => 0,
    };
    for (what, found, expected) in [
        ("its outcome under rules", counters.outcomes[outcome as usize], fed),
        ("`created` under rules", counters.created, flows),
    ] {
        if found != expected {
            let (program, frame) = (program.to_owned(), case.packet);
            return Err(BenchError::NotTracked { what, program, frame, found, expected });
        }
    }
    Ok(())
}
