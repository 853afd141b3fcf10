//! Everything that can go wrong while measuring, each with what to do about it. Performs nothing.

use std::{io, path::PathBuf};

use daemon::live::LiveError;

/// A measurement that could not be made, or that measured something else than it says.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The objects are not in this binary.
    #[error(transparent)]
    NotBuilt(#[from] LiveError),
    /// Loading programs is a privilege.
    #[error("cannot load kernel programs as user {uid}: not root; run as root")]
    Privilege {
        /// The effective user.
        uid: u32,
    },
    /// The number of CPUs is not known.
    #[error("cannot read the number of CPUs from `{path}`: {source}; mount /sys")]
    Cpus {
        /// Where it should be.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An object could not be loaded.
    #[error("cannot load the {object} object: {source}; `linnet doctor` shows what is missing")]
    Load {
        /// `xdp` or `tc`.
        object: &'static str,
        /// What aya or the kernel said.
        source: aya::EbpfError,
    },
    /// A map or program is missing.
    #[error(
        "the {object} object has no `{name}`; the bench and the object are of different sources: build both again"
    )]
    Missing {
        /// `xdp` or `tc`.
        object: &'static str,
        /// What was looked for.
        name: String,
    },
    /// A map could not be used.
    #[error(
        "cannot use the map `{name}`: {source}; build the object and the bench from the same sources"
    )]
    Map {
        /// Its name.
        name: &'static str,
        /// What aya said.
        source: aya::maps::MapError,
    },
    /// The kernel refused a program.
    #[error(
        "the kernel refused the program `{program}`: {source}; `linnet doctor` shows what this kernel has"
    )]
    Program {
        /// Its name.
        program: String,
        /// What aya or the verifier said.
        source: aya::programs::ProgramError,
    },
    /// A program cannot be run on a frame.
    #[error(
        "cannot run `{program}` on a frame: {source}; BPF_PROG_TEST_RUN needs root, and kernel 5.18 for frags"
    )]
    Run {
        /// Its name.
        program: &'static str,
        /// What aya or the kernel said.
        source: aya::programs::ProgramError,
    },
    /// A program did not pass the packet on.
    #[error(
        "`{program}` returned {returned} for `{frame}`, but {expected} passes the packet: this is a fault of linnet"
    )]
    NotPassed {
        /// Its name.
        program: &'static str,
        /// The frame.
        frame: &'static str,
        /// What it returned.
        returned: u32,
        /// What passes.
        expected: u32,
    },
    /// The programs did not do what the measurement claims.
    #[error(
        "{what} of `{frame}` through `{program}` is {found}, not {expected}: the figures would mean something else"
    )]
    NotTracked {
        /// What was counted.
        what: &'static str,
        /// The program.
        program: String,
        /// The frame.
        frame: &'static str,
        /// What was found.
        found: u64,
        /// What was fed.
        expected: u64,
    },
    /// A file could not be read or written.
    #[error("cannot {what} `{path}`: {source}; look at its owner and at the disk")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BenchError {
    /// Whether more privileges would help.
    #[must_use]
    pub const fn is_privilege(&self) -> bool {
        matches!(self, Self::Privilege { .. })
    }
}
