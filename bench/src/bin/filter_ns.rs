//! `filter_ns`: what capture filters cost per packet as one program in the kernel. Attaches nothing and touches no program
//! but its own.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tables for the reader, and the last words of a failed command"
)]

use std::{path::Path, process::ExitCode};

use bench::{
    filters, gates,
    machine::{Machine, Noise, load_average},
    measure::{REPEATS, ROUNDS},
    report,
};
use clap::Parser;

/// What makes the section of RESULTS.md again.
const COMMAND: &str = "cargo run --release -p bench --bin filter_ns -- --write";

/// ns per packet of capture filters in the kernel, net of the same program with none of them wanted. Needs root.
#[derive(Debug, Parser)]
#[command(name = "filter_ns", version)]
struct Cli {
    /// Write the section of bench/RESULTS.md.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match measure(Cli::parse().write) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("filter_ns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(write: bool) -> anyhow::Result<()> {
    gates::check_prerequisites()?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = Machine::read(package.parent().unwrap_or(package))?;
    let before = load_average()?;
    let costs = filters::all()?;
    let noise = Noise { before, after: load_average()? };
    let text = format!(
        "## Capture filters in the kernel\n{}{}",
        report::provenance(&machine, noise, COMMAND),
        method() + &filters::table(&costs)
    );
    print!("{text}");
    if write {
        report::write_section(&package.join("RESULTS.md"), "filter_ns", &text)?;
    }
    Ok(())
}

fn method() -> String {
    format!(
        "\n`BPF_PROG_TEST_RUN`: {ROUNDS} rounds of {REPEATS} repetitions of TCP data of 1448 B, after one to warm the \
         caches. In each round the program runs with none of its filters wanted in turn with all of them; *net* is the \
         difference. Copying the packet's start for the filters, and copying what matches, is in neither.\n\n"
    )
}
