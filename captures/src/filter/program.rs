//! Classic BPF programs: their instructions, and the check that makes them safe to run.
//! Never runs one; a program that passes here ends after at most as many steps as it has
//! instructions.
//!
//! Source: McCanne and Jacobson, "The BSD Packet Filter" (1993), and libpcap's `bpf_filter.c`.

use thiserror::Error;

/// Most instructions of a program; the kernel's limit for classic BPF (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Words of scratch memory, `M[0]` to `M[15]`.
pub const SCRATCH_WORDS: u32 = 16;

/// One instruction, as libpcap and the kernel have it (`struct bpf_insn`, `struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Operation: class, size or operator, mode or source.
    pub code: u16,
    /// Instructions to skip where a condition holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Constant, offset or scratch word.
    pub k: u32,
}

/// `ret #k`.
pub(super) const RET: u16 = 0x06;

/// What an instruction does; every valid `code` has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ld/ldh/ldb [k]`: A = packet at k.
    LoadAbsolute(Size),
    /// `ld/ldh/ldb [x + k]`: A = packet at X + k.
    LoadIndirect(Size),
    /// `ld #k`.
    LoadConstant,
    /// `ld #len`: A = original length.
    LoadLength,
    /// `ld M[k]`.
    LoadScratch,
    /// `ldx #k`.
    LoadXConstant,
    /// `ldx #len`.
    LoadXLength,
    /// `ldx M[k]`.
    LoadXScratch,
    /// `ldxb 4*([k]&0xf)`: X = length of the IPv4 header at k. A stays as it is.
    LoadXHeaderLength,
    /// `st M[k]`.
    Store,
    /// `stx M[k]`.
    StoreX,
    /// `add`, `sub`, ...: A = A op (k or X).
    Arithmetic(Operator, Operand),
    /// `neg`.
    Negate,
    /// `ja k`.
    Jump,
    /// `jeq`, `jgt`, `jge`, `jset`.
    Branch(Condition, Operand),
    /// `ret #k`.
    ReturnConstant,
    /// `ret a`.
    ReturnA,
    /// `tax`.
    CopyToX,
    /// `txa`.
    CopyToA,
}

/// How much a load takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Four bytes.
    Word,
    /// Two.
    Half,
    /// One.
    Byte,
}

impl Size {
    /// That many.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Word => 4,
            Self::Half => 2,
            Self::Byte => 1,
        }
    }
}

/// What arithmetic does, in 32 bits without sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `|`.
    Or,
    /// `&`.
    And,
    /// `<<`.
    ShiftLeft,
    /// `>>`.
    ShiftRight,
    /// `%`.
    Modulo,
    /// `^`.
    Xor,
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// `k`.
    Constant,
    /// X.
    X,
}

/// What a branch asks of A and the second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `==`.
    Equal,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// Any bit in common.
    AnyBit,
}

/// Bytes from a packet's start that a program can look at: what is behind them changes no result. `u32::MAX` where
/// that depends on the packet.
pub fn reach(program: &[Instruction]) -> u32 {
    let operations = || program.iter().filter_map(|one| Some((one.operation()?, one.k)));
    let x_after = |(operation, k)| {
        if operation == Operation::LoadXConstant {
            k
        } else if operation == Operation::LoadXHeaderLength {
            0xf << 2
        } else if matches!(
            operation,
            Operation::LoadXLength | Operation::LoadXScratch | Operation::CopyToX
        ) {
            u32::MAX
        } else {
            0
        }
    };
    let x_max = operations().map(x_after).max().unwrap_or(0);
    let end = |(operation, k): (Operation, u32)| {
        if let Operation::LoadAbsolute(size) = operation {
            k.saturating_add(size.bytes())
        } else if let Operation::LoadIndirect(size) = operation {
            k.saturating_add(x_max).saturating_add(size.bytes())
        } else if operation == Operation::LoadXHeaderLength {
            k.saturating_add(1)
        } else {
            0
        }
    };
    operations().map(end).max().unwrap_or(0)
}

/// Whether a program asks the kernel about a packet in place of reading its bytes (`SKF_AD_OFF`, `SKF_NET_OFF` and
/// `SKF_LL_OFF` of linux/filter.h): such loads are outside of every packet here.
pub(super) fn asks_the_kernel(program: &[Instruction]) -> bool {
    const KERNEL: u32 = 0xffe0_0000;
    program
        .iter()
        .any(|one| matches!(one.operation(), Some(Operation::LoadAbsolute(_))) && one.k >= KERNEL)
}

impl Instruction {
    /// What this instruction does; `None` for a code that nothing has defined.
    pub fn operation(self) -> Option<Operation> {
        let operand = if self.code & 0x08 == 0 { Operand::Constant } else { Operand::X };
        Some(match self.code {
            0x20 => Operation::LoadAbsolute(Size::Word),
            0x28 => Operation::LoadAbsolute(Size::Half),
            0x30 => Operation::LoadAbsolute(Size::Byte),
            0x40 => Operation::LoadIndirect(Size::Word),
            0x48 => Operation::LoadIndirect(Size::Half),
            0x50 => Operation::LoadIndirect(Size::Byte),
            0x00 => Operation::LoadConstant,
            0x80 => Operation::LoadLength,
            0x60 => Operation::LoadScratch,
            0x01 => Operation::LoadXConstant,
            0x81 => Operation::LoadXLength,
            0x61 => Operation::LoadXScratch,
            0xb1 => Operation::LoadXHeaderLength,
            0x02 => Operation::Store,
            0x03 => Operation::StoreX,
            0x04 | 0x0c => Operation::Arithmetic(Operator::Add, operand),
            0x14 | 0x1c => Operation::Arithmetic(Operator::Subtract, operand),
            0x24 | 0x2c => Operation::Arithmetic(Operator::Multiply, operand),
            0x34 | 0x3c => Operation::Arithmetic(Operator::Divide, operand),
            0x44 | 0x4c => Operation::Arithmetic(Operator::Or, operand),
            0x54 | 0x5c => Operation::Arithmetic(Operator::And, operand),
            0x64 | 0x6c => Operation::Arithmetic(Operator::ShiftLeft, operand),
            0x74 | 0x7c => Operation::Arithmetic(Operator::ShiftRight, operand),
            0x94 | 0x9c => Operation::Arithmetic(Operator::Modulo, operand),
            0xa4 | 0xac => Operation::Arithmetic(Operator::Xor, operand),
            0x84 => Operation::Negate,
            0x05 => Operation::Jump,
            0x15 | 0x1d => Operation::Branch(Condition::Equal, operand),
            0x25 | 0x2d => Operation::Branch(Condition::Greater, operand),
            0x35 | 0x3d => Operation::Branch(Condition::GreaterOrEqual, operand),
            0x45 | 0x4d => Operation::Branch(Condition::AnyBit, operand),
            RET => Operation::ReturnConstant,
            0x16 => Operation::ReturnA,
            0x07 => Operation::CopyToX,
            0x87 => Operation::CopyToA,
            _ => return None,
        })
    }
}

/// Checks that a program can be run: known instructions, jumps that go forward and stay inside,
/// scratch words that exist, no division by a constant zero, no shift by a constant of 32 bits or
/// more, and a return at the end. The kernel asks for the same of a socket filter.
pub fn check(program: &[Instruction]) -> Result<(), ProgramError> {
    if program.is_empty() || program.len() > INSTRUCTIONS_MAX {
        return Err(ProgramError::Length { instructions: program.len() });
    }
    for (at, instruction) in program.iter().enumerate() {
        check_one(*instruction, at, program.len())?;
    }
    match program.last().and_then(|last| last.operation()) {
        Some(Operation::ReturnConstant | Operation::ReturnA) => Ok(()),
        Some(_) | None => Err(ProgramError::NoReturn),
    }
}

fn check_one(instruction: Instruction, at: usize, program_len: usize) -> Result<(), ProgramError> {
    let Instruction { code, jt, jf, k } = instruction;
    let operation = instruction.operation().ok_or(ProgramError::UnknownCode { at, code })?;
    let constant_below = |limit: u32| {
        if k < limit { Ok(()) } else { Err(ProgramError::Constant { at, k }) }
    };
    let lands = |skipped: u32| {
        let inside = (skipped as usize) < program_len - at - 1;
        if inside { Ok(()) } else { Err(ProgramError::Jump { at }) }
    };
    match operation {
        Operation::LoadScratch | Operation::LoadXScratch | Operation::Store | Operation::StoreX => {
            constant_below(SCRATCH_WORDS)
        }
        Operation::Arithmetic(Operator::ShiftLeft | Operator::ShiftRight, Operand::Constant) => {
            constant_below(32)
        }
        Operation::Arithmetic(Operator::Divide | Operator::Modulo, Operand::Constant) if k == 0 => {
            Err(ProgramError::Constant { at, k })
        }
        Operation::Jump => lands(k),
        Operation::Branch(..) => {
            lands(u32::from(jt))?;
            lands(u32::from(jf))
        }
        Operation::LoadAbsolute(_)
        | Operation::LoadIndirect(_)
        | Operation::LoadConstant
        | Operation::LoadLength
        | Operation::LoadXConstant
        | Operation::LoadXLength
        | Operation::LoadXHeaderLength
        | Operation::Arithmetic(..)
        | Operation::Negate
        | Operation::ReturnConstant
        | Operation::ReturnA
        | Operation::CopyToX
        | Operation::CopyToA => Ok(()),
    }
}

/// Why a program must not be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// No instructions, or more than [`INSTRUCTIONS_MAX`].
    #[error(
        "filter program has {instructions} instructions, and 1 to {max} can be run; \
         write a shorter expression",
        max = INSTRUCTIONS_MAX
    )]
    Length {
        /// Its length.
        instructions: usize,
    },
    /// A code without a meaning.
    #[error("filter program has the unknown code {code:#06x} at instruction {at}")]
    UnknownCode {
        /// Index of the instruction.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A jump out of the program or back, as `protochain` makes.
    #[error(
        "filter program jumps backwards or out of itself at instruction {at}; \
         `protochain` makes such programs and cannot be used"
    )]
    Jump {
        /// Index of the instruction.
        at: usize,
    },
    /// A scratch word that does not exist, a division by zero, a shift of all bits.
    #[error("filter program has the impossible constant {k} at instruction {at}")]
    Constant {
        /// Index of the instruction.
        at: usize,
        /// The constant.
        k: u32,
    },
    /// The last instruction is no return.
    #[error("filter program does not end in a return")]
    NoReturn,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURN: Instruction = Instruction { code: RET, jt: 0, jf: 0, k: 1 };

    fn first(code: u16, jt: u8, jf: u8, k: u32) -> Result<(), ProgramError> {
        check(&[Instruction { code, jt, jf, k }, RETURN])
    }

    #[test]
    fn programs_need_a_length_and_a_return() {
        assert_eq!(check(&[]), Err(ProgramError::Length { instructions: 0 }));
        assert_eq!(check(&[RETURN; 4097]), Err(ProgramError::Length { instructions: 4097 }));
        assert_eq!(check(&[RETURN; 4096]), Ok(()));
        let load = Instruction { code: 0x30, ..RETURN };
        assert_eq!(check(&[RETURN, load]), Err(ProgramError::NoReturn));
    }

    #[test]
    fn jumps_stay_inside_and_go_forward() {
        assert_eq!(first(0x05, 0, 0, 0), Ok(()));
        assert_eq!(first(0x05, 0, 0, 1), Err(ProgramError::Jump { at: 0 }));
        assert_eq!(first(0x05, 0, 0, u32::MAX), Err(ProgramError::Jump { at: 0 }));
        assert_eq!(first(0x15, 0, 0, 9), Ok(()));
        assert_eq!(first(0x15, 1, 0, 9), Err(ProgramError::Jump { at: 0 }));
        assert_eq!(first(0x1d, 0, 1, 9), Err(ProgramError::Jump { at: 0 }));
    }

    #[test]
    fn constants_must_be_possible() {
        for (code, possible, impossible) in [
            (0x60, 15, 16),
            (0x61, 15, 16),
            (0x02, 15, 16),
            (0x03, 15, 16),
            (0x64, 31, 32),
            (0x74, 31, 32),
            (0x34, 1, 0),
            (0x94, 1, 0),
        ] {
            assert_eq!(first(code, 0, 0, possible), Ok(()));
            let error = ProgramError::Constant { at: 0, k: impossible };
            assert_eq!(first(code, 0, 0, impossible), Err(error));
        }
        // With X as the operand it is known only at run time.
        assert_eq!(first(0x3c, 0, 0, 0), Ok(()));
    }

    #[test]
    fn codes_without_a_meaning_are_refused() {
        let known = (0..=u16::MAX)
            .filter(|code| Instruction { code: *code, ..RETURN }.operation().is_some());
        assert_eq!(known.count(), 49);
        assert_eq!(first(0xffff, 0, 0, 0), Err(ProgramError::UnknownCode { at: 0, code: 0xffff }));
    }
}
