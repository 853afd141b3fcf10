//! `linnet`: parse the command line, run the subcommand, turn what comes of it into an exit code.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use daemon::cli::{Cli, exit, exit_code, printable};
use nix::sys::signal::SigSet;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // A parent may have left signals blocked, and then nothing could end this process in an orderly way.
    let _kept_where_refused = SigSet::empty().thread_set_mask();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let filter = EnvFilter::try_from_env("LINNET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let color = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr)
        // A closed terminal is no reason to panic over a log line.
        .log_internal_errors(false)
        .init();
    match cli.command.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

/// Help and version are no errors; everything else about the arguments is.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed terminal cannot be told.
    let _printed = error.print();
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Most messages quote their cause.
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    // A file's text is foreign, but where its lines end may stay.
    let shown: Vec<_> = said.split('\n').map(printable).collect();
    // A closed terminal cannot be told.
    let _told = writeln!(std::io::stderr(), "linnet: {}", shown.join("\n"));
    ExitCode::from(exit_code(error))
}
