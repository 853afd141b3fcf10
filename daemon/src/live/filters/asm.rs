//! eBPF instructions (RFC 9669) put together, with labels for the places that jumps go to. Must never know what a program
//! is for: what it means is for those who call.

/// `BPF_LD | BPF_DW | BPF_IMM`: a value of 64 bits, in two words.
const LOAD_WIDE: u8 = 0x18;
/// `BPF_MEM` with its classes.
const LOAD: u8 = 0x61;
const STORE_VALUE: u8 = 0x62;
const STORE: u8 = 0x63;
/// `BPF_ALU` and `BPF_ALU64`.
const ARITHMETIC: [u8; 2] = [0x04, 0x07];
/// `BPF_JMP32` and `BPF_JMP`.
const JUMP: [u8; 2] = [0x06, 0x05];
/// `BPF_X`: the operand is a register.
const REGISTER: u8 = 0x08;
/// `BPF_ALU | BPF_END | BPF_TO_BE`.
const TO_BIG_ENDIAN: u8 = 0xdc;
/// `BPF_JMP | BPF_JA`.
const ALWAYS: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_PSEUDO_MAP_FD`: the value is a map, by its descriptor.
const MAP: u8 = 1;

/// One instruction as the kernel takes it (`struct bpf_insn`).
pub(super) type Word = [u8; 8];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
}

/// How much of the registers takes part; 32 bits clear the upper half of the result.
#[derive(Clone, Copy, Debug)]
pub(super) enum Width {
    Half = 0,
    Full = 1,
}

/// Size of what is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// Classic BPF has the same numbers for those that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add = 0x00,
    Subtract = 0x10,
    Multiply = 0x20,
    Divide = 0x30,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Negate = 0x80,
    Modulo = 0x90,
    Xor = 0xa0,
    Move = 0xb0,
}

/// Without signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Equal = 0x10,
    Greater = 0x20,
    GreaterOrEqual = 0x30,
    AnyBit = 0x40,
    NotEqual = 0x50,
    Less = 0xa0,
    LessOrEqual = 0xb0,
}

impl Condition {
    /// What holds where this does not; nothing says so of bits.
    pub(super) const fn opposite(self) -> Option<Self> {
        Some(match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Greater => Self::LessOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::GreaterOrEqual => Self::Less,
            Self::Less => Self::GreaterOrEqual,
            Self::AnyBit => return None,
        })
    }
}

/// The second operand. A value is taken as signed where all 64 bits take part, and as it is in 32.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Value(u32),
    Register(Register),
}

/// A place in the program, perhaps one that is not there yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// A jump whose offset does not fit into 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFar;

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    words: Vec<Word>,
    /// Where each label is, and whether a jump goes there.
    labels: Vec<(Option<usize>, bool)>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push((None, false));
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        debug_assert!(self.labels[label.0].0.is_none(), "a label is placed once");
        self.labels[label.0].0 = Some(self.words.len());
    }

    pub(super) fn arithmetic(
        &mut self,
        width: Width,
        operator: Operator,
        to: Register,
        operand: Operand,
    ) {
        let code = ARITHMETIC[width as usize] | operator as u8;
        self.with_operand(code, to, operand, 0);
    }

    /// `to = operand`, of 32 bits.
    pub(super) fn set(&mut self, to: Register, operand: Operand) {
        self.arithmetic(Width::Half, Operator::Move, to, operand);
    }

    /// `to = from`, whatever it is.
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.arithmetic(Width::Full, Operator::Move, to, Operand::Register(from));
    }

    /// Host order to network order and back; 16 bits clear all above.
    pub(super) fn swap(&mut self, register: Register, bits: u32) {
        self.word(TO_BIG_ENDIAN, register, 0, 0, bits);
    }

    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.word(LOAD | size as u8, to, from as u8, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.word(STORE | size as u8, to, from as u8, offset, 0);
    }

    pub(super) fn store_zero(&mut self, size: Size, to: Register, offset: i16) {
        self.word(STORE_VALUE | size as u8, to, 0, offset, 0);
    }

    pub(super) fn set_wide(&mut self, to: Register, value: u64) {
        let [low, high] = [value, value >> 32].map(|half| (half & 0xffff_ffff) as u32);
        self.word(LOAD_WIDE, to, 0, 0, low);
        self.word(0, Register::R0, 0, 0, high);
    }

    /// `to` = a map, by its descriptor.
    pub(super) fn set_map(&mut self, to: Register, descriptor: i32) {
        self.word(LOAD_WIDE, to, MAP, 0, descriptor.cast_unsigned());
        self.word(0, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump(&mut self, label: Label) {
        self.towards(label);
        self.word(ALWAYS, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump_if(
        &mut self,
        width: Width,
        condition: Condition,
        left: Register,
        right: Operand,
        label: Label,
    ) {
        self.towards(label);
        self.with_operand(JUMP[width as usize] | condition as u8, left, right, 0);
    }

    pub(super) fn call(&mut self, helper: u32) {
        self.word(CALL, Register::R0, 0, 0, helper);
    }

    pub(super) fn exit(&mut self) {
        self.word(EXIT, Register::R0, 0, 0, 0);
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether a jump goes to the label.
    pub(super) fn is_used(&self, label: Label) -> bool {
        self.labels[label.0].1
    }

    /// The program.
    pub(super) fn finish(mut self) -> Result<Vec<Word>, TooFar> {
        for (at, label) in self.jumps {
            let place = self.labels[label.0].0.expect("every label that is jumped to is placed");
            // No program has that many words.
            let distance = place.cast_signed() - at.cast_signed() - 1;
            let offset = i16::try_from(distance).map_err(|_| TooFar)?;
            self.words[at][2..4].copy_from_slice(&offset.to_ne_bytes());
        }
        Ok(self.words)
    }

    fn towards(&mut self, label: Label) {
        self.labels[label.0].1 = true;
        self.jumps.push((self.words.len(), label));
    }

    fn with_operand(&mut self, code: u8, to: Register, operand: Operand, offset: i16) {
        match operand {
            Operand::Value(value) => self.word(code, to, 0, offset, value),
            Operand::Register(from) => self.word(code | REGISTER, to, from as u8, offset, 0),
        }
    }

    fn word(&mut self, code: u8, to: Register, from: u8, offset: i16, value: u32) {
        let [a, b] = offset.to_ne_bytes();
        let [c, d, e, f] = value.to_ne_bytes();
        self.words.push([code, to as u8 | from << 4, a, b, c, d, e, f]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_from_behind_themselves() {
        let mut asm = Assembler::default();
        let end = asm.label();
        asm.jump_if(Width::Half, Condition::Less, Register::R8, Operand::Value(34), end);
        asm.set_wide(Register::R2, 0x0102_0304_0506_0708);
        asm.place(end);
        asm.exit();
        let words = asm.finish().unwrap();
        assert_eq!(words[0], [0xa6, 0x08, 2, 0, 34, 0, 0, 0]);
        assert_eq!(words[1], [0x18, 0x02, 0, 0, 8, 7, 6, 5]);
        assert_eq!(words[2], [0, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(words[3], [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_jump_over_more_than_16_bits_is_refused() {
        for (between, fits) in [(32_767, true), (32_768, false)] {
            let mut asm = Assembler::default();
            let end = asm.label();
            asm.jump(end);
            for _ in 0..between {
                asm.set(Register::R0, Operand::Value(0));
            }
            asm.place(end);
            asm.exit();
            assert_eq!(asm.finish().is_ok(), fits, "{between}");
        }
    }

    #[test]
    fn every_condition_but_that_of_bits_has_an_opposite() {
        for condition in [Condition::Equal, Condition::Greater, Condition::GreaterOrEqual] {
            let opposite = condition.opposite().unwrap();
            assert_eq!(opposite.opposite(), Some(condition));
        }
        assert_eq!(Condition::AnyBit.opposite(), None);
    }
}
