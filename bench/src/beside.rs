//! What `linnet analyze` takes for a capture, beside the tools that answer the same question: tshark for the classes of
//! each frame, tcptrace for connections with their retransmissions and round trips. Reads files only.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, BufWriter},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use lab::{
    clock::monotonic_ns,
    synth::{self, Scene},
};

use crate::report::spread;

/// Rounds; in each, every program reads every file once, in turn.
pub const ROUNDS: usize = 5;
/// How many of the greatest captures of the corpus are read.
pub const LARGEST: usize = 4;
/// The synthetic capture, which is larger than any of the corpus.
pub const SCENE: Scene =
    Scene { seconds: 60, seed: 1, flows: 300, start_wall_ns: 1_735_689_600_000_000_000 };

/// What tshark has to print of a flagged frame: its classes, as `linnet analyze --frames` has them.
const CLASSES: [&str; 15] = [
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "out_of_order",
    "duplicate_ack",
    "lost_segment",
    "ack_lost_segment",
    "keep_alive",
    "keep_alive_ack",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "window_update",
    "window_full",
    "reused_ports",
];

/// A program with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Classes of each frame.
    LinnetFrames,
    /// The same.
    Tshark,
    /// Connections.
    LinnetFlows,
    /// The same.
    Tcptrace,
}

impl Program {
    /// All, in the order of a round.
    pub const ALL: [Self; 4] =
        [Self::LinnetFrames, Self::Tshark, Self::LinnetFlows, Self::Tcptrace];

    fn command(self, linnet: &Path, file: &Path) -> Command {
        let program = match self {
            Self::LinnetFrames | Self::LinnetFlows => linnet,
            Self::Tshark => Path::new("tshark"),
            Self::Tcptrace => Path::new("tcptrace"),
        };
        let mut command = Command::new(program);
        match self {
            Self::LinnetFrames => command.args(["analyze", "--frames"]).arg(file),
            Self::LinnetFlows => command.args(["analyze", "--json"]).arg(file),
            Self::Tshark => {
                let classes = CLASSES.map(|class| format!("tcp.analysis.{class}"));
                command.args(["-n", "-o", "tcp.check_checksum:TRUE", "-Y", "tcp.analysis.flags"]);
                command.args(["-T", "fields", "-e", "frame.number"]);
                command.args(classes.iter().flat_map(|class| ["-e", class]));
                command.arg("-r").arg(file)
            }
            // Long, with round trips, no names.
            Self::Tcptrace => command.args(["-n", "-l", "-r"]).arg(file),
        };
        command
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From its start to its end.
    pub time: Duration,
    /// The most memory that it held at once, bytes.
    pub memory: u64,
}

/// The runs of all programs with one file.
#[derive(Clone, Debug)]
pub struct File {
    /// As the table calls it.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Frames that linnet and tshark flag.
    pub flagged: [usize; 2],
    /// Of each program of [`Program::ALL`], in order of the rounds.
    pub runs: [Vec<Took>; 4],
}

impl File {
    /// Greatest, median and least factors by which `other` takes more than `ours`, each round by itself.
    fn factor(&self, ours: Program, other: Program, of: impl Fn(&Took) -> f64) -> [f64; 3] {
        let runs = |program| {
            let index = Program::ALL.iter().position(|one| *one == program).unwrap_or(0);
            self.runs[index].iter()
        };
        let factors: Vec<f64> =
            runs(other).zip(runs(ours)).map(|(other, ours)| of(other) / of(ours)).collect();
        spread(&factors)
    }

    fn median(&self, index: usize, of: impl Fn(&Took) -> f64) -> f64 {
        let figures: Vec<f64> = self.runs[index].iter().map(of).collect();
        spread(&figures)[1]
    }
}

/// The greatest classic captures of a folder that every program reads to the end, and the synthetic one, which is written
/// into `scratch`.
pub fn files(linnet: &Path, corpus: &Path, scratch: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(corpus) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.context("cannot list the corpus")?;
                // tcptrace reads no pcapng.
                let is_capture = entry.path().extension().is_some_and(|end| end == "pcap");
                if is_capture {
                    found.push((entry.metadata()?.len(), entry.path()));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot list the corpus"),
    }
    found.sort();
    let is_whole = |path: &PathBuf| {
        Program::ALL.iter().all(|program| run(program.command(linnet, path)).is_ok())
    };
    let by_size = found.into_iter().rev().map(|(_, path)| path);
    let mut files: Vec<_> = by_size.filter(is_whole).take(LARGEST).collect();
    let path = scratch.join("synthetic.pcap");
    // In a process of its own: what a process holds when it starts another one counts as held by that one too.
    let made = Command::new(env::current_exe()?).arg("--synthesize").arg(&path).status()?;
    if !made.success() {
        bail!("cannot make the synthetic capture: {made}");
    }
    files.push(path);
    Ok(files)
}

/// Makes the synthetic capture.
pub fn synthesize(path: &Path) -> anyhow::Result<()> {
    synth::write(&SCENE, BufWriter::new(fs::File::create(path)?))?;
    Ok(())
}

/// Measures every file.
pub fn all(linnet: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<File>> {
    let mut all = Vec::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut file = File {
            size: fs::metadata(path)?.len(),
            flagged: [
                flagged(Program::LinnetFrames.command(linnet, path))?,
                flagged(Program::Tshark.command(linnet, path))?,
            ],
            runs: [const { Vec::new() }; 4],
            name,
        };
        // One more round goes first, to warm caches.
        for round in 0..=ROUNDS {
            for (program, runs) in Program::ALL.into_iter().zip(&mut file.runs) {
                let command = program.command(linnet, path);
                let took =
                    run(command).with_context(|| format!("{program:?} with {}", file.name))?;
                if round > 0 {
                    runs.push(took);
                }
            }
        }
        all.push(file);
    }
    Ok(all)
}

/// Lines of a program's answer that name a class.
fn flagged(mut command: Command) -> anyhow::Result<usize> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let has_class = |line: &str| line.split('\t').skip(1).any(|field| !field.is_empty());
    let mut count = 0;
    for line in BufReader::new(child.stdout.take().context("it has no output")?).lines() {
        count += usize::from(has_class(&line?));
    }
    child.wait()?;
    Ok(count)
}

/// The most memory that this process has held at once, bytes: of a child, no less can be measured.
pub fn held() -> anyhow::Result<u64> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.context("/proc/self/status has no VmHWM")?.parse::<u64>()? * 1024)
}

fn run(mut command: Command) -> anyhow::Result<Took> {
    let start_ns = monotonic_ns();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let (code, memory) = wait(&child)?;
    if code != 0 {
        bail!("it ended with status {code}");
    }
    Ok(Took { time: Duration::from_nanos(monotonic_ns() - start_ns), memory })
}

/// Waits for a child as wait4(2) does; its status, and the most memory that it held, bytes.
fn wait(child: &Child) -> io::Result<(i32, u64)> {
    let pid = libc::pid_t::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an all-zero rusage is valid.
    let (mut status, mut usage): (_, libc::rusage) = (0, unsafe { std::mem::zeroed() });
    // SAFETY: both pointers are to values that live here, and the child is this process's own and not waited for yet.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        return Err(io::Error::last_os_error());
    }
    Ok((status, u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024))
}

/// The figures as a table.
#[must_use]
pub fn table(all: &[File]) -> String {
    let mut text = String::from(
        "| capture | MB | frames flagged, linnet / tshark | `linnet analyze --frames`, ms / MB | tshark takes times as long | \
         times the memory | `linnet analyze --json`, ms / MB | tcptrace takes times as long | times the memory |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let (time, memory) =
        (|took: &Took| took.time.as_secs_f64() * 1e3, |took: &Took| mega(took.memory));
    for file in all {
        let [ours, theirs] = file.flagged;
        let mut line = format!("| `{}` | {:.1} | {ours} / {theirs} |", file.name, mega(file.size));
        for (index, program, other) in [
            (0, Program::LinnetFrames, Program::Tshark),
            (2, Program::LinnetFlows, Program::Tcptrace),
        ] {
            let cells = [
                format!("{:.1} / {:.1}", file.median(index, time), file.median(index, memory)),
                told(file.factor(program, other, time)),
                told(file.factor(program, other, memory)),
            ];
            write!(line, " {} |", cells.join(" | ")).expect("writing into a string cannot fail");
        }
        writeln!(text, "{line}").expect("writing into a string cannot fail");
    }
    text
}

fn told([least, median, most]: [f64; 3]) -> String {
    format!("{median:.2} ({least:.2} to {most:.2})")
}

/// Megabytes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "sizes of files and memory are far below 2^53")]
pub fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_is_compared_with_itself() {
        let took = |milliseconds: &[u64]| {
            let took = |ms: &u64| Took { time: Duration::from_millis(*ms), memory: 10_000_000 };
            milliseconds.iter().map(took).collect::<Vec<_>>()
        };
        let runs =
            [took(&[10, 20, 40]), took(&[50, 40, 40]), took(&[5, 5, 5]), took(&[10, 10, 10])];
        let file = File { name: "a".to_owned(), size: 2_000_000, flagged: [3, 3], runs };
        let table = table(&[file]);
        assert!(
            table.contains("| 20.0 / 10.0 | 2.00 (1.00 to 5.00) | 1.00 (1.00 to 1.00) |"),
            "{table}"
        );
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "the function at hand waits for it")]
    fn a_child_tells_its_status_and_memory() {
        let child = Command::new("true").spawn().unwrap();
        let (status, memory) = wait(&child).unwrap();
        assert_eq!(status, 0);
        assert!(memory > 0);
    }
}
