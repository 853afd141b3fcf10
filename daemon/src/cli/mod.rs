//! The subcommands of `linnet`: one file each. Parses nothing but arguments; the work is done by the modules.

pub mod analyze;
pub mod capture;
pub mod detach;
pub mod doctor;
pub mod events;
pub mod filter;
pub mod flows;
mod interrupt;
pub mod rules;
pub mod run;
mod text;

pub use text::{age, printable, si_bits, si_bytes, span};

use std::io::{self, Write as _};

use clap::{Parser, Subcommand};

use crate::packet_source;

/// Exit codes (sysexits.h, where it has one).
pub mod exit {
    /// Failed while running.
    pub const FAILED: u8 = 1;
    /// Usage or configuration.
    pub const USAGE: u8 = 64;
    /// Damaged input; what could be read was.
    pub const DAMAGED: u8 = 65;
    /// The daemon cannot be reached.
    pub const UNREACHABLE: u8 = 69;
    /// The kernel lacks what linnet needs.
    pub const KERNEL: u8 = 71;
    /// Another instance runs.
    pub const BUSY: u8 = 75;
    /// A privilege is missing.
    pub const PRIVILEGE: u8 = 77;
}

/// An error that asks for an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExitWith {
    /// The code.
    pub code: u8,
    /// What to say.
    pub message: String,
}

/// Which connections on this host are slow or losing packets, why, and the packets.
#[derive(Debug, Parser)]
#[command(name = "linnet", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch interfaces and serve what is seen.
    Run(run::RunArgs),
    /// Show the flow table of the running daemon.
    Flows(flows::FlowsArgs),
    /// Show the segments of a flow that were sent again, late or otherwise remarkable.
    Events(events::EventsArgs),
    /// Write packets of the running daemon's interfaces to files or a pipe, as pcapng or pcap.
    ///
    /// On a terminal it shows how far it is, and in the end what was captured and lost. In a pipe it is silent, but for
    /// what was lost.
    Capture(capture::CaptureArgs),
    /// Say what a capture filter does.
    Filter(filter::FilterArgs),
    /// Show or change which flows are tracked.
    Rules(rules::RulesArgs),
    /// Read a pcap or pcapng file and say what its flows did; needs no privilege.
    Analyze(analyze::AnalyzeArgs),
    /// Remove what a daemon that was killed left behind.
    Detach(detach::DetachArgs),
    /// Check what this machine has for linnet, and say what to do about what it lacks.
    Doctor(doctor::DoctorArgs),
}

impl Command {
    /// Runs the subcommand; `Ok` carries the exit code.
    pub fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Flows(args) => flows::run(&args),
            Self::Events(args) => events::run(&args),
            Self::Capture(args) => capture::run(&args),
            Self::Filter(args) => filter::run(&args),
            Self::Rules(args) => rules::run(&args),
            Self::Analyze(args) => analyze::run(&args),
            Self::Detach(args) => detach::run(&args),
            Self::Doctor(args) => doctor::run(&args),
        }
    }
}

/// An answer that this command does not understand.
pub(crate) fn foreign(error: &impl ToString) -> ExitWith {
    let message =
        format!("the daemon is of another version than this command: {}", error.to_string());
    ExitWith { code: exit::FAILED, message }
}

/// What stands behind figures that eBPF has not told.
pub(crate) fn by_sockets(source: &str) -> &'static str {
    if source == packet_source::HOOK { "; read by AF_PACKET sockets" } else { "" }
}

/// Prints what a command has to say. A reader that has gone has read enough; a full disk is an error.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot print: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// The code for an error: the one that it asks for, else by its kind.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use crate::live::LiveError;
    for cause in error.chain() {
        if let Some(with) = cause.downcast_ref::<ExitWith>() {
            return with.code;
        }
        let io = cause.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return exit::PRIVILEGE;
        }
        match cause.downcast_ref::<LiveError>() {
            Some(LiveError::Privilege { .. }) => return exit::PRIVILEGE,
            Some(LiveError::InUse { .. }) => return exit::BUSY,
            Some(
                LiveError::NoInterface(_)
                | LiveError::Namespace { .. }
                | LiveError::NotPins { .. }
                | LiveError::PinFolder { .. }
                | LiveError::TooManySockets { .. }
                | LiveError::Lacking { .. },
            ) => return exit::USAGE,
            _ => {}
        }
    }
    exit::FAILED
}

/// The code for a file that cannot be read: a wrong name is the caller's mistake, a file that fails is not.
#[must_use]
pub const fn unreadable(kind: io::ErrorKind) -> u8 {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotFound};
    if matches!(kind, NotFound | IsADirectory | InvalidInput) {
        exit::USAGE
    } else if matches!(kind, io::ErrorKind::PermissionDenied) {
        exit::PRIVILEGE
    } else {
        exit::FAILED
    }
}
