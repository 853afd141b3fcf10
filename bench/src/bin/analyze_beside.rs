//! `analyze_beside`: what `linnet analyze` takes for captures, beside tshark and tcptrace. Reads files only.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tables for the reader, and the last words of a failed command"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use bench::{
    beside::{self, ROUNDS, SCENE},
    machine::{Machine, Noise, load_average},
    report,
};
use clap::Parser;

const COMMAND: &str = "cargo build --release -p daemon && cargo run --release -p bench --bin analyze_beside -- --write";

/// Time and memory of `linnet analyze`, beside tshark and tcptrace. Needs both, and a release build of linnet.
#[derive(Debug, Parser)]
#[command(name = "analyze_beside", version)]
struct Cli {
    /// Write the section of bench/RESULTS.md.
    #[arg(long)]
    write: bool,
    /// Only make the synthetic capture.
    #[arg(long, hide = true)]
    synthesize: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.synthesize {
        Some(path) => beside::synthesize(&path),
        None => measure(cli.write),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("analyze_beside: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(write: bool) -> anyhow::Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().unwrap_or(package);
    let linnet = env::current_exe()?.with_file_name("linnet");
    fs::metadata(&linnet).context(
        "there is no `linnet` beside this program; build it: cargo build --release -p daemon",
    )?;
    let versions = [version("tshark", "--version")?, version("tcptrace", "-v")?];
    let corpus =
        env::var_os("LINNET_CORPUS").map_or_else(|| root.join("../shared/pcaps"), PathBuf::from);
    let scratch = Scratch::new()?;
    let files = beside::files(&linnet, &corpus, &scratch.0)?;
    let machine = Machine::read(root)?;
    let before = load_average()?;
    let all = beside::all(&linnet, &files)?;
    let noise = Noise { before, after: load_average()? };
    let text = format!(
        "## Captures beside tshark and tcptrace\n\n{}\n{ROUNDS} rounds after one that does not count; in each, every \
         program reads the file once, in turn, with its output to nowhere. Time is from start to end, memory the most \
         that was held at once (`ru_maxrss`, no less than the {:.1} MB that this program holds), both medians; factors are of the rounds: median (least to most). \
         `linnet analyze --frames` and tshark print the classes of each frame, tshark by `-Y tcp.analysis.flags -T \
         fields`; `linnet analyze --json` and `tcptrace -n -l -r` what each connection sent, sent again, and its round \
         trips. The captures are the largest of the corpus that all of them read to the end, and one that the lab made: {} conversations in {} s. {}; {}.\n\n{}",
        report::provenance(&machine, noise, COMMAND),
        beside::mega(beside::held()?),
        SCENE.flows,
        SCENE.seconds,
        versions[0],
        versions[1],
        beside::table(&all),
    );
    print!("{text}");
    if write {
        report::write_section(&package.join("RESULTS.md"), "analyze_beside", &text)?;
    }
    Ok(())
}

/// The first line that a program says of itself.
fn version(program: &str, option: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(option).output();
    let output = output.with_context(|| format!("cannot run `{program}`; install it"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.to_lowercase().contains(program)).unwrap_or(program);
    Ok(line.trim().trim_end_matches('.').to_owned())
}

/// A folder that ends with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("linnet-bench-{}", std::process::id()));
        fs::create_dir(&path).context("cannot make a folder for the synthetic capture")?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left there is in the folder for temporary files.
        let _left = fs::remove_dir_all(&self.0);
    }
}
