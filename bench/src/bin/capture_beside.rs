//! `capture_beside`: captures by linnet beside tcpdump, dumpcap, netsniff-ng and xdpdump, on the same frames. Touches no
//! interface but those of its own lab.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tables for the reader, and the last words of a failed command"
)]

use std::{env, fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use bench::{
    capture_beside::{
        BUFFER_MIB, COST_MS, COST_RATE, PROCESSOR, ROUNDS, Run, SEARCH_MS,
        cpu::Meter,
        scratch::Scratch,
        search::{RATE_MOST, STEPS},
        sender, table,
        tool::Tool,
    },
    gates,
    machine::{Machine, Noise, load_average},
    report,
};
use clap::Parser;

const COMMAND: &str = "cargo build --release -p daemon && cargo run --release -p bench --bin capture_beside -- --write";

/// Packets without loss and the processors' time of captures. Needs root, two processors, the other tools, and a release
/// build of linnet.
#[derive(Debug, Parser)]
#[command(name = "capture_beside", version)]
struct Cli {
    /// Write the section of bench/RESULTS.md.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match measure(Cli::parse().write) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capture_beside: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(write: bool) -> anyhow::Result<()> {
    gates::check_prerequisites()?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let linnet = env::current_exe()?.with_file_name("linnet");
    fs::metadata(&linnet).context(
        "there is no `linnet` beside this program; build it: cargo build --release -p daemon",
    )?;
    let versions = Tool::ALL.map(Tool::version).into_iter().collect::<Result<Vec<_>, _>>()?;
    lab::processor::stay_on_one(PROCESSOR).context("cannot stay on one processor")?;
    let machine = Machine::read(package.parent().unwrap_or(package))?;
    let run = Run { linnet: &linnet, scratch: Scratch::mount()?, meter: Meter::new()? };
    let before = load_average()?;
    let costs = run.costs()?;
    let rates = run.search();
    let noise = Noise { before, after: load_average()? };
    let text = format!(
        "## Captures beside tcpdump, dumpcap, netsniff-ng and xdpdump\n\n{}\n{}\n### Packets per second without loss\n\n{}\n{}\n\
         ### Processor time for a captured packet\n\n{}\n{}",
        report::provenance(&machine, noise, COMMAND),
        method(&versions),
        search_method(),
        table::rates(&rates),
        cost_method(&table::floor(&costs)),
        table::times(&costs, noise),
    );
    print!("{text}");
    if write {
        report::write_section(&package.join("RESULTS.md"), "capture_beside", &text)?;
    }
    Ok(())
}

fn method(versions: &[String]) -> String {
    format!(
        "The kernel makes copies of one UDP frame (`BPF_F_TEST_XDP_LIVE_FRAMES`) on processor {}, and redirects them out of \
         one end of a veth pair at the pace that a small program keeps; everything that the other end does with them, hooks \
         and taps included, runs there, too. The frames are for a MAC that nobody has, so that the receiver's stack drops \
         them at once. All are of one flow. Every tool captures the receiving end, without a filter, on processor \
         {PROCESSOR}, into a file in memory (tmpfs), with a buffer of {BUFFER_MIB} MiB: `tcpdump -B`, `dumpcap -B`, \
         `netsniff-ng --ring-size` (headers by the verdict of a filter: it has no snap length), linnet \
         `capture.ring_mib`, that much for each processor, of which one sends. xdpdump (`--load-xdp-program --rx-capture \
         entry`) has no such option. GRO is on at the receiving end in every case: veth takes redirected frames only so. \
         linnet tracks flows besides, with its defaults, on ingress alone; its capture is started through its API. The \
         sender's frames in the file are counted in every trial, and more of them than the tool counts is an error. {}.\n",
        sender::PROCESSOR,
        versions.join("; "),
    )
}

fn search_method() -> String {
    format!(
        "The highest rate at which every frame is in the file: {SEARCH_MS} ms a trial, doubled from 500,000 packets/s as long \
         as nothing is lost (halved where something is), then {STEPS} steps between. A rate fails when it loses twice. From \
         {RATE_MOST} on the sender goes as fast as it can. With a star it was the sender that could do no more: each packet \
         passes the hook or tap in the sender's own time, and the tool lost nothing. A buffer of {BUFFER_MIB} MiB holds a part \
         of a trial, for every tool. The rate is what arrived, not what was asked for.\n"
    )
}

fn cost_method(floor: &str) -> String {
    format!(
        "At {COST_RATE} packets/s for {COST_MS} ms, {ROUNDS} rounds; in each every line in turn, in a lab of its own, and medians \
         of the rounds. Times are the scheduler's, in ns: of the sending thread less what its program waited for the pace, \
         and of `ksoftirqd`, net of the same round with nothing at the receiving end (*in the kernel*); and of all threads of \
         the tool's processes, from before the first frame until the file is complete (*in the tool*; linnet's two \
         processes with all that they do besides). This kernel charges softirqs to the thread that they interrupt. The last \
         column is the same by the machine's own count in ticks of 10 ms (user, system, interrupts, softirqs of all \
         processors), which has all that ran beside the measurement, and is left out where there was other work. The floor, sending a frame to nobody: {floor}.\n"
    )
}
