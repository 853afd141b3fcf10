//! What the instructions of a compiled filter touch, and where they lead. Never says what they do: that is for `captures`.

use captures::filter::{Instruction, Operand, Operation, SCRATCH_WORDS};

/// A, X and the scratch words, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cells(pub(super) u32);

impl Cells {
    pub(super) const A: Self = Self(1 << SCRATCH_WORDS);
    pub(super) const X: Self = Self(1 << (SCRATCH_WORDS + 1));
    const NONE: Self = Self(0);

    /// `M[k]`.
    pub(super) const fn scratch(k: u32) -> Self {
        Self(1 << (k % SCRATCH_WORDS))
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What is to be known of an operation to put it in its place. The constant of its instruction is `k`.
pub(super) trait Touches {
    /// What it reads.
    fn reads(self, k: u32) -> Cells;

    /// What it writes.
    fn writes(self, k: u32) -> Cells;

    /// Bytes that the packet must have for it; those of an indirect load are known only when X is.
    fn needs(self, k: u32) -> u32;

    /// Where the program may go on from the instruction at `at`, and nowhere at its end.
    fn successors(self, instruction: Instruction, at: usize) -> Vec<usize>;
}

const fn cell(operand: Operand) -> Cells {
    match operand {
        Operand::Constant => Cells::NONE,
        Operand::X => Cells::X,
    }
}

impl Touches for Operation {
    fn reads(self, k: u32) -> Cells {
        match self {
            Self::LoadAbsolute(_)
            | Self::LoadXHeaderLength
            | Self::LoadConstant
            | Self::LoadXConstant
            | Self::LoadLength
            | Self::LoadXLength
            | Self::Jump
            | Self::ReturnConstant => Cells::NONE,
            Self::LoadIndirect(_) | Self::CopyToA | Self::StoreX => Cells::X,
            Self::LoadScratch | Self::LoadXScratch => Cells::scratch(k),
            Self::Arithmetic(_, operand) | Self::Branch(_, operand) => Cells::A.and(cell(operand)),
            Self::Negate | Self::ReturnA | Self::CopyToX | Self::Store => Cells::A,
        }
    }

    fn writes(self, k: u32) -> Cells {
        match self {
            Self::LoadAbsolute(_)
            | Self::LoadIndirect(_)
            | Self::LoadConstant
            | Self::LoadLength
            | Self::LoadScratch
            | Self::Arithmetic(..)
            | Self::Negate
            | Self::CopyToA => Cells::A,
            Self::LoadXHeaderLength
            | Self::LoadXConstant
            | Self::LoadXLength
            | Self::LoadXScratch
            | Self::CopyToX => Cells::X,
            Self::Store | Self::StoreX => Cells::scratch(k),
            Self::Jump | Self::Branch(..) | Self::ReturnConstant | Self::ReturnA => Cells::NONE,
        }
    }

    fn needs(self, k: u32) -> u32 {
        match self {
            Self::LoadAbsolute(size) | Self::LoadIndirect(size) => k.saturating_add(size.bytes()),
            Self::LoadXHeaderLength => k.saturating_add(1),
            Self::LoadConstant
            | Self::LoadXConstant
            | Self::LoadLength
            | Self::LoadXLength
            | Self::LoadScratch
            | Self::LoadXScratch
            | Self::Store
            | Self::StoreX
            | Self::Arithmetic(..)
            | Self::Negate
            | Self::Jump
            | Self::Branch(..)
            | Self::ReturnConstant
            | Self::ReturnA
            | Self::CopyToX
            | Self::CopyToA => 0,
        }
    }

    fn successors(self, instruction: Instruction, at: usize) -> Vec<usize> {
        let behind = |skipped: u32| at + 1 + skipped as usize;
        match self {
            Self::ReturnConstant | Self::ReturnA => Vec::new(),
            Self::Jump => vec![behind(instruction.k)],
            Self::Branch(..) => [instruction.jt, instruction.jf].map(|it| behind(it.into())).into(),
            Self::LoadAbsolute(_)
            | Self::LoadIndirect(_)
            | Self::LoadXHeaderLength
            | Self::LoadConstant
            | Self::LoadXConstant
            | Self::LoadLength
            | Self::LoadXLength
            | Self::LoadScratch
            | Self::LoadXScratch
            | Self::Store
            | Self::StoreX
            | Self::Arithmetic(..)
            | Self::Negate
            | Self::CopyToX
            | Self::CopyToA => vec![behind(0)],
        }
    }
}
