//! `kernel_ns`: what each kernel program costs per packet, and whether it stays within the gates. Attaches nothing
//! and touches no program but its own.
#![allow(clippy::result_large_err, reason = "an error ends the program")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tables for the reader, and the last words of a failed command"
)]

use std::{path::Path, process::ExitCode};

use bench::{
    BenchError, gates,
    machine::{Machine, Noise, load_average},
    measure, report,
    results::{self, Results},
    rules, turn,
};
use clap::Parser;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_PRIVILEGE: u8 = 77;

/// ns per packet of linnet's kernel programs, net of an empty program. Needs root.
#[derive(Debug, Parser)]
#[command(name = "kernel_ns", version)]
struct Cli {
    /// Only check the gates, with the time to load among them (the best of five loads).
    #[arg(long, conflicts_with = "write")]
    gates: bool,
    /// Only measure what rules cost.
    #[arg(long, conflicts_with_all = ["write", "gates"])]
    rules: bool,
    /// Write bench/RESULTS.md.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal cannot be told.
            let _printed = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let broken = if cli.gates {
        check_gates()
    } else if cli.rules {
        measure_rules()
    } else {
        measure(cli.write)
    };
    match broken {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            for gate in broken {
                eprintln!("kernel_ns: {gate}");
            }
            ExitCode::from(EXIT_FAILED)
        }
        Err(error) => {
            eprintln!("kernel_ns: {error}");
            ExitCode::from(if error.is_privilege() { EXIT_PRIVILEGE } else { EXIT_FAILED })
        }
    }
}

/// Prints the sizes; returns what exceeds a gate.
fn check_gates() -> Result<Vec<String>, BenchError> {
    gates::check_prerequisites()?;
    let sizes = gates::sizes(gates::LOADS)?;
    print!("{}", results::sizes(&sizes));
    let mut broken = gates::broken_counts(&sizes);
    broken.extend(gates::broken_loads(&sizes));
    Ok(broken)
}

/// Prints what rules cost.
fn measure_rules() -> Result<Vec<String>, BenchError> {
    gates::check_prerequisites()?;
    print!("{}", results::rules(&rules::all()?));
    Ok(Vec::new())
}

/// Prints everything; returns what exceeds a gate on counts.
fn measure(write: bool) -> Result<Vec<String>, BenchError> {
    gates::check_prerequisites()?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = Machine::read(package.parent().unwrap_or(package))?;
    let before = load_average()?;
    let sizes = gates::sizes(gates::LOADS)?;
    let costs = measure::all()?;
    let rules = rules::all()?;
    let in_turn = turn::all()?;
    let noise = Noise { before, after: load_average()? };
    let results = Results { machine, noise, sizes, costs, rules, in_turn };
    print!("{}", results.markdown());
    if write {
        report::write_section(&package.join("RESULTS.md"), "kernel_ns", &results.markdown())?;
    }
    Ok(gates::broken_counts(&results.sizes))
}
