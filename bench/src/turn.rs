//! ns per packet where many flows take turns, so that each packet finds its flow out of the processor's caches; beside
//! it what the same run takes for a clock and for a look at such a flow, so that the part of memory shows.

use daemon::live::Object;
use datapath::{
    FlowKey, Frame, IpAddress, Ktime, Outcome,
    layout::{FLOWS_DEFAULT, FlowEntry, HookCounters},
    replay::Replay,
};

use crate::{
    BenchError,
    door::{Door, POINT},
    frames,
    measure::{ROUNDS, Rounds},
};

/// Flows that take turns; each divides [`REPEATS`], so that in a round each is met as often as the others.
pub const FLOWS: [u32; 3] = [1, 100_000, 1_000_000];
/// Repetitions of the frame in a round.
pub const REPEATS: u32 = 1_000_000;

/// XDP_PASS.
const PASS: u32 = 2;
/// The network whose addresses are the flows: 10.0.0.0/8. All are smaller than the frame's destination.
const SOURCES: u32 = 10 << 24;
/// The source in a frame with Ethernet and IPv4 headers.
const SOURCE_AT: usize = 14 + 12;
/// The sequence number and the payload behind the header, which has timestamps.
const SEQUENCE_AT: usize = 14 + 20 + 4;
const PAYLOAD_AT: usize = 14 + 20 + 32;
/// Flows that are looked at afterwards.
const PROBES: u32 = 1_000;

/// What one program of the run is there for.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// As in the table.
    pub name: &'static str,
    /// The program.
    pub program: &'static str,
    /// The program whose time is taken off.
    pub floor: Option<&'static str>,
}

const EMPTY: &str = "linnet_xdp_nop";
const TURN: &str = "linnet_xdp_turn_nop";
const TRACKER: &str = "linnet_xdp_turn";

/// Every line of the table, in the order of a round; the floors are among them.
pub const PARTS: [Part; 6] = [
    Part { name: "an empty program", program: EMPTY, floor: None },
    Part { name: "the frame made the next flow's", program: TURN, floor: Some(EMPTY) },
    Part { name: "`bpf_ktime_get_ns`", program: "linnet_xdp_clock", floor: Some(EMPTY) },
    Part {
        name: "look-up of the 48-byte key in the flow table",
        program: "linnet_xdp_turn_look",
        floor: Some(TURN),
    },
    Part {
        name: "the look-up, and one counter of what it found",
        program: "linnet_xdp_turn_count",
        floor: Some(TURN),
    },
    Part { name: "the tracker", program: TRACKER, floor: Some(TURN) },
];

/// The times of all programs with so many flows.
#[derive(Clone, Debug)]
pub struct InTurn {
    /// How many flows took turns.
    pub flows: u32,
    /// Room of the flow table.
    pub room: u32,
    /// By program, as in [`PARTS`].
    pub rounds: Vec<(&'static str, Rounds)>,
}

impl InTurn {
    /// Least and median of a part, net of its floor, ns.
    #[must_use]
    pub fn net_ns(&self, part: &Part) -> (u64, u64) {
        let of = |program: &str| {
            let found = self.rounds.iter().find(|(other, _)| *other == program);
            found.map_or((0, 0), |(_, rounds)| (rounds.min(), rounds.median()))
        };
        let (whole, floor) = (of(part.program), part.floor.map_or((0, 0), of));
        (whole.0.saturating_sub(floor.0), whole.1.saturating_sub(floor.1))
    }
}

/// Measures with each number of flows.
pub fn all() -> Result<Vec<InTurn>, BenchError> {
    FLOWS.iter().map(|flows| with(*flows)).collect()
}

fn with(flows: u32) -> Result<InTurn, BenchError> {
    let room = flows.next_power_of_two().max(FLOWS_DEFAULT);
    let mut door = Door::with_room(Object::Xdp, room)?;
    let programs = PARTS.map(|part| part.program);
    for program in programs {
        door.load(program, 1)?;
    }
    let mut scene = Scene::new(flows);
    door.settle((0..flows).map(|number| (scene.key(number), &scene.entry)))?;
    let before = door.counters()?;
    let mut rounds: Vec<_> = programs.iter().map(|program| (*program, Rounds::default())).collect();
    for round in 0..=ROUNDS {
        for (program, rounds) in &mut rounds {
            let run = door.run(program, &scene.frame, REPEATS)?;
            if *program == TRACKER {
                scene.advance();
            }
            if run.returned != PASS {
                let (program, frame) = (*program, scene.name);
                let (returned, expected) = (run.returned, PASS);
                return Err(BenchError::NotPassed { program, frame, returned, expected });
            }
            if round > 0 {
                rounds.push(run.ns);
            }
        }
    }
    scene.hold(&door, &before)?;
    Ok(InTurn { flows, room, rounds })
}

/// The frame, and what its flows look like before the first of them is met.
struct Scene {
    name: &'static str,
    flows: u32,
    frame: Vec<u8>,
    key: FlowKey,
    entry: FlowEntry,
}

impl Scene {
    /// The frame carries whose turn it is in its payload (`datapath::kernel::turn`).
    fn new(flows: u32) -> Self {
        let mut sample = frames::data();
        let payload = u32::try_from(frames::FULL_SEGMENT).expect("a segment is short");
        for (place, word) in [flows, step(flows), 0, 0, payload].into_iter().enumerate() {
            let at = PAYLOAD_AT + place * 4;
            sample.bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        sample.bytes[SOURCE_AT..SOURCE_AT + 4].copy_from_slice(&SOURCES.to_be_bytes());
        let mut host = Replay::default();
        let length = u32::try_from(sample.bytes.len()).expect("frames here are short");
        let frame = Frame { point: u32::from(POINT), ..Frame::plain(Ktime(1), length) };
        let _outcome = host.frame(sample.bytes.as_slice(), &frame);
        let key = host.headers().key;
        let entry = *host.flow(&key).expect("a segment has a flow").entry;
        Self { name: sample.name, flows, frame: sample.bytes, key, entry }
    }

    /// The next run begins where the last one ended.
    fn advance(&mut self) {
        let sent = REPEATS / self.flows;
        let sequence: &mut [u8; 4] =
            (&mut self.frame[SEQUENCE_AT..SEQUENCE_AT + 4]).try_into().expect("four bytes");
        let payload = u32::try_from(frames::FULL_SEGMENT).expect("a segment is short");
        let next = u32::from_be_bytes(*sequence).wrapping_add(sent.wrapping_mul(payload));
        *sequence = next.to_be_bytes();
    }

    fn key(&self, number: u32) -> FlowKey {
        FlowKey { lower: IpAddress::from_ipv4((SOURCES | number).to_be_bytes()), ..self.key }
    }

    /// That every repetition met the flow whose turn it was.
    fn hold(&self, door: &Door, before: &HookCounters) -> Result<(), BenchError> {
        let after = door.counters()?;
        let fed = (ROUNDS as u64 + 1) * u64::from(REPEATS);
        let tracked = |counters: &HookCounters| counters.outcomes[Outcome::Tracked as usize];
        self.equal("`seen`", after.seen - before.seen, fed)?;
        self.equal("its outcome", tracked(&after) - tracked(before), fed)?;
        self.equal("`contended`", after.contended - before.contended, 0)?;
        self.equal("`created`", after.created - before.created, 0)?;
        // The tracker counts each packet, and so does the program for one counter.
        let packets = self.entry.halves[0].packets + 2 * fed / u64::from(self.flows);
        let probes = self.flows.min(PROBES);
        for probe in 0..probes {
            let flow = door.flow(&self.key(probe * (self.flows / probes)))?;
            let found = flow.map_or(0, |flow| flow.halves[0].packets);
            self.equal("packets in a flow entry", found, packets)?;
            let flagged = flow.map_or(0, |flow| flow.halves[0].classes.iter().sum());
            self.equal("flagged segments", u64::from(flagged), 0)?;
        }
        Ok(())
    }

    fn equal(&self, what: &'static str, found: u64, expected: u64) -> Result<(), BenchError> {
        if found == expected {
            return Ok(());
        }
        let program = TRACKER.to_owned();
        Err(BenchError::NotTracked { what, program, frame: self.name, found, expected })
    }
}

/// From one flow to the next: near the golden section, so that neighbours in time are far apart, and without a common
/// divisor, so that each has its turn.
fn step(flows: u32) -> u32 {
    const fn divisor(a: u32, b: u32) -> u32 {
        match a.checked_rem(b) {
            None => a,
            Some(rest) => divisor(b, rest),
        }
    }
    let near = flows / 1_000 * 618;
    (near..flows).find(|step| divisor(flows, *step) == 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_its_turn() {
        for flows in [1, 10, 1_000, 100_000] {
            let step = step(flows);
            let mut met = vec![false; flows as usize];
            let mut at = 0;
            for _ in 0..flows {
                at = (at + step) % flows;
                assert!(!met[at as usize], "{at} of {flows}, by {step}");
                met[at as usize] = true;
            }
        }
    }

    #[test]
    fn rounds_meet_each_flow_as_often() {
        assert!(FLOWS.iter().all(|flows| REPEATS.is_multiple_of(*flows)));
    }

    #[test]
    fn the_source_is_the_smaller_address() {
        let scene = Scene::new(1_000_000);
        assert_eq!(scene.key(0), scene.key);
        assert_ne!(scene.key(999_999), scene.key);
        assert!(scene.entry.halves[0].packets > 0);
    }
}
