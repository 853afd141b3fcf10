//! The classic BPF interpreter, for filters in user space: captures of files, slices, tests.
//! Never runs an unchecked program: [`super::Filter`] is the only way here.
//!
//! Semantics are those of libpcap's `bpf_filter()`, which is what `tcpdump -r` runs:
//!
//! * arithmetic is 32 bits and wraps; A, X and the scratch words begin as 0;
//! * a load outside the captured bytes ends the program with 0 (no match), also where X + k wraps;
//! * division and modulo by X = 0 end it with 0; a shift by X of 32 or more gives 0;
//! * `ldxb 4*([k]&0xf)` leaves A alone; `ld #len` is the length on the wire;
//! * the kernel's extensions (`SKF_AD_*`, loads at 0xfffff000 and above) are loads outside the
//!   packet like any other. libpcap makes them for `inbound` and the like, which are refused when
//!   they are compiled.

use super::program::{Condition, Instruction, Operand, Operation, Operator, SCRATCH_WORDS, Size};
use super::views::Seen;

/// What the program returns for a packet: 0 is no match.
pub(super) fn run(program: &[Instruction], data: Seen<'_>, original_len: u32) -> u32 {
    let mut machine =
        Machine { data, original_len, a: 0, x: 0, scratch: [0; SCRATCH_WORDS as usize] };
    let mut next = 0;
    while let Some(instruction) = program.get(next) {
        match machine.step(*instruction) {
            Some(Step::Skip(count)) => next += 1 + count as usize,
            Some(Step::Return(value)) => return value,
            None => return 0,
        }
    }
    // Not reached by a checked program: every jump lands on an instruction, the last is a return.
    0
}

struct Machine<'a> {
    data: Seen<'a>,
    original_len: u32,
    a: u32,
    x: u32,
    scratch: [u32; SCRATCH_WORDS as usize],
}

enum Step {
    /// Go on after this many further instructions.
    Skip(u32),
    Return(u32),
}

impl Machine<'_> {
    /// Runs one instruction; `None` rejects the packet.
    fn step(&mut self, instruction: Instruction) -> Option<Step> {
        let k = instruction.k;
        match instruction.operation()? {
            Operation::LoadAbsolute(size) => self.a = self.load(size, k, 0)?,
            Operation::LoadIndirect(size) => self.a = self.load(size, k, self.x)?,
            Operation::LoadConstant => self.a = k,
            Operation::LoadLength => self.a = self.original_len,
            Operation::LoadScratch => self.a = *self.word(k),
            Operation::LoadXConstant => self.x = k,
            Operation::LoadXLength => self.x = self.original_len,
            Operation::LoadXScratch => self.x = *self.word(k),
            Operation::LoadXHeaderLength => self.x = (self.load(Size::Byte, k, 0)? & 0xf) << 2,
            Operation::Store => *self.word(k) = self.a,
            Operation::StoreX => *self.word(k) = self.x,
            Operation::Arithmetic(operator, operand) => {
                self.a = arithmetic(operator, self.a, self.operand(operand, k))?;
            }
            Operation::Negate => self.a = self.a.wrapping_neg(),
            Operation::CopyToX => self.x = self.a,
            Operation::CopyToA => self.a = self.x,
            Operation::Jump => return Some(Step::Skip(k)),
            Operation::Branch(condition, operand) => {
                let holds = holds(condition, self.a, self.operand(operand, k));
                let skipped = if holds { instruction.jt } else { instruction.jf };
                return Some(Step::Skip(u32::from(skipped)));
            }
            Operation::ReturnConstant => return Some(Step::Return(k)),
            Operation::ReturnA => return Some(Step::Return(self.a)),
        }
        Some(Step::Skip(0))
    }

    fn operand(&self, operand: Operand, k: u32) -> u32 {
        match operand {
            Operand::Constant => k,
            Operand::X => self.x,
        }
    }

    /// Big-endian packet bytes at `base + offset`, both of which must be inside the packet.
    fn load(&self, size: Size, base: u32, offset: u32) -> Option<u32> {
        let at = usize::try_from(base).ok()?.checked_add(usize::try_from(offset).ok()?)?;
        match size {
            Size::Byte => self.data.bytes(at).map(|[byte]| u32::from(byte)),
            Size::Half => self.data.bytes(at).map(|half| u32::from(u16::from_be_bytes(half))),
            Size::Word => self.data.bytes(at).map(u32::from_be_bytes),
        }
    }

    /// A scratch word; `k` has been checked to be below 16.
    fn word(&mut self, k: u32) -> &mut u32 {
        &mut self.scratch[(k % SCRATCH_WORDS) as usize]
    }
}

/// The result, or `None` for a division by zero.
fn arithmetic(operator: Operator, a: u32, operand: u32) -> Option<u32> {
    match operator {
        Operator::Add => Some(a.wrapping_add(operand)),
        Operator::Subtract => Some(a.wrapping_sub(operand)),
        Operator::Multiply => Some(a.wrapping_mul(operand)),
        Operator::Divide => a.checked_div(operand),
        Operator::Modulo => a.checked_rem(operand),
        Operator::Or => Some(a | operand),
        Operator::And => Some(a & operand),
        Operator::Xor => Some(a ^ operand),
        Operator::ShiftLeft => Some(a.checked_shl(operand).unwrap_or(0)),
        Operator::ShiftRight => Some(a.checked_shr(operand).unwrap_or(0)),
    }
}

fn holds(condition: Condition, a: u32, operand: u32) -> bool {
    match condition {
        Condition::Equal => a == operand,
        Condition::Greater => a > operand,
        Condition::GreaterOrEqual => a >= operand,
        Condition::AnyBit => a & operand != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: [u8; 6] = [0x45, 0x02, 0x03, 0x04, 0x05, 0x06];
    const RETURN_A: (u16, u32) = (0x16, 0);
    const TAX: (u16, u32) = (0x07, 0);
    const TXA: (u16, u32) = (0x87, 0);

    /// Runs straight-line code, each instruction a code and a constant.
    fn result(code: &[(u16, u32)]) -> u32 {
        let program: Vec<Instruction> =
            code.iter().map(|&(code, k)| Instruction { code, jt: 0, jf: 0, k }).collect();
        super::super::program::check(&program).unwrap();
        run(&program, DATA[..].into(), 1500)
    }

    #[test]
    fn loads_are_big_endian_and_end_the_program_outside_the_packet() {
        assert_eq!(result(&[(0x20, 2), RETURN_A]), 0x0304_0506);
        assert_eq!(result(&[(0x28, 4), RETURN_A]), 0x0506);
        assert_eq!(result(&[(0x30, 5), RETURN_A]), 6);
        for outside in [(0x20, 3), (0x28, 5), (0x30, 6), (0x30, u32::MAX), (0x20, 0xffff_f000)] {
            assert_eq!(result(&[outside, (0x06, 1)]), 0, "{outside:?}");
        }
    }

    #[test]
    fn indirect_loads_do_not_wrap_around() {
        assert_eq!(result(&[(0x01, 2), (0x50, 1), RETURN_A]), 4);
        assert_eq!(result(&[(0x01, u32::MAX), (0x50, 3), (0x06, 1)]), 0);
        assert_eq!(result(&[(0x01, 3), (0x50, u32::MAX), (0x06, 1)]), 0);
    }

    #[test]
    fn the_header_length_goes_to_x_and_leaves_a_alone() {
        assert_eq!(result(&[(0x00, 7), (0xb1, 0), RETURN_A]), 7);
        assert_eq!(result(&[(0x00, 7), (0xb1, 0), TXA, RETURN_A]), 20);
        assert_eq!(result(&[(0xb1, 6), (0x06, 1)]), 0);
    }

    #[test]
    fn the_length_is_that_on_the_wire() {
        assert_eq!(result(&[(0x80, 0), RETURN_A]), 1500);
        assert_eq!(result(&[(0x81, 0), TXA, RETURN_A]), 1500);
    }

    #[test]
    fn arithmetic_is_32_bits_and_wraps() {
        assert_eq!(result(&[(0x00, u32::MAX), (0x04, 2), RETURN_A]), 1);
        assert_eq!(result(&[(0x00, 1), (0x14, 2), RETURN_A]), u32::MAX);
        assert_eq!(result(&[(0x00, 0x8000_0001), (0x24, 2), RETURN_A]), 2);
        assert_eq!(result(&[(0x00, 1), (0x84, 0), RETURN_A]), u32::MAX);
        // What overflowed is gone before the shift.
        assert_eq!(result(&[(0x00, u32::MAX), (0x04, 1), (0x74, 1), RETURN_A]), 0);
        assert_eq!(result(&[(0x00, 6), (0xa4, 3), (0x44, 8), (0x54, 12), RETURN_A]), 12);
    }

    #[test]
    fn division_by_x_of_zero_does_not_match() {
        assert_eq!(result(&[(0x00, 9), (0x3c, 0), (0x06, 1)]), 0);
        assert_eq!(result(&[(0x00, 9), (0x9c, 0), (0x06, 1)]), 0);
        assert_eq!(result(&[(0x01, 4), (0x00, 9), (0x3c, 0), RETURN_A]), 2);
        assert_eq!(result(&[(0x01, 4), (0x00, 9), (0x9c, 0), RETURN_A]), 1);
    }

    #[test]
    fn a_shift_by_x_of_all_bits_gives_zero() {
        assert_eq!(result(&[(0x01, 31), (0x00, 1), (0x6c, 0), RETURN_A]), 1 << 31);
        assert_eq!(result(&[(0x01, 32), (0x00, 1), (0x6c, 0), RETURN_A]), 0);
        assert_eq!(result(&[(0x01, 40), (0x00, u32::MAX), (0x7c, 0), RETURN_A]), 0);
    }

    #[test]
    fn scratch_words_begin_at_zero_and_keep_both_registers() {
        assert_eq!(result(&[(0x60, 15), (0x04, 5), RETURN_A]), 5);
        assert_eq!(result(&[(0x00, 7), (0x02, 3), (0x00, 0), (0x60, 3), RETURN_A]), 7);
        assert_eq!(result(&[(0x00, 7), TAX, (0x03, 0), (0x01, 0), (0x61, 0), TXA, RETURN_A]), 7);
    }

    #[test]
    fn branches_and_jumps_skip() {
        let at = |code, jt, jf, k| Instruction { code, jt, jf, k };
        for (code, k, taken) in [
            (0x15, 5, true),
            (0x25, 5, false),
            (0x35, 5, true),
            (0x45, 4, true),
            (0x45, 2, false),
            (0x25, 4, true),
        ] {
            let program =
                [at(0x00, 0, 0, 5), at(code, 1, 0, k), at(0x06, 0, 0, 10), at(0x06, 0, 0, 20)];
            assert_eq!(
                run(&program, DATA[..].into(), 0),
                if taken { 20 } else { 10 },
                "{code:#x} {k}"
            );
        }
        let program = [at(0x05, 0, 0, 1), at(0x06, 0, 0, 10), at(0x06, 0, 0, 20)];
        assert_eq!(run(&program, DATA[..].into(), 0), 20);
    }
}
