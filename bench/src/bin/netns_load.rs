//! `netns_load`: what watching costs real traffic through namespaces, beside a public tool. Touches no interface but
//! those of its own lab.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tables for the reader, and the last words of a failed command"
)]

use std::{path::Path, process::ExitCode};

use bench::{
    gates,
    machine::{Machine, Noise, load_average},
    report,
    throughput::{self, ROUNDS, SECONDS},
};
use clap::Parser;

const COMMAND: &str = "cargo run --release -p bench --bin netns_load -- --write";

/// iperf3's throughput with and without linnet. Needs root and iperf3.
#[derive(Debug, Parser)]
#[command(name = "netns_load", version)]
struct Cli {
    /// Write the section of bench/RESULTS.md.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match measure(cli.write) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netns_load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(write: bool) -> anyhow::Result<()> {
    gates::check_prerequisites()?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = Machine::read(package.parent().unwrap_or(package))?;
    let before = load_average()?;
    let all = throughput::all()?;
    let noise = Noise { before, after: load_average()? };
    let text = format!(
        "## Throughput of a bulk transfer\n\n{}\n`iperf3`, one TCP connection over a veth pair with the kernel's \
         offloads on, {SECONDS} s a transfer, {ROUNDS} rounds after one that does not count; in each round every line \
         of the table in turn, in a lab of its own. Both ends share this machine's processors with whatever watches, \
         so this is the worst case: nothing else limits the transfer. On veth a native XDP program turns segmentation \
         offload off at the peer, which is what its line shows.\n\n{}",
        report::provenance(&machine, noise, COMMAND),
        throughput::table(&all),
    );
    print!("{text}");
    if write {
        report::write_section(&package.join("RESULTS.md"), "netns_load", &text)?;
    }
    Ok(())
}
