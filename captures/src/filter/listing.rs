//! Programs in the words of `tcpdump -d`, which is how people know them.
//! Never decides anything: it prints what `run.rs` runs.
//!
//! Source: libpcap's `bpf_image.c`.

use super::program::{Condition, Instruction, Operand, Operation, Operator, Size};

/// A program, one line for each instruction, as `tcpdump -d` prints it.
pub fn listing(program: &[Instruction]) -> String {
    program.iter().enumerate().map(|(at, instruction)| line(at, *instruction) + "\n").collect()
}

fn line(at: usize, instruction: Instruction) -> String {
    let Instruction { code, jt, jf, k } = instruction;
    let Some(operation) = instruction.operation() else {
        return format!("({at:03}) {:<8} {code:#x}", "unimp");
    };
    let (name, operand) = words(operation, k, at);
    if let Operation::Branch(..) = operation {
        let target = |skipped: u8| at + 1 + usize::from(skipped);
        return format!("({at:03}) {name:<8} {operand:<16} jt {}\tjf {}", target(jt), target(jf));
    }
    format!("({at:03}) {name:<8} {operand}")
}

/// An instruction's name and its operand.
fn words(operation: Operation, k: u32, at: usize) -> (&'static str, String) {
    match operation {
        Operation::LoadAbsolute(size) => (load(size), format!("[{}]", signed(k))),
        Operation::LoadIndirect(size) => (load(size), format!("[x + {}]", signed(k))),
        Operation::LoadConstant => ("ld", format!("#{k:#x}")),
        Operation::LoadLength => ("ld", "#pktlen".to_owned()),
        Operation::LoadScratch => ("ld", format!("M[{k}]")),
        Operation::LoadXConstant => ("ldx", format!("#{k:#x}")),
        Operation::LoadXLength => ("ldx", "#pktlen".to_owned()),
        Operation::LoadXScratch => ("ldx", format!("M[{k}]")),
        Operation::LoadXHeaderLength => ("ldxb", format!("4*([{}]&0xf)", signed(k))),
        Operation::Store => ("st", format!("M[{k}]")),
        Operation::StoreX => ("stx", format!("M[{k}]")),
        Operation::Arithmetic(operator, Operand::X) => (arithmetic(operator), "x".to_owned()),
        Operation::Arithmetic(operator, Operand::Constant) => {
            let bits = matches!(operator, Operator::And | Operator::Or | Operator::Xor);
            let constant = if bits { format!("#{k:#x}") } else { format!("#{}", signed(k)) };
            (arithmetic(operator), constant)
        }
        Operation::Negate => ("neg", String::new()),
        Operation::Jump => ("ja", (at + 1 + k as usize).to_string()),
        Operation::Branch(condition, Operand::X) => (branch(condition), "x".to_owned()),
        Operation::Branch(condition, Operand::Constant) => (branch(condition), format!("#{k:#x}")),
        Operation::ReturnConstant => ("ret", format!("#{}", signed(k))),
        Operation::ReturnA => ("ret", String::new()),
        Operation::CopyToX => ("tax", String::new()),
        Operation::CopyToA => ("txa", String::new()),
    }
}

/// tcpdump prints constants with `%d`.
const fn signed(k: u32) -> i32 {
    k.cast_signed()
}

const fn load(size: Size) -> &'static str {
    match size {
        Size::Word => "ld",
        Size::Half => "ldh",
        Size::Byte => "ldb",
    }
}

const fn arithmetic(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "add",
        Operator::Subtract => "sub",
        Operator::Multiply => "mul",
        Operator::Divide => "div",
        Operator::Or => "or",
        Operator::And => "and",
        Operator::ShiftLeft => "lsh",
        Operator::ShiftRight => "rsh",
        Operator::Modulo => "mod",
        Operator::Xor => "xor",
    }
}

const fn branch(condition: Condition) -> &'static str {
    match condition {
        Condition::Equal => "jeq",
        Condition::Greater => "jgt",
        Condition::GreaterOrEqual => "jge",
        Condition::AnyBit => "jset",
    }
}
