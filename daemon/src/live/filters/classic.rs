//! What the instructions of a compiled filter do, and what they touch. Must never take one whose meaning it does not know.

use captures::filter::Instruction;

use super::asm::{Condition, Operator, Size};

/// Words of scratch memory.
pub(super) const SCRATCH_WORDS: u32 = 16;

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

/// One of the two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    A,
    X,
}

impl Place {
    const fn cell(self) -> Cells {
        match self {
            Self::A => Cells::A,
            Self::X => Cells::X,
        }
    }
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Constant,
    X,
}

impl Operand {
    const fn cell(self) -> Cells {
        match self {
            Self::Constant => Cells::NONE,
            Self::X => Cells::X,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// A = packet at k.
    Load(Size),
    /// A = packet at X + k.
    LoadIndirect(Size),
    /// X = four times the lower half of the packet's byte at k.
    LoadHeaderLength,
    /// = k.
    SetConstant(Place),
    /// = length on the wire.
    SetLength(Place),
    /// = `M[k]`.
    SetScratch(Place),
    /// `M[k]` =.
    Store(Place),
    /// A = A op (k or X).
    Arithmetic(Operator, Operand),
    Negate,
    Jump,
    Branch(Condition, Operand),
    ReturnConstant,
    ReturnA,
    CopyToX,
    CopyToA,
}

impl Operation {
    /// `None` for a code that nothing has defined, and for a constant that cannot be meant.
    pub(super) fn of(instruction: Instruction) -> Option<Self> {
        let operand = if instruction.code & 0x08 == 0 { Operand::Constant } else { Operand::X };
        let operation = match instruction.code {
            0x20 => Self::Load(Size::Word),
            0x28 => Self::Load(Size::Half),
            0x30 => Self::Load(Size::Byte),
            0x40 => Self::LoadIndirect(Size::Word),
            0x48 => Self::LoadIndirect(Size::Half),
            0x50 => Self::LoadIndirect(Size::Byte),
            0xb1 => Self::LoadHeaderLength,
            0x00 => Self::SetConstant(Place::A),
            0x01 => Self::SetConstant(Place::X),
            0x80 => Self::SetLength(Place::A),
            0x81 => Self::SetLength(Place::X),
            0x60 => Self::SetScratch(Place::A),
            0x61 => Self::SetScratch(Place::X),
            0x02 => Self::Store(Place::A),
            0x03 => Self::Store(Place::X),
            0x04 | 0x0c => Self::Arithmetic(Operator::Add, operand),
            0x14 | 0x1c => Self::Arithmetic(Operator::Subtract, operand),
            0x24 | 0x2c => Self::Arithmetic(Operator::Multiply, operand),
            0x34 | 0x3c => Self::Arithmetic(Operator::Divide, operand),
            0x44 | 0x4c => Self::Arithmetic(Operator::Or, operand),
            0x54 | 0x5c => Self::Arithmetic(Operator::And, operand),
            0x64 | 0x6c => Self::Arithmetic(Operator::ShiftLeft, operand),
            0x74 | 0x7c => Self::Arithmetic(Operator::ShiftRight, operand),
            0x94 | 0x9c => Self::Arithmetic(Operator::Modulo, operand),
            0xa4 | 0xac => Self::Arithmetic(Operator::Xor, operand),
            0x84 => Self::Negate,
            0x05 => Self::Jump,
            0x15 | 0x1d => Self::Branch(Condition::Equal, operand),
            0x25 | 0x2d => Self::Branch(Condition::Greater, operand),
            0x35 | 0x3d => Self::Branch(Condition::GreaterOrEqual, operand),
            0x45 | 0x4d => Self::Branch(Condition::AnyBit, operand),
            0x06 => Self::ReturnConstant,
            0x16 => Self::ReturnA,
            0x07 => Self::CopyToX,
            0x87 => Self::CopyToA,
            _ => return None,
        };
        operation.takes(instruction.k).then_some(operation)
    }

    /// Whether the constant can be meant. The kernel asks for the same of a socket filter.
    fn takes(self, k: u32) -> bool {
        let Self::Arithmetic(operator, Operand::Constant) = self else {
            return !matches!(self, Self::SetScratch(_) | Self::Store(_)) || k < SCRATCH_WORDS;
        };
        match operator {
            Operator::Divide | Operator::Modulo => k != 0,
            Operator::ShiftLeft | Operator::ShiftRight => k < 32,
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Or
            | Operator::And
            | Operator::Negate
            | Operator::Xor
            | Operator::Move => true,
        }
    }

    /// What it reads.
    pub(super) const fn reads(self, k: u32) -> Cells {
        match self {
            Self::Load(_)
            | Self::LoadHeaderLength
            | Self::SetConstant(_)
            | Self::SetLength(_)
            | Self::Jump
            | Self::ReturnConstant => Cells::NONE,
            Self::LoadIndirect(_) | Self::CopyToA => Cells::X,
            Self::SetScratch(_) => Cells::scratch(k),
            Self::Store(place) => place.cell(),
            Self::Arithmetic(_, operand) | Self::Branch(_, operand) => Cells::A.and(operand.cell()),
            Self::Negate | Self::ReturnA | Self::CopyToX => Cells::A,
        }
    }

    /// What it writes.
    pub(super) const fn writes(self, k: u32) -> Cells {
        match self {
            Self::Load(_)
            | Self::LoadIndirect(_)
            | Self::Arithmetic(..)
            | Self::Negate
            | Self::CopyToA => Cells::A,
            Self::LoadHeaderLength | Self::CopyToX => Cells::X,
            Self::SetConstant(place) | Self::SetLength(place) | Self::SetScratch(place) => {
                place.cell()
            }
            Self::Store(_) => Cells::scratch(k),
            Self::Jump | Self::Branch(..) | Self::ReturnConstant | Self::ReturnA => Cells::NONE,
        }
    }

    /// Bytes that the packet must have for it; those of an indirect load are known only when X is.
    pub(super) const fn needs(self, k: u32) -> u32 {
        match self {
            Self::Load(size) | Self::LoadIndirect(size) => k.saturating_add(size.bytes()),
            Self::LoadHeaderLength => k.saturating_add(1),
            Self::SetConstant(_)
            | Self::SetLength(_)
            | Self::SetScratch(_)
            | Self::Store(_)
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

    /// Where the program may go on from the instruction at `at`, and nowhere at its end.
    pub(super) fn successors(self, instruction: Instruction, at: usize) -> Vec<usize> {
        let behind = |skipped: u32| at + 1 + skipped as usize;
        match self {
            Self::ReturnConstant | Self::ReturnA => Vec::new(),
            Self::Jump => vec![behind(instruction.k)],
            Self::Branch(..) => [instruction.jt, instruction.jf].map(|it| behind(it.into())).into(),
            Self::Load(_)
            | Self::LoadIndirect(_)
            | Self::LoadHeaderLength
            | Self::SetConstant(_)
            | Self::SetLength(_)
            | Self::SetScratch(_)
            | Self::Store(_)
            | Self::Arithmetic(..)
            | Self::Negate
            | Self::CopyToX
            | Self::CopyToA => vec![behind(0)],
        }
    }
}
