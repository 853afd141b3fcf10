//! `cargo xtask run`: builds linnet and shows it working, on the lab's traffic, on a real interface or on a
//! replayed capture. Must never leave a process, a namespace, a pin or a file behind.

mod daemon;
mod lab;
mod scratch;
mod session;
mod table;

use crate::{
    console::heading,
    process::{GRACE, Group, Process, Stopped, TICK},
    setup::{self, Level},
    signals::Signals,
};
use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use session::Ended;
use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus},
};
use xtask::{
    bpf::{self, Messages, Objects, Record},
    workspace::Workspace,
};

/// Arguments that say themselves what linnet is to look at.
const SOURCES: [&str; 4] = ["--interface", "--replay", "--config", "--help"];

/// The exit code for a missing privilege (docs/decisions: exit codes).
const NO_PRIVILEGE: i32 = 77;

/// The two programs that a run consists of.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    linnet: PathBuf,
    lab: PathBuf,
}

/// Builds, then runs until Ctrl-C. `arguments` go to `linnet run`.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<ExitCode> {
    heading("setup");
    setup::prepare(workspace, Level::Run);
    heading("build");
    let programs = build(workspace)?;
    let objects = bpf::objects(workspace, &Record::of_xtask(workspace), Messages::Captured)?;
    let signals = Signals::watch()?;
    if names_a_source(arguments) {
        heading("linnet run");
        return own(&programs, arguments, &signals);
    }
    let why = match (geteuid().is_root(), objects) {
        (true, Objects::Built { .. }) => {
            heading("linnet on the lab; Ctrl-C ends it");
            match session::on_the_lab(&programs, arguments, &signals)? {
                Ended::Asked => return Ok(ExitCode::SUCCESS),
                Ended::NoPrivilege(why) => why,
            }
        }
        (false, _) => "this is not root, who may load BPF programs and make namespaces".to_owned(),
        (true, Objects::NotBuilt(not_built)) => not_built.to_string(),
    };
    heading("linnet on a replayed capture; Ctrl-C ends it");
    println!("no live traffic: {why}");
    println!(
        "with root and the BPF objects, this command watches real, lossy traffic in a lab instead"
    );
    match session::on_a_replay(&programs, arguments, &signals)? {
        Ended::Asked => Ok(ExitCode::SUCCESS),
        Ended::NoPrivilege(why) => {
            bail!("the replay needs no privilege, yet linnet wants one: {why}")
        }
    }
}

fn names_a_source(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let name = argument.split('=').next().unwrap_or_default();
        SOURCES.contains(&name)
    })
}

fn build(workspace: &Workspace) -> Result<Programs> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(&cargo)
        .current_dir(&workspace.root)
        .args(["build", "--release", "--package", "daemon", "--package", "lab"])
        .arg("--target-dir")
        .arg(&workspace.target)
        .status()
        .with_context(|| format!("cannot run `{}`", cargo.to_string_lossy()))?;
    if !status.success() {
        bail!("`cargo build --release` ended with {status}");
    }
    Ok(Programs {
        linnet: workspace.release_program("linnet"),
        lab: workspace.release_program("lab"),
    })
}

/// The real daemon with the user's own arguments: its output is not touched, and signals go to it.
fn own(programs: &Programs, arguments: &[OsString], signals: &Signals) -> Result<ExitCode> {
    let mut daemon = Process::start(
        "daemon",
        Group::Own,
        Command::new(&programs.linnet).arg(OsStr::new("run")).args(arguments),
    )?;
    loop {
        if let Some(status) = daemon.ended()? {
            return Ok(exit_code(status));
        }
        if signals.wait(TICK).is_some() {
            return Ok(match daemon.stop(GRACE, Some(signals))? {
                Stopped::Already(status) | Stopped::Orderly(status) => exit_code(status),
                Stopped::Killed => ExitCode::FAILURE,
            });
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(texts: &[&str]) -> Vec<OsString> {
        texts.iter().map(OsString::from).collect()
    }

    #[test]
    fn an_interface_replaces_the_lab_and_a_listening_address_does_not() {
        assert!(names_a_source(&arguments(&["--interface", "eth0"])));
        assert!(names_a_source(&arguments(&["--replay=x.pcap"])));
        assert!(!names_a_source(&arguments(&["--listen", "127.0.0.1:0"])));
        assert!(!names_a_source(&[]));
    }
}
