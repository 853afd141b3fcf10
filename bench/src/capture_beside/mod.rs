//! What captures cost and take beside the tools that people use for them: tcpdump, dumpcap, netsniff-ng and xdpdump, on the
//! same generated frames in one run. Never captures on an interface that its lab did not make.

pub mod bed;
pub mod cpu;
pub mod kernel;
pub mod linnet;
pub mod scratch;
pub mod search;
pub mod sender;
pub mod table;
pub mod tool;

use std::path::Path;

use anyhow::Context as _;

use self::{
    bed::{Bed, Beside, Trial},
    cpu::Meter,
    linnet::Hook,
    scratch::Scratch,
    search::{Found, Outcome},
    tool::Tool,
};

/// Every tool's buffer between kernel and process, MiB; linnet has one for each processor, and one processor sends.
pub const BUFFER_MIB: usize = 32;
/// The processor on which every tool runs.
pub const PROCESSOR: usize = 1;
/// What is kept of a frame where its headers are wanted, bytes.
pub const HEADERS: u32 = 96;
/// What is kept where all is wanted: as much as linnet copies.
pub const WHOLE: u32 = 65_536;
/// How long frames are sent in a trial of the search and of the cost, ms.
pub const SEARCH_MS: u64 = 1_500;
/// The same where the processors' time is taken.
pub const COST_MS: u64 = 1_000;
/// The rate at which the processors' time is taken, frames/s.
pub const COST_RATE: u64 = 200_000;
/// Rounds of that; in each, every line of the table in turn.
pub const ROUNDS: usize = 3;
/// Most bytes that the frames of a trial may take in a file.
const FILE_MAX: u64 = 3 << 30;

/// What a tool says of its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Packets in the file.
    pub written: u64,
    /// Packets that it knows it has not.
    pub lost: u64,
}

/// Frames of a length, and how much of them is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Bytes of a frame.
    pub length: usize,
    /// Bytes that are kept.
    pub snaplen: u32,
}

impl Scene {
    /// In the order of the tables. A frame of 64 B has less than [`HEADERS`].
    pub const ALL: [Self; 4] = [
        Self { length: 64, snaplen: WHOLE },
        Self { length: 512, snaplen: WHOLE },
        Self { length: 1_514, snaplen: WHOLE },
        Self { length: 1_514, snaplen: HEADERS },
    ];

    /// As the tables call it.
    #[must_use]
    pub fn name(self) -> String {
        let Self { length, snaplen } = self;
        if snaplen == WHOLE {
            format!("{length} B")
        } else {
            format!("{length} B, {snaplen} B kept")
        }
    }

    /// Frames of a trial that lasts so long, as many as there is room for.
    #[must_use]
    pub fn frames(self, rate: u64, trial_ms: u64) -> u32 {
        let stored = self.length.min(self.snaplen as usize) as u64 + 80;
        u32::try_from((rate * trial_ms / 1_000).min(FILE_MAX / stored)).unwrap_or(u32::MAX)
    }
}

/// The captures of the search, in the order of the table.
pub const CAPTURES: [Beside; 6] = [
    Beside::Linnet(Hook::Tc),
    Beside::Linnet(Hook::Xdp),
    Beside::Tool(Tool::Tcpdump),
    Beside::Tool(Tool::Dumpcap),
    Beside::Tool(Tool::NetsniffNg),
    Beside::Tool(Tool::Xdpdump),
];

/// What is there in the rounds of the cost: the floor first.
pub const COSTS: [Beside; 10] = [
    Beside::Nothing,
    Beside::EmptyProgram,
    Beside::Watching(Hook::Tc),
    Beside::Watching(Hook::Xdp),
    CAPTURES[0],
    CAPTURES[1],
    CAPTURES[2],
    CAPTURES[3],
    CAPTURES[4],
    CAPTURES[5],
];

/// What the search found for a tool in each scene; or why the tool does not work here.
pub type Searched = (Beside, Result<[Found; 4], String>);

/// What the rounds took beside something, scene by scene.
#[derive(Clone, Debug)]
pub struct Costs {
    /// What was there.
    pub beside: Beside,
    /// The rounds of each scene; empty where it does not work here.
    pub trials: [Vec<Trial>; 4],
}

/// What does not change during a run.
#[derive(Debug)]
pub struct Run<'a> {
    /// The release build of linnet.
    pub linnet: &'a Path,
    /// Where files go.
    pub scratch: Scratch,
    /// The processors' time.
    pub meter: Meter,
}

impl Run<'_> {
    /// Searches the highest rate of every tool, scene by scene. A tool that does not work is told with its words.
    pub fn search(&self) -> Vec<Searched> {
        let of = |beside| {
            let found = self.search_one(beside);
            (beside, found.map_err(|error| format!("{error:#}")))
        };
        CAPTURES.map(of).into()
    }

    fn search_one(&self, beside: Beside) -> anyhow::Result<[Found; 4]> {
        let bed = Bed::new(self, beside)?;
        let mut all = [Found { rate: 0, is_senders_limit: false }; 4];
        for (scene, found) in Scene::ALL.into_iter().zip(&mut all) {
            *found = search::search(|rate| {
                let frames = scene.frames(rate.unwrap_or(search::RATE_MOST), SEARCH_MS);
                let trial = bed.trial(scene, frames, rate)?;
                anyhow::Ok(Outcome { rate: trial.rate(), whole: trial.is_whole() })
            })
            .with_context(|| scene.name())?;
        }
        Ok(all)
    }

    /// Takes the processors' time of everything, in turn.
    pub fn costs(&self) -> anyhow::Result<Vec<Costs>> {
        let none = || [const { Vec::new() }; 4];
        let mut all = COSTS.map(|beside| Costs { beside, trials: none() });
        for _ in 0..ROUNDS {
            for costs in &mut all {
                match self.cost(costs) {
                    // It was told by the search why.
                    Err(_) if matches!(costs.beside, Beside::Tool(_)) => {}
                    other => other.with_context(|| costs.beside.name())?,
                }
            }
        }
        Ok(all.into())
    }

    fn cost(&self, costs: &mut Costs) -> anyhow::Result<()> {
        let bed = Bed::new(self, costs.beside)?;
        for (scene, trials) in Scene::ALL.into_iter().zip(&mut costs.trials) {
            let frames = scene.frames(COST_RATE, COST_MS);
            trials.push(bed.trial(scene, frames, Some(COST_RATE))?);
        }
        Ok(())
    }
}
