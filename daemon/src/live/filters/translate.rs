//! One compiled filter (classic BPF) as eBPF, with the meaning that `captures` gives it: arithmetic of 32 bits; A, X and
//! scratch words that begin as 0; no match where a load leaves the view or a division is by zero. Must never change
//! what a filter means to make it shorter: the interpreter of `captures` is the reference.
//!
//! Two things are left out because nobody can tell. What no way leads to is not translated, as the verifier refuses it.
//! And a run of instructions without a branch checks the packet's length once, for the load that reaches farthest:
//! one load outside of the packet ends the filter with no match, whatever came before it.

use captures::filter::{
    self as classic, Instruction, Operation, ProgramError, SCRATCH_WORDS, check,
};
use datapath::layout::VIEW_BYTES_MAX;

use super::{
    asm::{Assembler, Condition, Label, Operand, Operator, Register, Size, Width},
    classic::{Cells, Touches as _},
};

/// Where the pieces of the classic machine are; `R2` is free for all.
pub(super) const A: Register = Register::R0;
pub(super) const X: Register = Register::R1;
const FREE: Register = Register::R2;
/// Where the view starts.
pub(super) const BASE: Register = Register::R7;
/// Its bytes.
pub(super) const LENGTH: Register = Register::R8;
/// The packet's `Views`.
pub(super) const VIEWS: Register = Register::R9;
/// The stack, at whose top the scratch words are.
const STACK: Register = Register::R10;

const BYTES_MAX: u32 = 4_096;
const _: () = assert!(BYTES_MAX as usize == VIEW_BYTES_MAX);

/// Where a filter ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exits {
    pub(super) matched: Label,
    pub(super) rejected: Label,
}

/// Translates a filter. `BASE`, `LENGTH` and `VIEWS` are those of the view.
pub(super) fn translate(
    asm: &mut Assembler,
    program: &[Instruction],
    exits: Exits,
    original_len: i16,
) -> Result<(), ProgramError> {
    let steps = parse(program)?;
    let mut begin = Cells::default();
    let starts = starts(&steps, &mut begin);
    let labels: Vec<_> = steps.iter().map(|_| asm.label()).collect();
    let mut filter = Filter { asm, labels, exits, original_len };
    filter.clear(begin);
    let mut known = vec![None; steps.len()];
    known[0] = Some(0);
    let mut at = 0;
    while at < steps.len() {
        let end = (at + 1..steps.len()).find(|next| starts[*next]).unwrap_or(steps.len());
        if let Some(bytes) = known[at] {
            filter.block(&steps, at..end, bytes, &mut known);
        }
        at = end;
    }
    Ok(())
}

type Step = (Operation, Instruction);

fn parse(program: &[Instruction]) -> Result<Vec<Step>, ProgramError> {
    check(program)?;
    let step = |(at, instruction): (usize, &Instruction)| {
        let unknown = ProgramError::UnknownCode { at, code: instruction.code };
        instruction.operation().map(|operation| (operation, *instruction)).ok_or(unknown)
    };
    program.iter().enumerate().map(step).collect()
}

/// Where blocks start: behind branches, and where jumps go. Adds to `begin` what is read before it is written.
fn starts(steps: &[Step], begin: &mut Cells) -> Vec<bool> {
    let mut starts = vec![false; steps.len()];
    let mut written = vec![None; steps.len()];
    written[0] = Some(Cells::default());
    for (at, (operation, instruction)) in steps.iter().enumerate() {
        let next = operation.successors(*instruction, at);
        if next != [at + 1] {
            next.iter().for_each(|next| starts[*next] = true);
            if let Some(behind) = starts.get_mut(at + 1) {
                *behind = true;
            }
        }
        let Some(cells): Option<Cells> = written[at] else { continue };
        begin.0 |= operation.reads(instruction.k).0 & !cells.0;
        let cells = cells.and(operation.writes(instruction.k));
        for next in next {
            let both = written[next].map_or(cells.0, |other: Cells| other.0 & cells.0);
            written[next] = Some(Cells(both));
        }
    }
    starts
}

struct Filter<'a> {
    asm: &'a mut Assembler,
    /// Of each instruction.
    labels: Vec<Label>,
    exits: Exits,
    /// Where `Views` has the length on the wire.
    original_len: i16,
}

impl Filter<'_> {
    /// Zero, which those begin with that are read before they are written.
    fn clear(&mut self, cells: Cells) {
        for (cell, register) in [(Cells::A, A), (Cells::X, X)] {
            if cells.has(cell) {
                self.asm.set(register, Operand::Value(0));
            }
        }
        for k in (0..SCRATCH_WORDS).filter(|k| cells.has(Cells::scratch(*k))) {
            self.asm.store_zero(Size::Word, STACK, scratch(k));
        }
    }

    /// Instructions that run one after the other, on a packet of which so many bytes are known to be there.
    fn block(
        &mut self,
        steps: &[Step],
        range: std::ops::Range<usize>,
        bytes: u32,
        known: &mut [Option<u32>],
    ) {
        self.asm.place(self.labels[range.start]);
        let needs = |(operation, instruction): &Step| operation.needs(instruction.k);
        let is_indirect = |(operation, _): &&Step| matches!(operation, Operation::LoadIndirect(_));
        if steps[range.clone()].iter().map(needs).max() > Some(BYTES_MAX) {
            self.asm.jump(self.exits.rejected);
            return;
        }
        let direct = steps[range.clone()].iter().filter(|step| !is_indirect(step)).map(needs).max();
        let needed = direct.unwrap_or(0);
        if needed > bytes {
            self.reject_if(Width::Half, Condition::Less, LENGTH, Operand::Value(needed));
        }
        let last = range.end - 1;
        for at in range {
            let (operation, instruction) = steps[at];
            self.step(operation, instruction, at);
        }
        let (operation, instruction) = steps[last];
        for next in operation.successors(instruction, last) {
            let bytes = bytes.max(needed);
            known[next] = Some(known[next].map_or(bytes, |other| other.min(bytes)));
        }
    }

    fn step(&mut self, operation: Operation, instruction: Instruction, at: usize) {
        let k = instruction.k;
        match operation {
            Operation::LoadAbsolute(size) => self.read(size, A, BASE, offset(k)),
            Operation::LoadIndirect(size) => self.load_indirect(size, k),
            Operation::LoadXHeaderLength => {
                self.asm.load(Size::Byte, X, BASE, offset(k));
                self.asm.arithmetic(Width::Half, Operator::And, X, Operand::Value(0xf));
                self.asm.arithmetic(Width::Half, Operator::ShiftLeft, X, Operand::Value(2));
            }
            Operation::LoadConstant => self.asm.set(A, Operand::Value(k)),
            Operation::LoadXConstant => self.asm.set(X, Operand::Value(k)),
            Operation::LoadLength => self.asm.load(Size::Word, A, VIEWS, self.original_len),
            Operation::LoadXLength => self.asm.load(Size::Word, X, VIEWS, self.original_len),
            Operation::LoadScratch => self.asm.load(Size::Word, A, STACK, scratch(k)),
            Operation::LoadXScratch => self.asm.load(Size::Word, X, STACK, scratch(k)),
            Operation::Store => self.asm.store(Size::Word, STACK, scratch(k), A),
            Operation::StoreX => self.asm.store(Size::Word, STACK, scratch(k), X),
            Operation::Arithmetic(operator, operand) => self.arithmetic(operator, operand, k),
            Operation::Negate => {
                self.asm.arithmetic(Width::Half, Operator::Negate, A, Operand::Value(0));
            }
            // Over nothing, it ends no block.
            Operation::Jump if k == 0 => {}
            Operation::Jump => self.asm.jump(self.labels[at + 1 + k as usize]),
            Operation::Branch(condition, operand) => {
                self.branch(condition.into(), value(operand, k), instruction, at);
            }
            Operation::ReturnConstant => {
                let exit = if k == 0 { self.exits.rejected } else { self.exits.matched };
                self.asm.jump(exit);
            }
            Operation::ReturnA => {
                self.reject_if(Width::Half, Condition::Equal, A, Operand::Value(0));
                self.asm.jump(self.exits.matched);
            }
            Operation::CopyToX => self.asm.set(X, Operand::Register(A)),
            Operation::CopyToA => self.asm.set(A, Operand::Register(X)),
        }
    }

    /// A = packet at X + k. The sum is of 64 bits, so that it cannot wrap. The first comparison is for verifiers before
    /// 6.8, which learn nothing from one of two registers, and makes the second all that a filter needs.
    fn load_indirect(&mut self, size: classic::Size, k: u32) {
        let end = k + size.bytes();
        self.asm.set(FREE, Operand::Register(X));
        self.reject_if(Width::Full, Condition::Greater, FREE, Operand::Value(BYTES_MAX - end));
        self.asm.arithmetic(Width::Full, Operator::Add, FREE, Operand::Value(end));
        self.reject_if(Width::Full, Condition::Greater, FREE, Operand::Register(LENGTH));
        self.asm.arithmetic(Width::Full, Operator::Add, FREE, Operand::Register(BASE));
        self.read(size, A, FREE, -offset(size.bytes()));
    }

    /// A number in network order.
    fn read(&mut self, size: classic::Size, to: Register, from: Register, offset: i16) {
        self.asm.load(size.into(), to, from, offset);
        if size != classic::Size::Byte {
            self.asm.swap(to, size.bytes() * 8);
        }
    }

    fn arithmetic(&mut self, operator: classic::Operator, operand: classic::Operand, k: u32) {
        let operator = Operator::from(operator);
        let by_x = operand == classic::Operand::X;
        if by_x && matches!(operator, Operator::Divide | Operator::Modulo) {
            self.reject_if(Width::Half, Condition::Equal, X, Operand::Value(0));
        }
        let is_shift = matches!(operator, Operator::ShiftLeft | Operator::ShiftRight);
        if !(by_x && is_shift) {
            return self.asm.arithmetic(Width::Half, operator, A, value(operand, k));
        }
        // A shift by all bits leaves nothing; the kernel's would take the count modulo 32.
        let (shift, done) = (self.asm.label(), self.asm.label());
        self.asm.jump_if(Width::Half, Condition::Less, X, Operand::Value(32), shift);
        self.asm.set(A, Operand::Value(0));
        self.asm.jump(done);
        self.asm.place(shift);
        self.asm.arithmetic(Width::Half, operator, A, Operand::Register(X));
        self.asm.place(done);
    }

    fn branch(&mut self, condition: Condition, right: Operand, at: Instruction, place: usize) {
        let target = |skipped: u8| self.labels[place + 1 + usize::from(skipped)];
        let (holds, fails) = (target(at.jt), target(at.jf));
        match (at.jt, at.jf, condition.opposite()) {
            (0, 0, _) => {}
            (0, _, Some(opposite)) => self.asm.jump_if(Width::Half, opposite, A, right, fails),
            (_, 0, _) => self.asm.jump_if(Width::Half, condition, A, right, holds),
            (_, _, _) => {
                self.asm.jump_if(Width::Half, condition, A, right, holds);
                self.asm.jump(fails);
            }
        }
    }

    fn reject_if(&mut self, width: Width, condition: Condition, left: Register, right: Operand) {
        self.asm.jump_if(width, condition, left, right, self.exits.rejected);
    }
}

impl From<classic::Size> for Size {
    fn from(size: classic::Size) -> Self {
        match size {
            classic::Size::Word => Self::Word,
            classic::Size::Half => Self::Half,
            classic::Size::Byte => Self::Byte,
        }
    }
}

impl From<classic::Operator> for Operator {
    fn from(operator: classic::Operator) -> Self {
        match operator {
            classic::Operator::Add => Self::Add,
            classic::Operator::Subtract => Self::Subtract,
            classic::Operator::Multiply => Self::Multiply,
            classic::Operator::Divide => Self::Divide,
            classic::Operator::Or => Self::Or,
            classic::Operator::And => Self::And,
            classic::Operator::ShiftLeft => Self::ShiftLeft,
            classic::Operator::ShiftRight => Self::ShiftRight,
            classic::Operator::Modulo => Self::Modulo,
            classic::Operator::Xor => Self::Xor,
        }
    }
}

impl From<classic::Condition> for Condition {
    fn from(condition: classic::Condition) -> Self {
        match condition {
            classic::Condition::Equal => Self::Equal,
            classic::Condition::Greater => Self::Greater,
            classic::Condition::GreaterOrEqual => Self::GreaterOrEqual,
            classic::Condition::AnyBit => Self::AnyBit,
        }
    }
}

const fn value(operand: classic::Operand, k: u32) -> Operand {
    match operand {
        classic::Operand::Constant => Operand::Value(k),
        classic::Operand::X => Operand::Register(X),
    }
}

/// Where a scratch word is on the stack.
fn scratch(k: u32) -> i16 {
    offset(k % SCRATCH_WORDS * 4) - offset(SCRATCH_WORDS * 4)
}

/// Of what is known to be below [`BYTES_MAX`].
fn offset(bytes: u32) -> i16 {
    i16::try_from(bytes).expect("a view is shorter than offsets reach")
}
