//! Capture filters in the kernel: up to [`SLOTS_MAX`] of them as one program of native instructions. Must never read a
//! packet itself, nor change or keep one: it sees what the program before it has put into [`datapath::layout::Views`],
//! and hands the packet on.
//!
//! The capture stage on a hook is three programs that go on in each other by tail calls. The first copies the start of
//! the packet into the map of views, as a frame and as what a filter may look at besides, and says which filters are
//! wanted. The second is made here: it runs those, says which match, and goes on with whatever program the array of
//! programs holds; where that is none, it passes the packet on. The third copies the packet for all who want it. Since
//! the second one reads the map alone, its instructions are the same on XDP and on TC.
//!
//! [`FilterSet`] says which slot has which filter. `translate` makes a filter's classic BPF into eBPF, by `asm`, and
//! [`load`] gives the whole to the kernel. `daemon/tests/filters_in_kernel.rs` holds it against the interpreter.

mod asm;
mod classic;
mod load;
mod program;
mod translate;
mod trial;

pub use load::{Cost, FiltersProgram, Run, load, set_program, test_run};
pub use program::{Alternative, FilterSet, SLOTS_MAX, Slot, View};
pub use trial::Trial;

use super::Object;

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum FiltersError {
    /// The program is none that could be run.
    #[error("cannot translate the filter in slot {slot}: {source}; compile the expression again")]
    Senseless {
        /// The filter's slot.
        slot: u8,
        /// What is wrong with it, and where.
        source: captures::filter::ProgramError,
    },
    /// A filter is too long for the offsets of its jumps.
    #[error(
        "cannot translate the filter in slot {slot}: it makes more than {max} instructions; write a shorter expression"
    )]
    TooLong {
        /// The filter's slot.
        slot: u8,
        /// The most.
        max: usize,
    },
    /// Not allowed.
    #[error(
        "cannot load the capture filters: {source}; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Privilege {
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused the program.
    #[error(
        "the kernel refused the capture filters as a program of {instructions} instructions for {}: {source}; {log}; \
         capture with fewer or shorter filters at once", object.name()
    )]
    Refused {
        /// Which hook's.
        object: Object,
        /// How long it is.
        instructions: usize,
        /// What the kernel said.
        source: std::io::Error,
        /// The last lines of its verifier.
        log: String,
    },
    /// The program behind could not be put in its place, or a program could not be asked or tried.
    #[error(
        "cannot {what} the capture filters: {source}; `linnet doctor` shows what this kernel has"
    )]
    Call {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}
