//! Capture filters: tcpdump expressions compiled by libpcap, run here.
//! Never filters anything but captures: what is shown is filtered by flow queries elsewhere.
//!
//! `unsafe` is allowed in `compile.rs` alone, where libpcap is called.

mod compile;
mod program;
mod run;

pub use compile::{FILTER_MAX, FilterError, Libpcap};
pub use program::{INSTRUCTIONS_MAX, Instruction, ProgramError};

use crate::LinkType;

/// A compiled filter: an expression and the classic BPF program it stands for.
///
/// Invariant: the program has been checked by `program::check`, so that running it always ends
/// and never reads outside the packet or the scratch memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    expression: String,
    link_type: LinkType,
    instructions: Vec<Instruction>,
}

impl Filter {
    /// A filter from a program compiled elsewhere, such as one read back from a file.
    pub fn try_new(
        expression: &str,
        link_type: LinkType,
        instructions: Vec<Instruction>,
    ) -> Result<Self, ProgramError> {
        program::check(&instructions)?;
        Ok(Self { expression: expression.to_owned(), link_type, instructions })
    }

    /// The filter that every packet matches, which needs no libpcap.
    pub fn match_all(link_type: LinkType) -> Self {
        let accept = Instruction { code: program::RET, jt: 0, jf: 0, k: u32::MAX };
        Self { expression: String::new(), link_type, instructions: vec![accept] }
    }

    /// Whether a packet matches. `data` are the captured bytes from the link header on,
    /// `original_len` is the length on the wire, which `len`, `greater` and `less` look at.
    ///
    /// A filter that looks at bytes beyond `data` does not match.
    pub fn matches(&self, data: &[u8], original_len: u32) -> bool {
        run::run(&self.instructions, data, original_len) != 0
    }

    /// Bytes from a packet's start that decide whether it matches, besides its original length: a packet may be cut
    /// there before it is filtered. `u32::MAX` where that depends on the packet.
    pub fn reach(&self) -> u32 {
        program::reach(&self.instructions)
    }

    /// The expression as it was written; empty for a filter that matches everything.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// What packets must start with for the filter to make sense of them.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// The checked program, for translation to the kernel.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}
