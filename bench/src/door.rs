//! One BPF object of linnet, loaded for measuring: what its programs cost the verifier, and running them on a frame.
//! Never attaches a program and never pins a map, so nothing outlives it and nothing of a running linnet is touched.
#![allow(clippy::wildcard_enum_match_arm, reason = "aya names every kind of program; ours are two")]

use std::time::{Duration, Instant};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, PerCpuArray},
    programs::{Program, ProgramError, ProgramInfo, TestRun as _, TestRunOptions},
};
use daemon::live::{Object, add};
use datapath::{
    FlowKey, Link,
    layout::{EMBRYONIC, FLOWS_DEFAULT, FlowEntry, HookCounters, Point},
};

use crate::BenchError;

/// The observation point that measured packets are booked at.
pub const POINT: u16 = 1;
/// Where `BPF_PROG_TEST_RUN` says that packets come from: the loopback device of a network namespace.
const LOOPBACK: u32 = 1;

/// A layout of the datapath as aya wants to see it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Pod<T>(T);

// SAFETY: the layouts are `repr(C)` without padding, and any bytes are a value of them (zerocopy checks both where
// they are declared).
unsafe impl aya::Pod for Pod<FlowEntry> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<HookCounters> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<Point> {}

/// What a program costs before it sees a packet.
#[derive(Clone, Debug)]
pub struct Size {
    /// As `bpftool prog` shows it.
    pub program: String,
    /// Instructions that the verifier walked, each as often as it did.
    pub verified: u32,
    /// Instructions of the program as the kernel runs it.
    pub instructions: u32,
    /// Bytes of machine code; 0 where the kernel interprets.
    pub jited_bytes: u32,
    /// From the `BPF_PROG_LOAD` call to its return; the shortest of those that were made.
    pub load: Duration,
}

/// What a program said about a packet, and how long it took on average.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The verdict.
    pub returned: u32,
    /// Mean time of one repetition, whole ns (the kernel's resolution), entry and exit of the program included.
    pub ns: u64,
}

/// A loaded object with maps of its own.
#[derive(Debug)]
pub struct Door {
    object: Object,
    ebpf: Ebpf,
}

impl Door {
    /// Loads the object and makes its maps, with the usual room; loopback becomes observation point [`POINT`].
    pub fn open(object: Object) -> Result<Self, BenchError> {
        Self::with_room(object, FLOWS_DEFAULT)
    }

    /// The same with room for so many flows.
    pub fn with_room(object: Object, flows: u32) -> Result<Self, BenchError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| BenchError::Cpus { path, source })?;
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries("CAPTURE_SCRATCH", u32::try_from(cpus).unwrap_or(u32::MAX))
            .map_max_entries("FLOWS", flows);
        let ebpf = loader
            .load(object.bytes()?)
            .map_err(|source| BenchError::Load { object: object.name(), source })?;
        let mut door = Self { object, ebpf };
        door.set_point(Point { id: POINT, link: Link::Ethernet as u8, _pad: 0 })?;
        Ok(door)
    }

    /// The object, for those who write its maps.
    #[must_use]
    pub const fn maps(&self) -> &Ebpf {
        &self.ebpf
    }

    fn set_point(&mut self, point: Point) -> Result<(), BenchError> {
        const NAME: &str = "POINTS";
        let map = self.ebpf.map_mut(NAME).ok_or_else(|| missing(self.object, NAME))?;
        let failed = |source| BenchError::Map { name: NAME, source };
        let mut points: Array<_, Pod<Point>> = map.try_into().map_err(failed)?;
        points.set(LOOPBACK, Pod(point), 0).map_err(failed)
    }

    /// Loads a program, again where it is loaded already, `times` times; keeps the last and the shortest time.
    pub fn load(&mut self, program: &str, times: u32) -> Result<Size, BenchError> {
        let loaded = self.ebpf.program_mut(program).ok_or_else(|| missing(self.object, program))?;
        let refused = |source| BenchError::Program { program: program.to_owned(), source };
        let mut load = Duration::MAX;
        for _ in 0..times.max(1) {
            load = load.min(load_once(loaded).map_err(refused)?);
        }
        let info = info(loaded).map_err(refused)?;
        Ok(Size {
            program: program.to_owned(),
            verified: info.verified_instruction_count().unwrap_or(0),
            instructions: info.size_translated().unwrap_or(0) / INSTRUCTION_BYTES,
            jited_bytes: info.size_jitted(),
            load,
        })
    }

    /// Runs a loaded program on a frame, `repeat` times in a row.
    pub fn run(&self, program: &'static str, frame: &[u8], repeat: u32) -> Result<Run, BenchError> {
        let loaded = self.ebpf.program(program).ok_or_else(|| missing(self.object, program))?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let run = match loaded {
            Program::Xdp(loaded) => loaded.test_run(options),
            Program::SchedClassifier(loaded) => loaded.test_run(options),
            _ => return Err(missing(self.object, program)),
        };
        let run = run.map_err(|source| BenchError::Run { program, source })?;
        let ns = u64::try_from(run.duration.as_nanos()).unwrap_or(u64::MAX);
        Ok(Run { returned: run.return_value, ns })
    }

    /// Names of the object's programs, in order.
    #[must_use]
    pub fn programs(&self) -> Vec<String> {
        let mut names: Vec<_> = self.ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// The sum over all CPUs and both directions of what was counted at [`POINT`].
    pub fn counters(&self) -> Result<HookCounters, BenchError> {
        const NAME: &str = "HOOKS";
        let map = self.ebpf.map(NAME).ok_or_else(|| missing(self.object, NAME))?;
        let failed = |source| BenchError::Map { name: NAME, source };
        let hooks: PerCpuArray<_, Pod<HookCounters>> = map.try_into().map_err(failed)?;
        let mut sum = HookCounters::default();
        for direction in 0..2 {
            for Pod(counters) in
                hooks.get(&(u32::from(POINT) * 2 + direction), 0).map_err(failed)?.iter()
            {
                add(&mut sum, counters);
            }
        }
        Ok(sum)
    }

    /// Puts flows into the table as what has proved to be some: else they would change tables while they are measured.
    pub fn settle<'a>(
        &mut self,
        flows: impl IntoIterator<Item = (FlowKey, &'a FlowEntry)>,
    ) -> Result<(), BenchError> {
        const NAME: &str = "FLOWS";
        let map = self.ebpf.map_mut(NAME).ok_or_else(|| missing(self.object, NAME))?;
        let failed = |source| BenchError::Map { name: NAME, source };
        let mut map: HashMap<_, Pod<FlowKey>, Pod<FlowEntry>> = map.try_into().map_err(failed)?;
        for (key, entry) in flows {
            let mut entry = *entry;
            entry.head.bits &= !EMBRYONIC;
            map.insert(Pod(key), Pod(entry), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// The entry of a flow that has proved to be one; `None` where there is none.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<FlowEntry>, BenchError> {
        const NAME: &str = "FLOWS";
        let map = self.ebpf.map(NAME).ok_or_else(|| missing(self.object, NAME))?;
        let failed = |source| BenchError::Map { name: NAME, source };
        let flows: HashMap<_, Pod<FlowKey>, Pod<FlowEntry>> = map.try_into().map_err(failed)?;
        match flows.get(&Pod(*key), 0) {
            Ok(Pod(entry)) => Ok(Some(entry)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }
}

/// Bytes of one BPF instruction.
const INSTRUCTION_BYTES: u32 = 8;

#[expect(clippy::disallowed_methods, reason = "how long a load takes is what is measured")]
fn load_once(program: &mut Program) -> Result<Duration, ProgramError> {
    if program.fd().is_ok() {
        match program {
            Program::Xdp(program) => program.unload()?,
            Program::SchedClassifier(program) => program.unload()?,
            _ => {}
        }
    }
    let start = Instant::now();
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(start.elapsed())
}

fn info(program: &Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::Xdp(program) => program.info(),
        Program::SchedClassifier(program) => program.info(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn missing(object: Object, name: &str) -> BenchError {
    BenchError::Missing { object: object.name(), name: name.to_owned() }
}
