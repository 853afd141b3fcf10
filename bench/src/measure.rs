//! ns per packet of each tracker program, with its empty program run in turn with it, so that both see the same
//! machine. Refuses to report what was not really tracked.

use daemon::live::Object;
use datapath::{
    Frame, Ktime, Outcome,
    layout::{FlowEntry, HookCounters},
    replay::Replay,
};

use crate::{
    BenchError,
    door::{Door, POINT},
    frames::{self, Path, Sample},
};

/// Rounds that count; one more goes before them to warm the caches.
pub const ROUNDS: usize = 7;
/// Repetitions of a frame in a round.
pub const REPEATS: u32 = 300_000;

/// An object's programs: the empty one first, and the verdict that passes a packet.
struct Plan {
    object: Object,
    empty: &'static str,
    trackers: &'static [&'static str],
    pass: u32,
}

const PLANS: [Plan; 2] = [
    Plan {
        object: Object::Xdp,
        empty: "linnet_xdp_nop",
        trackers: &["linnet_xdp"],
        // XDP_PASS
        pass: 2,
    },
    Plan {
        object: Object::Tc,
        empty: "linnet_tc_nop",
        trackers: &["linnet_ingress", "linnet_egress"],
        // TC_ACT_UNSPEC
        pass: u32::MAX,
    },
];

/// Times of the rounds, ns per packet.
#[derive(Clone, Debug, Default)]
pub struct Rounds(Vec<u64>);

impl Rounds {
    /// Takes in another round.
    pub fn push(&mut self, ns: u64) {
        let at = self.0.partition_point(|other| *other <= ns);
        self.0.insert(at, ns);
    }

    /// The quickest round; 0 before the first.
    #[must_use]
    pub fn min(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// The round in the middle; 0 before the first.
    #[must_use]
    pub fn median(&self) -> u64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }
}

/// One program on one kind of frame.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The program.
    pub program: &'static str,
    /// The kind of frame.
    pub frame: &'static str,
    /// Which way a repetition of it takes.
    pub path: Path,
    /// The empty program.
    pub empty: Rounds,
    /// The tracker.
    pub tracker: Rounds,
}

impl Cost {
    /// Quickest round of the tracker less that of the empty program, ns.
    #[must_use]
    pub fn net_min_ns(&self) -> u64 {
        self.tracker.min().saturating_sub(self.empty.min())
    }

    /// The same of the medians.
    #[must_use]
    pub fn net_median_ns(&self) -> u64 {
        self.tracker.median().saturating_sub(self.empty.median())
    }
}

/// Measures every tracker on every frame, frame by frame.
pub fn all() -> Result<Vec<Cost>, BenchError> {
    let mut costs = Vec::new();
    for plan in &PLANS {
        let mut door = Door::open(plan.object)?;
        for program in plan.trackers.iter().chain([&plan.empty]) {
            door.load(program, 1)?;
        }
        for sample in frames::all() {
            costs.extend(on_frame(&mut door, plan, &sample)?);
        }
    }
    Ok(costs)
}

fn on_frame(door: &mut Door, plan: &Plan, sample: &Sample) -> Result<Vec<Cost>, BenchError> {
    let host = on_the_host(sample);
    door.settle(host.flows().map(|(key, flow)| (*key, &*flow.entry)))?;
    let key = host.headers().key;
    if let Some(earlier) = &sample.earlier {
        run(door, plan, sample, plan.trackers[0], earlier, 1)?;
    }
    let before = State { counters: door.counters()?, flow: door.flow(&key)? };
    let mut empty = Rounds::default();
    let mut trackers = vec![Rounds::default(); plan.trackers.len()];
    for round in 0..=ROUNDS {
        let floor_ns = run(door, plan, sample, plan.empty, &sample.bytes, REPEATS)?;
        for (rounds, program) in trackers.iter_mut().zip(plan.trackers) {
            let ns = run(door, plan, sample, program, &sample.bytes, REPEATS)?;
            if round > 0 {
                rounds.push(ns);
            }
        }
        if round > 0 {
            empty.push(floor_ns);
        }
    }
    let rounds = ((ROUNDS + 1) * plan.trackers.len()) as u64;
    let claim = Claim { plan, sample, repeated: rounds * u64::from(REPEATS) };
    claim.hold(&before, &State { counters: door.counters()?, flow: door.flow(&key)? })?;
    let cost = |(tracker, program): (Rounds, &&'static str)| Cost {
        program,
        frame: sample.name,
        path: sample.path,
        empty: empty.clone(),
        tracker,
    };
    Ok(trackers.into_iter().zip(plan.trackers).map(cost).collect())
}

fn run(
    door: &Door,
    plan: &Plan,
    sample: &Sample,
    program: &'static str,
    bytes: &[u8],
    repeat: u32,
) -> Result<u64, BenchError> {
    let run = door.run(program, bytes, repeat)?;
    if run.returned != plan.pass {
        let (frame, returned, expected) = (sample.name, run.returned, plan.pass);
        return Err(BenchError::NotPassed { program, frame, returned, expected });
    }
    Ok(run.ns)
}

/// The sample's frames through the same code on the host, at [`POINT`]: which flows they are of.
fn on_the_host(sample: &Sample) -> Replay {
    let mut host = Replay::default();
    for bytes in sample.earlier.iter().chain([&sample.bytes]) {
        let length = u32::try_from(bytes.len()).expect("frames here are short");
        let frame = Frame { point: u32::from(POINT), ..Frame::plain(Ktime(1), length) };
        let _outcome = host.frame(bytes.as_slice(), &frame);
    }
    host
}

/// What was counted by a moment, and the innermost flow of the frame.
struct State {
    counters: HookCounters,
    flow: Option<FlowEntry>,
}

impl State {
    /// Packets on the flow, and segments in any class.
    fn booked(&self) -> (u64, u64) {
        let halves = || self.flow.iter().flat_map(|flow| &flow.halves);
        let flagged = halves().flat_map(|half| half.classes).map(u64::from).sum();
        (halves().map(|half| half.packets).sum(), flagged)
    }
}

/// That the frame took the path that the table names, each time.
struct Claim<'a> {
    plan: &'a Plan,
    sample: &'a Sample,
    repeated: u64,
}

impl Claim<'_> {
    fn hold(&self, before: &State, after: &State) -> Result<(), BenchError> {
        let fed = self.repeated;
        let outcome = self.sample.path.outcome();
        let counted =
            |figure: fn(&HookCounters) -> u64| figure(&after.counters) - figure(&before.counters);
        self.equal("`seen`", counted(|counters| counters.seen), fed)?;
        let outcomes = |state: &State| state.counters.outcomes[outcome as usize];
        self.equal("its outcome", outcomes(after) - outcomes(before), fed)?;
        self.equal("`contended`", counted(|counters| counters.contended), 0)?;
        self.equal("`created`", counted(|counters| counters.created), 0)?;
        let tracked = outcome == Outcome::Tracked;
        self.equal("flow entries", u64::from(after.flow.is_some()), u64::from(tracked))?;
        let (packets, flagged) = after.booked();
        let (packets_before, flagged_before) = before.booked();
        let packets_fed = if tracked { fed } else { 0 };
        self.equal("packets in the flow entry", packets - packets_before, packets_fed)?;
        let expected = if self.sample.path.is_flagged() { fed } else { 0 };
        self.equal("flagged segments", flagged - flagged_before, expected)
    }

    fn equal(&self, what: &'static str, found: u64, expected: u64) -> Result<(), BenchError> {
        if found == expected {
            return Ok(());
        }
        let program = self.plan.trackers.join("`, `");
        let frame = self.sample.name;
        Err(BenchError::NotTracked { what, program, frame, found, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up_by_least_and_middle() {
        let mut rounds = Rounds::default();
        for ns in [90, 70, 400, 80, 85] {
            rounds.push(ns);
        }
        assert_eq!((rounds.min(), rounds.median()), (70, 85));
    }

    #[test]
    fn a_tracker_quicker_than_nothing_costs_nothing() {
        let rounds = |ns| Rounds(vec![ns]);
        let cost = Cost {
            program: "p",
            frame: "f",
            path: Path::Datagram,
            empty: rounds(30),
            tracker: rounds(29),
        };
        assert_eq!(cost.net_min_ns(), 0);
    }
}
