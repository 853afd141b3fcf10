//! Capture filters: tcpdump expressions compiled by libpcap, run here.
//! Never filters anything but captures: what is shown is filtered by flow queries elsewhere.
//!
//! `unsafe` is allowed in `compile.rs` alone, where libpcap is called.

mod compile;
mod error;
mod listing;
mod place;
mod program;
mod run;
mod tokens;
mod treatment;
mod views;

use std::iter;

pub use compile::{FILTER_MAX, Libpcap};
pub use error::FilterError;
pub use listing::listing;
pub use program::{
    Condition, INSTRUCTIONS_MAX, Instruction, Operand, Operation, Operator, ProgramError,
    SCRATCH_WORDS, Size, check, reach,
};
pub use treatment::{Reading, Treatment, Why};
pub use views::{EXTENSIONS_MAX, INNER_OFFSET_MAX, Seen, TAGS_MAX, View};

use crate::LinkType;

/// A compiled filter: an expression, the classic BPF program it stands for, and how frames are read.
///
/// Invariant: the programs have been checked by `program::check`, so that running them always ends
/// and never reads outside the packet or the scratch memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    expression: String,
    link_type: LinkType,
    reading: Reading,
    instructions: Vec<Instruction>,
    /// For [`View::Inner`], where that is of another link type than the frame.
    for_inner: Option<Vec<Instruction>>,
}

impl Filter {
    /// A strict filter from a program compiled elsewhere, such as one read back from a file.
    pub fn try_new(
        expression: &str,
        link_type: LinkType,
        instructions: Vec<Instruction>,
    ) -> Result<Self, ProgramError> {
        check(&instructions)?;
        let reading = Reading::as_it_is(Why::Strict);
        let expression = expression.to_owned();
        Ok(Self { expression, link_type, reading, instructions, for_inner: None })
    }

    /// The filter that every packet matches, which needs no libpcap.
    pub fn match_all(link_type: LinkType) -> Self {
        Self {
            expression: String::new(),
            link_type,
            reading: Reading::as_it_is(Why::Everything),
            instructions: vec![Instruction { code: program::RET, jt: 0, jf: 0, k: u32::MAX }],
            for_inner: None,
        }
    }

    /// The same filter for frames that are read in another way. Invariant: `for_inner` has been checked.
    fn read_as(self, reading: Reading, for_inner: Option<Vec<Instruction>>) -> Self {
        Self { reading, for_inner, ..self }
    }

    /// Whether a packet matches, in any of the filter's views. `data` are the captured bytes from the link header on,
    /// `original_len` is the length on the wire, which `len`, `greater` and `less` look at in every view.
    ///
    /// A filter that looks at bytes beyond a view does not match there.
    pub fn matches(&self, data: &[u8], original_len: u32) -> bool {
        self.views().any(|(view, program)| {
            let seen = view.of(data, self.link_type);
            seen.is_some_and(|seen| run::run(program, seen, original_len) != 0)
        })
    }

    /// What the filter is shown of a frame, in order, and the checked program for each; a frame matches if it does in
    /// any of them.
    pub fn views(&self) -> impl Iterator<Item = (View, &[Instruction])> {
        let kept = self.reading.tags_kept.is_some();
        let first = if kept { View::AsItIs } else { View::Untagged };
        let for_inner = self.for_inner.as_ref().unwrap_or(&self.instructions);
        let inner = (View::Inner, for_inner.as_slice());
        let opened = self.reading.tunnel_closed.is_none().then_some(inner);
        iter::once((first, self.instructions.as_slice())).chain(opened)
    }

    /// Bytes from a packet's start that decide whether it matches, besides its original length: a packet may be cut
    /// there before it is filtered. `u32::MAX` where that depends on the packet.
    pub fn reach(&self) -> u32 {
        self.views().map(|(view, program)| view.reach(reach(program))).max().unwrap_or(0)
    }

    /// How it reads frames, and why.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The expression as it was written; empty for a filter that matches everything.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// What packets must start with for the filter to make sense of them.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// The checked program for the frame itself; [`Self::views`] has that for what tunnels carry as well.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}
